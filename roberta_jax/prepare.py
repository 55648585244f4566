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
from dataclasses import fields

from roberta_jax.config import number_or_name
from roberta_jax.data.corpus import read_manifest
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import make


def parser() -> argparse.ArgumentParser:
    description = "Prepares a corpus: text → packed rows."
    flags = argparse.ArgumentParser(prog="python -m roberta_jax.prepare", description=description, allow_abbrev=False)
    flags.add_argument("--out", required=True, help="the folder to make, here or behind a URL")
    for each in fields(CorpusConfig):
        several, default = each.type == tuple[str, ...], each.default
        how = (
            {"nargs": "+"} if several else {"type": int} if each.type is int else {"type": float} if each.type is float else {}
        )
        if each.name in ("source", "tokenizer"):
            how["required"], said = True, each.metadata["help"]
        else:
            how["default"], said = default, f"{each.metadata['help']} (default {default if default or not several else 'none'})"
        if each.metadata["choices"]:
            how["choices"] = each.metadata["choices"]
        flags.add_argument(f"--{each.name}", help=said.replace("%", "%%"), **how)
    flags.add_argument("--processes", type=int, help="default: one a core")
    flags.add_argument(
        "--beam", action="store_true", help="run on Apache Beam; the flags that are not listed here are Beam's own, --runner=…"
    )
    flags.add_argument("--json", action="store_true", help="print the manifest instead of the report")
    return flags


def run_command(args: argparse.Namespace, **how) -> None:
    """Makes the corpus of the flags and, if they ask for it, prints its manifest.

    Args:
      how: further arguments of `make`.
    """
    chosen = {each.name: getattr(args, each.name) for each in fields(CorpusConfig)}
    chosen |= {name: tuple(chosen[name]) for name in ("source", "exclude")}
    try:
        config = CorpusConfig(**chosen | {"tokenizer": number_or_name(args.tokenizer)})
    except UserError as error:  # of a field, which is a flag here
        raise UserError(str(error).replace("config.data.", "--")) from None
    if args.processes is not None and args.processes < 0:
        raise UserError(f"--processes is {args.processes}; expected 1 or more, or 0: one a core.")
    with redirect_stdout(sys.stderr if args.json else sys.stdout):
        folder = make(config, args.out, workers=args.processes, **how)
    if args.json:
        show(to_json(read_manifest(folder)))


def main() -> None:
    args, others = (flags := parser()).parse_known_args()
    how = {}
    if args.beam:
        try:
            from roberta_jax.preparation import beam  # here, for Beam is an extra
        except ImportError as error:
            raise UserError(f"--beam needs Apache Beam ({error}): pip install 'apache-beam>=2.70,<3'.") from None
        how["run"] = beam.runner(others, known=vars(args))
    elif others:
        flags.error(f"unrecognized arguments: {' '.join(others)}")
    run_command(args, **how)


if __name__ == "__main__":
    exit_with_sentence(main)
