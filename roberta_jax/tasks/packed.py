"""Several examples in one row: each keeps its own `<s> … </s>`, positions and attention, so that no loss changes."""

from collections.abc import Sequence

import numpy as np

from roberta_jax.tasks.features import UNLABELLED, Features

MOST_IN_A_ROW = 16
SIZES = 4  # numbers of rows that batches are filled up to: each costs a compile


def share_rows(lengths: np.ndarray, length: int) -> list[list[int]]:
    """Which examples stand together in rows of `length` ids: the longest first, each where it fits first."""
    rows, room = [], []
    for i in np.argsort(-lengths, kind="stable").tolist():
        fitting = (at for at, row in enumerate(rows) if room[at] >= lengths[i] and len(row) < MOST_IN_A_ROW)
        at = next(fitting, len(rows))
        if at == len(rows):
            rows.append([])
            room.append(length)
        rows[at].append(i)
        room[at] -= lengths[i]
    return rows


def padded_rows(rows: int, size: int, unit: int, microbatch_size: int = 0) -> int:
    """The least of a few numbers up to `size` that has room for so many rows.

    A multiple of `unit`, as `size` is, and of more than `microbatch_size` times that of whole microbatches.
    """
    step = unit * max(1, -(-size // (SIZES * unit)))
    padded = min(size, -(-rows // step) * step)
    many = microbatch_size and padded > unit * microbatch_size
    return padded_rows(rows, size, unit * microbatch_size) if many else padded


def collate(
    features: Features, indices: np.ndarray, rows: Sequence[Sequence[int]], size: int, length: int, pad: int
) -> dict[str, np.ndarray]:
    """A batch of `size` rows, `rows` of them with the examples `indices[i]` for i in each.

    Returns:
      input_ids, segment_ids int32 [size, length]; tagging: labels and weights [size, length]; else `starts` int32
      [size, MOST_IN_A_ROW], where each example's `<s>` stands, its labels [size, MOST_IN_A_ROW, …] and weights, 0 where
      there is none.
    """
    ids = np.full((size, length), pad, np.int32)
    segment_ids = np.zeros_like(ids)
    tagging = isinstance(features.labels, list)
    if tagging:
        labels = np.full((size, length), UNLABELLED, np.int32)
    else:
        labels = np.zeros((size, MOST_IN_A_ROW, *features.labels.shape[1:]), features.labels.dtype)
    starts, weights = np.zeros((size, MOST_IN_A_ROW), np.int32), np.zeros((size, MOST_IN_A_ROW), np.float32)
    for at, row in enumerate(rows):
        start = 0
        for slot, i in enumerate(indices[row]):
            (tokens,) = features.rows[i]
            here = slice(start, start + len(tokens))
            ids[at, here], segment_ids[at, here] = tokens, slot + 1
            labels[at, here if tagging else slot] = features.labels[i]
            starts[at, slot], weights[at, slot] = start, 1
            start += len(tokens)
    batch = {"input_ids": ids, "segment_ids": segment_ids}
    if tagging:
        return batch | {"labels": np.maximum(labels, 0), "weights": (labels != UNLABELLED).astype(np.float32)}
    return batch | {"labels": labels, "weights": weights, "starts": starts}
