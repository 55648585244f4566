"""Attention by a kernel for NVIDIA's GPUs, in Pallas by way of Triton: flash attention with dropout within it.

Scores are computed a block at a time and never go through the device's memory; the backward pass keeps each query's
logsumexp of them. The kernel drops what `dropout` drops, as the mask is computed and not drawn.

Source: FlashAttention-2 (arXiv 2307.08691), whose names these are: p is the probabilities, dp their gradient, ds that of the
scores, do that of the output, and delta the sum of p · dp over a query's keys. B, L, D and H are rows, positions, width and
heads; `size` is D/H, a head's width. The grids' axes are (block of positions, head, row).

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

# Queries and keys of a block of scores. In the backward pass BLOCK_K of both, as more would not fit the registers.
BLOCK_Q, BLOCK_K = 128, 64


def fits(qkv: jax.Array, heads: int) -> bool:
    """Whether the kernel takes these [B, L, 3·D]: whole blocks, heads as Triton has them, and 2 bytes a value."""
    _, length, three = qkv.shape
    return length % BLOCK_K == 0 and three // 3 // heads in (16, 32, 64, 128) and qkv.dtype.itemsize == 2


def gpu_attention(
    qkv: jax.Array,
    heads: int,
    segment_ids: jax.Array,
    rate: float = 0.0,
    keys: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attend` by a kernel for GPUs, whose backward pass computes the probabilities again.

    Args:
      qkv: [B, L, 3·D], queries, keys and values, and of each the heads, side by side; such as `fits`.
      segment_ids: int32 [B, L].
      rate: of dropout on the probabilities [B, H, L, L].
      keys: of that dropout, uint32 [B, 2]; without them there is none.
      interpret: run it by XLA, on any device.

    Returns:
      [B, L, D]
    """
    rate, dropout_keys = dropout_in_kernel(rate, keys, len(qkv))
    batch, length, three = qkv.shape
    split = qkv.reshape(batch, length, 3, heads, three // 3 // heads)
    return _attention(split, segment_ids, dropout_keys, rate, interpret).reshape(batch, length, three // 3)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(qkv, segments, dropout_keys, rate, interpret):
    """[B, L, 3, H, size], int32 [B, L], uint32 [B, 2] → [B, L, H, size]"""
    return _attention_forward(qkv, segments, dropout_keys, rate, interpret)[0]


def _attention_forward(qkv, segments, dropout_keys, rate, interpret):
    batch, length, _, heads, size = qkv.shape
    block_q = math.gcd(length, BLOCK_Q)
    out, logsumexp = _call(
        partial(_forward_kernel, rate=rate),
        (qkv, qkv, qkv, segments, dropout_keys),
        [
            pl.BlockSpec((None, block_q, None, None, size), lambda block, head, row: (row, block, 0, head, 0)),  # q
            _whole(length, size, 1),  # k
            _whole(length, size, 2),  # v
            *_of_rows(length),  # segments, dropout's keys
        ],
        [
            jax.ShapeDtypeStruct((batch, length, heads, size), qkv.dtype),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
        ],
        [
            pl.BlockSpec((None, block_q, None, size), lambda block, head, row: (row, block, head, 0)),
            pl.BlockSpec((None, None, block_q), lambda block, head, row: (row, head, block)),
        ],
        (length // block_q, heads, batch),
        interpret,
    )
    return out, (qkv, segments, dropout_keys, out, logsumexp)


def _attention_backward(rate, interpret, residuals, do):
    qkv, segments, dropout_keys, out, logsumexp = residuals
    batch, length, _, heads, size = qkv.shape
    # The sum of do · out over a head is that of p · dp over a query's keys, with dropout's part in it. [B, H, L]
    delta = jnp.einsum("blhd,blhd->bhl", do, out, preferred_element_type=jnp.float32)
    of_queries = pl.BlockSpec((None, None, length), lambda block, head, row: (row, head, 0))
    (dqkv,) = _call(
        partial(_backward_kernel, rate=rate),
        (qkv, qkv, qkv, segments, dropout_keys, logsumexp, delta, do),
        [
            *(_whole(length, size, which) for which in range(3)),  # q, k, v
            *_of_rows(length),  # segments, dropout's keys
            of_queries,  # logsumexp
            of_queries,  # delta
            pl.BlockSpec((None, length, None, size), lambda block, head, row: (row, 0, head, 0)),  # do
        ],
        [jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)],
        [pl.BlockSpec((None, BLOCK_K, 3, None, size), lambda block, head, row: (row, block, 0, head, 0))],
        (length // BLOCK_K, heads, batch),
        interpret,
    )
    return dqkv, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _whole(length: int, size: int, which: int) -> pl.BlockSpec:
    """All of a head's queries (0), keys (1) or values (2), of which the kernel loads what it wants."""
    return pl.BlockSpec((None, length, None, None, size), lambda block, head, row: (row, 0, which, head, 0))


def _of_rows(length: int) -> list[pl.BlockSpec]:
    """A row's segments [L] and its keys of dropout [2]."""
    return [pl.BlockSpec((None, size), lambda block, head, row: (row, 0)) for size in (length, 2)]


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


def _forward_kernel(q_ref, k_ref, v_ref, segments_ref, dropout_keys_ref, out_ref, logsumexp_ref, *, rate: float):
    """What a block of queries attends to, in a loop over blocks of keys: Algorithm 1 of FlashAttention-2.

    Args:
      q_ref: [Q, size], the block's queries.
      k_ref, v_ref: [L, size], all of the head's.
      segments_ref: int32 [L], of the row.
      dropout_keys_ref: uint32 [2], of the row.
      out_ref: [Q, size], to be written.
      logsumexp_ref: float32 [Q], to be written.
    """
    block_q, size = q_ref.shape
    length, start, head = k_ref.shape[0], pl.program_id(0) * block_q, pl.program_id(1)
    q, q_segments = q_ref[...], segments_ref[pl.ds(start, block_q)]

    def add_block(block, before):
        out, row_max, row_sum = before
        keys = pl.ds(block * BLOCK_K, BLOCK_K)
        scores = _scores(q, k_ref[keys, :], q_segments, segments_ref[keys])
        new_max = jnp.maximum(row_max, scores.max(axis=1))
        exponents, rescale = jnp.exp(scores - new_max[:, None]), jnp.exp(row_max - new_max)
        row_sum = row_sum * rescale + exponents.sum(axis=1)  # before dropout, which is on the probabilities
        if rate:
            keep = keep_mask(dropout_keys_ref[0], dropout_keys_ref[1], head, start, block * BLOCK_K, scores.shape, length, rate)
            exponents = jnp.where(keep, exponents, 0)
        v = v_ref[keys, :]
        return out * rescale[:, None] + plgpu.dot(exponents.astype(v.dtype), v), new_max, row_sum

    nothing = jnp.zeros((block_q, size), jnp.float32), jnp.full(block_q, -1e30, jnp.float32), jnp.zeros(block_q, jnp.float32)
    out, row_max, row_sum = jax.lax.fori_loop(0, length // BLOCK_K, add_block, nothing)
    out_ref[...] = (out * (1 / (1 - rate) / row_sum)[:, None]).astype(out_ref.dtype)
    logsumexp_ref[...] = row_max + jnp.log(row_sum)


def _backward_kernel(
    q_ref, k_ref, v_ref, segments_ref, dropout_keys_ref, logsumexp_ref, delta_ref, do_ref, dqkv_ref, *, rate: float
):
    """The gradients of a block's keys and values, in a loop over blocks of queries; then of its queries, over blocks of keys.

    Algorithm 2 of FlashAttention-2 adds to dq in the first loop, by atomics. By a loop of its own dq is the same on every run.

    Args:
      q_ref, k_ref, v_ref: [L, size], all of the head's.
      segments_ref: int32 [L], of the row.
      dropout_keys_ref: uint32 [2], of the row.
      logsumexp_ref, delta_ref: float32 [L], of the head's queries.
      do_ref: [L, size].
      dqkv_ref: [BLOCK_K, 3, size], to be written.
    """
    length, size = q_ref.shape
    start, head, dtype = pl.program_id(0) * BLOCK_K, pl.program_id(1), q_ref.dtype
    scale = size**-0.5

    def block_gradients(q_start, k_start):
        """(p after dropout, ds) [Q, K] of the block of scores that begins at this query and this key."""
        queries, keys = pl.ds(q_start, BLOCK_K), pl.ds(k_start, BLOCK_K)
        scores = _scores(q_ref[queries, :], k_ref[keys, :], segments_ref[queries], segments_ref[keys])
        p = jnp.exp(scores - logsumexp_ref[queries][:, None])
        dropped, dp = p, plgpu.dot(do_ref[queries, :], v_ref[keys, :], trans_b=True)
        if rate:
            keep = keep_mask(dropout_keys_ref[0], dropout_keys_ref[1], head, q_start, k_start, scores.shape, length, rate)
            dropped, dp = (jnp.where(keep, x * (1 / (1 - rate)), 0) for x in (dropped, dp))
        ds = p * (dp - delta_ref[queries][:, None])
        return dropped.astype(dtype), ds.astype(dtype)

    def add_to_dk_dv(block, before):
        dk, dv = before
        queries = pl.ds(block * BLOCK_K, BLOCK_K)
        dropped, ds = block_gradients(block * BLOCK_K, start)
        dv += plgpu.dot(dropped, do_ref[queries, :], trans_a=True)
        return dk + plgpu.dot(ds, q_ref[queries, :], trans_a=True), dv

    def add_to_dq(block, dq):
        keys = pl.ds(block * BLOCK_K, BLOCK_K)
        _, ds = block_gradients(start, block * BLOCK_K)
        return dq + plgpu.dot(ds, k_ref[keys, :])

    nothing, blocks = jnp.zeros((BLOCK_K, size), jnp.float32), length // BLOCK_K
    dk, dv = jax.lax.fori_loop(0, blocks, add_to_dk_dv, (nothing, nothing))
    dqkv_ref[:, 1, :], dqkv_ref[:, 2, :] = (dk * scale).astype(dtype), dv.astype(dtype)
    dqkv_ref[:, 0, :] = (jax.lax.fori_loop(0, blocks, add_to_dq, nothing) * scale).astype(dtype)


def _scores(q, k, q_segments, k_segments):
    """float32 [Q, K]. Those of other segments are finite: what a query sums over a block of these alone is rescaled by
    exp(-1e30 - max) = 0 when a key of its own segment comes, and itself is one.
    """
    scores = plgpu.dot(q, k, trans_b=True) * q.shape[-1] ** -0.5
    return jnp.where(q_segments[:, None] == k_segments[None, :], scores, -1e30)
