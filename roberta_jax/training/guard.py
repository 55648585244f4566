"""What keeps a run from harm: harmful updates are skipped, and after a spike of the loss the run goes back.

Both are decided on the device from what the state holds, so that a run that is killed and resumed decides the same.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from roberta_jax.config import option
from roberta_jax.errors import UserError, check

WINDOW = 128  # sound steps that a new one is compared with; until there are so many, only NaN and infinity are noticed


@dataclass(frozen=True)
class GuardConfig:
    """Fields of `config.guard`. A deviation is 1.4826 times the median distance from the median: a normal law's sigma."""

    skip_above: float = option(10.0, "a gradient norm so many times the median of the last 128 is not applied; 0: only NaN")
    spike_above: float = option(10.0, "a loss so many deviations above the median of the last 128 is a spike; 0: none")
    spike_steps: int = option(5, "of a spike or not applied, in a row: back to the last good checkpoint, past their batches")
    rewinds: int = option(3, "in a row, without a checkpoint between, that end the run; 0: it never goes back")

    def __post_init__(self):
        for name in ("skip_above", "spike_above", "rewinds"):
            check(getattr(self, name) >= 0, f"guard.{name}", getattr(self, name), "0, which turns it off, or more")
        check(self.spike_steps > 0, "guard.spike_steps", self.spike_steps, "1 or more")


DEFAULT = GuardConfig()
# Of a step's metrics those that incidents tell and no line of the log. The guard's too is "made": whether it was not skipped.
GUARD_METRICS = ("in_a_row", "loss_score", "norm_ratio")


def new_guard() -> dict[str, jax.Array]:
    """The guard's state at the start of a run, see `update_guard`."""
    nothing = jnp.full(WINDOW, jnp.nan)
    return {"losses": nothing, "norms": nothing, "in_a_row": jnp.zeros((), jnp.int32)}


def update_guard(guard: dict, config: GuardConfig, loss: jax.Array, norm: jax.Array) -> tuple[dict, jax.Array, dict]:
    """(the guard's state after a step, whether to accept its update, the guard's metrics of it).

    Args:
      guard: "losses" and "norms" of the last sound steps, float32 [WINDOW] each, and "in_a_row", unsound steps up to here.
      loss, norm: of the step and of its gradient, float32 [].
    """
    middle = jnp.median(guard["losses"])  # NaN while the window is not full, which no comparison passes
    deviation = 1.4826 * jnp.median(jnp.abs(guard["losses"] - middle)) + 1e-3 * jnp.abs(middle)
    score, ratio = (loss - middle) / deviation, norm / jnp.median(guard["norms"])
    accepted = jnp.isfinite(loss) & jnp.isfinite(norm)
    if config.skip_above:
        accepted &= ~(ratio > config.skip_above)
    sound = accepted & ~(score > config.spike_above) if config.spike_above else accepted

    def remember(window: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where(sound, jnp.append(window[1:], value), window)

    in_a_row = jnp.where(sound, 0, guard["in_a_row"] + 1)
    after = {"losses": remember(guard["losses"], loss), "norms": remember(guard["norms"], norm), "in_a_row": in_a_row}
    metrics = {"made": accepted, "in_a_row": in_a_row, "loss_score": score, "norm_ratio": ratio}
    return after, accepted, {name: jnp.nan_to_num(value) for name, value in metrics.items()}


class GaveUp(UserError):
    """A run has gone back often enough: it does not learn as it is."""


def gave_up(guard: GuardConfig, first: int, in_a_row: int, rewinds: int, newest_planned: int | None) -> GaveUp:
    """The error of such a run."""
    before = "There is no checkpoint before them."
    if newest_planned is not None:
        before = f"The checkpoint before them, step {newest_planned:,}, is kept."
    off = "guard.spike_above=0 and guard.skip_above=0 turn the guard off, but for NaN and infinity. "
    return GaveUp(
        f"{in_a_row} steps in a row, from step {first:,} on, were unsound, and the run had gone back {rewinds} times "
        f"(config.guard.rewinds is {guard.rewinds}); incidents.jsonl tells of each. Try a lower optimizer.learning_rate or a "
        "longer warm-up. " + (off if guard.spike_above or guard.skip_above else "") + before
    )


def must_rewind(config: GuardConfig, in_a_row: int, accepted: bool) -> bool:
    """Whether to go back after so many unsound steps in a row, the last one's update accepted or not.

    Where `rewinds` is 0 a run lives with spikes, but ends where all updates are skipped.
    """
    return in_a_row >= config.spike_steps and bool(config.rewinds or not accepted)


def describe_unsound(values: dict[str, np.ndarray]) -> tuple[str, str, dict[str, float]]:
    """(kind, sentence, figures) of the incident that an unsound step is, by its metrics; of several trials by the worst."""
    figures = {name: np.max(values[name]).item() for name in ("loss", "gradient_norm", "parameter_norm", *GUARD_METRICS)}
    what = (
        f"loss {figures['loss']:.4g}, {figures['loss_score']:.3g} deviations above its median, "
        f"gradient norm {figures['gradient_norm']:.3g}, {figures['norm_ratio']:.3g} times its median"
    )
    if np.all(values["made"]):
        return "spike", what, figures
    return "skipped", f"the update was not made: {what}", figures
