"""What a job will need, before a chip is rented.

The very training step is compiled, with no chip attached, for TPU slices and for GPUs; or its needs are estimated.
"""

import importlib.util
import itertools
import math
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

from roberta_jax.config import typed
from roberta_jax.errors import UserError, first_line
from roberta_jax.hardware import GIB, Topology
from roberta_jax.hlo_analysis import matmul_flops, read_step
from roberta_jax.output import show

REMAT = ("none", "dots", "full")  # each keeps less than the one before and computes more again


class DoesNotFit(Exception):
    """Says what is needed and what there is, or that it cannot be known."""


@dataclass(frozen=True)
class Needs:
    """Of one device, in one step."""

    memory: dict[str, float]  # bytes at once, by what they are for
    hbm_bytes: float  # read and written
    sent_bytes: float  # to other chips
    matmul_flops: float  # the step's own matrix products, with what remat computes again
    compiler_flops: float | None  # XLA's cost analysis, which counts a loop's body once
    collectives: dict[str, dict[str, float]]  # kind → {"count", "bytes"}
    sure: bool  # compiled, and not estimated
    unknown_loops: int = 0  # whose runs the compiled text does not say; they count once
    unknown_opcodes: dict[str, int] = field(default_factory=dict)  # opcode → runs, of what the reader does not know


def plan(fields: dict, topology: Topology, searching: bool, trials: int, price: float | None) -> dict:
    """The report of a config's fields on a slice, or of the best that a search finds near them.

    Raises:
      UserError: libtpu is missing, or another mistake.
      DoesNotFit: the config as it is does not.
    """
    config = read_config(fields, topology)
    report = search(config, topology, trials) if searching else estimate(config, topology)
    for name in ("in_turn", "bound", "forecast") if price is not None else ():
        if report[name]:
            report[name]["cost"] = price * report[name]["chip_hours"]
    return report


def read_config(fields: dict, topology: Topology) -> Any:
    """The config that a job's fields are, once it is sure that the step can be compiled here.

    Raises:
      UserError: it is of another job, a field is wrong, or libtpu is missing.
    """
    if fields.get("job") != "pretrain":
        raise UserError(f"config.job is {fields.get('job')!r}; plan knows 'pretrain'.")
    if not topology.gpu and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "a TPU slice needs libtpu, which is not installed for this Python: python -m venv tpu, "
            "install this package and 'jax[tpu]>=0.10,<0.13' there, then tpu/bin/python -m roberta_jax.plan; gpu: topologies "
            "need none."
        )
    # No TPU is to be looked for, here and in the child that compiles, nor another plan to be waited for.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    import jax

    jax.config.update("jax_platforms", "cpu")  # a config file has imported JAX already
    from roberta_jax.pretraining.config import PretrainConfig, with_sizes
    from roberta_jax.pretraining.job import model_of

    config = typed(PretrainConfig, fields)
    if config.model_before:
        config = replace(config, model=config.model.with_shape_of(_shape_before(config)))
    config = with_sizes(config)
    config.check_together()
    config = config.of_first_phase()
    return replace(config, model=model_of(config))


def _shape_before(config: Any) -> Any:
    """Of the model that `init_from` or `continue_from` names, as a run would have it."""
    from roberta_jax.interop import hub

    run, _, step = config.continue_from.rpartition("@")
    shape = hub.load(run or config.init_from, step or "newest").config
    if run:
        return shape
    vocab_size = 0 if config.new_vocabulary else shape.vocab_size
    return replace(shape, vocab_size=vocab_size, max_length=max(shape.max_length, config.longest))


def search(config: Any, topology: Topology, trials: int) -> dict:
    """The report of the fastest trial that fits; trials are printed as they go, on standard error.

    Raises:
      UserError: none fits.
    """
    if config.batch_size < topology.chips:
        raise UserError(
            f"config.batch_size is {config.batch_size}; expected a row at least for each of {topology.chips} chips."
        )
    best, tried, failed, fitted = None, 0, [], []
    for trial in candidates(config, topology):
        wants = trial.microbatch_size, REMAT.index(trial.model.remat), trial.fsdp
        if any(mb <= wants[0] and remat >= wants[1] and fsdp >= wants[2] for mb, remat, fsdp in failed):
            continue  # what needed less did not fit
        if any(mb >= wants[0] and remat == wants[1] and fsdp <= wants[2] for mb, remat, fsdp in fitted):
            continue  # what accumulates less does fit; more remat may still be faster, for it moves less
        if tried == trials:
            show(f"stopped after {trials} trials; --trials allows more", sys.stderr)
            break
        tried += 1
        label = f"microbatch_size {wants[0]}, remat {trial.model.remat}, fsdp {wants[2]}"
        try:
            report = estimate(trial, topology)
        except DoesNotFit as error:
            failed.append(wants)
            show(f"{label}: {error}", sys.stderr)
            continue
        fitted.append(wants)
        show(f"{label}: {report['in_turn']['seconds']:.4g} s a step", sys.stderr)
        if best is None or report["in_turn"]["seconds"] < best["in_turn"]["seconds"]:
            best = report
    if best is None:
        raise UserError(f"nothing that was tried fits {topology.name}; take a larger slice or allow more --trials.")
    return best


def candidates(config: Any, topology: Topology) -> Iterator[Any]:
    """What a search tries: the largest microbatches first, those out of all proportion to the chip left out."""
    from roberta_jax.model.flops import activation_bytes

    share = config.batch_size // topology.chips
    divisors = [size for size in range(share, 0, -1) if share % size == 0]
    for fsdp, remat in itertools.product((1, 2, 4, 8), REMAT):
        if topology.chips % fsdp or config.model.hidden_size % fsdp:
            continue
        for size in divisors:
            trial = replace(config, microbatch_size=size, fsdp=fsdp, model=replace(config.model, remat=remat))
            if activation_bytes(trial.model, size, config.data.length, _slots(config)) < 3 * topology.chip.hbm:
                yield trial


def estimate(config: Any, topology: Topology, compiler: Callable[[Any, Topology], Needs] | None = None) -> dict:
    """The whole report of one config on one slice; nothing is run.

    Its times are those of compute, memory and interconnect one after another, `in_turn`; the longest of the three alone, a
    `bound` that no step beats; and where steps have been measured on the chip the `forecast` that they make of the former.

    Args:
      compiler: stands in for `compile_step`; it is pickled, for it runs in a child.

    Raises:
      DoesNotFit: the compiler said so, or what it asks for is more than a chip has.
    """
    from roberta_jax.model.flops import train_flops

    compiles = not topology.gpu or (_cuda() and topology.chip.cuda)
    needs = compiled(config, topology, compiler or compile_step) if compiles else estimated(config, topology)
    chip, chips, used = topology.chip, topology.chips, sum(needs.memory.values())
    if used > chip.hbm:  # the compiler itself looks at temporaries alone
        raise DoesNotFit(f"does not fit: needs {used / GIB:.2f} of {chip.hbm / GIB:.2f} GiB HBM.")
    model_flops = train_flops(config.model, config.batch_size, config.data.length, _slots(config)) / chips
    peak = chip.flops[config.model.dtype]
    seconds = {
        "compute": needs.matmul_flops / peak,
        "HBM": needs.hbm_bytes / chip.hbm_bandwidth,
        "interconnect": needs.sent_bytes / topology.egress_bandwidth if needs.sent_bytes else 0.0,
    }

    def run(step: float) -> dict[str, float]:
        times = {"seconds": step, "mfu": model_flops / step / peak}
        times |= {"tokens_per_second": config.batch_size * config.data.length / step, "days": config.steps * step / 86_400}
        return times | {"chip_hours": 24 * chips * times["days"]}

    in_turn = sum(seconds.values())
    return {
        "topology": topology.name,
        "chips": chips,
        "microbatch_size": config.microbatch_size or config.batch_size // chips,
        "remat": config.model.remat,
        "fsdp": config.fsdp,
        "sure": needs.sure,
        "memory": needs.memory,
        "memory_used": used,
        "memory_had": chip.hbm,
        "model_flops": model_flops,
        "matmul_flops": needs.matmul_flops,
        "compiler_flops": needs.compiler_flops,
        "hbm_bytes": needs.hbm_bytes,
        "sent_bytes": needs.sent_bytes,
        "collectives": needs.collectives,
        "unknown_loops": needs.unknown_loops,
        "unknown_opcodes": needs.unknown_opcodes,
        "seconds": seconds,
        "binds": max(seconds, key=seconds.get),
        "steps": config.steps,
        "in_turn": run(in_turn),
        "bound": run(max(seconds.values())),
        "forecast": run(in_turn * chip.measured) if chip.measured else None,
    }


def compiled(config: Any, topology: Topology, compiler: Callable[[Any, Topology], Needs]) -> Needs:
    """What the compiler says of absent chips. It runs in a child process, as it has been seen to crash.

    Raises:
      DoesNotFit: by its message, or it crashed.
      UserError: it does not take the topology.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_mute) as child:
        try:
            return child.submit(compiler, config, topology).result()
        except BrokenProcessPool:
            raise DoesNotFit("cannot be compiled: the compiler crashed; another model.remat may do.") from None


def _mute() -> None:
    """Compilers write warnings and their crash past Python's standard error; exceptions come back to the parent anyway."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def compile_step(config: Any, topology: Topology) -> Needs:
    """Compiles the very training step that a run would make.

    Raises:
      DoesNotFit: the compiler said so.
      UserError: it does not take the topology.
    """
    import jax
    from jax.experimental import topologies

    from roberta_jax.pretraining.job import of_pairs, step_of
    from roberta_jax.pretraining.losses import abstract_batch
    from roberta_jax.training.sharding import batch_sharding, make_mesh

    try:
        devices = topologies.get_topology_desc(topology_name=topology.name, **topology.compile_options).devices
    except jax.errors.JaxRuntimeError as error:
        library = "JAX's CUDA plugin" if topology.gpu else "libtpu"
        raise UserError(f"{library} does not take --topology={topology.name}: {_sentence(error)}") from None
    mesh = make_mesh(config.fsdp, devices=devices)
    train_step = step_of(config, mesh)
    state = train_step.abstract
    shape = config.batch_size, config.data.length, _slots(config)
    batch = abstract_batch(*shape, of_pairs(config), batch_sharding(mesh))
    try:
        traced = train_step.trace(batch)
        step = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(exhausted(str(error))) from None

    def bytes_of(tree: Any) -> float:
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    memory, read = step.memory_analysis(), read_step(step.as_text())
    arguments = {"parameters": state["params"], "optimizer state": state["opt_state"], "batch": batch}
    of_arguments = {name: bytes_of(tree) for name, tree in arguments.items()}
    memory = of_arguments | {
        "padding of these": memory.argument_size_in_bytes - sum(of_arguments.values()),
        "activations, gradients, temporaries": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    sent = sum(one.wire for one in read.collectives)
    flops = matmul_flops(traced.jaxpr.jaxpr) / topology.chips
    by_compiler = (step.cost_analysis() or {}).get("flops")
    unknown = dict(read.unknown_opcodes)
    return Needs(memory, read.hbm_bytes, sent, flops, by_compiler, read.by_kind(), True, read.unknown_loops, unknown)


def _cuda() -> bool:
    """Whether JAX's CUDA plugin is installed; a GPU need not be there."""
    known = importlib.util.find_spec("jax_plugins")
    return known is not None and any(importlib.util.find_spec(f"jax_plugins.xla_cuda{number}") for number in (12, 13))


def estimated(config: Any, topology: Topology) -> Needs:
    """By arithmetic alone, for GPUs: state of 16 bytes a parameter, and the activations that XLA keeps."""
    import jax

    from roberta_jax.model.flops import activation_bytes, forward_flops, train_flops
    from roberta_jax.model.heads import init_masked_lm
    from roberta_jax.pretraining.job import of_pairs
    from roberta_jax.training.step import accumulation_on

    if topology.chips % config.fsdp or config.batch_size % topology.chips:
        raise UserError(f"fsdp {config.fsdp} or batch_size {config.batch_size} does not go into {topology.chips} GPUs.")
    shapes = jax.eval_shape(lambda key: init_masked_lm(key, config.model, of_pairs(config)), jax.random.key(0))
    parameters = sum(x.size for x in jax.tree.leaves(shapes))
    share, length, slots = config.batch_size // topology.chips, config.data.length, _slots(config)
    size, rows = config.microbatch_size or share, (config.batch_size, length, slots)
    number = accumulation_on(config.batch_size, config.microbatch_size, topology.chips)
    memory = {
        "parameters": 4 * parameters / config.fsdp,
        "optimizer state": 8 * parameters / config.fsdp,
        "gradients": 4 * parameters,
        "activations": activation_bytes(config.model, size, length, slots),
    }
    # The whole forward pass again: right for "full", more than "dots" needs.
    again = 0 if config.model.remat == "none" else forward_flops(config.model, *rows)
    # 13 times the activations pass by, in steps that XLA compiled for GPUs, whatever remat keeps of them; each microbatch
    # reads parameters twice and adds to gradients; an update reads and writes parameters and both moments.
    passing = 13 * activation_bytes(replace(config.model, remat="none"), size, length, slots)
    traffic = number * (passing + 4 * 4 * parameters) + 7 * 4 * parameters / config.fsdp
    ring = 2 * 4 * parameters * (topology.chips - 1) / topology.chips
    collectives = {"all-reduce": {"count": 1, "bytes": 4 * parameters}} if topology.chips > 1 else {}
    flops = (train_flops(config.model, *rows) + again) / topology.chips
    return Needs(memory, traffic, ring, flops, None, collectives, False)


def _slots(config: Any) -> int:
    from roberta_jax.pretraining.config import masking_of

    return masking_of(config.data).slots(config.data.length)


def exhausted(message: str) -> str:
    """The compiler's message, shortened: `… required for HLO temporaries (21.75G) exceeds available HBM (15.75G)`."""
    if match := re.search(r"\(([\d.]+)([MGT])\) exceeds available HBM \(([\d.]+)G\)", message):
        return f"does not fit: needs {match[1]} {match[2]}iB of {match[3]} GiB HBM for temporaries alone."
    if match := re.search(r"Used ([\d.]+)([MGT]) of ([\d.]+)G hbm", message):
        return f"does not fit: needs {match[1]} {match[2]}iB of {match[3]} GiB HBM."
    return f"does not fit: {' '.join(message.split())[:300]}"


def _sentence(error: Exception) -> str:
    return first_line(error).removeprefix("INVALID_ARGUMENT: ")
