"""Checkpoints: the newest and the best are kept, another model's are refused, half-written ones are not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.errors import UserError
from roberta_jax.training.checkpoint import Checkpoints


def state_of(step: int) -> dict:
    return {"params": {"kernel": jnp.full((8, 4), step, jnp.float32)}, "step": jnp.int32(step)}


def abstract_of(state: dict):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)


def test_the_newest_and_the_best_are_kept_and_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=2, metric="valid/loss")
    for step, loss in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 2.5)):
        checkpoints.save(step, state_of(step), None if loss is None else {"valid/loss": loss})
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]
    again = Checkpoints(tmp_path / "checkpoints", newest=2, metric="valid/loss")
    assert again.latest_step() == 5
    for step in (2, 5):
        restored = again.restore(step, abstract_of(state_of(0)))
        jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))
    for step in (6, 7):
        again.save(step, state_of(step), {"valid/loss": 1.5})
    again.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 6, 7]  # 2 is the best still


def test_a_saved_state_does_not_see_what_becomes_of_the_donated_one(tmp_path):
    """The next step writes over the state while the checkpoint is still being written."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"params": {"kernel": jnp.zeros((2048, 2048))}}
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=9, metric="valid/loss")
    for number in range(1, 6):
        state = step(state)
        checkpoints.save(number, state)
    checkpoints._manager.wait_until_finished()
    for number in range(1, 6):
        restored = checkpoints.restore(number, abstract_of(state))
        assert (restored["params"]["kernel"] == number).all()
    checkpoints.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"params": {"kernel": jnp.zeros((9, 4))}, "step": jnp.int32(0)},
            r"params/kernel is \(8, 4\), this config's \(9, 4\)",
        ),
        (
            {"params": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}, "step": jnp.int32(0)},
            "params/bias is not there",
        ),
        ({"params": {}, "step": jnp.int32(0)}, "params/kernel is .* this config's not there"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, other, message):
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=1, metric="valid/loss")
    checkpoints.save(1, state_of(1))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=1, metric="valid/loss")
    with pytest.raises(UserError, match=f"checkpoint of another model: its {message}"):
        checkpoints.restore(1, abstract_of(other))
    checkpoints.close()
