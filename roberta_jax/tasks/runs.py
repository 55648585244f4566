"""What one command of fine-tuning runs: tasks, the grid, seeds, as many together as memory holds, and the table of results."""

import json
import statistics
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.tasks import finetune, packed, scores
from roberta_jax.tasks.examples import Splits, read_splits
from roberta_jax.tasks.finetune import FinetuneConfig
from roberta_jax.tasks.table import GLUE, TASKS
from roberta_jax.training.distributed import wait_for_all
from roberta_jax.training.logging import say
from roberta_jax.training.train import Trial

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
    collapsed: bool  # it never did better than guessing
    seconds: float  # of the run; of several together each has its share


def run(config: FinetuneConfig, workdir: Path) -> list[Result] | None:
    """Runs all that the config asks for; what is done already is not done again. None where a signal ended it."""
    names = GLUE if config.task == "glue" else tuple(name.strip() for name in config.task.split(","))
    for name in names:
        if name not in TASKS:
            raise UserError(f"config.task {name!r} is not known; there are glue, {', '.join(TASKS)}.")
        if config.packed and TASKS[name].kind not in packed.KINDS:
            raise UserError(f"config.packed is for {', '.join(packed.KINDS)}; {name} is of kind {TASKS[name].kind}.")
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
        configs = {names[0]: config}
    splits = {name: read_splits(name, one.data) for name, one in configs.items()}  # what is missing is noticed at once
    results: list[Result] = []
    for name, one in configs.items():
        folder = workdir / name if several else workdir
        if config.from_mnli and name in FROM_MNLI:
            one = replace(one, init_from=str(_best_folder(workdir / "mnli")))
        found = _run_task(one, splits.pop(name), folder)
        if found is None:
            return None
        results += found
        if several:
            _write_results(found, one, folder)
    _write_results(results, config, workdir)
    if several:
        _zip_submission(names, workdir)
    return results


def _of_task(config: FinetuneConfig, name: str) -> FinetuneConfig:
    """A task of several, with its own hyperparameters and its own folder of the data."""
    task = TASKS[name]
    data = config.data
    if data.source and not data.source.startswith("tfds:"):
        folders = [Path(data.source) / folder for folder in (glue_folder(name), name)]
        data = replace(data, source=str(next((folder for folder in folders if folder.is_dir()), folders[0])))
    optimizer = replace(config.optimizer, learning_rate=task.learning_rate, weight_decay=task.weight_decay)
    return replace(config, task=name, batch_size=task.batch_size, epochs=task.epochs, optimizer=optimizer, data=data)


def glue_folder(name: str) -> str:
    return scores.SUBMISSION.get(name, {"": name})[""].removesuffix("-m")


def _run_task(config: FinetuneConfig, splits: Splits, workdir: Path) -> list[Result] | None:
    task = TASKS[config.task]
    grid = GRID if config.sweep else {"learning_rate": (config.optimizer.learning_rate,), "batch_size": (config.batch_size,)}
    source, prepared = hub.load(config.init_from), None
    config = replace(config, model=config.model.with_shape_of(source.config))
    if source.text is None:
        raise UserError(f"config.init_from {config.init_from} has no tokenizer, without which no text can be read.")
    results: list[Result] = []
    for batch_size in grid["batch_size"]:
        trials = [
            Trial(config.seed + i, rate, f"seed_{config.seed + i}" + (f"_rate_{rate:g}" if config.sweep else ""))
            for rate in grid["learning_rate"]
            for i in range(config.seeds)
        ]
        one = replace(config, batch_size=batch_size)
        parameters = sum(np.size(x) for x in jax.tree.leaves(source.params["encoder"]))
        together = finetune.how_many_together(one, parameters, len(trials))
        for start in range(0, len(trials), together):
            group = tuple(trials[start : start + together])
            parts = [f"batch_{batch_size}"] * config.sweep + [group[0].name] * (len(trials) > together)
            folder = workdir.joinpath(*parts)
            done = folder / "results.json"
            if done.exists() and parts:
                results += read_results(done)
                say(f"{folder} is done")
                continue
            if prepared is None:
                length = min(config.max_length, config.model.max_length)
                prepared = finetune.prepare(task, splits, source.text, length)
            started = time.perf_counter()
            found = finetune.run(prepared, one, source, group, folder)
            if found is None:
                return None
            metrics, logits = found
            seconds = (time.perf_counter() - started) / len(group)
            for test, split in ((False, prepared.valid), (True, prepared.test)) if jax.process_index() == 0 else ():
                for part, encoded in split.items():
                    of_part = logits[test][part]
                    scores.write(config.task, task, splits.labels, encoded, of_part, part, test, folder)
            wait_for_all(f"{folder} has its metrics")
            group_results = [
                Result(
                    config.task,
                    trial.seed,
                    trial.learning_rate,
                    batch_size,
                    {name: float(values[i]) for name, values in metrics.items()},
                    _collapsed(prepared, folder, trial.name if len(group) > 1 else ""),
                    seconds,
                )
                for i, trial in enumerate(group)
            ]
            if parts:
                _write_json(done, group_results)
                wait_for_all(f"{done} is written")
            results += group_results
    return results


def _collapsed(prepared: finetune.Prepared, workdir: Path, trial: str) -> bool:
    """Whether the mean loss after a tenth of the steps is that of guessing: the entropy of the labels, ln n of n equal ones.

    Of kinds where guessing has no such loss, whether it is a number at all.
    """
    guessing = np.inf
    if prepared.task.kind == "classification":
        counts = np.bincount(prepared.train.features.labels)
        shares = counts[counts > 0] / counts.sum()
        guessing = -(shares * np.log(shares)).sum()
    elif prepared.task.kind == "multiple_choice":
        guessing = np.log(len(prepared.train.features.rows[0]))
    name = f"train/loss/{trial}" if trial else "train/loss"
    lines = [line for line in hub.read_metrics(workdir) if name in line]
    later = [line[name] for line in lines if line["step"] > lines[-1]["step"] / 10]
    return not np.mean(later) < COLLAPSED * guessing  # so is a loss that is no number


def _write_json(path: Path, results: Sequence[Result]) -> None:
    if jax.process_index() == 0:
        path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", "utf-8")


def read_results(path: Path) -> list[Result]:
    return [Result(**fields) for fields in json.loads(path.read_text("utf-8"))]


def _write_results(results: Sequence[Result], config: FinetuneConfig, workdir: Path) -> None:
    """results.json and results.md, and the table on the screen."""
    _write_json(workdir / "results.json", results)
    lines = table(results)
    if jax.process_index() == 0:
        note = f"Fine-tuned from {config.init_from}" + (", its shape with random weights" if config.from_scratch else "")
        (workdir / "results.md").write_text(
            "\n".join([f"{note}. In percent, valid split, best epoch.", "", *lines, ""]), "utf-8"
        )
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
                values = [100 * result.metrics[f"{split}/{metric}"] for result in group]
                shown = f"{statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f}"
                published = dict(task.published) if (split, metric) == ("valid", task.metrics[0]) else {}
                lines.append(
                    f"| {name} | {f'{split}/{metric}'.removeprefix('valid/')} | {shown} | {len(group)} "
                    f"| {sum(result.collapsed for result in group)} | {rate:g} | {batch_size} "
                    f"| {published.get('base', '')} | {published.get('large', '')} | {sum(r.seconds for r in group):.0f} |"
                )
    return lines


def _zip_submission(names: Sequence[str], workdir: Path) -> None:
    """submission.zip with the files that GLUE's server takes, of the tasks that have a test split."""
    files = [
        path
        for name in names
        for stem in scores.SUBMISSION.get(name, {}).values()
        for path in [_best_folder(workdir / name) / f"{stem}.tsv"]
        if path.exists()
    ]
    if files and jax.process_index() == 0:
        with zipfile.ZipFile(workdir / "submission.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.name)
        say(f"{workdir / 'submission.zip'}: {', '.join(path.name for path in files)}")


def _best_folder(workdir: Path) -> Path:
    """The folder of the best run below a task's, where there are several."""
    inner = [path for path in workdir.rglob("results.json") if path.parent != workdir]
    if not inner:
        return workdir
    metric = f"valid/{TASKS[workdir.name].metrics[0]}"
    return max(inner, key=lambda path: max(result.metrics[metric] for result in read_results(path))).parent
