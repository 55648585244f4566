"""What an ablation asks and what its runs said: the report is written from these alone."""

import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from roberta_jax import storage
from roberta_jax.errors import UserError

# metric → its title and its unit, in the order of the tables; what is not here is shown under its own name, behind these
METRICS = {
    "loss": ("loss", "nats a masked token"),
    "bits_per_byte": ("bits a byte", ""),
    "perplexity": ("perplexity", ""),
    "accuracy": ("masked tokens right", "%"),
    "blimp": ("BLiMP", "%"),
    "blimp_filtered": ("BLiMP, filtered", "%"),
    "blimp_supplement_filtered": ("BLiMP supplement, filtered", "%"),
    "zorro": ("Zorro", "%"),
    "sst2": ("SST-2", "%"),
    "cola": ("CoLA", "%"),
    "rte": ("RTE", "%"),
    "mnli": ("MNLI-m", "%"),
    "squad1_f1": ("SQuAD 1.1 F1", "%"),
    "squad2_f1": ("SQuAD 2.0 F1", "%"),
    "race": ("RACE", "%"),
    "own_loss": ("loss on its own rows", "nats a masked token"),
    "own_accuracy": ("right on its own rows", "%"),
}
BETTER_WHEN_SMALLER = {"bits_per_byte", "loss", "perplexity", "own_loss"}
OWN = {"own_loss", "own_accuracy"}  # of the variant's own rows, masks and vocabulary: shown, but not to be compared
# What a variant may be worse by and still be as good: by metric, and in points of those that are shares.
SMALL, SMALL_POINTS = {"loss": 0.02, "bits_per_byte": 0.007}, 1.5


@dataclass(frozen=True)
class Variant:
    """One of the things compared.

    Attributes:
      what: it, in one phrase.
      fields: what its config sets otherwise, by dotted name.
      published: metric → the paper's value.
    """

    name: str
    what: str
    fields: dict[str, Any]
    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What the paper says of two variants of a study: that `variant` is better than the `other`.

    Attributes:
      what: the claim, in one phrase.
      or_as_good: whether it holds too where the first is worse by less than SMALL says.
    """

    what: str
    variant: str
    other: str
    or_as_good: bool = False


@dataclass(frozen=True)
class Study:
    """A question and the variants that answer it; `control` names the one that the others are compared with."""

    name: str
    title: str
    question: str
    control: str
    variants: tuple[Variant, ...]
    note: str = ""
    claims: tuple[Claim, ...] = ()

    @property
    def is_of_encodings(self) -> bool:
        """Whether tokens differ between variants, and with them what a loss a token means."""
        return any("data.encoding" in variant.fields for variant in self.variants)

    def only(self, names: Collection[str]) -> "Study":
        """The study with these of its variants, and the claims about them."""
        claims = tuple(claim for claim in self.claims if {claim.variant, claim.other} <= set(names))
        return replace(self, variants=tuple(each for each in self.variants if each.name in names), claims=claims)


@dataclass(frozen=True)
class Run:
    """One variant trained with one seed.

    Attributes:
      metrics: name → value at the end; in percent where METRICS says so.
      curve: (tokens seen, valid loss in nats a masked token), in order.
      seconds: of the whole run.
      tokens: seen in training.
      details: more that the study measured, such as the statistics of a vocabulary; a `key` that is the same in the runs of
        two studies says that they are one.
    """

    study: str
    variant: str
    seed: int
    metrics: dict[str, float]
    curve: list[tuple[int, float]]
    seconds: float
    tokens: int
    parameters: int
    details: dict[str, Any] = field(default_factory=dict)


def title(metric: str) -> str:
    return METRICS.get(metric, (metric, ""))[0]


def unit(metric: str) -> str:
    return METRICS.get(metric, ("", ""))[1]


def in_order(metrics: Iterable[str]) -> list[str]:
    """Each once, those of METRICS first."""
    return sorted(set(metrics), key=lambda name: (list(METRICS).index(name) if name in METRICS else len(METRICS), name))


def save(path: Path, results: Iterable[Run]) -> None:
    """JSON; a value that is not finite becomes a string, for JSON has none."""
    runs = []
    for run in results:
        metrics = {name: _written(value) for name, value in run.metrics.items()}
        runs.append(asdict(run) | {"metrics": metrics, "curve": [(tokens, _written(loss)) for tokens, loss in run.curve]})
    storage.write_json(path, runs)


def load(path: Path) -> list[Run]:
    try:
        return parse(storage.read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"{path}: not there; it is where the runs of an ablation are kept.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is not a list of runs of an ablation ({storage.reason(error)}).") from None


def parse(content: bytes) -> list[Run]:
    """The runs of a file; what is no such file raises a ValueError, TypeError, KeyError or AttributeError."""
    return [_read(fields) for fields in storage.parse_json(content, list)]


def _written(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _read(fields: dict[str, Any]) -> Run:
    metrics = {name: _number(value) for name, value in fields["metrics"].items()}
    return Run(**fields | {"metrics": metrics, "curve": [(tokens, _number(loss)) for tokens, loss in fields["curve"]]})


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
