"""What `benchmarks.on_gpu` found, as tables in Markdown: of whatever has been recorded, for a stage may have ended early."""

import statistics
from collections.abc import Callable, Iterator

from benchmarks.sides import Case
from roberta_jax.hardware import chip_of

NONE = "–"


def tables(records: list[dict]) -> list[str]:
    """The report of the lines of found.jsonl."""
    begun = next((one for one in records if one["stage"] == "all"), {})
    kind = next((one["device"] for one in _of(records, "environment", "versions") if "device" in one), "a GPU")
    lines = [f"# On {kind}, {begun.get('date', '')}", ""]
    if begun.get("rehearsal"):
        lines += ["A rehearsal on a CPU with small shapes: no figure here means anything.", ""]
    lines += [f"    {begun.get('command', 'python -m benchmarks.on_gpu')}", ""]
    for title, section in SECTIONS.items():
        try:
            found = list(section(records))
        except Exception as error:  # what could be measured is not to be lost by how it is shown
            found = [f"This table cannot be made of what was recorded: {type(error).__name__}: {error}"]
        if any(found):
            lines += [f"## {title}", "", *found, ""]
    return [*lines, "## Stages", "", *_stages(records)]


def _of(records: list[dict], stage: str, what: str | None = None) -> list[dict]:
    return [one for one in records if one["stage"] == stage and what in (None, one["what"])]


def _table(head: str, rows: list[list]) -> list[str]:
    columns = head.split(" | ")
    cells = [" | ".join(str(cell).replace("|", "/") for cell in row) for row in rows]
    return [f"| {head} |", "|" + "---|" * len(columns), *(f"| {row} |" for row in cells)] if rows else []


def _failures(records: list[dict], stage: str) -> list[str]:
    """What no table's row says already."""
    failed = [one for one in _of(records, stage) if "failed" in one and one["what"] != "case" and "run" not in one]
    failed = [f"{one['what']}: {one['failed']}" for one in failed]
    return ["", *(f"- {line[:300]}" for line in failed)] if failed else []


def _stages(records: list[dict]) -> list[str]:
    ended = [one for one in records if one["what"] == "ended" and "limit" in one]
    rows = [[one["stage"], one["state"], f"{one['seconds']:.0f}", f"{one['limit']:.0f}"] for one in ended]
    return _table("stage | | seconds | of", rows)


def environment(records: list[dict]) -> Iterator[str]:
    for one in _of(records, "environment"):
        match one:
            case {"what": "versions", "machine": where, "driver": driver, "packages": packages}:
                memory = f", {one['memory'] / 1e9:.1f} GB for JAX" if one.get("memory") else ""
                yield f"{where}; {driver or 'no NVIDIA driver'}{memory}; {', '.join(f'{k} {v}' for k, v in packages.items())}."
                yield ""
            case {"what": "product", "flops": flops, "size": size}:
                yield f"- {size}³ in bfloat16, random values: {flops / 1e12:,.1f} TFLOP/s{_share(records, flops, 0)}"
            case {"what": "copy", "bandwidth": rate}:
                yield f"- reading and writing memory: {rate / 1e9:,.0f} GB/s{_share(records, rate, 1)}"
            case {"what": "to device", "bandwidth": rate}:
                yield f"- from the host to the device: {rate / 1e9:,.1f} GB/s"
            case {"what": "loader", "tokens_per_second": rate, "first": first}:
                yield f"- masked batches: {rate / 1e6:,.1f} million tokens/s, the first one after {first:.1f} s"
    yield from _failures(records, "environment")


def _limits(kind: str) -> tuple[float, float] | None:
    """(FLOP/s in bfloat16, bytes/s) of a chip that is known."""
    chip = chip_of(kind)
    return (chip.flops["bfloat16"], chip.hbm_bandwidth) if chip else None


def _share(records: list[dict], rate: float, which: int) -> str:
    kind = next((one["device"] for one in _of(records, "environment", "versions") if "device" in one), "")
    limits = _limits(kind)
    return f", {rate / limits[which]:.0%} of the data sheet's" if limits else ""


def kernel(records: list[dict]) -> Iterator[str]:
    compared = [one for one in _of(records, "kernel") if "dropout" in one and "values" in one]
    of_xla = {(one["what"], one["dropout"]): one for one in compared if one["side"] == "XLA"}
    rows = []
    for one in compared:
        other = of_xla.get((one["what"], one["dropout"]))
        cells = [f"{one[what]['share']:.2e}{_times(one, other, what)}" for what in ("values", "gradient")]
        rows.append([one["what"], f"{one['dropout']:g}", one["side"], *cells, f"{one['ms']:.3f}" if "ms" in one else ""])
    yield from _table("rows × length | dropout | | from float32: values | gradient | ms, both ways", rows)
    yield ""
    for one in _of(records, "kernel", "dropout"):
        if "different" in one:
            differ = f"{one['different']:,} of {one['places']:,} places differ"
            yield f"- dropout {one['rate']:g}: {differ}; {one['kept']:.4f} are kept"
    for one in _of(records, "kernel", "bits"):
        if "same" in one:
            yield f"- {one['side']}: {one['runs']} runs {'are the same' if one['same'] else 'differ'}, bit for bit"
    for one in _of(records, "kernel", "many elements"):
        if "values" in one:
            shares = " and ".join(f"{one[what]['share']:.2e}" for what in ("values", "gradient"))
            yield f"- of {one['elements']:,} elements the {one['rows']} rows are {shares} from float32, {one['side']}"
    yield from _failures(records, "kernel")


def _times(one: dict, other: dict | None, what: str) -> str:
    if not other or one is other:
        return ""
    return f" ({one[what]['share'] / max(other[what]['share'], 1e-30):.2f} times)"


def gradients(records: list[dict]) -> Iterator[str]:
    rows = [
        [one["way"], one["flag"].removeprefix("--") or NONE, f"{one['ms']:.3f}", f"{one['distance']['all']:.1e}",
         f"{one['distance']['mask']:.1e}", "the same" if one["same"] else "differ"]
        for one in _of(records, "gradients", "sum")
    ]  # fmt: skip
    yield from _table("the word table's gradient | flag | ms | from float64 | its mask's row | three runs' bits", rows)
    yield from _failures(records, "gradients")


def _named(case: Case) -> str:
    made = f"{case.shape}, {case.rows} × {case.length}, dropout {case.dropout:g}"
    made += f", microbatches of {case.microbatch}" * bool(case.microbatch)
    return made + f", vocabulary {case.vocab_size:,}" * (case.vocab_size != Case.vocab_size)


def step(records: list[dict]) -> Iterator[str]:
    rows = []
    for one in _of(records, "step", "case"):
        case = Case(**one["case"])
        if not one.get("seconds"):
            rows.append([_named(case), case.attention, one.get("failed", NONE)[:120], *[""] * 6])
            continue
        second, plan = statistics.median(one["seconds"]), one.get("plan", {})
        mfu = bound = ratio = NONE
        if limits := _limits(plan.get("device_kind", "")):
            parts = plan["matmul_flops"] / limits[0], plan["hbm_bytes"] / limits[1]
            mfu, bound = f"{plan['model_flops'] / second / limits[0]:.1%}", f"{1e3 * sum(parts):.1f}"
            ratio = f"{second / sum(parts):.2f}"
        rate = case.rows * case.length / second
        rows.append(
            [_named(case), case.attention, f"{1e3 * second:.1f}", f"{rate:,.0f}", mfu, bound, ratio,
             f"{one['prepared']:.1f}", f"{one['memory'] / 1e9:.2f}"]
        )  # fmt: skip
    yield from _table(
        "ours | attention | ms | tokens/s | MFU | by plan in turn, ms | times that | compiling, s | peak GB", rows
    )
    yield from _failures(records, "step")


def pytorch(records: list[dict]) -> Iterator[str]:
    rows = []
    for one in _of(records, "pytorch", "case"):
        if not one.get("seconds"):
            rows.append([one["side"], one.get("failed", NONE)[:120], "", "", "", ""])
            continue
        case, second = Case(**one["case"]), statistics.median(one["seconds"])
        ours = next((two for two in _of(records, "step", "case") if two["case"] == one["case"] and two.get("seconds")), None)
        times = f"{second / statistics.median(ours['seconds']):.2f}" if ours else NONE
        rate = f"{case.rows * case.length / second:,.0f}"
        rows.append(
            [f"{one['side']}, {_named(case)}", f"{1e3 * second:.1f}", rate, times, f"{one['prepared']:.1f}",
             f"{one['memory'] / 1e9:.2f}"]
        )  # fmt: skip
    yield from _table("theirs | ms | tokens/s | ours is … times as fast | first step, s | peak GB", rows)
    yield from _failures(records, "pytorch")


def pretraining(records: list[dict]) -> Iterator[str]:
    for one in _of(records, "pretraining", "begun"):
        yield f"    {one['command']}"
        yield ""
        bare = one["bare_step"]
    for one in _of(records, "pretraining", "killed"):
        yield f"- killed after step {one['after_step']:,}, {one['seconds']:.1f} s from the start"
    for one in _of(records, "pretraining", "resumed"):
        made = f"- started again, it had made a further step after {one['seconds']:.1f} s"
        yield f"{made}, without the {one['repeated']:.1f} s of steps that were made twice"
    for one in _of(records, "pretraining", "ended"):
        if "curve" not in one:
            continue
        total = sum(one["ledger"].values()) or 1
        parts = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in one["ledger"].items() if seconds > total / 500)
        yield f"- {one['reached']:,} of {one['steps']:,} steps in {one['seconds']:.1f} s, exit status {one['exit']}; {parts}"
        laps = [line for line in one["curve"] if "train/tokens_per_second" in line]
        if len(laps) > 2:
            rate = statistics.median(line["train/tokens_per_second"] for line in laps[1:])
            against = f", {rate * bare / one['rows'] / one['length']:.1%} of the bare step's" if bare else ""
            mfu = statistics.median(line["train/mfu"] for line in laps[1:])
            tokens = one["reached"] * one["rows"] * one["length"]
            yield f"- {rate:,.0f} tokens/s{against}, MFU {mfu:.1%}, {tokens / 1e6:,.1f} million tokens, padding included"
        yield from (f"- incident: {line[:200]}" for line in one["incidents"])
        yield ""
        valid = {line["step"]: line for line in one["curve"] if "valid/loss" in line}
        shown = {line["step"]: line for line in laps[:: max(1, len(laps) // 10)] + laps[-1:]}
        rows = [
            [f"{step:,}", *(f"{of[step][name]:.3f}" if step in of and name in of[step] else "" for of, name in wanted)]
            for step in sorted(shown | valid)
            for wanted in [((shown, "train/loss"), (valid, "valid/loss"), (valid, "valid/accuracy"))]
        ]
        yield from _table("step | train loss | valid loss | valid accuracy", rows)
        yield from ["", *(f"    {line[:160]}" for line in one["said"] if line.startswith(("a unigram", "  ")))]
    yield from _failures(records, "pretraining")


def bits(records: list[dict]) -> Iterator[str]:
    rows = []
    for one in _of(records, "bits", "compared"):
        if "run" in one:
            found = one.get("failed") or (
                f"{one['different']} differ: {', '.join(one['first'])}" if one["different"] else "the same"
            )
            run = "again" if one["run"] == "again" else "killed and resumed" if one.get("resumed", True) else "killed too late"
            rows.append([one["said"], run, found])
    yield from _table("10 steps | beside an undisturbed run | every array and loss", rows)
    yield from _failures(records, "bits")


def inference(records: list[dict]) -> Iterator[str]:
    for one in _of(records, "inference", "embed"):
        if "texts" in one:
            rate = one["texts_per_second"]
            yield f"{rate:,.0f} texts/s to vectors: {one['texts']:,} of {one['ids']:,} ids, {one['dtype']}, {one['model']}."
    yield from _failures(records, "inference")


def grammar(records: list[dict]) -> Iterator[str]:
    rows = []
    for one in _of(records, "grammar", "pairs"):
        for suite in one["scores"]["suites"]:
            shares = {"all": suite["overall"], "over categories": suite["over_categories"]} | suite["categories"]
            rows += [
                [suite["suite"], one["scores"]["metric"], of, f"{100 * share['accuracy']:.1f}",
                 f"{100 * share['low']:.1f} to {100 * share['high']:.1f}", f"{share['pairs']:,}", f"{share['ties']:,}"]
                for of, share in shares.items() if share
            ]  # fmt: skip
    yield from _table("suite | metric | | right, % | interval | pairs | ties", rows)
    yield from _failures(records, "grammar")


SECTIONS: dict[str, Callable[[list[dict]], Iterator[str]]] = {
    "The machine": environment,
    "The attention kernel beside XLA's attention": kernel,
    "The word table's gradient": gradients,
    "A training step": step,
    "PyTorch's": pytorch,
    "A pretraining": pretraining,
    "Bits": bits,
    "Inference": inference,
    "Minimal pairs": grammar,
}
