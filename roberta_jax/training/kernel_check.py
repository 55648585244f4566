"""Before a run trusts an attention kernel: it is tried on a small batch, and XLA's attention takes its place where it fails.

A kernel is compiled by what is young and changes, for devices of many kinds, and what it computes wrongly no error tells.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from roberta_jax import storage
from roberta_jax.model import attention
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.dropout import row_keys
from roberta_jax.training.checkpoint import saved_steps
from roberta_jax.training.distributed import said_by_any, wait_for_all
from roberta_jax.training.incidents import Incidents
from roberta_jax.training.logging import recovered, say
from roberta_jax.training.sharding import make_mesh
from roberta_jax.training.workdir import ATTENTION_JSON, CHECKPOINTS

ROWS = 2  # that each device tries
TWICE = 2  # as far from float32 as XLA's attention in the same arithmetic a kernel may be
ROUNDING = 32 * float(jnp.finfo(jnp.float32).eps)  # of the greatest value: how far float32 itself may be


def with_sound_attention(model: RobertaConfig, lengths: Sequence[int], mesh: Mesh, workdir: Path) -> RobertaConfig:
    """`model`, or with XLA's attention where a kernel fails on a device of any host, or failed earlier in the same run.

    The failure is an incident, and `<workdir>/attention.json` keeps it: a resumed run goes on with the attention it had. Where
    no kernel would run, as on CPUs, there is nothing to try.

    Args:
      lengths: of the rows that the run will see.
      mesh: the run's.
    """
    if model.attention == "xla" or mesh.shape["trial"] * mesh.shape["fsdp"] > 1:
        return model
    path, fault = workdir / ATTENTION_JSON, ""
    if jax.process_index() == 0:
        fault = recovered(path, lambda content: str(storage.parse_json(content)["fault"]), "")
    if fault := said_by_any(fault):
        say(f"attention is XLA's, as it was before: {fault} ({path}; without it the kernel is tried again)")
        return replace(model, attention="xla")
    if fault := said_by_any(next(filter(None, (fault_of_kernel(model, length) for length in lengths)), "")):
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            record = {"attention": "xla", "fault": fault, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "jax": jax.__version__}
            storage.write_json(path, record)
        wait_for_all("attention.json is written")
        sentence = f"{fault}; the run goes on with XLA's attention, which is right and slower, and keeps to it"
        step = max(saved_steps(workdir / CHECKPOINTS), default=0)  # from which the run will go on
        Incidents(workdir).write("attention kernel", step, sentence)
        return replace(model, attention="xla")
    return model


@functools.cache  # the runs of one command share the answer
def fault_of_kernel(model: RobertaConfig, length: int) -> str:
    """What is wrong with the kernel for such rows on a device of this host; "": nothing, or there is none.

    Values and gradients, of rows of two segments and of one with padding, with the run's dropout, on every device.
    """
    mesh = make_mesh(devices=jax.local_devices())
    inputs, heads = _inputs(model, length, mesh.size), model.num_heads
    spread = partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)

    def computed(function: Callable, *inputs: np.ndarray) -> list[np.ndarray]:
        """Attended values and the gradients of queries, keys and values, float32 [devices, rows · length · width]"""

        def both(qkv, gradient, segment_ids, keys):
            values, pull_back = jax.vjp(lambda qkv: function(qkv, heads, segment_ids, model.attention_dropout, keys), qkv)
            return values, *jnp.split(pull_back(gradient)[0], 3, axis=-1)

        return [np.asarray(x, np.float32).reshape(mesh.size, -1) for x in jax.jit(spread(both))(*inputs)]

    where = f"{mesh.devices.flat[0].device_kind}, rows of {length}"
    try:
        kernels: list[Callable | None] = []
        jax.eval_shape(spread(lambda qkv: kernels.append(attention.kernel_for(qkv, heads)) or qkv), inputs[0])
        if kernels[-1] is None:
            return ""
        ours = computed(kernels[-1], *inputs)
    except Exception as error:  # of tracing, compiling or running: whatever it is, XLA's attention does not need it
        reason = " ".join(str(error).split())[:300]
        return f"the attention kernel fails ({where}): {type(error).__name__}: {reason}"
    in_dtype = computed(attention.xla_attention, *inputs)
    with jax.default_matmul_precision("highest"):
        exact = computed(attention.xla_attention, *(x.astype(np.float32) for x in inputs[:2]), *inputs[2:])
    for name, *three in zip(("values", "gradient of queries", "gradient of keys", "gradient of values"), ours, in_dtype, exact):
        off, allowed = _distances(*three)
        if not (off <= allowed).all():  # nor is NaN
            device = int(np.argmax(np.where(off <= allowed, 0, np.nan_to_num(off - allowed, nan=np.inf))))
            return (
                f"the attention kernel is wrong ({where}, device {device}): its {name} is {off[device]:.2g} from float32's, "
                f"{allowed[device]:.2g} is allowed, {TWICE} times what XLA's attention is off"
            )
    return ""


def _inputs(model: RobertaConfig, length: int, devices: int) -> tuple[np.ndarray, ...]:
    """qkv, a gradient, segment ids and keys of dropout; every device has the same."""
    numbers, width = np.random.default_rng(0), model.hidden_size
    segment_ids = np.ones((ROWS, length), np.int32)
    segment_ids[0, length // 3 :], segment_ids[1, length - length // 5 :] = 2, 0
    some = [numbers.standard_normal((ROWS, length, n * width), np.float32).astype(jnp.dtype(model.dtype)) for n in (3, 1)]
    return tuple(np.concatenate([x] * devices) for x in (*some, segment_ids, np.asarray(row_keys(0, 0, ROWS))))


def _distances(ours: np.ndarray, in_dtype: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each device the root mean square error of a kernel, and how large it may be. [devices] each

    Args:
      ours, in_dtype, exact: the kernel's values, XLA's in the run's arithmetic, and XLA's in float32. [devices, values]
    """
    off, xla = (np.sqrt(np.square(x - exact).mean(-1)) for x in (ours, in_dtype))
    return off, np.maximum(TWICE * xla, ROUNDING * np.abs(exact).max(-1))
