"""Attention by a kernel for TPUs, in Pallas: scores and probabilities stay in VMEM, where XLA's go through HBM.

A row's whole attention lies in VMEM, so nothing is computed by parts as in flash attention, and nothing but queries, keys
and values is kept for the backward pass. The kernel drops what `dropout` drops, as the mask is computed and not drawn.

p is the probabilities, dp their gradient, ds that of the scores, do that of the output. B, L, D and H are rows, positions,
width and heads; `size` is D/H, a head's width. A program of the grid (row, block of heads) has the heads that fill a vector.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from roberta_jax.model.dropout import keep_mask
from roberta_jax.model.tracing import dropout_in_kernel, on_one_device

LANES = 128  # of a TPU's vector; a kernel takes as many heads at once as fill them
BLOCK_Q = 256  # queries whose scores are there at once, where so many go into a row


def fits(qkv: jax.Array, heads: int) -> bool:
    """Whether the kernel takes these [B, L, 3·D]: whole vectors, and little enough for VMEM, of which a v4 gives it 16 MiB."""
    _, length, three = qkv.shape
    width = three // 3
    whole = length % LANES == 0 and width % LANES == 0 and LANES % (width // heads) == 0
    return whole and length <= 512 and length * three * qkv.dtype.itemsize <= 4 * 2**20


def tpu_attention(
    qkv: jax.Array,
    heads: int,
    segment_ids: jax.Array,
    rate: float = 0.0,
    keys: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attention.attend` by a kernel for TPUs, whose backward pass computes the probabilities again.

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
    size = qkv.shape[-1] // 3 // heads
    return _attention(qkv, segment_ids[:, None], dropout_keys[:, None], size, rate, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attention(qkv, segments, dropout_keys, size, rate, interpret):
    """[B, L, 3·D], int32 [B, 1, L], uint32 [B, 1, 2] → [B, L, D]"""
    return _call(_forward_kernel, (qkv, segments, dropout_keys), qkv.shape[-1] // 3, size, rate, interpret)


def _attention_forward(qkv, segments, dropout_keys, size, rate, interpret):
    return _attention(qkv, segments, dropout_keys, size, rate, interpret), (qkv, segments, dropout_keys)


def _attention_backward(size, rate, interpret, residuals, do):
    qkv, *_ = residuals
    return _call(_backward_kernel, (*residuals, do), qkv.shape[-1], size, rate, interpret), None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _call(kernel, inputs, width: int, size: int, rate: float, interpret: bool) -> jax.Array:
    """Runs a kernel for each row and each block of heads. → [B, L, width]

    Args:
      inputs: qkv [B, L, 3·D], segments int32 [B, 1, L], dropout's keys uint32 [B, 1, 2]; do [B, L, D] in the backward pass.
      width: D of an output, 3·D of the gradients of q, k and v.
    """
    qkv, *_ = inputs
    batch, length, three = qkv.shape
    blocks = three // 3 // LANES
    of_heads = partial(pl.BlockSpec, (None, length, LANES))
    in_specs = [of_heads(lambda row, block, which=which: (row, 0, which * blocks + block)) for which in range(3)]  # q, k, v
    in_specs += [
        pl.BlockSpec((None, 1, length), lambda row, block: (row, 0, 0)),
        pl.BlockSpec((None, 1, 2), lambda row, block: (row, 0, 0), memory_space=pltpu.SMEM),
    ]
    in_specs += [of_heads(lambda row, block: (row, 0, block)) for _ in inputs[3:]]
    is_backward = width == three
    cost = pl.CostEstimate(
        flops=(5 if is_backward else 2) * 2 * batch * length**2 * three // 3,
        transcendentals=batch * length**2 * (three // 3 // size),
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in inputs) + batch * length * width * qkv.dtype.itemsize,
    )
    # All of a row's gradient stays in VMEM while its blocks are computed, as they lie apart in it.
    out_spec = pl.BlockSpec((None, length, three), lambda row, block: (row, 0, 0)) if is_backward else in_specs[0]
    call = pl.pallas_call(
        partial(kernel, size=size, rate=rate),
        out_shape=jax.ShapeDtypeStruct((batch, length, width), qkv.dtype),
        grid=(batch, blocks),
        in_specs=in_specs,
        out_specs=out_spec,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=interpret,
    )
    return on_one_device(call)(qkv, qkv, *inputs)


def _forward_kernel(q_ref, k_ref, v_ref, segments_ref, dropout_keys_ref, out_ref, *, size: int, rate: float):
    """What a row's queries attend to, in a block of heads.

    Args:
      q_ref, k_ref, v_ref: [L, LANES], heads of `size` side by side.
      segments_ref: int32 [1, L], of the row.
      dropout_keys_ref: uint32 [1, 2], of the row.
      out_ref: [L, LANES], to be written.
    """
    length, first_head = q_ref.shape[0], pl.program_id(1) * (LANES // size)
    block_q = math.gcd(length, BLOCK_Q)
    segments, row_key = segments_ref[...], (dropout_keys_ref[0, 0], dropout_keys_ref[0, 1])
    for number in range(LANES // size):
        head = slice(number * size, (number + 1) * size)
        k, v = k_ref[:, head], v_ref[:, head]
        for start in range(0, length, block_q):
            queries = slice(start, start + block_q)
            q = q_ref[queries, head] * size**-0.5
            exponents, scale = _exponents(q, k, segments, queries)
            if rate:
                keep = keep_mask(*row_key, first_head + number, start, 0, exponents.shape, length, rate)
                exponents, scale = jnp.where(keep, exponents, 0), scale * (1 / (1 - rate))
            out = _dot(exponents.astype(v.dtype), v, 1, 0) * scale
            out_ref[queries, head] = out.astype(out_ref.dtype)


def _backward_kernel(q_ref, k_ref, v_ref, segments_ref, dropout_keys_ref, do_ref, dqkv_ref, *, size: int, rate: float):
    """The gradients of a row's queries, keys and values, in a block of heads.

    Args:
      q_ref, k_ref, v_ref, do_ref: [L, LANES], heads of `size` side by side.
      segments_ref: int32 [1, L], of the row.
      dropout_keys_ref: uint32 [1, 2], of the row.
      dqkv_ref: [L, 3·D], all of the row's, of which the columns of these heads are to be written.
    """
    length, block = q_ref.shape[0], pl.program_id(1)
    first_head, block_q = block * (LANES // size), math.gcd(length, BLOCK_Q)
    segments, row_key = segments_ref[...], (dropout_keys_ref[0, 0], dropout_keys_ref[0, 1])
    dtype, width = q_ref.dtype, dqkv_ref.shape[1] // 3
    gradients = []  # of each head, dq, dk and dv [L, size]
    for number in range(LANES // size):
        head = slice(number * size, (number + 1) * size)
        k, v = k_ref[:, head], v_ref[:, head]
        dq, dk, dv = [], 0.0, 0.0
        for start in range(0, length, block_q):
            queries = slice(start, start + block_q)
            q, do = q_ref[queries, head] * size**-0.5, do_ref[queries, head]
            exponents, scale = _exponents(q, k, segments, queries)
            p = exponents * scale  # [Q, L]
            dropped, dp = p, _dot(do, v, 1, 1)
            if rate:
                keep = keep_mask(*row_key, first_head + number, start, 0, exponents.shape, length, rate)
                dropped, dp = (jnp.where(keep, x * (1 / (1 - rate)), 0) for x in (dropped, dp))
            dv += _dot(dropped.astype(dtype), do, 0, 0)  # [L, size]
            ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
            ds = ds.astype(dtype)
            dq.append(_dot(ds, k, 1, 0) * size**-0.5)  # [Q, size]
            dk += _dot(ds, q, 0, 0)
        gradients.append([x.astype(dtype) for x in (jnp.concatenate(dq), dk, dv)])
    for which, of_heads in enumerate(zip(*gradients)):
        start = pl.multiple_of(which * width + block * LANES, LANES)
        dqkv_ref[:, pl.ds(start, LANES)] = jnp.concatenate(of_heads, axis=1)


def _exponents(q, k, segments, queries):
    """(exp(score - greatest) float32 [Q, L], 1 / its sum [Q, 1]) of some queries and all keys.

    Args:
      q: [Q, size], times the scores' scale.
      k: [L, size].
      segments: int32 [1, L].
      queries: which positions the queries have.
    """
    scores = _dot(q, k, 1, 1)
    own = jnp.transpose(segments[:, queries])  # [Q, 1]
    scores = jnp.where(own == segments, scores, -1e30)
    exponents = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents, 1 / exponents.sum(axis=-1, keepdims=True)


def _dot(left, right, left_axis: int, right_axis: int) -> jax.Array:
    """The product over these axes, summed in float32."""
    contracted = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, contracted, preferred_element_type=jnp.float32)
