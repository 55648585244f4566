"""The chips that `plan` knows, by their makers' data sheets, and how the chips of a slice are wired."""

import math
import re
from dataclasses import dataclass

from roberta_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """What its data sheet says; the peak is in `model.flops.PEAK_FLOPS`, under `kind`."""

    kind: str
    hbm: float  # bytes
    hbm_bandwidth: float  # bytes/s
    interconnect: float  # bytes/s of all its links together, in both directions
    links: int  # its share of them in a full torus; a GPU's switch is one
    torus: int = 0  # an axis closes to a ring where it takes a whole pod (v5e, v6e) or whole cubes (v4, v5p) of this side


GIB = 2**30
# TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, the tables of key specifications. HBM is what libtpu 0.0.42 lets a
# program have, by its own message; the tables say 32, 16, 95 and 32 GB. v4's table has no bandwidth of the links: twice the
# all-reduce bandwidth of a pod, 1.1 PB/s, by its 4,096 chips, which gives the tables' own figure for v5e and v6e.
# GPU: NVIDIA's data sheets of A100 SXM 80 GB, H100 SXM and H200 SXM; NVLink in both directions.
CHIPS = {
    "v4": Chip("TPU v4", 30.75 * GIB, 1_200e9, 2 * 1.1e15 / 4_096, 6, torus=4),
    "v5e": Chip("TPU v5 lite", 15.75 * GIB, 819e9, 400e9, 4, torus=16),
    "v5p": Chip("TPU v5", 95.74 * GIB, 2_765e9, 1_200e9, 6, torus=4),
    "v6e": Chip("TPU v6", 31.25 * GIB, 1_640e9, 800e9, 4, torus=16),
    "a100": Chip("NVIDIA A100", 80e9, 2_039e9, 600e9, 1),
    "h100": Chip("NVIDIA H100", 80e9, 3_350e9, 900e9, 1),
    "h200": Chip("NVIDIA H200", 141e9, 4_800e9, 900e9, 1),
}
# What XLA's compiler wants to know of a GPU besides: compute capability, multiprocessors, the memory that one's blocks share,
# cache in MiB, clock in GHz; from the CUDA programming guide's table of capabilities and the same data sheets.
GPUS = {
    "a100": (8, 108, 164, 40, 1.41),
    "h100": (9, 132, 228, 50, 1.98),
    "h200": (9, 132, 228, 50, 1.98),
}


@dataclass(frozen=True)
class Topology:
    name: str  # as given: v5e:16x16, gpu:h100x8
    chip: Chip
    sides: tuple[int, ...]  # of the slice
    gpu: bool = False

    @property
    def chips(self) -> int:
        return math.prod(self.sides)

    @property
    def target(self) -> str:
        """A GPU's description for XLA: `xla.stream_executor.GpuTargetConfigProto` as text."""
        capability, cores, shared, cache, clock = GPUS[self.name.removeprefix("gpu:").split("x")[0]]
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {capability} }} core_count: {cores} clock_rate_ghz: {clock}
              fpus_per_core: {64 if capability < 9 else 128} threads_per_core_limit: 2048 registers_per_core_limit: 65536
              threads_per_block_limit: 1024 threads_per_warp: 32 registers_per_block_limit: 65536
              shared_memory_per_core: {1024 * shared} shared_memory_per_block: {1024 * 48}
              shared_memory_per_block_optin: {1024 * (shared - 1)} l2_cache_size: {cache * 2**20}
              device_memory_size: {self.chip.hbm:.0f} memory_bandwidth: {self.chip.hbm_bandwidth:.0f}
              block_dim_limit_x: {2**31 - 1} block_dim_limit_y: 65535 block_dim_limit_z: 65535
            }}
            platform_name: "CUDA" device_description_str: "{self.chip.kind}"
            dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 8 }}
        """

    @property
    def sends(self) -> float:
        """Bytes/s that a chip can send when all its links within the slice work, which a ring on each axis makes them."""
        if self.gpu:
            return self.chip.interconnect / 2
        rings = [2 if side % self.chip.torus == 0 else 1 for side in self.sides if side > 1]
        return self.chip.interconnect / 2 * sum(rings) / self.chip.links


def parse_topology(name: str) -> Topology:
    """`v5e:16x16`, `v4:2x2x1`, `gpu:h100x8`.

    Raises:
      UserError: another form, a chip that is not in CHIPS, or GPUs of more than one machine.
    """
    if found := re.fullmatch(r"gpu:([a-z]+\d+)x(\d+)", name):
        kind, number = found[1], int(found[2])
        if kind not in GPUS:
            raise UserError(f"--topology is {name}; plan knows the GPUs {', '.join(GPUS)}.")
        if not 1 <= number <= 8:
            raise UserError(f"--topology is {name}; plan knows one machine of 1 to 8 GPUs, not the network between several.")
        return Topology(name, CHIPS[kind], (number,), gpu=True)
    if not (found := re.fullmatch(r"(v\d+[ep]?):(\d+(?:x\d+)*)", name)):
        raise UserError(f"--topology is {name!r}; expected a TPU slice as v5e:16x16 or v4:2x2x1, or GPUs as gpu:h100x8.")
    if found[1] not in CHIPS:
        raise UserError(f"--topology is {name}; plan knows the TPUs {', '.join(sorted(CHIPS.keys() - GPUS.keys()))}.")
    return Topology(name, CHIPS[found[1]], tuple(map(int, found[2].split("x"))))
