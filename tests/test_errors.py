"""Whatever ends a command is one sentence, or nothing, and an exit status; with real disks, users, pipes and signals."""

import errno
import json
import os
import pickle
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy
from disks import as_nobody, mounted, read_only

from roberta_jax import prepare as prepare_command
from roberta_jax import storage
from roberta_jax.data.corpus import ShardWriter
from roberta_jax.errors import UserError, exit_with_sentence, first_line, outcome
from roberta_jax.interop import hub
from roberta_jax.preparation import prepare
from roberta_jax.preparation.config import CorpusConfig

ROOT = Path(__file__).parent.parent
COMMANDS = [path for path in (ROOT / "roberta_jax").glob("*.py") if '__name__ == "__main__"' in path.read_text()]


def run(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_every_command_ends_by_the_one_door(path):
    assert re.search(r"\n    exit_with_sentence\(", path.read_text())


@pytest.mark.parametrize(
    ("before", "now"),
    [("data.prepare", "prepare"), ("data.beam", "prepare --beam"), ("data.inspect", "inspect"), ("interop.hub", "export")],
)
def test_a_command_that_moved_says_its_new_name(before, now):
    with pytest.raises(SystemExit, match=f"python -m roberta_jax.{before} .*is python -m roberta_jax.{now} now"):
        runpy.run_module(f"roberta_jax.{before}", run_name="__main__")


def test_a_library_that_says_nothing_is_named_by_the_kind_of_its_error():
    assert first_line(ValueError("\n why \n and more")) == "why"
    for silent in (ValueError(), ValueError(""), ValueError("\n")):
        assert first_line(silent) == "ValueError"


def test_errors_of_the_system_name_the_path_and_the_reason(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for error, said in (
        (lambda: open(tmp_path / "file" / "x", "w"), "file/x: a file stands where a folder is expected"),
        (lambda: open(tmp_path, "w"), f"{tmp_path}: is a folder; expected a file"),
        (lambda: open(tmp_path / "none" / "x"), "none/x: No such file or directory"),
        (lambda: (tmp_path / "file").mkdir(), "file: a file stands where a folder is expected"),
        (lambda: (tmp_path / "link").mkdir(), "link: is a link to nowhere, which is not there"),
    ):
        with pytest.raises(OSError) as raised:
            error()
        for one in (raised.value, pickle.loads(pickle.dumps(raised.value))):  # as it comes from a worker
            line, status = outcome(one)
            assert line.startswith("error: /") and said in line and status == 2 and "\n" not in line
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        line, _ = outcome(OSError(number, os.strerror(number), "/x/y"))
        assert line.startswith("error: /x/y: ") and os.strerror(number) in line
    assert outcome(ZeroDivisionError()) is None  # a programmer's


def test_a_full_disk_is_named_by_whatever_writes(tmp_path, small_corpus):
    table = pyarrow.table({"text": ["x" * 1_000] * 4_000}).slice(0)
    noise = np.random.default_rng(0).random(500_000)
    writers = {
        "text": lambda path: path.write_text("x" * 4_000_000),
        "weights": lambda path: safetensors.numpy.save_file({"x": noise}, path),
        "table": lambda path: pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False),
        "array": lambda path: np.save(open(path, "wb"), noise),
        "rows": lambda path: ShardWriter(path, small_corpus.tokenizer, 1_000).write([np.zeros(1_000, int)] * 2_000),
    }
    with mounted(tmp_path / "disk", "size=1m") as disk:
        for name, write in writers.items():
            with pytest.raises(OSError) as raised, storage.written(disk / name) as partial:
                write(partial)
            line, status = outcome(raised.value)
            assert line.startswith(f"error: {disk / name}") and status == 2, line
            assert "the disk is full; make room" in line or name == "array", line  # numpy tells how much was written
            for left in disk.iterdir():
                left.unlink()


@pytest.mark.parametrize(
    "tokenizer, size, full", [("400", "8k", "cache/tokenizer-"), ("400", "80k", "out"), ("folder", "80k", "out")]
)
def test_a_full_disk_in_a_preparation(tmp_path, documents, small_corpus, tokenizer, size, full, monkeypatch, capfd):
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    tokenizer = str(small_corpus.folder / "tokenizer") if tokenizer == "folder" else tokenizer
    with mounted(tmp_path / "disk", f"size={size}") as disk:
        monkeypatch.setattr(storage, "CACHE", disk / "cache")
        arguments = ["--source", tmp_path / "a.txt", "--tokenizer", tokenizer, "--length", 64, "--out", disk / "out"]
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, [*arguments, "--processes", 1])])
        with pytest.raises(SystemExit) as ended:
            exit_with_sentence(prepare_command.main)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert ended.value.code == 2 and line.startswith(f"error: {disk / full}") and "the disk is full; make room" in line, line


# Readers that go away


PRINTS = """
import sys
from pathlib import Path
from roberta_jax.errors import exit_with_sentence
def main():
    for number in range(100_000):
        print(number)
    print("all", file=sys.stderr)
    Path(sys.argv[1]).write_text("done")
exit_with_sentence(main, outlives_output=len(sys.argv) > 2)
"""


@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path, both):
    read, write = os.pipe()
    os.close(read)
    errors = write if both else subprocess.PIPE
    done = subprocess.run([sys.executable, "-c", PRINTS, tmp_path / "x"], cwd=ROOT, stdout=write, stderr=errors)
    os.close(write)
    assert done.returncode == 141 and not done.stderr and not (tmp_path / "x").exists()


@pytest.mark.parametrize("both", [False, True])
def test_training_outlives_its_reader(tmp_path, both):
    read, write = os.pipe()
    os.close(read)
    errors = write if both else subprocess.PIPE
    done = subprocess.run([sys.executable, "-c", PRINTS, tmp_path / "x", "on"], cwd=ROOT, stdout=write, stderr=errors)
    os.close(write)
    assert done.returncode == 0 and (tmp_path / "x").read_text() == "done"
    assert both or done.stderr == b"standard output is lost (Broken pipe); the run goes on without it\nall\n"


def test_output_to_a_full_disk_is_a_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS, tmp_path / "x"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.startswith(b"error: standard output: the disk is full")
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_output_is_no_error(tmp_path):
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$0" {tmp_path}/x >&-', PRINTS], cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and done.stderr == b"all\n"


# Ctrl-C


def test_an_interrupt_is_a_word_and_a_status():
    done = run("import os\nfrom roberta_jax.errors import exit_with_sentence as e\ne(lambda: os.kill(os.getpid(), 2))")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
from roberta_jax import prepare
from roberta_jax.errors import exit_with_sentence
from roberta_jax.preparation import processes
out, as_completed = Path(sys.argv[-1]), processes.as_completed

def interrupted(futures):
    while not list(out.parent.glob("out.*.partial/train-*")):  # the workers are at it
        time.sleep(0.01)
    os.killpg(0, signal.SIGINT)  # as a terminal does: the workers hear it too
    yield from as_completed(futures)

processes.as_completed = interrupted
exit_with_sentence(prepare.main)
"""


def test_an_interrupted_preparation_ends_at_once_and_goes_on(tmp_path, documents, small_corpus):
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents) * 5)
    flags = ["--source", tmp_path, "--length", "64", "--processes", "2"]
    flags += ["--tokenizer", small_corpus.folder / "tokenizer", "--out", tmp_path / "out"]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, *flags], **options)
    output = process.communicate(timeout=160)[0]
    (line,) = [line for line in output.splitlines() if "interrupted" in line]
    assert process.returncode == 130 and "the same command goes on with" in line and "Traceback" not in output, output
    with pytest.raises(ProcessLookupError):
        for _ in range(500):  # no worker is left
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    done = subprocess.run([sys.executable, "-m", "roberta_jax.prepare", *flags], **options, timeout=200)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "manifest.json").exists() and not list(tmp_path.rglob("*.partial"))


# Users and places


def test_a_corpus_in_a_cache_that_cannot_be_written_is_found(tmp_path, documents):
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    recipe = CorpusConfig((str(tmp_path / "a.txt"),), 400, length=64, valid_fraction=0.1)
    made = prepare.prepare(recipe, cache=tmp_path / "cache", processes=1)
    (made.folder / "verified.json").unlink()
    with read_only(tmp_path / "cache"):
        assert prepare.prepare(recipe, cache=tmp_path / "cache").folder == made.folder
        with pytest.raises(OSError, match="Read-only file system"):
            prepare.prepare(CorpusConfig((str(tmp_path / "a.txt"),), 401, length=64), cache=tmp_path / "cache")


NOBODY = """
import sys
from roberta_jax import prepare
from roberta_jax.errors import exit_with_sentence
exit_with_sentence(prepare.main)
"""


def test_a_user_without_a_home_is_told_what_to_set_and_needs_none_where_nothing_is_kept(tmp_path, documents, small_corpus):
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o711)
    source = [sys.executable, "-c", NOBODY, "--source", str(tmp_path / "a.txt"), "--length=64", "--processes=1"]
    source += ["--valid_fraction=0.1", "--out", str(tmp_path / "out"), "--tokenizer"]
    path = {"PYTHONPATH": str(ROOT)}
    done = as_nobody([*source, "400"], **path)
    assert done.returncode == 2 and done.stderr.startswith("error: user 54321 has no home folder") and not done.stdout
    done = as_nobody([*source, "400"], HOME="/", **path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "/.cache/roberta_jax, and / is in the way" in done.stderr.replace("~", "") and "XDG_CACHE_HOME" in done.stderr
    done = as_nobody([*source, str(small_corpus.folder / "tokenizer")], **path)
    assert done.returncode == 0 and (tmp_path / "out" / "manifest.json").exists(), done.stderr


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("fault", ["a file", "below a file", "a link to nothing", "read-only"])
def test_a_place_where_nothing_can_be_written_is_seen_before_the_work(tmp_path, kind, fault):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "locked").mkdir()
    place = {"a file": "file", "below a file": "file/x", "a link to nothing": "link", "read-only": "locked"}[fault]
    check = storage.require_writable if kind == "folder" else lambda folder: storage.require_place(folder / "x.npy")
    before = sorted(tmp_path.rglob("*"))
    check(tmp_path / "new" / "one")
    with read_only(tmp_path / "locked"), pytest.raises(OSError) as raised:
        check(tmp_path / place)
    assert str(tmp_path / place).startswith(outcome(raised.value)[0].removeprefix("error: ").partition(": ")[0])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_leaves_other_things_alone_and_goes_on_with_its_own(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "setup.py").touch()
    with pytest.raises(UserError, match=r"project holds other things \(setup\.py\) and no model; name a new folder"):
        hub.export("no/such/model", tmp_path / "project")
    (tmp_path / "stopped").mkdir()
    for name in ("model.safetensors", "vocab.json", "README.md", ".gitattributes"):
        (tmp_path / "stopped" / name).touch()
    hub.require_room(tmp_path / "stopped")
