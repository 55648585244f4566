"""Rows of a table by their ids, and places of a row by their positions, with gradients that are sums in float32.

XLA's own gradient of a gather is a scatter-add. In bfloat16 it rounds after each of a thousand `<mask>`s. On a GPU it adds by
atomics, in whatever order they come, so that no two runs are the same; and all that add to one row wait for each other.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from roberta_jax.model.tracing import alone, on_gpu

BLOCK = 128  # sorted ids whose sums are one product of matrices


class Embed(nn.Module):
    """A table, float32 whatever the arithmetic around it; ids […] → float32 […, D]"""

    rows: int
    width: int
    init: nn.initializers.Initializer

    def setup(self):
        self.embedding = self.param("embedding", self.init, (self.rows, self.width))

    def __call__(self, ids):
        return embed_lookup(self.embedding, ids)


@jax.custom_vjp
def embed_lookup(table: jax.Array, ids: jax.Array) -> jax.Array:
    """[V, D] float32, int32 […] → […, D]. The gradient of the table is `sorted_sum` on a GPU, elsewhere `scattered_sum`."""
    return jnp.take(table, ids, axis=0)


def _lookup_backward(residuals, gradient):
    ids, rows = residuals
    total = sorted_sum if alone() and on_gpu() else scattered_sum
    return total(ids.reshape(-1), gradient.reshape(ids.size, -1), len(rows)), None


# An empty slice of the table tells its number of rows: residuals are arrays.
embed_lookup.defvjp(lambda table, ids: (embed_lookup(table, ids), (ids, table[:, :0])), _lookup_backward)


def scattered_sum(ids: jax.Array, updates: jax.Array, rows: int) -> jax.Array:
    """Of each id the sum of its updates, by XLA's scatter-add. int32 [N], float32 [N, D] → float32 [rows, D]"""
    return jnp.zeros((rows, updates.shape[-1]), updates.dtype).at[ids].add(updates)


def sorted_sum(ids: jax.Array, updates: jax.Array, rows: int) -> jax.Array:
    """`scattered_sum` in an order that ids alone decide: the same bits on every run, and no atomics on a GPU.

    The ids are sorted and cut into blocks. A product with zeros and ones sums each run of equal ids within its block; another
    product adds to it what the run has in later blocks. So every row of the table is written once.
    """
    number, width = updates.shape
    blocks = -(-number // BLOCK)
    ids = jnp.pad(ids, (0, blocks * BLOCK - number), constant_values=rows)  # of no row; they come last
    ids, order = jax.lax.sort((ids, jnp.arange(len(ids), dtype=jnp.int32)), num_keys=1)
    ids, updates = ids.reshape(blocks, BLOCK), jnp.take(updates, order, axis=0, mode="clip").reshape(blocks, BLOCK, width)
    run = jnp.cumsum(ids[:, 1:] != ids[:, :-1], axis=1, dtype=jnp.int32)
    run = jnp.pad(run, ((0, 0), (1, 0)))  # of each id, its number in the block
    place = jnp.arange(BLOCK, dtype=jnp.int32)
    member = run[:, None, :] == place[:, None]  # [blocks, runs, ids]
    sums = jnp.einsum("bri,bid->brd", member.astype(updates.dtype), updates, precision="highest")
    last = run[:, -1]  # of a block, its last run
    continues = jnp.pad(ids[1:, 0] == ids[:-1, -1], (1, 0))  # whether its first run began in a block before
    at = jnp.arange(blocks, dtype=jnp.int32)
    begins = jax.lax.cummax(jnp.where((last > 0) | ~continues, at, 0))  # in which block its last run did
    head = jnp.pad(begins[:-1], (1, 0))  # … its first run
    later = ((head == at[:, None]) & continues).astype(updates.dtype)  # [blocks, blocks]
    carried = jnp.einsum("hb,bd->hd", later, sums[:, 0], precision="highest")
    sums += jnp.where((place == last[:, None])[..., None], carried[:, None], 0)
    whole = (place <= last[:, None]) & ~(continues[:, None] & (place == 0))
    into = jnp.where(member, ids[:, None], 0).max(-1)  # the id of each run
    nowhere = rows + place + BLOCK * at[:, None]  # past the table, each another place
    into = jnp.where(whole & (into < rows), into, nowhere).reshape(-1)
    table = jnp.zeros((rows, width), updates.dtype)
    return table.at[into].set(sums.reshape(-1, width), mode="drop", unique_indices=True)


@jax.custom_vjp
def places(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """[B, L, D], int32 [B, S] → [B, S, D]. The gradient is a product with zeros and ones, which adds in float32."""
    return jnp.take_along_axis(hidden, positions[..., None], axis=1)


def _places_backward(residuals, gradient):
    positions, empty = residuals
    own = positions[..., None] == jnp.arange(empty.shape[1])  # [B, S, L]
    wide = {"precision": "highest", "preferred_element_type": jnp.float32}
    return jnp.einsum("bsl,bsd->bld", own.astype(gradient.dtype), gradient, **wide).astype(gradient.dtype), None


places.defvjp(lambda hidden, positions: (places(hidden, positions), (positions, hidden[..., :0])), _places_backward)
