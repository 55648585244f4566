"""What lies in a run's workdir. Other programs rely on these names, and no other file of the package spells one.

    config.json         the run's fields, and this package's version
    command.txt         the command that started it
    tokenizer/          its tokenizer, as transformers reads it, with the hashes of its files
    checkpoints/<step>/ see `checkpoint`
    metrics.jsonl       a JSON object a line: "step", and names such as "train/loss" and "valid/loss"
    tensorboard/        the same as TensorBoard's events
    tracker.json        the run's name at the tracker that config.tracker names
    incidents.jsonl     what went wrong, a JSON object a line: "time", "step", "kind", "what"
    ledger.json         where the time went
    attention.json      why XLA's attention stands in for a kernel, where it does
    task.json           of fine-tuning: the task, its labels, and what made the run
    metrics_test.json   of fine-tuning: the metrics of the test split, where it has labels
    results.json        of fine-tuning: each run's metrics; results.md has them as a table
    made_by.json        of an ablation: what made the run; run.json, once it is done, its metrics
    output.txt          of `verify_resume`: what its runs printed
    run.lock            see `roberta_jax.lock`, which names it

A corpus and a folder of transformers have names of their own, which are alike where they hold the same: see `data.corpus`
and `interop.hub`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roberta_jax import storage
from roberta_jax.errors import UserError

CONFIG_JSON = "config.json"
COMMAND_TXT = "command.txt"
TOKENIZER = "tokenizer"
CHECKPOINTS = "checkpoints"
METRICS_JSONL = "metrics.jsonl"
TENSORBOARD = "tensorboard"
TRACKER_JSON = "tracker.json"
INCIDENTS_JSONL = "incidents.jsonl"
LEDGER_JSON = "ledger.json"
ATTENTION_JSON = "attention.json"
TASK_JSON = "task.json"
METRICS_TEST_JSON = "metrics_test.json"
RESULTS_JSON = "results.json"
RESULTS_MD = "results.md"
MADE_BY_JSON = "made_by.json"
RUN_JSON = "run.json"
OUTPUT_TXT = "output.txt"


def entry_of(line: bytes) -> dict[str, Any] | None:
    """The object that a line of metrics.jsonl or incidents.jsonl holds; None where it is no object with a step."""
    try:
        entry = storage.parse_json(line.decode())
        return entry if type(entry["step"]) is int else None
    except (ValueError, KeyError):
        return None


def read_metrics(workdir: str | Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl that can be read; null, which stands for a number that is not finite, is NaN."""
    path = storage.join(workdir, METRICS_JSONL)
    lines = storage.read_bytes(path).split(b"\n")[:-1] if storage.exists(path) else []
    numbers = (float, int)
    return [
        {name: np.nan if value is None else value for name, value in entry.items() if value is None or type(value) in numbers}
        for entry in map(entry_of, lines)
        if entry is not None
    ]


def is_workdir(source: str | Path) -> bool:
    """Whether it is a run's, which may have no checkpoint yet; here or behind a URL."""
    folder = storage.join(source, CHECKPOINTS)
    return bool(storage.names(folder)) or not storage.is_url(folder) and Path(folder).expanduser().is_dir()


def choose(workdir: str | Path, steps: Sequence[int], checkpoint: str) -> int:
    """Which of a run's checkpoints "newest", "best" or a number is.

    Raises:
      UserError: none.
    """
    holds_its_best = storage.exists(storage.join(workdir, TASK_JSON))  # a fine-tuned one, any checkpoint of it
    if checkpoint == "newest" or checkpoint == "best" and holds_its_best:
        return steps[-1]
    if checkpoint == "best":
        losses = {
            entry["step"]: loss for entry in read_metrics(workdir) if np.isfinite(loss := entry.get("valid/loss", np.nan))
        }
        measured = [step for step in steps if step in losses]
        if not measured:
            raise UserError(f"{storage.join(workdir, METRICS_JSONL)} has no valid/loss for a saved step; take the newest.")
        return min(measured, key=losses.get)
    if not checkpoint.isdigit() or int(checkpoint) not in steps:
        raise UserError(f"checkpoint is {checkpoint!r}; {workdir} has newest, best, {', '.join(map(str, steps))}.")
    return int(checkpoint)
