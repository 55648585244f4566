"""The vocabulary of fairseq's RoBERTa: dict.txt, whose lines are GPT-2's ids, and GPT-2's merges."""

from pathlib import Path

from roberta_jax import storage
from roberta_jax.tokenization.tokenizer import BYTE_OF, MASK, SPECIAL_TOKENS, ByteLevelBPE


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
    if not any(token.isdigit() for token in found):
        return None
    merges = [tuple(line.split(" ")) for line in storage.read_text(storage.join(folder, merges_name)).split("\n")]
    merges = [merge for merge in merges if len(merge) == 2 and not merge[0].startswith("#version")]
    gpt2 = [*sorted(BYTE_OF), *(left + right for left, right in merges), "<|endoftext|>"]
    named = [gpt2[int(token)] if token.isdigit() and int(token) < len(gpt2) else token for token in found]
    return ByteLevelBPE({token: i for i, token in enumerate(named)}, merges, origin=str(folder))
