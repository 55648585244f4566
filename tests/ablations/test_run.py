"""A study from the command's config to its report, on a small corpus; what is done is not done again."""

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roberta_jax.ablations import results
from roberta_jax.ablations.config import AblationsConfig, Downstream
from roberta_jax.ablations.run import finetuned, ranked, run
from roberta_jax.data.corpus import Corpus
from roberta_jax.errors import UserError
from roberta_jax.inference import load
from roberta_jax.model.config import RobertaConfig
from roberta_jax.pretraining import job
from roberta_jax.pretraining.config import DataConfig
from roberta_jax.training.guard import GuardConfig
from roberta_jax.training.optimizer import OptimizerConfig
from tests.conftest import english

MODEL = RobertaConfig(
    vocab_size=300, num_layers=1, hidden_size=16, intermediate_size=32, num_heads=2, max_length=32, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> AblationsConfig:
    folder = tmp_path_factory.mktemp("ablations")
    (folder / "text.txt").write_text("\n\n".join(english(400)))
    sst2 = folder / "glue" / "SST-2"
    sst2.mkdir(parents=True)
    for name, number in (("train", 64), ("dev", 16)):
        lines = [f"{text}\t{i % 2}" for i, text in enumerate(english(number))]
        (sst2 / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))
    data = DataConfig(
        source=(str(folder / "text.txt"),),
        tokenizer=300,
        length=32,
        valid_fraction=0.1,
        cache=str(folder / "cache"),
        processes=1,
    )
    return AblationsConfig(
        study="input_format", seeds=1, steps=4, batch_size=64, log_every=2, eval_every=2, checkpoint_every=4,
        model=MODEL, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1), data=data,
    )  # fmt: skip


@pytest.fixture
def downstream(config) -> Downstream:
    glue = Path(config.data.source[0]).parent / "glue"
    return Downstream(str(glue), "sst2", steps=2, batch_size=8, max_length=32)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(config, workdir)
    return workdir


def test_all_variants_are_run_and_reported(config, workdir):
    runs = {path.parts[-3]: results.load(path)[0] for path in workdir.glob("runs/input_format/*/seed_0/run.json")}
    assert set(runs) == {"full-sentences", "segment-pair", "sentence-pair", "doc-sentences", "doc-sentences-packed"}
    for name, one in runs.items():
        assert {"loss", "perplexity", "accuracy", "own_loss", "bits_per_byte"} <= one.metrics.keys()
        assert [round(tokens / one.tokens, 2) for tokens, _ in one.curve] == [0.5, 1.0]
        fields = json.loads((workdir / "runs" / "input_format" / name / "seed_0" / "config.json").read_text())
        assert fields["data"]["format"] == name and fields["batch_size"] == one.details["batch_size"]
    tokens = {name: one.tokens for name, one in runs.items()}
    for name in tokens:  # a batch holds about as many
        assert abs(tokens[name] / tokens["full-sentences"] - 1) < 0.1, tokens
    assert len({one.details["batch_size"] for one in runs.values()}) > 2  # by rows that are more or less full
    report = (workdir / "report.md").read_text()
    for name in runs:
        assert f"| {name} |" in report
    assert (workdir / "report.html").exists()


def test_what_is_done_is_not_done_again(config, workdir, capsys):
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("runs/**/*.json*")}
    run(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("runs/**/*.json*")} == before
    with pytest.raises(UserError, match="full-sentences/seed_0 holds a run of another config; take another workdir"):
        run(replace(config, steps=6), workdir)


def test_what_changes_no_figure_is_not_refused(config, workdir, tmp_path):
    """What is written when, and where the text lies: its rows are the same."""
    text = tmp_path / "elsewhere.txt"
    text.write_bytes(Path(config.data.source[0]).read_bytes())
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("runs/**/*.json*")}
    moved = replace(config.data, source=(str(text),), cache=str(tmp_path / "cache"))
    run(replace(config, log_every=1, eval_every=4, checkpoint_every=2, keep_checkpoints=3, data=moved), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("runs/**/*.json*")} == before


@pytest.mark.parametrize("stopped", [False, True])
def test_figures_of_another_run_are_refused(config, workdir, tmp_path, stopped):
    """Of other text too, though its path be the same; and before a run is done."""
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for path in copy.glob("runs/**/run.json") if stopped else ():
        path.unlink()
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(english(399)))
    changes = {
        "the corpus of hash '": replace(config, data=replace(config.data, source=(str(text),))),
        "config.data.masking_rate 0.15, not 0.2": replace(config, data=replace(config.data, masking_rate=0.2)),
        "config.optimizer.learning_rate 0.01, not 0.02": replace(
            config, optimizer=replace(config.optimizer, learning_rate=2e-2)
        ),
        "config.model.dropout 0.0, not 0.1": replace(config, model=replace(config.model, dropout=0.1)),
        "config.batch_size 64, not 32": replace(config, batch_size=32),
    }
    for differs, other in changes.items():
        with pytest.raises(UserError, match=f"full-sentences/seed_0 holds a run of another config; .* Its was {differs}"):
            run(other, copy)
    (copy / "runs" / "input_format" / "full-sentences" / "seed_0" / "made_by.json").unlink()
    if not stopped:  # as an earlier version left it
        with pytest.raises(UserError, match="full-sentences/seed_0 holds a run of another config"):
            run(config, copy)


def test_an_initial_model_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="config.init_from is 'model'; expected none, for ablations begin with random weights"):
        run(replace(config, init_from="model"), tmp_path)


def test_a_run_that_was_stopped_goes_on(config, workdir, tmp_path):
    """Its note gone, a run is found at its last step, and gives the same figures."""
    path = workdir / "runs" / "input_format" / "doc-sentences" / "seed_0" / "run.json"
    (before,) = results.load(path)
    path.unlink()
    run(config, workdir)
    (after,) = results.load(path)
    assert after == replace(before, seconds=after.seconds)


def test_a_signal_that_comes_too_late_for_a_run_ends_the_study_behind_it(config, workdir, tmp_path, monkeypatch, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    runs = [
        tmp_path / "run" / "runs" / "input_format" / name / "seed_0" / "run.json" for name in ("segment-pair", "sentence-pair")
    ]
    for path in runs:
        path.unlink()
    real = job.unigram_loss  # which a run asks for behind its last step

    def with_a_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(job, "unigram_loss", with_a_signal)
    run(config, tmp_path / "run")
    assert [path.exists() for path in runs] == [True, False]
    assert "SIGTERM: " in (said := capsys.readouterr().out) and "is pretrained; the same command goes on" in said


def test_a_run_that_is_there_is_fine_tuned_once(workdir, downstream, tmp_path):
    folder = workdir / "runs" / "input_format" / "segment-pair" / "seed_0"
    (before,) = results.load(folder / "run.json")
    after = finetuned(before, downstream, folder)
    assert after.metrics.keys() - before.metrics.keys() == {"sst2"} and 0 <= after.metrics["sst2"] <= 100
    assert after.seconds > before.seconds and not (folder / "sst2" / "checkpoints").exists()
    assert results.load(folder / "run.json") == [after] == [finetuned(after, downstream, folder)]
    with pytest.raises(UserError, match="seed_0: was fine-tuned with other fields of config.downstream"):
        finetuned(after, replace(downstream, steps=3), folder)
    elsewhere = tmp_path / "glue"
    shutil.copytree(downstream.source, elsewhere)
    assert finetuned(after, replace(downstream, source=str(elsewhere)), folder) == after
    table = elsewhere / "SST-2" / "dev.tsv"
    table.write_text(table.read_text().replace("\t1", "\t0", 1))
    with pytest.raises(UserError, match="seed_0: was fine-tuned on other examples of sst2; take another workdir"):
        finetuned(after, replace(downstream, source=f"{elsewhere}/"), folder)


def test_a_run_that_is_there_is_judged_once_by_minimal_pairs(workdir, downstream, tmp_path):
    folder, pairs = workdir / "runs" / "input_format" / "segment-pair" / "seed_0", tmp_path / "grammar" / "own.jsonl"
    pairs.parent.mkdir()
    sentences = [[text[:20] for text in english(8, seed)] for seed in (1, 2)]
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad}) for good, bad in zip(*sentences)]
    pairs.write_text("\n".join(lines))
    (before,) = results.load(folder / "run.json")
    downstream = replace(downstream, minimal_pairs=(str(pairs.parent),))
    after = ranked(before, downstream, folder)
    model = load(folder)
    right = model.score(sentences[0]) > model.score(sentences[1])
    assert after.metrics == before.metrics | {"grammar": pytest.approx(100 * np.mean(right))}
    assert results.load(folder / "run.json") == [after] == [ranked(after, downstream, folder)]
    pairs.write_text("\n".join(lines[1:]))
    with pytest.raises(UserError, match="seed_0: was judged by other pairs of grammar; take another workdir"):
        ranked(after, replace(downstream, minimal_pairs=(str(pairs),)), folder)


def test_pairs_that_do_not_fit_the_models_rows_leave_that_figure_out_alone(workdir, downstream, tmp_path, capsys):
    """As of single characters: a sentence of 100 is no reason to end a study."""
    (before,) = results.load(workdir / "runs" / "input_format" / "full-sentences" / "seed_0" / "run.json")
    folder = tmp_path / "seed_0"
    shutil.copytree(workdir / "runs" / "input_format" / "full-sentences" / "seed_0", folder)
    for name, good in (("long", "the old boat " * 30), ("short", "the old boat")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.jsonl").write_text(json.dumps({"sentence_good": good, "sentence_bad": f"{good}s"}))
    downstream = replace(downstream, minimal_pairs=(str(tmp_path / "long"), str(tmp_path / "short")))
    after = ranked(before, downstream, folder)
    assert after.metrics.keys() - before.metrics.keys() == {"short"}
    assert results.load(folder / "run.json") == [after] == [ranked(after, downstream, folder)]
    said = capsys.readouterr().out
    assert "tokens is longer than the model's 32" in said and "It has no figure of long." in said


def test_an_unknown_study_and_a_missing_task_are_refused(config, downstream, tmp_path):
    with pytest.raises(UserError, match="config.study 'mask' is not known; there are all, masking, input_format"):
        run(replace(config, study="mask"), tmp_path)
    with pytest.raises(UserError, match="nowhere is no file, folder or glob .*; expected minimal pairs"):
        run(replace(config, downstream=Downstream(minimal_pairs=("nowhere",))), tmp_path)
    with pytest.raises(UserError, match="config.downstream: there is no folder .*RTE for 'rte'"):
        run(replace(config, downstream=replace(downstream, tasks="rte")), tmp_path)


def test_runs_that_do_not_learn_are_in_the_report_and_end_no_other(config, downstream, tmp_path, capsys):
    """Of what they would have been judged on too. Nor are they begun anew by the same command."""
    wild = replace(config.optimizer, learning_rate=1e30)
    config = replace(
        config, study="masking/static", steps=12, optimizer=wild, guard=GuardConfig(rewinds=0), downstream=downstream
    )
    for _ in range(2):
        run(config, tmp_path)
    assert capsys.readouterr().out.count("The other runs go on") == 2
    report = (tmp_path / "report.md").read_text()
    for name in ("dynamic", "static"):
        (one,) = results.load(tmp_path / "runs" / "masking" / name / "seed_0" / "run.json")
        assert math.isnan(one.metrics["loss"]) and one.parameters > 1_000 and one.seconds > 0
        line = next(line for line in report.splitlines() if f"masking {name} seed 0 is not finite" in line)
        assert "in no mean: loss" in line and "SST-2" in line


def test_seconds_are_those_of_all_starts_and_a_batch_stays_on_other_devices(config, workdir, tmp_path):
    folder = tmp_path / "runs" / "input_format" / "sentence-pair" / "seed_0"
    shutil.copytree(workdir / "runs" / "input_format" / "sentence-pair" / "seed_0", folder)
    (before,) = results.load(folder / "run.json")
    ledger = json.loads((folder / "ledger.json").read_text())
    assert before.seconds == pytest.approx(sum(ledger["seconds"].values()), rel=1e-3)
    (folder / "run.json").unlink()
    made_by = json.loads((folder / "made_by.json").read_text())
    assert made_by["rows of a batch"] == before.details["batch_size"]
    (folder / "made_by.json").write_text(json.dumps(made_by | {"rows of a batch": 72}))
    run(replace(config, study="input_format/sentence-pair"), tmp_path)
    (after,) = results.load(folder / "run.json")
    assert after.details["batch_size"] == 72 and after.seconds > before.seconds


def test_corpora_of_a_study_share_their_tokenizer(config, workdir):
    """So that losses are of the same ids."""
    hashes = {Corpus(path.parent).tokenizer.hash for path in (workdir.parent).glob("ablations*/cache/corpus-*/manifest.json")}
    assert len(hashes) == 1
