"""Small models with random weights, one of each head."""

import jax

from roberta_jax.inference import Model
from roberta_jax.interop.pretrained import Pretrained
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm, init_with_head
from roberta_jax.tokenization.pretrained import LosslessTokenizer

LABELS = {
    "classification": ("negative", "neutral", "positive"),
    "token_classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "span": ("start", "end"),
    "multiple_choice": ("choice",),
}


def random_model(tokenizer, head: str, seed: int = 0) -> Model:
    """Of 2 layers, 32 wide, rows of 64; head "" is an encoder alone."""
    config = RobertaConfig(len(tokenizer), 2, 32, 64, 2, max_length=64, initializer_range=0.3)
    key = jax.random.key(seed)
    if head in LABELS:
        params = init_with_head(key, config, head, len(LABELS[head]))
    else:
        params = init_masked_lm(key, config)
        if not head:
            params = {"encoder": params["encoder"]}
    labels = LABELS[head] if "classification" in head else ()
    return Model(Pretrained(config, params, LosslessTokenizer(tokenizer), head, labels, origin=f"random {head or 'encoder'}"))
