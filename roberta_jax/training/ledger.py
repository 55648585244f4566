"""Where a run's time goes: `<workdir>/ledger.json`, summed over all its starts, and a report where nothing moves."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from roberta_jax import storage
from roberta_jax.training.logging import recovered
from roberta_jax.training.workdir import LEDGER_JSON

KINDS = ("step", "start", "compile", "data", "evaluate", "checkpoint", "lost")  # lost: steps that were made twice
LONGEST = {"data": 60.0, "step": 600.0}  # seconds, after which a stall is reported


def seconds_of(workdir: Path) -> float:
    """That a run has taken, all its starts together; 0 where nothing says."""
    return sum(recovered(workdir / LEDGER_JSON, _read, ({}, 0, None, 0))[0].values())


def _read(content: bytes) -> tuple[dict[str, float], int, int | None, int]:
    """(seconds of each kind, starts, the step after which its steps begin, step) of a ledger.json."""
    before = storage.parse_json(content)
    seconds = {kind: float(before["seconds"].get(kind, 0.0)) for kind in KINDS}
    if not all(math.isfinite(value) and value >= 0 for value in seconds.values()):
        raise ValueError("its seconds are no numbers")
    return seconds, int(before["starts"]), int(before.get("first", 0)), int(before["step"])


class Ledger:
    """Every second belongs to one kind; outside of `with ledger(kind)` it is a step's.

    Args:
      report: called with a sentence when a batch or a step does not come, from a thread of its own.
    """

    def __init__(self, workdir: Path, report: Callable[[str], None]):
        self._path = workdir / LEDGER_JSON
        nothing = dict.fromkeys(KINDS, 0.0), 0, None, 0
        self.seconds, starts, self._first, self._last_step = recovered(self._path, _read, nothing)
        self.starts = starts + 1
        self._kind, self._since, self._lap = "start", time.perf_counter(), 0.0
        self._report, self._closed = report, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _switch(self, kind: str) -> str:
        now, before = time.perf_counter(), self._kind
        self.seconds[before] += now - self._since
        if before in ("step", "data"):
            self._lap += now - self._since
        self._kind, self._since = kind, now
        return before

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        before = self._switch(kind)
        try:
            yield
        finally:
            self._switch(before)

    def begin(self, step: int) -> None:
        """The first step comes: the start is over. What an earlier start did past `step` was lost."""
        self._switch("step")
        self._first = step if self._first is None else self._first
        self.lose(self._last_step, step)

    def lose(self, reached: int, step: int) -> None:
        """The run goes on from `step`, though it had reached another one."""
        self._first = min(self._first, step)
        lost = self.seconds["step"] * max(0, reached - step) / max(1, reached - self._first)
        self.seconds["step"] -= lost
        self.seconds["lost"] += lost

    def lap(self) -> float:
        """Seconds of steps, and of waiting for their data, since the last lap."""
        self._switch(self._kind)
        seconds, self._lap = self._lap, 0.0
        return seconds

    @property
    def goodput(self) -> float:
        """The share of all seconds that went into steps which were not lost."""
        return self.seconds["step"] / max(sum(self.seconds.values()), 1e-9)

    def save(self, step: int) -> None:
        """Writes ledger.json, by the first host; `step` is the last one done."""
        self._switch(self._kind)
        if jax.process_index() == 0:
            storage.write_json(self._path, {"first": self._first, "step": step, "starts": self.starts, "seconds": self.seconds})

    def close(self) -> str:
        """Ends the watch; a line that sums all up."""
        self._closed.set()
        self._switch(self._kind)
        total = sum(self.seconds.values())
        parts = (f"{kind} {seconds / total:.1%}" for kind, seconds in self.seconds.items() if seconds >= total / 2000)
        return f"{total:,.0f} s in {self.starts} start(s): " + ", ".join(parts)

    def _watch(self) -> None:
        reported_since = None
        while not self._closed.wait(min(LONGEST.values()) / 4):
            kind, since = self._kind, self._since
            waited = time.perf_counter() - since
            if waited > LONGEST.get(kind, float("inf")) and reported_since != since:
                reported_since = since
                what = "the next batch has not come" if kind == "data" else "no step has ended"
                self._report(f"{what} for {waited:.0f} s")
