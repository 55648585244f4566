"""metrics.jsonl: whole lines, and none from after the step that a run resumes from."""

import json
import os

from roberta_jax.data import storage
from roberta_jax.data.host import tf
from roberta_jax.training.logging import Journal, Metrics, duration


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
