"""A run by each optimizer, killed and resumed, ends as an undisturbed one, bit for bit."""

import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax.pretraining.job import pretrain
from roberta_jax.training.optimizer import OPTIMIZERS


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("adamw", "muon")])  # others resume by these
def test_a_run_resumes(name, small_corpus, tmp_path):
    fields = {"steps": 4, "eval_every": 4, "log_every": 1, "optimizer.name": name, "optimizer.words_alone": 3.0}
    pretrain(config(small_corpus, **fields), tmp_path / "run")
    pretrain(config(small_corpus, **fields), killed_after(tmp_path / "run", 2, tmp_path / "killed"))
    assert_same(tmp_path / "run", tmp_path / "killed", 4)
