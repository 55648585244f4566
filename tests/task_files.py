"""Small files and models for the tests of tasks, and what was read from them."""

import json
from pathlib import Path

import numpy as np

from roberta_jax.interop import hub
from roberta_jax.interop.conversion import nest, shapes
from roberta_jax.model.config import RobertaConfig
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE


def random_model(tokenizer: ByteLevelBPE, folder: Path, seed: int = 0, **fields) -> Path:
    """A folder of transformers with random weights."""
    shape = dict(num_layers=1, hidden_size=32, intermediate_size=64, num_heads=2, max_length=32)
    text, config = LosslessTokenizer(tokenizer), RobertaConfig(len(tokenizer), **shape | fields)
    chooser, flat = np.random.default_rng(seed), {}
    for path, size in shapes(config, "lm_head", 0).items():
        flat[path] = 0.1 * chooser.standard_normal(size, np.float32) + np.float32(path.endswith("scale"))
    hub.save(hub.Pretrained(config, nest(flat), text, "lm_head", origin="random weights"), folder)
    return folder


def table(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(examples):
    """What examples say, without their places."""
    return [(example.id, example.texts, example.label) for example in examples]


def sizes(parts):
    return {part: len(examples) for part, examples in parts.items()}
