"""This package's attention kernel beside XLA's attention and JAX's own kernels, on the accelerator that is there.

    python -m benchmarks.attentions [--rows 32] [--length 512] [--heads 12] [--dropout 0.1] [--json]

Values and gradients of the kernel and of XLA's attention on the same random bfloat16, each beside XLA's in float32 by the
largest difference, and the time of each, forward and backward, in turn. JAX's kernels (splash attention on a TPU, cuDNN's on
a GPU) have no dropout and take part without it. Expected: the kernel is at most twice as far from float32 as XLA's attention,
and faster. On a CPU the GPU's kernel is interpreted, which says nothing of its speed.
"""

import argparse
import functools
import json
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks import compare, comparison_lines, in_turn
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.model.attention import ATTENTIONS, kernel_for, xla_attention
from roberta_jax.model.dropout import row_keys
from roberta_jax.model.tracing import on_gpu, on_one_device
from roberta_jax.training.sharding import make_mesh


def splash(qkv: jax.Array, heads: int, segment_ids: jax.Array, rate: float = 0.0, keys: jax.Array | None = None) -> jax.Array:
    """`attention.attend` by JAX's splash attention, with the blocks that move the least."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, length, _ = qkv.shape
    if length % 128:  # of the row that parameters are made with
        return xla_attention(qkv, heads, segment_ids, rate, keys)
    block = dict.fromkeys(("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute"), length)
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((length, length))] * heads),
        block_sizes=kernels.BlockSizes(**block, use_fused_bwd_kernel=True),
    )
    query, key, value = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, -1), (2, 3), (0, 2))  # each [B, H, L, D/H]

    def attended(query, key, value, segment_ids):
        return jax.vmap(kernel)(query * query.shape[-1] ** -0.5, key, value, kernels.SegmentIds(segment_ids, segment_ids))

    attended = on_one_device(attended)(query, key, value, segment_ids)
    return jnp.moveaxis(attended, 1, 2).reshape(batch, length, -1)


def cudnn(qkv: jax.Array, heads: int, segment_ids: jax.Array, rate: float = 0.0, keys: jax.Array | None = None) -> jax.Array:
    """`attention.attend` by cuDNN; segments are a mask on all scores."""
    batch, length, _ = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, -1), 2, 0)  # each [B, L, H, D/H]
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    attended = jax.nn.dot_product_attention(query, key, value, mask=same, implementation="cudnn")
    return attended.reshape(batch, length, -1)


def jaxs(qkv: jax.Array, heads: int, segment_ids: jax.Array, rate: float = 0.0, keys: jax.Array | None = None) -> jax.Array:
    """`attention.attend` by JAX's own attention for the device that this is traced for."""
    return (cudnn if on_gpu() else splash)(qkv, heads, segment_ids, rate, keys)


def offer_jaxs() -> None:
    """Adds JAX's own to the attentions that `config.model.attention` may name, as "jax"."""
    ATTENTIONS["jax"] = jaxs


@functools.cache  # so that one of the same shapes is compiled once
def forward_and_backward(attention: Callable, heads: int, rate: float) -> Callable:
    """A compiled function of (qkv, segments, keys, gradient) → values and gradient, traced as a training step is."""

    def both(qkv, segments, keys, gradient):
        values, pull_back = jax.vjp(lambda qkv: attention(qkv, heads, segments, rate, keys), qkv)
        return values, pull_back(gradient)[0]

    none = jax.sharding.PartitionSpec()
    mesh = make_mesh(devices=jax.devices()[:1])
    return jax.jit(jax.shard_map(both, mesh=mesh, in_specs=none, out_specs=none, check_vma=False))


def random_inputs(rows: int, length: int, heads: int, size: int, segments: jax.Array, dtype=jnp.bfloat16) -> tuple:
    """What `forward_and_backward` takes."""
    first, second = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(first, (rows, length, 3 * heads * size), dtype)
    gradient = jax.random.normal(second, (rows, length, heads * size), dtype)
    return qkv, segments, row_keys(0, 0, rows), gradient


def two_segments(rows: int, length: int) -> jax.Array:
    """Two in each row, and padding in every second one. int32 [B, L]"""
    return jnp.ones((rows, length), jnp.int32).at[:, length // 3 :].set(2).at[::2, -7:].set(0)


def in_float32(inputs: tuple, heads: int, rate: float) -> tuple[jax.Array, jax.Array]:
    """Values and gradient by XLA's attention in float32, whose products a GPU would else round to TF32."""
    wide = (x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in inputs)
    with jax.default_matmul_precision("highest"):
        return forward_and_backward(xla_attention, heads, rate)(*wide)


def gpu_kernel() -> Callable:
    """The GPU's kernel, interpreted where there is no GPU."""
    from roberta_jax.model.gpu_attention import gpu_attention

    return partial(gpu_attention, interpret=jax.default_backend() != "gpu")


def own_kernel(qkv: jax.Array, heads: int, *rest) -> jax.Array:
    """`attention.attend`, where it does not fall back to XLA's."""
    try:
        if kernel := kernel_for(qkv, heads):
            return kernel(qkv, heads, *rest)
        why = "see docs/performance.md for the rows, heads and devices that have one"
    except ImportError as error:
        why = str(error)
    size = qkv.shape[-1] // 3 // heads
    raise UserError(f"rows of {qkv.shape[1]} and heads of {size} have no kernel on {jax.devices()[0].device_kind}: {why}.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attentions", description=__doc__.split("\n")[0])
    for name, default in (("rows", 32), ("length", 512), ("heads", 12), ("size", 64)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--dropout", type=float, default=0.1, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="of a side in its turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    backend = jax.default_backend()
    kernel = gpu_kernel() if backend == "cpu" else own_kernel
    sides = {"kernel": kernel, "XLA": xla_attention}
    if not args.dropout and backend != "cpu":
        sides |= {"cuDNN": cudnn} if backend == "gpu" else {"splash": splash}
    inputs = random_inputs(args.rows, args.length, args.heads, args.size, two_segments(args.rows, args.length))
    exact = in_float32(inputs, args.heads, args.dropout)
    differences, runs = {}, {}
    for name, attention in sides.items():
        function = forward_and_backward(attention, args.heads, args.dropout)
        differences[name] = [float(jnp.abs(a - b).max()) for a, b in zip(function(*inputs), exact)]

        def run(function=function) -> None:
            for _ in range(args.steps):
                found = function(*inputs)
            jax.block_until_ready(found)

        run()
        runs[name] = run
    found = compare(in_turn(runs, args.rounds), args.steps)
    found |= {"device": jax.devices()[0].device_kind, "differences": differences} | vars(args)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """Tables in Markdown."""
    shape = f"{found['rows']} × {found['length']}, {found['heads']} heads of {found['size']}, dropout {found['dropout']:g}"
    rates = comparison_lines(found, "times a second, forward and backward", f"{shape}, {found['device']}")
    made = [*rates, "", "| from float32 at most | values | gradient |", "|---|---|---|"]
    return made + [f"| {name} | {values:.2g} | {gradient:.2g} |" for name, (values, gradient) in found["differences"].items()]


if __name__ == "__main__":
    exit_with_sentence(main)
