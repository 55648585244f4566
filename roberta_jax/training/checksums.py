"""Checksums of arrays' bits: of those on devices as they are saved and restored, and of NumPy's as others read them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from roberta_jax.training.notes import Damaged, Notes, fingerprint

SUMS, OLD_SUM = "checksums", "checksum"  # in the tree beside the state; older checkpoints have one of all arrays


@jax.jit
def checksums(tree: Any) -> jax.Array:
    """The sum of all bits of each array, in the order of their paths, however they are spread over devices. uint32 [arrays]"""
    arrays = by_path(tree)
    bits = [jax.lax.bitcast_convert_type(arrays[path], jnp.uint32) for path in sorted(arrays)]
    return jnp.stack([each.sum(dtype=jnp.uint32) for each in bits])


def bit_sum(array: np.ndarray) -> np.uint32:
    """The sum of an array's bits, as `checksums` has it."""
    return np.ascontiguousarray(array).view(np.uint32).sum(dtype=np.uint32)


def verify(paths: Sequence[str], sums: np.ndarray, saved: np.ndarray) -> None:
    """Raises Damaged where checksums are not those that were saved: one for each array, or one for all."""
    if np.ndim(saved):
        wrong = [path for path, actual, expected in zip(paths, sums, saved, strict=True) if actual != expected]
    else:
        total = 0
        for one in sums.tolist():
            total = (total * 0x9E3779B1 + one) % 2**32
        wrong = ["arrays"] if total != saved else []
    if wrong:
        raise Damaged(f"the bits of its {wrong[0]} are not those that were saved")


def take_sums(saved: dict[str, tuple], notes: Notes) -> tuple[str, tuple]:
    """Takes the checksums out of a checkpoint's shapes: (their name, their shape). Raises Damaged where shapes are missing."""
    sums = SUMS if SUMS in saved else OLD_SUM
    if sums not in saved or (sums == SUMS and saved[sums] != (len(saved) - 1,)):
        raise Damaged("it has no checksums")
    shape = saved.pop(sums)
    if notes.arrays and notes.arrays != fingerprint(sorted(saved.items())):
        raise Damaged("its arrays are not those that were saved")
    return sums, shape


def by_path(tree: Any) -> dict[str, Any]:
    """A tree's leaves by their paths, such as `params/encoder/layers/qkv/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, tuple]:
    """The shapes of a tree's arrays by their paths."""
    return {path: tuple(leaf.shape) for path, leaf in by_path(tree).items()}
