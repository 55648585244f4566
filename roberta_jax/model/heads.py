"""What stands on the encoder: the masked-LM head, on the masked slots alone, BERT's next-sentence head, and the heads of
fine-tuned models.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.dropout import dropout, fold
from roberta_jax.model.embedding import places
from roberta_jax.model.encoder import Encoder, dense, layer_norm
from roberta_jax.model.layers import gelu


class MaskedLMHead(nn.Module):
    """dense → GELU → norm → tied embedding matrix + bias. [B, S, D] → float32 logits [B, S, V]"""

    config: RobertaConfig

    @nn.compact
    def __call__(self, x, decode):
        """The logits.

        Args:
          x: hidden states of the masked slots, [B, S, D].
          decode: `Embeddings.attend`, ([…, D], bias [V]) → float32 […, V].
        """
        c = self.config
        x = gelu(dense(c, c.hidden_size, "dense")(x))
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        return decode(layer_norm(c, name="layer_norm")(x), bias)


class MaskedLM(nn.Module):
    """Encoder and masked-LM head; the vocabulary is decoded at the masked slots alone."""

    config: RobertaConfig

    def setup(self):
        self.encoder = Encoder(self.config)
        self.lm_head = MaskedLMHead(self.config)

    def __call__(self, input_ids, segment_ids, positions, token_type_ids=None, keys=None):
        """Logits and hidden states.

        Args:
          input_ids, segment_ids, token_type_ids, keys: see `Encoder.__call__`.
          positions: of the masked slots, int32 [B, S].

        Returns:
          float32 [B, S, V], [B, L, D]
        """
        hidden = self.encoder(input_ids, segment_ids, token_type_ids, keys)
        masked = places(hidden, positions)  # [B, S, D]
        return self.lm_head(masked, self.encoder.embeddings.attend), hidden


class NextSentenceHead(nn.Module):
    """`<s>` → dense → tanh → is B another document's, or does it follow A? [B, L, D] → float32 logits [B, 2]"""

    config: RobertaConfig

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(dense(self.config, self.config.hidden_size, "dense")(x[:, 0]))
        return dense(self.config, 2, "out")(x).astype(jnp.float32)


def init_masked_lm(key: jax.Array, config: RobertaConfig, next_sentence: bool = False) -> dict:
    """Fresh parameters: a nested dict of float32 arrays; those of the layers are stacked, the layer first.

    Those of the encoder and of "lm_head" are the same with "next_sentence" beside them and without.
    """
    one = jnp.zeros((1, 1), jnp.int32)
    params = MaskedLM(config).init(key, one, one, one)["params"]
    if next_sentence:
        hidden = jnp.zeros((1, 1, config.hidden_size), config.dtype)
        params["next_sentence"] = NextSentenceHead(config).init(jax.random.fold_in(key, 1), hidden)["params"]
    return params


def apply_masked_lm(
    params: dict,
    config: RobertaConfig,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Logits at `positions`.

    Args:
      params: of `init_masked_lm`.
      input_ids: int32 [B, L].
      segment_ids: int32 [B, L], 0 for padding.
      positions: int32 [B, S]; slots that are not used may hold any.
      dropout_keys: of each row, uint32 [B, 2]; without them there is no dropout.

    Returns:
      float32 [B, S, V]
    """
    return MaskedLM(config).apply({"params": params}, input_ids, segment_ids, positions, keys=dropout_keys)[0]


def apply_with_next_sentence(
    params: dict,
    config: RobertaConfig,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    token_type_ids: jax.Array,
    dropout_keys: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Logits at `positions`, and of whether B is another document's (0) or follows A (1).

    Args:
      token_type_ids: int32 [B, L], 0 in A and 1 in B; the other arguments are those of `apply_masked_lm`.

    Returns:
      float32 [B, S, V], float32 [B, 2]
    """
    of_masked_lm = {"params": {name: params[name] for name in ("encoder", "lm_head")}}
    logits, hidden = MaskedLM(config).apply(of_masked_lm, input_ids, segment_ids, positions, token_type_ids, dropout_keys)
    return logits, NextSentenceHead(config).apply({"params": params["next_sentence"]}, hidden)


class ClassificationHead(nn.Module):
    """`<s>` → dropout → dense → tanh → dropout → projection. [B, L, D] → [B, outputs]; one output is a regression."""

    config: RobertaConfig
    outputs: int

    @nn.compact
    def __call__(self, x, keys):
        c = self.config
        x = jnp.tanh(dense(c, c.hidden_size, "dense")(dropout(x[:, 0], c.dropout, keys, 0)))
        return dense(c, self.outputs, "out")(dropout(x, c.dropout, keys, 1))


class MultipleChoiceHead(nn.Module):
    """`<s>` → dense → tanh → dropout → projection: the score of one choice. [B, L, D] → [B, 1]"""

    config: RobertaConfig
    outputs: int = 1

    @nn.compact
    def __call__(self, x, keys):
        x = jnp.tanh(dense(self.config, self.config.hidden_size, "dense")(x[:, 0]))
        return dense(self.config, self.outputs, "out")(dropout(x, self.config.dropout, keys))


class SpanHead(nn.Module):
    """Every token → projection: how well it begins and how well it ends the span. [B, L, D] → [B, L, outputs]"""

    config: RobertaConfig
    outputs: int = 2

    @nn.compact
    def __call__(self, x, keys):
        return dense(self.config, self.outputs, "out")(x)


class TokenClassificationHead(nn.Module):
    """Every token → dropout → projection. [B, L, D] → [B, L, outputs]"""

    config: RobertaConfig
    outputs: int

    @nn.compact
    def __call__(self, x, keys):
        return dense(self.config, self.outputs, "out")(dropout(x, self.config.dropout, keys))


# Where a head's parameters lie in the tree, beside "encoder", is its name. Pretraining's are "lm_head" and, of pairs,
# "next_sentence".
HEADS = {
    "classification": ClassificationHead,
    "multiple_choice": MultipleChoiceHead,
    "span": SpanHead,
    "token_classification": TokenClassificationHead,
}


def init_encoder(key: jax.Array, config: RobertaConfig) -> dict:
    """Fresh parameters of an encoder alone, as they lie under "encoder" in every model's."""
    one = jnp.zeros((1, 1), jnp.int32)
    return Encoder(config).init(key, one, one)["params"]


def apply_encoder(
    params: dict,
    config: RobertaConfig,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    dropout_keys: jax.Array | None = None,
) -> jax.Array:
    """Hidden states, by the encoder of any model's parameters.

    Args:
      input_ids: int32 [B, L].
      segment_ids: int32 [B, L], 0 for padding.
      token_type_ids: int32 [B, L]; all 0 by default.
      dropout_keys: of each row, uint32 [B, 2]; without them there is no dropout.

    Returns:
      [B, L, D], in the config's arithmetic.
    """
    return Encoder(config).apply({"params": params["encoder"]}, input_ids, segment_ids, token_type_ids, dropout_keys)


def init_with_head(key: jax.Array, config: RobertaConfig, head: str, outputs: int) -> dict:
    """Fresh parameters {"encoder": …, head: …}; to fine-tune, put a pretrained encoder in the place of this one.

    Args:
      head: a key of HEADS.
      outputs: labels; 1 for regression and for multiple choice, 2 for spans, 3 where some have none.
    """
    encoder_key, head_key = jax.random.split(key)
    hidden = jnp.zeros((1, 1, config.hidden_size), config.dtype)
    head_params = HEADS[head](config, outputs).init(head_key, hidden, None)["params"]
    return {"encoder": init_encoder(encoder_key, config), head: head_params}


def apply_with_head(
    params: dict,
    config: RobertaConfig,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    token_type_ids: jax.Array | None = None,
    dropout_keys: jax.Array | None = None,
    starts: jax.Array | None = None,
) -> jax.Array:
    """Float32 logits of the head that `params` hold. Without keys there is no dropout.

    Args:
      params: of `init_with_head`.
      input_ids: int32 [B, L]; for multiple choice [B, C, L], and so `segment_ids` and `token_type_ids`.
      segment_ids: 0 for padding.
      dropout_keys: of each row, uint32 [B, 2].
      starts: of classification, int32 [B, E]: where the `<s>` of each of several texts in a row stands.

    Returns:
      classification [B, outputs] or [B, E, outputs], multiple choice [B, C], span [B, L, outputs], token classification
      [B, L, outputs].
    """
    (head,) = params.keys() - {"encoder"}
    rows = input_ids.shape[:-1]
    flat = [x if x is None else x.reshape(-1, x.shape[-1]) for x in (input_ids, segment_ids, token_type_ids)]
    keys = dropout_keys
    if keys is not None and head == "multiple_choice":
        keys = fold(keys[:, None], jnp.arange(rows[1])).reshape(-1, 2)
    hidden = apply_encoder(params, config, *flat, keys)
    if starts is not None:
        hidden = places(hidden, starts).reshape(-1, 1, hidden.shape[-1])  # [B·E, 1, D]
        keys = None if keys is None else fold(keys[:, None], jnp.arange(starts.shape[1])).reshape(-1, 2)
    module = HEADS[head](config, params[head]["out"]["bias"].shape[-1])
    head_keys = None if keys is None else fold(keys, config.num_layers + 1)  # the layers' are 1 to num_layers
    logits = module.apply({"params": params[head]}, hidden, head_keys).astype(jnp.float32)
    if starts is not None:
        return logits.reshape(*starts.shape, -1)
    return logits.reshape(rows) if head == "multiple_choice" else logits
