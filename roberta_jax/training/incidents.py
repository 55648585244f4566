"""What went wrong in a run, one line each: said aloud and kept in `<workdir>/incidents.jsonl`."""

import math
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from roberta_jax.training.logging import Journal, say
from roberta_jax.training.workdir import INCIDENTS_JSONL


class Incidents:
    """Of the run in a workdir; `step` is the one that is under way, for those that do not know it themselves."""

    step = 0

    def __init__(self, workdir: Path):
        self._path = workdir / INCIDENTS_JSONL

    @cached_property
    def _journal(self) -> Journal:
        """Begun with the first incident: where there is none, there is no file."""
        return Journal(self._path)

    def write(self, kind: str, step: int, sentence: str, **values: Any) -> None:
        """Says the sentence and appends a line; `values` are further fields of it, by names that JSON takes."""
        say(f"! step {step:,}: {sentence}")
        if jax.process_index() == 0:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            for name, value in values.items():
                if isinstance(value, float) and not math.isfinite(value):
                    values[name] = str(value)  # JSON has no NaN
            self._journal.write({"time": now, "step": step, "kind": kind, "what": sentence} | values)

    def reporter(self, kind: str) -> Callable[[str], None]:
        """A function that writes an incident of a kind, told a sentence, at the step that is under way; from any thread."""
        return lambda sentence: self.write(kind, self.step, sentence)
