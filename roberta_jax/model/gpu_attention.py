"""Attention by a kernel for NVIDIA's GPUs, in Pallas by way of Triton: flash attention with dropout within it.

Scores are computed a block at a time and never go through the device's memory; the backward pass keeps each query's
logsumexp of them. The kernel drops what `dropout` drops, as the mask is computed and not drawn.

Source: FlashAttention-2 (arXiv 2307.08691), whose names these are: ds is the gradient of the scores, dp that of the
probabilities, delta the sum of p · dp over a query's keys.

This file alone uses Pallas' Triton backend, deprecated since JAX 0.11. Once a JAX is without it, importing this fails, and
`attention.attend` takes XLA's attention. What would replace it is Pallas' Mosaic GPU backend, which knows Hopper and newer.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from roberta_jax.model.dropout import keep_mask
from roberta_jax.model.tracing import dropout_in_kernel, on_one_device

QUERIES, KEYS = 128, 64  # of a block of scores; in the backward pass both are 64, as more would not fit the registers


def fits(qkv: jax.Array, heads: int) -> bool:
    """Whether the kernel takes these: whole blocks, heads as Triton has them, and 2 bytes a value."""
    _, length, three = qkv.shape
    return length % KEYS == 0 and three // 3 // heads in (16, 32, 64, 128) and qkv.dtype.itemsize == 2


def gpu_attention(
    qkv: jax.Array,
    heads: int,
    segment_ids: jax.Array,
    rate: float = 0.0,
    keys: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attend` by a kernel for GPUs, whose backward pass computes the probabilities again.

    Args:
      interpret: run it by XLA, on any device.
    """
    rate, keys = dropout_in_kernel(rate, keys, len(qkv))
    batch, length, three = qkv.shape
    split = qkv.reshape(batch, length, 3, heads, three // 3 // heads)
    return _attention(split, segment_ids, keys, rate, interpret).reshape(batch, length, three // 3)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(qkv, segments, keys, rate, interpret):
    return _attention_forward(qkv, segments, keys, rate, interpret)[0]


def _attention_forward(qkv, segments, keys, rate, interpret):
    batch, length, _, heads, size = qkv.shape
    queries = math.gcd(length, QUERIES)
    out, logsumexp = _call(
        partial(_forward, rate=rate),
        (qkv, qkv, qkv, segments, keys),
        [
            pl.BlockSpec((None, queries, None, None, size), lambda at, head, row: (row, at, 0, head, 0)),
            _whole(length, size, 1),
            _whole(length, size, 2),
            *_of_rows(length),
        ],
        [
            jax.ShapeDtypeStruct((batch, length, heads, size), qkv.dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ],
        [
            pl.BlockSpec((None, queries, None, size), lambda at, head, row: (row, at, head, 0)),
            pl.BlockSpec((None, None, queries), lambda at, head, row: (row, head, at)),
        ],
        (length // queries, heads, batch),
        interpret,
    )
    return out, (qkv, segments, keys, out, logsumexp)


def _attention_backward(rate, interpret, residuals, gradient):
    qkv, segments, keys, out, logsumexp = residuals
    batch, length, _, heads, size = qkv.shape
    # The same as the sum of p · dp over a query's keys, with dropout's part in it. [B, H, L]
    delta = jnp.einsum("blhd,blhd->bhl", gradient, out, preferred_element_type=jnp.float32)
    a_row = pl.BlockSpec((None, None, length), lambda at, head, row: (row, head, 0))
    (dqkv,) = _call(
        partial(_backward, rate=rate),
        (qkv, qkv, qkv, segments, keys, logsumexp, delta, gradient),
        [
            *(_whole(length, size, which) for which in range(3)),
            *_of_rows(length),
            a_row,
            a_row,
            pl.BlockSpec((None, length, None, size), lambda at, head, row: (row, 0, head, 0)),
        ],
        [jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)],
        [pl.BlockSpec((None, KEYS, 3, None, size), lambda at, head, row: (row, at, 0, head, 0))],
        (length // KEYS, heads, batch),
        interpret,
    )
    return dqkv, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _whole(length: int, size: int, which: int) -> pl.BlockSpec:
    """All of a head's queries (0), keys (1) or values (2), of which the kernel loads what it wants."""
    return pl.BlockSpec((None, length, None, None, size), lambda at, head, row: (row, 0, which, head, 0))


def _of_rows(length: int) -> list[pl.BlockSpec]:
    """A row's segments and keys."""
    return [pl.BlockSpec((None, size), lambda at, head, row: (row, 0)) for size in (length, 2)]


def _call(kernel, inputs, in_specs, out_shape, out_specs, grid, interpret: bool) -> list[jax.Array]:
    qkv, *_ = inputs
    call = pl.pallas_call(
        kernel,
        out_shape=out_shape,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        compiler_params=plgpu.CompilerParams(num_warps=4 if qkv.shape[-1] <= 64 else 8, num_stages=2),
        interpret=interpret,
    )
    return on_one_device(call)(*inputs)


def _scores(query, key, own, others):
    """float32 [Q, K]"""
    scores = plgpu.dot(query, key, trans_b=True) * query.shape[-1] ** -0.5
    return jnp.where(own[:, None] == others[None, :], scores, -1e30)


def _forward(query_ref, key_ref, value_ref, segments_ref, keys_ref, out_ref, logsumexp_ref, *, rate: float):
    number, size = query_ref.shape
    length, start, head = key_ref.shape[0], pl.program_id(0) * number, pl.program_id(1)
    query, own = query_ref[...], segments_ref[pl.ds(start, number)]

    def block(at, before):
        out, row_max, row_sum = before
        these = pl.ds(at * KEYS, KEYS)
        scores = _scores(query, key_ref[these, :], own, segments_ref[these])
        new_max = jnp.maximum(row_max, scores.max(axis=1))
        exponents, rescale = jnp.exp(scores - new_max[:, None]), jnp.exp(row_max - new_max)
        row_sum = row_sum * rescale + exponents.sum(axis=1)
        if rate:
            keep = keep_mask(keys_ref[0], keys_ref[1], head, start, at * KEYS, scores.shape, length, rate)
            exponents = jnp.where(keep, exponents, 0)
        value = value_ref[these, :]
        return out * rescale[:, None] + plgpu.dot(exponents.astype(value.dtype), value), new_max, row_sum

    nothing = jnp.zeros((number, size), jnp.float32), jnp.full(number, -1e30, jnp.float32), jnp.zeros(number, jnp.float32)
    out, row_max, row_sum = jax.lax.fori_loop(0, length // KEYS, block, nothing)
    out_ref[...] = (out * (1 / (1 - rate) / row_sum)[:, None]).astype(out_ref.dtype)
    logsumexp_ref[...] = row_max + jnp.log(row_sum)


def _backward(
    query_ref, key_ref, value_ref, segments_ref, keys_ref, logsumexp_ref, delta_ref, gradient_ref, out_ref, *, rate: float
):
    length, size = query_ref.shape
    start, head, dtype = pl.program_id(0) * KEYS, pl.program_id(1), query_ref.dtype
    own, scale = pl.ds(start, KEYS), size**-0.5

    def block_gradients(queries, others, row, column):
        """(p after dropout, ds) of some queries and keys. [Q, K] each"""
        scores = _scores(query_ref[queries, :], key_ref[others, :], segments_ref[queries], segments_ref[others])
        probabilities = jnp.exp(scores - logsumexp_ref[queries][:, None])
        dropped, dp = probabilities, plgpu.dot(gradient_ref[queries, :], value_ref[others, :], trans_b=True)
        if rate:
            keep = keep_mask(keys_ref[0], keys_ref[1], head, row, column, scores.shape, length, rate)
            dropped, dp = (jnp.where(keep, x * (1 / (1 - rate)), 0) for x in (dropped, dp))
        ds = probabilities * (dp - delta_ref[queries][:, None])
        return dropped.astype(dtype), ds.astype(dtype)

    def add_to_dk_dv(at, before):
        dk, dv = before
        these = pl.ds(at * KEYS, KEYS)
        dropped, ds = block_gradients(these, own, at * KEYS, start)
        dv += plgpu.dot(dropped, gradient_ref[these, :], trans_a=True)
        return dk + plgpu.dot(ds, query_ref[these, :], trans_a=True), dv

    def add_to_dq(at, dq):
        these = pl.ds(at * KEYS, KEYS)
        _, ds = block_gradients(own, these, start, at * KEYS)
        return dq + plgpu.dot(ds, key_ref[these, :])

    nothing, blocks = jnp.zeros((KEYS, size), jnp.float32), length // KEYS
    dk, dv = jax.lax.fori_loop(0, blocks, add_to_dk_dv, (nothing, nothing))
    out_ref[:, 1, :], out_ref[:, 2, :] = (dk * scale).astype(dtype), dv.astype(dtype)
    out_ref[:, 0, :] = (jax.lax.fori_loop(0, blocks, add_to_dq, nothing) * scale).astype(dtype)
