"""The door, as a person uses it: whole runs in processes of their own, killed, stopped, misused."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from disks import read_only
from forked import Process, simulated, tiny_on

ROOT = Path(__file__).parent.parent
STEPS = 24
ENVIRONMENT = simulated(1)


@pytest.fixture(scope="module")
def arguments(small_corpus):
    fields = {
        "steps": STEPS, "log_every": 2, "eval_every": 8, "checkpoint_every": 4, "optimizer.warmup_steps": 4,
        "model.hidden_size": 64, "model.intermediate_size": 128,
    }  # fmt: skip
    return tiny_on(small_corpus, fields)


def start(arguments, workdir, *more) -> Process:
    log = workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}.log")
    return Process([*arguments, f"--workdir={workdir}", *more], ENVIRONMENT, log)


def finish(process) -> tuple[int, str]:
    return process.wait(), process.output()


def metrics(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved_state(workdir, step=STEPS):
    return ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "default").absolute())


def wait_for(condition, process):
    end = time.time() + 240
    while not condition():
        assert process.poll() is None, process.output()
        assert time.time() < end, "what was waited for did not come"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "roberta_jax.main", *arguments, f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_a_run_leaves_what_it_promises(undisturbed):
    workdir, output = undisturbed
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["20", "24"]
    assert {path.name for path in (workdir / "tokenizer").iterdir()} == {"vocab.json", "merges.txt"}
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["warmup_steps"] == 4
    train = [line for line in metrics(workdir) if "train/loss" in line]
    valid = [line for line in metrics(workdir) if "valid/loss" in line]
    assert [line["step"] for line in train] == list(range(2, STEPS + 1, 2))
    assert [line["step"] for line in valid] == [8, 16, 24]
    names = "loss accuracy perplexity gradient_norm parameter_norm learning_rate tokens_per_second mfu skipped goodput".split()
    assert set(train[0]) == {"step"} | {f"train/{name}" for name in names}
    assert set(valid[0]) == {"step", "valid/loss", "valid/accuracy", "valid/perplexity"}
    assert valid[-1]["valid/loss"] < valid[0]["valid/loss"]
    assert valid[-1]["valid/perplexity"] == pytest.approx(np.exp(valid[-1]["valid/loss"]))
    assert output.count("compiled the step") == 1 and "a unigram model of the train split has loss" in output
    assert output.count("was '") == 5 and output.count("<mask>") == 6  # and what becomes of the masked


def test_a_run_killed_three_times_and_stopped_once_ends_as_an_undisturbed_one(arguments, undisturbed, tmp_path):
    def kill_when(condition):
        process = start(arguments, tmp_path)
        wait_for(condition, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.output()

    checkpoints = tmp_path / "checkpoints"

    def logged(step):
        path = tmp_path / "metrics.jsonl"
        return path.exists() and f'"step": {step}, "train' in path.read_text()

    kill_when(lambda: logged(2))  # before the first checkpoint
    output = kill_when(lambda: list(checkpoints.glob("8.*tmp*")) or (checkpoints / "8").exists())  # inside its write
    assert "resuming" not in output or "resuming from step 4" in output
    output = kill_when(lambda: logged(14))  # in the middle of nowhere
    assert "resuming from step" in output

    process = start(arguments, tmp_path)
    wait_for(lambda: logged(18), process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 0, output
    stopped_at = int(output.rsplit("SIGTERM: saved step ", 1)[1].split()[0])
    assert stopped_at >= 18 and (checkpoints / str(stopped_at)).exists()

    code, output = finish(start(arguments, tmp_path))
    assert code == 0 and f"resuming from step {stopped_at}" in output, output
    workdir, _ = undisturbed
    jax.tree.map(np.testing.assert_array_equal, saved_state(tmp_path), saved_state(workdir))
    exact = [{name: line[name] for name in line if "second" not in name and "mfu" not in name} for line in metrics(workdir)]
    resumed = [{name: line[name] for name in line if "second" not in name and "mfu" not in name} for line in metrics(tmp_path)]
    assert [line["step"] for line in resumed] == [line["step"] for line in exact]
    valid = [[line for line in lines if "valid/loss" in line] for lines in (resumed, exact)]
    assert valid[0] == valid[1]


def test_a_second_start_is_refused_and_a_third_after_a_kill_goes_on(arguments, tmp_path):
    first = start(arguments, tmp_path, "--config.steps=100000")
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and (tmp_path / "metrics.jsonl").stat().st_size, first)
    code, output = finish(start(arguments, tmp_path))
    assert code == 2 and f"{tmp_path}: another process (pid {first.pid} on " in output and "Traceback" not in output, output
    assert first.poll() is None
    wait_for(lambda: any((tmp_path / "checkpoints").glob("[0-9]*")), first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = [line["step"] for line in metrics(tmp_path)]
    assert done == sorted(done) and len(done) >= 2  # nothing of what the first wrote was lost
    last = max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*") if path.name.isdigit())
    third = start(arguments, tmp_path, "--config.steps=100000")
    wait_for(lambda: "resuming from step" in third.output(), third)
    third.send_signal(signal.SIGTERM)
    code, output = finish(third)
    assert (
        code == 0
        and "waiting" not in output
        and int(output.split("resuming from step ")[1].split()[0].replace(",", "")) <= last
    )
    assert not (tmp_path / "run.lock").exists()


def test_a_finished_run_says_again_what_it_learned(arguments, undisturbed):
    workdir, before = undisturbed
    code, output = finish(start(arguments, workdir))
    assert code == 0 and "resuming from step 24" in output
    assert output[output.index("a unigram model") :] == before[before.index("a unigram model") :]


def test_a_run_begins_with_the_parameters_that_init_from_names_and_resumes_without_it(arguments, undisturbed, tmp_path):
    """The first update of a warm-up has rate 0, so the checkpoint behind it holds what the run began with."""
    source, _ = undisturbed
    (tmp_path / "source").symlink_to(source)
    (tmp_path / "other disk").mkdir()
    workdir = tmp_path / "run"
    workdir.symlink_to("other disk")
    fields = {"init_from": tmp_path / "source", "steps": 2, "optimizer.warmup_steps": 1, "checkpoint_every": 1}
    more = [f"--config.{name}={value}" for name, value in (fields | {"model.num_layers": 9}).items()]
    code, output = finish(start(arguments, workdir, *more))
    assert code == 0, output
    began, ended = saved_state(workdir, 1)["params"], saved_state(source)["params"]
    jax.tree.map(np.testing.assert_array_equal, began, ended)
    assert json.loads((workdir / "config.json").read_text())["model"]["num_layers"] == 2  # sizes come from the source
    (tmp_path / "source").unlink()
    code, output = finish(start(arguments, workdir, *more))
    assert code == 0 and "resuming from step 2" in output and "Traceback" not in output, output
    assert (tmp_path / "other disk" / "checkpoints" / "2").is_dir() and workdir.is_symlink()


def readable_by_all() -> bool:
    """Whether another user can run this Python."""
    folders = [*Path(sys.executable).resolve().parents, *Path(sys.executable).absolute().parents, ROOT]
    return all(folder.stat().st_mode & 0o5 == 0o5 for folder in folders)


NOBODY = pytest.param(
    {"user": 54321, "group": 54321, "extra_groups": []},
    marks=pytest.mark.skipif(
        os.getuid() != 0 or not readable_by_all(), reason="only root can be another user, who must be able to run this Python"
    ),
    id="a user whom the system does not know",
)


@pytest.mark.parametrize("user", [pytest.param({}, id="its own user"), NOBODY])
def test_a_run_outlives_its_reader_and_needs_no_home(arguments, tmp_path, user):
    """As `… 2>&1 | head` in a container leaves it; with the largest seed."""
    read, write = os.pipe()
    os.close(read)
    more = ["--config.steps=2", "--config.optimizer.warmup_steps=1", f"--config.seed={2**32 - 1}"]
    command = [sys.executable, "-m", "roberta_jax.main", *arguments, f"--workdir={tmp_path / 'run'}", *more]
    environment = {name: value for name, value in (os.environ | ENVIRONMENT).items() if name not in ("HOME", "XDG_CACHE_HOME")}
    environment["JAX_COMPILATION_CACHE_DIR"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=write, stderr=write, timeout=300, **user)
    assert done.returncode == 0 and metrics(tmp_path / "run")[-1]["step"] == 2


@pytest.mark.parametrize("fault", ["a file", "below a file", "a link to nothing", "read-only"])
def test_a_workdir_that_cannot_be_is_one_sentence_before_anything_is_read(arguments, tmp_path, fault):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "locked").mkdir()
    place = {"a file": "file", "below a file": "file/x", "a link to nothing": "link/x", "read-only": "locked/x"}[fault]
    with read_only(tmp_path / "locked") if fault == "read-only" else nullcontext():
        workdir, log = tmp_path / place, tmp_path / "log"
        code = Process([*arguments, f"--workdir={workdir}", "--config.data.source=no/such"], ENVIRONMENT, log)
        assert code.wait() == 2
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"error: {tmp_path / place.split('/')[0]}: ") and "no/such" not in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.data.source=no/such/folder"], "no/such/folder: no such file, folder or glob"),
        (["--config.batch_size=10", "--config.fsdp=3"], "fsdp is 3; it must divide the 1 devices"),
        (["--config.model.hiden_size=3"], "hiden_size"),
        (["--config.steps=many"], "--config.steps=many"),
        (["--config.model.vocab_size=999"], "config.model.vocab_size is 999, the tokenizer has"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config.init_from=no/such/model"], "no/such/model: there is no such folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, tmp_path, more, message):
    code, output = finish(start(arguments, tmp_path, *more))
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and message in errors[0], output
    assert "Traceback" not in output


def test_a_workdir_of_another_model_is_refused_and_left_alone(arguments, undisturbed):
    workdir, _ = undisturbed
    code, output = finish(start(arguments, workdir, "--config.model.intermediate_size=256"))
    assert code == 2 and "checkpoint of another model: its " in output and "Traceback" not in output, output
    assert json.loads((workdir / "config.json").read_text())["model"]["intermediate_size"] == 128
    assert (workdir / "checkpoints" / str(STEPS)).exists()


def test_help_needs_no_jax():
    heavy = "jax flax orbax tensorflow numpy".split()
    code = f"import sys, roberta_jax.main; sys.exit(bool(sys.modules.keys() & set({heavy})))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_help_tells_of_the_flags():
    done = subprocess.run([sys.executable, "-m", "roberta_jax.main", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "--config:" in done.stdout and "--workdir:" in done.stdout and not done.stderr
