"""Evaluation sets give their texts in whatever form they come."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from roberta_jax.errors import UserError
from roberta_jax.preparation.config import CorpusConfig, ReaderConfig
from roberta_jax.preparation.documents import resolve
from roberta_jax.preparation.evaluation_sets import overlap_of, texts_of
from roberta_jax.preparation.prepare import prepare

ONE = "the old sailor carried the broken clock behind the station on a rainy day last winter"
TWO = "a young painter remembered two silver coins near the harbour after the concert years ago"
SQUAD = {"data": [{"paragraphs": [{"context": ONE, "qas": [{"id": "7", "question": TWO, "answers": [{"text": "coins"}]}]}]}]}


def texts(source, tmp_path, **fields) -> list[str]:
    reading = ReaderConfig(**fields)
    shards = resolve([str(source)], reading, tmp_path / "cache", 1, evaluation=True)
    return [text for pieces in shards for piece in pieces for text in texts_of(piece, reading)]


def as_published(name: str, path) -> None:
    """A file that holds both texts, as evaluation sets are published."""
    records = {
        "glue.jsonl": [{"sentence1": ONE, "sentence2": TWO, "label": 1, "idx": 0}],
        "blimp.jsonl": [{"sentence_good": ONE, "sentence_bad": TWO, "UID": "x", "one_prefix_method": True}],
        "squad.jsonl": [{"question": TWO, "context": ONE, "answers": {"text": ["coins"], "answer_start": [0]}}],
        "list.json": [{"premise": ONE, "hypothesis": TWO}],
    }
    if name in records:
        rows = records[name]
        path.write_text(json.dumps(rows) if name == "list.json" else "".join(json.dumps(row) + "\n" for row in rows))
    elif name == "squad.json":
        path.write_text(json.dumps(SQUAD))
    elif name == "race.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"article": [ONE], "options": [["x", TWO]], "answer": ["A"]}), path)
    elif name == "glue.tsv":
        path.write_text(f'index\tsentence1\tsentence2\tlabel\n0\t{ONE}\t"{TWO}\t1\n')
    elif name == "pairs.csv":
        path.write_text(f'text1,text2\n"{ONE}","{TWO}"\n')
    elif name == "zorro.txt":
        path.write_text(f"{ONE}\n{TWO}\n")
    elif name == "documents.txt":
        path.write_text(f"{ONE}\n\n{TWO}\n")


FORMS = ["glue.jsonl", "blimp.jsonl", "squad.jsonl", "list.json", "squad.json", "race.parquet", "glue.tsv", "pairs.csv"]
FORMS += ["zorro.txt", "documents.txt"]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_an_evaluation_set(tmp_path, name, ending):
    as_published(name, path := tmp_path / name)
    if ending:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    for source in (tmp_path, tmp_path / f"{name}{ending}"):
        found = texts(source, tmp_path)
        assert {ONE, TWO} <= {text.strip('"') for text in found}
        assert set(found) <= {ONE, TWO, f'"{TWO}', f"{ONE}\n{TWO}", *"x A coins 7 0 1 index label text1 text2".split(),
                              "sentence1", "sentence2"}  # fmt: skip


def test_the_column_of_texts_alone_where_there_is_one(tmp_path):
    """As before there were other columns, so that corpora are the same."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ONE, "title": TWO}) + "\n")
    assert texts(tmp_path / "a.jsonl", tmp_path) == [ONE]
    assert texts(tmp_path / "a.jsonl", tmp_path, text_column="title") == [TWO]


@pytest.mark.parametrize("text, kind", [
    (ONE, "txt"), (f"{ONE}\n", "txt"), (f"{ONE}\n\n{TWO}", "txt"), (f"{ONE}\n \n{TWO}\n", "txt"),
    (f"{ONE}\n{TWO}", "lines"), (f"\n{ONE}\n{TWO}\n\n", "lines"),
])  # fmt: skip
def test_a_file_that_may_have_a_text_a_line_is_another_kind(tmp_path, text, kind):
    """So that a corpus is found that was prepared when such a file was one text, where it is none."""
    (tmp_path / "a.txt").write_text(text)
    ((piece,),) = resolve([str(tmp_path / "a.txt")], ReaderConfig(), tmp_path, 1, evaluation=True)
    assert piece.kind == kind
    ((piece,),) = resolve([str(tmp_path / "a.txt")], ReaderConfig(), tmp_path, 1)
    assert piece.kind == "txt"


def test_sentences_of_zorro_and_blimp(minimal_pairs, tmp_path):
    for suite in ("zorro", "blimp"):
        files = sorted((minimal_pairs / suite).iterdir())[:2]
        found = {text for file in files for text in texts(file, tmp_path)}
        lines = [line for file in files for line in file.read_text().splitlines()]
        wanted = set(lines) if suite == "zorro" else {json.loads(line)["sentence_good"] for line in lines}
        assert len(wanted) > 1_000 and wanted <= found


def test_documents_that_hold_a_sentence_are_dropped(documents, small_corpus, tmp_path, capsys):
    for name in ("zorro.txt", "glue.tsv", "blimp.jsonl"):
        as_published(name, tmp_path / name)
    inside = [f"{documents[i]} {(ONE, TWO)[i % 2].upper()}. {documents[i + 1]}" for i in range(6)]
    (tmp_path / "text.txt").write_text("\n\n".join([*documents[:60], *inside]))
    for name in ("zorro.txt", "glue.tsv", "blimp.jsonl"):
        config = CorpusConfig(
            (f"{tmp_path}/text.txt",),
            str(small_corpus.folder / "tokenizer"),
            length=64,
            valid_fraction=0.2,
            exclude=(f"{tmp_path}/{name}",),
        )
        made = prepare(config, tmp_path / f"of {name}", tmp_path / "cache", processes=1)
        assert made.manifest["dropped"]["overlapping_documents"] == 6
        assert "evaluation texts;" in capsys.readouterr().out


def test_sets_without_text_and_files_of_another_kind_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(",,\n?,!\n")
    shards = resolve([str(tmp_path / "a.csv")], ReaderConfig(), tmp_path, 1, evaluation=True)
    with pytest.raises(UserError, match="data.exclude: the evaluation sets hold no word at all"):
        overlap_of(shards, ReaderConfig())
    with pytest.raises(UserError, match=r"a\.csv: the kind of file is not known; a source's files end in"):
        resolve([str(tmp_path / "a.csv")], ReaderConfig(), tmp_path, 1)
    (tmp_path / "a.md").touch()
    with pytest.raises(UserError, match=r"a\.md: the kind of file is not known.*\.csv \.tsv"):
        resolve([str(tmp_path / "a.md")], ReaderConfig(), tmp_path, 1, evaluation=True)
