"""Runs the studies of `variants.py`: each variant and seed pretrained, measured on the same held-out rows, fine-tuned.

A run that is done leaves `run.json` and is not done again; one that was stopped goes on from its checkpoint. A config that
two studies share is run once.
"""

import contextlib
import functools
import math
import os
import platform
import re
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roberta_jax import storage
from roberta_jax.ablations import report, results
from roberta_jax.ablations.config import AblationsConfig, Downstream
from roberta_jax.ablations.results import Run, Study
from roberta_jax.ablations.variants import changed, chosen, dividing
from roberta_jax.config import plain
from roberta_jax.data.corpus import Corpus, bytes_per_token
from roberta_jax.data.masking import Masking
from roberta_jax.data.pipeline import on_mesh, valid_batches
from roberta_jax.errors import UserError
from roberta_jax.inference import load
from roberta_jax.interop import hub
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.output import typed_command
from roberta_jax.pairs import accuracy, suites
from roberta_jax.preparation.plan import key
from roberta_jax.pretraining.config import DataConfig, PretrainConfig
from roberta_jax.pretraining.job import check_devices, model_of, of_pairs, open_corpus, perplexity, pretrain
from roberta_jax.pretraining.losses import masked_lm_loss
from roberta_jax.scoring import TooLong
from roberta_jax.tasks import runs as finetuning
from roberta_jax.tasks.config import FinetuneConfig, TaskData
from roberta_jax.tasks.definitions import TASKS
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tokenization import encodings
from roberta_jax.training import provenance
from roberta_jax.training.distributed import Stop, alone_in
from roberta_jax.training.evaluate import evaluate, make_eval_step
from roberta_jax.training.guard import GaveUp
from roberta_jax.training.ledger import seconds_of
from roberta_jax.training.logging import recovered, say
from roberta_jax.training.optimizer import OptimizerConfig
from roberta_jax.training.sharding import batch_devices, batch_sharding, local_rows, make_mesh
from roberta_jax.training.workdir import CHECKPOINTS, CONFIG_JSON, MADE_BY_JSON, RUN_JSON, read_metrics

# Fields of `config.downstream` that name what a model is judged on; a hash of each task or suite is kept beside its figure.
DATA_OF_DOWNSTREAM = ("source", "tasks", "minimal_pairs", "pairs")
ROWS = "rows of a batch"  # in made_by.json


def run(config: AblationsConfig, workdir: Path) -> None:
    """Runs what is not done yet, then writes report.md and report.html; stops where a signal does."""
    if jax.process_count() > 1:
        raise UserError("the ablations run on one host; start one on each, with a study each in config.study.")
    for name in ("init_from", "continue_from"):
        if value := getattr(config, name):
            raise UserError(f"config.{name} is {value!r}; expected none, for ablations begin with random weights.")
    for name, value in (("phases", config.phases), ("data.mixture", config.data.mixture)):
        if value:
            raise UserError(f"config.{name} is {','.join(value)!r}; expected none, for ablations compare runs of one kind.")
    base = PretrainConfig(**{f.name: getattr(config, f.name) for f in fields(PretrainConfig)} | {"job": "pretrain"})
    base = replace(base, model=replace(base.model, vocab_size=0))  # each variant's is its vocabulary's
    studies = chosen(base, config.study, batch_devices(make_mesh(base.fsdp)))
    for task in _tasks(config.downstream):
        folder = finetuning.task_folder(config.downstream.source, task)
        if task not in TASKS or not storage.names(folder):
            raise UserError(f"config.downstream: there is no folder {folder} for {task!r}.")
    _suites(config.downstream)
    for study in studies:
        for variant in study.variants:  # a mistake shows before hours of the others
            made = changed(base, variant.fields)
            try:
                made.check_together()
                check_devices(made)
            except UserError as error:
                raise UserError(f"{study.name}/{variant.name}: {error}") from None
    done: dict[str, Run] = {}
    found: list[Run] = []
    total = sum(len(study.variants) for study in studies) * config.seeds
    for study in studies:
        for seed in range(config.seed, config.seed + config.seeds):
            for variant in study.variants:
                say(f"run {len(found) + 1} of {total}: {study.name}, {variant.name}, seed {seed}")
                made = changed(base, variant.fields | {"seed": seed})
                folder = workdir / "runs" / study.name / variant.name / f"seed_{seed}"
                named = key(plain(made))
                if named not in done:
                    with alone_in(folder):  # other studies run in the same workdir at the same time
                        with Stop() as stop:
                            one = _pretrained(base, made, folder, named, stop)
                        if one and stop.signal:  # too late to end this run
                            say(f"{stop.signal}: {folder} is pretrained; the same command goes on with what is left.")
                            return
                        if one and not np.isfinite(one.metrics["own_loss"]):
                            one = replace(one, metrics=one.metrics | _of_downstream(config.downstream))
                        elif one:
                            one = finetuned(ranked(one, config.downstream, folder), config.downstream, folder)
                    if one is None:
                        return
                    done[named] = one
                found.append(replace(done[named], study=study.name, variant=variant.name))
    _report(studies, found, workdir)


def _report(studies: list[Study], found: list[Run], workdir: Path) -> None:
    machine = f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    report.write(studies, found, workdir, typed_command(), machine)
    say(f"{workdir / 'report.md'} and report.html: {len(found)} runs")


def _tasks(downstream: Downstream) -> list[str]:
    return [task.strip() for task in downstream.tasks.split(",") if task.strip()] if downstream.source else []


def _pretrained(base: PretrainConfig, config: PretrainConfig, folder: Path, named: str, stop: Stop) -> Run | None:
    """One variant with one seed. None where a signal ended it."""
    noted = folder / MADE_BY_JSON
    corpus, common = _corpus(config.data), _corpus(base.data)
    made_by = _made_by(config, corpus, common)
    one, before = recovered(folder / RUN_JSON, _only_run, None), recovered(noted, storage.parse_json, {})
    if one or before:
        if differs := provenance.difference(before, made_by):
            raise UserError(
                f"{folder} holds a run of another config; take another workdir, or delete that folder. Its was {differs}."
            )
    if one:
        return one
    # A run that goes on elsewhere, on another number of devices, keeps its batch; older ones noted it in config.json alone.
    rows = before.get(ROWS) or recovered(folder / CONFIG_JSON, storage.parse_json, {}).get("batch_size")
    rows = rows or _rows_of_as_many_tokens(config, corpus, common)
    if ROWS not in before:
        storage.write_json(noted, made_by | {ROWS: rows})
    config = _with_rows(config, rows)
    try:
        if not pretrain(config, folder, stop=stop):
            return None
        metrics, parameters = _measured(folder, corpus, common)
    except GaveUp as error:
        say(f"! {folder}: {error} The other runs go on, and the report says that this one is not finite.")
        metrics, parameters = _not_finite(config, corpus, common)
    tokens_a_step = config.batch_size * corpus.manifest["tokens"]["train"] / corpus.manifest["rows"]["train"]
    one = Run(
        study="",
        variant="",
        seed=config.seed,
        metrics=metrics,
        curve=[(round(line["step"] * tokens_a_step), line[_loss_of(line)]) for line in _evaluations(folder)],
        seconds=seconds_of(folder),
        tokens=round(config.steps * tokens_a_step),
        parameters=parameters,
        details={"key": named, "batch_size": config.batch_size} | _of_encoding(corpus.folder, common),
    )
    results.save(folder / RUN_JSON, [one])
    return one


def _evaluations(folder: Path) -> list[dict[str, float]]:
    return [line for line in read_metrics(folder) if "valid/loss" in line]


def _loss_of(line: dict[str, float]) -> str:
    return "valid/mlm_loss" if "valid/mlm_loss" in line else "valid/loss"


def _measured(folder: Path, corpus: Corpus, common: Corpus) -> tuple[dict[str, float], int]:
    """(the metrics of a run that is done, its model's parameters)."""
    source, last = hub.load(folder), _evaluations(folder)[-1]
    metrics = {"own_loss": last[_loss_of(last)], "own_accuracy": 100 * last["valid/accuracy"]}
    if corpus.tokenizer.hash == common.tokenizer.hash:
        metrics |= _held_out(source.config, source.params, common)
    metrics["bits_per_byte"] = metrics.get("loss", metrics["own_loss"]) / np.log(2) / bytes_per_token(corpus.manifest)
    parameters = sum(np.size(x) for x in jax.tree.leaves(source.params))
    return {metric: float(value) for metric, value in metrics.items()}, parameters


def _not_finite(config: PretrainConfig, corpus: Corpus, common: Corpus) -> tuple[dict[str, float], int]:
    """The same of a run that ended before its last step, for it did not learn."""
    names = ["own_loss", "own_accuracy", "bits_per_byte"]
    names += ["loss", "accuracy", "perplexity"] if corpus.tokenizer.hash == common.tokenizer.hash else []
    model = replace(model_of(config), vocab_size=len(corpus.tokenizer), max_length=config.model.max_length or corpus.length)
    shapes = jax.eval_shape(lambda key: init_masked_lm(key, model, of_pairs(config)), jax.random.key(0))
    return dict.fromkeys(names, math.nan), sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _only_run(content: bytes) -> Run:
    (one,) = results.parse(content)
    if not isinstance(one.details, dict) or not isinstance(one.details["key"], str):
        raise ValueError("it does not say which config it is of")
    return one


def _made_by(config: PretrainConfig, corpus: Corpus, common: Corpus) -> dict[str, Any]:
    """All that the figures of a pretrained variant depend on: of its data the rows, wherever and however they were made."""
    of_masks = {"masking", "masking_rate", "mask_replace_prob", "random_replace_prob"}
    of_rows = {f"data.{f.name}" for f in fields(DataConfig) if f.name not in of_masks | {"fraction"}}
    hashes = {
        f"{name} of hash": key(one.manifest["shards"], one.tokenizer.hash)
        for name, one in (("the corpus", corpus), ("the corpus that all are measured on", common))
    }
    return hashes | provenance.fields(config, {*provenance.WITHOUT_EFFECT, "eval_every", *of_rows})


def _rows_of_as_many_tokens(config: PretrainConfig, corpus: Corpus, common: Corpus) -> int:
    """The batch whose rows, fuller or emptier, hold about as many tokens as those of the config's own corpus would."""
    if config.data.format == common.manifest["format"]:
        return config.batch_size
    a_row, a_common_row = (each.manifest["tokens"]["train"] / each.manifest["rows"]["train"] for each in (corpus, common))
    devices = batch_devices(make_mesh(config.fsdp))
    # A multiple of up to 8 rows a device, of which microbatches can be made, where that is off by a twentieth at most.
    unit = devices * max(each for each in (1, 2, 4, 8) if each == 1 or 10 * each * devices <= config.batch_size)
    return unit * max(1, round(config.batch_size * a_common_row / a_row / unit))


def _with_rows(config: PretrainConfig, rows: int) -> PretrainConfig:
    """With batches of so many rows, and microbatches that divide them, no larger than the config's."""
    share = rows // batch_devices(make_mesh(config.fsdp))
    return replace(config, batch_size=rows, microbatch_size=dividing(share, config.microbatch_size))


@functools.cache  # of all runs of a command, and so is what follows
def _corpus(data: DataConfig) -> Corpus:
    return open_corpus(data)


@functools.cache
def _of_encoding(folder: Path, common: Corpus, rows: int = 1_000) -> dict[str, Any]:
    """What the report says of the vocabulary of the corpus in `folder`, on the text of held-out rows."""
    tokenizer = encodings.load(folder / "tokenizer")
    number = min(rows, len(common.valid))
    texts = [common.tokenizer.decode_bytes(row).decode(errors="ignore") for row in common.valid.gather(np.arange(number))]
    found = encodings.statistics(tokenizer, texts)
    kept = {name: found[name] for name in ("unknown_rate", "bytes_per_token", "bytes_lost")}
    words = {script: values["tokens_per_word"] for script, values in found["scripts"].items()}
    return kept | {"vocabulary": len(tokenizer), "tokens_per_word": words}


@functools.cache
def _eval_step(model: RobertaConfig):
    return make_eval_step(masked_lm_loss(model))


def _held_out(model: RobertaConfig, params: dict, corpus: Corpus, rows: int = 64) -> dict[str, float]:
    """On the valid rows that are common to all variants, with the masks that are."""
    mesh = make_mesh()
    rows *= batch_devices(mesh)
    batches = on_mesh(valid_batches(corpus, Masking(), rows, local_rows(mesh, rows)), batch_sharding(mesh))
    means = evaluate(_eval_step(model), params, batches)
    return {"loss": means["loss"], "accuracy": 100 * means["accuracy"]} | perplexity(means)


def _of_downstream(downstream: Downstream) -> dict[str, float]:
    """What a model that did not learn is judged to be."""
    return dict.fromkeys([*map(_metric_of, _suites(downstream)), *_tasks(downstream)], math.nan)


def _metric_of(suite: suites.Suite) -> str:
    return re.sub(r"\W+", "_", suite.name.lower())


@functools.cache
def _suites(downstream: Downstream) -> list[suites.Suite]:
    return suites.read(downstream.minimal_pairs, pairs=downstream.pairs) if downstream.minimal_pairs else []


def ranked(one: Run, downstream: Downstream, folder: Path) -> Run:
    """The run with the share of minimal pairs that its model ranks right, by pseudo-log-likelihood."""
    named = {_metric_of(suite): suite for suite in _suites(downstream)}
    hashes = {metric: key([asdict(paradigm) for paradigm in suite.paradigms]) for metric, suite in named.items()}
    judged = one.details.get("minimal_pairs", {})
    for metric in named.keys() & one.metrics.keys():
        if judged.get(metric) != hashes[metric]:
            raise UserError(f"{folder}: was judged by other pairs of {named[metric].name}; take another workdir.")
    if not (left := [metric for metric in named if metric not in one.metrics]):
        return one
    started = time.perf_counter()
    model, measured = load(folder), {}
    for metric in left:
        try:
            (found,) = accuracy.measure([named[metric]], model.score)
        except TooLong as error:  # of single characters, say
            say(f"! {folder}: {error} It has no figure of {named[metric].name}.")
            continue
        measured[metric] = 100 * found.overall.accuracy
    if not measured:
        return one
    details = one.details | {"minimal_pairs": judged | {metric: hashes[metric] for metric in measured}}
    one = replace(one, metrics=one.metrics | measured, details=details, seconds=one.seconds + time.perf_counter() - started)
    results.save(folder / RUN_JSON, [one])
    return one


def finetuned(one: Run, downstream: Downstream, folder: Path) -> Run | None:
    """The run with its figures on the tasks, of which those that are there already stay. None where a signal ended it."""
    how = key({f.name: getattr(downstream, f.name) for f in fields(downstream) if f.name not in DATA_OF_DOWNSTREAM})
    for task in _tasks(downstream):
        if one.details.get("downstream", how) != how:
            raise UserError(f"{folder}: was fine-tuned with other fields of config.downstream; take another workdir.")
        examples = one.details.get("examples", {}) | {task: _examples(task, downstream)}
        if task in one.metrics:
            if one.details.get("examples") != examples:
                raise UserError(f"{folder}: was fine-tuned on other examples of {task}; take another workdir.")
            continue
        found = finetuning.run_tasks(_finetuning(one.seed, downstream, task, folder), folder / task, more=True)
        if found is None:
            return None
        with contextlib.suppress(OSError, UserError):  # it takes room, and nothing else
            storage.remove_folder(folder / task / CHECKPOINTS)
        value = found[0].metrics[f"valid/{TASKS[task].metrics[0]}"]
        seconds = one.seconds + found[0].seconds
        metrics, details = one.metrics | {task: 100 * value}, one.details | {"downstream": how, "examples": examples}
        one = replace(one, metrics=metrics, details=details, seconds=seconds)
        results.save(folder / RUN_JSON, [one])
    return one


@functools.cache
def _examples(task: str, downstream: Downstream) -> str:
    """A hash of what is learned and measured on."""
    splits = read_splits(task, TaskData(source=finetuning.task_folder(downstream.source, task)))
    return key(splits.hashes["train"], splits.hashes["valid"])


def _finetuning(seed: int, downstream: Downstream, task: str, folder: Path) -> FinetuneConfig:
    return FinetuneConfig(
        task=task,
        init_from=str(folder),
        seed=seed,
        steps=downstream.steps,
        eval_every=max(1, downstream.steps // 2),
        log_every=max(1, downstream.steps // 10),
        batch_size=downstream.batch_size,
        max_length=downstream.max_length,
        optimizer=OptimizerConfig(learning_rate=downstream.learning_rate, warmup_steps=0.06, weight_decay=0.1),
        data=TaskData(source=finetuning.task_folder(downstream.source, task)),
    )
