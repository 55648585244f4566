"""The peak that MFU is measured by: from the table, or measured, and then no rate is above it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from roberta_jax.model import flops
from roberta_jax.model.flops import Peak, best_matmul_flops, measured_matmul_flops


@pytest.fixture
def said() -> list[str]:
    return []


def test_what_contention_lowered_is_measured_again_before_a_run_beats_it(monkeypatch, said):
    rates = iter([1e9, 3e9, 2e9])  # other work ran during the first
    monkeypatch.setattr(flops, "best_matmul_flops", lambda dtype: next(rates))
    peak = Peak("float32", said.append)
    assert peak.mfu(0.5e9) == 0.5  # nothing to doubt
    assert peak.mfu(2.087e9) == pytest.approx(2.087 / 3)  # not the 208.7% of the first
    assert peak.mfu(2.7e9) == pytest.approx(0.9)  # what is measured lower the next time does not lower the peak
    assert said == []


@pytest.mark.parametrize("table", [False, True])
def test_a_peak_that_a_run_beats_is_none_and_that_is_said_once_for_a_rate(monkeypatch, said, table):
    if table:
        device = SimpleNamespace(device_kind="NVIDIA L4", platform="gpu")
        monkeypatch.setattr(jax, "devices", lambda: [device])
        monkeypatch.setattr(jax, "device_count", lambda: 2)
    monkeypatch.setattr(flops, "best_matmul_flops", lambda dtype: 242e12)
    peak = Peak("bfloat16", said.append)
    assert peak.flops == 242e12
    assert peak.mfu(300e12) == 1 and len(said) == 1 and "300 TFLOP/s, more than the 242" in said[0]
    assert peak.mfu(300e12) == 1 and peak.mfu(150e12) == 0.5 and len(said) == 1


def test_what_is_measured_is_the_arithmetic_of_the_run_on_random_values(monkeypatch, said):
    seen = []
    monkeypatch.setattr(jnp, "matmul", lambda x, y: (seen.append(x), x @ y)[1])
    monkeypatch.setattr(jax, "jit", lambda function: function)
    for dtype in ("float32", "bfloat16"):
        seen.clear()
        assert 0 < measured_matmul_flops(64, 0.01, dtype) < 1e15
        assert {str(x.dtype) for x in seen} == {dtype}
        assert len(jnp.unique(seen[0])) > 100


def test_the_peak_of_this_machine(monkeypatch):
    monkeypatch.setattr(flops, "best_matmul_flops", best_matmul_flops)
    measured = best_matmul_flops("float32", 0.2)
    assert 1e8 < measured < 1e14
    assert Peak("float32", print).flops > 0.02 * measured  # of the whole machine, however many devices it is said to have
