"""Means over a whole split, each example counted once: rows that fill the last batch weigh nothing."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from roberta_jax.training.step import Batch, Loss


def make_eval_step(loss: Loss) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """A compiled (parameters, batch) → the loss' sums over the batch, without dropout."""

    def eval_step(params: Any, batch: Batch) -> dict[str, jax.Array]:
        return loss(params, batch, None)

    return jax.jit(eval_step)


def evaluate(eval_step: Callable, params: Any, batches: Iterable[Batch]) -> dict[str, float]:
    """The batches' sums, added in float64, over their weight. The device is never waited for before the end."""
    sums = jax.device_get([eval_step(params, batch) for batch in batches])
    totals = {name: np.sum([part[name] for part in sums], dtype=np.float64) for name in sums[0]}
    weight = totals.pop("weight")
    return {name: float(total / weight) for name, total in totals.items()}
