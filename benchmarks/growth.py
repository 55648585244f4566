"""How time grows: a step's with batch, length, layers and devices; a batch's with the corpus; the first batch's with the step.

    python -m benchmarks.growth [--rounds 7] [--json]

Each line of the table is a power law through the medians, time ~ size^p, least squares in log-log, with the middle 95% of p
over resampled rounds; beside it the p of the arithmetic (`flops.train_flops`) on the same grid, and both between the two
largest sizes alone. Devices are simulated, each number of them in a process of its own, with the same global batch. The
corpus is the test assets' text, many times over, in memory. A step late in a run is the program of the first one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from benchmarks import ASSETS, in_turn, needs, spread
from benchmarks.sides import Case, masked_lm_step
from roberta_jax.errors import exit_with_sentence
from roberta_jax.memory import use_huge_pages
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.flops import train_flops

MIDDLE = RobertaConfig(8_192, 4, 256, 1_024, 4, dropout=0.0, attention_dropout=0.0)
ROWS, LENGTH = 8, 128  # where they do not grow
GRIDS = {
    "batch": [2, 4, 8, 16, 32],
    "length": [64, 128, 256, 512],
    "layers": [1, 2, 4, 8],
    "devices": [1, 2, 4, 8],
    "corpus": [1, 4, 16, 64],
    "first step": [0, 1_000, 1_000_000],
}
SHAPES = {  # (model, rows, length) of each size of the grids that change these
    "batch": [(MIDDLE, size, LENGTH) for size in GRIDS["batch"]],
    "length": [(MIDDLE, ROWS, size) for size in GRIDS["length"]],
    "layers": [(replace(MIDDLE, num_layers=size), ROWS, LENGTH) for size in GRIDS["layers"]],
}
EXPECTED = {
    "batch": "1 where rows outweigh the update, which does not grow",
    "length": "that of the FLOPs, between 1 and 2: attention's products are quadratic",
    "layers": "that of the FLOPs, under 1: embeddings and head do not grow",
    "devices": "0: one CPU does the same arithmetic; what rises is sums between devices",
    "corpus": "0: rows are found by their number",
    "first step": "0: nothing is skipped",
}
BATCH_ROWS, BATCHES = 256, 100  # of the pipeline, and how many make one measurement


def step_of(config: RobertaConfig, rows: int, length: int, devices: int = 1) -> Callable[[], float]:
    """A function that does one step, and waits for it, on the first `devices`."""
    batch = Case(rows=rows, length=length, vocab_size=config.vocab_size).batch()
    run = masked_lm_step(config, batch, devices=jax.devices()[:devices]).step
    run()
    return run


def answer(devices: int) -> None:
    """Does a step for each line that is read, and says so."""
    run = step_of(MIDDLE, ROWS, LENGTH, devices)
    print("ready", flush=True)
    for _ in sys.stdin:
        run()
        print("done", flush=True)


class Simulated:
    """A process with so many simulated devices, which does a step when it is called."""

    def __init__(self, devices: int):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        code = f"from benchmarks.growth import answer; answer({devices})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self, word: str = "ready") -> None:
        said = self._process.stdout.readline().strip()
        if said != word:
            raise RuntimeError(f"the simulated devices' process said {said!r} in place of {word!r}")

    def __call__(self) -> None:
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.wait("done")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def of_steps(rounds: int) -> dict[str, list[list[float]]]:
    """Seconds of steps, [sizes, rounds] under each grid's name; where grids cross there is one measurement."""
    sides = {shape: step_of(*shape) for shape in dict.fromkeys(shape for grid in SHAPES.values() for shape in grid)}
    simulated = {size: Simulated(size) for size in GRIDS["devices"]}
    try:
        for process in simulated.values():
            process.wait()
        seconds = in_turn(sides | simulated, rounds)
    finally:
        for process in simulated.values():
            process.close()
    of_shapes = {what: [seconds[shape] for shape in grid] for what, grid in SHAPES.items()}
    return of_shapes | {"devices": [seconds[size] for size in simulated]}


def many_times(corpus: Path, times: int, out: Path) -> None:
    """A corpus whose train shards are another's, so many times over."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    train = [name for name in manifest["shards"] if name.startswith("train-")]
    copies = {f"train-{i:05}-of-{times * len(train):05}.npy": train[i % len(train)] for i in range(times * len(train))}
    shutil.copytree(corpus, out, ignore=shutil.ignore_patterns("train-*", "verified.json"))
    for name, of in copies.items():
        shutil.copyfile(corpus / of, out / name)
    hashes = {name: hashed for name, hashed in manifest["shards"].items() if name not in train}
    manifest["shards"] = hashes | {name: manifest["shards"][of] for name, of in copies.items()}
    (out / "manifest.json").write_text(json.dumps(manifest))


def of_batches(folder: Path, rounds: int) -> tuple[dict[str, list[list[float]]], list[int]]:
    """Seconds of a batch and of the first batch, [sizes, rounds] under each grid's name; the rows of each corpus."""
    from benchmarks.input_pipeline import seconds_of
    from roberta_jax.data.corpus import Corpus
    from roberta_jax.data.masking import Masking
    from roberta_jax.data.pipeline import train_batches
    from roberta_jax.preparation.config import CorpusConfig
    from roberta_jax.preparation.prepare import prepare

    recipe = CorpusConfig((str(ASSETS / "text"),), str(ASSETS / "roberta-vocab"), length=LENGTH)
    once = prepare(recipe, folder / "corpus", folder / "cache")
    corpora, masking = {}, Masking()
    for times in GRIDS["corpus"]:
        many_times(once.folder, times, folder / f"times-{times}")
        corpora[times] = Corpus(folder / f"times-{times}")

    def batches(times: int) -> float:
        return seconds_of(train_batches(corpora[times], masking, BATCH_ROWS, seed=0), BATCHES)

    def first(step: int) -> None:
        next(train_batches(once, masking, BATCH_ROWS, seed=0, first_step=step))

    batches(1), first(0)
    seconds = in_turn({times: lambda times=times: batches(times) for times in corpora}, rounds)
    seconds = {times: [s / BATCHES for s in measured] for times, measured in seconds.items()}
    firsts = in_turn({step: lambda step=step: first(step) for step in GRIDS["first step"]}, rounds)
    found = {"corpus": list(seconds.values()), "first step": list(firsts.values())}
    return found, [len(corpus.train) for corpus in corpora.values()]


def exponent(sizes: np.ndarray, seconds: list[list[float]]) -> dict:
    """p of seconds ~ size^p: of the medians, in the middle 95% of resampled rounds, and between the two largest sizes."""
    x, y = np.log(sizes), np.log(seconds)  # [n], [n, rounds]
    rounds, medians = y.shape[1], np.median(y, axis=1)
    picks = np.random.default_rng(0).integers(rounds, size=(1_000, rounds))
    resampled = np.polyfit(x, np.median(y[:, picks], axis=2), 1)[0]
    return {
        "exponent": np.polyfit(x, medians, 1)[0],
        "interval": np.quantile(resampled, [0.025, 0.975]).tolist(),
        "of_largest": (medians[-1] - medians[-2]) / (x[-1] - x[-2]),
    }


def measure(rounds: int) -> dict:
    seconds, found = of_steps(rounds), {}
    with tempfile.TemporaryDirectory() as folder:
        of_pipeline, corpus_rows = of_batches(Path(folder), rounds)
    for what, measured in (seconds | of_pipeline).items():
        sizes = np.array(corpus_rows if what == "corpus" else GRIDS[what])
        fitted = exponent(sizes + 1 if what == "first step" else sizes, measured)
        found[what] = {"sizes": sizes.tolist(), "seconds": [spread(each) for each in measured]} | fitted
        if what in SHAPES:
            flops = [train_flops(*shape, Case(length=shape[2]).slots) for shape in SHAPES[what]]
            found[what]["flops"] = exponent(sizes, [[each] for each in flops]) | {"counted": flops}
    machine = f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    model = f"{MIDDLE.num_layers} layers, hidden {MIDDLE.hidden_size}, vocabulary {MIDDLE.vocab_size:,}"
    return {"growth": found, "rounds": rounds, "machine": machine, "model": f"{model}, {ROWS} rows of {LENGTH}"}


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.1f} ms"


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    rows = [
        f"{found['model']}; {found['rounds']} rounds in turn, {found['machine']}",
        "",
        "| what grows | sizes | median times | exponent (95%) | of FLOPs | largest two | of FLOPs | expected |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, of in found["growth"].items():
        sizes = ", ".join(f"{size:,}" for size in of["sizes"])
        times = ", ".join(_time(each["median"]) for each in of["seconds"])
        low, high = of["interval"]
        flops = of.get("flops")
        of_flops, of_largest = (f"{flops[name]:.2f}" if flops else "–" for name in ("exponent", "of_largest"))
        rows.append(
            f"| {what} | {sizes} | {times} | {of['exponent']:.2f} ({low:.2f} to {high:.2f}) | {of_flops} "
            f"| {of['of_largest']:.2f} | {of_largest} | {EXPECTED[what]} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    needs("tensorflow", paths=[ASSETS / "text", ASSETS / "roberta-vocab"])
    found = measure(args.rounds)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


if __name__ == "__main__":
    use_huge_pages()  # as main does
    exit_with_sentence(main)
