"""A model that was read, whatever wrote it."""

from dataclasses import dataclass, field

from roberta_jax.model.config import RobertaConfig
from roberta_jax.tokenization.pretrained import PretrainedTokenizer


@dataclass(frozen=True)
class Pretrained:
    """A model that was read.

    `params` are nested float32 arrays of NumPy, `params["encoder"]` in any case and one head beside it, or none.
    """

    config: RobertaConfig
    params: dict
    tokenizer: PretrainedTokenizer | None  # None where the source has no tokenizer
    head: str  # "lm_head", a key of model.heads.HEADS, or ""
    labels: tuple[str, ...] = ()  # of classification and token classification, in the order of the outputs
    problem: str = ""  # of classification: one of PROBLEMS' values; "" is regression for one output, else single-label
    model_type: str = "roberta"
    ignored: dict[str, str] = field(default_factory=dict)  # tensor of the source → why it was left out
    origin: str = ""
    max_length: int = 0  # ids of the rows that its head was trained on; 0: all that the model has room for
