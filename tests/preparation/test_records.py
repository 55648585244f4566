"""Documents and tables read their files by one reader, with the same manners."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.preparation.config import ReaderConfig
from roberta_jax.preparation.documents import Counts, read, resolve
from roberta_jax.preparation.records import BYTE_ORDER_MARK, ending_of, lines
from roberta_jax.preparation.tables import read_table

TEXTS = ["The first one.", "中文", "हिन्दी"]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}


@pytest.fixture(params=["path", "url"])
def place(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "path" else f"memory://records{tmp_path}"


def content(kind: str) -> bytes:
    if kind == "parquet":
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), sink, row_group_size=2)
        return sink.getvalue().to_pybytes()
    return (
        BYTE_ORDER_MARK
        + {
            "jsonl": "".join(json.dumps({"text": text}) + "\n" for text in TEXTS),
            "txt": "\n\n".join(TEXTS),
            "tsv": "\n".join(["text", *TEXTS]),
            "csv": "\r\n".join(["text", *TEXTS]),
        }[kind].encode()
    )


def documents(path: str, tmp_path) -> list[str]:
    shards = resolve([path], ReaderConfig(), tmp_path, 1)
    return [text for pieces in shards for piece in pieces for text in read(piece, ReaderConfig(), Counts())]


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt", "tsv", "csv"])
def test_a_file_is_read_the_same_wherever_and_however_it_is_named(place, kind, compression, upper, tmp_path):
    """With a byte order mark, which is no text."""
    name = f"a.{kind}{compression}"
    path = f"{place}/{name.upper() if upper else name}"
    with storage.written(path) as partial:
        partial.write_bytes(COMPRESS[compression](content(kind)))
    if kind in ("jsonl", "parquet", "txt"):
        assert documents(path, tmp_path) == documents(place, tmp_path) == TEXTS
    if kind != "txt":
        assert [row["text"] for _, row in read_table(path)] == TEXTS


def test_the_ending_of_a_name():
    assert [ending_of(name) for name in ("a.TXT", "b/a.jsonl.Gz", "s3://x.y/a.parquet", "a.gz", "a")] == [
        *("txt", "jsonl", "parquet", "", "")
    ]


def test_json_that_is_nested_too_deeply_is_one_sentence_in_a_table_too(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n" + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:2: not a JSON object"):
        list(read_table(str(tmp_path / "a.jsonl")))


def test_lines_of_a_part_of_a_file_and_long_ones(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(BYTE_ORDER_MARK + b"one\ntwo\nthree")
    assert list(lines(str(path))) == [b"one\n", b"two\n", b"three"]
    assert list(lines(str(path), 7, 13)) == [b"two\n", b"th"]
    assert list(lines(str(path), 7, 15, longest=3)) == [b"two", b"\n", b"thr", b"ee"[:1]]
