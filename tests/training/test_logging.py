"""metrics.jsonl: whole lines, and none from after the step that a run resumes from."""

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from roberta_jax import storage
from roberta_jax.data.tensorflow_on_host import tf
from roberta_jax.training.incidents import Incidents
from roberta_jax.training.logging import Journal, Metrics, ProgressLog, duration, say
from roberta_jax.training.workdir import read_metrics


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_resuming_drops_what_was_written_after_the_checkpoint_and_a_half_line(tmp_path):
    metrics = Metrics(tmp_path, first_step=0)
    for step in (10, 20, 30):
        metrics.write(step, {"train/loss": 1.0 / step})
    metrics.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "train/l')
    metrics = Metrics(tmp_path, first_step=20)
    metrics.write(30, {"train/loss": 7.0})
    metrics.close()
    assert lines(tmp_path) == [
        {"step": 10, "train/loss": 0.1}, {"step": 20, "train/loss": 0.05}, {"step": 30, "train/loss": 7.0},
    ]  # fmt: skip


def test_a_new_run_starts_a_new_file_and_tensorboard_has_the_values(tmp_path):
    Metrics(tmp_path, first_step=0).write(1, {"train/loss": 3.0})
    metrics = Metrics(tmp_path, first_step=0)
    metrics.write(5, {"train/loss": 2.0})
    metrics.close()
    assert lines(tmp_path) == [{"step": 5, "train/loss": 2.0}]
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in events


def test_tensorboard_is_told_to_drop_what_was_written_after_the_checkpoint(tmp_path):
    metrics = Metrics(tmp_path, first_step=20)
    metrics.write(30, {"train/loss": 7.0})
    metrics.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = list(tf.compat.v1.train.summary_iterator(str(path)))
    (start,) = (event for event in events if event.session_log.status == event.session_log.START)
    assert start.step == 21
    values = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert values == [(30, "train/loss", 7.0)]


def test_numbers_that_are_not_finite_are_null_and_read_as_none(tmp_path):
    metrics = Metrics(tmp_path, first_step=0)
    values = {"train/loss": float("nan"), "train/perplexity": float("inf"), "valid/loss": -float("inf"), "train/mfu": 0.5}
    metrics.write(1, values)
    metrics.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    strictly = json.loads(line, parse_constant=pytest.fail)
    assert strictly == {"step": 1} | dict.fromkeys(list(values)[:3]) | {"train/mfu": 0.5}
    (read,) = read_metrics(tmp_path)
    assert all(math.isnan(read[name]) for name in list(values)[:3]) and read["train/mfu"] == 0.5
    Metrics(tmp_path, first_step=1).close()  # and the next start keeps the line
    assert (tmp_path / "metrics.jsonl").read_text() == line + "\n"


def events(workdir) -> list[tuple[int, str]]:
    paths = sorted((workdir / "tensorboard").iterdir())
    found = [event for path in paths for event in tf.compat.v1.train.summary_iterator(str(path))]
    return [(event.step, value.tag) for event in found for value in event.summary.value]


def test_tensorboard_has_every_point_at_a_kill(tmp_path):
    code = """
import os, sys
from pathlib import Path
from roberta_jax.training.logging import Metrics
metrics = Metrics(Path(sys.argv[1]), 0)
for step in range(1, 21):
    metrics.write(step, {"train/loss": 1.0, "train/mfu": 0.5})
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert events(tmp_path) == [(step, name) for step in range(1, 21) for name in ("train/loss", "train/mfu")]


def test_a_run_that_goes_back_within_a_second_keeps_its_points(tmp_path):
    for first_step in (0, 1, 2):
        metrics = Metrics(tmp_path, first_step)
        metrics.write(first_step + 1, {"train/loss": 1.0})
        metrics.close()
    assert events(tmp_path) == [(step, "train/loss") for step in (1, 2, 3)]


def test_a_file_where_tensorboard_wants_its_folder_stops_nobody(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("x")
    metrics = Metrics(tmp_path, 0)
    metrics.write(1, {"train/loss": 1.0})
    metrics.close()
    assert lines(tmp_path) == [{"step": 1, "train/loss": 1.0}]
    assert f"no TensorBoard events in {tmp_path}" in capsys.readouterr().out


def test_durations_read_as_a_clock_does():
    assert [duration(seconds) for seconds in (5, 5025, 90_061)] == ["0:00:05", "1:23:45", "1d 1:01:01"]


def test_behind_a_url_the_same_lines_stand():
    path = f"memory://{os.urandom(8).hex()}/metrics.jsonl"
    journal = Journal(path)
    for step in (1, 2):
        journal.write({"step": step})
    again = Journal(path, lambda line: json.loads(line)["step"] < 2)
    again.write({"step": 7})
    again.close()
    assert storage.read_bytes(path) == b'{"step": 1}\n{"step": 7}\n'


def test_what_is_said_of_a_corpus_cannot_steer_a_terminal(tmp_path, capsys):
    say("was '\x1b[2J\x9b31m'; answers \u202e'x' 3%")
    Incidents(tmp_path).write("stall", 1, "\x1b]0;title\x07")
    assert not set(capsys.readouterr().out) & set("\x1b\x9b\u202e\x07")


def test_an_incident_from_another_thread_is_of_the_step_that_is_under_way(tmp_path):
    """As a stall's, which the ledger's watch may report before any step is."""
    incidents = Incidents(tmp_path)
    report = incidents.reporter("stall")
    for step in (None, 7):
        incidents.step = incidents.step if step is None else step
        thread = threading.Thread(target=report, args=("no step has ended for 600 s",))
        thread.start()
        thread.join()
    written = [json.loads(line) for line in (tmp_path / "incidents.jsonl").read_text().splitlines()]
    assert [(line["step"], line["kind"]) for line in written] == [(0, "stall"), (7, "stall")]


def test_a_trials_mean_is_of_its_own_steps_that_were_made(tmp_path):
    """As that of a run by itself: a step that was skipped, whose loss may be no number, is in none."""
    given = {"last_step": 2, "learning_rate": lambda step: 0.1, "mfu": lambda rate: 0.5, "derived": lambda means: {}}
    log = ProgressLog(tmp_path, 0, [], trials=["a", "b", "c"], **given)
    for losses, made in (([1.0, 2.0, 5.0], [1, 1, 0]), ([np.nan, 4.0, 5.0], [0, 1, 0])):
        log.add({"loss": np.array(losses), "made": np.array(made)}, (8, 1.0))
    log.write_means(2, 1.0, 1.0)
    log.close()
    (line,) = read_metrics(tmp_path)
    assert (line["train/loss/a"], line["train/loss/b"]) == (1, 3) and "train/loss/c" not in line
    assert line["train/loss"] == pytest.approx(7 / 3) and line["train/skipped"] == 3
