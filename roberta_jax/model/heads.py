"""What stands on the encoder: the masked-LM head, on the masked slots alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from roberta_jax.model.encoder import Encoder, RobertaConfig, kernel_init, layer_norm


class MaskedLMHead(nn.Module):
    """dense → GELU → norm → tied embedding matrix + bias. [B, S, D] → float32 logits [B, S, V]"""

    config: RobertaConfig

    @nn.compact
    def __call__(self, x, decode):
        c = self.config
        x = nn.gelu(
            nn.Dense(c.hidden_size, kernel_init=kernel_init(c), dtype=c.dtype, name="dense")(x), approximate=False
        )
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        return decode(layer_norm(c, name="layer_norm")(x)) + bias


class MaskedLM(nn.Module):
    config: RobertaConfig

    def setup(self):
        self.encoder = Encoder(self.config)
        self.lm_head = MaskedLMHead(self.config)

    def __call__(self, input_ids, segment_ids, positions, deterministic: bool = True):
        hidden = self.encoder(input_ids, segment_ids, deterministic=deterministic)
        masked = jnp.take_along_axis(hidden, positions[..., None], axis=1)  # [B, S, D]
        return self.lm_head(masked, self.encoder.embeddings.attend)


def init_masked_lm(key: jax.Array, config: RobertaConfig) -> dict:
    """Fresh parameters: a nested dict of float32 arrays; those of the layers are stacked, the layer first."""
    one = jnp.zeros((1, 1), jnp.int32)
    return MaskedLM(config).init(key, one, one, one)["params"]


def apply_masked_lm(
    params: dict,
    config: RobertaConfig,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Logits at `positions`: int32 [B, L], [B, L] and [B, S] → float32 [B, S, V]. Without a key there is no dropout."""
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    return MaskedLM(config).apply(
        {"params": params}, input_ids, segment_ids, positions, deterministic=dropout_key is None, rngs=rngs
    )
