"""Checkpoints along the way: which are kept, and their export as folders."""

import json
import sys

import numpy as np
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax import export
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
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
    ],
)
def test_points_are_every_so_many_or_a_list_of_steps_or_tokens(small_corpus, points, kept):
    """With 600 tokens a step."""
    run = config(small_corpus, keep_every=points)
    tokens = 600 * np.arange(11)
    assert [s for s in range(1, 11) if run.keeps((s - 1, s), (tokens[s - 1], tokens[s]))] == list(kept)


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

    for names, expected in (("steps", [f"step_{step}" for step in (*kept, 9)]), ("tokens", None)):
        out = tmp_path / names
        monkeypatch.setattr(sys, "argv", ["export", f"--model={tmp_path}/run", f"--out={out}", "--all", f"--names={names}"])
        export.main()
        found = {path.name for path in out.iterdir()}
        assert found == set(expected or [f"tokens_{round(a_step) * step / 1000:.3g}k" for step in (*kept, 9)])
    assert f"{tmp_path}/run, step {kept[0]} → {tmp_path}/steps/step_{kept[0]}\n" in capsys.readouterr().out
    first, last = (hub.load(tmp_path / "steps" / f"step_{step}").params["lm_head"] for step in (kept[0], 9))
    assert not np.array_equal(first["dense"]["kernel"], last["dense"]["kernel"])
    assert json.loads((tmp_path / "steps" / "step_9" / "config.json").read_text())["model_type"] == "roberta"
    with pytest.raises(UserError, match=r"no workdir with a checkpoint"):
        hub.checkpoint_folders(tmp_path / "steps", "steps")
