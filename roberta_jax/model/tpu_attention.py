"""Attention by a kernel for TPUs, in Pallas: scores and probabilities stay in VMEM, where XLA's go through HBM.

A row's whole attention lies in VMEM, so nothing is computed by parts as in flash attention, and nothing but queries, keys
and values is kept for the backward pass. The kernel drops what `dropout` drops, as the mask is computed and not drawn. In
the backward pass ds is the gradient of the scores, dp that of the probabilities.
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
QUERIES = 256  # whose scores are there at once, where so many go into a row


def fits(qkv: jax.Array, heads: int) -> bool:
    """Whether the kernel takes these: whole vectors, and little enough for VMEM, of which a v4 gives it 16 MiB."""
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
    """`attend` by a kernel for TPUs, whose backward pass computes the probabilities again.

    Args:
      interpret: run it by XLA, on any device.
    """
    rate, keys = dropout_in_kernel(rate, keys, len(qkv))
    size = qkv.shape[-1] // 3 // heads
    return _attention_kernel(qkv, segment_ids[:, None], keys[:, None], size, rate, interpret)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attention_kernel(qkv, segments, keys, size, rate, interpret):
    return _call(_forward, (qkv, segments, keys), qkv.shape[-1] // 3, size, rate, interpret)


def _call(kernel, inputs, width: int, size: int, rate: float, interpret: bool) -> jax.Array:
    """Runs a kernel for each row and each few heads that fill the lanes. → [B, L, width]

    Args:
      inputs: qkv [B, L, 3·D], segments int32 [B, 1, L], keys uint32 [B, 1, 2] and, for the backward pass, a gradient [B, L, D].
    """
    qkv, *_ = inputs
    batch, length, three = qkv.shape
    blocks = three // 3 // LANES
    a_block = partial(pl.BlockSpec, (None, length, LANES))
    in_specs = [a_block(lambda row, block, at=at: (row, 0, at * blocks + block)) for at in range(3)]
    in_specs += [
        pl.BlockSpec((None, 1, length), lambda row, block: (row, 0, 0)),
        pl.BlockSpec((None, 1, 2), lambda row, block: (row, 0, 0), memory_space=pltpu.SMEM),
    ]
    in_specs += [a_block(lambda row, block: (row, 0, block)) for _ in inputs[3:]]
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


def _exponents(query, key, segments, queries):
    """exp(score - greatest) and 1 / its sum, of some queries and all keys. float32 [Q, L], [Q, 1]"""
    scores = _dot(query, key, 1, 1)
    own = jnp.transpose(segments[:, queries])  # [Q, 1]
    scores = jnp.where(own == segments, scores, -1e30)
    exponents = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents, 1 / exponents.sum(axis=-1, keepdims=True)


def _dot(left, right, left_axis: int, right_axis: int) -> jax.Array:
    contracted = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, contracted, preferred_element_type=jnp.float32)


def _forward(query_ref, key_ref, value_ref, segments_ref, keys_ref, out_ref, *, size: int, rate: float):
    length, block = query_ref.shape[0], pl.program_id(1)
    some = math.gcd(length, QUERIES)
    segments, row_key = segments_ref[...], (keys_ref[0, 0], keys_ref[0, 1])
    for number in range(LANES // size):
        head = slice(number * size, (number + 1) * size)
        key, value = key_ref[:, head], value_ref[:, head]
        for start in range(0, length, some):
            queries = slice(start, start + some)
            query = query_ref[queries, head] * size**-0.5
            exponents, scale = _exponents(query, key, segments, queries)
            if rate:
                keep = keep_mask(*row_key, block * (LANES // size) + number, start, 0, exponents.shape, length, rate)
                exponents, scale = jnp.where(keep, exponents, 0), scale * (1 / (1 - rate))
            out = _dot(exponents.astype(value.dtype), value, 1, 0) * scale
            out_ref[queries, head] = out.astype(out_ref.dtype)


def _backward(query_ref, key_ref, value_ref, segments_ref, keys_ref, gradient_ref, out_ref, *, size: int, rate: float):
    length, block = query_ref.shape[0], pl.program_id(1)
    some = math.gcd(length, QUERIES)
    segments, row_key = segments_ref[...], (keys_ref[0, 0], keys_ref[0, 1])
    dtype, width = query_ref.dtype, out_ref.shape[1] // 3
    dqkv = [[], [], []]
    for number in range(LANES // size):
        head = slice(number * size, (number + 1) * size)
        key, value = key_ref[:, head], value_ref[:, head]
        dq, dk, dv = [], 0.0, 0.0
        for start in range(0, length, some):
            queries = slice(start, start + some)
            query, gradient = query_ref[queries, head] * size**-0.5, gradient_ref[queries, head]
            exponents, scale = _exponents(query, key, segments, queries)
            probabilities = exponents * scale
            dropped, dp = probabilities, _dot(gradient, value, 1, 1)  # [Q, L]
            if rate:
                keep = keep_mask(*row_key, block * (LANES // size) + number, start, 0, exponents.shape, length, rate)
                dropped, dp = (jnp.where(keep, x * (1 / (1 - rate)), 0) for x in (dropped, dp))
            dv += _dot(dropped.astype(dtype), gradient, 0, 0)  # [L, D/H]
            ds = probabilities * (dp - (probabilities * dp).sum(axis=-1, keepdims=True))
            ds = ds.astype(dtype)
            dq.append(_dot(ds, key, 1, 0) * size**-0.5)
            dk += _dot(ds, query, 0, 0)
        for into, x in zip(dqkv, (jnp.concatenate(dq), dk, dv)):
            into.append(x.astype(dtype))
    for at, parts in enumerate(dqkv):
        start = pl.multiple_of(at * width + block * LANES, LANES)
        out_ref[:, pl.ds(start, LANES)] = jnp.concatenate(parts, axis=1)


def _kernel_forward(qkv, segments, keys, size, rate, interpret):
    return _attention_kernel(qkv, segments, keys, size, rate, interpret), (qkv, segments, keys)


def _kernel_backward(size, rate, interpret, inputs, gradient):
    return _call(_backward, (*inputs, gradient), inputs[0].shape[-1], size, rate, interpret), None, None


_attention_kernel.defvjp(_kernel_forward, _kernel_backward)
