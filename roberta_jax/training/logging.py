"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress line."""

import json
import os
import time
from pathlib import Path

import jax
from tensorboardX import SummaryWriter


def say(text: str) -> None:
    """Prints, on the first host alone."""
    if jax.process_index() == 0:
        print(text, flush=True)


class Metrics:
    """`<workdir>/metrics.jsonl` and TensorBoard events, from a step on: what a killed run wrote after it is dropped."""

    def __init__(self, workdir: Path, first_step: int):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, path)
        self._file = open(path, "a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1 if first_step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._active:
            self._file.write(json.dumps({"step": step} | values) + "\n")
            self._file.flush()
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._active:
            self._file.close()
            self._events.close()


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


class Stopwatch:
    """Seconds of stepping since the last lap; what lies between `pause` and `resume` does not count."""

    def __init__(self):
        self._start, self._paused = time.perf_counter(), None

    def pause(self) -> None:
        self._paused = time.perf_counter()

    def resume(self) -> None:
        self._start += time.perf_counter() - self._paused

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._start = now - self._start, now
        return seconds


def duration(seconds: float) -> str:
    """5025 → '1:23:45'"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}:{minutes:02d}:{seconds:02d}" if days else f"{hours}:{minutes:02d}:{seconds:02d}"
