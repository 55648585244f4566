"""Dropout by a hash: its share, its gradient, and that no two masks have to do with each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.model.dropout import dropout, fold, row_keys

SIZE = 1 << 16


def kept(keys: jax.Array, place: int = 0) -> np.ndarray:
    """[rows, SIZE] of 0 and 1"""
    return np.asarray(dropout(jnp.ones((len(keys), 256, SIZE // 256)), 0.1, keys, place) > 0).reshape(len(keys), SIZE)


def test_it_drops_its_share_and_keeps_the_mean():
    ones = jnp.ones((100, 100, 100))
    dropped = dropout(ones, 0.1, row_keys(0, 0, 100))
    assert float((dropped == 0).mean()) == pytest.approx(0.1, abs=1.5e-3)  # five deviations
    assert float(dropped.mean()) == pytest.approx(1.0, abs=2e-3)
    assert dropout(ones, 0.1, None) is ones and dropout(ones, 0.0, row_keys(0, 0, 100)) is ones


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_passes_where_the_value_did(dtype):
    x, keys = jnp.full((4, 50), 2.0, dtype), row_keys(1, 2, 4)
    value, pull_back = jax.vjp(lambda x: dropout(x, 0.3, keys), x)
    (gradient,) = pull_back(jnp.ones_like(value))
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_array_equal(np.asarray(gradient * 2, np.float32), np.asarray(value, np.float32))


def test_masks_of_other_rows_steps_seeds_layers_and_places_are_independent():
    keys = row_keys(7, 3, 6)
    masks = [
        *kept(keys),
        *kept(row_keys(8, 3, 2)),
        *kept(row_keys(7, 4, 2)),
        *kept(fold(keys, 1)[:2]),
        *kept(keys[:2], place=1),
    ]
    correlations = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(SIZE)


def test_neighbours_in_a_mask_are_independent():
    """At every distance, powers of two included, where a weak hash shows; and so in its transform."""
    (mask,) = kept(row_keys(0, 0, 1))
    spectrum = np.abs(np.fft.rfft((mask - mask.mean()) / mask.std()))[1:] ** 2 / SIZE  # exponential, of mean 1
    assert spectrum.max() < np.log(SIZE) + 7
    for distance in (1, 2, 3, 64, 256, 4096):
        assert abs(np.corrcoef(mask[:-distance], mask[distance:])[0, 1]) < 5 / np.sqrt(SIZE)


def test_a_row_has_its_mask_wherever_it_lies():
    keys = row_keys(0, 5, 8)
    np.testing.assert_array_equal(kept(keys)[3:5], kept(keys[3:5]))


def test_row_keys_differ():
    keys = np.concatenate([np.asarray(row_keys(seed, step, 8192)) for seed in range(3) for step in range(3)])
    assert len(np.unique(keys[:, 0].astype(np.uint64) << 32 | keys[:, 1])) == len(keys)
