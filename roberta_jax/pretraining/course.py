"""What a run reads when, and where the order of rows of each corpus stands.

Which rows batch n holds, and their masks, is a pure function of the config, the seed and n; of a run that continues another,
also of how many rows that one had drawn. Every checkpoint says this, so that whatever goes on from it, the same run or
another, draws the rows that come next.
"""

import json
from collections.abc import Iterator
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
    """What batches are made of."""

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

    Args:
      reading: what they are made of.
    """

    def __init__(self, reading: Reading):
        self._reading = reading
        self.begin({})

    def begin(self, noted: dict) -> None:
        """Goes on from a checkpoint: what `note` said for it, or {}, by which every order begins with batch 0."""
        self._first, self._drawn = noted.get("batch", 0), noted.get("rows", {})

    def note(self, number: int) -> dict:
        """What a checkpoint says whose next batch is `number`."""
        return {"batch": number, "rows": self.drawn(number), "held": self.held(number - 1)}

    def order(self, number: int) -> str:
        """Names the order of rows from which a batch is drawn."""
        return self._reading.order

    def held(self, number: int) -> str:
        """All on which the loss of a batch depends, the model and the batch itself apart."""
        return self._reading.held

    def drawn(self, number: int) -> dict[str, int]:
        """How many rows of each order stand before a batch."""
        order, rows = self._reading.order, (number - self._first) * self._reading.batch_size
        return self._drawn | {order: self._drawn.get(order, 0) + rows}

    def rows_of(self, number: int) -> list[int]:
        """The rows of the corpus that a batch holds."""
        reading = self._reading
        first, rows = self.drawn(number)[reading.order], reading.corpus.train
        positions = np.arange(first, first + reading.batch_size)
        return rows.numbers(epochs_and_rows(positions, len(rows), reading.seed)[1].numpy()).tolist()

    def batches(self, first: int, mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
        """The batches from number `first` on, laid out on the mesh."""
        reading, sharding = self._reading, batch_sharding(mesh)
        made = train_batches(
            reading.corpus,
            reading.masking,
            reading.batch_size,
            reading.seed,
            local=local_rows(mesh, reading.batch_size),
            first_row=self.drawn(first)[reading.order],
        )
        placed = on_mesh(made, sharding)
        return add_pair_weights(placed, sharding) if reading.corpus.of_pairs else placed
