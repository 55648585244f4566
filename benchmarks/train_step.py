"""One training step beside its peers, and beside the limit of the machine.

    python -m benchmarks.train_step [--shape base] [--rows 8] [--length 128] [--dtype float32] [--sides …] [--json]
    python -m benchmarks.train_step --shape base,large --rows 32 --length 512,128 --dtype bfloat16 --dropout 0.1,0 \
        --remat none,dots --minutes 9

Forward, backward and AdamW of a masked LM that predicts 15% of the positions. Peers are transformers' RobertaForMaskedLM in
PyTorch (eager, SDPA, torch.compile) and, where a Python with transformers 4.57, the last that has it, is named by
--flax_python, its FlaxRobertaForMaskedLM. Each side is a process of its own. On a CPU all are there at once and take turns,
and ratios are of steps of the same round; on a GPU each has the device for itself. The share of the limit is the FLOPs that
the model needs (no recomputation, predicted positions only) a second, by the best rate of large products in the same round.
Where a field has several values, parted by commas, all cases that they give are measured; a peer once for those that differ
in what is ours alone (remat, microbatch, attention). After --minutes it ends, whatever is being measured then.
Expected on two CPU cores, base, 8 × 128, float32: at least 1.5 times PyTorch eager, 1.35 times Flax and 65% of the limit.
"""

import argparse
import dataclasses
import itertools
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import between, machine, spread
from benchmarks.sides import LIMIT, OURS, SIDES, Case
from roberta_jax.errors import exit_with_sentence
from roberta_jax.memory import use_huge_pages

NO_TIME = "no time left"


class OutOfTime(Exception):
    pass


class Worker:
    """A side in its process: it does a step when asked.

    Args:
      end: by `time.monotonic()`, until which it answers.
    """

    def __init__(self, side: str, case: Case, python: str, end: float = float("inf")):
        command = [python, "-m", "benchmarks.train_step", "--worker", side, json.dumps(dataclasses.asdict(case))]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        root = Path(__file__).parents[1]
        self._errors = tempfile.TemporaryFile("w+")  # not a pipe, which a talkative library would fill, and wait
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=root, env=environment
        )
        self.side, self.case, self._end = side, case, end

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, question: str = "") -> dict:
        """The answer to "step", "memory" or "plan"; to "", what it says when it is ready.

        Raises:
          RuntimeError: with the last line that it wrote; it has not the memory, or cannot be imported.
          OutOfTime: it has not answered before the end.
        """
        left = None if self._end == float("inf") else max(0.0, self._end - time.monotonic())
        try:
            if question:
                print(question, file=self._process.stdin, flush=True)
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise OutOfTime
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.communicate()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or [f"exit status {self._process.returncode}"]
            raise RuntimeError(lines[-1])
        return json.loads(answer)


def work(side: str, case: Case) -> None:
    """The worker's end."""
    use_huge_pages()  # as main does, for every side
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    made = SIDES[side](case)
    print(json.dumps({"prepared": made.prepared}), file=answers, flush=True)
    for question in map(str.strip, sys.stdin):
        answers_to = {"step": lambda: {"seconds": made.step()}, "memory": lambda: {"memory": made.peak_memory()}}
        print(json.dumps((answers_to | {"plan": made.plan})[question]()), file=answers, flush=True)


def alike(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases that are the same to the peers, together."""
    groups: dict[Case, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.of_peers(), []).append(case)
    return list(groups.values())


def measure(
    cases: list[Case],
    sides: list[str],
    rounds: int,
    steps: int,
    flax_python: str = sys.executable,
    at_once: bool = False,
    end: float = float("inf"),
    limit: bool = True,
) -> list[dict]:
    """Of each case and side {"seconds": one a round, "prepared", "memory"} or {"failed"}; a turn's first step does not count.

    Args:
      cases: the same ones to the peers, which are measured once.
      end: by `time.monotonic()`; what has been measured then is the result.
      limit: whether matrix products alone are a side.
    """
    sides = [LIMIT, *sides] if limit else sides
    turns = [(side, case) for side in sides for case in (cases if side == OURS else cases[:1])]
    found: dict[tuple[str, Case], dict] = {}

    def begin(side: str, case: Case, stack: ExitStack) -> Worker | None:
        result = found[side, case] = {"seconds": []}
        python = flax_python if side == "FlaxRoberta" else sys.executable
        try:
            if time.monotonic() >= end:
                raise OutOfTime
            worker = stack.enter_context(Worker(side, case, python, end))
            result["prepared"] = worker.ask()["prepared"]
            if side == OURS:
                result["plan"] = worker.ask("plan")
            return worker
        except (RuntimeError, OSError) as error:
            found[side, case] = {"failed": str(error)}
        except OutOfTime:
            found[side, case] = {"failed": NO_TIME}
        return None

    def turn(worker: Worker) -> None:
        result = found[worker.side, worker.case]
        if "failed" in result:
            return
        try:
            if time.monotonic() >= end:
                raise OutOfTime
            worker.ask("step")  # its memory and caches were the others'
            seconds = statistics.median(worker.ask("step")["seconds"] for _ in range(steps))
            result["memory"] = worker.ask("memory")["memory"]
            result["seconds"].append(seconds)
        except RuntimeError as error:
            found[worker.side, worker.case] = {"failed": str(error)}
        except OutOfTime:
            if not result["seconds"]:
                found[worker.side, worker.case] = {"failed": NO_TIME}

    if at_once:
        with ExitStack() as stack:
            workers = [worker for side, case in turns if (worker := begin(side, case, stack))]
            for number in range(rounds):
                for worker in workers[:: 1 if number % 2 == 0 else -1]:
                    turn(worker)
    else:
        for side, case in turns:
            with ExitStack() as stack:
                if worker := begin(side, case, stack):
                    for _ in range(rounds):
                        turn(worker)
    where = "; ".join(filter(None, (gpus(), machine())))
    of_case = [{side: found[side, case if side == OURS else cases[0]] for side in sides} for case in cases]
    return [{"case": dataclasses.asdict(case), "sides": of, "machine": where} for case, of in zip(cases, of_case)]


def nvidia_smi(fields: str) -> str:
    """What it says of these fields, parted by commas: a line a GPU, or nothing."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()


def gpus() -> str:
    """Their names, or nothing."""
    return ", ".join(nvidia_smi("name").splitlines())


def rows_of(found: dict) -> list[dict]:
    """Of each side the tokens a second, and, where these were measured, ours' ratio to it and its share of the limit."""
    tokens, sides = found["case"]["rows"] * found["case"]["length"], found["sides"]
    ours = sides.get(OURS, {}).get("seconds")
    rows = []
    for name, side in sides.items():
        if not side.get("seconds"):
            rows.append({"side": name, "failed": side["failed"]})
            continue
        row = {"side": name, "prepared": side["prepared"], "memory": side["memory"]}
        row["tokens/s"] = spread([tokens / s for s in side["seconds"]])
        if ours:
            row["ratio"] = spread([theirs / mine for mine, theirs in zip(ours, side["seconds"])])
        if sides.get(LIMIT, {}).get("seconds"):
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
        cells = [
            row["side"],
            between(row["tokens/s"], ",.0f"),
            between(row["ratio"], ".2f") if "ratio" in row else "",
            between(row["share"], ".1%") if "share" in row else "",
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
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which it ends")
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
    shown = 0
    for cases in alike(itertools.starmap(Case, itertools.product(*values))):
        if time.monotonic() > end:
            print(f"{args.minutes:g} minutes are over: {cases[0]} and what follows were not measured", file=sys.stderr)
            break
        for found in measure(cases, sides, args.rounds, args.steps, args.flax_python, at_once, end):
            line = json.dumps(found | {"rows": rows_of(found)}) if args.json else "\n".join([""] * bool(shown) + lines(found))
            print(line, flush=True)
            shown += 1


if __name__ == "__main__":
    exit_with_sentence(main)
