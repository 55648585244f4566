"""The masked-LM head: exact parameter counts, and only the masked slots."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.dropout import row_keys
from roberta_jax.model.flops import forward_flops
from roberta_jax.model.heads import apply_encoder, apply_masked_lm, apply_with_next_sentence, init_masked_lm

LARGE = RobertaConfig(num_layers=24, hidden_size=1024, intermediate_size=4096, num_heads=16)
SMALL = RobertaConfig(vocab_size=300, num_layers=2, hidden_size=64, intermediate_size=128, num_heads=4, max_length=32)

init, apply = (jax.jit(function, static_argnums=1) for function in (init_masked_lm, apply_masked_lm))


@pytest.mark.parametrize(("config", "count"), [(RobertaConfig(), 124_697_433), (LARGE, 355_412_057)])
def test_parameter_counts_are_the_published_ones(config, count):
    shapes = jax.eval_shape(lambda key: init_masked_lm(key, config), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_the_head_at_a_slot_is_the_head_at_that_position():
    params = init(jax.random.key(0), SMALL)
    ids = jax.random.randint(jax.random.key(1), (3, 32), 5, 300)
    everywhere = apply(params, SMALL, ids, jnp.ones_like(ids), jnp.tile(jnp.arange(32), (3, 1)))
    slots = jnp.array([[3, 30, 7], [0, 0, 31], [5, 6, 1]])
    some = apply(params, SMALL, ids, jnp.ones_like(ids), slots)
    np.testing.assert_allclose(some, jnp.take_along_axis(everywhere, slots[..., None], axis=1), atol=1e-5)
    assert some.dtype == jnp.float32


PAIRS = replace(SMALL, num_token_types=2)


def test_the_next_sentence_head_is_bert_s_and_the_rest_is_as_without_it():
    params = jax.jit(init_masked_lm, static_argnums=(1, 2))(jax.random.key(0), PAIRS, True)
    alone, head = init(jax.random.key(0), PAIRS), params["next_sentence"]
    jax.tree.map(np.testing.assert_array_equal, alone, {name: params[name] for name in alone})
    assert sum(x.size for x in jax.tree.leaves(head)) == 64 * 64 + 64 + 2 * 64 + 2
    head = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(3), x.shape), head)
    params["next_sentence"] = jax.device_get(head)
    ids, slots = jax.random.randint(jax.random.key(1), (3, 32), 5, 300), jnp.array([[3, 30, 7]] * 3)
    types, segments = (jnp.arange(32)[None] > jnp.array([[9], [20], [31]])).astype(jnp.int32), jnp.ones_like(ids)
    logits, found = jax.jit(apply_with_next_sentence, static_argnums=1)(params, PAIRS, ids, segments, slots, types)
    hidden = jax.jit(apply_encoder, static_argnums=1)(params, PAIRS, ids, segments, types)
    dense, out = params["next_sentence"]["dense"], params["next_sentence"]["out"]
    pooled = np.tanh(np.asarray(hidden[:, 0]) @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(found, pooled @ out["kernel"] + out["bias"], atol=1e-5)
    assert found.dtype == jnp.float32 and float(jnp.abs(found[:, 0] - found[:, 1]).max()) > 1e-3
    assert float(jnp.abs(logits - apply(params, PAIRS, ids, segments, slots)).max()) > 1e-3  # B's tokens are of another type


def test_the_next_sentence_head_leaves_the_others_dropout_as_it_is():
    params = jax.jit(init_masked_lm, static_argnums=(1, 2))(jax.random.key(0), PAIRS, True)
    ids, slots, keys = jax.random.randint(jax.random.key(1), (3, 32), 5, 300), jnp.array([[3, 30, 7]] * 3), row_keys(0, 1, 3)
    segments = jnp.ones_like(ids)
    found, _ = jax.jit(apply_with_next_sentence, static_argnums=1)(params, PAIRS, ids, segments, slots, 0 * ids, keys)
    np.testing.assert_allclose(found, apply(params, PAIRS, ids, segments, slots, keys), atol=1e-5)


def test_initial_weights_are_normal_with_deviation_two_hundredths_and_biases_zero():
    params = init(jax.random.key(0), RobertaConfig(num_layers=2))
    table, kernel = params["encoder"]["embeddings"]["word"]["embedding"], params["encoder"]["layers"]["up"]["kernel"]
    for weights in (table, kernel):
        assert float(weights.std()) == pytest.approx(0.02, rel=0.01)
    assert not params["encoder"]["layers"]["up"]["bias"].any() and not params["lm_head"]["bias"].any()
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.01  # layers differ


def test_flops_are_the_compilers_but_for_what_is_no_product():
    config = RobertaConfig(vocab_size=1000, num_layers=1, hidden_size=256, intermediate_size=1024, num_heads=4)
    shapes = jax.eval_shape(lambda key: init_masked_lm(key, config), jax.random.key(0))
    ids, slots = jax.ShapeDtypeStruct((4, 128), jnp.int32), jax.ShapeDtypeStruct((4, 21), jnp.int32)
    compiled = jax.jit(apply_masked_lm, static_argnums=1).lower(shapes, config, ids, ids, slots).compile()
    counted = forward_flops(config, rows=4, length=128, slots=21)
    assert counted < compiled.cost_analysis()["flops"] < 1.1 * counted
