"""A trained model for longer rows: its positions repeated, as Longformer's were (arXiv 2004.05150, section 5)."""

from dataclasses import replace

import numpy as np

from roberta_jax.interop.pretrained import Pretrained


def with_positions(source: Pretrained, length: int) -> Pretrained:
    """The model with positions for rows of so many ids, at least as many as it has: those that it lacks are its own again.

    The rows of the table up to `<pad>`, where no position is, stay as they are.
    """
    first = source.config.pad_id + 1
    encoder = source.params["encoder"]
    table = encoder["embeddings"]["position"]["embedding"]  # [first + max_length, D]
    longer = np.concatenate([table[:first], np.resize(table[first:], (length, table.shape[1]))])
    embeddings = encoder["embeddings"] | {"position": {"embedding": longer}}
    params = source.params | {"encoder": encoder | {"embeddings": embeddings}}
    return replace(source, config=replace(source.config, max_length=length), params=params)
