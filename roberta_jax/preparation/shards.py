"""One shard's rows, a pure function of the plan, and what all shards' notes say together."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np

from roberta_jax import storage
from roberta_jax.data.corpus import SPLITS, ShardWriter
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import hashes_in
from roberta_jax.output import to_json
from roberta_jax.preparation import duplicates, packing
from roberta_jax.preparation.config import CorpusConfig, recipe
from roberta_jax.preparation.documents import FIRST_BAD, Counts, Piece, read
from roberta_jax.preparation.hashing import DistinctCounter
from roberta_jax.preparation.plan import Preparation, plan_of, tokenizer_of
from roberta_jax.storage import sha256
from roberta_jax.tokenization.tokenizer import Tokenizer

VERSION = 1  # of the rows that a config gives; part of the cache key
SHOWN = 20  # of each kind of dropped documents stand in dropped.jsonl


def is_valid(document_hash: int, valid_fraction: float) -> bool:
    return document_hash < valid_fraction * 2**64


def _note(work: Preparation, shard: int) -> str:
    return work.path(f"shard-{shard:05d}.npz")


def write_shard(work: Preparation, shard: int, blocks: duplicates.Blocks = ()) -> dict[str, int]:
    """Both splits' rows of one shard; its note, written last, says that they are whole and what they hold.

    Args:
      blocks: from `duplicates.compare`, where the config drops documents.

    Returns:
      What was counted, {} where the shard was there already.
    """
    if storage.exists(_note(work, shard)):
        return {}
    plan, tokenizer = plan_of(work), tokenizer_of(work)
    config, pieces = plan.config, plan.shards[shard]
    dropped = duplicates.verdicts(work, shard, blocks) if config.drops else {}
    counts, documents, lines, valid, ends, shown = Counts(), DistinctCounter(), DistinctCounter(), [], [], []
    counted = ("bytes", "words", "tokens", "tokens_in_rows", "valid_documents", "cut_sentences")
    totals = dict.fromkeys((*counted, *duplicates.REASONS), 0)

    def texts() -> Iterator[str]:
        number = 0
        for piece in pieces:
            for text in read(piece, config, counts):
                if verdict := dropped.get(number):
                    counts.documents -= 1
                    totals[verdict.kind] += 1
                    if totals[verdict.kind] <= SHOWN:
                        shown.append({"position": shard << 32 | number, **asdict(verdict), "text": text[:200]})
                else:
                    yield text
                number += 1
            ends.append(number)

    def train_documents() -> Iterator[packing.Document]:
        for text in texts():
            for line in text.split("\n"):
                lines.add(line.encode())
            sentences = sentences_of(text)
            totals["bytes"] += len("".join(sentences).encode())  # no white space that no token stands for
            totals["words"] += sum(len(sentence.split()) for sentence in sentences)
            whole = sum(map(len, sentences)) == len(text)
            document = tokenizer.encode_sentences(sentences) if whole else [tokenizer.encode(each) for each in sentences]
            totals["tokens"] += sum(map(len, document))
            totals["cut_sentences"] += sum(len(sentence) > longest for sentence in document)
            if is_valid(documents.add(text.encode()), config.valid_fraction):
                valid.append(document)
            else:
                yield document

    sentences_of = packing.sentences_of(config.format)
    pack, longest = packing.FORMATS[config.format], packing.longest_sentence(config.format, config.length)
    arrays, hashes = {}, {}
    for split, source in (("train", train_documents()), ("valid", valid)):
        name = f"{split}-{shard:05d}-of-{len(plan.shards):05d}.npy"
        with storage.written(storage.join(work.folder, name)) as partial:
            writer = ShardWriter(partial, tokenizer, config.length)
            writer.write(pack(source, config.length, tokenizer.bos, tokenizer.eos))
            hashes[name] = sha256(partial)
        totals["tokens_in_rows"] += int(np.delete(writer.counts, [tokenizer.bos, tokenizer.eos]).sum())
        arrays[f"{split}_lengths"] = writer.lengths
        if split == "train":
            arrays["token_counts"] = writer.counts
    totals["valid_documents"] = len(valid)
    totals |= asdict(counts)
    said = {"first_bad": totals.pop("first_bad"), "dropped": shown, "ends": ends}
    for name, distinct in (("documents", documents), ("lines", lines)):
        distinct.fold()
        arrays |= {f"{name}_smallest": distinct.smallest, f"{name}_seen": distinct.seen}
    texts_of_note = {name: json.dumps(value) for name, value in (("numbers", totals), ("hashes", hashes), ("said", said))}
    duplicates.save_arrays(_note(work, shard), **texts_of_note, **arrays)
    return totals


def unwritten(work: Preparation) -> list[int]:
    there = storage.names(storage.join(work.folder, "work"))
    return [shard for shard in range(len(plan_of(work).shards)) if _note(work, shard).rpartition("/")[2] not in there]


def summarise(work: Preparation, tokenizer: Tokenizer) -> dict:
    """The manifest, from the shards' notes; writes token_counts.npy and, where documents were dropped, dropped.jsonl."""
    plan = plan_of(work)
    config = plan.config
    totals, hashes, lengths, token_counts = {}, {}, {}, np.zeros(len(tokenizer), np.int64)
    first_bad, ends, dropped = [], [], {kind: [] for kind in duplicates.REASONS}
    came_later = {"words"}  # counts that an older version's shards lack
    distinct = {"documents": DistinctCounter(), "lines": DistinctCounter()}
    with ThreadPoolExecutor(8) as threads:
        for note in threads.map(lambda i: duplicates.load_arrays(_note(work, i)), range(len(plan.shards))):
            numbers = json.loads(str(note["numbers"]))
            came_later &= numbers.keys()
            for name, value in numbers.items():
                totals[name] = totals.get(name, 0) + value
            hashes |= json.loads(str(note["hashes"]))
            said = json.loads(str(note["said"]))
            first_bad = (first_bad + said["first_bad"])[:FIRST_BAD]
            ends.append(said["ends"])
            for each in said["dropped"]:
                dropped[each["kind"]] = (dropped[each["kind"]] + [each])[:SHOWN]
            for name in distinct:
                distinct[name].merge(note[f"{name}_smallest"], int(note[f"{name}_seen"]))
            for split in SPLITS:
                lengths[split] = lengths.get(split, 0) + note[f"{split}_lengths"]
            token_counts += note["token_counts"]
    _refuse_empty(totals, lengths, config)
    counts = io.BytesIO()
    np.save(counts, token_counts)
    with storage.written(storage.join(work.folder, "token_counts.npy")) as partial:
        partial.write_bytes(counts.getvalue())
        hashes["token_counts.npy"] = sha256(partial)
    if config.drops:
        examples = [_example(each, plan.shards, ends) for kind in duplicates.REASONS for each in dropped[kind]]
        text = "".join(to_json(each) + "\n" for each in examples)
        storage.write_text(storage.join(work.folder, "dropped.jsonl"), text)
    ids = np.arange(config.length + 1)
    return {
        "version": VERSION,
        "key": work.key,
        "format": config.format,
        "length": config.length,
        "tokenizer": tokenizer.hash,
        "vocabulary": len(tokenizer),
        "encoding": tokenizer.encoding,
        "recipe": recipe(config),
        "documents": totals["documents"],
        "bytes": totals["bytes"],
        **{name: totals[name] for name in came_later},  # as white space parts them
        "text_tokens": totals["tokens"],  # of both splits, no special ones
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
        "tokens_lost": totals["tokens"] - totals["tokens_in_rows"],
        "dropped": {kind: totals[kind] for kind in duplicates.REASONS},
        "bad_records": totals["bad_records"],
        "first_bad_records": first_bad,
        "shards": dict(sorted(hashes.items())),
        "tokenizer_files": hashes_in(storage.join(work.folder, "tokenizer")),
    }


def _refuse_empty(totals: dict[str, int], lengths: dict[str, np.ndarray], config: CorpusConfig) -> None:
    if not totals["documents"]:
        lost = {kind: totals[kind] for kind in (*duplicates.REASONS, "bad_records") if totals[kind]}
        but = f" left ({', '.join(f'{name}: {number:,}' for name, number in lost.items())})" if lost else ""
        sources = ", ".join(config.source)
        raise UserError(f"data.source {sources}: no document with any text in it{but}; expected at least two.")
    for split in SPLITS:
        if not lengths[split].sum():
            raise UserError(
                f"the {split} split is empty: {totals['documents']:,} documents and data.valid_fraction "
                f"{config.valid_fraction}; change that field, or let data.documents part the text into more documents: with "
                "'line' each line of a .txt is one."
            )


def _deciles(histogram: np.ndarray) -> list[int]:
    """The shortest, the nine between and the longest, of lengths counted by length."""
    ranks = np.linspace(0, histogram.sum() - 1, 11).astype(np.int64)
    return np.searchsorted(np.cumsum(histogram), ranks, side="right").tolist()


def _example(dropped: dict, shards: list[list[Piece]], ends: list[list[int]]) -> dict:
    """A line of dropped.jsonl: what was dropped, where it stands and why."""

    def place(position: int) -> str:
        shard, number = position >> 32, position & 0xFFFFFFFF
        index = int(np.searchsorted(ends[shard], number, side="right"))
        piece = shards[shard][index]
        unit = {"parquet": "row group", "tfds": "example"}.get(piece.kind, "byte")
        return f"{piece.path}, document {number - [0, *ends[shard]][index] + 1} from {unit} {piece.start:,}"

    line = {"kind": dropped["kind"], "document": place(dropped["position"]), "text": dropped["text"]}
    if dropped["ngram"] is not None:
        return line | {"shared": dropped["ngram"]}
    return line | {"repeats": place(dropped["first"]), "similarity": dropped["similarity"]}
