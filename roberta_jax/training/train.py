"""The one loop: restore, step, log, evaluate, save, and all that again until the end or a signal.

`job.Job` is what a kind of training gives it, `_train` is the loop, and below it are its parts in the order in which it calls
them.
"""

import errno
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from roberta_jax import __version__, storage
from roberta_jax.config import plain
from roberta_jax.errors import UserError
from roberta_jax.hardware import cautions, unseen_gpu
from roberta_jax.model.flops import Peak
from roberta_jax.output import to_json, typed_command
from roberta_jax.training import provenance
from roberta_jax.training.checkpoint import Checkpoints
from roberta_jax.training.config import RunConfig
from roberta_jax.training.distributed import Stop, alone_in
from roberta_jax.training.early_stopping import out_of_patience, update_best
from roberta_jax.training.guard import GuardConfig, describe_unsound, gave_up, must_rewind
from roberta_jax.training.incidents import Incidents
from roberta_jax.training.job import Job
from roberta_jax.training.ledger import Ledger
from roberta_jax.training.logging import ProgressLog, Tracker, recovered, say
from roberta_jax.training.notes import Memory
from roberta_jax.training.profile import Profile
from roberta_jax.training.sharding import make_mesh
from roberta_jax.training.step import StepMetrics, TrainStep, build_step, place, require_finite
from roberta_jax.training.workdir import CHECKPOINTS, COMMAND_TXT, CONFIG_JSON


def train(job: Job, config: RunConfig, workdir: Path, stop: Stop | None = None) -> dict | None:
    """Runs a job to its last step, from its newest whole checkpoint if there is one.

    Args:
      stop: of a command that goes on after the run, and has to know of a signal that came too late to end this.

    Returns:
      The state after the last step; None where a signal ended the run before it.

    Raises:
      UserError: the run cannot go on; its last whole checkpoint is as it was.
    """
    try:
        with alone_in(workdir), ExitStack() as closing:
            return _train(job, config, workdir, closing, stop or closing.enter_context(Stop()))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"{workdir}: the disk is full; make room, the same command goes on from the last checkpoint.") from None


@dataclass
class Position:
    """Where a run is, all of which its checkpoints hold."""

    step: int  # updates done
    batch: int  # the next batch's number, which is `step` until a rewind
    state: dict
    memory: Memory
    held: str  # `Job.held` of the last batch, or of the first
    counted: int  # the last step's next batch, up to which `Job.keep` was asked


@dataclass(frozen=True)
class LaunchedStep:
    """A step that the device may not have ended yet."""

    step: int
    batch: int  # its batch's number
    metrics: StepMetrics
    cost: tuple[int, float]  # see `Job.cost`

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Its metrics; waits for it."""
        return self.metrics.to_host()

    @property
    def unsound(self) -> int:
        """Unsound steps in a row up to this one; 0 of trials, none of which can go back without the others."""
        in_a_row = self.values["in_a_row"]
        return 0 if np.ndim(in_a_row) else int(in_a_row)


def _train(job: Job, config: RunConfig, workdir: Path, closing: ExitStack, stop: Stop) -> dict | None:
    mesh = make_mesh(config.fsdp, len(job.trials) or 1)
    train_step = _build_step(job, config, mesh)

    workdir.mkdir(parents=True, exist_ok=True)
    incidents = Incidents(workdir)
    ledger = Ledger(workdir, incidents.reporter("stall"))
    closing.callback(ledger.close)  # in a notebook, say, the process outlives a run that an error ends
    checkpoints = _open_checkpoints(job, config, workdir, incidents)

    start = partial(_start, job, train_step, checkpoints, incidents)
    run = start()
    _note_config(config, workdir, run.step)
    open_log = _log_of(job, config, workdir)
    log = open_log(run.step, run.memory.steps)
    closing.callback(lambda: log.close())
    _say_devices(job, train_step)

    def evaluate() -> dict[str, float]:
        """Measures the parameters of `run`, and keeps them if they are the best so far and the state has a place for these."""
        with ledger("evaluate"):
            values = job.evaluate(run.state["params"], mesh)
        if job.metric:
            run.state |= update_best(run.state, values[job.metric], run.step, job.patience, config.eval_every)
        return log.write_evaluation(run.step, values)

    batches = job.train_batches(run.batch, mesh) if run.step < config.steps else iter(())
    ledger.begin(run.step)
    if _lacks_evaluation(config, checkpoints, run.step):
        checkpoints.add_metrics(run.step, evaluate())

    # The host is a step ahead: it launches one, and while the device is busy with that, waits for the one before and logs it.
    profile = Profile(workdir, config.profile, run.step)
    launch = profile.of(_launcher(train_step, ledger))
    finished: LaunchedStep | None = None  # the last one that was waited for
    launched: LaunchedStep | None = None  # the last one, until it is waited for
    kept = False  # whether the last checkpoint that was written is kept for good
    postponed, ended = False, _has_ended(job, config, run)
    while run.step < config.steps and not ended:
        # Launch the next step.
        with ledger("data"):
            batch = next(batches)
        if (held := job.held(run.batch)) != run.held:
            run.state["guard"], run.held = train_step.new_guard(), held
        run.step, run.batch, incidents.step = run.step + 1, run.batch + 1, run.step + 1
        run.state, metrics = launch(run.state, batch)

        # Wait for the one before, and log it.
        finished, launched = launched, LaunchedStep(run.step, run.batch - 1, metrics, job.cost(batch))
        rewinding = finished is not None and _wait_and_log(finished, job, config, log, incidents, ledger)

        # If something is due at this step, wait for it too: whether it was sound decides what is done.
        stopping, evaluating = stop.requested(), _is_evaluated(config, run.step)
        failed = checkpoints.failed()
        run.memory.keep |= job.keep(run.step, run.counted, run.batch) or (failed and kept)
        run.counted = run.batch
        run.memory.due |= failed or run.memory.keep or run.step % config.checkpoint_every == 0 or run.step == config.steps
        saving = run.memory.due and checkpoints.ready()
        if not rewinding and (evaluating or saving or stopping):
            finished, launched = launched, None
            rewinding = _wait_and_log(finished, job, config, log, incidents, ledger)

        # Go back, after too many unsound steps in a row.
        if rewinding:
            run, launched = _rewind(finished, run.memory, config.guard, start, checkpoints, incidents, ledger), None
            log.close()
            log = open_log(run.step, run.memory.steps)
            batches = job.train_batches(run.batch, mesh)
            continue

        # Evaluate. A signal does not wait for it: the next start evaluates, unless the state is to hold the best by the metric.
        evaluated, postponed = None, evaluating and stopping and not job.metric
        if evaluating and not postponed:
            evaluated, ended = evaluate(), _has_ended(job, config, run)

        # Save. An unsound state is saved at the end alone, for the next start; a rewind goes back to planned checkpoints alone.
        last = stopping or ended or run.step == config.steps
        if last or (saving and not finished.unsound):
            planned = not finished.unsound and (run.memory.due or ended)
            with ledger("checkpoint"):
                kept = _save(job, run, checkpoints, evaluated, planned, last)
        if stopping:
            break

    with ledger("checkpoint"):
        checkpoints.close()
    profile.close()
    ledger.save(run.step)
    say(ledger.close())

    # A signal, patience or the last step has ended the run.
    if postponed or (run.step < config.steps and not ended):
        asked = stop.signal or "a signal on another host"
        say(f"{asked}: saved step {run.step:,} in {checkpoints.folder}; the same command goes on from there.")
        return None
    if run.step < config.steps:
        say(f"step {run.step:,}: {job.metric} was greatest {job.patience} evaluations ago or more; stopped early")
    return run.state


def _build_step(job: Job, config: RunConfig, mesh: Mesh) -> TrainStep:
    trials, rates = job.trials, None
    if trials:
        rates = np.array([trial.learning_rate / config.optimizer.learning_rate for trial in trials], np.float32)
    return build_step(
        job.init,
        job.loss,
        config.optimizer,
        config.steps,
        mesh,
        rows=job.rows,
        microbatch_size=config.microbatch_size,
        guard=config.guard,
        seed=np.array([trial.seed for trial in trials]) if trials else config.seed,
        rates=rates,
        keep_best=bool(job.metric),
        schedule=config.own_rates(),
    )


def _open_checkpoints(job: Job, config: RunConfig, workdir: Path, incidents: Incidents) -> Checkpoints:
    """Raises a UserError where the run has done more steps than it is to do."""
    lower_is_better = "" if job.metric else "valid/loss"  # the best by a metric is kept in the state
    report = incidents.reporter("checkpoint")
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.keep_checkpoints, lower_is_better, report)
    incidents.step = checkpoints.latest_step() or 0
    if incidents.step > config.steps:
        raise UserError(f"{checkpoints.folder} holds step {incidents.step}, past config.steps {config.steps}: nothing to do.")
    return checkpoints


def _start(
    job: Job, train_step: TrainStep, checkpoints: Checkpoints, incidents: Incidents, last: int | None = None
) -> Position:
    """The position of the newest whole checkpoint, planned and not past `last` if that is given, or of the beginning."""
    damaged = partial(incidents.write, "damaged checkpoint")
    step, state = checkpoints.restore_newest(train_step.abstract, damaged, last, planned=last is not None)
    if state is not None:
        notes = checkpoints.notes(step).memory
        memory = Memory.from_json(notes) if notes else Memory()
        memory.keep &= not checkpoints.notes(step).planned
    elif job.continued:
        state, memory = job.continued(train_step.abstract)
        step, memory.keep = int(state["step"]), False
    else:
        state, initial, memory = train_step.init_state(), job.initial(), Memory()
        require_finite(initial)
        state["params"] |= place(initial, train_step.abstract["params"], bool(job.trials))
    job.begin(memory.data)
    batch = step if job.trials else int(state["batch"])
    return Position(step, batch, state, memory, memory.data.get("held") or job.held(batch), batch)


def _note_config(config: RunConfig, workdir: Path, first_step: int) -> None:
    """Writes config.json, with our version, and command.txt; a run that resumes says so, and which fields have changed."""
    if first_step:
        say(f"resuming from step {first_step:,}")
    if jax.process_index():
        return
    path, fields = workdir / CONFIG_JSON, json.loads(to_json(plain(config)))
    before = recovered(path, storage.parse_json, {})
    for name in sorted(fields) if first_step and before else ():
        if fields[name] != before.get(name):
            say(f"config.{name} was {before.get(name)} when this run began and is {fields[name]} now")
    storage.write_json(path, fields | {"version": __version__})
    if command := typed_command():
        storage.write_text(workdir / COMMAND_TXT, f"{command}\n")


def _log_of(job: Job, config: RunConfig, workdir: Path) -> Callable[[int, list], ProgressLog]:
    """(first step, metrics of the steps since the last line) → the run's log from there on."""
    return partial(
        ProgressLog,
        workdir,
        last_step=config.steps,
        learning_rate=config.rates(),
        mfu=Peak(job.dtype, say).mfu,
        derived=job.derived,
        trials=[trial.name for trial in job.trials],
        tracker=partial(Tracker, config.tracker, workdir, provenance.fields(config, without=())) if config.tracker else None,
    )


def _say_devices(job: Job, train_step: TrainStep) -> None:
    """How large the model is, on what it runs, and what should be known of that."""
    device, parameters = jax.devices()[0], sum(x.size for x in jax.tree.leaves(train_step.abstract["params"]))
    say(f"{parameters:,} parameters on {jax.device_count()} × {device.device_kind}, {jax.process_count()} host(s)")
    for sentence in cautions(device, job.dtype, jax.__version_info__):
        say(sentence)
    if sentence := unseen_gpu(device.platform, jax.__version__):
        say(f"! {sentence}")


def _lacks_evaluation(config: RunConfig, checkpoints: Checkpoints, step: int) -> bool:
    """Whether a signal came in a step that was to be evaluated, so that its checkpoint has no metrics."""
    if not step or not _is_evaluated(config, step):
        return False
    notes = checkpoints.notes(step)
    return notes.memory is not None and notes.metrics is None


def _is_evaluated(config: RunConfig, step: int) -> bool:
    return step % config.eval_every == 0 or step == config.steps


def _has_ended(job: Job, config: RunConfig, run: Position) -> bool:
    """Whether patience has ended the run, of trials that of all."""
    if not job.patience:
        return False
    return bool(np.all(out_of_patience(run.state["best"], run.step, job.patience, config.eval_every)))


def _launcher(train_step: TrainStep, ledger: Ledger) -> Callable[[dict, dict], tuple[dict, StepMetrics]]:
    """(state, batch) → (the state after a step, its metrics), neither waited for; a batch of a new shape compiles the step."""
    compiled: dict[tuple, jax.stages.Compiled] = {}

    def launch(state: dict, batch: dict) -> tuple[dict, StepMetrics]:
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in compiled:
            before = ledger.seconds["compile"]
            with ledger("compile"):
                compiled[shapes] = train_step.compile(batch)
            seconds, microbatches = ledger.seconds["compile"] - before, train_step.microbatches_of(batch)
            say(f"compiled the step for {batch['input_ids'].shape} in {seconds:.1f} s, {microbatches} microbatches")
        return compiled[shapes](state, batch, *train_step.constants)

    return launch


def _wait_and_log(
    launched: LaunchedStep, job: Job, config: RunConfig, log: ProgressLog, incidents: Incidents, ledger: Ledger
) -> bool:
    """Waits for a step and logs its metrics; returns whether the run has to go back before it."""
    step, values = launched.step, launched.values
    log.add(values, launched.cost)
    if np.any(values["in_a_row"]):
        kind, sentence, figures = describe_unsound(values)
        incidents.write(kind, step, sentence, **figures, batch=launched.batch, rows=job.rows_of(launched.batch))
    if step % config.log_every == 0 or step == config.steps:
        means = log.write_means(step, ledger.lap(), ledger.goodput)
        ledger.save(step)
        if amiss := job.watch(step, means):
            kind, sentence = amiss
            incidents.write(kind, step, sentence)
    return must_rewind(config.guard, launched.unsound, bool(np.all(values["made"])))


def _save(job: Job, run: Position, checkpoints: Checkpoints, metrics: dict | None, planned: bool, wait: bool) -> bool:
    """Saves where a run is; returns whether that is kept for good."""
    if planned:
        run.memory.due, run.memory.rewinds = False, 0
    run.memory.data = job.note(run.batch)
    checkpoints.save(run.step, run.state, metrics, planned, run.memory.to_json(), wait)
    keep, run.memory.keep = run.memory.keep, run.memory.keep and not planned
    return keep and planned


def _rewind(
    finished: LaunchedStep,
    memory: Memory,
    guard: GuardConfig,
    start: Callable[..., Position],
    checkpoints: Checkpoints,
    incidents: Incidents,
    ledger: Ledger,
) -> Position:
    """Goes back before the unsound steps, the last of which is `finished`, and on with batches that no step has had.

    The step after it had been launched by then, unless something was due at `finished`. In either case its batch is left out
    as if it had been, so that a run does not depend on when a signal came.

    Raises:
      UserError: the run has gone back often enough.
    """
    sound, reached, batch = finished.step - finished.unsound, finished.step + 1, finished.batch + 2
    if memory.rewinds >= guard.rewinds:
        checkpoints.delete_past(sound)
        checkpoints.close()
        raise gave_up(guard, sound + 1, finished.unsound, memory.rewinds, checkpoints.newest_planned())
    run = start(last=sound)
    run.batch, run.memory.rewinds = batch, memory.rewinds + 1
    run.state["batch"] = jax.device_put(np.int32(batch), run.state["batch"].sharding)
    checkpoints.delete_past(run.step)
    what = f"{finished.unsound} unsound steps in a row: back to step {run.step:,}, and on with batch {batch:,}"
    incidents.write("rewind", reached, what, batch=batch)
    ledger.lose(reached, run.step)
    ledger.lap()
    return run
