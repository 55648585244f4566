"""Proves on this machine that a run that is killed ends as one that is left alone, bit for bit.

    python -m roberta_jax.verify_resume --config=configs/base.py --config.data.source=text/

The config's own model, data and batches, for a few steps: once undisturbed, once killed at random places and started again.
Exits with 0 where the final states and the losses of all steps are equal, else with 1 and what differs. Where a setting is to
blame it is found by doing both runs again without it. It says on what it ran and with which XLA_FLAGS; where on a GPU not even
two undisturbed runs are equal it tries --xla_gpu_deterministic_ops.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from roberta_jax import storage
from roberta_jax.config import typed
from roberta_jax.config_files import define_config, parse_flags
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json
from roberta_jax.training.workdir import CHECKPOINTS, METRICS_JSONL, OUTPUT_TXT, entry_of, read_metrics

# Settings that could break it, and what each is without them; tried in turn where runs differ.
PLAIN = {
    "model.dropout": 0.0,
    "model.attention_dropout": 0.0,
    "microbatch_size": 0,
    "fsdp": 1,
    "model.remat": "none",
    "model.attention": "xla",
    "model.dtype": "float32",
}
ONE_RUN = {"seeds": 1, "sweep": False}  # of fine-tuning
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # nothing is chosen by timing it either

TIMES = ("train/tokens_per_second", "train/mfu", "train/goodput")  # what two runs do not share


@dataclass(frozen=True)
class Kill:
    """What befalls a run: a signal after a step is logged, or in the midst of the next checkpoint's write."""

    step: int
    signal: str  # SIGKILL or SIGTERM
    in_write: bool
    delay: float  # seconds


def kills_for(steps: int, number: int, rng: random.Random) -> list[Kill]:
    """At random places, one in each of `number` parts of the run."""
    found = []
    for part in range(number):
        step = rng.randint(part * steps // number, max((part + 1) * steps // number - 1, 0))
        name = "SIGTERM" if rng.random() < 0.2 else "SIGKILL"
        found.append(Kill(step, name, name == "SIGKILL" and rng.random() < 0.3, rng.uniform(0, 0.05)))
    return found


def config_arguments(arguments: Sequence[str]) -> list[str]:
    """Those of a command's that make its config, each in one word."""
    found, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if re.match(r"--?noconfig\.", argument):  # of a field that is True or False
            found.append(argument)
        elif re.match(r"--?config(\.|=|$)", argument):
            if "=" not in argument and rest and not re.match(r"-\D", rest[0]):
                argument += f"={rest.pop(0)}"
            found.append(argument)
    return found


def last_logged(workdir: Path) -> int:
    path = workdir / METRICS_JSONL
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    entry = entry_of(lines[-1]) if lines else None
    return entry["step"] if entry else 0


def _halves(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / CHECKPOINTS).glob("*tmp*")}


def start(arguments: list[str], workdir: Path, xla_flags: str = "") -> subprocess.Popen:
    """Args: xla_flags: beside those of the environment."""
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / OUTPUT_TXT, "a") as log:
        command = [sys.executable, "-m", "roberta_jax.main", *arguments, f"--workdir={workdir}"]
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def devices_of(workdir: Path) -> str:
    """As a run said them: `8 × NVIDIA H100 80GB HBM3, 1 host(s)`."""
    found = re.search(r" parameters on (\d+ × .*)", (workdir / OUTPUT_TXT).read_text())
    return found[1] if found else "devices that it did not name"


def finish(process: subprocess.Popen, workdir: Path) -> None:
    if process.wait():
        last = "\n".join((workdir / OUTPUT_TXT).read_text().splitlines()[-5:])
        raise UserError(f"the run in {workdir} ended with exit status {process.returncode}; its last lines are:\n{last}")


def run_killed(arguments: list[str], workdir: Path, kills: list[Kill]) -> Iterator[dict]:
    """Runs to the end through all `kills`; what became of each."""
    for kill in kills:
        # A signal to stop is for a run that is under way: before, it ends Python as any other program.
        step = max(kill.step, last_logged(workdir) + 1) if kill.signal == "SIGTERM" else kill.step
        began, process = time.perf_counter(), start(arguments, workdir)
        while process.poll() is None and last_logged(workdir) < step:
            time.sleep(0.002)
        seen = _halves(workdir)
        while process.poll() is None and kill.in_write and not _halves(workdir) - seen:
            time.sleep(0.0005)
        time.sleep(kill.delay if not kill.in_write else 0)
        if process.poll() is None:
            process.send_signal(getattr(signal, kill.signal))
        code = process.wait()
        if code not in (0, -signal.SIGKILL):
            finish(process, workdir)
        what = kill.signal + (" in a checkpoint's write" if kill.in_write else "")
        yield {"what": what, "after_step": last_logged(workdir), "exit": code, "seconds": time.perf_counter() - began}
    finish(start(arguments, workdir), workdir)


def differences(one: Path, other: Path, steps: int) -> list[str]:
    """What is not bit for bit the same in two workdirs: arrays of the final state, the metrics' lines, what is kept."""
    from roberta_jax.training.checkpoint import read_arrays, saved_steps

    states = [read_arrays(workdir / CHECKPOINTS, steps) for workdir in (one, other)]
    names = sorted(states[0].keys() | states[1].keys())
    found = [name for name in names if not _same(states[0].get(name), states[1].get(name))]
    lines = [
        [
            (line["step"], name, repr(value))
            for line in read_metrics(workdir)
            for name, value in line.items()
            if name not in TIMES
        ]
        for workdir in (one, other)
    ]
    values = [{(step, name): value for step, name, value in each} for each in lines]
    differ = sorted(place for place in values[0].keys() | values[1].keys() if values[0].get(place) != values[1].get(place))
    found += [f"the {name.removeprefix('train/')} of step {step}" for step, name in differ]
    if not differ and lines[0] != lines[1]:
        found.append("the order of lines in metrics.jsonl")
    kept = [saved_steps(workdir / CHECKPOINTS) for workdir in (one, other)]
    return found + ([f"the checkpoints that are kept: {kept[0]} and {kept[1]}"] if kept[0] != kept[1] else [])


def _same(one: Any, other: Any) -> bool:
    return one is not None and other is not None and one.shape == other.shape and one.tobytes() == other.tobytes()


def verify(arguments: list[str], fields: dict, folder: Path, steps: int, number: int, seed: int) -> dict:
    """{"same", "differences", "sentence", "kills", "devices", "xla_flags"}.

    Args:
      fields: the config's, to know which settings can be left out.

    Raises:
      UserError: the config is of more than one run.
    """
    for name, one in ONE_RUN.items():
        if (value := fields.get(name, one)) != one:
            raise UserError(f"config.{name} is {value!r}; expected {one!r}, for one run is killed and compared.")
    task = fields.get("task", "")
    if fields.get("job") == "ablations" or task == "glue" or "," in task:
        raise UserError(
            f"config.job is {fields.get('job')!r}, of several runs; expected pretraining, or fine-tuning on one task."
        )
    arguments = [*arguments, f"--config.steps={steps}", "--config.log_every=1", f"--config.eval_every={steps}"]
    arguments += [f"--config.checkpoint_every={max(1, steps // 5)}"]
    if fields.get("job") == "pretrain":
        from roberta_jax.pretraining.config import PretrainConfig  # here, so that --help does not wait for JAX
        from roberta_jax.training.optimizer import in_proportion

        config, warmup = typed(PretrainConfig, fields), max(1, steps // 4)
        if config.phases:
            warmup = 1
            arguments += [f"--config.phases={config.phases_of(steps)}"]
        _, decay = in_proportion(config.optimizer, config.steps, steps)
        arguments += [
            f"--config.optimizer.warmup_steps={warmup}",
            f"--config.optimizer.decay_steps={min(decay, steps - warmup)}",
        ]

    def alone(name: str, more: list[str], xla_flags: str = "") -> Path:
        finish(start([*arguments, *more], folder / name, xla_flags), folder / name)
        return folder / name

    def pair(name: str, more: list[str]) -> tuple[list[str], list[dict]]:
        undisturbed, killed = alone(f"{name}-undisturbed", more), folder / f"{name}-killed"
        events = []
        for event in run_killed([*arguments, *more], killed, kills_for(steps, number, random.Random(seed))):
            events.append(event)
            show(f"{event['what']} after step {event['after_step']:,}", sys.stderr)
        return differences(undisturbed, killed, steps), events

    found, events = pair("config", [])
    undisturbed, xla_flags = folder / "config-undisturbed", os.environ.get("XLA_FLAGS", "")
    devices = devices_of(undisturbed)
    result = {"same": not found, "differences": found, "kills": events, "devices": devices, "xla_flags": xla_flags}
    ran = f"on {devices}, " + (f"with XLA_FLAGS={xla_flags}" if xla_flags else "without XLA_FLAGS")
    if not found:
        return result | {
            "sentence": f"the same: {steps} steps, {number} kills, every bit of the final state and every loss, {ran}."
        }
    if differences(undisturbed, alone("config-again", []), steps):

        def alike(xla_flags: str) -> bool:
            return not differences(*(alone(f"{xla_flags}-{name}", [], xla_flags) for name in ("once", "again")), steps)

        return result | {"sentence": never_alike(devices, ran, alike)}
    return result | {"sentence": blame(fields, lambda more: pair("-".join(more).replace("/", "_"), more)[0], found)}


def never_alike(devices: str, ran: str, alike: Callable[[str], bool]) -> str:
    """What there is to say where undisturbed runs differ; on GPUs whether with `DETERMINISTIC` two of them are alike."""
    sentence = f"not even two undisturbed runs end alike {ran}: it is the arithmetic and not the resuming"
    if "cpu" in devices or "TPU" in devices:
        return f"{sentence}."
    return f"{sentence}; with XLA_FLAGS={DETERMINISTIC} they {'are alike' if alike(DETERMINISTIC) else 'differ too'}."


def blame(fields: dict, differs: Any, found: list[str]) -> str:
    """Which setting breaks it: the first without which `differs(overrides)` finds nothing."""
    for name, plain in PLAIN.items():
        section, _, last = name.rpartition(".")
        value = (fields.get(section, {}) if section else fields).get(last)
        if value is not None and value != plain and not differs([f"--config.{name}={plain}"]):
            return f"config.{name}={value} breaks it: with {plain} a killed run ends as an undisturbed one."
    return f"a killed run ends otherwise than an undisturbed one, whatever the settings: {', '.join(found[:5])} differ."


def command() -> None:
    config = define_config()
    steps = flags.DEFINE_integer("steps", 20, "That each run does.", lower_bound=5)
    kills = flags.DEFINE_integer("kills", 3, "That the second run lives through.", lower_bound=1)
    seed = flags.DEFINE_integer("seed", 0, "Of the places where it is killed.")
    workdir = flags.DEFINE_string("workdir", None, "A folder to keep the runs in; by default they are deleted.")
    as_json = flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.mark_flag_as_required("config")

    def main(_) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax says much
        arguments = config_arguments(flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False))
        if workdir.value and storage.is_url(workdir.value):
            raise UserError(f"--workdir={workdir.value}: expected a path of this machine, where the runs are killed.")
        folder = Path(workdir.value).expanduser() if workdir.value else Path(tempfile.mkdtemp(prefix="verify_resume"))
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"--workdir {folder} is not empty; name a new folder.")
        try:
            result = verify(arguments, config.value.to_dict(), folder, steps.value, kills.value, seed.value)
        finally:
            if not workdir.value:
                shutil.rmtree(folder, ignore_errors=True)
        show(to_json(result) if as_json.value else result["sentence"])
        sys.exit(0 if result["same"] else 1)

    app.run(main, flags_parser=lambda argv: parse_flags(argv, config))


if __name__ == "__main__":
    exit_with_sentence(command)
