"""The tokenizer of a model that was read: one of ours, or any `tokenizer.json`, behind one interface.

Ids here hold no `<s>` and `</s>` around the text; the five special tokens inside a text are recognised, and `<mask>`
swallows the white space before it, as in transformers.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import BOS, EOS, MASK, PAD, SPECIAL_TOKENS, UNK, ByteLevelBPE, Tokenizer, raw_bytes

# Unicode's White_Space, which is what `tokenizers` strips; Python's \s would take four control characters too.
_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_SPECIAL = re.compile(f"{_SPACE}*{MASK}|{BOS}|{PAD}|{EOS}|{UNK}")


class Sentence(NamedTuple):
    """A text's ids as the model's own tokenizer gives them, with the special tokens that it adds, if it adds any."""

    ids: np.ndarray  # int32 [n]
    special: np.ndarray  # bool [n]: it was added
    words: np.ndarray  # int32 [n]: which piece of the text, as it is first cut, the token is of; -1 where it was added


def _to_json(tokenizer: Tokenizer) -> str:
    """The same as `tokenizer.json`, for the `tokenizers` library and transformers."""
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
    return whole.to_str()


class LosslessTokenizer:
    """A tokenizer of ours that keeps every byte, on texts in which special tokens may stand.

    Args:
      source: the tokenizer.json that it was read from, if it was.
    """

    def __init__(self, base: Tokenizer, source: str = ""):
        self.base, self._source = base, source
        self.bos, self.pad, self.eos, self.mask = base.bos, base.pad, base.eos, base.mask

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
        ids = self.base.encode(text)
        # Byte → the character that it belongs to. A token may be part of a character: its span is the whole of it.
        lengths = [len(raw_bytes(one) if "\ud800" <= one <= "\udfff" else one.encode()) for one in text]
        character = np.append(np.repeat(np.arange(len(text)), lengths), len(text))
        pieces = [self.base.token_bytes[i] for i in ids]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
        starts = ends - np.array([len(piece.lstrip(b" ")) for piece in pieces], int)
        last = character[np.maximum(ends - 1, 0)] + 1
        return ids, np.stack([np.minimum(character[starts], last), last], axis=1)

    def decode(self, ids: Iterable[int]) -> str:
        return self.base.decode(ids)

    def to_json(self) -> str:
        return _to_json(self.base)

    def fast(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._source or self.to_json())

    def save(self, folder: Path) -> None:
        self.base.save(folder)
        storage.write_text(folder / "tokenizer.json", self.to_json())


_HALF = re.compile("[\ud800-\udfff]")


def _whole(text: str) -> str:
    """The text as `tokenizers` takes it: half of a pair of surrogates, as a cut tweet has, is U+FFFD."""
    return _HALF.sub("\ufffd", text)


class FastTokenizer:
    """A `tokenizer.json` of any model family (XLM-R's, CamemBERT's), through the `tokenizers` library.

    Args:
      base: the tokenizer of ours that it was made from, if it was.
    """

    def __init__(self, fast: tokenizers.Tokenizer, origin: str, base: Tokenizer | None = None):
        fast.no_truncation()
        fast.no_padding()
        self._fast, self.base = fast, base
        ids = [fast.token_to_id(token) for token in (BOS, PAD, EOS, MASK)]
        missing = [token for token, i in zip((BOS, PAD, EOS, MASK), ids) if i is None]
        if missing:
            raise UserError(f"{origin} has no token {missing[0]}, which RoBERTa's texts need.")
        self.bos, self.pad, self.eos, self.mask = ids

    def __len__(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._fast.encode_batch_fast([_whole(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_with_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        encoding = self._fast.encode(_whole(text), add_special_tokens=False)
        spans = np.array(encoding.offsets, int).reshape(-1, 2)
        return np.array(encoding.ids, np.int32), spans

    def decode(self, ids: Iterable[int]) -> str:
        return self._fast.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_json(self) -> str:
        return self._fast.to_str()

    def fast(self) -> tokenizers.Tokenizer:
        return self._fast

    def save(self, folder: Path) -> None:
        if self.base:
            self.base.save(folder)
        storage.write_text(folder / "tokenizer.json", self.to_json())


PretrainedTokenizer = LosslessTokenizer | FastTokenizer


def encode_whole(fast: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Sentence]:
    """Each text as `fast`, a PretrainedTokenizer's, cuts it and adds special tokens to it."""
    fast.no_truncation()
    fast.no_padding()
    return [
        Sentence(
            np.array(encoding.ids, np.int32),
            np.array(encoding.special_tokens_mask, bool),
            np.array([-1 if word is None else word for word in encoding.word_ids], np.int32),
        )
        for encoding in fast.encode_batch([_whole(text) for text in texts])
    ]


def encode_rows(
    tokenizer: PretrainedTokenizer, texts: Sequence[Sequence[str]], max_length: int
) -> tuple[list[np.ndarray], int]:
    """`<s> A </s>` of each (A,), `<s> A </s></s> B </s>` of each (A, B), at most `max_length` ids, the longer cut first.

    Returns:
      (int32 [n] for each; how many were cut).
    """
    encoded = iter(tokenizer.encode([part for parts in texts for part in parts]))
    rows, cut = [], 0
    for parts in texts:
        ids = [next(encoded) for _ in parts]
        room = max_length - 2 * len(ids)
        cut += sum(map(len, ids)) > room
        rows.append(join(tokenizer, _cut(ids, room)))
    return rows, cut


def join(tokenizer: PretrainedTokenizer, ids: Sequence[np.ndarray]) -> np.ndarray:
    """One or two texts' ids as a row."""
    second = [tokenizer.eos, *ids[1], tokenizer.eos] if len(ids) > 1 else []
    return np.array([tokenizer.bos, *ids[0], tokenizer.eos, *second], np.int32)


def _cut(ids: list[np.ndarray], room: int) -> list[np.ndarray]:
    """One or two texts in `room` tokens, the longer one cut first."""
    if len(ids) == 1:
        return [ids[0][:room]]
    short, long = sorted((0, 1), key=lambda i: len(ids[i]))
    parts = list(ids)
    parts[short] = ids[short][: room // 2]
    parts[long] = ids[long][: room - len(parts[short])]
    return parts


def load_tokenizer(folder: Path) -> PretrainedTokenizer | None:
    """The tokenizer of a folder: a file of tokenization.encodings, tokenizer.json; None where there is neither.

    Raises:
      UserError: the files are damaged, or only such that nothing here reads.
    """
    storage.check_hashes(folder)
    encoding = encodings.encoding_in(folder)
    if encoding not in (None, ByteLevelBPE.encoding):
        tokenizer = encodings.load(folder)
        if encoding in encodings.LOSSLESS:
            return LosslessTokenizer(tokenizer)
        return FastTokenizer(tokenizers.Tokenizer.from_str(_to_json(tokenizer)), str(folder), tokenizer)
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            fields = json.loads(path.read_text("utf-8"))
            byte_level = _byte_level(fields)
            return byte_level or FastTokenizer(tokenizers.Tokenizer.from_file(str(path)), str(path))
        except UserError:
            raise
        except Exception as error:  # the library raises Exception itself
            raise UserError(f"{path} is no tokenizer that the tokenizers library reads: {error}.") from None
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return LosslessTokenizer(ByteLevelBPE.load(folder))
    for name in ("sentencepiece.bpe.model", "vocab.json"):
        if (folder / name).is_file():
            raise UserError(
                f"{folder} has {name} but no tokenizer.json; load its tokenizer in transformers and save it there "
                "(AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)), which writes one."
            )
    return None


def _byte_level(fields: dict) -> LosslessTokenizer | None:
    """Our `ByteLevelBPE` for a tokenizer.json, where that says exactly what ours does."""
    model, before = fields["model"], fields["pre_tokenizer"] or {}
    plain = (
        model.get("type") == "BPE"
        and fields["normalizer"] is None
        and (before.get("type"), before.get("add_prefix_space"), before.get("use_regex", True)) == ("ByteLevel", False, True)
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and {token["content"] for token in fields["added_tokens"]} <= set(SPECIAL_TOKENS)
    )
    if not plain:
        return None
    vocab = model["vocab"] | {token["content"]: token["id"] for token in fields["added_tokens"]}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    try:
        return LosslessTokenizer(ByteLevelBPE(vocab, merges), json.dumps(fields))
    except (UserError, KeyError):
        return None
