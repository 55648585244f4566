"""How probable a masked LM finds sentences: rows with masks, made in bulk, a few shapes, only masked slots through the head."""

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roberta_jax.bucketing import LONG, power_of_two
from roberta_jax.errors import UserError
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm
from roberta_jax.tokenization.pretrained import Sentence

METRICS = {
    "pll": "pseudo-log-likelihood (Salazar et al. 2020): each token masked in its turn, log p summed, in nats",
    "pll-word-l2r": "pseudo-log-likelihood (Kauf & Ivanova 2023): each token masked with the later ones of its word, log p "
    "summed, in nats",
    "holistic": "one pass with nothing masked (Huebner et al. 2021): mean log p of the input tokens, special ones included, "
    "in nats",
}
# What rows are padded to. Test sentences are short, and steps of eight would be padding by a fifth.
LENGTHS = (*range(6, 33, 2), *range(36, 65, 4), *range(72, 129, 8), *LONG)
IN_FLIGHT = 4  # batches: the next ones are made while a device computes, and no more of them lie in memory


class TooLong(UserError):
    """A text is longer than the model's rows: its score would be of a part."""


class Batch(NamedTuple):
    owners: np.ndarray  # int [b]: which sentence a row is of
    ids: np.ndarray  # int32 [B, L]; rows from the b-th on hold nothing
    used: np.ndarray  # int32 [B]: how many ids are no padding
    positions: np.ndarray  # int32 [B, S]
    labels: np.ndarray  # int32 [B, S]


@functools.partial(jax.jit, static_argnames="config")
def log_probabilities(params, ids, used, positions, labels, config: RobertaConfig) -> jax.Array:
    """log p of `labels` at `positions`: float32 [B, S]."""
    segments = (jnp.arange(ids.shape[1]) < used[:, None]).astype(jnp.int32)
    logits = apply_masked_lm(params, config, ids, segments, positions)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)


def score(
    forward: Callable[[Batch], Any],
    sentences: Sequence[Sentence],
    metric: str,
    lengths: Sequence[int],
    tokens: int,
    slots: int,
    mask: int,
    pad: int,
    progress: Callable[[int], Any] = lambda rows: None,
) -> np.ndarray:
    """The score of each sentence by a metric of METRICS, higher is more probable: float64 [n]; NaN where there is no token.

    Args:
      forward: log p at the positions of a batch, [B, S].
      lengths: that rows are padded to, ascending; the last takes the longest sentence.
      tokens, slots: ids, and positions whose logits are computed, of a batch at most.
      mask, pad: ids.
      progress: is told how many more rows are done.
    """
    total, counts = np.zeros(len(sentences)), np.zeros(len(sentences), int)

    def add(batch: Batch, found: Any) -> None:
        rows = len(batch.owners)
        real = np.arange(batch.positions.shape[1]) < (batch.used[:rows, None] if metric == "holistic" else 1)
        summed = np.where(real, np.asarray(found, np.float64)[:rows], 0).sum(1)
        np.add.at(total, batch.owners, summed)
        np.add.at(counts, batch.owners, real.sum(1) if metric == "holistic" else 1)
        progress(rows)

    queue: deque = deque()
    for batch in _batches(sentences, metric, lengths, tokens, slots, mask, pad):
        queue.append((batch, forward(batch)))
        if len(queue) > IN_FLIGHT:
            add(*queue.popleft())
    while queue:
        add(*queue.popleft())
    total[counts == 0] = np.nan
    return total / counts if metric == "holistic" else total


def rows_of(sentences: Sequence[Sentence], metric: str) -> int:
    """How many rows it takes to score them."""
    return len(sentences) if metric == "holistic" else sum(int((~each.special).sum()) for each in sentences)


def _batches(sentences, metric: str, lengths, tokens: int, slots: int, mask: int, pad: int) -> Iterator[Batch]:
    """The longest first; all batches of a length have one shape."""
    of_length = defaultdict(list)
    for number, sentence in enumerate(sentences):
        of_length[next(length for length in lengths if length >= len(sentence.ids))].append(number)
    for length, numbers in sorted(of_length.items(), reverse=True):
        ids = np.full((len(numbers), length), pad, np.int32)
        words = np.full((len(numbers), length), -1, np.int32)
        scored = np.zeros((len(numbers), length), bool)
        for row, number in enumerate(numbers):
            sentence = sentences[number]
            ids[row, : len(sentence.ids)], words[row, : len(sentence.ids)] = sentence.ids, sentence.words
            scored[row, : len(sentence.ids)] = ~sentence.special
        used, numbers = np.array([len(sentences[number].ids) for number in numbers], np.int32), np.array(numbers)
        if metric == "holistic":
            owners, at = np.arange(len(numbers)), None
        else:
            owners, at = np.nonzero(scored)  # a row for each token
        most = min(tokens // length, slots // length if at is None else slots)
        size = min(max(8, most // 8 * 8), power_of_two(max(1, len(owners))))
        for start in range(0, len(owners), size):
            owner = owners[start : start + size]
            rows = np.full((size, length), pad, np.int32)
            rows[: len(owner)] = ids[owner]
            if at is None:
                positions, labels = np.tile(np.arange(length, dtype=np.int32), (size, 1)), rows
            else:
                positions, labels = np.zeros((size, 1), np.int32), np.zeros((size, 1), np.int32)
                position = positions[: len(owner)] = at[start : start + size, None]
                labels[: len(owner)] = np.take_along_axis(ids[owner], position, 1)
                masked = np.arange(length) == position
                if metric == "pll-word-l2r":
                    of_word = words[owner] == np.take_along_axis(words[owner], position, 1)
                    masked |= of_word & (np.arange(length) > position)
                rows[: len(owner)][masked] = mask
            row_used = np.zeros(size, np.int32)
            row_used[: len(owner)] = used[owner]
            yield Batch(numbers[owner], rows, row_used, positions, labels)
