"""Rows of any length as a few shapes: sorted by length, cut into batches, padded to a bucket."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

LONG = (*range(160, 257, 32), *range(320, 513, 64), *range(640, 1025, 128), *range(1280, 2049, 256), *range(2560, 4097, 512))
LENGTHS = (*range(8, 65, 8), *range(80, 129, 16), *LONG)


def buckets(max_length: int, lengths: Sequence[int] = LENGTHS) -> list[int]:
    """The lengths that rows are padded to, ascending; the last takes the longest row."""
    return [length for length in lengths if length < max_length] + [max_length]


def power_of_two(count: int) -> int:
    """The least that is at least `count`."""
    return 1 << (count - 1).bit_length()


def batches(rows: Sequence[np.ndarray], lengths: Sequence[int], tokens: int, pad: int) -> Iterator[tuple]:
    """Batches of at most `tokens` ids, the longest rows first.

    Yields:
      (which rows these are, ids int32 [B, L], how many of each are text int32 [B]); B is a power of two, and rows after
      the last one hold nothing.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    start = 0
    while start < len(order):
        length = next(bucket for bucket in lengths if bucket >= len(rows[order[start]]))
        indices = order[start : start + max(1, power_of_two(tokens // length + 1) // 2)]
        start += len(indices)
        ids = np.full((power_of_two(len(indices)), length), pad, np.int32)
        used = np.zeros(len(ids), np.int32)
        for row, i in enumerate(indices):
            used[row] = len(rows[i])
            ids[row, : used[row]] = rows[i]
        yield indices, ids, used


def map_rows(
    function: Callable[[np.ndarray, np.ndarray, list[int]], Any],
    rows: Sequence[np.ndarray],
    lengths: Sequence[int],
    tokens: int,
    pad: int,
) -> list[Any]:
    """`function(ids, used, indices)` over all batches; for each row, in their order, its part of the trees of arrays [B, …]."""
    # Every batch is queued before the first result is waited for.
    queued = [(indices, function(ids, used, indices)) for indices, ids, used in batches(rows, lengths, tokens, pad)]
    outputs: list[Any] = [None] * len(rows)
    for indices, result in queued:
        result = jax.device_get(result)
        for row, i in enumerate(indices):
            outputs[i] = jax.tree.map(lambda x: x[row], result)  # noqa: B023
    return outputs
