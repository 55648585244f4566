"""Rows to masked inputs, on the host, in TensorFlow's graph so that tf.data runs it on its own threads.

Which positions are masked, and with what, is a pure function of (seed, epoch, row, position): a 64-bit counter hash,
so that batch size, hosts, threads and resuming change nothing. Everything is vectorised over the batch.

The modes are those of docs/data.md's table:

    roberta     n = ⌊0.15·tokens + u⌋ of the ordinary tokens; random tokens: ordinary ones
    fairseq     as fairseq does it: special tokens count and may be selected; random tokens are ids from 4 on
    hf          as transformers' collator does it: an independent draw for each ordinary token; random tokens: any ids
    whole_word  n of the words, and one decision for a whole word; a word starts at a leading space
    static      as roberta, but a row has ten patterns, one after another: BERT's, where 40 epochs see each four times
    spans       n of the tokens, in runs of whole words, 3.8 words in the mean (SpanBERT's), the last one cut to make n;
                one decision for a run

The decision is what goes in a selected token's place: <mask>, a random token or, of the rest, itself; 80/10/10 unless the
config says otherwise.

A mode is a function and its row in MODES, at the end of this file; nothing else has to know of it. The function says which
tokens are candidates, and what a unit is that one decision replaces: a token, a word or a run. To choose n candidates at
random, without replacement, is to take those with the n highest hashes. A unit's tokens have one hash, so that in this order
they stand together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roberta_jax.data.counter_hash import GOLDEN, hash_of_epochs, mix, uniform
from roberta_jax.data.tensorflow_on_host import tf
from roberta_jax.errors import UserError, check, check_choice

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

    @property
    def patterns(self) -> int:
        """After how many epochs a row is masked as before; 0: in every epoch anew."""
        return MODES[self.mode].patterns

    @property
    def predicts_special_tokens(self) -> bool:
        """Whether <s> and </s> may be predicted."""
        return MODES[self.mode].predicts_special_tokens

    def slots(self, length: int) -> int:
        """How many predictions a row of `length` ids has room for. Static, so that the head's shapes are.

        Exact modes need ⌈rate·length⌉ + 1. In the others the number varies: room for six standard deviations more, a
        whole word taken for two tokens; what goes beyond (one row in 10⁹; rows of very long words) is not masked.
        """
        exact = math.ceil(self.rate * length) + 1
        deviation = math.sqrt(self.rate * (1 - self.rate) * length * MODES[self.mode].tokens_drawn_at_once)
        return min(length, exact + math.ceil(6 * deviation))

    def __call__(self, rows, row_ids, epochs, seed: int | tf.Tensor, vocabulary: Vocabulary) -> dict[str, tf.Tensor]:
        """Masks rows.

        Args:
          rows: int32 [B, L], padded on the right.
          row_ids, epochs: int64 [B], which row it is, and for which time it is seen.
          seed: of the run, or uint64 [B] of each row.
          vocabulary: of the tokenizer that made the rows.

        Returns:
          input_ids int32 [B, L]; positions int32 [B, S] of the predictions; labels int32 [B, S], what stood there;
          weights float32 [B, S], 1 for a prediction and 0 for a slot that is not used.
        """
        mode, length = MODES[self.mode], rows.shape[1]
        epochs = epochs % mode.patterns if mode.patterns else epochs
        row_hash = mix(hash_of_epochs(seed, epochs) + tf.cast(row_ids, tf.uint64) * GOLDEN)  # [B]
        is_token = (rows != vocabulary.pad) & (rows != vocabulary.bos) & (rows != vocabulary.eos)  # [B, L]

        # Which positions are predicted. What is computed of them is [B, S], as they are.
        selection = mode.select(Rows(rows, is_token, row_hash, vocabulary, self.rate, self.slots(length)))
        positions = selection.positions
        labels = tf.gather(rows, positions, batch_dims=1)

        # What goes in their place: by a number in [0, 1) of each unit, and a random token by one of each position.
        decision = uniform(mix(tf.gather(selection.unit_hash, positions, batch_dims=1) ^ GOLDEN))
        token_hash = mix(row_hash[:, None] + (tf.cast(positions, tf.uint64) + np.uint64(length + 1)) * GOLDEN)
        replaced = tf.where(decision < self._replaced, mode.random_token(uniform(token_hash), vocabulary), labels)
        replaced = tf.where(decision < self.mask_replace_prob, vocabulary.mask, replaced)

        # The rows with these in them.
        batch = tf.broadcast_to(tf.range(tf.shape(rows)[0])[:, None], tf.shape(positions))
        indices = tf.stack([batch, positions], -1)
        return {
            "input_ids": tf.tensor_scatter_nd_update(rows, indices, tf.where(selection.selected, replaced, labels)),
            "positions": positions,
            "labels": labels,
            "weights": tf.cast(selection.selected, tf.float32),
        }


@dataclass(frozen=True)
class Rows:
    """What a mode selects from."""

    ids: tf.Tensor  # int32 [B, L]
    is_token: tf.Tensor  # bool [B, L]: an ordinary one, not <s>, </s> or padding
    row_hash: tf.Tensor  # uint64 [B]
    vocabulary: Vocabulary
    rate: float
    slots: int  # S


@dataclass(frozen=True)
class Selection:
    """What a mode selects."""

    unit_hash: tf.Tensor  # uint64 [B, L]: of the token, word or run that is replaced by one decision
    positions: tf.Tensor  # int32 [B, S]
    selected: tf.Tensor  # bool [B, S]: which of these are predicted


# The modes.


def roberta(rows: Rows) -> Selection:
    """n of the ordinary tokens.

    n is fairseq's (see `_number_to_predict`); that <s> and </s> are no candidates is BERT's: create_masked_lm_predictions in
    google-research/bert, create_pretraining_data.py.
    """
    return _select_n(rows, rows.is_token, _hash_of_positions(rows))


def fairseq(rows: Rows) -> Selection:
    """n of all tokens, the special ones too.

    fairseq/data/mask_tokens_dataset.py, MaskTokensDataset: `mask[np.random.choice(sz, num_mask, replace=False)] = True`.
    """
    return _select_n(rows, rows.ids != rows.vocabulary.pad, _hash_of_positions(rows))


def hf(rows: Rows) -> Selection:
    """Each ordinary token by a draw of its own.

    transformers/data/data_collator.py, DataCollatorForLanguageModeling.torch_mask_tokens:
    `masked_indices = torch.bernoulli(probability_matrix).bool()`.
    """
    unit_hash = _hash_of_positions(rows)
    score, positions = _highest_candidates(rows, rows.is_token, unit_hash)
    return Selection(unit_hash, positions, score >= np.int64(round((1 - rows.rate) * 2**63)))


def whole_word(rows: Rows) -> Selection:
    """n of the words, each with all of its tokens.

    fairseq/data/mask_tokens_dataset.py, MaskTokensDataset, where mask_whole_words is given: `sz = len(word_begins_idx)` and
    `mask = np.repeat(mask, word_lens)`.
    """
    words = _unit_numbers(rows, _word_starts(rows))
    unit_hash = _hash_of_units(rows, words)
    score, positions = _highest_candidates(rows, rows.is_token, unit_hash)  # one word after another
    first_of_word = rows.is_token & (words != tf.pad(words, [[0, 0], [1, 0]], constant_values=-1)[:, :-1])
    order, is_whole = _order_of_words(positions, words)
    return Selection(unit_hash, positions, is_whole & (order < _number_to_predict(rows, first_of_word)) & (score >= 0))


def spans(rows: Rows) -> Selection:
    """n of the ordinary tokens, in runs of whole words.

    facebookresearch/SpanBERT, pretraining/fairseq/data/masking.py, PairWithSpanMaskingScheme: a number of words is drawn by
    `self.p * (1-self.p)**(i - self.lower)`, and the last run is cut, `if len(mask) >= mask_num: break`. There runs are drawn
    until there are enough; here a row is cut into runs, and of these some are taken.
    """
    starts_run = uniform(mix(_hash_of_positions(rows) ^ GOLDEN)) * WORDS_IN_A_SPAN < 1  # so a run's length is geometric
    starts = _word_starts(rows) & (starts_run | _is_after(~rows.is_token))
    return _select_n(rows, rows.is_token, _hash_of_units(rows, _unit_numbers(rows, starts)))


# Steps that they share.


def _hash_of_positions(rows: Rows) -> tf.Tensor:
    """A hash of each token's own. uint64 [B, L]"""
    places = np.arange(1, rows.ids.shape[1] + 1, dtype=np.uint64) * GOLDEN
    return mix(rows.row_hash[:, None] + places)


def _hash_of_units(rows: Rows, units: tf.Tensor) -> tf.Tensor:
    """One hash for all tokens of a unit. uint64 [B, L]

    Args:
      units: the unit of each token, int32 [B, L].
    """
    return mix(rows.row_hash[:, None] + tf.cast(units + 1, tf.uint64) * GOLDEN)


def _unit_numbers(rows: Rows, starts: tf.Tensor) -> tf.Tensor:
    """The unit of each token, numbered from 0 in its row; a special token is one by itself. int32 [B, L]

    Args:
      starts: whether a unit begins at each position, bool [B, L].
    """
    return tf.cumsum(tf.cast(starts | ~rows.is_token, tf.int32), axis=1) - 1


def _highest_candidates(rows: Rows, candidate: tf.Tensor, unit_hash: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(score int64 [B, S], position int32 [B, S]) of the candidates with the highest hashes, the highest first.

    A score is 63 bits of the hash, so that two units do not have the same one; a position that is no candidate has -1. Tokens
    of one unit have the same one and come in the order of the row, as `top_k` leaves equals.
    """
    score = tf.where(candidate, tf.cast(tf.bitwise.right_shift(unit_hash, np.uint64(1)), tf.int64), np.int64(-1))
    return tf.math.top_k(score, rows.slots, index_type=tf.int32)


def _number_to_predict(rows: Rows, candidate: tf.Tensor) -> tf.Tensor:
    """n = ⌊rate·candidates + u⌋. int32 [B, 1]

    fairseq/data/mask_tokens_dataset.py, MaskTokensDataset: `num_mask = int(self.mask_prob * sz + np.random.rand())`.
    """
    candidates = tf.cast(tf.reduce_sum(tf.cast(candidate, tf.int32), 1), tf.float64)
    return tf.cast(tf.floor(rows.rate * candidates + uniform(mix(rows.row_hash))), tf.int32)[:, None]


def _select_n(rows: Rows, candidate: tf.Tensor, unit_hash: tf.Tensor) -> Selection:
    """The n candidates with the highest hashes; of the last unit, where it is of several tokens, as many as make n."""
    _, positions = _highest_candidates(rows, candidate, unit_hash)
    return Selection(unit_hash, positions, tf.range(rows.slots)[None] < _number_to_predict(rows, candidate))


def _is_after(marked: tf.Tensor) -> tf.Tensor:
    """Whether the position before is marked, bool [B, L]; what is before the first one counts as marked. bool [B, L]"""
    return tf.pad(marked, [[0, 0], [1, 0]], constant_values=True)[:, :-1]


def _word_starts(rows: Rows) -> tf.Tensor:
    """Whether a word begins at each position. bool [B, L]"""
    vocabulary = rows.vocabulary
    return _is_after(tf.gather(vocabulary.ends_word, rows.ids)) | tf.gather(vocabulary.starts_word, rows.ids)


def _order_of_words(positions: tf.Tensor, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of slots in which the tokens of a word stand together: (which word in this order, from 0, whether all of it is there).

    Only the last word may be there in part, if the slots end within it.

    Args:
      positions: int32 [B, S], those of a word ascending.
      words: the word of each token, int32 [B, L].

    Returns:
      int32 [B, S], bool [B, S]
    """
    word = tf.gather(words, positions, batch_dims=1)  # [B, S]
    changes = word[:, 1:] != word[:, :-1]
    order = tf.pad(tf.cumsum(tf.cast(changes, tf.int32), axis=1), [[0, 0], [1, 0]])
    after_last = tf.minimum(positions[:, -1:] + 1, words.shape[1] - 1)  # [B, 1]
    goes_on = (tf.gather(words, after_last, batch_dims=1) == word[:, -1:]) & (after_last > positions[:, -1:])
    return order, ~(goes_on & (order == order[:, -1:]))


# Random tokens, by u in [0, 1) of each [B, S].


def text_token(u: tf.Tensor, vocabulary: Vocabulary) -> tf.Tensor:
    """One that text can give."""
    ids = vocabulary.text_ids.astype(np.int32)
    return tf.gather(ids, tf.cast(u * len(ids), tf.int32))


def token_from_4(u: tf.Tensor, vocabulary: Vocabulary) -> tf.Tensor:
    """fairseq's, `weights[:self.vocab.nspecial] = 0`: any but <s>, <pad>, </s> and <unk>; <mask> is the last id and one."""
    return 4 + tf.cast(u * (vocabulary.size - 4), tf.int32)


def any_token(u: tf.Tensor, vocabulary: Vocabulary) -> tf.Tensor:
    """transformers', `torch.randint(len(self.tokenizer), …)`: special tokens too."""
    return tf.cast(u * vocabulary.size, tf.int32)


@dataclass(frozen=True)
class Mode:
    """How one of MODES selects and replaces tokens."""

    select: Callable[[Rows], Selection]
    random_token: Callable[[tf.Tensor, Vocabulary], tf.Tensor] = text_token
    patterns: int = 0  # after so many epochs a row is masked as before; 0: in every epoch anew
    tokens_drawn_at_once: int = 0  # where the number of predictions varies, the tokens that one draw selects; 0: it does not
    predicts_special_tokens: bool = False


MODES = {
    "roberta": Mode(roberta),
    "fairseq": Mode(fairseq, token_from_4, predicts_special_tokens=True),
    "hf": Mode(hf, any_token, tokens_drawn_at_once=1),
    "whole_word": Mode(whole_word, tokens_drawn_at_once=2),
    "static": Mode(roberta, patterns=10),  # google-research/bert, create_pretraining_data.py: --dupe_factor
    "spans": Mode(spans),
}
