"""How long a checkpoint stops the steps, how long it takes behind them, and how long a restart takes to read it.

    python -m benchmarks.checkpoint [--rows 8] [--length 128] [--json]

Base's shape with AdamW. Expected: `save` returns within one step's time.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import machine, needs, spread, table
from benchmarks.sides import Case
from roberta_jax.errors import exit_with_sentence
from roberta_jax.memory import use_huge_pages
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.pretraining.losses import masked_lm_loss
from roberta_jax.training.optimizer import OptimizerConfig
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import build_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=8, help="of a batch (default %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="ids a row (default %(default)s)")
    parser.add_argument("--saves", type=int, default=3, help="default %(default)s")
    parser.add_argument("--layers", type=int, default=12, help="of base's shape")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    needs("tensorboardX")
    from roberta_jax.training.checkpoint import Checkpoints

    gpu = jax.default_backend() == "gpu"
    config = RobertaConfig(num_layers=args.layers, dtype="bfloat16" if gpu else "float32")
    mesh, optimizer, loss = make_mesh(), OptimizerConfig(warmup_steps=10), masked_lm_loss(config)
    train_step = build_step(lambda key: init_masked_lm(key, config), loss, optimizer, 1_000, mesh, rows=args.rows)
    state = train_step.init_state()
    batch = Case(rows=args.rows, length=args.length).batch()
    batch = jax.device_put(batch, batch_sharding(mesh))
    compiled = train_step.compile(batch)
    seconds = {name: [] for name in ("step alone", "save returns after", "step behind it", "write ends after")}

    def timed_step() -> float:
        nonlocal state
        started = time.perf_counter()
        state, metrics = compiled(state, batch, *train_step.constants)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), 1, "")
        timed_step()
        for number in range(args.saves + 1):
            alone, started = timed_step(), time.perf_counter()
            checkpoints.save(number, state)
            stopped = time.perf_counter() - started
            behind = timed_step()
            checkpoints._manager.wait_until_finished()
            written = time.perf_counter() - started
            if number:  # the first compiles the checksum
                for name, value in zip(seconds, (alone, stopped, behind, written)):
                    seconds[name].append(value)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        del state
        started = time.perf_counter()
        _, state = checkpoints.restore_newest(train_step.abstract, print)
        jax.block_until_ready(state)
        seconds["restore"] = [time.perf_counter() - started]
        checkpoints.close()
    gigabytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(train_step.abstract)) / 1e9
    device = f"{jax.device_count()} × {jax.devices()[0].device_kind}, {args.layers} layers, {args.rows} × {args.length}"
    what = f"{device}: a state of {gigabytes:.2f} GB, a checkpoint of {size / 1e9:.2f} GB; {machine()}"
    found = {"what": what, "seconds": {name: spread(values) for name, values in seconds.items()}}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    return [found["what"], "", *table("seconds", found["seconds"])]


if __name__ == "__main__":
    use_huge_pages()  # as main does
    exit_with_sentence(main)
