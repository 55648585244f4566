"""Masked batches here and by transformers' DataCollatorForLanguageModeling, on the same rows, in turn, in one run.

    python -m benchmarks.input_pipeline [--vocab FOLDER] [--json]

Rows of 512 in batches of 256, made of the docstrings installed on this machine. The collator gets torch tensors and the
special tokens' mask, so that it looks for nothing itself. Expected: at least 10 million tokens a second on two cores and 20
times the collator's; and the first batch at step 1,000,000 as fast as the first at step 0, within 2 times.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import ASSETS, compare, comparison_lines, in_turn, needs
from benchmarks.tokenizer import documents
from roberta_jax.errors import exit_with_sentence
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import prepare


def seconds_of(stream: Iterator, batches: int) -> float:
    """Of so many batches behind the first. A stream goes with its turn: it would make the next ones in its peer's."""
    next(stream)
    started = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__.split("\n")[0])
    known = ASSETS / "roberta-vocab"
    parser.add_argument(
        "--vocab",
        default=str(known) if known.is_dir() else "50265",
        help="folder with vocab.json and merges.txt, or a size to train (default: RoBERTa's, of the assets, or its size)",
    )
    parser.add_argument("--megabytes", type=float, default=20, help="of docstrings to make rows of (default %(default)s)")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--masking", default="roberta", help="see roberta_jax/data/masking.py")
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    args = parser.parse_args()
    needs("tensorflow", "torch", "transformers")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        texts = documents(["docs"], args.megabytes)
        (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        vocab = int(args.vocab) if args.vocab.isdigit() else args.vocab
        corpus = prepare(
            CorpusConfig((str(folder / "docs.jsonl"),), vocab, length=args.length), folder / "corpus", folder / "cache"
        )

        import torch  # here, since the processes that prepare the corpus import this module
        import transformers

        from roberta_jax.data.masking import Masking
        from roberta_jax.data.pipeline import train_batches

        masking, batches, few = Masking(args.masking), 40, 4  # the collator is slow
        tokenizer = transformers.RobertaTokenizer.from_pretrained(corpus.folder / "tokenizer")
        collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
        rows = corpus.train.gather(np.arange(few * args.batch_size) % len(corpus.train)).astype(np.int64)
        special = (rows == tokenizer.pad_token_id) | (rows == tokenizer.bos_token_id) | (rows == tokenizer.eos_token_id)
        examples = [
            {"input_ids": ids, "special_tokens_mask": mask}
            for ids, mask in zip(torch.from_numpy(rows), torch.from_numpy(special.astype(np.int64)))
        ]

        def ours() -> float:
            return seconds_of(train_batches(corpus, masking, args.batch_size, seed=0), batches)

        def theirs() -> None:
            for start in range(0, len(examples), args.batch_size):
                collator(examples[start : start + args.batch_size])

        for warm_up in (ours, theirs):
            warm_up()
        seconds = in_turn({"roberta_jax": ours, "DataCollatorForLanguageModeling": theirs}, args.rounds)
        seconds["DataCollatorForLanguageModeling"] = [s * batches / few for s in seconds["DataCollatorForLanguageModeling"]]
        throughput = compare(seconds, batches * args.batch_size * args.length / 1e6)
        first = in_turn(
            {
                f"first batch at step {step:,}": lambda step=step: next(
                    train_batches(corpus, masking, args.batch_size, seed=0, first_step=step)
                )
                for step in (1_000_000, 0)
            },
            args.rounds,
        )
        start = compare(first, 1)
        what = f"{len(corpus.train):,} rows of {args.length}, batches of {args.batch_size}, masking {args.masking}"
    found = {"what": what, "throughput": throughput, "first_batch": start}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """Tables in Markdown."""
    rates = comparison_lines(found["throughput"], "million tokens/s", found["what"])
    return [*rates, "", *comparison_lines(found["first_batch"], "batches/s", "")[2:]]


if __name__ == "__main__":
    exit_with_sentence(main)
