"""Going on from another run's checkpoint, RUN@STEP: longer, by another schedule, or on other text."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import jax
from etils import epath

from roberta_jax import storage
from roberta_jax.config import plain, typed
from roberta_jax.data.corpus import PAIRS
from roberta_jax.errors import UserError, check
from roberta_jax.model.config import FIXED, OF_A_RUN, OF_THE_BEGINNING, RobertaConfig
from roberta_jax.output import to_json
from roberta_jax.pretraining.config import OF_MASKS, PretrainConfig
from roberta_jax.pretraining.course import IN_ALL, Reading
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import Tokenizer
from roberta_jax.training.checkpoint import read_arrays, saved_steps
from roberta_jax.training.checksums import by_path
from roberta_jax.training.distributed import require_same
from roberta_jax.training.notes import Damaged, Memory, Notes, read_notes
from roberta_jax.training.workdir import CHECKPOINTS, CONFIG_JSON, METRICS_JSONL, TOKENIZER, entry_of

# Fields of config.data on which no row depends, or only by way of the tokenizer.
_NOT_OF_ROWS = ("cache", "processes", "tokenizer", *OF_MASKS)
_SIZES_LEFT_OPEN = {"vocab_size": 0, "max_length": 0}


@dataclass(frozen=True)
class Branch:
    """A run's checkpoint to go on from."""

    run: Path
    step: int
    fields: dict  # the run's config.json
    model: RobertaConfig
    tokenizer: Tokenizer

    def state(self, config: PretrainConfig, reading: Reading, abstract: dict) -> tuple[dict, Memory]:
        """(the checkpoint's state, laid out as `abstract` says; what it holds beside it).

        Args:
          reading: what the config goes on with.
        """
        state, notes = _read(self.run / CHECKPOINTS, self.step, abstract)
        return state, self.memory(notes, int(state["batch"]), config, reading)

    def memory(self, notes: Notes, batch: int, config: PretrainConfig, reading: Reading) -> Memory:
        """What the checkpoint holds beside its state, `batch` being the next one's number."""
        memory = Memory.from_json(notes.memory) if notes.memory else Memory()
        if not memory.data:  # an older version's, which had the same rows and batches all along
            before, now = self.fields, json.loads(to_json(plain(config)))
            rows = {name: value for name, value in before["data"].items() if name not in _NOT_OF_ROWS}
            same = len(reading.sources) == 1 and before["seed"] == now["seed"] and rows.items() <= now["data"].items()
            drawn = dict.fromkeys([*reading.orders, IN_ALL], batch * before["batch_size"]) if same else {}
            memory.data = {"batch": batch, "rows": drawn, "held": "" if same else "other rows"}
            rows = batch * before["batch_size"]
            memory.data |= {name: rows * number // reading.batch_size for name, number in reading.amounts.items()}
        return memory

    def copy_metrics(self, workdir: Path) -> None:
        """Begins a workdir's metrics.jsonl with the run's lines up to the checkpoint, so that there is one curve."""
        if jax.process_index():
            return
        path = self.run / METRICS_JSONL
        lines = storage.read_bytes(path).split(b"\n")[:-1] if storage.exists(path) else []
        before = [line.decode() + "\n" for line in lines if (entry := entry_of(line)) and entry["step"] <= self.step]
        workdir.mkdir(parents=True, exist_ok=True)
        storage.write_text(workdir / METRICS_JSONL, "".join(before))


def _read(folder: Path, step: int, abstract: dict) -> tuple[dict, Notes]:
    """The state of a checkpoint, laid out as `abstract` says, and its notes; nothing there is changed.

    Raises:
      UserError: it is damaged, or of another model.
    """
    arrays, expected = read_arrays(folder, step), by_path(abstract)
    for path in sorted(arrays.keys() | expected.keys()):
        found, wanted = (tuple(each[path].shape) if path in each else "not there" for each in (arrays, expected))
        if found != wanted:
            raise UserError(f"{folder / str(step)}: its {path} is {found}, this config's {wanted}; take that run's config.")
    placed = [jax.device_put(arrays[path].astype(like.dtype), like.sharding) for path, like in expected.items()]
    try:
        return jax.tree.unflatten(jax.tree.structure(abstract), placed), read_notes(folder, step)
    except Damaged as error:
        raise UserError(f"{folder / str(step)} is not a whole checkpoint ({error}); take another step of that run.") from None


def find(config: PretrainConfig, workdir: Path) -> Branch:
    """The checkpoint that `config.continue_from` names.

    Raises:
      UserError: it is not there, or of a run that this config can't go on with.
    """
    name, _, step = config.continue_from.rpartition("@")
    run = epath.Path(name) if storage.is_url(name) else Path(name).expanduser()
    field = f"config.continue_from {config.continue_from}"
    if os.path.realpath(run) == os.path.realpath(workdir):
        raise UserError(f"{field} is in --workdir itself, whose run goes on without it; take another workdir for a branch.")
    check(config.steps > int(step), "steps", config.steps, f"more than the {int(step):,} of {field}, which count too")
    if not storage.exists(run / CONFIG_JSON):
        raise UserError(f"{field}: {name} is no run's workdir, for it has no {CONFIG_JSON}.")
    steps = saved_steps(run / CHECKPOINTS)
    if int(step) not in steps:
        there = f"there are {', '.join(map(str, steps))}" if steps else "there is none yet"
        raise UserError(f"{field}: {name} has no checkpoint of step {int(step)}; {there}.")
    fields = storage.read_json(run / CONFIG_JSON)
    require_same(f"the run of {field}", to_json([fields, steps]))
    if fields.get("job") != "pretrain":
        raise UserError(f"{field}: that run's job is {fields.get('job')!r}; expected 'pretrain'.")
    model = typed(RobertaConfig, fields.get("model", {}), "model.")
    if differing := _differing(config, fields, model):
        raise UserError(
            f"{field}: that run had {', '.join(f'config.{name}={was}' for name, (was, _) in differing.items())}, this config "
            f"has {', '.join(str(now) for _, now in differing.values())}. The model, its tokenizer and the optimizer's name "
            "have to stay; rates, data, masks, batches and the number of steps may change."
        )
    if (tokenizer := encodings.find(run / TOKENIZER)) is None:
        raise UserError(f"{field}: {run / TOKENIZER} holds no tokenizer.")
    return Branch(run, int(step), fields, model, tokenizer)


def _differing(config: PretrainConfig, fields: dict, model: RobertaConfig) -> dict[str, tuple]:
    """By name what was and what is, of all that decides which arrays the state has and what they mean."""
    was, now = plain(model), plain(config.model)
    sizes = [] if config.init_from else [name for name in now if name not in (*OF_A_RUN, *FIXED, *OF_THE_BEGINNING)]
    found = {f"model.{name}": (was[name], now[name]) for name in sizes if now[name] != _SIZES_LEFT_OPEN.get(name)}
    found["optimizer.name"] = fields["optimizer"]["name"], config.optimizer.name
    formats = fields["data"]["format"], config.data.format
    if len({format in PAIRS for format in formats}) > 1:
        found["data.format"] = formats
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}
