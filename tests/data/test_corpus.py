"""A corpus of any number of shards is one array of rows."""

import os

import numpy as np

from roberta_jax.data.corpus import Rows


def test_a_thousand_shards_need_no_descriptor_and_give_their_rows(tmp_path):
    chooser, paths, rows = np.random.default_rng(0), [], []
    for number in range(1_000):
        rows.append(chooser.integers(1 << 16, size=(number % 4, 8)).astype(np.uint16))  # some hold none
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], rows[-1])
    before, rows = len(os.listdir("/proc/self/fd")), np.concatenate(rows)
    opened = Rows(paths)
    assert len(os.listdir("/proc/self/fd")) == before
    order = chooser.permutation(len(opened))
    np.testing.assert_array_equal(opened.gather(order), rows[order].astype(np.int32))
