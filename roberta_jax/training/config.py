"""The fields that every job has: of the run, of `config.optimizer` and of `config.guard`."""

from dataclasses import dataclass, field
from typing import ClassVar

from roberta_jax.config import check_choices, option
from roberta_jax.errors import check


@dataclass(frozen=True)
class OptimizerConfig:
    """The defaults are those of the paper's base model (Table 9)."""

    name: str = option(
        "adamw", "lamb scales each layer's update to its weights' norm (arXiv 1904.00962)", choices=("adamw", "lamb")
    )
    learning_rate: float = option(6e-4, "at its peak")
    warmup_steps: float = option(24_000.0, "of linear warm-up; below 1 a share of the steps")
    weight_decay: float = option(0.01, "of every parameter, or see decay_bias_and_norm")
    decay_bias_and_norm: bool = option(True, "as fairseq did; False leaves these out, as transformers does")
    b1: float = option(0.9, "of the gradients' mean")
    b2: float = option(0.98, "of the mean of their squares")
    eps: float = option(1e-6, "beside the root of these")
    clip_norm: float = option(0.0, "of the whole gradient; 0: no clipping")

    def __post_init__(self):
        check_choices(self, "optimizer.")
        for name in ("learning_rate", "eps"):
            check(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "a number above 0")
        for name in ("b1", "b2"):
            check(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "a share from 0 on, below 1")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            check(getattr(self, name) >= 0, f"optimizer.{name}", getattr(self, name), "0 or more")


def warmup(config: OptimizerConfig, steps: int) -> int:
    """Steps of the warm-up.

    Raises:
      UserError: it does not end before the run.
    """
    found = round(config.warmup_steps * (steps if config.warmup_steps < 1 else 1))
    expected = f"less than config.steps, {steps:,}: the warm-up must end before the run"
    check(found < steps, "optimizer.warmup_steps", config.warmup_steps, expected)
    return found


@dataclass(frozen=True)
class GuardConfig:
    """When an update is not made, and when a run goes back; each decision goes to incidents.jsonl.

    A deviation is 1.4826 times the median distance from the median: a normal law's sigma.
    """

    skip_above: float = option(10.0, "a gradient norm so many times the median of the last 128 is not applied; 0: only NaN")
    spike_above: float = option(10.0, "a loss so many deviations above the median of the last 128 is a spike; 0: none")
    spike_steps: int = option(5, "of a spike or not applied, in a row: back to the last good checkpoint, past their batches")
    rewinds: int = option(3, "in a row that end the run; 0: it never goes back")

    def __post_init__(self):
        for name in ("skip_above", "spike_above", "rewinds"):
            check(getattr(self, name) >= 0, f"guard.{name}", getattr(self, name), "0, which turns it off, or more")
        check(self.spike_steps > 0, "guard.spike_steps", self.spike_steps, "1 or more")


@dataclass(frozen=True)
class RunConfig:
    steps: int = option(500_000, "updates")
    batch_size: int = option(8_192, "rows of a global batch")
    microbatch_size: int = option(0, "rows that a device takes at once, the rest is accumulated; 0: its whole share")
    seed: int = option(0, "of initial weights, order, masks and dropout")
    init_from: str = option("", "a workdir, a folder of transformers or fairseq, a hub name; sizes come from there")
    fsdp: int = option(1, "devices over which parameters and optimizer state are spread; 1 replicates them")
    log_every: int = option(100, "steps")
    eval_every: int = option(5_000, "steps; the whole valid split")
    checkpoint_every: int = option(5_000, "steps")
    keep_checkpoints: int = option(2, "the newest; the best by valid loss is kept beside them")
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)

    # From 1 on, and from 0 on; the largest is what an array's int32 holds.
    POSITIVE: ClassVar = ("steps", "batch_size", "fsdp", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints")
    NOT_NEGATIVE: ClassVar = ("microbatch_size",)

    def __post_init__(self):
        for least, names in ((1, self.POSITIVE), (0, self.NOT_NEGATIVE)):
            for name in names:
                check(least <= getattr(self, name) < 2**31, name, getattr(self, name), f"{least} or more, and less than 2³¹")
        check(0 <= self.seed < 2**32, "seed", self.seed, "0 or more, and less than 2³²")
