"""One process at a time in a folder: whoever comes second is told who is there, and what a kill leaves never blocks."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from roberta_jax import lock, storage
from roberta_jax.errors import UserError

ROOT = Path(__file__).parents[1]
# Takes the lock, says so, and keeps it while a child of its own, which knows nothing of it, runs on.
HOLDER = """
import subprocess, sys, time
from roberta_jax import lock
from roberta_jax.errors import UserError
try:
    with lock.held(sys.argv[1]):
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
        print("held", child.pid, flush=True)
        sys.stdin.read()
        child.kill()
except UserError as error:
    print("refused", error, flush=True)
"""


def start(folder) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def quick(monkeypatch, beat=0.1, watch=0.8):
    monkeypatch.setattr(lock, "BEAT", beat)
    monkeypatch.setattr(lock, "WATCH", watch)
    yield


@pytest.fixture
def held_elsewhere(tmp_path):
    """A folder that a process of its own is in; (folder, the process, the pid of its child)."""
    holder = start(tmp_path / "run")
    said, child = holder.stdout.readline().split()
    assert said == "held"
    yield tmp_path / "run", holder, int(child)
    holder.kill()
    holder.wait()
    try:
        os.kill(int(child), signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_the_second_is_told_who_the_first_is_and_a_kill_leaves_nothing_in_the_way(held_elsewhere):
    folder, holder, child = held_elsewhere
    with pytest.raises(UserError) as told, lock.held(folder):
        pass
    assert re.search(
        rf"{folder}: another process \(pid {holder.pid} on {socket.gethostname()}, since 20\d\d-.*\)", str(told.value)
    )
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    os.kill(child, 0)  # what it had started lives on
    began = time.monotonic()
    with lock.held(folder):
        assert time.monotonic() - began < 1
        assert lock.record_in(folder)["pid"] == os.getpid()
    assert not list(folder.iterdir())


def test_who_ends_well_leaves_no_file_and_the_holder_may_ask_again(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path), lock.held(f"{tmp_path}/."), lock.held(tmp_path / "other"):
            assert lock.record_in(tmp_path)["host"] == socket.gethostname()
        assert not storage.names(tmp_path)  # the folder that was made is gone too
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
        raise ZeroDivisionError
    with lock.held(tmp_path):
        pass


def test_of_several_at_the_same_moment_one_gets_it(tmp_path):
    processes = [start(tmp_path) for _ in range(4)]
    said = [process.stdout.readline().split()[0] for process in processes]
    assert sorted(said) == ["held", "refused", "refused", "refused"]
    for process in processes:
        process.communicate("")


@pytest.mark.parametrize("content", ["", "{", "null", '{"pid": 3}', "\0" * 512, "folder"])
def test_a_damaged_lock_stops_nobody(tmp_path, content):
    if content == "folder":
        (tmp_path / lock.NAME).mkdir()
    else:
        (tmp_path / lock.NAME).write_text(content)
    with lock.held(tmp_path):
        assert lock.record_in(tmp_path)["pid"] == os.getpid()


# Where the system's lock says nothing


@pytest.fixture(params=["memory://", "without locks"])
def far(request, tmp_path, monkeypatch):
    """A folder behind a URL, and one of a file system that has no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    if request.param == "memory://":
        return f"memory://{os.urandom(8).hex()}"
    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    return str(tmp_path / "run")


def left_by_another(folder, **fields) -> dict:
    record = {"host": "elsewhere", "pid": 17, "since": "2026-01-01 00:00:00 UTC", "id": "another", "beat": 5} | fields
    storage.write_json(storage.join(folder, lock.NAME), record)
    return record


def test_who_gives_a_sign_of_life_is_left_alone(far, monkeypatch):
    with quick(monkeypatch):
        left_by_another(far)
        later = threading.Timer(0.3, left_by_another, [far], {"beat": 6})
        later.start()
        with pytest.raises(UserError, match=r"\(pid 17 on elsewhere, since 2026-01-01 00:00:00 UTC\)"), lock.held(far):
            pass
        later.join()


def test_who_gives_none_is_gone(far, monkeypatch, capsys):
    with quick(monkeypatch):
        left_by_another(far)
        began = time.monotonic()
        with lock.held(far):
            assert 0.7 < time.monotonic() - began < 5
            first = lock.record_in(far)
            assert first["pid"] == os.getpid()
            time.sleep(0.4)
            assert lock.record_in(far)["beat"] > first["beat"]
        assert lock.NAME not in storage.names(far)
        assert "left by pid 17 on elsewhere" in capsys.readouterr().out
        began = time.monotonic()
        with lock.held(far):  # nothing was left: nobody is waited for
            assert time.monotonic() - began < 0.5


def test_of_two_that_write_at_the_same_moment_the_last_one_has_it(far, monkeypatch):
    with quick(monkeypatch, beat=1.0):
        threading.Timer(0.1, left_by_another, [far]).start()
        with pytest.raises(UserError, match="pid 17 on elsewhere"), lock.held(far):
            pass
    assert lock.record_in(far)["id"] == "another"


def test_who_was_thought_dead_ends_when_it_comes_back(far, monkeypatch, capsys):
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        with quick(monkeypatch), lock.held(far):
            left_by_another(far)
            assert asked.wait(5)
        assert lock.record_in(far)["id"] == "another"  # whose it is now
        assert "pid 17 on elsewhere" in capsys.readouterr().out
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_host_whose_lock_is_not_seen_here_is_looked_at_too(tmp_path, monkeypatch):
    with quick(monkeypatch):
        left_by_another(tmp_path)
        threading.Timer(0.3, left_by_another, [tmp_path], {"beat": 6}).start()
        with pytest.raises(UserError, match="pid 17 on elsewhere"), lock.held(tmp_path):
            pass
        left_by_another(tmp_path, host=socket.gethostname())  # of this host, and its lock has gone: no need to wait
        began = time.monotonic()
        with lock.held(tmp_path):
            assert time.monotonic() - began < 0.5


def test_who_waits_says_so_and_finds_the_thing_done(tmp_path, capsys):
    order, path = [], tmp_path / "thing.lock"

    def second():
        with lock.waiting(path):
            order.append("second")

    with lock.waiting(path):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first")
    other.join()
    assert order == ["first", "second"] and capsys.readouterr().out.count(f"by {path}; waiting for it") == 1


def test_the_lock_of_a_live_process_can_always_be_read(held_elsewhere):
    folder, _, _ = held_elsewhere
    assert json.loads((folder / lock.NAME).read_text())["beat"] >= 1
