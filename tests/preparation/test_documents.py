"""Every kind of source gives its documents, however it is compressed or cut; what cannot be read is named."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from roberta_jax.errors import UserError
from roberta_jax.preparation import documents as D
from roberta_jax.preparation.config import CorpusConfig, ReaderConfig
from roberta_jax.preparation.docstrings import collect_docstrings
from roberta_jax.preparation.documents import Counts, read, resolve
from roberta_jax.preparation.prepare import prepare

TEXTS = ["The first document.\nIt has two lines.", "中文文档。", "हिन्दी दस्तावेज़।", "A fourth one,  with spaces", "العربية؟"]


def everything(sources, tmp_path, reading=None, counts=None, processes=1) -> list[str]:
    """All documents of the sources."""
    reading = reading or ReaderConfig()
    sources = [str(source) for source in sources]
    counts = counts or Counts()
    shards = resolve(sources, reading, tmp_path / "cache", processes)
    return [text for pieces in shards for piece in pieces for text in read(piece, reading, counts)]


def content(kind: str, texts: list[str], folder) -> bytes:
    if kind == "txt":
        return "\n\n".join(texts).encode()
    if kind == "jsonl":
        return "".join(
            json.dumps({"id": 1, "text": text}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(texts)
        ).encode()
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), folder / "parquet", row_group_size=2)
    return (folder / "parquet").read_bytes()


def compressed(data: bytes, ending: str, parts: int) -> bytes:
    """As one gzip member or zstd frame, or several in a row."""
    cuts = [len(data) * i // parts for i in range(parts + 1)]
    compress = {"": bytes, ".gz": gzip.compress, ".zst": lambda part: pyarrow.compress(part, "zstd", asbytes=True)}[ending]
    return b"".join(compress(data[start:stop]) for start, stop in zip(cuts, cuts[1:]))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_every_kind_and_compression(tmp_path, kind, ending, parts):
    path = tmp_path / f"text.{kind}{ending}"
    path.write_bytes(compressed(content(kind, TEXTS, tmp_path), ending, parts))
    counts = Counts()
    assert everything([path], tmp_path, counts=counts) == TEXTS
    assert counts == Counts(documents=5)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_document_a_file(tmp_path, ending):
    for number, text in enumerate(["One.\n\nStill one.\n", "Two.", "\n \n"]):
        (tmp_path / f"{number}.txt{ending}").write_bytes(compressed(text.encode(), ending, 2))
    counts = Counts()
    assert everything([tmp_path], tmp_path, ReaderConfig(documents="file"), counts) == ["One.\n\nStill one.", "Two."]
    assert (counts.documents, counts.empty) == (2, 1)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("smallest", [1 << 20, 1, 30])
def test_a_document_a_line(tmp_path, monkeypatch, ending, end, smallest):
    monkeypatch.setattr(D, "SMALLEST_SHARD", smallest)
    monkeypatch.setattr(D, "MOST_SHARDS", 1 << 20)
    monkeypatch.setattr(D, "LONGEST_DOCUMENT", 200)
    texts = [text.replace("\n", " ") for text in TEXTS]
    lines = [*texts, "", "  ", *texts, "word " * 70, "last"]
    (tmp_path / f"a.txt{ending}").write_bytes(compressed(end.join(lines).encode(), ending, 1))
    counts = Counts()
    read = everything([tmp_path / f"a.txt{ending}"], tmp_path, ReaderConfig(documents="line"), counts)
    assert read[:10] == 2 * texts and read[-1] == "last" and len(read) == 13
    assert " ".join(read[10:12]).split() == ["word"] * 70 and counts.cut_long == 1 and counts.empty == 0


def test_lines_are_deduplicated_and_held_out_as_documents_are(documents, small_corpus, tmp_path):
    texts = [text.replace("\n", " ") for text in documents[:200]]
    for name, text in (("lines", "\n".join(texts + texts[:50])), ("blank", "\n\n".join(texts))):
        (tmp_path / f"{name}.txt").write_text(text)
    made = []
    for name, more in (("lines", {"documents": "line", "deduplicate": "exact"}), ("blank", {})):
        vocabulary = str(small_corpus.folder / "tokenizer")
        config = CorpusConfig((f"{tmp_path}/{name}.txt",), vocabulary, length=64, valid_fraction=0.1, **more)
        made.append(prepare(config, tmp_path / name, tmp_path / "cache", processes=1))
    assert made[0].manifest["dropped"]["exact_duplicates"] == 50
    for split in ("train", "valid"):
        rows = [getattr(corpus, split) for corpus in made]
        assert len(rows[0]) == len(rows[1]) and (rows[0].gather(range_of(rows[0])) == rows[1].gather(range_of(rows[0]))).all()


def range_of(rows) -> np.ndarray:
    return np.arange(len(rows))


@pytest.mark.parametrize("format", ["full-sentences", "single-sentences-packed"])
def test_bytes_are_those_that_tokens_stand_for(documents, small_corpus, tmp_path, format):
    """So that bits a byte are the same however much white space surrounds a text, and of dropped ones none counts."""
    tokenizer, made = small_corpus.tokenizer, []
    for name, pad in (("plain", ""), ("padded", " \n" * 500)):
        texts = [f"{pad}{text}\u3000{pad}" for text in documents[:120]] + [pad + documents[0], pad]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        config = CorpusConfig((f"{tmp_path}/{name}.jsonl",), str(small_corpus.folder / "tokenizer"), length=64,
                              format=format, valid_fraction=0.2, deduplicate="exact")  # fmt: skip
        made.append(prepare(config, tmp_path / name, tmp_path / "cache", processes=1))
    assert made[0].manifest["bytes"] == made[1].manifest["bytes"]
    rows = np.concatenate([rows.gather(range_of(rows)) for rows in (made[1].train, made[1].valid)])
    assert made[1].manifest["bytes"] == len(tokenizer.decode_bytes(rows[rows > tokenizer.unk]))


def test_blank_lines_part_documents_whatever_the_white_space(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\n\n\nOne.\r\n\r\n\r\nTwo\nlines.\n \t\nThree.\n\n\n")
    assert everything([tmp_path / "a.txt"], tmp_path) == ["One.", "Two\nlines.", "Three."]


def test_folders_globs_and_several_sources(tmp_path):
    for name in ("b/one.txt", "b/c/two.jsonl", "b/notes.md", "d/three.txt", "d/four.txt.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"text": name}).encode() if "jsonl" in name else name.encode()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert everything([tmp_path / "b"], tmp_path) == ["b/c/two.jsonl", "b/one.txt"]
    assert everything([tmp_path / "*" / "t*.txt"], tmp_path) == ["d/three.txt"]
    assert everything([tmp_path / "**" / "*.txt*"], tmp_path) == ["b/one.txt", "d/four.txt.gz", "d/three.txt"]
    assert everything([tmp_path / "d" / "three.txt", tmp_path / "b"], tmp_path) == ["d/three.txt", "b/c/two.jsonl", "b/one.txt"]


def test_another_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "no", "body": "yes"}\n\n{"body": "again"}\n')
    assert everything([tmp_path / "a.jsonl"], tmp_path, ReaderConfig(text_column="body")) == ["yes", "again"]


def test_parquet_rows_without_text_are_counted(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, " ", "b"]}), tmp_path / "a.parquet")
    counts = Counts()
    assert everything([tmp_path / "a.parquet"], tmp_path, counts=counts) == ["a", "b"]
    assert (counts.documents, counts.empty) == (2, 2)


# Files as they come

A, B = "Ein Satz, schön.", "中文。"


def as_published(folder, name: str) -> None:
    """A file of the documents A and B, by its name."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in (A, B))
    stem, _, encoding = name.rpartition("=")
    written = {
        "txt": f"{A}\n\n{B}\n",
        "crlf.txt": f"{A}\r\n\r\n{B}\r\n",
        "jsonl": lines,
        "json": lines,
        "list.json": json.dumps([{"text": A}, {"text": B}]),
        "indented.json": json.dumps([{"text": A}, {"text": B}], indent=2),
    }
    data = written[stem.lower()].encode(encoding or "utf-8")
    path = folder / f"a.{stem.rpartition('.')[2]}"
    path.write_bytes(data)
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))


@pytest.mark.parametrize("encoding", ["", "utf-8-sig", "utf-16", "utf-16-be-mark", "utf-32"])
@pytest.mark.parametrize("kind", ["txt", "TXT", "crlf.txt", "jsonl", "JSONL", "json", "list.json", "indented.json"])
@pytest.mark.parametrize("smallest", [1 << 20, 8])
def test_every_encoding_that_a_mark_tells_of_and_every_form_of_json(tmp_path, monkeypatch, kind, encoding, smallest):
    monkeypatch.setattr(D, "SMALLEST_SHARD", smallest)
    monkeypatch.setattr(D, "MOST_SHARDS", 1 << 20)
    as_published(tmp_path, f"{kind}={encoding.removesuffix('-be-mark')}")
    for path in tmp_path.iterdir():
        if encoding == "utf-16-be-mark":
            data = (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()).decode("utf-16").encode("utf-16-be")
            path.write_bytes((gzip.compress if path.suffix == ".gz" else bytes)(b"\xfe\xff" + data))
        assert everything([path], tmp_path) == [A, B], path
    assert everything([tmp_path], tmp_path) == [A, B] * 2


def test_a_file_that_is_not_what_its_mark_says_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("text".encode("utf-16") + b"\x00")
    with pytest.raises(UserError, match=r"a\.txt: its byte order mark says utf-16.*truncated data"):
        everything([tmp_path / "a.txt"], tmp_path)


def test_the_cases_of_others(cases, tmp_path, capsys):
    for name, texts in (("bom.txt", None), ("bom.jsonl", None), ("u16.txt", None)):
        texts = everything([cases / "data" / name], tmp_path)
        assert texts and not any(set(text) & set("\ufeff\0\ufffd") for text in texts), name
    capsys.readouterr()
    texts = everything([cases / "data" / "hidden"], tmp_path)
    assert len(texts) == 3 and "text in capitals of the name." in texts and "text of a." in texts
    assert "1 passed over: 1 (hidden; the first is" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"list\.parquet: the column 'text' .*is of type list<.*>; expected texts"):
        everything([cases / "data" / "list.parquet"], tmp_path)
    with pytest.raises(UserError, match=r"zero_bytes\.txt\.gz: no byte in it"):
        everything([cases / "data" / "zero_bytes.txt.gz"], tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_null_is_an_empty_document(tmp_path, kind):
    records, counts = [{"text": None}, {"text": "a"}], Counts()
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    else:
        (tmp_path / f"a.{kind}").write_text("\n".join(map(json.dumps, records)))
    assert everything([tmp_path / f"a.{kind}"], tmp_path, counts=counts) == ["a"] and counts.empty == 1


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet", "json"])
def test_a_download_that_never_began_is_a_bad_record(tmp_path, kind, ending):
    (tmp_path / f"a.{kind}{ending}").touch()
    (tmp_path / "b.txt").write_text("text")
    counts = Counts()
    assert everything([tmp_path], tmp_path, ReaderConfig(bad_records="skip"), counts) == ["text"]
    if kind == "parquet":  # noticed where its pieces are found
        with pytest.raises(UserError, match=rf"a\.{kind}{ending}: not a readable Parquet file"):
            everything([tmp_path], tmp_path)
    else:
        assert counts.bad_records == 1 and "no byte in it" in counts.first_bad[0]


def test_a_window_longer_than_can_be_read_is_said(tmp_path):
    if not shutil.which("zstd"):
        pytest.skip("there is no zstd command here")
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(200 << 20)  # a hole, so that a window of 2 GiB is asked for
    subprocess.run(["zstd", "-q", "--long=31", "-1", "a.txt", "-o", "b.txt.zst"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match=r"b\.txt\.zst: compressed with a window of more than 128 MiB.*zstd -dc --long=31"):
        everything([tmp_path / "b.txt.zst"], tmp_path)


@pytest.mark.parametrize(
    "kind, texts",
    [
        (pyarrow.string(), True),
        (pyarrow.large_string(), True),
        (pyarrow.binary(), True),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), True),
        (pyarrow.list_(pyarrow.string()), False),
        (pyarrow.struct([("body", pyarrow.string())]), False),
        (pyarrow.int64(), False),
    ],
)
def test_a_parquet_column_of_each_type(tmp_path, kind, texts):
    values = {"list<element: string>": [["a"]], "struct": [{"body": "a"}], "int64": [3]}
    value = next((value for name, value in values.items() if str(kind).startswith(name[:4])), ["a"])
    array = pyarrow.array(value).dictionary_encode() if pyarrow.types.is_dictionary(kind) else pyarrow.array(value, kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), tmp_path / "a.parquet")
    if texts:
        assert everything([tmp_path / "a.parquet"], tmp_path) == ["a"]
    else:
        with pytest.raises(UserError, match=rf"a\.parquet: the column 'text' \(data\.text_column\) is of type {str(kind)[:4]}"):
            everything([tmp_path / "a.parquet"], tmp_path)


def test_what_is_passed_over_is_counted_and_the_first_is_named(tmp_path, capsys):
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("a.txt", "notes.md", "z.csv", ".DS_Store", "vocab.json", "settings.json"):
        (folder / name).write_text('{"text": 17}' if name.startswith("vocab") else "{}" if "json" in name else "text")
    (folder / "gone.txt").symlink_to("nothing")
    for source in (folder, tmp_path / "tex*"):
        assert everything([source], tmp_path) == ["text"]
        said = capsys.readouterr().out
        assert "6 passed over: 2 (JSON without 'text'; the first is" in said and "settings.json)" in said
        assert "2 (of a kind that is not known; the first is" in said and "notes.md)" in said
        assert "1 (a link that leads nowhere; the first is" in said and "1 (hidden; the first is" in said
    with pytest.raises(UserError, match=r"gone\.txt: no such file.*a link that leads nowhere"):
        everything([folder / "gone.txt"], tmp_path)
    with pytest.raises(UserError, match=r"settings\.json.*: no text in a column 'text'"):
        everything([folder / "settings.json"], tmp_path)


def test_nothing_is_said_where_all_is_read(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    everything([tmp_path], tmp_path)
    assert capsys.readouterr().out == ""


def test_a_file_whose_name_is_not_utf8_is_prepared(documents, small_corpus, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9, 1.txt")
    Path(name).write_text("\n\n".join(documents[:100]))
    config = CorpusConfig((name,), str(small_corpus.folder / "tokenizer"), length=64, valid_fraction=0.1, deduplicate="exact")
    made = prepare(config, tmp_path / "corpus", tmp_path / "cache", processes=1)
    assert made.manifest["documents"] > 90


# Cutting


def random_text(chooser: random.Random) -> bytes:
    pieces = ["word", "Ein Satz.", "中文", "é", "\n", "\n\n", "\n \n", "\n\n\n", "\r\n\r\n", " "]
    return "".join(chooser.choices(pieces, k=chooser.randint(0, 300))).encode()


@pytest.mark.parametrize("seed", range(30))
def test_a_file_cut_anywhere_gives_the_same_documents(tmp_path, monkeypatch, seed):
    chooser = random.Random(seed)
    (tmp_path / "a.txt").write_bytes(random_text(chooser) + b"end")
    lines = [json.dumps({"text": text}) for text in TEXTS * chooser.randint(1, 9)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n" * chooser.randint(0, 2))
    pyarrow.parquet.write_table(
        pyarrow.table({"text": TEXTS * 5}), tmp_path / "c.parquet", row_group_size=chooser.randint(1, 9)
    )
    sources = [tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")]
    whole = everything(sources, tmp_path)
    for _ in range(10):
        monkeypatch.setattr(D, "SMALLEST_SHARD", chooser.randint(1, 400))
        monkeypatch.setattr(D, "MOST_SHARDS", 1 << 20)
        assert everything(sources, tmp_path) == whole
    monkeypatch.setattr(D, "SMALLEST_SHARD", 1)
    assert sum(map(len, resolve([str(sources[1])], ReaderConfig(), tmp_path, 1))) >= len(lines)


@pytest.mark.parametrize("blank", ["\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("offset", range(-5, 6))
def test_a_blank_line_where_two_blocks_that_are_searched_meet(tmp_path, monkeypatch, offset, blank):
    texts = ["a" * (100 + (1 << 16) + offset), "b" * 200, "c"]
    (tmp_path / "a.txt").write_bytes(blank.join(texts).encode())
    monkeypatch.setattr(D, "SMALLEST_SHARD", 100)
    monkeypatch.setattr(D, "MOST_SHARDS", 1 << 20)
    shards = resolve([str(tmp_path / "a.txt")], ReaderConfig(), tmp_path, 1)
    assert len(shards) == 3
    assert everything([tmp_path / "a.txt"], tmp_path) == texts


def test_pieces_are_about_as_large_as_asked_and_a_large_source_has_few(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("\n\n".join("x" * 98 for _ in range(1000)))
    monkeypatch.setattr(D, "SMALLEST_SHARD", 1_000)
    monkeypatch.setattr(D, "MOST_SHARDS", 20)
    assert 18 <= len(resolve([str(tmp_path / "a.txt")], ReaderConfig(), tmp_path, 1)) <= 22
    monkeypatch.setattr(D, "LARGEST_SHARD", 2_000)  # a still larger one has more: no worker gets more than that
    shards = resolve([str(tmp_path / "a.txt")], ReaderConfig(), tmp_path, 1)
    assert 45 <= len(shards) <= 55 and max(sum(piece.size for piece in pieces) for pieces in shards) <= 2_500


def test_a_document_too_long_for_the_memory_goes_on_as_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(D, "LONGEST_DOCUMENT", 50)
    text = "".join(random.Random(0).choices("aé中😀", k=1_000))
    (tmp_path / "a.txt").write_text(f"short\n\n{text}\n\nshort again")
    counts = Counts()
    found = everything([tmp_path / "a.txt"], tmp_path, counts=counts)
    assert found[0] == "short" and found[-1] == "short again" and "".join(found[1:-1]) == text
    assert counts.invalid_utf8 == 0 and counts.cut_long == len(found) - 3
    assert max(len(piece.encode()) for piece in found) <= 100


def test_a_long_document_of_no_characters_at_all_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr(D, "LONGEST_DOCUMENT", 50)
    (tmp_path / "a.txt").write_bytes(b"\x80" * 500)
    assert "".join(everything([tmp_path / "a.txt"], tmp_path)) == "\ufffd" * 500


# The docstrings


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A standard library and one package, whose modules leave a mark where they are imported."""
    library, packages = tmp_path / "lib", tmp_path / "lib" / "site-packages"
    mark = f"open({str(tmp_path / 'imported')!r}, 'w')\n"
    documented = f'"""A package."""\n{mark}class C:\n    """A class."""\n    async def h(self):\n        """Späte Méthode."""\n'
    files = {
        library / "module.py": f'"""A module."""\n{mark}def f():\n    """A function."""\n    def g():\n        """Inside."""\n',
        library / "plain.py": mark + "x = 1\n",
        library / "tests" / "test_it.py": '"""A test."""\n',
        packages / "package" / "__init__.py": documented,
        packages / "package" / "template.py": '"""Not Python."""\n{{ name }} = \n',
        packages / "package" / "data.txt": '"""Not a module."""',
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (packages / "package" / "nowhere.py").symlink_to(tmp_path / "is_not_there.py")
    monkeypatch.setattr(
        sysconfig, "get_paths", lambda: {"stdlib": str(library), "purelib": str(packages), "platlib": str(packages)}
    )
    return packages


def test_docstrings_are_read_and_no_module_is_imported(installed, tmp_path):
    found = everything(["docs"], tmp_path, processes=2)
    assert found == ["A module.\n\nA function.\n\nInside.", "A package.\n\nA class.\n\nSpäte Méthode."]
    assert not (tmp_path / "imported").exists()


def test_docstrings_are_collected_again_only_where_packages_changed(installed, tmp_path):
    first = collect_docstrings(tmp_path / "cache", 1)
    time = first.stat().st_mtime_ns
    assert collect_docstrings(tmp_path / "cache", 1) == first and first.stat().st_mtime_ns == time
    (installed / "new.py").write_text('"""New."""')
    second = collect_docstrings(tmp_path / "cache", 1)
    assert second != first and "New." in second.read_text()
    assert sorted(path.name for path in (tmp_path / "cache").glob("docs-*.jsonl")) == sorted([first.name, second.name])


def test_two_first_starts_at_once_collect_docstrings_once(installed, tmp_path):
    """The file would have two times, and be two texts."""
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda _: (path := collect_docstrings(tmp_path, 1), path.stat().st_mtime_ns), range(2))
    assert len(set(found)) == 1


# TensorFlow Datasets


@pytest.fixture(scope="module")
def tfds_texts():
    """A data set as TFDS keeps it, under the TFDS_DATA_DIR of these tests; no other process knows its class."""
    import numpy as np
    import tensorflow_datasets as tfds

    texts = [f"Document {i} of a data set. It has two sentences." for i in range(200)]

    class RobertaJaxTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "number": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 180), "test": self._generate_examples(180, 200)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"text": texts[i], "number": i}

    RobertaJaxTexts().download_and_prepare()
    return texts


@pytest.mark.parametrize("smallest", [1 << 20, 2_000])
def test_a_data_set_of_tfds(tfds_texts, tmp_path, monkeypatch, smallest):
    monkeypatch.setattr(D, "SMALLEST_SHARD", smallest)
    assert sorted(everything(["tfds:roberta_jax_texts"], tmp_path)) == sorted(tfds_texts[:180])
    assert sorted(everything(["tfds:roberta_jax_texts:test"], tmp_path)) == sorted(tfds_texts[180:])
    assert len(resolve(["tfds:roberta_jax_texts"], ReaderConfig(), tmp_path, 1)) > (1 if smallest == 2_000 else 0)


def test_a_version_is_part_of_the_name_of_a_data_set_of_tfds(tfds_texts, tmp_path):
    for split, expected in (("", tfds_texts[:180]), (":train", tfds_texts[:180]), (":test", tfds_texts[180:])):
        assert sorted(everything([f"tfds:roberta_jax_texts:1.0.0{split}"], tmp_path)) == sorted(expected)


def test_a_data_set_of_tfds_has_no_more_shards_than_can_be_opened(tfds_texts, tmp_path, monkeypatch):
    """One that had fewer keeps them."""
    monkeypatch.setattr(D, "SMALLEST_SHARD", 500)
    monkeypatch.setattr(D, "MOST_SHARDS", 4)
    before = len(resolve(["tfds:roberta_jax_texts"], ReaderConfig(), tmp_path, 1))
    monkeypatch.setattr(D, "MOST_OPENED", before // 2)
    assert before > 8 and 4 <= len(resolve(["tfds:roberta_jax_texts"], ReaderConfig(), tmp_path, 1)) <= 6


def test_processes_that_do_not_know_a_data_set_find_it_by_its_name(tfds_texts, small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(D, "SMALLEST_SHARD", 5_000)
    recipe = CorpusConfig(("tfds:roberta_jax_texts",), str(small_corpus.folder / "tokenizer"), length=64, valid_fraction=0.1)
    corpus = prepare(recipe, tmp_path / "corpus", tmp_path / "cache", processes=2)
    assert corpus.manifest["documents"] == 180 and len(corpus.manifest["shards"]) >= 5


def test_what_tfds_cannot_give_is_named(tfds_texts, tmp_path):
    for source, said in (
        ("tfds:roberta_jax_texts:dev", "'dev'.*train, test"),
        ("tfds:roberta_jax_texts:1.0.0:dev", "'dev'.*train, test"),
        ("tfds:roberta_jax_texts:train[:10%]", "train, test"),
        ("tfds:there_is_no_such_thing", "tfds:there_is_no_such_thing.*not found"),
    ):
        with pytest.raises(UserError, match=said):
            everything([source], tmp_path)
    with pytest.raises(UserError, match="tfds:roberta_jax_texts:train: no text in a feature 'number'.*'number', 'text'"):
        everything(["tfds:roberta_jax_texts"], tmp_path, ReaderConfig(text_column="number"))


# Errors


def test_a_path_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "nothing.txt", tmp_path / "nothing" / "*.txt"):
        with pytest.raises(UserError, match=r"nothing.*: no such file, folder or glob \(data\.source\)"):
            everything([path], tmp_path)


def test_a_corpus_that_was_prepared_below_its_source_is_no_text_of_it(tmp_path, small_corpus):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("Some text.")
    alone = resolve([str(tmp_path / "text")], ReaderConfig(), tmp_path, 1)
    shutil.copytree(small_corpus.folder, tmp_path / "text" / "below" / "corpus")
    (tmp_path / "text" / "begun.0.partial" / "work").mkdir(parents=True)
    (tmp_path / "text" / "begun.0.partial" / "work" / "plan.json").write_text("{}")
    shutil.copytree(small_corpus.folder / "tokenizer", tmp_path / "text" / "begun.0.partial" / "tokenizer")
    assert resolve([str(tmp_path / "text")], ReaderConfig(), tmp_path, 1) == alone
    assert len(sum(resolve([f"file://{tmp_path}/text"], ReaderConfig(), tmp_path, 1), [])) == 1
    with pytest.raises(UserError, match=r"corpus holds a prepared corpus and no text \(data\.source\)"):
        resolve([str(tmp_path / "text" / "below" / "corpus")], ReaderConfig(), tmp_path, 1)
    shutil.copytree(small_corpus.folder / "tokenizer", tmp_path / "text" / "a vocabulary that is text")
    assert len(sum(resolve([str(tmp_path / "text")], ReaderConfig(), tmp_path, 1), [])) == 2


def test_a_folder_without_text_and_a_file_of_another_kind_are_named(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{tmp_path}: no file ending in \.txt"):
        everything([tmp_path], tmp_path)
    with pytest.raises(UserError, match=r"picture\.png: the kind of file is not known"):
        everything([tmp_path / "picture.png"], tmp_path)


def test_no_source_and_an_empty_file_are_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match="data.source is empty"):
        everything([], tmp_path)
    with pytest.raises(UserError, match=r"empty\.txt holds no text at all"):
        everything([tmp_path / "empty.txt"], tmp_path)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_bytes_that_are_not_utf8(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        texts = pyarrow.array([b"good", b"b\xffd", b"good too"]).view(pyarrow.string())
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        between = b"\n\n" if kind == "txt" else b'"}\n{"text": "'
        inside = between.join([b"good", b"b\xffd", b"good too"])
        path.write_bytes(inside if kind == "txt" else b'{"text": "' + inside + b'"}')
    counts = Counts()
    assert everything([path], tmp_path, counts=counts) == ["good", "b\ufffdd", "good too"]
    assert counts.invalid_utf8 == 1
    with pytest.raises(UserError, match=rf"a\.{kind}: bytes that are not UTF-8, at b'b\\xffd.*data\.invalid_utf8"):
        everything([path], tmp_path, ReaderConfig(invalid_utf8="error"))


def test_a_surrogate_that_stands_alone_in_json_counts_as_not_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83d\\ude00"}\n')
    counts = Counts()
    assert everything([tmp_path / "a.jsonl"], tmp_path, counts=counts)[1] == "😀"
    assert counts.invalid_utf8 == 1


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_file_is_named(tmp_path, kind, ending):
    data = compressed(content(kind, [str(random.Random(i).random()) for i in range(5_000)], tmp_path), ending, 1)
    (tmp_path / f"a.{kind}{ending}").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"a\.{kind}{ending}: .*(truncated|not a readable Parquet file)"):
        everything([tmp_path / f"a.{kind}{ending}"], tmp_path)


def test_a_damaged_parquet_file_and_one_without_the_column_are_named(tmp_path):
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 not at all PAR1")
    with pytest.raises(UserError, match=r"damaged\.parquet: not a readable Parquet file"):
        everything([tmp_path / "damaged.parquet"], tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no column 'text' \(data\.text_column\); it has 'id', 'body'"):
        everything([tmp_path / "a.parquet"], tmp_path)


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"body": "x", "id": 3}', r"no text in a column 'text' \(data\.text_column\); it has 'body', 'id'"),
        ('{"text": 5}', "no text in a column 'text'"),
        ('["text"]', "no text in a column 'text'.*it has list"),
        ('{"text": "x"', "not a JSON object"),
    ],
)
def test_a_jsonl_line_without_the_column_is_named(tmp_path, monkeypatch, line, said):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' * 3 + line + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl, line 4: {said}"):
        everything([tmp_path / "a.jsonl"], tmp_path)
    monkeypatch.setattr(D, "SMALLEST_SHARD", 30)  # a piece of the file does not know how many lines stand before it
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2 after byte 34: {said}"):
        everything([tmp_path / "a.jsonl"], tmp_path)


def test_reading_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match="data.documents is 'word'; it can be 'blank-line' or 'line' or 'file'"):
        ReaderConfig(documents="word")
    with pytest.raises(UserError, match="data.invalid_utf8 is 'ignore'; it can be 'replace' or 'error'"):
        ReaderConfig(invalid_utf8="ignore")
