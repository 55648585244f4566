"""Strictly better counts, ties do not and are told; intervals hold what they say as often as they say."""

import numpy as np
import pytest
from scipy import stats

from roberta_jax.errors import UserError
from roberta_jax.pairs.accuracy import mean, measure, share
from roberta_jax.pairs.suites import Paradigm, Suite


def suite(paradigms: int = 6, pairs: int = 50) -> Suite:
    made = [
        Paradigm(f"p{p}", "ab"[p % 2], tuple((f"good {p} {i}", f"bad {p} {i}") for i in range(pairs)), pairs)
        for p in range(paradigms)
    ]
    return Suite("mine", tuple(made), False)


def test_a_model_that_likes_all_the_same_is_never_right():
    (result,) = measure([suite()], lambda texts: np.full(len(texts), -7.5))
    assert result.overall.accuracy == result.over_categories.accuracy == 0
    assert result.overall.ties == result.over_categories.ties == result.overall.pairs == 300
    assert all(one.ties == 50 and one.accuracy == 0 and one.high > 0 for one in result.paradigms.values())
    assert result.overall.low == 0 < result.overall.high < 0.05


def test_what_is_better_counts_and_each_sentence_is_scored_once():
    seen = []

    def score(texts):
        seen.extend(texts)
        return np.array([{"good 0": 1, "bad 0": 0, "good 1": 0, "bad 1": 1}.get(text[:-2].strip(), 3) for text in texts], float)

    result, again = measure([suite(3, 10), suite(3, 10)], score)
    assert len(seen) == len(set(seen)) == 60 and result.overall == again.overall
    assert [result.paradigms[name].accuracy for name in ("p0", "p1", "p2")] == [1, 0, 0]
    assert [result.paradigms[name].ties for name in ("p0", "p1", "p2")] == [0, 0, 10]
    assert result.overall.accuracy == pytest.approx(1 / 3) and result.overall.ties == 10
    assert {name: one.accuracy for name, one in result.categories.items()} == {"a": 0.5, "b": 0}  # p0 and p2, and p1
    assert result.over_categories.accuracy == pytest.approx(1 / 4)


def test_paradigms_weigh_the_same_whatever_their_size():
    one, other = suite(1, 100).paradigms[0], suite(2, 4).paradigms[1]
    (result,) = measure(
        [Suite("mine", (one, other), False)], lambda texts: np.array([text.startswith("good 0") for text in texts])
    )
    assert result.overall.accuracy == 0.5 and result.overall.pairs == 104


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_an_error(value):
    def score(texts):
        return np.array([value if text == "bad 0 3" else 1.0 for text in texts])

    with pytest.raises(UserError, match=r"1 of 600 scores are no finite numbers, the first of 'bad 0 3'"):
        measure([suite()], score)


@pytest.mark.parametrize(("right", "pairs"), [(0, 40), (1, 40), (20, 40), (700, 1000), (1000, 1000)])
def test_a_paradigms_interval_is_wilsons(right, pairs):
    found, expected = share(right, pairs, 0), stats.binomtest(right, pairs).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("pairs", [20, 60])
def test_a_model_that_guesses_is_within_its_interval_nineteen_times_in_twenty(pairs):
    random, within, of_one = np.random.default_rng(0), 0, 0
    for _ in range(400):
        (result,) = measure([suite(8, pairs)], lambda texts: random.random(len(texts)))
        within += result.overall.low <= 0.5 <= result.overall.high
        of_one += result.paradigms["p0"].low <= 0.5 <= result.paradigms["p0"].high
        width = result.overall.high - result.overall.low
    assert 365 <= within <= 396 and 365 <= of_one <= 398  # 380 ± 3.5 deviations, and discrete
    assert width == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(8 * pairs), rel=0.1)


def test_a_mean_of_means_combines_their_errors():
    shares = [share(30, 100, 1), share(80, 400, 2), share(5, 10, 3)]
    whole, halves = mean(shares), mean([mean(shares[:2]), shares[2]])
    assert (whole.ties, whole.pairs) == (halves.ties, halves.pairs) == (6, 510)
    assert halves.accuracy == pytest.approx((0.25 + 0.5) / 2)
    assert halves.variance == pytest.approx((sum(one.variance for one in shares[:2]) / 4 + shares[2].variance) / 4)
