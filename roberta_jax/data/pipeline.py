"""A prepared corpus to batches: index order → rows → masks on the host's threads, then arrays on the mesh.

Batch n is a pure function of (seed, n): the order of an epoch is a keyed permutation that is computed, not stored, so a
run starts at any step as fast as at the first, and each host takes its own rows of the same global batch.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from roberta_jax.data.corpus import Corpus
from roberta_jax.data.masking import Masking, Vocabulary
from roberta_jax.data.mixture import BLOCK, Mixture
from roberta_jax.data.order import epochs_and_rows
from roberta_jax.data.tensorflow_on_host import tf
from roberta_jax.tokenization.tokenizer import Tokenizer

VALID_SEED = 0  # of the masks that are evaluated on: the same in every run
TOKENS_AT_ONCE = 65_536  # TensorFlow makes small batches together: each call of it costs as much as 15,000 tokens


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    pieces = tokenizer.token_bytes
    starts_word = np.array([piece[:1].isspace() for piece in pieces])
    ends_word = np.array([not piece or piece[-1:] in b"\t\n\v\f\r" for piece in pieces])
    ids = (len(tokenizer), tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.mask)
    return Vocabulary(*ids, tokenizer.text_ids, starts_word, ends_word)


def segment_ids(rows: tf.Tensor, vocabulary: Vocabulary) -> tf.Tensor:
    """Which input of its row each token belongs to, from 1; 0 is padding. An input starts with `<s>`. int32 [B, L]"""
    inputs = tf.cumsum(tf.cast(rows == vocabulary.bos, tf.int32), axis=1)
    return tf.where(rows == vocabulary.pad, 0, inputs)


def token_type_ids(rows: tf.Tensor, vocabulary: Vocabulary) -> tf.Tensor:
    """Of pairs: 0 for `<s> A </s>` and for padding, 1 for `</s> B </s>`. int32 [B, L]"""
    ends_before = tf.cumsum(tf.cast(rows == vocabulary.eos, tf.int32), axis=1, exclusive=True)
    return tf.cast((ends_before > 0) & (rows != vocabulary.pad), tf.int32)


def _masked(corpus: Corpus, gather: Callable[..., np.ndarray], masking: Masking, seed: int | np.ndarray):
    """(row numbers, epochs, what else `gather` takes) → the rows, masked; they are like those of `corpus`."""
    vocabulary, pairs = vocabulary_of(corpus.tokenizer), corpus.of_pairs

    def gather_and_mask(row_ids: tf.Tensor, epochs: tf.Tensor, *more: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = tf.numpy_function(gather, [row_ids, *more], tf.int32, stateful=False)
        ids = tf.ensure_shape(ids, [None, corpus.length])
        of_pairs = {}
        if pairs:
            of_pairs["is_next"] = tf.cast(ids[:, 0] == vocabulary.bos, tf.int32)
            ids = tf.concat([tf.fill([tf.shape(ids)[0], 1], vocabulary.bos), ids[:, 1:]], axis=1)
            of_pairs["token_type_ids"] = token_type_ids(ids, vocabulary)
        seeds = tf.gather(seed, more[0]) if np.ndim(seed) else seed
        masked = masking(ids, row_ids, epochs, seeds, vocabulary)
        return masked | {"segment_ids": segment_ids(ids, vocabulary)} | of_pairs

    return gather_and_mask


def train_batches(
    corpus: Corpus,
    masking: Masking,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    local: np.ndarray | None = None,
    first_row: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of steps `first_step`, `first_step` + 1, … without end.

    Args:
      batch_size: of the global batch, in rows.
      local: int64 [b], which rows of the global batch this host takes; all of them by default.
      first_row: where the first batch's rows begin in the stream; as if all before had been of this size by default.

    Yields:
      input_ids and segment_ids int32 [b, L]; positions, labels int32 and weights float32 [b, S]; where the corpus' rows
      are pairs, token_type_ids int32 [b, L] and is_next int32 [b], 1 where B follows A, 0 where it is another document's.
    """
    local = np.arange(batch_size) if local is None else local
    ahead = 0 if first_row is None else first_row - first_step * batch_size
    gather_and_mask = _masked(corpus, corpus.train.gather, masking, seed)

    def batches(steps: tf.Tensor) -> dict[str, tf.Tensor]:
        epochs, row_ids = epochs_and_rows(_positions(steps, batch_size, local) + ahead, len(corpus.train), seed)
        return gather_and_mask(row_ids, epochs)

    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    return _iterate(steps, batches, len(local), corpus.length)


def mixed_batches(
    corpora: Sequence[Corpus],
    mixture: Mixture,
    seeds: Sequence[int],
    masking: Masking,
    batch_size: int,
    position: int,
    drawn: Sequence[int],
    local: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """`train_batches` of several sources, from a position of their mixture on; "source" int32 [b] is each row's.

    Args:
      seeds: of each source's order and masks.
      position: in the mixture, of the first batch's first row.
      drawn: how many rows of each source's order stand before it.
    """
    local = np.arange(batch_size) if local is None else local
    starts = np.array(drawn, np.int64) - mixture.before(position)

    def gather(row_ids: np.ndarray, sources: np.ndarray) -> np.ndarray:
        rows = np.empty((len(row_ids), corpora[0].length), np.int32)
        for source in np.unique(sources):
            rows[sources == source] = corpora[source].train.gather(row_ids[sources == source])
        return rows

    gather_and_mask = _masked(corpora[0], gather, masking, np.array(seeds, np.uint64))

    def batches(numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        positions = position + _positions(numbers, batch_size, local)
        blocks, slots = positions // BLOCK, positions % BLOCK
        sources = tf.gather(mixture.source, slots)
        within = tf.gather(starts, sources) + blocks * tf.gather(mixture.quotas, sources) + tf.gather(mixture.rank, slots)
        epochs = row_ids = tf.zeros_like(positions)
        for source, (corpus, seed) in enumerate(zip(corpora, seeds)):
            found = epochs_and_rows(within, len(corpus.train), seed)
            mine = sources == source
            epochs, row_ids = tf.where(mine, found[0], epochs), tf.where(mine, found[1], row_ids)
        return gather_and_mask(row_ids, epochs, sources) | {"source": tf.cast(sources, tf.int32)}

    numbers = tf.data.Dataset.range(np.iinfo(np.int64).max)
    return _iterate(numbers, batches, len(local), corpora[0].length)


def valid_batches(
    corpus: Corpus, masking: Masking, batch_size: int, local: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The whole valid split once, in order, with masks that never change.

    Rows that fill the last batch weigh 0, and their is_next is -1.
    """
    local = np.arange(batch_size) if local is None else local
    rows = len(corpus.valid)
    gather_and_mask = _masked(corpus, corpus.valid.gather, masking, VALID_SEED)

    def batches(numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        row_ids = _positions(numbers, batch_size, local)
        masked, there = gather_and_mask(tf.minimum(row_ids, rows - 1), tf.zeros_like(row_ids)), row_ids < rows
        masked["weights"] = tf.where(there[:, None], masked["weights"], 0.0)
        if "is_next" in masked:
            masked["is_next"] = tf.where(there, masked["is_next"], -1)
        return masked

    numbers = tf.data.Dataset.range(-(-rows // batch_size))
    return _iterate(numbers, batches, len(local), corpus.length)


def _positions(numbers: tf.Tensor, batch_size: int, local: np.ndarray) -> tf.Tensor:
    """Where the local rows of batches with these numbers stand in the stream, one batch after another. int64 [n · b]"""
    return tf.reshape(numbers[:, None] * batch_size + tf.constant(local, tf.int64), [-1])


def _iterate(
    numbers: tf.data.Dataset, batches: Callable[[tf.Tensor], dict], rows: int, length: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of so many rows, of which `batches` makes several together."""
    as_it_is = tf.autograph.experimental.do_not_convert(batches)  # converting its Python, which is not needed, takes a second
    together = numbers.batch(max(1, TOKENS_AT_ONCE // (rows * length)))
    dataset = together.map(as_it_is, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    iterators = [dataset.prefetch(2).with_options(options).as_numpy_iterator()]

    def each():
        while (made := next(iterators[0], None)) is not None:
            for start in range(0, len(made["input_ids"]), rows):
                yield {name: array[start : start + rows] for name, array in made.items()}

    generator = each()
    # TensorFlow's threads call back into Python for the rows and would hang where the interpreter ends under them: the
    # iterator goes when the generator does, or just before the end.
    weakref.finalize(generator, iterators.clear)
    return generator


def on_mesh(batches: Iterator[dict[str, np.ndarray]], sharding: jax.sharding.Sharding) -> Iterator[dict[str, jax.Array]]:
    """Each host's rows to global arrays, one batch ahead of the step that takes it.

    Where there is one device a compiled step takes the host's arrays as they are, in a tenth of the time that Python takes.
    """
    if sharding.num_devices == 1:
        yield from batches
        return
    ahead = None
    for batch in batches:
        placed = jax.make_array_from_process_local_data(sharding, batch)
        if ahead is not None:
            yield ahead
        ahead = placed
    if ahead is not None:
        yield ahead
