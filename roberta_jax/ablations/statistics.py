"""How sure a difference between two variants is, when each was trained with the same few seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from roberta_jax.ablations.results import BETTER_WHEN_SMALLER, SMALL, SMALL_POINTS, Claim

ENOUGH_SEEDS = 3
AGREES, DISAGREES, CANNOT_TELL, NOT_PUBLISHED = "agrees", "disagrees", "can't tell", "–"


@dataclass(frozen=True)
class Difference:
    """A variant less the control, seed by seed.

    Attributes:
      mean: over the pairs whose values are finite; NaN where there is none.
      low, high: the mean's 95% interval by Student's t; NaN where there is none.
      p: two-sided, of the paired t-test; NaN likewise.
      pairs: seeds that the mean is over.
      diverged: seeds that are left out of it, since a value is not finite.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int
    diverged: int = 0

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    @property
    def tellable(self) -> float:
        """The true difference of which as many seeds with this spread have an interval without 0 in four of five cases."""
        certain, likely = stats.t.ppf((0.975, 0.8), self.pairs - 1)
        return (self.high - self.low) / 2 * (1 + likely / certain) if self.has_interval else math.nan

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Of the finite ones, by n − 1; the deviation of fewer than two is NaN, and so is the mean of none."""
    finite = [value for value in values if math.isfinite(value)]
    mean = float(np.mean(finite)) if finite else math.nan
    return mean, float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan


def paired_difference(variant: dict[int, float], control: dict[int, float]) -> Difference:
    """Of the seeds that both have.

    One pair gives no interval. Nor do differences that are all the same: it happens to models that all guess the same
    label, and Student's interval of width 0 would take it for certainty.

    Args:
      variant, control: seed → value.
    """
    seeds = sorted(variant.keys() & control.keys())
    ours, theirs = (np.array([values[seed] for seed in seeds], float) for values in (variant, control))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[finite], theirs[finite]
    pairs, diverged = len(ours), len(seeds) - len(ours)
    if not pairs:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0, diverged)
    mean = float(np.mean(ours - theirs))
    # The differences of equal steps are equal but for their last bits.
    if pairs == 1 or np.ptp(ours - theirs) <= 1e-9 * max(np.abs(ours).max(), np.abs(theirs).max()):
        return Difference(mean, math.nan, math.nan, math.nan, pairs, diverged)
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), pairs, diverged)


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number: the chance that any one below 0.05 is false is at most 5%.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p)
    steps = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


def verdict(difference: Difference, published: float | None) -> tuple[str, str]:
    """Whether the direction is the paper's, and why that cannot be told.

    Args:
      published: the paper's value of the variant less that of the control, of the same metric; None where it has none.
    """
    if published is None:
        return NOT_PUBLISHED, ""
    if why := _unsure(difference):
        return CANNOT_TELL, why
    if published == 0:
        return CANNOT_TELL, "the paper's are equal"
    if not difference.is_clear:
        return CANNOT_TELL, "0 is in the interval"
    return (AGREES if (difference.mean > 0) == (published > 0) else DISAGREES), ""


def _unsure(difference: Difference) -> str:
    """Why nothing can be told of a difference, whatever it is; "" where something may be."""
    if difference.diverged:
        return f"not finite in {difference.diverged} of {difference.pairs + difference.diverged} seeds"
    if difference.pairs < ENOUGH_SEEDS:
        return f"fewer than {ENOUGH_SEEDS} seeds"
    return "" if difference.has_interval else "the same in every seed"


@dataclass(frozen=True)
class Comparison:
    """A variant with its study's control, in one metric.

    Attributes:
      published: the paper's value and its difference from the paper's control, None where it has none.
      corrected: the p value after Holm's correction over its study; NaN where no test was made.
      same_as: the metric that was tested in this one's place.
    """

    study: str
    variant: str
    metric: str
    difference: Difference
    published: float | None
    published_difference: float | None
    corrected: float = math.nan
    same_as: str = ""

    @property
    def verdict(self) -> tuple[str, str]:
        return verdict(self.difference, self.published_difference)


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it in one metric: `difference` is of its variant less the other."""

    claim: Claim
    metric: str
    difference: Difference

    @property
    def verdict(self) -> tuple[str, str]:
        """Whether they agree, and why that cannot be told."""
        if why := _unsure(self.difference):
            return CANNOT_TELL, why
        small, worst, best = SMALL.get(self.metric, SMALL_POINTS), self.difference.low, self.difference.high
        if self.metric in BETTER_WHEN_SMALLER:
            worst, best = -best, -worst
        if worst > (-small if self.claim.or_as_good else 0):
            return AGREES, ""
        if best < (0 if self.claim.or_as_good else small):
            return DISAGREES, ""
        return CANNOT_TELL, "the interval is too wide"
