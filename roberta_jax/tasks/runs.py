"""What one command of fine-tuning runs: tasks, the grid, seeds, as many together as memory holds, and the table of results."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.preparation.plan import key
from roberta_jax.tasks import finetune, predictions
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tasks.definitions import GLUE, TASKS
from roberta_jax.tasks.examples import Splits, read_splits
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.training import provenance
from roberta_jax.training.distributed import Stop, require_same, said_by_any, wait_for_all
from roberta_jax.training.guard import GaveUp
from roberta_jax.training.job import Trial
from roberta_jax.training.ledger import seconds_of
from roberta_jax.training.logging import recovered, say
from roberta_jax.training.workdir import METRICS_TEST_JSON, RESULTS_JSON, RESULTS_MD, TASK_JSON, read_metrics

GRID = {"learning_rate": (1e-5, 2e-5, 3e-5), "batch_size": (16, 32)}  # the paper, Table 10
FROM_MNLI = ("rte", "stsb", "mrpc")
COLLAPSED = 0.98  # of the loss of guessing by how often each label is there


@dataclass(frozen=True)
class Result:
    """One trial at its best epoch."""

    task: str
    seed: int
    learning_rate: float
    batch_size: int
    metrics: dict[str, float]
    collapsed: bool  # its train loss stayed at that of guessing
    seconds: float  # of the run; of several together each has its share
    name: str  # of the trial
    made_by: dict[str, Any]  # what its figures depend on, beside seed and learning rate: see the function of this name
    predicted: str  # hash of what its predictions are of
    folder: str = "."  # of the run, seen from the results.json in which this stands


def run_tasks(config: FinetuneConfig, workdir: Path, more: bool = False) -> list[Result] | None:
    """Runs all that the config asks for; what is done already is not done again.

    Args:
      more: whether the command goes on after it.

    Returns:
      None where a signal ended it, or came in its last run and there is more.
    """
    names = GLUE if config.task == "glue" else tuple(name.strip() for name in config.task.split(","))
    for name in names:
        if name not in TASKS:
            raise UserError(f"config.task {name!r} is not known; there are glue, {', '.join(TASKS)}.")
        if config.packed and not KINDS[TASKS[name].kind].packable:
            packable = ", ".join(kind for kind in KINDS if KINDS[kind].packable)
            raise UserError(f"config.packed is for {packable}; {name} is of kind {TASKS[name].kind}.")
    if not config.init_from:
        raise UserError("config.init_from is empty; name the model to fine-tune: a workdir, a folder or a hub name.")
    if config.from_mnli and "mnli" not in names:
        raise UserError(
            f"config.from_mnli needs mnli among the tasks, and they are {', '.join(names)}; name it first, or glue."
        )
    several = len(names) > 1
    if several:
        names = sorted(names, key=lambda name: name != "mnli")  # the others may begin with it
        configs = {name: _of_task(config, name) for name in names}
    else:
        configs = {names[0]: replace(config, task=names[0])}
    splits = {name: read_splits(name, one.data) for name, one in configs.items()}  # what is missing is noticed at once
    results: list[Result] = []
    best: dict[str, Path] = {}  # task → its best run
    for name, one in configs.items():
        folder = workdir / name if several else workdir
        if config.from_mnli and name in FROM_MNLI:
            if "mnli" not in best:
                raise UserError(
                    f"every run of mnli diverged, so that config.from_mnli has nothing for {name} to begin with; without "
                    "config.from_mnli the same command goes on."
                )
            one = replace(one, init_from=str(best["mnli"]), from_scratch=False)
        of_task = _run_task(one, splits.pop(name), folder, bool(splits) or more)
        if of_task is None:
            return None
        results += [_seen_from(workdir, folder, result) for result in of_task]
        metric = f"valid/{TASKS[name].metrics[0]}"
        if finite := [result for result in of_task if np.isfinite(result.metrics[metric])]:
            best[name] = folder / max(finite, key=lambda result: result.metrics[metric]).folder
        if several:
            _write_results(of_task, one, folder)
    _write_results(results, config, workdir)
    for name, folder in best.items():
        if folder != workdir:
            say(f"the best run of {name} is in {folder}")
    if several and jax.process_index() == 0:
        predictions.zip_submission(best, workdir)
    return results


def _of_task(config: FinetuneConfig, name: str) -> FinetuneConfig:
    """A task of several, with its own hyperparameters and its own folder of the data."""
    task = TASKS[name]
    data = config.data
    if data.source and not data.source.startswith("tfds:"):
        data = replace(data, source=task_folder(data.source, name))
    optimizer = replace(config.optimizer, learning_rate=task.learning_rate, weight_decay=task.weight_decay)
    return replace(config, task=name, batch_size=task.batch_size, epochs=task.epochs, optimizer=optimizer, data=data)


def task_folder(source: str, name: str) -> str:
    """A task's own folder among several: as GLUE calls it, or by its name here."""
    glues = predictions.SUBMISSION.get(name, {"": name})[""].removesuffix("-m")
    folders = [storage.join(source, folder) for folder in (glues, name)]
    return next((folder for folder in folders if storage.names(folder)), folders[0])


# Beside those of provenance.WITHOUT_EFFECT: fields of the command and not of a run, and such as name what is hashed.
_OF_THE_COMMAND = ("task", "init_from", "data", "seed", "seeds", "sweep", "together", "from_mnli")


def made_by(config: FinetuneConfig, splits: Splits, source: hub.Pretrained) -> dict[str, Any]:
    """All that a run's figures depend on but its seed and, in a sweep, its learning rate.

    Args:
      source: `params` are what it begins with.
    """
    without = {*provenance.WITHOUT_EFFECT, *_OF_THE_COMMAND, "epochs" if config.steps else "steps"}
    if config.sweep:
        without.add("optimizer.learning_rate")
    inputs = {
        "task": config.task,
        "labels": splits.labels,
        "the train split of hash": splits.hashes["train"],
        "the valid split of hash": splits.hashes["valid"],
        "init_from's parameters of hash": "" if config.from_scratch else provenance.hash_of(source.params),
        "init_from's tokenizer of hash": source.tokenizer.base.hash,
    }
    return inputs | provenance.fields(config, without)


def _run_task(config: FinetuneConfig, splits: Splits, workdir: Path, more: bool) -> list[Result] | None:
    """Of one task what `run_tasks` returns."""
    task = TASKS[config.task]
    grid = GRID if config.sweep else {"learning_rate": (config.optimizer.learning_rate,), "batch_size": (config.batch_size,)}
    source, prepared = hub.load(config.init_from), None
    if source.tokenizer is None:
        raise UserError(f"config.init_from {config.init_from} has no tokenizer, without which no text can be read.")
    model = config.model.with_shape_of(source.config)
    config = replace(config, model=model, max_length=min(config.max_length, model.max_length))
    params, of_the_head = finetune.initial(task, splits.labels, source)
    if of_the_head and not config.from_scratch:
        say(of_the_head)
    source = replace(source, params=params)
    results: list[Result] = []
    for batch_size in grid["batch_size"]:
        trials = [
            Trial(config.seed + i, rate, f"seed_{config.seed + i}" + (f"_rate_{rate:g}" if config.sweep else ""))
            for rate in grid["learning_rate"]
            for i in range(config.seeds)
        ]
        one = replace(config, batch_size=batch_size)
        base = workdir / f"batch_{batch_size}" if config.sweep else workdir
        inputs = json.loads(json.dumps(made_by(one, splits, source)))
        for name, value in inputs.items():
            if not name.startswith("config."):
                require_same(f"{config.task}: {name} {value!r}", json.dumps(value))
        require_same(
            f"{config.task}: what the test split or config.init_from's config.json", key(inputs, splits.hashes["test"])
        )
        done, groups = _begun(base, inputs, splits.hashes["test"], trials)
        left = [trial for trial in trials if trial.name not in done and not any(trial in group for group in groups.values())]
        parameters = sum(np.size(x) for x in jax.tree.leaves(source.params["encoder"]))
        together = finetune.how_many_together(one, parameters, max(1, len(left)))
        for start in range(0, len(left), together):
            group = tuple(left[start : start + together])
            groups[base if list(group) == trials else base / _name_of(group)] = group
        for folder in groups:
            finetune.require_no_other_job(folder)
        for folder, group in groups.items():
            if prepared is None:
                prepared = finetune.prepare(task, splits, source.tokenizer, config.max_length)
            with Stop() as stop:
                of_group = _run_trials(prepared, one, source, group, folder, inputs, stop)
                asked = said_by_any(stop.signal or "")
            if of_group is None:
                return None
            done |= {result.name: _seen_from(base, folder, result) for result in of_group}
            if asked and (more or folder != [*groups][-1] or batch_size != grid["batch_size"][-1]):
                say(f"{asked}: {folder} is done; the same command goes on with what is left.")
                return None
        results += [_seen_from(workdir, base, done[trial.name]) for trial in trials]
    return results


def _run_trials(
    prepared: finetune.Prepared,
    config: FinetuneConfig,
    source: hub.Pretrained,
    trials: tuple[Trial, ...],
    folder: Path,
    inputs: dict[str, Any],
    stop: Stop,
) -> list[Result] | None:
    """Trains trials as one, writes what they reach, and what the best of them predicts. None where a signal ended it."""
    task, splits = prepared.task, prepared.splits
    logits, of_test = None, {}
    try:
        outcome = finetune.train_trials(prepared, config, source, trials, folder, inputs, stop)
        if outcome is None:
            return None
        metrics, ends, logits, of_test = outcome
    except GaveUp as error:
        say(f"! {folder}: {error} It has collapsed, and its metrics are not finite.")
        metrics, ends = finetune.not_finite(prepared), [config.steps]
    if jax.process_index() == 0:
        predictions.remove_of_test(config.task, folder)
        for test, split in ((False, prepared.valid), (True, prepared.test)) if logits else ():
            for part, encoded in split.items():
                of_part = logits[test][part]
                predictions.write(config.task, task, splits.labels, encoded, of_part, part, test, folder)
    if of_test:
        _write_test(prepared, of_test, folder)
    wait_for_all(f"{folder} has its metrics")
    seconds = seconds_of(folder) / len(trials)
    results = []
    for i, trial in enumerate(trials):
        of_trial = {name: float(values[i]) for name, values in metrics.items()}
        loss = f"train/loss/{trial.name}" if len(trials) > 1 else "train/loss"
        collapsed = logits is None or _collapsed(prepared, folder, loss, int(ends[i]), of_trial["valid/loss"])
        what = config.task, trial.seed, trial.learning_rate, config.batch_size, of_trial, collapsed, seconds
        results.append(Result(*what, trial.name, inputs, splits.hashes["test"]))
    _write_json(folder / RESULTS_JSON, results)
    wait_for_all(f"{folder} has its results")
    return results


def _write_test(prepared: finetune.Prepared, of_test: Mapping[str, dict[str, float]], folder: Path) -> None:
    """metrics_test.json, of the best trial: what it reaches on the test examples that have a label."""
    found = {}
    for part, metrics in of_test.items():
        name, labelled, every = f"test_{part}" if part else "test", prepared.labelled[part], prepared.test[part]
        found[name] = {
            "examples": len(labelled.examples),
            "without_label": len(every.examples) - len(labelled.examples),
        } | metrics
        shown = ", ".join(f"{metric} {100 * metrics[metric]:.1f}" for metric in prepared.task.metrics)
        say(f"{name}: {shown} on the {len(labelled.examples):,} of {len(every.examples):,} examples that have a label")
    if jax.process_index() == 0:
        storage.write_json(folder / METRICS_TEST_JSON, found)


def _name_of(group: Sequence[Trial]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name}_to_{group[-1].name}"


def _seen_from(above: Path, folder: Path, result: Result) -> Result:
    """A result that stands in the results.json of `folder`, as it stands in that of a folder above."""
    return replace(result, folder=str((folder / result.folder).relative_to(above)))


def _begun(
    base: Path, inputs: dict[str, Any], predicted: str, trials: Sequence[Trial]
) -> tuple[dict[str, Result], dict[Path, tuple[Trial, ...]]]:
    """What earlier starts left in `base` and right below it.

    Returns:
      (name of a trial → its result, seen from `base`, where it is done; folder → its trials, of runs that are not: whatever
      `together` says now, they go on as they were begun).

    Raises:
      UserError: a run there was made by something else.
    """
    wanted = {trial.name: trial for trial in trials}
    done: dict[str, Result] = {}
    groups: dict[Path, tuple[Trial, ...]] = {}
    inner = [path for path in base.iterdir() if path.is_dir()] if base.is_dir() else []
    below = sorted(path for path in inner if not path.name.startswith("batch_"))
    for folder in [base, *below]:
        noted, path = recovered(folder / TASK_JSON, finetune.parse_task, None), folder / RESULTS_JSON
        if noted is None:
            recovered(path, _parse_results, None)  # which is put aside too, where it is damaged
            continue
        before = noted.get("made_by")
        provenance.require_same_run(folder, before, inputs)
        names = before["trials"]
        own = {result.name: result for result in recovered(path, _parse_results, []) if result.folder == "."}
        if own.keys() >= set(names) and all(result.predicted == predicted for result in own.values()):
            finished = {name: _seen_from(base, folder, own[name]) for name in names if name in wanted and name not in done}
            done |= finished
            if finished:
                say(f"{folder} is done")
        elif wanted.keys() - done.keys() - {trial.name for group in groups.values() for trial in group} >= set(names):
            groups[folder] = tuple(wanted[name] for name in names)
        elif folder == base:  # the checkpoints of a run that goes on would lie beside those of others
            provenance.require_same_run(base, before, inputs | {"trials": list(wanted)})
    require_same(f"what {base} holds", json.dumps([sorted(done), sorted(map(str, groups))]))
    return done, groups


def _collapsed(prepared: finetune.Prepared, workdir: Path, name: str, end: int, valid_loss: float) -> bool:
    """Whether the mean loss after a tenth of the steps is that of guessing.

    Of kinds where guessing has no such loss, whether it is a number at all. Of a run that ended before it logged a loss, the
    best parameters' loss on the valid split tells.

    Args:
      name: of the loss, in metrics.jsonl.
      end: the run's last step.
    """
    guessing = KINDS[prepared.task.kind].guessing_loss(prepared.train.features)
    losses = {line["step"]: line[name] for line in read_metrics(workdir) if name in line and line["step"] <= end}
    later = [loss for step, loss in losses.items() if step > max(losses) / 10]
    return not np.mean(later or [valid_loss]) < COLLAPSED * guessing  # so is a loss that is no number


def _write_json(path: Path, results: Sequence[Result]) -> None:
    if jax.process_index() == 0:
        storage.write_json(path, [asdict(result) for result in results])


def read_results(path: Path) -> list[Result]:
    try:
        return _parse_results(storage.read_bytes(path))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} does not hold the results of a run ({storage.reason(error)}); delete it.") from None


def _parse_results(content: bytes) -> list[Result]:
    """The results of a file; what is no such file raises a ValueError, TypeError, KeyError or AttributeError."""
    parsed = []
    for fields in storage.parse_json(content, list):
        metrics = {name: np.nan if value is None else float(value) for name, value in fields["metrics"].items()}
        if "made_by" not in fields:
            raise UserError(
                "results.json does not say of each result what made it, as an earlier version's; take another workdir, or "
                "remove it, and the run goes on from its checkpoint."
            )
        parsed.append(Result(**fields | {"metrics": metrics}))
    if not parsed:
        raise ValueError("its list is empty")
    return parsed


def _write_results(results: Sequence[Result], config: FinetuneConfig, workdir: Path) -> None:
    """results.json and results.md, and the table on the screen."""
    _write_json(workdir / RESULTS_JSON, results)
    lines = table(results)
    if jax.process_index() == 0:
        note = f"Fine-tuned from {config.init_from}" + (", its shape with random weights" if config.from_scratch else "")
        note += f"; {', '.join(FROM_MNLI)} from its MNLI run" if config.from_mnli else ""
        text = "\n".join([f"{note}. In percent, valid split, best epoch.", "", *lines, ""])
        storage.write_text(workdir / RESULTS_MD, text)
    for line in lines:
        say(line)


def table(results: Sequence[Result]) -> list[str]:
    """Markdown: a row for each task, learning rate and batch size, over its seeds; the published figure beside."""
    lines = [
        "| task | metric | median | least | most | seeds | collapsed | lr | batch | RoBERTa base | large | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.learning_rate, result.batch_size), []).append(result)
    for (name, rate, batch_size), group in groups.items():
        task = TASKS[name]
        parts = sorted({metric.split("/")[0] for metric in group[0].metrics})
        for split in parts:
            for metric in task.metrics:
                found = [100 * result.metrics[f"{split}/{metric}"] for result in group]
                values = [value for value in found if np.isfinite(value)] or found
                shown = f"{statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f}"
                published = dict(task.published) if (split, metric) == ("valid", task.metrics[0]) else {}
                lines.append(
                    f"| {name} | {f'{split}/{metric}'.removeprefix('valid/')} | {shown} | {len(group)} "
                    f"| {sum(result.collapsed for result in group)} | {rate:g} | {batch_size} "
                    f"| {published.get('base', '')} | {published.get('large', '')} | {sum(r.seconds for r in group):.0f} |"
                )
    return lines
