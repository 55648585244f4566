"""What a run has left in its workdir, here or behind a URL: its metrics, and which of its checkpoints is meant."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roberta_jax import storage
from roberta_jax.errors import UserError


def is_workdir(source: str | Path) -> bool:
    folder = storage.join(source, "checkpoints")
    return bool(storage.names(folder)) or not storage.is_url(folder) and Path(folder).expanduser().is_dir()


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that can be read; null, which stands for a number that is not finite, is NaN."""
    from roberta_jax.training.logging import entry_of  # here, so that the rest needs no TensorBoard

    path = storage.join(workdir, "metrics.jsonl")
    lines = storage.read_bytes(path).split(b"\n")[:-1] if storage.exists(path) else []
    numbers = (float, int)
    return [
        {name: np.nan if value is None else value for name, value in entry.items() if value is None or type(value) in numbers}
        for entry in map(entry_of, lines)
        if entry is not None
    ]


def choose(workdir: str | Path, steps: Sequence[int], checkpoint: str) -> int:
    """Which of a run's checkpoints "newest", "best" or a number is.

    Raises:
      UserError: none.
    """
    holds_its_best = storage.exists(storage.join(workdir, "task.json"))  # a fine-tuned one, any checkpoint of it
    if checkpoint == "newest" or checkpoint == "best" and holds_its_best:
        return steps[-1]
    if checkpoint == "best":
        losses = {
            entry["step"]: loss for entry in read_metrics(workdir) if np.isfinite(loss := entry.get("valid/loss", np.nan))
        }
        measured = [step for step in steps if step in losses]
        if not measured:
            raise UserError(f"{storage.join(workdir, 'metrics.jsonl')} has no valid/loss for a saved step; take the newest.")
        return min(measured, key=losses.get)
    if not checkpoint.isdigit() or int(checkpoint) not in steps:
        raise UserError(f"checkpoint is {checkpoint!r}; {workdir} has newest, best, {', '.join(map(str, steps))}.")
    return int(checkpoint)
