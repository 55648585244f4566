"""Pretraining's losses: packed rows give what their inputs give one by one; of pairs two means, each over its own number."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm, apply_with_next_sentence, init_masked_lm
from roberta_jax.preparation.packing import FORMATS
from roberta_jax.pretraining.losses import add_pair_weights, masked_lm_loss, means_of_pairs, valid_loss
from roberta_jax.training.evaluate import evaluate, make_eval_step
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import abstract_state, init_state, make_train_step

BOS, PAD, EOS, MASK, LENGTH = 0, 1, 2, 299, 64
SMALL = RobertaConfig(300, 1, 32, 64, 2, LENGTH, dropout=0.0, attention_dropout=0.0, initializer_range=0.2)
PAIRS = replace(SMALL, num_token_types=2)


# Several inputs in a row


def inputs_and_rows() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same inputs one a row, and packed."""
    chooser = np.random.default_rng(0)
    lengths = chooser.integers(1, 20, (12, 4))
    documents = [[chooser.integers(10, 290, n) for n in document] for document in lengths]
    rows = list(FORMATS["doc-sentences-packed"](documents, LENGTH, BOS, EOS))
    inputs = [part for row in rows for part in np.split(row, np.flatnonzero(row == BOS)[1:])]
    assert len(inputs) > 2 * len(rows) and all(part[0] == BOS and part[-1] == EOS for part in inputs)
    return inputs, rows


def batch_of(rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Every third token of each input is predicted; the slots follow from the row."""
    ids = np.stack([np.pad(row, (0, LENGTH - len(row)), constant_values=PAD) for row in rows]).astype(np.int32)
    segments = np.where(ids == PAD, 0, np.cumsum(ids == BOS, axis=1)).astype(np.int32)
    place = np.arange(LENGTH) - np.maximum.accumulate(np.where(ids == BOS, np.arange(LENGTH), 0), axis=1)
    masked = (place % 3 == 1) & (ids > EOS)
    slots = [np.flatnonzero(row) for row in masked]
    positions = np.stack([np.pad(row, (0, LENGTH // 2 - len(row))) for row in slots]).astype(np.int32)
    weights = np.stack([np.arange(LENGTH // 2) < len(row) for row in slots]).astype(np.float32)
    return {
        "input_ids": np.where(masked, MASK, ids).astype(np.int32),
        "segment_ids": segments,
        "positions": positions,
        "labels": np.take_along_axis(ids, positions, 1),
        "weights": weights,
    }


def test_packed_rows_give_the_losses_and_the_gradient_of_their_inputs_one_a_row():
    config, (inputs, rows) = replace(SMALL, num_layers=2), inputs_and_rows()
    params = jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(0), config)

    def losses_and_gradient(batch):
        def summed(params):
            logits = apply_masked_lm(params, config, batch["input_ids"], batch["segment_ids"], batch["positions"])
            return masked_lm_loss(config)(params, batch, None)["loss"], logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(summed, has_aux=True))(params)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(batch["labels"]))
        return np.asarray(losses)[batch["weights"] > 0], gradient

    (apart, of_apart), (packed, of_packed) = map(losses_and_gradient, map(batch_of, (inputs, rows)))
    assert len(apart) == len(packed) > 150 and apart.std() > 0.1
    np.testing.assert_allclose(packed, apart, atol=1e-5)
    for one, other in zip(jax.tree.leaves(of_packed), jax.tree.leaves(of_apart)):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, float(jnp.abs(other).max())))


# Pairs


def pairs_of(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs with different numbers of predictions, so that a mean of means would be another number."""
    chooser, slots = np.random.default_rng(seed), 6
    positions = chooser.permuted(np.tile(np.arange(LENGTH), (rows, 1)), axis=1)[:, :slots]
    used = np.arange(slots)[None] < chooser.integers(0, slots + 1, (rows, 1))
    return {
        "input_ids": chooser.integers(5, 299, (rows, LENGTH)).astype(np.int32),
        "segment_ids": np.ones((rows, LENGTH), np.int32),
        "token_type_ids": (np.arange(LENGTH)[None] > chooser.integers(10, 50, (rows, 1))).astype(np.int32),
        "positions": positions.astype(np.int32),
        "labels": chooser.integers(5, 299, (rows, slots)).astype(np.int32),
        "weights": used.astype(np.float32),
        "is_next": chooser.integers(0, 2, rows).astype(np.int32),
    }


@pytest.fixture(scope="module")
def params() -> dict:
    return jax.device_get(jax.jit(init_masked_lm, static_argnums=(1, 2))(jax.random.key(0), PAIRS, True))


def means_of(params, batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the loss, all means), by optax and over all rows at once."""
    inputs = [batch[name] for name in ("input_ids", "segment_ids", "positions", "token_type_ids")]
    logits, of_next = apply_with_next_sentence(params, PAIRS, *inputs)
    mlm = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    mlm = (mlm * batch["weights"]).sum() / batch["weights"].sum()
    nsp = optax.softmax_cross_entropy_with_integer_labels(of_next, batch["is_next"]).mean()
    hits = (of_next.argmax(-1) == batch["is_next"]).mean()
    return mlm + nsp, {"loss": mlm + nsp, "mlm_loss": mlm, "nsp_loss": nsp, "nsp_accuracy": hits}


@pytest.fixture(scope="module")
def expected(params) -> dict[str, jax.Array]:
    gradient, means = jax.jit(jax.grad(means_of, has_aux=True))(params, pairs_of(16))
    return means | {"gradient_norm": optax.tree.norm(gradient)}


@pytest.mark.parametrize(("devices", "microbatches", "fsdp"), [(2, 4, 1), (8, 2, 2)])
def test_the_loss_of_pairs_is_the_sum_of_two_means_over_the_global_batch(expected, devices, microbatches, fsdp):
    batch, mesh = pairs_of(16), make_mesh(fsdp, devices=jax.devices()[:devices])
    optimizer, init = make_optimizer(OptimizerConfig(warmup_steps=1), 10), lambda key: init_masked_lm(key, PAIRS, True)
    state = init_state(init, optimizer, 0, abstract_state(init, optimizer, mesh))
    (placed,) = add_pair_weights(iter([jax.device_put(batch, batch_sharding(mesh))]), batch_sharding(mesh))
    assert placed["pair_weights"].sharding == batch_sharding(mesh)
    _, metrics = jax.jit(make_train_step(masked_lm_loss(PAIRS), optimizer, microbatches, mesh))(state, placed, np.uint32(0))
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4), name


@pytest.mark.parametrize("size", [4, 7])
def test_an_evaluation_of_pairs_counts_each_pair_once_and_no_padding(params, size):
    whole = pairs_of(13)

    def batches():
        for start in range(0, 13, size):
            indices = np.arange(start, start + size)
            there = indices < 13
            part = {name: array[np.minimum(indices, 12)] for name, array in whole.items()}
            part["weights"] = np.where(there[:, None], part["weights"], 0)
            yield part | {"is_next": np.where(there, part["is_next"], -1).astype(np.int32)}

    means = means_of_pairs(evaluate(make_eval_step(valid_loss(masked_lm_loss(PAIRS))), params, batches()))
    assert means.keys() == {"loss", "accuracy", "mlm_loss", "nsp_loss", "nsp_accuracy"}
    for name, value in jax.jit(means_of)(params, whole)[1].items():
        assert means[name] == pytest.approx(float(value), rel=1e-5), name
