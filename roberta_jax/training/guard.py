"""What keeps a run from harm: updates that are not made, and spikes of the loss that are gone back from.

All is judged on the device from what the state holds, so that a run that is killed and resumed judges the same.
"""

import jax
import jax.numpy as jnp

from roberta_jax.training.config import GuardConfig

WINDOW = 128  # sound steps that a new one is compared with; until there are as many, only NaN and infinity are noticed


DEFAULT = GuardConfig()


def new_guard() -> dict[str, jax.Array]:
    nothing = jnp.full(WINDOW, jnp.nan)
    return {"losses": nothing, "norms": nothing, "in_a_row": jnp.zeros((), jnp.int32)}


def judge(guard: dict, config: GuardConfig, loss: jax.Array, norm: jax.Array) -> tuple[dict, jax.Array, dict]:
    """(the guard after this step, whether to make the update, what there is to say about the step)."""
    middle = jnp.median(guard["losses"])  # NaN while the window is not full, which no comparison passes
    deviation = 1.4826 * jnp.median(jnp.abs(guard["losses"] - middle)) + 1e-3 * jnp.abs(middle)
    score, ratio = (loss - middle) / deviation, norm / jnp.median(guard["norms"])
    made = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.skip_above:
        made &= ~(ratio > config.skip_above)
    sound = made & ~(score > config.spike_above) if config.spike_above else made

    def remember(window: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where(sound, jnp.append(window[1:], value), window)

    in_a_row = jnp.where(sound, 0, guard["in_a_row"] + 1)
    after = {"losses": remember(guard["losses"], loss), "norms": remember(guard["norms"], norm), "in_a_row": in_a_row}
    said = {"made": made, "in_a_row": in_a_row, "loss_score": score, "norm_ratio": ratio}
    return after, made, {name: jnp.nan_to_num(value) for name, value in said.items()}


def gave_up(guard: GuardConfig, first: int, in_a_row: int, rewinds: int, kept: int | None) -> str:
    """What is said where a run has gone back often enough; `kept` is its newest planned checkpoint."""
    before = "There is no checkpoint before them." if kept is None else f"The checkpoint before them, step {kept:,}, is kept."
    return (
        f"{in_a_row} steps in a row, from step {first:,} on, were unsound, and the run had gone back {rewinds} times "
        f"(config.guard.rewinds is {guard.rewinds}); incidents.jsonl tells of each. Try a lower optimizer.learning_rate or a "
        "longer warm-up; guard.spike_above=0 and guard.skip_above=0 turn the guard off, but for NaN and infinity. " + before
    )
