"""What a prepared corpus holds, and its rows as training will see them: measured once, for a person and as JSON."""

import unicodedata
from collections import Counter
from dataclasses import asdict
from typing import NamedTuple

import numpy as np

from roberta_jax.data.corpus import SPLITS, Corpus
from roberta_jax.data.masking import Masking
from roberta_jax.data.order import epochs_and_rows
from roberta_jax.data.pipeline import train_batches
from roberta_jax.tokenization.scripts import script_of
from roberta_jax.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

SAMPLE_TOKENS = 1 << 20  # in so many are masks, lengths and scripts measured: the first rows of the run, a random choice
BINS = 16  # of the histogram of lengths
TOP = 20  # tokens
RARE = 10  # an id that stands in the rows less often is rare

_CATEGORIES = {"N": "digits", "P": "punctuation", "S": "punctuation", "Z": "space"}


class Piece(NamedTuple):
    """A stretch of a row.

    `kind` is "text"; "special", for special tokens; or, of what is predicted, "masked", "random", "kept". `became` is
    what a random token put there.
    """

    kind: str
    text: str
    became: str = ""


def corpus_statistics(corpus: Corpus, masking: Masking, batch_size: int, steps: int, seed: int, rows: int = 8) -> dict:
    """What there is to know of a corpus before a run trains on it.

    Args:
      batch_size, steps, seed: of the run.
      rows: so many of the first that it sees are shown.

    Returns:
      What JSON can hold, but for the rows' "pieces", lists of `Piece`.
    """
    manifest, tokenizer = corpus.manifest, corpus.tokenizer
    sample = max(rows, SAMPLE_TOKENS // corpus.length)
    sample = min(sample, len(corpus.train))  # no row twice
    batch = next(train_batches(corpus, masking, sample, seed))
    seen, original = batch["input_ids"], batch["input_ids"].copy()
    np.put_along_axis(original, batch["positions"], batch["labels"], 1)
    predicted = np.zeros(seen.shape, bool)
    np.put_along_axis(predicted, batch["positions"], batch["weights"] > 0, 1)
    lengths = (original != tokenizer.pad).sum(1)
    counts, edges = np.histogram(lengths, BINS, (0, corpus.length))
    masks = _masks(seen, original, predicted, tokenizer)
    text = [tokenizer.decode_bytes(row).decode("utf-8", "surrogateescape") for row in original]
    mean_length = manifest["tokens"]["train"] / manifest["rows"]["train"]
    tokens = sum(manifest["tokens"].values())
    said = ("format", "length", "vocabulary", "documents", "valid_documents", "bytes", "empty_documents")
    said += ("repeated_documents", "repeated_lines", "lines", "documents_with_invalid_utf8", "documents_cut")
    return {
        "corpus": str(corpus.folder),
        "source": list(manifest["recipe"]["source"]),
        **{name: manifest[name] for name in said},
        **{name: manifest.get(name, nothing) for name, nothing in (("dropped", {}), ("bad_records", 0))},  # came later
        "tokens": tokens,
        "bytes_per_token": manifest["bytes"] / manifest.get("text_tokens", tokens),  # special ones left out
        "splits": {split: _split(manifest, split) for split in SPLITS},
        "run": {
            "steps": steps,
            "batch_size": batch_size,
            "seed": seed,
            "rows": len(corpus.train),
            "epochs": steps * batch_size / len(corpus.train),
            "tokens": round(steps * batch_size * mean_length),
        },
        "sample_rows": sample,
        "masking": asdict(masking) | {"keep_prob": masking.keep_prob, "slots": masking.slots(corpus.length)} | masks,
        "inputs_per_row": float(batch["segment_ids"].max(1).mean()),
        "row_lengths": {"edges": edges.tolist(), "rows": counts.tolist()},
        "scripts": scripts("".join(text)),
        "top_tokens": _top_tokens(corpus),
        "vocabulary_use": _vocabulary_use(corpus),
        "rows": _rows(corpus, batch, original, predicted, batch_size, seed, min(rows, sample)),
    } | ({"is_next": float(batch["is_next"].mean())} if "is_next" in batch else {})


def _split(manifest: dict, split: str) -> dict:
    rows, tokens = manifest["rows"][split], manifest["tokens"][split]
    fill = tokens / rows / manifest["length"]
    return {"rows": rows, "tokens": tokens, "fill": fill, "length_deciles": manifest["row_lengths"][split]}


def _kinds(seen: np.ndarray, original: np.ndarray, predicted: np.ndarray, mask: int) -> np.ndarray:
    """What was done at each position, "" where nothing is predicted."""
    kind = np.where(seen == original, "kept", np.where(seen == mask, "masked", "random"))
    return np.where(predicted, kind, "")


def _masks(seen: np.ndarray, original: np.ndarray, predicted: np.ndarray, tokenizer: Tokenizer) -> dict:
    """Shares of what is predicted: of all tokens that are not special, and of it what became what."""
    tokens = (~np.isin(original, [tokenizer.bos, tokenizer.pad, tokenizer.eos])).sum()
    kinds, total = _kinds(seen, original, predicted, tokenizer.mask), predicted.sum()
    shares = {kind: float((kinds == kind).sum() / max(total, 1)) for kind in ("masked", "random", "kept")}
    without = float((~predicted.any(1)).mean())
    return {"predicted": float(total / tokens), "predicted_per_row": float(total / len(seen)), "rows_without": without} | shares


def _rows(corpus, batch, original, predicted, batch_size: int, seed: int, rows: int) -> list[dict]:
    tokenizer, shown = corpus.tokenizer, []
    numbers = corpus.train.numbers(epochs_and_rows(np.arange(rows), len(corpus.train), seed)[1].numpy())
    for i in range(rows):
        length = int((original[i] != tokenizer.pad).sum())
        seen, was, at = batch["input_ids"][i, :length], original[i, :length], np.flatnonzero(predicted[i])
        row = {
            "step": i // batch_size,
            "row": int(numbers[i]),
            "input_ids": seen.tolist(),
            "positions": at.tolist(),
            "labels": was[at].tolist(),
            "text": tokenizer.decode(was),
            "seen": tokenizer.decode(seen),
            "pieces": pieces(seen, was, predicted[i, :length], tokenizer),
        }
        if "is_next" in batch:
            row |= {"is_next": int(batch["is_next"][i]), "token_type_ids": batch["token_type_ids"][i, :length].tolist()}
        shown.append(row)
    return shown


def pieces(seen: np.ndarray, original: np.ndarray, predicted: np.ndarray, tokenizer: Tokenizer) -> list[Piece]:
    """A row [L] in stretches of one kind, a new one at each `<s>`; their texts joined are the row's.

    A character whose bytes are parted among tokens stays whole: all of it goes to the first of them that is predicted.
    """
    special = np.isin(original, [tokenizer.bos, tokenizer.eos])
    kinds = _kinds(seen, original, predicted, tokenizer.mask)
    kinds = np.where(kinds != "", kinds, np.where(special, "special", "text"))
    starts = np.flatnonzero([True, *((kinds[1:] != kinds[:-1]) | (original[1:] == tokenizer.bos))])
    runs = [slice(start, end) for start, end in zip(starts, [*starts[1:], len(kinds)])]
    written = [b"".join(_bytes(i, tokenizer) for i in original[run]) for run in runs]
    run_of = np.repeat(np.arange(len(runs)), [len(part) for part in written])  # of each byte
    texts, at = [""] * len(runs), 0
    for character in b"".join(written).decode("utf-8", "surrogateescape"):
        size = len(character.encode("utf-8", "surrogateescape"))
        within = run_of[at : at + size]
        run = next((run for run in within if kinds[starts[run]] != "text"), within[0])
        texts[run] += "\ufffd" if "\udc80" <= character <= "\udcff" else character
        at += size
    row_pieces = []
    for run, text in zip(runs, texts):
        kind = str(kinds[run.start])
        became = b"".join(_bytes(i, tokenizer) for i in seen[run]).decode("utf-8", "replace") if kind == "random" else ""
        if text or kind != "text":
            row_pieces.append(Piece(kind, text, became))
    return row_pieces


def _bytes(id: int, tokenizer: Tokenizer) -> bytes:
    """What an id stands for; special ones by name, those that text cannot give by number."""
    special = (tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.unk, tokenizer.mask)
    if id in special:
        return SPECIAL_TOKENS[special.index(id)].encode()
    return tokenizer.token_bytes[id] or f"<{id}>".encode()


def scripts(text: str) -> dict[str, float]:
    """The share of each script in the text's UTF-8 bytes, the largest first; bytes that are not UTF-8 are "other"."""
    sizes = Counter()
    for character, number in Counter(text).items():
        sizes[_script(character)] += number * len(character.encode("utf-8", "surrogateescape"))
    return {name: size / sizes.total() for name, size in sizes.most_common()}


def _script(character: str) -> str:
    if character.isspace():
        return "space"
    if kind := _CATEGORIES.get(unicodedata.category(character)[0]):
        return kind
    return script_of(character) or "other"


def _text_counts(corpus: Corpus) -> np.ndarray:
    """How often each id stands in the train rows, special ones not counted. int64 [vocabulary]"""
    counts = corpus.token_counts.copy()
    counts[[corpus.tokenizer.bos, corpus.tokenizer.pad, corpus.tokenizer.eos]] = 0
    return counts


def _top_tokens(corpus: Corpus) -> list[dict]:
    counts = _text_counts(corpus)
    return [
        {
            "id": int(i),
            "text": _bytes(i, corpus.tokenizer).decode("utf-8", "backslashreplace"),
            "count": int(counts[i]),
            "share": float(counts[i] / counts.sum()),
        }
        for i in np.argsort(-counts, kind="stable")[:TOP]
        if counts[i]
    ]


def _vocabulary_use(corpus: Corpus) -> dict:
    """Of the ids that text can give, how many the train rows never use, and how many fewer than `RARE` times; the share of
    the tokens that are `<unk>`.
    """
    counts = _text_counts(corpus)
    of_text = counts[corpus.tokenizer.text_ids]
    never, rare = int((of_text == 0).sum()), int(((of_text > 0) & (of_text < RARE)).sum())
    unknown = float(counts[corpus.tokenizer.unk] / counts.sum())
    return {"ids": len(of_text), "never": never, "rare": rare, "unknown": unknown}
