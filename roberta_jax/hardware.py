"""The chips that are known, by their makers' data sheets, and how those of a slice are wired."""

import math
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from roberta_jax.errors import UserError

GIB = 2**30
# Before it scatter-adds of float32 on NVIDIA's GPUs were loops of compare-and-swap, hundreds of times slower where many rows
# are the same one (openxla/xla#46225, jax-ml/jax#38806), and some GPUs computed wrong values (jax-ml/jax#40633).
OLDEST_CUDA_JAX = (0, 11, 2)


class Cuda(NamedTuple):
    """What XLA's compiler wants to know of an NVIDIA GPU, from the CUDA programming guide's table and its data sheet."""

    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    shared: int  # KiB of memory that one's blocks share
    cache: int  # MiB
    clock: float  # GHz


@dataclass(frozen=True)
class Chip:
    """What its data sheet says. A device of JAX's is one chip, but of an MI250 half of one."""

    kinds: tuple[str, ...]  # whole names by which JAX knows it: `device_kind`
    flops: dict[str, float]  # FLOP/s of dense matrix products, by dtype, as XLA does them unless it is told otherwise
    hbm: float  # bytes
    hbm_bandwidth: float  # bytes/s
    interconnect: float = 0  # bytes/s of all its links together, in both directions; 0: not known, and not `plan`ned for
    links: int = 1  # its share of them in a full torus; a GPU's switch is one
    torus: int = 0  # an axis closes to a ring where it takes a whole pod (v5e, v6e) or whole cubes (v4, v5p) of this side
    megacore: bool = False  # a TPU whose two cores are one device, which its compiler has to be told
    cuda: Cuda | None = None  # without it `plan` estimates a GPU and does not compile for it
    # A step's seconds that were measured, over those that `plan` finds in turn; None: nobody has measured any yet.
    measured: float | None = None


def _chip(
    kinds: str, bfloat16: float, float32: float, hbm: float, bandwidth: float, interconnect: float = 0, **rest: Any
) -> Chip:
    """From TFLOP/s, bytes and GB/s; `kinds` are parted by commas."""
    flops = {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}
    flops = {dtype: peak for dtype, peak in flops.items() if peak}
    return Chip(tuple(kinds.split(", ")), flops, hbm, bandwidth * 1e9, interconnect * 1e9, **rest)


A100, H100, V100 = Cuda((8, 0), 108, 164, 40, 1.41), Cuda((9, 0), 132, 228, 50, 1.98), Cuda((7, 0), 80, 96, 6, 1.53)
# JAX's names; products in bfloat16 and in float32, which a TPU by default does in one pass of bfloat16, and a GPU from Ampere
# on as TF32; memory; its bandwidth; interconnect: NVLink, or else PCIe.
CHIPS = {
    # docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, the tables of key specifications. HBM is what libtpu 0.0.42 lets a
    # program have, by its own message; the tables say 32, 16, 95 and 32 GB. v4's table has no bandwidth of the links: twice
    # the all-reduce bandwidth of a pod, 1.1 PB/s, by its 4,096 chips, which gives the tables' own figure for v5e and v6e.
    "v4": _chip("TPU v4", 275, 275, 30.75 * GIB, 1_200, 2 * 1.1e6 / 4_096, links=6, torus=4, megacore=True),
    "v5e": _chip("TPU v5 lite, TPU v5e", 197, 197, 15.75 * GIB, 819, 400, links=4, torus=16),
    "v5p": _chip("TPU v5, TPU v5p", 459, 459, 95.74 * GIB, 2_765, 1_200, links=6, torus=4),
    "v6e": _chip("TPU v6 lite, TPU v6e", 918, 918, 31.25 * GIB, 1_640, 800, links=4, torus=16),
    # NVIDIA's data sheets of A100 (SXM and PCIe), A30, A40, A10 and A10G.
    "a100": _chip("NVIDIA A100-SXM4-80GB", 312, 156, 80e9, 2_039, 600, cuda=A100),
    "a100-40gb": _chip("NVIDIA A100-SXM4-40GB", 312, 156, 40e9, 1_555, 600, cuda=A100),
    "a100-pcie": _chip("NVIDIA A100 80GB PCIe", 312, 156, 80e9, 1_935, 64, cuda=A100),
    "a100-pcie-40gb": _chip("NVIDIA A100-PCIE-40GB", 312, 156, 40e9, 1_555, 64, cuda=A100),
    "a30": _chip("NVIDIA A30", 165, 82, 24e9, 933, 64, cuda=Cuda((8, 0), 56, 164, 24, 1.44)),
    "a40": _chip("NVIDIA A40", 149.7, 74.8, 48e9, 696, 64, cuda=Cuda((8, 6), 84, 100, 6, 1.74)),
    "a10": _chip("NVIDIA A10", 125, 62.5, 24e9, 600, 64, cuda=Cuda((8, 6), 72, 100, 6, 1.695)),
    "a10g": _chip("NVIDIA A10G", 70, 35, 24e9, 600, 64, cuda=Cuda((8, 6), 80, 100, 6, 1.71)),
    # NVIDIA's data sheets of H100 (SXM, PCIe, NVL), H200 (SXM, NVL) and GH200, whose figures with sparsity are halved.
    "h100": _chip("NVIDIA H100 80GB HBM3", 989, 494.5, 80e9, 3_350, 900, cuda=H100),
    "h100-pcie": _chip("NVIDIA H100 PCIe", 756, 378, 80e9, 2_000, 128, cuda=Cuda((9, 0), 114, 228, 50, 1.755)),
    "h100-nvl": _chip("NVIDIA H100 NVL", 835, 417.5, 94e9, 3_900, 128, cuda=Cuda((9, 0), 132, 228, 50, 1.785)),
    "h200": _chip("NVIDIA H200", 989, 494.5, 141e9, 4_800, 900, cuda=H100),
    "h200-nvl": _chip("NVIDIA H200 NVL", 835, 417.5, 141e9, 4_800, 128, cuda=Cuda((9, 0), 132, 228, 50, 1.785)),
    "gh200": _chip("NVIDIA GH200 480GB", 989, 494.5, 96e9, 4_000, 900, cuda=H100),
    # NVIDIA's data sheets of L4, L40 and L40S.
    "l4": _chip("NVIDIA L4", 121, 60, 24e9, 300, 64, cuda=Cuda((8, 9), 58, 100, 48, 2.04)),
    "l40": _chip("NVIDIA L40", 181, 90.5, 48e9, 864, 64, cuda=Cuda((8, 9), 142, 100, 96, 2.49)),
    "l40s": _chip("NVIDIA L40S", 362, 183, 48e9, 864, 64, cuda=Cuda((8, 9), 142, 100, 96, 2.52)),
    # NVIDIA's whitepapers of GA102, AD102 and RTX Blackwell: products that are summed in float32, as XLA's are.
    "rtx3090": _chip("NVIDIA GeForce RTX 3090", 71, 35.6, 24e9, 936, 64, cuda=Cuda((8, 6), 82, 100, 6, 1.695)),
    "rtx4090": _chip("NVIDIA GeForce RTX 4090", 165.2, 82.6, 24e9, 1_008, 64, cuda=Cuda((8, 9), 128, 100, 72, 2.52)),
    "rtx5090": _chip("NVIDIA GeForce RTX 5090", 209.5, 104.8, 32e9, 1_792, 128, cuda=Cuda((12, 0), 170, 100, 96, 2.407)),
    "rtxa6000": _chip("NVIDIA RTX A6000", 154.8, 77.4, 48e9, 768, 64, cuda=Cuda((8, 6), 84, 100, 6, 1.8)),
    # NVIDIA's data sheets of DGX B200, an eighth of it, and of GB200 NVL72, a seventy-second; sparsity halved.
    "b200": _chip("NVIDIA B200", 2_250, 1_125, 180e9, 8_000, 1_800),
    "gb200": _chip("NVIDIA GB200", 2_500, 1_250, 186e9, 8_000, 1_800),
    # NVIDIA's data sheets of T4 and V100. There are no products in bfloat16: XLA does them in float32, without tensor cores.
    "t4": _chip("Tesla T4", 8.1, 8.1, 16e9, 320, 32, cuda=Cuda((7, 5), 40, 64, 4, 1.59)),
    "v100": _chip("Tesla V100-SXM2-32GB", 15.7, 15.7, 32e9, 900, 300, cuda=V100),
    "v100-16gb": _chip("Tesla V100-SXM2-16GB", 15.7, 15.7, 16e9, 900, 300, cuda=V100),
    # AMD's data sheets. MI250 and MI250X are two devices each. How float32 is done, its libraries decide.
    "mi210": _chip("AMD Instinct MI210", 181, 0, 64e9, 1_600),
    "mi250": _chip("AMD Instinct MI250", 181, 0, 64e9, 1_600),
    "mi250x": _chip("AMD Instinct MI250X, AMD Instinct MI250X/MI250, AMD Instinct MI250X / MI250", 191.5, 0, 64e9, 1_600),
    "mi300a": _chip("AMD Instinct MI300A", 980.6, 0, 128e9, 5_300),
    "mi300x": _chip("AMD Instinct MI300X", 1_307.4, 0, 192e9, 5_300),
    "mi325x": _chip("AMD Instinct MI325X", 1_307.4, 0, 256e9, 6_000),
}


def chip_of(device_kind: str) -> Chip | None:
    """By JAX's whole name of it: `NVIDIA H100 PCIe` is not `NVIDIA H100 80GB HBM3`, and part of one (MIG) is neither."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)


def cautions(device: Any, dtype: str, jax_version: tuple[int, ...]) -> list[str]:
    """What the user of a run should know of its device at the start, a sentence each.

    Args:
      device: of JAX's.
      dtype: of the run's arithmetic.
    """
    capability = str(getattr(device, "compute_capability", ""))  # 7.5; of AMD's gfx90a
    if device.platform not in ("gpu", "cuda") or not re.fullmatch(r"\d+\.\d+", capability):
        return []
    sentences = []
    if dtype == "bfloat16" and float(capability) < 8:
        sentences.append(
            f"{device.device_kind} has no products in bfloat16, those come with compute capability 8.0 and this is "
            f"{capability}: they run as float32, and config.model.dtype=bfloat16 saves memory alone."
        )
    if jax_version < OLDEST_CUDA_JAX:
        sentences.append(
            f"JAX {'.'.join(map(str, jax_version))} adds the gradients of the word table on NVIDIA's GPUs hundreds of times "
            f"slower than it could, and on some wrongly; from {'.'.join(map(str, OLDEST_CUDA_JAX))} on, which needs Python "
            "3.12, it does not: pip install 'jax[cuda13]>=0.11.2,<0.13' there."
        )
    return sentences


def unseen_gpu(platform: str, jax_version: str, devices: Path = Path("/dev")) -> str:
    """What there is to say where this machine has a GPU and JAX computes on the CPU all the same; "" elsewhere.

    Args:
      platform: on which JAX computes.
      devices: the folder of the system's devices.
    """
    asked = os.environ.get("JAX_PLATFORMS", "") or os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if platform != "cpu" or asked or not any(devices.glob("nvidia[0-9]*")):
        return ""
    name, found = "jax-cuda13-plugin", ""
    for each in metadata.distributions():
        if re.fullmatch(r"jax-cuda1\d-plugin", (each.name or "").lower().replace("_", "-")):
            name, found = each.name, each.version
    if found == jax_version:
        why = (
            f"{name} {found} is installed and finds none it can use: nvidia-smi tells whether the driver is well and new enough"
        )
    else:
        why = f"{name} is {found} and not {jax_version}" if found else "its CUDA plugin is not installed"
        why += f": pip install 'jax[cuda{name[8:10]}]=={jax_version}'"
    return f"this machine has an NVIDIA GPU that JAX {jax_version} does not see, and all runs on the CPU; {why}"


@dataclass(frozen=True)
class Topology:
    """A TPU slice, or the GPUs of one machine."""

    name: str  # as given: v5e:16x16, gpu:h100x8
    chip: Chip
    shape: tuple[int, ...]  # chips along each axis of the slice
    gpu: bool = False

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def compile_options(self) -> dict[str, Any]:
        """What `jax.experimental.topologies.get_topology_desc` takes beside the name for a chip to be one device."""
        if self.gpu:
            return {"platform": "cuda", "topology": f"1x1x{self.chips}", "target_config": self.target}
        options = {"platform": "tpu"}
        if self.chip.megacore:
            options |= {"chip_config_name": "megacore"}
        if self.chips == 1:
            options |= {"chips_per_host_bounds": (1, 1, 1)}
        return options

    @property
    def target(self) -> str:
        """A GPU's description for XLA: `xla.stream_executor.GpuTargetConfigProto` as text."""
        (major, minor), cores, shared, cache, clock = self.chip.cuda
        threads = {(7, 5): 1024, (8, 6): 1536, (8, 9): 1536, (12, 0): 1536}.get((major, minor), 2048)
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {major} minor: {minor} }} core_count: {cores} clock_rate_ghz: {clock}
              fpus_per_core: {128 if (major, minor) >= (8, 6) else 64}
              threads_per_core_limit: {threads} registers_per_core_limit: 65536
              threads_per_block_limit: 1024 threads_per_warp: 32 registers_per_block_limit: 65536
              shared_memory_per_core: {1024 * shared} shared_memory_per_block: {1024 * 48}
              shared_memory_per_block_optin: {1024 * (shared - 1)} l2_cache_size: {cache * 2**20}
              device_memory_size: {self.chip.hbm:.0f} memory_bandwidth: {self.chip.hbm_bandwidth:.0f}
              block_dim_limit_x: {2**31 - 1} block_dim_limit_y: 65535 block_dim_limit_z: 65535
            }}
            platform_name: "CUDA" device_description_str: "{self.chip.kinds[0]}"
            dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 8 }}
        """

    @property
    def egress_bandwidth(self) -> float:
        """Bytes/s that a chip can send when all its links within the slice work, as with a ring on each axis."""
        if self.gpu:
            return self.chip.interconnect / 2
        rings = [2 if side % self.chip.torus == 0 else 1 for side in self.shape if side > 1]
        return self.chip.interconnect / 2 * sum(rings) / self.chip.links


def parse_topology(name: str) -> Topology:
    """`v5e:16x16`, `v4:2x2x1`, `gpu:h100x8`.

    Raises:
      UserError: another form, a chip that is not in CHIPS, or GPUs of more than one machine.
    """
    tpus = [kind for kind, chip in CHIPS.items() if chip.torus]
    gpus = [kind for kind, chip in CHIPS.items() if chip.interconnect and not chip.torus]
    if match := re.fullmatch(r"gpu:([a-z][a-z0-9-]*)x(\d+)", name):
        kind, number = match[1], int(match[2])
        if kind not in gpus:
            raise UserError(f"--topology is {name}; plan knows the GPUs {', '.join(gpus)}.")
        if not 1 <= number <= 8:
            raise UserError(f"--topology is {name}; plan knows one machine of 1 to 8 GPUs, not the network between several.")
        return Topology(name, CHIPS[kind], (number,), gpu=True)
    if not (match := re.fullmatch(r"([a-z][a-z0-9-]*):(\d+(?:x\d+)*)", name)):
        raise UserError(f"--topology is {name!r}; expected a TPU slice as v5e:16x16 or v4:2x2x1, or GPUs as gpu:h100x8.")
    if match[1] not in tpus:
        raise UserError(f"--topology is {name}; plan knows the TPUs {', '.join(tpus)}.")
    return Topology(name, CHIPS[match[1]], tuple(map(int, match[2].split("x"))))
