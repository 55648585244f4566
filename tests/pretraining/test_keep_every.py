"""Checkpoints along the way: which are kept, and their export as folders."""

import json
import shutil
import sys

import numpy as np
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax import export, minimal_pairs
from roberta_jax.data.corpus import Corpus
from roberta_jax.errors import UserError
from roberta_jax.interop import hub, revisions
from roberta_jax.pretraining.job import pretrain
from roberta_jax.training.checkpoint import saved_steps


@pytest.mark.parametrize(
    ("points", "kept"),
    [
        ("3", [3, 6, 9]),
        ("2,7", [2, 7]),
        ("1k tokens", [2, 4, 5, 7, 9, 10]),
        ("2.5ktokens,9, 4_000 tokens", [5, 7, 9]),
        ("1 tokens", range(1, 11)),
        ("1k words", [3, 5, 8, 10]),
        ("0.5k words,600 tokens,8", [1, 2, 8]),
    ],
)
def test_points_are_every_so_many_or_a_list_of_steps_tokens_or_words(small_corpus, points, kept):
    """With 600 tokens a step, which are 400 words."""
    run = config(small_corpus, keep_every=points)
    seen = [{"steps": step, "tokens": 600 * step, "words": 400 * step} for step in range(11)]
    assert [s for s in range(1, 11) if run.keeps(seen[s - 1], seen[s])] == list(kept)


def test_they_are_kept_beside_the_newest_and_exported_as_folders(small_corpus, tmp_path, monkeypatch, capsys):
    """After a kill too, which one of them is the first checkpoint behind."""
    fields = {"steps": 9, "checkpoint_every": 4, "keep_checkpoints": 1, "eval_every": 9, "log_every": 1}
    run = config(small_corpus, keep_every="2_000 tokens,5k tokens", **fields)
    pretrain(run, tmp_path / "run")
    a_step = 16 * small_corpus.manifest["tokens"]["train"] / small_corpus.manifest["rows"]["train"]
    kept = [int(np.ceil(2_000 / a_step)), int(np.ceil(5_000 / a_step))]
    assert saved_steps(tmp_path / "run" / "checkpoints") == [*kept, 9]
    pretrain(run, killed_after(tmp_path / "run", kept[0], tmp_path / "killed"))
    assert_same(tmp_path / "run", tmp_path / "killed", 9)
    assert saved_steps(tmp_path / "killed" / "checkpoints") == [*kept, 9]

    seen = minimal_pairs._about(str(tmp_path / "run"), 9)["tokens_seen"]  # padding, of which this text has some, apart
    assert seen == hub.seen_by(tmp_path / "run", 9)["tokens"] == pytest.approx(9 * a_step, abs=9) and a_step < 16 * 64
    last = revisions._short(revisions._roundest(9 * round(a_step), round(a_step)))
    for names, expected in (
        ("step_{step}", [f"step_{step}" for step in (*kept, 9)]),
        ("chck_{tokens}", ["chck_2k", "chck_5k", f"chck_{last}"]),
    ):
        out = tmp_path / names[:4]
        monkeypatch.setattr(sys, "argv", ["export", f"--model={tmp_path}/run", f"--out={out}", "--all", f"--names={names}"])
        export.main()
        assert {path.name for path in out.iterdir()} == set(expected)
    assert f"{tmp_path}/run, step {kept[0]} → {tmp_path}/step/step_{kept[0]}\n" in capsys.readouterr().out
    first, last = (hub.load(tmp_path / "step" / f"step_{step}").params["lm_head"] for step in (kept[0], 9))
    assert not np.array_equal(first["dense"]["kernel"], last["dense"]["kernel"])
    assert json.loads((tmp_path / "step" / "step_9" / "config.json").read_text())["model_type"] == "roberta"
    card = (tmp_path / "step" / "step_9" / "README.md").read_text()
    assert "| Steps | 9 of 9, 16 rows of 64 tokens each |\n" in card and f"| Seen | {seen:,} tokens, " in card
    with pytest.raises(UserError, match=r"no workdir with a checkpoint"):
        revisions.checkpoint_names(tmp_path / "step", "step_{step}")
    for template in ("steps", "", "{steps}", "a b{step}", "../{step}", "{step:9}", "{0}"):
        with pytest.raises(UserError, match="expected a name with {step}, {tokens} or {words} in it"):
            revisions.checkpoint_names(tmp_path / "run", template)


def test_words_are_counted_and_name_checkpoints(small_corpus, documents, tmp_path):
    assert small_corpus.manifest["words"] == sum(len(text.split()) for text in documents)
    fields = {"steps": 6, "checkpoint_every": 6, "keep_checkpoints": 1, "eval_every": 6, "log_every": 1}
    pretrain(config(small_corpus, keep_every="1k words", **fields), tmp_path / "run")
    names = revisions.checkpoint_names(tmp_path / "run", "chck_{words}")
    assert list(names.values())[:2] == ["chck_1k", "chck_2k"] and list(names) == saved_steps(tmp_path / "run" / "checkpoints")
    a_batch = hub.noted_by(tmp_path / "run", 6)["last"]
    assert a_batch.keys() == {"tokens", "words"} and 6 * a_batch["words"] == hub.seen_by(tmp_path / "run", 6)["words"]

    shutil.copytree(small_corpus.folder, tmp_path / "corpus")  # as one that was prepared before words were counted
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "words"}))
    old = Corpus(tmp_path / "corpus")
    with pytest.raises(UserError, match="was prepared before words were counted; prepare it again"):
        pretrain(config(old, keep_every="1k words", **fields), tmp_path / "old")
    pretrain(config(old, **fields), tmp_path / "old")
    with pytest.raises(UserError, match="step 6 of .* does not say how many words it had seen; take step_{step}"):
        revisions.checkpoint_names(tmp_path / "old", "{words}")


@pytest.mark.parametrize(
    ("seen", "batch", "name"),
    [
        (1_030_000, 50_000, "1M"),
        (1_000_000, 1, "1M"),
        (2_530_000, 60_000, "2.5M"),
        (10_003_000, 4_000, "10M"),
        (999_999, 1_000, "999k"),
        (1_234_567, 1, "1.234567M"),
        (512, 512, "500"),
        (40_002_000_000, 3_000_000, "40B"),
    ],
)
def test_a_name_is_the_roundest_number_within_the_last_batch(seen, batch, name):
    assert revisions._short(revisions._roundest(seen, batch)) == name
