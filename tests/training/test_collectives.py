"""What the devices send each other in a step, read from the compiled text: gradients once, whatever is accumulated."""

import jax
import numpy as np
import pytest

from roberta_jax.hlo_analysis import read_step
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.pretraining.losses import masked_lm_loss
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import abstract_state, compile_train_step, make_train_step

SMALL = RobertaConfig(vocab_size=304, num_layers=2, hidden_size=64, intermediate_size=128, num_heads=4, max_length=32)
ROWS, LENGTH, SLOTS = 32, 16, 4


def collectives(microbatches: int) -> tuple[dict, int]:
    """By kind, and the bytes of the parameters."""
    mesh, optimizer = make_mesh(), make_optimizer(OptimizerConfig(warmup_steps=1), 10)
    abstract = abstract_state(lambda key: init_masked_lm(key, SMALL), optimizer, mesh)
    shapes = {"input_ids": LENGTH, "segment_ids": LENGTH, "positions": SLOTS, "labels": SLOTS, "weights": SLOTS}
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, size), np.float32 if name == "weights" else np.int32, sharding=batch_sharding(mesh))
        for name, size in shapes.items()
    }
    step = make_train_step(masked_lm_loss(SMALL), optimizer, microbatches, mesh)
    text = compile_train_step(step, abstract, batch, np.uint32(0)).as_text()
    return read_step(text).by_kind(), sum(4 * x.size for x in jax.tree.leaves(abstract["params"]))


def test_gradients_meet_once_and_parameters_are_gathered_once():
    (few, parameters), (many, _) = collectives(2), collectives(4)
    assert few == many
    sent = sum(kind["bytes"] for name, kind in many.items() if name in ("reduce-scatter", "all-reduce"))
    assert sent == pytest.approx(parameters, rel=0.05)
    assert many["all-gather"]["bytes"] == pytest.approx(parameters, rel=0.05)
