"""Files of this machine, or behind a URL (gs://, s3://, whatever fsspec knows): found, read in ranges, written whole."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow

from roberta_jax.errors import UserError
from roberta_jax.output import to_json
from roberta_jax.stores import answering, filesystem, is_url
from roberta_jax.walk import HIDDEN, Walk

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "roberta_jax"


@dataclass(frozen=True)
class File:
    path: str
    size: int
    fingerprint: tuple  # changes when the content does


def local(path: str | Path) -> Path | None:
    """The path on this machine, None for a URL."""
    return None if is_url(path) else Path(path).expanduser()


def output_path(text: str) -> Path:
    """The value of a flag --out that names what a command writes on this machine.

    Raises:
      UserError: it is a URL.
    """
    if is_url(text):
        raise UserError(f"--out={text}: expected a path of this machine; what is written there may be copied on.")
    return Path(text).expanduser()


def join(folder: str | Path, *names: str) -> str:
    return "/".join([str(folder).rstrip("/"), *names])


def find(source: str, hidden: bool = False, passed_over: dict[str, str] | None = None) -> tuple[list[File], bool]:
    """The files that a path, a folder or a glob names, in the order of their paths, and whether it names a folder.

    Folders are read to their depths, those too that a glob names. Links are followed, and each file comes once, however many
    lead to it. What begins with a dot is hidden: it counts where the source itself spells its name, or where that is asked.

    Args:
      passed_over: takes what is there and not among the files: path → one of the reasons of `walk`.
    """
    passed_over = {} if passed_over is None else passed_over
    system, path = (None, local(source)) if local(source) else filesystem(source)
    if system is None or source.startswith("file://"):
        files, is_folder = Walk(hidden, passed_over).files(Path(path))
        found = []
        for each in sorted(files):
            stat, url = each.stat(), f"{'' if system is None else 'file://'}{each}"
            found.append(File(url, stat.st_size, (url, stat.st_size, str(stat.st_mtime) if system else stat.st_mtime_ns)))
        return found, is_folder
    try:
        if has_magic(path):
            matching = system.glob(path, detail=True)
        else:
            matching = {path: {"type": "directory"} if system.isdir(path) else system.info(path)}
        folders = [name for name, info in matching.items() if info["type"] == "directory"]
        found = {name: info for name, info in matching.items() if info["type"] == "file"}
        for folder in folders if not path.endswith("**") else ():
            found |= system.find(folder, detail=True)
    except FileNotFoundError:
        return [], False
    except Exception as error:  # each kind of store has classes of its own
        raise UserError(f"{source}: cannot be listed ({type(error).__name__}: {error}).") from None
    spelt = [part for part in PurePosixPath(path).parts if part.startswith(".")]
    files = []
    for name, info in sorted(found.items(), key=lambda item: PurePosixPath(item[0])):
        url, dotted = system.unstrip_protocol(name), [part for part in PurePosixPath(name).parts if part.startswith(".")]
        if not hidden and not all(any(fnmatchcase(part, one) for one in spelt) for part in dotted):
            passed_over[url] = HIDDEN
        elif info["type"] == "file":
            if info["size"] is None:  # servers of https list names alone
                with answering(url):
                    info = system.info(name)
            if info["size"] is None:
                raise UserError(f"{url}: the server does not say how large it is; download it and name the copy.")
            files.append(File(url, info["size"], (url, info["size"], _stamp(info))))
    return files, bool(folders)


def _stamp(info: dict) -> str:
    """What tells one content from another of the same size, by whichever name the kind of store has for it."""
    names = "etag ETag md5Hash content_md5 blob_id mtime LastModified last_modified updated created".split()
    names += ["Content-MD5", "Digest", "Last-Modified"]  # of https
    return next((str(info[name]) for name in names if info.get(name)), "")


class _Reader:
    """An open file behind a URL. A line that breaks is an error of its own, never damage of what the file holds."""

    def __init__(self, path: str):
        system, name = filesystem(path)
        with answering(path):
            self._path, self._file = path, system.open(name, "rb")

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # each kind of store has classes of its own
            raise UserError(f"{self._path}: the store stopped answering ({type(error).__name__}: {error}).") from None


def open_file(path: str) -> pyarrow.NativeFile:
    """For reading, from any position.

    Raises:
      UserError: it cannot be opened, or not be reached later.
    """
    try:
        return pyarrow.PythonFile(_Reader(path), "r") if is_url(path) else pyarrow.OSFile(os.fsencode(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error}).") from None


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop), fewer at the end."""
    if is_url(path):
        system, name = filesystem(path)
        with answering(path):
            return system.cat_file(name, start=start, end=stop)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def read_bytes(path: str | Path) -> bytes:
    if there := local(path):
        return there.read_bytes()
    system, name = filesystem(path)
    with answering(path):
        return system.cat_file(name)


def exists(path: str | Path) -> bool:
    """Whether there is such a file.

    Raises:
      UserError: its store does not say, which must not pass for no.
    """
    if there := local(path):
        return there.is_file()
    system, name = filesystem(path)
    try:
        with answering(path):
            return system.info(name)["type"] == "file"
    except FileNotFoundError:
        return False


def names(folder: str | Path) -> set[str]:
    """Of all that lies right in a folder, which need not be there."""
    if there := local(folder):
        return {each.name for each in there.iterdir()} if there.is_dir() else set()
    system, path = filesystem(folder)
    try:
        with answering(folder):
            found = {PurePosixPath(name) for name in system.ls(path, detail=False)}
    except FileNotFoundError:
        return set()
    return {each.name for each in found - {PurePosixPath(path)}}  # a folder made in a store's console is an object of its name


def require_writable(folder: Path) -> None:
    """Raises an OSError that names what is in the way, where a folder can't be made or nothing can be written into it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not stat.S_ISDIR(there.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(there))


def require_place(file: Path) -> None:
    """Raises an OSError that names what is in the way, where a file can't be written; before the work that gives it."""
    require_writable(file.parent)
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The system's errors within it name `path`, as that of a write, unlike that of an opening, does not by itself."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        elif of_rust := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors' and tokenizers' errors
            raise OSError(number := int(of_rust[1]), os.strerror(number), str(path)) from None
        raise


# NAME.HOST-PID-RANDOM.partial; before hosts were told apart, NAME.PID.partial
_PARTIAL = re.compile(r".\.(?:(?P<host>[\w-]+)-\d+-[0-9a-f]{8}|\d+)\.partial$")
_ABANDONED = 24 * 3600  # seconds without a change after which nobody on another host writes to a partial file any more
_swept: set[Path] = set()


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())[:40]


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A file to write here and now; it takes its place whole where the block ends without an error.

    Until then it has a name of its own, which no other process has, whatever its host and pid, and is locked: so what a
    killed process left is told from what another one is writing.
    """
    there = local(path)
    if there:
        there.parent.mkdir(parents=True, exist_ok=True)
        if there.is_dir():
            raise UserError(f"{there} is a folder, and a file is to be written there; move it away.")
    folder = there.parent if there else Path(tempfile.gettempdir())
    if folder not in _swept:
        _swept.add(folder)
        remove_abandoned(folder)
    name = there.name if there else PurePosixPath(str(path)).name
    short = os.fsdecode(os.fsencode(name)[:150])  # a name has 255 bytes at most
    partial = folder / f"{short}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.partial"
    with naming(there or partial), open(partial, "xb") as file:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield partial
            with open(partial, "rb") as done:  # which may be another file than the one that was locked
                os.fsync(done.fileno())
            if there:
                os.replace(partial, there)
            else:
                system, far = filesystem(path)
                with answering(path):
                    system.makedirs(PurePosixPath(far).parent.as_posix(), exist_ok=True)
                    system.put_file(str(partial), far)
        finally:
            partial.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Deletes the partial files of processes that have ended: this host's, and others' after a day without a change."""
    for each in os.scandir(folder) if os.access(folder, os.R_OK) else ():
        if not (found := _PARTIAL.search(each.name)):
            continue
        with suppress(OSError):  # it has just taken its place, or belongs to somebody else
            if found["host"] != _host() and time.time() - each.stat(follow_symlinks=False).st_mtime < _ABANDONED:
                continue
            with open(os.open(each.path, os.O_RDWR | os.O_NOFOLLOW), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(each.path)


def write_text(path: str | Path, text: str) -> None:
    with written(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Numbers that are not finite become null."""
    write_text(path, to_json(value, indent) + "\n")


def read_text(path: str | Path) -> str:
    """Raises a UserError where there is no file of UTF-8."""
    try:
        return read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {reason(error)}.") from None


def read_json(path: str | Path, kind: type = dict) -> Any:
    """Raises a UserError where there is no file of JSON, or one of another kind of value."""
    try:
        return parse_json(read_bytes(path), kind)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a JSON file that can be read: {reason(error)}.") from None


def parse_json(content: bytes | str, kind: type = dict) -> Any:
    """Raises a ValueError where it is not JSON, or another kind of value."""
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, kind):
        raise ValueError(f"it holds {_KINDS.get(type(found), 'null')}, expected {_KINDS[kind]}")
    return found


_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a line."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split()).rstrip(".")


def put_aside(path: str | Path) -> str:
    """Moves what cannot be read to NAME.damaged, or NAME.damaged-2 where that is taken, … Returns the new name."""
    folder, _, name = str(path).rpartition("/")
    taken, number = names(folder or "."), 1
    while (aside := f"{name}.damaged" + (f"-{number}" if number > 1 else "")) in taken:
        number += 1
    if there := local(path):
        there.rename(there.with_name(aside))
    else:
        system, far = filesystem(path)
        with answering(path):
            system.mv(far, f"{far.removesuffix(name)}{aside}", recursive=True)
    return aside


def plain_name(name: Any, where: str) -> str:
    """A name that somebody else wrote: of something right in a folder, and no path out of it.

    Raises:
      UserError: it is none; `where` says who named it.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0-\x1f\x7f]", name) or len(name) > 255:
        raise UserError(f"{where} names {name!r}, which is no plain name of a file; it is damaged, or not to be trusted.")
    return name


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(path: str, to: Path, wanted: str | None = None) -> None:
    """Copies a file to this machine, once its SHA-256 is the one that is wanted.

    Raises:
      UserError: it is another one, or the store does not answer.
      FileNotFoundError: it is not there.
    """
    system, name = filesystem(path)
    if not exists(path):  # for which not every store has an error of its own
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    with written(to) as partial:
        with answering(path):
            system.get_file(name, str(partial))
        if wanted and (found := sha256(partial)) != wanted:
            raise UserError(
                f"{path}: its SHA-256 is {found[:12]}…, the manifest says {wanted[:12]}…: the file is damaged; prepare "
                "the corpus again."
            )


def remove_file(path: str | Path) -> None:
    system, name = filesystem(path)
    with suppress(FileNotFoundError), answering(path):
        system.rm_file(name)


def remove_folder(folder: str | Path) -> None:
    system, path = filesystem(folder)
    with answering(folder):
        if system.exists(path):
            system.rm(path, recursive=True)
