"""The most probable words in the place of `<mask>`.

python -m roberta_jax.fill_mask --model=/tmp/run "Paris is the <mask> of France."
"""

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterable, Iterator

from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json

CHUNK = 1_024  # texts that are answered together


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roberta_jax.fill_mask", description=__doc__.split("\n")[0])
    parser.add_argument("texts", nargs="+", help="with one <mask> or several in each; - reads lines from standard input")
    parser.add_argument("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    parser.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step")
    parser.add_argument("--top_k", type=int, default=5, help="guesses for a mask (default %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    parser.add_argument("--json", action="store_true", help="print one JSON object a text")
    args = parser.parse_args()
    from roberta_jax.inference import load  # here, so that --help does not wait for JAX

    model = load(args.model, args.checkpoint, args.dtype)
    texts = itertools.chain.from_iterable(_lines() if text == "-" else [text] for text in args.texts)
    at_once = 1 if args.texts == ["-"] and sys.stdin and sys.stdin.isatty() else CHUNK  # who types waits for each answer
    while chunk := list(itertools.islice(texts, at_once)):
        for text, masks in zip(chunk, model.fill_mask(chunk, args.top_k)):
            if args.json:
                guesses = [[dataclasses.asdict(guess) for guess in mask] for mask in masks]
                show(to_json({"text": text, "masks": guesses}))
            else:
                show("\n".join(_table(text, masks)))


def _lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer if sys.stdin else (), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"line {number} of standard input is not UTF-8 ({error}).") from None
        if text.strip():
            yield text


def _table(text: str, masks: Iterable[list]) -> Iterator[str]:
    yield text
    for number, guesses in enumerate(masks, 1):
        yield f"  mask {number}"
        for guess in guesses:
            yield f"  {guess.probability:8.2%}  {guess.token!r}"


if __name__ == "__main__":
    exit_with_sentence(main)
