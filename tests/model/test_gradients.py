"""Gradients in bfloat16 are those of float32 but for its rounding: no sum over many tokens is made in bfloat16."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.model import embedding
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import (
    apply_with_head,
    apply_with_next_sentence,
    init_masked_lm,
    init_with_head,
)

LENGTH, SLOTS, VOCABULARY, MASK = 128, 20, 600, 599
STILL = RobertaConfig(VOCABULARY, 2, 64, 128, 4, max_length=LENGTH, num_token_types=2, dropout=0.0, attention_dropout=0.0)
BOUND = 0.01  # of a parameter's whole gradient, by norm; one bfloat16 is off by 0.2% at most


def batch_of(rows: int) -> dict[str, np.ndarray]:
    """Tokens by Zipf's law, some 12% of them and more than 1,000 `<mask>`, in rows of two segments."""
    numbers = np.random.default_rng(0)
    ids = np.minimum(numbers.zipf(1.3, (rows, LENGTH)) + 4, MASK - 1)
    positions = np.sort(numbers.permuted(np.tile(np.arange(1, LENGTH), (rows, 1)), axis=1)[:, :SLOTS], axis=1)
    np.put_along_axis(ids, positions[:, : round(0.8 * SLOTS)], MASK, axis=1)
    assert (ids == MASK).mean() == pytest.approx(0.12, abs=0.01) and (ids == MASK).sum() > 1_000
    segments = np.where(np.arange(LENGTH) < LENGTH // 2, 1, 2) * np.ones((rows, 1))
    arrays = {"input_ids": ids, "segment_ids": segments, "positions": positions, "token_type_ids": segments - 1}
    return {name: array.astype(np.int32) for name, array in arrays.items()}


def away_from_the_beginning(params: dict) -> dict:
    """Where biases are not all 0, nor scales all 1."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten([x + 0.02 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)])


def gradients(params: dict, logits_of, dtype: str) -> dict:
    """Of a loss over all logits, whose gradients are about as large as those of cross-entropy."""
    config = replace(STILL, dtype=dtype)

    def loss(params):
        found = jax.tree.leaves(logits_of(params, config))
        numbers = np.random.default_rng(1)
        return sum((x * numbers.random(x.shape, np.float32)).mean() + jnp.square(x).mean() for x in found)

    return jax.device_get(jax.jit(jax.grad(loss))(params))


def assert_near(found: dict, exact: dict) -> None:
    for (path, one), (_, other) in zip(*(jax.tree_util.tree_leaves_with_path(x) for x in (found, exact)), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert one.dtype == np.float32
        off = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert off < BOUND, f"{name} is off by {off:.2%}"
    words = [x["encoder"]["embeddings"]["word"]["embedding"][MASK] for x in (found, exact)]
    off = np.linalg.norm(words[0] - words[1]) / np.linalg.norm(words[1])
    assert off < BOUND, f"the row of <mask> is off by {off:.2%}"


@pytest.mark.parametrize("on_gpu", [False, True])
def test_of_the_masked_lm_and_the_next_sentence(on_gpu, monkeypatch):
    monkeypatch.setattr(embedding, "on_gpu", lambda: on_gpu)
    batch = batch_of(rows=128)
    params = away_from_the_beginning(
        jax.jit(partial(init_masked_lm, next_sentence=True), static_argnums=1)(jax.random.key(0), STILL)
    )

    def logits_of(params, config):
        return apply_with_next_sentence(params, config, *batch.values())

    assert_near(gradients(params, logits_of, "bfloat16"), gradients(params, logits_of, "float32"))


@pytest.mark.parametrize("head", ["classification", "multiple_choice", "span", "token_classification"])
def test_of_the_heads(head):
    """Of classification with several examples in a row: each takes a place of its own."""
    batch, shape = batch_of(rows=64), replace(STILL, num_layers=1)
    more = {"starts": batch["positions"][:, :4]} if head == "classification" else {}
    params = away_from_the_beginning(init_with_head(jax.random.key(0), shape, head, 1 if head == "multiple_choice" else 2))
    inputs = [batch[name] for name in ("input_ids", "segment_ids", "token_type_ids")]
    if head == "multiple_choice":
        inputs = [x.reshape(-1, 4, LENGTH) for x in inputs]

    def logits_of(params, config):
        return apply_with_head(params, replace(config, num_layers=1), *inputs, **more)

    assert_near(gradients(params, logits_of, "bfloat16"), gradients(params, logits_of, "float32"))
