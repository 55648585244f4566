"""AdamW as RoBERTa used it, or LAMB, with linear warm-up and linear decay to 0."""

import re

import jax
import jax.numpy as jnp
import optax

from roberta_jax.training.config import OptimizerConfig, warmup
from roberta_jax.training.sharding import map_paths


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Updates done → learning rate. The first update has rate 0; the update after the last would have it again."""
    warmup_steps = warmup(config, steps)
    peak = config.learning_rate
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    decay = optax.linear_schedule(peak, 0.0, steps - warmup_steps)
    return optax.join_schedules([rise, decay], [warmup_steps])


def decayed(params, bias_and_norm: bool):
    """Which parameters weight decay shrinks: all, or all but biases and norms. Paths as in `sharding.RULES`."""
    return map_paths(lambda path, _: bias_and_norm or not re.search(r"(bias|scale)$", path), params)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Each array's update times its own norm over the update's; of stacked layers each layer by itself, unlike optax's."""

    def scaled(path: str, pair: tuple) -> jnp.ndarray:
        update, param = pair
        axes = tuple(range("layers/" in path, update.ndim))
        of_param, of_update = (jnp.sqrt(jnp.sum(x * x, axes, keepdims=True)) for x in (param, update))
        return update * jnp.where((of_param > 0) & (of_update > 0), of_param / of_update, 1.0)

    def update(updates, state, params):
        pairs = jax.tree.map(lambda update, param: (update, param), updates, params)
        return map_paths(scaled, pairs, is_leaf=lambda node: isinstance(node, tuple)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def kept(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`inner`, whose state stays as it was where the further argument `made` is False."""

    def update(updates, state, params=None, *, made: jax.Array | bool = True):
        updates, new = inner.update(updates, state, params)
        return updates, jax.tree.map(lambda new, old: jnp.where(made, new, old), new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax's, `kept`. The update is computed from the moments that stay: each is read once, and written where it was.

    Were they chosen behind it, XLA would compute it from the old ones, and copy these before it overwrites them.
    """
    adam = kept(optax.scale_by_adam(b1, b2, eps))

    def update(grads, state, params=None, **made):
        _, state = adam.update(grads, state, **made)
        mean, square = (optax.tree.bias_correction(m, b, state.count) for m, b in ((state.mu, b1), (state.nu, b2)))
        return jax.tree.map(lambda mean, square: mean / (jnp.sqrt(square) + eps), mean, square), state

    return optax.GradientTransformationExtraArgs(adam.init, update)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """Its `update` takes `made` too: whether the update will be made, without which the state stays as it was."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: decayed(params, config.decay_bias_and_norm)),
        *([scale_by_trust_ratio()] if config.name == "lamb" else []),
        kept(optax.scale_by_learning_rate(schedule(config, steps))),
    )
