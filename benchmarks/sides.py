"""Who takes part in `benchmarks.train_step`: each gives a function that does one step and waits for it, in its own process.

All train a masked LM of the same shape on the same batch: forward, backward and AdamW. The peers compute logits of every
position, as their users' scripts do, and weigh those of 15%; ours computes the predicted ones.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

SHAPES = {  # layers, hidden, feed-forward, heads
    "tiny": (2, 128, 512, 2),
    "base": (12, 768, 3072, 12),
    "large": (24, 1024, 4096, 16),
}
PREDICTED = 0.15  # of the positions
RATE, DECAY, B1, B2, EPS = 6e-4, 0.01, 0.9, 0.98, 1e-6
PAD = 1


@dataclass(frozen=True)
class Case:
    shape: str = "base"
    rows: int = 8
    length: int = 128
    dropout: float = 0.1  # everywhere, attention probabilities included
    dtype: str = "float32"  # of the arithmetic
    vocab_size: int = 50_265
    layers: int = 0  # instead of the shape's
    remat: str = "none"  # ours
    microbatch: int = 0  # ours: rows at once; 0: all
    attention: str = "kernel"  # ours: where there is one; or "xla", or "jax" for JAX's own

    def of_peers(self) -> "Case":
        """This one without what is ours alone: the same for all that are the same to the peers."""
        return replace(self, **{name: getattr(Case, name) for name in ("remat", "microbatch", "attention")})

    @property
    def slots(self) -> int:
        """As roberta_jax.data.masking has them: one more than are predicted."""
        return int(np.ceil(PREDICTED * self.length)) + 1

    def work(self) -> tuple:
        """What model.flops.train_flops takes: what the model needs, of the predicted positions alone."""
        return roberta_config(self), self.rows, self.length, self.slots - 1

    def batch(self) -> dict[str, np.ndarray]:
        chooser = np.random.default_rng(0)
        ids = chooser.integers(4, self.vocab_size, (self.rows, self.length)).astype(np.int32)
        positions = np.stack([np.sort(chooser.permutation(self.length)[: self.slots]) for _ in ids]).astype(np.int32)
        weights = np.ones(positions.shape, np.float32)
        weights[:, -1] = 0
        labels = np.take_along_axis(ids, positions, axis=1)
        masked = ids.copy()
        np.put_along_axis(masked, positions[:, :-1], self.vocab_size - 1, axis=1)
        segments = np.ones_like(ids)
        return {"input_ids": masked, "segment_ids": segments, "positions": positions, "labels": labels, "weights": weights}

    def labels_everywhere(self) -> np.ndarray:
        """[B, L], -100 where nothing is predicted: what transformers' models take."""
        batch = self.batch()
        labels = np.full(batch["input_ids"].shape, -100, np.int64)
        np.put_along_axis(labels, batch["positions"][:, :-1], batch["labels"][:, :-1].astype(np.int64), axis=1)
        return labels


@dataclass(frozen=True)
class Side:
    step: Callable[[], float]  # does one and tells its seconds
    prepared: float  # seconds to compile; in PyTorch those of the first step
    peak_memory: Callable[[], int]  # bytes so far: the process' on a CPU, the device's elsewhere
    plan: Callable[[], dict] = dict  # of ours: what the model needs, and what the compiled step does by `plan`'s arithmetic


def timed(step: Callable[[], None]) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        step()
        return time.perf_counter() - started

    return seconds


def ours(case: Case) -> Side:
    return masked_lm_step(roberta_config(case), case.batch(), case.microbatch)


def masked_lm_step(config, batch: dict[str, np.ndarray], microbatch: int = 0, devices=None) -> Side:
    """This package's training step, on all devices or on `devices`."""
    import jax

    from roberta_jax.hlo_analysis import matmul_flops, read_step
    from roberta_jax.model.flops import train_flops
    from roberta_jax.model.heads import init_masked_lm
    from roberta_jax.pretraining.losses import masked_lm_loss
    from roberta_jax.training.optimizer import OptimizerConfig
    from roberta_jax.training.sharding import batch_sharding, make_mesh
    from roberta_jax.training.step import build_step

    mesh = make_mesh(devices=devices)
    optimizer = OptimizerConfig(learning_rate=RATE, warmup_steps=10, weight_decay=DECAY, b1=B1, b2=B2, eps=EPS)
    train_step = build_step(
        lambda key: init_masked_lm(key, config),
        masked_lm_loss(config),
        optimizer,
        1_000_000,
        mesh,
        rows=len(batch["input_ids"]),
        microbatch_size=microbatch,
    )
    state = train_step.init_state()
    batch = jax.device_put(batch, batch_sharding(mesh))
    started = time.perf_counter()
    traced = train_step.trace(batch)
    compiled = traced.lower().compile()
    prepared = time.perf_counter() - started

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch, *train_step.constants)
        jax.block_until_ready((state, metrics))

    def plan() -> dict:
        (rows, length), slots = batch["input_ids"].shape, batch["positions"].shape[1]
        return {
            "model_flops": train_flops(config, rows, length, slots - 1),
            "matmul_flops": matmul_flops(traced.jaxpr.jaxpr),
            "hbm_bytes": read_step(compiled.as_text()).hbm_bytes,
            "device_kind": jax.devices()[0].device_kind,
        }

    return Side(timed(step), prepared, jax_memory, plan)


def roberta_config(case: Case):
    from roberta_jax.model.config import RobertaConfig

    if case.attention == "jax":
        from benchmarks.attentions import offer_jaxs

        offer_jaxs()
    layers, hidden, feed_forward, heads = SHAPES[case.shape]
    return RobertaConfig(
        case.vocab_size,
        case.layers or layers,
        hidden,
        feed_forward,
        heads,
        max_length=max(512, case.length),
        dropout=case.dropout,
        attention_dropout=case.dropout,
        dtype=case.dtype,
        remat=case.remat,
        attention=case.attention,
    )


def jax_memory() -> int:
    import jax

    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else process_memory()


def process_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def transformers_config(case: Case):
    import transformers

    layers, hidden, feed_forward, heads = SHAPES[case.shape]
    return transformers.RobertaConfig(
        vocab_size=case.vocab_size,
        num_hidden_layers=case.layers or layers,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        max_position_embeddings=max(512, case.length) + PAD + 1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=case.dropout,
    )


def pytorch(case: Case, attention: str, compiled: bool = False) -> Side:
    """In bfloat16 by autocast, as the Trainer does it: parameters and moments in float32."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    torch.manual_seed(0)
    model = transformers.RobertaForMaskedLM._from_config(transformers_config(case), attn_implementation=attention)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (B1, B2), EPS, DECAY, fused=True)
    inputs = {
        "input_ids": torch.tensor(case.batch()["input_ids"], dtype=torch.long, device=device),
        "attention_mask": torch.ones((case.rows, case.length), dtype=torch.long, device=device),
        "labels": torch.tensor(case.labels_everywhere(), device=device),
    }
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            loss = forward(**inputs).loss
        loss.backward()
        optimizer.step()
        loss.item()

    prepared, on_gpu = timed(step)(), device == "cuda"
    return Side(timed(step), prepared, lambda: torch.cuda.max_memory_allocated() if on_gpu else process_memory())


def flax_roberta(case: Case) -> Side:
    """transformers 4.57's FlaxRobertaForMaskedLM, its step jitted with the state donated."""
    import jax
    import jax.numpy as jnp
    import optax
    import transformers

    config = transformers_config(case)
    model = transformers.FlaxRobertaForMaskedLM(config, (1, case.length), seed=0, dtype=jnp.dtype(case.dtype))
    optimizer = optax.adamw(optax.linear_schedule(0.0, RATE, 10), B1, B2, EPS, weight_decay=DECAY)
    labels = case.labels_everywhere()
    inputs = {"input_ids": case.batch()["input_ids"], "attention_mask": np.ones(labels.shape, np.int32)}

    def train_step(params, moments, key, inputs, labels):
        key, of_step = jax.random.split(key)

        def loss(params):
            logits = model(**inputs, params=params, dropout_rng=of_step, train=True).logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            return (losses * (labels >= 0)).sum() / (labels >= 0).sum()

        value, grads = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, key, value

    inputs, labels = jax.device_put((inputs, labels.astype(np.int32)))
    state = model.params, optimizer.init(model.params), jax.random.key(0)
    started = time.perf_counter()
    compiled = jax.jit(train_step, donate_argnums=(0, 1, 2)).lower(*state, inputs, labels).compile()
    prepared = time.perf_counter() - started

    def step() -> None:
        nonlocal state
        *state, value = compiled(*state, inputs, labels)
        jax.block_until_ready((state, value))

    return Side(timed(step), prepared, jax_memory)


def products(case: Case) -> Side:
    """A step's matrix products at the best rate that large ones of the same arithmetic reach: the limit."""
    import jax

    from roberta_jax.model.flops import measured_matmul_flops, train_flops

    size, needed = 2_048 if jax.default_backend() == "cpu" else 8_192, train_flops(*case.work())
    return Side(lambda: needed / measured_matmul_flops(size, 1.0, case.dtype), 0.0, jax_memory)


OURS, LIMIT = "roberta_jax", "matrix products alone"
SIDES: dict[str, Callable[[Case], Side]] = {
    OURS: ours,
    LIMIT: products,
    "PyTorch eager": lambda case: pytorch(case, "eager"),
    "PyTorch SDPA": lambda case: pytorch(case, "sdpa"),
    "PyTorch compile": lambda case: pytorch(case, "sdpa", compiled=True),
    "FlaxRoberta": flax_roberta,
}
