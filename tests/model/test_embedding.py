"""Lookups and their gradients, against sums in float64, JAX's own gradients and from run to run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.model import embedding
from roberta_jax.model.embedding import BLOCK, embed_lookup, places, scattered_sum, sorted_sum

sums = {function: jax.jit(function, static_argnums=2) for function in (sorted_sum, scattered_sum)}


def drawn(kind: str, number: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and updates. A `<mask>` is 12% of the ids, Zipf's law that of words."""
    numbers = np.random.default_rng(number + rows)
    ids = {
        "any": numbers.integers(0, rows, number),
        "words": np.minimum(numbers.zipf(1.3, number) - 1, rows - 1),
        "masks": np.where(numbers.random(number) < 0.12, rows - 1, numbers.integers(0, rows, number)),
        "one": np.full(number, rows - 1),
    }[kind]
    return ids.astype(np.int32), numbers.standard_normal((number, 8), np.float32)


@pytest.mark.parametrize("kind", ["any", "words", "masks", "one"])
@pytest.mark.parametrize(
    ("number", "rows"), [(1, 1), (5, 3), (BLOCK, 4), (BLOCK + 1, 1), (1_000, 5_000), (10 * BLOCK, 2), (16_384, 600)]
)
def test_the_sorted_sum_is_the_sum(kind, number, rows):
    """In float32, and nearer to float64 than adding one after another."""
    ids, updates = drawn(kind, number, rows)
    exact = np.zeros((rows, 8))
    np.add.at(exact, ids, updates.astype(np.float64))
    off = {function: np.abs(compiled(ids, updates, rows) - exact).max() for function, compiled in sums.items()}
    count = np.bincount(ids).max()
    assert off[sorted_sum] <= 1e-6 * np.sqrt(count) * np.abs(updates).max()
    assert off[sorted_sum] <= 2 * off[scattered_sum] + 1e-6


def test_the_sorted_sum_has_the_same_bits_alone_twice_and_among_others():
    stacked = [np.stack(x) for x in zip(*(drawn(kind, 3_000, 50) for kind in ("any", "masks", "one")))]
    together = jax.jit(jax.vmap(lambda ids, updates: sorted_sum(ids, updates, 50)))
    found = together(*stacked)
    np.testing.assert_array_equal(found, together(*stacked))
    for one, *inputs in zip(found, *stacked):
        np.testing.assert_array_equal(one, sums[sorted_sum](*inputs, 50))


def test_the_sorted_sum_writes_each_row_once():
    """What is left for XLA is a scatter to places that it may take for different ones, and adds nothing."""
    jaxpr = jax.make_jaxpr(lambda ids, updates: sorted_sum(ids, updates, 50))(*drawn("any", 1_000, 50))
    scatters = [equation for equation in jaxpr.jaxpr.eqns if equation.primitive.name.startswith("scatter")]
    assert [(one.primitive.name, one.params["unique_indices"]) for one in scatters] == [("scatter", True)]


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("shape", [(), (1, 1), (3, 70), (2, 3, 5)])
def test_a_lookup_has_the_gradient_of_taking_rows(shape, on_gpu, monkeypatch):
    monkeypatch.setattr(embedding, "on_gpu", lambda: on_gpu)
    numbers = np.random.default_rng(0)
    table, ids = numbers.standard_normal((20, 8), np.float32), numbers.integers(0, 20, shape)
    values, pull_back = jax.vjp(lambda table: embed_lookup(table, ids), table)
    expected, expected_back = jax.vjp(lambda table: table[ids], table)
    np.testing.assert_array_equal(values, expected)
    cotangent = numbers.standard_normal(values.shape, np.float32)
    np.testing.assert_allclose(pull_back(cotangent)[0], expected_back(cotangent)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_places_have_the_gradient_of_taking_them_along_a_row(dtype):
    """A place that is taken twice too, as the first is by slots without a prediction."""
    numbers = np.random.default_rng(0)
    hidden, positions = jnp.asarray(numbers.standard_normal((3, 11, 8)), dtype), numbers.integers(0, 11, (3, 7))
    values, pull_back = jax.vjp(lambda hidden: places(hidden, positions), hidden)
    np.testing.assert_array_equal(values, np.take_along_axis(np.asarray(hidden), positions[..., None], 1))
    cotangent = jnp.asarray(numbers.standard_normal(values.shape), dtype)
    expected = np.zeros(hidden.shape)
    np.add.at(expected, (np.arange(3)[:, None], positions), np.asarray(cotangent, np.float64))
    (found,) = pull_back(cotangent)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=2e-6 if dtype == "float32" else 2**-8, atol=1e-6)
