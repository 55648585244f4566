"""The loop in this process, on eight devices: what it compiles, and that its numbers are those of one device."""

import importlib
import json
import re
from dataclasses import replace

import jax
import pytest

from roberta_jax.config import typed
from roberta_jax.training.pretrain import PretrainConfig, pretrain


@pytest.fixture
def config(small_corpus):
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(steps=6, batch_size=16, microbatch_size=1, log_every=1, eval_every=2, checkpoint_every=3)
    fields.model.update(hidden_size=64, intermediate_size=128, vocab_size=len(small_corpus.tokenizer))
    fields.optimizer.update(warmup_steps=2)
    fields.data.update(source=str(small_corpus.folder), tokenizer=str(len(small_corpus.tokenizer)))
    return typed(PretrainConfig, fields.to_dict())


def losses(workdir) -> list[float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train/loss", "valid/loss") if name in line]


def test_a_run_compiles_its_step_once(config, tmp_path, caplog):
    with jax.log_compiles():
        pretrain(config, tmp_path)
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    assert compiled.count("train_step") == 1 and compiled.count("eval_step") == 1
    assert len(losses(tmp_path)) == 9


def test_fsdp_and_accumulation_change_no_loss_of_a_run(config, tmp_path):
    pretrain(config, tmp_path / "one")
    pretrain(replace(config, fsdp=4, microbatch_size=0), tmp_path / "other")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "one"), rel=2e-5)
