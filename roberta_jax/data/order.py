"""Which row stands where in the endless stream of training examples: a keyed permutation of the rows for each epoch.

It is computed and not stored, so any step's rows are found as fast as the first one's, by any number of hosts.
"""

import numpy as np

from roberta_jax.data.counter_hash import GOLDEN, hash_of_epochs, mix
from roberta_jax.data.tensorflow_on_host import tf

# Of the block cipher that permutes. TensorFlow's own 4 leave epochs and seeds alike (r up to 0.99), with 8 neighbours in an
# epoch still correlate from a million rows on (r 0.003 to 0.01); from 10 on nothing is left, up to 10¹⁰ rows.
ROUNDS = 12


def epochs_and_rows(positions: tf.Tensor, rows: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions in the stream → which epoch each is in, and which row stands there.

    Args:
      positions: int64 [B]; n·B … n·B + B − 1 are batch n.
      rows: how many there are, each of which stands once in an epoch.
      seed: of the run.

    Returns:
      epochs, rows: int64 [B].
    """
    epochs, within = positions // rows, positions % rows
    words = hash_of_epochs(seed, epochs)[:, None] - np.arange(1, 4, dtype=np.uint64) * GOLDEN  # masks add a row's number
    keys = tf.cast(tf.bitwise.right_shift(mix(words), np.uint64(32)), tf.uint32)  # [B, 3]

    def permute(index: tf.Tensor, last: int) -> tf.Tensor:
        last = tf.constant(last, tf.int64)
        return tf.raw_ops.RandomIndexShuffle(index=index, seed=keys, max_index=last, rounds=ROUNDS)

    if (rows - 1) & (rows - 2):
        return epochs, permute(within, rows - 1)
    # Where the last index is a power of two, TensorFlow's cipher is a bit too narrow and repeats rows (2.21, 65,537 rows
    # for one): permute one index more, and walk on from it.
    permuted, extra = permute(within, rows), tf.fill(tf.shape(within), tf.constant(rows, tf.int64))
    return epochs, tf.where(permuted == extra, permute(extra, rows), permuted)
