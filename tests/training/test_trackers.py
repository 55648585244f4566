"""A tracker gets the numbers of metrics.jsonl; each that is installed is used without a network."""

import importlib.util
import json
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest

from roberta_jax.errors import UserError
from roberta_jax.training import trackers
from roberta_jax.training.config import RunConfig
from roberta_jax.training.logging import Metrics, Tracker

ROOT = Path(__file__).parents[2]
LINES = [(2, {"train/loss": 5.5, "train/mfu": 0.25}), (4, {"train/loss": 4.5, "train/mfu": 0.5}), (4, {"valid/loss": 5.0})]
# A run that is killed after its first lines and goes on: what the tracker has afterwards, in a process of its own.
RUN = """
import json, sys
from functools import partial
from pathlib import Path
from roberta_jax.training.logging import Metrics, Tracker
name, workdir, first, lines = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
metrics = Metrics(workdir, first, partial(Tracker, name, workdir, {"config.steps": 4, "config.tracker": name}))
for step, values in lines:
    metrics.write(step, values)
metrics.close()
"""
READ = """
import json
from trackio.sqlite_storage import SQLiteStorage
((run,), project) = SQLiteStorage.get_runs("roberta_jax"), "roberta_jax"
print(json.dumps([run, SQLiteStorage.get_run_config(project, run), SQLiteStorage.get_logs(project, run)]))
"""


def test_the_names_of_the_field_are_those_that_there_are():
    """Another row is another value of it."""
    assert [RunConfig(tracker=name).tracker for name in trackers.TRACKERS] == list(trackers.TRACKERS)
    with pytest.raises(UserError, match="config.tracker is 'neptune'; it can be '' or 'wandb' or 'mlflow' or 'trackio'"):
        RunConfig(tracker="neptune")


def test_one_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config.tracker is 'wandb', which is not installed: pip install wandb\."):
        trackers.require_installed("wandb")
    trackers.require_installed("")


def test_one_that_fails_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    """At the beginning, or in the midst of it."""

    def unreachable(*_):
        raise ConnectionError("no route to host\nand more")

    def breaking(key, name, fields):
        return trackers.Run("abc", unreachable, unreachable)

    for begin in (unreachable, breaking):
        monkeypatch.setitem(trackers.TRACKERS, "wandb", begin)
        workdir = tmp_path / begin.__name__
        metrics = Metrics(workdir, 0, lambda workdir=workdir: Tracker("wandb", workdir, {}))
        for step, values in LINES:
            metrics.write(step, values)
        metrics.close()
        assert capsys.readouterr().out.count("! wandb: no route to host; the run goes on without it\n") == 1
        assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()] == [2, 4, 4]


def test_trackio_has_the_lines_of_a_run_that_was_resumed(tmp_path):
    """It keeps them on this machine, where its own folder says, and no network is asked."""
    pytest.importorskip("trackio")
    workdir, environment = tmp_path / "run", os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}

    def python(code: str, *arguments: object) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "the run goes on without it" not in done.stdout, done.stdout + done.stderr
        return done.stdout.splitlines()[-1] if done.stdout else ""

    for first, lines in ((0, LINES[:1]), (2, LINES[1:])):
        python(RUN, "trackio", workdir, first, json.dumps(lines))
    name, fields, logs = json.loads(python(READ))
    assert json.loads((workdir / "tracker.json").read_text()) == {"trackio": name} and name.startswith("run-")
    assert fields["config.steps"] == 4
    assert [(line["step"], {key: line[key] for key in values}) for line, (_, values) in zip(logs, LINES)] == LINES
    assert len(logs) == len(LINES)


def test_mlflow_takes_the_names_of_sources():
    """Those of a mixture may be globs, paths and URLs, of which it takes no line at all as they are."""
    for name in ("train/loss/*.txt", "valid/loss/gs://bucket/web/", "train/loss//data/a b", "valid/loss"):
        given = trackers._mlflow_name(name)
        assert re.fullmatch(r"[/\w.\- :]+", given) and posixpath.normpath(given) == given, given  # as MLflow asks
    assert trackers._mlflow_name("valid/loss/books.jsonl") == "valid/loss/books.jsonl"
