"""The one loop: restore, step, log, evaluate, save, and all that again until the end or a signal."""

import dataclasses
import errno
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from roberta_jax import __version__, storage
from roberta_jax.errors import UserError, check
from roberta_jax.hardware import cautions
from roberta_jax.model.flops import Peak
from roberta_jax.output import to_json
from roberta_jax.training.checkpoint import Checkpoints
from roberta_jax.training.distributed import Stop, alone_in, whole
from roberta_jax.training.guard import GuardConfig, gave_up
from roberta_jax.training.incidents import Incidents
from roberta_jax.training.ledger import Ledger
from roberta_jax.training.logging import Metrics, duration, recovered, say
from roberta_jax.training.notes import Memory
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer, schedule
from roberta_jax.training.sharding import make_mesh, map_paths
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
from roberta_jax.training.workdir import CHECKPOINTS, COMMAND_TXT, CONFIG_JSON


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
    guard: GuardConfig = field(default_factory=GuardConfig)

    # From 1 on, and from 0 on; the largest is what an array's int32 holds.
    POSITIVE: ClassVar = ("steps", "batch_size", "fsdp", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints")
    NOT_NEGATIVE: ClassVar = ("microbatch_size",)

    def __post_init__(self):
        for least, names in ((1, self.POSITIVE), (0, self.NOT_NEGATIVE)):
            for name in names:
                check(least <= getattr(self, name) < 2**31, name, getattr(self, name), f"{least} or more, and less than 2³¹")
        check(0 <= self.seed < 2**32, "seed", self.seed, "0 or more, and less than 2³²")


@dataclass(frozen=True)
class Trial:
    """One of several runs that are trained together: a seed and a learning rate."""

    seed: int
    learning_rate: float
    name: str


JUDGED = ("in_a_row", "loss_score", "norm_ratio")  # of a step's metrics, what is not logged


@dataclass(frozen=True)
class Job:
    """What pretraining and fine-tuning do not share."""

    init: Callable[[jax.Array], Any]  # key → parameters
    loss: Loss
    train_batches: Callable[[int, Mesh], Iterator[dict]]  # (number of the first, mesh) → batches laid out on it
    evaluate: Callable[[Any, Mesh], dict[str, Any]]  # (parameters, mesh) → "valid/loss" and others; of trials, arrays
    rows: int  # of a batch: config.batch_size, or a few more that weigh nothing
    cost: Callable[[dict], tuple[int, float]]  # a batch → (its ids, the FLOPs that a training step on it needs)
    initial: Callable[[], dict]  # of a run that does not resume: parameters in place of `init`'s of the same names
    dtype: str = "float32"  # of the arithmetic, by whose peak MFU is measured
    derived: Callable[[dict[str, float]], dict[str, float]] = lambda means: {}  # from a step's means, further ones
    metric: str = ""  # the state keeps the parameters where this was greatest; "": checkpoints, where valid/loss was least
    patience: int = 0  # evaluations without a better one that end the run; 0: none do
    rows_of: Callable[[int], list[int]] = lambda number: []  # a batch's number → its rows of the corpus, for incidents
    trials: tuple[Trial, ...] = ()  # stacked on an axis in front of all arrays; (): one run, without that axis


def train(job: Job, config: RunConfig, workdir: Path) -> dict | None:
    """Runs a job to its last step, from its newest whole checkpoint if there is one.

    Returns:
      The state after the last step; None where a signal ended the run before it.

    Raises:
      UserError: the run cannot go on; its last whole checkpoint is as it was.
    """
    try:
        with alone_in(workdir):
            return _train(job, config, workdir)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{workdir}: the disk is full; make room, the same command goes on from the last checkpoint.") from None


def _train(job: Job, config: RunConfig, workdir: Path) -> dict | None:
    trials = job.trials
    mesh = make_mesh(config.fsdp, len(trials) or 1)
    microbatches = accumulation(job.rows, config.microbatch_size, mesh)
    optimizer, learning_rate = make_optimizer(config.optimizer, config.steps), schedule(config.optimizer, config.steps)
    abstract = abstract_state(job.init, optimizer, mesh, len(trials), keep_best=bool(job.metric))
    workdir.mkdir(parents=True, exist_ok=True)
    incidents = Incidents(workdir)
    ledger = Ledger(workdir, lambda sentence: incidents.write("stall", step, sentence))
    stop = Stop()
    lower_is_better = "" if job.metric else "valid/loss"
    checkpoints = Checkpoints(
        workdir / CHECKPOINTS,
        config.keep_checkpoints,
        lower_is_better,
        lambda sentence: incidents.write("checkpoint", step, sentence),
    )

    def start(last: int | None = None) -> tuple[int, dict, Memory]:
        """(step, state, memory) of the newest whole checkpoint, planned and not past `last` if given, or of the beginning."""
        damaged = lambda *what: incidents.write("damaged checkpoint", *what)  # noqa: E731
        found, state = checkpoints.restore_newest(abstract, damaged, last, planned=last is not None)
        if state is not None:
            memory = checkpoints.notes(found).memory
            return found, state, Memory.from_json(memory) if memory else Memory()
        seeds = np.array([trial.seed for trial in trials]) if trials else config.seed
        state = init_state(job.init, optimizer, seeds, abstract)
        initial = job.initial()
        _require_finite(initial)
        state["params"] |= place(initial, abstract["params"], bool(trials))
        return found, state, Memory()

    step = checkpoints.latest_step() or 0
    if step > config.steps:
        raise UserError(f"{checkpoints.folder} holds step {step}, past config.steps {config.steps}: nothing to do.")
    first_step, state, memory = start()
    if first_step:
        say(f"resuming from step {first_step:,}")
    _note_config(config, workdir, first_step)

    metrics, peak = Metrics(workdir, first_step), Peak(job.dtype, say)
    say(f"{sum(x.size for x in jax.tree.leaves(abstract['params'])):,} parameters on {_devices()}")
    for sentence in cautions(jax.devices()[0], job.dtype, jax.__version_info__):
        say(sentence)
    update = make_train_step(job.loss, optimizer, microbatches, mesh, config.guard)
    if trials:
        update = jax.vmap(update)
        rates = np.array([trial.learning_rate / config.optimizer.learning_rate for trial in trials], np.float32)
        constants = np.array([trial.seed for trial in trials], np.uint32), rates
    else:
        constants = (np.uint32(config.seed),)
    names: list[str] = []  # of a step's metrics

    def train_step(state: dict, *inputs: Any) -> tuple[dict, jax.Array]:
        """`update` with its metrics in one array: a host asks for each array by itself."""
        state, values = update(state, *inputs)
        names[:] = sorted(values)
        return state, jnp.stack([values[name].astype(jnp.float32) for name in names])

    compiled: dict[tuple, Callable] = {}  # by the batch's shape
    costs: list[tuple[int, float]] = []  # of the steps since the last line that this start has made
    pending, in_a_row = None, 0  # the last step's metrics, not waited for yet; unsound steps up to the last that was

    def compiled_for(batch: dict) -> Callable:
        shape = batch["input_ids"].shape
        if shape not in compiled:
            with ledger("compile"):
                before = ledger.seconds["compile"]
                compiled[shape] = compile_train_step(train_step, abstract, batch, *constants)
            seconds = ledger.seconds["compile"] - before
            say(f"compiled the step for {shape} in {seconds:.1f} s, {microbatches} microbatches")
        return compiled[shape]

    def settle() -> bool:
        """Takes in the last step's metrics, waiting for that step alone; whether the run has to go back."""
        nonlocal in_a_row, pending
        if pending is None:
            return False
        (step, batch_number, values, cost), pending = pending, None
        values = dict(zip(names, np.asarray(values)))
        memory.steps.append(values)
        costs.append(cost)
        in_a_row = 0 if trials else int(values["in_a_row"])
        if np.any(values["in_a_row"]):
            _report_unsound(incidents, job, step, batch_number, values)
        if step % config.log_every == 0 or step == config.steps:
            log(step)
        return in_a_row >= config.guard.spike_steps and bool(config.guard.rewinds or not values["made"])

    def log(step: int) -> None:
        """A line of the means since the last one."""
        seconds = ledger.lap()
        steps = [values for values in memory.steps if values.keys() == memory.steps[-1].keys()]
        series = {name: np.array([values[name] for values in steps]) for name in steps[-1]}
        made = series.pop("made") > 0
        means = {name: float(values[made].mean()) for name, values in series.items() if name not in JUDGED and made.any()}
        ids, flops = np.sum(costs, axis=0)
        means |= job.derived(means) if means else {}
        means |= {
            "skipped": float(np.sum(~made)),
            "learning_rate": float(learning_rate(step - 1)),
            "tokens_per_second": float(ids / seconds),
            "mfu": peak.mfu(float(flops / seconds)),
            "goodput": ledger.goodput,
        }
        apart = {f"loss/{trial.name}": float(series["loss"][:, i].mean()) for i, trial in enumerate(trials)}
        metrics.write(step, {f"train/{name}": value for name, value in (means | apart).items()})
        ledger.save(step)
        say(_progress(step, config.steps, means, seconds / len(costs)))
        memory.steps.clear()
        costs.clear()

    def evaluate(step: int) -> dict[str, float]:
        """Measures the parameters, and keeps them if they are the best so far and the state has a place for these."""
        with ledger("evaluate"):
            found = job.evaluate(state["params"], mesh)
        if job.metric:
            value, at = np.float32(found[job.metric]), np.full(len(trials), step, np.int32) if trials else np.int32(step)
            # A trial whose patience has ended waits for the others: its best is what it was alone.
            ended = _out_of_patience(job, state, (step - 1) // config.eval_every * config.eval_every, config.eval_every)
            value = np.where(ended, np.float32(-np.inf), value)
            state["best"] = best_so_far(state["best"], state["params"], value, at)
        evaluated = {name: float(np.median(value)) for name, value in found.items()}
        apart = {f"{name}/{trial.name}": float(value[i]) for name, value in found.items() for i, trial in enumerate(trials)}
        metrics.write(step, evaluated | apart)
        say(f"step {step:,}: " + ", ".join(f"{name} {value:.4f}" for name, value in evaluated.items()))
        return evaluated

    def next_batch() -> dict:
        with ledger("data"):
            return next(batches)

    def is_evaluated(step: int) -> bool:
        return step % config.eval_every == 0 or step == config.steps

    step, batch_number = first_step, first_step if trials else int(state["batch"])
    batches = job.train_batches(batch_number, mesh) if step < config.steps else iter(())
    ledger.begin(step)
    if step and is_evaluated(step) and (notes := checkpoints.notes(step)).memory is not None and notes.metrics is None:
        checkpoints.add_metrics(step, evaluate(step))  # a signal came in this step, which the next start makes up for
    owed = False
    done = bool(np.all(_out_of_patience(job, state, step, config.eval_every)))
    while step < config.steps and not done:
        step, batch_number, batch = step + 1, batch_number + 1, next_batch()
        state, values = compiled_for(batch)(state, batch, *constants)
        go_back, settled = settle(), step - 1
        pending = step, batch_number - 1, values, job.cost(batch)
        stopping, evaluating = stop.requested(), is_evaluated(step)
        memory.due |= checkpoints.failed() or step % config.checkpoint_every == 0 or step == config.steps
        saving = memory.due and checkpoints.ready()
        if not go_back and (evaluating or saving or stopping):
            go_back, settled = settle(), step
        if go_back:
            # The step behind the last unsound one was under way when that was known, unless this one was to be saved or
            # measured. Both go on alike, as a run must not hang on when a signal came.
            sound, reached, batch_number = settled - in_a_row, settled + 1, batch_number + (settled == step)
            if memory.rewinds >= config.guard.rewinds:
                checkpoints.delete_past(sound)
                checkpoints.close()
                raise UserError(gave_up(config.guard, sound + 1, in_a_row, memory.rewinds, checkpoints.newest_planned()))
            rewinds, pending = memory.rewinds + 1, None
            step, state, memory = start(last=sound)
            memory.rewinds = rewinds
            state["batch"] = jax.device_put(np.int32(batch_number), state["batch"].sharding)
            checkpoints.delete_past(step)
            what = f"{in_a_row} unsound steps in a row: back to step {step:,}, and on with batch {batch_number:,}"
            incidents.write("rewind", reached, what, batch=batch_number)
            ledger.lose(reached, step)
            costs.clear()
            ledger.lap()
            metrics.close()
            metrics = Metrics(workdir, step)
            batches = job.train_batches(batch_number, mesh)
            continue
        if not (evaluating or saving or stopping):
            continue
        evaluated, owed = None, evaluating and stopping and not job.metric  # a metric's best is kept in the state
        if evaluating and not owed:
            evaluated = evaluate(step)
            done = bool(np.all(_out_of_patience(job, state, step, config.eval_every)))
        last = stopping or done or step == config.steps
        if last or (saving and not in_a_row):  # what is unsound is kept for the next start alone
            planned = not in_a_row and (memory.due or done)
            if planned:
                memory.due, memory.rewinds = False, 0
            with ledger("checkpoint"):
                checkpoints.save(step, state, evaluated, planned, memory.to_json(), wait=last)
        if stopping:
            break
    with ledger("checkpoint"):
        checkpoints.close()
    metrics.close()
    stop.release()
    ledger.save(step)
    say(ledger.close())
    if owed or (step < config.steps and not done):
        asked = stop.signal or "a signal on another host"
        say(f"{asked}: saved step {step:,} in {checkpoints.folder}; the same command goes on from there.")
        return None
    if step < config.steps:
        say(f"step {step:,}: {job.metric} was greatest {job.patience} evaluations ago or more; stopped early")
    return state


def _report_unsound(incidents: Incidents, job: Job, step: int, batch_number: int, values: dict) -> None:
    names = ("loss", "gradient_norm", "parameter_norm", *JUDGED)
    number = {name: np.max(values[name]).item() for name in names}
    what = (
        f"loss {number['loss']:.4g}, {number['loss_score']:.3g} deviations above its median, "
        f"gradient norm {number['gradient_norm']:.3g}, {number['norm_ratio']:.3g} times its median"
    )
    kind, sentence = ("spike", what) if np.all(values["made"]) else ("skipped", f"the update was not made: {what}")
    incidents.write(kind, step, sentence, **number, batch=batch_number, rows=job.rows_of(batch_number))


def _require_finite(initial: dict) -> None:
    """Raises a UserError where parameters to begin with are no numbers."""

    def check(path: str, array: np.ndarray) -> None:
        if wrong := np.size(array) - int(np.isfinite(array).sum()):
            raise UserError(
                f"config.init_from: {wrong:,} of the {np.size(array):,} values of its {path} are NaN or infinite; take "
                "another model, or an earlier checkpoint of that one."
            )

    map_paths(check, initial)


def _out_of_patience(job: Job, state: dict, step: int, eval_every: int) -> np.ndarray | bool:
    """Whether the run, or of trials each, has ended at the evaluation of a step or at one before."""
    return bool(job.patience) and step - whole(state["best"]["step"]) >= job.patience * eval_every


def _note_config(config: RunConfig, workdir: Path, first_step: int) -> None:
    """Writes config.json, with our version, and command.txt, and says which fields have changed since the run began."""
    if jax.process_index():
        return
    path, fields = workdir / CONFIG_JSON, json.loads(to_json(dataclasses.asdict(config)))
    before = recovered(path, storage.parse_json, {})
    for name in sorted(fields) if first_step and before else ():
        if fields[name] != before.get(name):
            say(f"config.{name} was {before.get(name)} when this run began and is {fields[name]} now")
    storage.write_json(path, fields | {"version": __version__})
    storage.write_text(workdir / COMMAND_TXT, f"python -m roberta_jax.main {shlex.join(sys.argv[1:])}\n")


def _devices() -> str:
    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, {jax.process_count()} host(s)"


def _progress(step: int, steps: int, values: dict[str, float], seconds: float) -> str:
    accuracy = f"| accuracy {values['accuracy']:.3f} " if "accuracy" in values else ""
    return (
        f"step {step:,}/{steps:,} | loss {values.get('loss', float('nan')):.4f} {accuracy}"
        f"| lr {values['learning_rate']:.2e} | {values['tokens_per_second']:,.0f} tokens/s "
        f"| MFU {values['mfu']:.1%} | {duration(seconds * (steps - step))} left"
    )
