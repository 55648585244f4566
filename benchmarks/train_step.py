"""One training step beside its peers, and beside the limit of the machine.

    python -m benchmarks.train_step [--shape base] [--rows 8] [--length 128] [--dtype float32] [--sides …] [--json]
    python -m benchmarks.train_step --shape base,large --rows 32 --length 512,128 --dtype bfloat16 --dropout 0.1,0 \
        --remat none,dots --minutes 9

Forward, backward and AdamW of a masked LM that predicts 15% of the positions. Peers are transformers' RobertaForMaskedLM in
PyTorch (eager, SDPA, torch.compile) and, where a Python with transformers 4.57, the last that has it, is named by
--flax_python, its FlaxRobertaForMaskedLM. Each side is a process of its own. On a CPU all are there at once and take turns,
and ratios are of steps of the same round; on a GPU each has the device for itself. The share of the limit is the FLOPs that
the model needs (no recomputation, predicted positions only) a second, by the best rate of large products in the same round.
Where a field has several values, parted by commas, all cases that they give are measured, as far as --minutes go.
Expected on two CPU cores, base, 8 × 128, float32: at least 1.5 times PyTorch eager, 1.35 times Flax and 65% of the limit.
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine, spread
from benchmarks.sides import LIMIT, SIDES, Case
from roberta_jax.memory import use_huge_pages


class Worker:
    """A side in its process: it does a step when asked."""

    def __init__(self, side: str, case: Case, python: str):
        command = [python, "-m", "benchmarks.train_step", "--worker", side, json.dumps(dataclasses.asdict(case))]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, env=environment
        )
        self.side = side

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, question: str = "") -> dict:
        """The answer to "step" or "memory"; to "", what it says when it is ready.

        Raises:
          RuntimeError: with the last line that it wrote; it has not the memory, or cannot be imported.
        """
        try:
            if question:
                print(question, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            lines = self._process.communicate()[1].strip().splitlines() or [f"exit status {self._process.returncode}"]
            raise RuntimeError(lines[-1])
        return json.loads(answer)


def work(side: str, case: Case) -> None:
    """The worker's end."""
    if side == "roberta_jax":
        use_huge_pages()  # as main does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    made = SIDES[side](case)
    print(json.dumps({"prepared": made.prepared}), file=answers, flush=True)
    for question in map(str.strip, sys.stdin):
        answer = {"seconds": made.step()} if question == "step" else {"memory": made.peak_memory()}
        print(json.dumps(answer), file=answers, flush=True)


def measure(case: Case, sides: list[str], rounds: int, steps: int, flax_python: str, at_once: bool) -> dict:
    """Per side {"seconds": one a round, "prepared", "memory"} or {"failed"}; a turn's first step does not count."""
    sides = [LIMIT, *sides]
    found: dict[str, dict] = {}

    def begin(side: str, stack: ExitStack) -> Worker | None:
        found[side] = {"seconds": []}
        try:
            worker = stack.enter_context(Worker(side, case, flax_python if side == "FlaxRoberta" else sys.executable))
            found[side]["prepared"] = worker.ask()["prepared"]
            return worker
        except (RuntimeError, OSError) as error:
            found[side] = {"failed": str(error)}
            return None

    def turn(worker: Worker) -> None:
        result = found[worker.side]
        if "failed" in result:
            return
        try:
            worker.ask("step")  # its memory and caches were the others'
            result["seconds"].append(statistics.median(worker.ask("step")["seconds"] for _ in range(steps)))
            result["memory"] = worker.ask("memory")["memory"]
        except RuntimeError as error:
            found[worker.side] = {"failed": str(error)}

    if at_once:
        with ExitStack() as stack:
            workers = [worker for side in sides if (worker := begin(side, stack))]
            for number in range(rounds):
                for worker in workers[:: 1 if number % 2 == 0 else -1]:
                    turn(worker)
    else:
        for side in sides:
            with ExitStack() as stack:
                if worker := begin(side, stack):
                    for _ in range(rounds):
                        turn(worker)
    return {"case": dataclasses.asdict(case), "sides": found, "machine": "; ".join(filter(None, (gpus(), machine())))}


def gpus() -> str:
    """Their names, or nothing."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return ", ".join(subprocess.run(asked, capture_output=True, text=True).stdout.strip().splitlines())
    except OSError:
        return ""


def rows_of(found: dict) -> list[dict]:
    """Of each side the tokens a second, the first one's ratio to it, and its share of the limit: median and spread."""
    tokens, sides = found["case"]["rows"] * found["case"]["length"], found["sides"]
    ours = next(side["seconds"] for name, side in sides.items() if name != LIMIT and side.get("seconds"))
    rows = []
    for name, side in sides.items():
        if not side.get("seconds"):
            rows.append({"side": name, "failed": side["failed"]})
            continue
        row = {"side": name, "prepared": side["prepared"], "memory": side["memory"]}
        row["tokens/s"] = spread([tokens / s for s in side["seconds"]])
        row["ratio"] = spread([theirs / mine for mine, theirs in zip(ours, side["seconds"])])
        if sides[LIMIT].get("seconds"):
            row["share"] = spread([limit / s for limit, s in zip(sides[LIMIT]["seconds"], side["seconds"])])
        rows.append(row)
    return rows


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    case = Case(**found["case"])
    more = f", remat {case.remat}" * (case.remat != "none") + f", microbatches of {case.microbatch}" * bool(case.microbatch)
    more += f", {case.attention}'s attention" * (case.attention != "kernel")
    made = f"{case.layers} layers of {case.shape}" if case.layers else case.shape
    head = f"{made}, {case.rows} × {case.length}, {case.dtype}, dropout {case.dropout:g}{more}; {found['machine']}"
    table = [
        head,
        "",
        "| | tokens/s | ours is … times as fast | share of the limit | compiling | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows_of(found):
        if "failed" in row:
            table.append(f"| {row['side']} | – | {row['failed']} | | | |")
            continue
        rate, ratio = row["tokens/s"], row["ratio"]
        cells = [
            row["side"],
            f"{rate['median']:,.0f} ({rate['smallest']:,.0f} to {rate['largest']:,.0f})",
            f"{ratio['median']:.2f} ({ratio['smallest']:.2f} to {ratio['largest']:.2f})",
            f"{row['share']['median']:.1%} ({row['share']['smallest']:.1%} to {row['share']['largest']:.1%})"
            if "share" in row
            else "",
            f"{row['prepared']:.1f} s" if row["prepared"] else "",
            f"{row['memory'] / 1e9:.2f} GB" if row["prepared"] else "",
        ]
        table.append(f"| {' | '.join(cells)} |")
    return table


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Case(**json.loads(sys.argv[3])))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.split("\n")[0])
    for field in dataclasses.fields(Case):
        parser.add_argument(
            f"--{field.name}",
            type=lambda text, field=field: [field.type(part) for part in text.split(",")],
            default=[field.default],
            help=f"default {field.default}",
        )
    known = [side for side in SIDES if side != LIMIT]
    parser.add_argument("--sides", default=",".join(known), help="parted by commas (default: all, %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=2, help="of a side in its turn; their median counts (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further case begins")
    parser.add_argument(
        "--flax_python", default=sys.executable, help="an interpreter that has transformers 4.57, flax and optax"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON a case instead of its table")
    args = parser.parse_args()
    sides = [side.strip() for side in args.sides.split(",")]
    if unknown := set(sides) - set(known):
        parser.error(f"--sides: {', '.join(unknown)}; there are {', '.join(known)}")
    values = [getattr(args, field.name) for field in dataclasses.fields(Case)]
    end, at_once = time.monotonic() + 60 * args.minutes, not gpus()
    for number, case in enumerate(itertools.starmap(Case, itertools.product(*values))):
        if time.monotonic() > end:
            print(f"{args.minutes:g} minutes are over: {case} and what follows were not measured", file=sys.stderr)
            break
        found = measure(case, sides, args.rounds, args.steps, args.flax_python, at_once)
        print(
            json.dumps(found | {"rows": rows_of(found)}) if args.json else "\n".join([""] * bool(number) + lines(found)),
            flush=True,
        )


if __name__ == "__main__":
    main()
