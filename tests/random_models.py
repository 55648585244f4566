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


def random_model(base, head: str, seed: int = 0, tokenizer=None) -> Model:
    """Of 2 layers, 32 wide, rows of 64; head "" is an encoder alone.

    Args:
      tokenizer: of a model of others, in the place of `LosslessTokenizer(base)`.
    """
    tokenizer = tokenizer or LosslessTokenizer(base)
    config = RobertaConfig(len(base), 2, 32, 64, 2, max_length=64, pad_id=base.pad, initializer_range=0.3)
    key = jax.random.key(seed)
    if head in LABELS:
        params = init_with_head(key, config, head, len(LABELS[head]))
    else:
        params = init_masked_lm(key, config)
        if not head:
            params = {"encoder": params["encoder"]}
    labels = LABELS[head] if "classification" in head else ()
    return Model(Pretrained(config, params, tokenizer, head, labels, origin=f"random {head or 'encoder'}"))
