"""What a model has learned, shown on sentences of the valid split."""

from functools import partial

import jax
import numpy as np

from roberta_jax.data.corpus import Corpus
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm
from roberta_jax.tokenization.sentences import split_sentences
from roberta_jax.training.distributed import gather_to_host


def examples(params: dict, config: RobertaConfig, corpus: Corpus, number: int = 5, answers: int = 5) -> list[str]:
    """Sentences of the valid split with one word masked, and the words that the model finds most probable there."""
    tokenizer, found = corpus.tokenizer, []
    for part in np.array_split(np.arange(len(corpus.valid)), number):
        found += next((question for question in map(partial(_question, corpus), part[:100]) if question), [])
    if not found:
        return []
    input_ids = np.full((len(found), corpus.length), tokenizer.pad, np.int32)
    for i, (ids, at) in enumerate(found):
        input_ids[i, : len(ids) + 2] = [tokenizer.bos, *ids[:at], tokenizer.mask, *ids[at + 1 :], tokenizer.eos]
    positions = np.array([[at + 1] for _, at in found], np.int32)
    segment_ids = (input_ids != tokenizer.pad).astype(np.int32)
    logits = jax.jit(apply_masked_lm, static_argnums=1)(params, config, input_ids, segment_ids, positions)
    words = np.array([any(map(str.isalpha, tokenizer.decode([i]))) for i in range(len(tokenizer))])
    known = jax.nn.softmax(gather_to_host(logits)[:, 0])[:, : len(tokenizer)]  # a published table may have more rows
    probabilities, best = jax.lax.top_k(known * words, answers)
    lines = []
    for (ids, at), p, b in zip(found, np.asarray(probabilities), np.asarray(best)):
        shown = f"{tokenizer.decode(ids[:at])} <mask>{tokenizer.decode(ids[at + 1 :])}"
        guesses = ", ".join(f"{tokenizer.decode([i])!r} {share:.0%}" for i, share in zip(b, p))
        lines.append(f"  {' '.join(shown.split())}\n    was {tokenizer.decode([ids[at]])!r}; answers {guesses}")
    return lines


def _question(corpus: Corpus, row: int) -> list[tuple[np.ndarray, int]]:
    """A sentence of a valid row and the index of a whole word in its middle, if there is such a sentence."""
    pieces = corpus.tokenizer.token_bytes
    text = corpus.tokenizer.decode_bytes(corpus.valid.gather(np.array([row]))[0]).decode(errors="ignore")
    for sentence in map(str.strip, split_sentences(text)[1:-1]):  # the first and the last may be cut
        ids = corpus.tokenizer.encode(sentence)
        starts = [pieces[i].startswith(b" ") for i in ids] + [True]
        words = [i for i, id in enumerate(ids) if starts[i] and starts[i + 1] and pieces[id][1:].isalpha()]
        prose = sum(c.isalpha() or c == " " for c in sentence) >= 0.95 * len(sentence)
        if words and prose and 40 <= len(sentence) <= 160 and len(ids) <= corpus.length - 2:
            return [(ids, words[len(words) // 2])]
    return []
