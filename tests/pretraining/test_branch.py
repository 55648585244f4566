"""Runs that go on from another run's checkpoint: what they do as one run would, what they begin anew, what they refuse."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax.errors import UserError
from roberta_jax.pretraining.job import pretrain
from roberta_jax.training.checkpoint import read_arrays
from roberta_jax.training.notes import read_notes, write_notes

DECAY = {"steps": 12, "optimizer.schedule": "linear", "optimizer.decay_steps": 4.0}


@pytest.fixture(scope="module")
def runs(small_corpus, tmp_path_factory):
    """stable/: ten steps at one rate. one/: twelve, of which the last four decay."""
    folder = tmp_path_factory.mktemp("runs")
    pretrain(config(small_corpus), folder / "stable")
    pretrain(config(small_corpus, **DECAY), folder / "one")
    return folder


def test_a_stable_run_and_a_decay_of_it_are_the_one_run(runs, small_corpus, tmp_path, capsys):
    """Bit for bit: state, guard, every line, though the branch begins amid one; and after a kill, the other run being gone."""
    stable = tmp_path / "stable"
    shutil.copytree(runs / "stable", stable)
    branch = config(small_corpus, continue_from=f"{stable}@8", **DECAY)
    pretrain(branch, tmp_path / "branch")
    assert f"continuing {stable} after step 8" in capsys.readouterr().out
    assert_same(runs / "one", tmp_path / "branch")
    assert sorted(path.name for path in (tmp_path / "branch" / "checkpoints").iterdir()) == ["10", "12"]
    shutil.rmtree(tmp_path / "branch" / "checkpoints")  # as if killed before the first checkpoint
    pretrain(branch, tmp_path / "branch")
    assert_same(runs / "one", tmp_path / "branch")
    shutil.rmtree(stable)
    pretrain(branch, killed_after(tmp_path / "branch", 10, tmp_path / "killed"))
    assert_same(runs / "one", tmp_path / "killed")


def test_a_checkpoint_of_an_older_version_is_continued_where_its_rows_end(runs, small_corpus, tmp_path):
    shutil.copytree(runs / "stable", tmp_path / "stable")
    notes = read_notes(tmp_path / "stable" / "checkpoints", 8)
    assert notes.memory.pop("data")["batch"] == 8
    write_notes(tmp_path / "stable" / "checkpoints", 8, notes)
    pretrain(config(small_corpus, continue_from=f"{tmp_path}/stable@8", **DECAY), tmp_path / "branch")
    assert_same(runs / "one", tmp_path / "branch")


def noted(workdir, step) -> dict:
    return read_notes(workdir / "checkpoints", step).memory["data"]


def test_rows_go_on_in_batches_of_another_size_and_begin_anew_on_another_corpus(runs, small_corpus, other_corpus, tmp_path):
    """What is compared with the losses before, the guard, begins anew with them. The first corpus is then gone on with."""
    small = config(small_corpus, continue_from=f"{runs}/stable@8", batch_size=8, steps=10)
    pretrain(small, tmp_path / "small")
    (order,) = noted(runs / "stable", 8)["rows"].keys() - {"in all"}
    rows = 8 * 16 + 2 * 8
    assert noted(tmp_path / "small", 10)["rows"] == {order: rows, "in all": rows}
    other = config(other_corpus, continue_from=f"{runs}/stable@8", steps=10)
    pretrain(replace(other, data=replace(other.data, masking_rate=0.3)), tmp_path / "other")
    (new,) = noted(tmp_path / "other", 10)["rows"].keys() - {order, "in all"}
    assert noted(tmp_path / "other", 10)["rows"] == {order: 8 * 16, new: 2 * 16, "in all": 10 * 16}
    for name, seen in (("small", 2), ("other", 2), ("stable", 10)):
        losses = read_arrays((runs if name == "stable" else tmp_path) / name / "checkpoints", 10)["guard/losses"]
        assert np.isfinite(losses).sum() == seen, name
    back = config(small_corpus, continue_from=f"{tmp_path}/other@10", steps=11)
    pretrain(back, tmp_path / "back")
    assert noted(tmp_path / "back", 11)["rows"] == {order: 9 * 16, new: 2 * 16, "in all": 11 * 16}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"continue_from": "no/such@8"}, "no/such is no run's workdir, for it has no config.json"),
        ({"continue_from": "{branch}@8"}, "is in --workdir itself, whose run goes on without it"),
        ({"continue_from": "{runs}/stable@7"}, "has no checkpoint of step 7; there are 2, 4, 6, 8, 10."),
        ({"model.hidden_size": 64}, "that run had config.model.hidden_size=32, this config has 64. The model, its tokenizer"),
        ({"optimizer.name": "lamb"}, "that run had config.optimizer.name=adamw, this config has lamb. The model"),
        ({"data.format": "segment-pair"}, "that run had config.data.format=full-sentences, this config has segment-pair."),
        ({"data.tokenizer": "{runs}/letters"}, "has another tokenizer than the corpus"),
    ],
)
def test_what_cannot_be_continued_is_one_sentence(runs, small_corpus, tmp_path, changes, sentence):
    if not (runs / "letters").exists():
        shutil.copytree(small_corpus.folder / "tokenizer", runs / "letters")
        vocabulary = json.loads((runs / "letters" / "vocab.json").read_text())
        exchanged = vocabulary | {"a": vocabulary["b"], "b": vocabulary["a"]}
        (runs / "letters" / "vocab.json").write_text(json.dumps(exchanged))
    changes = {"continue_from": f"{runs}/stable@8", **changes}
    changes = {
        name: value.format(runs=runs, branch=tmp_path / "branch") if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises(UserError) as error:
        pretrain(config(small_corpus, **DECAY, **changes), tmp_path / "branch")
    assert sentence in str(error.value) and not (tmp_path / "branch" / "checkpoints").exists()
