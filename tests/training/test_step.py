"""One step: the same parameters on any number of devices and at any microbatch size, compiled once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from roberta_jax.errors import UserError
from roberta_jax.model.encoder import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm, init_masked_lm
from roberta_jax.training.losses import masked_lm_loss
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import (
    abstract_state,
    accumulation,
    compile_train_step,
    init_state,
    make_train_step,
)

BATCH, LENGTH, SLOTS = 16, 32, 6
SMALL = RobertaConfig(vocab_size=300, num_layers=2, hidden_size=64, intermediate_size=128, num_heads=4, max_length=32)
STILL = replace(SMALL, dropout=0.0, attention_dropout=0.0)


def mesh_of(devices: int, fsdp: int = 1) -> Mesh:
    return make_mesh(fsdp, devices=jax.devices()[:devices])


def batch_of(seed: int) -> dict[str, np.ndarray]:
    """Rows with different numbers of predictions, so that a mean of means would be another number."""
    rng = np.random.default_rng(seed)
    positions = rng.permuted(np.tile(np.arange(LENGTH), (BATCH, 1)), axis=1)[:, :SLOTS]
    used = np.arange(SLOTS)[None] < rng.integers(0, SLOTS + 1, (BATCH, 1))
    return {
        "input_ids": rng.integers(5, 300, (BATCH, LENGTH)).astype(np.int32),
        "segment_ids": np.ones((BATCH, LENGTH), np.int32),
        "positions": positions.astype(np.int32),
        "labels": rng.integers(5, 300, (BATCH, SLOTS)).astype(np.int32),
        "weights": used.astype(np.float32),
    }


def run(config: RobertaConfig, devices: int, microbatches: int, fsdp: int = 1, steps: int = 3):
    mesh = mesh_of(devices, fsdp)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, warmup_steps=1, clip_norm=1.0), 10)
    init, key = (lambda key: init_masked_lm(key, config)), np.uint32(0)
    abstract = abstract_state(init, optimizer, mesh)
    state = init_state(init, optimizer, 0, abstract)
    step = make_train_step(masked_lm_loss(config), optimizer, microbatches, mesh)
    compiled = compile_train_step(step, abstract, jax.device_put(batch_of(0), batch_sharding(mesh)), key)
    history = []
    for number in range(steps):
        state, metrics = compiled(state, jax.device_put(batch_of(number), batch_sharding(mesh)), key)
        history.append(jax.device_get(metrics))
    return jax.device_get(state["params"]), history


def assert_same(one, other, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), one[0], other[0])
    for ours, theirs in zip(one[1], other[1], strict=True):
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5, abs=1e-6), name


@pytest.fixture(scope="module")
def reference():
    return run(STILL, devices=1, microbatches=1)


@pytest.mark.parametrize(
    ("devices", "microbatches", "fsdp"),
    [(1, 4, 1), (1, 16, 1), (2, 4, 1), (8, 1, 1), (8, 2, 1), (8, 1, 4), (8, 2, 2), (8, 1, 8)],
)
def test_devices_and_microbatches_change_nothing(reference, devices, microbatches, fsdp):
    assert_same(run(STILL, devices, microbatches, fsdp), reference)


def test_with_dropout_devices_and_microbatches_change_nothing_either(reference):
    dropped = run(SMALL, devices=1, microbatches=1)
    assert_same(run(SMALL, devices=8, microbatches=2), dropped)
    assert_same(run(SMALL, devices=2, microbatches=1), dropped)
    assert dropped[1][0]["loss"] != pytest.approx(reference[1][0]["loss"], rel=1e-3)


def test_the_loss_is_the_mean_over_all_predictions_of_the_global_batch(reference):
    params = jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(0), STILL)
    batch = batch_of(0)
    logits = jax.jit(apply_masked_lm, static_argnums=1)(
        params, STILL, batch["input_ids"], batch["segment_ids"], batch["positions"]
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array(batch["labels"]))
    expected = (losses * batch["weights"]).sum() / batch["weights"].sum()
    assert reference[1][0]["loss"] == pytest.approx(float(expected), rel=1e-5)
    hits = ((logits.argmax(-1) == batch["labels"]) * batch["weights"]).sum() / batch["weights"].sum()
    assert reference[1][0]["accuracy"] == pytest.approx(float(hits), abs=1e-6)


def test_the_first_update_of_a_warm_up_changes_nothing():
    params, _ = run(STILL, devices=1, microbatches=1, steps=1)
    start = jax.device_get(jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(0), STILL))
    jax.tree.map(np.testing.assert_array_equal, params, start)


def test_a_batch_without_a_single_prediction_is_no_nan():
    mesh, optimizer = mesh_of(1), make_optimizer(OptimizerConfig(warmup_steps=0), 10)
    init, key = (lambda key: init_masked_lm(key, STILL)), np.uint32(0)
    state = init_state(init, optimizer, 0, abstract_state(init, optimizer, mesh))
    empty = batch_of(0) | {"weights": np.zeros((BATCH, SLOTS), np.float32)}
    state, metrics = jax.jit(make_train_step(masked_lm_loss(STILL), optimizer, 1, mesh))(state, empty, key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state["params"], state["opt_state"], metrics)))


def test_accumulation_follows_from_the_batch_and_names_what_does_not_divide():
    assert accumulation(64, 0, mesh_of(8)) == 1
    assert accumulation(64, 2, mesh_of(8)) == 4
    with pytest.raises(UserError, match="batch_size is 12, which the 8 devices do not divide"):
        accumulation(12, 0, mesh_of(8))
    with pytest.raises(UserError, match="microbatch_size is 3, which does not divide a device's share of 8 rows"):
        accumulation(64, 3, mesh_of(8))
