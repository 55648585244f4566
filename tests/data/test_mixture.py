"""Mixtures: each source's share of every stretch, and its rows in an order of their own."""

import itertools

import numpy as np
import pytest

from roberta_jax.data.masking import Masking
from roberta_jax.data.mixture import BLOCK, Mixture
from roberta_jax.data.pipeline import mixed_batches

SHARES = [(1, 1), (0.7, 0.2, 0.1), (5, 0.005), (1e-9, 1), tuple(range(1, 20))]


@pytest.mark.parametrize("shares", SHARES, ids=len)
def test_every_stretch_has_its_shares_but_for_a_few_rows(shares):
    mixture, wanted = Mixture(shares), np.array(shares) / np.sum(shares)
    assert mixture.quotas.sum() == BLOCK and np.abs(mixture.quotas / BLOCK - wanted).max() < 1e-4
    positions = np.arange(3 * BLOCK // 2)
    sources = mixture.source_of(positions)
    counts = np.pad(np.cumsum(sources == np.arange(len(shares))[:, None], 1), [(0, 0), (1, 0)])
    for window in (8 * 1_000, 100, BLOCK):
        found = counts[:, window:] - counts[:, :-window]
        assert np.abs(found - window * mixture.quotas[:, None] / BLOCK).max() <= max(2, len(shares) / 2)
    for position in (0, 1, 777, BLOCK, len(positions)):
        np.testing.assert_array_equal(mixture.before(position), counts[:, position])
    blocks, slots = np.divmod(positions, BLOCK)  # the n-th row of each source, one after another
    ranks = blocks * mixture.quotas[sources] + mixture.rank[slots]
    np.testing.assert_array_equal(ranks, counts[sources, positions])


def take(*args, number=6, **more):
    return list(itertools.islice(mixed_batches(*args, **more), number))


def originals(batch) -> np.ndarray:
    ids = batch["input_ids"].copy()
    np.put_along_axis(ids, batch["positions"], batch["labels"], 1)
    return ids


def test_each_source_has_every_row_once_in_an_order_of_its_own(small_corpus):
    """Two that hold the same rows: neither their orders nor their masks have anything in common."""
    mixture, rows = Mixture((2, 1)), len(small_corpus.train)
    batches = take([small_corpus] * 2, mixture, [3, 4], Masking(), 111, 0, [0, 0], number=rows * 3 // 111)
    ids, sources = np.concatenate([originals(b) for b in batches]), np.concatenate([b["source"] for b in batches])
    of_first, of_second = ids[sources == 0], ids[sources == 1]
    assert abs(len(of_first) - 2 * rows) <= 2 and abs(len(of_second) - rows) <= 2
    every = {row.tobytes() for row in small_corpus.train.gather(np.arange(rows))}
    assert {row.tobytes() for row in of_second[:rows]} == every == {row.tobytes() for row in of_first[:rows]}
    alike = (of_first[: rows - 2] == of_second[: rows - 2]).all(1).mean()
    assert alike < 0.02


def test_hosts_and_where_it_begins_change_no_batch(small_corpus):
    mixture, masks = Mixture((2, 1)), Masking()
    whole = take([small_corpus] * 2, mixture, [3, 4], masks, 16, 0, [0, 0])
    hosts = [take([small_corpus] * 2, mixture, [3, 4], masks, 16, 0, [0, 0], local=np.arange(8) + 8 * i) for i in range(2)]
    later = take([small_corpus] * 2, mixture, [3, 4], masks, 16, 64, mixture.before(64), number=2)
    for number, batch in enumerate(whole):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([host[number][name] for host in hosts]), array)
            if number in (4, 5):
                np.testing.assert_array_equal(later[number - 4][name], array)
