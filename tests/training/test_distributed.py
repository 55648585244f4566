"""Several hosts, each a process of its own with simulated devices; what they send each other goes through gloo."""

import contextlib
import functools
import importlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from forked import Process, simulated, tiny_on

from roberta_jax import lock, main, storage
from roberta_jax.errors import UserError
from roberta_jax.output import to_json
from roberta_jax.pretraining.course import Source
from roberta_jax.tasks import runs
from roberta_jax.training import distributed
from roberta_jax.training.notes import read_notes, write_notes
from tests.task_files import jsonl, random_model

STEPS = 12


class Hosts:
    """The processes of one run, a command for each."""

    def __init__(self, commands: list[list[str]], devices: int, logs, environments: Sequence[dict[str, str]] = ()):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.processes = []
        for i, command in enumerate(commands):
            environment = simulated(devices) | (environments[i] if environments else {})
            if len(commands) > 1:
                environment |= dict(zip(distributed.EXPLICIT, (address, str(len(commands)), str(i))))
            self.processes.append(Process(command, environment, logs / f"{time.monotonic_ns()}-{i}.log"))

    def wait_for(self, text: str) -> None:
        end = time.time() + 240
        while text not in self.processes[0].output():
            assert self.processes[0].poll() is None and time.time() < end, self.processes[0].output()
            time.sleep(0.01)

    def finish(self) -> str:
        """What host 0 said; all hosts have ended well."""
        codes = [process.wait() for process in self.processes]
        assert not any(codes), "\n".join(process.output() for process in self.processes)
        return self.processes[0].output()


@pytest.fixture(scope="module")
def arguments(small_corpus):
    fields = {
        "steps": STEPS, "log_every": 1, "eval_every": 8, "checkpoint_every": 100, "optimizer.name": "adamw",
        "optimizer.warmup_steps": 4,
        "model.num_layers": 1, "model.hidden_size": 32, "model.intermediate_size": 64,
    }  # fmt: skip
    return tiny_on(small_corpus, fields)


def losses(workdir) -> dict[tuple[int, str], float]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): line[name] for line in lines for name in ("train/loss", "valid/loss") if name in line}


@pytest.fixture(scope="module")
def bereaved(arguments, tmp_path_factory):
    """The host of a run whose other host was killed, and when: it ends while other tests run."""
    folder = tmp_path_factory.mktemp("bereaved")
    hosts = Hosts([[*arguments, f"--workdir={folder / 'run'}"]] * 2, 1, folder)
    hosts.wait_for("step 1/")
    hosts.processes[1].send_signal(signal.SIGKILL)
    return hosts.processes[0], time.time()


def test_hosts_and_devices_that_come_and_go_train_as_one(arguments, bereaved, small_corpus, tmp_path):
    """8 devices, 1, 8, on 2 hosts, 1, 4. Where only one host is signalled all save the same step.

    Each host has prepared its own copy of the text, and so by another key; and the run began when orders were named by these.
    """
    environments, key = [], small_corpus.manifest["key"]
    for i in range(4):
        shutil.copytree(small_corpus.folder, tmp_path / f"home{i}" / "corpus")
        storage.write_json(tmp_path / f"home{i}" / "corpus" / "manifest.json", small_corpus.manifest | {"key": f"{key}{i}"})
        environments.append({"HOME": str(tmp_path / f"home{i}")})

    def started(workdir, hosts, devices):
        command = [*arguments, "--config.data.source=~/corpus", f"--workdir={workdir}"]
        return Hosts([command] * hosts, devices, tmp_path, environments)

    alone, workdir, stops = started(tmp_path / "alone", 1, 8), tmp_path / "run", []
    for hosts, devices, signalled, when in [(2, 4, 1, "step 1/"), (1, 1, 0, "parameters on 1")]:
        run = started(workdir, hosts, devices)
        run.wait_for(when)
        run.processes[signalled].send_signal(signal.SIGTERM)
        output = run.finish()
        assert not stops or f"resuming from step {stops[-1]}\n" in output
        assert ("a signal on another host" if signalled else "SIGTERM") + ": saved step " in output
        stops.append(int(output.rsplit("saved step ", 1)[1].split()[0]))
    assert stops[1] == stops[0] + 1  # the signal came before its first step
    notes = read_notes(workdir / "checkpoints", stops[-1])
    notes.memory["data"] = json.loads(to_json(notes.memory["data"]).replace(Source("", small_corpus).contents, f"{key}0"))
    write_notes(workdir / "checkpoints", stops[-1], notes)
    output = started(workdir, 4, 2).finish()
    assert f"{key}0, fraction 1, seed 0" in read_notes(workdir / "checkpoints", STEPS).memory["data"]["rows"]
    assert f"resuming from step {stops[-1]}\n" in output and "on 8 × cpu, 4 host(s)" in output

    alone.finish()
    expected, found = losses(tmp_path / "alone"), losses(workdir)
    assert expected.keys() - found.keys() <= {(step, "valid/loss") for step in stops}  # who is about to go does not evaluate
    differences = {of: abs(loss - expected[of]) for of, loss in found.items()}
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("different", ["config", "workdir"])
def test_hosts_that_do_not_mean_the_same_run_say_so(arguments, tmp_path, different):
    workdirs = [tmp_path / str(i) if different == "workdir" else tmp_path / "run" for i in range(2)]
    commands = [[*arguments, f"--workdir={workdir}", f"--config.seed={i}"] for i, workdir in enumerate(workdirs)]
    if different == "workdir":
        commands = [command[:-1] for command in commands]
        message = "error: --workdir {} of host 1 is not the folder of host 0; expected one that all hosts share."
    else:
        message = "error: the config of host {} is another than that of host {}; all hosts must have the same."
    hosts = Hosts(commands, 1, tmp_path)
    for i, process in enumerate(hosts.processes):
        expected = message.format(workdirs[i]) if different == "workdir" else message.format(1 - i, i)
        assert process.wait() != 0
        assert expected in process.output().splitlines(), process.output()


@pytest.fixture(scope="module")
def finetuning(small_corpus, tmp_path_factory):
    """Of a host each: a home with a model and data, which the commands name in the same words."""
    homes = [tmp_path_factory.mktemp(f"home{i}") for i in range(2)]
    for home in homes:
        random_model(small_corpus.tokenizer, home / "model")
        for name, count in (("train", 24), ("valid", 8), ("test", 8)):
            jsonl(home / f"{name}.jsonl", [{"text": f"the old sailor {i}", "label": "ab"[i % 2]} for i in range(count)])
    fields = {"init_from": "~/model", "max_length": 16, "steps": 1, "batch_size": 8, "log_every": 1}
    fields |= {f"data.{name}": f"~/{name}.jsonl" for name in ("train", "valid", "test")}
    task = "--config=configs/finetune.py:custom-classification"
    return [task, *(f"--config.{name}={value}" for name, value in fields.items())], homes, fields


DIFFERENT = {
    "train.jsonl": "the train split of hash '",
    "valid.jsonl": "the valid split of hash '",
    "test.jsonl": "what the test split or config.init_from's config.json",
    "labels": "labels ['a', 'b'",
    "model.safetensors": "init_from's parameters of hash '",
    "tokenizer": "init_from's tokenizer of hash '",
    "layer_norm_eps": "what the test split or config.init_from's config.json",
}


def with_another(different: str, home: Path, tokenizer, other: Path) -> Path:
    """A copy of a home where that is another."""
    shutil.copytree(home, other)
    if different.endswith(".jsonl"):  # one label is another
        text = (other / different).read_text()
        (other / different).write_text(text.replace('"b"', '"a"', 1))
    elif different == "labels":
        (other / "train.jsonl").write_text((other / "train.jsonl").read_text() + '{"text": "the mayor", "label": "c"}\n')
    elif different == "model.safetensors":
        random_model(tokenizer, other / "model", seed=1)
    elif different == "tokenizer":  # two merges in another order: as many entries, other ids
        lines = (other / "model" / "merges.txt").read_text().splitlines()
        lines[-2:] = lines[:-3:-1]
        (other / "model" / "merges.txt").write_text("\n".join(lines) + "\n")
        (other / "model" / "tokenizer.json").unlink()
    else:
        random_model(tokenizer, other / "model", layer_norm_eps=1e-6)
    return other


class Compared(Exception):
    pass


@pytest.fixture(scope="module")
def compared(finetuning):
    """home → what a host with it compares with the others before it trains: [(what, value)]."""
    fields = importlib.import_module("configs.finetune").get_config("custom-classification")
    fields.update_from_flattened_dict(finetuning[2])

    def of(home: Path) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []

        def require_same(what: str, value: str) -> None:
            found.append((what, value))
            if what.endswith(" holds"):  # of the workdir, the last
                raise Compared

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            patch.setattr(runs, "require_same", require_same)
            with pytest.raises(Compared):
                main.run(fields.to_dict(), home / "run")
        return found

    return functools.cache(of)


@pytest.mark.parametrize("different", DIFFERENT)
def test_data_and_models_of_hosts_are_compared_by_what_they_hold(compared, finetuning, small_corpus, tmp_path, different):
    home = finetuning[1][0]
    ours, theirs = compared(home), compared(with_another(different, home, small_corpus.tokenizer, tmp_path / "home"))
    (what, _), *_ = [one for one, other in zip(ours, theirs, strict=True) if one[1] != other[1]]
    assert what.startswith(f"custom-classification: {DIFFERENT[different]}")


def test_hosts_do_not_fine_tune_on_different_models(finetuning, small_corpus, tmp_path):
    arguments, homes, _ = finetuning
    other = with_another("layer_norm_eps", homes[1], small_corpus.tokenizer, tmp_path / "home")
    hosts = Hosts(
        [[*arguments, f"--workdir={tmp_path / 'run'}"]] * 2, 1, tmp_path, [{"HOME": str(homes[0])}, {"HOME": str(other)}]
    )
    for i, process in enumerate(hosts.processes):
        assert process.wait() == 2, process.output()
        (line,) = [line for line in process.output().splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: custom-classification: {DIFFERENT['layer_norm_eps']}"), line
        assert line.endswith(f" of host {1 - i} is another than that of host {i}; all hosts must have the same."), line
        assert "Traceback" not in process.output()
    assert not (tmp_path / "run" / "results.json").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_hosts_that_have_the_same_fine_tune_together_from_wherever_it_lies(finetuning, tmp_path):
    arguments, homes, _ = finetuning
    workdir, environments = tmp_path / "run", [{"HOME": str(home)} for home in homes]
    Hosts([[*arguments, f"--workdir={workdir}"]] * 2, 1, tmp_path, environments).finish()
    (result,) = json.loads((workdir / "results.json").read_text())
    output = Hosts([[*arguments, f"--workdir={workdir}"]] * 2, 1, tmp_path, environments).finish()
    assert f"{workdir} is done" in output and json.loads((workdir / "results.json").read_text()) == [result]


def test_software_is_the_code_too(tmp_path):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "one.py").write_text("x = 1\n")
    before = distributed._code(package)
    shutil.copytree(package, tmp_path / "elsewhere")
    assert distributed._code(tmp_path / "elsewhere") == before
    for name, text in (("inner/one.py", "x = 2\n"), ("two.py", "")):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(package, copy)
        (copy / name).write_text(text)
        assert distributed._code(copy) != before


@pytest.mark.parametrize("launcher", ["variables", "slurm"])
def test_a_port_in_use_ends_all_hosts_with_a_sentence(arguments, tmp_path, launcher):
    with socket.socket() as taken:
        for job in range(2**12):  # Slurm's port follows from the number of the job
            with contextlib.suppress(OSError):
                taken.bind(("localhost", 65535 - 2**12 + 1 + job))
                break
        taken.listen()
        address = f"localhost:{taken.getsockname()[1]}"

        def environment(process: int) -> dict[str, str]:
            if launcher == "variables":
                return dict(zip(distributed.EXPLICIT, (address, "2", str(process))))
            slurm = {"JOB_ID": job, "STEP_NODELIST": "localhost", "NTASKS": 2, "PROCID": process, "LOCALID": process}
            return {f"SLURM_{name}": str(value) for name, value in slurm.items()}

        command, began = [*arguments, f"--workdir={tmp_path / 'run'}"], time.time()
        hosts = [Process(command, simulated(1) | environment(i), tmp_path / f"{i}.log") for i in range(2)]
        taken.settimeout(120)
        taken.accept()[0].close()  # host 1 came here
        assert [host.wait(timeout=120) for host in hosts] == [2, 2] and time.time() - began < 120
    sentences = (
        f"error: port {address[10:]} of this host, where the processes are to meet ({address}), is in use by ",
        f"error: what answers at {address} is no process 0 that waits for others: ",
    )
    for host, sentence in zip(hosts, sentences):
        (line,) = [line for line in host.output().splitlines() if not line.startswith(("I0", "W0", "WARNING"))]
        assert line.startswith(sentence), host.output()


def test_every_host_of_a_second_run_is_told_who_the_first_is(arguments, tmp_path):
    with lock.held(tmp_path / "run"):
        hosts = Hosts([[*arguments, f"--workdir={tmp_path / 'run'}"]] * 2, 1, tmp_path)
        for process in hosts.processes:
            assert process.wait() != 0
            named = f"error: {tmp_path / 'run'}: another process (pid {os.getpid()} on {socket.gethostname()}, since "
            assert named in process.output() and "Traceback" not in process.output(), process.output()
        assert storage.names(tmp_path / "run") == {lock.NAME}


def test_a_host_that_dies_ends_the_others_with_a_sentence_within_a_minute(bereaved):
    survivor, killed = bereaved
    assert survivor.wait(timeout=60) != 0
    time.sleep(0.5)  # the sentence comes behind the end
    assert survivor.output().splitlines()[-1] == f"error: {distributed.GONE}"
    assert survivor.log.stat().st_mtime - killed < 60


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "1", "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"SLURM_NTASKS": "4"}, {}),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"},
            {"coordinator_address": "a:1", "num_processes": 4, "process_id": 3},
        ),
        ({"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, "JAX_NUM_PROCESSES is set and JAX_COORDINATOR_ADDRESS is not"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 is no host"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES=two is no num",
        ),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "0", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=0 is no num"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID=-1 is no host"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "²"}, "JAX_PROCESS_ID=² is no host"),
        ({"JAX_COORDINATOR_ADDRESS": "a:99999", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}, "expected host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "0"}, "is set and JAX_NUM_PROCESSES is not"),
        ({"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS=a, "),
    ],
)
def test_the_environment_says_whether_there_are_several(monkeypatch, environment, found):
    for name in (*distributed.EXPLICIT, *distributed.LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            distributed._arguments()
    else:
        assert distributed._arguments() == found
