"""Twenty steps of training here and by a plain PyTorch loop over RobertaForMaskedLM: the same losses."""

import copy

import jax
import numpy as np
import pytest
import torch
import transformers
from reference import SMALL, config, randomised, tensors

from roberta_jax.interop.conversion import config_from_transformers, from_transformers
from roberta_jax.pretraining.losses import masked_lm_loss
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import abstract_state, compile_train_step, init_state, make_train_step

STEPS, ROWS, LENGTH, SLOTS = 20, 32, 24, 5
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, warmup_steps=5)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def batches():
    """Masked rows with some padding, and some slots that are not used; ids repeat, so that there is something to learn."""
    random = np.random.default_rng(7)
    for _ in range(STEPS):
        rows = random.integers(4, 40, (ROWS, LENGTH)).astype(np.int32)
        rows[:, 0], rows[:, -1] = 0, 2
        segment_ids = np.ones_like(rows)
        for row in range(0, ROWS, 3):
            padding = random.integers(1, 8)
            rows[row, -padding:], segment_ids[row, -padding:] = 1, 0
            rows[row, -padding - 1] = 2
        positions = np.stack([random.permutation(LENGTH - 9)[:SLOTS] + 1 for _ in range(ROWS)]).astype(np.int32)
        weights = (random.random((ROWS, SLOTS)) < 0.8).astype(np.float32)
        labels = np.take_along_axis(rows, positions, axis=1)
        masked = np.where((weights == 1) & (random.random(weights.shape) < 0.9), 299, labels)
        np.put_along_axis(rows, positions, masked.astype(np.int32), axis=1)
        yield dict(input_ids=rows, segment_ids=segment_ids, positions=positions, labels=labels, weights=weights)


@pytest.fixture(scope="module")
def source():
    return randomised(transformers.RobertaForMaskedLM(config(**SMALL, **NO_DROPOUT)))


@pytest.fixture(scope="module")
def expected(source) -> list[float]:
    torch_model = copy.deepcopy(source).train()
    adam = torch.optim.AdamW(
        torch_model.parameters(), OPTIMIZER.learning_rate, (OPTIMIZER.b1, OPTIMIZER.b2), OPTIMIZER.eps, 0.01
    )
    rate = transformers.get_linear_schedule_with_warmup(adam, OPTIMIZER.warmup_steps, STEPS)
    losses = []
    for batch in batches():
        labels = np.full((ROWS, LENGTH), -100)
        used = np.where(batch["weights"] == 1, batch["labels"], -100)
        np.put_along_axis(labels, batch["positions"], used, axis=1)
        out = torch_model(
            input_ids=torch.tensor(batch["input_ids"]).long(),
            attention_mask=torch.tensor(batch["segment_ids"]).long(),
            labels=torch.tensor(labels).long(),
        )
        adam.zero_grad()
        out.loss.backward()
        adam.step()
        rate.step()
        losses.append(out.loss.item())
    assert losses[-1] < 0.8 * losses[0]  # it learns
    return losses


@pytest.mark.parametrize(("devices", "microbatches"), [(1, 1), (1, 4), (8, 2)])
def test_losses_are_those_of_a_pytorch_loop(source, expected, devices, microbatches):
    ours = config_from_transformers(source.config.to_dict(), "config.json")
    params, _, _ = from_transformers(tensors(source), ours, ["RobertaForMaskedLM"], "model")
    optimizer, seed = make_optimizer(OPTIMIZER, STEPS), np.uint32(0)
    mesh = make_mesh(fsdp=min(2, devices), devices=jax.devices()[:devices])
    step = make_train_step(masked_lm_loss(ours), optimizer, microbatches, mesh)

    def place(batch):
        return jax.device_put(batch, batch_sharding(mesh))

    init = lambda key: jax.tree.map(jax.numpy.asarray, params)  # noqa: E731
    abstract = abstract_state(init, optimizer, mesh)
    state, losses = init_state(init, optimizer, 0, abstract), []
    run = compile_train_step(step, abstract, place(next(batches())), seed)
    for batch in batches():
        state, metrics = run(state, place(batch), seed)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
