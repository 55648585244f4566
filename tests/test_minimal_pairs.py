"""The command: its tables and its JSON, every checkpoint of a run, what it says of holistic scores, and what it refuses."""

import dataclasses
import json
import re
import sys

import jax
import numpy as np
import pytest

from roberta_jax import minimal_pairs as command
from roberta_jax import scoring
from roberta_jax.errors import UserError
from roberta_jax.inference import load
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.pairs.suites import CATEGORIES, read
from roberta_jax.tokenization.tokenizer import ByteLevelBPE
from roberta_jax.training.checkpoint import Checkpoints

CONFIG = RobertaConfig(300, 1, 32, 64, 2, max_length=64, dropout=0, attention_dropout=0, initializer_range=0.3, dtype="float32")


@pytest.fixture(autouse=True)
def few_lengths(monkeypatch):
    monkeypatch.setattr(scoring, "LENGTHS", (32,))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of two checkpoints, that has measured a valid loss at one of them."""
    folder = tmp_path_factory.mktemp("run")
    ByteLevelBPE.train(["the cat sits", "the cats sit"] * 5, 300).save(folder / "tokenizer")
    data = {"length": 32, "mask_replace_prob": 0.8, "random_replace_prob": 0.1}
    fields = {"job": "pretrain", "batch_size": 64, "model": dataclasses.asdict(CONFIG), "data": data}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "metrics.jsonl").write_text('{"step": 20, "valid/loss": 4.5}\n{"step": 20, "train/loss": 4.4}\n')
    checkpoints = Checkpoints(folder / "checkpoints", 5, "")
    for step in (3, 20):
        checkpoints.save(step, {"params": init_masked_lm(jax.random.key(step), CONFIG)})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def blimp(tmp_path_factory):
    """67 paradigms in BLiMP's form, of two pairs each."""
    folder = tmp_path_factory.mktemp("blimp")
    terms = list(CATEGORIES) * 6
    for number in range(67):
        record = {"UID": f"paradigm_{number}", "linguistics_term": terms[number]}
        pairs = [
            {"sentence_good": f"the cat sits {number}", "sentence_bad": f"the cats {word} {number}"} for word in ("sits", "it")
        ]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(record | pair) + "\n" for pair in pairs))
    return folder


def said(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["minimal_pairs", *map(str, arguments)])
    command.main()
    return capsys.readouterr().out


def test_the_figures_are_those_of_the_scores(workdir, blimp, monkeypatch, capsys):
    (line,) = said(monkeypatch, capsys, "--model", workdir, "--source", blimp, "--json").splitlines()
    found = json.loads(line)
    assert found["metric"] == "pll" and found["model"] == f"{workdir}, step 20" and found["notes"] == []
    (suite,) = found["suites"]
    assert (suite["suite"], suite["pairs"], suite["of"], suite["published"]) == ("BLiMP", 134, 134, [])
    model, right = load(workdir), {}
    for paradigm in read([str(blimp)])[0].paradigms:
        good, bad = (model.score(list(sentences)) for sentences in zip(*paradigm.pairs))
        right[paradigm.name] = (good > bad).mean()
        assert suite["paradigms"][paradigm.name]["accuracy"] == right[paradigm.name]
    assert suite["overall"]["accuracy"] == pytest.approx(np.mean(list(right.values())))
    assert len(suite["categories"]) == 12
    by_category = {}
    for number, term in enumerate((list(CATEGORIES) * 6)[:67]):
        by_category.setdefault(CATEGORIES[term], []).append(right[f"paradigm_{number}"])
    for name, accuracies in by_category.items():
        assert suite["categories"][name]["accuracy"] == pytest.approx(np.mean(accuracies))
    expected = np.mean([np.mean(accuracies) for accuracies in by_category.values()])
    assert suite["over_categories"]["accuracy"] == pytest.approx(expected)


def test_the_tables_name_metric_ties_and_what_stands_beside(workdir, minimal_pairs, monkeypatch, capsys):
    out = said(monkeypatch, capsys, "--model", workdir, "--source", minimal_pairs / "zorro", "--pairs=2")
    assert "pll: pseudo-log-likelihood (Salazar et al. 2020): each token masked in its turn" in out
    assert "Zorro: 46 pairs of 23 paradigms, a sample of 46,000, the same for every model, by pll" in out
    (theirs,) = [line for line in out.splitlines() if line.startswith("BabyBERTa, all three, ~15M")]
    assert theirs.split()[-2:] == ["85.8", "phueb/UnMasked"]
    (verbs,) = [line for line in out.splitlines() if line.startswith("irregular-verb")]
    assert verbs.split()[-4:] == ["70.9", "95.0", "98.4", "99.6"]
    assert "95% intervals are over pairs, not over trainings" in out and "mean over 23 paradigms" in out
    holistic = said(
        monkeypatch, capsys, "--model", workdir, "--source", minimal_pairs / "zorro", "--pairs=2", "--metric=holistic"
    )
    (theirs,) = [line for line in holistic.splitlines() if line.startswith("BabyBERTa, all three, ~15M")]
    assert theirs.split()[-2:] == ["83.0", "phueb/UnMasked"]  # by the same metric


def test_a_part_of_a_suite_has_no_published_rows(workdir, minimal_pairs, monkeypatch, capsys):
    source = minimal_pairs / "blimp" / "wh_island.jsonl"
    out = said(monkeypatch, capsys, "--model", workdir, "--source", source, "--pairs=2")
    assert "published scores are of all of BLiMP, which this is not" in out and "BabyBERTa" not in out


def test_ties_are_said(workdir, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.csv").write_text("good,bad\nthe cat,the cat\nthe cat sits,the cat sit\n")
    flags = ("--source", tmp_path / "mine.csv", "--good=good", "--bad=bad")
    out = said(monkeypatch, capsys, "--model", workdir, *flags)
    assert "1 of 2 pairs have two equal scores, which counts as wrong." in out
    assert f"{tmp_path.name}: 2 pairs of 1 paradigms, by pll" in out


def test_all_checkpoints_make_a_curve(workdir, blimp, monkeypatch, capsys):
    out = said(monkeypatch, capsys, "--model", workdir, "--source", blimp, "--all")
    curve = out[out.index("bar from 50 to 100%") :].splitlines()
    assert curve[1].split()[:5] == ["step", "3", "0.0M", "tokens", curve[1].split()[4]] and "valid loss  4.5000" in curve[2]
    lines = said(monkeypatch, capsys, "--model", workdir, "--source", blimp, "--all", "--json").splitlines()
    points = [json.loads(line) for line in lines]
    assert [point["step"] for point in points] == [3, 20] and points[1]["valid_loss"] == 4.5
    assert [point["tokens_seen"] for point in points] == [3 * 64 * 32, 20 * 64 * 32]
    assert "valid_loss" not in points[0]
    each = [load(workdir, step) for step in (3, 20)]
    pairs = read([str(blimp)])[0].paradigms[0].pairs
    for model, point in zip(each, points):
        good, bad = (model.score(list(sentences)) for sentences in zip(*pairs))
        assert point["suites"][0]["paradigms"]["paradigm_0"]["accuracy"] == (good > bad).mean()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "WARNING: NOT COMPARABLE. Holistic scores are only .* of this run's predicted tokens 10% were kept"),
        ({"mask_replace_prob": 0.9, "random_replace_prob": 0.1}, "Note: holistic scores are only .*; this run kept none"),
        ({"mask_replace_prob": 0.5, "random_replace_prob": 0.25}, "WARNING: NOT COMPARABLE.* 25% were kept"),
    ],
)
def test_holistic_scores_say_what_the_run_has_learned(workdir, tmp_path, shares, message, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"data": shares}))
    (note,) = command._notes(str(tmp_path), "holistic")
    assert re.search(message, note)
    assert command._notes(str(tmp_path), "pll") == []
    phases = "steps=2 data.mask_replace_prob=0.8, data.mask_replace_prob=1.0 data.random_replace_prob=0.0"
    config = {"steps": 4, "phases": phases, "data": {"mask_replace_prob": 0.9, "random_replace_prob": 0.1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert re.match("WARNING: NOT COMPARABLE.*10% were kept", command._notes(str(tmp_path), "holistic")[0])  # in one phase
    assert "which nothing in" in command._notes("phueb/BabyBERTa-1", "holistic")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric=mlm"], "--metric is 'mlm'; it can be pll, pll-word-l2r, holistic"),
        (["--pairs=-1"], "--pairs is -1; expected a number of pairs, or 0 for all"),
        (["--checkpoint=7"], "checkpoint is '7'; .* has newest, best, 3, 20"),
        (["--good=g"], "there is no 'g' among UID, linguistics_term, sentence_good, sentence_bad; --good"),
        (["--source", "nowhere"], "nowhere is no file, folder or glob"),
        (["--model", "."], r"\. is no model"),
        (["--model", ".", "--all"], r"--all: \. has no checkpoints folder with a checkpoint in it"),
    ],
)
def test_what_cannot_be_is_a_sentence(workdir, blimp, arguments, message, monkeypatch, capsys):
    with pytest.raises(UserError, match=message):
        said(monkeypatch, capsys, "--model", workdir, "--source", blimp, *arguments)


def test_a_model_that_is_not_finite_gives_no_figures(workdir, blimp, monkeypatch, capsys):
    broken = load(workdir)
    broken.params = jax.tree.map(lambda x: x * np.nan, broken.params)
    monkeypatch.setattr("roberta_jax.inference.load", lambda *_: broken)
    with pytest.raises(UserError, match="scores are no finite numbers, the first of 'the cat"):
        said(monkeypatch, capsys, "--model", workdir, "--source", blimp)
