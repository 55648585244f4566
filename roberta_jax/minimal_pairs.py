"""Which of two sentences a masked LM finds more probable: BLiMP, its supplement, Zorro, or pairs of your own.

python -m roberta_jax.minimal_pairs --model=/tmp/run --source=blimp/ [--pairs=100] [--metric=pll] [--all] [--json]
"""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from roberta_jax import storage
from roberta_jax.config import typed
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json
from roberta_jax.pairs import suites
from roberta_jax.training.workdir import CHECKPOINTS, CONFIG_JSON, is_workdir, read_metrics

if TYPE_CHECKING:
    from roberta_jax.inference import Model

DEFAULT_METRIC = "pll"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roberta_jax.minimal_pairs", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    add("--source", required=True, nargs="+", action="extend", help="files, folders or globs: .jsonl, .csv, .tsv, Zorro's .txt")
    add("--metric", default=DEFAULT_METRIC, help="pll, pll-word-l2r or holistic (default %(default)s)")
    add("--pairs", type=int, default=0, help="of each paradigm, a sample that is the same for every model; 0: all (default)")
    add("--good", default=suites.GOOD, help="the field or column of the acceptable sentence (default %(default)s)")
    add("--bad", default=suites.BAD, help="of the other one (default %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step (default %(default)s)")
    which.add_argument("--all", action="store_true", help="every checkpoint of the workdir that is kept, and a curve")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    add("--json", action="store_true", help="print one JSON object a checkpoint")
    args = parser.parse_args()
    if args.pairs < 0:
        raise UserError(f"--pairs is {args.pairs}; expected a number of pairs, or 0 for all.")
    read = suites.read(args.source, args.good, args.bad, args.pairs)  # before JAX: what is wrong there is said at once
    run(args, read)


def run(args: argparse.Namespace, read: list[suites.Suite]) -> None:
    import jax

    from roberta_jax.pairs import accuracy, table
    from roberta_jax.scoring import METRICS

    if args.metric not in METRICS:
        raise UserError(f"--metric is {args.metric!r}; it can be {', '.join(METRICS)}.")
    if not jax.config.jax_compilation_cache_dir:  # a model in training is scored over and over
        jax.config.update("jax_compilation_cache_dir", str(storage.CACHE.expanduser() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    notes = _notes(args.model, args.metric)
    points = []
    for model, about in _models(args):
        results = accuracy.measure(read, lambda texts: model.score(texts, args.metric, sys.stderr.isatty()))  # noqa: B023
        if args.json:
            found = {"model": model.origin, **about, "metric": args.metric, "notes": notes, "intervals": accuracy.INTERVALS}
            show(to_json(found | {"suites": table.as_json(results, args.metric)}))
            continue
        show(f"{model.origin}\n{args.metric}: {METRICS[args.metric]}")
        show("\n".join([*notes, "", *table.lines(results, args.metric), ""]))
        points.append((_said(about), results))
    if args.all and not args.json:
        show("\n".join(table.curve(points)))


def _models(args: argparse.Namespace) -> Iterator[tuple["Model", dict]]:
    """Each model to score, and of a workdir's checkpoint its step, the tokens that it had seen and its valid loss."""
    from roberta_jax.inference import load
    from roberta_jax.interop.hub import steps_of

    if not args.all:
        yield load(args.model, args.checkpoint, args.dtype), {}
        return
    steps = steps_of(args.model)
    if not steps:
        raise UserError(f"--all: {args.model} has no {CHECKPOINTS} folder with a checkpoint in it.")
    for step in steps:
        try:
            model = load(args.model, step, args.dtype)
        except UserError:
            if step in steps_of(args.model):
                raise
            show(f"{args.model}, step {step:,} was removed by the run meanwhile", sys.stderr)
            continue
        yield model, _about(args.model, step)


def _about(workdir: str, step: int) -> dict:
    from roberta_jax.interop.hub import seen_by

    config = storage.read_json(storage.join(workdir, CONFIG_JSON))
    ids = step * config.get("batch_size", 0) * config.get("data", {}).get("length", 0)  # where that is not noted
    about = {"step": step, "tokens_seen": seen_by(workdir, step).get("tokens") or ids}
    losses = [line["valid/loss"] for line in read_metrics(workdir) if line.get("step") == step and "valid/loss" in line]
    return about | ({"valid_loss": losses[-1]} if losses else {})


def _said(about: dict) -> str:
    loss = f"valid loss {about['valid_loss']:7.4f}" if "valid_loss" in about else f"{'':18}"
    return f"step {about['step']:>9,} {about['tokens_seen'] / 1e6:9,.1f}M tokens {loss}" if about else ""


def _notes(model: str, metric: str) -> list[str]:
    """What must be known to read the figures: by the holistic metric, whether the model has learned kept tokens."""
    if metric != "holistic":
        return []
    rule = "holistic scores are only for models that never learned to predict kept tokens"
    if not is_workdir(model):
        return [f"Note: {rule}, which nothing in {model} tells of."]
    kept = _kept(storage.read_json(storage.join(model, CONFIG_JSON)))
    if kept > 1e-9:
        return [
            f"WARNING: NOT COMPARABLE. {rule[0].upper()}{rule[1:]}; of this run's predicted tokens {kept:.0%} were kept, "
            "so that it has learned to copy, and that costs it points. Take --metric=pll."
        ]
    return [f"Note: {rule}; this run kept none (unless what it began from had)."]


def _kept(fields: dict) -> float:
    """Which share of the tokens that it predicts a run keeps, in the phase in which it is largest."""
    from roberta_jax.pretraining.config import PretrainConfig

    shares = {name: value for name, value in fields.get("data", {}).items() if name.endswith("_replace_prob")}
    course = {name: fields[name] for name in ("steps", "phases") if fields.get("phases")}
    run = typed(PretrainConfig, {"data": shares, **course})
    return max(1 - phase.config.data.mask_replace_prob - phase.config.data.random_replace_prob for phase in run.parts)


if __name__ == "__main__":
    exit_with_sentence(main)
