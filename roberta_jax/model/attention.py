"""Which attention runs where: XLA's, or a kernel of our own, see `tpu_attention` and `gpu_attention`."""

import functools
import warnings
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from roberta_jax.model.dropout import dropout
from roberta_jax.model.tracing import alone, on_ampere, on_tpu


def attend(qkv: jax.Array, heads: int, segment_ids: jax.Array, rate: float = 0.0, keys: jax.Array | None = None) -> jax.Array:
    """Bidirectional attention among the tokens of the same segment.

    Args:
      qkv: [B, L, 3·D], queries, keys and values, and of each the heads, side by side.
      segment_ids: int32 [B, L].
      rate: of dropout on the probabilities [B, H, L, L].
      keys: of that dropout, uint32 [B, 2]; without them there is none.

    Returns:
      [B, L, D]
    """
    try:
        kernel = kernel_for(qkv, heads)
    except ImportError as error:
        _warn_once(f"there is no attention kernel ({error}), so XLA's attention takes its place.")
        kernel = None
    return (kernel or xla_attention)(qkv, heads, segment_ids, rate, keys)


def kernel_for(qkv: jax.Array, heads: int) -> Callable | None:
    """The kernel that `attend` runs here and for these; None: XLA's attention.

    Raises:
      ImportError: this JAX has no Pallas of the kind. That for Triton is deprecated and will go.
    """
    if not alone():
        return None
    if on_tpu():
        from roberta_jax.model import tpu_attention  # Pallas takes long to import

        return tpu_attention.tpu_attention if tpu_attention.fits(qkv, heads) else None
    if on_ampere():
        from roberta_jax.model import gpu_attention

        return gpu_attention.gpu_attention if gpu_attention.fits(qkv, heads) else None
    return None


_warn_once = functools.cache(lambda sentence: warnings.warn(sentence, stacklevel=3))


def xla_attention(
    qkv: jax.Array, heads: int, segment_ids: jax.Array, rate: float = 0.0, keys: jax.Array | None = None
) -> jax.Array:
    """`attend` anywhere; scores and probabilities go through memory."""
    batch, length, _ = qkv.shape
    # Heads in front of positions: products of whole matrices, of which a CPU transposes none.
    query, key, value = (x.reshape(batch, length, heads, -1).swapaxes(1, 2) for x in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32)
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, L, L]
    attended = _weighted(jnp.where(same, scores, -1e30), value, rate, keys)
    return attended.swapaxes(1, 2).reshape(batch, length, -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _weighted(scores: jax.Array, value: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Softmax, dropout and the product with the values. For the backward pass it keeps the probabilities alone, and once."""
    return _forward(scores, value, rate, keys)[0]


def _forward(scores, value, rate, keys):
    probabilities = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    attended = jnp.einsum("bhqk,bhkd->bhqd", dropout(probabilities, rate, keys), value)
    return attended, (probabilities, value, keys)


def _backward(rate, residuals, gradient):
    probabilities, value, keys = residuals
    dv = jnp.einsum("bhqk,bhqd->bhkd", dropout(probabilities, rate, keys), gradient)
    ddropped = jnp.einsum("bhqd,bhkd->bhqk", gradient, value, preferred_element_type=jnp.float32)
    p, dp = probabilities.astype(jnp.float32), dropout(ddropped, rate, keys)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    return ds, dv, None


_weighted.defvjp(_forward, _backward)

# By the names of `config.model.attention`: "kernel" where there is one for the device and the rows, or "xla" everywhere.
ATTENTIONS: dict[str, Callable[..., jax.Array]] = {"kernel": attend, "xla": xla_attention}
