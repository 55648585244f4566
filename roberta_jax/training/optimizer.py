"""AdamW as RoBERTa used it, with linear warm-up and linear decay to 0."""

import re
from dataclasses import dataclass

import optax

from roberta_jax.errors import UserError
from roberta_jax.training.sharding import map_paths


@dataclass(frozen=True)
class OptimizerConfig:
    """Fields of `config.optimizer`; the defaults are those of the paper's base model (Table 9)."""

    learning_rate: float = 6e-4  # at its peak
    warmup_steps: float = 24_000  # below 1 a share of the steps
    weight_decay: float = 0.01
    decay_bias_and_norm: bool = True  # as fairseq did; False leaves them out, as transformers does
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip_norm: float = 0.0  # of the whole gradient; 0 does not clip

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}; expected a number above 0.")


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Updates done → learning rate. The first update has rate 0; the update after the last would have it again."""
    warmup_steps = round(config.warmup_steps * (steps if config.warmup_steps < 1 else 1))
    if not 0 <= warmup_steps < steps:
        raise UserError(
            f"optimizer.warmup_steps is {config.warmup_steps} and steps {steps}; the warm-up must end before the run."
        )
    peak = config.learning_rate
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    decay = optax.linear_schedule(peak, 0.0, steps - warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def decayed(params, bias_and_norm: bool):
    """Which parameters weight decay shrinks: all, or all but biases and norms. Paths as in `sharding.RULES`."""
    return map_paths(lambda path, _: bias_and_norm or not re.search(r"(bias|scale)$", path), params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: decayed(params, config.decay_bias_and_norm)),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )
