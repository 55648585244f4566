"""Several hosts, each a process of its own with simulated devices; what they send each other goes through gloo."""

import json
import signal
import socket
import time

import pytest
from forked import Process, simulated, tiny_on

from roberta_jax.errors import UserError
from roberta_jax.training import distributed

STEPS = 12


class Hosts:
    """The processes of one run, a command for each."""

    def __init__(self, commands: list[list[str]], devices: int, logs):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.processes = []
        for i, command in enumerate(commands):
            environment = simulated(devices)
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
        "steps": STEPS, "log_every": 1, "eval_every": 8, "checkpoint_every": 100, "optimizer.warmup_steps": 4,
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


def test_hosts_and_devices_that_come_and_go_train_as_one(arguments, bereaved, tmp_path):
    """8 devices, 4, 1, 8, on 2 hosts, 1, 1, 4. Where only one host is signalled all save the same step."""

    def started(workdir, hosts, devices):
        return Hosts([[*arguments, f"--workdir={workdir}"]] * hosts, devices, tmp_path)

    alone, workdir, stops = started(tmp_path / "alone", 1, 8), tmp_path / "run", []
    for hosts, devices, signalled, when in [(2, 4, 1, "step 1/"), (1, 4, 0, "parameters on 4"), (1, 1, 0, "parameters on 1")]:
        run = started(workdir, hosts, devices)
        run.wait_for(when)
        run.processes[signalled].send_signal(signal.SIGTERM)
        output = run.finish()
        assert not stops or f"resuming from step {stops[-1]}\n" in output
        assert ("a signal on another host" if signalled else "SIGTERM") + ": saved step " in output
        stops.append(int(output.rsplit("saved step ", 1)[1].split()[0]))
    assert stops[1:] == [stops[0] + 1, stops[0] + 2]  # the signal came before their first step
    output = started(workdir, 4, 2).finish()
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
