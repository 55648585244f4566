"""Trackers, one of which `config.tracker` names: `logging.Tracker` gives it the numbers of metrics.jsonl.

To add another one: a function that begins or resumes a run there, and its row in `TRACKERS`.
"""

import importlib.util
import os
import posixpath
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from roberta_jax.errors import UserError

PROJECT = "roberta_jax"  # where the tracker's own environment variable names none


class Run(NamedTuple):
    """A run of a tracker."""

    key: str  # by which the tracker finds it again
    log: Callable[[dict[str, float], int], Any]  # (name → value, step)
    finish: Callable[[], Any]


def _wandb(key: str, name: str, fields: dict[str, Any]) -> Run:
    import wandb

    key = key or f"{name}-{secrets.token_hex(4)}"
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    run = wandb.init(project=project, id=key, name=name, resume="allow", config=fields)
    run.define_metric("*", step_metric="step")  # its own step never goes back, as a run after a loss spike does
    return Run(key, lambda values, step: run.log({"step": step} | values), run.finish)


def _trackio(key: str, name: str, fields: dict[str, Any]) -> Run:
    import trackio

    key = key or f"{name}-{secrets.token_hex(4)}"
    run = trackio.init(os.environ.get("TRACKIO_PROJECT", PROJECT), name=key, resume="allow", config=fields)
    return Run(key, run.log, run.finish)


def _mlflow(key: str, name: str, fields: dict[str, Any]) -> Run:
    import mlflow

    if "MLFLOW_EXPERIMENT_NAME" not in os.environ and "MLFLOW_EXPERIMENT_ID" not in os.environ:
        mlflow.set_experiment(PROJECT)
    run = mlflow.start_run(run_id=key or None, run_name=None if key else name)
    if not key:
        mlflow.log_params(fields)

    def log(values: dict[str, float], step: int) -> None:
        mlflow.log_metrics({_mlflow_name(name): value for name, value in values.items()}, step)

    return Run(run.info.run_id, log, mlflow.end_run)


def _mlflow_name(name: str) -> str:
    """Of a metric, which may have a source's path in it: MLflow takes some characters alone, and no needless slash."""
    return posixpath.normpath(re.sub(r"[^\w.\- /]", "_", name))


# name → (key of the run, "" for a new one; name for people; dotted field → value) → its run
TRACKERS: Mapping[str, Callable[[str, str, dict[str, Any]], Run]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def require_installed(name: str) -> None:
    """Raises a UserError where the tracker that `config.tracker` names is not there."""
    if name and importlib.util.find_spec(name) is None:
        raise UserError(f"config.tracker is {name!r}, which is not installed: pip install {name}.")
