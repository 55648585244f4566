"""Several examples in a row give the losses and gradients that they give one in a row, on any mesh."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_batches import CONFIG, PAD, made, parameters

from roberta_jax.errors import UserError
from roberta_jax.tasks import packed, runs
from roberta_jax.tasks.batches import collate, finetune_batches
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tasks.finetune import task_loss
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import abstract_state, compile_train_step, init_state, make_train_step

WITHOUT_DROPOUT = replace(CONFIG, dropout=0.0, attention_dropout=0.0)


@given(st.lists(st.integers(3, 64), min_size=1, max_size=80))
def test_each_example_stands_in_one_row_that_has_room(lengths):
    rows = packed.share_rows(np.array(lengths), 64)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 and len(row) <= packed.MOST_IN_A_ROW for row in rows)
    assert len(rows) <= 1 + max(sum(lengths) / 32, len(lengths) / packed.MOST_IN_A_ROW)  # no two rows could be one


@pytest.mark.parametrize("unit", [1, 8, 24])
def test_numbers_of_rows_are_few(unit):
    size = 48
    numbers = {packed.padded_rows(rows, size, unit) for rows in range(1, size + 1)}
    assert max(numbers) == size and len(numbers) <= packed.SIZES and all(number % unit == 0 for number in numbers)
    assert all(packed.padded_rows(rows, size, unit) >= rows for rows in range(1, size + 1))


@pytest.mark.parametrize("microbatch_size", [2, 4, 8, 16])
def test_more_rows_than_a_microbatch_are_whole_microbatches(microbatch_size):
    """And fewer are as few as without."""
    for rows in range(1, 65):
        found = packed.padded_rows(rows, 64, 2, microbatch_size)
        assert rows <= found <= 64 and found % 2 == 0
        if found <= 2 * microbatch_size:
            assert found == packed.padded_rows(rows, 64, 2)
        else:
            assert found % (2 * microbatch_size) == 0


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.packable])
def test_a_step_on_packed_rows_is_the_step_on_single_ones(kind):
    """On 4 devices in 2 microbatches: loss, accuracy, gradient and what they are divided by."""
    features, params, mesh = made(kind, 32, longest=20), parameters(kind), make_mesh(devices=jax.devices()[:4])
    indices, optimizer = np.arange(32), make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=0), 10)
    rows = packed.share_rows(features.lengths, 40)
    single = collate(features, indices, 32, 20, PAD)
    together = packed.collate(features, indices, rows, packed.padded_rows(len(rows), 32, 8), 40, PAD)
    assert len(rows) < len(together["input_ids"]) <= 16 and together["weights"].sum() == single["weights"].sum()
    init = lambda _: jax.tree.map(jax.numpy.asarray, params)  # noqa: E731
    abstract = abstract_state(init, optimizer, mesh)
    step, found = make_train_step(task_loss(kind, WITHOUT_DROPOUT), optimizer, 2, mesh), []
    for batch in (single, together):
        batch = jax.device_put(batch, batch_sharding(mesh))
        state = init_state(init, optimizer, 0, abstract)
        run = compile_train_step(step, abstract, batch, np.uint32(0), np.float32(1))
        found.append(run(state, batch, np.uint32(0), np.float32(1))[1])
    differing = {name for name, value in found[0].items() if not np.isclose(value, found[1][name], rtol=1e-5)}
    assert not differing and found[0]["gradient_norm"] > 1e-2


def test_an_epoch_of_packed_batches_holds_each_example_once():
    features, mesh = made("classification", 150, longest=30), make_mesh()
    batches = finetune_batches(features, 32, 32, [16, 32], PAD, [0], 0, mesh, unit=8)
    taken = [jax.device_get(batch) for batch in itertools.islice(batches, 5)]
    assert sum(batch["weights"].sum() for batch in taken) == 150
    found = []
    for batch in taken:
        for at, slot in zip(*np.nonzero(batch["weights"])):
            ids = batch["input_ids"][at][batch["segment_ids"][at] == slot + 1]
            assert batch["input_ids"][at, batch["starts"][at, slot]] == ids[0] == 0
            found.append((tuple(ids.tolist()), int(batch["labels"][at, slot])))
    assert sorted(found) == sorted((tuple(row.tolist()), int(label)) for (row,), label in zip(features.rows, features.labels))
    assert {batch["input_ids"].shape[0] for batch in taken} <= {8, 16, 24, 32}


def test_kinds_that_cannot_share_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="config.packed is for classification, .*; squad is of kind span"):
        runs.run_tasks(FinetuneConfig(task="sst2,squad", packed=True), tmp_path)
