"""The kernels of TPUs and GPUs, interpreted on the CPU: the same values and gradients as XLA's attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from roberta_jax.model.attention import attend, xla_attention
from roberta_jax.model.dropout import row_keys
from roberta_jax.model.gpu_attention import gpu_attention
from roberta_jax.model.tpu_attention import tpu_attention

of_each = pytest.mark.parametrize("kernel", [tpu_attention, gpu_attention])


def inputs(heads: int, size: int, dtype: str, rows: int = 2, length: int = 256) -> tuple[jax.Array, ...]:
    """Rows of several segments, of one, and with padding that ends within a block."""
    first, second = jax.random.split(jax.random.key(heads))
    qkv = jax.random.normal(first, (rows, length, 3 * heads * size), dtype)
    segments = np.ones((rows, length), np.int32)
    segments[0, 100:200], segments[0, 200:], segments[1, 131:] = 2, 3, 0
    return qkv, jnp.asarray(segments), jax.random.normal(second, (rows, length, heads * size), dtype)


def value_and_gradient(function, heads, qkv, segments, cotangent, rate, keys):
    value, pull_back = jax.vjp(lambda qkv: function(qkv, heads, segments, rate, keys), qkv)
    return value, pull_back(cotangent)[0]


@of_each
@pytest.mark.parametrize(
    "heads, size, dtype, rate", [(4, 64, "float32", 0.1), (4, 32, "float32", 0.0), (2, 64, "bfloat16", 0.1)]
)
def test_the_kernel_computes_what_xla_does(kernel, heads, size, dtype, rate):
    qkv, segments, cotangent = inputs(heads, size, dtype)
    keys = row_keys(3, 1, len(qkv))
    sides = [
        jax.jit(partial(value_and_gradient, function, heads, rate=rate))(qkv, segments, cotangent, keys=keys)
        for function in (xla_attention, partial(kernel, interpret=True))
    ]
    for xla, of_kernel in zip(*sides):
        assert xla.dtype == of_kernel.dtype == dtype
        tolerance = 3e-6 if dtype == "float32" else 2e-2  # bfloat16 has 8 bits, of values up to 4
        np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in (of_kernel, xla)), atol=tolerance, rtol=tolerance)


def test_the_gpus_kernel_takes_any_number_of_blocks():
    """Of 64 keys; queries by 128 where these go into the length."""
    for length in (64, 192):
        qkv, segments, cotangent = inputs(3, 16, "float32", length=length)
        sides = [
            value_and_gradient(function, 3, qkv, segments, cotangent, 0.2, row_keys(0, 0, len(qkv)))
            for function in (xla_attention, partial(gpu_attention, interpret=True))
        ]
        for xla, of_kernel in zip(*sides):
            np.testing.assert_allclose(of_kernel, xla, atol=3e-6, rtol=3e-6)


@of_each
def test_without_keys_the_kernel_drops_nothing(kernel):
    qkv, segments, _ = inputs(2, 64, "float32", length=128)
    without, dropping = (kernel(qkv, 2, segments, rate, interpret=True) for rate in (0.0, 0.5))
    np.testing.assert_array_equal(without, dropping)


@of_each
def test_the_kernel_in_a_training_steps_surroundings(kernel):
    """Under shard_map over one axis of three, a scan, remat and vmap: as XLA's attention."""
    mesh = jax.make_mesh((1, 2, 1), ("trial", "data", "fsdp"), axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:2])
    qkv, segments, _ = inputs(2, 64, "float32", length=128)
    keys = row_keys(0, 0, len(qkv))

    def gradient(function):
        @partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
        def layer(qkv, _):
            return 0.5 * qkv + jnp.tile(function(qkv, 2, segments[:1], 0.1, keys[:1]), 3), None

        def of_rows(qkv):
            return jax.grad(lambda qkv: (jax.lax.scan(layer, qkv, length=2)[0] ** 2).sum())(qkv)

        spread = jax.shard_map(
            of_rows, mesh=mesh, in_specs=P("data"), out_specs=P("data"), axis_names={"data"}, check_vma=False
        )
        return jax.jit(jax.vmap(spread))(jnp.stack([qkv, -qkv]))

    interpreted = partial(kernel, interpret=True)
    np.testing.assert_allclose(gradient(interpreted), gradient(xla_attention), atol=1e-5, rtol=1e-5)


def kernels(mesh: AbstractMesh, length: int, heads: int, size: int, axes: set[str], dtype: str = "float32") -> int:
    """How many kernels a forward pass has, that is traced for one device's rows of such a mesh."""

    def forward(qkv):
        return attend(qkv, heads, jnp.ones(qkv.shape[:2], jnp.int32))

    spread = jax.shard_map(forward, mesh=mesh, in_specs=P("data"), out_specs=P("data"), axis_names=axes, check_vma=False)
    return str(jax.make_jaxpr(spread)(jnp.zeros((2, length, 3 * heads * size), dtype))).count("pallas_call[")


def test_which_attention_runs_where():
    """A kernel where a device's own rows are whole blocks, and lie in a TPU's VMEM; arrays that XLA spreads are XLA's."""
    names, types = ("trial", "data", "fsdp"), (AxisType.Auto,) * 3
    tpu, gpu = AbstractDevice("TPU v5 lite", None, "tpu"), AbstractDevice("NVIDIA H100", None, "gpu")
    slice_of = partial(AbstractMesh, axis_names=names, axis_types=types)
    pod = slice_of((1, 2, 1), abstract_device=tpu)
    assert kernels(pod, 128, 2, 64, {"data"}) == kernels(pod, 512, 16, 64, set(names), "bfloat16") == 1
    for length, heads, size in ((100, 2, 64), (1024, 2, 64), (512, 16, 64), (128, 3, 64), (128, 8, 48)):
        assert not kernels(pod, length, heads, size, {"data"})
    gpus = slice_of((1, 2, 1), abstract_device=gpu)
    for length, heads, size in ((64, 2, 64), (128, 3, 32), (2048, 16, 128)):
        assert kernels(gpus, length, heads, size, {"data"}, "bfloat16") == 1
    for length, heads, size, dtype in ((128, 2, 64, "float32"), (100, 2, 64, "bfloat16"), (128, 2, 48, "bfloat16")):
        assert not kernels(gpus, length, heads, size, {"data"}, dtype)
    older = slice_of((1, 2, 1), abstract_device=AbstractDevice("Tesla T4", None, "gpu"))
    assert not kernels(older, 128, 2, 64, {"data"}, "bfloat16")
    for device in (tpu, gpu):
        assert not kernels(slice_of((1, 2, 2), abstract_device=device), 128, 2, 64, {"data"}, "bfloat16")
    forward = partial(attend, heads=2, segment_ids=jnp.ones((2, 128), jnp.int32))
    assert "pallas_call[" not in str(jax.make_jaxpr(forward)(jnp.zeros((2, 128, 384))))
