"""How much arithmetic the model needs, and how much the device can do: the two sides of MFU."""

import time

import jax
import jax.numpy as jnp

from roberta_jax.model.encoder import RobertaConfig

# Dense bfloat16 FLOP/s a device, from the vendors' data sheets; the first whose name begins the device's kind.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6": 918e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
}


def forward_flops(config: RobertaConfig, rows: int, length: int, slots: int) -> int:
    """FLOPs of the matrix products in one forward pass over `rows` × `length` ids with `slots` predictions a row."""
    d, f = config.hidden_size, config.intermediate_size
    layer = length * (2 * d * 3 * d + 2 * d * d + 2 * 2 * d * f) + 2 * 2 * length * length * d
    head = slots * (2 * d * d + 2 * d * config.vocab_size)
    return rows * (config.num_layers * layer + head)


def train_flops(config: RobertaConfig, rows: int, length: int, slots: int) -> int:
    """The same for a training step: the backward pass needs twice the forward's; recomputation does not count."""
    return 3 * forward_flops(config, rows, length, slots)


def peak_flops() -> float:
    """FLOP/s of all devices together: from the table, else measured by large products (one CPU serves all its devices)."""
    device = jax.devices()[0]
    for kind, peak in PEAK_FLOPS.items():
        if device.device_kind.startswith(kind):
            return peak * jax.device_count()
    return measured_matmul_flops() * (1 if device.platform == "cpu" else jax.device_count())


def measured_matmul_flops(size: int = 2048, seconds: float = 0.5, dtype: str = "float32") -> float:
    """The best rate of products of two `size` × `size` matrices, over about `seconds`."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
