"""Whole runs of fine-tuning, from files to results: what is learned, kept, resumed, compared and handed in."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from task_files import jsonl, random_model, table

from roberta_jax.config import typed
from roberta_jax.config_files import load_config
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.model.heads import apply_with_head, init_with_head
from roberta_jax.tasks import finetune, runs
from roberta_jax.tasks.batches import collate
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.definitions import TASKS
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.training.guard import GuardConfig, gave_up
from roberta_jax.training.workdir import read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(small_corpus, tmp_path_factory) -> Path:
    return random_model(small_corpus.tokenizer, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def texts(small_corpus, documents):
    """count, seed → as many rows of random words, all of them so short that a row has 16 ids at most."""
    words = {word for document in documents for word in document.split() if word.isalpha()}
    words = sorted(words, key=lambda word: (len(small_corpus.tokenizer.encode(" " + word)), word))[:40]

    def made(count: int, seed: int = 0) -> list[list[str]]:
        return [random.Random(f"{seed} {i}").sample(words, 6) for i in range(count)]

    return made


def settings(task: str, model: Path, **fields) -> finetune.FinetuneConfig:
    """The shipped config, for a small model and without dropout. Rows are so short that there is one length of them."""
    config = importlib.import_module("configs.finetune").get_config(task)
    flat = {"init_from": str(model), "max_length": 16, "log_every": 1}
    flat |= {"model.dropout": 0.0, "model.attention_dropout": 0.0, "optimizer.weight_decay": 0.0}
    config.update_from_flattened_dict(flat | fields)
    return typed(finetune.FinetuneConfig, config.to_dict())


def metrics(workdir: Path, name: str) -> list[float]:
    return [line[name] for line in read_metrics(workdir) if name in line]


def labelled(path: Path, texts: list[list[str]], seed: int = 0, classes: str = "ab") -> str:
    """A file of texts with labels drawn by lot."""
    chooser = random.Random(seed)
    jsonl(path, [{"text": " ".join(words), "label": chooser.choice(classes)} for words in texts])
    return str(path)


# Learning by heart


def rows_of(kind: str, texts: list[list[str]]) -> list[dict]:
    """A row of every kind for each text, its answer drawn by lot."""
    chooser, rows = random.Random(1), []
    for i, words in enumerate(texts):
        context, at = " ".join(words), chooser.randrange(len(words) - 2)
        answer = " ".join(words[at : at + chooser.randint(1, 2)])
        start = len(" ".join([*words[:at], ""]))
        answers = {"text": [answer], "answer_start": [start]}
        rows.append({
            "classification": {"text1": " ".join(words[:3]), "text2": " ".join(words[3:]), "label": chooser.choice("abc")},
            "multi_label": {"text": context, "labels": "|".join(label for label in "abc" if chooser.random() < 0.5)},
            "regression": {"text": context, "score": chooser.gauss()},
            "multiple_choice": {"article": words[0], "question": words[1], "options": words[2:5],
                                "answer": chooser.randrange(3)},
            "span": {"question": words[-1], "context": " ".join(words[:-1]), "answers": answers},
            "unanswerable": {"question": words[-1], "context": " ".join(words[:-1]),
                             "answers": answers if i % 3 else {"text": [], "answer_start": []}},
            "tagging": {"words": words, "tags": [("O", "B-X", "B-Y")[len(word) % 3] for word in words]},
        }[kind])  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("custom-classification", "classification"),
        ("custom-multi-label", "multi_label"),
        ("custom-regression", "regression"),
        ("custom-multiple-choice", "multiple_choice"),
        ("squad", "span"),
        ("custom-span", "unanswerable"),
        ("custom-tagging", "tagging"),
    ],
)
def test_a_small_train_set_is_learned_by_heart(task, kind, model, texts, tmp_path):
    path = tmp_path / "train.jsonl"
    jsonl(path, rows_of(kind, texts(64)))
    fields = {"data.train": str(path), "data.valid": str(path), "batch_size": 64, "steps": 120}
    fields |= {"packed": kind in ("multi_label", "tagging")}  # of each of its two shapes one
    config = settings(task, model, **fields, **{"optimizer.learning_rate": 1e-2, "eval_every": 120, "log_every": 12})
    (result,) = runs.run_tasks(config, tmp_path / "run")
    assert not result.collapsed
    if kind == "regression":
        assert result.metrics["valid/mean_squared_error"] < 0.05 and result.metrics["valid/pearson"] > 0.95
    else:
        assert result.metrics[f"valid/{TASKS[task].metrics[0]}"] == 1.0
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 64
    for line in lines:
        label = line["label"]
        if TASKS[task].kind == "span":
            assert line["prediction"] == (label[0][0] if label else "")
        elif kind == "multi_label":
            assert sorted(line["prediction"]) == sorted(label)
        elif kind != "regression":
            assert line["prediction"] == label
    if TASKS[task].kind == "span":
        assert len(json.loads((tmp_path / "run" / "nbest_predictions.json").read_text())) == 64


# Several together, stopped, resumed


@pytest.fixture(scope="module")
def trial_config(model, texts, tmp_path_factory):
    """Labels drawn by lot, so that the best epoch may be any; with dropout."""
    folder = tmp_path_factory.mktemp("trials")
    data = {
        "data.train": labelled(folder / "train.jsonl", texts(64)),
        "data.valid": labelled(folder / "v.jsonl", texts(40, 1), 1),
    }
    fields = data | {
        "batch_size": 32,
        "steps": 16,
        "eval_every": 4,
        "checkpoint_every": 16,
        "optimizer.learning_rate": 1e-2,
        "optimizer.warmup_steps": 0.0,
        "model.dropout": 0.1,
    }
    return lambda **more: settings("custom-classification", model, **fields | more)


@pytest.fixture(scope="module")
def apart(trial_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("apart")
    return runs.run_tasks(trial_config(seeds=3, together=1), workdir), workdir


def accuracy(workdir: Path, path: str) -> float:
    """Of the model that `hub.load` finds there, on a file."""
    loaded = hub.load(workdir)
    examples = read_splits("custom-classification", TaskData(train=path, valid=path)).train
    features = KINDS["classification"].encode(examples, loaded.tokenizer, loaded.labels, 16)
    batch = collate(features, np.arange(len(examples)), len(examples), 16, 1)
    logits = jax.jit(apply_with_head, static_argnums=1)(loaded.params, loaded.config, batch["input_ids"], batch["segment_ids"])
    return float((logits.argmax(-1) == batch["labels"]).mean())


def test_seeds_trained_together_learn_what_they_learn_alone(trial_config, apart, tmp_path):
    alone, folder = apart
    config = trial_config(seeds=3, together=3)
    together = runs.run_tasks(config, tmp_path)
    assert [result.seed for result in together] == [0, 1, 2] == [result.seed for result in alone]
    for one, other in zip(together, alone):
        assert (
            one.metrics.keys() == other.metrics.keys() == {f"valid/{name}" for name in ("accuracy", "f1", "matthews", "loss")}
        )
        for name, value in one.metrics.items():
            assert value == pytest.approx(other.metrics[name], abs=1e-3)
        losses = metrics(tmp_path, f"train/loss/seed_{one.seed}")
        assert len(losses) == 16
        np.testing.assert_allclose(losses, metrics(folder / f"seed_{one.seed}", "train/loss"), rtol=1e-4)
    assert len({result.metrics["valid/loss"] for result in alone}) == 3
    best = max(together, key=lambda result: result.metrics["valid/accuracy"])
    assert accuracy(tmp_path, config.data.valid) == pytest.approx(best.metrics["valid/accuracy"])
    assert len({result.metrics["valid/accuracy"] for result in together}) > 1
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert np.mean([line["prediction"] == line["label"] for line in lines]) == pytest.approx(best.metrics["valid/accuracy"])
    values = sorted(100 * result.metrics["valid/accuracy"] for result in together)
    row = f"| custom-classification | accuracy | {values[1]:.1f} | {values[0]:.1f} | {values[2]:.1f} | 3 |"
    assert row in (tmp_path / "results.md").read_text()


def test_what_is_done_is_not_done_again(trial_config, apart, capsys):
    results, workdir = apart
    before = [(workdir / f"seed_{seed}" / "metrics.jsonl").stat().st_mtime_ns for seed in range(3)]
    assert runs.run_tasks(trial_config(seeds=3, together=1), workdir) == results
    assert runs.read_results(workdir / "results.json") == results
    assert [(workdir / f"seed_{seed}" / "metrics.jsonl").stat().st_mtime_ns for seed in range(3)] == before
    assert "compiled the step" not in capsys.readouterr().out


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("init_from", "another", "init_from's parameters of hash '"),
        ("init_from", "of another shape", "init_from's parameters of hash '"),
        ("data.train", "another", "the train split of hash '"),
        ("data.valid", "another", "the valid split of hash '"),
        ("optimizer.learning_rate", 2e-2, "config.optimizer.learning_rate 0.01, not 0.02;"),
        ("optimizer.b1", 0.8, "config.optimizer.b1 0.9, not 0.8;"),
        ("batch_size", 16, "config.batch_size 32, not 16;"),
        ("steps", 32, "config.steps 16, not 32;"),
        ("eval_every", 8, "config.eval_every 4, not 8;"),
        ("patience", 2, "config.patience 0, not 2;"),
        ("max_length", 24, "config.max_length 16, not 24;"),
        ("model.dropout", 0.0, "config.model.dropout 0.1, not 0.0;"),
        ("model.dtype", "bfloat16", "config.model.dtype 'float32', not 'bfloat16';"),
        ("packed", True, "config.packed False, not True;"),
        ("from_scratch", True, "init_from's parameters of hash '"),
        ("guard.skip_above", 3.0, "config.guard.skip_above 0.0, not 3.0;"),
    ],
)
def test_figures_of_another_run_are_refused(trial_config, apart, small_corpus, texts, tmp_path, alone, field, value, named):
    if field == "init_from":
        value = str(random_model(small_corpus.tokenizer, tmp_path / "m", 1, num_layers=1 + (value == "of another shape")))
    elif field in ("data.train", "data.valid"):
        value = labelled(tmp_path / "other.jsonl", texts(64), 5)
    elif field == "guard.skip_above":
        field, value = "guard", GuardConfig(skip_above=value, spike_above=0.0)
    _, workdir = apart
    results = (workdir / "results.json").read_bytes()
    config = trial_config(seeds=1 if alone else 3, together=1, **({field: value} if field != "guard" else {}))
    config = replace(config, guard=value) if field == "guard" else config
    with pytest.raises(UserError) as caught:
        runs.run_tasks(config, workdir / "seed_0" if alone else workdir)
    assert str(caught.value).startswith(f"{workdir / 'seed_0'} is a run with {named}"), caught.value
    assert "\n" not in str(caught.value) and (workdir / "results.json").read_bytes() == results


@pytest.mark.parametrize(
    "fields",
    [
        {"log_every": 7, "checkpoint_every": 3, "keep_checkpoints": 4},
        {"microbatch_size": 2, "fsdp": 2, "model.remat": "full", "model.attention": "xla"},
        {"together": 2},
        {"together": 3},
        {"init_from": "moved", "data.train": "moved", "data.valid": "moved"},
    ],
)
def test_what_changes_no_figure_is_not_refused(trial_config, apart, model, tmp_path, fields, capsys):
    results, workdir = apart
    if "init_from" in fields:
        shutil.copytree(model, tmp_path / "model")
        data = trial_config().data
        moved = {name: str(shutil.copy(getattr(data, name), tmp_path / f"{name}.jsonl")) for name in ("train", "valid")}
        fields = {"init_from": str(tmp_path / "model"), **{f"data.{name}": path for name, path in moved.items()}}
    assert runs.run_tasks(trial_config(**{"seeds": 3, "together": 1} | fields), workdir) == results
    fewer = runs.run_tasks(trial_config(**{"seeds": 2, "seed": 1, "together": 1} | fields), workdir)
    assert fewer == results[1:] and " | 2 | " in (workdir / "results.md").read_text()
    assert "compiled the step" not in capsys.readouterr().out
    runs.run_tasks(trial_config(seeds=3, together=1), workdir)


def test_seeds_that_are_added_are_all_that_is_run(trial_config, apart, tmp_path, capsys):
    """The first was a run by itself, the last was one of several."""
    results, workdir = apart
    shutil.copytree(workdir / "seed_0", tmp_path / "run")
    shutil.copytree(workdir / "seed_2", tmp_path / "run" / "seed_2")
    found = runs.run_tasks(trial_config(seeds=3, together=2), tmp_path / "run")
    assert [(one.seed, one.metrics) for one in found] == [(one.seed, one.metrics) for one in results]
    assert [one.folder for one in found] == [".", "seed_1", "seed_2"]
    assert capsys.readouterr().out.count("rows, 2 steps an epoch") == 1
    assert " | 3 | " in (tmp_path / "run" / "results.md").read_text()


def test_a_half_of_several_together_goes_on_as_it_was_begun(trial_config, apart, tmp_path, monkeypatch):
    """Two as one, of which no checkpoint of another number can make use; then they are told to run alone."""
    results, _ = apart
    real = finetune.finetune_batches

    def with_a_signal(*arguments, **packing):
        for step, batch in enumerate(real(*arguments, **packing), 1):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "finetune_batches", with_a_signal)
        assert runs.run_tasks(trial_config(seeds=3, together=2), tmp_path) is None
    found = runs.run_tasks(trial_config(seeds=3, together=1), tmp_path)
    assert [one.seed for one in found] == [0, 1, 2] and found[2].metrics == results[2].metrics
    assert [one.folder for one in found] == ["seed_0_to_seed_1", "seed_0_to_seed_1", "seed_2"]
    for one, other in zip(found, results):
        assert one.metrics["valid/loss"] == pytest.approx(other.metrics["valid/loss"], abs=1e-3)
    again = runs.run_tasks(trial_config(seeds=3, together=3), tmp_path)
    assert again == found and len(runs.read_results(tmp_path / "results.json")) == 3


def test_a_half_of_more_seeds_than_are_asked_for_is_refused(trial_config, apart, tmp_path):
    """Its checkpoints would lie beside those of others, and `hub.load` take them for the command's model."""
    _, workdir = apart
    task = json.loads((workdir / "seed_0" / "task.json").read_text())
    task["made_by"]["trials"] = ["seed_0", "seed_1"]
    (tmp_path / "task.json").write_text(json.dumps(task))
    with pytest.raises(UserError, match=r"is a run with trials \['seed_0', 'seed_1'\], not \['seed_0'\]; take another workdir"):
        runs.run_tasks(trial_config(together=1), tmp_path)


def test_what_does_not_say_what_made_it_is_refused(trial_config, apart, tmp_path):
    """As the files of earlier versions."""
    _, workdir = apart
    shutil.copytree(workdir / "seed_0", tmp_path / "run")
    for name in ("results.json", "task.json"):
        path = tmp_path / "run" / name
        content = json.loads(path.read_text())
        for one in content if name == "results.json" else [content]:
            del one["made_by"]
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="does not say (of each result )?what made it.*; take another"):
            runs.run_tasks(trial_config(), tmp_path / "run")


def test_a_test_split_that_is_added_is_predicted_without_training(trial_config, apart, texts, tmp_path):
    results, workdir = apart
    shutil.copytree(workdir / "seed_0", tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    for seed in (2, 3):
        path = labelled(tmp_path / f"test{seed}.jsonl", texts(8 + seed, seed))
        (found,) = runs.run_tasks(trial_config(**{"data.test": path}), tmp_path / "run")
        assert len((tmp_path / "run" / "predictions_test.jsonl").read_text().splitlines()) == 8 + seed
    assert found.metrics == results[0].metrics and (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_run_stopped_again_and_again_ends_as_an_undisturbed_one(trial_config, apart, model, tmp_path, monkeypatch):
    """Before the first evaluation, in the step of one, and in the last; a SIGTERM comes while the step's batch is made."""
    results, undisturbed = apart
    real = finetune.finetune_batches
    for stop in (3, 4, 16):

        def with_a_signal(*arguments, stop=stop, **packing):
            first_step = arguments[6]
            for step, batch in enumerate(real(*arguments, **packing), first_step + 1):
                if step == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        monkeypatch.setattr(finetune, "finetune_batches", with_a_signal)
        found = runs.run_tasks(trial_config(), tmp_path)
        assert (found is None) == (stop < 16)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(stop)]
        if stop == 3:  # there is no best yet: the model is the step's, and not what it would be with random weights
            encoders = [hub.load(source).params["encoder"] for source in (tmp_path, model)]
            difference = jax.tree.map(lambda one, other: float(np.abs(one - other).max()), *encoders)
            assert 0 < max(jax.tree.leaves(difference)) < 0.05
    assert found[0].metrics == results[0].metrics
    for name in ("train/loss", "valid/loss", "valid/accuracy"):
        assert metrics(tmp_path, name) == metrics(undisturbed / "seed_0", name)
    assert (tmp_path / "predictions.jsonl").read_text() == (undisturbed / "seed_0" / "predictions.jsonl").read_text()


def test_patience_ends_a_run_and_the_best_epoch_is_what_is_kept(trial_config, tmp_path):
    config = trial_config(seed=8, eval_every=2, patience=3)  # its first updates overshoot: all of one label, then of the other
    (result,) = runs.run_tasks(config, tmp_path)
    accuracies = metrics(tmp_path, "valid/accuracy")
    best = int(np.argmax(accuracies))
    assert len(accuracies) < 8 and len(accuracies) - 1 - best == 3 and accuracies[best] > accuracies[-1]
    assert result.metrics["valid/accuracy"] == pytest.approx(accuracies[best])
    assert accuracy(tmp_path, config.data.valid) == pytest.approx(accuracies[best])
    before = (tmp_path / "metrics.jsonl").read_text()
    (again,) = runs.run_tasks(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before and again.metrics == result.metrics


def test_patience_is_each_seeds_own_where_several_are_trained_together(trial_config, tmp_path):
    config = trial_config(seed=5, seeds=3, eval_every=1, patience=2, log_every=2, checkpoint_every=16)
    together = runs.run_tasks(replace(config, together=3), tmp_path / "together")
    for one, other in zip(together, runs.run_tasks(replace(config, together=1), tmp_path / "alone")):
        assert one.collapsed == other.collapsed and one.seed == other.seed
        for name, value in one.metrics.items():
            assert value == pytest.approx(other.metrics[name], abs=1e-6), name
    assert len({len(metrics(tmp_path / "alone" / one.name, "valid/accuracy")) for one in together}) > 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_run_that_ends_before_it_logs_a_loss_is_judged_by_the_valid_split(trial_config, apart, small_corpus, tmp_path):
    """So is a trial of several, of whose losses only those count that it had when its patience ended."""
    _, workdir = apart
    splits = read_splits("custom-classification", trial_config().data)
    prepared = finetune.prepare(TASKS["custom-classification"], splits, LosslessTokenizer(small_corpus.tokenizer), 16)
    for loss, collapsed in ((0.3, False), (0.69, True), (float("nan"), True), (float("inf"), True)):
        assert runs._collapsed(prepared, tmp_path, "train/loss", 16, loss) == collapsed
        assert runs._collapsed(prepared, workdir / "seed_0", "train/loss", 0, loss) == collapsed
    lines = [{"step": step, "train/loss/seed_1": loss} for step, loss in ((10, 0.69), (20, 0.69), (30, 0.01), (40, 0.01))]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 40, "valid/loss": 1}])
    )
    assert runs._collapsed(prepared, tmp_path, "train/loss/seed_1", 20, 0.01)
    assert not runs._collapsed(prepared, tmp_path, "train/loss/seed_1", 40, 0.69)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_patience_may_end_a_run_before_its_first_log_line(model, texts, tmp_path):
    path = tmp_path / "train.jsonl"
    jsonl(path, rows_of("classification", texts(64)))
    fields = {"data.train": str(path), "data.valid": str(path), "batch_size": 64, "steps": 120}
    fields |= {"optimizer.learning_rate": 1e-2, "eval_every": 30, "log_every": 1000, "patience": 1}
    (result,) = runs.run_tasks(settings("custom-classification", model, **fields), tmp_path / "run")
    assert not metrics(tmp_path / "run", "train/loss") and not result.collapsed and result.metrics["valid/accuracy"] == 1.0


def run_quickly(prepared, config, source, trials, workdir, made_by, stop):
    """As `finetune.train_trials`, of one trial, without a step."""
    finetune._write_task(config, prepared, source, workdir, made_by | {"trials": [trial.name for trial in trials]})
    logits = {"": [np.arange(prepared.outputs)] * len(prepared.valid[""].examples)}
    metrics = {name: np.zeros(1) for name in finetune.not_finite(prepared)}
    return metrics, np.ones(1), (logits, {}), {}


@pytest.mark.parametrize("several", ["seeds", "batches", "tasks", "command"])
def test_a_signal_that_comes_too_late_to_end_a_run_ends_the_command(trial_config, tmp_path, monkeypatch, several):
    begun = []

    def with_a_signal(*arguments):
        begun.append(arguments[4])
        if len(begun) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return run_quickly(*arguments)

    monkeypatch.setattr(finetune, "train_trials", with_a_signal)
    monkeypatch.setattr(runs, "GRID", {"learning_rate": (1e-2,), "batch_size": (16, 32)})
    config = trial_config(together=1, seeds=1 + (several == "seeds"), sweep=several == "batches")
    if several == "tasks":
        config = replace(config, task="custom-classification,custom-multi-label")
    assert runs.run_tasks(config, tmp_path, more=several == "command") is None
    (first,) = begun
    assert (first / "results.json").exists() and (first / "predictions.jsonl").exists()
    assert not (tmp_path / "results.md").exists()
    assert len(runs.run_tasks(config, tmp_path)) == len({*begun}) == len(begun) == 1 + (several != "command")


def test_a_run_that_diverges_ends_no_other_and_is_not_run_again(trial_config, tmp_path, monkeypatch, capsys):
    """The best is one that did not, and the table has the figures of those."""

    def diverging(prepared, config, source, trials, *more):
        found = run_quickly(prepared, config, source, trials, *more)
        if trials[0].seed == 0:
            raise gave_up(config.guard, 3, 5, 3, None)
        return found

    config = trial_config(together=1, seeds=2)
    for again in (diverging, None):
        monkeypatch.setattr(finetune, "train_trials", again)
        first, second = runs.run_tasks(config, tmp_path)
        assert first.collapsed and np.isnan([*first.metrics.values()]).all() and second.metrics["valid/accuracy"] == 0
        assert " | 0.0 | 0.0 | 0.0 | 2 | " in (tmp_path / "results.md").read_text()
        said = capsys.readouterr().out
        assert f"the best run of custom-classification is in {tmp_path / 'seed_1'}" in said
        assert ("5 steps in a row, from step 3 on, were unsound" in said) == (again is diverging)
        assert "guard.skip_above" not in said  # which no fine-tuning config has
    assert not (tmp_path / "seed_0" / "predictions.jsonl").exists()
    (only,) = runs.run_tasks(replace(config, seeds=1), tmp_path)
    assert np.isnan(only.metrics["valid/accuracy"]) and " | nan | nan | nan | 1 | 1 | " in (tmp_path / "results.md").read_text()


# Beginning with a fine-tuned model


def test_a_head_goes_on_where_it_answers_the_same(apart, tmp_path):
    _, workdir = apart
    hub.export(workdir / "seed_0", tmp_path / "exported")
    fields = json.loads((tmp_path / "exported" / "config.json").read_text())
    shutil.copytree(tmp_path / "exported", tmp_path / "without")  # as transformers' own folders often are
    (tmp_path / "without" / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k != "problem_type"}))
    for folder in (workdir / "seed_0", tmp_path / "exported", tmp_path / "without"):
        source = hub.load(folder)

        def begun(task: str, labels: tuple[str, ...], source=source) -> tuple[set[str], str]:
            params, word = finetune.initial(TASKS[task], labels, source)
            return params.keys() - {"encoder"}, word

        params, word = finetune.initial(TASKS["custom-classification"], ("a", "b"), source)
        assert params == source.params and "classification" in params
        assert word == "the classification head of config.init_from goes on: its labels are this task's, a, b"
        out = "the classification head of config.init_from is left out and a new one begins: "
        one_label = "single_label_classification"
        assert begun("custom-classification", ("b", "a")) == (set(), out + "its labels are a, b, this task's b, a")
        assert begun("custom-classification", ("a", "b", "c")) == (set(), out + "it has 2 outputs, this task 3")
        multi = f"it is of {one_label}, this task of multi_label_classification"
        assert begun("custom-multi-label", ("a", "b")) == (set(), out + multi)
        assert begun("custom-regression", ()) == (set(), f"{out}it is of {one_label}, this task of regression")
        assert begun("squad", ()) == (set(), f"{out}it is of {one_label}, this task of span")
        assert begun("custom-tagging", ("a", "b")) == (set(), f"{out}it is of {one_label}, this task of token_classification")


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "problem"),
    [
        ("squad", 2, (), ""),
        ("squad2", 3, (), ""),
        ("race", 1, (), ""),
        ("stsb", 1, (), "regression"),
        ("stsb", 1, (), ""),
        ("custom-multi-label", 3, ("a", "b", "c"), "multi_label_classification"),
        ("conll2003", 3, ("O", "B-X", "I-X"), ""),
    ],
)
def test_heads_of_every_kind_go_on(model, task, outputs, labels, problem):
    head, source = KINDS[TASKS[task].kind].head, hub.load(model)
    fresh = jax.device_get(init_with_head(jax.random.key(0), source.config, head, outputs))
    source = replace(source, params=fresh, head=head, labels=labels, problem=problem)
    params, word = finetune.initial(TASKS[task], labels, source)
    assert params == fresh and word.startswith(f"the {head} head of config.init_from goes on")
    if head == "span":  # of questions that have an answer all, and such as have none
        params, word = finetune.initial(TASKS["squad2" if outputs == 2 else "squad"], (), source)
        assert params.keys() == {"encoder"} and f"it has {outputs} outputs, this task {5 - outputs}" in word


def test_a_pretrained_model_has_no_head_to_speak_of(model):
    params, word = finetune.initial(TASKS["custom-classification"], ("a", "b"), hub.load(model))
    assert params.keys() == {"encoder"} and word == ""


def test_a_run_that_goes_on_from_a_fine_tuned_one_begins_where_that_was(trial_config, apart, tmp_path, capsys):
    results, workdir = apart
    fields = {"init_from": str(workdir / "seed_1"), "steps": 1, "eval_every": 1, "optimizer.learning_rate": 1e-9}
    (found,) = runs.run_tasks(trial_config(**fields), tmp_path)
    for name, value in results[1].metrics.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-5)
    assert "the classification head of config.init_from goes on: its labels are this task's, a, b" in capsys.readouterr().out


def test_from_scratch_takes_the_shape_alone(trial_config, apart, model, tmp_path):
    runs.run_tasks(trial_config(from_scratch=True), tmp_path)
    _, workdir = apart
    source, tuned, scratch = (hub.load(folder) for folder in (model, workdir / "seed_0", tmp_path))
    kernels = [one.params["encoder"]["layers"]["qkv"]["kernel"].ravel() for one in (source, tuned, scratch)]
    assert np.corrcoef(kernels)[0, 1] > 0.7 > 0.1 > abs(np.corrcoef(kernels)[0, 2])
    assert scratch.config == tuned.config and scratch.tokenizer.base.hash == source.tokenizer.base.hash
    assert "its shape with random weights" in (tmp_path / "results.md").read_text()


def test_a_grid_and_that_a_run_which_collapses_is_flagged_and_not_hidden(trial_config, tmp_path, monkeypatch):
    """Of texts that say nothing the loss stays ln 2; at an absurd rate it is large, at a worse one no step is made any more."""
    assert runs.GRID == {"learning_rate": (1e-5, 2e-5, 3e-5), "batch_size": (16, 32)}  # the paper's
    jsonl(tmp_path / "same.jsonl", [{"text": "the same words", "label": "ab"[i % 2]} for i in range(64)])
    rates, sizes = (1e-4, 1.0, 1e30), (16, 32)
    monkeypatch.setattr(runs, "GRID", {"learning_rate": rates, "batch_size": sizes})
    data = {name: str(tmp_path / "same.jsonl") for name in ("data.train", "data.valid")}
    results = runs.run_tasks(trial_config(sweep=True, together=3, **data), tmp_path / "run")
    expected = [(rate, size) for size in sizes for rate in rates]
    assert [(result.learning_rate, result.batch_size) for result in results] == expected
    assert [result.collapsed for result in results] == [True] * 6
    rows = [line.split(" | ") for line in (tmp_path / "run" / "results.md").read_text().splitlines()[4:]]
    assert [row[5:9] for row in rows] == [["1", "1", f"{rate:g}", str(size)] for rate, size in expected]
    for size in sizes:
        folder = tmp_path / "run" / f"batch_{size}"
        first, second, third = (metrics(folder, f"train/loss/seed_0_rate_{rate:g}") for rate in rates)
        assert first[-1] == pytest.approx(np.log(2), abs=0.05) and second[-1] > 0.69 and len(third) < len(first)
        assert metrics(folder, "valid/loss/seed_0_rate_0.0001") != metrics(folder, "valid/loss/seed_0_rate_1")
        assert (folder / "predictions.jsonl").exists()


# Several tasks


def test_glue_from_mnli_is_handed_in_as_its_server_takes_it(model, texts, tmp_path):
    pairs = [(" ".join(words[:3]), " ".join(words[3:])) for words in texts(24)]
    header = ["index", "sentence1", "sentence2"]

    def write(path: Path, labels: list[str], column: str = ""):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [[i, *pair, *([labels[i % len(labels)]] if labels else [])] for i, pair in enumerate(pairs)]
        table(path, [header + [column] * bool(labels), *rows])

    entailment = ["entailment", "neutral", "contradiction"]
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path / "GLUE" / "MNLI" / f"{name}.tsv", entailment, "gold_label")
    for name in ("test_matched", "test_mismatched", "diagnostic"):
        write(tmp_path / "GLUE" / "MNLI" / f"{name}.tsv", [])
    for name in ("train", "dev"):
        write(tmp_path / "GLUE" / "RTE" / f"{name}.tsv", ["entailment", "not_entailment"], "label")
    write(tmp_path / "GLUE" / "RTE" / "test.tsv", [])
    fields = {"data.source": str(tmp_path / "GLUE"), "steps": 2, "seeds": 2, "from_mnli": True}
    config = settings("rte,mnli", model, **fields)
    results = runs.run_tasks(config, tmp_path / "run")
    assert [(result.task, result.seed, result.learning_rate, result.batch_size) for result in results] == [
        *(("mnli", seed, 1e-5, 32) for seed in (0, 1)), *(("rte", seed, 2e-5, 16) for seed in (0, 1))
    ]  # fmt: skip
    assert {"valid/accuracy", "valid_mismatched/accuracy"} <= results[0].metrics.keys()
    best = max(results[:2], key=lambda result: result.metrics["valid/accuracy"]).seed
    begun = json.loads((tmp_path / "run" / "rte" / "seed_0" / "config.json").read_text())["init_from"]
    assert begun == str(tmp_path / "run" / "mnli" / f"seed_{best}")
    with zipfile.ZipFile(tmp_path / "run" / "submission.zip") as archive:
        files = {name: archive.read(name).decode().splitlines() for name in archive.namelist()}
    assert files.keys() == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "RTE.tsv"}
    for name, lines in files.items():
        labels = TASKS["rte" if name == "RTE.tsv" else "mnli"].labels
        assert lines[0] == "index\tprediction" and [line.split("\t")[0] for line in lines[1:]] == list(map(str, range(24)))
        assert {line.split("\t")[1] for line in lines[1:]} <= set(labels)
    rows = [line for line in (tmp_path / "run" / "results.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| mnli", "accuracy"], ["| mnli", "valid_mismatched/accuracy"], ["| rte", "accuracy"]
    ]  # fmt: skip
    assert rows[2].split(" | ")[9:11] == ["78.7", "86.6"] and " | 87.6 | " in rows[0] and "87.6" not in rows[1]


def test_after_mnli_nothing_begins_from_random_weights(model, texts, tmp_path, monkeypatch):
    for name, labels in (("MNLI", ["entailment", "neutral", "contradiction"]), ("RTE", ["entailment", "not_entailment"])):
        (tmp_path / name).mkdir()
        rows = [(i, " ".join(words[:3]), " ".join(words[3:]), labels[i % len(labels)]) for i, words in enumerate(texts(6))]
        for split in ("train", "dev_matched" if name == "MNLI" else "dev"):
            table(tmp_path / name / f"{split}.tsv", [("index", "sentence1", "sentence2", "label"), *rows])
    begun, whole = {}, runs._run_task
    monkeypatch.setattr(
        runs, "_run_task", lambda one, *more: (begun.update({one.task: one.from_scratch}), whole(one, *more))[1]
    )
    config = settings("rte,mnli", model, from_mnli=True, from_scratch=True, steps=1, **{"data.source": str(tmp_path)})
    assert runs.run_tasks(config, tmp_path / "run") and begun == {"mnli": True, "rte": False}


@pytest.mark.parametrize("together", [1, 2])
def test_packed_rows_are_taken_in_microbatches(model, texts, tmp_path, together):
    """Of batches that have fewer rows than the largest one too: each has whole microbatches."""
    path = labelled(tmp_path / "train.jsonl", texts(40))
    given = {"packed": True, "batch_size": 16, "seeds": 2, "together": together, "steps": 3, "max_length": 32}
    found = []
    for size in (0, 4):
        config = settings(
            "custom-classification", model, **given, **{"data.train": path, "data.valid": path, "microbatch_size": size}
        )
        runs.run_tasks(config, tmp_path / f"run{size}")
        folder = tmp_path / f"run{size}" if together == 2 else tmp_path / f"run{size}" / "seed_0"
        found.append(metrics(folder, "train/loss/seed_0" if together == 2 else "train/loss"))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


# What is wrong


@pytest.mark.parametrize(
    ("task", "fields", "sentence"),
    [
        ("rtee", {}, "config.task 'rtee' is not known; there are glue, cola"),
        ("rte,rtee", {}, "config.task 'rtee' is not known"),
        ("custom-classification", {"init_from": ""}, "config.init_from is empty; name the model"),
        ("custom-classification", {"init_from": "no/such/model"}, "no/such/model: there is no such folder"),
        ("custom-classification", {"data.train": ""}, "config.data.source and config.data.train are empty"),
        ("custom-classification", {"data.train": "no.jsonl"}, r"no\.jsonl: no such file"),
        ("custom-classification", {"fsdp": 3}, "fsdp is 3; it must divide the 8 devices"),
        ("custom-classification", {"max_length": 7}, "config.max_length is 7; expected 8 or more"),
        ("custom-classification", {"seeds": 0}, "config.seeds is 0; expected 1 or more"),
    ],
)
def test_a_mistake_is_one_sentence(task, fields, sentence, model, texts, tmp_path):
    fields = {"data.train": labelled(tmp_path / "train.jsonl", texts(20))} | fields
    with pytest.raises(UserError, match=sentence) as caught:
        runs.run_tasks(settings(task, model, **fields), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "checkpoints").exists()


def test_a_task_is_the_config_files_argument():
    """Its batch, rate, decay and epochs come with it, and would stay those of another, or of pretraining."""
    for argument, task in (("", "rte"), ("rte", "mnli"), ("rte", "glue"), ("glue", "rte")):
        with pytest.raises(UserError, match=f"is the config file's argument, as in --config=configs/finetune.py:{task}"):
            load_config(f"finetune:{argument}", {"task": task})
    assert load_config("finetune:rte ", {"task": "rte"}) == load_config("finetune:rte")


def test_white_space_around_a_task_is_no_part_of_it(trial_config, apart):
    results, workdir = apart
    config = replace(trial_config(seeds=3, together=1), task="custom-classification ")
    assert runs.run_tasks(config, workdir) == results


def test_the_workdir_of_another_job_is_refused_and_left_alone(trial_config, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "config.json").write_text('{"job": "pretrain"}')
    with pytest.raises(UserError, match=f"{tmp_path} holds a run whose config.job is 'pretrain', this one's is 'finetune'"):
        runs.run_tasks(trial_config(), tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"config.json", "tokenizer"}


def test_a_model_without_a_tokenizer_is_one_sentence(model, texts, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((model / name).read_bytes())
    path = labelled(tmp_path / "train.jsonl", texts(20))
    with pytest.raises(UserError, match=f"config.init_from {bare} has no tokenizer"):
        runs.run_tasks(settings("custom-classification", bare, **{"data.train": path}), tmp_path / "run")


def test_the_workdir_of_another_task_is_refused(trial_config, apart):
    _, workdir = apart
    other = labelled(workdir / "more.jsonl", [["one"], ["two"], ["three"]] * 9, classes="xyz")
    expected = r"is a run with labels \['a', 'b'\], not \['x', 'y', 'z'\] \(and 2 more\); take another workdir"
    with pytest.raises(UserError, match=expected):
        runs.run_tasks(trial_config(**{"data.train": other, "data.valid": other}), workdir / "seed_0")


def test_the_door(trial_config, model, tmp_path):
    """In processes of their own, which run beside each other: one that works, and two mistakes."""
    data = trial_config().data
    fields = {"init_from": model, "data.train": data.train, "data.valid": data.valid, "steps": 2, "max_length": 16}
    arguments = [*(f"--config.{name}={value}" for name, value in fields.items()), f"--workdir={tmp_path}"]

    def start(task: str, *more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "roberta_jax.main", f"--config=configs/finetune.py:{task}", *arguments, *more]
        flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]  # one device
        environment = os.environ | {"XLA_FLAGS": " ".join(flags)}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    good = start("custom-classification")
    elsewhere = f"--workdir={tmp_path / 'elsewhere'}"  # one run at a time is in a workdir
    mistakes = {
        "config.sead": start("custom-classification", "--config.sead=3", elsewhere),
        "config.task 'custom-clasification' is not known": start("custom-clasification", elsewhere),
    }
    for sentence, process in mistakes.items():
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2 and "Traceback" not in errors, errors
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert sentence.removeprefix("config.").split()[0] in line
    output, errors = good.communicate(timeout=300)
    assert good.returncode == 0, errors[-3000:]
    assert "| custom-classification | accuracy |" in output
    assert {"results.json", "results.md", "predictions.jsonl", "metrics.jsonl", "task.json", "tokenizer", "checkpoints"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert hub.load(tmp_path).labels == ("a", "b")
