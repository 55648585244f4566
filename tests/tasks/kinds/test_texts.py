"""Rows are transformers' where it makes the same ones; the metrics are scikit-learn's and SciPy's, and have a value always."""

import subprocess
import sys
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from rows import arrays, examples, quiet, some_words

from roberta_jax.errors import UserError
from roberta_jax.tasks.kinds import table
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tasks.kinds.texts import classification_metrics, multi_label_metrics, regression_metrics

# Rows


def test_rows_are_those_of_transformers_however_they_are_cut(text, theirs):
    """All lengths around the limit, so that either text is the longer one, or none is."""
    counts = [(a, b) for a in (1, 5, 9, 10, 11, 30) for b in (0, 1, 5, 9, 10, 11, 30)]
    texts = [(some_words(a, a), *([some_words(b, 100 + b)] if b else [])) for a, b in counts]
    texts += [("one two three four five six", " six five four three two one"), ("東京" * 9, "🤗" * 9), ("a" * 600, "b")]
    known = {}
    for max_length in (12, 13, 30, 31, 512):
        found = KINDS["classification"].encode(examples(texts), text, ("0", "1"), max_length)
        expected = [theirs(*pair, truncation="longest_first", max_length=max_length)["input_ids"] for pair in texts]
        assert [row.tolist() for (row,) in found.rows] == expected
        assert found.labels is None
        whole = [theirs(*pair)["input_ids"] for pair in texts]
        assert found.cut == sum(len(ids) > max_length for ids in whole)
        known[max_length] = [len(ids) for ids in expected]
    ties = [theirs(a)["input_ids"] for a in ("one two three four five six", " six five four three two one")]
    assert len(ties[0]) == len(ties[1]) == 8 and known[13][-3] == 13  # an odd room is shared out as there
    assert known[512][0] < 30 < max(known[512])


def test_labels_of_each_kind(text):
    pairs = [("a", "b")] * 3
    classes = KINDS["classification"].encode(examples(pairs, ["no", "yes", "no"]), text, ("yes", "no"), 32)
    assert classes.labels.tolist() == [1, 0, 1] and classes.labels.dtype == np.int32
    several = KINDS["multi_label"].encode(examples(pairs, [("c", "a"), (), ("b",)]), text, ("a", "b", "c"), 32)
    assert several.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]] and several.labels.dtype == np.float32
    scores = KINDS["regression"].encode(examples(pairs, [0.5, -1.0, 3.0]), text, (), 32)
    assert scores.labels.tolist() == [0.5, -1.0, 3.0] and scores.labels.dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "labels"), [("classification", ["a", "d"]), ("multi_label", [("a",), ("a", "d")]), ("tagging", [("a",), ("d",)])]
)
def test_a_label_that_is_not_known_is_named_with_its_line(text, kind, labels):
    with pytest.raises(UserError, match=r"^train\.tsv:3: the label 'd' is none of a, b, c\.$"):
        KINDS[kind].encode(examples([("one",), ("two",)], labels), text, ("a", "b", "c"), 32)


# Metrics


@given(st.integers(2, 4).flatmap(lambda n: st.tuples(st.just(n), arrays(st.integers(0, n - 1), st.integers(0, n - 1)))))
def test_classification_is_that_of_scikit_learn(case):
    classes, (labels, predictions) = case
    found = classification_metrics(labels, predictions, classes)
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
    found = multi_label_metrics(labels.astype(int), predictions)
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
    found = regression_metrics(labels, predictions.astype(np.float32))
    for name, function in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        expected = quiet(function, labels, predictions).statistic
        assert found[name] == pytest.approx(0.0 if np.isnan(expected) else expected, abs=1e-6)
    assert found["mean_squared_error"] == pytest.approx(sklearn.metrics.mean_squared_error(labels, predictions), abs=1e-9)


def test_edges_have_a_value_and_no_warning():
    zeros, ones, mixed = np.zeros(4, int), np.ones(4, int), np.array([0, 1, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert classification_metrics(zeros, zeros, 2) == {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0}
        assert classification_metrics(ones, ones, 2) == {"accuracy": 1.0, "f1": 1.0, "matthews": 0.0}
        assert classification_metrics(mixed, ones, 2)["matthews"] == 0.0
        assert classification_metrics(zeros, zeros, 3)["f1_macro"] == 1.0
        assert multi_label_metrics(np.zeros((2, 3)), np.zeros((2, 3))) == {"f1": 0.0, "f1_macro": 0.0, "accuracy": 1.0}
        constant = regression_metrics(np.arange(4.0), np.full(4, 2.5, np.float32))
        assert constant["pearson"] == constant["spearman"] == 0.0 and constant["mean_squared_error"] == 2.25
        assert regression_metrics([1.0], [2.0]) == {"pearson": 0.0, "spearman": 0.0, "mean_squared_error": 1.0}
        assert regression_metrics([1.0, 2.0], [np.nan, 2.0])["pearson"] == 0.0


def test_what_cannot_be_measured_is_one_sentence():
    empty = np.zeros(0, int)
    for measure in (
        lambda: classification_metrics(empty, empty, 2),
        lambda: multi_label_metrics(np.zeros((0, 3)), np.zeros((0, 3))),
        lambda: regression_metrics(empty, empty),
    ):
        with pytest.raises(UserError, match="there are no examples to measure"):
            measure()


def test_importing_this_loads_neither_scikit_learn_nor_scipy():
    code = "import sys, roberta_jax.tasks.kinds.table; print({'sklearn', 'scipy'} & set(sys.modules))"
    root = Path(table.__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
