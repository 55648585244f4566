"""The processes of a run meet before JAX has them meet: where it would abort, or wait for minutes, each gets a sentence here.

Process 0 listens at the coordinator's address. Each process, this one too, tells it there how many they are and which one it
is, and hears that all have come, or what is wrong. Then the port is JAX's.
"""

import errno
import json
import os
import select
import socket
import threading
import time
from pathlib import Path

from roberta_jax.errors import UserError
from roberta_jax.output import show

PATIENCE = 300.0  # seconds in which all have to come: JAX's own
NAME_PATIENCE = 30.0  # seconds in which a host's name has to be known: new machines' are not at once
ANSWER = 20.0  # seconds in which process 0 greets
GREETING, GO = b"roberta_jax meets here\n", b"all are here\n"


def meet(address: str, count: int, process: int) -> None:
    """Returns when all processes have come.

    Args:
      address: host:port, of process 0.

    Raises:
      UserError: the port is in use, the host is not known or does not answer, what answers is something else, a process does
        not come, two are the same, or they do not agree on how many they are.
    """
    host, port = split(address)
    hosting = None
    if process == 0:
        server = _listen(address, port)
        hosting = threading.Thread(target=_host, args=(server, address, count), daemon=True)
        hosting.start()
    connection = _connect(address, host, port)
    with connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(json.dumps([count, process]).encode() + b"\n")
            connection.settimeout(ANSWER)
            greeting = lines.readline(len(GREETING))
        except OSError:
            greeting = b""
        if greeting != GREETING:
            raise UserError(
                f"what answers at {address} is no process 0 that waits for others: another program or an earlier run has the "
                "port, or all processes of this run have come already; see host 0's output, and take another port if need be."
            )
        try:
            connection.settimeout(PATIENCE + ANSWER)
            answer = lines.readline()
        except OSError:
            answer = b""
    if answer != GO:
        ended = f"process 0 at {address} ended before all had come; see its output, and start the command again on all hosts."
        raise UserError(answer.decode(errors="replace").strip() or ended)
    if hosting:
        hosting.join()


def split(address: str) -> tuple[str, int]:
    """(host, port) of host:port, [IPv6]:port. ValueError: it is neither."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _listen(address: str, port: int) -> socket.socket:
    """At the port where JAX's coordinator is going to listen."""
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    try:
        host, port = split(bind) if bind else ("::", port)
    except ValueError:
        raise UserError(f"JAX_COORDINATOR_BIND_ADDRESS={bind}, expected host:port of this host, on process 0 alone.") from None
    both = host == "::" and socket.has_dualstack_ipv6()
    host = "" if host == "::" and not both else host
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of this host, where the processes are to meet ({address}), is in use{_by_whom(port)}; end that, "
                "or take another port on all hosts (JAX_COORDINATOR_ADDRESS; under a launcher like srun JAX_COORDINATOR_PORT)."
            ) from None
        raise UserError(
            f"this host, being that of process 0, cannot listen at {bind or f'port {port}'} ({error.strerror}); take another "
            f"port than {address} has, on all hosts (JAX_COORDINATOR_ADDRESS)."
        ) from None


def _by_whom(port: int) -> str:
    """Who has a port of this machine, as far as /proc tells."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if os.access(table, os.R_OK):
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            inodes |= {f"socket:[{row[9]}]" for row in rows if int(row[1].rpartition(":")[2], 16) == port}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if inodes.intersection(os.readlink(each.path) for each in os.scandir(process / "fd")):
                return f" by {(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # it has ended, or is another user's
            pass
    return ""


def _connect(address: str, host: str, port: int) -> socket.socket:
    start, said = time.monotonic(), False
    while True:
        try:
            return socket.create_connection((host, port), timeout=ANSWER)
        except socket.gaierror as error:
            reason, patience = f"this host does not know the name {host}: {error.strerror}", NAME_PATIENCE
        except OSError as error:
            reason, patience = str(error.strerror or error), PATIENCE
        waited = time.monotonic() - start
        if waited > patience:
            raise UserError(
                f"process 0 was not reached at {address} for {patience:.0f} s ({reason}); start the same command there, or see "
                "why it ended, and look whether JAX_COORDINATOR_ADDRESS names its host on every host."
            )
        if waited > 10 and not said:
            said = True
            show(f"waiting for process 0 at {address} ({reason})")
        time.sleep(0.1)


def _host(server: socket.socket, address: str, count: int) -> None:
    """Greets all that come, and tells them in the end that they are all, or what is wrong."""
    present: dict[int, tuple[socket.socket, str]] = {}  # process → its connection, and where it comes from
    connections: list[socket.socket] = []
    end = time.monotonic() + PATIENCE
    wrong = ""
    with server:
        while not wrong:
            if len(present) == count:  # of which one may have died meanwhile, and come again
                present = {process: each for process, each in present.items() if not _has_gone(each[0])}
                if len(present) == count:
                    break
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection, (where, *_) = server.accept()
            except OSError:
                missing = [str(i) for i in range(count) if i not in present]
                some = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
                wrong = (
                    f"of {count} processes (JAX_NUM_PROCESSES) {some} did not come to {address} within {PATIENCE:.0f} s; start "
                    "the same command on all hosts."
                )
                break
            try:
                connection.settimeout(ANSWER / 4)
                connection.sendall(GREETING)
                its_count, process = map(int, json.loads(connection.makefile("rb").readline(100)))
            except (OSError, ValueError, TypeError):  # something else that looked in
                connection.close()
                continue
            where = where.removeprefix("::ffff:")
            if its_count != count:
                wrong = (
                    f"JAX_NUM_PROCESSES is {count} for process 0 and {its_count} for process {process} ({where}); it must be "
                    "the same on all hosts."
                )
            elif process in present and not _has_gone(present[process][0]):
                wrong = (
                    f"two processes have JAX_PROCESS_ID={process} (of {present[process][1]} and {where}); expected each of 0 "
                    f"to {count - 1} once."
                )
            connections.append(connection)
            present[process] = connection, where
        for connection in connections:
            try:
                connection.sendall(wrong.encode() + b"\n" if wrong else GO)
            except OSError:
                pass
            connection.close()


def _has_gone(connection: socket.socket) -> bool:
    """Whether the other side has closed it; it sends nothing more than its greeting."""
    readable, _, _ = select.select([connection], [], [], 0)
    try:
        return bool(readable) and not connection.recv(1)
    except OSError:
        return True
