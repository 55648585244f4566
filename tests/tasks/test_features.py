"""Rows of ids are transformers' where it makes the same ones; every word and every option has its place in a row."""

import dataclasses
import random

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from roberta_jax.errors import UserError
from roberta_jax.tasks.definitions import Example
from roberta_jax.tasks.features import LONGEST_OPTION, UNLABELLED, encode
from roberta_jax.tokenization.model_tokenizer import ByteLevelText

WORDS = ["a", "an", "unfinished", "letter", "naïve", "café", "東京", "हिन्दी", "🤗", "👩‍👧", "O'Neill", "U.S.", "3,000", "'s"]
WORDS += ["--", "(", "antidisestablishmentarianism", "…"]
TAGS = ("O", "B-PER", "I-PER")


@pytest.fixture(scope="session")
def text(roberta_tokenizer):
    return ByteLevelText(roberta_tokenizer)


@pytest.fixture(scope="session")
def theirs(assets):
    return transformers.RobertaTokenizer.from_pretrained(assets / "roberta-vocab")


def examples(kind_of_texts, labels=None):
    labels = labels or [None] * len(kind_of_texts)
    return [
        Example(f"train.tsv:{i + 2}", str(i), tuple(texts), label)
        for i, (texts, label) in enumerate(zip(kind_of_texts, labels))
    ]


def some_words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def test_rows_are_those_of_transformers_however_they_are_cut(text, theirs):
    """All lengths around the limit, so that either text is the longer one, or none is."""
    counts = [(a, b) for a in (1, 5, 9, 10, 11, 30) for b in (0, 1, 5, 9, 10, 11, 30)]
    texts = [(some_words(a, a), *([some_words(b, 100 + b)] if b else [])) for a, b in counts]
    texts += [("one two three four five six", " six five four three two one"), ("東京" * 9, "🤗" * 9), ("a" * 600, "b")]
    known = {}
    for max_length in (12, 13, 30, 31, 512):
        found = encode("classification", examples(texts), text, ("0", "1"), max_length)
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
    classes = encode("classification", examples(pairs, ["no", "yes", "no"]), text, ("yes", "no"), 32)
    assert classes.labels.tolist() == [1, 0, 1] and classes.labels.dtype == np.int32
    several = encode("multi_label", examples(pairs, [("c", "a"), (), ("b",)]), text, ("a", "b", "c"), 32)
    assert several.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]] and several.labels.dtype == np.float32
    scores = encode("regression", examples(pairs, [0.5, -1.0, 3.0]), text, (), 32)
    assert scores.labels.tolist() == [0.5, -1.0, 3.0] and scores.labels.dtype == np.float32


@pytest.mark.parametrize(
    ("kind", "labels"), [("classification", ["a", "d"]), ("multi_label", [("a",), ("a", "d")]), ("tagging", [("a",), ("d",)])]
)
def test_a_label_that_is_not_known_is_named_with_its_line(text, kind, labels):
    with pytest.raises(UserError, match=r"^train\.tsv:3: the label 'd' is none of a, b, c\.$"):
        encode(kind, examples([("one",), ("two",)], labels), text, ("a", "b", "c"), 32)


def test_options_stay_whole_up_to_128_ids_and_the_passage_gives_way(text, theirs):
    passages = [some_words(count, count) for count in (5, 300)]
    questions = [some_words(count, 500 + count) for count in (1, 30, 100, 300)]
    choices = [(passage, *questions) for passage in passages]
    found = encode("multiple_choice", examples(choices, [2, 0]), text, (), 256)
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
    tight = encode("multiple_choice", examples(choices), text, (), 16)
    assert max(len(row) for rows in tight.rows for row in rows) == 16 and tight.cut == 2


def first_tokens(features) -> dict[tuple[int, int], int]:
    """(example, word) → the id at which it is tagged; each word once."""
    found = {}
    for (row,), (example, first, at) in zip(features.rows, features.words):
        for word, position in enumerate(at, first):
            assert (example, word) not in found
            found[example, word] = int(row[position])
    return found


def test_words_are_tagged_where_transformers_begins_them(text, assets):
    """Theirs has a space before the first word too, so words are compared from the second on."""
    theirs = transformers.RobertaTokenizer.from_pretrained(assets / "roberta-vocab", add_prefix_space=True)
    sentences = [some_words(count, count).split() for count in range(1, 60)]
    tags = [tuple(TAGS[i % 3] for i in range(len(words))) for words in sentences]
    found = encode("tagging", examples(sentences, tags), text, TAGS, 512)
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
    found = encode("tagging", examples(sentences, tags), text, TAGS, max_length)
    assert sorted(first_tokens(found)) == [(i, word) for i, words in enumerate(sentences) for word in range(len(words))]
    assert found.words == sorted(found.words, key=lambda entry: entry[:2])
    for (row,), labels, (example, first, at) in zip(found.rows, found.labels, found.words):
        assert row[0] == text.bos and row[-1] == text.eos and 2 <= len(row) <= max_length and len(labels) == len(row)
        assert (np.diff(at) >= 0).all() and at[0] >= 1
        if len(set(at)) == len(at) and at[-1] < len(row) - 1:
            expected = [TAGS.index(tag) for tag in tags[example][first : first + len(at)]]
            assert labels[at].tolist() == expected and (labels != UNLABELLED).sum() == len(at)
    without = encode("tagging", [dataclasses.replace(e, label=None) for e in examples(sentences, tags)], text, TAGS, max_length)
    assert without.labels is None and first_tokens(without) == first_tokens(found)


@settings(max_examples=200)
@given(words, st.integers(8, 40))
def test_a_word_is_tagged_at_the_token_that_holds_its_first_letter(text, words, max_length):
    """And a sentence in several rows holds the tokens of the whole one, in their order, unless a word alone is too long."""
    ((whole,),) = encode("tagging", examples([words]), text, TAGS, 100_000).rows
    found = encode("tagging", examples([words]), text, TAGS, max_length)
    ids, spans = text.encode_with_spans(" ".join(words))
    assert whole[1:-1].tolist() == ids.tolist()
    starts = np.cumsum([0] + [len(word) + 1 for word in words[:-1]])
    firsts = [np.flatnonzero((spans[:, 0] <= start) & (start < spans[:, 1]))[0] for start in starts]
    assert list(first_tokens(found).values()) == ids[firsts].tolist()
    if np.diff([*firsts, len(ids)]).max() <= max_length - 2:
        assert np.concatenate([row[1:-1] for (row,) in found.rows]).tolist() == ids.tolist()
