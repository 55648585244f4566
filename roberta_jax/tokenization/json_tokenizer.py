"""Any tokenizer.json as a tokenizer of texts, by the `tokenizers` library."""

import functools
import hashlib
import itertools
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from roberta_jax import storage
from roberta_jax.output import to_json
from roberta_jax.tokenization.published import JSON, NAMES, around, dumped, readable
from roberta_jax.tokenization.tokenizer import BYTE_OF, Tokenizer

AT_ONCE = 1_000  # sentences of a text, before which a space stands again: of 8 MiB the library would take a GB


class JsonTokenizer(Tokenizer):
    """Any tokenizer.json. Names of special tokens in a text are text, other tokens that were added are themselves."""

    encoding = JSON

    def __init__(
        self,
        fields: dict[str, Any],
        names: dict[str, str],
        origin: str,
        types: bool = False,
        library: tokenizers.Tokenizer | None = None,
    ):
        self.library = fast = library or tokenizers.Tokenizer.from_str(to_json(fields))
        # A post-processor may have tokens of its own around a text, and what it puts there parts the texts of a row.
        self.fields, self.types = fields, types
        self.names = names = names | around(fast, origin)
        ids = {name: fast.token_to_id(token) for name, token in names.items()}
        self.bos, self.eos = ids["bos"], ids["eos"]
        self.pad, self.mask, self.unk = ids["pad"], ids["mask"], ids.get("unk", ids["pad"])
        self._vocab = fast.get_vocab(with_added_tokens=True)
        self.token_bytes = self._bytes_of_tokens()

    def __len__(self) -> int:
        """One more than the greatest id: there may be gaps."""
        return max(self._vocab.values()) + 1

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over all of it, in one canonical form."""
        return hashlib.sha256(to_json([self.fields, self.names]).encode()).hexdigest()

    @functools.cached_property
    def text_ids(self) -> np.ndarray:
        """Every id that there is but those of the special tokens, ascending. int32 [n]."""
        return np.setdiff1d(np.array(sorted(self._vocab.values()), np.int32), list(self.special.values()))

    def _bytes_of_tokens(self) -> list[bytes]:
        kinds = {part["type"] for part in _parts(self.fields.get("decoder"), "decoders")}
        found = [b""] * len(self)
        for token, i in self._vocab.items():
            if "ByteLevel" in kinds and BYTE_OF.keys() >= set(token):
                found[i] = bytes(BYTE_OF[character] for character in token)
            elif "ByteFallback" in kinds and re.fullmatch("<0x[0-9A-F]{2}>", token):
                found[i] = bytes([int(token[3:5], 16)])
            elif "Metaspace" in kinds or "Replace" in kinds:
                found[i] = token.replace("▁", " ").encode()
            elif "WordPiece" in kinds and len(token) > 2 and token.startswith("##"):
                found[i] = token[2:].encode()
            else:
                found[i] = token.encode() if "ByteLevel" in kinds else f" {token}".encode()
        for i in (self.bos, self.pad, self.eos, self.mask):
            found[i] = b""
        found[self.unk] = b"" if "ByteLevel" in kinds or self.unk == self.pad else " \ufffd".encode()
        return found

    @functools.cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same with names for the special tokens that no text has."""
        hidden = {name: f"\ue000{name}\ue001" for name in self.names.values()}
        model = dict(self.fields["model"])
        if isinstance(model["vocab"], dict):
            model["vocab"] = {hidden.get(token, token): i for token, i in model["vocab"].items()}
        else:
            model["vocab"] = [[hidden.get(token, token), score] for token, score in model["vocab"]]
        if model.get("unk_token"):
            model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
        added = [token | {"content": hidden.get(token["content"], token["content"])} for token in self.fields["added_tokens"]]
        return tokenizers.Tokenizer.from_str(
            to_json(self.fields | {"model": model, "added_tokens": added, "post_processor": None})
        )

    def encode(self, text: str | bytes) -> np.ndarray:
        """Ids of a text, or of any bytes, without special tokens: `<mask>` in the text is six characters. int32 [n]."""
        return np.array(self._plain.encode(readable(text), add_special_tokens=False).ids, np.int32)

    @functools.cached_property
    def prefixes(self) -> bool:
        sections = (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
        return any(
            part["type"] == "Prepend" or part.get("add_prefix_space") or part.get("prepend_scheme", "never") != "never"
            for section, name in sections
            for part in _parts(self.fields.get(section), name)
        )

    def encode_sentences(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Where something is put before a text the text is encoded as one, so that it stands there once.

        A token that goes across the end of a sentence is of the one in which it begins.
        """
        if not self.prefixes or len(sentences) < 2:
            return super().encode_sentences(sentences)
        found = []
        for first in range(0, len(sentences), AT_ONCE):
            stretch = sentences[first : first + AT_ONCE]
            encoded = self._plain.encode(readable("".join(stretch)), add_special_tokens=False)
            ids, begins = np.array(encoded.ids, np.int32), itertools.accumulate(map(len, stretch[:-1]), initial=0)
            # All offsets as Python's tuples would take as long as the encoding.
            cuts = [bisect_left(range(len(ids)), at, key=lambda i: encoded.token_to_chars(i)[0]) for at in begins]
            found += [ids[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(ids)])]
        return found

    def bytes_lost(self, text: str) -> int:
        """How many bytes of a text `<unk>` stands for."""
        text = readable(text)
        encoded = self._plain.encode(text, add_special_tokens=False)
        unknown = (span for i, span in zip(encoded.ids, encoded.offsets) if i == self.unk)
        return sum(len(text[start:end].encode()) for start, end in unknown)

    def fast(self) -> tokenizers.Tokenizer:
        """A new one of the `tokenizers` library, for who changes it; `library` is this one's own."""
        return tokenizers.Tokenizer.from_str(to_json(self.fields))

    def save(self, folder: str | Path) -> None:
        storage.write_text(storage.join(folder, JSON), dumped(self.fields))
        storage.write_json(storage.join(folder, "tokenizer_config.json"), self.settings())

    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json must say for every version of transformers to take tokenizer.json as it is."""
        names = {
            f"{role}_token": self.names[name] for name, (roles, _) in NAMES.items() if name in self.names for role in roles
        }
        names |= {f"{role}_token": token for role, token in zip(("cls", "sep"), self._around()) if token}
        spaced = [part.get("add_prefix_space", False) for part in _parts(self.fields.get("pre_tokenizer"), "pretokenizers")]
        inputs = ["input_ids", *(["token_type_ids"] if self.types else []), "attention_mask"]
        whole = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": any(spaced), "model_input_names": inputs}
        return whole | names

    def _around(self) -> Iterator[str | None]:
        by_id = {i: token for token, i in self._vocab.items()}
        return (by_id.get(i) for i in (self.bos, self.eos))


def _parts(section: dict[str, Any] | None, name: str) -> Sequence[dict[str, Any]]:
    """The parts of a section of tokenizer.json, which is one of them or a sequence."""
    return () if not section else section.get(name) or (section,)
