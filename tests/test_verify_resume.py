"""verify_resume: its kills, its comparison, its verdict, and one run of it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import simulated, tiny_on

from roberta_jax.errors import UserError
from roberta_jax.training.checkpoint import Checkpoints
from roberta_jax.verify_resume import (
    blame,
    config_arguments,
    devices_of,
    differences,
    finish,
    kills_for,
    never_alike,
    start,
    verify,
)

ROOT = Path(__file__).parent.parent


def test_kills_are_at_random_places_all_over_the_run():
    kills = kills_for(200, 50, random.Random(0))
    assert kills == kills_for(200, 50, random.Random(0)) != kills_for(200, 50, random.Random(1))
    assert all(4 * part <= kill.step < 4 * part + 4 for part, kill in enumerate(kills))
    assert {(kill.signal, kill.in_write) for kill in kills} == {("SIGKILL", True), ("SIGKILL", False), ("SIGTERM", False)}


def workdir_with(path: Path, kernel: np.ndarray, losses: list[float]) -> Path:
    path.mkdir()
    checkpoints = Checkpoints(path / "checkpoints", 1, "")
    checkpoints.save(2, {"params": {"kernel": kernel}, "step": np.int32(2)})
    checkpoints.close()
    lines = [json.dumps({"step": step, "train/loss": loss}) + "\n" for step, loss in enumerate(losses, 1)]
    (path / "metrics.jsonl").write_text("".join([*lines, '{"step": 2, "valid/loss": 1.0}\n']))
    return path


def test_a_single_bit_and_a_single_loss_are_found(tmp_path):
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = kernel.copy()
    other.view(np.uint32)[1, 2] ^= 1
    one = workdir_with(tmp_path / "one", kernel, [3.0, 2.0])
    assert differences(one, workdir_with(tmp_path / "same", kernel.copy(), [3.0, 2.0]), 2) == []
    found = differences(one, workdir_with(tmp_path / "bit", other, [3.0, 2.0]), 2)
    assert "params/kernel" in found and "the loss of step 2" not in found
    assert differences(one, workdir_with(tmp_path / "loss", kernel, [3.0, 2.5]), 2) == ["the loss of step 2"]


def test_the_setting_without_which_runs_are_alike_is_named():
    fields = {"fsdp": 2, "microbatch_size": 0, "model": {"dropout": 0.1, "remat": "none"}}
    tried = []

    def differs(more):
        tried.extend(more)
        return [] if more == ["--config.fsdp=1"] else ["params/kernel"]

    assert blame(fields, differs, []).startswith("config.fsdp=2 breaks it: with 1")
    assert tried == ["--config.model.dropout=0.0", "--config.fsdp=1"]  # what is plain already is not tried
    assert "whatever the settings: params/kernel differ" in blame(fields, lambda more: ["params/kernel"], ["params/kernel"])


def test_where_undisturbed_runs_differ_a_gpu_is_tried_with_the_deterministic_flag():
    tried = []

    def alike(xla_flags: str) -> bool:
        tried.append(xla_flags)
        return len(tried) == 1

    said = [never_alike("1 × NVIDIA H100, 1 host(s)", "on it", alike) for _ in range(2)]
    assert tried == ["--xla_gpu_deterministic_ops=true"] * 2
    assert said[0].endswith("; with XLA_FLAGS=--xla_gpu_deterministic_ops=true they are alike.") and "differ too" in said[1]
    assert never_alike("1 × cpu, 1 host(s)", "on it", alike).endswith("not the resuming.") and len(tried) == 2


def test_a_run_has_the_flags_that_are_added_beside_its_own(tmp_path, monkeypatch):
    printing = tmp_path / "python"
    printing.write_text('#!/bin/sh\necho "9 parameters on 1 × $XLA_FLAGS"\n')
    printing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(printing))
    monkeypatch.setenv("XLA_FLAGS", "--own=1")
    finish(start([], tmp_path / "run", "--more=2"), tmp_path / "run")
    assert devices_of(tmp_path / "run") == "1 × --own=1 --more=2"


def test_the_runs_are_given_the_config_however_it_is_written():
    """absl takes a value as the next word, one dash, and switches without a value."""
    given = "--kills 2 --config tiny --config.steps=9 -config.seed -1 --config.guard.rewind --json --workdir /tmp/config=w"
    given += " --noconfig.optimizer.decay_bias_and_norm --noconfigured"
    expected = ["--config=tiny", "--config.steps=9", "-config.seed=-1", "--config.guard.rewind"]
    expected += ["--noconfig.optimizer.decay_bias_and_norm"]
    assert config_arguments(given.split()) == expected


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"job": "finetune", "task": "rte", "seeds": 5}, "config.seeds is 5; expected 1"),
        ({"job": "finetune", "task": "rte", "sweep": True}, "config.sweep is True; expected False"),
        ({"job": "finetune", "task": "rte, cola"}, "config.job is 'finetune', of several runs"),
        ({"job": "finetune", "task": "glue"}, "of several runs; expected pretraining, or fine-tuning on one task"),
        ({"job": "ablations", "task": ""}, "config.job is 'ablations', of several runs"),
    ],
)
def test_several_runs_at_once_are_refused(fields, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        verify([], fields, tmp_path, 20, 3, 0)


@pytest.fixture
def arguments(small_corpus):
    return tiny_on(small_corpus, {"model.hidden_size": 64, "model.intermediate_size": 128})


def test_it_runs_and_says_that_resuming_is_exact(arguments, tmp_path):
    command = [sys.executable, "-m", "roberta_jax.verify_resume", *arguments, "--kills=1", "--json"]
    environment = os.environ | simulated(1) | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["same"] and result["differences"] == [], done.stderr
    assert len(result["kills"]) == 1 and "every bit of the final state" in result["sentence"]
    assert result["devices"] == "1 × cpu, 1 host(s)" and result["xla_flags"] == environment["XLA_FLAGS"]
    assert f"on 1 × cpu, 1 host(s), with XLA_FLAGS={result['xla_flags']}." in result["sentence"]
    assert not list(tmp_path.glob("verify_resume*"))  # nothing is left


def test_a_run_that_fails_is_a_sentence(arguments, tmp_path):
    command = [
        sys.executable,
        "-m",
        "roberta_jax.verify_resume",
        *arguments,
        "--config.data.source=no/such",
        f"--workdir={tmp_path}/w",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "no/such: no such file" in done.stderr and "Traceback" not in done.stderr
