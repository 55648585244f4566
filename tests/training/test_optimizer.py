"""The schedule and the update rule, against the formulas of the paper and PyTorch's AdamW."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import assert_same, killed_after
from test_guard import job

from roberta_jax.errors import UserError
from roberta_jax.interop.conversion import flatten
from roberta_jax.training import provenance
from roberta_jax.training.config import RunConfig
from roberta_jax.training.optimizer import (
    OPTIMIZERS,
    OptimizerConfig,
    decayed,
    in_proportion,
    looked_up,
    make_optimizer,
    schedule,
    skip_rejected,
)
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import build_step
from roberta_jax.training.train import train


def test_the_rate_rises_from_zero_and_falls_to_zero():
    rate = schedule(OptimizerConfig(learning_rate=6e-4, warmup_steps=24_000), 500_000)
    expected = {0: 0.0, 12_000: 3e-4, 24_000: 6e-4, 262_000: 3e-4, 499_999: 6e-4 / 476_000, 500_000: 0.0}
    for updates, value in expected.items():
        assert float(rate(updates)) == pytest.approx(value, rel=1e-4, abs=1e-10)


def test_the_papers_schedule_is_optaxs_to_the_last_bit():
    rate, peak = schedule(OptimizerConfig(learning_rate=7e-4, warmup_steps=130), 1_700), 7e-4
    rise, fall = optax.linear_schedule(0.0, peak, 130), optax.linear_schedule(peak, 0.0, 1_570)
    counts = jnp.arange(1_702)
    np.testing.assert_array_equal(jax.vmap(rate)(counts), jax.vmap(optax.join_schedules([rise, fall], [130]))(counts))


@pytest.mark.parametrize(
    ("name", "halfway"), [("linear", 0.5), ("cosine", 0.5), ("1-sqrt", 1 - np.sqrt(0.5)), ("constant", 1.0)]
)
def test_a_schedule_rises_is_stable_and_decays_to_its_floor(name, halfway):
    """By steps and by shares of them; the stable part is left out where nothing is said of it."""
    by_steps = dict(warmup_steps=100, decay_steps=200, schedule=name, floor=0.1, learning_rate=1e-2)
    whole = {0: 0.0, 50: 5e-3, 100: 1e-2, 500: 1e-2, 800: 1e-2, 900: 1e-3 + 9e-3 * halfway}
    end = 1e-2 if name == "constant" else 1e-3
    for fields in (by_steps, by_steps | {"warmup_steps": 0.1, "decay_steps": 0.2}):
        rate = schedule(OptimizerConfig(**fields), 1_000)
        for updates, value in (whole | {1_000: end, 1_500: end}).items():
            assert float(rate(updates)) == pytest.approx(value, rel=1e-5, abs=1e-9), updates
    rate = schedule(OptimizerConfig(**by_steps | {"decay_steps": 0}), 1_000)
    assert float(rate(550)) == pytest.approx(1e-3 + 9e-3 * halfway, rel=1e-5)


def test_a_share_of_less_than_a_step_is_a_decay_of_one_step_and_not_of_the_whole_run():
    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, decay_steps=0.01)
    np.testing.assert_allclose(jax.vmap(schedule(config, 20))(jnp.arange(21)), [0, 5e-3, *[1e-2] * 18, 0], rtol=1e-6)
    assert in_proportion(config, 20, 10) == (1, 1)


def test_schedules_but_the_papers_are_looked_up_so_that_the_step_is_one_program():
    """A stable run and a later decay give the same text but for the table; and the rates are the computed ones."""

    def lowered(steps: int, **fields) -> str:
        config = OptimizerConfig("muon", warmup_steps=2, **fields)
        params = {"kernel": jnp.ones((7, 5)), "layers": {"up": {"kernel": jnp.ones((2, 8, 4))}}}
        optimizer = make_optimizer(config, steps)
        text = jax.jit(optimizer.update).lower(params, optimizer.init(params), params).as_text()
        return re.sub(r"dense<[^>]*> : tensor<16xf32>", "TABLE", text)

    stable, decay = lowered(10, schedule="constant"), lowered(12, decay_steps=4.0, floor=0.1)
    assert stable == decay and stable.count("TABLE") == 1
    assert "TABLE" not in lowered(12) and lowered(12) != stable
    rate = schedule(OptimizerConfig(warmup_steps=20, decay_steps=100, schedule="cosine"), 500)
    counts = jnp.arange(600)
    found, computed = (jax.vmap(each)(counts) for each in (looked_up(rate, 500), rate))
    np.testing.assert_allclose(found[:501], computed[:501], rtol=1e-6)
    np.testing.assert_array_equal(found[500:], found[500])
    assert looked_up(rate, 2**31 - 1) is rate


def test_a_decay_longer_than_what_the_warm_up_leaves_is_refused():
    with pytest.raises(UserError, match="decay_steps is 91; expected 90 or less, which are the steps behind the warm-up"):
        schedule(OptimizerConfig(warmup_steps=10, decay_steps=91), 100)


def test_a_run_of_the_version_before_there_were_schedules_is_the_same_run():
    assert "config.optimizer.name" in (plain := provenance.fields(RunConfig()))
    assert not plain.keys() & {f"config.optimizer.{name}" for name in ("schedule", "decay_steps", "floor", "words_alone")}
    other = provenance.fields(RunConfig(optimizer=OptimizerConfig(schedule="cosine")))
    assert provenance.difference(plain, other) == "config.optimizer.schedule None, not 'cosine'"
    assert provenance.difference(other, plain) == "config.optimizer.schedule 'cosine', not 'linear'"
    assert not provenance.difference(other, other) and not provenance.difference(plain, plain)


def test_without_warm_up_the_first_update_has_the_peak_rate():
    assert float(schedule(OptimizerConfig(learning_rate=1e-3, warmup_steps=0), 10)(0)) == pytest.approx(1e-3)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(UserError, match="warmup_steps is 10; expected less than config.steps, 10"):
        schedule(OptimizerConfig(warmup_steps=10), 10)


def test_weight_decay_takes_all_or_leaves_out_biases_and_norms():
    params = {"layers": {"up": {"kernel": 1, "bias": 1}, "norm": {"scale": 1}}, "word": {"embedding": 1}}
    assert all(jax.tree.leaves(decayed(params, True)))
    assert decayed(params, False) == {
        "layers": {"up": {"kernel": True, "bias": False}, "norm": {"scale": False}}, "word": {"embedding": True},
    }  # fmt: skip


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_updates_are_pytorchs(clip):
    torch = pytest.importorskip("torch", reason="PyTorch, which this compares with, is not installed")
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(7, 5)), rng.normal(size=(20, 7, 5))
    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=5, weight_decay=0.1, clip_norm=clip)
    optimizer, rate = make_optimizer(config, 20), schedule(config, 20)
    params = {"kernel": jnp.array(start, jnp.float32)}
    state = optimizer.init(params)
    theirs = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    adamw = torch.optim.AdamW([theirs], betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    for i, gradient in enumerate(gradients):
        updates, state = optimizer.update({"kernel": jnp.array(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
        theirs.grad = torch.tensor(gradient, dtype=torch.float32)
        if clip:
            torch.nn.utils.clip_grad_norm_([theirs], clip)
        adamw.param_groups[0]["lr"] = float(rate(i))
        adamw.step()
        np.testing.assert_allclose(params["kernel"], theirs.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_stableadamw_is_the_papers_algorithm_2_on_each_array():
    """Written with NumPy. A gradient that jumps makes the step after it small, weight decay's part too."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 7, 5)), rng.normal(size=(12, 3, 7, 5))
    gradients[6, 1] *= 50  # of one layer alone
    config = OptimizerConfig("stableadamw", learning_rate=1e-2, warmup_steps=3, weight_decay=0.1, b2=0.95)
    optimizer, rate = make_optimizer(config, 12), schedule(config, 12)
    params = {"layers": {"up": {"kernel": jnp.array(start, jnp.float32)}}}
    state, expected, v, u, smallest = optimizer.init(params), start.copy(), np.zeros((3, 7, 5)), np.zeros((3, 7, 5)), 1.0
    for t, gradient in enumerate(gradients, 1):
        updates, state = optimizer.update({"layers": {"up": {"kernel": jnp.array(gradient, jnp.float32)}}}, state, params)
        params = optax.apply_updates(params, updates)
        v, u = 0.9 * v + 0.1 * gradient, 0.95 * u + 0.05 * gradient**2
        mean, square = v / (1 - 0.9**t), u / (1 - 0.95**t)
        for i in range(3):
            rms = np.sqrt(np.mean(gradient[i] ** 2 / np.maximum(square[i], 1e-12)))
            eta = float(rate(t - 1)) / max(1.0, rms)
            smallest = min(smallest, 1 / max(1.0, rms))
            expected[i] -= eta * (0.1 * expected[i] + mean[i] / (np.sqrt(square[i]) + 1e-6))
    assert smallest < 0.5
    np.testing.assert_allclose(params["layers"]["up"]["kernel"], expected, rtol=1e-4, atol=1e-6)


def test_lion_is_optaxs():
    rng = np.random.default_rng(0)
    config = OptimizerConfig("lion", learning_rate=1e-2, warmup_steps=3, weight_decay=0.1, b2=0.99)
    params = {"word": {"embedding": jnp.array(rng.normal(size=(7, 5)), jnp.float32)}}
    expected, ours = params, make_optimizer(config, 10)
    theirs = optax.lion(schedule(config, 10), 0.9, 0.99, weight_decay=0.1)
    states = [ours.init(params), theirs.init(params)]
    for _ in range(6):
        gradient = {"word": {"embedding": jnp.array(rng.normal(size=(7, 5)), jnp.float32)}}
        updates, states[0] = ours.update(gradient, states[0], params)
        params = optax.apply_updates(params, updates)
        updates, states[1] = theirs.update(gradient, states[1], expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(params["word"]["embedding"], expected["word"]["embedding"], rtol=1e-6)


def test_lamb_is_optaxs_on_each_layer():
    """Stacked layers each have a trust ratio of their own, as if they lay in the tree one by one."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 7, 5)).astype(np.float32), rng.normal(size=(10, 3, 7, 5)).astype(np.float32)
    start[1] *= 10
    start[2] = 0  # a norm of zero: the update as it is
    config = OptimizerConfig("lamb", learning_rate=1e-2, warmup_steps=3, weight_decay=0.1)
    ours, theirs = make_optimizer(config, 10), optax.lamb(schedule(config, 10), 0.9, 0.98, 1e-6, weight_decay=0.1)
    stacked = {"layers": {"up": {"kernel": jnp.array(start)}}, "word": {"embedding": jnp.array(start[0])}}
    apart = {"0": start[0], "1": start[1], "2": start[2], "word": start[0]}
    states = [ours.init(stacked), theirs.init(apart)]
    for gradient in gradients:
        updates, states[0] = ours.update(
            {"layers": {"up": {"kernel": gradient}}, "word": {"embedding": gradient[0]}}, states[0], stacked
        )
        stacked = optax.apply_updates(stacked, updates)
        each = {"0": gradient[0], "1": gradient[1], "2": gradient[2], "word": gradient[0]}
        updates, states[1] = theirs.update(each, states[1], apart)
        apart = optax.apply_updates(apart, updates)
    for i in range(3):
        np.testing.assert_allclose(stacked["layers"]["up"]["kernel"][i], apart[str(i)], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stacked["word"]["embedding"], apart["word"], rtol=1e-5, atol=1e-6)


def test_muon_is_optaxs_on_each_layers_matrices_and_adam_on_the_rest():
    rng = np.random.default_rng(0)
    shapes = {"up": (2, 8, 12), "qkv": (2, 8, 3, 2, 4)}
    draw = lambda: {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}  # noqa: E731
    start, gradients, word = draw(), [draw() for _ in range(6)], rng.normal(size=(7, 5)).astype(np.float32)

    def stacked(arrays):
        return {"layers": {name: {"kernel": jnp.array(array)} for name, array in arrays.items()}, "word": {"embedding": word}}

    def apart(arrays):
        up = {f"up{i}": arrays["up"][i] for i in range(2)}
        return up | {f"qkv{i}{j}": arrays["qkv"][i, :, j].reshape(8, 8) for i in range(2) for j in range(3)}

    config = OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=2, weight_decay=0.1)
    ours, rate = make_optimizer(config, 10), schedule(config, 10)
    theirs = optax.contrib.muon(rate, eps=1e-6, weight_decay=0.1, consistent_rms=0.2)
    params, each, tables = stacked(start), apart(start), {"word": word}
    adam = optax.adamw(rate, 0.9, 0.98, 1e-6, weight_decay=0.1, nesterov=True)
    states = [ours.init(params), theirs.init(each), adam.init(tables)]
    for gradient in gradients:
        updates, states[0] = ours.update(stacked(gradient), states[0], params)
        params = optax.apply_updates(params, updates)
        updates, states[1] = theirs.update(apart(gradient), states[1], each)
        each = optax.apply_updates(each, updates)
        updates, states[2] = adam.update({"word": word}, states[2], tables)
        tables = optax.apply_updates(tables, updates)
    found = {name: params["layers"][name]["kernel"] for name in shapes}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), apart(found), each)
    np.testing.assert_allclose(params["word"]["embedding"], tables["word"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_words_learn_alone_at_first_and_the_rest_then(name):
    """What is held back does not move, by weight decay either; the words move as they do without."""
    rng = np.random.default_rng(0)
    word, bias, kernel = (jnp.array(rng.normal(size=shape), jnp.float32) for shape in ((7, 4), (7,), (2, 4, 4)))
    embeddings = {"word": {"embedding": word}, "position": {"embedding": word}}
    params = {"encoder": {"embeddings": embeddings, "layers": {"up": {"kernel": kernel}}}}
    params |= {"lm_head": {"bias": bias, "dense": {"bias": bias}}}
    words = {"encoder/embeddings/word/embedding", "lm_head/bias"}
    for alone, first in ((3.0, 3), (0.3, 3), (0.0, 0)):
        config = OptimizerConfig(name, learning_rate=1e-2, warmup_steps=0, words_alone=alone)
        optimizer, everything = make_optimizer(config, 10), make_optimizer(replace(config, words_alone=0.0), 10)
        state = theirs = optimizer.init(params)
        for step in range(5):
            gradients = jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape), jnp.float32), params)
            updates, state = optimizer.update(gradients, state, params)
            expected, theirs = everything.update(gradients, theirs, params)
            for path, update in flatten(updates).items():
                learns = step >= first or path in words
                np.testing.assert_array_equal(update, flatten(expected)[path] if learns else 0 * update, err_msg=path)


def test_another_optimizer_is_refused():
    known = "'adamw' or 'stableadamw' or 'lamb' or 'muon' or 'lion'"
    with pytest.raises(UserError, match=f"optimizer.name is 'adam'; it can be {known}"):
        OptimizerConfig("adam")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_that_is_not_made_leaves_no_trace_in_the_state(name):
    """Nor do the updates after it differ from those without it, though its gradient was no number."""
    config, rng = OptimizerConfig(name, learning_rate=1e-2, warmup_steps=2), np.random.default_rng(0)
    params = {"kernel": jnp.array(rng.normal(size=(7, 5)), jnp.float32)}
    gradients = [{"kernel": jnp.array(rng.normal(size=(7, 5)), jnp.float32)} for _ in range(4)]
    broken = {"kernel": jnp.full((7, 5), jnp.nan)}
    optimizer = make_optimizer(config, 10)
    update = jax.jit(lambda gradient, state, accepted: optimizer.update(gradient, state, params, accepted=accepted))
    plain = disturbed = optimizer.init(params)
    for gradient in gradients:
        _, disturbed = update(broken, disturbed, False)
        (expected, plain), (found, disturbed) = update(gradient, plain, True), update(gradient, disturbed, True)
        jax.tree.map(np.testing.assert_array_equal, (expected, plain), (found, disturbed))


def test_another_optimizer_of_optax_is_a_row_of_one_table(monkeypatch):
    """The config takes its name, the state is laid out on the mesh, and a rejected update leaves no trace in it."""
    monkeypatch.setitem(OPTIMIZERS, "signs", lambda config: [skip_rejected(optax.scale_by_lion(config.b1, config.b2))])
    config = OptimizerConfig("signs", learning_rate=1e-2, warmup_steps=2)
    params, mesh = {"kernel": jnp.ones((16, 8))}, make_mesh()
    loss = lambda params, batch, keys: {  # noqa: E731
        "loss": (jnp.square(params["kernel"]).sum() * batch["weights"]).sum(), "weight": batch["weights"].sum()
    }  # fmt: skip
    step = build_step(lambda key: params, loss, config, 10, mesh, rows=8)
    batch = jax.device_put({"weights": np.ones(8, np.float32)}, batch_sharding(mesh))
    compiled, state = step.compile(batch), step.init_state()
    expected, optimizer = params, optax.lion(schedule(config, 10), config.b1, config.b2, weight_decay=0.0)
    theirs = optimizer.init(params)
    for _ in range(4):
        state, _ = compiled(state, batch, *step.constants)
        updates, theirs = optimizer.update(jax.tree.map(lambda x: 2 * x, expected), theirs, expected)
        expected = optax.apply_updates(expected, updates)
    np.testing.assert_allclose(state["params"]["kernel"], expected["kernel"], rtol=1e-6)
    before = jax.device_get(state)
    nothing = jax.device_put({"weights": np.full(8, np.nan, np.float32)}, batch_sharding(mesh))
    after, metrics = compiled(state, nothing, *step.constants)
    assert not metrics.to_host()["made"]
    jax.tree.map(np.testing.assert_array_equal, before["opt_state"], jax.device_get(after["opt_state"]))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("adamw", "muon")])  # others resume by these
def test_a_run_that_was_killed_and_resumes_ends_as_an_undisturbed_one(name, tmp_path):
    """Bit for bit, and amid the steps in which words alone learn."""

    def init(key):
        word, kernel = jax.random.normal(key, (16, 4)), jax.random.normal(key, (4, 16))
        return {"encoder": {"embeddings": {"word": {"embedding": word}}}, "kernel": kernel, "bias": jnp.zeros(16)}

    def loss(params, batch, keys):
        found = (params["encoder"]["embeddings"]["word"]["embedding"] @ params["kernel"]).mean(0) + params["bias"]
        errors = jnp.square(found - batch["input_ids"]).mean(-1)
        return {"loss": (errors * batch["weights"]).sum(), "weight": batch["weights"].sum()}

    optimizer, tiny = OptimizerConfig(name, warmup_steps=2, words_alone=3), replace(job(), init=init, loss=loss)
    config = RunConfig(steps=4, batch_size=8, log_every=1, eval_every=4, checkpoint_every=2, optimizer=optimizer)
    train(tiny, config, tmp_path / "run")
    train(tiny, config, killed_after(tmp_path / "run", 2, tmp_path / "killed"))
    assert_same(tmp_path / "run", tmp_path / "killed", 4)
