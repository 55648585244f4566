"""On Apache Beam the same corpus comes out as from processes of one machine: the same manifest, the same hashes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest

try:
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError:
    if os.environ.get("ROBERTA_REQUIRE_ASSETS") == "1":
        raise
    pytest.skip("Apache Beam is not installed (pip install -e '.[beam]')", allow_module_level=True)

from roberta_jax import prepare as prepare_command
from roberta_jax.data.corpus import Corpus
from roberta_jax.errors import UserError
from roberta_jax.preparation import beam, plan, prepare
from roberta_jax.preparation import documents as D
from roberta_jax.preparation.config import CorpusConfig

ROOT = Path(__file__).parents[2]


def on_beam(*flags: str):
    return partial(beam.run, PipelineOptions(list(flags)))


def both(a_recipe: CorpusConfig, folder: Path, *flags) -> dict:
    """The manifest that processes and Beam make alike."""
    here = prepare.make(a_recipe, folder / "here", folder / "cache", 2)
    there = prepare.make(a_recipe, folder / "there", folder / "cache", 1, on_beam(*flags))
    for name in ("manifest.json", "dropped.jsonl"):
        one, two = Path(here, name), Path(there, name)
        assert one.exists() == two.exists() and (not one.exists() or one.read_text() == two.read_text())
    assert sorted(os.listdir(here)) == sorted(os.listdir(there))
    return Corpus(there).manifest  # whose hashes it has verified


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(D, "SMALLEST_SHARD", 100_000)
    monkeypatch.setattr(plan, "PARTITION_BYTES", 300_000)


def test_beam_and_processes_agree_on_a_real_text(assets, tmp_path):
    speeches = (assets / "text" / "tinyshakespeare.txt").read_text().split("\n\n")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("\n\n".join(speeches))
    (tmp_path / "text" / "b.txt").write_text("\n\n".join(random.Random(0).sample(speeches, 500)))
    (tmp_path / "eval.txt").write_text("\n\n".join(speech for speech in speeches[::100] if len(speech.split()) > 20))
    fields = {"length": 128, "valid_fraction": 0.1, "deduplicate": "near", "exclude": (str(tmp_path / "eval.txt"),)}
    manifest = both(CorpusConfig((str(tmp_path / "text"),), str(assets / "roberta-vocab"), **fields), tmp_path)
    assert len(manifest["shards"]) > 20
    assert manifest["dropped"]["exact_duplicates"] > 400 and manifest["dropped"]["overlapping_documents"] > 20


def test_beam_and_processes_agree_on_docstrings_and_a_vocabulary_that_is_learned(tmp_path, monkeypatch):
    library = tmp_path / "library"
    for package in ("asyncio", "email", "json", "unittest", "logging"):
        shutil.copytree(Path(sysconfig.get_paths()["stdlib"], package), library / package)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: dict.fromkeys(("stdlib", "purelib", "platlib"), str(library)))
    manifest = both(CorpusConfig(("docs",), 500, length=64, valid_fraction=0.2), tmp_path)
    assert manifest["documents"] > 50 and manifest["vocabulary"] == 500


def test_beam_with_worker_processes_counts_bad_records_as_processes_do(documents, small_corpus, tmp_path):
    lines = [json.dumps({"text": text}) for text in documents]
    lines[50:50] = ["not JSON", '{"body": "no text"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    made = CorpusConfig((str(tmp_path / "a.jsonl"),), str(small_corpus.folder / "tokenizer"), length=64, bad_records="skip")
    manifest = both(made, tmp_path, "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    assert manifest["bad_records"] == 2 and "line 51: not a JSON object" in manifest["first_bad_records"][0]


def test_a_source_and_a_folder_far_away(documents, small_corpus, tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/far/text/{i}.txt": "\n\n".join(documents[i::3]).encode() for i in range(3)})
    (tmp_path / "text").mkdir()
    for i in range(3):
        (tmp_path / "text" / f"{i}.txt").write_text("\n\n".join(documents[i::3]))
    fields = {"length": 64, "valid_fraction": 0.1, "deduplicate": "near"}
    vocabulary = str(small_corpus.folder / "tokenizer")
    far = CorpusConfig(("memory://far/text",), vocabulary, **fields)
    folder = prepare.make(far, "memory://far/corpus", tmp_path / "cache", 1, on_beam())
    assert folder == prepare.make(far, "memory://far/corpus", tmp_path / "cache", 1, None)  # found, not made
    near = prepare.prepare(
        CorpusConfig((str(tmp_path / "text"),), vocabulary, **fields), tmp_path / "near", tmp_path / "cache", 1
    )
    monkeypatch.setenv("HOME", str(tmp_path))  # `~` is no folder of the working directory's
    monkeypatch.chdir(tmp_path)
    copied = prepare.prepare(CorpusConfig((folder,), vocabulary, **fields), cache=Path("~/cache"))
    assert not Path("~").exists()
    assert copied.manifest["shards"] == near.manifest["shards"] and copied.folder.parent == tmp_path / "cache"
    np.testing.assert_array_equal(copied.valid.gather(np.arange(3)), near.valid.gather(np.arange(3)))
    assert not memory.exists("/far/corpus/work")
    with pytest.raises(UserError, match="memory://far/text is not empty and holds no prepared corpus"):
        prepare.make(far, "memory://far/text", tmp_path / "cache", 1, on_beam())


KILLED = """
import os, signal, sys
from roberta_jax import prepare
from roberta_jax.preparation import documents, shards
documents.SMALLEST_SHARD = 150_000
written, write = [], shards.write_shard

def killed(*arguments):
    counts = write(*arguments)
    written.append(counts)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return counts

if "--killed" in sys.argv:
    sys.argv.remove("--killed")
    shards.write_shard = killed
prepare.main()
"""


def test_a_killed_preparation_goes_on_where_it_stopped(documents, small_corpus, tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    for number in range(6):
        texts = [f"{number} {i} {text}" for i, text in enumerate(documents)]
        (tmp_path / "text" / f"{number:02}.txt").write_text("\n\n".join(texts))
    fields = ["--tokenizer", str(small_corpus.folder / "tokenizer"), "--length=64", "--deduplicate=exact"]
    command = [
        sys.executable,
        "-c",
        KILLED,
        "--beam",
        "--source",
        str(tmp_path / "text"),
        *fields,
        "--out",
        str(tmp_path / "killed"),
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def ended(*more):
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run([*command, *more], cwd=ROOT, env=environment, timeout=120, **streams).returncode

    assert ended("--killed") == -signal.SIGKILL
    (partial,) = tmp_path.glob("killed.*.partial")
    done = [note.name[6:11] for note in partial.glob("work/shard-?????.npz")]
    rows = {path.name: path.stat().st_mtime_ns for i in done for path in partial.glob(f"*-{i}-of-*.npy")}
    assert 3 <= len(done) < len(list(partial.glob("work/sketch-?????.npz")))
    assert ended() == 0
    assert all((tmp_path / "killed" / name).stat().st_mtime_ns == time for name, time in rows.items())
    monkeypatch.setattr(D, "SMALLEST_SHARD", 150_000)
    made = CorpusConfig((str(tmp_path / "text"),), fields[1], length=64, deduplicate="exact")
    whole = prepare.make(made, tmp_path / "whole", tmp_path / "cache", 2)
    assert Path(whole, "manifest.json").read_text() == (tmp_path / "killed" / "manifest.json").read_text()


def test_faults_are_one_sentence(small_corpus, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"body": "bad"}\n')
    made = CorpusConfig((str(tmp_path / "a.jsonl"),), str(small_corpus.folder / "tokenizer"))
    for flags in ((), ("--direct_num_workers=2", "--direct_running_mode=multi_processing")):
        with pytest.raises(UserError, match=r"a\.jsonl, line 2: no text in a column 'text' .* it has 'body'\.$"):
            prepare.make(made, tmp_path / "out", tmp_path / "cache", 1, on_beam(*flags))


def test_a_flag_that_is_nearly_one_is_refused(monkeypatch):
    flags = ["--beam", "--source=docs", "--tokenizer=400", "--out=x", "--project=mine", "--parallelism=4"]
    for wrong, right in (("--lenght=64", "--length"), ("--runer=DirectRunner", "--runner")):
        monkeypatch.setattr(sys, "argv", ["prepare", *flags, wrong])
        with pytest.raises(UserError, match=f"no flag {wrong.partition('=')[0]}, .* did you mean {right}"):
            prepare_command.main()
