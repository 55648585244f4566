"""The one loop: restore, step, log, evaluate, save, and all that again until the end or a signal."""

import dataclasses
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from roberta_jax.errors import UserError
from roberta_jax.model.flops import peak_flops
from roberta_jax.training.checkpoint import Checkpoints
from roberta_jax.training.logging import Metrics, Stopwatch, duration, say
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule
from roberta_jax.training.sharding import make_mesh
from roberta_jax.training.step import (
    Loss,
    abstract_state,
    accumulation,
    best_so_far,
    compile_train_step,
    init_state,
    make_train_step,
    place,
)


@dataclass(frozen=True)
class RunConfig:
    """The fields that every job has."""

    steps: int = 500_000  # updates
    batch_size: int = 8_192  # rows of a global batch
    microbatch_size: int = 0  # rows that a device takes at once; 0: its whole share. The rest is accumulated
    seed: int = 0
    init_from: str = ""  # a workdir, a folder of transformers or fairseq, a hub name: parameters to begin with
    fsdp: int = 1  # devices over which parameters and optimizer state are spread
    log_every: int = 100  # steps
    eval_every: int = 5_000  # steps
    checkpoint_every: int = 5_000  # steps
    keep_checkpoints: int = 2  # the newest; the best is kept beside them
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    POSITIVE: ClassVar = ("steps", "batch_size", "fsdp", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints")

    def __post_init__(self):
        for name in self.POSITIVE:
            if getattr(self, name) < 1:
                raise UserError(f"config.{name} is {getattr(self, name)}; expected 1 or more.")


@dataclass(frozen=True)
class Trial:
    """One of several runs that are trained together: a seed and a learning rate."""

    seed: int
    learning_rate: float
    name: str


@dataclass(frozen=True)
class Job:
    """What pretraining and fine-tuning do not share."""

    init: Callable[[jax.Array], Any]  # key → parameters
    loss: Loss
    train_batches: Callable[[int, Mesh], Iterator[dict]]  # (first step, mesh) → batches laid out on it
    evaluate: Callable[[Any, Mesh], dict[str, Any]]  # (parameters, mesh) → "valid/loss" and others; of trials, arrays
    rows: int  # of a batch: config.batch_size, or a few more that weigh nothing
    cost: Callable[[dict], tuple[int, float]]  # a batch → (its ids, the FLOPs that a training step on it needs)
    initial: dict | None  # parameters to begin with, in place of `init`'s of the same names
    derived: Callable[[dict[str, float]], dict[str, float]] = lambda means: {}  # from a step's means, further ones
    metric: str = ""  # the state keeps the parameters where this was greatest; "": checkpoints, where valid/loss was least
    patience: int = 0  # evaluations without a better one that end the run; 0: none do
    trials: tuple[Trial, ...] = ()  # stacked on an axis in front of all arrays; (): one run, without that axis


class _Stop:
    """Turns the first SIGTERM or interrupt into a request to save and end; a second one ends at once."""

    def __init__(self):
        self.signal: str | None = None
        self._previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}

    def _request(self, number, frame) -> None:
        self.signal = signal.Signals(number).name
        self.release()

    def release(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def train(job: Job, config: RunConfig, workdir: Path) -> dict | None:
    """Runs a job to its last step, from its newest checkpoint if there is one.

    Returns:
      The state after the last step; None where a signal ended the run before it.
    """
    trials = job.trials
    mesh = make_mesh(config.fsdp, len(trials) or 1)
    microbatches = accumulation(job.rows, config.microbatch_size, mesh)
    optimizer, learning_rate = make_optimizer(config.optimizer, config.steps), schedule(config.optimizer, config.steps)
    abstract = abstract_state(job.init, optimizer, mesh, len(trials), keep_best=bool(job.metric))
    stop = _Stop()
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints, "" if job.metric else "valid/loss")
    first_step = checkpoints.latest_step() or 0
    if first_step > config.steps:
        raise UserError(f"{checkpoints.folder} holds step {first_step}, past config.steps {config.steps}: nothing to do.")
    if first_step:
        say(f"resuming from step {first_step:,}")
        state = checkpoints.restore(first_step, abstract)
    else:
        seeds = np.array([trial.seed for trial in trials]) if trials else config.seed
        state = init_state(job.init, optimizer, seeds, abstract)
        state["params"] |= place(job.initial or {}, abstract["params"], bool(trials))
    _note_config(config, workdir, first_step)

    metrics, peak = Metrics(workdir, first_step), peak_flops()
    say(f"{sum(x.size for x in jax.tree.leaves(abstract['params'])):,} parameters on {_devices()}")
    train_step = make_train_step(job.loss, optimizer, microbatches, mesh)
    if trials:
        train_step = jax.vmap(train_step)
        rates = np.array([trial.learning_rate / config.optimizer.learning_rate for trial in trials], np.float32)
        constants = np.array([trial.seed for trial in trials], np.uint32), rates
    else:
        constants = (np.uint32(config.seed),)
    compiled: dict[tuple, Callable] = {}  # by the batch's shape
    watch, interval, pending = Stopwatch(), [], None

    def compiled_for(batch: dict) -> Callable:
        shape = batch["input_ids"].shape
        if shape not in compiled:
            watch.pause()
            started = time.perf_counter()
            compiled[shape] = compile_train_step(train_step, abstract, batch, *constants)
            say(f"compiled the step for {shape} in {time.perf_counter() - started:.1f} s, {microbatches} microbatches")
            watch.resume()
        return compiled[shape]

    def settle() -> None:
        """Takes in the last step's metrics; waits for that step alone."""
        if pending is None:
            return
        step, values, cost = pending
        interval.append((jax.device_get(values), cost))
        if step % config.log_every == 0 or step == config.steps:
            seconds = watch.lap()
            series = {name: np.array([values[name] for values, _ in interval]) for name in values}
            means = {name: float(values.mean()) for name, values in series.items()}
            ids, flops = np.sum([cost for _, cost in interval], axis=0)
            means |= job.derived(means)
            means |= {
                "learning_rate": float(learning_rate(step - 1)),
                "tokens_per_second": float(ids / seconds),
                "mfu": float(flops / seconds / peak),
            }
            apart = {f"loss/{trial.name}": float(series["loss"][:, i].mean()) for i, trial in enumerate(trials)}
            metrics.write(step, {f"train/{name}": value for name, value in (means | apart).items()})
            say(_progress(step, config.steps, means, seconds / len(interval)))
            interval.clear()

    batches = job.train_batches(first_step, mesh) if first_step < config.steps else iter(())
    step, done = first_step, _out_of_patience(job, state, first_step, config.eval_every)
    while step < config.steps and not done:
        step += 1
        batch = next(batches)
        state, values = compiled_for(batch)(state, batch, *constants)
        settle()
        pending = step, values, job.cost(batch)
        stopping = stop.signal or checkpoints.reached_preemption(step)
        evaluating = step % config.eval_every == 0 or step == config.steps
        saving = step % config.checkpoint_every == 0 or step == config.steps or stopping
        if not (evaluating or saving):
            continue
        settle()
        pending = None
        watch.pause()
        evaluated = None
        if evaluating and (job.metric or not stopping):  # what the state keeps as the best depends on it
            found = job.evaluate(state["params"], mesh)
            if job.metric:
                value, at = np.float32(found[job.metric]), np.full(len(trials), step, np.int32) if trials else np.int32(step)
                state["best"] = best_so_far(state["best"], state["params"], value, at)
            evaluated = {name: float(np.median(value)) for name, value in found.items()}
            apart = {f"{name}/{trial.name}": float(value[i]) for name, value in found.items() for i, trial in enumerate(trials)}
            metrics.write(step, evaluated | apart)
            say(f"step {step:,}: " + ", ".join(f"{name} {value:.4f}" for name, value in evaluated.items()))
            done = _out_of_patience(job, state, step, config.eval_every)
        if saving or done:
            checkpoints.save(step, state, evaluated)
        watch.resume()
        if stopping:
            break
    checkpoints.close()
    metrics.close()
    stop.release()
    if step < config.steps and not done:
        say(f"{stop.signal or 'preemption'}: saved step {step:,} in {checkpoints.folder}; the same command goes on from there.")
        return None
    if step < config.steps:
        say(f"step {step:,}: {job.metric} was greatest {job.patience} evaluations ago or more; stopped early")
    return state


def _out_of_patience(job: Job, state: dict, step: int, eval_every: int) -> bool:
    return bool(job.patience) and bool(np.all(step - np.asarray(state["best"]["step"]) >= job.patience * eval_every))


def _note_config(config: RunConfig, workdir: Path, first_step: int) -> None:
    """Writes config.json and command.txt, and says which fields have changed since the run began."""
    path, fields = workdir / "config.json", json.loads(json.dumps(dataclasses.asdict(config)))
    if first_step and path.exists():
        before = json.loads(path.read_text())
        for name in sorted(fields):
            if fields[name] != before.get(name):
                say(f"config.{name} was {before.get(name)} when this run began and is {fields[name]} now")
    if jax.process_index() == 0:
        path.write_text(json.dumps(fields, indent=1) + "\n")
        (workdir / "command.txt").write_text(f"python -m roberta_jax.main {shlex.join(sys.argv[1:])}\n")


def _devices() -> str:
    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, {jax.process_count()} host(s)"


def _progress(step: int, steps: int, values: dict[str, float], seconds: float) -> str:
    accuracy = f"| accuracy {values['accuracy']:.3f} " if "accuracy" in values else ""
    return (
        f"step {step:,}/{steps:,} | loss {values['loss']:.4f} {accuracy}"
        f"| lr {values['learning_rate']:.2e} | {values['tokens_per_second']:,.0f} tokens/s "
        f"| MFU {values['mfu']:.1%} | {duration(seconds * (steps - step))} left"
    )
