"""Documents to a prepared corpus.

    python -m roberta_jax.data.prepare --source text/ --tokenizer 50265 --length 512 --out corpus

Shards are made in parallel processes and do not depend on their number. Until the last one is done the folder's name
ends in `.partial`; a killed preparation goes on from there.
"""

import argparse
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from roberta_jax.data import packing
from roberta_jax.data.corpus import SPLITS, Corpus, ShardWriter, report, sha256, write_atomically
from roberta_jax.data.documents import Counts, Piece, Reading, read, resolve
from roberta_jax.data.tokenizer import Tokenizer
from roberta_jax.errors import UserError, exit_with_sentence

VERSION = 1  # of the rows that a recipe gives; part of the cache key
TOKENIZER_BYTES = 64 << 20  # of text, from every shard alike, to learn a vocabulary from
DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "roberta_jax"


@dataclass(frozen=True)
class Recipe:
    """All that turns a source into rows (fields of `config.data`)."""

    source: tuple[str, ...]  # each a path, a glob, tfds:NAME[:split] or docs
    tokenizer: str | int  # a folder with vocab.json and merges.txt, or the size of a vocabulary to train
    format: str = "full-sentences"  # or "doc-sentences"
    length: int = 512  # of a row, in ids
    valid_fraction: float = 0.01  # of the documents, by their hash
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self):
        if self.format not in packing.FORMATS:
            raise UserError(f"data.format is {self.format!r}; it can be {' or '.join(map(repr, packing.FORMATS))}.")
        if self.length < 8:
            raise UserError(f"data.length is {self.length}; a row needs at least 8 ids.")
        if not 0 < self.valid_fraction < 1:
            raise UserError(f"data.valid_fraction is {self.valid_fraction}; expected a share between 0 and 1.")


class Distinct:
    """How many different 64-bit hashes were seen: exact up to 65,536, then from the smallest ones within about 0.4%."""

    KEPT = 1 << 16

    def __init__(self):
        self.smallest, self._new, self.seen = np.empty(0, np.uint64), [], 0

    def add(self, item: bytes) -> int:
        value = _hash64(item)
        self._new.append(value)
        self.seen += 1
        if len(self._new) > self.KEPT:
            self._fold()
        return value

    def merge(self, smallest: np.ndarray, seen: int) -> None:
        self._new.extend(smallest.tolist())
        self.seen += seen
        self._fold()

    def _fold(self) -> None:
        self.smallest = np.unique(np.concatenate([self.smallest, np.array(self._new, np.uint64)]))[: self.KEPT]
        self._new = []

    def repeated(self) -> int:
        """How many of those seen had been seen before."""
        self._fold()
        if len(self.smallest) < self.KEPT:
            return self.seen - len(self.smallest)
        return max(0, self.seen - int((self.KEPT - 1) / (float(self.smallest[-1]) / 2**64)))


def _hash64(item: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(item, digest_size=8).digest(), "big")


def _is_valid(document_hash: int, valid_fraction: float) -> bool:
    return document_hash < valid_fraction * 2**64


_loaded = functools.lru_cache(1)(Tokenizer.load)  # once a process, not once a shard


def _write_shard(index: int, of: int, pieces: list[Piece], recipe: Recipe, folder: Path) -> None:
    """Both splits' rows of one shard; `shard-*.npz`, written last, says that they are whole and what they hold."""
    tokenizer = _loaded(folder / "tokenizer")
    counts, documents, lines, valid, cut = Counts(), Distinct(), Distinct(), [], 0
    tokens = valid_documents = 0

    def train_documents() -> Iterator[packing.Document]:
        nonlocal tokens, cut
        for piece in pieces:
            for text in read(piece, recipe.reading, counts):
                for line in text.split("\n"):
                    lines.add(line.encode())
                document = [tokenizer.encode(sentence) for sentence in packing.split_sentences(text)]
                tokens += sum(map(len, document))
                cut += sum(len(sentence) > recipe.length - 2 for sentence in document)
                if _is_valid(documents.add(text.encode()), recipe.valid_fraction):
                    valid.append(document)
                else:
                    yield document

    pack = packing.FORMATS[recipe.format]
    result, hashes = {}, {}
    for split, source in (("train", train_documents()), ("valid", valid)):
        name = f"{split}-{index:05d}-of-{of:05d}.npy"
        partial = folder / f"{name}.{os.getpid()}.partial"
        writer = ShardWriter(partial, tokenizer, recipe.length)
        writer.write(pack(source, recipe.length, tokenizer.bos, tokenizer.eos))
        hashes[name] = sha256(partial)
        os.replace(partial, folder / name)
        result |= {f"{split}_counts": writer.counts, f"{split}_lengths": writer.lengths}
    valid_documents = len(valid)
    numbers = asdict(counts) | {"tokens": tokens, "valid_documents": valid_documents, "cut_sentences": cut}
    for name, distinct in (("documents", documents), ("lines", lines)):
        distinct._fold()
        result |= {f"{name}_smallest": distinct.smallest, f"{name}_seen": distinct.seen}
    partial = folder / f"shard-{index:05d}.{os.getpid()}.partial.npz"
    np.savez(partial, numbers=json.dumps(numbers), hashes=json.dumps(hashes), **result)
    os.replace(partial, folder / f"shard-{index:05d}.npz")


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever; it ends instead."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _locked(path: Path):
    """Two runs that want the same thing: the second waits, and finds it done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _tokenizer(recipe: Recipe, shards: list[list[Piece]], cache: Path) -> Tokenizer:
    """The one the recipe names, or one trained on the train documents and kept in the cache."""
    if not isinstance(recipe.tokenizer, int):
        return Tokenizer.load(Path(recipe.tokenizer).expanduser())
    fingerprints = [asdict(piece) for pieces in shards for piece in pieces]
    folder = cache / f"tokenizer-{_key(VERSION, recipe.tokenizer, asdict(recipe.reading), recipe.valid_fraction, fingerprints)}"
    with _locked(folder.with_suffix(".lock")):
        if not (folder / "merges.txt").is_file():
            print(f"training a byte-level BPE of {recipe.tokenizer:,} entries", flush=True)
            partial = folder.with_suffix(".partial")
            Tokenizer.train(_training_texts(recipe, shards), recipe.tokenizer).save(partial)
            os.replace(partial, folder)
    return Tokenizer.load(folder)


def _training_texts(recipe: Recipe, shards: list[list[Piece]]) -> Iterator[str]:
    for pieces in shards:
        left = TOKENIZER_BYTES // len(shards)
        for text in (text for piece in pieces for text in read(piece, recipe.reading, Counts())):
            encoded = text.encode()
            if not _is_valid(_hash64(encoded), recipe.valid_fraction):
                yield text
                left -= len(encoded)
            if left <= 0:
                break


def prepare(recipe: Recipe, out: Path | None = None, cache: Path = DEFAULT_CACHE, processes: int | None = None) -> Corpus:
    """The corpus that the recipe describes: made, or found in `out` (by default a folder in the cache).

    A source that is a prepared corpus already is opened, and must be what the recipe asks for.

    Raises:
      UserError: for a source, a tokenizer or a document that cannot be used.
    """
    if len(recipe.source) == 1 and (Path(recipe.source[0]).expanduser() / "manifest.json").is_file():
        return _open_prepared(Path(recipe.source[0]).expanduser(), recipe)
    cache, processes = Path(cache).expanduser(), processes or os.cpu_count()
    shards = resolve(recipe.source, recipe.reading, cache, processes)
    tokenizer = _tokenizer(recipe, shards, cache)
    made_of = [
        asdict(recipe) | {"source": None, "tokenizer": tokenizer.hash},
        [[asdict(piece) for piece in pieces] for pieces in shards],
    ]
    key = _key(VERSION, made_of)
    folder = Path(out) if out else cache / f"corpus-{key}"
    with _locked(folder.with_name(folder.name + ".lock")):
        if not (folder / "manifest.json").is_file():
            if folder.exists() and any(folder.iterdir()):
                raise UserError(f"{folder} is not empty and holds no prepared corpus: name a new folder.")
            partial = folder.with_name(f"{folder.name}.{key}.partial")
            tokenizer.save(partial / "tokenizer")
            _write_shards(shards, recipe, partial, processes)
            manifest = _manifest(recipe, tokenizer, key, len(shards), partial)
            write_atomically(partial / "manifest.json", json.dumps(manifest, indent=1))
            if folder.exists():
                folder.rmdir()
            os.replace(partial, folder)
            for leftover in (*folder.glob("shard-*.npz"), *folder.glob("*.partial*")):  # notes, and what a kill left
                leftover.unlink()
            print(report(manifest), flush=True)
    corpus = Corpus(folder)
    if corpus.manifest["key"] != key:
        raise UserError(
            f"{folder} holds a corpus made from something else (another source, tokenizer or field): name a new folder."
        )
    return corpus


def _open_prepared(folder: Path, recipe: Recipe) -> Corpus:
    corpus = Corpus(folder)
    wanted = {"length": recipe.length, "format": recipe.format}
    if isinstance(recipe.tokenizer, int):
        wanted["vocabulary"] = recipe.tokenizer
    else:
        wanted["tokenizer"] = Tokenizer.load(Path(recipe.tokenizer).expanduser()).hash
    for name, value in wanted.items():
        if corpus.manifest[name] != value:
            raise UserError(
                f"{folder}: this corpus was prepared with {name} {corpus.manifest[name]}, the config asks for {value}; "
                "change the config or prepare the corpus again."
            )
    return corpus


def _write_shards(shards: list[list[Piece]], recipe: Recipe, folder: Path, processes: int) -> None:
    todo = [i for i in range(len(shards)) if not (folder / f"shard-{i:05d}.npz").is_file()]
    sizes = [sum(piece.size for piece in pieces) for pieces in shards]
    # Spawned, not forked: the parent may hold threads of JAX or TensorFlow.
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(
            desc="preparing",
            total=sum(sizes),
            initial=sum(sizes) - sum(sizes[i] for i in todo),
            unit="B",
            unit_scale=True,
        ) as bar,
        ProcessPoolExecutor(min(processes, len(todo)) or 1, context, initializer=_end_with_parent) as pool,
    ):
        try:
            futures = {pool.submit(_write_shard, i, len(shards), shards[i], recipe, folder): i for i in todo}
            for future in as_completed(futures):
                future.result()
                bar.update(sizes[futures[future]])
        except BrokenProcessPool:
            raise UserError(
                f"a process that prepared {folder} was killed, perhaps for want of memory; the same command goes on "
                "where it stopped (fewer processes need less)."
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _manifest(recipe: Recipe, tokenizer: Tokenizer, key: str, of: int, folder: Path) -> dict:
    """Sums up the shards' notes."""
    totals, hashes, lengths, token_counts = {}, {}, {}, np.zeros(len(tokenizer), np.int64)
    in_rows = 0
    distinct = {"documents": Distinct(), "lines": Distinct()}
    notes = [folder / f"shard-{i:05d}.npz" for i in range(of)]
    for path in notes:
        with np.load(path) as note:
            for name, value in json.loads(str(note["numbers"])).items():
                totals[name] = totals.get(name, 0) + value
            hashes |= json.loads(str(note["hashes"]))
            for name in distinct:
                distinct[name].merge(note[f"{name}_smallest"], int(note[f"{name}_seen"]))
            for split in SPLITS:
                lengths[split] = lengths.get(split, 0) + note[f"{split}_lengths"]
                in_rows += int(note[f"{split}_counts"].sum())
                in_rows -= int(note[f"{split}_counts"][[tokenizer.bos, tokenizer.eos]].sum())
            token_counts += note["train_counts"]
    if not totals["documents"]:
        raise UserError(f"data.source {', '.join(recipe.source)}: no document with any text in it; expected at least two.")
    for split in SPLITS:
        if not lengths[split].sum():
            raise UserError(
                f"the {split} split is empty: {totals['documents']:,} documents and data.valid_fraction "
                f"{recipe.valid_fraction}; change that field, or let data.documents part the text into more documents."
            )
    np.save(folder / "token_counts.npy", token_counts)
    hashes["token_counts.npy"] = sha256(folder / "token_counts.npy")
    ids = np.arange(recipe.length + 1)
    return {
        "version": VERSION,
        "key": key,
        "format": recipe.format,
        "length": recipe.length,
        "tokenizer": tokenizer.hash,
        "vocabulary": len(tokenizer),
        "recipe": asdict(recipe),
        "documents": totals["documents"],
        "bytes": totals["bytes"],
        "rows": {split: int(lengths[split].sum()) for split in SPLITS},
        "tokens": {split: int((lengths[split] * ids).sum()) for split in SPLITS},  # special ones too, padding not
        "row_lengths": {split: _deciles(lengths[split]) for split in SPLITS},
        "valid_documents": totals["valid_documents"],
        "empty_documents": totals["empty"],
        "repeated_documents": distinct["documents"].repeated(),
        "repeated_lines": distinct["lines"].repeated(),
        "lines": distinct["lines"].seen,
        "documents_with_invalid_utf8": totals["invalid_utf8"],
        "documents_cut": totals["cut_long"],
        "sentences_cut": totals["cut_sentences"],
        "tokens_lost": totals["tokens"] - in_rows,
        "shards": dict(sorted(hashes.items())),
    }


def _deciles(histogram: np.ndarray) -> list[int]:
    """The shortest, the nine between and the longest, of lengths counted by length."""
    ranks = np.linspace(0, histogram.sum() - 1, 11).astype(np.int64)
    return np.searchsorted(np.cumsum(histogram), ranks, side="right").tolist()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m roberta_jax.data.prepare", description="Prepares a corpus: text → packed rows."
    )
    parser.add_argument("--source", nargs="+", required=True, help="paths, globs, tfds:NAME[:split], or docs")
    parser.add_argument(
        "--tokenizer", required=True, help="a folder with vocab.json and merges.txt, or a vocabulary size to train"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--format", default=Recipe.format, choices=packing.FORMATS)
    parser.add_argument("--length", type=int, default=Recipe.length, help="ids a row (default %(default)s)")
    parser.add_argument(
        "--valid_fraction",
        type=float,
        default=Recipe.valid_fraction,
        help="share of documents held out (default %(default)s)",
    )
    parser.add_argument("--text_column", default=Reading.text_column, help="of JSONL, Parquet and TFDS (default %(default)s)")
    parser.add_argument(
        "--documents",
        default=Reading.documents,
        choices=["blank-line", "file"],
        help="what parts a .txt into documents",
    )
    parser.add_argument("--invalid_utf8", default=Reading.invalid_utf8, choices=["replace", "error"])
    parser.add_argument("--processes", type=int, help="default: one a core")
    parser.add_argument("--json", action="store_true", help="print the manifest instead of the report")
    args = parser.parse_args()
    tokenizer = int(args.tokenizer) if args.tokenizer.isdigit() else args.tokenizer
    reading = Reading(args.text_column, args.documents, args.invalid_utf8)
    recipe = Recipe(tuple(args.source), tokenizer, args.format, args.length, args.valid_fraction, reading)
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        corpus = prepare(recipe, args.out, processes=args.processes)
    if args.json:
        print(json.dumps(corpus.manifest))


if __name__ == "__main__":
    exit_with_sentence(main)
