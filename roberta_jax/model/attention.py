"""Which attention runs where. Today one: XLA's, with softmax in float32 and dropout on the probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def attend(qkv: jax.Array, heads: int, segment_ids: jax.Array, drop: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Bidirectional attention among the tokens of the same segment.

    Args:
      qkv: [B, L, 3·D], queries, keys and values, each of all heads.
      segment_ids: int32 [B, L].
      drop: what becomes of the probabilities [B, H, L, L].

    Returns:
      [B, L, D]
    """
    batch, length, _ = qkv.shape
    # Heads in front of positions: products of whole matrices, of which a CPU transposes none.
    query, key, value = (x.reshape(batch, length, heads, -1).swapaxes(1, 2) for x in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, L, L]
    probabilities = jax.nn.softmax(jnp.where(same, scores, -1e30), axis=-1).astype(qkv.dtype)
    attended = jnp.einsum("bhqk,bhkd->bhqd", drop(probabilities), value)
    return attended.swapaxes(1, 2).reshape(batch, length, -1)
