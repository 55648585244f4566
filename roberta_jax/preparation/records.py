"""Files, wherever they are, and TFDS names to records: the one reader under documents and tables.

A file is a path or a URL, in upper or lower case, plain, .gz or .zst. Text is UTF-8, or what its byte order mark says, which
is no text itself. A new format of records is a row of FORMATS; documents and tables both read it then.
"""

import codecs
import functools
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow
import pyarrow.parquet

from roberta_jax import storage
from roberta_jax.errors import UserError, first_line

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BYTE_ORDER_MARK = codecs.BOM_UTF8
OTHER_MARKS = (  # in this order: UTF-32's begins as UTF-16's does
    ("utf-32", (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    ("utf-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
DAMAGE = (OSError, pyarrow.ArrowException)  # as a file that is truncated or garbled gives while it is read
Bad = Callable[[str], None]  # takes what cannot be read, as a sentence: raises it, or counts it


def refuse(message: str) -> None:
    """The `Bad` that raises a UserError."""
    raise UserError(message)


def ending_of(path: str) -> str:
    """What a file is by its name, such as "jsonl": in lower case, without the ending of a compression."""
    path = PurePosixPath(path.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix.removeprefix(".")


def compression_of(path: str) -> str | None:
    """A file's compression by its name, as pyarrow calls it; None: it has none."""
    return COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)


# Lines


def lines(path: str, start: int = 0, stop: int | None = None, longest: int = sys.maxsize, bad: Bad = refuse) -> Iterator[bytes]:
    """The lines of a text file with their ends, decompressed.

    Only a newline ends a line: a form feed or a U+2028 is text.

    Args:
      start, stop: bytes of a file that is not compressed.
      longest: a line of more bytes comes in parts.

    Raises:
      UserError: the file cannot be opened.
    """
    compression, raw, at_start = compression_of(path), storage.open_file(path), start == 0
    left = sys.maxsize if compression or stop is None else stop - start
    try:
        with raw:
            if compression and not raw.size():
                return bad(f"{path}: no byte in it, and a compressed file has some; it looks like a broken download.")
            if not compression:
                raw.seek(start)
            file = io.BufferedReader(pyarrow.CompressedInputStream(raw, compression) if compression else raw, 1 << 20)
            if at_start and (encoding := _encoding(file.peek(4))):
                yield from _decoded(file, encoding, longest)
                return
            while left and (line := file.readline(min(left, longest))):
                left -= len(line)
                if at_start:
                    line, at_start = line.removeprefix(BYTE_ORDER_MARK), False
                yield line
    except UnicodeDecodeError as error:
        bad(f"{path}: its byte order mark says {error.encoding}, and it is not that throughout ({error.reason}).")
    except DAMAGE as error:
        bad(_damage(path, error))


def _encoding(first: bytes) -> str | None:
    """What a file's first bytes say that it is, where that is not UTF-8."""
    return next((encoding for encoding, marks in OTHER_MARKS if first.startswith(marks)), None)


def _decoded(file: io.BufferedReader, encoding: str, longest: int) -> Iterator[bytes]:
    """The lines of text in another encoding, as UTF-8."""
    with io.TextIOWrapper(file, encoding, "surrogatepass", newline="\n") as text:
        while line := text.readline(longest):
            yield line.encode(errors="surrogatepass")


def _damage(path: str, error: Exception) -> str:
    """What is wrong with a file that cannot be read to its end."""
    if "too much memory" in str(error):
        return (
            f"{path}: compressed with a window of more than 128 MiB, as zstd --long=28 and longer make it; compress it anew: "
            "zstd -dc --long=31 FILE | zstd -o NEW."
        )
    return f"{path}: cannot be read to its end, it looks truncated or damaged ({error})."


def text_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that has to be UTF-8, numbered from 1.

    Raises:
      UserError: bytes are not UTF-8, with their line; the file is damaged, or is not there.
    """
    for number, line in enumerate(lines(path), 1):
        yield number, _decode(line, f"{path}:{number}")


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        shown = line[max(0, error.start - 20) : error.start + 20]
        raise UserError(f"{place}: bytes that are not UTF-8, at {shown!r}.") from None


LINE_END = re.compile(rb"\n")
BLANK_LINE = re.compile(rb"\n\r?\n")


def line_cuts(path: str, size: int, boundary: re.Pattern[bytes], piece_bytes: int) -> list[int]:
    """Offsets right behind the first boundary after each multiple of `piece_bytes`; 0 and the file's end around them."""
    if compression_of(path):
        return [0, max(1, size)]  # whoever reads it sees whether it is empty
    if size > piece_bytes and _encoding(storage.read_range(path, 0, 4)):
        return [0, size]
    cuts = [0]
    for target in range(piece_bytes, size, piece_bytes):
        if target <= cuts[-1]:
            continue
        start, window, tail = target, 1 << 16, b""
        while start < size:
            block = tail + storage.read_range(path, start, min(start + window, size))
            if found := boundary.search(block):
                cuts.append(start - len(tail) + found.end())
                break
            last = block.rfind(b"\n")  # of a boundary that the next block may end
            tail = block[last:] if last >= 0 and not block[last:].strip() else b""
            start, window = start + window, min(2 * window, 1 << 23)
        else:
            break  # no boundary up to the end, so none after the later targets either
    return [*cuts, size]


# Formats whose records name their columns


@dataclass(frozen=True)
class Format:
    """How one of FORMATS is cut into pieces, and how its records are read.

    cuts(path, size, piece_bytes, bad) → numbers between which the pieces of a file of `size` bytes are, in the format's own
    unit: piece i is from cuts[i] to cuts[i + 1].

    read(path, start, stop, column, bad) → (place, record) of each record of a piece; of the whole file from 0 to None. The
    place, such as "x.jsonl:7", is for messages. A record is column → value. With `column` that one alone may come, a text as
    bytes or as str with escaped surrogates, so that what is not UTF-8 can be counted; without, all columns come, and what is
    not UTF-8 is an error.
    """

    cuts: Callable[[str, int, int, Bad], list[int]]
    read: Callable[[str, int, int | None, str | None, Bad], Iterator[tuple[str, Any]]]


def _jsonl_cuts(path: str, size: int, piece_bytes: int, bad: Bad) -> list[int]:
    """Bytes."""
    return line_cuts(path, size, LINE_END, piece_bytes)


def _read_jsonl(path: str, start: int, stop: int | None, column: str | None, bad: Bad) -> Iterator[tuple[str, Any]]:
    after = f" after byte {start:,}" if start else ""  # a piece does not know how many lines are before it
    for number, line in enumerate(lines(path, start, stop, bad=bad), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}" if column is None else f"{path}, line {number}{after}"
        text = _decode(line, place) if column is None else line.decode(errors="surrogateescape")
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            bad(f"{place}: not a JSON object ({error}).")
        else:
            yield place, record


def _json_cuts(path: str, size: int, piece_bytes: int, bad: Bad) -> list[int]:
    """Bytes, where the file is JSON Lines."""
    if size > piece_bytes and not _is_lines(path):
        return [0, size]
    return line_cuts(path, size, LINE_END, piece_bytes)


def _is_lines(path: str) -> bool:
    """Whether the first line of a .json is an object, so that each other one is too."""
    first = next((line for line in lines(path, bad=lambda message: None) if line.strip()), b"")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return not first.lstrip().startswith((b"[", b"{\n", b"{\r\n"))


def _read_json(path: str, start: int, stop: int | None, column: str | None, bad: Bad) -> Iterator[tuple[str, Any]]:
    """JSON Lines, or the whole a list of objects or one of them."""
    if start or _is_lines(path):
        yield from _read_jsonl(path, start, stop, column, bad)
        return
    text = b"".join(lines(path, bad=bad))
    text = _decode(text, path) if column is None else text.decode(errors="surrogateescape")
    try:
        value = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        return bad(f"{path}: neither JSON nor lines of it ({error}).")
    for number, record in enumerate(value if isinstance(value, list) else [value], 1):
        yield f"{path}: object {number}", record


def has_column(path: str, column: str) -> bool:
    """Whether a file's first record has a text in this column; True of what cannot be read, for its reader to say."""
    try:
        _, record = next(FORMATS[ending_of(path)].read(path, 0, None, None, refuse), ("", None))
    except UserError:
        return True
    return isinstance(record, dict) and column in record and isinstance(record[column], str | None)


def _parquet_file(path: str) -> pyarrow.parquet.ParquetFile:
    file = storage.open_file(path)
    if compression := compression_of(path):
        with pyarrow.CompressedInputStream(file, compression) as stream:
            file = pyarrow.BufferReader(stream.read())
    return pyarrow.parquet.ParquetFile(file)


def _parquet_cuts(path: str, size: int, piece_bytes: int, bad: Bad) -> list[int]:
    """Numbers of row groups."""
    try:
        metadata = _parquet_file(path).metadata
    except DAMAGE as error:
        bad(f"{path}: not a readable Parquet file ({error}).")
        return [0, 1]  # whoever reads it counts it
    cuts, size = [0], 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= piece_bytes:
            cuts.append(group + 1)
            size = 0
    return [*cuts, metadata.num_row_groups]


def _classes(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Of each column of lists of classes, the classes' names, which `datasets` notes beside what it saves."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        inner = {name: feature.get("feature") for name, feature in features.items() if isinstance(feature, dict)}
        return {name: list(each["names"]) for name, each in inner.items() if isinstance(each, dict) and "names" in each}
    except (KeyError, TypeError, ValueError):
        return {}


def _is_text(kind: pyarrow.DataType) -> bool:
    """Whether a column's values are texts, or all of them null."""
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")


def _read_parquet(path: str, start: int, stop: int | None, column: str | None, bad: Bad) -> Iterator[tuple[str, dict]]:
    """A null in `column` is an empty text."""
    number = 0
    try:
        file = _parquet_file(path)
    except DAMAGE as error:
        return bad(f"{path}: not a readable Parquet file{', after row 0' if column is None else ''} ({error}).")
    names = file.schema_arrow.names
    if column is not None and column not in names:
        return bad(f"{path}: no column {column!r} (data.text_column); it has {', '.join(map(repr, names))}.")
    if column is not None and not _is_text(kind := file.schema_arrow.field(column).type):
        return bad(f"{path}: the column {column!r} (data.text_column) is of type {kind}; expected texts.")
    classes_of = {} if column else _classes(file.schema_arrow.metadata)
    for group in range(start, file.metadata.num_row_groups if stop is None else stop):
        try:
            for batch in file.iter_batches(256, row_groups=[group], columns=column and [column]):
                if column is None:
                    records = batch.to_pylist()
                    for name, classes in classes_of.items():
                        for record in records:
                            record[name] = record[name] and list(map(dict(enumerate(classes)).get, record[name]))
                else:
                    records = ({column: value or b""} for value in batch.column(0).cast(pyarrow.binary()).to_pylist())
                for record in records:
                    number += 1
                    yield f"{path}:row {number}", record
        except (*DAMAGE, UnicodeDecodeError) as error:
            if column is None:
                bad(f"{path}: not a readable Parquet file, after row {number} ({error}).")
            else:
                bad(f"{path}: row group {group} cannot be read, it looks truncated or damaged ({error}).")


FORMATS = {
    "jsonl": Format(_jsonl_cuts, _read_jsonl),
    "parquet": Format(_parquet_cuts, _read_parquet),
    "json": Format(_json_cuts, _read_json),
}


# TFDS


@functools.lru_cache
def tfds_builder(name: str):
    """A data set of TFDS, downloaded and prepared where that was not done.

    Raises:
      UserError: TFDS does not know or cannot get it.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises a class of its own for each cause
        raise UserError(
            f"tfds:{name}: tensorflow-datasets could not give it ({type(error).__name__}: {first_line(error)})."
        ) from None
    return builder


def read_tfds(name: str, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split, or of a slice such as "train[10:20]", feature → what TFDS makes of it for NumPy."""
    import tensorflow_datasets as tfds

    return iter(tfds.as_numpy(tfds_builder(name).as_dataset(split=split, shuffle_files=False)))
