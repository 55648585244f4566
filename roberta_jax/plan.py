"""What a job will need, before a chip is rented: `python -m roberta_jax.plan --config=configs/large.py --topology=v5e:16x16`.

The very training step is compiled, with no chip attached. For a TPU slice libtpu must be installed, best in a virtual
environment of its own, since JAX looks for a TPU first wherever libtpu is. For `gpu:h100x8` and the like it is JAX's CUDA
plugin; without it memory and traffic are estimates, and less sure.
"""

import sys
from collections.abc import Iterator

from absl import app, flags

from roberta_jax.config_files import define_config, parse_flags
from roberta_jax.errors import exit_with_sentence
from roberta_jax.hardware import GIB, parse_topology
from roberta_jax.output import show, to_json
from roberta_jax.planning import DoesNotFit, plan


def table(report: dict) -> Iterator[str]:
    """The lines of a report for people."""
    r = report
    yield f"{r['topology']}: {r['chips']} chips, microbatch_size {r['microbatch_size']}, remat {r['remat']}, fsdp {r['fsdp']}"
    plugin = "" if not parse_topology(r["topology"]).chip.cuda else "; where JAX's CUDA plugin is installed it is compiled"
    yield "compiled for this slice" if r["sure"] else f"estimated by arithmetic, less sure{plugin}"
    yield f"fits: {r['memory_used'] / GIB:.2f} of {r['memory_had'] / GIB:.2f} GiB HBM a chip"
    for name, size in r["memory"].items():
        yield f"  {name:36} {size / GIB:10.3f} GiB"
    yield "a step of a chip"
    yield f"  {'FLOPs that the model needs':36} {r['model_flops'] / 1e12:10.4g} T"
    yield f"  {'FLOPs of its products, remat and all':36} {r['matmul_flops'] / 1e12:10.4g} T"
    if r["compiler_flops"] is not None:
        yield f"  {'FLOPs by XLA, each loop counted once':36} {r['compiler_flops'] / 1e12:10.4g} T"
    if r["unknown_loops"]:
        yield f"  {r['unknown_loops']} loops run nobody knows how often and count once: the figures below are too low"
    if unknown := r["unknown_opcodes"]:
        kinds = ", ".join(f"{kind} {number:,} times" for kind, number in sorted(unknown.items()))
        yield f"  instructions of a kind that this reader does not know count nothing: {kinds}; HBM below is too low"
    for kind, total in sorted(r["collectives"].items()):
        yield f"  {kind:36} {total['count']:10,} times, {total['bytes'] / 1e9:.4g} GB"
    for name, amount in (("compute", r["matmul_flops"]), ("HBM", r["hbm_bytes"]), ("interconnect", r["sent_bytes"])):
        unit = "T at the peak" if name == "compute" else "TB at the full bandwidth"
        binds = ", binds" if name == r["binds"] else ""
        yield f"  {name:36} {r['seconds'][name]:10.4g} s   {amount / 1e12:.4g} {unit}{binds}"
    columns = [name for name in ("forecast", "in_turn", "bound") if r[name]]
    yield f"{'':38} " + " ".join(f"{name.replace('_', ' '):>12}" for name in columns)
    labels = "seconds a step", "MFU", "tokens/s", f"days for {r['steps']:,} steps", "chip-hours", "cost"
    for name, label, form in zip(r["in_turn"], labels, (".4g", ".1%", ",.0f", ".1f", ",.0f", ",.0f")):
        yield f"  {label:36} " + " ".join(f"{r[column][name]:>12{form}}" for column in columns)
    if r["forecast"]:
        yield "forecast: in turn, times what steps that were measured on this chip took of it"
    yield "in turn: compute, HBM and interconnect one after another at their data sheets' rates; nothing was run"
    yield "bound: the longest of the three alone, which no step beats; it is no forecast"


def command() -> None:
    """`python -m roberta_jax.plan`."""
    define = flags.DEFINE_string
    config = define_config()
    topology = define("topology", None, "A TPU slice (v5e:16x16, v4:2x2x1, v5p:4x4x4, v6e:8x8) or GPUs (gpu:h100x8).")
    price = flags.DEFINE_float("price_per_chip_hour", None, "In any currency; adds the run's cost.", lower_bound=0)
    searching = flags.DEFINE_bool("search", False, "Try microbatch_size, model.remat and fsdp; report the fastest that fits.")
    trials = flags.DEFINE_integer("trials", 16, "How many a search makes at most.", lower_bound=1)
    as_json = flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.mark_flags_as_required(["config", "topology"])

    def main(_) -> None:
        fields, where = config.value.to_dict(), parse_topology(topology.value)
        try:
            report = plan(fields, where, searching.value, trials.value, price.value)
        except DoesNotFit as error:
            show(f"microbatch_size {fields['microbatch_size']} on {where.name} {error}", sys.stderr)
            sys.exit(1)
        show(to_json(report) if as_json.value else "\n".join(table(report)))

    app.run(main, flags_parser=lambda argv: parse_flags(argv, config))


if __name__ == "__main__":
    exit_with_sentence(command)
