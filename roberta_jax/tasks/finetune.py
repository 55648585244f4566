"""The fine-tuning job: what its runs share, what they begin with, the step, and one run, or several together."""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import write_hashes
from roberta_jax.interop.hub import PROBLEMS, Pretrained
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.flops import train_flops
from roberta_jax.model.heads import HEADS, apply_with_head, init_with_head
from roberta_jax.tasks.batches import MULTIPLE, choose_lengths, finetune_batches, padded_size, predict
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tasks.definitions import Example, Task
from roberta_jax.tasks.examples import Splits
from roberta_jax.tasks.features import Encoded
from roberta_jax.tasks.kinds.kind import Kind
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tokenization.pretrained import PretrainedTokenizer
from roberta_jax.training.distributed import Stop, gather_to_host
from roberta_jax.training.job import Job, Trial
from roberta_jax.training.kernel_check import with_sound_attention
from roberta_jax.training.logging import recovered, say
from roberta_jax.training.provenance import require_same_run
from roberta_jax.training.sharding import batch_devices, make_mesh
from roberta_jax.training.step import Loss
from roberta_jax.training.train import train
from roberta_jax.training.workdir import CONFIG_JSON, TASK_JSON, TOKENIZER

VALID_ROWS = 64  # features of a batch that is measured on, or more where a training batch has more


@dataclass(frozen=True)
class Prepared:
    """A task with all that its runs share."""

    task: Task
    splits: Splits
    tokenizer: PretrainedTokenizer
    train: Encoded
    valid: dict[str, Encoded]
    test: dict[str, Encoded]
    labelled: dict[str, Encoded]  # of `test` the examples that have a label, of the parts where some do
    lengths: list[int]  # that batches are padded to, of train and valid: what is trained does not depend on a test split
    test_lengths: list[int]  # and one more for test, where it has longer rows
    outputs: int


def prepare(task: Task, splits: Splits, tokenizer: PretrainedTokenizer, max_length: int) -> Prepared:
    kind = KINDS[task.kind]

    def encoded(examples: list[Example]) -> Encoded:
        return Encoded(examples, kind.encode(examples, tokenizer, splits.labels, max_length))

    train_split = encoded(splits.train)
    valid, test = ({name: encoded(part) for name, part in split.items()} for split in (splits.valid, splits.test))
    labelled = {}
    for name, split in test.items():
        some = [example for example in split.examples if example.label is not None]
        if some:
            labelled[name] = split if len(some) == len(split.examples) else encoded(some)
    learned = [train_split, *valid.values()]
    _say_cut(kind, [*learned, *test.values()], max_length)
    lengths = choose_lengths(np.concatenate([split.features.lengths for split in learned]))
    lengths = [min(length, max_length) for length in lengths]
    longest = max((int(split.features.lengths.max()) for split in test.values()), default=0)
    longer = [min(-(-longest // MULTIPLE) * MULTIPLE, max_length)] if longest > lengths[-1] else []
    outputs = kind.outputs(task, splits.labels)
    return Prepared(task, splits, tokenizer, train_split, valid, test, labelled, lengths, lengths + longer, outputs)


def _say_cut(kind: Kind, splits: list[Encoded], max_length: int) -> None:
    seen: set[int] = set()  # RACE's levels stand in its whole split too, which comes before them
    cut = 0
    for split in splits:
        if id(split.examples[0]) not in seen:
            seen.update(map(id, split.examples))
            cut += split.features.cut
    if cut:
        say(f"{cut:,} of {len(seen):,} examples {kind.too_long(max_length)}")


def initial(task: Task, labels: tuple[str, ...], source: Pretrained) -> tuple[dict, str]:
    """What a run begins with: (the encoder, and the head where it answers the same questions; a word on the head)."""
    kind = KINDS[task.kind]
    encoder, head = {"encoder": source.params["encoder"]}, source.head
    if head not in HEADS:  # pretraining's, or none
        return encoder, ""
    outputs, expected = len(source.params[head]["out"]["bias"]), kind.outputs(task, labels)
    problem = source.problem
    if head == "classification" and not problem:  # a folder of transformers may leave it out
        problem = PROBLEMS["regression" if outputs == 1 else "classification"]
    if head != kind.head or problem != PROBLEMS.get(task.kind, ""):
        differs = f"it is of {problem or head}, this task of {PROBLEMS.get(task.kind, kind.head)}"
    elif outputs != expected:
        differs = f"it has {outputs} outputs, this task {expected}"
    elif labels and source.labels != labels:
        differs = f"its labels are {_some(source.labels)}, this task's {_some(labels)}"
    else:
        same = f": its labels are this task's, {_some(labels)}" if labels else ""
        return encoder | {head: source.params[head]}, f"the {head} head of config.init_from goes on{same}"
    return encoder, f"the {head} head of config.init_from is left out and a new one begins: {differs}"


def _some(labels: tuple[str, ...], most: int = 8) -> str:
    return ", ".join(labels[:most]) + (f" … ({len(labels)})" if len(labels) > most else "")


def task_loss(kind: str, config: RobertaConfig) -> Loss:
    def loss(params, batch, keys):
        inputs, starts = (batch["input_ids"], batch["segment_ids"]), batch.get("starts")
        logits = apply_with_head(params, config, *inputs, dropout_keys=keys, starts=starts)
        if starts is None:
            return _sums(kind, logits, batch)
        flat = {name: batch[name].reshape(-1, *batch[name].shape[2:]) for name in ("labels", "weights")}
        return _sums(kind, logits.reshape(-1, logits.shape[-1]), flat)

    return loss


def _sums(kind: str, logits: jax.Array, batch: dict) -> dict[str, jax.Array]:
    weights = batch["weights"]
    losses, right = KINDS[kind].loss(logits, batch)
    sums = {"loss": (losses * weights).sum(), "weight": weights.sum()}
    return sums if right is None else sums | {"accuracy": (right * weights).sum()}


@functools.cache  # the runs of one command share what is compiled
def make_predict_step(kind: str, config: RobertaConfig, mesh: Mesh, stacked: bool) -> Callable:
    """(params, batch) → the logits [B, …] and the loss' sums, whole on every host; of trials [B, trials, …] and [trials]."""

    def step(params: Any, batch: dict) -> tuple[jax.Array, dict]:
        logits = apply_with_head(params, config, batch["input_ids"], batch["segment_ids"])
        return logits, _sums(kind, logits, batch) if "labels" in batch else {}

    several = jax.vmap(step, in_axes=(0, None), out_axes=(1, 0)) if stacked else step

    def joined(params: Any, batch: dict) -> dict:
        logits, sums = several(params, batch)
        return {"logits": logits} | sums

    return jax.jit(joined, out_shardings=NamedSharding(mesh, P()))


def train_trials(
    prepared: Prepared,
    config: FinetuneConfig,
    source: Pretrained,
    trials: tuple[Trial, ...],
    workdir: Path,
    made_by: dict,
    stop: Stop,
) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[dict, dict], dict[str, dict]] | None:
    """Trains one trial, or several as one, in a workdir.

    Args:
      source: `params` are what the run begins with.
      made_by: kept in task.json, see `runs.made_by`.
      stop: the signals that come meanwhile.

    Returns:
      (name of a metric → the trials' values [trials], each with its best parameters;
      the step with which each trial ends, of some before the run does, which waits for the last one's patience [trials];
      of the best trial name of a part → N of logits, of the valid and of the test split;
      of the best trial name of a part → metrics of the test split, where it has labels);
      None where a signal ended the run.

    Raises:
      UserError: the workdir is another run's.
      GaveUp: the run diverged.
    """
    task, model, kind = prepared.task, config.model, KINDS[prepared.task.kind]
    several = trials if len(trials) > 1 else ()
    in_epoch = -(-len(prepared.train.features) // config.batch_size)
    config = _of_trial(config, trials[0], in_epoch)
    mesh = make_mesh(config.fsdp, len(trials))
    model = with_sound_attention(model, prepared.test_lengths, mesh, workdir)
    size = padded_size(config.batch_size, mesh, config.microbatch_size)

    def logits_of(params: Any, split: Encoded, stacked: bool = False) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        step = make_predict_step(task.kind, model, mesh, stacked)
        rows = max(VALID_ROWS, config.batch_size)
        return predict(step, params, split.features, rows, prepared.test_lengths, model.pad_id, mesh)

    def measured_on_valid(params: Any) -> tuple[dict[str, np.ndarray], list[dict[str, list[np.ndarray]]]]:
        """Metric → values [trials]; of each trial the parts' logits."""
        by_metric: dict[str, np.ndarray] = {}
        logits_by_part: list[dict[str, list[np.ndarray]]] = [{} for _ in trials]
        for name, split in prepared.valid.items():
            logits, sums = logits_of(params, split, bool(several))
            of_trials = [[values[i] for values in logits] for i in range(len(several))] if several else [logits]
            measured = [kind.measure(task, prepared.splits.labels, split, one) for one in of_trials]
            of_split = {metric: np.array([one[metric] for one in measured]) for metric in measured[0]}
            of_split["loss"] = np.atleast_1d(sums["loss"] / sums["weight"])
            by_metric |= {_of_valid(name, metric): values for metric, values in of_split.items()}
            for of_trial, one in zip(logits_by_part, of_trials):
                of_trial[name] = one
        return by_metric, logits_by_part

    def evaluate(params: Any, _: Mesh) -> dict[str, Any]:
        by_metric, _ = measured_on_valid(params)
        return by_metric if several else {name: values[0] for name, values in by_metric.items()}

    def batches(first_step: int, mesh: Mesh) -> Iterator[dict]:
        seeds = [trial.seed for trial in trials]
        features = prepared.train.features
        shape = config.batch_size, size, prepared.lengths, model.pad_id
        packing = {"unit": batch_devices(mesh) if config.packed else 0, "microbatch_size": config.microbatch_size}
        return finetune_batches(features, *shape, seeds, first_step, mesh, **packing)

    job = Job(
        init=lambda key: init_with_head(key, model, kind.head, prepared.outputs),
        loss=task_loss(task.kind, model),
        train_batches=batches,
        evaluate=evaluate,
        rows=size,
        cost=functools.partial(_cost, model),
        initial=lambda: {} if config.from_scratch else source.params,
        dtype=model.dtype,
        metric=f"valid/{task.metrics[0]}",
        patience=config.patience,
        trials=several,
    )
    _write_task(config, prepared, source, workdir, made_by | {"trials": [trial.name for trial in trials]})
    say(f"{len(prepared.train.features):,} rows, {in_epoch:,} steps an epoch, rows padded to {prepared.lengths}")
    state = train(job, config, workdir, stop)
    if state is None:
        return None
    best = state["best"]["params"]
    metrics, logits_by_part = measured_on_valid(best)
    value, at = (np.atleast_1d(gather_to_host(state["best"][name])) for name in ("value", "step"))
    ends = np.full(len(trials), config.steps)
    if config.patience:
        ends = np.minimum(ends, at + config.patience * config.eval_every)
    winner = int(np.argmax(value))
    chosen = jax.tree.map(lambda x: x[winner], best) if several else best
    of_test = {name: logits_of(chosen, split)[0] for name, split in prepared.test.items()}
    of_labelled = {}
    for name, split in prepared.labelled.items():
        logits = of_test[name] if split is prepared.test[name] else logits_of(chosen, split)[0]
        of_labelled[name] = kind.measure(task, prepared.splits.labels, split, logits)
    return metrics, ends, (logits_by_part[winner], of_test), of_labelled


def _cost(model: RobertaConfig, batch: dict) -> tuple[int, float]:
    *rows, length = batch["input_ids"].shape
    return int(np.prod(rows)) * length, train_flops(model, int(np.prod(rows)), length, 0)


def not_finite(prepared: Prepared) -> dict[str, np.ndarray]:
    """Metrics of one trial that diverged, NaN each [1]."""
    names = [_of_valid(name, metric) for name in prepared.valid for metric in (*prepared.task.metrics, "loss")]
    return dict.fromkeys(names, np.full(1, np.nan))


def _of_valid(part: str, metric: str) -> str:
    return f"valid_{part}/{metric}" if part else f"valid/{metric}"


def _of_trial(config: FinetuneConfig, trial: Trial, in_epoch: int) -> FinetuneConfig:
    """`config` with a trial's seed and rate, and with the steps that it leaves open; an epoch has `in_epoch`."""
    steps = config.steps or config.epochs * in_epoch
    eval_every = min(config.eval_every or in_epoch, steps)
    return replace(
        config,
        seed=trial.seed,
        steps=steps,
        eval_every=eval_every,
        checkpoint_every=config.checkpoint_every or eval_every,
        optimizer=replace(config.optimizer, learning_rate=trial.learning_rate),
    )


def _write_task(config: FinetuneConfig, prepared: Prepared, source: Pretrained, workdir: Path, made_by: dict) -> None:
    """task.json and the tokenizer, for `interop.hub`, and for the next start what made this run."""
    path = workdir / TASK_JSON
    if (before := recovered(path, parse_task, None)) is not None:
        require_same_run(workdir, before.get("made_by"), made_by)
    if jax.process_index():
        return
    fields = {
        "task": config.task,
        "kind": prepared.task.kind,
        "labels": prepared.splits.labels,
        "metric": prepared.task.metrics[0],
        "model_type": source.model_type,
        "made_by": made_by,
    }
    (workdir / TOKENIZER).mkdir(parents=True, exist_ok=True)
    storage.write_json(path, fields)
    prepared.tokenizer.save(workdir / TOKENIZER)
    write_hashes(workdir / TOKENIZER)


def require_no_other_job(workdir: Path) -> None:
    """Raises a UserError where a run of another job is in a workdir, whose tokenizer would be written over."""
    job = recovered(workdir / CONFIG_JSON, storage.parse_json, {}).get("job", "finetune")
    if job != "finetune":
        raise UserError(f"{workdir} holds a run whose config.job is {job!r}, this one's is 'finetune'; take another workdir.")


def parse_task(content: bytes) -> dict:
    """What task.json holds; what is no such file raises a ValueError or KeyError."""
    fields = storage.parse_json(content)
    return fields | {name: fields[name] for name in ("task", "kind", "labels")}


def how_many_together(config: FinetuneConfig, parameters: int, trials: int) -> int:
    """How many trials to train as one: their states may take half of the memory of the devices that hold them."""
    if config.together:
        return min(config.together, trials)
    if jax.default_backend() == "cpu":
        return 1  # its cores are busy with one
    stats = jax.local_devices()[0].memory_stats() or {}
    memory = stats.get("bytes_limit", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    state = 4 * 5 * parameters  # parameters, two moments, gradients, the best, in float32
    held = [n for n in range(1, trials + 1) if -(-n // make_mesh(config.fsdp, n).shape["trial"]) * state <= memory / 2]
    return max(held, default=1)
