"""AdamW as RoBERTa used it, or another optimizer, with linear warm-up and a decay, the paper's linear to 0 or another."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from roberta_jax.config import check_choices, option
from roberta_jax.errors import check, check_choice
from roberta_jax.training.sharding import map_paths

# `config.optimizer.schedule` → how far the rate is above its floor, by the share of the decay that is done
DECAYS = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2,
    "1-sqrt": lambda done: 1 - jnp.sqrt(done),  # arXiv 2405.18392
    "constant": jnp.ones_like,
}

LONGEST_TABLE = 1 << 23  # rates: 32 MiB


@dataclass(frozen=True)
class OptimizerConfig:
    """Fields of `config.optimizer`; the defaults are those of the paper's base model (Table 9)."""

    name: str = option(
        "adamw",
        "or stableadamw, whose updates are clipped; lamb, which scales them to their weights' norm; muon: the matrices' are "
        "orthogonal; lion: they are signs",
    )
    learning_rate: float = option(6e-4, "at its peak")
    warmup_steps: float = option(24_000.0, "of linear warm-up; below 1 a share of the steps")
    weight_decay: float = option(0.01, "of every parameter, or see decay_bias_and_norm")
    decay_bias_and_norm: bool = option(True, "as fairseq did; False leaves these out, as transformers does")
    b1: float = option(0.9, "decay of the gradients' mean")
    b2: float = option(0.98, "decay of their squares' mean")
    eps: float = option(1e-6, "beside the root of these")
    clip_norm: float = option(0.0, "of the whole gradient; 0: no clipping")
    schedule: str = option("linear", "how the rate decays behind its peak", choices=tuple(DECAYS))
    decay_steps: float = option(0.0, "of the decay, the last ones, before which the rate is stable; 0: all behind the warm-up")
    floor: float = option(0.0, "where the rate ends, as a share of its peak")
    words_alone: float = option(0.0, "first steps, in which only words' embeddings and biases learn; below 1 a share of all")

    def __post_init__(self):
        check_choice("optimizer.name", self.name, OPTIMIZERS)
        for name in ("learning_rate", "eps"):
            check(getattr(self, name) > 0, f"optimizer.{name}", getattr(self, name), "a number above 0")
        for name in ("b1", "b2"):
            check(0 <= getattr(self, name) < 1, f"optimizer.{name}", getattr(self, name), "a share from 0 on, below 1")
        for name in ("warmup_steps", "decay_steps", "weight_decay", "clip_norm", "words_alone"):
            check(getattr(self, name) >= 0, f"optimizer.{name}", getattr(self, name), "0 or more")
        check(0 <= self.floor <= 1, "optimizer.floor", self.floor, "a share from 0 to 1")
        check_choices(self, "optimizer.")


def warmup(config: OptimizerConfig, steps: int) -> int:
    """Steps of the warm-up.

    Raises:
      UserError: it does not end before the run.
    """
    warmup_steps = _steps(config.warmup_steps, steps)
    expected = f"less than config.steps, {steps:,}: the warm-up must end before the run"
    check(warmup_steps < steps, "optimizer.warmup_steps", config.warmup_steps, expected)
    left = steps - warmup_steps
    expected = f"{left:,} or less, which are the steps behind the warm-up"
    check(_decay_steps(config, steps) <= left, "optimizer.decay_steps", config.decay_steps, expected)
    return warmup_steps


def in_proportion(config: OptimizerConfig, steps: int, fewer: int) -> tuple[int, int]:
    """(steps of the warm-up, and of the decay, 0 where none is asked for) of a run of so many `fewer` steps than `steps`."""
    warmup_steps, decay_steps = _steps(config.warmup_steps, steps), _decay_steps(config, steps)
    warmup_steps = min(round(warmup_steps * fewer / steps), fewer - 1)
    return warmup_steps, min(max(1, round(decay_steps * fewer / steps)), fewer - warmup_steps) if decay_steps else 0


def _steps(number: float, steps: int) -> int:
    """A number of steps, or a share of all."""
    return round(number * (steps if number < 1 else 1))


def _decay_steps(config: OptimizerConfig, steps: int) -> int:
    """Of the decay; 0: all behind the warm-up, which no share becomes by rounding."""
    return max(1, _steps(config.decay_steps, steps)) if config.decay_steps else 0


def schedule(config: OptimizerConfig, steps: int, start: float = 0.0) -> optax.Schedule:
    """Updates done → learning rate: warm-up, peak, decay. The first update has rate `start`, one after the last the floor's."""
    warmup_steps, peak = warmup(config, steps), config.learning_rate
    lowest = last_rate(config)
    decay_steps = _decay_steps(config, steps) or steps - warmup_steps

    def decay(count: jax.Array) -> jax.Array:
        return lowest + (peak - lowest) * DECAYS[config.schedule](jnp.clip(count / decay_steps, 0, 1))

    parts = [optax.linear_schedule(start, peak, warmup_steps), optax.constant_schedule(peak), decay]
    return optax.join_schedules(parts, [warmup_steps, steps - decay_steps])


def looked_up(rate: optax.Schedule, steps: int) -> optax.Schedule:
    """The same rates, from a table.

    So the step is one program whatever the schedule, and a stable run and its decay give the bits of the one run: compilers
    round programs otherwise that differ in as little as that. The paper's schedule is computed, as it always was; and so are
    those of runs of more steps than any has, for which the table would be large.
    """
    size = 1 << steps.bit_length()  # the same for runs of about as many steps
    if size > LONGEST_TABLE:
        return rate
    with jax.ensure_compile_time_eval():
        table = np.asarray(jax.vmap(rate)(jnp.arange(size)), np.float32)
    # Behind the barrier a table of equals is no constant.
    return lambda count: jax.lax.optimization_barrier(jnp.asarray(table))[jnp.minimum(count, size - 1)]


def last_rate(config: OptimizerConfig) -> float:
    """Where `schedule` ends."""
    return config.learning_rate * (1.0 if config.schedule == "constant" else config.floor)


def decayed(params, bias_and_norm: bool):
    """Which parameters weight decay shrinks, a tree of bool: all, or all but biases and norms."""
    return map_paths(lambda path, _: bias_and_norm or not re.search(r"(bias|scale)$", path), params)


def _axes(path: str, x: jax.Array) -> tuple[int, ...]:
    """All of a parameter's own axes: of stacked layers all but the first."""
    return tuple(range("layers/" in path, x.ndim))


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Each array's update times its own norm over the update's; of stacked layers each layer by itself, unlike optax's."""

    def scaled(path: str, update: jax.Array, param: jax.Array) -> jax.Array:
        axes = _axes(path, update)
        of_param, of_update = (jnp.sqrt(jnp.sum(x * x, axes, keepdims=True)) for x in (param, update))
        return update * jnp.where((of_param > 0) & (of_update > 0), of_param / of_update, 1.0)

    def update(updates, state, params):
        return map_paths(scaled, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def skip_rejected(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`inner`, whose state stays as it was where the further argument `accepted`, bool [], is False."""

    def update(updates, state, params=None, *, accepted: jax.Array | bool = True):
        updates, new = inner.update(updates, state, params)
        return updates, jax.tree.map(lambda new, old: jnp.where(accepted, new, old), new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax's, with `skip_rejected`. The moments are selected before the update is computed from them.

    Selecting after the update makes XLA copy the old moments; so each is read once, and written in place.
    """
    adam = skip_rejected(optax.scale_by_adam(b1, b2, eps))

    def update(grads, state, params=None, **extra_args):
        _, state = adam.update(grads, state, **extra_args)
        mean, square = (optax.tree.bias_correction(m, b, state.count) for m, b in ((state.mu, b1), (state.nu, b2)))
        return jax.tree.map(lambda mean, square: mean / (jnp.sqrt(square) + eps), mean, square), state

    return optax.GradientTransformationExtraArgs(adam.init, update)


def scale_by_rate(rate: optax.Schedule, alone: int) -> optax.GradientTransformation:
    """optax's scale_by_learning_rate; the first `alone` updates are of the words' embeddings and biases only."""
    scaled = optax.scale_by_learning_rate(rate)
    if not alone:
        return scaled

    def update(updates, state, params=None):
        all_learn = state.count >= alone

        def of_words(path: str, x: jax.Array) -> jax.Array:
            return x if re.search(r"(embeddings/word/embedding|lm_head/bias)$", path) else jnp.where(all_learn, x, 0)

        return scaled.update(map_paths(of_words, updates), state, params)

    return optax.GradientTransformation(scaled.init, update)


def weight_decay(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW's weight decay, arXiv 1711.05101"""
    return optax.add_decayed_weights(config.weight_decay, mask=lambda params: decayed(params, config.decay_bias_and_norm))


def adamw(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """arXiv 1711.05101"""
    return [scale_by_adam(config.b1, config.b2, config.eps), weight_decay(config)]


def stableadamw(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """arXiv 2304.13013, as ModernBERT took it: AdamW, at a lower rate for arrays whose gradients outgrow their second moments.

    Of stacked layers each array has a rate of its own.
    """
    inner = optax.chain(*adamw(config))

    def update(grads, state, params, **extra_args):
        updates, state = inner.update(grads, state, params, **extra_args)
        squares = optax.tree.bias_correction(state[0].nu, config.b2, state[0].count)

        def clipped(path: str, update: jax.Array, grad: jax.Array, square: jax.Array) -> jax.Array:
            rms = jnp.sqrt(jnp.mean(grad * grad / jnp.maximum(square, config.eps**2), _axes(path, grad), keepdims=True))
            return update / jnp.maximum(1, rms)

        return map_paths(clipped, updates, grads, squares), state

    return [optax.GradientTransformationExtraArgs(inner.init, update)]


def lion(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """arXiv 2302.06675, whose authors take b2 0.99, and a third to a tenth of AdamW's rate with as much more weight decay."""
    return [skip_rejected(optax.scale_by_lion(config.b1, config.b2)), weight_decay(config)]


def lamb(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """arXiv 1904.00962"""
    return [*adamw(config), scale_by_trust_ratio()]


def muon(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """arXiv 2502.16982: orthogonal updates, of the size of Adam's, for each of the blocks' matrices; Adam's for all else.

    Both with Nesterov's momentum. Queries, keys and values have a matrix each.
    """

    def matrices(params):
        """Kernels are [L, D, F], and one of attention's three [L, D, 3, H, D / H]; axes that are not named part matrices."""
        dimensions = {3: optax.contrib.MuonDimensionNumbers(1, 2), 5: optax.contrib.MuonDimensionNumbers(1, (3, 4))}
        return map_paths(lambda path, x: dimensions[x.ndim] if re.search(r"layers/.*kernel$", path) else None, params)

    scaled = optax.contrib.muon(
        -1.0,  # the learning rate, and its sign, come behind it
        eps=config.eps,
        adam_b1=config.b1,
        adam_b2=config.b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=matrices,
    )
    return [skip_rejected(scaled), weight_decay(config)]


# `config.optimizer.name` → what stands between the clipped gradients and the learning rate. Another one is a row here; what of
# it has a state stands within `skip_rejected`.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig], list[optax.GradientTransformation]]] = {
    "adamw": adamw,
    "stableadamw": stableadamw,
    "lamb": lamb,
    "muon": muon,
    "lion": lion,
}


def make_optimizer(
    config: OptimizerConfig, steps: int, rates: optax.Schedule | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run of so many steps. Where its `update` is told accepted=False, the state stays as it was.

    Args:
      rates: updates done → learning rate, in the place of the config's own `schedule`.
    """
    rate = rates or schedule(config, steps)
    if rates or (config.schedule, config.decay_steps, config.floor) != ("linear", 0.0, 0.0):
        rate = looked_up(rate, steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        *OPTIMIZERS[config.name](config),
        skip_rejected(scale_by_rate(rate, _steps(config.words_alone, steps))),
    )
