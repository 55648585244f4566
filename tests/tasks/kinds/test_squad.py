"""SQuAD's JSON and the same as rows, and the metrics of its published rules; what is wrong is named with its place."""

import gzip
import json
import re
import string

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from task_files import jsonl, told

from roberta_jax.errors import UserError
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tasks.kinds.squad import normalize, squad_metrics


def squad(path, questions, context="It rained in Spain."):
    paragraphs = [{"context": context, "qas": questions}]
    data = json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


SPAIN = {"id": "q1", "question": " Where? ", "answers": [{"text": "Spain", "answer_start": 13}]}


NOWHERE = {"id": "q2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "It"}]}


def test_squad_1_and_2(tmp_path):
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        squad(tmp_path / name, [SPAIN])
    squad(tmp_path / "train-v2.0.json", [SPAIN, NOWHERE])
    squad(tmp_path / "dev-v2.0.json", [{**SPAIN, "is_impossible": False}, NOWHERE])
    squad(tmp_path / "test.json.gz", [{"id": "q3", "question": "Why?"}])
    one, two = (read_splits(task, TaskData(str(tmp_path))) for task in ("squad", "squad2"))
    where = ("q1", ("Where?", "It rained in Spain."), (("Spain", 13),))
    assert told(one.train) == told(one.valid[""]) == [where]
    assert told(two.train) == told(two.valid[""]) == [where, ("q2", ("Who?", "It rained in Spain."), ())]
    assert told(one.test[""]) == [("q3", ("Why?", "It rained in Spain."), None)]


def test_a_null_is_no_answer(tmp_path):
    squad(tmp_path / "train-v2.0.json", [SPAIN, {**NOWHERE, "answers": None}])
    squad(tmp_path / "test-v2.0.json", [{**SPAIN, "answers": None}])
    splits = read_splits("squad2", TaskData(str(tmp_path), valid=str(tmp_path / "train-v2.0.json")))
    assert [example.label for example in splits.train] == [(("Spain", 13),), ()]
    assert splits.test[""][0].label is None


def test_spans_as_rows(tmp_path):
    row = {"id": "q", "question": "Where?", "context": " In Spain."}
    jsonl(tmp_path / "train.jsonl", [{**row, "answers": {"text": ["Spain"], "answer_start": [4]}}])
    jsonl(tmp_path / "dev.jsonl", [{**row, "answers": [{"text": "In", "answer_start": 1}]}, {**row, "answers": []}])
    splits = read_splits("custom-span", TaskData(str(tmp_path)))
    assert told(splits.train) == [("q", ("Where?", " In Spain."), (("Spain", 4),))]
    assert [example.label for example in splits.valid[""]] == [(("In", 1),), ()]


@pytest.mark.parametrize(
    "question, said",
    [
        ({**SPAIN, "answers": [{"text": "Spain", "answer_start": 12}]}, "'Spain' is not in its context at 12, where ' Spai'"),
        ({**SPAIN, "answers": [{"text": "", "answer_start": 12}]}, "'' is not in its context"),
        ({**SPAIN, "answers": [{"text": "Spain"}]}, "lacks its text or a whole number answer_start"),
        ({**SPAIN, "question": " "}, "an empty 'question'"),
        ({"id": "q1", "answers": []}, "not as SQuAD's JSON is made.*question"),
        ({"id": "q1", "question": "Where?", "answer": []}, "not as SQuAD's JSON is made.*answers"),
        ({**SPAIN, "answers": [{"text": 1995, "answer_start": 12}]}, "lacks its text or a whole number answer_start"),
        ({**SPAIN, "answers": None}, "not as SQuAD's JSON is made.*answers"),
        ({**NOWHERE, "id": "q1"}, "no answer; this task takes questions that have one, squad2"),
    ],
)
def test_what_is_wrong_with_a_question_is_named(tmp_path, question, said):
    squad(tmp_path / "train.json", [question])
    with pytest.raises(UserError, match=rf"train\.json: question q1: .*{said}"):
        read_splits("squad", TaskData(str(tmp_path)))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"text": "Spain", "answer_start": 4}, "expected a list of texts and as long a one of answer_start"),
        ({"text": ["Spain", "In"], "answer_start": [4]}, "expected a list of texts and as long a one of answer_start"),
        ({"text": [1995], "answer_start": [4]}, "lacks its text or a whole number answer_start"),
        ("Spain", "expected a list of texts"),
    ],
)
def test_what_is_wrong_with_the_answers_of_a_row_is_named(tmp_path, answers, said):
    jsonl(tmp_path / "train.jsonl", [{"id": "q", "question": "Where?", "context": " In Spain.", "answers": answers}])
    with pytest.raises(UserError, match=rf"train\.jsonl:1: .*{said}"):
        read_splits("custom-span", TaskData(str(tmp_path)))


def test_json_that_is_not_squads_is_named(tmp_path):
    (tmp_path / "train.json").write_text('{"text": "x"}')
    with pytest.raises(UserError, match=r"train\.json: not as SQuAD's JSON is made \(KeyError: 'data'\)"):
        read_splits("squad", TaskData(str(tmp_path)))
    (tmp_path / "train.json").write_text('{"data": ')
    with pytest.raises(UserError, match=r"train\.json: not JSON"):
        read_splits("squad", TaskData(str(tmp_path)))


# The evaluation


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
    plain, swept = squad_metrics(golds, predictions), squad_metrics(golds, predictions, nulls, threshold)
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
    assert normalize("The  U.S.A.’s\n“a” cat-and-dog, an\u00a0the") == "usa’s “ ” catanddog"
    assert squad_metrics([["the cat", "dogs"]], ["Cat!"]) == {"exact_match": 1.0, "f1": 1.0}
    assert squad_metrics([["a black cat"]], ["cat"])["f1"] == pytest.approx(2 / 3)
    found = squad_metrics([[], []], ["", "cat"])
    assert (found["exact_match"], found["no_answer_f1"], found["has_answer_f1"]) == (0.5, 0.5, 0.0)


def test_the_best_threshold_parts_what_has_an_answer_from_what_has_none():
    golds, predictions, nulls = [["cat"], [], ["dog"], []], ["cat", "x", "dog", "y"], [-3.0, 2.0, 1.0, 4.0]
    found = squad_metrics(golds, predictions, nulls)
    assert found["exact_match"] == 0.75 and found["has_answer_exact_match"] == 0.5 and found["no_answer_f1"] == 1.0
    assert found["best_exact_match"] == found["best_f1"] == 1.0
    assert found["best_exact_match_threshold"] == found["best_f1_threshold"] == 1.0
    assert squad_metrics(golds, predictions, nulls, found["best_f1_threshold"])["f1"] == 1.0


def test_of_no_example_nothing_is_measured():
    with pytest.raises(UserError, match="there are no examples to measure"):
        squad_metrics([], [])
