"""Every kind of table gives its rows with their places; what cannot be read is named."""

import csv
import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta_jax.errors import UserError
from roberta_jax.preparation.records import text_lines
from roberta_jax.preparation.tables import read_table, tfds_splits

ROWS = [{"text": 'A "quoted" one,', "label": "1"}, {"text": "中文", "label": "0"}, {"text": " हिन्दी  ", "label": "1"}]
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}


def content(kind: str, rows: list[dict]) -> bytes:
    if kind == "tsv":
        return ("\n".join("\t".join(fields) for fields in ([*rows[0]], *(row.values() for row in rows))) + "\n").encode()
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    out = io.StringIO()
    csv.writer(out).writerows([[*rows[0]], *(row.values() for row in rows)])
    return out.getvalue().encode()


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_kind_and_compression(tmp_path, kind, ending, mark):
    path = tmp_path / f"a.{kind}{ending}"
    path.write_bytes(COMPRESS[ending](mark + content(kind, ROWS)))
    first = 1 if kind == "jsonl" else 2
    assert list(read_table(str(path))) == [(f"{path}:{first + i}", row) for i, row in enumerate(ROWS)]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{**row, "score": i / 2, "options": ["a", "b"]} for i, row in enumerate(ROWS)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    assert list(read_table(str(path))) == [(f"{path}:row {i + 1}", row) for i, row in enumerate(rows)]


@pytest.mark.parametrize("kind", ["tsv", "csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_header_is_known_by_its_names_where_columns_are_given(tmp_path, kind, end):
    between = "\t" if kind == "tsv" else ","
    path = tmp_path / f"a.{kind}"
    path.write_bytes(end.join(between.join(fields) for fields in (["1", "x y"], [], ["0", "z"])).encode())
    bare = list(read_table(str(path), ("label", "text"), {"text", "sentence"}))
    assert bare == [(f"{path}:1", {"label": "1", "text": "x y"}), (f"{path}:3", {"label": "0", "text": "z"})]
    path.write_bytes(end.join(between.join(fields) for fields in (["index", "sentence"], ["7", "z"])).encode())
    assert list(read_table(str(path), ("label", "text"), {"text", "sentence"})) == [
        (f"{path}:2", {"index": "7", "sentence": "z"})
    ]


def test_a_quote_and_a_form_feed_are_text_in_a_tsv(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('a\tb\n"open\tx\x0c\u2028\x85y\n""\t"closed"\n')
    assert [row for _, row in read_table(str(path))] == [{"a": '"open', "b": "x\x0c\u2028\x85y"}, {"a": '""', "b": '"closed"'}]


def test_a_place_is_where_a_record_of_csv_begins(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n"one\n\ntwo",1\n"three\nfour",2\nfive,3\n')
    assert [place for place, _ in read_table(str(path))] == [f"{path}:2", f"{path}:5", f"{path}:7"]


def test_a_long_field_of_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "x" * 300_000 + ",1\n")
    assert [len(row["a"]) for _, row in read_table(str(path))] == [300_000]


letters = st.characters(exclude_categories=["Cs"])


@given(rows=st.lists(st.tuples(st.text(letters), st.text(letters), st.integers().map(str)), max_size=6))
def test_csv_comes_back(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b", "c"), *rows])
    assert [tuple(row.values()) for _, row in read_table(str(path))] == rows


@given(
    rows=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r")), st.integers().map(str)),
        max_size=6,
    )
)
def test_tsv_comes_back(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round_trip.tsv"
    path.write_bytes("".join("\t".join(row) + "\n" for row in [("a", "b"), *rows]).encode())
    found = list(read_table(str(path)))
    assert [tuple(row.values()) for _, row in found] == rows
    assert [place for place, _ in found] == [f"{path}:{i + 2}" for i in range(len(rows))]


# TFDS


@pytest.fixture(scope="module")
def tfds_table():
    import numpy as np
    import tensorflow_datasets as tfds

    class RobertaJaxTable(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text = tfds.features.Text()
            features = tfds.features.FeaturesDict(
                {
                    "text": text,
                    "label": tfds.features.ClassLabel(names=["no", "yes"]),
                    "score": np.float32,
                    "answers": tfds.features.Sequence({"text": text, "answer_start": np.int32}),
                    "options": tfds.features.Sequence(tfds.features.Sequence(text)),
                    "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X"])),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "broken": iter([(0, self._row(0) | {"text": b"\xff"})])}

        @staticmethod
        def _row(i):
            answers = {"text": ["a", "b"][:i], "answer_start": [3, 4][:i]}
            options = [["x", "y"], ["z"]][:i]
            return dict(text=f"é{i}", label=i - 1, score=i / 2, answers=answers, options=options, ner=["B-X"] * i)

        def _generate_examples(self):
            for i in range(3):
                yield i, self._row(i)

    RobertaJaxTable().download_and_prepare()
    return "roberta_jax_table"


def test_a_split_of_tfds_comes_as_plain_values(tfds_table):
    assert set(tfds_splits(tfds_table)) == {"train", "broken"}
    rows = sorted(read_table(f"tfds:{tfds_table}:train"), key=lambda row: row[1]["text"])
    assert sorted(place for place, _ in rows) == [f"tfds:{tfds_table}[train]:{i}" for i in (1, 2, 3)]
    assert [row["label"] for _, row in rows] == [None, "no", "yes"]
    assert rows[0][1]["options"] == rows[0][1]["ner"] == []
    assert rows[2][1] == {
        "text": "é2",
        "label": "yes",
        "score": 1.0,
        "answers": {"text": ["a", "b"], "answer_start": [3, 4]},
        "options": [["x", "y"], ["z"]],
        "ner": ["B-X", "B-X"],
    }


def test_a_class_of_tfds_is_a_number_where_its_names_are_not_the_labels(tfds_table):
    rows = sorted(read_table(f"tfds:{tfds_table}:train", labels=("0", "1")), key=lambda row: row[1]["text"])
    assert [row["label"] for _, row in rows] == [None, 0, 1]


def test_what_tfds_cannot_give_is_named(tfds_table):
    for source, said in (
        (f"tfds:{tfds_table}:dev", "there is no split 'dev'.*has .*train"),
        ("tfds:nothing", "expected tfds:NAME:SPLIT"),
        ("tfds:there_is_no_such_thing:train", "tfds:there_is_no_such_thing: .*not found"),
        (f"tfds:{tfds_table}:broken", r"\[broken\]:1: bytes that are not UTF-8"),
    ):
        with pytest.raises(UserError, match=said):
            list(read_table(source))


# Errors


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.tsv", b"a\tb\n1\t2\n1\t2\t3\n", "a.tsv:3: 3 fields; expected 2: a, b"),
        ("a.csv", b'a,b\n"1\n",2\n1\n', "a.csv:4: 1 fields; expected 2: a, b"),
        ("a.csv", b'a,b\n1,2\n"1,2\n3,4\n', "a.csv:3: not a record of CSV"),
        ("a.csv", b'a,b\n1,2\n"1"x,2\n', "a.csv:3: not a record of CSV"),
        ("a.csv", b"a,b\r1,2\r", "a.csv:1: not a record of CSV"),
        ("a.tsv", b"a\tb\ta\n", "a.tsv:1: a column's name stands twice"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', "a.jsonl:3: not a JSON object"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: a JSON list; expected an object"),
        ("a.tsv", b"a\tb\n1\t2\n1\tcaf\xe9\n", r"a.tsv:3: bytes that are not UTF-8, at b'1\\tcaf\\xe9"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: bytes that are not UTF-8"),
        ("a.parquet", b"PAR1 not at all PAR1", "a.parquet: not a readable Parquet file, after row 0"),
        ("a.xlsx", b"", "a.xlsx: the kind of file is not known; a table ends in .tsv .csv .jsonl .parquet .json"),
        ("a.tsv.gz", b"not gzip at all", "a.tsv.gz: cannot be read to its end"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=said):
        list(read_table(str(tmp_path / name)))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_file_is_named(tmp_path, ending):
    data = COMPRESS[ending](content("jsonl", [{"a": i * 7_919 % 104_729} for i in range(5_000)]))
    (tmp_path / f"a.jsonl{ending}").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=rf"a\.jsonl{ending}(: cannot be read to its end|:\d+: not a JSON object)"):
        list(read_table(str(tmp_path / f"a.jsonl{ending}")))
    with pytest.raises(UserError, match="nothing.tsv: cannot be opened"):
        list(text_lines(str(tmp_path / "nothing.tsv")))


def test_broken_lines_are_left_out_where_that_is_asked(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n1\t2\n1\n1\t2\t3\n3\t4\n")
    broken = []
    assert [row["a"] for _, row in read_table(str(path), broken=broken)] == ["1", "3"]
    assert broken == [f"{path}:3", f"{path}:4"]
