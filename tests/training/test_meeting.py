"""Processes as threads, which meet through sockets as those of several hosts do."""

import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from roberta_jax.errors import UserError
from roberta_jax.training import meeting


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(meeting, "ANSWER", 4.0)
    monkeypatch.setattr(meeting, "PATIENCE", 20.0)


def outcomes(address: str, processes: list[tuple[int, int]], pause: float = 0.0) -> list[str]:
    """What (count, process) each hears: "" where all meet, else the sentence."""

    def one(count: int, process: int) -> str:
        try:
            meeting.meet(address, count, process)
            return ""
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(processes)) as pool:
        running = []
        for each in processes:
            running.append(pool.submit(one, *each))
            time.sleep(pause)
        return [each.result(timeout=60) for each in running]


def test_all_meet_whoever_comes_first_and_the_port_is_free_again(address):
    assert outcomes(address, [(3, 2), (3, 1), (3, 0)], pause=0.2) == [""] * 3
    assert outcomes(address, [(3, 0), (3, 2), (3, 1)]) == [""] * 3
    assert outcomes(address, [(1, 0)]) == [""]
    host, port = meeting.split(address)
    with socket.create_server((host, port)):
        pass


def test_what_looks_in_is_no_process_and_one_that_died_may_come_again(address):
    host, port = meeting.split(address)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(outcomes, address, [(3, 0)])
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"[3]\n", b"[3, 1]\n"):  # the last one is a process that dies
            for _ in range(100):
                try:
                    with socket.create_connection((host, port)) as visitor:
                        visitor.sendall(said)
                        assert visitor.recv(100) == meeting.GREETING
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
        last = pool.submit(outcomes, address, [(3, 2)])  # it comes while the dead one is not seen to have gone
        time.sleep(0.3)
        assert outcomes(address, [(3, 1)]) == last.result() == first.result() == [""]


@pytest.mark.parametrize(
    ("processes", "sentence"),
    [
        ([(3, 0), (3, 1), (3, 1)], r"two processes have JAX_PROCESS_ID=1 \(of \S+ and \S+\); expected each of 0 to 2 once\."),
        ([(2, 0), (3, 1)], r"JAX_NUM_PROCESSES is 2 for process 0 and 3 for process 1 \(\S+\); it must be the same on all .*"),
        ([(3, 0), (2, 1)], r"JAX_NUM_PROCESSES is 3 for process 0 and 2 for process 1 \(\S+\); it must be the same on all .*"),
    ],
)  # fmt: skip
def test_all_hear_what_is_wrong_at_once(address, processes, sentence):
    began = time.monotonic()
    for heard in outcomes(address, processes, pause=0.2):
        assert re.fullmatch(sentence, heard), heard
    assert time.monotonic() - began < 15


def test_all_hear_who_is_missing(address, monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 1.0)
    expected = (
        f"of 4 processes (JAX_NUM_PROCESSES) 2, 3 did not come to {address} within 1 s; start the same command on all hosts."
    )
    assert outcomes(address, [(4, 0), (4, 1)]) == [expected] * 2


def test_a_second_process_0_on_another_machine_is_told(address, monkeypatch):
    """Its own port is free there; but the address leads to the first one."""
    real, listening = meeting._listen, []

    def on_another_machine(*where):
        listening.append(real(*where) if not listening else socket.create_server(("localhost", 0)))
        return listening[-1]

    monkeypatch.setattr(meeting, "_listen", on_another_machine)
    heard = outcomes(address, [(2, 0), (2, 0)], pause=0.5)
    assert all("two processes have JAX_PROCESS_ID=0" in each for each in heard), heard


class _Page(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("what", ["pages", "silence", "closes"])
def test_a_port_in_use_is_a_sentence_on_both_hosts(address, what):
    host, port = meeting.split(address)
    server = HTTPServer((host, port), _Page) if what == "pages" else None
    listening = server.socket if server else socket.create_server((host, port))
    done = threading.Event()

    def serve():
        while not done.is_set():
            if server:
                server.handle_request()
            elif what == "closes":
                listening.accept()[0].close()

    server and setattr(server, "timeout", 0.1)
    listening.settimeout(0.1)
    serving = threading.Thread(target=lambda: _until(done, serve))
    serving.start()
    try:
        began = time.monotonic()
        first, second = outcomes(address, [(2, 0), (2, 1)])
        assert time.monotonic() - began < 15
    finally:
        done.set()
        serving.join()
        listening.close()
    name = open("/proc/self/comm").read().strip()
    assert first.startswith(f"port {port} of this host, where the processes are to meet ({address}), is in use")
    assert f"is in use by {name} (pid {os.getpid()}); end that, or take another port" in first
    assert second.startswith(f"what answers at {address} is no process 0 that waits for others")


def _until(done: threading.Event, serve) -> None:
    while not done.is_set():
        try:
            serve()
        except OSError:
            pass


@pytest.mark.parametrize("bind", ["[::]", "0.0.0.0", "127.0.0.1"])
def test_it_listens_where_jax_is_told_to(address, monkeypatch, bind):
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", f"{bind}:{meeting.split(address)[1]}")
    assert outcomes(address, [(2, 0), (2, 1)]) == [""] * 2
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", bind)
    with pytest.raises(UserError, match=f"JAX_COORDINATOR_BIND_ADDRESS={re.escape(bind)}, expected host:port"):
        meeting.meet(address, 2, 0)


def test_a_port_that_may_not_be_used_is_a_sentence():
    if os.geteuid() == 0:
        pytest.skip("root may use every port")
    with pytest.raises(UserError, match=r"cannot listen at port 1 \(Permission denied\)"):
        meeting.meet("localhost:1", 2, 0)


def test_a_host_that_is_not_known_and_one_that_does_not_answer_are_sentences(address, monkeypatch):
    monkeypatch.setattr(meeting, "NAME_PATIENCE", 0.3)
    monkeypatch.setattr(meeting, "PATIENCE", 0.5)
    (heard,) = outcomes("no-such-host.invalid:1234", [(2, 1)])
    expected = "process 0 was not reached at no-such-host.invalid:1234 for 0 s (this host does not know the name no-such-host"
    assert heard.startswith(expected)
    (heard,) = outcomes(address, [(2, 1)])
    assert heard.startswith(
        f"process 0 was not reached at {address} for 0 s (Connection refused); start the same command there"
    )


def test_a_process_0_that_ends_early_is_a_sentence(address):
    host, port = meeting.split(address)
    with socket.create_server((host, port)) as server, ThreadPoolExecutor() as pool:
        heard = pool.submit(outcomes, address, [(2, 1)])
        connection, _ = server.accept()
        connection.sendall(meeting.GREETING)
        connection.recv(100)
        connection.close()
        assert heard.result() == [
            f"process 0 at {address} ended before all had come; see its output, and start the command again on all hosts."
        ]


@pytest.mark.parametrize(
    ("text", "found"), [("a:1", ("a", 1)), ("[::1]:80", ("::1", 80)), ("10.0.0.1:65535", ("10.0.0.1", 65535))]
)
def test_addresses(text, found):
    assert meeting.split(text) == found


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:b", "a:0", "a:65536", "a:-1", "a:1.5"])
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match=re.escape(text)):
        meeting.split(text)
