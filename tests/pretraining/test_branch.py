"""Runs that go on from another run's checkpoint: what they do as one run would, what they begin anew, what they refuse."""

import json
import shutil

import numpy as np
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax.data.masking import Masking
from roberta_jax.errors import UserError
from roberta_jax.pretraining.branch import find
from roberta_jax.pretraining.course import Reading, Source
from roberta_jax.pretraining.job import pretrain
from roberta_jax.training.checkpoint import read_arrays
from roberta_jax.training.notes import read_notes

MUON = {"optimizer.name": "muon"}  # as tiny has it, whose programs are the first to be rounded otherwise
DECAY = {"steps": 12, "optimizer.schedule": "linear", "optimizer.decay_steps": 4.0}


@pytest.fixture(scope="module")
def runs(small_corpus, tmp_path_factory):
    """stable/: ten steps at one rate. one/: twelve, of which the last four decay."""
    folder = tmp_path_factory.mktemp("runs")
    pretrain(config(small_corpus, **MUON), folder / "stable")
    pretrain(config(small_corpus, **MUON | DECAY), folder / "one")
    return folder


def noted(workdir, step) -> dict:
    return read_notes(workdir / "checkpoints", step).memory["data"]


def test_a_stable_run_and_a_decay_of_it_are_the_one_run(runs, small_corpus, tmp_path, capsys):
    """Bit for bit: state, guard, every line, though the branch begins amid one.

    The branch was killed before its first checkpoint, and again behind it, when the other run was gone.
    """
    stable, workdir = tmp_path / "stable", tmp_path / "branch"
    shutil.copytree(runs / "stable", stable)
    workdir.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(runs / "one" / name, workdir)
    branch = config(small_corpus, continue_from=f"{stable}@8", **MUON | DECAY)
    pretrain(branch, workdir)
    assert f"continuing {stable} after step 8" in capsys.readouterr().out
    assert_same(runs / "one", workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["10", "12"]
    gone = stable.rename(tmp_path / "gone")
    pretrain(branch, killed_after(workdir, 10, tmp_path / "killed"))
    assert_same(runs / "one", tmp_path / "killed")
    gone.rename(stable)
    damaged = killed_after(workdir, 10, tmp_path / "damaged")
    (damaged / "config.json").write_text('{"job": "pre')
    for path in (damaged / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:3])
    pretrain(branch, damaged)  # whose own checkpoint is put aside: it begins at the other run's once more
    assert_same(runs / "one", damaged)
    put_aside = [path.name for path in damaged.rglob("*damaged*")]
    assert any(name.startswith("config.json") for name in put_aside) and any(name.startswith("10") for name in put_aside)


def test_another_corpus_begins_its_own_order_and_the_guard_anew(runs, small_corpus, other_corpus, tmp_path):
    pretrain(config(other_corpus, continue_from=f"{runs}/stable@8", **MUON), tmp_path / "other")
    before, rows = noted(runs / "stable", 8)["rows"], noted(tmp_path / "other", 10)["rows"]
    (order,) = before.keys() - {"in all"}
    (new,) = rows.keys() - before.keys()
    assert before == {order: 8 * 16, "in all": 8 * 16} and rows == {order: 8 * 16, new: 2 * 16, "in all": 10 * 16}
    for workdir, seen in ((tmp_path / "other", 2), (runs / "stable", 10)):
        assert np.isfinite(read_arrays(workdir / "checkpoints", 10)["guard/losses"]).sum() == seen


def test_a_checkpoint_of_an_older_version_is_continued_where_its_rows_end(runs, small_corpus, other_corpus, tmp_path):
    """In batches of another size too; on other rows from their beginning."""
    notes, saved = read_notes(runs / "stable" / "checkpoints", 8), noted(runs / "stable", 8)
    del notes.memory["data"]
    for corpus, changes, rows in (
        (small_corpus, {}, saved["rows"]),
        (small_corpus, {"batch_size": 8, "data.masking_rate": 0.3}, saved["rows"]),
        (small_corpus, {"seed": 1}, {}),
        (other_corpus, {}, {}),
    ):
        run = config(corpus, continue_from=f"{runs}/stable@8", **MUON | changes)
        reading = Reading(0, (Source("", corpus),), Masking(), run.batch_size, run.seed)
        found = find(run, tmp_path).memory(notes, 8, run, reading).data
        assert found["rows"] == rows and found["batch"] == 8 and found["tokens"] == pytest.approx(saved["tokens"], rel=0.05)
        assert found["held"] == ("" if rows else "other rows")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"continue_from": "no/such@8"}, "no/such is no run's workdir, for it has no config.json"),
        (
            {"continue_from": "s3://bucket/run@8"},
            "expected RUN@STEP, a run's workdir, which is a path of this machine or gs://",
        ),
        ({"continue_from": "{branch}@8"}, "is in --workdir itself, whose run goes on without it"),
        ({"continue_from": "{runs}/stable@7"}, "has no checkpoint of step 7; there are 2, 4, 6, 8, 10."),
        ({"model.hidden_size": 64}, "that run had config.model.hidden_size=32, this config has 64. The model, its tokenizer"),
        ({"optimizer.name": "lamb"}, "that run had config.optimizer.name=muon, this config has lamb. The model"),
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
        pretrain(config(small_corpus, **MUON | DECAY | changes), tmp_path / "branch")
    assert sentence in str(error.value) and not (tmp_path / "branch" / "checkpoints").exists()
