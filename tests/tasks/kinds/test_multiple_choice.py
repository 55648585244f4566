"""RACE's folders and rows of questions with options; every option has its place in a row."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from rows import arrays, examples, some_words
from task_files import jsonl, sizes, table, told

from roberta_jax.errors import UserError
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tasks.kinds.multiple_choice import LONGEST_OPTION, choice_metrics, encode


def race(article="An article.", **changes):
    row = {
        "article": article,
        "questions": ["He is _ .", "Why?"],
        "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
        "answers": ["D", "A"],
    }
    return {**row, **changes}


def race_folder(folder, **changes):
    for split in ("train", "dev", "test"):
        for level, count in (("middle", 1), ("high", 2)):
            (folder / split / level).mkdir(parents=True)
            for i in range(count):
                row = race(f"Article {i} of {level} {split}.", id=f"{level}{i}.txt", **changes)
                (folder / split / level / f"{i}.txt").write_text(json.dumps(row))


def test_race(tmp_path):
    race_folder(tmp_path)
    splits = read_splits("race", TaskData(str(tmp_path)))
    assert len(splits.train) == 6 and splits.labels == ()
    assert sizes(splits.valid) == sizes(splits.test) == {"": 6, "middle": 2, "high": 4}
    article = "Article 1 of high train."
    assert told(splits.train)[2:4] == [
        ("high1.txt/0", (article, "He is a .", "He is b .", "He is c .", "He is d ."), 3),
        ("high1.txt/1", (article, "Why? e", "Why? f", "Why? g", "Why? h"), 0),
    ]
    assert splits.train[2].place == f"{tmp_path}/train/high/1.txt: question 0"
    middle = read_splits("race-middle", TaskData(str(tmp_path)))
    assert (len(middle.train), sizes(middle.valid)) == (2, {"": 2})
    high = read_splits("race-high", TaskData(train=f"{tmp_path}/train", valid=f"{tmp_path}/dev/high"))
    assert (len(high.train), sizes(high.valid), high.test) == (4, {"": 4}, {})


def test_race_as_lines_and_passages_stay_on_one_side(tmp_path):
    jsonl(tmp_path / "train.jsonl", [race(f"Article {i}.", id=f"high{i}.txt") for i in range(60)])
    splits = read_splits("race", TaskData(str(tmp_path)))
    sides = [{example.texts[0] for example in side} for side in (splits.train, splits.valid[""])]
    assert splits.valid["high"] == splits.valid[""] and "middle" not in splits.valid
    assert not sides[0] & sides[1] and sum(map(len, sides)) == 60 and splits.train[0].id == "high1.txt/0"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"answers": ["E", "A"]}, "0.txt: question 0: the answer is 'E'; expected a letter from A to D"),
        ({"answers": ["A", None]}, "0.txt: question 1: no label; expected one of each example of the train split"),
        ({"answers": ["A"]}, "0.txt: 2 questions and 1 in the answers"),
        ({"options": [["a", "b", "c", "d"], ["e", "f", "g"]]}, "0.txt: question 1: 3 options; expected 4"),
        ({"options": [["a", "b", "c", "d"], ["e"]]}, "0.txt: question 1: 1 options; expected two or more"),
        ({"options": [["a", "b", "c", "d"], "e"]}, "0.txt: question 1: 'options' is 'e'; expected a list"),
        ({"article": 3}, "0.txt: question 0: 'article' is 3; expected a text"),
    ],
)
def test_what_is_wrong_in_race_is_named(tmp_path, changes, said):
    (tmp_path / "train" / "high").mkdir(parents=True)
    (tmp_path / "train" / "high" / "0.txt").write_text(json.dumps(race(**changes)))
    with pytest.raises(UserError, match=said):
        read_splits("race", TaskData(str(tmp_path)))


def test_custom_multiple_choice(tmp_path):
    header = ("passage", "question", "options", "label")
    table(tmp_path / "train.tsv", [header, ("p", "It was ___.", '["x", "\\\\1"]', "B"), ("q", "Who?", '["x", "y"]', 0)])
    jsonl(tmp_path / "dev.jsonl", [{"passage": "p", "question": "q", "options": ["x", "y"], "label": 1}])
    jsonl(tmp_path / "test.jsonl", [{"passage": "p", "question": "q", "options": ["x", "y"]}])
    splits = read_splits("custom-multiple-choice", TaskData(str(tmp_path)))
    assert told(splits.train) == [("0", ("p", "It was x.", r"It was \1."), 1), ("1", ("q", "Who? x", "Who? y"), 0)]
    assert splits.valid[""][0].label == 1 and splits.test[""][0].label is None
    table(tmp_path / "train.tsv", [header, ("p", "q", '["x", ""]', "B")])
    with pytest.raises(UserError, match=r"train\.tsv:2: an empty text in one of 'passage', 'question', 'options'"):
        read_splits("custom-multiple-choice", TaskData(str(tmp_path)))


# Rows


def test_options_stay_whole_up_to_128_ids_and_the_passage_gives_way(text, theirs):
    passages = [some_words(count, count) for count in (5, 300)]
    questions = [some_words(count, 500 + count) for count in (1, 30, 100, 300)]
    choices = [(passage, *questions) for passage in passages]
    found = encode(examples(choices, [2, 0]), text, (), 256)
    assert found.labels.tolist() == [2, 0]
    assert found.cut == 1  # of the first the long option alone is cut, to a row that is not full
    for (passage, *options), rows in zip(choices, found.rows):
        assert len(rows) == 4
        ids = text.encode([passage])[0].tolist()
        for option, row in zip(options, rows):
            kept = text.encode([option])[0].tolist()[:LONGEST_OPTION]
            assert row.tolist() == [0, *ids[: 256 - 4 - len(kept)], 2, 2, *kept, 2] and len(row) <= 256
    assert max(map(len, found.rows[1])) == 256 and found.lengths.tolist() == [max(map(len, rows)) for rows in found.rows]
    short = choices[0][:3]
    assert found.rows[0][0].tolist() == theirs(*short[:2])["input_ids"]
    tight = encode(examples(choices), text, (), 16)
    assert max(len(row) for rows in tight.rows for row in rows) == 16 and tight.cut == 2


# Metrics


@given(arrays(st.integers(0, 3), st.integers(0, 3)))
def test_multiple_choice_is_accuracy(case):
    assert choice_metrics(*case) == {"accuracy": pytest.approx(sklearn.metrics.accuracy_score(*case))}


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UserError, match="there are no examples to measure"):
        choice_metrics(np.zeros(0, int), np.zeros(0, int))
    with pytest.raises(ValueError, match=r"labels are \(1,\), predictions \(2,\)"):
        choice_metrics([1], [1, 2])
