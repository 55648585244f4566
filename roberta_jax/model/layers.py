"""Dense layers and GELU in the form that XLA makes the best of: the same values as Flax's, and gradients without detours."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from roberta_jax.model.tracing import on_tpu


class Dense(nn.Module):
    """[…, D] → […, product of `features`], as one product of two matrices.

    Of an input of more axes a CPU makes a transposed copy to compute the kernel's gradient, which takes as long as the product.
    """

    features: tuple[int, ...]  # the kernel's axes after the first
    kernel_init: Callable
    dtype: str

    @nn.compact
    def __call__(self, x, activation: Callable = lambda x: x):
        """The product of `activation(x)`: the backward pass computes that again, and the kernel in this form and type."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], *self.features))
        bias = self.param("bias", nn.initializers.zeros, self.features)

        def product(x, kernel):
            return activation(x).astype(self.dtype) @ kernel.astype(self.dtype).reshape(x.shape[-1], -1)

        # A TPU fuses what follows into the product of rows as they are; of flat rows it writes both to memory.
        flat = x if on_tpu() else x.reshape(-1, x.shape[-1])
        y = add_bias(jax.checkpoint(product, prevent_cse=False)(flat, kernel), bias.reshape(-1))
        return y.reshape(*x.shape[:-1], -1)


class LayerNorm(nn.Module):
    """Over the last axis, […, D] → […, D]. Statistics are in float32 in any arithmetic, the variance by a second pass."""

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _normalized(x, scale, bias, self.epsilon).astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalized(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """[…, D], [D], [D] → float32 […, D]. The backward pass keeps x alone, beside a mean and a deviation of each row."""
    return _normalized_forward(x, scale, bias, epsilon)[0]


def _normalized_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + epsilon)
    return (wide - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _normalized_backward(epsilon, residuals, gradient):
    x, mean, inverse, scale = residuals
    normal, scaled = (x.astype(jnp.float32) - mean) * inverse, gradient * scale
    dx = inverse * (scaled - scaled.mean(-1, keepdims=True) - normal * (scaled * normal).mean(-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (gradient * normal).sum(rows), gradient.sum(rows)


_normalized.defvjp(_normalized_forward, _normalized_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x · Φ(x), exactly. Its derivative is written down: that of JAX's own, by erfc, takes three times as long on a CPU."""
    wide = x.astype(jnp.float32)
    return (wide * _cdf(wide)).astype(x.dtype)


def _cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x / math.sqrt(2)))


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    derivative = _cdf(wide) + wide * jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return ((gradient * derivative).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """[…, V] + [V], in the type of x. The gradient of the bias is summed in float32."""
    return x + bias.astype(x.dtype)


def _add_bias_backward(_, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, gradient.sum(tuple(range(gradient.ndim - 1)), dtype=jnp.float32)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_bias_backward)


@jax.custom_vjp
def add_wide_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """The same of [N, V]. The gradient is a product with ones: a CPU sums so wide columns 50 times as slowly."""
    return add_bias(x, bias)


def _add_wide_bias_backward(_, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    if on_tpu():
        return _add_bias_backward(_, gradient)
    ones = jnp.ones(len(gradient), gradient.dtype)
    return gradient, jnp.matmul(ones, gradient, precision="highest", preferred_element_type=jnp.float32)


add_wide_bias.defvjp(lambda x, bias: (add_bias(x, bias), None), _add_wide_bias_backward)
