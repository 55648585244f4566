"""The counter hash from which orders and masks are drawn: vectorised, stateless, in TensorFlow's graph."""

import numpy as np

from roberta_jax.data.tensorflow_on_host import tf

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ over the golden ratio: its multiples lie far apart


def mix(x: tf.Tensor) -> tf.Tensor:
    """The finaliser of MurmurHash3 (public domain): 64 bits in, 64 well-mixed bits out. uint64 → uint64"""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(33))) * np.uint64(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, np.uint64(33)))


def hash_of_epochs(seed: int | tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
    """What all that is drawn in these epochs [B] of a run with this seed begins with; or each with its own, uint64 [B]."""
    start = seed + GOLDEN if isinstance(seed, tf.Tensor) else np.uint64((seed + int(GOLDEN)) % 2**64)
    return mix(tf.cast(epochs, tf.uint64) + mix(start))


def uniform(x: tf.Tensor) -> tf.Tensor:
    """uint64 → float64 in [0, 1)."""
    return tf.cast(tf.bitwise.right_shift(x, np.uint64(11)), tf.float64) * 2.0**-53
