"""Encoding here and by `tokenizers`, the same vocabulary and the same texts, in turn, in one run: megabytes a second.

    python -m benchmarks.tokenizer [--vocab FOLDER] [--files FILE …] [--json]

Without files the texts are the docstrings installed on this machine; without a vocabulary one of 50,265 is trained on
them. Expected: at least 3 times `tokenizers`' `encode_batch`, and the same ids. `encode_batch_fast`, which leaves out the
offsets, is there for comparison.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import tokenizers

from benchmarks import compare, comparison_lines, in_turn
from roberta_jax import storage
from roberta_jax.errors import exit_with_sentence
from roberta_jax.preparation.config import ReaderConfig
from roberta_jax.preparation.documents import Counts, read, resolve
from roberta_jax.tokenization.tokenizer import ByteLevelBPE


def documents(sources: list[str], megabytes: float) -> list[str]:
    """The first documents of the sources, as many as fit."""
    texts, left, reading = [], megabytes * 1e6, ReaderConfig()
    shards = resolve(sources, reading, storage.CACHE.expanduser(), os.cpu_count())
    for text in (text for pieces in shards for piece in pieces for text in read(piece, reading, Counts())):
        texts.append(text)
        left -= len(text.encode())
        if left < 0:
            break
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizer", description=__doc__.split("\n")[0])
    parser.add_argument("--vocab", help="folder with vocab.json and merges.txt (default: one of 50,265 is trained)")
    parser.add_argument("--files", nargs="+", default=["docs"], help="sources of text (default: the docstrings)")
    parser.add_argument("--megabytes", type=float, default=20, help="of text at most (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    texts = documents(args.files, args.megabytes)
    ours = ByteLevelBPE.load(args.vocab) if args.vocab else ByteLevelBPE.train(texts, 50_265)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        theirs = tokenizers.ByteLevelBPETokenizer(str(Path(folder, "vocab.json")), str(Path(folder, "merges.txt")))
    equal = all(a.tolist() == b.ids for a, b in zip(ours.encode_batch(texts), theirs.encode_batch(texts)))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    sides = {
        "roberta_jax": lambda: ours.encode_batch(texts),
        "tokenizers' encode_batch": lambda: theirs.encode_batch(texts),
        "tokenizers' encode_batch_fast": lambda: theirs._tokenizer.encode_batch_fast(texts),
    }
    result = compare(in_turn(sides, args.rounds), megabytes)
    result |= {"texts": len(texts), "megabytes": megabytes, "vocabulary": len(ours), "same_ids": equal}
    print(json.dumps(result) if args.json else "\n".join(lines(result)))


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    ids = "equal" if found["same_ids"] else "DIFFERENT"
    what = f"{found['texts']:,} texts, {found['megabytes']:.1f} MB, vocabulary {found['vocabulary']:,}, {ids} ids"
    return comparison_lines(found, "MB/s", what)


if __name__ == "__main__":
    exit_with_sentence(main)
