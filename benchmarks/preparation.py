"""Preparing a large text: megabytes a second, and the most memory that all processes together hold at one time.

    python -m benchmarks.preparation [--megabytes 1000] [--tokenizer FOLDER or SIZE] [--deduplicate near] [--beam] [--json]

The text is the docstrings installed on this machine, written as often as needed, each time with its lines in another order
and numbers among them. Memory is the sum of the resident sets of the process and all below it, shared pages counted in
each; disk is the most that the folder held beside the rows. Expected: less than 2 GB of memory for 1 GB of text.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tokenizer import documents
from roberta_jax.errors import exit_with_sentence


def write_text(folder: Path, megabytes: float, files: int = 16) -> int:
    """Documents parted by empty lines; returns the bytes."""
    texts, chooser, written = documents(["docs"], min(megabytes, 50)), random.Random(0), 0
    for number in range(files):
        with open(folder / f"{number:02}.txt", "wb") as file:
            while written < megabytes * 1e6 * (number + 1) / files:
                lines = [line for line in chooser.choice(texts).split("\n") if line.strip()]
                chooser.shuffle(lines)
                lines[::3] = [f"{line} {chooser.randrange(10**6)}" for line in lines[::3]]
                written += file.write("\n".join([*lines, "\n"]).encode())
    return written


def resident(root: int) -> tuple[int, int]:
    """Bytes that a process and all below it hold, and how many processes these are."""
    parents, sizes = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            sizes[int(path.name)] = int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):  # it has just ended
            continue
    tree = {root}
    while below := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= below
    return sum(sizes.get(pid, 0) for pid in tree), len(tree & sizes.keys())


def size_below(folder: Path, pattern: str) -> int:
    size = 0
    for path in folder.glob(pattern):
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # it has just been renamed
            continue
    return size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=float, default=1_000, help="of text (default %(default)s)")
    parser.add_argument("--tokenizer", default="50265", help="folder, or size of a vocabulary to train (default %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--deduplicate", default="none", choices=["none", "exact", "near"], help="default %(default)s")
    parser.add_argument("--beam", action="store_true", help="on Apache Beam's DirectRunner, in as many processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text")
        text.mkdir()
        size = write_text(text, args.megabytes)
        module = ["roberta_jax.prepare", *["--beam"] * args.beam]
        command = [sys.executable, "-m", *module, "--source", str(text), "--tokenizer", args.tokenizer, "--json"]
        command += ["--out", f"{folder}/corpus", "--processes", str(args.processes), "--deduplicate", args.deduplicate]
        if args.beam:
            command += [f"--direct_num_workers={args.processes}", "--direct_running_mode=multi_processing"]
        started, most, at_most, beside = time.perf_counter(), 0, 0, 0
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            held, processes = resident(process.pid)
            most, at_most = max(most, held), max(at_most, processes)
            beside = max(beside, size_below(Path(folder), "corpus.*.partial/work/**/*"))
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            sys.exit(process.returncode)
        manifest = json.loads(Path(folder, "corpus", "manifest.json").read_text())
    result = {
        "megabytes": size / 1e6,
        "seconds": seconds,
        "megabytes_per_second": size / 1e6 / seconds,
        "core_seconds": None if args.beam else used.ru_utime + used.ru_stime,  # Beam does not wait for its workers
        "peak_resident_megabytes": most / 1e6,
        "peak_disk_megabytes": beside / 1e6,
        "processes": at_most,
        "documents": manifest["documents"],
        "dropped": manifest["dropped"],
        "tokens": sum(manifest["tokens"].values()),
        "vocabulary": manifest["vocabulary"],
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"{size / 1e6:,.0f} MB of text, {result['documents']:,} documents, {result['tokens']:,} tokens of {args.tokenizer}")
    print(f"{seconds:,.0f} s, {result['megabytes_per_second']:.2f} MB/s in {args.processes} processes")
    if result["core_seconds"]:
        print(f"{size / 1e6 / result['core_seconds']:.2f} MB a second of a core")
    print(f"at most {most / 1e6:,.0f} MB resident, in all {at_most} processes together, and {beside / 1e6:,.0f} MB on disk")
    if args.deduplicate != "none":
        print(", ".join(f"{number:,} {kind.replace('_', ' ')} dropped" for kind, number in manifest["dropped"].items()))


if __name__ == "__main__":
    exit_with_sentence(main)
