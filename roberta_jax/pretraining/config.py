"""The fields of a pretraining job."""

from dataclasses import dataclass, field, replace

from roberta_jax import storage
from roberta_jax.config import option
from roberta_jax.errors import UserError, check
from roberta_jax.model.config import RobertaConfig
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.tokenization import encodings
from roberta_jax.training.config import RunConfig
from roberta_jax.training.optimizer import warmup


@dataclass(frozen=True)
class DataConfig(CorpusConfig):
    """The corpus, how much of it is used, and how it is masked."""

    fraction: float = option(1.0, "of the train rows that are used, evenly spread over the corpus")
    masking: str = option("roberta", "which tokens are predicted, and with what in their place: a mode of data/masking.py")
    masking_rate: float = option(0.15, "of the tokens, or words, that are predicted")
    mask_replace_prob: float = option(0.8, "of the predicted tokens: these become <mask>")
    random_replace_prob: float = option(0.1, "and these a random token; the rest is kept. BabyBERTa: 0.9, 0.1, none kept")
    cache: str = option(str(storage.CACHE), "of prepared corpora and trained vocabularies")
    processes: int = option(0, "that prepare the corpus; 0: one a core")

    def __post_init__(self):
        super().__post_init__()
        check(0 < self.fraction <= 1, "data.fraction", self.fraction, "a share above 0 and up to 1")
        check(self.processes >= 0, "data.processes", self.processes, "1 or more, or 0: one a core")
        check(bool(self.cache), "data.cache", self.cache, "a name")
        masking_of(self)  # which looks at its fields


def masking_of(data: DataConfig):
    """The `Masking` of these fields."""
    from roberta_jax.data.masking import Masking  # here, so that a config file needs no TensorFlow

    return Masking(data.masking, data.masking_rate, data.mask_replace_prob, data.random_replace_prob)


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    job: str = "pretrain"
    model: RobertaConfig = field(default_factory=RobertaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    continue_from: str = option(
        "", "RUN@STEP: a run's checkpoint, with optimizer, step and order of rows; steps counts them too"
    )

    def __post_init__(self):
        super().__post_init__()
        run, _, step = self.continue_from.rpartition("@")
        right = not self.continue_from or run and step.isdecimal()
        check(right, "continue_from", self.continue_from, "RUN@STEP, a run's workdir and one of its checkpoints")
        if step:
            expected = f"more than the {int(step):,} of config.continue_from, which count too"
            check(self.steps > int(step), "steps", self.steps, expected)

    @property
    def model_before(self) -> str:
        """The field that names a model to go on with, and its value; "" where there is none."""
        name = "continue_from" if self.continue_from else "init_from"
        return f"config.{name} {getattr(self, name)}" if getattr(self, name) else ""

    @property
    def takes_tokenizer_of_model_before(self) -> bool:
        """Whether there is a model to go on with, and data.tokenizer names none: a new vocabulary would not fit its table."""
        return bool(self.model_before) and isinstance(self.data.tokenizer, int)

    def check_together(self) -> None:
        """Raises a UserError where fields do not go together."""
        warmup(self.optimizer, self.steps)
        model, entries = self.model, self.data.tokenizer
        trained = isinstance(entries, int) and not self.takes_tokenizer_of_model_before
        if trained and model.vocab_size > entries:  # a text may give fewer than it is asked for, but not more
            raise UserError(
                f"config.model.vocab_size is {model.vocab_size}, the tokenizer has at most {entries} entries, by "
                "config.data.tokenizer; set it to 0, which takes as many as there are."
            )
        expected = f"at least config.data.length, {self.data.length}, or 0: that"
        check(not 0 < model.max_length < self.data.length, "model.max_length", model.max_length, expected)
        for name in ("hidden_size", "intermediate_size"):
            expected = f"a divisor of config.model.{name}, {getattr(model, name)}"
            check(getattr(model, name) % self.fsdp == 0, "fsdp", self.fsdp, expected)


def with_sizes(config: PretrainConfig) -> PretrainConfig:
    """`config` with the sizes that it leaves open, as far as they are known before a text is read."""
    model = config.model
    if not model.vocab_size:
        tokenizer = config.data.tokenizer
        model = replace(model, vocab_size=tokenizer if isinstance(tokenizer, int) else len(encodings.of_model(tokenizer)))
    return replace(config, model=replace(model, max_length=model.max_length or config.data.length))
