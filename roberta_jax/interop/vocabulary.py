"""A trained model under another vocabulary: what the rows of its embeddings, and the head's bias, begin as.

A token that both vocabularies have keeps its row: one that stands for the same text, byte for byte, whatever the encodings
write (`Ġthe`, `▁the` and WordPiece's `the` are all " the"), and a special token with the same role. Any other begins as the
mean of the old tokens into which the old tokenizer cuts its text, each weighted by its bytes. What has none, or parts of
characters alone, is drawn, normal with the mean and deviation of each column over the old tokens: a foreign script is spelled
in the same few bytes, whose means are all alike, and a model takes longer to part them than to learn what was drawn.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from roberta_jax.interop.pretrained import Pretrained
from roberta_jax.tokenization.tokenizer import BOS, EOS, MASK, PAD, UNK, Tokenizer


def with_vocabulary(source: Pretrained, new: Tokenizer, seed: int) -> tuple[dict, str]:
    """The parameters of a model that has a tokenizer, for the ids of another one; the same for the same seed.

    Returns:
      (as `source.params`, whose other arrays they share; a sentence that says how many tokens were copied, averaged and drawn).
    """
    old, random = source.tokenizer.base, np.random.default_rng(seed)
    pieces, copied = origins(old, new)
    params, encoder = dict(source.params), source.params["encoder"]
    embeddings, first = dict(encoder["embeddings"]), source.config.pad_id
    embeddings["word"] = {"embedding": _rows(embeddings["word"]["embedding"], pieces, old, random)}
    if new.pad != first:  # from which positions are counted
        table = embeddings["position"]["embedding"]
        before = np.repeat(table[[first]], new.pad + 1, axis=0)
        embeddings["position"] = {"embedding": np.concatenate([before, table[first + 1 :]])}
    params["encoder"] = encoder | {"embeddings": embeddings}
    if "lm_head" in params:
        params["lm_head"] = params["lm_head"] | {"bias": _rows(params["lm_head"]["bias"], pieces, old, random)}
    same, drawn = int(copied.sum()), sum(not ids for ids in pieces)
    return params, (
        f"a vocabulary of {len(new):,} tokens takes the place of the model's {len(old):,}: {same:,} are in both and copied, "
        f"{len(new) - same - drawn:,} begin as the mean of the old tokens of their text, {drawn:,} are drawn"
    )


def origins(old: Tokenizer, new: Tokenizer) -> tuple[list[list[int]], np.ndarray]:
    """(for each new id the old ids that it begins from, [] where there are none; bool [new], whether it is the same token)"""
    if old.hash == new.hash:
        return [[i] for i in range(len(new))], np.ones(len(new), bool)
    known, pieces, copied = ids_of_texts(old), [[] for _ in range(len(new))], np.zeros(len(new), bool)
    for text, ids in ids_of_texts(new).items():
        same = known.get(text, [])
        for number, i in enumerate(ids):
            pieces[i] = [same[min(number, len(same) - 1)]] if same else _meaningful(_cut(text, old, known), old)
            copied[i] = bool(same)
    for role in (UNK, PAD, BOS, EOS, MASK):  # one id may be both of the first two
        pieces[new.special[role]], copied[new.special[role]] = [old.special[role]], True
    return pieces, copied


def ids_of_texts(tokenizer: Tokenizer) -> dict[bytes, list[int]]:
    """What tokens stand for → their ids, first the one that the tokenizer itself gives: `A` before the byte `<0x41>`."""
    found: dict[bytes, list[int]] = {}
    for i, text in _texts(tokenizer):
        found.setdefault(text, []).append(i)
    for text, ids in found.items():
        if len(ids) > 1:
            given = set(tokenizer.encode(text).tolist())
            ids.sort(key=lambda i: (i not in given, -i))  # single bytes have the first ids
    return found


def _texts(tokenizer: Tokenizer) -> Iterator[tuple[int, bytes]]:
    """(id, what it stands for) of each token of texts. BERT's way puts a space before punctuation, where a text has none."""
    parted = tokenizer.decode_bytes(tokenizer.encode("a.")).endswith(b" .")
    for i in tokenizer.text_ids.tolist():
        text = tokenizer.token_bytes[i]
        if parted and text.startswith(b" ") and _is_punctuation(text[1:]):
            text = text[1:]
        if text:
            yield i, text


def _is_punctuation(text: bytes) -> bool:
    return not any(character.isalnum() or character.isspace() for character in text.decode("utf-8", "replace"))


def _cut(text: bytes, old: Tokenizer, known: Mapping[bytes, list[int]]) -> list[int]:
    """The old ids of a text, as the old tokenizer cuts it, `<unk>` left out; [] where there are none."""
    if not _is_text(text):  # part of a character
        return _fewest(text, known)
    ids = old.encode(text).tolist()
    seen = old.decode_bytes(ids)
    if seen.startswith(b" ") and not text.startswith(b" "):  # which it puts before any text: the token goes on a word
        return _fewest(seen[1:], known)
    return [i for i in ids if i != old.unk]


def _meaningful(ids: list[int], old: Tokenizer) -> list[int]:
    """These ids; [] where they spell characters part by part, with nothing whole beside them but spaces."""
    texts = [old.token_bytes[i] for i in ids]
    whole = [text for text in texts if _is_text(text)]
    return ids if len(whole) == len(texts) or any(text.strip() for text in whole) else []


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fewest(text: bytes, known: Mapping[bytes, list[int]]) -> list[int]:
    """The fewest tokens that joined are the text; [] where none are."""
    best: dict[int, list[int]] = {0: []}
    for end in range(1, len(text) + 1):
        starts = [start for start in best if text[start:end] in known]
        if starts:
            start = min(starts, key=lambda start: len(best[start]))
            best[end] = [*best[start], known[text[start:end]][0]]
    return best.get(len(text), [])


def _rows(table: np.ndarray, pieces: Sequence[list[int]], old: Tokenizer, random: np.random.Generator) -> np.ndarray:
    """What new ids begin as, of a table [old, …]: float32 [new, …]."""
    made = np.empty((len(pieces), *table.shape[1:]), np.float32)
    for i, ids in enumerate(pieces):
        if ids:
            lengths = [max(1, len(old.token_bytes[j])) for j in ids]
            made[i] = table[ids[0]] if len(ids) == 1 else np.average(table[ids], axis=0, weights=lengths)
    if drawn := [i for i, ids in enumerate(pieces) if not ids]:
        known = table[old.text_ids]
        made[drawn] = random.normal(known.mean(0), known.std(0), (len(drawn), *table.shape[1:]))
    return made
