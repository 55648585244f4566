"""All that a GPU has to tell of this package, in one call, on a bare machine: what is right, what is fast, what is not.

    python -m benchmarks.gpu_folder                                      # at home: what has to travel, into .gpu/
    python -m benchmarks.on_gpu --out=found --minutes=8.7                # there: of a GPU, with REQUIRED below
    python -m benchmarks.on_gpu --out=found --rehearse                   # the same on a CPU, with small shapes
    python -m benchmarks.on_gpu --report=found                           # at home: reports/gpu-DATE.md

The machine needs no network, no TensorFlow (see stand_in/) and none of what .gpu/packages holds. Stages run one after another,
each in processes of its own. A stage must end by the time at which its limit and those before it are over, else it is ended,
so that what one does not use the next ones have, and none takes another's time; one that fails ends nothing but itself.
--minutes are spread over the stages as the limits below are, which take 8.7. What they find is written as it is found:
found.jsonl, an object a line, log.txt, and in the end report.md, whose tables are printed last.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import needs, there
from benchmarks.gpu_folder import FOLDER, PACKAGES, unpack_packages
from benchmarks.gpu_tables import tables
from roberta_jax.errors import UserError, exit_with_sentence

ROOT = Path(__file__).parents[1]
GRACE = 3.0  # seconds between being asked to end and being ended
# By the names that they are imported by; what these need themselves comes with them.
REQUIRED = ("jax", "flax", "optax", "orbax.checkpoint", "fsspec", "pyarrow", "safetensors", "tokenizers", "tqdm")
LOG = 1_500_000  # bytes of a stage's log that are kept, the last ones


@dataclass(frozen=True)
class Stage:
    name: str  # of its function in `gpu_stages`
    limit: float  # seconds, of the 8.7 minutes
    rehearsed: float = 0  # seconds of a rehearsal, where two cores compile and start processes, and little else takes time


STAGES = (
    Stage("environment", 20, 30),
    Stage("kernel", 70, 100),
    Stage("gradients", 15, 30),
    Stage("step", 110, 80),
    Stage("pytorch", 80, 50),
    Stage("pretraining", 170, 120),
    Stage("bits", 45, 100),
    Stage("inference", 10, 30),
    Stage("grammar", 0, 30),  # on a GPU it takes what is left
)


class Records:
    """The lines of found.jsonl: appended whole, by this process and by the stages'."""

    def __init__(self, out: Path):
        self.path = out / "found.jsonl"

    def write(self, stage: str, what: str, **values) -> None:
        line = json.dumps({"stage": stage, "what": what} | values) + "\n"
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())

    def read(self) -> list[dict]:
        """Without lines that a process that was ended has left half written."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def end_group(process: subprocess.Popen, number: int) -> None:
    """A signal for a stage's process and all that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def run_stage(command: list[str], environment: dict, until: float, log: Path, say: Callable[[str], None]) -> tuple[str, int]:
    """Runs a stage in a process group of its own; its standard output is said, and logged with its errors.

    Args:
      until: by `time.monotonic()`, when nothing of it may be left.

    Returns:
      "done", "failed" or "stopped", and its exit status.
    """
    begun = log.stat().st_size if log.exists() else 0
    with open(log, "ab", buffering=0) as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=file, start_new_session=True, text=True
        )

        def follow() -> None:
            for line in process.stdout:
                say(line.rstrip("\n"))
                file.write(line.encode())

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        state = ""
        try:
            try:
                process.wait(max(0.0, until - GRACE - time.monotonic()))
            except subprocess.TimeoutExpired:
                state = "stopped"
                end_group(process, signal.SIGTERM)
                try:
                    process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    pass
        finally:
            end_group(process, signal.SIGKILL)  # what it left running too
            code = process.wait()
        follower.join(1.0)
    shorten(log, begun)
    return state or ("failed" if code else "done"), code


def shorten(log: Path, begun: int) -> None:
    """Of what a stage logged from `begun` on, only the end is kept."""
    with open(log, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size - begun > LOG:
            file.seek(size - LOG)
            kept = file.read()
            file.seek(begun)
            file.truncate()
            file.write(b"[...]\n" + kept)


def conduct(
    stages: list[Stage], command: Callable[[Stage, float], list[str]], environment: dict, out: Path, end: float
) -> bool:
    """Runs the stages until `end` and records how each ended.

    Args:
      command: (stage, by `time.monotonic()` when it must have ended) → what runs it.

    Returns:
      Whether all that began were done.
    """
    records, began, whole = Records(out), time.monotonic(), sum(stage.limit for stage in stages) or 1
    done, until = True, began
    for stage in stages:
        until += (end - began) * stage.limit / whole
        started = time.monotonic()
        left = until - started
        print(f"--- {stage.name}: {left:.0f} s", flush=True)
        if left < 2 * GRACE:
            state, code = "no time left", None
        else:
            state, code = run_stage(
                command(stage, until), environment, until, out / "log.txt", lambda line: print(f"    {line}", flush=True)
            )
        seconds = time.monotonic() - started
        records.write(stage.name, "ended", state=state, exit=code, seconds=seconds, limit=left)
        print(f"--- {stage.name}: {state} after {seconds:.1f} s", flush=True)
        done = done and state in ("done", "no time left")
    return done


def environment_of(folder: Path, scratch: Path, rehearse: bool) -> dict:
    """Of the stages' processes: what Python lacks comes from the folder, and stand_in/ where that is TensorFlow."""
    unpack_packages(folder, [name for name in PACKAGES if not there(name)], scratch / "packages")
    paths = [str(ROOT), str(scratch / "packages")] + [str(Path(__file__).parent / "stand_in")] * (not there("tensorflow"))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    changed = {"PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(scratch / "cache"), "PYTHONUNBUFFERED": "1"}
    changed |= {"TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(scratch)}
    if rehearse:  # two cores are to compile it all
        changed |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return os.environ | changed


def measure(stages: list[Stage], folder: Path, out: Path, minutes: float, rehearse: bool) -> bool:
    began = time.monotonic()
    if not (folder / "corpus" / "manifest.json").is_file():
        raise UserError(
            f"{folder} holds no corpus/: python -m benchmarks.gpu_folder makes that folder, which has to travel too."
        )
    needs(*REQUIRED, *(name for name in PACKAGES if not any((folder / "packages" / name).glob("*.whl"))))
    if out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty; name a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="on_gpu"))
    records = Records(out)
    command = f"python -m benchmarks.on_gpu --minutes={minutes:g}" + " --rehearse" * rehearse
    records.write("all", "begun", command=command, date=datetime.now(UTC).date().isoformat(), rehearsal=rehearse)

    def run(stage: Stage, until: float) -> list[str]:
        paths = {"out": str(out.resolve()), "folder": str(folder.resolve()), "scratch": str(scratch)}
        given = paths | {"until": until - 2 * GRACE, "rehearse": rehearse}
        return [sys.executable, "-m", "benchmarks.gpu_stages", stage.name, json.dumps(given)]

    try:
        # A table must still be made, and the scratch folder emptied.
        return conduct(stages, run, environment_of(folder, scratch, rehearse), out, began + 60 * minutes - 2)
    finally:
        text = "\n".join(tables(records.read()))
        (out / "report.md").write_text(text + "\n")
        print(text, flush=True)
        shutil.rmtree(scratch, ignore_errors=True)


def write_report(found: Path, to: Path) -> Path:
    """The report of what came back, in the folder of reports.

    Raises:
      UserError: nothing came back, or a rehearsal.
    """
    records = Records(found).read()
    if not records:
        raise UserError(f"{found} holds no found.jsonl: name the folder that was --out.")
    begun = records[0]
    if begun["rehearsal"]:
        raise UserError(f"{found} is of a rehearsal, whose figures mean nothing; its tables are in report.md there.")
    path = to / f"gpu-{begun['date']}.md"
    path.write_text("\n".join(tables(records)) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="a new folder for what is found")
    parser.add_argument("--minutes", type=float, help="in which all must have ended (default 8.7; of a rehearsal 9.5)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of benchmarks.gpu_folder (default %(default)s)")
    known = [stage.name for stage in STAGES]
    parser.add_argument("--stages", default=",".join(known), help="parted by commas (default: all, %(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small shapes")
    parser.add_argument("--report", type=Path, metavar="OUT", help="write reports/gpu-DATE.md from what came back, and end")
    args = parser.parse_args()
    if args.report:
        print(write_report(args.report, ROOT / "reports"))
        return
    if args.out is None:
        parser.error("--out is missing: a new folder for what is found")
    chosen = args.stages.split(",")
    if unknown := set(chosen) - set(known):
        parser.error(f"--stages: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stage that runs is ended and the table printed
    stages = [stage for stage in STAGES if stage.name in chosen]
    if args.rehearse:
        stages = [replace(stage, limit=stage.rehearsed) for stage in stages]
    if not measure(stages, args.folder, args.out, args.minutes or (9.5 if args.rehearse else 8.7), args.rehearse):
        sys.exit(1)


if __name__ == "__main__":
    exit_with_sentence(main)
