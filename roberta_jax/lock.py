"""One process at a time in a folder; who comes second is told who is there.

`run.lock` in the folder says so. Where the system locks files it holds that one: the lock ends with its process, however that
ends, and so nothing that a kill leaves stands in the way. Behind a URL, on file systems without locks, and where the file was
left by another host (whose lock may not be seen from here) it is looked at for a while instead: who is there gives a sign of
life every few seconds.
"""

import errno
import fcntl
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.output import show, to_json

NAME = "run.lock"
BEAT, WATCH = 8.0, 28.0  # seconds between signs of life, and how long is waited for one
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_SIZE = 512  # bytes of the file: a record is written over another one in one piece
_held: set[str] = set()  # folders of this process


@contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Within it no other process that asks for the folder gets it; this one may ask again.

    Raises:
      UserError: another process has it.
    """
    name = str(folder) if storage.is_url(folder) else str(Path(folder).resolve())
    if name in _held:
        yield
        return
    lock = _Lock(folder)
    lock.take()
    _held.add(name)
    try:
        yield
    finally:
        _held.discard(name)
        lock.release()


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Two processes that want to make the same thing: the second waits, and finds it done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                show(f"another process is at the same work, by {path}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def refusal(folder: str | Path, record: dict[str, Any] | None) -> UserError:
    named = "another process"
    if record:
        named = f"another process (pid {record['pid']} on {record['host']}, since {record['since']})"
    return UserError(
        f"{folder}: {named} is at work there, and two would destroy each other's files; wait for it, end it, or name another "
        "folder."
    )


def record_in(folder: str | Path) -> dict[str, Any] | None:
    """What its lock says of who is there; None where there is none, or it cannot be read."""
    with suppress(OSError, ValueError):
        record = storage.parse_json(storage.read_bytes(storage.join(folder, NAME)).rstrip(b" \0"))
        return record if {"host", "pid", "since", "id", "beat"} <= record.keys() else None
    return None


class _Lock:
    def __init__(self, folder: str | Path):
        self._folder, self._path = folder, storage.join(folder, NAME)
        self._file: int | None = None  # that the system has locked
        self._made = False  # the folder, which goes where nothing else has come into it
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._record = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "id": secrets.token_hex(8)}
        self._beats, self._released = 0, threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def take(self) -> None:
        if not storage.is_url(self._folder):
            self._lock_file()
        try:
            left = record_in(self._folder)
            if left and (self._file is None or left["host"] != self._record["host"]):
                self._watch(left)
            self._write()
            if self._file is None:  # another one may have looked and written at the same moment
                time.sleep(BEAT / 4)
                self._refuse_another()
        except BaseException:
            if self._file is not None:
                os.close(self._file)
            raise
        self._thread.start()

    def _lock_file(self) -> None:
        self._made = not os.path.exists(self._folder)
        os.makedirs(self._folder, exist_ok=True)
        if os.path.isdir(self._path):
            show(f"! {self._path} is a folder; it is {storage.put_aside(self._path)} now")
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f"{self._folder} cannot be written: {storage.reason(error)}.") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    self._file = file
                    return
            except BlockingIOError:
                os.close(file)
                raise self._told() from None
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(file)
                if error.errno in _NO_LOCKS:
                    return
                raise
            os.close(file)  # who was there has just gone, and the file with it

    def _told(self) -> UserError:
        for _ in range(10):  # it may have come this very moment
            if record := record_in(self._folder):
                return refusal(self._folder, record)
            time.sleep(0.1)
        return refusal(self._folder, None)

    def _watch(self, left: dict[str, Any]) -> None:
        show(
            f"{self._path}: left by pid {left['pid']} on {left['host']}, since {left['since']}; waiting {WATCH:.0f} s for a "
            "sign of life"
        )
        end = time.monotonic() + WATCH
        while time.monotonic() < end:
            time.sleep(BEAT / 8)
            if (now := record_in(self._folder)) is None:
                return
            if now != left:
                raise refusal(self._folder, now)

    def _refuse_another(self) -> None:
        record = record_in(self._folder)
        if record and record["id"] != self._record["id"]:
            raise refusal(self._folder, record)

    def _write(self) -> None:
        self._beats += 1
        text = to_json(self._record | {"beat": self._beats}).encode()
        if self._file is None:
            storage.write_text(self._path, text.decode())
        else:
            os.pwrite(self._file, text.ljust(_SIZE), 0)

    def _live(self) -> None:
        while not self._released.wait(BEAT):
            try:
                self._refuse_another()
                self._write()
            except UserError as error:  # it was thought dead: this process was stopped, or cut off, for too long
                show(f"! {error}")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except Exception:  # noqa: BLE001 a full disk, a store that does not answer: the next one may come through
                continue

    def release(self) -> None:
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        record = record_in(self._folder)
        if record and record["id"] == self._record["id"]:  # else another one has taken it for dead
            with suppress(OSError):
                storage.remove_file(self._path)
        if self._file is not None:
            os.close(self._file)
        if self._made:
            with suppress(OSError):
                os.rmdir(self._folder)
