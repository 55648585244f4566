"""A model behind a URL is read as one of this machine is; fsspec's store in memory stands for all of them."""

import contextlib
import fcntl

import fsspec
import numpy as np
import pytest

from roberta_jax import inference, storage
from roberta_jax.errors import UserError
from roberta_jax.interop import hub, remote
from roberta_jax.interop.conversion import flatten
from roberta_jax.training import checkpoint as reading


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "CACHE", tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    yield memory
    for name in memory.ls("/", detail=False):
        memory.rm(name, recursive=True)


def equal(one, other) -> bool:
    one, other = flatten(one.params), flatten(other.params)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("checkpoint", ["newest", "best", "1"])
def test_a_run_behind_a_url_is_the_run(workdir, store, checkpoint):
    store.put(f"{workdir}/", "/runs/one/", recursive=True)
    here, there = hub.load(workdir, checkpoint), hub.load("memory://runs/one", checkpoint)
    assert equal(here, there) and there.origin == here.origin.replace(str(workdir), "memory://runs/one")
    assert hub.steps_of("memory://runs/one") == hub.steps_of(workdir)


def test_a_run_behind_a_url_is_exported_and_answers(workdir, store, tmp_path):
    (workdir / "command.txt").write_text("python -m roberta_jax.main --config=configs/tiny.py --workdir=memory://run\n")
    store.put(f"{workdir}/", "/run/", recursive=True)
    for source, out in ((workdir, "here"), ("memory://run", "there")):
        hub.export(source, tmp_path / out)
    for path in sorted((tmp_path / "here").iterdir()):
        if path.name != "README.md":
            assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name
    assert "--workdir=memory://run" in (tmp_path / "there" / "README.md").read_text()
    store.put(f"{tmp_path / 'here'}/", "/exported/", recursive=True)
    texts = ["A text of some words.", "Another."]
    wanted = inference.load(workdir).embed(texts)
    for source in ("memory://run", "memory://exported"):
        np.testing.assert_array_equal(inference.load(source).embed(texts), wanted)


def test_only_what_is_new_is_copied_and_old_checkpoints_go(workdir, store, monkeypatch):
    store.put(f"{workdir}/", "/run/", recursive=True)
    hub.load("memory://run", "1")
    copied, whole = [], storage.download
    monkeypatch.setattr(storage, "download", lambda path, to, *more: (copied.append(path), whole(path, to, *more)))
    hub.load("memory://run", "1")
    assert not copied
    hub.load("memory://run")
    assert copied and all("/checkpoints/3/" in path for path in copied)
    (folder,) = storage.CACHE.glob("copy-*/")
    assert storage.names(folder / "checkpoints") == {"3"}


def test_what_is_gone_there_is_gone_here(workdir, store):
    """A run that was begun anew in the same place is not read with the old one's files."""
    store.put(f"{workdir}/", "/run/", recursive=True)
    store.pipe("/run/task.json", b"{}")
    store.pipe("/run/tokenizer/wordpiece.txt", b"a")
    with remote.copied("memory://run") as (folder, _):
        pass
    assert {"task.json", "checkpoints"} <= storage.names(folder) and "wordpiece.txt" in storage.names(folder / "tokenizer")
    for name in ("task.json", "tokenizer/wordpiece.txt", "checkpoints"):
        store.rm(f"/run/{name}", recursive=True)
    with remote.copied("memory://run"):
        pass
    assert not {"task.json", "checkpoints"} & storage.names(folder)
    assert storage.names(folder / "tokenizer") == storage.names(workdir / "tokenizer")


def test_a_copy_stays_until_it_is_read(workdir, store, monkeypatch):
    """Another process asks for another checkpoint meanwhile, for which this one would go."""
    store.put(f"{workdir}/", "/run/", recursive=True)
    read, busy = reading.read_params, []

    def read_beside_another(*arguments):
        with open(next(storage.CACHE.glob("copy-*.lock"))) as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return read(*arguments)
        busy.append(True)
        return read(*arguments)

    monkeypatch.setattr(reading, "read_params", read_beside_another)
    hub.load("memory://run", "1")
    assert busy


def test_a_checkpoint_that_a_store_was_not_given_whole_is_none(workdir, store):
    store.put(f"{workdir}/", "/run/", recursive=True)
    store.rm(f"/run/checkpoints/3/{remote.COMMITTED}")
    assert hub.steps_of("memory://run") == [1, 2] and hub.load("memory://run").origin == "memory://run, step 2"


def test_a_checkpoint_that_goes_while_it_is_copied_is_a_sentence(workdir, store, monkeypatch):
    store.put(f"{workdir}/", "/run/", recursive=True)
    whole = storage.download

    def download(path, to, *more):
        if "/checkpoints/" in path and store.exists("/run/checkpoints/3"):
            store.rm("/run/checkpoints/3", recursive=True)  # as a run in training does
        whole(path, to, *more)

    monkeypatch.setattr(storage, "download", download)
    with pytest.raises(UserError, match="checkpoints/3/.* has gone while it was to be copied; run the command again"):
        hub.load("memory://run", "3")


FAULTS = {
    "nothing": "no such folder",
    "no such checkpoint": "checkpoint is '4'; .* has newest, best, 1, 2, 3",
    "other things": "is no model",
    "damage": "memory://run/checkpoints/3 is not a whole checkpoint",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_a_sentence(workdir, store, fault):
    if fault != "nothing":
        store.put(f"{workdir}/", "/run/", recursive=True)
    if fault == "other things":
        store.rm("/run/checkpoints", recursive=True)
        store.rm("/run/config.json")
    if fault == "damage":
        for path in store.find("/run/checkpoints/3"):
            if "/d/" in path:
                content = bytearray(store.cat(path))
                content[len(content) // 2] ^= 1
                store.pipe(path, bytes(content))
    with pytest.raises(UserError, match=FAULTS[fault]):
        hub.load("memory://run", "4" if fault == "no such checkpoint" else "newest")
