"""Sources to documents: text, JSONL and Parquet files (plain, .gz, .zst), a TFDS name, the docstrings installed here.

A source is resolved once into pieces, runs of documents that can be read on their own, in any process and any order.
"""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow
import pyarrow.parquet

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.preparation.config import ReaderConfig
from roberta_jax.preparation.docstrings import collect_docstrings

KINDS = ("txt", "jsonl", "parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LONGEST_DOCUMENT = 8 << 20  # bytes; a longer one goes on as the next document, so that memory stays small
# A shard is what one worker does at a time. Up to 256 GiB there are about 512, enough for the cores of one machine; beyond
# it they stop growing, so that a thousand workers share the work evenly and one that is lost is soon made good.
SMALLEST_SHARD, MOST_SHARDS, LARGEST_SHARD = 8 << 20, 512, 512 << 20  # bytes of source; about how many; bytes
DAMAGE = (OSError, pyarrow.ArrowException)  # as a file that is truncated or garbled gives while it is read
FIRST_BAD = 5  # of the bad records of a shard are named


@dataclass(frozen=True)
class Piece:
    """Part of a source: bytes [start, stop) of a text file, row groups of a Parquet file, examples of a TFDS split."""

    kind: str
    path: str
    start: int
    stop: int
    size: int  # bytes to read, about
    fingerprint: tuple  # changes when what is read changes


@dataclass
class Counts:
    """What a reader noticed on its way."""

    documents: int = 0
    bytes: int = 0
    empty: int = 0
    invalid_utf8: int = 0
    cut_long: int = 0
    bad_records: int = 0
    first_bad: list[str] = field(default_factory=list)

    def bad(self, reading: ReaderConfig, message: str) -> None:
        """Counts what cannot be read, or raises it as an error."""
        if reading.bad_records == "error":
            raise UserError(message)
        self.bad_records += 1
        if len(self.first_bad) < FIRST_BAD:
            self.first_bad.append(message)


def resolve(
    sources: list[str], reading: ReaderConfig, cache_dir: Path, processes: int, name: str = "data.source"
) -> list[list[Piece]]:
    """The pieces of all sources in order, grouped into one list a shard; the same wherever the same files are seen.

    Args:
      name: of the field that the sources come from, for the messages.

    Raises:
      UserError: for a path that is not there, a folder without text, a kind of file that is not known.
    """
    files = {}
    for source in sources:
        if not _is_tfds(source):
            files[source] = _files(str(collect_docstrings(cache_dir, processes)) if source == "docs" else source, name)
    total = sum(file.size for found in files.values() for file in found)
    piece_bytes = min(max(SMALLEST_SHARD, total // MOST_SHARDS), LARGEST_SHARD)
    pieces = []
    with ThreadPoolExecutor(32) as threads:  # a store far away takes its time to answer, and a file may need many questions
        for source in sources:
            if _is_tfds(source):
                pieces += _split_tfds(source, piece_bytes)
            else:
                for of_file in threads.map(lambda file: _split_file(file, reading, piece_bytes), files[source]):
                    pieces += of_file
    if not pieces:
        raise UserError(f"{name} {', '.join(sources) or 'is empty and'} holds no text at all; expected at least one document.")
    shards, size = [[]], 0
    for piece in pieces:
        if shards[-1] and size + piece.size > 1.25 * piece_bytes:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.size
    return shards


def _is_tfds(source: str) -> bool:
    return source.startswith("tfds:")


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix


def _kind(path: str) -> str | None:
    kind = _ending(path.removesuffix(_ending(path)) if _ending(path) in COMPRESSIONS else path).removeprefix(".")
    return kind if kind in KINDS else None


def _files(source: str, name: str) -> list[storage.File]:
    endings = " ".join("." + kind for kind in KINDS) + " (plain, .gz or .zst)"
    found, is_folder = storage.find(source)
    if is_folder:
        known = _without_corpora([file for file in found if _kind(file.path)], [PurePosixPath(file.path) for file in found])
        if not known:
            raise UserError(f"{source}: no file ending in {endings} in this folder or below it.")
        return known
    if not found:
        raise UserError(f"{source}: no such file, folder or glob ({name}); expected a path, tfds:NAME or docs.")
    unknown = next((file for file in found if not _kind(file.path)), None)
    if unknown:
        raise UserError(f"{unknown.path}: the kind of file is not known; a source's files end in {endings}.")
    return found


def _without_corpora(files: list[storage.File], paths: list[PurePosixPath]) -> list[storage.File]:
    """A prepared corpus below a source, or one that is being prepared, is no text of it, and its merges.txt neither."""
    there, marks = set(paths), (("manifest.json", "token_counts.npy"), ("work/plan.json",))
    folders = {folder for path in paths if path.name in ("manifest.json", "plan.json") for folder in path.parents[:2]}
    corpora = {folder for folder in folders if any({folder / name for name in names} <= there for names in marks)}
    return [file for file in files if corpora.isdisjoint(PurePosixPath(file.path).parents)]


def _split_file(file: storage.File, reading: ReaderConfig, piece_bytes: int) -> list[Piece]:
    kind, path = _kind(file.path), file.path
    if kind == "parquet":
        cuts = _parquet_cuts(path, reading, piece_bytes)
    elif _ending(path) in COMPRESSIONS or (kind == "txt" and reading.documents == "file"):
        cuts = [0, file.size]
    else:
        cuts = _text_cuts(path, file.size, b"\n" if kind == "jsonl" else b"\n\n", piece_bytes)
    size = file.size // max(1, len(cuts) - 1)
    return [Piece(kind, path, start, stop, size, file.fingerprint) for start, stop in zip(cuts, cuts[1:]) if stop > start]


def _text_cuts(path: str, size: int, boundary: bytes, piece_bytes: int) -> list[int]:
    """Offsets right behind the first boundary after each multiple of `piece_bytes`."""
    cuts, window = [0], 1 << 16
    for target in range(piece_bytes, size, piece_bytes):
        if target <= cuts[-1]:
            continue
        tail = b""
        for start in range(target, size, window):
            block = tail + storage.read_range(path, start, min(start + window, size))
            if (at := block.find(boundary)) >= 0:
                cuts.append(start - len(tail) + at + len(boundary))
                break
            tail = block[-len(boundary) + 1 :] if len(boundary) > 1 else b""
        else:
            break  # no boundary up to the end, so none after the later targets either
    return [*cuts, size]


def _parquet_file(path: str) -> pyarrow.parquet.ParquetFile:
    file = storage.open_file(path)
    if _ending(path) in COMPRESSIONS:
        with pyarrow.CompressedInputStream(file, COMPRESSIONS[_ending(path)]) as stream:
            file = pyarrow.BufferReader(stream.read())
    return pyarrow.parquet.ParquetFile(file)


def _parquet_cuts(path: str, reading: ReaderConfig, piece_bytes: int) -> list[int]:
    try:
        metadata = _parquet_file(path).metadata
    except DAMAGE as error:
        Counts().bad(reading, f"{path}: not a readable Parquet file ({error}).")
        return [0, 1]  # whoever reads it counts it
    cuts, size = [0], 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= piece_bytes:
            cuts.append(group + 1)
            size = 0
    return [*cuts, metadata.num_row_groups]


def _split_tfds(source: str, piece_bytes: int) -> list[Piece]:
    import tensorflow_datasets as tfds

    name, _, split = source.removeprefix("tfds:").partition(":")
    split = split or "train"
    try:
        builder = tfds.builder(name)
        builder.download_and_prepare()
        if split not in builder.info.splits:
            raise ValueError(f"there is no split {split!r}, there are {', '.join(builder.info.splits)}")
        info = builder.info.splits[split]
    except Exception as error:  # TFDS raises a class of its own for each cause
        raise UserError(
            f"{source}: tensorflow-datasets could not give it ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from None
    examples = info.num_examples
    each = max(1, examples * piece_bytes // max(1, info.num_bytes))
    fingerprint = (str(builder.info.full_name), split, examples)
    return [
        Piece("tfds", f"{name}:{split}", start, min(start + each, examples), piece_bytes, fingerprint)
        for start in range(0, examples, each)
    ]


def read(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[str]:
    """The documents of a piece, without the white space around them; empty ones are counted and left out.

    Raises:
      UserError: names the file, and the line where there is one.
    """
    if piece.kind == "tfds":
        raw = _read_tfds(piece, reading, counts)
    elif piece.kind == "parquet":
        raw = _read_parquet(piece, reading, counts)
    else:
        raw = (_read_jsonl if piece.kind == "jsonl" else _read_text)(piece, reading, counts)
    for document in raw:
        counts.bytes += len(document)
        text = _decode(document, piece.path, reading, counts).strip()
        if text:
            counts.documents += 1
            yield text
        else:
            counts.empty += 1


def _decode(document: bytes, path: str, reading: ReaderConfig, counts: Counts) -> str:
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        if reading.invalid_utf8 == "error":
            shown = document[max(0, error.start - 20) : error.start + 20]
            raise UserError(
                f"{path}: bytes that are not UTF-8, at {shown!r}; mend the file or set data.invalid_utf8 to 'replace'."
            ) from None
        counts.invalid_utf8 += 1
        return document.decode(errors="replace")


def _lines(piece: Piece, reading: ReaderConfig, counts: Counts, longest: int = -1) -> Iterator[bytes]:
    """The lines of a text file's piece, decompressed where its name says so; above `longest` bytes in parts."""
    compression = COMPRESSIONS.get(_ending(piece.path))
    raw = storage.open_file(piece.path)
    try:
        with raw:
            if compression:
                file = io.BufferedReader(pyarrow.CompressedInputStream(raw, compression), 1 << 20)
                while line := file.readline(longest):
                    yield line
            else:
                raw.seek(piece.start)
                file, left = io.BufferedReader(raw, 1 << 20), piece.stop - piece.start
                while left and (line := file.readline(left if longest < 0 else min(left, longest))):
                    left -= len(line)
                    yield line
    except DAMAGE as error:
        counts.bad(reading, f"{piece.path}: cannot be read to its end, it looks truncated or damaged ({error}).")


def _read_text(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[bytes]:
    lines, size = [], 0
    for line in _lines(piece, reading, counts, LONGEST_DOCUMENT):
        if reading.documents == "blank-line" and not line.strip():
            if lines:
                yield b"".join(lines)
            lines, size = [], 0
            continue
        lines.append(line)
        size += len(line)
        if size >= LONGEST_DOCUMENT:
            counts.cut_long += 1
            text = b"".join(lines)
            cut = next((i for i in range(size - 1, size - 5, -1) if text[i] & 0xC0 != 0x80), size)  # a character's start
            yield text[:cut]
            lines, size = [text[cut:]], size - cut
    if lines:
        yield b"".join(lines)


def _read_jsonl(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[bytes]:
    for number, line in enumerate(_lines(piece, reading, counts), 1):
        if not line.strip():
            continue
        where = f"{piece.path}, line {number}" + (f" after byte {piece.start:,}" if piece.start else "")
        try:
            record = json.loads(line.decode(errors="surrogateescape"))
        except (ValueError, RecursionError) as error:
            counts.bad(reading, f"{where}: not a JSON object ({error}).")
            continue
        if not isinstance(record, dict) or not isinstance(record.get(reading.text_column), str):
            has = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            counts.bad(reading, f"{where}: no text in a column {reading.text_column!r} (data.text_column); it has {has}.")
            continue
        text = record[reading.text_column]
        try:
            yield text.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # a \ud800 of JSON's own, which stands for no character
            yield text.encode(errors="surrogatepass")


def _read_parquet(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[bytes]:
    try:
        file = _parquet_file(piece.path)
    except DAMAGE as error:
        return counts.bad(reading, f"{piece.path}: not a readable Parquet file ({error}).")
    names = file.schema_arrow.names
    if reading.text_column not in names:
        has = ", ".join(map(repr, names))
        return counts.bad(reading, f"{piece.path}: no column {reading.text_column!r} (data.text_column); it has {has}.")
    for group in range(piece.start, piece.stop):
        try:
            for batch in file.iter_batches(256, row_groups=[group], columns=[reading.text_column]):
                yield from (value or b"" for value in batch.column(0).cast(pyarrow.binary()).to_pylist())
        except DAMAGE as error:
            counts.bad(reading, f"{piece.path}: row group {group} cannot be read, it looks truncated or damaged ({error}).")


def _read_tfds(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[bytes]:
    import tensorflow_datasets as tfds

    name, split = piece.path.rsplit(":", 1)
    examples = tfds.load(name, split=f"{split}[{piece.start}:{piece.stop}]", shuffle_files=False)
    for example in tfds.as_numpy(examples):
        if isinstance(example.get(reading.text_column), bytes):
            yield example[reading.text_column]
        else:
            where, has = f"tfds:{piece.path}", ", ".join(map(repr, example))
            counts.bad(reading, f"{where}: no text in a feature {reading.text_column!r} (data.text_column); it has {has}.")
