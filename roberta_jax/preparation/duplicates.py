"""Which documents to drop: exact and near duplicates of an earlier one, and those that overlap an evaluation set.

Three stages, each a function (work, key, blocks sent to that key) → (key, block) to the next stage, so that processes here
and Apache Beam run the same ones. `sketch` reads a shard and sends each document's hashes to a partition; `earliest` pairs
each document with the first in source order that has the same hash; `compare` sends the first one's signature to the other's
shard, where `verdicts` decides. A document is a near duplicate where the first with which it shares a band has a
similarity to it of at least NEAR; whether that one is itself dropped does not matter, so no order of work does.
"""

import functools
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.preparation import ngrams
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.documents import Counts, read
from roberta_jax.preparation.hashing import hash64
from roberta_jax.preparation.plan import Preparation, plan_of

NEAR = 0.8  # the estimated Jaccard similarity of two documents' shingles from which the later one is dropped
EXACT, SIMILAR, OVERLAPPING = REASONS = ("exact_duplicates", "near_duplicates", "overlapping_documents")

# A document's position is its shard · 2³² + its number there: the order of the source.
RECORD = np.dtype([("hash", "u8"), ("position", "u8"), ("exact", "?")])
PAIR = np.dtype([("position", "u8"), ("first", "u8"), ("exact", "?")])
Blocks = Iterable[bytes]


def _candidates(width: int) -> np.dtype:
    return np.dtype([*PAIR.descr, ("signature", "u2", (width,))])


@dataclass(frozen=True)
class Dropped:
    kind: str  # one of REASONS
    first: int | None = None  # the position of the document that it repeats
    similarity: float | None = None
    ngram: str | None = None  # shared with an evaluation set


def save_overlap(work: Preparation, overlap: ngrams.Overlap) -> None:
    save_arrays(work.path("exclude.npz"), grams=overlap.grams, lengths=np.array(overlap.lengths, np.int64))


@functools.lru_cache(1)
def _overlap_of(work: Preparation) -> ngrams.Overlap:
    saved = load_arrays(work.path("exclude.npz"))
    return ngrams.Overlap(saved["grams"], saved["lengths"])


def save_arrays(path: str, **arrays) -> None:
    with storage.written(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: str) -> dict[str, np.ndarray]:
    """Raises a UserError where the file is damaged."""
    try:
        with np.load(io.BytesIO(storage.read_bytes(path))) as saved:
            return dict(saved)
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({storage.reason(error)}); delete it, and the same command makes it anew."
        ) from None


def sketch_file(shard: int) -> str:
    return f"sketch-{shard:05d}.npz"


def sketch(work: Preparation, shard: int, _: Blocks) -> Iterator[tuple[int, bytes]]:
    path = work.path(sketch_file(shard))
    if not storage.exists(path):
        _write_sketch(work, shard, path)
    config = plan_of(work).config
    saved = load_arrays(path)
    digests, signatures = saved["digests"], saved["signatures"]
    taken = np.ones(len(digests), bool)
    taken[list(map(int, json.loads(str(saved["overlaps"]))))] = False
    positions = np.arange(len(digests), dtype=np.uint64) + np.uint64(shard << 32)
    records = []
    if config.deduplicate != "none":
        records.append(_records(digests[taken], positions[taken], True))
    if config.deduplicate == "near":
        taken &= signatures.any(axis=1)  # a text without words has no signature
        for hashes in ngrams.bands(signatures[taken]).T:
            records.append(_records(hashes, positions[taken], False))
    if records:
        records = np.concatenate(records)
        yield from _grouped(records["hash"] % np.uint64(plan_of(work).partitions), records)


def _records(hashes: np.ndarray, positions: np.ndarray, exact: bool) -> np.ndarray:
    records = np.empty(len(hashes), RECORD)
    records["hash"], records["position"], records["exact"] = hashes, positions, exact
    return records


def _grouped(keys: np.ndarray, items: np.ndarray) -> Iterator[tuple[int, bytes]]:
    order = np.argsort(keys, kind="stable")
    names, starts = np.unique(keys[order], return_index=True)
    for name, part in zip(names.tolist(), np.split(order, starts[1:])):
        yield name, items[part].tobytes()


def _write_sketch(work: Preparation, shard: int, path: str) -> None:
    plan = plan_of(work)
    config, counts = plan.config, Counts()
    overlap = _overlap_of(work) if config.exclude else None
    digests, signatures, overlaps = [], [], {}
    for text in (text for piece in plan.shards[shard] for text in read(piece, config, counts)):
        if overlap or config.deduplicate == "near":
            words = ngrams.words(text)
            if overlap and (ngram := overlap.find(words)) is not None:
                overlaps[len(digests)] = ngram
            if config.deduplicate == "near":
                signatures.append(ngrams.signature(words[0]))
        digests.append(hash64(text.encode()))
    signatures = np.array(signatures, np.uint16).reshape(len(digests), _width(config))
    save_arrays(path, digests=np.array(digests, np.uint64), signatures=signatures, overlaps=json.dumps(overlaps))


def _width(config: CorpusConfig) -> int:
    return ngrams.HASHES if config.deduplicate == "near" else 0


def _joined(blocks: Blocks, dtype: np.dtype) -> np.ndarray:
    return np.frombuffer(b"".join(blocks), dtype)


def earliest(work: Preparation, partition: int, blocks: Blocks) -> Iterator[tuple[int, bytes]]:
    records = _joined(blocks, RECORD)
    records = records[np.lexsort((records["position"], records["hash"]))]
    begins = np.flatnonzero(np.diff(records["hash"], prepend=records["hash"][:1] + np.uint64(1)))  # a hash's first record
    pairs = np.empty(len(records), PAIR)
    pairs["position"], pairs["exact"] = records["position"], records["exact"]
    pairs["first"] = np.repeat(records["position"][begins], np.diff(begins, append=len(records)))
    pairs = pairs[pairs["position"] != pairs["first"]]
    yield from _grouped(pairs["first"] >> np.uint64(32), pairs)


def compare(work: Preparation, shard: int, blocks: Blocks) -> Iterator[tuple[int, bytes]]:
    pairs = _joined(blocks, PAIR)
    if not len(pairs):
        return
    pairs = pairs[np.lexsort([pairs[name] for name in PAIR.names])]
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]  # most near duplicates meet in several bands
    signatures = load_arrays(work.path(sketch_file(shard)))["signatures"]
    for other, block in _grouped(pairs["position"] >> np.uint64(32), pairs):
        part = np.frombuffer(block, PAIR)
        candidates = np.empty(len(part), _candidates(signatures.shape[1]))
        for name in PAIR.names:
            candidates[name] = part[name]
        candidates["signature"] = signatures[_number(part["first"])]
        yield other, candidates.tobytes()


def _number(positions: np.ndarray) -> np.ndarray:
    return (positions & np.uint64(0xFFFFFFFF)).astype(np.int64)


def verdicts(work: Preparation, shard: int, blocks: Blocks) -> dict[int, Dropped]:
    """The documents of a shard that are dropped, by their number."""
    config = plan_of(work).config
    saved = load_arrays(work.path(sketch_file(shard)))
    signatures, overlaps = saved["signatures"], json.loads(str(saved["overlaps"]))
    dropped = {int(number): Dropped(OVERLAPPING, ngram=ngram) for number, ngram in overlaps.items()}
    candidates = _joined(blocks, _candidates(_width(config)))
    numbers = _number(candidates["position"])
    similarity = np.ones(len(candidates))
    if config.deduplicate == "near":
        for start in range(0, len(candidates), 1 << 16):
            part = slice(start, start + (1 << 16))
            similarity[part] = (candidates["signature"][part] == signatures[numbers[part]]).mean(axis=1)
    for i in np.lexsort((candidates["first"], ~candidates["exact"])):  # the exact ones first, then the earliest
        if (candidates["exact"][i] or similarity[i] >= NEAR) and numbers[i] not in dropped:
            kind = EXACT if candidates["exact"][i] else SIMILAR
            dropped[int(numbers[i])] = Dropped(kind, int(candidates["first"][i]), round(float(similarity[i]), 3))
    return dropped


STAGES = (sketch, earliest, compare)
