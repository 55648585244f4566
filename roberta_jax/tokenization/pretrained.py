"""The tokenizer of a model that was read: one of ours, or any `tokenizer.json`, behind one interface.

Ids here hold no `<s>` and `</s>` around the text, `join` puts them there; special tokens inside a text are recognised, and
`<mask>` swallows the white space before it, both as in transformers.
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.output import to_json
from roberta_jax.tokenization import encodings, published
from roberta_jax.tokenization.json_tokenizer import JsonTokenizer
from roberta_jax.tokenization.published import Frame
from roberta_jax.tokenization.tokenizer import BOS, EOS, MASK, PAD, SPECIAL_TOKENS, UNK, Tokenizer, raw_bytes

# Unicode's White_Space, which is what `tokenizers` strips; Python's \s would take four control characters too.
_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
# The white space before a mask is looked at from its beginning alone, or a long run of it would be looked at from each place.
_SPECIAL = re.compile(f"(?:(?<!{_SPACE}){_SPACE}++)?{MASK}|{BOS}|{PAD}|{EOS}|{UNK}")


class Sentence(NamedTuple):
    """A text's ids as the model's own tokenizer gives them, with the special tokens that it adds, if it adds any."""

    ids: np.ndarray  # int32 [n]
    special: np.ndarray  # bool [n]: it was added
    words: np.ndarray  # int32 [n]: which piece of the text, as it is first cut, the token is of; -1 where it was added


def _fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer of ours as `tokenizer.json`, for the `tokenizers` library and transformers."""
    whole, special = tokenizer.fast(), tokenizer.special
    whole.post_processor = tokenizers.processors.RobertaProcessing(
        (EOS, tokenizer.eos), (BOS, tokenizer.bos), trim_offsets=True, add_prefix_space=False
    )
    whole.add_special_tokens(
        [
            tokenizers.AddedToken(token, lstrip=token == MASK, normalized=False, special=True)
            for token in sorted(SPECIAL_TOKENS, key=special.get)
        ]
    )
    return json.loads(whole.to_str())


_NAMES = dict(zip(("bos", "pad", "eos", "unk", "mask"), SPECIAL_TOKENS))


class FastTokenizer:
    """A tokenizer through the `tokenizers` library: a `tokenizer.json` of any model family, and any of ours.

    Args:
      base: the tokenizer for texts without special tokens.
      whole: the same as a tokenizer.json that knows them, where `base` is one of ours.
    """

    def __init__(self, base: Tokenizer, origin: str = "", whole: JsonTokenizer | None = None):
        self.base = base
        self._whole = whole or (base if isinstance(base, JsonTokenizer) else JsonTokenizer(_fields(base), _NAMES, origin))
        self._fast = self._whole.library
        self.bos, self.pad, self.eos, self.mask = (getattr(self._whole, name) for name in ("bos", "pad", "eos", "mask"))
        self.mask_token = self._whole.names["mask"]
        *self.frames, typed = published.frames(self._fast, origin)
        self.types_of_pairs = typed and self._whole.types

    def __len__(self) -> int:
        return len(self._whole)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 [n] for each text."""
        encodings = self._fast.encode_batch_fast([published.readable(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n], int [n, 2]: where in the text each token begins and ends; white space may stand at both ends)."""
        encoding = self._untrimmed.encode(published.readable(text), add_special_tokens=False)
        ids, spans = np.array(encoding.ids, np.int32), np.array(encoding.offsets, int).reshape(-1, 2)
        blank = np.array([self._whole.token_bytes[i].isspace() for i in ids], bool)
        spans[blank, 1] = spans[blank, 0]  # a space that is not in the text is said to be the letter behind it
        return ids, spans

    @functools.cached_property
    def _untrimmed(self) -> tokenizers.Tokenizer:
        """Post-processors take a letter for the space that a pre-tokenizer has put in front of it."""
        return tokenizers.Tokenizer.from_str(to_json(self._whole.fields | {"post_processor": None}))

    def decode(self, ids: Iterable[int]) -> str:
        return self._fast.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> str:
        return published.dumped(self._whole.fields)

    def fast(self) -> tokenizers.Tokenizer:
        return self._whole.fast()

    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json must say for transformers to give the same ids."""
        return self._whole.settings()

    def save(self, folder: Path) -> None:
        """Writes a file of ours too, where there is one."""
        self.base.save(folder)
        storage.write_text(folder / published.JSON, self.to_json())


class LosslessTokenizer:
    """A tokenizer of ours that keeps every byte, on texts in which special tokens may stand."""

    mask_token, types_of_pairs = MASK, False

    def __init__(self, base: Tokenizer):
        self.base = base
        self.bos, self.pad, self.eos, self.mask = base.bos, base.pad, base.eos, base.mask
        self.frames = published.usual_frames(base.bos, base.eos)

    def __len__(self) -> int:
        return len(self.base)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 [n] for each text."""
        plain = [not _SPECIAL.search(text) for text in texts]
        encoded = iter(self.base.encode_batch([text for text, is_plain in zip(texts, plain) if is_plain]))
        return [next(encoded) if is_plain else self._encode(text) for text, is_plain in zip(texts, plain)]

    def _encode(self, text: str) -> np.ndarray:
        parts, start = [], 0
        for match in _SPECIAL.finditer(text):
            token = match[0] if match[0] in SPECIAL_TOKENS else MASK
            parts += [self.base.encode(text[start : match.start()]), [self.base.special[token]]]
            start = match.end()
        return np.concatenate([*parts, self.base.encode(text[start:])]).astype(np.int32)

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(ids int32 [n], int [n, 2]: where in the text each token begins and ends, its leading space left out)."""
        if _SPECIAL.search(text):
            return self._library.encode_with_spans(text)
        ids = self.base.encode(text)
        # Byte → the character that it belongs to. A token may be part of a character: its span is the whole of it.
        lengths = [len(raw_bytes(one) if "\ud800" <= one <= "\udfff" else one.encode()) for one in text]
        character = np.append(np.repeat(np.arange(len(text)), lengths), len(text))
        pieces = [self.base.token_bytes[i] for i in ids]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
        starts = ends - np.array([len(piece.lstrip(b" ")) for piece in pieces], int)
        last = character[np.maximum(ends - 1, 0)] + 1
        return ids, np.stack([np.minimum(character[starts], last), last], axis=1)

    @functools.cached_property
    def _library(self) -> FastTokenizer:
        return FastTokenizer(self.base)

    def decode(self, ids: Iterable[int]) -> str:
        return self.base.decode(ids)

    def to_json(self) -> str:
        return self._library.to_json()

    def fast(self) -> tokenizers.Tokenizer:
        return self._library.fast()

    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json must say for transformers to give the same ids."""
        return self._library.settings()

    def save(self, folder: Path) -> None:
        self._library.save(folder)


PretrainedTokenizer = LosslessTokenizer | FastTokenizer


def encode_whole(fast: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Sentence]:
    """Each text as `fast`, a PretrainedTokenizer's, cuts it and adds special tokens to it."""
    fast.no_truncation()
    fast.no_padding()
    return [
        Sentence(np.array(encoding.ids, np.int32), np.array(encoding.special_tokens_mask, bool), _words(fast, encoding))
        for encoding in fast.encode_batch([published.readable(text) for text in texts])
    ]


def _words(fast: tokenizers.Tokenizer, encoding: tokenizers.Encoding) -> np.ndarray:
    """Which word each token is of, −1 of special ones. int32 [n]

    By the pre-tokenizer; without one, as in SentencePiece, for which the library takes a text for one word, a word begins with
    the token that stands for a space too.
    """
    special = np.array(encoding.special_tokens_mask, bool)
    if fast.pre_tokenizer is None:
        numbers = np.cumsum([token.startswith(("▁", " ")) for token in encoding.tokens])
    else:
        numbers = np.array([-1 if word is None else word for word in encoding.word_ids])
    return np.where(special, -1, numbers).astype(np.int32)


def encode_rows(
    tokenizer: PretrainedTokenizer, texts: Sequence[Sequence[str]], max_length: int
) -> tuple[list[np.ndarray], int]:
    """`<s> A </s>` of each (A,), `<s> A </s></s> B </s>` of each (A, B), or as the tokenizer joins them, at most `max_length`
    ids, the longer cut first.

    Returns:
      (int32 [n] for each; how many were cut).
    """
    encoded = iter(tokenizer.encode([part for parts in texts for part in parts]))
    rows, cut = [], 0
    for parts in texts:
        ids = [next(encoded) for _ in parts]
        room = max_length - added(tokenizer, len(ids))
        cut += sum(map(len, ids)) > room
        rows.append(join(tokenizer, _cut(ids, room)))
    return rows, cut


def frame_of(tokenizer: PretrainedTokenizer, texts: int) -> Frame:
    """The ids before, between and behind a row's texts, one or two of them."""
    if texts > 1 and tokenizer.types_of_pairs:
        raise UserError(
            "this model has token types, and its tokenizer gives those of a pair's second text the type 1 (BERT's way), which "
            "nothing here does for a model that was read; give it single texts."
        )
    return tokenizer.frames[texts - 1]


def added(tokenizer: PretrainedTokenizer, texts: int) -> int:
    """How many ids a row has beside those of its texts."""
    return sum(map(len, frame_of(tokenizer, texts)))


def join(tokenizer: PretrainedTokenizer, ids: Sequence[np.ndarray]) -> np.ndarray:
    """One or two texts' ids as a row."""
    before, *behind = frame_of(tokenizer, len(ids))
    return np.array([*before, *(i for text, after in zip(ids, behind) for i in (*text, *after))], np.int32)


def _cut(ids: list[np.ndarray], room: int) -> list[np.ndarray]:
    """One or two texts in `room` tokens, the longer one cut first."""
    if len(ids) == 1:
        return [ids[0][:room]]
    short, long = sorted((0, 1), key=lambda i: len(ids[i]))
    parts = list(ids)
    parts[short] = ids[short][: room // 2]
    parts[long] = ids[long][: room - len(parts[short])]
    return parts


def load_tokenizer(folder: str | Path) -> PretrainedTokenizer | None:
    """The tokenizer of a folder, of ours or of transformers' files; None where there is none.

    Raises:
      UserError: the files are damaged, or only such that nothing here reads.
    """
    base = encodings.find(folder)
    if base is None or base.encoding in encodings.LOSSLESS:
        return base and LosslessTokenizer(base)
    return FastTokenizer(base, str(folder))
