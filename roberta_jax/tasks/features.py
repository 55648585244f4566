"""Examples to rows of ids with what is to be learned; extractive questions are in spans.py."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.tasks.definitions import Example
from roberta_jax.tokenization.model_tokenizer import Text, encode_rows, join

LONGEST_OPTION = 128  # ids of a question joined with an option (fairseq's RACE)
UNLABELLED = -1  # of a token that is not learned


@dataclass(frozen=True)
class Features:
    """What a model is given, and what it shall answer.

    | kind | labels |
    |---|---|
    | classification, multiple_choice | int32 [N] |
    | multi_label | float32 [N, labels] of 0 and 1 |
    | regression | float32 [N] |
    | span | int32 [N, 2], first and last token; 0, 0 where no answer is in the row |
    | tagging | N of int32 [ids], UNLABELLED but where a word begins |
    """

    rows: list[tuple[np.ndarray, ...]]  # N of the ids of one row, or of one row a choice
    labels: np.ndarray | list[np.ndarray] | None
    words: list[tuple[int, int, np.ndarray]] | None = None  # tagging: example, its first word here, where each word begins
    cut: int = 0  # how many examples were too long

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Ids of each feature's longest row."""
        return np.array([max(map(len, rows)) for rows in self.rows])


def encode(kind: str, examples: Sequence[Example], text: Text, labels: tuple[str, ...], max_length: int) -> Features:
    """Features of any kind but spans; without labels where the first example has none."""
    known = {label: i for i, label in enumerate(labels)}
    given = [example.label for example in examples] if examples[0].label is not None else None
    if kind == "tagging":
        return _tagging(examples, text, known, max_length)
    if kind == "multiple_choice":
        rows, cut = _choices(examples, text, max_length)
    else:
        encoded, cut = encode_rows(text, [example.texts for example in examples], max_length)
        rows = [(row,) for row in encoded]
    if given is None:
        found = None
    elif kind == "classification":
        found = np.array([_index(known, label, example) for label, example in zip(given, examples)], np.int32)
    elif kind == "multi_label":
        found = np.zeros((len(examples), len(labels)), np.float32)
        for i, (names, example) in enumerate(zip(given, examples)):
            found[i, [_index(known, name, example) for name in names]] = 1
    else:
        found = np.array(given, np.float32 if kind == "regression" else np.int32)
    return Features(rows, found, cut=cut)


def word_tags(features: Features, logits: Sequence[np.ndarray], labels: tuple[str, ...], examples: int) -> list[list[str]]:
    """The likeliest tag of each word of each example, read where the word begins; padding may follow in the logits."""
    found: list[list[str]] = [[] for _ in range(examples)]
    for (example, _, at), values in zip(features.words, logits):
        found[example] += [labels[tag] for tag in values[at].argmax(axis=-1)]
    return found


def _index(known: dict[str, int], label: str, example: Example) -> int:
    if label not in known:
        raise UserError(f"{example.place}: the label {label!r} is none of {', '.join(known)}.")
    return known[label]


def _choices(examples: Sequence[Example], text: Text, max_length: int) -> tuple[list[tuple[np.ndarray, ...]], int]:
    """`<s> passage </s></s> question and option </s>` for each option; the passage is cut so that all fit."""
    passages = text.encode([example.texts[0] for example in examples])
    options = iter(text.encode([option for example in examples for option in example.texts[1:]]))
    longest = min(LONGEST_OPTION, max_length - 4)
    rows, cut = [], 0
    for passage, example in zip(passages, examples):
        kept = [next(options)[:longest] for _ in example.texts[1:]]
        cut += len(passage) + max(map(len, kept)) > max_length - 4
        rows.append(tuple(join(text, [passage[: max_length - 4 - len(option)], option]) for option in kept))
    return rows, cut


def _tagging(examples: Sequence[Example], text: Text, known: dict[str, int], max_length: int) -> Features:
    """The words joined by spaces; a sentence too long for a row goes on in the next. A word's first token has its tag."""
    rows, labels, words, cut = [], [], [], 0
    for i, example in enumerate(examples):
        ids, spans = text.encode_with_spans(" ".join(example.texts))
        lengths = np.array([len(word) for word in example.texts])
        starts = np.cumsum(lengths + 1) - lengths - 1
        firsts = np.searchsorted(spans[:, 1], starts, side="right")  # the first token that ends behind the word's start
        parts = _parts(np.append(firsts, len(ids)), max_length - 2)
        cut += len(parts) > 1
        for first, last in parts:
            part = ids[firsts[first] : firsts[last] if last < len(firsts) else None][: max_length - 2]
            row = join(text, [part])
            at = np.minimum(firsts[first:last] - firsts[first] + 1, len(row) - 1)
            tags = np.full(len(row), UNLABELLED, np.int32)
            if example.label is not None:
                tags[at] = [_index(known, tag, example) for tag in example.label[first:last]]
            rows.append((row,))
            labels.append(tags)
            words.append((i, first, at))
    return Features(rows, labels if examples[0].label is not None else None, words, cut)


def _parts(firsts: np.ndarray, room: int) -> list[tuple[int, int]]:
    """Runs of words, first and last + 1, each of at most `room` tokens, or of one word. firsts int [words + 1]"""
    parts, start = [], 0
    while start < len(firsts) - 1:
        stop = int(np.searchsorted(firsts, firsts[start] + room, side="right")) - 1
        parts.append((start, max(stop, start + 1)))
        start = parts[-1][1]
    return parts
