"""Behind a URL files are found, read, written and copied as on this machine."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFile

from roberta_jax.data import documents as D
from roberta_jax.data import prepare, storage
from roberta_jax.data.corpus import Corpus, on_this_machine
from roberta_jax.data.documents import Counts, Reading, read, resolve
from roberta_jax.data.prepare import Recipe
from roberta_jax.errors import UserError

ROOT = Path(__file__).parents[2]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}
NAMES = ("b/one.txt", "b/c/two.txt", "b.txt", "b/notes.md")


@pytest.fixture(params=["path", "file://", "memory://"])
def place(request, tmp_path):
    """A folder on this machine, by its path and by its URL, and one that is elsewhere; empty."""
    if request.param == "memory://":
        memory = fsspec.filesystem("memory")
        memory.rm("/", recursive=True)
        return "memory://far"
    return str(tmp_path / "here") if request.param == "path" else f"file://{tmp_path}/here"


def fill(place: str) -> None:
    for name in NAMES:
        storage.write_text(storage.join(place, name), name * 3)


def relative(files: list[storage.File], place: str) -> list[str]:
    return [file.path.partition(place.rpartition("/")[2] + "/")[2] for file in files]


def test_files_are_found_in_the_same_order_everywhere(place):
    fill(place)
    for source, names, is_folder in (
        (place, ["b/c/two.txt", "b/notes.md", "b/one.txt", "b.txt"], True),
        (f"{place}/b/*.txt", ["b/one.txt"], False),
        (f"{place}/**/*.txt", ["b/c/two.txt", "b/one.txt", "b.txt"], False),
        (f"{place}/b/one.txt", ["b/one.txt"], False),
        (f"{place}/nothing", [], False),
        (f"{place}/*.parquet", [], False),
    ):
        files, folder = storage.find(source)
        assert (relative(files, place), folder) == (names, is_folder), source
    assert all(file.size == len(storage.read_bytes(file.path)) for file in files)


def test_a_changed_file_has_another_fingerprint(place):
    fill(place)
    before = storage.find(place)[0]
    assert storage.find(place)[0] == before
    storage.write_text(f"{place}/b/one.txt", "ENO/b.txtb/one.txtb/one.txt"[: before[2].size])  # the same size
    after = storage.find(place)[0]
    assert [a == b for a, b in zip(before, after)] == [True, True, False, True]


def test_ranges_names_and_what_is_there(place):
    storage.write_text(f"{place}/a.txt", "0123456789")
    assert storage.read_range(f"{place}/a.txt", 3, 5) == b"34" and storage.read_range(f"{place}/a.txt", 8, 50) == b"89"
    with storage.open_file(f"{place}/a.txt") as file:
        file.seek(4)
        assert file.read(2) == b"45"
    assert storage.exists(f"{place}/a.txt") and not storage.exists(place) and not storage.exists(f"{place}/b.txt")
    assert storage.names(place) == {"a.txt"} and storage.names(f"{place}/none") == set()
    storage.remove_folder(place)
    assert storage.names(place) == set()
    storage.remove_folder(place)  # once more is no error


def test_a_file_that_is_not_written_to_its_end_is_not_there(place):
    with pytest.raises(ZeroDivisionError), storage.written(f"{place}/a.txt") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert not storage.exists(f"{place}/a.txt")


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_documents_are_read_from_everywhere(place, documents, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(D, "SMALLEST_SHARD", 20_000)
    with storage.written(f"{place}/a.txt{ending}") as partial:
        partial.write_bytes(COMPRESS[ending]("\n\n".join(documents[:300]).encode()))
    with storage.written(f"{place}/b.parquet") as partial:
        pyarrow.parquet.write_table(pyarrow.table({"text": documents[300:]}), partial, row_group_size=100)
    shards = resolve([place], Reading(), tmp_path / "cache", 1)
    assert [text for pieces in shards for piece in pieces for text in read(piece, Reading(), Counts())] == documents
    assert len(shards) >= 2


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.parquet"])
def test_a_store_that_stops_answering_is_no_bad_record(documents, tmp_path, monkeypatch, name):
    texts = [text + str(i) for i, text in enumerate(documents * 20)]
    data = "\n\n".join(texts).encode()
    with storage.written(f"memory://far/{name}") as partial:
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(pyarrow.table({"text": texts}), partial, row_group_size=1_000)
        else:
            partial.write_bytes(COMPRESS[name.removeprefix("a.txt")](data))
    reading = Reading(bad_records="skip")
    (pieces,) = resolve([f"memory://far/{name}"], reading, tmp_path, 1)
    reads, real = [], MemoryFile.read

    def read_then_fail(file, size=-1):
        reads.append(size)
        if len(reads) > 2:
            raise ConnectionResetError("gone")
        return real(file, size)

    monkeypatch.setattr(MemoryFile, "read", read_then_fail, raising=False)
    with pytest.raises(UserError, match=rf"{name}: the store stopped answering \(ConnectionResetError: gone\)"):
        for piece in pieces:
            list(read(piece, reading, Counts()))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
def test_a_file_that_has_gone_is_no_bad_record(tmp_path, name):
    for path in (str(tmp_path / name), f"memory://far/gone/{name}"):
        piece = D.Piece(D._kind(path), path, 0, 1, 1, ())
        with pytest.raises(UserError, match=rf"{name}: cannot be opened"):
            list(read(piece, Reading(bad_records="skip"), Counts()))


def test_a_corpus_is_made_in_and_copied_from_a_url(documents, small_corpus, tmp_path):
    url = f"file://{tmp_path}"
    storage.write_text(f"{url}/text/a.txt", "\n\n".join(documents))
    fields = {"tokenizer": f"file://{small_corpus.folder}/tokenizer", "length": 64, "valid_fraction": 0.1}
    far = prepare.make(Recipe((f"{url}/text",), **fields, deduplicate="exact"), f"{url}/corpus", tmp_path / "cache", 2)
    near = prepare.make(Recipe((f"{tmp_path}/text",), **fields, deduplicate="exact"), tmp_path / "near", tmp_path / "cache", 1)
    assert far == f"{url}/corpus" and sorted(os.listdir(tmp_path / "corpus")) == sorted(os.listdir(near))
    copy = prepare.prepare(Recipe((far,), **fields), cache=tmp_path / "copies")
    assert copy.folder.parent == tmp_path / "copies" and copy.manifest["shards"] == Corpus(near).manifest["shards"]
    assert not list(tmp_path.glob("cache/spills-*"))


def test_a_copy_that_was_stopped_goes_on_and_a_damaged_shard_is_named(small_corpus, tmp_path, monkeypatch):
    far = Path(shutil.copytree(small_corpus.folder, tmp_path / "far"))
    (far / "valid-00000-of-00001.npy").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"valid-00000-of-00001\.npy: not there, though it is part of that corpus"):
        on_this_machine(f"file://{far}", tmp_path)
    (copy,) = tmp_path.glob("corpus-*")
    with pytest.raises(UserError, match=r"no manifest\.json there"):
        Corpus(copy)
    before = (copy / "train-00000-of-00001.npy").stat().st_mtime_ns
    data = (tmp_path / "away").read_bytes()
    (far / "valid-00000-of-00001.npy").write_bytes(data[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"file://.*valid-00000-of-00001\.npy: its SHA-256 is .*the manifest says"):
        on_this_machine(f"file://{far}", tmp_path)
    assert not (copy / "valid-00000-of-00001.npy").exists() and not (copy / "manifest.json").exists()
    (far / "valid-00000-of-00001.npy").write_bytes(data)
    assert Corpus(on_this_machine(f"file://{far}", tmp_path)).manifest == small_corpus.manifest
    assert (copy / "train-00000-of-00001.npy").stat().st_mtime_ns == before
    shutil.rmtree(far / "tokenizer")
    assert on_this_machine(f"file://{far}", tmp_path) == copy  # whole: nothing is copied again


def test_a_store_without_its_package_is_named(tmp_path):
    code = "import sys; sys.modules['gcsfs'] = None; from roberta_jax.data import prepare; prepare.main()"
    for source, said in (("gs://bucket/text", "Please install gcsfs"), ("nosuch://bucket/text", "Protocol not known: nosuch")):
        command = [sys.executable, "-c", f"from roberta_jax.errors import exit_with_sentence as e\ndef f():\n {code}\ne(f)"]
        command += ["--source", source, "--tokenizer", "400", "--out", str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and f"{source}: fsspec cannot reach it ({said}" in done.stderr
        assert "Traceback" not in done.stderr
