"""The encoder: embeddings and a scanned stack of post-layer-norm blocks, in Flax Linen.

The rest of the package sees `init(key, …) → params` and `apply(params, …)`; no Flax type leaves this folder.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from roberta_jax.model.attention import ATTENTIONS
from roberta_jax.model.config import REMAT_POLICIES, RobertaConfig
from roberta_jax.model.dropout import dropout, fold
from roberta_jax.model.embedding import Embed
from roberta_jax.model.layers import Dense, LayerNorm, add_wide_bias, gelu

SINUSOIDS = 3.0  # deviation of such positions over that of other weights: docs/troubleshooting.md, "The loss stands still"


def kernel_init(config: RobertaConfig):
    """Normal, with `config.initializer_range` as its deviation."""
    return nn.initializers.normal(config.initializer_range)


def sinusoids(config: RobertaConfig):
    """Sines and cosines of the row's number, of wavelengths from 2π to 2π times the number of rows (arXiv 1706.03762).

    An initializer of a table [rows, width], whose deviation is `SINUSOIDS` times `config.initializer_range`. The product of two
    rows says how far apart they are, wherever they are. Normal rows have to learn that, each by itself, and until then the
    model predicts words by their frequency alone. The table is learned on from there, as ever.
    """

    def init(key, shape, dtype=jnp.float32):
        rows, width = shape
        angles = np.arange(rows)[:, None] * np.geomspace(1, 1 / rows, -(-width // 2))
        waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(rows, -1)[:, :width]
        return jnp.asarray(np.sqrt(2) * SINUSOIDS * config.initializer_range * waves, dtype)

    return init


def dense(config: RobertaConfig, features: int | tuple[int, ...], name: str) -> Dense:
    """A dense layer in the config's arithmetic."""
    return Dense(features if isinstance(features, tuple) else (features,), kernel_init(config), config.dtype, name=name)


def layer_norm(config: RobertaConfig, name: str | None = None) -> LayerNorm:
    """A layer norm in the config's arithmetic."""
    return LayerNorm(config.layer_norm_eps, config.dtype, name=name)


class Embeddings(nn.Module):
    """Words, positions and token types, summed: int32 [B, L] → [B, L, D]; `attend` is the tied decoder's product."""

    config: RobertaConfig

    def setup(self):
        c = self.config

        def table(rows, init=kernel_init):
            return Embed(rows, c.hidden_size, init(c))

        self.word = table(c.vocab_size)
        self.position = table(c.max_length + c.pad_id + 1, {"normal": kernel_init, "sinusoids": sinusoids}[c.position_init])
        self.token_type = table(c.num_token_types)
        self.layer_norm = layer_norm(c)

    def __call__(self, input_ids, segment_ids, token_type_ids, keys):
        """See `Encoder.__call__`, whose arguments these are."""
        x = self.word(input_ids) + self.position(position_ids(input_ids, segment_ids, self.config.pad_id))
        if token_type_ids is None:
            token_type_ids = jnp.zeros((1, 1), jnp.int32)  # every token's
        x = (x + self.token_type(token_type_ids)).astype(self.config.dtype)  # not before: gradients are summed in float32
        return dropout(self.layer_norm(x), self.config.dropout, keys)

    def attend(self, x, bias):
        """Logits: the product with the table of words, plus `bias`. […, D], [V] → float32 […, V]"""
        table, flat = self.word.embedding.astype(self.config.dtype), x.reshape(-1, x.shape[-1])  # one product, see layers.Dense
        logits = jnp.einsum("nd,vd->nv", flat, table, preferred_element_type=jnp.float32)
        return add_wide_bias(logits, bias).reshape(*x.shape[:-1], -1)


def position_ids(input_ids: jax.Array, segment_ids: jax.Array, pad_id: int) -> jax.Array:
    """From `pad_id` + 1 on in each segment, as fairseq's. int32 [B, L] → [B, L]

    Padding (segment 0) takes `pad_id`, and so does a `<pad>` within a text, which is not counted.
    """
    counted = ((segment_ids != 0) & (input_ids != pad_id)).astype(jnp.int32)
    index = jnp.cumsum(counted, axis=1)
    before = jnp.pad(segment_ids, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    start = jax.lax.cummax(jnp.where(segment_ids != before, index - counted, 0), axis=1)
    return pad_id + jnp.where(counted == 1, index - start, 0)


class Block(nn.Module):
    """Self-attention and feed-forward, each with its residual, then layer norm (post-LN). [B, L, D] → [B, L, D]"""

    config: RobertaConfig

    @nn.compact
    def __call__(self, x, segment_ids, keys):
        """Returns (the block's output, None), as `nn.scan` asks.

        Args:
          x: [B, L, D].
          segment_ids: int32 [B, L].
          keys: of each row's dropout in this block, uint32 [B, 2]; without them there is none.
        """
        c = self.config

        qkv = dense(c, (3, c.num_heads, c.hidden_size // c.num_heads), "qkv")(x)  # [B, L, 3·D]
        attended = ATTENTIONS[c.attention](qkv, c.num_heads, segment_ids, c.attention_dropout, keys)  # [B, L, D]
        attended = checkpoint_name(attended, "attended")
        attended = dropout(dense(c, c.hidden_size, "out")(attended), c.dropout, keys, 1)
        x = layer_norm(c, name="attention_norm")(x + attended)
        y = dense(c, c.intermediate_size, "up")(x)
        y = dropout(dense(c, c.hidden_size, "down")(y, gelu), c.dropout, keys, 2)
        return layer_norm(c, name="feed_forward_norm")(x + y), None


class Encoder(nn.Module):
    """Ids to hidden states [B, L, D]."""

    config: RobertaConfig

    def setup(self):
        c = self.config
        policy = REMAT_POLICIES[c.remat]
        block = Block if policy is None else nn.remat(Block, policy=policy, prevent_cse=False)
        self.embeddings = Embeddings(c)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0),
            length=c.num_layers,
        )(c)

    def __call__(self, input_ids, segment_ids, token_type_ids=None, keys=None):
        """Encodes rows.

        Args:
          input_ids: int32 [B, L].
          segment_ids: int32 [B, L], 0 for padding; tokens attend to those of their own segment alone.
          token_type_ids: int32 [B, L]; all 0 by default.
          keys: of each row's dropout, uint32 [B, 2]; without them there is none.

        Returns:
          [B, L, D], in the config's arithmetic.
        """
        x = self.embeddings(input_ids, segment_ids, token_type_ids, keys)
        of_layers = None if keys is None else fold(keys, jnp.arange(1, self.config.num_layers + 1)[:, None])  # [layers, B, 2]
        return self.layers(x, segment_ids, of_layers)[0]
