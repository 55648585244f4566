"""The one loop: restore, step, log, evaluate, save, and all that again until the end or a signal."""

import dataclasses
import itertools
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roberta_jax.data.pipeline import on_mesh
from roberta_jax.errors import UserError
from roberta_jax.model.flops import peak_flops
from roberta_jax.training.checkpoint import Checkpoints
from roberta_jax.training.evaluate import evaluate, make_eval_step
from roberta_jax.training.logging import Metrics, Stopwatch, duration, say
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule
from roberta_jax.training.sharding import batch_sharding, local_rows, make_mesh
from roberta_jax.training.step import (
    Loss,
    abstract_state,
    accumulation,
    compile_train_step,
    dropout_key,
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

    def __post_init__(self):
        for name in ("steps", "batch_size", "fsdp", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"config.{name} is {getattr(self, name)}; expected 1 or more.")


@dataclass(frozen=True)
class Job:
    """What pretraining and fine-tuning do not share."""

    init: Callable[[jax.Array], Any]  # key → parameters
    loss: Loss
    train_batches: Callable[[int, np.ndarray], Iterator[dict]]  # (first step, this host's rows of a batch) → batches
    valid_batches: Callable[[int, np.ndarray], Iterator[dict]]  # (rows of a batch, this host's) → the split once
    initial: dict | None  # parameters to begin with, in place of `init`'s of the same names
    tokens_per_step: int
    flops_per_step: float  # that the model needs


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


def train(job: Job, config: RunConfig, workdir: Path) -> Any | None:
    """Runs a job to its last step, from its newest checkpoint if there is one.

    Returns:
      The parameters of the last step; None where a signal ended the run before it.
    """
    mesh = make_mesh(config.fsdp)
    microbatches = accumulation(config.batch_size, config.microbatch_size, mesh)
    optimizer, learning_rate = make_optimizer(config.optimizer, config.steps), schedule(config.optimizer, config.steps)
    abstract = abstract_state(job.init, optimizer, mesh)
    stop = _Stop()
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints, "valid/loss")
    first_step = checkpoints.latest_step() or 0
    if first_step > config.steps:
        raise UserError(f"{checkpoints.folder} holds step {first_step}, past config.steps {config.steps}: nothing to do.")
    if first_step:
        say(f"resuming from step {first_step:,}")
        state = checkpoints.restore(first_step, abstract)
    else:
        state = init_state(job.init, optimizer, config.seed, abstract)
        state["params"] |= place(job.initial or {}, abstract["params"])
    _note_config(config, workdir, first_step)

    rows = config.batch_size // microbatches
    eval_step, eval_rows = make_eval_step(job.loss), local_rows(mesh, rows)

    def valid_metrics(params: Any) -> dict[str, float]:
        means = evaluate(eval_step, params, on_mesh(job.valid_batches(rows, eval_rows), batch_sharding(mesh)))
        return {f"valid/{name}": value for name, value in (means | {"perplexity": np.exp(means["loss"])}).items()}

    metrics, peak = Metrics(workdir, first_step), peak_flops()
    say(f"{sum(x.size for x in jax.tree.leaves(abstract['params'])):,} parameters on {_devices()}")
    key = dropout_key(config.seed)
    batches = on_mesh(job.train_batches(first_step, local_rows(mesh, config.batch_size)), batch_sharding(mesh))
    if first_step < config.steps:
        first = next(batches)
        batches = itertools.chain([first], batches)
        started = time.perf_counter()
        train_step = compile_train_step(make_train_step(job.loss, optimizer, microbatches), abstract, first, key, mesh)
        say(f"compiled the step in {time.perf_counter() - started:.1f} s, {microbatches} microbatches")

    watch, interval, pending = Stopwatch(), [], None

    def settle() -> None:
        """Takes in the last step's metrics; waits for that step alone."""
        if pending is None:
            return
        step, values = pending
        interval.append(jax.device_get(values))
        if step % config.log_every == 0 or step == config.steps:
            seconds = watch.lap() / len(interval)
            means = {f"train/{name}": float(np.mean([values[name] for values in interval])) for name in values}
            speed = {
                "train/learning_rate": float(learning_rate(step - 1)),
                "train/tokens_per_second": job.tokens_per_step / seconds,
                "train/mfu": job.flops_per_step / seconds / peak,
            }
            metrics.write(step, means | {"train/perplexity": float(np.exp(means["train/loss"]))} | speed)
            say(_progress(step, config.steps, means | speed, seconds))
            interval.clear()

    step = first_step
    for step in range(first_step + 1, config.steps + 1):
        state, values = train_step(state, next(batches), key)
        settle()
        pending = step, values
        stopping = stop.signal or checkpoints.reached_preemption(step)
        evaluating = step % config.eval_every == 0 or step == config.steps
        saving = step % config.checkpoint_every == 0 or step == config.steps or stopping
        if not (evaluating or saving):
            continue
        settle()
        pending = None
        watch.pause()
        evaluated = None
        if evaluating and not stopping:
            evaluated = valid_metrics(state["params"])
            metrics.write(step, evaluated)
            say(f"step {step:,}: " + ", ".join(f"{name} {value:.4f}" for name, value in evaluated.items()))
        if saving:
            checkpoints.save(step, state, evaluated)
        watch.resume()
        if stopping:
            break
    checkpoints.close()
    metrics.close()
    stop.release()
    if step < config.steps:
        say(f"{stop.signal or 'preemption'}: saved step {step:,} in {checkpoints.folder}; the same command goes on from there.")
        return None
    return state["params"]


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
    return (
        f"step {step:,}/{steps:,} | loss {values['train/loss']:.4f} | accuracy {values['train/accuracy']:.3f} "
        f"| lr {values['train/learning_rate']:.2e} | {values['train/tokens_per_second']:,.0f} tokens/s "
        f"| MFU {values['train/mfu']:.1%} | {duration(seconds * (steps - step))} left"
    )
