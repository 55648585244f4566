"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from roberta_jax.data import storage
from roberta_jax.imports import without

with without("torch"):  # tensorboardX can write its tensors too
    from tensorboardX import SummaryWriter


def say(text: str) -> None:
    """Prints, on the first host alone."""
    if jax.process_index() == 0:
        print(text, flush=True)


class Journal:
    """A file of lines that grows: appended to on this machine, written anew behind a URL.

    Args:
      kept: which lines that are there already to keep; a half one never is.
    """

    def __init__(self, path: Path, kept: Callable[[str], bool] = lambda line: True):
        before = storage.read_bytes(path).decode() if storage.exists(path) else ""
        self._path, self._lines = path, [line for line in before.splitlines(True) if line.endswith("\n") and kept(line)]
        storage.write_text(path, "".join(self._lines))
        self._file = None if storage.is_url(path) else open(path, "a")

    def write(self, values: dict[str, Any]) -> None:
        self._lines.append(json.dumps(values) + "\n")
        if self._file is None:
            storage.write_text(self._path, "".join(self._lines))
        else:
            self._file.write(self._lines.pop())
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Metrics:
    """`<workdir>/metrics.jsonl` and TensorBoard events, from a step on: what a killed run wrote after it is dropped."""

    def __init__(self, workdir: Path, first_step: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._journal = Journal(workdir / "metrics.jsonl", lambda line: json.loads(line)["step"] <= first_step)
        try:
            purge = first_step + 1 if first_step else None
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)
        except ImportError as error:
            say(f"no TensorBoard events in {workdir}: {error}")
            self._events = None

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self._active:
            return
        self._journal.write({"step": step} | values)
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._active:
            self._journal.close()
            if self._events:
                self._events.close()


def duration(seconds: float) -> str:
    """5025 → '1:23:45'"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}:{minutes:02d}:{seconds:02d}" if days else f"{hours}:{minutes:02d}:{seconds:02d}"
