"""What cannot be read is left out, counted and named where data.bad_records says so."""

import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from roberta_jax.data.corpus import report
from roberta_jax.errors import UserError
from roberta_jax.preparation import documents as D
from roberta_jax.preparation import prepare
from roberta_jax.preparation.config import CorpusConfig, ReaderConfig
from roberta_jax.preparation.documents import Counts, read, resolve

SKIP = ReaderConfig(bad_records="skip")


def skipped(path, tmp_path) -> tuple[list[str], Counts]:
    """The documents, and what was counted; with the default the same file is an error of the same words."""
    counts = Counts()
    pieces = [piece for shard in resolve([str(path)], SKIP, tmp_path, 1) for piece in shard]
    texts = [text for piece in pieces for text in read(piece, SKIP, counts)]
    with pytest.raises(UserError) as raised:
        for piece in (piece for shard in resolve([str(path)], ReaderConfig(), tmp_path, 1) for piece in shard):
            list(read(piece, ReaderConfig(), Counts()))
    assert str(raised.value) == counts.first_bad[0]
    return texts, counts


def test_broken_lines_and_lines_without_the_column(tmp_path):
    bad = ["not JSON", '{"body": "x"}', '["text"]', '{"text": 5}', "[" * 100_000, '{"text": "cut off']
    lines = [json.dumps({"text": f"good {i}"}) for i in range(20)]
    for i, line in enumerate(bad):
        lines.insert(3 * i, line)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    texts, counts = skipped(tmp_path / "a.jsonl", tmp_path)
    assert texts == [f"good {i}" for i in range(20)]
    assert counts.bad_records == len(bad) and counts.documents == 20 and counts.empty == 0
    assert [message.partition(": ")[0].rpartition(" ")[2] for message in counts.first_bad] == ["1", "4", "7", "10", "13"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_file_gives_what_stands_before(tmp_path, ending):
    texts = [str(random.Random(i).random()) * 50 for i in range(5_000)]
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    data = gzip.compress(data) if ending == ".gz" else pyarrow.compress(data, "zstd", asbytes=True)
    (tmp_path / f"a.jsonl{ending}").write_bytes(data[: len(data) // 2])
    found, counts = skipped(tmp_path / f"a.jsonl{ending}", tmp_path)
    assert found == texts[: len(found)] and 0 < len(found) < len(texts) and counts.bad_records == 1


def test_a_damaged_row_group_is_left_out_alone(tmp_path):
    texts = [f"{i} " + str(random.Random(i).random()) * 50 for i in range(900)]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), path, row_group_size=300, compression="none", use_dictionary=False
    )
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    with open(path, "r+b") as file:
        file.seek(group.data_page_offset)
        file.write(b"\xff" * 40)  # the head of the page
    found, counts = skipped(path, tmp_path)
    assert found == texts[:300] + texts[600:] and counts.bad_records == 1
    assert "row group 1 cannot be read" in counts.first_bad[0]


def test_a_parquet_file_that_is_none_and_one_without_the_column(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not at all PAR1")
    texts, counts = skipped(tmp_path / "a.parquet", tmp_path)
    assert texts == [] and counts.bad_records == 1
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "b.parquet")
    texts, counts = skipped(tmp_path / "b.parquet", tmp_path)
    assert texts == [] and "no column 'text'" in counts.first_bad[0]


def test_the_manifest_and_the_report_say_how_many_and_which(documents, small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(D, "SMALLEST_SHARD", 20_000)
    lines = [json.dumps({"text": text}) for text in documents]
    for i in range(8):
        lines.insert(i * 60, f"broken {i}")
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    fields = {"tokenizer": str(small_corpus.folder / "tokenizer"), "length": 64, "valid_fraction": 0.1, "bad_records": "skip"}
    source = (str(tmp_path / "a.jsonl"),)
    manifests = [
        prepare.prepare(CorpusConfig(source, **fields), tmp_path / f"{n}", tmp_path / "cache", n).manifest for n in (1, 2)
    ]
    assert manifests[0] == manifests[1] and len(manifests[0]["shards"]) > 10
    assert manifests[0]["bad_records"] == 8 and len(manifests[0]["first_bad_records"]) == 5
    assert "skipped: 8 bad records" in report(manifests[0]) and "a.jsonl, line 1: not a JSON object" in report(manifests[0])
    near = prepare.prepare(
        CorpusConfig(source, **fields, deduplicate="near"), tmp_path / "near", tmp_path / "cache", 2
    ).manifest
    assert near["bad_records"] == 8  # read twice, counted once


def test_a_source_with_nothing_good_is_refused(small_corpus, tmp_path):
    (tmp_path / "a.jsonl").write_text("no\nno\n")
    recipe = CorpusConfig((str(tmp_path / "a.jsonl"),), str(small_corpus.folder / "tokenizer"), bad_records="skip")
    with pytest.raises(UserError, match=r"no document with any text in it left \(bad_records: 2\)"):
        prepare.prepare(recipe, tmp_path / "out", tmp_path / "cache", 1)
