"""What a TPU's or GPU's compiler says of the choices of attention, dropout on it, rematerialisation and microbatch size.

    python -m benchmarks.compiled_step [--config base large] [--topology v5e:2x4 gpu:h100x8 …] [--remat dots …] [--json]

Every line is the whole training step, compiled for chips that are not there (see `roberta_jax.plan`, whose roofline this
prints; nothing is run). XLA's attention and this package's kernels are measured beside JAX's own, which have no dropout:
splash attention for TPUs, cuDNN's for GPUs. Expected: with the kernel a step moves fewer bytes than with XLA's attention.
"""

import argparse
import importlib
import itertools
import json
from dataclasses import replace
from functools import partial
from importlib.metadata import distributions
from typing import Any

from benchmarks import needs
from roberta_jax import planning
from roberta_jax.errors import exit_with_sentence
from roberta_jax.hardware import GIB, Topology, parse_topology

ATTENTIONS = ("kernel", "xla", "jax")
COMPILERS = ("jax", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")


def compile_with_jaxs(config: Any, topology: Topology) -> planning.Needs:
    """`planning.compile_step` in its child, with JAX's attention in the model."""
    from benchmarks.attentions import offer_jaxs  # JAX is not to be imported before `plan` has said that there is no TPU

    offer_jaxs()
    return planning.compile_step(replace(config, model=replace(config.model, attention="jax")), topology)


def measure(side: dict, length: int) -> dict:
    """`side` with the report of `plan`, or with what did not fit."""
    fields = importlib.import_module(f"configs.{side['config']}").get_config().to_dict()
    fields["data"]["length"] = length
    fields["microbatch_size"] = side["microbatch_size"] = side["microbatch_size"] or fields["microbatch_size"]
    fields["model"] |= {name: side[name] for name in ("remat", "attention_dropout")}
    fields["model"]["attention"] = "xla" if side["attention"] == "xla" else "kernel"
    topology = parse_topology(side["topology"])
    compiler = compile_with_jaxs if side["attention"] == "jax" else planning.compile_step
    try:
        return side | planning.estimate(planning.read_config(fields, topology), topology, compiler)
    except planning.DoesNotFit as error:
        return side | {"does_not_fit": str(error)}


def line(side: dict) -> str:
    named = f"{side['config']:6} {side['topology']:10} {side['attention']:7} {side['attention_dropout']:7} "
    named += f"{side['microbatch_size']:6} {side['remat']:5}"
    if "does_not_fit" in side:
        return f"{named} {side['does_not_fit']}"
    seconds = f"{side['seconds']['compute']:9.4g} {side['seconds']['HBM']:9.4g}"
    times = f"{side['in_turn']['seconds']:9.4g} {side['bound']['seconds']:9.4g}"
    times += f" {side['in_turn']['mfu']:6.1%}"
    return f"{named} {side['memory_used'] / GIB:7.2f} {side['hbm_bytes'] / 1e12:8.4g} {seconds} {times}"


HEADER = (
    f"{'config':6} {'slice':10} {'attends':7} {'dropout':>7} {'mbatch':>6} {'remat':5} {'GiB HBM':>7} {'TB moved':>8} "
    f"{'compute s':>9} {'HBM s':>9} {'in turn s':>9} {'bound s':>9} {'MFU':>6}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = partial(parser.add_argument, nargs="+")
    add("--config", default=["base"], choices=("base", "large"))
    add("--topology", default=["v5e:2x4"])
    add("--attention", default=ATTENTIONS, choices=ATTENTIONS)
    add("--attention_dropout", type=float, default=[0.1, 0.0], help="those of JAX have none")
    add("--remat", default=planning.REMAT, choices=planning.REMAT)
    add("--microbatch_size", type=int, default=[0], help="default: the config's")
    parser.add_argument("--length", type=int, default=512, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of the table")
    args = parser.parse_args()
    needs("ml_collections")
    if not args.json:
        there = {package.name: package.version for package in distributions()}
        compilers = [f"{name} {there[name]}" for name in COMPILERS if name in there]
        print(f"{', '.join(compilers)}; rows of {args.length}\n{HEADER}")
    names = ("config", "topology", "attention", "attention_dropout", "remat", "microbatch_size")
    for chosen in itertools.product(*(getattr(args, name) for name in names)):
        side = dict(zip(names, chosen))
        if side["attention"] == "jax" and side["attention_dropout"]:
            continue
        side = measure(side, args.length)
        print(json.dumps(side) if args.json else line(side), flush=True)


if __name__ == "__main__":
    exit_with_sentence(main)
