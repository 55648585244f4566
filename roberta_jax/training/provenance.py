"""What made a run: the fields and hashes on which its figures depend. Kept beside them, it tells one run from another."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roberta_jax.config import plain
from roberta_jax.errors import UserError

# Fields of a config on which no figure depends but for rounding: of the machine, and of what is written when.
WITHOUT_EFFECT = (
    "job", "log_every", "checkpoint_every", "keep_checkpoints", "microbatch_size", "fsdp", "model.remat", "model.attention",
    "tracker", "profile", "keep_every",
)  # fmt: skip

# Fields that came when runs had been made already: where they do nothing, those runs are still the same.
_LATER = {"optimizer.schedule": "linear", "optimizer.decay_steps": 0.0, "optimizer.floor": 0.0, "optimizer.words_alone": 0.0}
_LATER |= {"continue_from": "", "phases": "", "data.mixture": "", "model.position_init": "normal", "new_vocabulary": False}


def fields(config: Any, without: Collection[str] = WITHOUT_EFFECT) -> dict[str, Any]:
    """The fields of a config by their dotted names, such as config.optimizer.b1.

    Args:
      without: fields, and sections of them, that are left out.
    """

    def flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        flattened = {}
        for name, value in values.items():
            if (path := prefix + name) not in without and (path not in _LATER or value != _LATER[path]):
                flattened |= flat(value, f"{path}.") if isinstance(value, dict) else {f"config.{path}": value}
        return flattened

    return flat(plain(config), "")


def hash_of(tree: Any) -> str:
    """Of the paths, shapes and bits of arrays, of NumPy or JAX."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()[:16]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs first, such as `config.steps 16, not 32`, and how much more; "" where nothing does.

    Args:
      before: as JSON gives it back.
    """
    now = {path: does_nothing for name, does_nothing in _LATER.items() if (path := f"config.{name}") in before} | dict(now)
    now = json.loads(json.dumps(now))
    differing = [name for name in now if before.get(name) != now[name]]
    more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
    return f"{differing[0]} {before.get(differing[0])!r}, not {now[differing[0]]!r}{more}" if differing else ""


def require_same_run(folder: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raises a UserError that names what differs, if another run than this one was begun in a folder.

    Args:
      before: what its file says of the run; None: nothing, for an earlier version wrote it.
    """
    if before is None:
        raise UserError(f"{folder} holds a run that does not say what made it; take another workdir, or remove that folder.")
    if differs := difference(before, now):
        raise UserError(f"{folder} is a run with {differs}; take another workdir, or remove that folder to make it anew.")
