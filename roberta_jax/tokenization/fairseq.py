"""The vocabulary of fairseq's RoBERTa: dict.txt, whose lines are GPT-2's ids, and GPT-2's merges."""

import re
from pathlib import Path

from roberta_jax import storage
from roberta_jax.tokenization.tokenizer import BYTE_OF, MASK, SPECIAL_TOKENS, ByteLevelBPE, read_merges


def tokens(folder: str | Path) -> list[str]:
    """What each id stands for: the four special tokens, the first word of each line of dict.txt, `<mask>`."""
    lines = storage.read_text(storage.join(folder, "dict.txt")).splitlines()
    return [*SPECIAL_TOKENS[:4], *(line.rsplit(" ", 1)[0] for line in lines), MASK]


def read(folder: str | Path) -> ByteLevelBPE | None:
    """None where there is no dict.txt of numbers with merges beside it."""
    there = storage.names(folder)
    merges_name = next((name for name in ("vocab.bpe", "merges.txt") if name in there), None)
    if merges_name is None or "dict.txt" not in there:
        return None
    found = tokens(folder)
    numbers = [int(token) if re.fullmatch("[0-9]+", token) else None for token in found]
    if all(number is None for number in numbers):
        return None
    merges = read_merges(storage.join(folder, merges_name))
    gpt2 = [*sorted(BYTE_OF), *(left + right for left, right in merges), "<|endoftext|>"]
    named = [token if number is None or number >= len(gpt2) else gpt2[number] for token, number in zip(found, numbers)]
    return ByteLevelBPE({token: i for i, token in enumerate(named)}, merges, origin=str(folder))
