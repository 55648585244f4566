"""What a run says while it runs: metrics.jsonl, TensorBoard, a progress line."""

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from roberta_jax import storage
from roberta_jax.errors import first_line
from roberta_jax.imports import without
from roberta_jax.output import show, to_json
from roberta_jax.training.guard import GUARD_METRICS
from roberta_jax.training.trackers import TRACKERS
from roberta_jax.training.workdir import METRICS_JSONL, TENSORBOARD, TRACKER_JSON, entry_of

with without("torch"):  # tensorboardX can write its tensors too
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import directory_check
    from tensorboardX.summary import scalar

T = TypeVar("T")


def say(text: str) -> None:
    """Prints, on the first host alone."""
    if jax.process_index() == 0:
        show(text)


def recovered(path: str | Path, parse: Callable[[bytes], T], default: T) -> T:
    """What `parse` makes of one of a run's files; `default` where it is not there.

    Where it cannot be read it is put aside, with a warning, and `default` takes its place: no run ends for such a file.
    """
    try:
        return parse(storage.read_bytes(path))
    except FileNotFoundError:
        return default
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        put_aside(path, storage.reason(error))
        return default


def put_aside(path: str | Path, why: str) -> None:
    """By the first host, which says so."""
    if jax.process_index() == 0:
        say(f"! {path} is damaged ({why}); it is {storage.put_aside(path)} now, and the run goes on without it")


class Journal:
    """A file of JSON objects, a line each, that grows: appended to on this machine, rewritten where it is at a URL.

    Args:
      keep: whether to keep a line that is there already. A half one at the end, which a kill leaves, never is; where there
        are others that hold no object with a step, the file is put aside, and its whole lines go on in a new one.
    """

    def __init__(self, path: Path, keep: Callable[[str], bool] = lambda line: True):
        self._path = path
        self._lines = [line for line in recovered(path, self._whole_lines, []) if keep(line)]
        storage.write_text(path, "".join(self._lines))
        self._file = None if storage.is_url(path) else open(path, "a", encoding="utf-8")

    def _whole_lines(self, content: bytes) -> list[str]:
        *lines, half = content.split(b"\n")
        entries = [entry_of(line) for line in lines]
        garbage = [number for number, entry in enumerate(entries, 1) if entry is None]
        if half and not half.startswith(b"{"):
            garbage.append(len(lines) + 1)
        if garbage:
            put_aside(self._path, f"line {garbage[0]} is no JSON object with a step")
        return [line.decode() + "\n" for line, entry in zip(lines, entries) if entry is not None]

    def write(self, values: dict[str, Any]) -> None:
        """Appends a line, which is on the disk when this returns."""
        self._lines.append(to_json(values) + "\n")
        if self._file is None:
            storage.write_text(self._path, "".join(self._lines))
        else:
            self._file.write(self._lines.pop())
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Events:
    """TensorBoard's file of events. What is written is on the disk: tensorboardX's own writer keeps it for two minutes."""

    _numbers = itertools.count()

    def __init__(self, folder: str, purge_step: int | None):
        directory_check(folder)
        # By itself it is named after host and second: a run that goes back would write over its own.
        self._writer = EventsWriter(f"{folder}/events", f".{os.getpid()}.{next(self._numbers):06}")
        if purge_step is not None:
            session = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=purge_step, session_log=session))
        self._writer.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a point of each value, which is on the disk when this returns."""
        for name, value in values.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Tracker:
    """A workdir's run at a tracker; the same one when the workdir's run resumes.

    What goes wrong with it is said, and the run goes on without it: metrics.jsonl has all of it.
    """

    def __init__(self, name: str, workdir: Path, fields: dict[str, Any]):
        self._name, self._run = name, None
        path = workdir / TRACKER_JSON
        keys = recovered(path, storage.parse_json, {})
        self._run = self._try(lambda: TRACKERS[name](keys.get(name, ""), workdir.name, fields))
        if self._run and keys.get(name) != self._run.key:
            storage.write_json(path, keys | {name: self._run.key})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Gives it a step's values."""
        if self._run:
            self._try(lambda: self._run.log(values, step))

    def close(self) -> None:
        if self._run:
            self._try(self._run.finish)

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # no server, no key, no disk: each tracker raises its own
            say(f"! {self._name}: {first_line(error)}; the run goes on without it")
            self._run = None


class Metrics:
    """`<workdir>/metrics.jsonl` and TensorBoard events, from a step on: what a killed run wrote after it is dropped.

    Args:
      tracker: begins or resumes the run elsewhere.
    """

    def __init__(self, workdir: Path, first_step: int, tracker: Callable[[], Any] | None = None):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        self._journal = Journal(workdir / METRICS_JSONL, lambda line: json.loads(line)["step"] <= first_step)
        try:
            self._events = Events(str(workdir / TENSORBOARD), first_step + 1)
        except (ImportError, FileExistsError, NotADirectoryError) as error:
            say(f"no TensorBoard events in {workdir}: {error}")
            self._events = None
        self._tracker = tracker() if tracker else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends a line and its points."""
        if not self._active:
            return
        self._journal.write({"step": step} | values)
        if self._events:
            self._events.write(step, values)
        if self._tracker:
            self._tracker.write(step, values)

    def close(self) -> None:
        if self._active:
            self._journal.close()
            for other in filter(None, (self._events, self._tracker)):
                other.close()


class ProgressLog:
    """What a run says of its steps and evaluations: a line of means every few steps in metrics.jsonl, TensorBoard and aloud.

    Args:
      first_step: what a killed run wrote after it is dropped.
      steps: the metrics of each step since the last line, which checkpoints keep; added to, and cleared by a line.
      last_step: of the whole run.
      learning_rate: updates that are done → the next one's rate.
      mfu: FLOP/s → share of the devices' peak.
      derived: means → further ones.
      trials: names of those that are trained together, whose values are arrays [trials].
      tracker: see `Metrics`.
    """

    def __init__(
        self,
        workdir: Path,
        first_step: int,
        steps: list[dict[str, np.ndarray]],
        *,
        last_step: int,
        learning_rate: Callable[[int], Any],
        mfu: Callable[[float], float],
        derived: Callable[[dict[str, float]], dict[str, float]],
        trials: Sequence[str] = (),
        tracker: Callable[[], Any] | None = None,
    ):
        self._metrics, self._steps, self._last_step = Metrics(workdir, first_step, tracker), steps, last_step
        self._learning_rate, self._mfu, self._derived, self._trials = learning_rate, mfu, derived, trials
        self._costs: list[tuple[int, float]] = []  # of the steps since the last line that this start has made

    def add(self, values: dict[str, np.ndarray], cost: tuple[int, float]) -> None:
        """A step's metrics, and how many ids and FLOPs it took. A line is of steps with the same metrics."""
        if self._steps and self._steps[-1].keys() != values.keys():
            self._steps.clear()
        self._steps.append(values)
        self._costs.append(cost)

    def write_means(self, step: int, seconds: float, goodput: float) -> dict[str, float]:
        """A line of the means since the last one, over the steps whose updates were made; returns them.

        Args:
          seconds: that the steps took which this start has made of them.
        """
        series = {name: np.array([values[name] for values in self._steps]) for name in self._steps[-1]}
        made = series.pop("made") > 0
        logged = [name for name in series if name not in GUARD_METRICS and made.any()]
        means = {name: float(series[name][made].mean()) for name in logged}
        ids, flops = np.sum(self._costs, axis=0)
        means |= self._derived(means) if means else {}
        means |= {
            "skipped": float(np.sum(~made)),
            "learning_rate": float(self._learning_rate(step - 1)),
            "tokens_per_second": float(ids / seconds),
            "mfu": self._mfu(float(flops / seconds)),
            "goodput": goodput,
        }
        of_trials = {
            f"loss/{name}": float(series["loss"][:, i][made[:, i]].mean())
            for i, name in enumerate(self._trials)
            if made[:, i].any()
        }
        self._metrics.write(step, {f"train/{name}": value for name, value in (means | of_trials).items()})
        say(_progress(step, self._last_step, means, seconds / len(self._costs)))
        self._steps.clear()
        self._costs.clear()
        return means

    def write_evaluation(self, step: int, values: dict[str, Any]) -> dict[str, float]:
        """A line of what an evaluation gave; returns it, of several trials the medians."""
        medians = {name: float(np.median(value)) for name, value in values.items()}
        of_trials = {
            f"{name}/{trial}": float(value[i]) for name, value in values.items() for i, trial in enumerate(self._trials)
        }
        self._metrics.write(step, medians | of_trials)
        say(f"step {step:,}: " + ", ".join(f"{name} {value:.4f}" for name, value in medians.items()))
        return medians

    def close(self) -> None:
        self._metrics.close()


def _progress(step: int, steps: int, values: dict[str, float], seconds: float) -> str:
    accuracy = f"| accuracy {values['accuracy']:.3f} " if "accuracy" in values else ""
    return (
        f"step {step:,}/{steps:,} | loss {values.get('loss', float('nan')):.4f} {accuracy}"
        f"| lr {values['learning_rate']:.2e} | {values['tokens_per_second']:,.0f} tokens/s "
        f"| MFU {values['mfu']:.1%} | {duration(seconds * (steps - step))} left"
    )


def duration(seconds: float) -> str:
    """5025 → '1:23:45'"""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}:{minutes:02d}:{seconds:02d}" if days else f"{hours}:{minutes:02d}:{seconds:02d}"
