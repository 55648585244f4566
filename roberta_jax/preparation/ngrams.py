"""Texts as hashes of their words: what near duplicates share, and what a text has in common with an evaluation set.

A word is a run of what is no white space, punctuation or symbol, in lower case; what lies beyond U+FFFF, most emoji, is in
words. An ideograph or a kana is a word of its own, and in scripts that put no spaces between words, such as Thai, a character
with its marks. Hashes have 64 bits and are the same in every process.
"""

import unicodedata
from collections.abc import Iterable

import numpy as np

SHINGLE = 5  # words; near duplicates are measured by the shingles that they share
HASHES, BANDS = 128, 16  # of a signature; of 8 hashes each: at a Jaccard similarity of 0.8 one of them agrees in 95% of pairs
OVERLAP = 13  # words in a row that a document must not share with an evaluation set (GPT-3, arXiv 2005.14165, appendix C)
SHORTEST_OVERLAP = 8  # words: a shorter evaluation text is too common inside others, so it counts against its equals alone

SHORTEST_UNSPACED = 20  # characters, as SHORTEST_OVERLAP, of a text in a script without spaces: about five words
UNSPACED = 3  # characters with their marks that stand for a word in scripts without spaces, about

_U64 = np.uint64
_FACTOR = 0x9E3779B97F4A7C15
VERSION = 2  # of what a word is: what depends on it is another corpus
_random = np.random.default_rng(0)
_MULTIPLIERS = _random.integers(1 << 32, size=(HASHES, 1), dtype=np.uint32) | np.uint32(1)
_OFFSETS = _random.integers(1 << 32, size=(HASHES, 1), dtype=np.uint32)
_powers = np.ones((2, 1), _U64)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the input changes every bit of the output."""
    values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
    return values ^ (values >> _U64(31))


def _powers_of_factor(size: int) -> np.ndarray:
    """The factor's powers 0 … size − 1 modulo 2⁶⁴, and those of its inverse. uint64 [2, ≥ size]"""
    global _powers
    if _powers.shape[1] < size:
        steps = np.array([[_FACTOR], [pow(_FACTOR, -1, 1 << 64)]], _U64)
        steps = np.repeat(steps, 1 << max(16, size.bit_length()), axis=1)
        steps[:, 0] = 1
        _powers = np.cumprod(steps, axis=1)
    return _powers


def _separating() -> np.ndarray:
    """By code point up to U+FFFF, whether it stands between words: white space, punctuation, a symbol, a control character."""
    categories = (unicodedata.category(chr(code)) for code in range(1 << 16))
    separates = np.array([category[0] in "PZS" or category == "Cc" for category in categories])
    separates[:128] = [not chr(code).isalnum() for code in range(128)]
    separates[0x2000:0x2040] = True  # what joins and parts letters unseen too
    return separates


_SEPARATES = _separating()
_SEPARATES_ALONE = np.append(_SEPARATES[:128], [False] * 128)  # by byte
_BEGINS, _JOINS = 1, 2  # what a character of a script without spaces does to words


def _unspaced() -> np.ndarray:
    """By code point; 0 of all others. All have three bytes in UTF-8, the first of them E0, E1 or EA."""
    kinds = np.zeros(1 << 16, np.uint8)
    blocks = (
        *(range(0x0E00, 0x0F00), range(0x1000, 0x10A0), range(0x1780, 0x1800)),  # Thai, Lao, Burmese, Khmer
        *(range(0x1950, 0x1AB0), range(0x1B00, 0x1B80)),  # Tai Le, New Tai Lue, Tai Tham, Balinese
        *(range(0xA980, 0xAA00), range(0xAA60, 0xAA80)),  # Javanese, more of Burmese
    )
    for code in (code for block in blocks for code in block):
        category = unicodedata.category(chr(code))
        kinds[code] = 0 if _SEPARATES[code] else _JOINS if category[0] == "M" else _BEGINS
    return kinds


_UNSPACED = _unspaced()


def _codes_at(raw: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Code points of the characters of two or three bytes that begin at `at`. uint16 [n]"""
    codes = raw[at].astype(np.uint16) & np.uint16(0x1F if size == 2 else 0xF)
    for i in range(1, size):
        codes = codes << np.uint16(6) | raw[at + i] & 0x3F
    return codes


def words(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, bytes]:
    """Each word's hash (uint64), its start and its end in bytes (int64), and the bytes: those of the text in lower case."""
    encoded = b" %b   " % text.lower().encode(errors="surrogatepass")  # so that every word has something on both sides
    raw = np.frombuffer(encoded, np.uint8)
    separates = _SEPARATES_ALONE[raw]
    two, three = np.flatnonzero((raw & 0xE0) == 0xC0), np.flatnonzero((raw & 0xF0) == 0xE0)
    codes_of_two, codes_of_three = _codes_at(raw, two, 2), _codes_at(raw, three, 3)
    for size, at in ((2, two[_SEPARATES[codes_of_two]]), (3, three[_SEPARATES[codes_of_three]])):
        for i in range(size):
            separates[at + i] = True
    kinds = _UNSPACED[codes_of_three]
    unspaced, kinds = three[kinds > 0], kinds[kinds > 0]
    starts, ends = ~separates, ~separates
    starts[1:] &= separates[:-1]
    ends[:-1] &= separates[1:]
    alone = np.flatnonzero((raw >= 0xE3) & (raw <= 0xE9) & ~separates)  # U+3000 … U+9FFF, three bytes each
    starts[alone], starts[alone + 3] = True, ~separates[alone + 3]
    ends[alone + 2], ends[alone - 1] = True, ~separates[alone - 1]
    if len(unspaced):
        begins = unspaced[kinds == _BEGINS]
        behind = unspaced[~np.isin(unspaced + 3, unspaced[kinds == _JOINS])] + 3
        starts[begins], starts[behind] = True, ~separates[behind]
        ends[behind - 1], ends[begins - 1] = True, ~separates[begins - 1]
    first, last = np.flatnonzero(starts), np.flatnonzero(ends) + 1
    # A word's hash is a polynomial of its bytes, and so a difference of two sums that run over the whole text.
    forward, back = _powers_of_factor(len(raw))
    sums = np.zeros(len(raw) + 1, _U64)
    np.cumsum((raw + _U64(1)) * forward[: len(raw)], out=sums[1:])
    return _mix((sums[last] - sums[first]) * back[first]), first, last, encoded


def ngrams(hashes: np.ndarray, size: int) -> np.ndarray:
    """The hash of each `size` words in a row. uint64 [max(0, words − size + 1)]"""
    count = max(0, len(hashes) - size + 1)
    grams = np.full(count, size, _U64)
    for i in range(size):
        grams = grams * _U64(_FACTOR) + hashes[i : i + count]
    return _mix(grams)


def signature(hashes: np.ndarray) -> np.ndarray:
    """MinHash: of two signatures as many entries agree as their texts' sets of shingles overlap. uint16 [HASHES]

    A text of fewer words than a shingle has is one shingle, one without words has no signature: zeros. Of each minimum,
    32 bits, the low 16 are kept.
    """
    if not len(hashes):
        return np.zeros(HASHES, np.uint16)
    shingles = (ngrams(hashes, min(SHINGLE, len(hashes))) >> _U64(32)).astype(np.uint32)
    minima = np.full(HASHES, np.iinfo(np.uint32).max)
    for start in range(0, len(shingles), 128):  # what fits the fastest cache
        np.minimum(minima, (_MULTIPLIERS * shingles[start : start + 128] + _OFFSETS).min(axis=1), out=minima)
    return minima.astype(np.uint16)


def bands(signatures: np.ndarray) -> np.ndarray:
    """uint16 [n, HASHES] → uint64 [n, BANDS], the bands' hashes: texts that agree in one may be near duplicates."""
    halves = np.ascontiguousarray(signatures).view(_U64).reshape(len(signatures), BANDS, HASHES // 4 // BANDS)
    hashes = np.broadcast_to(np.arange(BANDS, dtype=_U64), halves.shape[:2])
    for i in range(halves.shape[2]):
        hashes = _mix(hashes * _U64(_FACTOR) + halves[:, :, i])
    return hashes


def _is_unspaced(first: np.ndarray, encoded: bytes) -> bool:
    """Whether most words of a text are of scripts without spaces."""
    raw = np.frombuffer(encoded, np.uint8)
    three = first[(raw[first] == 0xE0) | (raw[first] == 0xE1) | (raw[first] == 0xEA)]
    return 2 * np.count_nonzero(_UNSPACED[_codes_at(raw, three, 3)]) > len(first)


def _whole(hashes: np.ndarray) -> np.ndarray:
    """The hash of a text that counts against its equals alone, where its number of words does not tell. uint64 [1]"""
    return _mix(ngrams(hashes, len(hashes)) ^ _U64(_FACTOR))


class Overlap:
    """The n-grams of evaluation sets.

    Args:
      grams: uint64 [n], sorted; lengths: the numbers of words that they have.
    """

    def __init__(self, grams: np.ndarray, lengths: Iterable[int]):
        self.grams, self.lengths = grams, sorted(map(int, lengths))

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Overlap":
        grams, lengths = [np.empty(0, _U64)], set()
        for text in texts:
            hashes, first, _, encoded = words(text)
            if len(hashes):
                length = min(OVERLAP, len(hashes))
                if _is_unspaced(first, encoded):
                    if len(text.strip()) < SHORTEST_UNSPACED:
                        grams.append(_whole(hashes))
                        continue
                    # Few lengths, since each is searched for.
                    length = max(length, min(UNSPACED * OVERLAP, len(hashes) - len(hashes) % UNSPACED))
                grams.append(np.unique(ngrams(hashes, length)))
                lengths.add(length)
        return cls(np.unique(np.concatenate(grams)), lengths)

    def find(self, text_words: tuple[np.ndarray, np.ndarray, np.ndarray, bytes]) -> str | None:
        """The first n-gram, of the longest, that a text's `words` share with the evaluation sets."""
        hashes, first, last, encoded = text_words
        for length in reversed(self.lengths):
            if length < SHORTEST_OVERLAP and len(hashes) != length:
                continue
            if len(hits := self._known(ngrams(hashes, length))):
                return encoded[first[hits[0]] : last[hits[0] + length - 1]].decode(errors="replace")
        if 0 < len(hashes) < SHORTEST_UNSPACED and len(self._known(_whole(hashes))):
            return encoded[first[0] : last[-1]].decode(errors="replace")
        return None

    def _known(self, grams: np.ndarray) -> np.ndarray:
        """Which of them are of evaluation sets. int64 [at most n]"""
        if not len(self.grams):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        return np.flatnonzero(self.grams[places] == grams)
