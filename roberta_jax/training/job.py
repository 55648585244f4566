"""What a kind of training gives the loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from roberta_jax.training.notes import Memory
from roberta_jax.training.step import Loss


@dataclass(frozen=True)
class Trial:
    """One of several runs that are trained together: a seed and a learning rate."""

    seed: int
    learning_rate: float
    name: str


@dataclass(frozen=True)
class Job:
    """What pretraining and fine-tuning do not share, and what another kind of training gives `train`."""

    init: Callable[[jax.Array], Any]  # key → parameters
    loss: Loss
    train_batches: Callable[[int, Mesh], Iterator[dict]]  # (number of the first, mesh) → batches laid out on it
    # (parameters, mesh) → "valid/loss" and others, every `eval_every` steps; of trials, arrays [trials]. metrics.jsonl has them
    # by these names, so that another evaluation is a further name in what a job returns here.
    evaluate: Callable[[Any, Mesh], dict[str, Any]]
    rows: int  # of a batch: config.batch_size, or a few more that weigh nothing
    cost: Callable[[dict], tuple[int, float]]  # a batch → (its ids, the FLOPs that a training step on it needs)
    initial: Callable[[], dict]  # of a run that does not resume: parameters in place of `init`'s of the same names
    dtype: str = "float32"  # of the arithmetic, by whose peak MFU is measured
    derived: Callable[[dict[str, float]], dict[str, float]] = lambda means: {}  # from a step's means, further ones
    # (step, the means of its log line) → an incident's kind and sentence, where something is amiss
    watch: Callable[[int, dict[str, float]], tuple[str, str] | None] = lambda step, means: None
    metric: str = ""  # the state keeps the parameters where this was greatest; "": checkpoints, where valid/loss was least
    patience: int = 0  # evaluations without a better one that end the run; 0: none do
    rows_of: Callable[[int], list[int]] = lambda number: []  # a batch's number → its rows of the corpus, for incidents
    # Of a run that continues another: the state's shapes and shardings → the state to begin with, and what its checkpoint holds
    # beside it. In the place of `init` and `initial`.
    continued: Callable[[dict], tuple[dict, Memory]] | None = None
    note: Callable[[int], dict] = lambda number: {}  # what a checkpoint holds of the data whose next batch has this number
    begin: Callable[[dict], None] = lambda noted: None  # is told what the checkpoint to go on from holds of it; of none {}
    # (step, the last step's batch, its own) → whether its checkpoint is kept for good, whatever comes after it.
    keep: Callable[[int, int, int], bool] = lambda step, before, number: False
    # A batch's number → on what its loss depends, the model apart: where that changes, the guard compares with nothing before.
    held: Callable[[int], str] = lambda number: ""
    trials: tuple[Trial, ...] = ()  # stacked on an axis in front of all arrays; (): one run, without that axis
