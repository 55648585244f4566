"""Paired differences, their intervals, Holm's correction and the verdict, against SciPy, by hand and at the edges."""

import math

import numpy as np
import pytest
from scipy import stats

from roberta_jax.ablations.results import Claim
from roberta_jax.ablations.statistics import Difference, Judged, holm, mean_and_deviation, paired_difference, verdict


def test_interval_by_hand():
    found = paired_difference({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    # differences 1, 2, 3: standard error 1/√3, t of 0.975 with 2 degrees 4.3027
    assert found.mean == pytest.approx(2)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert found.p == pytest.approx(0.0741799, abs=1e-6)
    assert found.pairs == 3 and not found.is_clear


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_interval_is_students(n):
    draw = np.random.default_rng(n)
    ours, theirs = draw.normal(2, 1, n), draw.normal(0, 3, n)
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    low, high = stats.t.interval(0.95, n - 1, np.mean(ours - theirs), stats.sem(ours - theirs))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.mean / stats.sem(ours - theirs)), n - 1))
    assert found.is_clear == (low > 0 or high < 0)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_what_is_tellable_is_told_in_four_of_five_cases(n):
    """Of differences of that size, drawn with that spread; the textbook's formula takes a little too few for few seeds."""
    random = np.random.default_rng(0)
    spread = paired_difference(dict(enumerate(np.tile([1.0, -1.0], n)[:n])), dict.fromkeys(range(n), 0.0))
    true = spread.tellable
    deviation = np.std(np.tile([1.0, -1.0], n)[:n], ddof=1)
    told = [
        paired_difference(dict(enumerate(random.normal(true, deviation, n))), dict.fromkeys(range(n), 0.0)).is_clear
        for _ in range(500)
    ]
    assert 0.7 < np.mean(told) < 0.88


def test_pairs_are_of_the_same_seed():
    # taken in order they would differ by 1, −9; by seed they do by 10, 10.5
    found = paired_difference({7: 1.0, 5: 20.5, 1: 99.0}, {5: 10.0, 7: -9.0, 2: -99.0})
    assert found.pairs == 2 and found.mean == pytest.approx(10.25)


@pytest.mark.parametrize(
    "ours, theirs, mean, pairs, diverged",
    [
        ({}, {0: 1.0}, math.nan, 0, 0),
        ({0: 3.0}, {0: 1.0}, 2, 1, 0),
        ({0: 52.7, 1: 52.7, 2: 52.7}, {0: 52.7, 1: 52.7, 2: 52.7}, 0, 3, 0),
        ({0: 0.3, 1: 1.3, 2: 2.3}, {0: 0.1, 1: 1.1, 2: 2.1}, 0.2, 3, 0),  # equal but for the last bits
        ({0: math.nan, 1: 1.0}, {0: 1.0, 1: 4.0}, -3, 1, 1),
        ({0: math.nan}, {0: math.inf}, math.nan, 0, 1),
    ],
)
def test_no_interval(ours, theirs, mean, pairs, diverged):
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert (found.pairs, found.diverged) == (pairs, diverged)
    assert not found.has_interval and not found.is_clear and math.isnan(found.p)


def test_values_that_are_not_finite_leave_the_interval_of_the_others():
    ours, theirs = {0: 1.0, 1: 2.5, 2: math.nan, 3: 1.0}, {0: 0.0, 1: 1.0, 2: 2.0, 3: -math.inf}
    found = paired_difference(ours, theirs)
    alone = paired_difference({0: 1.0, 1: 2.5}, {0: 0.0, 1: 1.0})
    assert (found.low, found.high, found.pairs, found.diverged) == (alone.low, alone.high, 2, 2)


def test_mean_and_deviation():
    assert mean_and_deviation([1, 2, 3, math.nan]) == (2, 1)
    mean, deviation = mean_and_deviation([4.0])
    assert mean == 4 and math.isnan(deviation)
    assert all(math.isnan(value) for value in mean_and_deviation([math.inf]))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holm_rejects_what_its_steps_reject():
    draw = np.random.default_rng(0)
    for _ in range(200):
        p = draw.beta(0.3, 3, draw.integers(1, 12))
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] > 0.05 / (len(p) - step):
                break
            rejected.add(i)
        assert {i for i, each in enumerate(holm(p)) if each <= 0.05} == rejected


CLEAR, OPEN = Difference(-0.5, -0.9, -0.1, 0.01, 3), Difference(-0.5, -1.1, 0.1, 0.1, 3)


@pytest.mark.parametrize(
    "difference, published, said, why",
    [
        (CLEAR, -0.1, "agrees", ""),
        (CLEAR, 0.1, "disagrees", ""),
        (CLEAR, None, "–", ""),
        (CLEAR, 0.0, "can't tell", "equal"),
        (OPEN, -0.1, "can't tell", "0 is in the interval"),
        (Difference(-0.5, -0.6, -0.4, 0.001, 2), -0.1, "can't tell", "fewer than 3 seeds"),
        (Difference(-0.5, -0.6, -0.4, 0.001, 3, diverged=1), -0.1, "can't tell", "not finite in 1 of 4"),
        (Difference(-0.5, math.nan, math.nan, math.nan, 3), -0.1, "can't tell", "same in every seed"),
        (Difference(math.nan, math.nan, math.nan, math.nan, 0), -0.1, "can't tell", "fewer"),
    ],
)
def test_verdict(difference, published, said, why):
    found = verdict(difference, published)
    assert found[0] == said and why in found[1] and bool(why) == bool(found[1])


@pytest.mark.parametrize(
    "low, high, better, or_as_good",
    [
        (1.0, 2.0, "agrees", "agrees"),  # points; 1.5 of them are no small difference
        (-1.0, 1.0, "disagrees", "agrees"),
        (-1.0, 3.0, "can't tell", "agrees"),
        (-3.0, 1.0, "disagrees", "can't tell"),
        (-3.0, 3.0, "can't tell", "can't tell"),
        (-1.0, -0.5, "disagrees", "agrees"),
        (-3.0, -0.5, "disagrees", "disagrees"),
        (-3.0, -2.0, "disagrees", "disagrees"),
    ],
)
def test_claims(low, high, better, or_as_good):
    found = {"blimp": Difference((low + high) / 2, low, high, 0.5, 5)}
    nats = [-0.02 / 1.5 * points for points in (low, high)]  # a smaller loss is better
    found["loss"] = Difference(sum(nats) / 2, min(nats), max(nats), 0.5, 5)
    for metric, difference in found.items():
        assert Judged(Claim("", "a", "b"), metric, difference).verdict[0] == better
        assert Judged(Claim("", "a", "b", or_as_good=True), metric, difference).verdict[0] == or_as_good


@pytest.mark.parametrize("pairs, diverged, why", [(2, 0, "fewer than 3 seeds"), (4, 1, "not finite in 1 of 5 seeds")])
def test_claims_of_too_few_seeds_cannot_be_told(pairs, diverged, why):
    found = Difference(5.0, 4.0, 6.0, 0.01, pairs, diverged)
    assert Judged(Claim("", "a", "b"), "blimp", found).verdict == ("can't tell", why)
