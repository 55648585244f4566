"""The guard, judged by numpy; and whole runs whose batches are poisoned."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.errors import UserError
from roberta_jax.training.checkpoint import saved_steps
from roberta_jax.training.config import RunConfig
from roberta_jax.training.guard import WINDOW, GuardConfig, new_guard, update_guard
from roberta_jax.training.job import Job
from roberta_jax.training.notes import read_notes
from roberta_jax.training.optimizer import OptimizerConfig
from roberta_jax.training.sharding import batch_sharding
from roberta_jax.training.train import train

STEPS = 240


def test_a_step_is_judged_by_the_median_and_its_deviation_of_the_last_sound_ones():
    rng, config = np.random.default_rng(0), GuardConfig()
    guard, step = new_guard(), jax.jit(update_guard, static_argnums=1)
    losses, norms = [], []
    for number in range(300):
        loss, norm = np.float32(2 + 0.1 * rng.normal()), np.float32(np.exp(0.3 * rng.normal()))
        loss, norm = (loss + 5 if number % 37 == 36 else loss), (norm * 1e3 if number % 41 == 40 else norm)
        guard, accepted, said = step(guard, config, loss, norm)
        score = ratio = 0.0
        if len(losses) >= WINDOW:
            window = np.array(losses[-WINDOW:])
            score = (loss - np.median(window)) / (1.4826 * np.median(np.abs(window - np.median(window))) + 2e-3)
            ratio = norm / np.median(norms[-WINDOW:])
        assert float(said["loss_score"]) == pytest.approx(score, rel=0.02, abs=1e-3)
        assert float(said["norm_ratio"]) == pytest.approx(ratio, rel=1e-4)
        assert bool(accepted) == (ratio <= 10) and int(said["in_a_row"]) == int(ratio > 10 or score > 10)
        if ratio <= 10 and score <= 10:
            losses.append(loss)
            norms.append(norm)
    assert len(losses) < 300 - 4


@pytest.mark.parametrize("loss, norm", [(np.nan, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_what_is_not_finite_is_never_applied(loss, norm):
    off = GuardConfig(skip_above=0, spike_above=0)
    guard, accepted, said = update_guard(new_guard(), off, jnp.float32(loss), jnp.float32(norm))
    assert not accepted and int(guard["in_a_row"]) == 1 and np.isnan(guard["losses"]).all()


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


def test_a_job_names_the_kind_of_what_it_sees_amiss(tmp_path):
    def watch(step, means):
        return ("odd", f"the loss is {means['loss']:.1f}") if step == 20 else None

    train(replace(job(), watch=watch), replace(CONFIG, steps=30, eval_every=30), tmp_path)
    (incident,) = lines(tmp_path / "incidents.jsonl")
    assert (incident["kind"], incident["step"]) == ("odd", 20) and incident["what"].startswith("the loss is ")


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


def test_harder_data_is_no_spike_where_a_job_says_that_the_data_changes(tmp_path):
    def harder(number: int) -> float:
        return 3.0 if number >= 205 else 0.0

    config = replace(CONFIG, guard=GuardConfig(skip_above=0.0))
    changing = replace(job(harder), held=lambda number: "other" if number >= 205 else "one")
    state = train(changing, config, tmp_path / "told")
    assert int(state["batch"]) == STEPS and not (tmp_path / "told" / "incidents.jsonl").exists()
    assert np.isfinite(state["guard"]["losses"]).sum() == min(128, STEPS - 205)
    with contextlib.suppress(UserError):
        train(job(harder), config, tmp_path / "untold")
    assert any(line["kind"] == "rewind" for line in lines(tmp_path / "untold" / "incidents.jsonl"))


def test_a_run_that_stays_poisoned_ends_and_keeps_its_last_sound_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"5 steps in a row, from step 161 on, .* had gone back 3 times.*step 160, is kept"):
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


# Whatever befalls it, a run decides as one that is left alone. Spikes that are gone back from, beside, on and across the grids
# of evaluations and of checkpoints; steps that are not made; lines whose steps two starts have made.
SHORT = replace(
    CONFIG, steps=218, log_every=5, eval_every=7, checkpoint_every=8, keep_checkpoints=1, guard=GuardConfig(spike_steps=3)
)
TIMES = ("train/tokens_per_second", "train/mfu", "train/goodput")


def troubled(number: int) -> float:
    return {150: np.nan, 199: np.nan, 217: np.inf, 228: np.nan}.get(
        number, 3.0 if 203 <= number < 209 or 212 <= number < 216 else 0.0
    )


def measured_job(at=lambda number: None) -> Job:
    def evaluate(params, mesh):
        return {"valid/loss": float(jnp.square(params["kernel"] - 0.1).mean())}

    return replace(job(troubled, at), evaluate=evaluate)


def stopping(is_asked: Iterator[bool]) -> Callable:
    """Asks the run once to stop, with the batch for which that says so; a second signal would end it at once."""
    asked = []

    def at(number):
        if next(is_asked) and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    return at


def outcome(workdir) -> tuple:
    """What of a run has to be the same: its lines but for the times, the steps that are kept, and which is the best."""
    found = [{name: value for name, value in line.items() if name not in TIMES} for line in lines(workdir / "metrics.jsonl")]
    kept = {step: read_notes(workdir / "checkpoints", step) for step in saved_steps(workdir / "checkpoints")}
    return found, kept


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    """(a folder of the run's beginning, its whole run's state and outcome)."""
    folder = tmp_path_factory.mktemp("runs")
    sparse = replace(SHORT, checkpoint_every=190, eval_every=190)
    assert train(measured_job(stopping(number == 197 for number in count())), sparse, folder / "begun") is None
    shutil.copytree(folder / "begun", folder / "alone")
    state = train(measured_job(), SHORT, folder / "alone")
    kinds = [line["kind"] for line in lines(folder / "alone" / "incidents.jsonl")]
    assert kinds.count("rewind") == 2 and {"spike", "skipped"} <= set(kinds)
    return folder / "begun", state, outcome(folder / "alone")


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_run_that_is_stopped_in_any_steps_is_the_one_that_is_left_alone(left_alone, tmp_path, share):
    begun, state, expected = left_alone
    shutil.copytree(begun, tmp_path / "run")
    rng, again, starts = np.random.default_rng(int(10 * share)), None, 0
    is_asked = (rng.random() < share for _ in count())
    while again is None:
        again, starts = train(measured_job(stopping(is_asked)), SHORT, tmp_path / "run"), starts + 1
    assert starts > 20 * share
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert outcome(tmp_path / "run") == expected


def test_what_a_run_that_gives_up_says_of_its_checkpoints_is_so(tmp_path):
    """None is promised where there is none, and a stop's amid the unsound steps is not what the next start begins with."""
    with pytest.raises(UserError, match="from step 1 on, .*There is no checkpoint before them"):
        train(job(lambda number: np.nan), CONFIG, tmp_path / "none")
    assert not list((tmp_path / "none" / "checkpoints").iterdir())
    config, sick = replace(CONFIG, guard=GuardConfig(rewinds=1)), lambda number: np.nan if number >= 43 else 0.0
    assert train(job(sick, stopping(number == 51 for number in count())), config, tmp_path / "run") is None
    with pytest.raises(UserError, match="from step 41 on, .*The checkpoint before them, step 40, is kept"):
        train(job(sick), config, tmp_path / "run")
    assert saved_steps(tmp_path / "run" / "checkpoints") == [40]


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_parameters_to_begin_with_that_are_no_numbers_are_refused_by_name(tmp_path, wrong):
    kernel = np.ones(16, np.float32)
    kernel[3] = wrong
    sentence = "config.init_from: 1 of the 16 values of its kernel are NaN or infinite; take another model"
    with pytest.raises(UserError, match=sentence):
        train(replace(job(), initial=lambda: {"kernel": kernel}), CONFIG, tmp_path)


def test_a_stop_in_any_step_changes_neither_the_best_nor_when_patience_ends(tmp_path):
    """As in fine-tuning, where the state keeps the best parameters."""
    config = replace(SHORT, steps=40, eval_every=4, checkpoint_every=4)

    def finetuning(at=lambda number: None) -> Job:
        def evaluate(params, mesh):
            return {"valid/score": -float(jnp.square(params["kernel"] - initial * 0.998).mean())}

        return replace(job(at=at), evaluate=evaluate, metric="valid/score", patience=2)

    initial = job().init(jax.random.key(0))["kernel"]
    state = train(finetuning(), config, tmp_path / "alone")
    assert 4 < int(state["best"]["step"]) < int(state["step"]) < 40
    is_asked, again = (number % 3 == 0 for number in count()), None
    while again is None:
        again = train(finetuning(stopping(is_asked)), config, tmp_path / "stopped")
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "alone")


def test_a_disk_that_fails_for_a_while_ends_no_run(tmp_path, monkeypatch):
    folder, config = tmp_path / "run" / "checkpoints", replace(CONFIG, steps=60, checkpoint_every=20)
    folder.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    monkeypatch.setattr("roberta_jax.training.checkpoint.RETRIES", (0.0, 0.0, 0.0))

    def at(number):
        if number in (19, 22):  # the steps 20 and 23
            subprocess.run(["mount", "-o", f"remount,{'ro' if number == 19 else 'rw'}", folder], check=True)

    try:
        state = train(job(at=at), config, tmp_path / "run")
        found = lines(tmp_path / "run" / "incidents.jsonl")
        assert [line["step"] for line in found if line["kind"] == "checkpoint"] == [21, 22, 23]
        assert "checkpoint 20 could not be written (" in found[0]["what"] and saved_steps(folder) == [40, 60]
        assert read_notes(folder, 60).planned
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    jax.tree.map(np.testing.assert_array_equal, state, train(job(), config, tmp_path / "alone"))
