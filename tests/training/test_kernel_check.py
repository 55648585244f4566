"""An attention kernel is tried before a run trusts it: sound ones, each way to be wrong, and whole runs on a broken one."""

import importlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forked import simulated

from roberta_jax.config import typed
from roberta_jax.interop import hub
from roberta_jax.model import attention
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.gpu_attention import gpu_attention
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.model.tpu_attention import tpu_attention
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.pretraining.job import pretrain
from roberta_jax.tasks import finetune, runs
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.training.kernel_check import fault_of_kernel
from roberta_jax.training.workdir import read_metrics

ROOT = Path(__file__).parents[2]
MODEL = RobertaConfig(hidden_size=128, num_heads=2, dtype="bfloat16")
interpreted = partial(gpu_attention, interpret=True)
sound = attention.xla_attention  # is compiled in a fraction of the time


@pytest.fixture
def use(monkeypatch):
    """Makes a function the kernel, wherever a kernel of TPUs or GPUs would run on those."""

    def used(kernel):
        fault_of_kernel.cache_clear()

        def kernel_for(qkv, heads):
            a_device_is_known = jax.sharding.get_abstract_mesh().abstract_device is not None
            return kernel if a_device_is_known and attention.alone() else None

        monkeypatch.setattr(attention, "kernel_for", kernel_for)

    yield used
    fault_of_kernel.cache_clear()


def with_wrong_gradient(which: int):
    """The kernel, whose gradient of the queries, keys or values is 5% too large."""

    def kernel(qkv, heads, segment_ids, rate=0.0, keys=None):
        @jax.custom_vjp
        def scaled(qkv):
            return qkv

        def backward(_, gradient):
            parts = jnp.split(gradient, 3, axis=-1)
            parts[which] = (1.05 * parts[which]).astype(gradient.dtype)
            return (jnp.concatenate(parts, -1),)

        scaled.defvjp(lambda qkv: (qkv, None), backward)
        return sound(scaled(qkv), heads, segment_ids, rate, keys)

    return kernel


def wrong_by_5_percent(*inputs):
    return (1.05 * sound(*inputs)).astype(inputs[0].dtype)


def across_segments(qkv, heads, segment_ids, *more):
    return sound(qkv, heads, jnp.minimum(segment_ids, 1), *more)


def into_padding(qkv, heads, segment_ids, *more):
    return sound(qkv, heads, jnp.maximum(segment_ids, 1), *more)


def dropping_others(qkv, heads, segment_ids, rate, keys):
    return sound(qkv, heads, segment_ids, rate, keys + jnp.uint32(1))


def without_a_number(qkv, *more):
    return sound(qkv, *more).at[0, 0, 0].set(jnp.nan)


def wrong_on_the_third_device(qkv, *more):
    out = sound(qkv, *more)
    return jnp.where(jax.lax.axis_index("data") == 2, 0, out)


def raising(*inputs):
    raise NotImplementedError("Unimplemented primitive in Pallas\nGPU lowering: foo.")


@pytest.mark.parametrize("kernel", [gpu_attention, tpu_attention])
@pytest.mark.parametrize("fields", [{}, {"attention_dropout": 0.0}, {"dtype": "float32"}], ids=str)
def test_a_sound_kernel_is_found_sound(use, kernel, fields, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    use(partial(kernel, interpret=True))
    assert fault_of_kernel(replace(MODEL, **fields), 128) == ""


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        (wrong_by_5_percent, "its values is"),
        (with_wrong_gradient(0), "its gradient of queries is"),
        (with_wrong_gradient(1), "its gradient of keys is"),
        (with_wrong_gradient(2), "its gradient of values is"),
        (across_segments, "its values is"),
        (into_padding, "its values is"),
        (dropping_others, "its values is"),
        (without_a_number, "device 0): its values is nan from"),
        (wrong_on_the_third_device, "device 2): its values is"),
        (raising, "NotImplementedError: Unimplemented primitive in Pallas GPU lowering: foo."),
    ],
)
def test_each_way_to_be_wrong_is_found_and_named(use, kernel, what):
    use(kernel)
    fault = fault_of_kernel(MODEL, 64)
    assert fault.startswith("the attention kernel ") and what in fault and "cpu, rows of 64" in fault and "\n" not in fault


def test_where_no_kernel_runs_there_is_nothing_to_try(monkeypatch):
    fault_of_kernel.cache_clear()
    monkeypatch.setattr(attention, "xla_attention", raising)
    assert fault_of_kernel(MODEL, 64) == ""


def a_kernel_that_jax_no_longer_has(qkv, heads):
    raise ImportError("cannot import name 'triton' from 'jax.experimental.pallas'")


def test_without_pallas_for_triton_attention_is_xlas(monkeypatch):
    """As a fault in training, and with a warning wherever else attention is traced."""
    fault_of_kernel.cache_clear()
    monkeypatch.setattr(attention, "kernel_for", a_kernel_that_jax_no_longer_has)
    assert "ImportError: cannot import name 'triton'" in fault_of_kernel(MODEL, 64)
    qkv, segments = jnp.ones((1, 64, 96)), jnp.ones((1, 64), jnp.int32)
    attention._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="there is no attention kernel .*triton.* so XLA's attention takes its place"):
        attended = attention.attend(qkv, 2, segments)
    np.testing.assert_array_equal(attended, attention.xla_attention(qkv, 2, segments))


@pytest.fixture(scope="module")
def config(small_corpus) -> PretrainConfig:
    vocabulary, fields = small_corpus.folder / "tokenizer", importlib.import_module("configs.tiny").get_config()
    fields.update(steps=2, batch_size=8, log_every=1, eval_every=2, checkpoint_every=1)
    fields.optimizer.update(name="adamw", warmup_steps=0)
    fields.model.update(num_layers=1, hidden_size=32, intermediate_size=64, num_heads=2, vocab_size=400, dtype="bfloat16")
    fields.data.update(source=str(small_corpus.folder), tokenizer=str(vocabulary), length=small_corpus.length)
    return typed(PretrainConfig, fields.to_dict())


def losses(workdir: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(workdir) if "train/loss" in line]


def incidents(workdir: Path) -> list[dict]:
    path = workdir / "incidents.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_on_a_kernel_that_raises_says_so_and_goes_on_with_xlas(use, config, tmp_path, capsys):
    """And goes on so when it is resumed, though the kernel is sound by then."""
    pretrain(replace(config, model=replace(config.model, attention="xla")), tmp_path / "xla")
    use(raising)
    assert pretrain(config, tmp_path / "run")
    (incident,) = incidents(tmp_path / "run")
    assert incident["kind"] == "attention kernel" and incident["step"] == 0
    assert "goes on with XLA's attention" in incident["what"] and f"! step 0: {incident['what']}" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/attention.json").read_text())["fault"] in incident["what"]
    assert losses(tmp_path / "run") == losses(tmp_path / "xla")
    use(sound)
    assert pretrain(replace(config, steps=3), tmp_path / "run")
    assert len(incidents(tmp_path / "run")) == 1 and "attention is XLA's, as it was before" in capsys.readouterr().out


def test_a_run_on_a_kernel_that_is_wrong_by_5_percent_goes_on_with_xlas(use, config, tmp_path):
    use(wrong_by_5_percent)
    assert pretrain(config, tmp_path)
    (incident,) = incidents(tmp_path)
    assert "the attention kernel is wrong" in incident["what"] and len(losses(tmp_path)) == 2


def test_a_run_takes_a_sound_kernel_and_xlas_once_it_fails(use, config, tmp_path):
    calls = []

    def counted(*inputs):
        calls.append(inputs)
        return interpreted(*inputs)

    use(counted)
    pretrain(config, tmp_path)
    assert len(calls) > 1 and not incidents(tmp_path) and not (tmp_path / "attention.json").exists()
    use(raising)
    assert pretrain(replace(config, steps=3), tmp_path)
    assert [incident["step"] for incident in incidents(tmp_path)] == [2]


def test_fine_tuning_on_a_broken_kernel_goes_on_with_xlas(use, small_corpus, tmp_path):
    text = LosslessTokenizer(small_corpus.tokenizer)
    shape = RobertaConfig(len(text), 1, 32, 64, 2, max_length=64)
    params = jax.device_get(jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(0), shape))
    hub.save(hub.Pretrained(shape, params, text, "lm_head", origin="random weights"), tmp_path / "model")
    rows = [{"text": f"the old sailor {i}", "label": "ab"[i % 2]} for i in range(16)]
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = importlib.import_module("configs.finetune").get_config("custom-classification")
    fields.update(init_from=str(tmp_path / "model"), epochs=1, max_length=64, batch_size=8)
    fields.data.update(train=str(tmp_path / "train.jsonl"), valid=str(tmp_path / "valid.jsonl"))
    use(raising)
    assert runs.run_tasks(typed(finetune.FinetuneConfig, fields.to_dict()), tmp_path / "run")
    (incident,) = incidents(tmp_path / "run")
    assert incident["kind"] == "attention kernel" and (tmp_path / "run/attention.json").exists()


HOST = """
import sys
from pathlib import Path
import jax
from roberta_jax.model import attention
from roberta_jax.model.config import RobertaConfig
from roberta_jax.training import distributed
from roberta_jax.training.kernel_check import with_sound_attention
from roberta_jax.training.sharding import make_mesh
from roberta_jax.training.workdir import read_metrics

def kernel_for(qkv, heads):
    def kernel(*inputs):
        if sys.argv[2] == "broken":
            raise ValueError("no such thing on this host")
        return attention.xla_attention(*inputs)
    return kernel

attention.kernel_for = kernel_for
with distributed.initialized_cluster():
    model = RobertaConfig(hidden_size=32, num_heads=2)
    print("attention:", with_sound_attention(model, [64], make_mesh(), Path(sys.argv[1])).attention)
"""


def test_where_the_kernel_of_one_host_fails_all_take_xlas(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    hosts = []
    for host, state in enumerate(("sound", "broken")):
        environment = os.environ | simulated(1) | {"PYTHONPATH": str(ROOT), "JAX_COORDINATOR_ADDRESS": address}
        environment |= {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(host)}
        command = [sys.executable, "-c", HOST, str(tmp_path), state]
        hosts.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    said = [host.communicate(timeout=240)[0] for host in hosts]
    assert all("attention: xla" in one for one in said), said
    (incident,) = incidents(tmp_path)
    assert "no such thing on this host" in incident["what"] and incident["what"] in said[0]
