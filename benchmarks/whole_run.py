"""What a run's loop costs: `python -m roberta_jax.main` beside the bare compiled step on one batch, in turn.

    python -m benchmarks.whole_run [--config configs/tiny.py] [--steps 2600] [--config.FIELD=VALUE …] [--json]

A run of so many steps, which evaluates and saves as often as the config's whole one. After each lap of its log it is made to
stand still (SIGSTOP) while the bare step does as many: the loop's cost is what a lap takes longer than that one, in the
median (the bare step's first after standing still does not count, the run's does). The start and the laps behind an
evaluation or a checkpoint are left out of that, and counted apart: evaluation, checkpoints while the steps stand still, and
what their writing behind the steps slows these.
Expected: the loop costs under 2%. On a CPU the input pipeline has no cores of its own, so this is the hardest case.
"""

import argparse
import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from benchmarks import needs, spread, table
from roberta_jax.config import typed
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.memory import use_huge_pages
from roberta_jax.pretraining.losses import add_pair_weights
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.workdir import CONFIG_JSON, LEDGER_JSON, METRICS_JSONL

if TYPE_CHECKING:
    from ml_collections import ConfigDict

ROOT = Path(__file__).parents[1]


def scaled(whole: "ConfigDict", steps: int, log_every: int) -> dict[str, int]:
    """Fields for a run of so many steps that evaluates and saves as often as `whole`, each time behind a lap of the log."""
    laps = {name: max(1, round(whole[name] * steps / whole.steps / log_every)) for name in ("eval_every", "checkpoint_every")}
    fields = {"steps": steps, "log_every": log_every} | {name: log_every * number for name, number in laps.items()}
    warmup = whole.optimizer.warmup_steps  # a share of the steps, below 1, stays one
    return fields | {"optimizer.warmup_steps": warmup if warmup < 1 else round(warmup * steps / whole.steps)}


def laps_of(workdir: Path) -> list[tuple[int, int, float]]:
    """(from step, to step, tokens/s) of each lap in a run's log."""
    path, laps = workdir / METRICS_JSONL, []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n") and "train/tokens_per_second" in (values := json.loads(line)):
            laps.append((laps[-1][1] if laps else 0, values["step"], values["train/tokens_per_second"]))
    return laps


def run_main(arguments: list[str], workdir: Path, alone: Callable[[dict], float]) -> dict:
    """A whole run, which stands still after a lap of its log while the bare step does another.

    Args:
      alone: the run's fields → seconds of a bare step.

    Returns:
      The run's fields; (from step, to step, seconds of a step, of the bare step) of each lap, the last None where an
      evaluation, a checkpoint or the start comes before it; seconds of each kind of work.

    Raises:
      UserError: it failed; with the end of what it wrote.
    """
    command = [sys.executable, "-m", "roberta_jax.main", *arguments, f"--workdir={workdir}"]
    bare, stood, fields = {}, {}, {}  # by the step where a lap begins
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        while process.poll() is None:
            time.sleep(0.05)
            laps = laps_of(workdir)
            if not laps or laps[-1][1] in bare or process.poll() is not None:
                continue
            fields, step = json.loads((workdir / CONFIG_JSON).read_text()), laps[-1][1]
            if any(step % fields[name] == 0 for name in ("eval_every", "checkpoint_every")) or step == fields["steps"]:
                continue
            process.send_signal(signal.SIGSTOP)
            started = time.perf_counter()
            bare[step] = alone(fields)
            stood[step] = time.perf_counter() - started
            process.send_signal(signal.SIGCONT)
        output.seek(0)
        if process.returncode:
            raise UserError(f"{' '.join(command)}: {output.read()[-500:]}")
    timed = []
    for start, end, rate in laps_of(workdir):
        timed.append((start, end, tokens_of(fields) / rate - stood.get(start, 0) / (end - start), bare.get(start)))
    return {"fields": fields, "laps": timed, "ledger": json.loads((workdir / LEDGER_JSON).read_text())["seconds"]}


def tokens_of(fields: dict) -> int:
    """Ids of a batch."""
    return fields["batch_size"] * fields["data"]["length"]


def bare_step(fields: dict) -> Callable[[int], float]:
    """A function that does one step and so many more on the run's first batch, and tells the seconds of one of these."""
    from roberta_jax.data.pipeline import on_mesh, train_batches
    from roberta_jax.pretraining.config import PretrainConfig, masking_of, with_sizes
    from roberta_jax.pretraining.job import of_pairs, open_corpus, step_of

    config = with_sizes(typed(PretrainConfig, fields))
    mesh = make_mesh(config.fsdp)
    step = step_of(config, mesh)
    masking = masking_of(config.data)
    batches = on_mesh(train_batches(open_corpus(config.data), masking, config.batch_size, config.seed), batch_sharding(mesh))
    batch = next(add_pair_weights(batches, batch_sharding(mesh)) if of_pairs(config) else batches)
    compiled, states = step.compile(batch), [step.init_state()]

    def run(steps: int) -> float:
        for number in range(steps + 1):
            states[0], metrics = compiled(states[0], batch, *step.constants)
            if number == 0:
                jax.block_until_ready(states[0])
                started = time.perf_counter()
        jax.block_until_ready((states[0], metrics))
        return (time.perf_counter() - started) / steps

    return run


def compared(run: dict, whole: "ConfigDict") -> dict[str, dict[str, float]]:
    """One run's rates, seconds of what is done now and then, and what all that costs at the cadence of `whole`."""
    fields, ledger = run["fields"], run["ledger"]
    undisturbed = [(seconds, bare) for *_, seconds, bare in run["laps"] if bare]
    if not undisturbed:
        raise UserError("there is no lap without an evaluation, a checkpoint or the start before it; lower log_every")
    in_run, alone = (statistics.median(column) for column in zip(*undisturbed))
    evaluations, saves = (-(-fields["steps"] // fields[name]) for name in ("eval_every", "checkpoint_every"))
    slowed = sum((end - start) * (seconds - in_run) for start, end, seconds, bare in run["laps"] if start and not bare)
    seconds = {
        "an evaluation": ledger["evaluate"] / evaluations,
        "a checkpoint, while the steps stand still": ledger["checkpoint"] / saves,
        "a checkpoint, by slower steps while it is written": slowed / saves,
    }
    evaluation, stop, slower = seconds.values()
    return {
        "tokens/s": {"of the bare step": tokens_of(fields) / alone, "in a run": tokens_of(fields) / in_run},
        "seconds": seconds,
        "cost": {
            "of the loop": statistics.median(seconds / bare for seconds, bare in undisturbed) - 1,
            "of evaluations": evaluation / alone / whole.eval_every,
            "of checkpoints": (stop + slower) / alone / whole.checkpoint_every,
        },
    }


def measure(config: str, steps: int | None, log_every: int | None, rounds: int, arguments: Sequence[str]) -> dict:
    """Rates, seconds and costs as `compared` names them, spread over the rounds; shares of the bare step's time.

    Args:
      steps, log_every: None: the config's.
      arguments: further `--config.FIELD=VALUE`.
    """
    whole, steppers, runs = runpy.run_path(str(ROOT / config))["get_config"](), [], []
    steps = steps or whole.steps
    given = [f"--config.{name}={value}" for name, value in scaled(whole, steps, log_every or whole.log_every).items()]

    def alone(fields: dict) -> float:
        if not steppers:
            steppers.append(bare_step(fields))
        return steppers[0](fields["log_every"])

    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run_main([f"--config={ROOT / config}", *given, *arguments], Path(folder, "run"), alone))
    fields, of_rounds = runs[-1]["fields"], [compared(run, whole) for run in runs]
    found = {
        part: {name: spread([each[part][name] for each in of_rounds]) for name in names} for part, names in of_rounds[0].items()
    }
    model = f"{fields['model']['num_layers']} layers, hidden {fields['model']['hidden_size']}"
    shape = f"{fields['batch_size']} rows of {fields['data']['length']}"
    machine = f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    cadence = f"an evaluation every {whole.eval_every:,} steps, a checkpoint every {whole.checkpoint_every:,}"
    what = f"{model}, {shape}; {rounds} runs of {fields['steps']:,} steps, {machine}; cost: with {cadence}"
    return found | {"what": what, "runs": runs}


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    parts = [table(part, found[part], form) for part, form in (("tokens/s", ",.0f"), ("seconds", ",.2f"), ("cost", ".2%"))]
    return [line for part in ([found["what"]], *parts) for line in (*part, "")][:-1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_run", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/tiny.py", help="--config.FIELD=VALUE too (default %(default)s)")
    parser.add_argument("--steps", type=int, help="of a run (default: the config's)")
    parser.add_argument("--log_every", type=int, help="steps of a lap, the unit that is timed (default: the config's)")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args, fields = parser.parse_known_args()
    if wrong := [field for field in fields if not field.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    needs("tensorflow", "ml_collections", "tensorboardX")
    found = measure(args.config, args.steps, args.log_every, args.rounds, fields)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


if __name__ == "__main__":
    use_huge_pages()  # as main does
    exit_with_sentence(main)
