"""Sentences to rows: the input formats of RoBERTa's section 4.2 that need no next-sentence label.

A document is a list of sentences, a sentence an array of ids; joined they are the document's ids, so nothing is lost
or added inside it. A row is `<s> … </s>`, at most `max_length` ids. Where one document ends inside a row and another
begins, `</s></s>` parts them, the form that fine-tuning gives a pair of texts. A sentence longer than a row is cut into
rows.

A later format that puts several inputs into one row starts each with its own `<s>`; that is all attention needs to keep
them apart (see `pipeline.segment_ids`).
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

Document = list[np.ndarray]

# Where a sentence ends, after Unicode's UAX #29 and for any language: terminators and what closes behind them, then
# white space that no lower-case letter follows; the full stops of scripts without spaces, then a letter; a paragraph's
# end. A single line break ends nothing. Each end lies on a boundary of the tokenizer's own pieces (whose white space
# leaves out four controls that Python's holds), so ids do not depend on it. Nothing backtracks over a page of dots, and
# each pattern starts with what is rare in a text.
_SPACE, _CLOSERS = r"[^\S\x1c-\x1f]", r"[\"'”’»)\]}」』）】》〉]*+"
_SENTENCE_END = re.compile(
    rf"[.!?…؟۔।॥](?<![.!?…؟۔।॥]{{2}})[.!?…؟۔।॥]*+{_CLOSERS}(?={_SPACE}++[^a-zß-öø-ÿα-ωа-я])"
    rf"|[。！？｡](?<![。！？｡]{{2}})[。！？｡]*+{_CLOSERS}(?={_SPACE}|[^\W_])"
)
_BLANK_LINE = re.compile(rf"\n[^\S\n\x1c-\x1f]*+\n{_SPACE}*+")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; joined they are the text. White space belongs to the sentence that follows it."""
    ends = {match.end() for match in _SENTENCE_END.finditer(text)}
    for match in _BLANK_LINE.finditer(text):
        end = match.start()
        while end and re.match(_SPACE, text[end - 1]):
            end -= 1
        ends.add(end)
    cuts = sorted({0, *ends, len(text)})
    return [text[start:end] for start, end in zip(cuts, cuts[1:])]


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


FORMATS = {"full-sentences": full_sentences, "doc-sentences": doc_sentences}
