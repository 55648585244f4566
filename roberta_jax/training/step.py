"""One step of training: gradients of one global batch, summed over microbatches, and one update."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from roberta_jax.errors import UserError
from roberta_jax.model.dropout import row_keys
from roberta_jax.training.guard import DEFAULT, GuardConfig, new_guard, update_guard
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_devices, map_paths, moment_spec, state_shardings

Batch = dict[str, jax.Array]
# (params, batch, the rows' dropout keys or None) → sums over the batch: "loss", "weight", and others to be divided by it
Loss = Callable[[Any, Batch, jax.Array | None], dict[str, jax.Array]]


def accumulation(batch_size: int, microbatch_size: int, mesh: Mesh) -> int:
    """How many microbatches a step has.

    Args:
      batch_size: rows of the global batch.
      microbatch_size: rows that a device takes at once; 0: its whole share.

    Raises:
      UserError: the devices do not divide the batch, or the microbatches not a device's share.
    """
    return accumulation_on(batch_size, microbatch_size, batch_devices(mesh))


def accumulation_on(batch_size: int, microbatch_size: int, devices: int) -> int:
    """`accumulation`, by how many devices share a batch."""
    if batch_size % devices:
        raise UserError(f"config.batch_size is {batch_size}, which the {devices} devices do not divide; expected a multiple.")
    share = batch_size // devices
    if microbatch_size and share % microbatch_size:
        raise UserError(
            f"config.microbatch_size is {microbatch_size}, which does not divide a device's share of {share} rows "
            f"(config.batch_size {batch_size} on {devices} devices)."
        )
    return share // microbatch_size if microbatch_size else 1


def abstract_state(
    init: Callable[[jax.Array], Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    trials: int = 0,
    keep_best: bool = False,
) -> Any:
    """The state's shapes, a tree of `jax.ShapeDtypeStruct`, each with the sharding that its array has or will have.

    "params" and "opt_state" are the model's and the optimizer's trees, "guard" is `guard.new_guard`; "step", int32 [], counts
    the updates and "batch", int32 [], the batches. "best" is `{"params", "value" float32 [], "step" int32 []}`.

    Args:
      init: key → parameters.
      trials: how many states are stacked, on an axis in front; 0: it is one state without that axis.
      keep_best: whether the state holds the best parameters so far too, see `early_stopping`.
    """
    seed = np.zeros(trials, np.int32) if trials else 0
    shapes = jax.eval_shape(lambda: _new_state(init, optimizer, seed, keep_best))
    shardings = state_shardings(mesh, shapes, trials > 0)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _new_state(init, optimizer, seed: int | np.ndarray, keep_best: bool) -> dict:
    def one(seed):
        params = init(jax.random.key(seed))
        zero = jnp.zeros((), jnp.int32)  # "step" and "batch" count apart: after a rewind steps come again, batches do not
        state = {"params": params, "opt_state": optimizer.init(params), "step": zero, "batch": zero, "guard": new_guard()}
        best = {"params": params, "value": jnp.full((), -jnp.inf), "step": jnp.zeros((), jnp.int32)}
        return state | ({"best": best} if keep_best else {})

    return one(seed) if np.ndim(seed) == 0 else jax.vmap(one)(seed)


def init_state(init, optimizer, seed: int | np.ndarray, abstract: Any) -> dict:
    """A fresh state, born where `abstract` says; for an array of seeds [trials], stacked."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(lambda: _new_state(init, optimizer, seed, "best" in abstract), out_shardings=shardings)()


def place(params: dict, abstract: dict, stacked: bool = False) -> dict:
    """Some parameters, by their names at the top of the tree, laid out as `abstract` says; the same for every trial.

    Raises:
      UserError: one has another shape than the model's.
    """

    def laid_out(path: str, like: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
        if array.shape != like.shape[stacked:]:
            raise UserError(f"config.init_from: its {path} is {array.shape}, this model's {like.shape[stacked:]}.")
        return jax.device_put(np.broadcast_to(array.astype(like.dtype), like.shape), like.sharding)

    known = {name: abstract[name] for name in params if name in abstract}
    return map_paths(laid_out, known, {name: params[name] for name in known})


def require_finite(initial: dict) -> None:
    """Raises a UserError where parameters to begin with are no numbers."""

    def check(path: str, array: np.ndarray) -> None:
        if wrong := np.size(array) - int(np.isfinite(array).sum()):
            raise UserError(
                f"config.init_from: {wrong:,} of the {np.size(array):,} values of its {path} are NaN or infinite; take "
                "another model, or an earlier checkpoint of that one."
            )

    map_paths(check, initial)


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformationExtraArgs, microbatches: int, mesh: Mesh, guard: GuardConfig = DEFAULT
) -> Callable:
    """(state, batch, seed of dropout, factor of the learning rate) → (state, metrics, the guard's among them).

    The loss is the mean over all predictions of the global batch. Each device accumulates the gradients of its own rows over
    its microbatches, and they are reduced over the devices once, after the last: by itself XLA reduces every microbatch's.
    """

    def microbatch_gradients(params: Any, batch: Batch, keys: jax.Array, weight: jax.Array) -> tuple[Any, dict]:
        def objective(params):
            sums = loss(params, batch, keys)
            return sums["loss"] / weight, sums

        return jax.grad(objective, has_aux=True)(params)

    def accumulate_gradients(params: Any, batch: Batch, keys: jax.Array, weight: jax.Array) -> tuple[Any, dict]:
        """Of a device's rows. They are dealt to microbatches in turn, so that those spread over "fsdp" stay where they are."""
        dealt = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), (batch, keys))
        first = jax.tree.map(lambda x: x[0], dealt)
        shapes = jax.eval_shape(microbatch_gradients, params, *first, weight)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total: Any, microbatch: tuple) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, microbatch_gradients(params, *microbatch, weight)), None

        return jax.lax.scan(add, zeros, dealt)[0]

    def reduce_gradients(*inputs: Any) -> tuple[Any, dict]:
        """Summed over "data"; of a gradient whose moments are cut, each device gets its part."""
        grads, sums = accumulate_gradients(*inputs)

        def reduce(path: str, grad: jax.Array) -> jax.Array:
            spec = moment_spec(mesh, path, grad.shape)
            if "data" not in spec:
                return jax.lax.psum(grad, "data")
            return jax.lax.psum_scatter(grad, "data", scatter_dimension=spec.index("data"), tiled=True)

        return map_paths(reduce, grads), jax.lax.psum(sums, "data")

    def over_data(path: str, x: jax.Array) -> P:
        return P(*(name if name == "data" else None for name in moment_spec(mesh, path, x.shape)))

    def global_gradients(params: Any, *inputs: Any) -> tuple[Any, dict]:
        if mesh.size == 1:  # so that attention sees for which device it is traced
            on_one = {"in_specs": P(), "out_specs": P(), "check_vma": False}
            return jax.shard_map(accumulate_gradients, mesh=mesh, **on_one)(params, *inputs)
        if mesh.shape["data"] == 1:  # XLA cannot sum over an axis of one device beside axes of several
            return accumulate_gradients(params, *inputs)
        out_specs = map_paths(over_data, params), P()
        rows = {"in_specs": (P(), P("data"), P("data"), P()), "axis_names": {"data"}, "check_vma": False}
        return jax.shard_map(reduce_gradients, mesh=mesh, out_specs=out_specs, **rows)(params, *inputs)

    def train_step(state: dict, batch: Batch, seed: jax.Array, rate: jax.Array | float = 1.0):
        params, weight = state["params"], jnp.maximum(batch["weights"].sum(), 1e-6)
        keys = row_keys(seed, state["step"], len(batch["weights"]))
        grads, sums = global_gradients(params, batch, keys, weight)
        metrics = {name: total / weight for name, total in sums.items() if name != "weight"}
        # Without the barrier XLA fuses the norm's squares with Adam's, and writes these to memory.
        metrics["gradient_norm"] = optax.tree.norm(jax.lax.optimization_barrier(grads))
        after, accepted, of_guard = update_guard(state["guard"], guard, metrics["loss"], metrics["gradient_norm"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], params, accepted=accepted)
        updated = jax.tree.map(lambda param, update: jnp.where(accepted, param + rate * update, param), params, updates)
        metrics["parameter_norm"] = optax.tree.norm(updated)  # that of the old ones would keep XLA from updating in place
        counts = {name: state[name] + 1 for name in ("step", "batch")}
        return state | counts | {"params": updated, "opt_state": opt_state, "guard": after}, metrics | of_guard

    return train_step


def trace_train_step(train_step: Callable, abstract: Any, *inputs: Any) -> jax.stages.Traced:
    """Traced for inputs of these shapes and shardings; the state is donated."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    replicated = NamedSharding(jax.tree.leaves(shardings)[0].mesh, P())  # the metrics, on every host
    return jax.jit(train_step, out_shardings=(shardings, replicated), donate_argnums=0).trace(abstract, *inputs)


def compile_train_step(train_step: Callable, abstract: Any, *inputs: Any) -> jax.stages.Compiled:
    """Compiled for inputs of these shapes and shardings; the state is donated."""
    return trace_train_step(train_step, abstract, *inputs).lower().compile()


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["names"])
@dataclass(frozen=True)
class StepMetrics:
    """A step's metrics in one array, as a host asks for each array by itself. float32 [metrics], of trials [metrics, trials]"""

    names: tuple[str, ...]
    values: jax.Array

    def to_host(self) -> dict[str, np.ndarray]:
        """Each by its name; waits for the step."""
        return dict(zip(self.names, np.asarray(self.values)))


@dataclass(frozen=True)
class TrainStep:
    """A job's step, put together by `build_step`: what trains is what is planned, and what is measured."""

    abstract: dict  # the state's shapes and shardings, see `abstract_state`
    microbatches: int  # of a batch of `build_step`'s rows
    constants: tuple  # what the step takes after the batch: seed of dropout and, of trials, factor of the learning rate
    init_state: Callable[[], dict]  # a fresh state, born where `abstract` says
    function: Callable[..., tuple[dict, StepMetrics]]  # (state, batch, *constants) → (state, metrics)
    microbatches_of: Callable[[Batch], int]  # a batch → how many it is cut into

    def new_guard(self) -> dict:
        """The guard's state at the start of a run, laid out as `abstract` says."""
        return jax.jit(new_guard, out_shardings=jax.tree.map(lambda x: x.sharding, self.abstract["guard"]))()

    def trace(self, batch: Any) -> jax.stages.Traced:
        """For a batch of these shapes and shardings; arrays or `jax.ShapeDtypeStruct`s."""
        return trace_train_step(self.function, self.abstract, batch, *self.constants)

    def compile(self, batch: Any) -> jax.stages.Compiled:
        """The same, compiled: `state, metrics = compiled(state, batch, *step.constants)`. The state is donated."""
        return self.trace(batch).lower().compile()


def build_step(
    init: Callable[[jax.Array], Any],
    loss: Loss,
    optimizer: OptimizerConfig,
    steps: int,
    mesh: Mesh,
    *,
    rows: int,
    microbatch_size: int = 0,
    guard: GuardConfig = DEFAULT,
    seed: int | np.ndarray = 0,
    rates: np.ndarray | None = None,
    keep_best: bool = False,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """Puts a job's step together: optimizer, accumulation, guard and shardings.

    Args:
      init: key → parameters.
      steps: of the whole run, over which the learning rate decays.
      rows: of a global batch; later batches may have others.
      microbatch_size: rows that a device takes at once; 0: all that it has.
      seed: of parameters and dropout; an array [trials] stacks as many states, and batches, on an axis in front.
      rates: of trials, the factors of the learning rate [trials].
      keep_best: see `abstract_state`.
      schedule: updates done → learning rate, where that is not the optimizer's own over all steps.

    Raises:
      UserError: the devices do not divide the batch, or the microbatches not a device's share.
    """
    microbatches, transformation = accumulation(rows, microbatch_size, mesh), make_optimizer(optimizer, steps, schedule)
    stacked = np.ndim(seed)
    abstract = abstract_state(init, transformation, mesh, len(seed) if stacked else 0, keep_best)

    def microbatches_of(batch: Batch) -> int:
        rows = batch["weights"].shape[stacked]
        return accumulation(rows, min(microbatch_size, max(1, rows // batch_devices(mesh))), mesh)

    def train_step(state: dict, batch: Batch, *inputs: Any) -> tuple[dict, StepMetrics]:
        update = make_train_step(loss, transformation, microbatches_of(batch), mesh, guard)
        update = jax.vmap(update) if stacked else update
        state, metrics = update(state, batch, *inputs)
        names = tuple(sorted(metrics))
        return state, StepMetrics(names, jnp.stack([metrics[name].astype(jnp.float32) for name in names]))

    constants = (np.uint32(seed),) if rates is None else (np.uint32(seed), rates)
    fresh = partial(init_state, init, transformation, seed, abstract)
    return TrainStep(abstract, microbatches, constants, fresh, train_step, microbatches_of)
