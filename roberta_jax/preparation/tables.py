"""Tables to rows: .tsv, .csv and what preparation.records reads, behind a path or a URL, and the splits of a TFDS name.

Each row comes with its place, "path:line" or what else leads there, so that whoever finds fault with it can name it.
"""

import csv
import itertools
import re
from collections.abc import Collection, Iterator
from typing import Any

from roberta_jax.errors import UserError
from roberta_jax.preparation.records import FORMATS, ending_of, read_tfds, refuse, text_lines, tfds_builder

ENDINGS = ("tsv", "csv", *FORMATS)
LONGEST_FIELD = 1 << 24  # characters of a CSV's field; Python's own bound, 131,072, is less than a long article


def read_table(
    source: str,
    columns: tuple[str, ...] = (),
    header: Collection[str] = (),
    labels: tuple[str, ...] = (),
    broken: list[str] | None = None,
    by_spreadsheet: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, column → value) of each row. Values are str in .tsv and .csv, else what JSON, Parquet or TFDS has.

    A .tsv is GLUE's: a tab parts the fields, always, and a `"` is a character like any other. A .csv has the usual quotes,
    in which a newline may stand; its place is the line where the record begins. Columns without a name are left out.

    Args:
      source: a file, or "tfds:NAME:SPLIT".
      columns: the names by position, for a .tsv or .csv without a header; (): the first line is a header.
      header: names by which a header is known where `columns` are given: a first line that holds any of them is one.
      labels: a class of TFDS comes as its name, if the names are among these or there are none, else as its number.
      broken: takes the places of lines with another number of fields, which are then left out instead of being an error.
      by_spreadsheet: a .tsv has the quotes of a .csv, as pandas and Excel write it, where all that begins with one is quoted.

    Raises:
      UserError: names the file and the line.
    """
    if source.startswith("tfds:"):
        yield from _read_tfds(source, labels)
        return
    ending = ending_of(source)
    if ending in FORMATS:
        yield from _read_records(source, ending)
    elif ending == "csv":
        yield from _with_columns(source, csv_records(source), columns, header, broken)
    elif ending in ("tsv", "txt"):
        rows = tsv_records(source)
        if by_spreadsheet and _is_quoted(source):
            rows = csv_records(source, "\t")
        yield from _with_columns(source, rows, columns, header, broken)
    else:
        endings = " ".join("." + ending for ending in ENDINGS)
        raise UserError(f"{source}: the kind of file is not known; a table ends in {endings} (text also .gz or .zst).")


def tsv_records(path: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.rstrip("\r\n").split("\t")) for number, line in text_lines(path))


def _is_quoted(path: str) -> bool:
    """Whether the fields of a .tsv that begin with a quote are quoted, as those of a .csv.

    Where each line has as many fields as the first, no field goes on in the next line.
    """
    count, quoted, even = 0, False, True
    for _, fields in tsv_records(path):
        if fields == [""]:
            continue
        count = count or len(fields)
        even = even and len(fields) == count
        for field in fields:
            if field.startswith('"'):
                if even and not _QUOTED.fullmatch(field):
                    return False
                quoted = True
    if not quoted or even:
        return quoted
    try:
        return len({len(fields) for _, fields in csv_records(path, "\t") if fields}) == 1
    except UserError:
        return False


_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def _has_blanks(path: str) -> bool:
    """Whether a blank follows each comma of a .csv: of its header, or before the quotes of its first record."""
    lines = (line for _, line in text_lines(path))
    records = itertools.islice((record for record in csv.reader(lines) if record), 2)
    try:
        return any(
            all(re.fullmatch(pattern, field) for field in record[1:]) and len(record) > 1
            for record, pattern in zip(records, (r" +\S.*", r' +".*'))
        )
    except csv.Error:  # which whoever reads the records says with its place
        return False


def csv_records(path: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    blanks = delimiter == "," and _has_blanks(path)
    lines = (line for _, line in text_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=blanks, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}:{start}: not a record of CSV ({error}).") from None
        if record is None:
            return
        yield start, record


def _with_columns(
    path: str,
    records: Iterator[tuple[int, list[str]]],
    columns: tuple[str, ...],
    header: Collection[str],
    broken: list[str] | None,
) -> Iterator[tuple[str, dict[str, str]]]:
    first = True
    for number, fields in records:
        if not fields or fields == [""]:
            continue
        if first:
            first = False
            if not columns or not set(header).isdisjoint(fields):
                columns = tuple(fields)
                named = [name for name in columns if name.strip()]
                if len(set(named)) < len(named):
                    raise UserError(f"{path}:{number}: a column's name stands twice in the header {', '.join(columns)}.")
                continue
        if len(fields) == len(columns):
            yield f"{path}:{number}", {name: field for name, field in zip(columns, fields) if name.strip()}
        elif broken is None:
            raise UserError(f"{path}:{number}: {len(fields)} fields; expected {len(columns)}: {', '.join(columns)}.")
        else:
            broken.append(f"{path}:{number}")


def _read_records(path: str, ending: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, row in FORMATS[ending].read(path, 0, None, None, refuse):
        if not isinstance(row, dict):
            raise UserError(f"{place}: a JSON {type(row).__name__}; expected an object, column to value.")
        yield place, row


def tfds_splits(name: str) -> tuple[str, ...]:
    """The names of a TFDS data set's splits; downloads and prepares it where that was not done.

    Raises:
      UserError: where TFDS does not know or cannot get it.
    """
    return tuple(tfds_builder(name).info.splits)


def _read_tfds(source: str, labels: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    name, _, split = source.removeprefix("tfds:").rpartition(":")
    if not name or split not in tfds_splits(name):
        has = f"; {name} has {', '.join(tfds_splits(name))}" if name else ""
        raise UserError(f"{source}: there is no split {split!r}; expected tfds:NAME:SPLIT{has}.")
    features = tfds_builder(name).info.features
    for number, row in enumerate(read_tfds(name, split), 1):
        place = f"tfds:{name}[{split}]:{number}"
        try:
            plain = _plain(row, features, labels)
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: bytes that are not UTF-8 ({error}).") from None
        yield place, plain


def _plain(value, feature, labels: tuple[str, ...]):
    """A value of TFDS as str, int, float, list and dict; a class as its name or number, one that is not given as None."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        return {name: _plain(value[name], feature[name], labels) for name in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):  # a list of records comes as a record of lists
            return {name: [_plain(item, inner[name], labels) for item in value[name]] for name in inner}
        return [_plain(item, inner, labels) for item in value]
    if isinstance(feature, tfds.features.ClassLabel):
        if value < 0:
            return None
        return feature.int2str(int(value)) if not labels or set(feature.names) <= set(labels) else int(value)
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") else value
