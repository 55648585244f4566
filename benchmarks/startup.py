"""How long a person waits: seconds from the command to its help, to its imports, to the first step.

    python -m benchmarks.startup [--config configs/tiny.py] [--rounds 3] [--json] [--config.FIELD=VALUE …]

Each is a real command in a process of its own: `--help`; the imports alone; a run whose cache of compiled programs is empty
(cold); another one with that cache (warm); and the first one again, from the checkpoint that it saved when it was stopped
(resumed). The corpus is prepared before all of them. A run is watched from outside, by its lines: that of the first step
comes when the second one has been handed to the device. Expected of tiny on two cores: help within 2 s, a warm run's first
step within 25 s.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine, needs, spread, table
from roberta_jax.errors import exit_with_sentence

MAIN = [sys.executable, "-m", "roberta_jax.main"]
IMPORTS = [sys.executable, "-c", "import os, roberta_jax.main, roberta_jax.pretraining.job; os._exit(0)"]
MARKS = {  # what a run prints when it has come so far
    "corpus opened": re.compile(r"[\d,]+ rows of \d+ in "),
    "step compiled": re.compile(r"compiled the step"),
    "first step done": re.compile(r"step [\d,]+/[\d,]+ \|"),
}


def seconds_to_end(command: list[str], expected: str = "") -> float:
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1) or expected not in done.stdout:  # absl's help exits with 1
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    return seconds


def seconds_to_marks(command: list[str], cache: str) -> dict[str, float]:
    """To each of MARKS; at the last one the run is stopped, and saves a checkpoint."""
    found, lines, started = {}, [], time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": cache}  # of what is compiled; a config names its corpora's
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        now = time.perf_counter() - started
        lines.append(line)
        new = [name for name, mark in MARKS.items() if name not in found and mark.match(line)]
        found |= dict.fromkeys(new, now)
        if new and len(found) == len(MARKS):
            process.send_signal(signal.SIGTERM)
    if process.wait() or len(found) < len(MARKS):
        sys.exit(f"{' '.join(command)} failed:\n{''.join(lines)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--config", default="configs/tiny.py", help="of a pretraining job (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args, fields = parser.parse_known_args()
    needs("tensorflow", "ml_collections", "tensorboardX")
    run = [*MAIN, f"--config={args.config}", "--config.log_every=1", *fields]
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        seconds_to_marks([*run, f"--workdir={folder}/first"], f"{folder}/cache")  # prepares the corpus, where it is not there
        for number in range(args.rounds):
            at = Path(folder, str(number))
            measured = {"help printed": seconds_to_end([*MAIN, "--help"], "--workdir"), "imports done": seconds_to_end(IMPORTS)}
            for start, workdir in (("cold", "one"), ("warm", "other"), ("resumed", "one")):
                marks = seconds_to_marks([*run, f"--workdir={at / workdir}"], str(at / "cache"))
                measured |= {f"{start}: {name}": value for name, value in marks.items()}
            for name, value in measured.items():
                seconds.setdefault(name, []).append(value)
    found = {"config": args.config, "machine": machine(), "rounds": args.rounds, "seconds": seconds}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    seconds = {name: spread(values) for name, values in found["seconds"].items()}
    what = f"{found['config']}, {found['rounds']} rounds; {found['machine']}"
    return [what, "", *table("seconds from the command to", seconds)]


if __name__ == "__main__":
    exit_with_sentence(main)
