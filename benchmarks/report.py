"""Runs all that this machine can and writes reports/performance-DATE.md, with its pictures.

    python -m benchmarks.report [--parts step,start,whole,growth] [--flax_python PYTHON] [--out reports]

Each part is a command of its own, given in the report. What a part found is kept in performance-DATE.json as soon as it ends,
and the report is written from that, so that parts may be measured one by one, or again. About half an hour on two idle cores.
"""

import argparse
import json
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

from benchmarks import growth, startup, train_step, whole_run  # noqa: E402

MIDDLE = (
    "--config.model.hidden_size=512 --config.model.num_layers=6 --config.model.intermediate_size=2048 "
    "--config.model.num_heads=8"
)
PARTS = {  # name → title, module, what the module makes lines of, and its commands
    "step": (
        "One step beside its peers",
        train_step,
        [f"--rows {rows} --rounds 3 --steps 1" for rows in ("8 --length 128", "2 --length 512")],
    ),
    "start": ("From the command to the first step", startup, [""]),
    "whole": (
        "The whole run beside the bare step",
        whole_run,
        ["", f"--steps 60 --log_every 10 --rounds 2 {MIDDLE} --config.eval_every=30 --config.checkpoint_every=30"],
    ),
    "growth": ("How time grows", growth, [""]),
}


def measure(part: str, flax_python: str) -> list[dict]:
    """[{"command", "found"}], of each of the part's commands."""
    module = PARTS[part][1].__name__
    measured = []
    for arguments in PARTS[part][2]:
        words = ["-m", module, *shlex.split(arguments)]
        hidden = ["--flax_python", flax_python] if flax_python and part == "step" else []
        done = subprocess.run([sys.executable, *words, *hidden, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        command = shlex.join(["python", *words] + ["--flax_python", "PYTHON"] * bool(hidden))
        measured.append({"command": command, "found": json.loads(done.stdout.splitlines()[-1])})  # preparing talks
    return measured


def picture(measured: dict[str, list[dict]], path: Path) -> None:
    """Rates of a step's sides, and times against what grows."""
    plots = [(one, None) for one in measured.get("step", [])]
    plots += [(one, name) for one in measured.get("growth", []) for name in one["found"]["growth"] if name != "first step"]
    figure, axes = plt.subplots(-(-len(plots) // 3), 3, figsize=(13, 3.4 * -(-len(plots) // 3)), squeeze=False)
    for axis, (one, name) in zip(axes.flat, plots):
        found = one["found"]
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
            axis.set_yticks([min(times), max(times)], [f"{seconds:.3g} s" for seconds in (min(times), max(times))], fontsize=8)
            axis.set_title(f"seconds against {name}", fontsize=10)
            axis.legend(fontsize=8)
    for axis in axes.flat[len(plots) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(measured: dict[str, list[dict]], day: str, out: Path) -> Path:
    path = out / f"performance-{day}.md"
    picture(measured, path.with_suffix(".png"))
    text = [f"# Performance, {day}", "", f"![rates and growth]({path.stem}.png)"]
    for part, (title, module, _) in PARTS.items():
        for number, one in enumerate(measured.get(part, [])):
            heading = [] if number else ["", f"## {title}"]
            text += [*heading, "", f"    {one['command']}", "", *module.lines(one["found"])]
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
    measured = json.loads(kept.read_text()) if kept.exists() else {}
    for part in parts:
        print(f"{part}: {PARTS[part][0]}", flush=True)
        measured[part] = measure(part, args.flax_python)
        kept.write_text(json.dumps(measured, indent=1) + "\n")
    print(write(measured, day, args.out))


if __name__ == "__main__":
    main()
