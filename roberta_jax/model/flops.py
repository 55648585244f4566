"""How much arithmetic the model needs, and how much the device can do: the ratio is MFU."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from roberta_jax.hardware import chip_of
from roberta_jax.model.config import RobertaConfig


def forward_flops(config: RobertaConfig, rows: int, length: int, slots: int) -> int:
    """FLOPs of the matrix products in one forward pass over `rows` × `length` ids with `slots` predictions a row."""
    d, f = config.hidden_size, config.intermediate_size
    layer = length * (2 * d * 3 * d + 2 * d * d + 2 * 2 * d * f) + 2 * 2 * length * length * d
    head = slots * (2 * d * d + 2 * d * config.vocab_size)
    return rows * (config.num_layers * layer + head)


def train_flops(config: RobertaConfig, rows: int, length: int, slots: int) -> int:
    """The same for a training step: the backward pass needs twice the forward's; recomputation does not count."""
    return 3 * forward_flops(config, rows, length, slots)


def activation_bytes(config: RobertaConfig, rows: int, length: int, slots: int) -> float:
    """What a device keeps of `rows` rows for the backward pass, about: XLA's own choice, counted in steps it compiled.

    A layer keeps nine hidden values, a feed-forward one and, where no kernel attends, as in float32 on GPUs, each
    attention probability; `remat` keeps a layer's input, or its products with weights and attention's output, and one whole
    layer at a time. Beside them stand the logits and their gradient.
    """
    size, hidden, wide = 4 if config.dtype == "float32" else 2, length * config.hidden_size, length * config.intermediate_size
    layer = 9 * hidden + wide + (config.num_heads * length**2 if size == 4 or config.attention == "xla" else 0)
    saved = {"none": 0, "dots": 7 * hidden + wide, "full": hidden}[config.remat]
    layers = config.num_layers * saved + layer if saved else config.num_layers * layer
    return rows * (size * layers + 2 * 4 * slots * config.vocab_size)


class Peak:
    """What all devices together can do at most, FLOP/s of products in `dtype`; a run's rate as a share of it is its MFU.

    It is the data sheet's, or measured where there is none. Other work on the machine lowers what is measured: a run that
    comes near it has it measured again, and one that beats it has raised it.

    Args:
      report: called with a sentence when a run has raised the peak.
    """

    def __init__(self, dtype: str, report: Callable[[str], None]):
        device, self._dtype, self._report = jax.devices()[0], dtype, report
        chip = chip_of(device.device_kind)
        known = chip.flops.get(dtype) if chip else None
        self._units = jax.process_count() if device.platform == "cpu" else jax.device_count()  # a CPU serves all its devices
        self._doubts = 0 if known else 4
        self.flops = self._units * (known or best_matmul_flops(dtype))

    def mfu(self, flops: float) -> float:
        """Of a run that does so many FLOP/s; at most 1."""
        if self._doubts and flops > 0.85 * self.flops:
            self._doubts -= 1
            self.flops = max(self.flops, self._units * best_matmul_flops(self._dtype))
        if flops > 1.001 * self.flops:
            self._report(
                f"the run does {flops / 1e12:.4g} TFLOP/s, more than the {self.flops / 1e12:.4g} that were held to be the "
                "devices' peak: MFU is of the run's own best rate from here on"
            )
        self.flops = max(self.flops, flops)
        return flops / self.flops


def best_matmul_flops(dtype: str, seconds: float = 0.5) -> float:
    """The best rate of matrix products in `dtype` of several sizes, over about `seconds`: small ones find a busy CPU's gaps."""
    rates = []
    for size in (512, 1_024, 2_048, 4_096, 8_192):
        rates.append(measured_matmul_flops(size, seconds / 5, dtype))
        if 2 * (2 * size) ** 3 / rates[-1] > seconds / 5:  # the next one would take longer than its share
            break
    return max(rates)


def measured_matmul_flops(size: int = 2048, seconds: float = 0.5, dtype: str = "float32") -> float:
    """The best rate of products of two `size` × `size` matrices of random values, over about `seconds`."""
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)  # equal ones take less power, and so less time
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
