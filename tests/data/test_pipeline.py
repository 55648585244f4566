"""Batches are a pure function of (seed, step): every row once an epoch, on any number of hosts, from any step."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf

from roberta_jax.data.corpus import PAIRS, Corpus, report
from roberta_jax.data.masking import MODES, Masking
from roberta_jax.data.order import epochs_and_rows
from roberta_jax.data.pipeline import on_mesh, segment_ids, train_batches, valid_batches, vocabulary_of
from roberta_jax.errors import UserError
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import prepare
from roberta_jax.pretraining.config import DataConfig
from roberta_jax.tokenization.sentences import split_sentences

ROOT = Path(__file__).parents[2]
SEED, BATCH = 5, 24


def take(batches, count: int) -> list[dict[str, np.ndarray]]:
    return list(islice(batches, count))


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def originals(batch: dict[str, np.ndarray]) -> list[bytes]:
    """The rows before they were masked."""
    rows = batch["input_ids"].copy()
    np.put_along_axis(rows, batch["positions"], batch["labels"], 1)
    return [row.tobytes() for row in rows]


def all_rows(rows) -> list[bytes]:
    return [row.tobytes() for row in rows.gather(np.arange(len(rows)))]


# Training


def test_every_row_exactly_once_an_epoch(small_corpus):
    rows, expected = len(small_corpus.train), all_rows(small_corpus.train)
    assert rows % 23  # so that batches lie across the ends of epochs
    batches = take(train_batches(small_corpus, Masking(), 23, SEED), -(-3 * rows // 23))
    seen = [row for batch in batches for row in originals(batch)]
    epochs = [seen[epoch * rows : (epoch + 1) * rows] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(expected)
    assert epochs[0] != epochs[1] != epochs[2] != expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shares", [np.arange(BATCH).reshape(4, -1), np.arange(BATCH).reshape(-1, 2).T], ids=["4", "2 in turn"])
def test_the_hosts_batches_together_are_the_one_hosts_batch(small_corpus, mode, shares):
    masking, order = Masking(mode), np.argsort(np.concatenate(shares))
    alone = take(train_batches(small_corpus, masking, BATCH, SEED, 40), 5)
    hosts = [take(train_batches(small_corpus, masking, BATCH, SEED, 40, local), 5) for local in shares]
    for step, batch in enumerate(alone):
        together = join([host[step] for host in hosts])
        assert_equal({name: array[order] for name, array in together.items()}, batch)


@pytest.mark.parametrize("mode", MODES)
def test_the_batch_size_does_not_decide_the_masks(small_corpus, mode):
    count, masking = 256, Masking(mode)
    whole, *others = (join(take(train_batches(small_corpus, masking, size, SEED), count // size)) for size in (count, 8, 1))
    for other in others:
        assert_equal(whole, other)


def test_a_later_first_step_gives_the_later_batches(small_corpus):
    batches = take(train_batches(small_corpus, Masking(), BATCH, SEED), 60)
    for step in (0, 1, 41, 59):
        assert_equal(take(train_batches(small_corpus, Masking(), BATCH, SEED, step), 1)[0], batches[step])
    assert originals(batches[0]) != originals(take(train_batches(small_corpus, Masking(), BATCH, SEED + 1), 1)[0])


@pytest.mark.parametrize("mode", MODES)
def test_the_batch_of_a_far_step_is_what_its_epoch_and_rows_say(small_corpus, mode):
    step, masking, rows = 10**6, Masking(mode), len(small_corpus.train)
    batch = take(train_batches(small_corpus, masking, BATCH, SEED, step), 1)[0]
    epochs, row_ids = epochs_and_rows(step * BATCH + tf.range(BATCH, dtype=tf.int64), rows, SEED)
    ids, vocabulary = small_corpus.train.gather(row_ids.numpy()), vocabulary_of(small_corpus.tokenizer)
    expected = masking(tf.constant(ids), row_ids, epochs, SEED, vocabulary)
    assert epochs[0] == step * BATCH // rows
    assert_equal(batch, {name: x.numpy() for name, x in expected.items()} | {"segment_ids": segment_ids(ids, vocabulary)})


# Validation


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_every_valid_row_once_and_padding_rows_weigh_nothing(small_corpus, size):
    rows, batches = len(small_corpus.valid), list(valid_batches(small_corpus, Masking(), size))
    assert len(batches) == -(-rows // size) and all(len(batch["weights"]) == size for batch in batches)
    together = join(batches)
    assert originals(together)[:rows] == all_rows(small_corpus.valid)
    assert (together["weights"][:rows].sum(1) > 0).all() and not together["weights"][rows:].any()


@pytest.mark.parametrize("mode", MODES)
def test_valid_masks_never_change(small_corpus, mode):
    rows, masking = len(small_corpus.valid), Masking(mode)
    first, again, other_size = (join(list(valid_batches(small_corpus, masking, size))) for size in (16, 16, 5))
    assert_equal(first, again)
    assert_equal({n: x[:rows] for n, x in first.items()}, {n: x[:rows] for n, x in other_size.items()})
    hosts = [list(valid_batches(small_corpus, masking, 16, local)) for local in np.split(np.arange(16), 4)]
    assert_equal(first, join([join([host[n] for host in hosts]) for n in range(len(hosts[0]))]))


# Pairs


@pytest.fixture(scope="module", params=PAIRS)
def pairs(request, small_corpus, documents, tmp_path_factory) -> Corpus:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "text.txt").write_text("\n\n".join([*documents, "o " * 90 + "\nso it ends. x"]))
    recipe = CorpusConfig((str(folder / "text.txt"),), str(small_corpus.folder / "tokenizer"), request.param, 64, 0.1)
    return prepare(recipe, folder / "corpus", folder / "cache", processes=1)


def test_a_batch_of_pairs_says_which_tokens_are_whose_and_whether_b_follows(pairs):
    tokenizer, rows = pairs.tokenizer, len(pairs.train)
    whole, joined = pairs.train.gather(np.arange(rows)), join(take(train_batches(pairs, Masking("fairseq"), rows, SEED), 1))
    order = epochs_and_rows(tf.range(rows, dtype=tf.int64), rows, SEED)[1].numpy()
    assert set(whole[:, 0]) == {tokenizer.bos, tokenizer.eos}
    np.testing.assert_array_equal(joined["is_next"], (whole[order, 0] == tokenizer.bos).astype(np.int32))
    whole[:, 0] = tokenizer.bos
    assert originals(joined) == [row.tobytes() for row in whole[order]]
    for row, types, segments in zip(whole[order], joined["token_type_ids"], joined["segment_ids"]):
        end, length = row.tolist().index(tokenizer.eos), int((row != tokenizer.pad).sum())
        assert types.tolist() == [0] * (end + 1) + [1] * (length - end - 1) + [0] * (64 - length)
        assert segments.tolist() == [1] * length + [0] * (64 - length)
    assert joined["token_type_ids"].dtype == joined["is_next"].dtype == np.int32
    np.testing.assert_array_equal(pairs.token_counts, np.bincount(whole[whole != tokenizer.pad], minlength=len(tokenizer)))


def test_what_fills_the_last_valid_batch_of_pairs_is_no_pair(pairs):
    rows, together = len(pairs.valid), join(list(valid_batches(pairs, Masking(), 1_000)))
    assert rows < 1_000 and set(together["is_next"][:rows]) == {0, 1}
    assert set(together["is_next"][rows:]) == {-1} and not together["weights"][rows:].any()


def test_the_manifest_of_pairs_counts_right(pairs, documents):
    encode, manifest = pairs.tokenizer.encode, pairs.manifest
    lengths = [len(encode(s)) for text in [*documents, "o " * 90 + "\nso it ends. x"] for s in split_sentences(text)]
    assert manifest["tokens_lost"] == 0 and manifest["sentences_cut"] == sum(length > 30 for length in lengths) > 0
    rows = manifest["rows"]["train"] + manifest["rows"]["valid"]
    assert sum(manifest["tokens"].values()) == sum(lengths) + 4 * rows
    assert "sentences longer than half a row" in report(manifest)


def test_batches_of_other_formats_hold_what_they_held(small_corpus):
    names = {"input_ids", "segment_ids", "positions", "labels", "weights"}
    assert take(train_batches(small_corpus, Masking(), BATCH, SEED), 1)[0].keys() == names
    assert next(valid_batches(small_corpus, Masking(), BATCH)).keys() == names


# A part of the corpus


@pytest.mark.parametrize("fraction", [1 / 3, 0.1, 0.7, 1e-9])
def test_a_fraction_of_the_train_rows_is_evenly_spread_and_seen_whole_every_epoch(small_corpus, fraction):
    corpus, every = Corpus(small_corpus.folder), all_rows(small_corpus.train)
    corpus.train.fraction = fraction
    number = len(corpus.train)
    assert number == max(1, int(fraction * len(every)))
    numbers = [int(i / fraction) for i in range(number)]
    assert len(set(numbers)) == number and corpus.train.numbers(np.arange(number)).tolist() == numbers
    assert all_rows(corpus.train) == [every[i] for i in numbers]
    seen = [row for batch in take(train_batches(corpus, Masking(), number, SEED), 2) for row in originals(batch)]
    assert sorted(seen[:number]) == sorted(seen[number:]) == sorted(all_rows(corpus.train))
    assert all_rows(corpus.valid) == all_rows(small_corpus.valid)


def test_a_fraction_that_is_none_is_refused():
    for fraction in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"data\.fraction is .*; expected a share above 0 and up to 1"):
            DataConfig(fraction=fraction)


# Arrays


def test_segments_count_the_inputs_of_a_row_and_leave_padding_out(small_corpus):
    vocabulary = vocabulary_of(small_corpus.tokenizer)
    bos, pad, eos = vocabulary.bos, vocabulary.pad, vocabulary.eos
    rows = np.array([[bos, 9, eos, eos, 8, eos, pad], [bos, 9, eos, bos, 8, eos, pad], [bos, eos, bos, eos, bos, eos, pad]])
    assert segment_ids(rows, vocabulary).numpy().tolist() == [[1] * 6 + [0], [1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 3, 3, 0]]
    batch = take(train_batches(small_corpus, Masking(), BATCH, SEED), 1)[0]
    np.testing.assert_array_equal(batch["segment_ids"], batch["input_ids"] != pad)


def test_on_the_mesh_each_device_holds_its_rows(small_corpus):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    plain = take(train_batches(small_corpus, Masking(), BATCH, SEED), 4)
    for ours, expected in zip(on_mesh(iter(plain), sharding), plain, strict=True):
        assert all(array.sharding == sharding and array.shape == expected[name].shape for name, array in ours.items())
        assert_equal({name: np.asarray(array) for name, array in ours.items()}, expected)
        assert ours["input_ids"].addressable_shards[3].data.shape == (BATCH // 8, 64)
    assert len(list(on_mesh(valid_batches(small_corpus, Masking(), 16), sharding))) == -(-len(small_corpus.valid) // 16)


def test_a_step_for_one_device_takes_the_hosts_arrays(small_corpus):
    device = jax.devices()[3]
    sharding = jax.sharding.NamedSharding(jax.sharding.Mesh([device], ("data",)), jax.sharding.PartitionSpec("data"))
    plain = take(train_batches(small_corpus, Masking(), BATCH, SEED), 4)
    same = jax.jit(lambda batch: batch, out_shardings=sharding).lower(plain[0]).compile()
    for ours, expected in zip(on_mesh(iter(plain), sharding), plain, strict=True):
        assert_equal({name: np.asarray(array) for name, array in same(ours).items()}, expected)


# The end of the process


@pytest.mark.parametrize(
    "use, code",
    [
        ("batches = train_batches(corpus, Masking(), 8, 0); next(batches)", 0),
        (
            "kept = valid_batches(corpus, Masking(), 8); next(kept); sys.exit(3)",
            3,
        ),
        ("batches = train_batches(corpus, Masking(), 8, 0); next(batches); raise RuntimeError", 1),
    ],
)
def test_a_process_ends_while_batches_are_on_their_way(small_corpus, use, code):
    # Rows come slowly, so that TensorFlow's threads are inside Python, or want to be, when the interpreter ends.
    script = f"""
import sys, time
from roberta_jax.data.corpus import Corpus, Rows
from roberta_jax.data.masking import Masking
from roberta_jax.data.order import epochs_and_rows
from roberta_jax.data.pipeline import train_batches, valid_batches
gather = Rows.gather
Rows.gather = lambda *arguments: time.sleep(0.2) or gather(*arguments)
corpus = Corpus(sys.argv[1])
{use}
"""
    command = [sys.executable, "-c", script, str(small_corpus.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
