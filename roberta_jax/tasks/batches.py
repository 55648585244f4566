"""Features to batches: rows of like length together, each batch padded to one of a few lengths, on any mesh.

The batches of an epoch are a pure function of (seed, epoch), as in pretraining: a run resumes at any step at once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from roberta_jax.tasks import packed
from roberta_jax.tasks.features import UNLABELLED, Features
from roberta_jax.training.sharding import batch_devices, batch_sharding

BLOCK = 50  # batches within which rows are sorted by length, or an eighth of the epoch: else they were the same in every one
MOST_LENGTHS = 5  # that batches are padded to: each costs a compile
MULTIPLE = 8  # of which each length is one
WORTH = 0.05  # of all ids: what one more length must save


def choose_lengths(lengths: np.ndarray, multiple: int = MULTIPLE) -> list[int]:
    """The few lengths to which rows can be padded with the least padding in all. Ascending."""
    candidates, counts = np.unique(-(-lengths // multiple) * multiple, return_counts=True)
    total = np.append(0, np.cumsum(counts))
    # [i, j]: ids of the candidates i … j − 1, each padded to the last of them
    together = np.append(0, candidates)[None] * (total[None] - total[:, None])
    together = np.where(np.arange(len(total))[:, None] < np.arange(len(total))[None], together, np.inf)
    cost = np.append(0, np.full(len(candidates), np.inf))  # of the first n candidates, with the lengths chosen so far
    origins = []
    for _ in range(MOST_LENGTHS):
        through = cost[:, None] + together
        if cost[-1] - through[:, -1].min() < WORTH * cost[-1]:
            break
        origins.append(through.argmin(axis=0))
        cost = through.min(axis=0)
    chosen, at = [], len(candidates)
    for origin in reversed(origins):
        chosen.append(int(candidates[at - 1]))
        at = origin[at]
    return chosen[::-1]


def epoch(lengths: np.ndarray, batch_size: int, seed: int, number: int) -> list[np.ndarray]:
    """Which features each batch of an epoch holds; the last few make a smaller one, at some turn.

    In which turn the batches of long rows come depends on the epoch alone: trials of several seeds have them together.
    """
    order = np.random.default_rng((seed, number)).permutation(len(lengths))
    block = batch_size * max(1, min(BLOCK, len(order) // (8 * batch_size)))
    blocks = np.split(order, range(block, len(order), block))
    order = np.concatenate([block[np.argsort(-lengths[block], kind="stable")] for block in blocks])
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[turn] for turn in np.random.default_rng(number).permutation(len(batches))]


def collate(features: Features, indices: np.ndarray, size: int, length: int, pad: int) -> dict[str, np.ndarray]:
    """A batch of `size` features; those after the last of `indices` weigh nothing.

    Returns:
      input_ids, segment_ids int32 [size, (choices,) length]; labels as in Features, tagging [size, length];
      weights float32 [size], tagging [size, length].
    """
    choices = len(features.rows[0])
    ids = np.full((size, choices, length), pad, np.int32)
    segment_ids = np.zeros_like(ids)
    for at, i in enumerate(indices):
        for choice, row in enumerate(features.rows[i]):
            ids[at, choice, : len(row)] = row
            segment_ids[at, choice, : len(row)] = 1
    if choices == 1:
        ids, segment_ids = ids[:, 0], segment_ids[:, 0]
    batch = {"input_ids": ids, "segment_ids": segment_ids}
    if isinstance(features.labels, list):
        labels = np.full((size, length), UNLABELLED, np.int32)
        for at, i in enumerate(indices):
            labels[at, : len(features.labels[i])] = features.labels[i]
        return batch | {"labels": np.maximum(labels, 0), "weights": (labels != UNLABELLED).astype(np.float32)}
    if features.labels is None:
        return batch
    labels = np.zeros((size, *features.labels.shape[1:]), features.labels.dtype)
    labels[: len(indices)] = features.labels[indices]
    return batch | {"labels": labels, "weights": (np.arange(size) < len(indices)).astype(np.float32)}


def padded_size(batch_size: int, mesh: Mesh, microbatch_size: int = 0) -> int:
    """The features of a batch, so many that the devices share them evenly, and take them in equal microbatches."""
    share = -(-batch_size // batch_devices(mesh))
    return batch_devices(mesh) * (-(-share // microbatch_size) * microbatch_size if microbatch_size else share)


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """A batch that every host has made whole."""
    return {name: jax.make_array_from_callback(array.shape, sharding, array.__getitem__) for name, array in batch.items()}


def finetune_batches(
    features: Features,
    batch_size: int,
    size: int,
    lengths: Sequence[int],
    pad: int,
    seeds: Sequence[int],
    first_step: int,
    mesh: Mesh,
    unit: int = 0,
    microbatch_size: int = 0,
) -> Iterator[dict[str, jax.Array]]:
    """The batches of steps `first_step`, `first_step` + 1, … without end; of several seeds stacked, one is not.

    Args:
      batch_size: features of a batch.
      size: rows that it is filled up to.
      lengths: to one of which it is padded, ascending.
      unit, microbatch_size: of several examples in a row, see `packed.padded_rows`; unit 0: each example has its own.
    """
    in_epoch = -(-len(features) // batch_size)
    number, at = divmod(first_step, in_epoch)
    while True:
        batches = zip(*(epoch(features.lengths, batch_size, seed, number) for seed in seeds))
        for together in list(batches)[at:]:
            if unit:
                shared = [packed.share_rows(features.lengths[indices], lengths[-1]) for indices in together]
                rows = packed.padded_rows(max(map(len, shared)), size, unit, microbatch_size)
                arrays_of_seeds = [packed.collate(features, *each, rows, lengths[-1], pad) for each in zip(together, shared)]
            else:
                longest = max(features.lengths[indices].max() for indices in together)
                length = next(length for length in lengths if length >= longest)
                arrays_of_seeds = [collate(features, indices, size, length, pad) for indices in together]
            batch = arrays_of_seeds[0] if len(seeds) == 1 else jax.tree.map(lambda *arrays: np.stack(arrays), *arrays_of_seeds)
            yield place(batch, batch_sharding(mesh, stacked=len(seeds) > 1))
        number, at = number + 1, 0


def predict(
    step: Callable[[Any, dict], dict],
    params: Any,
    features: Features,
    batch_size: int,
    lengths: Sequence[int],
    pad: int,
    mesh: Mesh,
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """A model's answer to each feature, in their order, and its sums over all of them.

    Args:
      step: (params, batch) → {"logits": [rows, …], and others, summed over the batch}, whole on every host.

    Returns:
      (N of logits […], those of tokens still padded; the sums, in float64).
    """
    order = np.argsort(-features.lengths, kind="stable")
    size = padded_size(batch_size, mesh)
    queued = []
    for indices in np.split(order, range(size, len(order), size)):
        length = next(length for length in lengths if length >= features.lengths[indices[0]])
        batch = place(collate(features, indices, size, length, pad), batch_sharding(mesh))
        queued.append((indices, step(params, batch)))
    logits: list[np.ndarray] = [np.zeros(0)] * len(features)
    sums: dict[str, np.ndarray] = {}
    for indices, result in queued:
        result = {name: np.asarray(value) for name, value in result.items()}
        for i, values in zip(indices, result.pop("logits")):
            logits[i] = values
        sums = {name: sums.get(name, 0) + value.astype(np.float64) for name, value in result.items()}
    return logits, sums
