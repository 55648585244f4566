"""fairseq's RoBERTa checkpoints in: `model.pt` with `dict.txt`, and GPT-2's `vocab.bpe` for the texts."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.interop import torch_files
from roberta_jax.interop.conversion import Rows, Tensors, gather, shapes
from roberta_jax.model.config import RobertaConfig
from roberta_jax.tokenization import fairseq as dictionary
from roberta_jax.tokenization.pretrained import PretrainedTokenizer, load_tokenizer
from roberta_jax.tokenization.tokenizer import SPECIAL_TOKENS

_LAYER = "encoder.sentence_encoder.layers.{layer}."

# Our path below params/ ↔ fairseq's name, as in conversion.ENCODER. fairseq has no token types.
ENCODER: Rows = [
    ("encoder/embeddings/word/embedding", "encoder.sentence_encoder.embed_tokens.weight"),
    ("encoder/embeddings/position/embedding", "encoder.sentence_encoder.embed_positions.weight"),
    ("encoder/embeddings/layer_norm/scale", "encoder.sentence_encoder.layernorm_embedding.weight"),
    ("encoder/embeddings/layer_norm/bias", "encoder.sentence_encoder.layernorm_embedding.bias"),
    ("encoder/layers/qkv/kernel", _LAYER + "self_attn.{qkv}_proj.weight"),
    ("encoder/layers/qkv/bias", _LAYER + "self_attn.{qkv}_proj.bias"),
    ("encoder/layers/out/kernel", _LAYER + "self_attn.out_proj.weight"),
    ("encoder/layers/out/bias", _LAYER + "self_attn.out_proj.bias"),
    ("encoder/layers/attention_norm/scale", _LAYER + "self_attn_layer_norm.weight"),
    ("encoder/layers/attention_norm/bias", _LAYER + "self_attn_layer_norm.bias"),
    ("encoder/layers/up/kernel", _LAYER + "fc1.weight"),
    ("encoder/layers/up/bias", _LAYER + "fc1.bias"),
    ("encoder/layers/down/kernel", _LAYER + "fc2.weight"),
    ("encoder/layers/down/bias", _LAYER + "fc2.bias"),
    ("encoder/layers/feed_forward_norm/scale", _LAYER + "final_layer_norm.weight"),
    ("encoder/layers/feed_forward_norm/bias", _LAYER + "final_layer_norm.bias"),
]
LM_HEAD: Rows = [
    ("lm_head/dense/kernel", "encoder.lm_head.dense.weight"),
    ("lm_head/dense/bias", "encoder.lm_head.dense.bias"),
    ("lm_head/layer_norm/scale", "encoder.lm_head.layer_norm.weight"),
    ("lm_head/layer_norm/bias", "encoder.lm_head.layer_norm.bias"),
    ("lm_head/bias", "encoder.lm_head.bias"),
]
IGNORED = [
    (r"^encoder\.lm_head\.weight$", "the word embeddings again", "encoder.sentence_encoder.embed_tokens.weight"),
    (r"\.version$", "a constant, no weight", None),
    (r"^classification_heads\.", "a fine-tuned head beside the masked-LM head, which is the one that is read", None),
]
# Older names → newer, as fairseq's own upgrade_state_dict renames them.
_UPGRADES = [
    (r"^decoder\.", "encoder."),
    (r"\.emb_layer_norm\.", ".layernorm_embedding."),
]
# Fields of the arguments that would change the arithmetic, and the one value that we compute.
_FIXED = {"activation_fn": "gelu", "encoder_normalize_before": False, "untie_weights_roberta": False}


def load(folder: Path) -> tuple[RobertaConfig, dict, PretrainedTokenizer | None, dict[str, str]]:
    """(config, masked-LM parameters, texts, ignored tensors) of a folder with model.pt and dict.txt.

    Raises:
      UserError: a file is missing, damaged, of another architecture, or asks for code to be run.
    """
    path = folder / "model.pt"
    checkpoint = torch_files.read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise UserError(f"{path} is not a checkpoint of fairseq: it has no 'model' among its entries.")
    tensors = _upgraded(checkpoint["model"])
    config = _config(tensors, _arguments(checkpoint), str(path))
    rows, ours = ENCODER + LM_HEAD, shapes(config, "lm_head", 0)
    params, ignored = gather(tensors, rows, ours, str(path), ("q", "k", "v"), IGNORED)
    zeros = np.zeros((config.num_token_types, config.hidden_size), np.float32)
    params["encoder"]["embeddings"]["token_type"] = {"embedding": zeros}
    return config, params, _tokenizer(folder, config.vocab_size), ignored


def _upgraded(tensors: Tensors) -> dict[str, np.ndarray]:
    renamed = {}
    for name, array in tensors.items():
        for old, new in _UPGRADES:
            name = re.sub(old, new, name)
        if name.endswith(("self_attn.in_proj_weight", "self_attn.in_proj_bias")) and len(array) % 3 == 0:
            stem, kind = name.rsplit("in_proj_", 1)
            renamed |= {f"{stem}{part}_proj.{kind}": third for part, third in zip("qkv", np.split(array, 3))}
        else:
            renamed[name] = array
    return renamed


def _arguments(checkpoint: dict) -> dict[str, Any]:
    """The model's arguments: `cfg.model` of newer checkpoints, else `args`."""
    newer = checkpoint.get("cfg")
    found = newer.get("model") if isinstance(newer, dict) else checkpoint.get("args")
    return found if isinstance(found, dict) else getattr(found, "__dict__", {})


def _config(tensors: Tensors, arguments: dict[str, Any], origin: str) -> RobertaConfig:
    for name, value in _FIXED.items():
        if arguments.get(name, value) not in (value, None):
            raise UserError(f"{origin}: {name} is {arguments[name]!r}; this package computes {value!r} alone.")
    if not isinstance(arguments.get("encoder_attention_heads"), int):
        raise UserError(f"{origin} says nowhere how many attention heads it has (args.encoder_attention_heads).")
    sizes = {}
    for name in ("embed_tokens", "embed_positions", "layers.0.fc1"):
        array = tensors.get(f"encoder.sentence_encoder.{name}.weight")
        if array is None or array.ndim != 2:
            raise UserError(f"{origin} lacks the matrix encoder.sentence_encoder.{name}.weight: it is no RoBERTa.")
        sizes[name] = array.shape
    layers = {int(found[1]) for name in tensors if (found := re.search(r"sentence_encoder\.layers\.(\d+)\.", name))}
    pad_id = SPECIAL_TOKENS.index("<pad>")
    return RobertaConfig(
        vocab_size=sizes["embed_tokens"][0],
        num_layers=len(layers),
        hidden_size=sizes["embed_tokens"][1],
        intermediate_size=sizes["layers.0.fc1"][0],
        num_heads=arguments["encoder_attention_heads"],
        max_length=sizes["embed_positions"][0] - pad_id - 1,
        num_token_types=1,
        pad_id=pad_id,
        layer_norm_eps=1e-5,
        dropout=float(arguments.get("dropout", 0.1)),
        attention_dropout=float(arguments.get("attention_dropout", 0.1)),
    )


def _tokenizer(folder: Path, vocab_size: int) -> PretrainedTokenizer | None:
    """fairseq's ids: the four special tokens, the lines of dict.txt (GPT-2's ids, written out), `<mask>`."""
    path = folder / "dict.txt"
    if not path.is_file():
        raise UserError(f"{folder} has model.pt but no dict.txt, which says what its ids mean; put it there.")
    if (found := len(dictionary.tokens(folder))) != vocab_size:
        raise UserError(
            f"{path} makes a vocabulary of {found} tokens ({found - 5} lines and 5 special ones), "
            f"model.pt has {vocab_size} embeddings."
        )
    return load_tokenizer(folder)
