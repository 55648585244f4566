"""The texts of evaluation sets, whatever form they come in: what documents are compared with by data.exclude."""

from collections.abc import Iterator
from typing import Any

from roberta_jax.errors import UserError
from roberta_jax.output import show
from roberta_jax.preparation import ngrams
from roberta_jax.preparation.config import ReaderConfig
from roberta_jax.preparation.documents import LINES, Counts, Piece, read
from roberta_jax.preparation.records import FORMATS, has_column, read_tfds, tfds_builder
from roberta_jax.preparation.tables import csv_records, tsv_records


def overlap_of(shards: list[list[Piece]], reading: ReaderConfig) -> ngrams.Overlap:
    """What no document may have in common with the sets; says how many texts they hold.

    Raises:
      UserError: there is no text in them, or a file cannot be read.
    """
    count, short = 0, 0

    def counted() -> Iterator[str]:
        nonlocal count, short
        for text in (text for pieces in shards for piece in pieces for text in texts_of(piece, reading)):
            words = len(ngrams.words(text)[0])
            count, short = count + bool(words), short + (0 < words < ngrams.SHORTEST_OVERLAP)
            yield text

    overlap = ngrams.Overlap.of(counted())
    if not count:
        raise UserError("data.exclude: the evaluation sets hold no word at all; expected texts.")
    least = ngrams.SHORTEST_OVERLAP
    show(f"data.exclude: {count:,} evaluation texts; {short:,} of fewer than {least} words count against their equals alone")
    return overlap


def texts_of(piece: Piece, reading: ReaderConfig) -> Iterator[str]:
    """Of records the column data.text_column, or, where there is none, each text; of a table each field.

    A .txt whose lines no empty one parts gives the whole of it and each line: it may be a text, or one a line.
    """
    path, start, stop = piece.path, piece.start, piece.stop
    if piece.kind in ("csv", "tsv"):
        for _, fields in csv_records(path) if piece.kind == "csv" else tsv_records(path):
            yield from fields
    elif piece.kind == "tfds" and reading.text_column not in tfds_builder(name := path.rpartition(":")[0]).info.features:
        for record in read_tfds(name, f"{path.rpartition(':')[2]}[{start}:{stop}]"):
            yield from _texts_within(record)
    elif piece.kind in FORMATS and not has_column(path, reading.text_column):
        for _, record in FORMATS[piece.kind].read(path, start, stop, None, lambda message: Counts().bad(reading, message)):
            yield from _texts_within(record)
    else:
        for text in read(piece, reading, Counts()):
            yield text
            if piece.kind == LINES:
                yield from text.split("\n")


def _texts_within(value: Any) -> Iterator[str]:
    """All texts of a record, however deep they lie, as those of SQuAD's JSON."""
    if isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts_within(each)
    elif isinstance(value, list | tuple) or hasattr(value, "tolist"):
        for each in value if isinstance(value, list | tuple) else [value.tolist()]:
            yield from _texts_within(each)
