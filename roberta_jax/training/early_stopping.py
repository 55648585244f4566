"""The best parameters so far, which the state keeps, and the patience after which a run without better ones ends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from roberta_jax.training.distributed import gather_to_host


@jax.jit
def best_so_far(best: dict, params: Any, value: jax.Array, step: jax.Array) -> dict:
    """`{"params", "value", "step"}` of the greatest value so far, in each trial: the first of equals stays."""
    better = value > best["value"]

    def choose(new, old):
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    return jax.tree.map(choose, {"params": params, "value": value, "step": step}, best)


def out_of_patience(best: dict, step: int, patience: int, eval_every: int) -> np.ndarray:
    """Whether the run, or each trial [trials], has ended by the evaluation of a step or one before; for patience 0 never."""
    return step - gather_to_host(best["step"]) >= patience * eval_every if patience else np.False_


def update_best(state: dict, value: Any, step: int, patience: int, eval_every: int) -> dict:
    """A state's "best" after the evaluation of a step that gave `value`, of trials [trials].

    A trial whose patience has ended waits for the others, and its best stays what it was alone.
    """
    ended = out_of_patience(state["best"], (step - 1) // eval_every * eval_every, patience, eval_every)
    value = np.where(ended, np.float32(-np.inf), np.float32(value))
    return {"best": best_so_far(state["best"], state["params"], value, np.full(np.shape(value), step, np.int32))}
