"""Every example once an epoch, the same batches after a resume, and padding that changes no loss, gradient or logit."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roberta_jax.interop.conversion import nest, shapes
from roberta_jax.model.config import RobertaConfig
from roberta_jax.tasks import batches
from roberta_jax.tasks.batches import choose_lengths, collate, epoch, finetune_batches, padded_size, predict
from roberta_jax.tasks.features import UNLABELLED, Features
from roberta_jax.tasks.finetune import make_predict_step, task_loss
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.training.sharding import make_mesh

CONFIG = RobertaConfig(vocab_size=50, num_layers=2, hidden_size=32, intermediate_size=64, num_heads=2, max_length=48)
OUTPUTS = {"classification": 3, "multi_label": 3, "regression": 1, "multiple_choice": 1, "span": 3, "tagging": 3}
PAD = CONFIG.pad_id


def parameters(kind: str, trials: int = 0) -> dict:
    random, flat = np.random.default_rng(1), {}
    for path, shape in shapes(CONFIG, KINDS[kind].head, OUTPUTS[kind]).items():
        noise = random.standard_normal((trials, *shape)[not trials :], np.float32)
        flat[path] = 0.3 * noise + np.float32(path.endswith("scale"))
    return nest(flat)


def made(kind: str, count: int, seed: int = 0, longest: int = 40) -> Features:
    """Rows of random ids, from 4 to `longest` of them."""
    random = np.random.default_rng(seed)
    choices = 3 if kind == "multiple_choice" else 1
    rows = [
        tuple(np.array([0, *random.integers(4, 50, random.integers(2, longest - 1)), 2], np.int32) for _ in range(choices))
        for _ in range(count)
    ]
    if kind == "tagging":
        labels = [np.where(random.random(len(row)) < 0.5, random.integers(0, 3, len(row)), UNLABELLED) for (row,) in rows]
        labels = [np.append(label[:-1], 1).astype(np.int32) for label in labels]
    elif kind == "span":
        labels = np.array([(0, 0) if i % 3 == 0 else (1, len(row) - 1) for i, (row,) in enumerate(rows)], np.int32)
    elif kind == "multi_label":
        labels = random.integers(0, 2, (count, 3)).astype(np.float32)
    elif kind == "regression":
        labels = random.standard_normal(count).astype(np.float32)
    else:
        labels = random.integers(0, 3, count).astype(np.int32)
    return Features(rows, labels)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 20))
def test_an_epoch_holds_each_feature_once(lengths, batch_size, seed, number):
    lengths = np.array(lengths)
    found = epoch(lengths, batch_size, seed, number)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    sizes = sorted((len(indices) for indices in found), reverse=True)
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and 1 <= sizes[-1] <= batch_size
    again = epoch(lengths, batch_size, seed, number)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_seeds_and_epochs_have_orders_of_their_own_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(4, 100, 1600)
    orders = {(seed, number): epoch(lengths, 16, seed, number) for seed in (0, 1) for number in (0, 1)}
    joined = {tuple(np.concatenate(order).tolist()) for order in orders.values()}
    assert len(joined) == 4
    for order in orders.values():
        padding = sum(lengths[indices].max() * len(indices) for indices in order) / lengths.sum()
        assert padding < 1.12  # 1.8 in the order in which they came
    # Trials that are trained together have their long rows in the same turn.
    apart = [lengths[one].mean() - lengths[other].mean() for one, other in zip(orders[0, 1], orders[1, 1])]
    assert np.abs(apart).mean() < 5  # 30 in any other
    # Nor do the batches go from long to short.
    shorter = np.diff([lengths[indices].mean() for indices in orders[0, 0]]) < 0
    assert 0.35 < shorter.mean() < 0.65


@settings(max_examples=200)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=60), st.sampled_from([1, 8, 30]), st.integers(1, 4))
def test_no_other_lengths_pad_less(lengths, multiple, most):
    """Of as many lengths, all choices tried; and one more would save less than its worth."""
    lengths = np.array(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MOST_LENGTHS", most)
        chosen = choose_lengths(lengths, multiple)
    rounded = -(-lengths // multiple) * multiple
    candidates = sorted(set(rounded.tolist()))
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(candidates) and chosen[-1] == candidates[-1]

    def cost(choice) -> int:
        return int(sum(next(c for c in choice if c >= length) for length in rounded))

    def least(count: int) -> int:
        if len(candidates) > 14 and count > 2:
            return cost(chosen)  # too many to try
        choices = itertools.combinations(candidates[:-1], count - 1)
        return min(cost([*choice, candidates[-1]]) for choice in choices)

    assert len(chosen) <= most and cost(chosen) == least(len(chosen))
    for count in range(1, len(chosen)):
        assert cost(chosen) <= least(count)
    if len(chosen) < min(most, len(candidates), 2):
        assert least(len(chosen) + 1) > (1 - batches.WORTH) * cost(chosen)


def drawn(features, batch_size, seeds, first_step, count, mesh, lengths=(16, 40)):
    size = padded_size(batch_size, mesh)
    found = finetune_batches(features, batch_size, size, lengths, PAD, seeds, first_step, mesh)
    return [jax.tree.map(np.asarray, batch) for batch in itertools.islice(found, count)]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("seeds", [[3], [3, 4, 9]])
def test_a_batch_after_a_resume_is_the_batch_without(seeds):
    features, mesh = made("classification", 45), make_mesh()
    whole = drawn(features, 10, seeds, 0, 12, mesh)  # five an epoch
    assert {batch["input_ids"].shape for batch in whole} <= {(*[3][: len(seeds) - 1], 16, n) for n in (16, 40)}
    for first_step in (1, 5, 7, 11):
        resumed = drawn(features, 10, seeds, first_step, 12 - first_step, mesh)
        assert all(same(one, other) for one, other in zip(resumed, whole[first_step:], strict=True))
    assert not any(same(one, other) for one, other in itertools.combinations(whole, 2))


@pytest.mark.parametrize("trials", [1, 3, 4])
def test_batches_of_several_seeds_are_theirs_stacked(trials):
    """Four trials are spread over the devices, three are not; a seed's batch is the one that it has alone."""
    features, mesh = made("tagging", 45), make_mesh(trials=trials)
    assert mesh.shape["trial"] == {1: 1, 3: 1, 4: 4}[trials]
    seeds = list(range(trials))
    stacked = drawn(features, 10, seeds, 0, 7, mesh, lengths=[40])
    for seed in seeds:
        alone = drawn(features, 10, [seed], 0, 7, make_mesh(), lengths=[40])
        for one, batch in zip(alone, stacked):
            batch = {name: array[seed] if trials > 1 else array for name, array in batch.items()}
            rows = len(batch["input_ids"])  # as many as the devices share evenly
            assert same({name: array[:rows] for name, array in one.items()}, batch)
            assert rows == padded_size(10, mesh) and one["weights"][rows:].sum() == 0


def test_fill_weighs_nothing_and_the_rest_is_all_there():
    features = made("tagging", 5)
    batch = collate(features, np.array([4, 1]), 6, 40, PAD)
    for at, i in enumerate((4, 1)):
        (row,), labels = features.rows[i], features.labels[i]
        assert batch["input_ids"][at].tolist() == [*row, *[PAD] * (40 - len(row))]
        assert batch["segment_ids"][at].sum() == len(row) and batch["segment_ids"][at, len(row) - 1] == 1
        assert batch["weights"][at, : len(row)].tolist() == (labels != UNLABELLED).tolist()
        assert batch["labels"][at][batch["weights"][at] == 1].tolist() == labels[labels != UNLABELLED].tolist()
    assert not batch["weights"][2:].any() and (batch["input_ids"][2:] == PAD).all() and not batch["segment_ids"][2:].any()
    assert set(np.unique(batch["labels"])) <= {0, 1, 2}
    assert collate(Features(features.rows, None), np.arange(2), 4, 40, PAD).keys() == {"input_ids", "segment_ids"}


@pytest.mark.parametrize(
    ("batch_size", "fsdp", "trials", "microbatch_size", "size"),
    [(10, 1, 1, 0, 16), (16, 1, 1, 0, 16), (10, 1, 4, 0, 10), (17, 2, 1, 2, 32), (20, 1, 1, 3, 24), (1, 1, 1, 0, 8)],
)
def test_a_batch_is_filled_up_so_that_devices_share_it(batch_size, fsdp, trials, microbatch_size, size):
    assert padded_size(batch_size, make_mesh(fsdp, trials), microbatch_size) == size


@pytest.mark.parametrize("kind", ["classification", "multiple_choice", "span", "tagging"])  # one for each head
def test_padding_changes_no_loss_and_no_gradient(kind):
    features, params, loss = made(kind, 6, longest=20), parameters(kind), task_loss(kind, CONFIG)

    @jax.jit
    def measured(batch):
        def mean(params):
            sums = loss(params, batch, None)
            return sums["loss"] / sums["weight"], sums

        if kind in ("classification", "tagging"):  # a gradient takes long to compile
            return jax.grad(mean, has_aux=True)(params)
        return {}, mean(params)[1]

    grads, sums = measured(collate(features, np.arange(6), 6, 20, PAD))
    other_grads, other_sums = measured(collate(features, np.arange(6), 9, 32, PAD))
    assert sums["weight"] == (6 if kind != "tagging" else sum((one != UNLABELLED).sum() for one in features.labels))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), other_sums, sums)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), other_grads, grads)
    assert all(float(np.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("kind", ["multiple_choice", "tagging"])
def test_answers_come_in_order_and_are_those_of_one_device(kind):
    """21 features in batches of 8, of two lengths; the sums are over the 21 alone."""
    features, params, found = made(kind, 21), parameters(kind), []
    for devices, lengths in ((jax.devices(), [16, 40]), (jax.devices()[:1], [40])):
        mesh = make_mesh(devices=devices)
        step = make_predict_step(kind, CONFIG, mesh, stacked=False)
        found.append(predict(step, params, features, 8 if len(devices) > 1 else 21, lengths, PAD, mesh))
    (logits, sums), (other_logits, other_sums) = found
    assert len(logits) == 21
    for one, other, rows in zip(logits, other_logits, features.rows):
        used = slice(None) if kind == "multiple_choice" else slice(len(rows[0]))
        np.testing.assert_allclose(one[used], other[used], rtol=1e-4, atol=1e-5)
    assert sums.keys() == {"loss", "weight", "accuracy"} == other_sums.keys()
    np.testing.assert_allclose([*sums.values()], [other_sums[name] for name in sums], rtol=1e-5)
    assert sums["weight"] == (21 if kind == "multiple_choice" else sum((one != UNLABELLED).sum() for one in features.labels))
    assert np.std([one[0] for one in logits], axis=0).max() > 0.1  # in another order they would be others


def test_several_models_answer_at_once():
    """Each trial's logits and sums are those that its parameters give alone."""
    features, trials = made("classification", 21), 4
    params = parameters("classification", trials)
    mesh = make_mesh(trials=trials)
    logits, sums = predict(make_predict_step("classification", CONFIG, mesh, True), params, features, 8, [40], PAD, mesh)
    assert logits[0].shape == (trials, 3) and sums["loss"].shape == (trials,)
    single = make_predict_step("classification", CONFIG, mesh, False)
    for trial in range(trials):
        alone, alone_sums = predict(single, jax.tree.map(lambda x: x[trial], params), features, 8, [40], PAD, mesh)  # noqa: B023
        np.testing.assert_allclose([one[trial] for one in logits], alone, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(sums["loss"][trial], alone_sums["loss"], rtol=1e-5)
