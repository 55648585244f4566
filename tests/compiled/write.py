"""`python tests/compiled/write.py gpu:h100x8` prints what this JAX compiles a little training step to, for absent chips.

The step: a scan over six layers of stacked weights, its gradient, reduced over the devices, and the update gathered from them.
The texts beside this file are of it; `cut` leaves out what the reader does not read.
"""

import os
import re
import sys

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from roberta_jax.hardware import parse_topology  # noqa: E402

LAYERS, WIDTH, ROWS = 6, 256, 512


def loss(weights, x):
    def layer(x, weight):
        return jax.nn.gelu(x @ weight.astype(jnp.bfloat16)), None

    return (jax.lax.scan(layer, x, weights)[0].astype(jnp.float32) ** 2).mean()


def step(weights, x):
    gradient = jax.lax.psum_scatter(jax.grad(loss)(weights, x), "data", scatter_dimension=1, tiled=True)
    return weights - jax.lax.all_gather(1e-3 * gradient, "data", axis=1, tiled=True)


def compiled(topology: str) -> str:
    there = parse_topology(topology)
    options = {"platform": "tpu"}
    if there.gpu:
        options = {"platform": "cuda", "topology": f"1x1x{there.chips}", "target_config": there.target}
    devices = topologies.get_topology_desc(topology_name=topology, **options).devices
    mesh = jax.make_mesh((there.chips,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    spread = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=False)
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P()))
    x = jax.ShapeDtypeStruct((ROWS * there.chips, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    return jax.jit(spread, donate_argnums=0).lower(weights, x).compile().as_text()


def cut(text: str) -> str:
    """Without metadata, and of the backends' settings only how often a loop runs."""
    text = re.sub(r', (metadata|frontend_attributes|origin|sharding)=\{(?:[^{}"]|"[^"]*"|\{[^{}]*\})*\}', "", text)
    trips = re.compile(r'"known_trip_count":\{"n":"\d+"\}')

    def kept(config: re.Match) -> str:
        found = trips.search(config[0])
        return f", backend_config={{{found[0]}}}" if found else ""

    text = re.sub(r", backend_config=\{.*\}$", kept, text, flags=re.M)
    computations = re.findall(r"^(?:ENTRY )?%?[\w.\-]+ \(.*?^\}$", text, re.M | re.S)
    return "\n\n".join([text.split(",")[0], *computations]) + "\n"


if __name__ == "__main__":
    print(cut(compiled(sys.argv[1])), end="")
