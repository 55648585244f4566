"""One step: the same parameters on any number of devices and at any microbatch size, compiled once."""

import ast
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

from roberta_jax.errors import UserError
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm, init_masked_lm
from roberta_jax.pretraining.losses import masked_lm_loss
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import (
    abstract_state,
    accumulation,
    build_step,
    compile_train_step,
    init_state,
    make_train_step,
)

BATCH, LENGTH, SLOTS, MASK = 16, 32, 6, 299
SMALL = RobertaConfig(vocab_size=300, num_layers=2, hidden_size=64, intermediate_size=128, num_heads=4, max_length=32)
STILL = replace(SMALL, dropout=0.0, attention_dropout=0.0)


def mesh_of(devices: int, fsdp: int = 1) -> Mesh:
    return make_mesh(fsdp, devices=jax.devices()[:devices])


def batch_of(seed: int) -> dict[str, np.ndarray]:
    """Rows with different numbers of predictions, so that a mean of means would be another number."""
    rng = np.random.default_rng(seed)
    positions = rng.permuted(np.tile(np.arange(LENGTH), (BATCH, 1)), axis=1)[:, :SLOTS]
    used = np.arange(SLOTS)[None] < rng.integers(0, SLOTS + 1, (BATCH, 1))
    return {
        "input_ids": rng.integers(5, 300, (BATCH, LENGTH)).astype(np.int32),
        "segment_ids": np.ones((BATCH, LENGTH), np.int32),
        "positions": positions.astype(np.int32),
        "labels": rng.integers(5, 300, (BATCH, SLOTS)).astype(np.int32),
        "weights": used.astype(np.float32),
    }


def run(config: RobertaConfig, devices: int, microbatches: int, fsdp: int = 1, steps: int = 3):
    mesh = mesh_of(devices, fsdp)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, warmup_steps=1, clip_norm=1.0), 10)
    init, key = (lambda key: init_masked_lm(key, config)), np.uint32(0)
    abstract = abstract_state(init, optimizer, mesh)
    state = init_state(init, optimizer, 0, abstract)
    step = make_train_step(masked_lm_loss(config), optimizer, microbatches, mesh)
    compiled = compile_train_step(step, abstract, jax.device_put(batch_of(0), batch_sharding(mesh)), key)
    history = []
    for number in range(steps):
        state, metrics = compiled(state, jax.device_put(batch_of(number), batch_sharding(mesh)), key)
        history.append(jax.device_get(metrics))
    return jax.device_get(state["params"]), history


def assert_same(one, other, atol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), one[0], other[0])
    for ours, theirs in zip(one[1], other[1], strict=True):
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5, abs=1e-6), name


@pytest.fixture(scope="module")
def reference():
    return run(STILL, devices=1, microbatches=1)


@pytest.mark.parametrize(
    ("devices", "microbatches", "fsdp"),
    [(1, 4, 1), (1, 16, 1), (2, 4, 1), (8, 1, 1), (8, 2, 1), (8, 1, 4), (8, 2, 2), (8, 1, 8)],
)
def test_devices_and_microbatches_change_nothing(reference, devices, microbatches, fsdp):
    assert_same(run(STILL, devices, microbatches, fsdp), reference)


def test_with_dropout_devices_and_microbatches_change_nothing_either(reference):
    dropped = run(SMALL, devices=1, microbatches=1)
    assert_same(run(SMALL, devices=8, microbatches=2), dropped)
    assert_same(run(SMALL, devices=2, microbatches=1), dropped)
    assert dropped[1][0]["loss"] != pytest.approx(reference[1][0]["loss"], rel=1e-3)


def test_the_loss_is_the_mean_over_all_predictions_of_the_global_batch(reference):
    params = jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(0), STILL)
    batch = batch_of(0)
    logits = jax.jit(apply_masked_lm, static_argnums=1)(
        params, STILL, batch["input_ids"], batch["segment_ids"], batch["positions"]
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array(batch["labels"]))
    expected = (losses * batch["weights"]).sum() / batch["weights"].sum()
    assert reference[1][0]["loss"] == pytest.approx(float(expected), rel=1e-5)
    hits = ((logits.argmax(-1) == batch["labels"]) * batch["weights"]).sum() / batch["weights"].sum()
    assert reference[1][0]["accuracy"] == pytest.approx(float(hits), abs=1e-6)


def test_the_first_update_of_a_warm_up_changes_nothing():
    params, _ = run(STILL, devices=1, microbatches=1, steps=1)
    start = jax.device_get(jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(0), STILL))
    jax.tree.map(np.testing.assert_array_equal, params, start)


def test_a_batch_without_a_single_prediction_is_no_nan():
    mesh, optimizer = mesh_of(1), make_optimizer(OptimizerConfig(warmup_steps=0), 10)
    init, key = (lambda key: init_masked_lm(key, STILL)), np.uint32(0)
    state = init_state(init, optimizer, 0, abstract_state(init, optimizer, mesh))
    empty = batch_of(0) | {"weights": np.zeros((BATCH, SLOTS), np.float32)}
    state, metrics = jax.jit(make_train_step(masked_lm_loss(STILL), optimizer, 1, mesh))(state, empty, key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state["params"], state["opt_state"], metrics)))


def test_accumulation_follows_from_the_batch_and_names_what_does_not_divide():
    assert accumulation(64, 0, mesh_of(8)) == 1
    assert accumulation(64, 2, mesh_of(8)) == 4
    with pytest.raises(UserError, match="batch_size is 12, which the 8 devices do not divide"):
        accumulation(12, 0, mesh_of(8))
    with pytest.raises(UserError, match="microbatch_size is 3, which does not divide a device's share of 8 rows"):
        accumulation(64, 3, mesh_of(8))


def gradients(dtype: str, devices: int, microbatches: int) -> dict:
    """Of a step on 8,192 tokens, 1,024 of them `<mask>`, by an optimizer that keeps them as its state."""
    numbers, mesh, config = np.random.default_rng(0), mesh_of(devices), replace(STILL, max_length=64, dtype=dtype)
    ids = np.minimum(numbers.zipf(1.3, (128, 64)) + 4, 298)
    positions = np.sort(numbers.permuted(np.tile(np.arange(64), (128, 1)), axis=1)[:, :10], axis=1)
    labels = np.take_along_axis(ids, positions, axis=1)
    np.put_along_axis(ids, positions[:, :8], MASK, axis=1)
    batch = {"input_ids": ids, "segment_ids": np.ones_like(ids), "positions": positions, "labels": labels}
    batch = {name: x.astype(np.int32) for name, x in batch.items()} | {"weights": np.ones(labels.shape, np.float32)}
    keeping = optax.GradientTransformationExtraArgs(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, *_, **__: (grads, grads)
    )
    init = lambda key: init_masked_lm(key, config)  # noqa: E731
    abstract = abstract_state(init, keeping, mesh)
    state, batch = init_state(init, keeping, 0, abstract), jax.device_put(batch, batch_sharding(mesh))
    step = make_train_step(masked_lm_loss(config), keeping, microbatches, mesh)
    return jax.device_get(compile_train_step(step, abstract, batch, np.uint32(0))(state, batch, np.uint32(0))[0]["opt_state"])


def test_gradients_in_bfloat16_are_those_of_float32_over_microbatches_and_devices():
    found, exact = gradients("bfloat16", devices=8, microbatches=4), gradients("float32", devices=1, microbatches=1)

    def off(one: np.ndarray, other: np.ndarray) -> float:
        return np.linalg.norm(one - other) / np.linalg.norm(other)

    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(exact), strict=True):
        assert one.dtype == np.float32 and off(one, other) < 0.01, path
    assert off(*(x["encoder"]["embeddings"]["word"]["embedding"][MASK] for x in (found, exact))) < 0.01


def equations(jaxpr: Any) -> Iterator[Any]:
    """All of a program's, those of its loops, calls and kernels too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in itertools.chain.from_iterable(x if isinstance(x, tuple) else (x,) for x in equation.params.values()):
            inner = getattr(inner, "jaxpr", inner)
            yield from equations(inner) if hasattr(inner, "eqns") else ()


@pytest.mark.parametrize("device", [("cpu", "cpu"), ("TPU v5 lite", "tpu"), ("NVIDIA H100", "gpu")], ids=lambda pair: pair[1])
def test_no_sum_of_a_step_is_in_bfloat16_and_none_by_atomics_on_gpus(device):
    """In the program as each kind of device gets it. A product of matrices adds in float32 whatever it is of."""
    kind, platform = device
    mesh = AbstractMesh(
        (1, 2, 1), ("trial", "data", "fsdp"), (AxisType.Auto,) * 3, abstract_device=AbstractDevice(kind, None, platform)
    )
    config = RobertaConfig(300, 2, 128, 256, 2, max_length=128, num_token_types=2, dtype="bfloat16")
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=1), 10)
    step = make_train_step(masked_lm_loss(config), optimizer, 2, mesh)
    state = abstract_state(lambda key: init_masked_lm(key, config, next_sentence=True), optimizer, mesh)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    ids, slots = np.ones((8, 128), np.int32), np.ones((8, 20), np.int32)
    batch = {"input_ids": ids, "segment_ids": ids, "token_type_ids": ids, "positions": slots, "labels": slots}
    batch |= {"weights": np.float32(slots), "is_next": ids[:, 0], "pair_weights": np.float32(ids[:, 0])}
    program = list(equations(jax.make_jaxpr(step)(state, batch, np.uint32(0)).jaxpr))
    names = [equation.primitive.name for equation in program]
    assert ("pallas_call" in names) == (platform != "cpu") and "dot_general" in names
    for equation in program:
        name = equation.primitive.name
        if name in ("reduce_sum", "cumsum", "psum", "reduce_scatter") or name.startswith("scatter"):
            assert all(x.aval.dtype != jnp.bfloat16 for x in equation.outvars), equation
        if name.startswith("scatter") and platform == "gpu":
            assert name == "scatter" and equation.params["unique_indices"], equation


def test_the_step_that_is_built_is_that_of_its_parts_and_names_its_metrics(reference):
    mesh, init, loss = mesh_of(8), (lambda key: init_masked_lm(key, STILL)), masked_lm_loss(STILL)
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=1, clip_norm=1.0)
    step = build_step(init, loss, config, 10, mesh, rows=BATCH, microbatch_size=1)
    batches = [jax.device_put(batch_of(number), batch_sharding(mesh)) for number in range(3)]
    state, compiled, history = step.init_state(), step.compile(batches[0]), []
    for batch in batches:
        state, metrics = compiled(state, batch, *step.constants)
        history.append(metrics.to_host())
    expected = [{name: np.float32(value) for name, value in metrics.items()} for metrics in reference[1]]
    assert_same((jax.device_get(state["params"]), history), (reference[0], expected))
    assert step.microbatches == 2 and [each.keys() for each in history] == [each.keys() for each in reference[1]]


def test_trials_are_stacked_and_each_has_its_own_seed_and_rate():
    mesh, init, loss = make_mesh(trials=2), (lambda key: init_masked_lm(key, SMALL)), masked_lm_loss(SMALL)
    config, rates = OptimizerConfig(learning_rate=1e-3, warmup_steps=0), np.array([1.0, 0.0], np.float32)
    step = build_step(init, loss, config, 10, mesh, rows=BATCH, seed=np.array([3, 4]), rates=rates)
    batch = jax.tree.map(lambda x: np.stack([x, x]), batch_of(0))
    batch, state = jax.device_put(batch, batch_sharding(mesh, stacked=True)), step.init_state()
    before = jax.device_get(state["params"])
    state, metrics = step.compile(batch)(state, batch, *step.constants)
    assert metrics.to_host()["loss"].shape == (2,)
    for i, seed in enumerate((3, 4)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[i], y, atol=1e-7), before, init(jax.random.key(seed)))  # noqa: B023
    moved = [any((x[i] != y[i]).any() for x, y in zip(*map(jax.tree.leaves, (before, state["params"])))) for i in (0, 1)]
    assert moved == [True, False]


ROOT = Path(__file__).parents[2]
PARTS = {"make_optimizer", "make_train_step", "abstract_state", "init_state", "trace_train_step", "compile_train_step"}


def parts_used(text: str) -> set[str]:
    """Imported by their names, or taken of an imported module."""
    nodes = [*ast.walk(ast.parse(text))]
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    imported = {alias.asname or alias.name for alias in aliases}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) in imported]
    return PARTS & {alias.name for alias in aliases} | PARTS & {node.attr for node in attributes}


@pytest.mark.parametrize("path", sorted([*ROOT.glob("roberta_jax/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]), ids=str)
def test_nothing_but_build_step_puts_a_step_together(path):
    if path.relative_to(ROOT).as_posix() != "roberta_jax/training/step.py":
        assert not parts_used(path.read_text()), f"{path}: use training.step.build_step"


@pytest.mark.parametrize(
    "text",
    [
        "from roberta_jax.training.step import init_state as other",
        "from roberta_jax.training import step as s\ns.init_state(0)",
    ],
)
def test_a_part_of_a_step_is_found_however_it_is_imported(text):
    assert parts_used(text) == {"init_state"} and not parts_used("step = build_step()\nstep.init_state()")
