"""A small tokenizer, and a run's workdir with a model of it."""

import json

import jax
import numpy as np
import pytest

from roberta_jax.config import typed
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE
from roberta_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def text():
    return LosslessTokenizer(ByteLevelBPE.train(["the cat sat on the mat and the dog ran after the cat"] * 20, 280))


@pytest.fixture(scope="module")
def small(text):
    from reference import SMALL  # needs PyTorch, as its tests do

    return SMALL | {"vocab_size": len(text)}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, text):
    """A run's workdir: steps 1 to 3, the second the best."""
    folder = tmp_path_factory.mktemp("workdir")
    model = dict(vocab_size=len(text), num_layers=2, hidden_size=64, intermediate_size=128, num_heads=4, max_length=64)
    fields = {"steps": 3, "batch_size": 8, "model": model}
    fields |= {"data": {"source": "lines.txt", "format": "full-sentences", "length": 64, "masking": "roberta"}}
    (folder / "config.json").write_text(json.dumps(fields))
    text.base.save(folder / "tokenizer")
    losses = {1: 3.0, 2: 2.0, 3: 2.5}
    lines = [json.dumps({"step": step, "train/loss": 5.0, "valid/loss": loss}) for step, loss in losses.items()]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "valid/lo']))
    abstract = jax.eval_shape(
        lambda key: init_masked_lm(key, typed(RobertaConfig, model)), jax.eval_shape(lambda: jax.random.key(0))
    )
    checkpoints = Checkpoints(folder / "checkpoints", 5, "valid/loss")
    for step, loss in losses.items():
        params = jax.tree.map(lambda x: jax.numpy.full(x.shape, step, x.dtype), abstract)  # noqa: B023
        checkpoints.save(step, {"params": params, "opt_state": params, "step": np.int32(step)}, {"valid/loss": loss})
    checkpoints.close()
    return folder
