"""Metrics are those of scikit-learn, SciPy, seqeval and SQuAD's published rules, and defined at every edge."""

import re
import string
import subprocess
import sys
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
import seqeval.metrics
import sklearn.metrics
from hypothesis import given

from roberta_jax.errors import UserError
from roberta_jax.tasks import metrics


def arrays(*kinds, least: int = 1):
    """Arrays of one length, each of its own kind of element."""
    rows = st.lists(st.tuples(*kinds), min_size=least, max_size=30)
    return rows.map(lambda rows: [np.array(column) for column in zip(*rows)])


def quiet(function, *arguments, **named) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


@given(st.integers(2, 4).flatmap(lambda n: st.tuples(st.just(n), arrays(st.integers(0, n - 1), st.integers(0, n - 1)))))
def test_classification_is_that_of_scikit_learn(case):
    classes, (labels, predictions) = case
    found = metrics.classification(labels, predictions, classes)
    name, average = ("f1", "binary") if classes == 2 else ("f1_macro", "macro")
    assert found.keys() == {"accuracy", "matthews", name}
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))
    assert found["matthews"] == pytest.approx(quiet(sklearn.metrics.matthews_corrcoef, labels, predictions))
    expected = sklearn.metrics.f1_score(labels, predictions, average=average, zero_division=0)
    assert found[name] == pytest.approx(expected)


@given(
    st.integers(1, 4).flatmap(
        lambda n: arrays(st.lists(st.booleans(), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n))
    )
)
def test_multi_label_is_that_of_scikit_learn(case):
    labels, predictions = case
    found = metrics.multi_label(labels.astype(int), predictions)
    right = labels & predictions
    counts = labels.sum(axis=0) + predictions.sum(axis=0)
    each = 2 * right.sum(axis=0) / np.maximum(counts, 1)
    assert found["f1"] == pytest.approx(2 * right.sum() / max(1, counts.sum()))
    assert found["f1_macro"] == pytest.approx(each.mean())
    assert found["accuracy"] == pytest.approx(np.mean([np.array_equal(*pair) for pair in zip(labels, predictions)]))
    if labels.shape[1] > 1:  # scikit-learn takes one column for two classes
        for name, average in (("f1", "micro"), ("f1_macro", "macro")):
            theirs = sklearn.metrics.f1_score(labels, predictions, average=average, zero_division=0)
            assert found[name] == pytest.approx(theirs)
        assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predictions))


@given(arrays(st.integers(0, 10).map(lambda x: x / 2), st.floats(-5, 5, width=16), least=2))
def test_regression_is_that_of_scipy(case):
    labels, predictions = case
    found = metrics.regression(labels, predictions.astype(np.float32))
    for name, function in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        expected = quiet(function, labels, predictions).statistic
        assert found[name] == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-6)
    assert found["mean_squared_error"] == pytest.approx(sklearn.metrics.mean_squared_error(labels, predictions), abs=1e-9)


@given(arrays(st.integers(0, 3), st.integers(0, 3)))
def test_multiple_choice_is_accuracy(case):
    assert metrics.multiple_choice(*case) == {"accuracy": pytest.approx(sklearn.metrics.accuracy_score(*case))}


# A-B: a type may have a hyphen. Tags are drawn freely, so I- often follows O or another type.
TAGS = st.sampled_from(["O", "B-A", "I-A", "B-A-B", "I-A-B", "I-B", "B-B"])


@given(
    st.lists(st.lists(st.tuples(TAGS, TAGS), max_size=8), min_size=1, max_size=5).filter(any),
)
def test_tagging_is_that_of_seqeval(sentences):
    labels = [[label for label, _ in sentence] for sentence in sentences]
    predictions = [[prediction for _, prediction in sentence] for sentence in sentences]
    found = metrics.tagging(labels, predictions)
    for name in ("f1", "precision", "recall", "accuracy"):
        function = getattr(seqeval.metrics, f"{name}_score")
        assert found[name] == pytest.approx(quiet(function, labels, predictions)), name


def test_entities_of_well_and_of_ill_formed_tags():
    assert metrics.entities(["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]) == {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5)}
    assert metrics.entities(["I-PER", "I-LOC", "O", "I-LOC"]) == {("PER", 0, 1), ("LOC", 1, 2), ("LOC", 3, 4)}
    assert metrics.entities([]) == metrics.entities(["O"]) == set()


# An independent reading of SQuAD's published rules, versions 1.1 and 2.0.
def official_normal_form(text: str) -> list[str]:
    text = text.lower()
    for mark in string.punctuation:
        text = text.replace(mark, "")
    return re.sub(r"(?<!\w)(an|a|the)(?!\w)", " ", text).split()


def official_f1(gold: str, prediction: str) -> float:
    gold_words, words = official_normal_form(gold), official_normal_form(prediction)
    if not gold_words or not words:
        return float(gold_words == words)
    left, common = list(gold_words), 0
    for word in words:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(words), common / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def official_scores(golds: list[str], prediction: str) -> tuple[float, float]:
    golds = [gold for gold in golds if official_normal_form(gold)] or [""]
    exact = max(float(official_normal_form(gold) == official_normal_form(prediction)) for gold in golds)
    return exact, max(official_f1(gold, prediction) for gold in golds)


def official_sweep(scores: list[float], golds, predictions, nulls) -> tuple[float, float]:
    """(best mean, its threshold): questions are answered in the order of their null scores."""
    total = float(sum(not texts for texts in golds))
    best, threshold = total, 0.0
    for i in sorted(range(len(nulls)), key=lambda i: nulls[i]):
        total += scores[i] if golds[i] else -1.0 if predictions[i] else 0.0
        if total > best:
            best, threshold = total, nulls[i]
    return best / len(nulls), threshold


PIECES = st.sampled_from(
    [*("the", "The", "a", "an", "cat", "Cat", "cats", "theatre", "naïve", "NAÏVE", "東京", "是", "१२")] + [*".,-'’—"]
)
ANSWER = st.lists(st.tuples(PIECES, st.sampled_from(["", " ", "  ", "\n", "\u00a0"])), max_size=5).map(
    lambda pairs: "".join(piece + space for piece, space in pairs)
)
QUESTIONS = st.lists(
    st.tuples(st.lists(ANSWER, max_size=3), ANSWER, st.integers(-3, 3).map(lambda x: x / 2)), min_size=1, max_size=12
)


@given(QUESTIONS, st.integers(-3, 3))
def test_span_is_squads_official_evaluation(questions, threshold):
    golds, predictions, nulls = map(list, zip(*questions))
    raw = [official_scores(*pair) for pair in zip(golds, predictions)]
    plain, swept = metrics.span(golds, predictions), metrics.span(golds, predictions, nulls, threshold)
    applied = [(float(not g),) * 2 if null > threshold else score for g, null, score in zip(golds, nulls, raw)]
    for found, scores in ((plain, raw), (swept, applied)):
        parts = {"": scores}
        if not all(golds):
            parts["has_answer_"] = [score for score, texts in zip(scores, golds) if texts] or [(0.0, 0.0)]
            parts["no_answer_"] = [score for score, texts in zip(scores, golds) if not texts]
        expected = {}
        for prefix, part in parts.items():
            for name, column in zip(("exact_match", "f1"), zip(*part)):
                expected[prefix + name] = pytest.approx(np.mean(column))
        if found is swept:
            for name, column in zip(("exact_match", "f1"), zip(*raw)):
                best, at = official_sweep(column, golds, predictions, nulls)
                expected |= {f"best_{name}": pytest.approx(best), f"best_{name}_threshold": at}
        assert found == expected


def test_answers_compare_in_normal_form():
    assert metrics.normalize("The  U.S.A.’s\n“a” cat-and-dog, an\u00a0the") == "usa’s “ ” catanddog"
    assert metrics.span([["the cat", "dogs"]], ["Cat!"]) == {"exact_match": 1.0, "f1": 1.0}
    assert metrics.span([["a black cat"]], ["cat"])["f1"] == pytest.approx(2 / 3)
    found = metrics.span([[], []], ["", "cat"])
    assert (found["exact_match"], found["no_answer_f1"], found["has_answer_f1"]) == (0.5, 0.5, 0.0)


def test_the_best_threshold_parts_what_has_an_answer_from_what_has_none():
    golds, predictions, nulls = [["cat"], [], ["dog"], []], ["cat", "x", "dog", "y"], [-3.0, 2.0, 1.0, 4.0]
    found = metrics.span(golds, predictions, nulls)
    assert found["exact_match"] == 0.75 and found["has_answer_exact_match"] == 0.5 and found["no_answer_f1"] == 1.0
    assert found["best_exact_match"] == found["best_f1"] == 1.0
    assert found["best_exact_match_threshold"] == found["best_f1_threshold"] == 1.0
    assert metrics.span(golds, predictions, nulls, found["best_f1_threshold"])["f1"] == 1.0


def test_edges_have_a_value_and_no_warning():
    zeros, ones, mixed = np.zeros(4, int), np.ones(4, int), np.array([0, 1, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.classification(zeros, zeros, 2) == {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0}
        assert metrics.classification(ones, ones, 2) == {"accuracy": 1.0, "f1": 1.0, "matthews": 0.0}
        assert metrics.classification(mixed, ones, 2)["matthews"] == 0.0
        assert metrics.classification(zeros, zeros, 3)["f1_macro"] == 1.0
        assert metrics.multi_label(np.zeros((2, 3)), np.zeros((2, 3))) == {"f1": 0.0, "f1_macro": 0.0, "accuracy": 1.0}
        constant = metrics.regression(np.arange(4.0), np.full(4, 2.5, np.float32))
        assert constant["pearson"] == constant["spearman"] == 0.0 and constant["mean_squared_error"] == 2.25
        assert metrics.regression([1.0], [2.0]) == {"pearson": 0.0, "spearman": 0.0, "mean_squared_error": 1.0}
        assert metrics.regression([1.0, 2.0], [np.nan, 2.0])["pearson"] == 0.0
        nothing = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}
        assert metrics.tagging([["O", "O"], []], [["O", "O"], []]) == nothing


def test_what_cannot_be_measured_is_one_sentence():
    empty = np.zeros(0, int)
    for measure in (
        lambda: metrics.classification(empty, empty, 2),
        lambda: metrics.multi_label(np.zeros((0, 3)), np.zeros((0, 3))),
        lambda: metrics.regression(empty, empty),
        lambda: metrics.multiple_choice(empty, empty),
        lambda: metrics.tagging([[]], [[]]),
        lambda: metrics.span([], []),
    ):
        with pytest.raises(UserError, match="there are no (examples|words) to measure"):
            measure()
    for tag in ("NOUN", "B", "B-", "S-PER", ""):
        with pytest.raises(UserError, match=f"the tag '{tag}' is none of O, B-TYPE and I-TYPE"):
            metrics.tagging([["O"]], [[tag]])
    with pytest.raises(ValueError, match="different numbers"):
        metrics.tagging([["O"]], [["O", "O"]])
    with pytest.raises(ValueError, match=r"labels are \(1,\), predictions \(2,\)"):
        metrics.multiple_choice([1], [1, 2])


def test_importing_this_loads_neither_scikit_learn_nor_scipy():
    code = "import sys, roberta_jax.tasks.metrics; print({'sklearn', 'scipy'} & set(sys.modules))"
    root = Path(metrics.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
