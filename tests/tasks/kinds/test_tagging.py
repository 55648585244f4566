"""CoNLL's columns and the same as rows; every word is tagged once; the metrics are seqeval's."""

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
import seqeval.metrics
import transformers
from hypothesis import given, settings
from rows import WORDS, examples, quiet, some_words
from task_files import jsonl, told

from roberta_jax.errors import UserError
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tasks.features import UNLABELLED
from roberta_jax.tasks.kinds.tagging import encode, entities, entity_metrics


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
    (tmp_path / "train.txt").write_text("in IN O\nUlm NNP B-LOC\n")
    (tmp_path / "train.jsonl").unlink()
    files = {name: f"{tmp_path}/{name}.txt" for name in ("train", "test")}
    named = read_splits("custom-tagging", TaskData(**files, valid=files["train"], label_column="3"))
    assert named.train[0].label == ("O", "B-LOC") and told(named.test[""]) == told(splits.test[""])


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("train.txt", "a O\n\nb\n", r"train\.txt:3: 1 columns; expected 2, as in .*train\.txt:1"),
        ("train.txt", "a\nb\n", r"train\.txt:1: one column; expected a token and its tag"),
        ("train.txt", "a\tO\nb\tX-LOC\n", r"train\.txt:2: the tag 'X-LOC' is not known; expected O, B-TYPE or I-TYPE"),
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


@pytest.mark.parametrize(("field", "column"), [("label_column", "tag"), ("label_column", "0"), ("text_columns", "word")])
def test_columns_of_a_conll_file_have_numbers(tmp_path, field, column):
    (tmp_path / "train.txt").write_text("a X O\nb Y B-LOC\n")
    said = rf"train\.txt:1: there is no column {column}; it has 1: 'a', 2: 'X', 3: 'O' \(config\.data\.{field} takes"
    with pytest.raises(UserError, match=said):
        read_splits("custom-tagging", TaskData(str(tmp_path), **{field: column}))


def test_a_tag_that_train_lacks_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("a B-LOC\n")
    (tmp_path / "dev.txt").write_text("a O\nb B-PER\n")
    with pytest.raises(UserError, match=r"dev\.txt:1: the label 'B-PER' is not known; there are O, B-LOC, I-LOC"):
        read_splits("custom-tagging", TaskData(str(tmp_path)))


# Rows

TAGS = ("O", "B-PER", "I-PER")


def first_tokens(features) -> dict[tuple[int, int], int]:
    """(example, word) → the id at which it is tagged; each word once."""
    found = {}
    for (row,), (example, first, at) in zip(features.rows, features.layout):
        for word, position in enumerate(at, first):
            assert (example, word) not in found
            found[example, word] = int(row[position])
    return found


def test_words_are_tagged_where_transformers_begins_them(text, assets):
    """Theirs has a space before the first word too, so words are compared from the second on."""
    theirs = transformers.RobertaTokenizer.from_pretrained(assets / "roberta-vocab", add_prefix_space=True)
    sentences = [some_words(count, count).split() for count in range(1, 60)]
    tags = [tuple(TAGS[i % 3] for i in range(len(words))) for words in sentences]
    found = encode(examples(sentences, tags), text, TAGS, 512)
    assert found.cut == 0 and len(found) == len(sentences)
    compared = 0
    for words, one, (row,), labels in zip(sentences, tags, found.rows, found.labels):
        encoding = theirs(words, is_split_into_words=True)
        ids, owner = encoding["input_ids"], encoding.word_ids()
        expected = [UNLABELLED] * len(ids)
        for word, tag in enumerate(one):
            expected[owner.index(word)] = TAGS.index(tag)
        if len(words) > 1:
            back = len(ids) - owner.index(1)
            assert row[-back:].tolist() == ids[-back:] and labels[-back:].tolist() == expected[-back:]
            compared += len(words) - 1
        before = labels[: len(row) - (back if len(words) > 1 else 1)]
        assert [label for label in before if label != UNLABELLED] == [0] and before[1] == 0  # the first word
    assert compared > 1000


# A word of a JSONL file may hold a space, and begin with white space that is no space.
odd = st.text("aé東🤗\u0301 \xa0\u3000.", min_size=1, max_size=12).filter(str.strip).map(lambda word: word.strip(" "))


words = st.lists(st.sampled_from(WORDS) | odd, min_size=1, max_size=25)


@settings(max_examples=300)
@given(st.lists(words, min_size=1, max_size=4), st.integers(8, 40))
def test_every_word_is_tagged_once_and_no_row_is_too_long(text, sentences, max_length):
    tags = [tuple(TAGS[(i + len(words)) % 3] for i in range(len(words))) for words in sentences]
    found = encode(examples(sentences, tags), text, TAGS, max_length)
    assert sorted(first_tokens(found)) == [(i, word) for i, words in enumerate(sentences) for word in range(len(words))]
    assert found.layout == sorted(found.layout, key=lambda entry: entry[:2])
    for (row,), labels, (example, first, at) in zip(found.rows, found.labels, found.layout):
        assert row[0] == text.bos and row[-1] == text.eos and 2 <= len(row) <= max_length and len(labels) == len(row)
        assert (np.diff(at) >= 0).all() and at[0] >= 1
        if len(set(at)) == len(at) and at[-1] < len(row) - 1:
            expected = [TAGS.index(tag) for tag in tags[example][first : first + len(at)]]
            assert labels[at].tolist() == expected and (labels != UNLABELLED).sum() == len(at)
    without = encode([dataclasses.replace(e, label=None) for e in examples(sentences, tags)], text, TAGS, max_length)
    assert without.labels is None and first_tokens(without) == first_tokens(found)


@settings(max_examples=200)
@given(words, st.integers(8, 40))
def test_a_word_is_tagged_at_the_token_that_holds_its_first_letter(text, words, max_length):
    """And a sentence in several rows holds the tokens of the whole one, in their order, unless a word alone is too long."""
    ((whole,),) = encode(examples([words]), text, TAGS, 100_000).rows
    found = encode(examples([words]), text, TAGS, max_length)
    ids, spans = text.encode_with_spans(" ".join(words))
    assert whole[1:-1].tolist() == ids.tolist()
    starts = np.cumsum([0] + [len(word) + 1 for word in words[:-1]])
    firsts = [np.flatnonzero((spans[:, 0] <= start) & (start < spans[:, 1]))[0] for start in starts]
    assert list(first_tokens(found).values()) == ids[firsts].tolist()
    if np.diff([*firsts, len(ids)]).max() <= max_length - 2:
        assert np.concatenate([row[1:-1] for (row,) in found.rows]).tolist() == ids.tolist()


# Metrics

# A-B: a type may have a hyphen. Tags are drawn freely, so I- often follows O or another type.
DRAWN_TAGS = st.sampled_from(["O", "B-A", "I-A", "B-A-B", "I-A-B", "I-B", "B-B"])


@given(
    st.lists(st.lists(st.tuples(DRAWN_TAGS, DRAWN_TAGS), max_size=8), min_size=1, max_size=5).filter(any),
)
def test_tagging_is_that_of_seqeval(sentences):
    labels = [[label for label, _ in sentence] for sentence in sentences]
    predictions = [[prediction for _, prediction in sentence] for sentence in sentences]
    found = entity_metrics(labels, predictions)
    for name in ("f1", "precision", "recall", "accuracy"):
        function = getattr(seqeval.metrics, f"{name}_score")
        assert found[name] == pytest.approx(quiet(function, labels, predictions)), name


def test_entities_of_well_and_of_ill_formed_tags():
    assert entities(["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]) == {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5)}
    assert entities(["I-PER", "I-LOC", "O", "I-LOC"]) == {("PER", 0, 1), ("LOC", 1, 2), ("LOC", 3, 4)}
    assert entities([]) == entities(["O"]) == set()


def test_edges_have_a_value():
    nothing = {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}
    assert entity_metrics([["O", "O"], []], [["O", "O"], []]) == nothing


def test_what_cannot_be_measured_is_one_sentence():
    with pytest.raises(UserError, match="there are no words to measure"):
        entity_metrics([[]], [[]])
    for tag in ("NOUN", "B", "B-", "S-PER", ""):
        with pytest.raises(UserError, match=f"the tag '{tag}' is none of O, B-TYPE and I-TYPE"):
            entity_metrics([["O"]], [[tag]])
    with pytest.raises(ValueError, match="different numbers"):
        entity_metrics([["O"]], [["O", "O"]])
