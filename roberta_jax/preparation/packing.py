"""Sentences to rows: the input formats of RoBERTa's section 4.2, and one that puts several inputs into a row.

A document is a list of sentences, a sentence an array of ids; joined they are the document's ids, so nothing is lost
or added inside it. A row is `<s> … </s>`, at most `max_length` ids. Where one document ends inside a row and another
begins, `</s></s>` parts them, the form that fine-tuning gives a pair of texts. A sentence longer than a row is cut into
rows.

Where a row holds several inputs each starts with its own `<s>`; that is all attention needs to keep them apart (see
`pipeline.segment_ids`).

A row of a pair is `<s> A </s></s> B </s>`. On the disk its first id is its label: `<s>` where B follows A, `</s>` where B
is another document's; the pipeline takes the label and puts `<s>` in its place before anything else sees the row. Half of
the Bs have changed places among the documents of a window, and so each token still stands in exactly one row.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from roberta_jax.data.corpus import PAIRS
from roberta_jax.tokenization.sentences import split_lines, split_sentences

Document = list[np.ndarray]
PAIRS_WINDOW = 256  # documents, at least, among which pairs exchange their second parts
PACKED_WINDOW = 1 << 21  # ids, about, of the documents that fill each other's rows


def sentences_of(format: str) -> Callable[[str], list[str]]:
    """How a text becomes what the format takes for sentences."""
    return split_lines if format == "single-sentences-packed" else split_sentences


def _sentences_that_fit(document: Document, budget: int) -> Iterator[np.ndarray]:
    for sentence in document:
        for start in range(0, len(sentence), budget):
            yield sentence[start : start + budget]


def full_sentences(documents: Iterable[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    """Whole sentences while they fit, across the ends of documents."""
    budget = max_length - 2
    head, tail, boundary = [np.array([bos])], [np.array([eos])], np.array([eos, eos])
    row, size = [], 0
    for document in documents:
        gap = len(boundary) if row else 0
        for sentence in _sentences_that_fit(document, budget):
            if size + gap + len(sentence) > budget:
                yield np.concatenate(head + row + tail)
                row, size, gap = [], 0, 0
            if gap:
                row.append(boundary)
            row.append(sentence)
            size += gap + len(sentence)
            gap = 0
    if row:
        yield np.concatenate(head + row + tail)


def doc_sentences(documents: Iterable[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    """Whole sentences while they fit; a document's end ends the row."""
    for document in documents:
        yield from full_sentences([document], max_length, bos, eos)


class _ByLength:
    """Rests of documents by their length; the bits of one integer tell which lengths there are."""

    def __init__(self):
        self._rests, self._lengths = defaultdict(list), 0

    def put(self, length: int, rest: tuple[int, int]) -> None:
        self._rests[length].append(rest)
        self._lengths |= 1 << length

    def longest(self, room: int, is_current: Callable[[tuple[int, int]], bool]) -> tuple[int, int] | None:
        """The longest rest that fits the room, of those that are still what is left of their document."""
        while fitting := self._lengths & ((2 << room) - 1):
            length = fitting.bit_length() - 1
            rests = self._rests[length]
            while rests:
                if is_current(rests[-1]):
                    return rests[-1]
                rests.pop()
            self._lengths ^= 1 << length
        return None


def doc_sentences_packed(documents: Iterable[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    """Several inputs a row, each `<s> … </s>` of whole sentences of one document, so that rows are full.

    A row begins with the document of which most is left. Into the room that its sentences leave goes the longest document, or
    rest of one, that fits whole; where none does, the sentences of that whose next one is the longest that fits.
    """
    window, size = [], 0
    for document in documents:
        window.append([*_sentences_that_fit(document, max_length - 2)])
        size += sum(map(len, window[-1]))
        if size >= PACKED_WINDOW:
            yield from _packed(window, max_length, bos, eos)
            window, size = [], 0
    yield from _packed(window, max_length, bos, eos)


def single_sentences_packed(documents: Iterable[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    """The same of single sentences, each an input."""
    sentences = ([sentence] for document in documents for sentence in document if len(sentence))
    return doc_sentences_packed(sentences, max_length, bos, eos)


def _packed(documents: list[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    head, tail, budget = np.array([bos]), np.array([eos]), max_length - 2
    done, left = [0] * len(documents), [sum(map(len, document)) for document in documents]  # sentences, ids
    # Of (document, its sentences that were done by then): by all that is left of it, and by its next sentence.
    longest_first, rests, nexts = [], _ByLength(), _ByLength()

    def put(document: int) -> None:
        if left[document]:
            rest = document, done[document]
            heapq.heappush(longest_first, (-left[document], rest))
            nexts.put(len(documents[document][done[document]]), rest)
            if left[document] <= budget:
                rests.put(left[document], rest)

    def is_current(rest: tuple[int, int]) -> bool:
        return done[rest[0]] == rest[1]

    def take(document: int, room: int) -> np.ndarray:
        """The document's next sentences, as many as fit."""
        sentences, start = documents[document], done[document]
        while done[document] < len(sentences) and len(sentences[done[document]]) <= room:
            room -= len(sentences[done[document]])
            done[document] += 1
        run = np.concatenate(sentences[start : done[document]])
        left[document] -= len(run)
        put(document)
        return run

    for document in range(len(documents)):
        put(document)
    while longest_first:
        _, rest = heapq.heappop(longest_first)
        if not is_current(rest):
            continue
        row, room = [], budget
        while rest:
            row += [head, take(rest[0], room), tail]
            room -= len(row[-2]) + 2
            rest = room > 0 and (rests.longest(room, is_current) or nexts.longest(room, is_current))
        yield np.concatenate(row)


def segment_pair(documents: Iterable[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    """Pairs of segments: each holds whole sentences of a document, as many as fit half a row."""
    return _pairs(_runs, documents, max_length, bos, eos)


def sentence_pair(documents: Iterable[Document], max_length: int, bos: int, eos: int) -> Iterator[np.ndarray]:
    """Pairs of single sentences."""

    def single(document: Document, half: int) -> list[Document]:
        return [[sentence] for sentence in _sentences_that_fit(document, half)]

    return _pairs(single, documents, max_length, bos, eos)


def _runs(document: Document, budget: int) -> list[Document]:
    """A document's whole sentences, together as many as fit."""
    runs, room = [], 0
    for sentence in _sentences_that_fit(document, budget):
        if len(sentence) > room:
            runs.append([])
            room = budget
        runs[-1].append(sentence)
        room -= len(sentence)
    return runs


def _in_two(part: Document) -> list[Document]:
    """Cut at the sentence end nearest the middle; a lone sentence in its middle, where one id leaves nothing to B."""
    if len(part) == 1:
        middle = (len(part[0]) + 1) // 2
        return [[part[0][:middle]], [part[0][middle:]]]
    ends = np.cumsum([len(sentence) for sentence in part])
    cut = 1 + int(np.argmin(np.abs(ends[:-1] - ends[-1] / 2)))
    return [part[:cut], part[cut:]]


def longest_sentence(format: str, max_length: int) -> int:
    """How many ids of a sentence have room in one piece."""
    return (max_length - 4) // 2 if format in PAIRS else max_length - 2


def _pairs(
    parts: Callable[[Document, int], list[Document]], documents: Iterable[Document], max_length: int, bos: int, eos: int
) -> Iterator[np.ndarray]:
    half, chooser = longest_sentence(PAIRS[0], max_length), np.random.default_rng(0)
    boundary, tail = np.array([eos, eos]), np.array([eos])
    for window in _windows_of_pairs(parts, documents, half):
        exchanged = _exchange(np.array([document for document, _, _ in window], np.int64), chooser)
        for (_, first, _), source, own in zip(window, exchanged, range(len(window))):
            label = np.array([bos if source == own else eos])
            yield np.concatenate([label, *first, boundary, *window[source][2], tail])


def _windows_of_pairs(
    parts: Callable[[Document, int], list[Document]], documents: Iterable[Document], half: int
) -> Iterator[list[tuple[int, Document, Document]]]:
    """Lists of (number of the document, A, B): of so many documents that none has most of the pairs, if there are as many."""
    before, window, number_in_window, most = [], [], 0, 0
    for number, document in enumerate(documents):
        segments = parts(document, half)
        if len(segments) % 2:
            segments[-1:] = _in_two(segments[-1])
        window += [(number, first, second) for first, second in zip(segments[::2], segments[1::2])]
        number_in_window, most = number_in_window + bool(segments), max(most, len(segments) // 2)
        if number_in_window >= PAIRS_WINDOW and 2 * most <= len(window):
            yield before
            before, window, number_in_window, most = window, [], 0, 0
    yield before + window


def _exchange(documents: np.ndarray, chooser: np.random.Generator) -> np.ndarray:
    """Whose B each pair gets: one of each two neighbours, by lot, gets another document's, the other its own. int64 [n]

    Args:
      documents: int64 [n], of each pair, ascending.
    """
    sources = np.arange(len(documents))
    chosen = sources[::2] + chooser.integers(2, size=len(sources[::2]))
    chosen = chosen[chosen < len(documents)]
    numbers, counts = np.unique(documents[chosen], return_counts=True)
    most = counts.max(initial=0)
    if 2 * most > len(chosen):  # of one document, more than the others' Bs are enough for: as many of its own as of theirs
        own = documents == numbers[counts.argmax()]
        most = min((len(documents) + chooser.integers(4)) // 4, own.sum(), (~own).sum())
        chosen = np.sort(np.concatenate([chooser.permutation(sources[part])[:most] for part in (own, ~own)]))
    if len(chosen):
        # Those of one document stand together, so so many places away there is none of them, either way round.
        sources[chosen] = np.roll(chosen, chooser.integers(most, len(chosen) - most + 1))
    return sources


FORMATS = {
    "full-sentences": full_sentences,
    "doc-sentences": doc_sentences,
    "doc-sentences-packed": doc_sentences_packed,
    "single-sentences-packed": single_sentences_packed,
    "segment-pair": segment_pair,
    "sentence-pair": sentence_pair,
}
