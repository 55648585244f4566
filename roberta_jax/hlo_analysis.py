"""What a step does: its matrix products, and from the compiled text its collectives and the bytes that it moves in HBM.

XLA's own cost analysis counts the body of a loop once. Here a loop counts as often as its condition lets it run.
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# These move no bytes of their own: names for what is there already, or what is counted within what they call.
FREE = set(
    "add-dependency after-all async bitcast call conditional constant domain get-dimension-size get-tuple-element opt-barrier "
    "optimization-barrier parameter partition-id replica-id tuple while".split()
)
# These read their operands and write their result, but for what `_moved` knows better: XLA's hlo_opcode.h, all of it.
MOVING = set(COLLECTIVES) | set(
    "abs acos acosh add and asin asinh atan2 atanh batch-norm-grad batch-norm-inference batch-norm-training bitcast-convert "
    "broadcast cbrt ceil cholesky clamp collective-broadcast compare complex concatenate convert convolution copy cos cosh "
    "cosine count-leading-zeros custom-call divide dot dynamic-reshape dynamic-slice dynamic-update-slice erf exponential "
    "exponential-minus-one fft floor fusion gather imag infeed iota is-finite log log-plus-one logistic map maximum minimum "
    "multiply negate not or outfeed pad popcnt power ragged-all-to-all ragged-dot real recv reduce reduce-precision "
    "reduce-window remainder reshape reverse rng rng-bit-generator rng-get-and-update-state round-nearest-afz "
    "round-nearest-even rsqrt scaled-dot scan scatter select select-and-scatter send set-dimension-size shift-left "
    "shift-right-arithmetic shift-right-logical sign sine sinh slice sort sqrt stochastic-convert subtract tan tanh topk "
    "transpose triangular-solve xor".split()
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """A line of a compiled program's text."""

    name: str
    shape: str  # of the result, as printed: `bf16[16,512]{1,0:T(8,128)}`, or several of these in brackets
    opcode: str  # of what begins here and is done elsewhere (`fusion-start`) that of the whole
    operands: tuple[str, ...]
    rest: str  # what follows the operands
    root: bool


@dataclass(frozen=True)
class Collective:
    """A collective operation of a step."""

    kind: str
    payload: int  # bytes of the whole array: what is reduced, or what has been gathered
    group: int  # devices that take part
    runs: int  # times a step

    @property
    def wire(self) -> float:
        """Bytes that a chip sends in a step, by ring algorithms."""
        if self.kind == "collective-permute":
            return self.runs * self.payload * (self.group > 1)
        passes = 2 if self.kind == "all-reduce" else 1
        return self.runs * passes * self.payload * (self.group - 1) / self.group


@dataclass
class Step:
    """What one device does in a step."""

    collectives: list[Collective] = field(default_factory=list)
    hbm_bytes: float = 0.0  # read and written in a step; arrays as they are, without the padding of their tiles
    unknown_loops: int = 0  # whose number of runs the text does not say; counted once
    unknown_opcodes: Counter[str] = field(default_factory=Counter)  # what they move is not known, and is not in hbm_bytes

    def by_kind(self) -> dict[str, dict[str, float]]:
        """kind of collective → {"count", "bytes"} of a step"""
        total: dict[str, dict[str, float]] = defaultdict(lambda: {"count": 0, "bytes": 0})
        for one in self.collectives:
            total[one.kind]["count"] += one.runs
            total[one.kind]["bytes"] += one.runs * one.payload
        return dict(total)


def matmul_flops(jaxpr: Any) -> float:
    """FLOPs of all matrix products that a program does, on all devices; a loop counts as often as it runs."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        times = parameters["length"] if name == "scan" else 1
        if name == "pallas_call":  # its inside shows one place of its grid
            times = math.prod(parameters["grid_mapping"].grid)
        if name == "shard_map":  # its inside shows one device's share
            axes = next(value for name, value in parameters.items() if name.endswith("manual_axes"))
            times = math.prod(parameters["mesh"].shape[axis] for axis in axes)
        for inner in itertools.chain.from_iterable(x if isinstance(x, tuple) else (x,) for x in parameters.values()):
            inner = getattr(inner, "jaxpr", inner)
            total += times * matmul_flops(inner) if hasattr(inner, "eqns") else 0
    return total


def read_step(text: str) -> Step:
    """What a compiled step does, by its text, `jax.stages.Compiled.as_text()`."""
    computations, entry = _parse(text)
    step, runs, fused = Step(), Counter({entry: 1}), set()
    for name in _callers_first(computations, entry):
        shapes = {one.name: one.shape for one in computations[name]}
        for one in computations[name]:
            times = runs[name]
            for role, called in _calls(one):
                if called not in computations:
                    continue
                trips = 1
                if role in ("body", "condition"):
                    trips = _trips(one, computations)
                    step.unknown_loops += role == "body" and trips is None
                    trips = trips or 1
                runs[called] += times * trips
                if one.opcode == "fusion" or (role == "to_apply" and one.opcode != "call") or name in fused:
                    fused.add(called)
            if one.opcode in COLLECTIVES:
                step.collectives.append(_collective(one.opcode, name, one, shapes, times))
            if name in fused or one.opcode in FREE:
                continue
            if one.opcode in MOVING:
                step.hbm_bytes += times * _moved(one, shapes, computations)
            else:
                step.unknown_opcodes[one.opcode] += times
    return step


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif match := _INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line)):
            inside, rest = _split(match[5])
            operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or (inside,)
            opcode, shape = _started(match[4], match[3])
            current.append(Instruction(match[2], shape, opcode, operands, rest, bool(match[1])))
    return computations, entry


def _started(opcode: str, shape: str) -> tuple[str, str]:
    """(opcode, result's shape) of the operation that a `…-start` begins; its own shape is a tuple: operands, result, and more.

    What ends it (`…-done`), or looks at it between (`…-update`), is free. Any other instruction is what it is.
    """
    if opcode.endswith(("-done", "-update")):
        return "async", shape
    if not opcode.endswith("-start"):
        return opcode, shape
    operation, parts = opcode.removesuffix("-start"), _parts(shape)
    if operation == "async" or len(parts) == 1:  # counted within what it calls; and what has no tuple but its result
        return operation, shape
    if operation == "copy":  # the result comes first
        return operation, parts[0]
    if operation == "all-reduce" and not parts[0].startswith("("):  # before JAX 0.11 it has the results alone
        return operation, shape
    return operation, parts[1]


def _parts(shape: str) -> list[str]:
    """`((a, b), c)` → [`(a, b)`, `c`]"""
    if not shape.startswith("("):
        return [shape]
    parts, depth, begun = [], 0, 1
    for at, char in enumerate(shape):
        depth += (char in "([{") - (char in ")]}")
        if depth == 1 and char == "," or not depth:
            parts.append(shape[begun:at].strip())
            begun = at + 1
    return parts


def _split(text: str) -> tuple[str, str]:
    """`a, (b)), window=…` → (`a, (b)`, `, window=…`)"""
    depth = 1
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if not depth:
            return text[:at], text[at + 1 :]
    return text, ""


def _calls(one: Instruction) -> list[tuple[str, str]]:
    branches = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
    listed = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
    return _CALLED.findall(one.rest) + [("branch", name) for name in listed]


def _callers_first(computations: dict[str, list[Instruction]], entry: str) -> list[str]:
    order, seen = [], set()

    def visit(name: str) -> None:
        if name in seen or name not in computations:
            return
        seen.add(name)
        for one in computations[name]:
            for _, called in _calls(one):
                visit(called)
        order.append(name)

    visit(entry)
    return order[::-1]


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int | None:
    """How often a loop runs: XLA's note, or the only integer that the condition compares a counter from 0 with."""
    if known := re.search(r'known_trip_count[^\d]*"?n"?[^\d]*(\d+)', loop.rest):
        return int(known[1])
    condition = computations.get(re.search(r"condition=%?([\w.\-]+)", loop.rest)[1], [])
    limits = {one.operands[0] for one in condition if one.opcode == "constant" and one.shape.startswith("s32[]")}
    return int(limits.pop()) if len(limits) == 1 else None


def _sizes(shape: str, hbm_only: bool = False) -> list[int]:
    """Bytes of each array that a printed shape holds; a layout with S(n) lies in another memory than HBM."""
    return [
        0 if hbm_only and "S(" in (layout or "") else math.prod(map(int, filter(None, dims.split(",")))) * _bytes(kind)
        for kind, dims, layout in _ARRAY.findall(shape)
    ]


def _in_hbm(shape: str) -> bool:
    return any(_sizes(shape, hbm_only=True))


def _bytes(kind: str) -> float:
    bits = 8 if kind == "pred" else int(re.search(r"\d+", kind)[0])
    return bits / 8


def _collective(kind: str, computation: str, one: Instruction, shapes: dict[str, str], runs: int) -> Collective:
    group = _group(one.rest)
    payload = sum(sum(_sizes(shapes.get(name, ""))) for name in one.operands)
    if kind == "all-gather":
        payload *= group
    if kind == "all-reduce" and "reduce-scatter" in computation:  # a TPU's reduce-scatter is a fusion around this
        kind = "reduce-scatter"
    return Collective(kind, int(payload), group, runs)


def _group(rest: str) -> int:
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return listed[1].count(",") + 1
    return 2 if "source_target_pairs" in rest else 1


def _moved(one: Instruction, shapes: dict[str, str], computations: dict[str, list[Instruction]]) -> float:
    """Bytes that one run of an instruction reads from HBM and writes to it."""
    if re.search(r'target="(AllocateBuffer|ConcatBitcast|X64)', one.rest):
        return 0
    sources = [shapes.get(name, "") for name in one.operands]
    if one.opcode in ("dynamic-slice", "slice", "gather"):  # as much as they result in, read and written
        return sum(_sizes(one.shape)) * (_in_hbm(sources[0]) + _in_hbm(one.shape))
    if one.opcode == "dynamic-update-slice":  # the update, read and written
        return sum(_sizes(sources[1])) * (_in_hbm(sources[1]) + _in_hbm(one.shape))
    if one.opcode == "fusion" and (inner := computations.get(dict(_calls(one)).get("calls", ""))):
        reads = sum(_read(inner, number, source, computations) for number, source in enumerate(sources))
        return reads + _written(inner, one.shape)
    if one.opcode == "custom-call":  # what it takes several times, it takes in parts
        sources = [shapes.get(name, "") for name in dict.fromkeys(one.operands)]
    return sum(_sizes(one.shape, hbm_only=True)) + sum(sum(_sizes(source, hbm_only=True)) for source in sources)


def _read(inner: list[Instruction], number: int, source: str, computations: dict[str, list[Instruction]]) -> float:
    """Bytes of a fusion's operand that it reads: where it only slices it, those of the slices."""
    full = sum(_sizes(source, hbm_only=True))
    if not full:
        return 0
    names = {one.name for one in inner if one.opcode == "parameter" and one.operands[0] == str(number)}
    read = 0.0
    for one in inner:  # in the order of use, so that a bitcast's name is known before its users come
        used = [at for at, name in enumerate(one.operands) if name in names]
        if not used:
            continue
        if one.opcode == "bitcast":
            names.add(one.name)
        elif one.opcode in ("dynamic-slice", "slice") or (one.opcode == "gather" and used == [0]):
            read += sum(_sizes(one.shape))
        elif one.opcode == "fusion" and (deeper := computations.get(dict(_calls(one)).get("calls", ""))):
            read += sum(_read(deeper, at, source, computations) for at in used)
        elif not (one.opcode == "dynamic-update-slice" and used == [0]):
            return full
    return min(read, full)


def _written(inner: list[Instruction], shape: str) -> float:
    """Bytes that a fusion writes: of an array that it updates in place, those of the update."""
    by_name = {one.name: one for one in inner}
    root = next((one for one in inner if one.root), None)
    results = root.operands if root and root.opcode == "tuple" else [root.name] if root else []
    sizes = _sizes(shape, hbm_only=True)
    for at, name in enumerate(results[: len(sizes)]):
        one = by_name.get(name)
        while one and one.opcode == "bitcast":
            one = by_name.get(one.operands[0])
        if one and one.opcode == "dynamic-update-slice" and sizes[at]:
            update = by_name.get(one.operands[1])
            sizes[at] = min(sizes[at], sum(_sizes(update.shape))) if update else sizes[at]
    return sum(sizes)
