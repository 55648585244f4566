"""The guard, judged by numpy; and whole runs whose batches are poisoned."""

import json
import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.errors import UserError
from roberta_jax.training.guard import WINDOW, GuardConfig, judge, new_guard
from roberta_jax.training.optimizer import OptimizerConfig
from roberta_jax.training.sharding import batch_sharding
from roberta_jax.training.train import Job, RunConfig, train

STEPS = 240


def test_a_step_is_judged_by_the_median_and_its_deviation_of_the_last_sound_ones():
    rng, config = np.random.default_rng(0), GuardConfig()
    guard, step = new_guard(), jax.jit(judge, static_argnums=1)
    losses, norms = [], []
    for number in range(300):
        loss, norm = np.float32(2 + 0.1 * rng.normal()), np.float32(np.exp(0.3 * rng.normal()))
        loss, norm = (loss + 5 if number % 37 == 36 else loss), (norm * 1e3 if number % 41 == 40 else norm)
        guard, made, said = step(guard, config, loss, norm)
        score = ratio = 0.0
        if len(losses) >= WINDOW:
            window = np.array(losses[-WINDOW:])
            score = (loss - np.median(window)) / (1.4826 * np.median(np.abs(window - np.median(window))) + 2e-3)
            ratio = norm / np.median(norms[-WINDOW:])
        assert float(said["loss_score"]) == pytest.approx(score, rel=0.02, abs=1e-3)
        assert float(said["norm_ratio"]) == pytest.approx(ratio, rel=1e-4)
        assert bool(made) == (ratio <= 10) and int(said["in_a_row"]) == int(ratio > 10 or score > 10)
        if ratio <= 10 and score <= 10:
            losses.append(loss)
            norms.append(norm)
    assert len(losses) < 300 - 4


@pytest.mark.parametrize("loss, norm", [(np.nan, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_what_is_not_finite_is_never_applied(loss, norm):
    off = GuardConfig(skip_above=0, spike_above=0)
    guard, made, said = judge(new_guard(), off, jnp.float32(loss), jnp.float32(norm))
    assert not made and int(guard["in_a_row"]) == 1 and np.isnan(guard["losses"]).all()


@pytest.mark.parametrize("wrong", [{"skip_above": -1.0}, {"spike_above": -1.0}, {"spike_steps": 0}, {"rewinds": -1}])
def test_a_setting_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=f"config.guard.{next(iter(wrong))} is"):
        GuardConfig(**wrong)


CONFIG = RunConfig(
    steps=STEPS, batch_size=8, log_every=10, eval_every=STEPS, checkpoint_every=40, optimizer=OptimizerConfig(warmup_steps=10)
)


def job(poison=lambda number: 0.0, at=lambda number: None) -> Job:
    """Finds the mean of noise; `poison(number)` is added to batch `number`, and `at(number)` called when it is made."""

    def batches(first, mesh):
        number = first
        while True:
            at(number)
            noise = np.random.default_rng(number).normal(size=(8, 16)).astype(np.float32) + np.float32(poison(number))
            batch = {"input_ids": noise, "weights": np.ones(8, np.float32)}
            yield jax.device_put(batch, batch_sharding(mesh))
            number += 1

    def loss(params, batch, keys):
        errors = jnp.square(params["kernel"] - batch["input_ids"]).mean(-1)
        return {"loss": (errors * batch["weights"]).sum(), "weight": batch["weights"].sum()}

    return Job(
        init=lambda key: {"kernel": jax.random.normal(key, (16,))},
        loss=loss,
        train_batches=batches,
        evaluate=lambda params, mesh: {"valid/loss": 1.0},
        rows=8,
        cost=lambda batch: (1, 1.0),
        initial=dict,
        rows_of=lambda number: [number * 8 + row for row in range(8)],
    )


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_whose_batches_are_sound_has_no_incident(tmp_path):
    state = train(job(), CONFIG, tmp_path)
    assert int(state["step"]) == int(state["batch"]) == STEPS and not (tmp_path / "incidents.jsonl").exists()


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e4])
def test_a_poisoned_batch_changes_nothing_and_is_told_of(tmp_path, poison):
    """NaN, infinity, and a gradient that is thousands of times the median."""
    state = train(job(lambda number: poison if number == 199 else 0.0), CONFIG, tmp_path)
    (incident,) = lines(tmp_path / "incidents.jsonl")
    assert incident["step"] == 200 and incident["kind"] == "skipped" and incident["batch"] == 199
    assert incident["rows"] == list(range(199 * 8, 200 * 8)) and incident["gradient_norm"] in ("nan", "inf") or poison == 1e4
    assert np.isfinite(state["params"]["kernel"]).all() and np.abs(state["params"]["kernel"]).max() < 3
    skipped = {line["step"]: line["train/skipped"] for line in lines(tmp_path / "metrics.jsonl") if "train/skipped" in line}
    assert skipped.pop(200) == 1 and not any(skipped.values())


def spike(number: int) -> float:
    return 3.0 if 205 <= number < 215 else 0.0


def test_a_spike_goes_back_and_passes_over_its_batches_and_a_stop_in_it_changes_nothing(tmp_path):
    config = replace(CONFIG, guard=GuardConfig(skip_above=0.0))
    state = train(job(spike), config, tmp_path / "one")
    found = lines(tmp_path / "one" / "incidents.jsonl")
    # Steps 206 to 210 are the spike's; 211 was under way. From 200 on with batch 211, four more of the spike, which are
    # fewer than it takes.
    assert [line["step"] for line in found if line["kind"] == "spike"] == [*range(206, 211), *range(201, 205)]
    (rewind,) = (line for line in found if line["kind"] == "rewind")
    assert rewind["step"] == 211 and rewind["batch"] == 211 and "back to step 200" in rewind["what"]
    assert int(state["step"]) == STEPS and int(state["batch"]) == STEPS + 11
    steps = [line["step"] for line in lines(tmp_path / "one" / "metrics.jsonl") if "train/loss" in line]
    assert steps == list(range(10, STEPS + 1, 10))

    def stop_at(number):
        if number == 208:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(job(spike, stop_at), config, tmp_path / "two") is None  # saved amid the spike
    again = train(job(spike), config, tmp_path / "two")
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_a_run_that_stays_poisoned_ends_and_keeps_its_last_sound_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"5 steps in a row, from step 161 on, .* had gone back 3 times"):
        train(job(lambda number: np.nan if number >= 190 else 0.0), CONFIG, tmp_path)
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 160
    assert sum(line["kind"] == "rewind" for line in lines(tmp_path / "incidents.jsonl")) == 3
    state = train(job(), CONFIG, tmp_path)  # the data mended, the same command goes on
    assert int(state["step"]) == STEPS


def test_it_can_be_turned_off(tmp_path):
    off = GuardConfig(skip_above=0.0, spike_above=0.0, rewinds=0)
    state = train(job(spike), replace(CONFIG, guard=off), tmp_path)
    assert int(state["batch"]) == STEPS and not (tmp_path / "incidents.jsonl").exists()
    only_told = replace(CONFIG, guard=GuardConfig(skip_above=0.0, rewinds=0))
    told = train(job(spike), only_told, tmp_path / "told")
    jax.tree.map(np.testing.assert_array_equal, told["params"], state["params"])
    assert {line["kind"] for line in lines(tmp_path / "told" / "incidents.jsonl")} == {"spike"}
    with pytest.raises(UserError, match="had gone back 0 times"):
        train(job(lambda number: np.nan if number > 20 else 0.0), only_told, tmp_path / "nan")
