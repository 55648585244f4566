"""TensorFlow as it is used here: for tf.data's threads on the host."""

import os

from roberta_jax.imports import without

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with without("keras"):  # which brings scikit-learn and matplotlib where they are; `tf.keras` is there all the same, if used
    import tensorflow as tf

tf.config.set_visible_devices([], "GPU")  # the accelerators are JAX's
