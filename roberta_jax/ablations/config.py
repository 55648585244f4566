"""The fields of a job that compares."""

from dataclasses import dataclass, field
from typing import ClassVar

from roberta_jax.config import option
from roberta_jax.errors import check
from roberta_jax.pretraining.config import PretrainConfig


@dataclass(frozen=True)
class Downstream:
    """Fields of `config.downstream`: what each pretrained model is fine-tuned and judged on."""

    source: str = option("", "a folder with GLUE's folders; empty: nothing")
    tasks: str = option("sst2,cola,rte", "parted by commas")
    steps: int = option(300, "updates")
    batch_size: int = option(32, "rows")
    learning_rate: float = option(5e-4, "at its peak")
    max_length: int = option(64, "ids of a row")
    minimal_pairs: tuple[str, ...] = option((), "files and folders of minimal pairs, by which grammar is judged; empty: none")
    pairs: int = option(100, "of each paradigm; 0: all")

    def __post_init__(self):
        for name, least in (("steps", 1), ("batch_size", 1), ("max_length", 8), ("pairs", 0)):
            check(least <= getattr(self, name) < 2**31, f"downstream.{name}", getattr(self, name), f"{least} or more")
        check(self.learning_rate > 0, "downstream.learning_rate", self.learning_rate, "a number above 0")


@dataclass(frozen=True)
class AblationsConfig(PretrainConfig):
    job: str = "ablations"
    study: str = option(
        "all", "or some of variants.studies, parted by commas; STUDY/VARIANT: that one beside the control alone"
    )
    seeds: int = option(3, "of each variant, from `seed` on")
    downstream: Downstream = field(default_factory=Downstream)

    POSITIVE: ClassVar = (*PretrainConfig.POSITIVE, "seeds")

    def __post_init__(self):
        super().__post_init__()
        check(self.seed + self.seeds <= 2**32, "seeds", self.seeds, f"few enough for seeds below 2³² from {self.seed} on")
