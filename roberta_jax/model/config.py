"""The fields of `config.model`."""

from dataclasses import dataclass, replace

import jax

from roberta_jax.config import check_choices, option
from roberta_jax.errors import check
from roberta_jax.model.attention import ATTENTIONS

FIXED = ("num_token_types", "pad_id", "layer_norm_eps")  # RoBERTa's own; a config sets none of them
OF_A_RUN = ("dropout", "attention_dropout", "dtype", "remat", "attention")  # and not of the model that it trains
OF_THE_BEGINNING = ("initializer_range", "position_init")  # of random weights

POSITION_INITS = ("normal", "sinusoids")

REMAT_POLICIES = {
    "none": None,
    # Keeps the products with weights, and what the last of them takes from attention, which costs most to compute again.
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names("attended")
    ),
    "full": jax.checkpoint_policies.nothing_saveable,  # keeps only each block's input
}


@dataclass(frozen=True)
class RobertaConfig:
    """The shape of a model; the defaults are base's."""

    vocab_size: int = option(50_265, "the tokenizer's, exactly; 0: whatever that is")
    num_layers: int = option(12, "blocks")
    hidden_size: int = option(768, "of a token's vector")
    intermediate_size: int = option(3_072, "of the feed-forward layers")
    num_heads: int = option(12, "of attention")
    max_length: int = option(512, "positions that text can take, at least data.length; 0: that. The table has pad_id + 1 more")
    num_token_types: int = 1
    pad_id: int = 1
    layer_norm_eps: float = 1e-5
    dropout: float = option(0.1, "on embeddings, attention output and feed-forward output")
    attention_dropout: float = option(0.1, "on attention probabilities")
    initializer_range: float = option(0.02, "standard deviation of the initial weights")
    position_init: str = option(
        "normal",
        "what positions' embeddings begin as: normal, the paper's, or sinusoids, by which a model from random weights finds "
        "its neighbours sooner",
        choices=POSITION_INITS,
    )
    dtype: str = option("float32", "of the arithmetic; parameters are float32", choices=("float32", "bfloat16"))
    remat: str = option("none", "what the backward pass computes again to save memory", choices=REMAT_POLICIES)
    attention: str = option(
        "kernel", "kernel: on TPUs, and on GPUs in bfloat16, where rows fit it; xla: everywhere", choices=ATTENTIONS
    )

    def __post_init__(self):
        for name in ("vocab_size", "max_length"):
            check(getattr(self, name) >= 0, f"model.{name}", getattr(self, name), "a number above 0, or 0: what the data needs")
        for name in ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_token_types"):
            check(getattr(self, name) > 0, f"model.{name}", getattr(self, name), "1 or more")
        multiple = f"a multiple of config.model.num_heads, {self.num_heads}"
        check(self.hidden_size % self.num_heads == 0, "model.hidden_size", self.hidden_size, multiple)
        for name in ("dropout", "attention_dropout"):
            check(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "a share from 0 on, below 1")
        check(self.initializer_range > 0, "model.initializer_range", self.initializer_range, "a number above 0")
        check_choices(self, "model.")

    def with_shape_of(self, other: "RobertaConfig") -> "RobertaConfig":
        """`other` with this one's dropout, arithmetic, remat and attention: those are a run's, and not a model's."""
        return replace(other, **{name: getattr(self, name) for name in OF_A_RUN})
