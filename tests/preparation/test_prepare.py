"""Text becomes the same rows whatever the processes and the kills; the report counts right; what cannot be is named."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from disks import mounted

from roberta_jax import prepare as prepare_command
from roberta_jax.data.corpus import Corpus, report
from roberta_jax.errors import UserError
from roberta_jax.preparation import documents, prepare
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.hashing import DistinctCounter
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

ROOT = Path(__file__).parents[2]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def non_padding(rows, tokenizer) -> list[list[int]]:
    return [row[row != tokenizer.pad].tolist() for row in rows.gather(np.arange(len(rows)))]


def texts_of(rows, tokenizer) -> list[str]:
    """The documents of doc-sentences' rows, where each fits a row."""
    return [tokenizer.decode(row[1:-1]) for row in non_padding(rows, tokenizer)]


@pytest.fixture(scope="module")
def vocabulary(small_corpus) -> str:
    return str(small_corpus.folder / "tokenizer")


def run(*arguments, **kwargs):
    command = [sys.executable, "-m", "roberta_jax.prepare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **kwargs)


# What is made


def test_rows_are_the_same_from_one_process_and_from_two(documents_in_files, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "SMALLEST_SHARD", 20_000)
    recipe = CorpusConfig((str(documents_in_files),), vocabulary, length=64, valid_fraction=0.1)
    one, two = (prepare.prepare(recipe, tmp_path / str(n), tmp_path / "cache", processes=n) for n in (1, 2))
    assert len(one.manifest["shards"]) > 10 and one.manifest == two.manifest
    for split in ("train", "valid"):
        rows = [getattr(corpus, split) for corpus in (one, two)]
        np.testing.assert_array_equal(*(each.gather(np.arange(len(each))) for each in rows))


@pytest.fixture(scope="module")
def documents_in_files(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for number in range(6):
        (folder / f"{number}.txt").write_text("\n\n".join(documents[number::6]))
    return folder


def test_rows_hold_the_documents_and_nothing_else(documents, vocabulary, tmp_path):
    tokenizer = ByteLevelBPE.load(vocabulary)
    recipe = CorpusConfig((write(tmp_path / "a.jsonl", documents),), vocabulary, "doc-sentences", 512, 0.2)
    corpus = prepare.prepare(recipe, tmp_path / "corpus", tmp_path / "cache", 1)
    train, valid = texts_of(corpus.train, tokenizer), texts_of(corpus.valid, tokenizer)
    assert sorted(train + valid) == sorted(documents)
    assert 0.15 * len(documents) < len(valid) < 0.25 * len(documents)
    rows = corpus.train.gather(np.arange(len(corpus.train)))
    assert rows.dtype == np.int32 and rows.shape == (len(train), 512)
    assert (rows[:, 0] == tokenizer.bos).all()
    padding = rows == tokenizer.pad
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()  # on the right alone
    assert (np.take_along_axis(rows, (~padding).sum(1, keepdims=True) - 1, 1) == tokenizer.eos).all()


def test_adding_documents_moves_none_to_the_other_split(documents, vocabulary, tmp_path):
    splits = []
    for name, texts in (("few", documents[:200]), ("many", documents[::-1])):
        recipe = CorpusConfig((write(tmp_path / f"{name}.jsonl", texts),), vocabulary, "doc-sentences", 512, 0.2)
        corpus = prepare.prepare(recipe, tmp_path / name, tmp_path / "cache", 1)
        splits.append([set(texts_of(rows, corpus.tokenizer)) for rows in (corpus.train, corpus.valid)])
    (few_train, few_valid), (many_train, many_valid) = splits
    assert len(few_valid) > 20 and len(few_train) + len(few_valid) == 200
    assert few_train < many_train and few_valid < many_valid


def test_no_valid_document_is_seen_by_the_tokenizer(documents, tmp_path):
    source = write(tmp_path / "a.jsonl", documents)
    recipe = CorpusConfig((source,), 400, "doc-sentences", 512, 0.5)
    shards = documents_resolved(source)
    seen = list(prepare._training_texts(recipe, shards))
    valid = texts_of((corpus := prepare.prepare(recipe, tmp_path / "corpus", tmp_path / "cache", 1)).valid, corpus.tokenizer)
    assert len(seen) > 200 and len(valid) > 200 and not set(seen) & set(valid)


def documents_resolved(source):
    from roberta_jax.preparation.config import ReaderConfig
    from roberta_jax.preparation.documents import resolve

    return resolve([source], ReaderConfig(), Path(), 1)


def test_the_manifest_keeps_its_contract_and_rows_stay_on_disk(small_corpus, documents):
    manifest, folder = small_corpus.manifest, small_corpus.folder
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert {"format", "length", "tokenizer", "rows", "tokens", "documents", "shards"} <= manifest.keys()
    assert (manifest["format"], manifest["length"], manifest["documents"]) == ("full-sentences", 64, len(documents))
    assert manifest["tokenizer"] == small_corpus.tokenizer.hash == ByteLevelBPE.load(folder / "tokenizer").hash
    for name, digest in manifest["shards"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    files = {path.name for path in folder.iterdir()}
    assert files == {*manifest["shards"], "manifest.json", "verified.json", "tokenizer"}
    assert {"train-00000-of-00001.npy", "valid-00000-of-00001.npy", "token_counts.npy"} == set(manifest["shards"])
    for split, rows in (("train", small_corpus.train), ("valid", small_corpus.valid)):
        assert all(not shard.flags.owndata and not shard.flags.writeable and shard.dtype == np.uint16 for shard in rows._shards)
        kept = non_padding(rows, small_corpus.tokenizer)
        assert (manifest["rows"][split], manifest["tokens"][split]) == (len(rows), sum(map(len, kept)))
        deciles = [sorted(map(len, kept))[round(i)] for i in np.floor(np.linspace(0, len(kept) - 1, 11))]
        assert manifest["row_lengths"][split] == deciles
    ids = [i for row in non_padding(small_corpus.train, small_corpus.tokenizer) for i in row]
    np.testing.assert_array_equal(small_corpus.token_counts, np.bincount(ids, minlength=400))


def test_the_report_counts_what_is_there(vocabulary, tmp_path):
    first, second = "One line.\nAnother line.\nA third.", "Another line.\nSomething else."
    others = [f"Document number {i}.\nA third." for i in range(50)]
    texts = [first, second, first, " ", first, second, "", *others]
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
        file.write(b'{"text": "bad \xff byte"}\n{"text": "' + b"word " * 1_000 + b'"}\n')
    recipe = CorpusConfig((str(tmp_path / "a.jsonl"),), vocabulary, length=64, valid_fraction=0.2)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        manifest = prepare.prepare(recipe, tmp_path / "corpus", tmp_path / "cache", 1).manifest
    lines = [line for text in texts if text.strip() for line in text.split("\n")]
    assert manifest["documents"] == 5 + 50 + 2 and manifest["empty_documents"] == 2
    assert manifest["repeated_documents"] == 3
    assert manifest["lines"] == len(lines) + 2 and manifest["repeated_lines"] == len(lines) - len(set(lines))
    assert manifest["documents_with_invalid_utf8"] == 1
    assert manifest["sentences_cut"] == 1 and manifest["tokens_lost"] == 0
    for said in ("57 documents", "3 documents", f"{len(lines) - len(set(lines))} of {len(lines) + 2} lines", "0 tokens lost"):
        assert said in report(manifest) and said in printed.getvalue()


def test_distinct_is_exact_for_few_and_near_for_many_in_any_parts():
    few = DistinctCounter()
    for i in range(60_000):
        few.add(str(i % 40_000).encode())
    assert few.repeated() == 20_000
    whole, parts, together = DistinctCounter(), [DistinctCounter(), DistinctCounter()], DistinctCounter()
    for i in range(500_000):
        for distinct in (whole, parts[i % 2]):
            distinct.add(str(i % 400_000).encode())
    for part in parts:
        part.fold()
        together.merge(part.smallest, part.seen)
    assert whole.repeated() == together.repeated()
    assert abs((whole.seen - whole.repeated()) / 400_000 - 1) < 0.02


# The cache


def test_the_same_recipe_is_made_once_and_another_one_again(documents, tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", documents[:200])
    recipe = CorpusConfig((source,), 400, length=64, valid_fraction=0.1)
    made = prepare.prepare(recipe, cache=tmp_path / "cache", processes=1)
    assert made.folder.parent == tmp_path / "cache"
    again = CorpusConfig((source,), str(made.folder / "tokenizer"), length=64, valid_fraction=0.1)
    with monkeypatch.context() as m:
        m.setattr(prepare, "summarise", None)
        m.setattr(ByteLevelBPE, "train", None)
        assert prepare.prepare(recipe, cache=tmp_path / "cache").folder == made.folder
        assert prepare.prepare(again, cache=tmp_path / "cache").folder == made.folder
    folders = {made.folder}
    for change in ({"length": 32}, {"format": "doc-sentences"}, {"valid_fraction": 0.2}, {"tokenizer": 300}):
        changed = CorpusConfig(**{"source": (source,), "tokenizer": 400, "length": 64, "valid_fraction": 0.1} | change)
        folders.add(prepare.prepare(changed, cache=tmp_path / "cache", processes=1).folder)
    write(tmp_path / "a.jsonl", documents[:201])
    folders.add(prepare.prepare(recipe, cache=tmp_path / "cache", processes=1).folder)
    assert len(folders) == 6


def test_a_prepared_corpus_is_a_source(small_corpus, vocabulary):
    for tokenizer in (400, vocabulary):
        recipe = CorpusConfig((str(small_corpus.folder),), tokenizer, length=64)
        assert prepare.prepare(recipe).folder == small_corpus.folder


# A kill


KILLED = """
import os, signal, sys
from pathlib import Path
from roberta_jax.preparation import documents, processes
from roberta_jax.preparation.prepare import prepare
from roberta_jax.preparation.config import CorpusConfig
documents.SMALLEST_SHARD = 100_000
source, tokenizer, deduplicate, out, killed = sys.argv[1:]

class Killed(processes.Workers):
    shards = []

    def submit(self, function, key):
        future = super().submit(function, key)
        if function.func is processes._write:
            self.shards.append(future)
        if len(self.shards) == 5:  # three are written, two begun, and no other is
            for each in self.shards[:3]:
                each.result()
            os.kill(os.getpid(), signal.SIGKILL)
        return future

if killed:
    processes.Workers = Killed
recipe = CorpusConfig((source,), tokenizer, length=64, valid_fraction=0.1, deduplicate=deduplicate)
prepare(recipe, Path(out), Path(out).parent / "cache", 2)
"""


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("deduplicate", ["none", "near"])
def test_a_killed_preparation_goes_on_where_it_stopped(vocabulary, tmp_path, deduplicate):
    (tmp_path / "text").mkdir()
    chooser = random.Random(0)
    words = [str(chooser.random()) for _ in range(5_000)]
    for number in range(12):
        texts = [" ".join(chooser.choices(words, k=100)) + ". End." for _ in range(60)]
        (tmp_path / "text" / f"{number:02}.txt").write_text("\n\n".join(texts))

    def start(out, killed=""):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "text"), vocabulary, deduplicate, str(out), killed]
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    process, limit = start(tmp_path / "killed", "killed"), time.monotonic() + 120
    assert process.wait(120) == -signal.SIGKILL
    while alive(process.pid) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not alive(process.pid)  # no worker is left behind

    assert not (tmp_path / "killed").exists() and not list(tmp_path.rglob("manifest.json"))
    (partial,) = tmp_path.glob("killed.*.partial")
    done = [note.name[6:11] for note in partial.glob("work/shard-*.npz")]
    assert 3 <= len(done) < 12
    (partial / "train-00011-of-00012.npy.1.partial").write_bytes(b"half a row")  # as a kill in a write leaves it
    before = {name: (partial / name).stat() for i in done for name in (f"train-{i}-of-00012.npy", f"valid-{i}-of-00012.npy")}

    assert start(tmp_path / "killed").wait(120) == 0
    assert start(tmp_path / "whole").wait(120) == 0
    killed, whole = Corpus(tmp_path / "killed"), Corpus(tmp_path / "whole")
    assert killed.manifest == whole.manifest
    for name, stat in before.items():
        now = (killed.folder / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert sorted(os.listdir(killed.folder)) == sorted(os.listdir(whole.folder))
    assert not list(tmp_path.glob("*.partial"))


def test_a_killed_worker_is_an_error_that_says_so(documents, vocabulary, tmp_path, one_worker):
    source = write(tmp_path / "a.jsonl", documents * 200)

    def kill():
        while not list(tmp_path.glob("corpus.*.partial/train-*")):
            time.sleep(0.01)
        for child in multiprocessing.active_children():
            child.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    with pytest.raises(UserError, match="was killed, perhaps for want of memory; the same command goes on"):
        prepare.prepare(CorpusConfig((source,), vocabulary, length=64), tmp_path / "corpus", tmp_path / "cache", 1)
    thread.join()


def test_a_script_that_every_process_would_run_is_told_so(vocabulary, tmp_path):
    source = write(tmp_path / "a.jsonl", ["a text"] * 9)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from roberta_jax.preparation import config, prepare\n"
        f"recipe = config.CorpusConfig(({source!r},), {str(vocabulary)!r}, length=64)\n"
        f"prepare.prepare(recipe, Path({str(tmp_path)!r}, 'corpus'), Path({str(tmp_path)!r}, 'cache'), 1)\n"
    )
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode and done.stderr.count('prepares text outside of `if __name__ == "__main__":`') == 1


# Errors


def test_recipes_that_cannot_be_are_refused():
    for fields, said in (
        ({"format": "whole-books"}, "data.format is 'whole-books'; it can be 'full-sentences' or 'doc-sentences'"),
        ({"length": 7}, "data.length is 7"),
        ({"valid_fraction": 1.0}, r"data.valid_fraction is 1\.0"),
    ):
        with pytest.raises(UserError, match=said):
            CorpusConfig(**{"source": ("docs",), "tokenizer": 400} | fields)


def test_a_corpus_without_text_is_refused(vocabulary, tmp_path):
    (tmp_path / "a.txt").write_text("\n \n\t\n")
    with pytest.raises(UserError, match=r"a\.txt: no document with any text in it"):
        prepare.prepare(CorpusConfig((str(tmp_path / "a.txt"),), vocabulary), tmp_path / "out", tmp_path / "cache", 1)
    assert not (tmp_path / "out").exists()


def test_a_split_without_documents_is_refused(vocabulary, tmp_path):
    (tmp_path / "a.txt").write_text("One document.")
    with pytest.raises(UserError, match=r"the valid split is empty: 1 documents and data\.valid_fraction 0\.01"):
        prepare.prepare(CorpusConfig((str(tmp_path / "a.txt"),), vocabulary), tmp_path / "out", tmp_path / "cache", 1)


def test_a_tokenizer_folder_that_is_not_there_is_named(documents, tmp_path):
    recipe = CorpusConfig((write(tmp_path / "a.jsonl", documents[:9]),), str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=rf"{tmp_path}/nothing: no vocab\.json"):
        prepare.prepare(recipe, tmp_path / "out", tmp_path / "cache", 1)


def test_a_prepared_corpus_of_another_kind_is_refused(small_corpus, tmp_path, vocabulary):
    ByteLevelBPE.train(["another one"] * 9, 270).save(tmp_path / "other")
    folder = str(small_corpus.folder)
    for recipe, said in (
        (CorpusConfig((folder,), str(tmp_path / "other"), length=64), f"prepared with tokenizer {small_corpus.tokenizer.hash}"),
        (CorpusConfig((folder,), 500, length=64), "prepared with vocabulary 400, the config asks for 500"),
        (CorpusConfig((folder,), vocabulary, length=128), "prepared with length 64, the config asks for 128"),
        (CorpusConfig((folder,), vocabulary, "doc-sentences", 64), "prepared with format full-sentences"),
    ):
        with pytest.raises(UserError, match=rf"{folder}: this corpus was {said}"):
            prepare.prepare(recipe)


def test_a_folder_that_holds_something_else_is_not_written_to(small_corpus, documents, vocabulary, tmp_path):
    recipe = CorpusConfig((write(tmp_path / "a.jsonl", documents[:99]),), vocabulary, length=64, valid_fraction=0.1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="mine is not empty and holds no prepared corpus"):
        prepare.prepare(recipe, tmp_path / "mine", tmp_path / "cache", 1)
    (tmp_path / "mine" / "thesis.txt").rename(tmp_path / "mine" / "work")  # a name that ours has too
    with pytest.raises(UserError, match="mine is not empty and holds no prepared corpus"):
        prepare.prepare(recipe, tmp_path / "mine", tmp_path / "cache", 1)
    with pytest.raises(UserError, match="holds a corpus made from something else"):
        prepare.prepare(recipe, small_corpus.folder, tmp_path / "cache", 1)


# A folder that is there already


class Stopped(Exception):
    """A preparation that ended in the middle."""


def stop(work, spills, workers):
    prepare.processes.run(work, spills, workers)
    Path(work.folder, "valid-00000-of-00001.npy").unlink()
    Path(work.path("shard-00000.npz")).unlink()
    raise Stopped


@pytest.mark.parametrize("kind", ["empty", "link", "mounted"])
def test_a_folder_that_is_there_is_worked_in_and_is_no_corpus_before_its_manifest(documents, vocabulary, tmp_path, kind):
    recipe = CorpusConfig((write(tmp_path / "a.jsonl", documents[:99]),), vocabulary, length=64, valid_fraction=0.1)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    out = {"empty": tmp_path / "real", "link": tmp_path / "link", "mounted": tmp_path / "disk"}[kind]
    with mounted(out, "size=10m") if kind == "mounted" else contextlib.nullcontext():
        (out / "lost+found").mkdir()
        inode = out.stat().st_ino
        with pytest.raises(Stopped):
            prepare.make(recipe, out, tmp_path / "cache", 1, run=stop)
        with pytest.raises(UserError, match=r"no manifest\.json there"):
            Corpus(out)
        with pytest.raises(UserError, match="holds the beginning of another corpus: name a new folder, or empty this one"):
            prepare.make(CorpusConfig(recipe.source, vocabulary, length=32), out, tmp_path / "cache", 1)
        assert prepare.make(recipe, out, tmp_path / "cache", 1) == str(out) and out.stat().st_ino == inode
        corpus = Corpus(out)
        names = {*corpus.manifest["shards"], "manifest.json", "verified.json", "tokenizer", "lost+found"}
        assert set(os.listdir(out)) == names and not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.lock"))
        assert prepare.make(recipe, out, tmp_path / "cache", 1) == str(out)  # and found
    assert out.is_symlink() == (kind == "link")


def test_a_tokenizer_that_is_not_agreed_to_makes_no_row(documents, vocabulary, tmp_path):
    def refuse(tokenizer):
        raise UserError(f"{len(tokenizer)} entries")

    for tokenizer in (300, vocabulary):
        recipe = CorpusConfig((write(tmp_path / "a.jsonl", documents[:99]),), tokenizer, length=64, valid_fraction=0.1)
        with pytest.raises(UserError, match="300 entries" if tokenizer == 300 else "400 entries"):
            prepare.prepare(recipe, cache=tmp_path / "cache", processes=1, agree=refuse)
    assert not list(tmp_path.glob("cache/corpus-*"))


@pytest.fixture
def copy(small_corpus, tmp_path) -> Path:
    return Path(shutil.copytree(small_corpus.folder, tmp_path / "copy"))


def test_a_shard_with_a_wrong_hash_is_named(copy):
    Corpus(copy)
    with open(copy / "valid-00000-of-00001.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(UserError, match=r"valid-00000-of-00001\.npy: its SHA-256 is .*the manifest says"):
        Corpus(copy)


def test_a_shard_that_is_missing_is_named(copy):
    (copy / "train-00000-of-00001.npy").unlink()
    with pytest.raises(UserError, match=r"the shard train-00000-of-00001\.npy that its manifest lists is missing"):
        Corpus(copy)


def test_a_corpus_whose_tokenizer_was_exchanged_is_named(copy):
    ByteLevelBPE.train(["another one"] * 9, 270).save(copy / "tokenizer")
    with pytest.raises(UserError, match=rf"{copy}: its tokenizer/ is not the one its rows were made with"):
        Corpus(copy)


def test_a_folder_that_is_no_corpus_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: no manifest\.json"):
        Corpus(tmp_path)


# The command


def test_the_command_prepares_and_prints_json(documents, tmp_path):
    source, out = write(tmp_path / "a.jsonl", documents[:200]), tmp_path / "corpus"
    arguments = ("--source", source, "--tokenizer", 400, "--length", 64, "--valid_fraction", 0.1, "--out", out, "--json")
    for _ in range(2):  # made, then found
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == Corpus(out).manifest


def test_a_flag_that_cannot_be_is_named_as_one(monkeypatch, tmp_path):
    for flag, said in (
        ("--length=7", "--length is 7; expected 8 or more"),
        ("--tokenizer=9", "--tokenizer is 9; expected a folder"),
        ("--processes=-1", "--processes is -1; expected 1 or more, or 0: one a core"),
    ):
        arguments = ["--source=no/such", "--tokenizer=400", f"--out={tmp_path / 'out'}", flag]
        monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
        with pytest.raises(UserError, match=said):
            prepare_command.main()


@pytest.mark.parametrize("fault", ["no such path", "in a worker", "tokenizer"])
def test_the_command_ends_with_one_sentence_and_no_traceback(documents, vocabulary, tmp_path, fault):
    write(tmp_path / "a.jsonl", documents[:5])
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"title": "no text"}\n')
    source = tmp_path / ("nothing.txt" if fault == "no such path" else "a.jsonl")
    tokenizer = tmp_path if fault == "tokenizer" else vocabulary
    done = run("--source", source, "--tokenizer", tokenizer, "--out", tmp_path / "out")
    said = {
        "no such path": "nothing.txt: no such file",
        "in a worker": "a.jsonl, line 6: no text",
        "tokenizer": "no vocab.json",
    }
    errors = [line for line in done.stderr.split("\n") if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and said[fault] in errors[0]
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
