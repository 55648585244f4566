"""Tokenizers of other encodings than byte-level BPE, all of them read and trained here, and figures that compare them.

    bytes       byte-level BPE (`ByteLevelBPE`): every text comes back, byte for byte
    wordpiece   BERT's: lower case, no accents (nor Hindi's vowel signs), words and punctuation apart, the longest pieces
                first; a word that pieces do not make, or of more than 100 characters, is <unk>
    unigram     SentencePiece's unigram model, what no piece has in single bytes: every text comes back, byte for byte
    bpe         SentencePiece's BPE, likewise
    characters  the most frequent characters; a run of others is one <unk>

A folder holds one file that says by its name which it is. Ids 0 to 3 are <s> <pad> </s> <unk>, the last one is <mask>;
<unk>, where a text can give it, stands for U+FFFD.
"""

import functools
import hashlib
import io
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers

from roberta_jax import snapshot, storage
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import check_hashes
from roberta_jax.tokenization import fairseq, published
from roberta_jax.tokenization.json_tokenizer import JsonTokenizer
from roberta_jax.tokenization.scripts import script_of
from roberta_jax.tokenization.sentences import split_sentences
from roberta_jax.tokenization.tokenizer import BOS, EOS, MASK, PAD, SPECIAL_TOKENS, UNK, ByteLevelBPE, Tokenizer, raw_bytes

FILES = {
    "bytes": "merges.txt",  # and vocab.json
    "wordpiece": "wordpiece.txt",  # a token a line, as BERT's vocab.txt
    "unigram": "unigram.model",
    "bpe": "bpe.model",
    "characters": "characters.model",
}
READ = (*published.FILES, *FILES.values())  # of a folder or a name on the hub
# Entries of a vocabulary that is trained, special ones counted; a text may need more.
SMALLEST = {"bytes": 261, "wordpiece": 10, "unigram": 262, "bpe": 262, "characters": 8}
LOSSLESS = ("bytes", "unigram", "bpe")
_LOST = "\ufffd".encode()
_SURROGATE = re.compile("[\ud800-\udfff]")


def encoding_in(folder: str | Path) -> str | None:
    """Which encoding's file lies in a folder; "tokenizer.json" where that is somebody else's."""
    there = storage.names(folder)
    found = (encoding for encoding, name in FILES.items() if name in there)
    return next(found, published.JSON if published.JSON in there else None)


def find(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a folder: what `save` of any encoding wrote, or the files of transformers; None where there is none.

    Raises:
      UserError: the files are damaged, or only such that nothing here reads.
    """
    check_hashes(folder)
    there, encoding = storage.names(folder), encoding_in(folder)
    if encoding in FILES.keys() - {"bytes"}:
        return _of_file(storage.join(folder, FILES[encoding]), encoding)
    if {"vocab.json", "merges.txt"} <= there and there.isdisjoint(_BESIDE):
        return ByteLevelBPE.load(folder)
    if published.JSON not in there and (of_fairseq := fairseq.read(folder)):
        return of_fairseq
    if found := published.read(folder):
        return published.byte_level(found) or JsonTokenizer(found.fields, found.names, str(folder), found.types, found.library)
    for name in ("sentencepiece.bpe.model", "spiece.model", "bpe.codes", "vocab.txt", "vocab.json"):
        if name in there:
            raise UserError(
                f"{folder} has {name} but no tokenizer.json; load its tokenizer in transformers and save it there "
                "(AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)), which writes one."
            )
    return None


_BESIDE = {*published.FILES} - {"vocab.json", "merges.txt", "vocab.txt", "config.json"}


def load(folder: str | Path) -> Tokenizer:
    """`find`, where it is an error that there is none."""
    return find(folder) or ByteLevelBPE.load(folder)  # whose error names what is missing


def of_model(source: str) -> Tokenizer:
    """The tokenizer that a config names: its own folder, or that of a model, a workdir or a name on the hub.

    Raises:
      UserError: there is none, or it is damaged, or the hub does not answer.
    """
    if not storage.is_url(source) and not Path(source).expanduser().exists() and snapshot.is_name(source):
        source = str(snapshot.download(source, READ))
    within = storage.join(source, "tokenizer")
    return find(source) or find(within) or ByteLevelBPE.load(source)


def _of_file(path: str, encoding: str) -> Tokenizer:
    try:
        content = storage.read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {storage.reason(error)}.") from None
    if encoding == "wordpiece":
        return WordPiece(content.decode("utf-8", "replace").removesuffix("\n").split("\n"), path)
    return SentencePiece(content, encoding, path)


def train(texts: Iterable[str], vocab_size: int, encoding: str) -> Tokenizer:
    """Learns a vocabulary of `vocab_size` entries, special tokens counted; of fewer where the texts give no more."""
    if encoding == "bytes":
        return ByteLevelBPE.train(texts, vocab_size)
    return WordPiece.train(texts, vocab_size) if encoding == "wordpiece" else SentencePiece.train(texts, vocab_size, encoding)


class SentencePiece(Tokenizer):
    """A model of SentencePiece: "unigram", "bpe" or "characters", without any normalisation; `<mask>` follows its pieces."""

    _SPACE = "▁"  # SentencePiece's own character for a space: one that is in a text is kept apart
    _APART = re.compile("([▁\ud800-\udfff])")
    # The trainer passes over lines in which one of these is, and over long ones; in words its places have 16 bits.
    _LINE = re.compile("[^\0\t\n▁▅]{1,4096}")

    def __init__(self, model: bytes, encoding: str, origin: str = "the trained vocabulary"):
        self.encoding, self._serialized = encoding, model
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._model.id_to_piece(i) for i in range(self._model.get_piece_size())]
        except RuntimeError:
            pieces = []
        if tuple(pieces[:4]) != SPECIAL_TOKENS[:4]:
            raise UserError(f"{origin} is no whole SentencePiece model that begins with the pieces <s> <pad> </s> <unk>.")
        self.bos, self.pad, self.eos, self.unk, self.mask = 0, 1, 2, 3, len(pieces)
        byte = [self._model.is_byte(i) for i in range(len(pieces))]
        self._byte_ids = np.flatnonzero(byte).astype(np.int32)  # [256], of characters [0]
        stands_for = [bytes([int(p[1:-1], 16)] if b else p.replace(self._SPACE, " ").encode()) for p, b in zip(pieces, byte)]
        self.token_bytes = [b"", b"", b"", b"" if any(byte) else _LOST, *stands_for[4:], b""]

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the model's file."""
        return hashlib.sha256(self._serialized).hexdigest()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of a text, or of any bytes, without special tokens: `<mask>` in the text is six characters. int32 [n]."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        parts = self._APART.split(text)
        if len(parts) == 1:
            return np.array(self._model.encode(text), np.int32)
        return np.concatenate([self._apart(part) if i % 2 else self.encode(part) for i, part in enumerate(parts)])

    def _apart(self, character: str) -> np.ndarray:
        return self._byte_ids[list(raw_bytes(character))] if len(self._byte_ids) else np.array([self.unk], np.int32)

    def bytes_lost(self, text: str) -> int:
        """How many bytes of a text `<unk>` stands for."""
        if self.encoding in LOSSLESS:
            return 0
        known = self.decode_bytes(i for i in self.encode(text) if i != self.unk)
        return len(text.encode("utf-8", "surrogatepass")) - len(known)

    def fast(self) -> tokenizers.Tokenizer:
        """The same for the `tokenizers` library; special tokens are not recognised in it yet.

        There U+2581 is a space, `<0x41>` in a text is that byte, and of two ways of cutting that are all but equally good it
        may take the other: it adds scores in 64 bits, SentencePiece in 32.
        """
        pieces = [self._model.id_to_piece(i) for i in range(self.mask)]
        if self.encoding == "bpe":
            plain = [piece for i, piece in enumerate(pieces) if i > self.unk and not self._model.is_byte(i)]
            known = set(plain)
            halves = ((piece[:i], piece[i:]) for piece in plain for i in range(1, len(piece)))
            merges = [(left, right) for left, right in halves if left in known and right in known]
            vocab = {piece: i for i, piece in enumerate(pieces)}
            model = tokenizers.models.BPE(vocab, merges, unk_token=UNK, fuse_unk=True, byte_fallback=True)
        else:
            scored = [(piece, self._model.get_score(i)) for i, piece in enumerate(pieces)]
            model = tokenizers.models.Unigram(scored, self.unk, byte_fallback=len(self._byte_ids) > 0)
        whole = tokenizers.Tokenizer(model)
        whole.normalizer = tokenizers.normalizers.Replace(" ", self._SPACE)
        decoders = tokenizers.decoders
        whole.decoder = decoders.Sequence([decoders.Replace(self._SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
        return whole

    def save(self, folder: str | Path) -> None:
        with storage.written(storage.join(folder, FILES[self.encoding])) as partial:
            partial.write_bytes(self._serialized)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, encoding: str) -> "SentencePiece":
        """The same texts give the same model, whatever the machine's cores."""
        model, characters = io.BytesIO(), encoding == "characters"
        lines = [line for text in texts for line in cls._LINE.findall(text)]
        # What all need and the trainer would not count: the space, and of characters the two that part its lines.
        how = {"user_defined_symbols": [cls._SPACE, "\n", "\t"], "character_coverage": 1.0}
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="char" if characters else encoding,
                vocab_size=vocab_size - 1,  # <mask> follows
                hard_vocab_limit=False,
                **how if characters else {"byte_fallback": True, "required_chars": cls._SPACE},
                **{"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3},
                **{"bos_piece": BOS, "pad_piece": PAD, "eos_piece": EOS, "unk_piece": UNK},
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                max_sentence_length=1 << 15,  # bytes
                num_threads=16,  # between which sums are parted: always as many
                minloglevel=2,
            )
        except RuntimeError as error:
            least = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
            why = f"this text needs at least {int(least[1]) + 1}" if least else str(error)
            raise UserError(
                f"data.tokenizer {vocab_size}: no {encoding!r} vocabulary of that size can be learned: {why}."
            ) from None
        return cls(model.getvalue(), encoding)


class WordPiece(Tokenizer):
    """BERT's encoding. Case, accents and white space are lost; a word's first piece stands for a space before it too."""

    encoding = "wordpiece"
    _LONGEST_WORD = 100  # characters
    _MOST_CHARACTERS = 1_000  # of the vocabulary, each twice: BERT's has 997
    _STARTS, _GOES_ON = 0xF0000, 0x100000  # private characters for the n-th one at a word's start, and further on

    def __init__(self, tokens: list[str], origin: str = "the trained vocabulary"):
        if (*tokens[:4], tokens[-1]) != SPECIAL_TOKENS:
            raise UserError(f"{origin}: expected a token a line, the first <s> <pad> </s> <unk>, the last <mask>.")
        if len(set(tokens)) < len(tokens):
            raise UserError(f"{origin}: {Counter(tokens).most_common(1)[0][0]!r} is there twice.")
        self.tokens = tokens
        self.bos, self.pad, self.eos, self.unk, self.mask = 0, 1, 2, 3, len(tokens) - 1
        pieces = [token[2:] if len(token) > 2 and token.startswith("##") else f" {token}" for token in tokens[4:-1]]
        self.token_bytes = [b"", b"", b"", b" " + _LOST, *(piece.encode() for piece in pieces), b""]
        self._fast = self.fast()

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the vocabulary, in one canonical form."""
        return hashlib.sha256(json.dumps(["wordpiece", self.tokens]).encode()).hexdigest()

    def _encoded(self, text: str | bytes) -> tokenizers.Encoding:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        return self._fast.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of a text, without special tokens: `<mask>` in the text is a word between two marks. int32 [n]."""
        return np.array(self._encoded(text).ids, np.int32)

    def bytes_lost(self, text: str) -> int:
        """How many bytes of a text `<unk>` stands for."""
        encoded = self._encoded(text)
        unknown = (span for i, span in zip(encoded.ids, encoded.offsets) if i == self.unk)
        return sum(len(text[start:end].encode("utf-8", "surrogatepass")) for start, end in unknown)

    def fast(self) -> tokenizers.Tokenizer:
        """The same for the `tokenizers` library; special tokens are not recognised in it yet."""
        vocab = {token: i for i, token in enumerate(self.tokens)}
        whole = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(vocab, unk_token=UNK, max_input_chars_per_word=self._LONGEST_WORD)
        )
        whole.normalizer = tokenizers.normalizers.BertNormalizer()
        whole.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        whole.decoder = tokenizers.decoders.WordPiece()
        return whole

    def save(self, folder: str | Path) -> None:
        storage.write_text(storage.join(folder, FILES[self.encoding]), "\n".join(self.tokens) + "\n")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "WordPiece":
        """Pieces by their frequency, as the `tokenizers` library learns them, but always the same ones.

        Its own trainer takes the characters inside words in the order of a hash table that each process orders anew. So
        these are given to its BPE as characters of their own, which it sorts.
        """
        normalizer, pre_tokenizer = tokenizers.normalizers.BertNormalizer(), tokenizers.pre_tokenizers.BertPreTokenizer()
        if vocab_size < 10:
            raise UserError(f"data.tokenizer {vocab_size}: a 'wordpiece' vocabulary has at least 10 entries.")
        words, characters = Counter(), Counter()
        for text in texts:
            words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))
        for word, count in words.items():
            for character in word:
                characters[character] += count
        ranked = sorted(characters, key=lambda character: (-characters[character], character))
        alphabet = sorted(ranked[: min(cls._MOST_CHARACTERS, vocab_size // 4)])
        starts, goes_on = ({ord(c): first + i for i, c in enumerate(alphabet)} for first in (cls._STARTS, cls._GOES_ON))
        known = set(alphabet)
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        repeated = (
            " ".join([word[0].translate(starts) + word[1:].translate(goes_on)] * count)
            for word, count in words.items()
            if len(word) <= cls._LONGEST_WORD and known.issuperset(word)
        )
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size - len(SPECIAL_TOKENS), show_progress=False)
        bpe.train_from_iterator(repeated, trainer)
        learned = sorted(bpe.get_vocab().items(), key=lambda item: item[1])
        back = {first + i: c for first in (cls._STARTS, cls._GOES_ON) for i, c in enumerate(alphabet)}
        pieces = ["##" * (ord(piece[0]) >= cls._GOES_ON) + piece.translate(back) for piece, _ in learned]
        return cls([*SPECIAL_TOKENS[:4], *pieces, MASK])


# What figures tell of a text

_WITHOUT_SPACES = ("Han", "kana")  # where a word has no end that is written: a character counts as one


def _script(character: str) -> str:
    """Of a letter; empty for what is part of no word, "+" for a mark that goes with the letter before it."""
    category, script = unicodedata.category(character), script_of(character)
    if category[0] == "M" and script is None:
        return "+"
    return script or "other" if category[0] in "LM" else ""


def _runs(chunk: str) -> list[tuple[str, str]]:
    """(script, letters) of what has no white space in it; what is between words left out."""
    scripts, of = [], ""
    for character in chunk:
        if (script := _script(character)) != "+":
            of = script
        scripts.append(of)
    at, runs = 0, []
    for script, run in itertools.groupby(scripts):
        end = at + len(list(run))
        if script:
            runs.append((script, " " * (at == 0 and script not in _WITHOUT_SPACES) + chunk[at:end]))
        at = end
    return runs


def statistics(tokenizer: Tokenizer, texts: Iterable[str]) -> dict:
    """How an encoding cuts texts, as JSON.

    A word is a run of letters of one script, of Han and kana each character, encoded apart from its neighbours with the
    white space before it.

    Returns:
      `texts`, `bytes`, `tokens`; `bytes_per_token`; `unknown_rate`, the share of the tokens that is `<unk>`;
      `bytes_lost`, the share of the bytes that `<unk>` stands for (WordPiece loses case, accents and white space too);
      `scripts`: script → `words`, `tokens_per_word`, and `unknown_rate` of its tokens, the script with most words first.
    """
    total, chunks = Counter(), Counter()
    for text in texts:
        total["texts"] += 1
        total["bytes"] += len(text.encode("utf-8", "surrogatepass"))
        chunks.update(text.split())
        sentences = split_sentences(text)  # as the rows of a corpus are made
        for sentence, ids in zip(sentences, tokenizer.encode_sentences(sentences)):
            unknown = int((ids == tokenizer.unk).sum())
            total["tokens"] += len(ids)
            total["unknown"] += unknown
            total["lost"] += tokenizer.bytes_lost(sentence) if unknown else 0
    runs, scripts = Counter(), {}
    for chunk, count in chunks.items():
        for run in _runs(chunk):
            runs[run] += count
    for (script, run), count in runs.items():
        ids = tokenizer.encode(run)
        of_script = scripts.setdefault(script, Counter())
        of_script["words"] += count * (len(run.strip()) if script in _WITHOUT_SPACES else 1)
        of_script["tokens"] += count * len(ids)
        of_script["unknown"] += count * int((ids == tokenizer.unk).sum())
    return {
        **{name: total[name] for name in ("texts", "bytes", "tokens")},
        "bytes_per_token": total["bytes"] / max(1, total["tokens"]),
        "unknown_rate": total["unknown"] / max(1, total["tokens"]),
        "bytes_lost": total["lost"] / max(1, total["bytes"]),
        "scripts": {
            script: {
                "words": counted["words"],
                "tokens_per_word": counted["tokens"] / counted["words"],
                "unknown_rate": counted["unknown"] / max(1, counted["tokens"]),
            }
            for script, counted in sorted(scripts.items(), key=lambda item: (-item[1]["words"], item[0]))
        },
    }
