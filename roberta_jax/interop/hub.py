"""Pretrained models in, whatever wrote them, and out as transformers loads them."""

import contextlib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from roberta_jax import snapshot, storage
from roberta_jax.config import typed
from roberta_jax.errors import UserError, first_line
from roberta_jax.interop import fairseq, remote, torch_files
from roberta_jax.interop.conversion import (
    architectures_of,
    config_from_transformers,
    config_to_transformers,
    flatten,
    from_transformers,
    shapes,
    to_transformers,
)
from roberta_jax.interop.model_card import model_card, step_of
from roberta_jax.interop.pretrained import Pretrained
from roberta_jax.model.config import RobertaConfig
from roberta_jax.storage import read_json
from roberta_jax.tokenization import encodings, published
from roberta_jax.tokenization.pretrained import load_tokenizer
from roberta_jax.tokenization.tokenizer import MASK, PAD, ByteLevelBPE
from roberta_jax.training.workdir import (
    CHECKPOINTS,
    COMMAND_TXT,
    CONFIG_JSON,
    RESULTS_JSON,
    TASK_JSON,
    TOKENIZER,
    choose,
    is_workdir,
    read_metrics,
)

# Of a hub repository's weights, in the order of preference; beside them published.FILES are taken.
_WEIGHTS = [["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"], ["pytorch_model*.bin*"]]

_DTYPES = ("F32", "F16", "BF16", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL")  # of safetensors; the last are of constants

# A task's kind, in task.json → transformers' problem_type.
PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


def load(source: str | Path, checkpoint: str | int = "newest") -> Pretrained:
    """Reads a workdir of ours, a folder of transformers or fairseq, or a name on the Hugging Face hub.

    Args:
      checkpoint: of a workdir: "newest", "best" (by valid/loss; of a fine-tuned one any has its best so far) or a step.

    Raises:
      UserError: nothing is there, it is damaged or of another architecture, or the hub does not answer.
    """
    if storage.is_url(source):
        with remote.copied(str(source), str(checkpoint)) as (folder, checkpoint):
            try:
                pretrained = load(folder, checkpoint)
            except UserError as error:
                remote.forget(folder)  # the copy may be what is damaged
                raise UserError(str(error).replace(str(folder), str(source))) from None
        return replace(pretrained, origin=pretrained.origin.replace(str(folder), str(source), 1))
    folder = Path(source).expanduser()
    if not folder.exists():
        if not snapshot.is_name(str(source)):
            raise UserError(f"{source}: there is no such folder.")
        folder = _download(str(source))
    if (folder / CHECKPOINTS).is_dir():
        pretrained = _load_workdir(folder, checkpoint)
    elif (folder / RESULTS_JSON).is_file() and (runs := sorted(path.parent for path in folder.glob(f"**/{CHECKPOINTS}"))):
        some = ", ".join(str(run) for run in runs[:3])
        raise UserError(f"{source} holds {len(runs)} runs, results.md compares them; name one of them: {some}, …")
    elif (folder / "config.json").is_file():
        pretrained = _load_transformers(folder)
    elif (folder / "model.pt").is_file():
        config, params, tokenizer, ignored = fairseq.load(folder)
        pretrained = Pretrained(config, params, tokenizer, "lm_head", ignored=ignored, origin=str(source))
    else:
        raise UserError(
            f"{source} is no model: expected a workdir (checkpoints/), a folder of transformers (config.json) or of "
            "fairseq (model.pt and dict.txt, with vocab.bpe for texts)."
        )
    tokenizer, vocab_size = pretrained.tokenizer, pretrained.config.vocab_size
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise UserError(
            f"{source}: the tokenizer's ids go up to {len(tokenizer) - 1}, the model's up to {vocab_size - 1}; tokens were "
            "added to the one and no rows to the other, or they are of two models."
        )
    if tokenizer is not None and pretrained.config.num_token_types == 1:
        tokenizer.types_of_pairs = False  # there is no other type
    if tokenizer is not None and tokenizer.pad != pretrained.config.pad_id:
        raise UserError(f"{source}: {PAD} is {tokenizer.pad} in the tokenizer and {pretrained.config.pad_id} in the model.")
    return pretrained


def steps_of(source: str | Path) -> list[int]:
    """The checkpoints of a workdir that are whole, ascending; none where it is no workdir."""
    from roberta_jax.training.checkpoint import saved_steps  # here, so that the rest needs no Orbax

    return remote.steps_of(str(source)) if storage.is_url(source) else saved_steps(Path(source).expanduser() / CHECKPOINTS)


def seen_by(source: str | Path, step: int) -> dict[str, int]:
    """About how many "tokens", padding apart, and "words" a checkpoint's model had seen; those alone that it notes."""
    noted = noted_by(source, step)
    return {name: noted[name] for name in ("tokens", "words") if noted.get(name)}


def noted_by(source: str | Path, step: int) -> dict:
    """What a checkpoint says of the data before it, see `Course.note`; {} where its notes are damaged or of no pretraining."""
    from roberta_jax.training.notes import Damaged, read_notes

    with contextlib.suppress(Damaged):
        return (read_notes(storage.join(source, CHECKPOINTS), step).memory or {}).get("data") or {}
    return {}


def _download(name: str) -> Path:
    """The snapshot of a hub repository, from the cache where it is there."""
    for weights in _WEIGHTS:
        folder = snapshot.download(name, [*encodings.READ, *weights])
        if any(path for pattern in weights for path in folder.glob(pattern)):
            return folder
    raise UserError(f"{name} on the hub has neither safetensors nor pytorch_model.bin.")


def _load_workdir(workdir: Path, checkpoint: str | int) -> Pretrained:
    from roberta_jax.training.checkpoint import read_params, saved_steps  # here, so that the rest needs no Orbax

    fields = read_json(workdir / CONFIG_JSON)
    model = fields.get("model")
    if not isinstance(model, dict):
        raise UserError(f'{workdir / CONFIG_JSON} has no section "model": it is not the config of a run.')
    config = typed(RobertaConfig, model, "model.")
    steps = saved_steps(workdir / CHECKPOINTS)
    if not steps:
        raise UserError(f"{workdir / CHECKPOINTS} holds no checkpoint yet.")
    task = _read_task(workdir / TASK_JSON)
    step = choose(workdir, steps, str(checkpoint))
    params = read_params(workdir / CHECKPOINTS, step)
    has_no_place = params.pop("next_sentence", None)
    ignored = {"next_sentence": "the head of pairs, for which RoBERTa's classes have no place"} if has_no_place else {}
    (head,) = params.keys() - {"encoder"} or {""}
    found = {path: array.shape for path, array in flatten(params).items()}
    bias = found.get(f"{head}/out/bias", (0,))
    for path, shape in shapes(config, head, bias[-1]).items():
        if found.get(path) != shape:
            raise UserError(
                f"{workdir}: {path} is {found.get(path, 'not there')} in checkpoint {step}, by config.json {shape}."
            )
    named = dict(enumerate(task.get("labels", ())))
    labels, problem = _labels(params, head, named), PROBLEMS.get(task.get("kind", ""), "")
    if named and labels and len(named) != len(labels):
        raise UserError(f"{workdir / TASK_JSON} has {len(named)} labels, checkpoint {step} {len(labels)} outputs.")
    tokenizer, origin = load_tokenizer(workdir / TOKENIZER), f"{workdir}, step {step}"
    model_type = task.get("model_type", "roberta")
    max_length = _length_of(fields.get("max_length"), config) if task else 0
    return Pretrained(config, params, tokenizer, head, labels, problem, model_type, ignored, origin, max_length)


def _length_of(value: Any, config: RobertaConfig) -> int:
    """How many ids a row of a task had, 0 where that is not said: tokenizers may say 10³⁰."""
    return int(value) if isinstance(value, int | float) and 8 <= value < config.max_length else 0


def shape_of_run(workdir: Path) -> RobertaConfig | None:
    """The shape of the model that a workdir's run trains, once there is a checkpoint of it.

    None where config.json is not there or cannot be read, which ends no run.
    """
    from roberta_jax.training.checkpoint import saved_steps

    if not (workdir / CONFIG_JSON).is_file() or not saved_steps(workdir / CHECKPOINTS):
        return None
    try:
        fields = read_json(workdir / CONFIG_JSON)
    except UserError:
        return None
    return typed(RobertaConfig, fields.get("model", {}), "model.")


def _read_task(path: Path) -> dict:
    """task.json; {} where there is none."""
    if not path.exists():
        return {}
    task = read_json(path)
    for name, kind in (("labels", list), ("kind", str), ("model_type", str)):
        if not isinstance(task.get(name, kind()), kind):
            raise UserError(f"{path}: {name} is {task[name]!r}, which no run writes; it is damaged.")
    return task


def _load_transformers(folder: Path) -> Pretrained:
    fields = read_json(folder / "config.json")
    config = config_from_transformers(fields, str(folder / "config.json"))
    tensors, path = _read_tensors(folder)
    architectures = architectures_of(fields, str(folder / "config.json"))
    params, head, ignored = from_transformers(tensors, config, architectures, str(path))
    if not head and architectures and not architectures[0].endswith("Model"):
        warnings.warn(
            f"{folder}: config.json says {architectures[0]}, but there is no tensor of its head: it is an encoder alone.",
            stacklevel=3,
        )
    try:
        named = {int(i): label for i, label in (fields.get("id2label") or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"{folder / 'config.json'}: id2label is {fields['id2label']!r}; expected a label for each number."
        ) from None
    labels = _labels(params, head, named)
    problem = (fields.get("problem_type") or "") if head == "classification" else ""
    if problem and problem not in PROBLEMS.values():
        raise UserError(f"{folder / 'config.json'}: problem_type is {problem!r}; expected {', '.join(PROBLEMS.values())}.")
    model_type = fields["model_type"]
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    max_length = _length_of(settings.get("model_max_length"), config) if head not in ("", "lm_head") else 0
    tokenizer = load_tokenizer(folder)
    return Pretrained(config, params, tokenizer, head, labels, problem, model_type, ignored, str(folder), max_length)


def _labels(params: dict, head: str, named: dict[int, str]) -> tuple[str, ...]:
    """A name for each output, in transformers' words where there is none."""
    if head not in ("classification", "token_classification"):
        return ()
    return tuple(str(named.get(i, f"LABEL_{i}")) for i in range(len(params[head]["out"]["bias"])))


def _read_tensors(folder: Path) -> tuple[dict[str, np.ndarray], Path]:
    """The tensors of a folder and the file that they, or their names, are in."""
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", _read_pickle)):
        if (folder / name).is_file():
            return read(folder / name), folder / name
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict) or not places:
                raise UserError(f"{index} has no weight_map that says which tensor is in which file.")
            tensors: dict[str, np.ndarray] = {}
            for shard in sorted({storage.plain_name(shard, str(index)) for shard in places.values()}):
                if not (folder / shard).is_file():
                    raise UserError(f"{index} names the file {shard}, which is not in {folder}.")
                tensors |= read(folder / shard)
            if lacking := places.keys() - tensors.keys():
                raise UserError(f"{index} promises the tensor {min(lacking)}, which {places[min(lacking)]} lacks.")
            return tensors, index
    raise UserError(f"{folder} has config.json but neither model.safetensors nor pytorch_model.bin, whole or in shards.")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                if (dtype := file.get_slice(name).get_dtype()) not in _DTYPES:
                    raise UserError(
                        f"{path}: the tensor {name} is of {dtype}, as quantized models are; expected {', '.join(_DTYPES[:4])}."
                    )
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); copy or download it again.") from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    tensors = torch_files.read(path)
    if not isinstance(tensors, dict) or not all(isinstance(array, np.ndarray) for array in tensors.values()):
        raise UserError(f"{path} does not hold a model's tensors by name.")
    return tensors


def save(pretrained: Pretrained, folder: Path, card: str = "") -> None:
    """Writes what transformers' Auto classes load: config.json, model.safetensors, the tokenizer, README.md."""
    tokenizer, config = pretrained.tokenizer, pretrained.config
    if tokenizer is None:
        raise UserError(f"{pretrained.origin} has no tokenizer, and a model without one is of no use elsewhere.")
    require_room(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)  # without it there is no model, until it comes again as the last file
    for name in (*published.FILES, *encodings.FILES.values()):  # of an export before, whose tokenizer had other files
        (folder / name).unlink(missing_ok=True)
    fields = config_to_transformers(
        config, pretrained.head, pretrained.labels, tokenizer.bos, tokenizer.eos, pretrained.model_type, pretrained.problem
    )
    with storage.written(folder / "model.safetensors") as partial:
        safetensors.numpy.save_file(to_transformers(pretrained.params), partial, {"format": "pt"})
    tokenizer.save(folder)
    settings = tokenizer.settings() | {"model_max_length": pretrained.max_length or config.max_length}
    tokens = {name: token for name, token in settings.items() if name.endswith("_token")}
    if isinstance(tokenizer.base, ByteLevelBPE):
        settings["tokenizer_class"] = "RobertaTokenizer"
        mask = {"content": MASK, "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
        tokens["mask_token"], settings["mask_token"] = mask, mask | {"__type": "AddedToken", "special": True}
    storage.write_json(folder / "special_tokens_map.json", tokens, 2)
    storage.write_json(folder / "tokenizer_config.json", settings, 2)
    storage.write_text(folder / "README.md", card or f"Converted from {pretrained.origin}.\n")
    storage.write_json(folder / "config.json", fields, 2)


def require_room(folder: Path) -> None:
    """Raises where a model can't be exported: something else is there, or nothing can be written."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; the model needs a folder.")
    if is_workdir(folder):
        raise UserError(f"{folder} is a run's workdir, whose config.json a model's would take the place of; name a new folder.")
    if not (folder / "config.json").is_file() and (others := {name for name in storage.names(folder) if not _ours(name)}):
        raise UserError(f"{folder} holds other things ({min(others)}) and no model; name a new folder, or an empty one.")
    storage.require_writable(folder)


def _ours(name: str) -> bool:
    """Whether an export may have left this, if it was stopped, or an empty repository or disk holds it."""
    files = {
        *published.FILES,
        *encodings.FILES.values(),
        "special_tokens_map.json",
        "model.safetensors",
        "README.md",
        "lost+found",
    }
    return name in files or name.startswith(".") or name.endswith(".partial")


def export(source: str | Path, folder: Path, checkpoint: str | int = "newest") -> Pretrained:
    """Writes any model that `load` reads as a folder of transformers; a workdir's with its model card."""
    require_room(folder)
    pretrained, card = load(source, checkpoint), ""
    if is_workdir(source):
        noted, config = (storage.join(source, name) for name in (COMMAND_TXT, CONFIG_JSON))
        command = storage.read_bytes(noted).decode("utf-8", "replace").strip("\0 \n") if storage.exists(noted) else ""
        seen = seen_by(source, step_of(pretrained))
        card = model_card(pretrained, read_json(config), read_metrics(source), command, seen)
    save(pretrained, folder, card)
    return pretrained


def push(folder: Path, name: str, revision: str | None = None) -> str:
    """Uploads a folder as the hub repository `name`, or a revision of it, made where it is not there. Returns its address.

    Raises:
      UserError: the hub does not take it; the folder stays.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        if revision:
            api.create_branch(name, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message="Exported by roberta_jax")
    except Exception as error:  # its HTTP library raises its own kinds
        raise UserError(
            f"the hub {api.endpoint} did not take {name} ({type(error).__name__}: {first_line(error)[:120]}); "
            f"the export is in {folder}. `hf auth login` says who you are."
        ) from None
    return f"{address}/tree/{revision}" if revision else str(address)


if __name__ == "__main__":
    raise SystemExit("python -m roberta_jax.interop.hub export is python -m roberta_jax.export now.")
