"""One run that is killed many times, and an undisturbed one: do they end alike, and what does it cost?

    python -m benchmarks.kill_campaign [--kills 50] [--out LOG.json]

The tiny config with dropout, killed at random places (SIGKILL, a third of them in the midst of a checkpoint's write; SIGTERM).
Its guard is so strict that the ordinary noise of the losses makes steps unsound and has the run go back now and then. The
SIGTERMs come in steps that are evaluated, and in steps that were unsound in the undisturbed run. Expected: the same final
state and the same lines of metrics, bit for bit, and the same checkpoints.
"""

import argparse
import json
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import ASSETS, needs
from roberta_jax.errors import exit_with_sentence

if TYPE_CHECKING:
    from roberta_jax.verify_resume import Kill

EVAL_EVERY = 5


def aimed(kills: list["Kill"], unsound: Iterable[int], steps: int) -> list["Kill"]:
    """The kills, of which each that can is a SIGTERM in an unsound step, and all other SIGTERMs are in evaluated ones.

    A signal comes when the step two before is in the metrics: the next one is under way by then, and has looked for signals.
    """
    found, unsound = [], set(unsound)
    for part, kill in enumerate(kills):
        steps_of_part = range(part * steps // len(kills) + 1, (part + 1) * steps // len(kills) + 1)
        targets = [step for step in steps_of_part if step in unsound]
        if not targets and kill.signal == "SIGTERM":
            targets = [step for step in steps_of_part if step % EVAL_EVERY == 0]
        found.append(replace(kill, step=targets[0] - 2, signal="SIGTERM", in_write=False, delay=0) if targets else kill)
    return found


def unsound_steps(workdir: Path) -> list[int]:
    path = workdir / "incidents.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return [line["step"] for line in lines if line["kind"] in ("spike", "skipped")]


def stops(output: str) -> list[tuple[int, bool]]:
    """Of what a run said: the steps that were saved for a signal, and whether each was unsound."""
    found, last_unsound = [], 0
    for line in output.splitlines():
        if said := re.match(r"! step ([\d,]+): (?:the update was not made|loss)", line):
            last_unsound = int(said[1].replace(",", ""))
        if said := re.search(r": saved step ([\d,]+) in", line):
            step = int(said[1].replace(",", ""))
            found.append((step, step == last_unsound))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="of the run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the places (default %(default)s)")
    parser.add_argument("--source", default=str(ASSETS / "text"), help="data.source (default %(default)s)")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    args = parser.parse_args()
    needs("tensorflow", "ml_collections", "tensorboardX")
    from roberta_jax.verify_resume import differences, finish, kills_for, run_killed, start

    fields = {
        "steps": args.steps, "log_every": 1, "checkpoint_every": 3, "eval_every": EVAL_EVERY, "model.dropout": 0.1,
        "optimizer.warmup_steps": 10, "data.source": args.source, "guard.spike_above": 0.4, "guard.skip_above": 1.3,
        "guard.spike_steps": 2, "guard.rewinds": 20,
    }  # fmt: skip
    arguments = ["--config=configs/tiny.py", *(f"--config.{name}={value}" for name, value in fields.items())]
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder, "alone"), Path(folder, "killed")
        began = time.perf_counter()
        finish(start(arguments, alone), alone)
        seconds = {"undisturbed": time.perf_counter() - began}
        kills = aimed(kills_for(args.steps, args.kills, random.Random(args.seed)), unsound_steps(alone), args.steps)
        began, events = time.perf_counter(), []
        for event in run_killed(arguments, killed, kills):
            events.append(event)
            print(f"kill {len(events)}: {event['what']} after step {event['after_step']}, {event['seconds']:.1f} s", flush=True)
        seconds["killed"] = time.perf_counter() - began
        found = differences(alone, killed, args.steps)
        output = (killed / "output.txt").read_text()
        saved, resumed = stops(output), output.count("resuming from step")
        rewinds = [(workdir / "output.txt").read_text().count("unsound steps in a row") for workdir in (alone, killed)]
        ledger = json.loads((killed / "ledger.json").read_text())
        damaged = len(list((killed / "checkpoints").glob("*.damaged*")))
    in_writes, terms = (sum(what in event["what"] for event in events) for what in ("write", "SIGTERM"))
    evaluated, unsound = sum(step % EVAL_EVERY == 0 for step, _ in saved), sum(unsound for _, unsound in saved)
    typical = statistics.median(event["seconds"] for event in events)
    print(
        f"{len(events)} kills ({in_writes} in a write, {terms} SIGTERM: {evaluated} stopped in an evaluated step, {unsound} in "
        f"an unsound one), {resumed} starts from a checkpoint, {damaged} of them damaged; the undisturbed run went back "
        f"{rewinds[0]} times, this one {rewinds[1]}; a start took {typical:.1f} s, all {seconds['killed']:.0f} s, the "
        f"undisturbed run {seconds['undisturbed']:.0f} s; {platform.machine()}, Python {platform.python_version()}"
    )
    print("the final states and all metrics are the same, bit for bit" if not found else f"these differ: {', '.join(found)}")
    if args.out:
        result = {
            "same": not found,
            "differences": found,
            "kills": events,
            "stops": saved,
            "seconds": seconds,
            "ledger": ledger,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    exit_with_sentence(main)
