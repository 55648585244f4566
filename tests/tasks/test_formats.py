"""SQuAD's JSON, RACE's folders and CoNLL's columns, and the same as rows; what is wrong is named with its place."""

import gzip
import json

import pytest
from written import jsonl, sizes, table, told

from roberta_jax.errors import UserError
from roberta_jax.tasks.examples import TaskData, read_splits

# SQuAD


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
        ({"id": "q1"}, "not as SQuAD's JSON is made.*question"),
        ({**NOWHERE, "id": "q1"}, "no answer; this task takes questions that have one, squad2"),
    ],
)
def test_what_is_wrong_with_a_question_is_named(tmp_path, question, said):
    squad(tmp_path / "train.json", [question])
    with pytest.raises(UserError, match=rf"train\.json: question q1: .*{said}"):
        read_splits("squad", TaskData(str(tmp_path)))


def test_json_that_is_not_squads_is_named(tmp_path):
    (tmp_path / "train.json").write_text('{"text": "x"}')
    with pytest.raises(UserError, match=r"train\.json: not as SQuAD's JSON is made \(KeyError: 'data'\)"):
        read_splits("squad", TaskData(str(tmp_path)))
    (tmp_path / "train.json").write_text('{"data": ')
    with pytest.raises(UserError, match=r"train\.json: not JSON"):
        read_splits("squad", TaskData(str(tmp_path)))


# RACE


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


# Tagging


def test_conll_2003_becomes_iob2(tmp_path):
    document = "-DOCSTART- -X- O O\n\n"
    tokens = ["EU NNP I-NP I-ORG", "UN NNP I-NP B-ORG", "rejects VBZ I-VP O", "Peter NNP I-NP I-PER", "B NNP I-NP I-PER"]
    (tmp_path / "eng.train").write_text(document + "\n".join(tokens) + "\n\n\nhere RB O O\n")
    (tmp_path / "eng.testa").write_text("EU NNP I-NP I-ORG\nPeter NNP I-NP I-PER\n")
    (tmp_path / "eng.testb").write_text("EU NNP I-NP I-ORG")
    splits = read_splits("conll2003", TaskData(str(tmp_path)))
    assert told(splits.train) == [
        ("0", ("EU", "UN", "rejects", "Peter", "B"), ("B-ORG", "B-ORG", "O", "B-PER", "I-PER")),
        ("1", ("here",), ("O",)),
    ]
    assert [example.place for example in splits.train] == [f"{tmp_path}/eng.train:3", f"{tmp_path}/eng.train:10"]
    assert splits.labels == ("O", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert splits.valid[""][0].label == ("B-ORG", "B-PER") and splits.test[""][0].label == ("B-ORG",)


def test_words_and_tags_as_rows_and_a_test_without_tags(tmp_path):
    jsonl(tmp_path / "train.jsonl", [{"tokens": ["in", "Ulm"], "ner_tags": ["O", "B-LOC"], "id": "x"}])
    jsonl(tmp_path / "valid.jsonl", [{"words": ["Ulm"], "tags": ["I-LOC"]}])
    (tmp_path / "test.txt").write_text("New\u00a0Ulm\nis\n")
    splits = read_splits("custom-tagging", TaskData(str(tmp_path)))
    assert told(splits.train) == [("x", ("in", "Ulm"), ("O", "B-LOC"))] and splits.valid[""][0].label == ("B-LOC",)
    assert told(splits.test[""]) == [("0", ("New\u00a0Ulm", "is"), None)]


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("train.txt", "a O\n\nb\n", r"train\.txt:3: 1 columns; expected 2, as in .*train\.txt:1"),
        ("train.txt", "a\nb\n", r"train\.txt:1: one column; expected a token and its tag"),
        ("train.txt", "a\tO\nb\tS-LOC\n", r"train\.txt:2: the tag 'S-LOC' is not known; expected O, B-TYPE or I-TYPE"),
        ("train.jsonl", '{"words": ["a", "b"], "tags": ["O"]}\n', r"train\.jsonl:1: 2 words and 1 tags"),
        ("train.jsonl", '{"words": ["a", " "], "tags": ["O", "O"]}\n', r"train\.jsonl:1: 'words' has no word or an empty"),
        ("train.jsonl", '{"words": ["a"], "tags": [3]}\n', r"train\.jsonl:1: the tag 3 is not known"),
        ("train.jsonl", '{"words": ["a"]}\n', r"train\.jsonl:1: no column 'tags' or 'ner_tags'"),
    ],
)
def test_what_is_wrong_with_tags_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_splits("custom-tagging", TaskData(str(tmp_path)))


def test_a_tag_that_train_lacks_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("a B-LOC\n")
    (tmp_path / "dev.txt").write_text("a O\nb B-PER\n")
    with pytest.raises(UserError, match=r"dev\.txt:1: the label 'B-PER' is not known; there are O, B-LOC, I-LOC"):
        read_splits("custom-tagging", TaskData(str(tmp_path)))
