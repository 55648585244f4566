"""Sources to documents: text, JSONL and Parquet files (plain, .gz, .zst), a TFDS name, the docstrings installed here.

A source is resolved once into pieces, runs of documents that can be read on their own, in any process and any order.
"""

import ast
import glob
import hashlib
import io
import json
import multiprocessing
import os
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from roberta_jax.errors import UserError

KINDS = ("txt", "jsonl", "parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LONGEST_DOCUMENT = 8 << 20  # bytes; a longer one goes on as the next document, so that memory stays small
SMALLEST_SHARD, MOST_SHARDS = 8 << 20, 512  # bytes of text; about how many: enough for many processes, few open files


@dataclass(frozen=True)
class Reading:
    """How files become documents (fields of `config.data`)."""

    text_column: str = "text"
    documents: str = "blank-line"  # what parts the documents of a .txt: "blank-line", or "file" (one a file)
    invalid_utf8: str = "replace"  # or "error"

    def __post_init__(self):
        for field, allowed in (("documents", ("blank-line", "file")), ("invalid_utf8", ("replace", "error"))):
            if getattr(self, field) not in allowed:
                raise UserError(f"data.{field} is {getattr(self, field)!r}; it can be {' or '.join(map(repr, allowed))}.")


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


def resolve(sources: list[str], reading: Reading, cache_dir: Path, processes: int) -> list[list[Piece]]:
    """The pieces of all sources in order, grouped into one list a shard; the same wherever the same files are seen.

    Raises:
      UserError: for a path that is not there, a folder without text, a kind of file that is not known.
    """
    files = [
        _files(source) if source != "docs" else [collect_docstrings(cache_dir, processes)]
        for source in sources
        if not _is_tfds(source)
    ]
    total = sum(path.stat().st_size for paths in files for path in paths)
    piece_bytes = max(SMALLEST_SHARD, total // MOST_SHARDS)
    pieces, of_source = [], iter(files)
    for source in sources:
        if _is_tfds(source):
            pieces += _split_tfds(source, piece_bytes)
        else:
            pieces += [piece for path in next(of_source) for piece in _split_file(path, reading, piece_bytes)]
    if not pieces:
        raise UserError(
            f"data.source {', '.join(sources) or 'is empty and'} holds no text at all; expected at least one document."
        )
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


def _kind(path: Path) -> str | None:
    name = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    kind = name.suffix.removeprefix(".")
    return kind if kind in KINDS else None


def _files(source: str) -> list[Path]:
    endings = " ".join("." + kind for kind in KINDS) + " (plain, .gz or .zst)"
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file))
        if not found:
            raise UserError(f"{source}: no file ending in {endings} in this folder or below it.")
        return found
    found = (
        [path]
        if path.is_file()
        else sorted(Path(name) for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
    )
    if not found:
        raise UserError(f"{source}: no such file, folder or glob (data.source); expected a path, tfds:NAME or docs.")
    unknown = next((file for file in found if not _kind(file)), None)
    if unknown:
        raise UserError(f"{unknown}: the kind of file is not known; a source's files end in {endings}.")
    return found


def _split_file(path: Path, reading: Reading, piece_bytes: int) -> list[Piece]:
    kind, stat = _kind(path), path.stat()
    fingerprint = (str(path), stat.st_size, stat.st_mtime_ns)
    if kind == "parquet":
        cuts = _parquet_cuts(path, piece_bytes)
    elif path.suffix in COMPRESSIONS or (kind == "txt" and reading.documents == "file"):
        cuts = [0, stat.st_size]
    else:
        cuts = _text_cuts(path, stat.st_size, b"\n" if kind == "jsonl" else b"\n\n", piece_bytes)
    size = stat.st_size // max(1, len(cuts) - 1)
    return [Piece(kind, str(path), start, stop, size, fingerprint) for start, stop in zip(cuts, cuts[1:]) if stop > start]


def _text_cuts(path: Path, size: int, boundary: bytes, piece_bytes: int) -> list[int]:
    """Offsets right behind the first boundary after each multiple of `piece_bytes`."""
    cuts, window = [0], 1 << 16
    with open(path, "rb") as file:
        for target in range(piece_bytes, size, piece_bytes):
            if target <= cuts[-1]:
                continue
            file.seek(target)
            tail = b""
            while block := file.read(window):
                at = (tail + block).find(boundary)
                if at >= 0:
                    cuts.append(file.tell() - len(tail) - len(block) + at + len(boundary))
                    break
                tail = block[-len(boundary) + 1 :] if len(boundary) > 1 else b""
            else:
                break  # no boundary up to the end, so none after the later targets either
    return [*cuts, size]


def _parquet_file(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        if path.suffix in COMPRESSIONS:
            with pyarrow.input_stream(str(path), compression=COMPRESSIONS[path.suffix]) as file:
                return pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.read()))
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}).") from None


def _parquet_cuts(path: Path, piece_bytes: int) -> list[int]:
    metadata = _parquet_file(path).metadata
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


def read(piece: Piece, reading: Reading, counts: Counts) -> Iterator[str]:
    """The documents of a piece, without the white space around them; empty ones are counted and left out.

    Raises:
      UserError: names the file, and the line where there is one.
    """
    if piece.kind == "tfds":
        raw = _read_tfds(piece, reading)
    elif piece.kind == "parquet":
        raw = _read_parquet(piece, reading)
    else:
        raw = _read_jsonl(piece, reading) if piece.kind == "jsonl" else _read_text(piece, reading, counts)
    for document in raw:
        counts.bytes += len(document)
        text = _decode(document, piece.path, reading, counts).strip()
        if text:
            counts.documents += 1
            yield text
        else:
            counts.empty += 1


def _decode(document: bytes, path: str, reading: Reading, counts: Counts) -> str:
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


def _lines(piece: Piece, longest: int = -1) -> Iterator[bytes]:
    """The lines of a text file's piece, decompressed where its name says so; above `longest` bytes in parts."""
    compression = COMPRESSIONS.get(Path(piece.path).suffix)
    try:
        with pyarrow.OSFile(piece.path) as raw:
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
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{piece.path}: cannot be read to its end, it looks truncated or damaged ({error}).") from None


def _read_text(piece: Piece, reading: Reading, counts: Counts) -> Iterator[bytes]:
    lines, size = [], 0
    for line in _lines(piece, LONGEST_DOCUMENT):
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


def _read_jsonl(piece: Piece, reading: Reading) -> Iterator[bytes]:
    for number, line in enumerate(_lines(piece), 1):
        if not line.strip():
            continue
        where = f"{piece.path}, line {number}" + (f" after byte {piece.start:,}" if piece.start else "")
        try:
            record = json.loads(line.decode(errors="surrogateescape"))
        except ValueError as error:
            raise UserError(f"{where}: not a JSON object ({error}).") from None
        if not isinstance(record, dict) or not isinstance(record.get(reading.text_column), str):
            has = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            raise UserError(f"{where}: no text in a column {reading.text_column!r} (data.text_column); it has {has}.")
        text = record[reading.text_column]
        try:
            yield text.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # a \ud800 of JSON's own, which stands for no character
            yield text.encode(errors="surrogatepass")


def _read_parquet(piece: Piece, reading: Reading) -> Iterator[bytes]:
    file = _parquet_file(Path(piece.path))
    names = file.schema_arrow.names
    if reading.text_column not in names:
        raise UserError(
            f"{piece.path}: no column {reading.text_column!r} (data.text_column); it has {', '.join(map(repr, names))}."
        )
    try:
        for batch in file.iter_batches(256, row_groups=range(piece.start, piece.stop), columns=[reading.text_column]):
            yield from (value or b"" for value in batch.column(0).cast(pyarrow.binary()).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{piece.path}: cannot be read to its end, it looks truncated or damaged ({error}).") from None


def _read_tfds(piece: Piece, reading: Reading) -> Iterator[bytes]:
    import tensorflow_datasets as tfds

    name, split = piece.path.rsplit(":", 1)
    examples = tfds.load(name, split=f"{split}[{piece.start}:{piece.stop}]", shuffle_files=False)
    for example in tfds.as_numpy(examples):
        if not isinstance(example.get(reading.text_column), bytes):
            has = ", ".join(map(repr, example))
            raise UserError(
                f"tfds:{piece.path}: no text in a feature {reading.text_column!r} (data.text_column); it has {has}."
            )
        yield example[reading.text_column]


def collect_docstrings(cache_dir: Path, processes: int) -> Path:
    """Writes the docstrings of the standard library and of the packages installed here, one module a line, as JSONL.

    Modules are parsed with `ast` and never imported. The file is kept in `cache_dir` under a name that changes when a
    package is added, removed or changed.
    """
    files = sorted(_modules(), key=str)
    stats = "\n".join(f"{file} {file.stat().st_size}" for file in files)
    path = cache_dir / f"docs-{hashlib.sha256(stats.encode()).hexdigest()[:16]}.jsonl"
    if path.exists():
        return path
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    context = multiprocessing.get_context("spawn")  # not forked: the caller may hold threads of JAX or TensorFlow
    with ProcessPoolExecutor(processes, context) as pool, open(partial, "w", encoding="utf-8") as out:
        for text in pool.map(_docstrings, files, chunksize=64):
            if text:
                out.write(json.dumps({"text": text}) + "\n")
    os.replace(partial, path)
    return path


def _modules() -> Iterator[Path]:
    paths = sysconfig.get_paths()
    for root in {paths["stdlib"], paths["purelib"], paths["platlib"]}:
        for folder, folders, names in os.walk(root):
            skipped = ("__pycache__", "test", "tests", "site-packages", "dist-packages")
            folders[:] = [name for name in folders if name not in skipped]
            modules = (Path(folder, name) for name in names if name.endswith(".py"))
            yield from (module for module in modules if module.is_file())  # not a link that leads nowhere


def _docstrings(path: Path) -> str:
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # a template, or Python of another age
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return "\n\n".join(text for text in found if text)
