"""Sources to documents: text, JSON and Parquet files (plain, .gz, .zst), a TFDS name, the docstrings installed here.

Two functions are used elsewhere. `resolve` finds the files of all sources, cuts them into pieces, runs of documents that can be
read on their own, in any process and any order, and groups the pieces into shards. `read` gives the documents of a piece.

    sources → files → pieces → shards        resolve, once
                      piece → documents      read, in each worker
"""

import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.output import show
from roberta_jax.preparation import records
from roberta_jax.preparation.config import ReaderConfig
from roberta_jax.preparation.docstrings import collect_docstrings
from roberta_jax.preparation.records import (
    BLANK_LINE,
    FORMATS,
    LINE_END,
    ending_of,
    has_column,
    line_cuts,
    read_tfds,
    tfds_builder,
)

ENDINGS = ("txt", *FORMATS)
OF_EVALUATION = (*ENDINGS, "csv", "tsv")  # what evaluation sets come as, beside
LINES = "lines"  # the kind of an evaluation set's .txt whose lines no empty one parts
LONGEST_DOCUMENT = 8 << 20  # bytes; a longer one goes on as the next document, so that memory stays small
# A shard is what one worker does at a time. Up to 256 GiB there are about 512, enough for the cores of one machine; beyond
# it they stop growing, so that a thousand workers share the work evenly and one that is lost is soon made good.
SMALLEST_SHARD = 8 << 20  # bytes of source
MOST_SHARDS = 512  # about, until they are of the largest
LARGEST_SHARD = 512 << 20  # bytes of source
MOST_OPENED = 1 << 15  # shards, two files each, of which Linux lets a process map 65,530
FIRST_BAD = 5  # of the bad records of a shard are named


@dataclass(frozen=True)
class Piece:
    """Part of a source: bytes [start, stop) of a text or JSONL file, row groups of a Parquet file, examples of a TFDS split."""

    kind: str  # "txt", a name of FORMATS, or "tfds"; of evaluation sets "csv", "tsv" and LINES too
    path: str  # of TFDS NAME:SPLIT
    start: int
    stop: int
    size: int  # bytes to read, about
    fingerprint: tuple  # changes when what is read changes


@dataclass
class Counts:
    """What a reader noticed on its way."""

    documents: int = 0
    empty: int = 0  # documents
    invalid_utf8: int = 0  # documents
    cut_long: int = 0  # times that a document went on as the next one
    bad_records: int = 0
    first_bad: list[str] = field(default_factory=list)  # what was wrong with them

    def bad(self, reading: ReaderConfig, message: str) -> None:
        """Counts what cannot be read, or raises it as an error."""
        if reading.bad_records == "error":
            raise UserError(message)
        self.bad_records += 1
        if len(self.first_bad) < FIRST_BAD:
            self.first_bad.append(message)


def resolve(
    sources: list[str], reading: ReaderConfig, cache_dir: Path, processes: int, evaluation: bool = False
) -> list[list[Piece]]:
    """The pieces of all sources in order, grouped into one list a shard; the same wherever the same files are seen.

    Args:
      evaluation: they are evaluation sets, which `evaluation_sets` reads.

    Raises:
      UserError: for a path that is not there, a folder without text, a kind of file that is not known.
    """
    files, name = {}, "data.exclude" if evaluation else "data.source"
    for source in sources:
        if not _is_tfds(source):
            path = str(collect_docstrings(cache_dir, processes)) if source == "docs" else source
            files[source] = _files_of(path, reading, evaluation)
    total = sum(file.size for of_source in files.values() for file in of_source)
    of_tfds = sum(_split_of_tfds(source)[2].num_bytes for source in sources if _is_tfds(source))
    piece_bytes = _piece_bytes(total)
    if of_tfds // piece_bytes >= MOST_OPENED:  # less is cut as it was before this was asked, and keeps its rows
        piece_bytes = _piece_bytes(total + of_tfds)
    pieces = []
    with ThreadPoolExecutor(32) as threads:  # a store far away takes its time to answer, and a file may need many questions
        for source in sources:
            if _is_tfds(source):
                pieces += _pieces_of_tfds(source, piece_bytes)
            else:
                for of_file in threads.map(lambda file: _pieces_of_file(file, reading, piece_bytes, evaluation), files[source]):
                    pieces += of_file
    if not pieces:
        raise UserError(f"{name} {', '.join(sources) or 'is empty and'} holds no text at all; expected at least one document.")
    return _shards_of(pieces, piece_bytes)


def _piece_bytes(total: int) -> int:
    return min(max(SMALLEST_SHARD, total // MOST_SHARDS), LARGEST_SHARD)


def _is_tfds(source: str) -> bool:
    return source.startswith("tfds:")


def _files_of(source: str, reading: ReaderConfig, evaluation: bool) -> list[storage.File]:
    """The files of a path, a folder or a glob, all of them of a kind that is known; what is passed over is said."""
    kinds, name = (OF_EVALUATION, "data.exclude") if evaluation else (ENDINGS, "data.source")
    endings = " ".join("." + ending for ending in kinds) + " (plain, .gz or .zst)"
    passed_over: dict[str, str] = {}
    files, is_folder = storage.find(source, passed_over=passed_over)
    if not files and not is_folder:
        but = "".join(f" It is {reason}." for reason in passed_over.values())
        raise UserError(
            f"{source}: no such file, folder or glob ({name}); expected a path, tfds:NAME or docs.{but}"
            " In a config a comma parts sources, and one within a name is written \\,; in a command of prepare spaces do."
        )
    if is_folder:
        every, files = files, _without_corpora(files, [PurePosixPath(file.path) for file in files])
        if every and not files:
            raise UserError(
                f"{source} holds a prepared corpus and no text ({name}). A run takes one as its only source, and several in "
                "config.data.mixture; nothing is prepared from one."
            )
        passed_over |= {file.path: "of a kind that is not known" for file in files if ending_of(file.path) not in kinds}
        # The name of a .json does not tell texts from a folder's settings.
        unclear = [file.path for file in files if ending_of(file.path) == "json" and not evaluation]
        with ThreadPoolExecutor(32) as threads:
            have = threads.map(lambda path: has_column(path, reading.text_column), unclear)
            passed_over |= {path: f"JSON without {reading.text_column!r}" for path, has in zip(unclear, have) if not has}
        files = [file for file in files if file.path not in passed_over]
    if passed_over:
        show(f"! {source}: {_counted(passed_over)}")
    if not files:
        raise UserError(f"{source}: no file ending in {endings} in this folder or below it.")
    unknown = next((file for file in files if ending_of(file.path) not in kinds), None)
    if unknown:
        raise UserError(f"{unknown.path}: the kind of file is not known; a source's files end in {endings}.")
    return files


def _counted(passed_over: dict[str, str]) -> str:
    """How many are passed over for each reason, and the first of them."""
    paths = defaultdict(list)
    for path in sorted(passed_over):
        paths[passed_over[path]].append(path)
    parts = [f"{len(some):,} ({reason}; the first is {some[0]})" for reason, some in sorted(paths.items())]
    return f"{len(passed_over):,} passed over: {', '.join(parts)}"


def _without_corpora(files: list[storage.File], paths: list[PurePosixPath]) -> list[storage.File]:
    """A prepared corpus below a source, or one that is being prepared, is no text of it, and its merges.txt neither."""
    there, marks = set(paths), (("manifest.json", "token_counts.npy"), ("work/plan.json",))
    folders = {folder for path in paths if path.name in ("manifest.json", "plan.json") for folder in path.parents[:2]}
    corpora = {folder for folder in folders if any({folder / name for name in names} <= there for names in marks)}
    return [file for file in files if corpora.isdisjoint(PurePosixPath(file.path).parents)]


def _pieces_of_file(file: storage.File, reading: ReaderConfig, piece_bytes: int, evaluation: bool) -> list[Piece]:
    """Of about `piece_bytes` each, cut where a document ends."""
    kind, path = ending_of(file.path), file.path
    if kind in FORMATS:
        cuts = FORMATS[kind].cuts(path, file.size, piece_bytes, lambda message: Counts().bad(reading, message))
    elif kind != "txt":
        cuts = [0, max(1, file.size)]
    elif evaluation and _may_be_a_text_a_line(path):
        kind, cuts = LINES, [0, file.size]
    elif reading.documents == "file":
        cuts = [0, file.size]
    else:
        cuts = line_cuts(path, file.size, LINE_END if reading.documents == "line" else BLANK_LINE, piece_bytes)
    size = file.size // max(1, len(cuts) - 1)
    return [Piece(kind, path, start, stop, size, file.fingerprint) for start, stop in zip(cuts, cuts[1:]) if stop > start]


def _may_be_a_text_a_line(path: str) -> bool:
    """Whether a .txt has several lines, and no empty one parts them."""
    count, gap = 0, False
    for line in records.lines(path, bad=lambda message: None):  # its reader says what is wrong
        if not line.strip():
            gap = count > 0
        elif gap:
            return False
        else:
            count += 1
    return count > 1


def _split_of_tfds(source: str) -> tuple[str, str, Any]:
    """(name, split, what TFDS knows of it) of tfds:NAME[:VERSION][:SPLIT]; a version is part of TFDS' own name."""
    name, _, split = source.removeprefix("tfds:").partition(":")
    if re.match(r"[\d*]+\.[\d*]+\.[\d*]+(:|$)", split):
        version, _, split = split.partition(":")
        name = f"{name}:{version}"
    splits, split = tfds_builder(name).info.splits, split or "train"
    if split not in splits:
        raise UserError(f"{source}: there is no split {split!r}, there are {', '.join(splits)}.")
    return name, split, splits[split]


def _pieces_of_tfds(source: str, piece_bytes: int) -> list[Piece]:
    """Of as many examples each as have about `piece_bytes`."""
    name, split, info = _split_of_tfds(source)
    examples = info.num_examples
    each = max(1, examples * piece_bytes // max(1, info.num_bytes))
    fingerprint = (str(tfds_builder(name).info.full_name), split, examples)
    return [
        Piece("tfds", f"{name}:{split}", start, min(start + each, examples), piece_bytes, fingerprint)
        for start in range(0, examples, each)
    ]


def _shards_of(pieces: list[Piece], piece_bytes: int) -> list[list[Piece]]:
    """Small pieces together, in order; a shard has about `piece_bytes`, or one piece that is larger."""
    shards, size = [[]], 0
    for piece in pieces:
        if shards[-1] and size + piece.size > 1.25 * piece_bytes:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.size
    return shards


def read(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[str]:
    """The documents of a piece, without the white space around them; empty ones are counted and left out.

    Raises:
      UserError: names the file, and the line where there is one.
    """
    documents_of = _documents_of_text if piece.kind in ("txt", LINES) else _documents_of_records
    for document in documents_of(piece, reading, counts):
        text = _decode(document, piece.path, reading, counts).strip()
        if text:
            counts.documents += 1
            yield text
        else:
            counts.empty += 1


def _documents_of_text(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[bytes]:
    """A text file's: between blank lines, each line, or all of the file, by `reading.documents`."""
    lines, size = [], 0
    bad = functools.partial(counts.bad, reading)
    for line in records.lines(piece.path, piece.start, piece.stop, LONGEST_DOCUMENT, bad):
        if reading.documents != "file" and not line.strip():
            if lines:
                yield b"".join(lines)
            lines, size = [], 0
            continue
        lines.append(line)
        size += len(line)
        if reading.documents == "line" and line.endswith(b"\n"):
            yield b"".join(lines)
            lines, size = [], 0
            continue
        if size >= LONGEST_DOCUMENT:
            counts.cut_long += 1
            text = b"".join(lines)
            cut = next((i for i in range(size - 1, size - 5, -1) if text[i] & 0xC0 != 0x80), size)  # a character's start
            yield text[:cut]
            lines, size = [text[cut:]], size - cut
    if lines:
        yield b"".join(lines)


def _documents_of_records(piece: Piece, reading: ReaderConfig, counts: Counts) -> Iterator[bytes]:
    """The texts in a column of records, one a document."""
    column, bad = reading.text_column, functools.partial(counts.bad, reading)
    if piece.kind == "tfds":
        name, split = piece.path.rsplit(":", 1)
        rows = ((f"tfds:{piece.path}", record) for record in read_tfds(name, f"{split}[{piece.start}:{piece.stop}]"))
    else:
        rows = FORMATS[piece.kind].read(piece.path, piece.start, piece.stop, column, bad)
    for place, record in rows:
        text = record.get(column) if isinstance(record, dict) else None
        if text is None and isinstance(record, dict) and column in record:  # a null: an empty text, as in Parquet
            yield b""
        elif isinstance(text, bytes):
            yield text
        elif isinstance(text, str):
            try:
                yield text.encode(errors="surrogateescape")
            except UnicodeEncodeError:  # a \ud800 of JSON's own, which stands for no character
                yield text.encode(errors="surrogatepass")
        else:
            has = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            of = "feature" if piece.kind == "tfds" else "column"
            bad(f"{place}: no text in a {of} {column!r} (data.text_column); it has {has}.")


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
