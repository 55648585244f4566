"""The fields that every job has."""

from dataclasses import dataclass, field
from typing import ClassVar

import optax

from roberta_jax.config import option
from roberta_jax.errors import check, check_choice
from roberta_jax.training.guard import GuardConfig
from roberta_jax.training.optimizer import OptimizerConfig, schedule
from roberta_jax.training.trackers import TRACKERS


@dataclass(frozen=True)
class RunConfig:
    """How long a run is, what a step takes, and how often it is logged, measured and saved."""

    steps: int = option(500_000, "updates")
    batch_size: int = option(8_192, "rows of a global batch")
    microbatch_size: int = option(0, "rows that a device takes at once, the rest is accumulated; 0: its whole share")
    seed: int = option(0, "of initial weights, order, masks and dropout")
    init_from: str = option("", "a workdir, a folder of transformers or fairseq, a hub name; sizes come from there")
    fsdp: int = option(1, "devices over which parameters are spread; 1: each has them all, and optimizer state alone is spread")
    log_every: int = option(100, "steps")
    eval_every: int = option(5_000, "steps; the whole valid split")
    checkpoint_every: int = option(5_000, "steps")
    keep_checkpoints: int = option(2, "the newest; the best by valid loss is kept beside them")
    tracker: str = option("", f"which gets the numbers of metrics.jsonl too: {', '.join(TRACKERS)}; empty: none")
    profile: int = option(0, "steps that are traced for TensorBoard's profiler, from a start's fourth on; 0: none")
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)

    # From 1 on, and from 0 on; the largest is what an array's int32 holds.
    POSITIVE: ClassVar = ("steps", "batch_size", "fsdp", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints")
    NOT_NEGATIVE: ClassVar = ("microbatch_size", "profile")

    def rates(self) -> optax.Schedule:
        """Updates done → learning rate."""
        return self.own_rates() or schedule(self.optimizer, self.steps)

    def own_rates(self) -> optax.Schedule | None:
        """The same, where it is not the optimizer's over all steps: that of phases."""
        return None

    def __post_init__(self):
        for least, names in ((1, self.POSITIVE), (0, self.NOT_NEGATIVE)):
            for name in names:
                check(least <= getattr(self, name) < 2**31, name, getattr(self, name), f"{least} or more, and less than 2³¹")
        check_choice("tracker", self.tracker, ("", *TRACKERS))
        check(0 <= self.seed < 2**32, "seed", self.seed, "0 or more, and less than 2³²")
