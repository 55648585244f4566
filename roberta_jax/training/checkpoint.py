"""Checkpoints by Orbax: written in the background, whole or not there, the newest few and the best kept.

Each holds a checksum of its arrays' bits, as storage may give back other bits than it was given and say nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from roberta_jax.data import storage
from roberta_jax.errors import UserError
from roberta_jax.training.distributed import wait_for_all


class Damaged(Exception):
    """A checkpoint that cannot be read, or does not hold what was written."""


@jax.jit
def checksum(tree: Any) -> jax.Array:
    """Of all bits, the same however the arrays are spread over devices. uint32 []"""
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
        total = total * jnp.uint32(0x9E3779B1) + bits.sum(dtype=jnp.uint32)
    return total


class Checkpoints:
    """The checkpoints of a run, in `<workdir>/checkpoints/<step>/`.

    Args:
      newest: how many of the newest to keep; the best by `metric` (lower is better), if one is named, is kept beside them.
    """

    def __init__(self, folder: Path, newest: int, metric: str):
        policies, best = [keep.LatestN(newest)], {}
        if metric:
            of_metric = lambda metrics: metrics[metric]  # noqa: E731
            policies.append(keep.BestN(get_metric_fn=of_metric, reverse=True, n=1, keep_checkpoints_without_metrics=False))
            best = {"best_fn": of_metric, "best_mode": "min"}  # without it Orbax forgets the metrics when the run resumes
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep.AnyPreservationPolicy(policies), cleanup_tmp_directories=True, **best
        )
        if jax.process_count() == 1:  # Orbax has every device write a share of a replicated array: a compile for each share
            whole = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
            ocp.type_handlers.register_type_handler(jax.Array, whole, override=True)
        self._manager = ocp.CheckpointManager(_absolute(folder), options=options, item_handlers=ocp.StandardCheckpointHandler())
        self.folder = folder

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What is raised here may have befallen the write before, which went on behind the steps."""
        try:
            yield
        except Exception as error:  # of a class of its own for each cause
            whole = max(saved_steps(self.folder), default=None)
            kept = "there is none yet" if whole is None else f"step {whole:,} is whole, and the same command goes on from it"
            raise UserError(f"{self.folder}: a checkpoint could not be written ({_reason(error)}); {kept}.") from None

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Copies the state and returns; the writing goes on behind.

        Raises:
          UserError: it cannot be written, or the last one could not.
        """
        if step not in self._manager.all_steps():
            with self._writing():
                args = ocp.args.StandardSave(state | {"checksum": checksum(state)})
                self._manager.save(step, args=args, metrics=metrics)

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step, laid out as `abstract` says.

        Raises:
          UserError: the checkpoint is of another model.
          Damaged: it is not whole.
        """
        sharding = jax.tree.leaves(abstract)[0].sharding
        if isinstance(sharding, jax.sharding.NamedSharding):
            sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        abstract = abstract | {"checksum": jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding)}
        try:
            saved = _shapes(self._manager.item_metadata(step).tree)
        except Exception as error:
            raise Damaged(_reason(error)) from None
        wanted = _shapes(abstract)
        for path in sorted(saved.keys() | wanted.keys()):
            if saved.get(path) != wanted.get(path):
                raise UserError(
                    f"{self.folder / str(step)} is a checkpoint of another model: its {path} is "
                    f"{saved.get(path, 'not there')}, this config's {wanted.get(path, 'not there')}; "
                    "take another workdir or that run's config."
                )
        try:
            state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:
            raise Damaged(_reason(error)) from None
        if state.pop("checksum") != checksum(state):
            raise Damaged("its arrays do not have the checksum that they were saved with")
        return state

    def restore_newest(self, abstract: Any, report: Callable[[int, str], None], last: int | None = None) -> tuple[int, Any]:
        """(step, state) of the newest whole checkpoint, not past the step `last`; (0, None) where there is none.

        A damaged one is put aside as `<step>.damaged`, and `report` is told its step and a sentence.
        """
        with self._writing():
            self._manager.wait_until_finished()
        for step in sorted(self._manager.all_steps(), reverse=True):
            if last is not None and step > last:
                continue
            try:
                return step, self.restore(step, abstract)
            except Damaged as error:
                report(step, f"{self.folder / str(step)} is damaged ({error}) and passed over; it is {step}.damaged now")
                if jax.process_index() == 0:
                    (self.folder / str(step)).rename(self.folder / f"{step}.damaged")
                wait_for_all(f"{step} is put aside")
                self._manager.reload()
        return 0, None

    def delete_past(self, step: int) -> None:
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits for what is being written."""
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()


def _absolute(folder: Path) -> Path:
    return folder if storage.is_url(folder) else folder.absolute()


def saved_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are whole, ascending; another process may be writing more."""
    return sorted(ocp.utils.checkpoint_steps(_absolute(folder))) if folder.is_dir() else []


def read_params(folder: Path, step: int) -> dict:
    """The parameters of a checkpoint without the rest of its state, as arrays of NumPy, on any number of devices.

    Where the state keeps the best parameters and they have been measured, these, of several trials the best one's; otherwise
    the step's own.

    Raises:
      UserError: the checkpoint is damaged.
    """
    try:
        restored = _read(folder, step, ("params", "best"))
        best = restored.get("best", {"value": -np.inf})
        params = best["params"] if np.max(best["value"]) > -np.inf else restored["params"]
        return jax.tree.map(lambda x: x[np.argmax(best["value"])], params) if np.ndim(best["value"]) else params
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / str(step)} is not a whole checkpoint of a training run: {_reason(error)}") from None


def read_arrays(folder: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their paths, as NumPy's."""
    return _by_path(_read(folder, step))


def _read(folder: Path, step: int, names: tuple[str, ...] | None = None) -> dict:
    """What is under these names at the top of a checkpoint's tree, as far as they are there; by default all of it."""
    path, handler = _absolute(folder) / str(step) / "default", ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(path).tree
        item = {name: tree[name] for name in names or tree if name in tree}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        return handler.restore(path, args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True))
    finally:
        handler.close()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return "no space left on the disk" if "No space left on device" in text else text[:200] or type(error).__name__


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _shapes(tree: Any) -> dict[str, tuple]:
    return {path: tuple(leaf.shape) for path, leaf in _by_path(tree).items()}
