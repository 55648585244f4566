"""Checkpoints: the newest and the best are kept, another model's are refused, damaged and half-written ones passed over."""

import os
import shutil
import subprocess

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


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate_the_largest(folder):
    path = largest(folder)
    os.truncate(path, path.stat().st_size // 2)


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def leave_half_written(folder):
    folder.rename(folder.with_name(folder.name + ".orbax-checkpoint-tmp"))


@pytest.mark.parametrize("damage", [flip_a_bit, truncate_the_largest, empty, shutil.rmtree, leave_half_written])
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(tmp_path, damage):
    def noise(step):
        return {"params": {"kernel": jax.random.normal(jax.random.key(step), (64, 64))}, "step": jnp.int32(step)}

    checkpoints = Checkpoints(tmp_path, newest=3, metric="")
    for step in (1, 2, 3):
        checkpoints.save(step, noise(step))
    checkpoints.close()
    damage(tmp_path / "3")
    checkpoints, told = Checkpoints(tmp_path, newest=3, metric=""), []
    step, state = checkpoints.restore_newest(abstract_of(noise(0)), lambda *what: told.append(what))
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, state, noise(2))
    if damage not in (shutil.rmtree, leave_half_written):  # of these nothing is to be seen
        ((step, sentence),) = told
        assert step == 3 and "3 is damaged (" in sentence and (tmp_path / "3.damaged").is_dir()
    checkpoints.save(3, noise(3))  # the step comes again
    checkpoints.close()
    assert Checkpoints(tmp_path, newest=3, metric="").latest_step() == 3


def test_where_no_checkpoint_is_whole_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path, newest=3, metric="")
    checkpoints.save(1, state_of(1))
    checkpoints.close()
    truncate_the_largest(tmp_path / "1")
    checkpoints = Checkpoints(tmp_path, newest=3, metric="")
    assert checkpoints.restore_newest(abstract_of(state_of(0)), lambda *what: None) == (0, None)


def test_a_full_disk_is_a_sentence_and_leaves_the_last_checkpoint_whole(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system of 3 MB cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        noise = lambda step: {"kernel": jax.random.normal(jax.random.key(step), (2**18,)), "step": jnp.int32(step)}  # noqa: E731
        checkpoints = Checkpoints(tmp_path / "checkpoints", newest=9, metric="")
        with pytest.raises(UserError, match=r"could not be written \(no space left on the disk\); step [23] is whole, and the"):
            for step in range(1, 9):
                checkpoints.save(step, noise(step))
        again = Checkpoints(tmp_path / "checkpoints", newest=9, metric="")
        step, state = again.restore_newest(abstract_of(noise(0)), lambda *what: pytest.fail(what))
        jax.tree.map(np.testing.assert_array_equal, state, noise(step))
        assert step in (2, 3)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
