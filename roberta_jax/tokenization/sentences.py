"""Where the sentences of a text end, in any language."""

import re

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


def split_lines(text: str) -> list[str]:
    """The sentences of a text's lines, without the white space around them: each as a text of its own would be."""
    return [found for line in text.splitlines() for sentence in split_sentences(line) if (found := sentence.strip())]
