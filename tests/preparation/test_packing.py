"""Sentences join to their text and their ids to its ids; rows hold every token once, whole sentences, as many as fit."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roberta_jax.data.corpus import PAIRS
from roberta_jax.preparation import packing
from roberta_jax.preparation.config import ReaderConfig
from roberta_jax.preparation.documents import Counts, read, resolve
from roberta_jax.preparation.packing import FORMATS, doc_sentences, full_sentences
from roberta_jax.tokenization.sentences import split_lines, split_sentences

BOS, EOS, LENGTH = 0, 2, 16
BUDGET, HALF = LENGTH - 2, (LENGTH - 4) // 2
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


@pytest.fixture(scope="module")
def real(assets, roberta_tokenizer) -> list[list[int]]:
    """The lengths of the sentences of a novel's worth of documents from Wikipedia and of a play."""
    pieces = [piece for shard in resolve([str(assets / "text")], ReaderConfig(), assets, 1) for piece in shard]
    texts = (text for piece in pieces for text in read(piece, ReaderConfig(), Counts()))
    return [[len(roberta_tokenizer.encode(sentence)) for sentence in split_sentences(text)] for text in texts]


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


@pytest.mark.parametrize("format", ["full-sentences", "doc-sentences"])
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


@pytest.mark.parametrize("format", ["full-sentences", "doc-sentences", "doc-sentences-packed", "single-sentences-packed"])
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


# Several inputs in a row


def inputs_of(row) -> list[list[int]]:
    """The ids of each `<s> … </s>` of a row, and nothing is outside of them."""
    found = []
    for part in "".join(f" {id}" for id in row).split(f" {BOS} ")[1:]:
        *ids, end = map(int, part.split())
        assert end == EOS and ids and EOS not in ids
        found.append(ids)
    assert sum(map(len, found)) + 2 * len(found) == len(row) and row[0] == BOS
    return found


@settings(max_examples=200)
@given(lengths=LENGTHS, window=st.sampled_from([1, 60, 1 << 21]))
def test_packed_rows_hold_whole_sentences_of_one_document_an_input(lengths, window):
    documents = documents_of(lengths)
    origin, seen = origins(documents), {}
    with patch.object(packing, "PACKED_WINDOW", window):
        rows = [row.tolist() for row in FORMATS["doc-sentences-packed"](documents, LENGTH, BOS, EOS)]
    for row in rows:
        assert len(row) <= LENGTH
        for ids in inputs_of(row):
            assert ids == [*range(ids[0], ids[-1] + 1)] and len({origin[id][0] for id in ids}) == 1
            (_, _, _, first), (number, _, length, last) = origin[ids[0]], origin[ids[-1]]
            assert first == 0 and last == length - 1
            seen.setdefault(number, []).extend(ids)
    for number, document in enumerate(documents):  # each in its order
        assert seen.get(number, []) == [id for sentence in document for id in sentence.tolist()]


@settings(max_examples=200)
@given(lengths=LENGTHS)
def test_packed_single_sentences_stand_alone(lengths):
    documents = documents_of(lengths)
    rows = [row.tolist() for row in FORMATS["single-sentences-packed"](documents, LENGTH, BOS, EOS)]
    sentences = [sentence for document in documents for sentence in document]
    parts = [sentence[i : i + BUDGET] for sentence in sentences for i in range(0, len(sentence), BUDGET)]
    assert sorted(ids for row in rows for ids in inputs_of(row)) == [part.tolist() for part in parts]
    assert all(len(row) <= LENGTH for row in rows)


def test_single_sentences_are_those_of_single_lines_and_what_their_texts_would_be_alone():
    text = "so it ends. Then\nit goes on.  \tAnd on!\r\n\n \nwhat's this?\nwhat's that?"
    assert split_lines(text) == ["so it ends.", "Then", "it goes on.", "And on!", "what's this?", "what's that?"]
    assert len(split_sentences(text)) < 6 and split_lines(" \n") == []


def test_a_document_that_fits_whole_goes_before_another_s_sentences():
    documents = documents_of([[4, 5], [1, 1, 9], [3]])
    row, *others = [row.tolist() for row in FORMATS["doc-sentences-packed"](documents, LENGTH, BOS, EOS)]
    assert [len(ids) for ids in inputs_of(row)] == [11] and [len(ids) for ids in inputs_of(others[0])] == [9, 3]
    documents = documents_of([[4, 5], [1, 2, 9]])  # 12, which leaves room for nothing; and then 9
    rows = FORMATS["doc-sentences-packed"](documents, LENGTH, BOS, EOS)
    assert [[len(ids) for ids in inputs_of(row.tolist())] for row in rows] == [[12], [9]]


@pytest.mark.parametrize("length", [128, 512])
def test_packed_rows_of_real_text_are_97_per_cent_full(real, length):
    rows = list(FORMATS["doc-sentences-packed"](documents_of(real), length, BOS, EOS))
    assert sum(map(len, rows)) > 0.97 * length * len(rows)
    tokens = np.sort(np.concatenate(rows))
    np.testing.assert_array_equal(tokens[tokens > EOS], np.arange(10, 10 + sum(map(sum, real))))


# Pairs


def pair_of(row) -> tuple[bool, list[int], list[int]]:
    """(whether B follows A, A, B), of a row as it lies on the disk."""
    label, *ids = row.tolist()
    assert label in (BOS, EOS) and ids[-1] == EOS and BOS not in ids
    ends = [i for i, id in enumerate(ids) if id == EOS]
    assert len(ends) == 3 and ends[1] == ends[0] + 1
    return label == BOS, ids[: ends[0]], ids[ends[1] + 1 : -1]


@pytest.mark.parametrize("format", PAIRS)
@settings(max_examples=200)
@given(lengths=LENGTHS, window=st.integers(1, 4))
def test_pairs_hold_every_token_once_and_say_whose_b_is(format, lengths, window):
    documents = documents_of(lengths)
    document_of = {id: number for number, document in enumerate(documents) for s in document for id in s.tolist()}
    with patch.object(packing, "PAIRS_WINDOW", window):
        pairs = [pair_of(row) for row in FORMATS[format](documents, LENGTH, BOS, EOS)]
    for follows, first, second in pairs:
        assert 1 <= len(first) <= HALF and len(second) <= HALF
        for part in (first, second):
            assert part == [*range(part[0], part[0] + len(part))] if part else True
        assert len({document_of[id] for id in first}) == 1 and len({document_of[id] for id in second}) <= 1
        if follows and second:
            assert second[0] == first[-1] + 1 and document_of[second[0]] == document_of[first[0]]
        elif second:
            assert document_of[second[0]] != document_of[first[0]]
        else:  # what was cut in two was a single id, of this document or of the one that B is from
            assert len(first) == 1 or not follows
    assert sorted(id for _, first, second in pairs for id in first + second) == sorted(document_of)


def shown(format, *lengths) -> list[tuple[list[int], list[int]]]:
    """Pairs of a single document, as numbers from 0 on."""
    rows = FORMATS[format](documents_of([lengths]), LENGTH, BOS, EOS)
    return [([id - 10 for id in first], [id - 10 for id in second]) for _, first, second in map(pair_of, rows)]


def test_what_a_segment_and_a_sentence_are():
    assert shown("segment-pair", 2, 3, 4, 1) == [([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])]
    assert shown("sentence-pair", 2, 3, 4, 1) == [([0, 1], [2, 3, 4]), ([5, 6, 7, 8], [9])]
    assert shown("sentence-pair", 8, 1) == [([0, 1, 2, 3, 4, 5], [6, 7]), ([8], [])]  # longer than its half; a single id


def test_the_last_of_an_odd_number_is_cut_where_a_sentence_ends_or_in_the_middle():
    assert shown("segment-pair", 1, 2, 3) == [([0, 1, 2], [3, 4, 5])]
    assert shown("segment-pair", 1, 1, 4) == [([0, 1], [2, 3, 4, 5])]
    assert shown("segment-pair", 5) == shown("sentence-pair", 5) == [([0, 1, 2], [3, 4])]


@pytest.mark.parametrize(("format", "length"), [("segment-pair", 128), ("sentence-pair", 512)])
def test_half_of_real_pairs_are_of_two_documents(real, format, length):
    documents = documents_of(real)
    document_of = np.repeat(np.arange(len(real)), [sum(lengths) for lengths in real])
    pairs = [pair_of(row) for row in FORMATS[format](documents, length, BOS, EOS)]
    same = [document_of[first[0] - 10] == document_of[second[0] - 10] for _, first, second in pairs if second]
    labels = [follows for follows, _, second in pairs if second]
    assert same == labels and len(same) > 0.99 * len(pairs) > 400
    assert abs(np.mean(labels) - 0.5) < 0.01


def test_pairs_are_a_function_of_their_documents():
    documents = documents_of([[3, 4], [5, 6, 2]] * 20)
    first, again = (list(FORMATS["segment-pair"](documents, LENGTH, BOS, EOS)) for _ in range(2))
    assert list(map(pair_of, first)) == list(map(pair_of, again))


def test_neither_a_large_document_nor_a_small_one_gives_the_label_away():
    chooser = np.random.default_rng(1)
    lengths = [[6] * int(chooser.choice([2, 2, 4, 100])) for _ in range(3_000)]
    document_of = np.repeat(np.arange(3_000), list(map(sum, lengths)))
    found = {2: [], 4: [], 100: []}
    for follows, first, _ in map(pair_of, FORMATS["sentence-pair"](documents_of(lengths), LENGTH, BOS, EOS)):
        found[len(lengths[document_of[first[0] - 10]])].append(follows)
    for labels in found.values():
        assert abs(np.mean(labels) - 0.5) < 0.03


def test_a_document_with_most_of_the_pairs_waits_for_others_or_keeps_its_own():
    alone = [pair_of(row) for row in FORMATS["sentence-pair"](documents_of([[3] * 40]), LENGTH, BOS, EOS)]
    assert all(follows for follows, _, _ in alone) and len(alone) == 20
    beside = [pair_of(row) for row in FORMATS["sentence-pair"](documents_of([[3] * 40, [3, 3], [3, 3]]), LENGTH, BOS, EOS)]
    assert sum(not follows for follows, _, _ in beside) == 4  # both of the small ones, with two of the large one
    half = [pair_of(row) for row in FORMATS["sentence-pair"](documents_of([[3] * 400, [3] * 160]), LENGTH, BOS, EOS)]
    assert sum(follows for follows, _, _ in half) == 140
    with patch.object(packing, "PAIRS_WINDOW", 1):  # the window grows until others have as many
        later = FORMATS["sentence-pair"](documents_of([[3] * 400] + [[3, 3]] * 400), LENGTH, BOS, EOS)
        assert abs(np.mean([pair_of(row)[0] for row in later]) - 0.5) < 0.05
