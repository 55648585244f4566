"""Evaluation: the mean over every prediction of the split, once, whatever the batch size."""

import numpy as np
import pytest

from roberta_jax.training.evaluate import evaluate, make_eval_step


def batches(values, size):
    for start in range(0, len(values), size):
        part = values[start : start + size]
        filled = np.pad(part, (0, size - len(part)), constant_values=99.0)
        yield {"values": filled, "weights": (np.arange(size) < len(part)).astype(np.float32)}


@pytest.mark.parametrize("size", [1, 3, 8, 64])
def test_rows_that_fill_the_last_batch_do_not_count(size):
    values = np.random.default_rng(0).normal(size=37).astype(np.float32)
    step = make_eval_step(
        lambda params, batch, key: {
            "loss": (batch["values"] * params * batch["weights"]).sum(), "weight": batch["weights"].sum()
        }
    )  # fmt: skip
    means = evaluate(step, 2.0, batches(values, size))
    assert means == {"loss": pytest.approx(2 * values.mean(dtype=np.float64), rel=1e-5)}
