"""Documents to a prepared corpus.

    python -m roberta_jax.prepare --source text/ --tokenizer 50265 --length 512 --out corpus
    python -m roberta_jax.prepare --source gs://bucket/text/ --tokenizer 50265 --out gs://bucket/corpus --beam \\
        --runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://bucket/tmp \\
        --sdk_container_image=IMAGE

A preparation that was stopped goes on where it was when the command is run again.
"""

import argparse
import sys
from contextlib import redirect_stdout

from roberta_jax.data.corpus import read_manifest
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json
from roberta_jax.preparation import packing
from roberta_jax.preparation.documents import CHOICES, Reading
from roberta_jax.preparation.prepare import make
from roberta_jax.preparation.recipe import DEDUPLICATE, Recipe
from roberta_jax.tokenization import encodings


def parser() -> argparse.ArgumentParser:
    description = "Prepares a corpus: text → packed rows."
    flags = argparse.ArgumentParser(prog="python -m roberta_jax.prepare", description=description, allow_abbrev=False)
    flags.add_argument(
        "--source", nargs="+", required=True, help="paths, globs, URLs (gs://, s3://, …), tfds:NAME[:split], or docs"
    )
    flags.add_argument(
        "--tokenizer", required=True, help="a folder with vocab.json and merges.txt, or a vocabulary size to train"
    )
    flags.add_argument(
        "--encoding",
        default=Recipe.encoding,
        choices=encodings.FILES,
        help="of a vocabulary to train: byte-level BPE, BERT's WordPiece, SentencePiece's unigram or BPE, or characters",
    )
    flags.add_argument("--out", required=True, help="the folder to make, here or behind a URL")
    flags.add_argument("--format", default=Recipe.format, choices=packing.FORMATS)
    flags.add_argument("--length", type=int, default=Recipe.length, help="ids a row (default %(default)s)")
    flags.add_argument(
        "--valid_fraction",
        type=float,
        default=Recipe.valid_fraction,
        help="share of documents held out (default %(default)s)",
    )
    flags.add_argument(
        "--deduplicate",
        default=Recipe.deduplicate,
        choices=DEDUPLICATE,
        help="drop documents equal to an earlier one, or also those nearly so (default %(default)s)",
    )
    flags.add_argument(
        "--exclude", nargs="+", default=(), help="evaluation sets, as sources: documents that overlap them are dropped"
    )
    flags.add_argument("--text_column", default=Reading.text_column, help="of JSONL, Parquet and TFDS (default %(default)s)")
    flags.add_argument(
        "--documents", default=Reading.documents, choices=CHOICES["documents"], help="what parts a .txt into documents"
    )
    flags.add_argument("--invalid_utf8", default=Reading.invalid_utf8, choices=CHOICES["invalid_utf8"])
    flags.add_argument("--bad_records", default=Reading.bad_records, choices=CHOICES["bad_records"], help="what cannot be read")
    flags.add_argument("--processes", type=int, help="default: one a core")
    flags.add_argument(
        "--beam", action="store_true", help="run on Apache Beam; the flags that are not listed here are Beam's own, --runner=…"
    )
    flags.add_argument("--json", action="store_true", help="print the manifest instead of the report")
    return flags


def run_command(args: argparse.Namespace, **how) -> None:
    """
    Args:
      how: see `make`.
    """
    tokenizer = int(args.tokenizer) if args.tokenizer.isdigit() else args.tokenizer
    try:
        recipe = Recipe(
            tuple(args.source),
            tokenizer,
            args.format,
            args.length,
            args.valid_fraction,
            Reading(args.text_column, args.documents, args.invalid_utf8, args.bad_records),
            args.deduplicate,
            tuple(args.exclude),
            args.encoding,
        )
    except UserError as error:  # of a field, which is a flag here
        raise UserError(str(error).replace("config.data.", "--")) from None
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        folder = make(recipe, args.out, workers=args.processes, **how)
    if args.json:
        show(to_json(read_manifest(folder)))


def main() -> None:
    args, others = (flags := parser()).parse_known_args()
    if args.beam:
        try:
            from roberta_jax.preparation import beam  # here, for Beam is an extra
        except ImportError as error:
            raise UserError(f"--beam needs Apache Beam ({error}): pip install 'roberta_jax[beam]'.") from None

        how = {"run": beam.runner(others, known=vars(args))}
    elif others:
        flags.error(f"unrecognized arguments: {' '.join(others)}")
    else:
        how = {}
    run_command(args, **how)


if __name__ == "__main__":
    exit_with_sentence(main)
