"""Checkpoints by Orbax: written in the background, whole or not there, the newest few and the best kept."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from roberta_jax.errors import UserError


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
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler())
        self.folder = folder

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, metrics: dict[str, float] | None = None) -> None:
        """Copies the state and returns; the writing goes on behind."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step, laid out as `abstract` says.

        Raises:
          UserError: the checkpoint is of another model.
        """
        saved = _shapes(self._manager.item_metadata(step))
        wanted = _shapes(abstract)
        for path in sorted(saved.keys() | wanted.keys()):
            if saved.get(path) != wanted.get(path):
                raise UserError(
                    f"{self.folder / str(step)} is a checkpoint of another model: its {path} is "
                    f"{saved.get(path, 'not there')}, this config's {wanted.get(path, 'not there')}; "
                    "take another workdir or that run's config."
                )
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def reached_preemption(self, step: int) -> bool:
        """Whether the platform has told all hosts that the machine is about to be taken."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def saved_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are whole, ascending; another process may be writing more."""
    return sorted(ocp.utils.checkpoint_steps(folder.absolute())) if folder.is_dir() else []


def read_params(folder: Path, step: int) -> dict:
    """The parameters of a checkpoint without the rest of its state, as arrays of NumPy, on any number of devices.

    Where the state keeps the best parameters and they have been measured, these, of several trials the best one's; otherwise
    the step's own.

    Raises:
      UserError: the checkpoint is damaged.
    """
    path = folder.absolute() / str(step) / "default"
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(path).tree
        item = {name: tree[name] for name in ("params", "best") if name in tree}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
        restored = handler.restore(path, args=args)
        best = restored.get("best", {"value": -np.inf})
        params = best["params"] if np.max(best["value"]) > -np.inf else restored["params"]
        return jax.tree.map(lambda x: x[np.argmax(best["value"])], params) if np.ndim(best["value"]) else params
    except (OSError, KeyError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{folder / str(step)} is not a whole checkpoint of a training run: {reason}") from None
    finally:
        handler.close()


def _shapes(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
