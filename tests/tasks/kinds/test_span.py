"""Answers go into rows and come out of their logits unharmed, against brute force and transformers' offsets."""

import itertools
import json

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings

from roberta_jax.errors import UserError
from roberta_jax.tasks.definitions import Example
from roberta_jax.tasks.kinds.span import SPAN, best_spans, encode_windows, prediction_files
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE


@pytest.fixture(scope="module")
def xquad(assets):
    """Language → examples."""

    def read(language: str) -> list[Example]:
        articles = json.loads((assets / "squad" / f"xquad.{language}.json").read_text("utf-8"))["data"]
        return [
            Example(
                f"{language}:{question['id']}",
                question["id"],
                (question["question"], paragraph["context"]),
                tuple((answer["text"], answer["answer_start"]) for answer in question["answers"]),
            )
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]

    return {language: read(language) for language in ("en", "zh", "hi")}


# Rows of 384, stride 128. Inexact: `19.3%)` is two tokens, `19` … `%)`, and the answer `19.3%`; elsewhere it is `",` or `).`,
# and once the annotation ends inside a number. Held by none: answers longer than the overlap, in letters of three tokens.
@pytest.mark.parametrize(
    ("language", "rows", "inexact", "cut", "held_by_none"),
    [("en", 1217, 13, 0, 0), ("zh", 2689, 1, 38, 0), ("hi", 7254, 5, 921, 4)],
)
def test_every_answer_of_xquad_is_recovered(xquad, text, language, rows, inexact, cut, held_by_none):
    examples = xquad[language]
    windows = encode_windows(examples, text, 384)
    assert len(examples) == 1190
    held, exact = np.zeros(1190, bool), np.zeros(1190, bool)
    for window, (first, last) in zip(windows.rows, windows.targets):
        example = examples[window.example]
        answer, begin = example.label[0]
        offsets = windows.offsets[window.example]
        touching = np.flatnonzero((offsets[:, 0] < begin + len(answer)) & (offsets[:, 1] > begin))
        inside = window.start <= touching[0] and touching[-1] < window.start + window.count
        assert (first > 0) == inside
        if not inside:
            assert (first, last) == (0, 0)
            continue
        shift = window.start - window.head
        assert (first + shift, last + shift) == (touching[0], touching[-1])
        start, end = offsets[touching[0]][0], offsets[touching[-1]][1]
        assert start <= begin and begin + len(answer) <= end
        # the ids themselves say the same, whatever the offsets: bytes of the text, with at most one space before them
        said = text.base.decode_bytes(window.ids[first : last + 1]).decode("utf-8", "replace").removeprefix(" ")
        assert answer in said
        held[window.example] = True
        exact[window.example] = example.texts[1][start:end] == answer
    assert (~held).sum() == held_by_none and len(windows.rows) == rows
    assert (held & ~exact).sum() == inexact
    assert windows.cut == cut


@pytest.mark.parametrize(("max_length", "stride"), [(384, 128), (64, 128), (512, 0)])
def test_windows_have_the_shape_they_should(xquad, text, max_length, stride):
    for examples in xquad.values():
        examples = examples[::40]
        windows = encode_windows(examples, text, max_length, stride)
        by_example = itertools.groupby(windows.rows, lambda window: window.example)
        for (i, group), example in zip(by_example, examples, strict=True):
            question, context = text.encode(example.texts)
            limit = min(64, max_length // 2 - 3)
            room = max_length - 4 - len(question[:limit])
            step, reached, row_windows = room - min(stride, room // 2), 0, list(group)
            for n, window in enumerate(row_windows):
                part = context[window.start : window.start + room]
                assert window.ids.tolist() == [0, *question[:limit], 2, 2, *part, 2] and window.ids.dtype == np.int32
                assert window.start == n * step and window.count == len(part) and len(window.ids) <= max_length
                assert reached < len(context), "a row that adds nothing"
                reached = window.start + window.count
            assert reached == len(context) and examples[i] is example


def test_rows_and_offsets_are_those_of_transformers(xquad, text, tmp_path):
    text.save(tmp_path)
    tokenizer = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    compared = 0
    for examples in xquad.values():
        examples = [example for example in examples[::10] if len(text.encode([example.texts[0]])[0]) <= 64]
        windows = encode_windows(examples, text, 256, 64)
        theirs = tokenizer(
            [example.texts[0] for example in examples],
            [example.texts[1] for example in examples],
            truncation="only_second",
            max_length=256,
            stride=64,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        assert theirs["input_ids"] == [window.ids.tolist() for window in windows.rows]
        assert theirs["overflow_to_sample_mapping"] == [window.example for window in windows.rows]
        for window, offsets in zip(windows.rows, theirs["offset_mapping"]):
            ours = windows.offsets[window.example][window.start : window.start + window.count]
            context = examples[window.example].texts[1]
            for (start, end), (a, b) in zip(ours.tolist(), offsets[window.head : -1], strict=True):
                assert start > end or (start, end) == (a, b) or not context[a:b].strip()
                compared += 1
    assert compared > 50_000


QUESTION = "Who?"
#  The context, an answer, where it begins, and what the fewest tokens say.
COVERED = [
    ("The naïve 東京 tower", "東京", 10, "東京"),  # several tokens a character
    ("The naïve 東京 tower", "京", 11, "京"),
    ("The naïve 東京 tower", "naïve", 4, "naïve"),
    ("It costs $5.", "5", 10, "5"),
    ("19.3%) of them", "19.3%", 0, "19.3%)"),  # ends inside a token
    ("unbelievably", "e", 3, "bel"),  # inside a token, `un` `bel` `iev` `ably`
    ("Paris", "Paris", 0, "Paris"),
    ("two  spaces\n\n and lines ", "spaces\n\n and", 5, "spaces\n\n and"),
    ("in  Paris", "  Paris", 2, "Paris"),  # an answer with its white space
]


@pytest.mark.parametrize(("context", "answer", "start", "expected"), COVERED)
def test_the_fewest_tokens_that_cover_the_answer(text, context, answer, start, expected):
    assert context[start : start + len(answer)] == answer
    windows = encode_windows([Example("", "q", (QUESTION, context), ((answer, start), ("ignored", 0)))], text, 64)
    (window,), ((first, last),) = windows.rows, windows.targets.tolist()
    said = windows.offsets[0][[first - window.head, last - window.head]]
    assert context[said[0, 0] : said[1, 1]] == expected
    assert first > 0


def test_without_an_answer_the_target_is_the_first_token(text):
    contexts = ["One two three.", "", " \n "]
    windows = encode_windows([Example("", "q", (QUESTION, context), ()) for context in contexts], text, 64)
    assert windows.targets.tolist() == [[0, 0]] * 3
    unread = encode_windows([Example("", "q", (QUESTION, "One two"), (("One", 0),))], text, 64, answers=False)
    assert unread.targets.tolist() == [[0, 0]]
    assert encode_windows([], text, 64).targets.shape == (0, 2)


def test_numbers_that_leave_no_room_are_one_sentence(text):
    example = [Example("", "q", (QUESTION, "One two"), ())]
    for arguments in ((7,), (64, -1), (64, 0, 0)):
        with pytest.raises(UserError, match="expected 8, 0 and 1 or more"):
            encode_windows(example, text, *arguments)
    assert max(len(window.ids) for window in encode_windows(example, text, 8).rows) <= 8


SMALL = LosslessTokenizer(ByteLevelBPE.train(["the cat sat on the mat and the dog ran"] * 20, 280))
CONTEXT = st.lists(st.sampled_from(["the cat", "dog", " ", "  ", "\n", "é", "東京", ".", "sat "]), max_size=14).map("".join)


def slowly(windows, logits, i: int, max_tokens: int) -> tuple[dict[tuple[int, int], float], float, float]:
    """({(start, end): score}, least sum at `<s>`, greatest third logit) of example i, each pair of tokens in its turn."""
    best, empty, has_answer, context = {}, np.inf, -np.inf, windows.examples[i].texts[1]
    for window, values in zip(windows.rows, logits):
        if window.example != i:
            continue
        empty, has_answer = min(empty, values[0, 0] + values[0, 1]), max(has_answer, values[0, -1])
        spans_of_text = SMALL.encode_with_spans(context)[1]
        for first in range(window.count):
            for last in range(first, min(window.count, first + max_tokens)):
                begin, end = spans_of_text[window.start + first, 0], spans_of_text[window.start + last, 1]
                said = context[begin:end]
                if said.strip():
                    key = (begin + len(said) - len(said.lstrip()), end - len(said) + len(said.rstrip()))
                    score = float(values[window.head + first, 0] + values[window.head + last, 1])
                    best[key] = max(score, best.get(key, -np.inf))
    return best, float(empty), float(has_answer)


@settings(max_examples=150)
@given(st.lists(CONTEXT, min_size=1, max_size=3), st.integers(2, 3), st.integers(1, 6), st.integers(0, 2**32 - 1), st.data())
def test_the_best_spans_are_those_of_a_slow_search(contexts, columns, n_best, seed, data):
    examples = [Example("", str(i), ("cat?", context)) for i, context in enumerate(contexts)]
    max_length, max_tokens = data.draw(st.integers(14, 40)), data.draw(st.integers(1, 30))
    windows = encode_windows(examples, SMALL, max_length, stride=8, answers=False)
    random = np.random.default_rng(seed)
    logits = [random.normal(size=(len(w.ids) + random.integers(3), columns)).astype(np.float32) for w in windows.rows]
    found = best_spans(windows, logits, n_best, max_tokens)
    assert len(found) == len(examples)
    for i, (one, context) in enumerate(zip(found, contexts)):
        expected, empty, has_answer = slowly(windows, logits, i, max_tokens)
        ranked = sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:n_best]
        assert [((span.start, span.end), span.score) for span in one.spans] == ranked
        assert all(span.text == context[span.start : span.end] == span.text.strip() for span in one.spans)
        weights = np.exp([score for _, score in ranked])
        np.testing.assert_allclose([span.probability for span in one.spans], weights / weights.sum(), rtol=1e-6)
        score = ranked[0][1] if ranked else 0.0
        assert one.null_score == pytest.approx(empty - score if columns == 2 else -has_answer, abs=1e-6)


def test_predictions_are_what_squads_script_reads(text):
    examples = [Example("", name, (QUESTION, context)) for name, context in (("a", "one two"), ("b", "three"), ("c", ""))]
    windows = encode_windows(examples, text, 64, answers=False)
    logits = [np.zeros((len(window.ids), 2), np.float32) for window in windows.rows]
    logits[0][windows.rows[0].head + 1] = 2  # "two"
    logits[1][0] = 3
    found = best_spans(windows, logits)
    files = prediction_files(windows, found, threshold=0.0)
    assert files["predictions.json"] == {"a": "two", "b": "", "c": ""}
    assert files["null_odds.json"] == {"a": -4.0, "b": 6.0, "c": 0.0}
    best = files["nbest_predictions.json"]
    assert best["a"][0].keys() == {"text", "start", "end", "score", "probability"} and best["a"][0]["start"] == 4
    assert [span["text"] for span in best["a"]] == ["two", "one two", "one"] and best["c"] == []
    assert prediction_files(windows, found)["predictions.json"] == {"a": "two", "b": "three", "c": ""}
    assert json.loads(json.dumps(files, allow_nan=False)) == files


def test_padding_is_no_end_of_a_span_and_a_third_output_adds_its_loss():
    logits = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    logits[:, 5] = 50  # padding, and what stands there must not count
    segment_ids = np.array([[1, 1, 1, 1, 1, 0]] * 2)
    labels = np.array([(2, 4), (0, 0)])
    values, right = SPAN.loss(logits, {"segment_ids": segment_ids, "labels": labels})
    for row, (first, last) in enumerate(labels):
        starts, ends = torch.tensor(logits[row, :5, :2]).log_softmax(0).T
        answerable = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(logits[row, 0, 2]), torch.tensor(float(row == 0))
        )
        np.testing.assert_allclose(values[row], -(starts[first] + ends[last]) / 2 + answerable, rtol=1e-5)
        assert not right[row]

        logits[row, first, 0] = logits[row, last, 1] = 40
    assert SPAN.loss(logits, {"segment_ids": segment_ids, "labels": labels})[1].all()
    two, _ = SPAN.loss(logits[..., :2], {"segment_ids": segment_ids, "labels": labels})
    assert (np.asarray(two) < 1e-6).all()
