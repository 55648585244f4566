"""Pretraining runs of a few steps of a very small model, and what of two of them has to be the same."""

import importlib
import shutil
from pathlib import Path

import numpy as np

from roberta_jax.config import typed
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.training.checkpoint import read_arrays
from roberta_jax.training.notes import read_notes
from roberta_jax.training.workdir import read_metrics
from roberta_jax.verify_resume import TIMES


def config(corpus, **changes) -> PretrainConfig:
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(steps=10, batch_size=16, log_every=3, eval_every=4, checkpoint_every=2, keep_checkpoints=9)
    fields.model.update(num_layers=1, hidden_size=32, intermediate_size=64, vocab_size=400, dropout=0.1)
    fields.optimizer.update(name="adamw", warmup_steps=2.0, schedule="constant", floor=0.1)
    fields.data.update(source=str(corpus.folder), tokenizer="400")
    fields.update_from_flattened_dict(changes)
    return typed(PretrainConfig, fields.to_dict())


def lines(workdir) -> list[dict]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(workdir)]


def assert_same(one, other, step=12):
    first, second = (read_arrays(workdir / "checkpoints", step) for workdir in (one, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], name)
    assert lines(one) == lines(other)
    noted = [read_notes(workdir / "checkpoints", step) for workdir in (one, other)]
    assert noted[0] == noted[1]


def killed_after(workdir: Path, step: int, at: Path) -> Path:
    """A copy of a run as a kill would have left it, had the checkpoint of a step been its last."""
    shutil.copytree(workdir, at)
    for path in (at / "checkpoints").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    return at
