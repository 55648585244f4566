"""What a run reads when, and where the order of rows of each corpus stands.

Which rows batch n holds, and their masks, is a pure function of the config, the seed and n; of a run that continues another,
also of how many rows that one had drawn. Every checkpoint says this, so that whatever goes on from it, the same run or
another, draws the rows that come next.
"""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from roberta_jax.data.corpus import Corpus
from roberta_jax.data.masking import Masking
from roberta_jax.data.order import epochs_and_rows
from roberta_jax.data.pipeline import on_mesh, train_batches
from roberta_jax.pretraining.losses import add_pair_weights
from roberta_jax.training.sharding import batch_sharding, local_rows


@dataclass(frozen=True)
class Reading:
    """What consecutive batches are made of."""

    first: int  # the number of the first of them
    corpus: Corpus
    masking: Masking
    batch_size: int
    seed: int

    @cached_property
    def order(self) -> str:
        """Names the order in which its rows stand: the rows, and what it is drawn by."""
        return f"{self.corpus.manifest['key']}, fraction {self.corpus.train.fraction:g}, seed {self.seed}"

    @cached_property
    def held(self) -> str:
        """All on which the losses of its batches depend, the model apart."""
        return json.dumps([self.order, self.batch_size, asdict(self.masking)])


class Course:
    """The batches of a run, by their numbers.

    After a rewind a step has a later batch than its own number: what a phase reads begins with its first batch.

    Args:
      readings: what they are made of, by their first ones.
    """

    def __init__(self, readings: Sequence[Reading]):
        self._readings, self._firsts = readings, [reading.first for reading in readings]
        self.begin({})

    def begin(self, noted: dict) -> None:
        """Goes on from a checkpoint: what `note` said for it, or {}, by which every order begins with batch 0."""
        self._first, self._drawn = noted.get("batch", 0), noted.get("rows", {})

    def note(self, number: int) -> dict:
        """What a checkpoint says whose next batch is `number`."""
        return {"batch": number, "rows": self.drawn(number), "held": self.held(number - 1)}

    def reading(self, number: int) -> Reading:
        """What a batch is made of."""
        return self._readings[bisect_right(self._firsts, max(number, 0)) - 1]

    def held(self, number: int) -> str:
        """All on which the loss of a batch depends, the model and the batch itself apart."""
        return self.reading(number).held

    def drawn(self, number: int) -> dict[str, int]:
        """How many rows of each order stand before a batch."""
        drawn, ends = dict(self._drawn), [*self._firsts[1:], number]
        for reading, end in zip(self._readings, ends):
            batches = min(end, number) - max(reading.first, self._first)
            if batches > 0:
                drawn[reading.order] = drawn.get(reading.order, 0) + batches * reading.batch_size
        return drawn

    def _first_row(self, number: int) -> int:
        return self.drawn(number).get(self.reading(number).order, 0)

    def rows_of(self, number: int) -> list[int]:
        """The rows of its corpus that a batch holds."""
        reading, first = self.reading(number), self._first_row(number)
        rows, positions = reading.corpus.train, np.arange(first, first + reading.batch_size)
        return rows.numbers(epochs_and_rows(positions, len(rows), reading.seed)[1].numpy()).tolist()

    def batches(self, first: int, mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
        """The batches from number `first` on, laid out on the mesh."""
        sharding = batch_sharding(mesh)
        while True:
            reading = self.reading(first)
            made = train_batches(
                reading.corpus,
                reading.masking,
                reading.batch_size,
                reading.seed,
                local=local_rows(mesh, reading.batch_size),
                first_row=self._first_row(first),
            )
            placed = on_mesh(made, sharding)
            placed = add_pair_weights(placed, sharding) if reading.corpus.of_pairs else placed
            end = next((later for later in self._firsts if later > first), None)
            yield from itertools.islice(placed, end and end - first)
            first = end
