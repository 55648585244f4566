"""What a traced function may know of where it will run: the kind of device, and whether a kernel may stand there."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from roberta_jax.model.dropout import fold


def alone() -> bool:
    """Whether this is traced for one device's own rows, as a step's loss is: XLA cannot spread a kernel over devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return all(mesh.shape[name] == 1 for name in left_to_xla(mesh))


def on_tpu() -> bool:
    """Whether the mesh in context is of TPUs, be they absent ones that `plan` compiles for, unlike `jax.default_backend()`."""
    return _device_kind().startswith("TPU")


def on_gpu() -> bool:
    """Whether the mesh in context is of GPUs, NVIDIA's or AMD's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform in ("gpu", "cuda", "rocm")


def on_ampere() -> bool:
    """Whether the mesh in context is of NVIDIA's GPUs from Ampere on, for which Triton knows bfloat16."""
    there = jax.default_backend() == "gpu"
    return _device_kind().startswith("NVIDIA") and (not there or float(jax.local_devices()[0].compute_capability) >= 8)


def _device_kind() -> str:
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else ""


def left_to_xla(mesh: jax.sharding.AbstractMesh) -> set[str]:
    """The axes of a mesh that no enclosing shard_map has made manual."""
    return {name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind != AxisType.Manual}


def on_one_device(kernel: Callable) -> Callable:
    """`kernel` within a shard_map over the axes that are left to XLA, of one device each here; a kernel needs them manual."""
    rest = left_to_xla(jax.sharding.get_abstract_mesh())
    return jax.shard_map(kernel, in_specs=P(), out_specs=P(), axis_names=rest, check_vma=False) if rest else kernel


def dropout_in_kernel(rate: float, keys: jax.Array | None, rows: int) -> tuple[float, jax.Array]:
    """(rate, keys uint32 [B, 2]) with which a kernel's `dropout.keep_mask` drops what `dropout` drops with these."""
    return (0.0, jnp.zeros((rows, 2), jnp.uint32)) if keys is None else (rate, fold(keys, 0))
