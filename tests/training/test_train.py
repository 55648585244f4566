"""The loop in this process, on eight devices: what it compiles, and that its numbers are those of one device."""

import importlib
import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.config import typed
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.pretraining.job import pretrain
from roberta_jax.training.config import RunConfig
from roberta_jax.training.job import Job, Trial
from roberta_jax.training.sharding import batch_sharding
from roberta_jax.training.train import train


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


def test_a_run_compiles_its_step_once_and_fsdp_and_accumulation_change_no_loss(config, tmp_path, caplog):
    with jax.log_compiles():
        pretrain(config, tmp_path / "one")
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    assert compiled.count("train_step") == 1 and compiled.count("eval_step") == 1
    assert len(losses(tmp_path / "one")) == 9
    pretrain(replace(config, fsdp=4, microbatch_size=0), tmp_path / "other")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "one"), rel=2e-5)


VALUES = np.array([
    [1, 2, 1, 1, 9, 9, 9, 9, 9],  # out of patience after the fourth, and would have been better later
    [1, 1, 1, 5, 9, 9, 9, 9, 9],  # the first of equals counts: after the third
    [1, 2, 3, 4, 5, 6, 7, 8, 9],  # never
    [5, 1, 6, 1, 7, 1, 1, 8, 9],  # after the seventh
    [0, 0, 0, 0, 0, 0, 0, 0, 9],
], np.float32) / 10  # of the evaluations of each trial  # fmt: skip


def test_each_trials_best_is_that_of_its_own_patience(tmp_path):
    """What trials that wait for others reach meanwhile is not theirs: values, steps and parameters are those of one by one."""
    trials = tuple(Trial(seed, 1e-2 * (1 + seed), f"seed_{seed}") for seed in range(len(VALUES)))
    steps = 17  # the last evaluation comes earlier than others
    config = RunConfig(steps=steps, batch_size=8, log_every=100, eval_every=2, checkpoint_every=100)
    config = replace(config, optimizer=replace(config.optimizer, warmup_steps=1))

    def run(chosen: tuple[Trial, ...]) -> dict:
        several, evaluations = len(chosen) > 1, iter(VALUES[[trial.seed for trial in chosen]].T)

        def batches(first_step, mesh):
            shape = (len(chosen), 8, 4) if several else (8, 4)
            batch = {"input_ids": np.ones(shape, np.int32), "weights": np.ones(shape[:-1], np.float32)}
            while True:
                yield jax.device_put(batch, batch_sharding(mesh, stacked=several))

        def evaluate(params, mesh):
            found = next(evaluations)
            return {"valid/value": found if several else found[0]}

        def loss(params, batch, keys):
            word, weight = params["encoder"]["embeddings"]["word"]["embedding"], batch["weights"].sum()
            return {"loss": jnp.square(word).mean() * weight, "weight": weight}

        def init(key):
            return {"encoder": {"embeddings": {"word": {"embedding": jax.random.normal(key, (16, 8))}}}}

        one = replace(config, seed=chosen[0].seed, optimizer=replace(config.optimizer, learning_rate=chosen[0].learning_rate))
        job = Job(init, loss, batches, evaluate, 8, lambda batch: (1, 1.0), dict, metric="valid/value", patience=2,
                  trials=chosen if several else ())  # fmt: skip
        return train(job, one, tmp_path / ("_".join(trial.name for trial in chosen)))["best"]

    together = run(trials)
    assert np.asarray(together["value"]).tolist() == VALUES[[0, 1, 2, 3, 4], [1, 0, 8, 4, 0]].tolist()
    assert np.asarray(together["step"]).tolist() == [4, 2, steps, 10, 2]
    for i in (0, 3):
        alone = run((trials[i],))
        assert (float(alone["value"]), int(alone["step"])) == (float(together["value"][i]), int(together["step"][i]))
        for one, other in zip(jax.tree.leaves(alone["params"]), jax.tree.leaves(together["params"])):
            np.testing.assert_allclose(one, other[i], atol=1e-6)
