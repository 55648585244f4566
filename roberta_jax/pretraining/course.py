"""What a run reads when, and where the order of rows of each source stands.

Which rows batch n holds, and their masks, is a pure function of the config, the seed and n; of a run that continues another,
also of how many rows that one had drawn. Every checkpoint says this, so that whatever goes on from it, the same run or
another, draws the rows that come next. Orders are named by the rows themselves: a corpus' key tells a text from its copy, which
another host or another day may have, of the same rows.
"""

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh

from roberta_jax.data.corpus import Corpus, words_per_token
from roberta_jax.data.masking import Masking
from roberta_jax.data.mixture import Mixture
from roberta_jax.data.order import epochs_and_rows
from roberta_jax.data.pipeline import mixed_batches, on_mesh, train_batches
from roberta_jax.output import to_json
from roberta_jax.pretraining.losses import add_pair_weights
from roberta_jax.training.sharding import batch_sharding, local_rows

IN_ALL = "in all"  # beside the orders: the rows of all of them, which is the position in a mixture


@dataclass(frozen=True)
class Source:
    """A corpus that is read, by itself or in a mixture."""

    name: str
    corpus: Corpus
    weight: float = 1.0  # its part of the tokens

    @property
    def rows_weight(self) -> float:
        """Its part of the rows, which are not equally full everywhere."""
        manifest = self.corpus.manifest
        return self.weight * manifest["rows"]["train"] / manifest["tokens"]["train"]

    @cached_property
    def contents(self) -> str:
        """Names its rows, wherever and of whichever copy of a text they were made."""
        return hashlib.sha256(to_json(sorted(self.corpus.manifest["shards"].items())).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Reading:
    """What consecutive batches are made of."""

    first: int  # the number of the first of them
    sources: tuple[Source, ...]
    masking: Masking
    batch_size: int
    seed: int
    by_key: bool = False  # orders and seeds are named by the corpora's keys, as of runs that began before rows named them

    @cached_property
    def mixture(self) -> Mixture:
        """Of its sources' rows."""
        return Mixture([source.rows_weight for source in self.sources])

    @cached_property
    def _names(self) -> list[str]:
        """Of the sources' rows."""
        return [source.corpus.manifest["key"] if self.by_key else source.contents for source in self.sources]

    @cached_property
    def seeds(self) -> list[int]:
        """By which each source's order and masks are drawn: the run's, or in a mixture one of the source's own."""
        if len(self.sources) == 1:
            return [self.seed]
        return [int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7]) for name in self._names]

    @cached_property
    def orders(self) -> list[str]:
        """Name the orders in which the sources' rows stand: the rows, and what these are drawn by."""
        fractions = [source.corpus.train.fraction for source in self.sources]
        return [f"{name}, fraction {of:g}, seed {seed}" for name, of, seed in zip(self._names, fractions, self.seeds)]

    @cached_property
    def amounts(self) -> dict[str, int]:
        """About how many "tokens", padding apart, and "words" a batch has, by the means of the sources' rows.

        No words where a source was prepared before they were counted.
        """
        manifests = [source.corpus.manifest for source in self.sources]
        tokens = np.array([manifest["tokens"]["train"] / manifest["rows"]["train"] for manifest in manifests])
        words = tokens * [words_per_token(manifest) for manifest in manifests]
        rows = self.batch_size * self.mixture.quotas / self.mixture.quotas.sum()
        return {"tokens": round(float(rows @ tokens)), "words": round(float(rows @ words)) if words.all() else 0}

    @cached_property
    def held(self) -> str:
        """All on which the losses of its batches depend, the model apart."""
        weights = [source.weight for source in self.sources] if len(self.sources) > 1 else []
        return to_json([*self.orders, *weights, self.batch_size, asdict(self.masking)])


class Course:
    """The batches of a run, by their numbers.

    After a rewind a step has a later batch than its own number: what a phase reads begins with its first batch.

    Args:
      readings: what they are made of, by their first ones.
    """

    def __init__(self, readings: Sequence[Reading]):
        self._readings, self._firsts = readings, [reading.first for reading in readings]
        mixed = any(len(reading.sources) > 1 for reading in readings)
        names = dict.fromkeys(source.name for reading in readings for source in reading.sources)
        self.names = tuple(names) if mixed else ()  # of the sources, by which batches number them; of a run without mixtures ()
        self.sources = [source for reading in readings for source in reading.sources]
        self.begin({})

    def begin(self, noted: dict) -> None:
        """Goes on from a checkpoint: what `note` said for it, or {}, by which every order begins with batch 0.

        A run whose checkpoint has names by key keeps to them, in all of its phases.
        """
        self._first, self._drawn = noted.get("batch", 0), noted.get("rows", {})
        by_key = any(order in self._drawn for each in self._readings for order in replace(each, by_key=True).orders)
        self._readings = [replace(each, by_key=by_key) for each in self._readings]
        self._seen = {name: noted.get(name, 0) for name in ("tokens", "words")}

    def note(self, number: int) -> dict:
        """What a checkpoint says whose next batch is `number`; "last" is about what the batch before it had."""
        last = self.reading(number - 1)
        return {"batch": number, "rows": self.drawn(number), **self.seen(number), "last": last.amounts, "held": last.held}

    def reading(self, number: int) -> Reading:
        """What a batch is made of."""
        return self._readings[bisect_right(self._firsts, max(number, 0)) - 1]

    def held(self, number: int) -> str:
        """All on which the loss of a batch depends, the model and the batch itself apart."""
        return self.reading(number).held

    def _until(self, number: int) -> Iterator[tuple[Reading, int]]:
        """What is read until a batch, and for how many batches."""
        for reading, end in zip(self._readings, [*self._firsts[1:], number]):
            if (batches := min(end, number) - max(reading.first, self._first)) > 0:
                yield reading, batches

    def seen(self, number: int) -> dict[str, int]:
        """About how many "tokens", padding apart, and "words" stand before a batch."""
        seen = dict(self._seen)
        for reading, batches in self._until(number):
            seen = {name: before + batches * reading.amounts[name] for name, before in seen.items()}
        return seen

    def drawn(self, number: int) -> dict[str, int]:
        """How many rows of each order stand before a batch, and in all."""
        drawn = {IN_ALL: 0} | self._drawn
        for reading, batches in self._until(number):
            start, rows = drawn[IN_ALL], batches * reading.batch_size
            for order, more in zip(reading.orders, reading.mixture.before(start + rows) - reading.mixture.before(start)):
                drawn[order] = drawn.get(order, 0) + int(more)
            drawn[IN_ALL] += rows
        return drawn

    def rows_of(self, number: int) -> list:
        """The rows of its corpus that a batch holds; of a mixture with the sources' names, "NAME ROW"."""
        reading, drawn = self.reading(number), self.drawn(number)
        start, found = drawn[IN_ALL], []
        stretch = np.arange(start, start + reading.batch_size)
        sources = reading.mixture.source_of(stretch)
        for index, (source, order, seed) in enumerate(zip(reading.sources, reading.orders, reading.seeds)):
            first = drawn.get(order, 0)
            positions, rows = np.arange(first, first + np.sum(sources == index)), source.corpus.train
            if len(positions):
                numbers = rows.numbers(epochs_and_rows(positions, len(rows), seed)[1].numpy()).tolist()
                found += numbers if len(reading.sources) == 1 else [f"{source.name} {row}" for row in numbers]
        return found

    def batches(self, first: int, mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
        """The batches from number `first` on, laid out on the mesh; those of a run with a mixture have "source"."""
        sharding = batch_sharding(mesh)
        while True:
            reading, drawn = self.reading(first), self.drawn(first)
            corpora, starts = [source.corpus for source in reading.sources], [drawn.get(order, 0) for order in reading.orders]
            size, local = reading.batch_size, local_rows(mesh, reading.batch_size)
            if self.names:
                numbers = [self.names.index(source.name) for source in reading.sources]
                position = drawn[IN_ALL]
                made = mixed_batches(corpora, reading.mixture, reading.seeds, reading.masking, size, position, starts, local)
                made = (batch | {"source": np.array(numbers, np.int32)[batch["source"]]} for batch in made)
            else:
                made = train_batches(corpora[0], reading.masking, size, reading.seed, local=local, first_row=starts[0])
            placed = on_mesh(made, sharding)
            placed = add_pair_weights(placed, sharding) if corpora[0].of_pairs else placed
            end = next((later for later in self._firsts if later > first), None)
            yield from itertools.islice(placed, end and end - first)
            first = end
