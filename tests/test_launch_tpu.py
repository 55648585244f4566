"""launch_tpu.sh against gcloud_shim.py: real ssh commands in workers' homes, a shell script in the place of training."""

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
EVIL = 'it\'s $(touch pwned) `touch pwned`; "x" & *'
RUN = ["--config=configs/large.py", "--workdir=gs://bucket/run"]
PYTHON = """#!/bin/bash
case "$*" in
  -c*) exit "${OLD_PYTHON:-0}" ;;
  '-m venv .venv' | 'venv --quiet --clear --seed --python 3.12 .venv')
    mkdir -p .venv/bin && cp "$SHIM/remote/main" .venv/bin/python && cp "$SHIM/remote/pip" .venv/bin/pip ;;
  '-m pip install --quiet --target ../uv uv') mkdir -p ../uv/bin && cp "$0" ../uv/bin/uv ;;
  *) echo "python3 does not expect $*"; exit 9 ;;
esac
"""
PIP = '#!/bin/bash\ntest -f pyproject.toml && echo "$@" >>~/pip.txt\n'
MAIN = '#!/bin/bash\nprintf "%s\\\\0" "$PWD" "$@" >>~/argv\necho >>"$SHIM/mains"\n. "$SHIM/training"\n'
WAIT = 'while [ -d "$HOME/roberta_jax" ] && [ ! -e "$SHIM/end" ]; do sleep 0.05; done\n'
RESUMES = f'[ ! -e "$SHIM/saved-$WORKER" ] || exit 0; touch "$SHIM/saved-$WORKER"; {WAIT}'

STOCKOUT = 'There is no more capacity in the zone "z"; you can try in another zone where Cloud TPU Nodes are offered'
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone z."
EXPIRED = (
    "There was a problem refreshing your current auth tokens: invalid_grant: Bad Request\nPlease run:\n  $ gcloud auth login"
)
SSH = "[/usr/bin/ssh] exited with return code [255]."


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository with the launcher in it, so that these tests do not see whether the real one is clean."""
    folder = tmp_path_factory.mktemp("check out")
    shutil.copy(ROOT / "launch_tpu.sh", folder)
    (folder / "pyproject.toml").touch()
    git = ["git", "-C", folder, "-c", "user.name=x", "-c", "user.email=x@localhost"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "the commit"]):
        subprocess.run(git + arguments, check=True)
    return folder


class Cloud:
    """A shim's folder, and the launcher run beside it."""

    def __init__(self, folder: Path, checkout: Path):
        self.folder, self.checkout = folder, checkout
        remote, local = folder / "remote", folder / "bin"
        shim = shlex.join([sys.executable, "-I", "-S", str(ROOT / "tests" / "gcloud_shim.py")])
        programs = {remote / "python3": PYTHON, remote / "pip": PIP, remote / "main": MAIN}
        for path, text in (programs | {local / "gcloud": f'#!/bin/sh\nexec {shim} "$@"\n'}).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        self.trains("echo step 1,500")
        unset = {"TPU_NAME", "PROJECT_ID", "ZONE", "ACCELERATOR_TYPE", "RUNTIME_VERSION"}
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment |= {"SHIM": str(folder), "PATH": f"{local}:{os.environ['PATH']}", "TMPDIR": str(folder)}

    def trains(self, script: str) -> None:
        (self.folder / "training").write_text(script + "\n")

    def faults(self, *faults: dict) -> None:
        (self.folder / "faults.json").write_text(json.dumps(faults))

    def command(self, command: str, *more: str, name: str = "slice") -> list[str]:
        return [
            str(self.checkout / "launch_tpu.sh"),
            command,
            f"--name={name}",
            "--zone=z",
            "--poll=0",
            "--type=v5litepod-16",
            *more,
        ]

    def __call__(self, command: str, *more: str, name: str = "slice", code: int = 0, **options) -> str:
        options = {"stdin": subprocess.DEVNULL, "env": self.environment, "cwd": self.folder} | options
        result = subprocess.run(self.command(command, *more, name=name), capture_output=True, text=True, timeout=60, **options)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line)[2:] for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def verbs(self) -> list[str]:
        """What changed something, in order; ssh by the function it called."""
        called = [call[-1].rsplit("}; ", 1)[-1].split("_")[0] if call[1] == "ssh" else call[1] for call in self.calls]
        return [verb for verb in called if verb not in ("describe", "status", "tail", "scp")]

    @property
    def homes(self) -> list[Path]:
        return sorted((self.folder / "workers").iterdir())

    def wait_for(self, name: str, lines: int = 1) -> None:
        end = time.time() + 30
        while not (self.folder / name).exists() or len((self.folder / name).read_text().splitlines()) < lines:
            assert time.time() < end, name
            time.sleep(0.02)

    def starts_and_ends(self) -> None:
        for command in ("create", "install", "start"):
            self(command, *RUN)
        end = time.time() + 30
        while not all((home / "roberta_jax.exit").exists() for home in self.homes):
            assert time.time() < end
            time.sleep(0.02)


@pytest.fixture
def cloud(tmp_path, checkout):
    yield Cloud(tmp_path, checkout)
    (tmp_path / "end").touch()  # for trainings that wait


@pytest.mark.skipif(not SHELLCHECK.exists(), reason="shellcheck is not installed: pip install -e '.[test]'")
def test_shellcheck_reports_nothing():
    subprocess.run([SHELLCHECK, "--severity=style", ROOT / "launch_tpu.sh"], check=True)


def test_a_saved_run_is_known_by_what_training_says():
    phrase = "the same command goes on from there"
    assert phrase in (ROOT / "launch_tpu.sh").read_text() and phrase in (ROOT / "roberta_jax/training/train.py").read_text()


def test_help_names_every_command_and_option():
    text = subprocess.run([ROOT / "launch_tpu.sh", "--help"], check=True, capture_output=True, text=True).stdout
    for word in "run create install start watch logs delete --spot --queued --yes --dry_run --retries example".split():
        assert word in text


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "no command is given"),
        (["fly"], "unknown command fly"),
        (["create", "--type=v4-8"], "--name is missing"),
        (["create", "--name=n"], "--type is missing"),
        (["create", "--name"], "--name has no value"),
        (["create", "--name="], "--name has no value"),
        (["create", "--name=--zone"], "--name is --zone; expected"),
        (["create", "--name=n", "--colour=red"], "unknown option --colour=red; flags of roberta_jax.main go behind --"),
        (["create", "--name=n", "red"], "unexpected argument red"),
        (["start", "--name=n", "--workdir=gs://b/r"], "--config is missing"),
        (["start", "--name=n", "--config=c"], "--workdir is missing"),
        (["run", "--name=n", "--type=v4-8", *RUN, "--retries=many"], "--retries is many; expected a number"),
        (["create", "--name=n", "--type=v4-8", "--valid_until_duration=6h"], "--valid_until_duration needs --queued"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, said, cloud):
    result = subprocess.run([ROOT / "launch_tpu.sh", *arguments], capture_output=True, text=True, env=cloud.environment)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and said in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not cloud.calls


def test_without_gcloud(cloud, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "mktemp", "rm"):
        (tools / tool).symlink_to(shutil.which(tool))
    assert "gcloud is not in PATH" in cloud("delete", "--yes", code=1, env=cloud.environment | {"PATH": str(tools)})


def test_a_run_to_its_end(cloud):
    flags = ["--config.data.source=a b  c", EVIL, "", "two\nlines", "--config.x='\\'"]
    said = cloud("run", "--spot", "--project=p q", *RUN, "--", *flags, name=EVIL)
    assert cloud.verbs == ["create", "install", "start"] and "the run has finished" in said
    assert cloud.calls[1] == ["tpu-vm", "create", EVIL, "--version=v2-alpha-tpuv5-lite", "--spot",
                              "--accelerator-type=v5litepod-16", "--project=p q", "--zone=z"]  # fmt: skip
    assert all("--project=p q" in call and "--zone=z" in call for call in cloud.calls)
    for home in cloud.homes:
        assert (home / "argv").read_text().split("\0")[:-1] == [f"{home}/roberta_jax", "-m", "roberta_jax.main", *RUN, *flags]
        assert (home / "pip.txt").read_text() == "install --quiet -e .[tpu]\n"
    assert not list(cloud.folder.rglob("pwned")) and not (cloud.checkout / "pwned").exists()
    assert cloud("logs", name=EVIL) and {path.name for path in (cloud.folder / f"{EVIL}-logs").iterdir()} == {
        "worker-0.log",
        "worker-1.log",
    }
    assert "step 1,500" in (cloud.folder / f"{EVIL}-logs" / "worker-1.log").read_text()


def test_one_after_another(cloud):
    """The commands that make up a run; watch alone begins nothing."""
    assert "there is no slice in z to watch" in cloud("watch", *RUN, code=1)
    cloud("create")
    (cloud.checkout / "draft").touch()
    assert "uncommitted changes here do not travel" in cloud("install", env=cloud.environment | {"OLD_PYTHON": "1"})
    (cloud.checkout / "draft").unlink()
    assert not (cloud.homes[0] / "roberta_jax" / "draft").exists() and (cloud.homes[0] / "uv/bin/uv").exists()
    cloud.trains(WAIT)
    cloud("start", *RUN)
    cloud.wait_for("mains", 2)
    assert "a run is going on on slice; watch follows it" in cloud("start", *RUN, code=1)
    follower = subprocess.Popen(cloud.command("run", *RUN), env=cloud.environment, cwd=cloud.folder, stdin=subprocess.DEVNULL)
    cloud.wait_for("calls.jsonl", len(cloud.calls) + 4)
    (cloud.folder / "end").touch()
    assert follower.wait(30) == 0 and cloud.verbs == ["create", "install", "start"]


def test_no_room_then_room(cloud):
    cloud.faults({"on": "create", "say": STOCKOUT, "times": 2})
    said = cloud("run", *RUN)
    assert said.count(STOCKOUT) == 2 and "has no room for it now" in said and "(2 of 3)" in said
    assert cloud.verbs == ["create"] * 3 + ["install", "start"]


def test_no_room_at_all(cloud):
    cloud.faults({"on": "create", "say": STOCKOUT, "times": 9})
    assert "--queued (failure 2 in a row" in cloud("run", *RUN, "--retries=1", code=1)
    assert cloud.verbs == ["create", "create"]


@pytest.mark.parametrize("text, said", [(QUOTA, "quota is too small"), (EXPIRED, "run: gcloud auth login")])
def test_what_waiting_does_not_help(cloud, text, said):
    cloud.faults({"on": "create", "say": text, "times": 9})
    output = cloud("run", *RUN, code=1)
    assert text in output and said in output and cloud.verbs == ["create"]


def test_expired_while_watching(cloud):
    cloud.trains(WAIT)
    cloud.faults({"on": "describe", "skip": 3, "say": EXPIRED, "times": 9})
    assert "run: gcloud auth login" in cloud("run", *RUN, "--yes", code=1)
    assert cloud.verbs == ["create", "install", "start"]  # and not taken for a slice that is gone


@pytest.mark.parametrize("queued", [[], ["--queued", "--valid_until_duration=6h"]])
def test_preempted_while_running(cloud, queued):
    cloud.trains(RESUMES)
    cloud.faults({"on": "tpu-vm describe", "skip": 4 if not queued else 3, "state": "PREEMPTED"})
    ours, terminal = pty.openpty()
    os.write(ours, b"y\n")
    said = cloud("run", *RUN, *queued, "--spot", *(["--yes"] if queued else []), stdin=terminal)
    assert "the run has finished" in said and (cloud.folder / "mains").read_text() == "\n" * 4
    assert cloud.verbs == ["create", "install", "start", "delete", "create", "install", "start"]
    changes = [call for call in cloud.calls if call[1] in ("create", "delete")]
    assert changes[0] == changes[2] and ("--node-id=slice" in changes[0]) == ("--force" in changes[1]) == bool(queued)
    assert {call[0] for call in changes} == {"queued-resources" if queued else "tpu-vm"}


@pytest.mark.parametrize("asked", [False, True])
def test_preempted_and_nobody_agreed(cloud, asked):
    cloud.trains(WAIT)
    cloud.faults({"on": "describe", "skip": 4, "state": "PREEMPTED"})
    ours, terminal = pty.openpty()
    os.write(ours, b"n\n")
    said = cloud("run", *RUN, "--spot", code=1, stdin=terminal if asked else subprocess.DEVNULL)
    assert (
        ("may it be deleted" in said) == asked and "slice is PREEMPTED" in said and "needs --yes; nothing was deleted" in said
    )
    assert cloud.verbs == ["create", "install", "start"]


def test_a_crash_that_a_preemption_caused(cloud):
    cloud.trains("[ ! -e $SHIM/saved-$WORKER ] || exit 0; touch $SHIM/saved-$WORKER; echo a peer is lost; exit 1")
    cloud.starts_and_ends()
    cloud.faults({"on": "describe", "skip": 1, "state": "PREEMPTED"})
    cloud("watch", *RUN, "--yes")
    assert cloud.verbs == ["create", "install", "start", "delete", "create", "install", "start"]


def test_gone_while_running(cloud):
    cloud.trains(RESUMES)
    cloud.faults({"on": "describe", "skip": 4, "state": "gone"})
    cloud("run", *RUN)  # no yes is needed where nothing is deleted
    assert cloud.verbs == ["create", "install", "start", "create", "install", "start"]


def test_each_ssh_fails_once(cloud):
    cloud.faults(*({"on": "ssh", "skip": skip, "say": SSH, "code": 255} for skip in (0, 1, 3, 6)))
    said = cloud("run", *RUN, "--retries=4")
    for action in ("asking the workers of", "installing on", "starting the run on"):
        assert f"{action} slice in z failed: see the message above; trying again" in said
    assert said.count(SSH) == 4 and "the run has finished" in said
    assert (cloud.folder / "mains").read_text() == "\n" * 2


def test_an_install_that_fails_ends_where_it_is_told_to(cloud):
    (cloud.folder / "remote/pip").write_text("#!/bin/bash\necho no such wheel >&2; exit 1\n")
    cloud("create")
    said = cloud("install", code=1)
    assert "no such wheel" in said and "error: installing on slice in z failed" in said


def test_a_crash_is_shown_and_not_restarted(cloud):
    lines = 'seq 30 | sed "s/^/line /"; echo "it is $WORKER"; exit 7'
    cloud.trains(f"[ $WORKER = 1 ] || {{ sleep 0.3; echo a peer is lost; exit 3; }}; {lines}")
    cloud.starts_and_ends()
    said = cloud("watch", *RUN, "--yes", code=7)
    assert "exit status 7, first on t1v-n-0-w-1" in said and "it is 1" in said and "a peer is lost" not in said
    assert "line 12\n" in said and "line 11\n" not in said
    assert cloud.verbs == ["create", "install", "start"]
    cloud.trains("echo repaired")
    cloud("run", *RUN)  # does not look back
    assert cloud.verbs == ["create", "install", "start", "install", "start"]


def test_workers_that_a_start_did_not_reach_are_started(cloud):
    cloud.trains('while [ "$(wc -l <"$SHIM/mains")" -lt 2 ]; do sleep 0.05; done')  # one alone waits for the other
    cloud("create")
    cloud("install")
    one = cloud("start", "--dry_run", *RUN).replace("--worker=all", "--worker=0")
    subprocess.run(["bash", "-e"], input=one, env=cloud.environment, text=True, check=True, stdout=subprocess.DEVNULL)
    assert "trying again" not in cloud("watch", *RUN)
    assert cloud.verbs == ["create", "install", "start", "start"] and (cloud.folder / "mains").read_text() == "\n" * 2


def test_saved_runs_are_started_again(cloud):
    says = '[ $WORKER = 1 ] || echo "SIGTERM: saved step 5 in gs://b; the same command goes on from there."; exit 0'
    ends = "{ sleep 0.5; touch $SHIM/done-$WORKER; exit 0; }"
    cloud.trains(f"[ ! -e $SHIM/saved-$WORKER ] || {ends}; touch $SHIM/saved-$WORKER; {says}")
    said = cloud("run", *RUN)
    assert "the run was saved" in said and cloud.verbs == ["create", "install", "start", "start"]
    assert len(list(cloud.folder.glob("done-*"))) == 2  # and how the first ended is not taken for its end


def test_a_killed_process_is_started_again(cloud):
    cloud.trains("[ ! -e $SHIM/saved-$WORKER ] || exit 0; touch $SHIM/saved-$WORKER; kill -9 $PPID")
    said = cloud("run", *RUN)
    assert "the run was killed" in said and cloud.verbs == ["create", "install", "start", "start"]


def test_sigterm_to_all_processes_leaves_an_exit_status(cloud):
    cloud.trains("trap 'exit 5' TERM; kill $PPID; kill $$; sleep 9")
    assert "exit status 5" in cloud("run", *RUN, code=5)


# What is there costs


SCP = "[/usr/bin/scp] exited with return code [1]: permission denied"
LOGGED_OUT = {"on": "describe", "skip": 1, "say": EXPIRED, "times": 9}


def told(cloud, said: str) -> str:
    """What a command's last line says of the slice: "is", "may be" or nothing."""
    lines = [line for line in said.splitlines() if "this deletes it" in line]
    if not lines:
        return ""
    (line,) = lines
    sentence, _, command = line.removeprefix("launch_tpu: slice ").partition("; this deletes it: ")
    assert shlex.split(command) == [str(cloud.checkout / "launch_tpu.sh"), "delete", "--name=slice", "--zone=z"]
    assert sentence in ("is there and costs", "may be there, and then costs")
    return sentence.partition(" there")[0]


@pytest.mark.parametrize(
    ("command", "faults", "code", "expected"),
    [
        ("run", [], 0, "is"),
        ("create", [], 0, "is"),
        ("run", [{"on": "ssh", "say": SSH, "code": 255, "times": 9}], 1, "is"),
        ("run", [{"on": "scp", "say": SCP, "times": 9}], 1, "is"),
        ("run", [LOGGED_OUT], 1, "may be"),
        ("run", [{"on": "create", "say": EXPIRED, "late": True}, LOGGED_OUT], 1, "may be"),
        ("run", [{"on": "create", "say": EXPIRED, "late": True}], 1, "is"),
        ("create", [{"on": "create", "say": "INTERNAL: no", "late": True}], 1, "is"),
        ("create", [{"on": "describe", "say": "INTERNAL: no", "times": 9}], 1, "may be"),
        ("run", [{"on": "create", "say": QUOTA, "times": 9}], 1, ""),
        ("create", [{"on": "create", "say": STOCKOUT, "times": 9}], 1, ""),
        ("run", [{"on": "describe", "say": EXPIRED, "times": 9}], 1, ""),
        ("install", [], 1, ""),
    ],
)  # fmt: skip
def test_every_exit_says_what_is_there_and_what_deletes_it(cloud, command, faults, code, expected):
    cloud.faults(*faults)
    assert told(cloud, cloud(command, *RUN, "--retries=1", code=code)) == expected


def test_what_is_deleted_is_not_spoken_of_and_what_could_not_be_is(cloud):
    cloud("create")
    cloud.faults({"on": "delete", "say": "INTERNAL: try later"})
    assert told(cloud, cloud("delete", "--yes", code=1)) == "is"
    assert told(cloud, cloud("delete", "--yes")) == ""


@pytest.mark.parametrize("queued", [False, True])
def test_a_slice_of_a_run_that_was_preempted_or_has_failed_is_spoken_of(cloud, queued):
    cloud.trains("exit 3")
    more = ["--queued"] if queued else []
    said = cloud("run", *RUN, *more, code=3)
    assert "--zone=z --queued" in said if queued else told(cloud, said) == "is"
    cloud.faults({"on": "tpu-vm describe", "state": "PREEMPTED"})
    said = cloud("watch", *RUN, *more, code=1)
    assert "--zone=z --queued" in said if queued else told(cloud, said) == "is"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("moment", ["create", "ssh"])
def test_an_interrupt_says_it_too(cloud, moment, number, code):
    cloud.faults({"on": moment, "say": "", "late": True, "hang": True, "skip": 0 if moment == "create" else 1})
    process = subprocess.Popen(
        cloud.command("run", *RUN), env=cloud.environment, cwd=cloud.folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    cloud.wait_for("slice.json")
    while not any(moment in call for call in cloud.calls):
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal does
    said = process.communicate(timeout=30)[1]
    assert process.returncode == code and told(cloud, said) == ("may be" if moment == "create" else "is"), said


def test_nothing_is_made_without_a_commit(cloud, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(ROOT / "launch_tpu.sh", bare)
    subprocess.run(["git", "init", "-q", bare], check=True)
    for folder in (bare, shutil.copytree(bare, tmp_path / "none", ignore=shutil.ignore_patterns(".git"))):
        cloud.checkout = folder
        environment = cloud.environment | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
        for command in ("run", "install"):
            said = cloud(command, *RUN, code=1, env=environment)
            assert f"{folder} has no commit to install; expected a git checkout" in said and not cloud.calls


@pytest.mark.parametrize("preemptions", [2, 3])
def test_a_preemption_while_installing_counts_once(cloud, preemptions):
    """Twice: the copying fails for want of the slice, and then the slice is seen to be preempted."""
    cloud.faults({"on": "scp", "state": "PREEMPTED", "times": preemptions})
    said = cloud("run", *RUN, "--retries=2", "--yes", code=0 if preemptions == 2 else 1)
    assert ("the run has finished" in said) == (preemptions == 2)
    assert cloud.verbs.count("create") == 3


def test_copies_that_fail_count_each(cloud):
    cloud.faults({"on": "scp", "say": SCP, "times": 9})
    assert "failure 3 in a row" in cloud("run", *RUN, "--retries=2", code=1)


@pytest.mark.parametrize("command", ["run", "watch"])
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("more, said", [
    (["--type=v4-8", "--version=v2-alpha-tpuv5-lite"], "--type=v5litepod-16; expected --type=v4-8"),
    (["--version=v2-alpha-other"], "--version=v2-alpha-tpuv5-lite; expected --type=v5litepod-16 --version=v2-alpha-other"),
])  # fmt: skip
def test_a_slice_of_another_kind_is_not_taken(cloud, command, queued, more, said):
    more += ["--queued"] if queued else []
    cloud("create", *(["--queued"] if queued else []))
    output = cloud(command, *RUN, *more, "--yes", code=1)
    assert f"slice is there already, with {said}" in output and cloud.verbs == ["create"]


@pytest.mark.parametrize("worker", [0, 1])
def test_a_run_is_finished_when_all_workers_have_said_so(cloud, worker):
    cloud.starts_and_ends()
    cloud.faults({"on": "ssh", "silent": worker, "times": 2})
    said = cloud("watch", *RUN)
    assert said.count("1 of 2 workers of slice answered; expected all") == 2 and "the run has finished" in said
    cloud.faults({"on": "ssh", "silent": worker, "times": 9})
    assert "1 of 2 workers" in cloud("watch", *RUN, "--retries=1", code=1)


def test_nothing_is_deleted_without_a_yes(cloud):
    cloud("create")
    assert "slice was not deleted; that needs --yes" in cloud("delete", code=1)
    for answer, code, calls in (("n", 1, 1), ("", 1, 1), ("y", 0, 2)):
        ours, terminal = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        said = cloud("delete", code=code, stdin=terminal)
        assert "Delete slice in z" in said and len([verb for verb in cloud.verbs if verb != "describe"]) == calls, said
        os.close(terminal), os.close(ours)


def test_a_delete_that_fails(cloud):
    cloud("create")
    cloud.faults({"on": "delete", "say": "INTERNAL: try later"})
    assert "error: deleting slice in z failed: see the message above" in cloud("delete", "--yes", code=1)
    assert "not found" in cloud("delete", "--yes", name="other", code=1)
    cloud("delete", "--yes")
    assert json.loads((cloud.folder / "slice.json").read_text()) is None


MAKES, SHIPS, LOOKS, DELETES = ["create"], ["git", "scp", "ssh", "ssh"], ["describe", "ssh"], ["delete"]


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize(
    "command, commands",
    {
        "create": [*MAKES, "describe"],
        "install": ["git", "scp", "ssh"],
        "start": ["ssh", "ssh"],
        "watch": [*LOOKS, *DELETES, *MAKES, *SHIPS],
        "run": [*MAKES, *SHIPS, *LOOKS, *DELETES, *MAKES, *SHIPS],
        "logs": ["describe", "scp"],
        "delete": DELETES,
    }.items(),
)
def test_a_dry_run_prints_every_command_and_runs_none(cloud, command, commands, queued):
    printed = cloud(command, "--dry_run", "--spot", *["--queued"] * queued, *RUN, "--", EVIL, name=EVIL)
    assert not cloud.calls
    pasted = f"gcloud() {{ echo $4; }}; git() {{ echo git; }}\n{printed}"
    verbs = subprocess.run(
        ["bash", "-euc", pasted], capture_output=True, text=True, check=True, cwd=cloud.folder
    ).stdout.split()
    if queued and command in ("create", "run", "watch"):  # both the request and the slice are looked at
        verbs.pop(verbs.index("describe"))
    assert verbs == commands and not list(cloud.folder.rglob("pwned"))


def test_what_a_dry_run_prints_can_be_pasted(cloud):
    flags = ["--", EVIL, "two\nlines"]
    for command in ("create", "install", "start", "logs", "delete"):
        printed = cloud(command, "--dry_run", *RUN, *flags, name=EVIL)
        if command == "logs":
            os.mkdir(cloud.folder / f"{EVIL}-logs")
        subprocess.run(["bash", "-e"], input=printed, env=cloud.environment, cwd=cloud.folder, text=True, check=True)
        if command == "start":
            cloud.wait_for("mains", 2)
            assert (cloud.homes[1] / "argv").read_text().split("\0")[3:-1] == [*RUN, *flags[1:]]
    assert cloud.verbs == ["create", "install", "start", "delete"] and not list(cloud.folder.rglob("pwned"))
