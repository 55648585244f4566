"""Behind a URL files are found, read, written and copied as on this machine."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from roberta_jax import storage, walk
from roberta_jax.data.corpus import Corpus, on_this_machine
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import sha256_of
from roberta_jax.preparation import documents as D
from roberta_jax.preparation import prepare
from roberta_jax.preparation.config import CorpusConfig, ReaderConfig
from roberta_jax.preparation.documents import Counts, read, resolve
from roberta_jax.preparation.records import ending_of

ROOT = Path(__file__).parents[1]
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


HIDDEN_ONES = ("a.txt", ".b.txt", "._a.txt", ".git/c.txt", "in/.ipynb_checkpoints/d.txt", "in/e.txt")


@pytest.mark.parametrize(
    "source, names, passed_over",
    [
        ("", ["a.txt", "in/e.txt"], ["._a.txt", ".b.txt", ".git", "in/.ipynb_checkpoints"]),
        ("/*", ["a.txt", "in/e.txt"], ["._a.txt", ".b.txt", ".git", "in/.ipynb_checkpoints"]),
        ("/*.txt", ["a.txt"], ["._a.txt", ".b.txt"]),
        ("/**/*.txt", ["a.txt", "in/e.txt"], ["._a.txt", ".b.txt", ".git", "in/.ipynb_checkpoints"]),
        ("/.b.txt", [".b.txt"], []),
        ("/.git", [".git/c.txt"], []),
        ("/.git/*.txt", [".git/c.txt"], []),
        ("/.*.txt", ["._a.txt", ".b.txt"], []),
    ],
)
def test_what_is_hidden_counts_where_it_is_named(place, source, names, passed_over):
    for name in HIDDEN_ONES:
        storage.write_text(storage.join(place, name), name)
    said: dict[str, str] = {}
    files, _ = storage.find(place + source, passed_over=said)
    assert relative(files, place) == names
    if not place.startswith("memory"):  # which knows no folders, only the files in them
        assert sorted(path.partition("/here/")[2] for path in said) == passed_over and {*said.values()} <= {walk.HIDDEN}
    assert len(storage.find(place, hidden=True)[0]) == len(HIDDEN_ONES)


def test_a_glob_descends_into_the_folders_that_it_names(place):
    fill(place)
    files, is_folder = storage.find(f"{place}/*")
    assert relative(files, place) == ["b/c/two.txt", "b/notes.md", "b/one.txt", "b.txt"] and is_folder
    assert relative(storage.find(f"{place}/b/*")[0], place) == ["b/c/two.txt", "b/notes.md", "b/one.txt"]
    assert relative(storage.find(f"{place}/**")[0], place) == ["b/c/two.txt", "b/notes.md", "b/one.txt", "b.txt"]


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("source", ["here", "here/*", "here/**", "here/**/*", "here/**/*.txt", "h*", "here/*/*.txt"])
def test_links_are_followed_and_no_file_comes_twice(tmp_path, source, scheme):
    for name in ("here/in/one.txt", "here/in/deep/two.txt", "elsewhere/three.txt", "elsewhere/deep/four.txt"):
        storage.write_text(tmp_path / name, name)
    links = {"here/in/parent": "..", "here/in/itself": ".", "here/all": "../elsewhere", "here/again": "in"}
    links |= {"here/in/file.txt": "one.txt", "here/in/nowhere.txt": "nothing", "elsewhere/back": "../here"}
    for name, target in links.items():
        os.symlink(target, tmp_path / name)
    said: dict[str, str] = {}
    files, _ = storage.find(f"{scheme}{tmp_path}/{source}", passed_over=said)
    found = [os.path.realpath(file.path.removeprefix(scheme)).removeprefix(f"{tmp_path}/") for file in files]
    expected = {"here/in/one.txt", "here/in/deep/two.txt", "elsewhere/three.txt", "elsewhere/deep/four.txt"}
    if source == "here/*/*.txt":
        expected = {"here/in/one.txt", "elsewhere/three.txt"}
    assert sorted(found) == sorted(expected)
    assert f"{scheme}{tmp_path}/here/in/one.txt" in [file.path for file in files]  # by the name that no link is part of
    nowhere = [path for path, reason in said.items() if reason == walk.NOWHERE]
    assert {path.rpartition("/")[2] for path in nowhere} == {"nowhere.txt"}


def test_a_folder_that_cannot_be_read_and_what_is_no_file_are_passed_over(tmp_path, monkeypatch):
    storage.write_text(tmp_path / "a.txt", "a")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "lost+found").mkdir()
    read = Path.iterdir

    def iterdir(folder):  # as of a folder that belongs to root
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return read(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    said: dict[str, str] = {}
    assert relative(storage.find(str(tmp_path), passed_over=said)[0], str(tmp_path)) == ["a.txt"]
    assert {path.rpartition("/")[2]: reason for path, reason in said.items()} == {
        "pipe.txt": walk.NO_FILE,
        "lost+found": walk.UNREADABLE,
    }


def test_a_name_that_is_not_utf8_is_found_and_read(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9, 1.txt")
    Path(name).write_text("text")
    (file,) = storage.find(str(tmp_path))[0]
    assert file.path == name and storage.open_file(file.path).read() == b"text" == storage.read_range(file.path, 0, 9)


def test_a_changed_file_has_another_fingerprint(place):
    fill(place)
    before = storage.find(place)[0]
    assert storage.find(place)[0] == before
    storage.write_text(f"{place}/b/one.txt", "ENO/b.txtb/one.txtb/one.txt"[: before[2].size])  # the same size
    after = storage.find(place)[0]
    assert [a == b for a, b in zip(before, after)] == [True, True, False, True]


class HubInMemory(MemoryFileSystem):
    """As huggingface_hub's HfFileSystem tells of files: by a hash of what they hold, and by no time."""

    protocol = "hf"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("hf://").strip("/")

    def unstrip_protocol(self, name):
        return "hf://" + name.strip("/")

    def _plain(self, info: dict) -> dict:
        plain = {name: info[name] for name in ("name", "size", "type")}
        if info["type"] == "file":
            plain |= {
                "blob_id": hashlib.sha1(self.store[info["name"]].getvalue()).hexdigest(),
                "lfs": None,
                "last_commit": None,
            }
        return plain

    def info(self, path, **more):
        return self._plain(super().info(path, **more))

    def find(self, path, detail=False, **more):
        found = {name: self.info(name) for name in super().find(path, **more)}
        return found if detail else list(found)

    def ls(self, path, detail=True, **more):
        found = [self._plain(info) for info in super().ls(path, detail=True, **more)]
        return found if detail else [info["name"] for info in found]


@pytest.fixture
def hub():
    HubInMemory.store.clear()
    known = fsspec.registry.get("hf")
    fsspec.register_implementation("hf", HubInMemory, clobber=True)
    yield "hf://datasets/name/of"
    if known:
        fsspec.register_implementation("hf", known, clobber=True)


def test_a_data_set_of_the_hub_is_read_and_its_hashes_tell_it_apart(hub, documents, small_corpus, tmp_path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents[:200]).encode()
    files = {"data/train-00000.jsonl.gz": gzip.compress(lines, mtime=0), "README.md": b"a card", ".gitattributes": b"x"}
    for name, content in files.items():
        with storage.written(f"{hub}/{name}") as partial:
            partial.write_bytes(content)
    said: dict[str, str] = {}
    files, is_folder = storage.find(hub, passed_over=said)
    assert [file.path for file in files] == [f"{hub}/README.md", f"{hub}/data/train-00000.jsonl.gz"] and is_folder
    assert said == {f"{hub}/.gitattributes": walk.HIDDEN}
    made = []
    for source in (hub, f"{hub}/data/*.gz", f"{hub}/data/train-00000.jsonl.gz", hub):
        if len(made) == 3:  # other content of the same size
            other = bytearray(gzip.compress(lines, mtime=0))
            other[4] ^= 1  # the time in its header
            with storage.written(f"{hub}/data/train-00000.jsonl.gz") as partial:
                partial.write_bytes(other)
        config = CorpusConfig((source,), str(small_corpus.folder / "tokenizer"), length=64, valid_fraction=0.2)
        made.append(prepare.make(config, None, tmp_path / "cache", 1))
    assert made[0] == made[1] == made[2] != made[3]
    assert Corpus(made[0]).manifest["documents"] == 200


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


def test_an_empty_folder_that_a_stores_console_made_is_empty(monkeypatch):
    """There it is an object of its own, whose name ends in a slash."""
    memory = fsspec.filesystem("memory")
    for listed, names in ((["/far/new/"], set()), (["/far/new/", "/far/new/new", "/far/new/in/"], {"new", "in"})):
        monkeypatch.setattr(type(memory), "ls", lambda self, path, detail, listed=listed: listed)
        assert storage.names("memory://far/new") == storage.names("memory://far/new/") == names


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
    shards = resolve([place], ReaderConfig(), tmp_path / "cache", 1)
    assert [text for pieces in shards for piece in pieces for text in read(piece, ReaderConfig(), Counts())] == documents
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
    reading = ReaderConfig(bad_records="skip")
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


class Unavailable(Exception):
    """As stores have them: no OSError."""


def test_a_store_that_does_not_answer_is_one_sentence_and_nothing_is_taken_for_missing(tmp_path, monkeypatch):
    storage.write_text("memory://far/a.txt", "0123")

    def fail(*args, **kwargs):
        raise Unavailable("503\nno more")

    for name in ("info", "ls", "cat_file", "_open", "put_file", "rm_file", "get_file", "mv", "exists"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    calls = {
        "exists": lambda url: storage.exists(url),
        "names": lambda url: storage.names(url),
        "read_range": lambda url: storage.read_range(url, 0, 2),
        "read_bytes": lambda url: storage.read_bytes(url),
        "open_file": lambda url: storage.open_file(url),
        "write_text": lambda url: storage.write_text(url, "x"),
        "download": lambda url: storage.download(url, tmp_path / "a"),
        "remove_file": lambda url: storage.remove_file(url),
        "remove_folder": lambda url: storage.remove_folder(url),
    }
    for name, call in calls.items():
        with pytest.raises(UserError, match=r"^memory://far/a.txt: the store did not answer \(Unavailable: 503\)\.$"):
            call("memory://far/a.txt")
            pytest.fail(name)


def test_a_server_that_lists_names_alone_is_asked_for_sizes(tmp_path, monkeypatch):
    """As one of https: its listing has neither sizes nor what tells one content from another."""
    storage.write_text("memory://listing/a.txt", "0123")
    whole, told = MemoryFileSystem.find, {"name": "/listing/a.txt", "type": "file", "size": 4, "Last-Modified": "Monday"}

    def find(system, path, **how):
        return {name: {"name": name, "type": "file", "size": None} for name in whole(system, path, **how)}

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    folder = {"name": "/listing", "type": "directory", "size": 0}
    monkeypatch.setattr(MemoryFileSystem, "info", lambda system, path: told if path.endswith("a.txt") else folder)
    ((file,), _) = storage.find("memory://listing")
    assert file.size == 4 and file.fingerprint[-1] == "Monday"
    told["size"] = None
    with pytest.raises(UserError, match="a.txt: the server does not say how large it is; download it"):
        storage.find("memory://listing")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
def test_a_file_that_has_gone_is_no_bad_record(tmp_path, name):
    for path in (str(tmp_path / name), f"memory://far/gone/{name}"):
        piece = D.Piece(ending_of(path), path, 0, 1, 1, ())
        with pytest.raises(UserError, match=rf"{name}: cannot be opened"):
            list(read(piece, ReaderConfig(bad_records="skip"), Counts()))


def test_a_corpus_is_made_in_and_copied_from_a_url(documents, small_corpus, tmp_path):
    url = f"file://{tmp_path}"
    storage.write_text(f"{url}/text/a.txt", "\n\n".join(documents))
    fields = {"tokenizer": f"file://{small_corpus.folder}/tokenizer", "length": 64, "valid_fraction": 0.1}
    far = prepare.make(CorpusConfig((f"{url}/text",), **fields, deduplicate="exact"), f"{url}/corpus", tmp_path / "cache", 2)
    near = prepare.make(
        CorpusConfig((f"{tmp_path}/text",), **fields, deduplicate="exact"), tmp_path / "near", tmp_path / "cache", 1
    )
    assert far == f"{url}/corpus" and sorted(os.listdir(tmp_path / "corpus")) == sorted(os.listdir(near))
    copy = prepare.prepare(CorpusConfig((far,), **fields), cache=tmp_path / "copies")
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
    code = "import sys; sys.modules['gcsfs'] = None; from roberta_jax import prepare; prepare.main()"
    for source, said in (("gs://bucket/text", "Please install gcsfs"), ("nosuch://bucket/text", "Protocol not known: nosuch")):
        command = [sys.executable, "-c", f"from roberta_jax.errors import exit_with_sentence as e\ndef f():\n {code}\ne(f)"]
        command += ["--source", source, "--tokenizer", "400", "--out", str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and f"{source}: fsspec cannot reach it ({said}" in done.stderr
        assert "Traceback" not in done.stderr


# Partial files

WRITER = """
import sys, time
from roberta_jax import storage, walk
with storage.written(sys.argv[1]) as partial:
    partial.write_text("half")
    print(partial, flush=True)
    time.sleep(600)
"""
MANY = """
import os, sys
from roberta_jax import storage, walk
os.getpid = lambda: 1  # as in a container
storage._host = lambda: "host"
for i in range(100):
    storage.write_text(sys.argv[1], sys.argv[2] * 1000)
"""


def writer(path) -> tuple[subprocess.Popen, Path]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def test_processes_of_the_same_number_do_not_write_into_each_others_files(tmp_path):
    path = tmp_path / "shared.json"
    processes = [subprocess.Popen([sys.executable, "-c", MANY, str(path), name], cwd=ROOT) for name in "abc"]
    while any(process.poll() is None for process in processes):
        if path.exists():
            content = path.read_text()
            assert content in ("a" * 1000, "b" * 1000, "c" * 1000)
    assert not any(process.returncode for process in processes) and storage.names(tmp_path) == {"shared.json"}


def test_what_a_killed_process_left_goes_and_what_another_one_writes_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_swept", set())
    (dead, left), (alive, written) = writer(tmp_path / "a.json"), writer(tmp_path / "a.json")
    dead.kill()
    dead.wait()
    name = written.name.removeprefix("a.json.")
    others = [tmp_path / each for each in (
        "b.json.elsewhere-1-0123abcd.partial", "c.json.elsewhere-1-0123abcd.partial", "d.json.4711.partial",
        "e.json.4711.partial",
        f"f.json.{storage._host()}-4711-0123abcd.partial", "movie.partial", f"g-{name}", "kept.json")]  # fmt: skip
    for each in others:
        each.write_text("half")
    (tmp_path / "corpus.0123abcd.partial").mkdir()
    long_ago = 1_700_000_000
    for each in (others[1], others[3], others[5]):
        os.utime(each, (long_ago, long_ago))
    try:
        storage.write_text(tmp_path / "z.json", "whole")
        stay = {"b.json.elsewhere-1-0123abcd.partial", "d.json.4711.partial", "movie.partial", "corpus.0123abcd.partial"}
        stay |= {"kept.json", "z.json", written.name}
        assert storage.names(tmp_path) - {f"g-{name}"} == stay and not left.exists()
        assert written.read_text() == "half"
    finally:
        alive.kill()
        alive.wait()


def test_an_error_and_an_upload_leave_no_partial_file(place, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with pytest.raises(ZeroDivisionError), storage.written(f"{place}/a.txt") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    storage.write_text(f"{place}/b.txt", "whole")
    assert storage.names(place) == {"b.txt"} and not storage.names(tmp_path / "tmp")


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "verified.json").symlink_to(tmp_path / "outside")
    storage.write_text(tmp_path / "verified.json", "theirs")
    assert (tmp_path / "outside").read_text() == "mine" and (tmp_path / "verified.json").read_text() == "theirs"


def test_what_is_put_aside_keeps_what_was_put_aside_before(place):
    for content in ("one", "two", "three"):
        storage.write_text(f"{place}/a.json", content)
        storage.put_aside(f"{place}/a.json")
    assert storage.names(place) == {"a.json.damaged", "a.json.damaged-2", "a.json.damaged-3"}
    assert storage.read_bytes(f"{place}/a.json.damaged-3") == b"three"
    storage.write_text(f"{place}/folder/b.txt", "b")
    storage.put_aside(f"{place}/folder")
    assert storage.read_bytes(f"{place}/folder.damaged/b.txt") == b"b" and not storage.exists(f"{place}/folder/b.txt")


def test_a_file_of_json_is_read_or_one_sentence(place):
    storage.write_json(f"{place}/a.json", {"loss": float("nan"), "steps": [1, float("inf")]})
    assert storage.read_json(f"{place}/a.json") == {"loss": None, "steps": [1, None]}
    for content in (b"", b"{", b"\0" * 9, b"null", b"[]", b'"x"', b"3", b"\xff{}", b"[" * 100_000, b'{"a": 1}{'):
        with storage.written(f"{place}/a.json") as partial:
            partial.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.json is not a JSON file that can be read: ."):
            storage.read_json(f"{place}/a.json")
    with pytest.raises(UserError, match=r"none\.json is not a JSON file that can be read: ."):
        storage.read_json(f"{place}/none.json")


# Names that others wrote

NAMES_OF_OTHERS = [
    "../pwned.npy", "../../pwned.npy", "/tmp/pwned.npy", "a/b.npy", "a\\b.npy", "..\\b.npy", "", ".", "..", "a\0b", "a\nb",
    "x" * 300, None, 3, ["a"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES_OF_OTHERS, ids=repr)
def test_a_name_from_outside_is_a_name_and_no_path(name):
    with pytest.raises(UserError, match="the manifest names .*, which is no plain name of a file"):
        storage.plain_name(name, "the manifest")


def test_names_as_we_write_them_are_plain():
    for name in ("train-00000-of-00001.npy", "model-00001-of-00002.safetensors", "merges.txt", "0123456789abcdef", "ä b..c"):
        assert storage.plain_name(name, "") == name


@pytest.mark.parametrize("field", ["shards", "tokenizer_files", "key"])
@pytest.mark.parametrize("name", [each for each in NAMES_OF_OTHERS if isinstance(each, str)], ids=repr)
def test_a_corpus_behind_a_url_writes_nowhere_but_in_its_own_folder(small_corpus, tmp_path, field, name):
    far = Path(shutil.copytree(small_corpus.folder, tmp_path / "outer" / "far"))
    manifest = json.loads((far / "manifest.json").read_text())
    digest = sha256_of(str(far / "token_counts.npy"))
    if field == "key":
        manifest["key"] = name
    else:
        manifest[field][name] = digest
    (far / "manifest.json").write_text(json.dumps(manifest))
    for pwned in (tmp_path / "outer" / "pwned.npy", tmp_path / "pwned.npy", far / "a"):
        pwned.write_text("reachable") if pwned.name != "a" else pwned.mkdir()  # so that a copy would find something
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"manifest\.json: .*is no plain name|manifest\.json: 'key' is"):
        on_this_machine(f"file://{far}", tmp_path / "cache")
    assert {path for path in tmp_path.rglob("*")} == before
    with pytest.raises(UserError):
        Corpus(far)


def test_a_copied_vocabulary_is_the_one_that_was_prepared(small_corpus, tmp_path):
    far = Path(shutil.copytree(small_corpus.folder, tmp_path / "far"))
    merges = (far / "tokenizer" / "merges.txt").read_text().splitlines(True)
    (far / "tokenizer" / "merges.txt").write_text("".join(merges[: len(merges) // 2]))
    with pytest.raises(UserError, match=r"tokenizer/merges\.txt: its SHA-256 is .* the manifest says .*: the file is damaged"):
        on_this_machine(f"file://{far}", tmp_path / "cache")
    with pytest.raises(UserError, match=r"merges\.txt makes none of .* tokens of vocab\.json, .*; it looks cut short"):
        Corpus(far)
    (far / "tokenizer" / "merges.txt").write_text("".join(merges))
    old = {name: value for name, value in small_corpus.manifest.items() if name != "tokenizer_files"}  # as they once were
    (far / "manifest.json").write_text(json.dumps(old))
    copy = Corpus(on_this_machine(f"file://{far}", tmp_path / "cache"))
    assert copy.tokenizer.hash == small_corpus.tokenizer.hash == Corpus(far).tokenizer.hash


def test_a_learned_vocabulary_that_was_cut_is_learned_again(documents, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    recipe = CorpusConfig((str(tmp_path / "a.txt"),), 400, length=64, valid_fraction=0.1)
    before = prepare.prepare(recipe, tmp_path / "one", tmp_path / "cache", 1)
    (folder,) = (path for path in (tmp_path / "cache").glob("tokenizer-*") if path.is_dir())
    merges = (folder / "merges.txt").read_text().splitlines(True)
    (folder / "merges.txt").write_text("".join(merges[: len(merges) // 2]))
    after = prepare.prepare(recipe, tmp_path / "two", tmp_path / "cache", 1)
    assert after.tokenizer.hash == before.tokenizer.hash and after.manifest["shards"] == before.manifest["shards"]
    assert f"merges.txt: it is not what was saved there, by {folder.name}.hashes.json" in capsys.readouterr().out
    assert (tmp_path / "cache" / f"{folder.name}.damaged").is_dir()
