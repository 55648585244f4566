"""The door, in processes forked from one that has imported it: a start takes a fraction of a second instead of ten.

What is forked has imported JAX and TensorFlow, and used neither.
"""

import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

IMPORTED = ("roberta_jax.pretraining.job", "roberta_jax.tasks.runs", "roberta_jax.training.distributed")


ROOT = Path(__file__).parent.parent


def tiny_on(corpus, fields: dict) -> list[str]:
    """The door's arguments: the tiny config on a corpus of `conftest`, with dropout and these fields."""
    vocabulary = len(corpus.tokenizer)
    fields = {
        "batch_size": 16, "model.dropout": 0.1, "model.vocab_size": vocabulary, "data.source": corpus.folder,
        "data.length": corpus.length, "data.tokenizer": vocabulary,
    } | fields  # fmt: skip
    return ["--config=configs/tiny.py", *(f"--config.{name}={value}" for name, value in fields.items())]


def simulated(devices: int) -> dict[str, str]:
    """What of the environment gives a process so many devices, its other flags being this one's."""
    return {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"}


@functools.cache
def _server() -> subprocess.Popen:
    """Ends with this process, whose end closes the pipe."""
    environment, pipe = os.environ | {"PYTHONPATH": str(ROOT)}, subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, __file__], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
    )


def _ask(**what) -> dict:
    _server().stdin.write(json.dumps(what) + "\n")
    return json.loads(_server().stdout.readline())


class Process:
    """`python -m roberta_jax.main` with these arguments, in the root of the repository.

    Args:
      environment: what differs from this process'.
      log: a new file for what it says.
    """

    _codes: ClassVar[dict[str, int]] = {}

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path):
        self.log = log
        answer = _ask(arguments=arguments, environment=environment, log=str(log))
        self._codes.update(answer["ended"])
        self.pid = answer["pid"]

    def poll(self) -> int | None:
        """The exit code, of a signal its negative number; None while it runs."""
        self._codes.update(_ask()["ended"])
        return self._codes.get(str(self.pid))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        end = time.time() + timeout
        while (code := self.poll()) is None:
            if time.time() > end:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"it did not end within {timeout} s:\n{self.output()}")
            time.sleep(0.01)
        return code

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _be(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, target in enumerate((os.open(os.devnull, os.O_RDONLY), file, file)):
        os.dup2(target, stream)
    sys.argv = ["roberta_jax/main.py", *arguments]
    runpy.run_module("roberta_jax.main", run_name="__main__", alter_sys=True)


def _serve() -> None:
    for name in IMPORTED:
        __import__(name)
    sys.modules["roberta_jax.model.flops"].best_matmul_flops = lambda dtype: 1e12  # as conftest has it
    running, started = set(), 0
    for line in sys.stdin:
        request, ended = json.loads(line), {}
        if request:
            started = os.fork()
            if started == 0:
                return _be(**request)
            running.add(started)
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.remove(pid)
                ended[pid] = os.waitstatus_to_exitcode(status)
        print(json.dumps({"pid": started, "ended": ended}), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
