"""Dropout whose masks are computed, not drawn: a hash of (seed, step, row of the batch, layer, place).

So they are the same on any number of devices and at any microbatch size, each device makes those of its own rows, and the
backward pass computes them again and stores none. The hash is a 32-bit finaliser (two rounds of multiply and xor-shift),
a tenth of threefry's work, and melts into the products around it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: spreads small numbers over the word


def threshold(rate: float) -> np.uint32:
    """The least hash with which a value is not dropped."""
    return np.uint32(round(rate * 2**32))


def hashed(x: jax.Array, between: jax.Array | int = 0) -> jax.Array:
    """A hash of each number, two rounds of multiply and xor-shift; `between` is added between them. uint32 → uint32"""
    x = (x ^ (x >> 16)) * np.uint32(0x21F0AAAD)
    x = ((x ^ (x >> 15)) + jnp.asarray(between, jnp.uint32)) * np.uint32(0x735A2D97)
    return x ^ (x >> 15)


def fold(keys: jax.Array, number: jax.Array | int) -> jax.Array:
    """Other keys for each number; where `number` has axes, they broadcast with the keys'. uint32 [..., 2] → [..., 2]"""
    first = hashed(keys[..., 0] + jnp.asarray(number).astype(jnp.uint32) * GOLDEN)
    return jnp.stack([first, hashed(keys[..., 1] ^ first)], axis=-1)


def row_keys(seed: jax.Array | int, step: jax.Array | int, rows: int) -> jax.Array:
    """A key for each row of the global batch. uint32 [rows, 2]"""
    start = jnp.stack([jnp.asarray(seed).astype(jnp.uint32), GOLDEN])
    return fold(fold(start, step), jnp.arange(rows))


def dropout(x: jax.Array, rate: float, keys: jax.Array | None, place: int = 0) -> jax.Array:
    """Zeroes a share of the values and scales the rest. Without keys it does nothing.

    Args:
      x: [B, …]
      keys: uint32 [B, 2].
      place: a number of its own for each dropout of a layer.
    """
    return x if keys is None or rate == 0 else _drop(x, rate, fold(keys, place))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: jax.Array, rate: float, keys: jax.Array) -> jax.Array:
    each, index = (-1, *(1,) * (x.ndim - 1)), jnp.zeros((1, *x.shape[1:]), jnp.uint32)
    for axis in range(1, x.ndim):
        index = index * np.uint32(x.shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, index.shape, axis)
    bits = hashed(index + keys[:, 0].reshape(each), keys[:, 1].reshape(each))
    return jnp.where(bits >= threshold(rate), x * jnp.asarray(1 / (1 - rate), x.dtype), 0)


_drop.defvjp(
    lambda x, rate, keys: (_drop(x, rate, keys), keys), lambda rate, keys, gradient: (_drop(gradient, rate, keys), None)
)


def keep_mask(first, second, head, row, column, shape: tuple[int, int], length: int, rate: float) -> jax.Array:
    """Which of attention's probabilities [H, L, L] `dropout` keeps, a block of them, in a kernel. bool `shape`

    Args:
      first, second: the row's key, uint32.
      head, row, column: where the block begins, int32.
      length: L.
    """
    rows = (head * length + row + jax.lax.broadcasted_iota(jnp.int32, shape, 0)).astype(jnp.uint32)
    columns = (column + jax.lax.broadcasted_iota(jnp.int32, shape, 1)).astype(jnp.uint32)
    return hashed(rows * np.uint32(length) + columns + first, second) >= threshold(rate)
