"""A prepared corpus: a folder of packed rows that any step of any run can index.

`manifest.json`, `{train,valid}-*-of-*.npy` (rows of ids, padded on the right, memory-mapped), `token_counts.npy` (how
often each id stands in the train rows) and `tokenizer/`. `roberta_jax.prepare` makes it.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow

from roberta_jax import lock, storage
from roberta_jax.errors import UserError
from roberta_jax.output import show
from roberta_jax.storage import sha256
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import Tokenizer

SPLITS = ("train", "valid")
PAIRS = ("segment-pair", "sentence-pair")  # the formats whose rows are pairs
_FIELDS = {  # of a manifest, without which it is none; others came later
    **dict.fromkeys(("key", "format", "tokenizer"), str),
    **dict.fromkeys(("length", "vocabulary", "documents", "bytes"), int),
    **dict.fromkeys(("shards", "rows", "tokens", "row_lengths", "recipe", "tokenizer_files"), dict),
}


class Rows:
    """One split's shards as one array of rows; of a `fraction` of these, evenly spread, as if there were no others."""

    def __init__(self, paths: list[Path]):
        self._shards = [_mapped(path) for path in paths]
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self.fraction = 1.0

    def __len__(self) -> int:
        rows = int(self._ends[-1])
        return min(rows, max(1, int(rows * self.fraction)))

    def numbers(self, indices: np.ndarray) -> np.ndarray:
        """Which rows of all shards those at `indices` are. int64 [n]"""
        return indices if self.fraction == 1 else (indices / self.fraction).astype(np.int64)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices` [n], as int32 [n, length]."""
        indices = self.numbers(indices)
        rows = np.empty((len(indices), self._shards[0].shape[1]), np.int32)
        shard_of = np.searchsorted(self._ends, indices, side="right")
        for shard in np.unique(shard_of):
            mine = shard_of == shard
            start = self._ends[shard] - len(self._shards[shard])
            rows[mine] = self._shards[shard][indices[mine] - start]
        return rows


def _mapped(path: Path) -> np.ndarray:
    """A `.npy` file's array in mapped memory. Unlike `np.memmap` it keeps no descriptor: a corpus may have thousands."""
    with pyarrow.memory_map(str(path)) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.frombuffer(file.read_buffer(), dtype).reshape(shape)


class ShardWriter:
    """Appends rows to a `.npy` file and sums up what they hold; the header gets the number of rows at the end."""

    def __init__(self, path: Path, tokenizer: Tokenizer, length: int):
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32)
        self.tokenizer, self.length, self.rows = tokenizer, length, 0
        self.counts, self.lengths = np.zeros(len(tokenizer), np.int64), np.zeros(length + 1, np.int64)
        self._file = open(path, "wb")
        self._write_header()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, self.length),
        }
        np.lib.format.write_array_header_1_0(self._file, header)  # numpy leaves room for the shape to grow

    def write(self, rows: Iterable[np.ndarray]) -> None:
        for row in rows:
            padded = np.full(self.length, self.tokenizer.pad, self.dtype)
            padded[: len(row)] = row
            self._file.write(padded.tobytes())
            np.add.at(self.counts, row[1:], 1)
            self.counts[self.tokenizer.bos] += 1  # where a pair's label stands in its place too
            self.lengths[len(row)] += 1
            self.rows += 1
        self._file.seek(0)
        self._write_header()
        self._file.close()


class Corpus:
    """A prepared corpus, opened.

    Raises:
      UserError: no whole corpus there, or a shard that is not the one its manifest tells of.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        _verify(self.folder, self.manifest["shards"])
        self.tokenizer = encodings.load(self.folder / "tokenizer")
        if self.tokenizer.hash != self.manifest["tokenizer"]:
            raise UserError(f"{folder}: its tokenizer/ is not the one its rows were made with; prepare the corpus again.")
        names = sorted(name for name in self.manifest["shards"] if name.endswith(".npy"))
        self.train, self.valid = (Rows([self.folder / name for name in names if name.startswith(split)]) for split in SPLITS)
        self.token_counts = np.load(self.folder / "token_counts.npy")  # int64 [vocabulary]
        self.length = self.manifest["length"]
        self.of_pairs = self.manifest["format"] in PAIRS


def _verify(folder: Path, shards: dict[str, str]) -> None:
    """Compares every file with its hash, once: `verified.json` remembers what has not changed since."""
    stamp = folder / "verified.json"
    try:
        known = storage.parse_json(stamp.read_bytes())
    except (OSError, ValueError):  # not there, or damaged: then all is compared again
        known = {}
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: the shard {missing[0]} that its manifest lists is missing; prepare the corpus again.")
    now = {name: [(stat := (folder / name).stat()).st_size, stat.st_mtime_ns, shards[name]] for name in shards}
    unknown = [name for name in shards if known.get(name) != now[name]]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, found in zip(unknown, threads.map(lambda name: sha256(folder / name), unknown)):
            if found != shards[name]:
                raise UserError(
                    f"{folder / name}: its SHA-256 is {found[:12]}…, the manifest says {shards[name][:12]}…: the shard "
                    "is damaged; delete the folder and prepare the corpus again."
                )
    if unknown and os.access(folder, os.W_OK) and not stamp.is_dir():
        storage.write_json(stamp, now, indent=None)


def read_manifest(folder: str | Path) -> dict:
    if not storage.exists(path := storage.join(folder, "manifest.json")):
        raise UserError(f"{folder}: no manifest.json there, so this is not a whole prepared corpus.")
    manifest = {"tokenizer_files": {}} | storage.read_json(path)
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise UserError(f"{path}: {name!r} is {manifest.get(name)!r}; it is damaged, prepare the corpus again.")
    storage.plain_name(manifest["key"], f"{path}: key")
    for field in ("shards", "tokenizer_files"):
        for name, digest in manifest[field].items():
            storage.plain_name(name, f"{path}: {field}")
            if not isinstance(digest, str) or field == "shards" and not name.endswith(".npy"):
                raise UserError(f"{path}: {field} has {name} with SHA-256 {digest!r}; it is damaged, prepare the corpus again.")
    return manifest


def bytes_per_token(manifest: dict) -> float:
    """Bytes of text to a token that is not special. A masked-LM loss in bits a byte: nats / (ln 2 · this)."""
    if "text_tokens" not in manifest:
        raise UserError("this corpus was prepared before its manifest counted text_tokens; prepare it again.")
    return manifest["bytes"] / manifest["text_tokens"]


def words_per_token(manifest: dict) -> float:
    """Words, as white space parts them, to a token of a row, special ones too; 0 of corpora older than this count."""
    return manifest.get("words", 0) / sum(manifest["tokens"].values())


def on_this_machine(folder: str, cache: Path) -> Path:
    """The folder of a prepared corpus, copied into the cache where it is elsewhere: rows are mapped into memory.

    A copy that was stopped goes on with the files it lacks; the manifest, which says that it is whole, comes last.
    """
    if there := storage.local(folder):
        return there
    manifest, cache = read_manifest(folder), Path(cache).expanduser()
    copy = cache / f"corpus-{manifest['key']}"
    if (copy / "manifest.json").is_file():
        return copy
    hashes = manifest["shards"] | {f"tokenizer/{name}": digest for name, digest in manifest["tokenizer_files"].items()}

    def fetch(name: str) -> None:
        if not (copy / name).is_file():
            try:
                storage.download(path := storage.join(folder, name), copy / name, hashes[name])
            except FileNotFoundError:
                raise UserError(f"{path}: not there, though it is part of that corpus; prepare the corpus again.") from None

    with lock.waiting(cache / f"copying-{manifest['key']}.lock"):
        if (copy / "manifest.json").is_file():  # another process has made it meanwhile
            return copy
        show(f"copying {folder} to {copy}")
        there = storage.join(folder, "tokenizer")
        if not manifest["tokenizer_files"]:  # it was made before they were noted
            hashes |= {f"tokenizer/{storage.plain_name(name, there)}": None for name in storage.names(there)}
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(fetch, hashes))
        storage.write_json(copy / "manifest.json", manifest)
    return copy


def report(manifest: dict) -> str:
    """What a preparation prints when it is done."""
    m, length = manifest, manifest["length"]
    tokens, apart = sum(m["tokens"].values()), " (special ones left out)" * ("text_tokens" in m)
    words = f"{m['words']:,} words, " if "words" in m else ""  # which older corpora did not count
    room = "half a row" if m["format"] in PAIRS else "a row"
    lines = [
        f"{m['documents']:,} documents ({m['valid_documents']:,} valid), {m['bytes'] / 1e6:,.1f} MB, {words}"
        f"{tokens:,} tokens, {m['bytes'] / m.get('text_tokens', tokens):.2f} bytes a token{apart}, "
        f"vocabulary {m['vocabulary']:,}",
        f"repeated: {m['repeated_documents']:,} documents, {m['repeated_lines']:,} of {m['lines']:,} lines; "
        f"empty: {m['empty_documents']:,}; not UTF-8: {m['documents_with_invalid_utf8']:,}",
        f"{m['format']}: {m['tokens_lost']:,} tokens lost; cut: {m['sentences_cut']:,} sentences longer than {room}, "
        f"{m['documents_cut']:,} documents longer than {8} MiB",
    ]
    if m["documents_cut"] and m["recipe"].get("reading", {}).get("documents") == "blank-line":
        lines.append("no blank line parts those longer documents; where each line is a document, set data.documents=line")
    dropped, bad = m.get("dropped", {}), m.get("bad_records", 0)
    if any(dropped.values()):
        what = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in dropped.items())
        lines.append(f"dropped: {what}; the first of each stand in dropped.jsonl")
    if bad:
        lines += [f"skipped: {bad:,} bad records, of which", *(f"  {message}" for message in m["first_bad_records"])]
    for split in SPLITS:
        deciles = m["row_lengths"][split]
        fill = m["tokens"][split] / m["rows"][split] / length
        lines.append(
            f"{split}: {m['rows'][split]:,} rows of {length}, {fill:.1%} full, "
            f"lengths {deciles[1]} / {deciles[5]} / {deciles[9]} (first, fifth, ninth decile)"
        )
    return "\n".join(lines)
