"""The encoder: exact sizes, positions, segments, padding, recomputation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.errors import UserError
from roberta_jax.model.config import POSITION_INITS, RobertaConfig
from roberta_jax.model.dropout import row_keys
from roberta_jax.model.encoder import Encoder, position_ids

SMALL = RobertaConfig(
    vocab_size=300, num_layers=3, hidden_size=64, intermediate_size=128, num_heads=4, max_length=32, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip


encode = jax.jit(lambda config, *args: Encoder(config).apply(*args), static_argnums=0)


@pytest.fixture(scope="module")
def params():
    one = jnp.zeros((1, 1), jnp.int32)
    return jax.jit(Encoder(SMALL).init)(jax.random.key(0), one, one)


@pytest.fixture
def ids():
    return jax.random.randint(jax.random.key(1), (4, 32), 5, 300)


def test_positions_start_behind_the_padding_id_in_each_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [0, 0, 1, 1, 1, 1, 1]])
    ids = np.full_like(segments, 7)
    assert position_ids(ids, segments, 1).tolist() == [[2, 3, 4, 2, 3, 1, 1], [1, 1, 2, 3, 4, 5, 6]]
    ids[:, 1], ids[:, 3] = 1, 1  # <pad> within a text, as in transformers
    assert position_ids(ids, segments, 1).tolist() == [[2, 1, 3, 1, 2, 1, 1], [1, 1, 2, 1, 3, 4, 5]]


def test_layers_are_stacked(params):
    assert params["params"]["layers"]["qkv"]["kernel"].shape == (3, 64, 3, 4, 16)


@pytest.mark.parametrize("width", [64, 66])
def test_sinusoids_say_how_far_apart_positions_are_wherever_they_are(width):
    """And nothing but the positions' table begins otherwise."""
    one = jnp.zeros((1, 1), jnp.int32)
    config = replace(SMALL, hidden_size=width, num_heads=2, initializer_range=0.05)
    normal, waves = (
        jax.jit(Encoder(replace(config, position_init=init)).init)(jax.random.key(0), one, one) for init in POSITION_INITS
    )
    differing = jax.tree.map(lambda a, b: not np.array_equal(a, b), normal, waves)["params"]
    assert differing["embeddings"].pop("position") == {"embedding": True} and not any(jax.tree.leaves(differing))
    table = np.asarray(waves["params"]["embeddings"]["position"]["embedding"])
    assert table.shape == (34, width) and table.dtype == np.float32
    products = table @ table.T / width
    for apart in range(34):  # the same for all that are so far apart, and less than with themselves
        np.testing.assert_allclose(np.diag(products, apart), products[0, apart], atol=1e-6)
    assert (products[0, 1:] < 0.97 * products[0, 0]).all()
    np.testing.assert_allclose(products[0, 0], (3 * 0.05) ** 2, rtol=1e-5)
    np.testing.assert_allclose(
        table[:, :2], 3 * 0.05 * np.sqrt(2) * np.array([[np.sin(i), np.cos(i)] for i in range(34)]), atol=1e-6
    )


def test_padding_changes_nothing(params, ids):
    alone = encode(SMALL, params, ids[:, :20], jnp.ones((4, 20), jnp.int32))
    padded = ids.at[:, 20:].set(1)
    segments = jnp.ones((4, 32), jnp.int32).at[:, 20:].set(0)
    np.testing.assert_allclose(encode(SMALL, params, padded, segments)[:, :20], alone, atol=2e-6)


def test_segments_of_a_row_do_not_see_each_other(params, ids):
    """Two texts in one row give what each gives alone."""
    segments = jnp.array([[1] * 12 + [2] * 20] * 4)
    together = encode(SMALL, params, ids, segments)
    for part, size in ((slice(0, 12), 12), (slice(12, 32), 20)):
        alone = encode(SMALL, params, ids[:, part], jnp.ones((4, size), jnp.int32))
        np.testing.assert_allclose(together[:, part], alone, atol=2e-6)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputation_changes_no_gradient(params, ids, remat):
    def gradients(config):
        def total(params):
            hidden = Encoder(config).apply(params, ids, jnp.ones_like(ids), keys=row_keys(3, 0, len(ids)))
            return (hidden**2 * jnp.arange(64)).mean()

        return jax.jit(jax.grad(total))(params)

    config = replace(SMALL, dropout=0.1, attention_dropout=0.1)
    plain, again = gradients(config), gradients(replace(config, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)


def test_bfloat16_arithmetic_keeps_float32_parameters(params, ids):
    config = replace(SMALL, dtype="bfloat16")
    hidden = encode(config, params, ids, jnp.ones_like(ids))
    exact = encode(SMALL, params, ids, jnp.ones_like(ids))
    assert hidden.dtype == jnp.bfloat16
    assert float(jnp.abs(hidden.astype(jnp.float32) - exact).max()) < 0.1
    shapes = jax.eval_shape(Encoder(config).init, jax.random.key(0), ids, ids)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("wrong", [{"num_heads": 5}, {"remat": "some"}, {"dtype": "float16"}, {"attention": "flash"}])
def test_a_shape_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=f"model.{next(iter(wrong))}"):
        replace(SMALL, **wrong)
