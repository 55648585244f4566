"""Each epoch, and each seed, is a permutation of its own, and as good as a fair one."""

from itertools import chain, combinations, product

import numpy as np
import pytest
import tensorflow as tf

from roberta_jax.data.order import epochs_and_rows

SEED = 5
SEEDS = EPOCHS = range(4)


def orders(rows: int, seed: int, epochs: int) -> np.ndarray:
    """[epochs, rows]"""
    return epochs_and_rows(tf.range(epochs * rows, dtype=tf.int64), rows, seed)[1].numpy().reshape(epochs, rows)


def standardized(order: np.ndarray) -> np.ndarray:
    rows = order.shape[-1]
    return (order.astype(np.float32) - (rows - 1) / 2) / np.sqrt((rows**2 - 1) / 12, dtype=np.float32)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """In units of what chance gives: 1/√n."""
    return abs(np.corrcoef(first, second)[0, 1]) * np.sqrt(len(first))


def met_again(first: np.ndarray, second: np.ndarray, size: int) -> float:
    """How often two rows of a batch of the second order shared one in the first, as a multiple of chance."""
    batches = len(second) // size
    batch_of = np.empty(len(first), np.int64)
    batch_of[first] = np.arange(len(first)) // size
    before = np.sort(batch_of[second[: batches * size]].reshape(batches, size), axis=1)
    runs = np.diff(np.flatnonzero(np.diff(before, axis=1, prepend=-1)), append=batches * size)
    return (runs * (runs - 1)).sum() / (batches * size * (size - 1)) / ((size - 1) / (len(first) - 1))


def spread(order: np.ndarray, size: int) -> float:
    """χ² a degree of freedom of how a batch's rows fall on twenty parts of the corpus: 1 - size / rows where it is fair."""
    batches = len(order) // size
    parts = order[: batches * size].reshape(batches, size) * 20 // len(order) + np.arange(batches)[:, None] * 20
    counts = np.bincount(parts.ravel(), minlength=20 * batches)
    return ((counts - size / 20) ** 2 / (size / 20)).sum() / (19 * batches)


# A fair permutation's bounds are the same for more rows.
CASES = [(rows, True) for rows in (500, 16_000, 65_436, 65_536, 65_537)]
CASES += [(rows, False) for rows in (500, 16_000, 65_436, 65_536, 65_537, 131_000, 300_000)]


@pytest.mark.parametrize(
    "rows, fair", CASES, ids=lambda value: {True: "a fair permutation", False: "ours"}.get(value, str(value))
)
def test_epochs_and_seeds_have_nothing_in_common(rows, fair):
    chooser = np.random.default_rng(rows)
    drawn = [[chooser.permutation(rows) for _ in EPOCHS] if fair else orders(rows, seed, len(EPOCHS)) for seed in SEEDS]
    for order in chain(*drawn):
        np.testing.assert_array_equal(np.bincount(order, minlength=rows), 1)

    deviates = standardized(np.array(drawn))  # [seed, epoch, rows]
    together = np.abs(np.einsum("sen,tfn->setf", deviates, deviates, optimize=True)) / np.sqrt(rows)
    for seed, (first, second) in product(SEEDS, combinations(EPOCHS, 2)):
        assert together[seed, first, seed, second] < 4, (seed, first, second)
    for epoch, (first, second) in product(EPOCHS, combinations(SEEDS, 2)):
        assert together[first, epoch, second, epoch] < 4, (epoch, first, second)
    assert (np.abs(deviates @ standardized(np.arange(rows))) / np.sqrt(rows)).max() < 4  # with the corpus' own order
    for distance in (1, 2, 256):
        assert (np.abs((deviates[..., :-distance] * deviates[..., distance:]).sum(-1)) / np.sqrt(rows)).max() < 4.5, distance

    size = min(256, rows // 4)
    epochs = [met_again(of_seed[epoch], of_seed[epoch + 1], size) for of_seed in drawn for epoch in EPOCHS[:-1]]
    seeds = [met_again(drawn[seed][0], drawn[seed + 1][0], size) for seed in SEEDS[:-1]]
    assert np.mean(epochs) == pytest.approx(1, abs=0.1) and np.mean(seeds) == pytest.approx(1, abs=0.1)
    spreads, noise = [spread(order, size) for order in chain(*drawn)], np.sqrt(2 / (19 * (rows // size) * 16))
    assert np.mean(spreads) == pytest.approx(1 - size / rows, abs=4 * noise)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64, 1_000, 65_535, 65_536, 65_537, 65_538, 262_145])
def test_an_epoch_is_a_permutation(rows):
    epochs, drawn = (x.numpy() for x in epochs_and_rows(tf.range(3 * rows, dtype=tf.int64), rows, SEED))
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(3), rows))
    for order in drawn.reshape(3, rows):
        np.testing.assert_array_equal(np.sort(order), np.arange(rows))


@pytest.mark.parametrize("rows", [10**9, 10**10])
def test_a_corpus_of_billions_of_rows_has_an_order_too(rows):
    count = 100_000
    first, second = (
        [x.numpy() for x in epochs_and_rows(epoch * rows + tf.range(count, dtype=tf.int64), rows, SEED)]
        for epoch in (10**6, 10**6 + 1)
    )
    assert set(first[0]) == {10**6} and len(set(first[1])) == count
    assert first[1].min() >= 0 and first[1].max() < rows
    assert abs(first[1].mean() / rows - 0.5) < 4 / np.sqrt(12 * count)
    assert correlation(first[1], second[1]) < 4
    for distance in (1, 256):
        assert correlation(first[1][:-distance], first[1][distance:]) < 4


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_any_seed_has_an_order(seed):
    np.testing.assert_array_equal(np.sort(orders(1_000, seed, 1)[0]), np.arange(1_000))
    assert (orders(1_000, seed, 1) == orders(1_000, seed + 1, 1)).mean() < 0.02
