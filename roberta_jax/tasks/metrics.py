"""How well predictions match labels: one function for each kind of task, metric name → value.

Values are fractions, not percent: correlations lie in [-1, 1], the rest in [0, 1] unless it says otherwise. Of no example
at all nothing can be said: a UserError. scikit-learn and SciPy are imported where they are used, since they take seconds.
"""

import collections
import itertools
import re
import string
from collections.abc import Sequence

import numpy as np

from roberta_jax.errors import UserError


def classification(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, matthews, and f1 of class 1 where there are two classes, else f1_macro: over classes seen in either.

    Args:
      labels, predictions: int [N], from 0 to classes - 1.

    Source: scikit-learn. Where a value is 0/0 (constant predictions, no example of class 1) it is 0.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    labels, predictions = _some(labels, predictions)
    constant = (labels == labels[0]).all() or (predictions == predictions[0]).all()
    name, average = ("f1", "binary") if classes == 2 else ("f1_macro", "macro")
    return {
        "accuracy": float((labels == predictions).mean()),
        name: float(f1_score(labels, predictions, average=average, zero_division=0.0)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(labels, predictions)),
    }


def multi_label(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """f1 over all decisions (micro), f1_macro over the labels, accuracy: how many examples have every label right.

    Args:
      labels, predictions: 0 or 1, int or bool [N, labels].

    Source: scikit-learn. A label that nothing has and nothing is given has F1 0.
    """
    from sklearn.metrics import f1_score

    labels, predictions = (array.astype(int) for array in _some(labels, predictions))
    columns = [f1_score(one, other, zero_division=0.0) for one, other in zip(labels.T, predictions.T)]
    return {
        "f1": float(f1_score(labels.ravel(), predictions.ravel(), zero_division=0.0)),
        "f1_macro": float(np.mean(columns)),
        "accuracy": float((labels == predictions).all(axis=1).mean()),
    }


def regression(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """pearson, spearman and mean_squared_error of float [N] each.

    Source: SciPy. A correlation that is not defined (constant or NaN values, one example) is 0: a NaN, which compares
    false with everything, would end the search for the best epoch.
    """
    from scipy.stats import pearsonr, spearmanr

    labels, predictions = (array.astype(np.float64) for array in _some(labels, predictions))
    varied = np.ptp(labels) > 0 and np.ptp(predictions) > 0
    return {
        "pearson": float(pearsonr(labels, predictions).statistic) if varied else 0.0,
        "spearman": float(spearmanr(labels, predictions).statistic) if varied else 0.0,
        "mean_squared_error": float(np.square(labels - predictions).mean()),
    }


def multiple_choice(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """accuracy of int [N] each: which option."""
    labels, predictions = _some(labels, predictions)
    return {"accuracy": float((labels == predictions).mean())}


def tagging(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """precision, recall and f1 of whole entities, and accuracy over the words; a tag for each word of each text.

    Source: conlleval of CoNLL-2000, as seqeval's default mode has it. 0/0 is 0, so without any entity f1 is 0.

    Raises:
      UserError: a tag is not of the form O, B-TYPE or I-TYPE.
    """
    if list(map(len, labels)) != list(map(len, predictions)):
        raise ValueError("labels and predictions have different numbers of words")
    if not any(map(len, labels)):
        raise UserError("there are no words to measure.")
    for tag in sorted({tag for tags in (*labels, *predictions) for tag in tags}):
        if not re.fullmatch(r"O|[BI]-.+", tag):
            raise UserError(f"the tag {tag!r} is none of O, B-TYPE and I-TYPE (IOB2), of which entities are made.")
    pairs = [(entities(one), entities(other)) for one, other in zip(labels, predictions)]
    true, found = sum(len(one) for one, _ in pairs), sum(len(other) for _, other in pairs)
    both = sum(len(one & other) for one, other in pairs)
    right = sum(map(str.__eq__, itertools.chain(*labels), itertools.chain(*predictions)))
    return {
        "f1": 2 * both / max(1, true + found),
        "precision": both / max(1, found),
        "recall": both / max(1, true),
        "accuracy": right / sum(map(len, labels)),
    }


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word + 1) of each entity. An I-TYPE that continues none of its type begins one."""
    found, start, before = set(), 0, "O"
    for i, tag in enumerate([*tags, "O"]):
        if tag[0] != "I" or tag[1:] != before[1:]:
            if before != "O":
                found.add((before[2:], start, i))
            start = i
        before = tag
    return found


def span(
    answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    null_scores: Sequence[float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """exact_match and f1 of SQuAD, and where some questions have no answer both of either part: has_answer_…, no_answer_….

    Args:
      answers: the texts of each question's answers; the best counts. A question with none wants the empty text.
      predictions: each question's text. With `null_scores` the best that is not empty.
      null_scores: how sure it is that there is no answer. A greater one than `threshold` makes the prediction empty.
        They add best_exact_match and best_f1, the values at the best thresholds, and these: best_exact_match_threshold and
        best_f1_threshold, in units of `null_scores`.

    Source: SQuAD 2.0's evaluation script, for 1.1 too: they differ in gold answers of articles and punctuation alone, which
    2.0 leaves out.
    """
    if not len(answers):
        raise UserError("there are no examples to measure.")
    golds = [[text for text in map(normalize, texts) if text] or [""] for texts in answers]
    # [N, 2]: exact match and F1 of every question
    scores = np.array([_best_match(gold, normalize(text)) for gold, text in zip(golds, predictions, strict=True)])
    answerable = np.array([len(texts) > 0 for texts in answers])
    best = {}
    if null_scores is not None:
        nulls = np.array(null_scores, np.float64)
        given = np.array([text != "" for text in predictions])
        best = _best_thresholds(scores, answerable, given, nulls)
        scores = np.where((nulls > threshold)[:, None], ~answerable[:, None], scores)
    parts = {"": np.full(len(golds), True)}
    if not answerable.all():
        parts |= {"has_answer_": answerable, "no_answer_": ~answerable}
    found = {}
    for prefix, part in parts.items():
        exact, f1 = scores[part].mean(axis=0).tolist() if part.any() else (0.0, 0.0)
        found |= {f"{prefix}exact_match": exact, f"{prefix}f1": f1}
    return found | best


def normalize(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


_PUNCTUATION = frozenset(string.punctuation)


def _best_match(golds: Sequence[str], text: str) -> tuple[float, float]:
    """(exact match, F1 over the words) with the nearest gold answer, all normalised."""
    words = collections.Counter(text.split())
    f1 = 0.0
    for gold in golds:
        gold_words = collections.Counter(gold.split())
        if common := (words & gold_words).total():
            precision, recall = common / words.total(), common / gold_words.total()
            f1 = max(f1, 2 * precision * recall / (precision + recall))
        elif text == gold:  # both are empty
            f1 = 1.0
    return float(text in golds), f1


def _best_thresholds(scores: np.ndarray, answerable: np.ndarray, given: np.ndarray, nulls: np.ndarray) -> dict[str, float]:
    """The official sweep: questions are answered one after the other, the least null score first.

    As there, the threshold is 0 where no answer at all is best, and equal null scores are told apart.
    """
    order = np.argsort(nulls, kind="stable")
    found = {}
    for name, column in (("exact_match", scores[:, 0]), ("f1", scores[:, 1])):
        gains = np.where(answerable, column, -given.astype(float))[order]
        totals = np.cumsum([float((~answerable).sum()), *gains])  # after so many answers
        most = int(totals.argmax())
        found[f"best_{name}"] = float(totals[most] / len(nulls))
        found[f"best_{name}_threshold"] = float(nulls[order[most - 1]]) if most else 0.0
    return found


def _some(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {labels.shape}, predictions {predictions.shape}")
    if labels.size == 0:
        raise UserError("there are no examples to measure.")
    return labels, predictions
