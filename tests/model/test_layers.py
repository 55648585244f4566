"""The layers' own backward passes, against what JAX derives from Flax's modules and from the formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.model.layers import Dense, LayerNorm, add_bias, add_wide_bias, gelu


def normal(seed: int, *shape: int, dtype: str = "float32") -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def compare(ours, theirs, *inputs, tolerance: float = 2e-6) -> None:
    """Values, and the gradients of all inputs."""
    sides = []
    for function in (ours, theirs):
        value, pull_back = jax.vjp(function, *inputs)
        sides.append((value, pull_back(normal(9, *value.shape, dtype=value.dtype))))
    for found, expected in zip(*map(jax.tree.leaves, sides)):
        assert found.dtype == expected.dtype
        found, expected = (np.asarray(x, np.float32) for x in (found, expected))
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_layer_norm_is_flax_s(dtype, tolerance):
    x = 3 * normal(0, 4, 6, 48, dtype=dtype) + 1
    params = {"params": {"scale": 1 + normal(1, 48), "bias": normal(2, 48)}}
    theirs = nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False)
    compare(LayerNorm(1e-5, dtype).apply, theirs.apply, params, x, tolerance=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_dense_is_flax_s_behind_an_activation(dtype, tolerance):
    x = normal(0, 4, 6, 16, dtype=dtype)
    params = {"params": {"kernel": normal(1, 16, 3, 2, 4), "bias": normal(2, 3, 2, 4)}}
    theirs = nn.DenseGeneral((3, 2, 4), dtype=dtype)
    ours = Dense((3, 2, 4), nn.initializers.normal(), dtype)

    def expected(params, x):
        return theirs.apply(params, jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(dtype)).reshape(4, 6, -1)

    compare(lambda params, x: ours.apply(params, x, gelu), expected, params, x, tolerance=tolerance)


def test_dense_keeps_the_input_of_the_activation_and_the_kernel_as_it_is():
    """In a scan all that a layer keeps is stacked, so neither GELU's values nor another form of the kernel is kept."""
    ours, x = Dense((3, 4), nn.initializers.normal(), "bfloat16"), normal(0, 5, 16, dtype="bfloat16")
    params = ours.init(jax.random.key(0), x)
    _, pull_back = jax.vjp(lambda params, x: ours.apply(params, x, gelu), params, x)
    kept = {(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(pull_back) if leaf.size > 12}
    assert kept == {((5, 16), "bfloat16"), ((16, 3, 4), "float32")}


@pytest.mark.parametrize("function, shape", [(add_bias, (3, 56, 503)), (add_wide_bias, (168, 503))])
def test_a_bias_has_the_gradient_of_a_sum(function, shape):
    compare(function, lambda x, bias: x + bias, normal(0, *shape), normal(1, 503))


def test_gelu_is_jax_s():
    compare(gelu, lambda x: jax.nn.gelu(x, approximate=False), 4 * normal(0, 1_000), tolerance=1e-6)
