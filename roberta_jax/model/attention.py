"""Which attention runs where. Today one: XLA's, with softmax in float32 and dropout on the probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def attend(qkv: jax.Array, segment_ids: jax.Array, drop: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Bidirectional attention among the tokens of the same segment.

    Args:
      qkv: [B, L, 3, H, D/H], queries, keys and values.
      segment_ids: int32 [B, L].
      drop: what becomes of the probabilities [B, H, L, L].

    Returns:
      [B, L, D]
    """
    batch, length, _, heads, size = qkv.shape
    query, key, value = jnp.moveaxis(qkv, 2, 0)  # each [B, L, H, D/H]
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * size**-0.5, key, preferred_element_type=jnp.float32)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, L, L]
    probabilities = jax.nn.softmax(jnp.where(same, scores, -1e30), axis=-1).astype(qkv.dtype)
    attended = jnp.einsum("bhqk,bkhd->bqhd", drop(probabilities), value)
    return attended.reshape(batch, length, heads * size)
