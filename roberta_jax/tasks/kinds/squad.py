"""SQuAD's files and its published evaluation."""

import collections
import dataclasses
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.tasks.columns import columns_of, label_value, read_json, text_of
from roberta_jax.tasks.definitions import Example, Task

_PUNCTUATION = frozenset(string.punctuation)

# Files to examples


def read_file(task: Task, path: str, split: str, number: int, broken: list[str]) -> Iterator[Example]:
    """SQuAD's JSON, 1.1 or 2.0."""
    document, place = read_json(path), path
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    place = f"{path}: question {question['id']}"
                    row = {"context": paragraph["context"], **question}
                    answers = question.get("answers")
                    if answers is None and split != "test":
                        if not question.get("is_impossible"):
                            raise KeyError("answers")
                        answers = []
                    yield _span(task, place, str(question["id"]), "question", "context", row, answers, split)
    except (KeyError, TypeError) as error:
        raise UserError(f"{place}: not as SQuAD's JSON is made ({type(error).__name__}: {error}).") from None


def read_row(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    """A row with question, context and answers, which are {"text": [...], "answer_start": [...]} or a list of such pairs."""
    question, context = columns_of(task, place, row)
    answers = label_value(task, place, row, split)
    if isinstance(answers, dict) and {"text", "answer_start"} <= answers.keys():
        texts, starts = answers["text"], answers["answer_start"]
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts)]
    if not isinstance(answers, list | None):
        raise UserError(f"{place}: the answers are {answers!r}; expected a list of texts and as long a one of answer_start.")
    yield _span(task, place, id, question, context, row, answers, split)


def _span(
    task: Task, place: str, id: str, question: str, context: str, row: dict[str, Any], answers: list[dict] | None, split: str
) -> Example:
    asked, text = text_of(task, place, question, row[question]), row[context]
    if not asked.strip() or not text_of(task, place, context, text).strip():
        raise UserError(f"{place}: an empty {context if asked.strip() else question!r}; expected a text.")
    if answers is None or (split == "test" and not answers and not task.unanswerable):
        return Example(place, id, (asked, text))
    pairs = []
    for answer in [] if row.get("is_impossible") else answers:
        try:
            words, start = answer["text"], int(answer["answer_start"])
            if not isinstance(words, str):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{place}: the answer {answer!r} lacks its text or a whole number answer_start.") from None
        if not words or start < 0 or text[start : start + len(words)] != words:
            there = text[max(start, 0) : max(start, 0) + len(words)]
            raise UserError(f"{place}: the answer {words!r} is not in its context at {start}, where {there!r} stands.")
        pairs.append((words, start))
    if not pairs and not task.unanswerable:
        raise UserError(f"{place}: no answer; this task takes questions that have one, squad2 and custom-span the others too.")
    return Example(place, id, (asked, text), tuple(pairs))


def settle(task: Task, splits: dict[str, list[list[Example]]], said: dict[str, None]) -> tuple[()]:
    """Each question of a part has an id of its own, by which its answers are written; a test split without any has none."""
    for part in (part for parts in splits.values() for part in parts):
        taken, seen, first = {example.id for example in part}, collections.Counter(), ""
        for i, example in enumerate(part):
            seen[example.id] += 1
            if seen[example.id] > 1:
                while (id := f"{example.id}#{seen[example.id]}") in taken:
                    seen[example.id] += 1
                part[i], first = dataclasses.replace(example, id=id), first or f"the second {example.id!r} is {id!r}"
        if first:
            said[f"questions have the ids of others, and their predictions are written under new ones: {first}"] = None
    for part in splits["test"]:
        if not any(example.label for example in part):
            part[:] = [dataclasses.replace(example, label=None) for example in part]
    return ()


# The evaluation


def squad_metrics(
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
    metrics = {}
    for prefix, part in parts.items():
        exact, f1 = scores[part].mean(axis=0).tolist() if part.any() else (0.0, 0.0)
        metrics |= {f"{prefix}exact_match": exact, f"{prefix}f1": f1}
    return metrics | best


def normalize(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


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
    metrics = {}
    for name, column in (("exact_match", scores[:, 0]), ("f1", scores[:, 1])):
        gains = np.where(answerable, column, -given.astype(float))[order]
        totals = np.cumsum([float((~answerable).sum()), *gains])  # after so many answers
        most = int(totals.argmax())
        metrics[f"best_{name}"] = float(totals[most] / len(nulls))
        metrics[f"best_{name}_threshold"] = float(nulls[order[most - 1]]) if most else 0.0
    return metrics
