"""One run that is killed many times, and an undisturbed one: do they end alike, and what does it cost?

    python -m benchmarks.kill_campaign [--kills 50] [--out LOG.json]

The tiny config with dropout, a checkpoint every second step, killed at random places (SIGKILL, a third of them in the midst
of a checkpoint's write; a fifth SIGTERM). Expected: the same final state, bit for bit.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ASSETS
from roberta_jax.verify_resume import differences, finish, kills_for, run_killed, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="of the run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the places (default %(default)s)")
    parser.add_argument("--source", default=str(ASSETS / "text"), help="data.source (default %(default)s)")
    parser.add_argument("--out", type=Path, help="where to write JSON")
    args = parser.parse_args()
    fields = {
        "steps": args.steps, "log_every": 1, "checkpoint_every": 2, "eval_every": args.steps, "model.dropout": 0.1,
        "optimizer.warmup_steps": 10, "data.source": args.source,
    }  # fmt: skip
    arguments = ["--config=configs/tiny.py", *(f"--config.{name}={value}" for name, value in fields.items())]
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder, "alone"), Path(folder, "killed")
        began = time.perf_counter()
        finish(start(arguments, alone), alone)
        seconds = {"undisturbed": time.perf_counter() - began}
        began, events = time.perf_counter(), []
        for event in run_killed(arguments, killed, kills_for(args.steps, args.kills, random.Random(args.seed))):
            events.append(event)
            print(f"kill {len(events)}: {event['what']} after step {event['after_step']}, {event['seconds']:.1f} s", flush=True)
        seconds["killed"] = time.perf_counter() - began
        found = differences(alone, killed, args.steps)
        resumed = (killed / "output.txt").read_text().count("resuming from step")
        ledger = json.loads((killed / "ledger.json").read_text())
        damaged = len(list((killed / "checkpoints").glob("*.damaged")))
    in_writes, stops = (sum(what in event["what"] for event in events) for what in ("write", "SIGTERM"))
    typical = statistics.median(event["seconds"] for event in events)
    print(
        f"{len(events)} kills ({in_writes} in a write, {stops} SIGTERM), {resumed} starts from a checkpoint, {damaged} of them "
        f"damaged; a start took {typical:.1f} s, all {seconds['killed']:.0f} s, the undisturbed run "
        f"{seconds['undisturbed']:.0f} s; {platform.machine()}, Python {platform.python_version()}"
    )
    print("the final states and all losses are the same, bit for bit" if not found else f"these differ: {', '.join(found)}")
    if args.out:
        result = {"same": not found, "differences": found, "kills": events, "seconds": seconds, "ledger": ledger}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
