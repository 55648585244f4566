"""Rows to masked inputs, on the host, in TensorFlow's graph so that tf.data runs it on its own threads.

Which positions are masked, and with what, is a pure function of (seed, epoch, row, position): a 64-bit counter hash,
so that batch size, hosts, threads and resuming change nothing. Everything is vectorised over the batch.

The modes are those of the README's table:

    roberta     n = ⌊0.15·tokens + u⌋ of the ordinary tokens; random tokens: ordinary ones
    fairseq     as fairseq does it: special tokens count and may be selected; random tokens are ids from 4 on
    hf          as transformers' collator does it: an independent draw for each ordinary token; random tokens: any ids
    whole_word  n of the words, and one decision for a whole word; a word starts at a leading space
    static      as roberta, but a row has ten patterns, one after another: BERT's, where 40 epochs see each four times
    spans       n of the tokens, in runs of whole words, 3.8 words in the mean (SpanBERT's), the last one cut to make n;
                one decision for a run

The decision is what goes in a selected token's place: <mask>, a random token or, of the rest, itself; 80/10/10 unless the
config says otherwise.
"""

import math
from dataclasses import dataclass

import numpy as np

from roberta_jax.data.counter_hash import GOLDEN, hash_of_epochs, mix, uniform
from roberta_jax.data.tensorflow_on_host import tf
from roberta_jax.errors import UserError, check, check_choice

MODES = ("roberta", "fairseq", "hf", "whole_word", "static", "spans")
STATIC_PATTERNS = 10
WORDS_IN_A_SPAN = 3.8  # in the mean; the number is geometric


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of the tokenizer."""

    size: int
    bos: int
    pad: int
    eos: int
    mask: int
    text_ids: np.ndarray  # the ids that text can give
    starts_word: np.ndarray  # bool [size]: the token begins with white space
    ends_word: np.ndarray  # bool [size]: it is special, or ends with white space but a space, which goes with what follows


@dataclass(frozen=True)
class Masking:
    """How rows are masked (fields of `config.data`)."""

    mode: str = "roberta"
    rate: float = 0.15  # of the tokens, or words, that are predicted
    mask_replace_prob: float = 0.8  # of these, the share that becomes <mask>; the two by transformers' names
    random_replace_prob: float = 0.1  # and that becomes a random token; the rest is kept as it is

    def __post_init__(self):
        check_choice("data.masking", self.mode, MODES)
        check(0 < self.rate < 1, "data.masking_rate", self.rate, "a share between 0 and 1")
        for name in ("mask_replace_prob", "random_replace_prob"):
            check(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "a share from 0 to 1")
        if self._replaced > 1:
            raise UserError(
                f"config.data.mask_replace_prob {self.mask_replace_prob} and config.data.random_replace_prob "
                f"{self.random_replace_prob} are more than 1 together; what they leave of 1 is the share of predicted tokens "
                "that are kept as they are."
            )

    @property
    def _replaced(self) -> float:
        return self.mask_replace_prob + self.random_replace_prob

    @property
    def keep_prob(self) -> float:
        """The share of predicted tokens that are kept as they are."""
        return round(1 - self._replaced, 9)

    def slots(self, length: int) -> int:
        """How many predictions a row of `length` ids has room for. Static, so that the head's shapes are.

        Exact modes need ⌈rate·length⌉ + 1. In the others the number varies: room for six standard deviations more, a
        whole word taken for two tokens; what goes beyond (one row in 10⁹; rows of very long words) is not masked.
        """
        exact = math.ceil(self.rate * length) + 1
        tokens_drawn_at_once = {"hf": 1, "whole_word": 2}.get(self.mode, 0)
        deviation = math.sqrt(self.rate * (1 - self.rate) * length * tokens_drawn_at_once)
        return min(length, exact + math.ceil(6 * deviation))

    def __call__(self, rows, row_ids, epochs, seed: int, vocabulary: Vocabulary) -> dict[str, tf.Tensor]:
        """Masks rows.

        Args:
          rows: int32 [B, L], padded on the right.
          row_ids, epochs: int64 [B], which row it is, and for which time it is seen.
          seed: of the run.
          vocabulary: of the tokenizer that made the rows.

        Returns:
          input_ids int32 [B, L]; positions int32 [B, S] of the predictions; labels int32 [B, S], what stood there;
          weights float32 [B, S], 1 for a prediction and 0 for a slot that is not used.
        """
        length = rows.shape[1]
        slots = self.slots(length)
        if self.mode == "static":
            epochs = epochs % STATIC_PATTERNS
        row_hash = mix(hash_of_epochs(seed, epochs) + tf.cast(row_ids, tf.uint64) * GOLDEN)  # [B]
        per_position = np.arange(1, length + 1, dtype=np.uint64) * GOLDEN

        is_token = (rows != vocabulary.pad) & (rows != vocabulary.bos) & (rows != vocabulary.eos)  # [B, L]
        candidate = rows != vocabulary.pad if self.mode == "fairseq" else is_token
        if self.mode in ("whole_word", "spans"):
            starts = _word_starts(rows, vocabulary)  # [B, L]
            if self.mode == "spans":
                drawn = uniform(mix(mix(row_hash[:, None] + per_position) ^ GOLDEN)) * WORDS_IN_A_SPAN < 1
                starts &= drawn | _behind(~is_token)
            unit = tf.cumsum(tf.cast(starts | ~is_token, tf.int32), axis=1) - 1
            unit_hash = mix(row_hash[:, None] + tf.cast(unit + 1, tf.uint64) * GOLDEN)
        else:
            unit_hash = mix(row_hash[:, None] + per_position)  # [B, L]
        if self.mode == "whole_word":
            first = candidate & (unit != tf.pad(unit, [[0, 0], [1, 0]], constant_values=-1)[:, :-1])
            units = tf.reduce_sum(tf.cast(first, tf.int32), 1)
        else:
            units = tf.reduce_sum(tf.cast(candidate, tf.int32), 1)

        # The highest scores are selected; -1 is never. 63 bits of hash, so ties do not happen.
        score = tf.where(candidate, tf.cast(tf.bitwise.right_shift(unit_hash, np.uint64(1)), tf.int64), np.int64(-1))
        top, positions = tf.math.top_k(score, slots, index_type=tf.int32)  # [B, S]
        if self.mode == "hf":
            selected = top >= np.int64(round((1 - self.rate) * 2**63))
        else:
            u = uniform(mix(row_hash))  # [B]
            n = tf.cast(tf.floor(self.rate * tf.cast(units, tf.float64) + u), tf.int32)[:, None]
            order = tf.range(slots)[None]
            if self.mode == "whole_word":
                order, whole = _order_of_words(tf.gather(unit, positions, batch_dims=1), positions, unit)
                selected = whole & (order < n) & (top >= 0)
            else:
                selected = order < n

        labels = tf.gather(rows, positions, batch_dims=1)
        chosen_hash = tf.gather(unit_hash, positions, batch_dims=1)
        decision = uniform(mix(chosen_hash ^ GOLDEN))  # the same for a whole word
        token_hash = mix(row_hash[:, None] + (tf.cast(positions, tf.uint64) + np.uint64(length + 1)) * GOLDEN)
        replacement = self._random_token(uniform(token_hash), vocabulary)
        replaced = tf.where(decision < self._replaced, replacement, labels)
        replaced = tf.where(decision < self.mask_replace_prob, vocabulary.mask, replaced)
        batch = tf.broadcast_to(tf.range(tf.shape(rows)[0])[:, None], tf.shape(positions))
        at = tf.stack([batch, positions], -1)
        return {
            "input_ids": tf.tensor_scatter_nd_update(rows, at, tf.where(selected, replaced, labels)),
            "positions": positions,
            "labels": labels,
            "weights": tf.cast(selected, tf.float32),
        }

    def _random_token(self, u, vocabulary: Vocabulary):
        if self.mode == "hf":
            return tf.cast(u * vocabulary.size, tf.int32)
        if self.mode == "fairseq":
            return 4 + tf.cast(u * (vocabulary.size - 4), tf.int32)
        ids = vocabulary.text_ids.astype(np.int32)
        return tf.gather(ids, tf.cast(u * len(ids), tf.int32))


def _behind(marked):
    """Whether the position before is marked; the first one's is. bool [B, L]"""
    return tf.pad(marked, [[0, 0], [1, 0]], constant_values=True)[:, :-1]


def _word_starts(rows, vocabulary: Vocabulary):
    """Whether a word begins at each position. bool [B, L]"""
    return _behind(tf.gather(vocabulary.ends_word, rows)) | tf.gather(vocabulary.starts_word, rows)


def _order_of_words(words, positions, unit):
    """For slots sorted so that a word's tokens stand together: which word each is of, in the slots' order, and whether
    all of that word is there. A word that the last slots cut is not; any other is.
    """
    changes = words[:, 1:] != words[:, :-1]
    order = tf.pad(tf.cumsum(tf.cast(changes, tf.int32), axis=1), [[0, 0], [1, 0]])
    after_last = tf.minimum(positions[:, -1:] + 1, unit.shape[1] - 1)
    goes_on = (tf.gather(unit, after_last, batch_dims=1) == words[:, -1:]) & (after_last > positions[:, -1:])
    return order, ~(goes_on & (order == order[:, -1:]))
