"""The table of chips: which name is whose, and what a run is told of its device."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from roberta_jax.hardware import CHIPS, cautions, chip_of, parse_topology, unseen_gpu


@pytest.mark.parametrize(
    ("device_kind", "tflops"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("Tesla T4", 8.1),
        ("Tesla V100-SXM2-16GB", 15.7),
        ("AMD Instinct MI250X", 191.5),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_the_peak_of_a_chip_by_the_name_that_jax_gives_it(device_kind, tflops):
    assert chip_of(device_kind).flops["bfloat16"] == tflops * 1e12


@pytest.mark.parametrize(
    "device_kind", ["cpu", "TPU v4 lite", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA L4000", "NVIDIA H100", "NVIDIA A100"]
)
def test_a_name_that_only_begins_like_one_is_no_chip_of_the_table(device_kind):
    assert chip_of(device_kind) is None


def test_each_name_is_one_chips_and_each_figure_is_in_its_unit():
    names = Counter(kind for chip in CHIPS.values() for kind in chip.kinds)
    assert max(names.values()) == 1
    for name, chip in CHIPS.items():
        assert 8e12 <= min(chip.flops.values()) <= chip.flops["bfloat16"] <= 3e15, name
        assert 15e9 < chip.hbm < 300e9 and 250e9 < chip.hbm_bandwidth < 10e12, name
        assert chip.interconnect == 0 or 30e9 <= chip.interconnect <= 2e12, name
        assert chip.measured is None or 0.5 < chip.measured < 5, name


def device(kind: str, capability: str) -> SimpleNamespace:
    return SimpleNamespace(platform="gpu", device_kind=kind, compute_capability=capability)


def test_a_gpu_without_products_in_bfloat16_is_told_of():
    new = (0, 11, 2)
    (sentence,) = cautions(device("Tesla T4", "7.5"), "bfloat16", new)
    assert "Tesla T4 has no products in bfloat16" in sentence and "they run as float32" in sentence
    assert cautions(device("Tesla T4", "7.5"), "float32", new) == []
    for kind, capability in (("NVIDIA A100-SXM4-80GB", "8.0"), ("NVIDIA B200", "10.0"), ("AMD Instinct MI300X", "gfx942")):
        assert cautions(device(kind, capability), "bfloat16", new) == []


@pytest.mark.parametrize(("version", "told"), [((0, 10, 2), 1), ((0, 11, 1), 1), ((0, 11, 2), 0), ((0, 12, 0, 1), 0)])
def test_a_jax_whose_scatter_adds_are_slow_is_told_of_on_gpus_of_nvidia_alone(version, told):
    said = cautions(device("NVIDIA H100 80GB HBM3", "9.0"), "bfloat16", version)
    assert len(said) == told and all("from 0.11.2 on" in sentence for sentence in said)
    assert cautions(device("AMD Instinct MI300X", "gfx942"), "bfloat16", version) == []
    assert cautions(jax.devices()[0], "bfloat16", version) == []


def test_a_chip_is_a_row_of_one_table(monkeypatch):
    """From it a run's MFU has its peak, and `plan` a slice's memory, links and what the compiler wants to be told."""
    tpu = replace(CHIPS["v4"], kinds=("TPU x",), flops={"bfloat16": 1e15, "float32": 1e15}, interconnect=6e12, links=6, torus=4)
    monkeypatch.setitem(CHIPS, "x9", tpu)
    monkeypatch.setitem(CHIPS, "x9-gpu", replace(CHIPS["h100"], kinds=("NVIDIA X",), interconnect=2e12))
    assert chip_of("TPU x").flops["bfloat16"] == 1e15
    pod, gpus = parse_topology("x9:4x4x2"), parse_topology("gpu:x9-gpux2")
    assert (pod.chips, pod.shape, pod.egress_bandwidth) == (32, (4, 4, 2), 6e12 / 2 * 5 / 6)
    assert (gpus.chips, gpus.egress_bandwidth, gpus.compile_options["topology"]) == (2, 1e12, "1x1x2")
    assert pod.compile_options == {"platform": "tpu", "chip_config_name": "megacore"}
    assert parse_topology("v6e:2x2").compile_options == {"platform": "tpu"}
    assert parse_topology("v5e:1x1").compile_options == {"platform": "tpu", "chips_per_host_bounds": (1, 1, 1)}


PLUGINS = {  # version of a plugin that is installed → what is said of it, beside JAX 0.11.2
    "": "its CUDA plugin is not installed: pip install 'jax[cuda13]==0.11.2'",
    "jax-cuda12-plugin 0.7.2": "jax-cuda12-plugin is 0.7.2 and not 0.11.2: pip install 'jax[cuda12]==0.11.2'",
    "jax_cuda13_plugin 0.11.2": "jax_cuda13_plugin 0.11.2 is installed and finds none it can use: nvidia-smi tells",
}


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_gpu_that_jax_does_not_see_is_said_with_what_mends_it(plugin, tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    if plugin:
        name, version = plugin.split()
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    said = unseen_gpu("cpu", "0.11.2", tmp_path)
    assert said.startswith("this machine has an NVIDIA GPU that JAX 0.11.2 does not see") and PLUGINS[plugin] in said
    assert not unseen_gpu("gpu", "0.11.2", tmp_path) and not unseen_gpu("cpu", "0.11.2", tmp_path / "none")
    for name, value in (("JAX_PLATFORMS", "cpu"), ("CUDA_VISIBLE_DEVICES", "")):  # the CPU was asked for
        with monkeypatch.context() as asked:
            asked.setenv(name, value)
            assert not unseen_gpu("cpu", "0.11.2", tmp_path)
