"""How many pairs a model ranks right: strictly better counts, ties are counted apart, and how sure a share is."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.pairs.suites import Suite

Z = 1.959964  # of 95%
INTERVALS = (
    "95% intervals are over pairs, not over trainings: Wilson's of a paradigm; of a mean its paradigms' standard errors "
    "(Agresti and Coull's) combined."
)


@dataclass(frozen=True)
class Share:
    """An accuracy. Of `pairs`, `ties` have two equal scores and count as wrong."""

    accuracy: float
    low: float  # of a 95% interval
    high: float
    pairs: int
    ties: int
    variance: float  # of the accuracy, over pairs


@dataclass(frozen=True)
class Result:
    suite: Suite
    overall: Share  # the mean over paradigms
    over_categories: Share | None  # the mean over categories of the mean over their paradigms, as BabyLM's
    categories: dict[str, Share]
    paradigms: dict[str, Share]


def measure(suites: Sequence[Suite], score: Callable[[list[str]], np.ndarray]) -> list[Result]:
    """The accuracies of each suite.

    Args:
      score: of each sentence, higher is more acceptable; it sees each once.

    Raises:
      UserError: a score is no number.
    """
    sentences = list(dict.fromkeys(s for suite in suites for p in suite.paradigms for pair in p.pairs for s in pair))
    scores = np.asarray(score(sentences), np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(scores))):
        raise UserError(
            f"{len(bad):,} of {len(scores):,} scores are no finite numbers, the first of {sentences[bad[0]]!r}: the model's "
            "parameters are damaged, or its training has diverged."
        )
    return [_result(suite, dict(zip(sentences, scores.tolist()))) for suite in suites]


def _result(suite: Suite, score: dict[str, float]) -> Result:
    paradigms, of_category = {}, defaultdict(list)
    for paradigm in suite.paradigms:
        scores = [(score[good], score[bad]) for good, bad in paradigm.pairs]
        ties = sum(good == bad for good, bad in scores)
        paradigms[paradigm.name] = share(sum(good > bad for good, bad in scores), len(scores), ties)
        of_category[paradigm.category].append(paradigms[paradigm.name])
    categories = {name: mean(shares) for name, shares in sorted(of_category.items()) if name}
    over = mean(categories.values()) if categories and "" not in of_category else None
    return Result(suite, mean(paradigms.values()), over, categories, paradigms)


def share(right: int, pairs: int, ties: int) -> Share:
    """Of one paradigm, with Wilson's interval."""
    p = right / pairs
    middle, spread = p + Z**2 / (2 * pairs), Z * math.sqrt(p * (1 - p) / pairs + Z**2 / (4 * pairs**2))
    low, high = ((middle + sign * spread) / (1 + Z**2 / pairs) for sign in (-1, 1))
    near = (right + 2) / (pairs + 4)  # never 0 or 1, where the variance would be none
    return Share(p, max(0.0, low), min(1.0, high), pairs, ties, near * (1 - near) / (pairs + 4))


def mean(shares: Iterable[Share]) -> Share:
    shares = list(shares)
    accuracy = sum(one.accuracy for one in shares) / len(shares)
    variance = sum(one.variance for one in shares) / len(shares) ** 2
    spread = Z * math.sqrt(variance)
    low, high = max(0.0, accuracy - spread), min(1.0, accuracy + spread)
    return Share(accuracy, low, high, sum(one.pairs for one in shares), sum(one.ties for one in shares), variance)
