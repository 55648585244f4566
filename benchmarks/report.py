"""Runs all that this machine can and writes reports/performance-DATE.md, with its pictures.

    python -m benchmarks.report [--parts step,finetune,…] [--flax_python PYTHON] [--out reports]

Each part is a command of its own, given in the report. What a part found is kept in performance-DATE.json as soon as it ends,
and the report is written from that, so that parts may be measured one by one, or again. A part that cannot run, for want of
the test assets or of a package, is named with its reason. About an hour on two idle cores.
"""

import argparse
import importlib
import json
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

from benchmarks import between, needs, spread, train_step
from benchmarks.sides import LIMIT, OURS, Case
from roberta_jax.errors import exit_with_sentence

MIDDLE = (
    "--config.model.hidden_size=512 --config.model.num_layers=6 --config.model.intermediate_size=2048 "
    "--config.model.num_heads=8"
)
PARTS = {  # name → title, module, which makes lines of what it found, and its commands
    "step": (
        "One step beside its peers",
        "train_step",
        [f"--rows {rows} --rounds 3 --steps 1" for rows in ("8 --length 128", "2 --length 512")],
    ),
    "finetune": ("Fine-tuning beside the Trainer", "finetune", ["--rounds 3"]),
    "inference": ("Texts to vectors beside transformers", "inference", ["--rounds 3"]),
    "tokenizer": ("Encoding beside tokenizers", "tokenizer", [""]),
    "pipeline": ("Masked batches beside the collator", "input_pipeline", [""]),
    "checkpoint": ("Checkpoints", "checkpoint", [""]),
    "start": ("From the command to the first step", "startup", [""]),
    "whole": (
        "The whole run beside the bare step",
        "whole_run",
        ["", f"--steps 60 --log_every 10 --rounds 2 {MIDDLE} --config.eval_every=30 --config.checkpoint_every=30"],
    ),
    "growth": ("How time grows", "growth", [""]),
}


def measure(part: str, flax_python: str) -> list[dict]:
    """[{"command", "found"}], of each of the part's commands; of one that failed "failed", its last words."""
    measured = []
    for arguments in PARTS[part][2]:
        words = ["-m", f"benchmarks.{PARTS[part][1]}", *shlex.split(arguments)]
        hidden = ["--flax_python", flax_python] if flax_python and part == "step" else []
        done = subprocess.run([sys.executable, *words, *hidden, "--json"], capture_output=True, text=True)
        command = shlex.join(["python", *words] + ["--flax_python", "PYTHON"] * bool(hidden))
        if done.returncode:
            measured.append({"command": command, "failed": (done.stderr.splitlines() or ["no word"])[-1]})
        else:
            measured.append({"command": command, "found": json.loads(done.stdout.splitlines()[-1])})  # preparing talks
    return measured


def summary(measured: dict[str, list[dict]]) -> list[str]:
    """A table of what each part is for: how fast, beside what, and what was expected of it."""
    rows: list[tuple] = []  # what, how fast, beside what, the ratio or what else there is to tell, expected

    def compared(what: str, comparison: dict, unit: str, expected: float) -> None:
        ours, theirs = list(comparison["rates"])[:2]
        rate, ratio = comparison["rates"][ours]["median"], comparison["ratios"][theirs]
        rows.append((what, f"{rate:,.3g} {unit}", theirs, f"{between(ratio, '.2f')} times as fast", f"{expected:g} times"))

    for one in found_in(measured, "step"):
        case = Case(**one["case"])
        of = {row["side"]: row for row in train_step.rows_of(one) if "failed" not in row}
        if OURS not in of:
            continue
        what, rate = f"training step of {case.shape}, {case.rows} × {case.length}", of[OURS]["tokens/s"]["median"]
        for side, expected in (("PyTorch eager", 1.5), ("FlaxRoberta", 1.35)):
            if side in of:
                ratio = f"{between(of[side]['ratio'], '.2f')} times as fast"
                rows.append((what, f"{rate:,.0f} tokens/s", side, ratio, f"{expected:g} times"))
        if "share" in of[OURS]:
            rows.append((what, f"{rate:,.0f} tokens/s", LIMIT, f"{between(of[OURS]['share'], '.1%')} of it", "65%"))
    for one in found_in(measured, "finetune"):
        for name, comparison in one["rows"].items():
            compared(f"fine-tuning step of base, {name}", comparison, "steps/s", 1.2)
    for one in found_in(measured, "inference"):
        compared("texts to vectors, base", one, "sentences/s", 1)
    for one in found_in(measured, "tokenizer"):
        compared("encoding", one, "MB/s", 3)
    for one in found_in(measured, "pipeline"):
        compared("masked batches", one["throughput"], "million tokens/s", 20)
    for one in found_in(measured, "checkpoint"):
        stops, step = (between(one["seconds"][name], ".2f") for name in ("save returns after", "step alone"))
        rows.append(("a checkpoint of base stops the steps", f"{stops} s", "a step, 8 × 128", f"{step} s", "less"))
    for one in found_in(measured, "start"):
        seconds = {name: spread(values) for name, values in one["seconds"].items()}
        for name, expected in (("help printed", 2), ("warm: first step done", 25)):
            rows.append((f"from the command: {name}", f"{between(seconds[name], '.2f')} s", "", "", f"{expected} s"))
    for one in found_in(measured, "whole"):
        of, cost = one["what"].split(";")[0], between(one["cost"]["of the loop"], ".1%")
        rows.append((f"the loop around the step: {of}", cost, "the bare step", "", "2%"))
    return ["", "| | | beside | | expected |", "|---|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]


def found_in(measured: dict[str, list[dict]], part: str) -> list[dict]:
    return [one["found"] for one in measured.get(part, []) if "found" in one]


def picture(measured: dict[str, list[dict]], path: Path) -> bool:
    """Rates of a step's sides, and times against what grows; whether there is anything to show."""
    plots = [(found, None) for found in found_in(measured, "step")]
    plots += [(found, name) for found in found_in(measured, "growth") for name in found["growth"] if name != "first step"]
    if not plots:
        return False
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(-(-len(plots) // 3), 3, figsize=(13, 3.4 * -(-len(plots) // 3)), squeeze=False)
    for axis, (found, name) in zip(axes.flat, plots):
        if name is None:
            rows = [row for row in train_step.rows_of(found) if "failed" not in row][::-1]
            middle = [row["tokens/s"]["median"] for row in rows]
            low = [row["tokens/s"]["median"] - row["tokens/s"]["smallest"] for row in rows]
            high = [row["tokens/s"]["largest"] - row["tokens/s"]["median"] for row in rows]
            axis.barh([row["side"] for row in rows], middle, xerr=[low, high], color="#4878a8", ecolor="#333")
            axis.set_title(
                f"{found['case']['shape']}, {found['case']['rows']} × {found['case']['length']}: tokens/s", fontsize=10
            )
        else:
            of = found["growth"][name]
            times = [each["median"] for each in of["seconds"]]
            axis.loglog(of["sizes"], times, "o-", color="#4878a8", label=f"measured: {of['exponent']:.2f}")
            if "flops" in of:
                scale = times[-1] / of["flops"]["counted"][-1]
                counted = [scale * flops for flops in of["flops"]["counted"]]
                axis.loglog(of["sizes"], counted, "--", color="#999", label=f"FLOPs: {of['flops']['exponent']:.2f}")
            axis.set_xticks(of["sizes"], [f"{size:,}" for size in of["sizes"]], fontsize=8)
            axis.minorticks_off()
            middle, room = (min(times) * max(times)) ** 0.5, max(max(times) / min(times), 10) ** 0.55
            axis.set_ylim(middle / room, middle * room)  # what does not grow looks flat
            axis.set_yticks([min(times), max(times)], [f"{seconds:.3g} s" for seconds in (min(times), max(times))], fontsize=8)
            axis.set_title(f"seconds against {name}", fontsize=10)
            axis.legend(fontsize=8)
    for axis in axes.flat[len(plots) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def lines(module: str, one: dict) -> list[str]:
    """What a command found, as its module shows it, or why it did not."""
    if "failed" in one:
        return [f"It failed: {one['failed']}"]
    return importlib.import_module(f"benchmarks.{module}").lines(one["found"])


def write(measured: dict[str, list[dict]], day: str, out: Path) -> Path:
    path = out / f"performance-{day}.md"
    text = [f"# Performance, {day}", *summary(measured)]
    if picture(measured, path.with_suffix(".png")):
        text += ["", f"![rates and growth]({path.stem}.png)"]
    for part, (title, module, _) in PARTS.items():
        text += ["", f"## {title}"] if part in measured else []
        for one in measured.get(part, []):
            text += ["", f"    {one['command']}", "", *lines(module, one)]
    notes = out / f"performance-{day}-notes.md"  # what a person has to say to them
    text += ["", notes.read_text().rstrip()] if notes.exists() else []
    path.write_text("\n".join(text) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="to measure now (default %(default)s)")
    parser.add_argument("--flax_python", default="", help="an interpreter that has transformers 4.57, flax and optax")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "reports", help="default: reports")
    args = parser.parse_args()
    parts, day = [part for part in args.parts.split(",") if part], date.today().isoformat()
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    kept = args.out / f"performance-{day}.json"
    needs("matplotlib")
    measured = json.loads(kept.read_text()) if kept.exists() else {}
    for part in parts:
        print(f"{part}: {PARTS[part][0]}", flush=True)
        measured[part] = measure(part, args.flax_python)
        kept.write_text(json.dumps(measured, indent=1) + "\n")
    print(write(measured, day, args.out))


if __name__ == "__main__":
    exit_with_sentence(main)
