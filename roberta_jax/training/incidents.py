"""What went wrong in a run, one line each: said aloud and kept in `<workdir>/incidents.jsonl`."""

import math
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from roberta_jax.training.logging import Journal, say
from roberta_jax.training.workdir import INCIDENTS_JSONL


class Incidents:
    def __init__(self, workdir: Path):
        self._path = workdir / INCIDENTS_JSONL

    @cached_property
    def _journal(self) -> Journal:
        """Begun with the first incident: where there is none, there is no file."""
        return Journal(self._path)

    def write(self, kind: str, step: int, sentence: str, **values: Any) -> None:
        say(f"! step {step:,}: {sentence}")
        if jax.process_index() == 0:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            for name, value in values.items():
                if isinstance(value, float) and not math.isfinite(value):
                    values[name] = str(value)  # JSON has no NaN
            self._journal.write({"time": now, "step": step, "kind": kind, "what": sentence} | values)
