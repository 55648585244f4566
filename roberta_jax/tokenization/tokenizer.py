"""Byte-level BPE with RoBERTa's special tokens: train (tokenizers), encode (tiktoken), decode, load and save.

The same merges give the same ids in both libraries; tiktoken is several times faster, tokenizers can train.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tiktoken

from roberta_jax import storage
from roberta_jax.errors import UserError

if TYPE_CHECKING:
    import tokenizers

BOS, PAD, EOS, UNK, MASK = SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

# GPT-2's pre-tokenisation, with all that needs no look ahead in one group, which the engine runs without backtracking.
PATTERN = r"(?:'(?:[sdmt]|ll|ve|re)| ?(?:\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+)|\s+$)|\s+(?!\S)|\s"
_LONG_SPACE = re.compile(r"[^\S\x1c-\x1f]{100000,}(?=[^\S\x1c-\x1f])")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each of the 256 bytes: character → byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
MOST_UNMADE = 20  # tokens of the byte alphabet that no merge makes, or a hundredth of all: added ones; of more, merges are gone
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


def _token_bytes(token: str) -> bytes:
    return bytes(BYTE_OF[character] for character in token)


def raw_bytes(surrogate: str) -> bytes:
    """The bytes that a lone surrogate stands for: the byte that it escapes, else the three of its own."""
    return surrogate.encode("utf-8", "surrogateescape" if "\udc80" <= surrogate <= "\udcff" else "surrogatepass")


def read_merges(path: str) -> list[tuple[str, str]]:
    """Of a file such as merges.txt, a pair of tokens a line.

    Raises:
      UserError: a line is none.
    """
    lines = storage.read_text(path).replace("\r\n", "\n").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    _require_merges(merges, path)
    return merges


def _require_merges(merges: Iterable[Sequence[str]], origin: str) -> None:
    broken = next((merge for merge in merges if len(merge) != 2 or not set("".join(merge)) <= BYTE_OF.keys()), None)
    if broken is not None:
        raise UserError(f"{origin}: {' '.join(broken)[:60]!r} is not two tokens of the byte alphabet and a space.")


class Tokenizer:
    """Texts to ids and back: `ByteLevelBPE` here, the other encodings in tokenization.encodings.

    `token_bytes[i]` is what id `i` stands for in the text, b"" for special and unused ids; of a `<unk>` that texts can give,
    U+FFFD.
    """

    encoding: str  # its name in `data.encoding`
    bos: int
    pad: int
    eos: int
    unk: int
    mask: int
    token_bytes: list[bytes]

    def __len__(self) -> int:
        return len(self.token_bytes)

    @property
    def special(self) -> dict[str, int]:
        """The special tokens, by their names."""
        return dict(zip(SPECIAL_TOKENS, (self.bos, self.pad, self.eos, self.unk, self.mask)))

    @property
    def text_ids(self) -> np.ndarray:
        """Every id but those of the special tokens, ascending. int32 [n]."""
        return np.setdiff1d(np.arange(len(self), dtype=np.int32), list(self.special.values()))

    @property
    def prefixes(self) -> bool:
        """Whether it puts something before a text, such as a space: a text's sentences have it each where they stand alone."""
        return False

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[np.ndarray]:
        """`encode` for many texts, on as many threads as there are cores (the libraries let go of the interpreter)."""
        chunks = [texts[start : start + 64] for start in range(0, len(texts), 64)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            encoded = threads.map(lambda chunk: [self.encode(text) for text in chunk], chunks)
            return [ids for chunk in encoded for ids in chunk]

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each of a text's sentences, which joined are the text, as `sentences.split_sentences` gives them."""
        return [self.encode(sentence) for sentence in sentences]

    def bytes_lost(self, text: str) -> int:
        """How many bytes of a text `<unk>` stands for."""
        return 0

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for; special tokens are left out."""
        return b"".join(self.token_bytes[i] for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids stand for; bytes that are not UTF-8 come out as U+FFFD, special tokens by name."""
        names = {i: token.encode() for token, i in self.special.items()}
        return b"".join(names.get(int(i), self.token_bytes[i]) for i in ids).decode("utf-8", "replace")


class ByteLevelBPE(Tokenizer):
    """A vocabulary and its merges, as transformers' `vocab.json` and `merges.txt` hold them."""

    encoding = "bytes"

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], origin: str = "the vocabulary"):
        _require_merges(merges, origin)
        missing = [token for token in (*SPECIAL_TOKENS, *BYTE_OF) if token not in vocab]
        missing += [left + right for left, right in merges if left + right not in vocab]
        if missing:
            raise UserError(
                f"{origin} lacks {len(missing)} tokens that a byte-level RoBERTa vocabulary needs, {missing[0]!r} "
                "first: every byte, every merge and <s> <pad> </s> <unk> <mask> must be in it."
            )
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise UserError(f"{origin}: its ids are not 0 to {len(vocab) - 1}, each once.")
        self.vocab, self.merges = vocab, merges
        self.bos, self.pad, self.eos, self.unk, self.mask = (vocab[token] for token in SPECIAL_TOKENS)
        # tiktoken takes a token's rank for its id; `_ids` leads from the rank to the vocabulary's own id.
        pieces = [CHARACTER_OF[byte] for byte in range(256)] + [left + right for left, right in merges]
        ranks = {_token_bytes(piece): rank for rank, piece in enumerate(pieces)}
        if len(ranks) < len(pieces):
            raise UserError(f"{origin}: two merges make the same token, so its ids would depend on the library that reads it.")
        self._ids = np.array([vocab[piece] for piece in pieces], np.int32)
        self._bpe = tiktoken.Encoding("roberta_jax", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self.token_bytes = [b""] * len(vocab)
        for piece, rank in ranks.items():
            self.token_bytes[self._ids[rank]] = piece

        self._lengths = np.array([len(piece) for piece in self.token_bytes], np.int64)

    @property
    def text_ids(self) -> np.ndarray:
        """The ids that text can give, ascending: no special token, none that no merge makes. int32 [n]."""
        return np.sort(self._ids)

    @property
    def hash(self) -> str:
        """SHA-256 over vocabulary and merges, in one canonical form."""
        canonical = json.dumps([sorted(self.vocab.items()), self.merges], ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of a text, or of any bytes, without special tokens: `<mask>` in the text is six characters. int32 [n]."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        try:
            return self._ids[self._bpe.encode_to_numpy(text, disallowed_special=())]
        except UnicodeEncodeError:
            return self._encode_with_lone_bytes(text)
        except ValueError:  # white space too long for the stack of the pattern's engine: all but its last is one piece
            run = _LONG_SPACE.search(text)
            if not run:
                raise
            return np.concatenate([self.encode(text[: run.start()]), self.encode(run[0]), self.encode(text[run.end() :])])

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """The text is encoded whole, which is faster, and its ids are cut where sentences end: no token goes across."""
        ids = self.encode("".join(sentences))
        ends = np.cumsum(self._lengths[ids])
        wanted = np.cumsum([len(sentence.encode()) for sentence in sentences])
        cuts = np.searchsorted(ends, wanted)
        if not len(ids) or cuts[-1] >= len(ends) or not np.array_equal(ends[cuts], wanted):
            return super().encode_sentences(sentences)
        stops = (cuts + 1).tolist()
        return [ids[start:stop] for start, stop in zip([0, *stops], stops)]

    def _encode_with_lone_bytes(self, text: str) -> np.ndarray:
        """Each byte that is not UTF-8 becomes its own token; what lies between is encoded as text."""
        pieces, start = [], 0
        for i, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                pieces.append(self.encode(text[start:i]))
                pieces.append(self._ids[list(raw_bytes(character))])
                start = i + 1
        return np.concatenate([*pieces, self.encode(text[start:])])

    def fast(self) -> "tokenizers.Tokenizer":
        """The same for the `tokenizers` library; special tokens are not recognised in it yet."""
        import tokenizers

        whole = tokenizers.Tokenizer(tokenizers.models.BPE(self.vocab, self.merges))
        whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        whole.decoder = tokenizers.decoders.ByteLevel()
        return whole

    def save(self, folder: str | Path) -> None:
        """Writes `vocab.json` and `merges.txt`, as transformers' RobertaTokenizer reads them."""
        by_id = dict(sorted(self.vocab.items(), key=lambda item: item[1]))
        storage.write_text(storage.join(folder, "vocab.json"), json.dumps(by_id, ensure_ascii=False))
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in self.merges)]
        storage.write_text(storage.join(folder, "merges.txt"), "\n".join(lines) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "ByteLevelBPE":
        """Reads a folder with `vocab.json` and `merges.txt`."""
        return cls(*cls.read_files(folder), origin=str(folder))

    @staticmethod
    def read_files(folder: str | Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The vocabulary and the merges of these files."""
        vocab_path, merges_path = (storage.join(folder, name) for name in ("vocab.json", "merges.txt"))
        for path in (vocab_path, merges_path):
            if not storage.exists(path):
                name = path.rpartition("/")[2]
                raise UserError(f"{folder}: no {name} there; a tokenizer is a folder with vocab.json and merges.txt.")
        try:
            vocab = storage.parse_json(storage.read_bytes(vocab_path))
        except ValueError as error:
            raise UserError(f"{vocab_path} is not JSON: {error}.") from None
        if unlike := next((token for token, i in vocab.items() if type(i) is not int), None):
            raise UserError(f"{vocab_path}: the id of {unlike!r} is {vocab[unlike]!r}; expected a whole number.")
        merges = read_merges(merges_path)
        made = {left + right for left, right in merges}
        others = vocab.keys() - made - set(SPECIAL_TOKENS)
        unmade = sorted(token for token in others if len(token) > 1 and set(token) <= BYTE_OF.keys())
        if len(unmade) > max(MOST_UNMADE, len(vocab) // 100):
            raise UserError(
                f"{merges_path} makes none of {len(unmade):,} tokens of vocab.json, such as {unmade[-1]!r}; it looks cut short."
            )
        return vocab, merges

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "ByteLevelBPE":
        """Learns merges from texts until the vocabulary, special tokens counted, has `vocab_size` entries."""
        import tokenizers  # here, so that encoding alone does not load it

        smallest = len(BYTE_OF) + len(SPECIAL_TOKENS)
        if vocab_size < smallest:
            raise UserError(
                f"a byte-level vocabulary has at least {smallest} entries: data.tokenizer {vocab_size} is too small."
            )
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size - 1,  # <mask> follows as the last id, as in RoBERTa's
            initial_alphabet=sorted(BYTE_OF),
            special_tokens=[BOS, PAD, EOS, UNK],
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        model = json.loads(bpe.to_str())["model"]
        vocab = model["vocab"] | {MASK: len(model["vocab"])}
        return cls(vocab, [tuple(merge) for merge in model["merges"]], origin="the trained vocabulary")
