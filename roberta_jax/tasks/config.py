"""The fields of a fine-tuning job."""

from dataclasses import dataclass, field
from typing import ClassVar

from roberta_jax.config import option
from roberta_jax.errors import check
from roberta_jax.model.config import RobertaConfig
from roberta_jax.training.config import RunConfig
from roberta_jax.training.guard import GuardConfig
from roberta_jax.training.optimizer import warmup


@dataclass(frozen=True)
class TaskData:
    """Where a task's examples come from."""

    source: str = option(
        "",
        "a folder with the task's published files (of several tasks: with their folders), tfds: for the task's own data set, "
        "or tfds:NAME",
    )
    train: str = option("", "files instead of those that the folder has, parted by commas; tfds:NAME:SPLIT too")
    valid: str = option("", "as train")
    test: str = option("", "as train")
    valid_fraction: float = option(0.1, "of train, held out by a hash, where there is no valid split")
    text_columns: str = option(
        "",
        "of a table, parted by commas; of a CoNLL file the number of the words' column; empty: the names that the task knows",
    )
    label_column: str = option("", "of a table; of a CoNLL file its number; empty: the names that the task knows")

    def __post_init__(self):
        check(0 < self.valid_fraction < 1, "data.valid_fraction", self.valid_fraction, "more than 0 and less than 1")


@dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    job: str = "finetune"
    task: str = option(
        "",
        "the argument of the config file, `finetune.py:TASK`: a row of tasks/definitions.py; several parted by commas; "
        "glue: its nine",
    )
    epochs: int = option(10, "of the train split; the task's own by default")
    steps: int = option(0, "updates; 0: epochs says how many")
    eval_every: int = option(0, "steps; 0: every epoch")
    checkpoint_every: int = option(0, "steps; 0: when it evaluates")
    keep_checkpoints: int = option(1, "each holds the best parameters too")
    from_scratch: bool = option(False, "init_from gives its shape and tokenizer alone; the weights are random")
    max_length: int = option(512, "ids of a row")
    packed: bool = option(
        False, "several training examples in a row, kept apart by attention: classification, multi-label, regression, tagging"
    )
    patience: int = option(0, "evaluations without a better one that end the run; 0: none do")
    seeds: int = option(1, "runs, from `seed` on: the results are their median and spread")
    sweep: bool = option(False, "the paper's grid: learning rates 1e-5, 2e-5, 3e-5, batches of 16 and 32")
    together: int = option(0, "runs that are trained as one, stacked; 0: all that memory holds, on a CPU one at a time")
    from_mnli: bool = option(False, "of glue: RTE, MRPC and STS-B begin with the MNLI run's encoder")
    model: RobertaConfig = field(default_factory=RobertaConfig)
    data: TaskData = field(default_factory=TaskData)
    # Small sets are learned by heart, and then a single example is ten times the rest: only NaN and infinity are unsound.
    guard: GuardConfig = field(default_factory=lambda: GuardConfig(skip_above=0.0, spike_above=0.0))

    POSITIVE: ClassVar = ("batch_size", "epochs", "fsdp", "log_every", "keep_checkpoints", "seeds")
    NOT_NEGATIVE: ClassVar = ("microbatch_size", "steps", "eval_every", "checkpoint_every", "profile", "patience", "together")

    def __post_init__(self):
        super().__post_init__()
        check(8 <= self.max_length < 2**31, "max_length", self.max_length, "8 or more")
        alone = self.optimizer.words_alone
        check(not alone, "optimizer.words_alone", alone, "0: the head has to learn too")
        check(self.seed + self.seeds <= 2**32, "seeds", self.seeds, f"few enough for seeds below 2³² from {self.seed} on")
        if self.steps:
            warmup(self.optimizer, self.steps)
