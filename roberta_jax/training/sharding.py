"""The mesh, which array lies where on it, and which rows of a batch a host feeds.

Rows of a batch are spread over "data" and "fsdp", parameters over "fsdp" (1 replicates them), and AdamW's moments over
"fsdp" too or, where that is 1, over "data": each device updates its part of the parameters, and all gather the new ones.
Trials of fine-tuning that are trained together are spread over "trial", with all that is theirs.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from roberta_jax.errors import UserError

# A path of the state → how its array is cut; the first row that matches decides. Stacked layers come first in a shape.
RULES = [
    (r"(^|/)(step|batch|count|value|ns_coeffs)$|^guard/", P()),
    (r"embedding$", P(None, "fsdp")),
    (r"layers/.*kernel$", P(None, "fsdp")),
    (r"kernel$", P("fsdp")),
    (r"(bias|scale)$", P()),
]


def make_mesh(fsdp: int = 1, trials: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh ("trial", "data", "fsdp") of all devices, or of `devices`, which need not be attached.

    Several slices follow one another on "data", so that only one sum of gradients a step crosses the slow network between them.

    Args:
      fsdp: devices over which parameters are spread.
      trials: that are trained together; as many devices as can be are apart for them.

    Raises:
      UserError: `fsdp` does not divide the devices, or those of a slice.
    """
    devices = devices or jax.devices()
    number, slices = len(devices), len({getattr(device, "slice_index", 0) for device in devices})
    if fsdp < 1 or number // slices % fsdp:
        devices_there = f"{number // slices} devices that there are{_in_each(slices)}"
        raise UserError(f"config.fsdp is {fsdp}; it must divide the {devices_there}.")
    apart = math.gcd(trials, number // fsdp) if slices == 1 else 1
    shape = (apart, number // fsdp // apart // slices, fsdp)
    names, types = ("trial", "data", "fsdp"), (AxisType.Auto,) * 3
    if slices == 1:
        return jax.make_mesh(shape, names, axis_types=types, devices=devices)
    return Mesh(create_hybrid_device_mesh(shape, (1, slices, 1), devices), names, axis_types=types)


def _in_each(slices: int) -> str:
    return f" in each of {slices} slices" if slices > 1 else ""


def map_paths(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`function(path, leaf, …)` over trees of the same structure; a path reads `params/encoder/layers/qkv/kernel`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(jax.tree_util.keystr(path, simple=True, separator="/"), *leaves), tree, *rest
    )


def _rule(path: str) -> P:
    spec = next((spec for pattern, spec in RULES if re.search(pattern, path)), None)
    if spec is None:
        raise ValueError(f"no row of sharding.RULES covers {path}")
    return spec


def moment_spec(mesh: Mesh, path: str, shape: tuple[int, ...]) -> P:
    """How a parameter's moments, and its summed gradient, are cut."""
    spec = _rule(path)
    if mesh.shape["fsdp"] > 1 or any(name and shape[axis] % mesh.shape["data"] for axis, name in enumerate(spec)):
        return spec
    return P(*(name and "data" for name in spec))


def state_shardings(mesh: Mesh, state: Any, stacked: bool = False) -> Any:
    """A sharding for each array of a state, or of its shapes; `stacked` states have an axis of trials in front.

    Raises:
      UserError: `fsdp` does not divide an array.
    """

    def sharding(path: str, leaf: Any) -> NamedSharding:
        shape = leaf.shape[stacked:]
        spec = moment_spec(mesh, path, shape) if path.startswith("opt_state/") else _rule(path)
        for axis, name in enumerate(spec):
            if name and shape[axis] % mesh.shape[name]:
                raise UserError(f"fsdp is {mesh.shape[name]}, which does not divide axis {axis} of {path} {shape}.")
        return NamedSharding(mesh, P("trial", *spec) if stacked else spec)

    return map_paths(sharding, state)


def batch_sharding(mesh: Mesh, stacked: bool = False) -> NamedSharding:
    """Of a batch's arrays [B, …]; `stacked` ones, [trials, B, …], have an axis of trials in front."""
    rows = ("data", "fsdp")
    return NamedSharding(mesh, P("trial", rows) if stacked else P(rows))


def batch_devices(mesh: Mesh) -> int:
    """Over how many devices the rows of one batch are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Which rows of a global batch this host's devices hold, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for (rows,) in slices]))
