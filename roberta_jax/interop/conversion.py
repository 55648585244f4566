"""transformers' tensors and config.json ↔ our parameters and RobertaConfig: one table of names for both directions."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import HEADS, init_encoder, init_masked_lm, init_with_head

Tensors = Mapping[str, np.ndarray]
Rows = list[tuple[str, str]]

# Our path below params/ ↔ transformers' name. {layer} counts the layers, which ours stacks; {qkv} the three
# projections, which ours joins. A kernel is their weight transposed, every other array is theirs as it is.
ENCODER: Rows = [
    ("encoder/embeddings/word/embedding", "roberta.embeddings.word_embeddings.weight"),
    ("encoder/embeddings/position/embedding", "roberta.embeddings.position_embeddings.weight"),
    ("encoder/embeddings/token_type/embedding", "roberta.embeddings.token_type_embeddings.weight"),
    ("encoder/embeddings/layer_norm/scale", "roberta.embeddings.LayerNorm.weight"),
    ("encoder/embeddings/layer_norm/bias", "roberta.embeddings.LayerNorm.bias"),
    ("encoder/layers/qkv/kernel", "roberta.encoder.layer.{layer}.attention.self.{qkv}.weight"),
    ("encoder/layers/qkv/bias", "roberta.encoder.layer.{layer}.attention.self.{qkv}.bias"),
    ("encoder/layers/out/kernel", "roberta.encoder.layer.{layer}.attention.output.dense.weight"),
    ("encoder/layers/out/bias", "roberta.encoder.layer.{layer}.attention.output.dense.bias"),
    ("encoder/layers/attention_norm/scale", "roberta.encoder.layer.{layer}.attention.output.LayerNorm.weight"),
    ("encoder/layers/attention_norm/bias", "roberta.encoder.layer.{layer}.attention.output.LayerNorm.bias"),
    ("encoder/layers/up/kernel", "roberta.encoder.layer.{layer}.intermediate.dense.weight"),
    ("encoder/layers/up/bias", "roberta.encoder.layer.{layer}.intermediate.dense.bias"),
    ("encoder/layers/down/kernel", "roberta.encoder.layer.{layer}.output.dense.weight"),
    ("encoder/layers/down/bias", "roberta.encoder.layer.{layer}.output.dense.bias"),
    ("encoder/layers/feed_forward_norm/scale", "roberta.encoder.layer.{layer}.output.LayerNorm.weight"),
    ("encoder/layers/feed_forward_norm/bias", "roberta.encoder.layer.{layer}.output.LayerNorm.bias"),
]


@dataclass(frozen=True)
class Head:
    architecture: str  # how transformers' class of the model ends
    rows: Rows
    pipeline: str  # the hub's name of what such a model does


# By our name of the head; "" is an encoder without one.
TRANSFORMERS_HEADS = {
    "lm_head": Head(
        "ForMaskedLM",
        [
            ("lm_head/dense/kernel", "lm_head.dense.weight"),
            ("lm_head/dense/bias", "lm_head.dense.bias"),
            ("lm_head/layer_norm/scale", "lm_head.layer_norm.weight"),
            ("lm_head/layer_norm/bias", "lm_head.layer_norm.bias"),
            ("lm_head/bias", "lm_head.bias"),
        ],
        "fill-mask",
    ),
    "classification": Head(
        "ForSequenceClassification",
        [
            ("classification/dense/kernel", "classifier.dense.weight"),
            ("classification/dense/bias", "classifier.dense.bias"),
            ("classification/out/kernel", "classifier.out_proj.weight"),
            ("classification/out/bias", "classifier.out_proj.bias"),
        ],
        "text-classification",
    ),
    "span": Head(
        "ForQuestionAnswering",
        [("span/out/kernel", "qa_outputs.weight"), ("span/out/bias", "qa_outputs.bias")],
        "question-answering",
    ),
    "multiple_choice": Head(
        "ForMultipleChoice",
        [
            ("multiple_choice/dense/kernel", "roberta.pooler.dense.weight"),
            ("multiple_choice/dense/bias", "roberta.pooler.dense.bias"),
            ("multiple_choice/out/kernel", "classifier.weight"),
            ("multiple_choice/out/bias", "classifier.bias"),
        ],
        "multiple-choice",
    ),
    "token_classification": Head(
        "ForTokenClassification",
        [
            ("token_classification/out/kernel", "classifier.weight"),
            ("token_classification/out/bias", "classifier.bias"),
        ],
        "token-classification",
    ),
    "": Head("Model", [], "feature-extraction"),
}

# Tensors that no row takes and that may be there, why they are left, and the tensor whose copy they have to be.
IGNORED = [
    (r"embeddings\.(position_ids|token_type_ids)$", "a constant, no weight", None),
    (r"^lm_head\.decoder\.weight$", "the word embeddings again", "roberta.embeddings.word_embeddings.weight"),
    (r"^lm_head\.decoder\.bias$", "lm_head.bias again", "lm_head.bias"),
    (r"(^|\.)pooler\.dense\.(weight|bias)$", "a pooler, which masked-LM pretraining does not train", None),
]


def shapes(config: RobertaConfig, head: str, outputs: int) -> dict[str, tuple[int, ...]]:
    """Path → shape of our parameters."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    if head == "lm_head":
        tree = jax.eval_shape(lambda key: init_masked_lm(key, config), key)
    elif head in HEADS:
        tree = jax.eval_shape(lambda key: init_with_head(key, config, head, outputs), key)
    else:
        tree = {"encoder": jax.eval_shape(lambda key: init_encoder(key, config), key)}
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def flatten(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def nest(flat: Mapping[str, Any]) -> dict:
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _parts(template: str, qkv: tuple[str, ...], layer: int) -> list[str]:
    return [template.format(layer=layer, qkv=part) for part in (qkv if "{qkv}" in template else ("",))]


def gather(
    tensors: Tensors,
    rows: Rows,
    ours: Mapping[str, tuple[int, ...]],
    origin: str,
    qkv: tuple[str, str, str] = ("query", "key", "value"),
    ignored: list[tuple[str, str, str | None]] = IGNORED,
    rename: Callable[[str], str] = lambda name: name,
) -> tuple[dict, dict[str, str]]:
    """Our parameters from theirs, each tensor used once or ignored for a reason.

    Args:
      ours: path → shape of every parameter, from `shapes`.
      origin: the file or folder, for messages.
      rename: the table's name of a tensor → the source's.

    Returns:
      (parameters, nested, float32 arrays of NumPy; name → reason of the tensors left out).

    Raises:
      UserError: a tensor is missing, has another shape, or is one too many.
    """
    left = dict(tensors)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in left:
            raise UserError(f"{origin} lacks the tensor {name}, expected with shape {shape}.")
        if left[name].shape != shape:
            raise UserError(f"{origin}: the tensor {name} has shape {left[name].shape}, expected {shape}.")
        if left[name].dtype.kind in "biu":
            raise UserError(f"{origin}: the tensor {name} is of {left[name].dtype}, as quantized models are; expected floats.")
        return np.asarray(left.pop(name), np.float32)

    params = {}
    for path, template in rows:
        stacked, transposed = "{layer}" in template, path.endswith("kernel")
        shape = ours[path][1:] if stacked else ours[path]
        if "{qkv}" in template:
            shape = (*shape[:-3], shape[-2] * shape[-1])  # [D, 3, H, D/H] is three of [D, D], a bias three of [D]
        layers = []
        for layer in range(ours[path][0] if stacked else 1):
            names = [rename(name) for name in _parts(template, qkv, layer)]
            arrays = [take(name, shape[::-1]).T if transposed else take(name, shape) for name in names]
            layers.append(np.stack(arrays, axis=-2) if len(arrays) > 1 else arrays[0])
        params[path] = np.stack(layers).reshape(ours[path]) if stacked else np.ascontiguousarray(layers[0])
    return nest(params), _reasons(left, tensors, origin, ignored, rename)


def _reasons(left: Tensors, tensors: Tensors, origin: str, ignored, rename) -> dict[str, str]:
    reasons = {}
    for name, array in left.items():
        row = next((row for row in ignored if re.search(row[0], name)), None)
        if row is None:
            raise UserError(f"{origin} has the tensor {name} {array.shape}, for which this model has no place.")
        _, reason, twin = row
        if twin is not None and not np.array_equal(array, tensors[rename(twin)]):
            raise UserError(
                f"{origin}: {name} {array.shape} differs from {rename(twin)} {tensors[rename(twin)].shape}; "
                "this package has one array for both."
            )
        reasons[name] = reason
    return reasons


def head_of(tensors: Tensors, architectures: list[str]) -> str:
    """Which head a source has: as its config says, else as its tensors look."""
    if architectures:
        named = [head for head, row in TRANSFORMERS_HEADS.items() if architectures[0].endswith(row.architecture)]
        if not named:
            raise UserError(
                f"the architecture {architectures[0]} is none of those read here: Roberta, XLMRoberta or Camembert "
                f"{', '.join(row.architecture for row in TRANSFORMERS_HEADS.values())}."
            )
        if not named[0] and "lm_head.dense.weight" in tensors:  # saved by a class without one, from a file that has it
            return "lm_head"
        return named[0]
    marks = {
        "lm_head.dense.weight": "lm_head",
        "qa_outputs.weight": "span",
        "classifier.out_proj.weight": "classification",
    }
    if "classifier.weight" in tensors:
        one = tensors["classifier.weight"].shape[0] == 1 and "roberta.pooler.dense.weight" in tensors
        return "multiple_choice" if one else "token_classification"
    return next((head for mark, head in marks.items() if mark in tensors), "")


def from_transformers(
    tensors: Tensors, config: RobertaConfig, architectures: list[str], origin: str
) -> tuple[dict, str, dict[str, str]]:
    """(parameters, name of the head, ignored tensors) of a transformers model's tensors; errors as `gather`.

    Where there is no tensor of the head that the config names, as in sentence-transformers' folders, the head is "".
    """
    tensors = _as_named_today(tensors)
    head = head_of(tensors, architectures)
    rows = TRANSFORMERS_HEADS[head].rows
    if not any(name in tensors for _, name in rows):
        head, rows = "", []
    bias = next((name for path, name in rows if path.endswith("out/bias")), None)
    outputs = tensors[bias].shape[0] if bias in tensors else 1
    bare = not any(name.startswith("roberta.") for name in tensors)  # RobertaModel alone
    rename = (lambda name: name.removeprefix("roberta.")) if bare else (lambda name: name)
    params, ignored = gather(tensors, ENCODER + rows, shapes(config, head, outputs), origin, rename=rename)
    return params, head, ignored


def _as_named_today(tensors: Tensors) -> dict[str, np.ndarray]:
    """Of checkpoints that TensorFlow's names went through, and of heads whose bias stands at the decoder alone."""
    today = {"gamma": "weight", "beta": "bias"}
    norm = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$|(?<=layer_norm\.)(gamma|beta)$")
    renamed = {norm.sub(lambda found: today[found[0]], name): array for name, array in tensors.items()}
    if "lm_head.bias" not in renamed and "lm_head.decoder.bias" in renamed:
        renamed["lm_head.bias"] = renamed.pop("lm_head.decoder.bias")
    return renamed


def to_transformers(params: dict) -> dict[str, np.ndarray]:
    """Our parameters as transformers' tensors, float32 arrays of NumPy.

    A span head's third output, whether there is an answer, stays behind: transformers' ForQuestionAnswering has two.
    """
    flat = flatten(params)
    (head,) = params.keys() - {"encoder"} or {""}
    tensors = {}
    for path, template in ENCODER + TRANSFORMERS_HEADS[head].rows:
        array = np.asarray(flat[path], np.float32)
        array = array[..., :2] if path.startswith("span/out/") else array
        for layer, one in enumerate(array if "{layer}" in template else [array]):
            names = _parts(template, ("query", "key", "value"), layer)
            if len(names) > 1:
                one = one.reshape(*one.shape[:-2], -1)  # [D, 3, D] or [3, D]
            for name, part in zip(names, np.moveaxis(one, -2, 0) if len(names) > 1 else [one]):
                tensors[name] = np.ascontiguousarray(part.T if path.endswith("kernel") else part)
    return tensors


MODEL_TYPES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}

# Fields of config.json that would change the arithmetic: what we can do, and what holds where a field is not there.
FIXED = {
    "hidden_act": ("gelu", "gelu_python"),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


# What is read of config.json: (its kind, the least, the greatest value, what holds where it is not there or null).
_WHOLE, _MOST = int, 2**31 - 1
_FIELDS = {
    **dict.fromkeys(("vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size"), (_WHOLE, 1, _MOST, None)),
    **dict.fromkeys(("num_attention_heads", "max_position_embeddings"), (_WHOLE, 1, _MOST, None)),
    "type_vocab_size": (_WHOLE, 1, _MOST, 2),
    "pad_token_id": (_WHOLE, 0, _MOST, 1),
    "layer_norm_eps": (float, 0, 1, 1e-12),
    "hidden_dropout_prob": (float, 0, 0.999, 0.1),
    "attention_probs_dropout_prob": (float, 0, 0.999, 0.1),
    "initializer_range": (float, 1e-9, 100, 0.02),
}


def _field(fields: Mapping[str, Any], name: str, origin: str) -> Any:
    kind, least, most, otherwise = _FIELDS[name]
    value = fields.get(name)
    value = otherwise if value is None else value
    if value is None:
        raise UserError(f"{origin} lacks {name}, expected as a whole number.")
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        expected = f"a {'whole ' if kind is int else ''}number from {least} to {most}"
        raise UserError(f"{origin}: {name} is {str(value)[:60]!r}; expected {expected}.")
    return kind(value)


def architectures_of(fields: Mapping[str, Any], origin: str) -> list[str]:
    """The classes that config.json names; [] where it names none."""
    found = fields.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{origin}: architectures is {str(found)[:60]!r}; expected a list of names.")
    return found


def config_from_transformers(fields: Mapping[str, Any], origin: str) -> RobertaConfig:
    """Raises: UserError where the fields are of another architecture, or no such values."""
    model_type = fields.get("model_type", "model without a model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UserError(f"{origin} is the config of a {str(model_type)[:60]!r}; this package reads {', '.join(MODEL_TYPES)}.")
    for name, values in FIXED.items():
        if fields.get(name, values[0]) not in values:
            raise UserError(f"{origin}: {name} is {str(fields[name])[:60]!r}; this package computes {values[0]!r} alone.")
    found = {name: _field(fields, name, origin) for name in _FIELDS}
    pad_id, hidden, heads = (found[name] for name in ("pad_token_id", "hidden_size", "num_attention_heads"))
    if hidden % heads:
        raise UserError(f"{origin}: hidden_size is {hidden}, no multiple of num_attention_heads, {heads}.")
    if pad_id >= found["vocab_size"] or found["max_position_embeddings"] <= pad_id + 1:
        raise UserError(
            f"{origin}: pad_token_id is {pad_id}, which leaves no id or no position for text; vocab_size is "
            f"{found['vocab_size']}, max_position_embeddings {found['max_position_embeddings']}."
        )
    return RobertaConfig(
        vocab_size=found["vocab_size"],
        num_layers=found["num_hidden_layers"],
        hidden_size=hidden,
        intermediate_size=found["intermediate_size"],
        num_heads=heads,
        max_length=found["max_position_embeddings"] - pad_id - 1,
        num_token_types=found["type_vocab_size"],
        pad_id=pad_id,
        layer_norm_eps=found["layer_norm_eps"],
        dropout=found["hidden_dropout_prob"],
        attention_dropout=found["attention_probs_dropout_prob"],
        initializer_range=found["initializer_range"],
    )


def config_to_transformers(
    config: RobertaConfig,
    head: str,
    labels: tuple[str, ...],
    bos: int,
    eos: int,
    model_type: str = "roberta",
    problem: str = "",
) -> dict[str, Any]:
    """What config.json says of a model."""
    fields = {
        "architectures": [MODEL_TYPES[model_type] + TRANSFORMERS_HEADS[head].architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_length + config.pad_id + 1,
        "type_vocab_size": config.num_token_types,
        "hidden_act": "gelu",
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": config.pad_id,
    }
    if labels:
        fields["id2label"] = {str(i): label for i, label in enumerate(labels)}
        fields["label2id"] = {label: i for i, label in enumerate(labels)}
    if problem or len(labels) == 1:
        fields["problem_type"] = problem or "regression"
    return fields
