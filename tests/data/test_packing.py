"""Sentences join to their text and their ids to its ids; rows hold every token once, whole sentences, as many as fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roberta_jax.data.packing import FORMATS, doc_sentences, full_sentences, split_sentences

BOS, EOS, LENGTH = 0, 2, 16
BUDGET = LENGTH - 2
CHARACTERS = {
    "Latin": "aZé .!?'\"”)’\n\t\x1c\x1f_1²\u00a0…",
    "Chinese": "中文。！？」）、 \n\u3000_a1",
    "Hindi": "हिन्दी।॥ \n.a",
    "Arabic": "عربي؟۔! \n.»",
    "mixed": "aZ中हع。.!?।؟'\"」» \n\r\x85\u2028_1e\u0301😀",
}
TEXTS = st.one_of(*(st.text(st.sampled_from(letters), max_size=80) for letters in CHARACTERS.values()), st.text(max_size=40))
# Documents as the lengths of their sentences, which may be empty, or longer than a row.
LENGTHS = st.lists(st.lists(st.integers(0, 3 * BUDGET), max_size=8), max_size=8)


def documents_of(lengths):
    """Every token another id, so that it is known where each one comes from."""
    ids = iter(range(10, 1_000_000))
    return [[np.array([next(ids) for _ in range(n)], np.int32) for n in sentences] for sentences in lengths]


def origins(documents):
    """id → (its document, its sentence's part that fits a row, how long that part is, how far into it the id stands)."""
    found = {}
    for number, document in enumerate(documents):
        for sentence in document:
            for start in range(0, len(sentence), BUDGET):
                part = sentence[start : start + BUDGET].tolist()
                found |= {id: (number, part[0], len(part), at) for at, id in enumerate(part)}
    return found


@settings(max_examples=2_000)
@given(text=TEXTS)
def test_sentences_join_to_the_text(text):
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)


@settings(max_examples=2_000)
@given(text=TEXTS)
def test_the_ids_of_the_sentences_are_the_ids_of_the_text(small_corpus, text):
    tokenizer = small_corpus.tokenizer
    ids = [i for sentence in split_sentences(text) for i in tokenizer.encode(sentence).tolist()]
    assert ids == tokenizer.encode(text).tolist()


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence.", " Another one!", ' "A third?"', " Yes…", " No."],
        ["Mr. smith goes on, e.g. here.", " Then it ends."],
        ["A line\nbroken in two.", "\nA next."],
        ["No full stop", "\n\nA new paragraph", "\n \nand one more"],
        ["第一句。", "第二句！「第三句？」", "第四句"],  # not before 「, which shares a token with ！ perhaps
        ["हिन्दी वाक्य।", " दूसरा वाक्य॥", " तीसरा"],
        ["هل هذا سؤال؟", " نعم."],
        ["Version 3.5 is 2.0 times faster"],
    ],
)
def test_where_sentences_end(sentences):
    assert split_sentences("".join(sentences)) == sentences


def test_a_page_of_full_stops_takes_no_time():
    dots, circles = "a" + "." * 1_000_000, "a" + "。" * 1_000_000  # hours, where each is looked at from all before it
    assert split_sentences(dots + "b") == [dots + "b"]
    assert split_sentences(circles + "b") == [circles, "b"]


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=500)
@given(lengths=LENGTHS)
def test_rows_hold_every_token_once_and_in_order(format, lengths):
    documents = documents_of(lengths)
    rows = [row.tolist() for row in FORMATS[format](documents, LENGTH, BOS, EOS)]
    for row in rows:
        assert 3 <= len(row) <= LENGTH
        assert row[0] == BOS and row[-1] == EOS and BOS not in row[1:]
    tokens = [id for row in rows for id in row[1:-1] if id != EOS]
    assert tokens == [id for document in documents for sentence in document for id in sentence.tolist()]


@settings(max_examples=500)
@given(lengths=LENGTHS)
def test_full_sentences_part_documents_and_are_as_full_as_whole_sentences_allow(lengths):
    documents = documents_of(lengths)
    origin = origins(documents)
    rows = [row[1:-1].tolist() for row in full_sentences(documents, LENGTH, BOS, EOS)]
    for row in rows:
        inside = [origin.get(id, (None,))[0] for id in row]
        parts = [i for i, number in enumerate(inside) if number is None]
        for first, second in zip(parts[::2], parts[1::2]):  # </s></s>, and only where a new document starts
            assert second == first + 1 and inside[first - 1] < inside[second + 1]
        assert len(parts) == 2 * (len(set(inside) - {None}) - 1)
    for row, following in zip(rows, rows[1:]):
        number, _, length, at = origin[row[-1]]
        assert at == length - 1  # a row ends with a sentence
        next_number, _, next_length, next_at = origin[following[0]]
        assert next_at == 0
        gap = 2 if next_number != number else 0
        assert len(row) + gap + next_length > BUDGET


@settings(max_examples=500)
@given(lengths=LENGTHS)
def test_doc_sentences_never_cross_a_document(lengths):
    documents = documents_of(lengths)
    origin = origins(documents)
    rows = [row[1:-1].tolist() for row in doc_sentences(documents, LENGTH, BOS, EOS)]
    for row in rows:
        assert EOS not in row and len({origin[id][0] for id in row}) == 1
    for row, following in zip(rows, rows[1:]):
        if origin[row[-1]][0] == origin[following[0]][0]:
            assert len(row) + origin[following[0]][2] > BUDGET


@pytest.mark.parametrize("format", FORMATS)
def test_a_sentence_longer_than_a_row_is_cut_into_rows(format):
    sentence = np.arange(10, 10 + 2 * BUDGET + 3)
    rows = [row.tolist() for row in FORMATS[format]([[sentence]], LENGTH, BOS, EOS)]
    assert [len(row) - 2 for row in rows] == [BUDGET, BUDGET, 3]
    assert [id for row in rows for id in row[1:-1]] == sentence.tolist()


def test_a_boundary_inside_a_row_and_none_at_its_ends():
    documents = [[np.array([10, 11])], [np.array([12])], [np.arange(20, 20 + BUDGET)], [np.array([13])]]
    assert [row.tolist() for row in full_sentences(documents, LENGTH, BOS, EOS)] == [
        [BOS, 10, 11, EOS, EOS, 12, EOS],
        [BOS, *range(20, 20 + BUDGET), EOS],
        [BOS, 13, EOS],
    ]
