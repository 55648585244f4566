"""Steps of fine-tuning SST-2 a second, beside transformers' Trainer.

    python -m benchmarks.finetune [--data ../shared/assets/glue/SST-2] [--json]

Base's shape with random weights, batches of 32, dropout 0.1, AdamW: the same examples in both. With every row padded to 128
ids, as transformers' example script does it; and with rows padded by batch, as `python -m roberta_jax.main` and the
Trainer's own collator do it. In a turn each does one step more, the first, which does not count, nor does what the Trainer sets
up before it. Expected: at least 1.2 times the Trainer.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import ASSETS, compare, comparison_lines, in_turn, needs
from roberta_jax.errors import exit_with_sentence
from roberta_jax.memory import use_huge_pages
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_with_head
from roberta_jax.tasks.batches import choose_lengths, finetune_batches
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.features import Features
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE
from roberta_jax.training.optimizer import OptimizerConfig
from roberta_jax.training.sharding import make_mesh
from roberta_jax.training.step import build_step

BATCH_SIZE, LENGTH = 32, 128


def ours(features: Features, config: RobertaConfig, lengths: list[int], steps: int) -> Callable[[], float]:
    """A function that does the next step of an endless run and `steps` more, and tells the seconds of these."""
    from roberta_jax.tasks.finetune import task_loss

    mesh, optimizer = make_mesh(), OptimizerConfig(learning_rate=1e-5, warmup_steps=0.06, weight_decay=0.1)
    init = lambda key: init_with_head(key, config, "classification", 2)  # noqa: E731
    train_step = build_step(init, task_loss("classification", config), optimizer, 10_000, mesh, rows=BATCH_SIZE)
    states = [train_step.init_state()]
    batches = finetune_batches(features, BATCH_SIZE, BATCH_SIZE, lengths, config.pad_id, [0], 0, mesh)
    compiled: dict[tuple, Callable] = {}

    # All shapes before the first turn, from a stream of its own.
    for batch in finetune_batches(features, BATCH_SIZE, BATCH_SIZE, lengths, config.pad_id, [0], 0, mesh):
        shape = batch["input_ids"].shape
        if shape not in compiled:
            compiled[shape] = train_step.compile(batch)
        if len(compiled) == len(lengths):
            break

    def run() -> float:
        for number, batch in enumerate(itertools.islice(batches, 1 + steps)):
            states[0], metrics = compiled[batch["input_ids"].shape](states[0], batch, *train_step.constants)
            if number == 0:
                jax.block_until_ready((states[0], metrics))
                started = time.perf_counter()
        jax.block_until_ready((states[0], metrics))
        return time.perf_counter() - started

    run()
    return run


def trainers(features: Features, config: RobertaConfig, padded: bool, steps: int, folder: str) -> Callable[[], float]:
    """`ours` by the Trainer."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    shape = transformers.RobertaConfig(
        vocab_size=config.vocab_size,
        num_hidden_layers=config.num_layers,
        max_position_embeddings=config.max_length + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=2,
    )
    model = transformers.RobertaForSequenceClassification(shape)
    examples = [{"input_ids": row.tolist(), "labels": int(label)} for (row,), label in zip(features.rows, features.labels)]

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        length = LENGTH if padded else max(len(example["input_ids"]) for example in batch)
        ids = np.full((len(batch), length), config.pad_id)
        for i, example in enumerate(batch):
            ids[i, : len(example["input_ids"])] = example["input_ids"]
        input_ids = torch.tensor(ids)
        labels = torch.tensor([example["labels"] for example in batch])
        return {"input_ids": input_ids, "attention_mask": (input_ids != config.pad_id).long(), "labels": labels}

    arguments = transformers.TrainingArguments(
        folder,
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=1 + steps,
        learning_rate=1e-5,
        weight_decay=0.1,
        max_grad_norm=0.0,
        bf16=config.dtype == "bfloat16",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="random",
    )

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step in (1, 1 + steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                ends.append(time.perf_counter())

    ends: list[float] = []
    trainer = transformers.Trainer(model, arguments, train_dataset=examples, data_collator=collate, callbacks=[Clock])

    def run() -> float:
        trainer.train()
        return ends[-1] - ends[-2]

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=str(ASSETS / "glue" / "SST-2"), help="a folder of SST-2 (default %(default)s)")
    parser.add_argument("--vocab", default=str(ASSETS / "roberta-vocab"), help="RoBERTa's vocabulary")
    parser.add_argument("--steps", type=int, default=2, help="that a side does in its turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--layers", type=int, default=12, help="of base's shape")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")
    args = parser.parse_args()
    needs("tensorboardX", "torch", "transformers", "accelerate")
    from roberta_jax.tasks.examples import read_splits

    gpu = jax.default_backend() == "gpu"
    config = RobertaConfig(num_layers=args.layers, dtype="bfloat16" if gpu else "float32")
    splits = read_splits("sst2", TaskData(source=args.data))
    text = LosslessTokenizer(ByteLevelBPE.load(Path(args.vocab)))
    features = KINDS["classification"].encode(splits.train, text, splits.labels, LENGTH)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, lengths in ((f"rows of {LENGTH}", [LENGTH]), ("rows padded by batch", choose_lengths(features.lengths))):
            sides = {
                "roberta_jax": ours(features, config, lengths, args.steps),
                "transformers' Trainer": trainers(features, config, lengths == [LENGTH], args.steps, folder),
            }
            found[name] = compare(in_turn(sides, args.rounds), args.steps)
            del sides
    device = f"batches of {BATCH_SIZE}, {args.layers} layers, {config.dtype}, {jax.devices()[0].device_kind}"
    found = {"device": device, "rows": found}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """Tables in Markdown."""
    made = []
    for name, comparison in found["rows"].items():
        made += [*comparison_lines(comparison, "steps/s", f"{name}, {found['device']}"), ""]
    return made[:-1]


if __name__ == "__main__":
    use_huge_pages()  # as main does
    exit_with_sentence(main)
