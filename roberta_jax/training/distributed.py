"""Several hosts: how their processes join, what they must agree on, and how they end together.

Every host runs the same program on its own part of each array. What one of them does alone, or in another order, leaves the
others waiting: so they check at the start that they mean the same run, stop at the same step, and none outlives another.
"""

import functools
import hashlib
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from roberta_jax import lock
from roberta_jax.errors import UserError, first_line, outcome
from roberta_jax.output import show
from roberta_jax.training.meeting import PATIENCE, meet, split

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
COMPUTING = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow", "tensorflow-cpu", "tokenizers", "sentencepiece")
LAUNCHERS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # Slurm's srun and Open MPI's mpirun say here how many processes there are
SILENCE = 30  # seconds without a sign of life after which a host has gone; JAX takes 100 if not told
GONE = (
    "another host has died or ended (see above, and that host's output); start the same command again on all hosts: it goes on "
    "from the newest checkpoint."
)


@contextmanager
def initialized_cluster() -> Iterator[None]:
    """Within it `jax.distributed` is initialized with the processes of all hosts; where there is only one, it does nothing.

    Raises:
      UserError: the environment tells of several processes, and they do not find each other.
    """
    arguments = _arguments()
    if arguments is None:
        yield
        return
    arguments = arguments or _detected_by_jax()
    if arguments:
        meet(arguments["coordinator_address"], arguments["num_processes"], arguments["process_id"])
    _leave_last_words()
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is `Stop`'s
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=SILENCE)
    except (ValueError, RuntimeError) as error:
        if jax.config.jax_platforms != "tpu,cpu" or isinstance(error, RuntimeError):
            raise UserError(
                f"the processes of this run do not find each other ({first_line(error)}); set {', '.join(EXPLICIT)}."
            ) from None
        # TPUs of a single machine that is no part of a cluster
    try:
        yield
    except BaseException as error:
        # An orderly exit would wait for the other hosts, which wait for this one in the midst of a step.
        sentence, status = outcome(error) or ("", 1)
        if status == 1:
            traceback.print_exception(error)
            sentence = f"error: {GONE}" if "Gloo" in str(error) else ""
        if sentence:
            show(sentence, sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arguments() -> dict[str, Any] | None:
    """Those of `jax.distributed.initialize`; {}: it finds them out; None: this process is alone."""
    given = {name: os.environ[name] for name in EXPLICIT if os.environ.get(name)}
    if given:
        if missing := [name for name in EXPLICIT if name not in given]:
            raise UserError(f"{next(iter(given))} is set and {missing[0]} is not; several processes need both.")
        address, count, process = given.values()
        try:
            split(address)
        except ValueError:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={address}, expected host:port of process 0's host, the same on all hosts."
            ) from None
        if not count.isdecimal() or int(count) < 1:
            raise UserError(f"JAX_NUM_PROCESSES={count} is no number of processes; expected 1 or more, the same on all hosts.")
        if not process.isdecimal() or int(process) >= int(count):
            raise UserError(
                f"JAX_PROCESS_ID={process} is no host of the {count} that JAX_NUM_PROCESSES says; expected one of 0 to "
                f"{int(count) - 1}, each on one host."
            )
        return {"coordinator_address": address, "num_processes": int(count), "process_id": int(process)}
    return {} if _on_tpu() or any(int(os.environ.get(name, 1)) > 1 for name in LAUNCHERS) else None


def _detected_by_jax() -> dict[str, Any]:
    """The arguments that `jax.distributed.initialize` finds out by itself; {}: it finds none."""
    from jax._src.clusters import ClusterEnv  # JAX has no public way to ask

    try:
        detected = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, int(PATIENCE))
    except (ValueError, RuntimeError):  # `initialize` says it again
        return {}
    names = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
    return {} if None in detected[:3] else dict(zip(names, detected))


def _on_tpu() -> bool:
    return "tpu" in (jax.config.jax_platforms or "").split(",")  # JAX sets it itself where it finds TPUs


def _leave_last_words() -> None:
    """Starts a child that says what to do after JAX has aborted this process, with a stack trace, as another host has gone.

    A process that aborts runs no more Python; but Python's signal handlers write the signal's number to a pipe first.
    """
    heard, signals = os.pipe()
    if os.fork() == 0:
        os.close(signals)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        last = b""
        while number := os.read(heard, 1):  # until the process has ended
            last = number
        if last == bytes([signal.SIGABRT]):
            os.write(sys.stderr.fileno(), f"error: {GONE}\n".encode())
        os._exit(0)
    os.close(heard)
    os.set_blocking(signals, False)
    signal.signal(signal.SIGABRT, lambda number, frame: None)
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)


def require_same(what: str, value: str) -> None:
    """Raises a UserError on every host if one of them has another value."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint32)
    different = np.flatnonzero((multihost_utils.process_allgather(digest) != digest).any(axis=1))
    if len(different):
        here = jax.process_index()
        raise UserError(f"{what} of host {different[0]} is another than that of host {here}; all hosts must have the same.")


def require_same_software() -> None:
    """Raises a UserError on every host if one of them has other code of this package, or of those that compute."""
    if jax.process_count() == 1:
        return
    installed = {each.name: each.version for each in metadata.distributions() if each.name in COMPUTING}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(installed.items()))
    require_same(f"the software ({versions})", versions)
    require_same("the code of roberta_jax", _code(Path(__file__).parents[1]))


def _code(package: Path) -> str:
    """Of a package, all that it is made of, wherever it lies."""
    return repr([(file.relative_to(package).as_posix(), file.read_bytes()) for file in sorted(package.rglob("*.py"))])


def require_shared(workdir: Path) -> None:
    """Raises a UserError on every host if they do not all see the same folder."""
    if jax.process_count() == 1:
        return
    mark = workdir / f".host-0-{multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32))):08x}"
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        mark.touch()
    wait_for_all(f"{mark.name} is there")
    seen = multihost_utils.process_allgather(np.array(mark.exists()))
    if jax.process_index() == 0:
        mark.unlink()
    if not seen.all():
        blind = np.flatnonzero(~seen.ravel())[0]
        raise UserError(f"--workdir {workdir} of host {blind} is not the folder of host 0; expected one that all hosts share.")


@contextmanager
def alone_in(workdir: Path) -> Iterator[None]:
    """Within it no other run is in the workdir: the first host holds its lock, for all.

    Raises:
      UserError: another run is there; on every host.
    """
    refused: UserError | None = None
    with ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock.held(workdir))
            except UserError as error:
                refused = error
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.uint8(refused is not None)):
            refused = refused or lock.refusal(workdir, lock.record_in(workdir))
        if refused:
            raise refused
        yield


def wait_for_all(what: str) -> None:
    """Returns when every host has come to the same line."""
    multihost_utils.sync_global_devices(what)


def said_by_any(sentence: str) -> str:
    """On every host the sentence of the first that has one; "" where none has."""
    if jax.process_count() == 1:
        return sentence
    length = 1_000  # bytes, the same on all hosts
    padded = np.frombuffer(sentence.encode()[:length].ljust(length, b"\0"), np.uint8)
    sentences = [line.tobytes().rstrip(b"\0").decode(errors="ignore") for line in multihost_utils.process_allgather(padded)]
    return next(filter(None, sentences), "")


def gather_to_host(tree: Any) -> Any:
    """Every array of a tree as NumPy's, whole on every host, however it is spread over the mesh."""

    def gathered(array: Any) -> np.ndarray:
        there = not isinstance(array, jax.Array) or array.is_fully_replicated or array.is_fully_addressable
        return np.asarray(array) if there else multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(gathered, tree)


class Stop:
    """Turns the first SIGTERM or interrupt of any host into all hosts' request to save and end; a second one ends at once."""

    def __init__(self):
        self.signal: str | None = None
        self._any_host: Any = False
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}

    def _request(self, number, frame) -> None:
        self.signal = signal.Signals(number).name
        self.release()

    def requested(self) -> bool:
        """Whether to end after this step. Called once a step it is the same on every host.

        Of several hosts it is the answer to the step before: that one is there, and the device is not waited for.
        """
        if jax.process_count() == 1:
            return self.signal is not None
        answer, self._any_host = bool(self._any_host), _on_any_host(self.signal is not None)
        return answer

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Gives the signals back to those who had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _on_any_host(flag: bool) -> jax.Array:
    shape, rows, any_row = _voting()
    return any_row(jax.make_array_from_callback(shape, rows, lambda _: np.array([flag])))


@functools.cache
def _voting() -> tuple:
    mesh = jax.make_mesh((jax.device_count(),), ("device",), axis_types=(AxisType.Auto,))
    return (jax.device_count(),), NamedSharding(mesh, P("device")), jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))
