"""Each head's loss, and twenty steps of training with it, are those of a plain PyTorch loop over transformers' model."""

import copy
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
import transformers

from roberta_jax.interop.conversion import config_from_transformers, from_transformers
from roberta_jax.tasks.batches import collate
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tasks.definitions import TASKS, Example
from roberta_jax.tasks.examples import Splits
from roberta_jax.tasks.features import UNLABELLED, Features
from roberta_jax.tasks.finetune import how_many_together, prepare, task_loss
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, make_mesh
from roberta_jax.training.step import abstract_state, compile_train_step, init_state, make_train_step

STEPS, ROWS, LENGTH = 20, 16, 24
# The paper's Table 10, but the rate, which is large so that something is learned.
OPTIMIZER = OptimizerConfig(learning_rate=5e-3, warmup_steps=0.06, weight_decay=0.1)
MODELS = {
    "classification": ("SequenceClassification", dict(num_labels=3, problem_type="single_label_classification")),
    "multi_label": ("SequenceClassification", dict(num_labels=3, problem_type="multi_label_classification")),
    "regression": ("SequenceClassification", dict(num_labels=1, problem_type="regression")),
    "multiple_choice": ("MultipleChoice", {}),
    "span": ("QuestionAnswering", {}),
    "tagging": ("TokenClassification", dict(num_labels=5)),
}


def model(kind: str) -> torch.nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, fields = MODELS[kind]
    config = transformers.RobertaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, bos_token_id=0, pad_token_id=1, eos_token_id=2, **fields,
    )  # fmt: skip
    return getattr(transformers, f"RobertaFor{name}")(config)


def features(kind: str) -> Features:
    """Rows whose answers can be learned: they depend on the second token. Spans' rows are full, see below."""
    random = np.random.default_rng(5)
    rows, labels = [], []
    for _ in range(4 * ROWS):
        lengths = [
            LENGTH if kind == "span" else random.integers(6, LENGTH + 1) for _ in range(1 + 2 * (kind == "multiple_choice"))
        ]
        rows.append(tuple(np.array([0, *random.integers(4, 60, n - 2), 2], np.int32) for n in lengths))
        mark = int(rows[-1][0][1])
        if kind == "tagging":
            tags = np.where(random.random(lengths[0]) < 0.6, rows[-1][0] % 5, UNLABELLED).astype(np.int32)
            labels.append(np.append(tags[:-1], mark % 5).astype(np.int32))
        else:
            labels.append({
                "multi_label": [mark % 2, mark // 2 % 2, mark // 4 % 2],
                "regression": mark / 20,
                "span": (1 + mark % 5, 3 + mark % 7),
            }.get(kind, mark % 3))  # fmt: skip
    if kind == "tagging":
        return Features(rows, labels)
    return Features(rows, np.array(labels, np.float32 if kind in ("multi_label", "regression") else np.int32))


def batches(kind: str):
    """Of the last of every four batches three rows are fill."""
    found = features(kind)
    for step in range(STEPS):
        indices = np.arange(ROWS * (step % 4), ROWS * (step % 4 + 1))
        yield collate(found, indices[: ROWS - 3] if step % 4 == 3 else indices, ROWS, LENGTH, 1)


def torch_loss(source: torch.nn.Module, kind: str, batch: dict) -> torch.Tensor:
    used = batch["weights"] > 0
    if kind == "tagging":
        labels = {"labels": torch.tensor(np.where(used, batch["labels"], -100)).long()}
        used = np.ones(ROWS, bool)
    elif kind == "span":
        starts, ends = torch.tensor(batch["labels"][used]).long().T
        labels = {"start_positions": starts, "end_positions": ends}
    else:
        labels = {"labels": torch.tensor(batch["labels"][used])}
        labels = labels if kind in ("multi_label", "regression") else {"labels": labels["labels"].long()}
    inputs = {"input_ids": batch["input_ids"][used], "attention_mask": batch["segment_ids"][used]}
    return source(**{name: torch.tensor(array).long() for name, array in inputs.items()}, **labels).loss


def torch_losses(source: torch.nn.Module, kind: str) -> list[float]:
    source = copy.deepcopy(source).train()
    adam = torch.optim.AdamW(
        source.parameters(), OPTIMIZER.learning_rate, (OPTIMIZER.b1, OPTIMIZER.b2), OPTIMIZER.eps, OPTIMIZER.weight_decay
    )
    rate = transformers.get_linear_schedule_with_warmup(adam, round(OPTIMIZER.warmup_steps * STEPS), STEPS)
    found = []
    for batch in batches(kind):
        loss = torch_loss(source, kind, batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("kind", MODELS)
def test_losses_are_those_of_a_pytorch_loop(kind):
    """Ours leaves padding out of the softmax over a span's ends, transformers' does not: spans have rows without."""
    source = model(kind)
    ours = config_from_transformers(source.config.to_dict(), "config.json")
    tensors = {name: tensor.numpy().copy() for name, tensor in source.state_dict().items()}
    params, _, _ = from_transformers(tensors, ours, [type(source).__name__], "model")
    optimizer, mesh, init = make_optimizer(OPTIMIZER, STEPS), make_mesh(), lambda _: jax.tree.map(jax.numpy.asarray, params)
    abstract, laid_out, seed = abstract_state(init, optimizer, mesh), batch_sharding(mesh), np.uint32(0)
    state, found = init_state(init, optimizer, 0, abstract), []
    step = make_train_step(task_loss(kind, ours), optimizer, 1, mesh)
    run = compile_train_step(step, abstract, jax.device_put(next(batches(kind)), laid_out), seed)
    for batch in batches(kind):
        state, metrics = run(state, jax.device_put(batch, laid_out), seed)
        found.append(float(metrics["loss"]))
    expected = torch_losses(source, kind)
    assert np.mean(expected[-4:]) < 0.97 * np.mean(expected[:4])  # it learns
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    print(f"{kind}: relative difference at most {np.abs(np.array(found) / expected - 1).max():.1e}")


def test_the_lengths_of_training_are_those_of_train_and_valid(small_corpus):
    """Dropout's masks depend on them, and which examples share a row."""
    tokenizer, found = LosslessTokenizer(small_corpus.tokenizer), []
    learned, asked = (Example("f:1", "1", ("one " * count,), "a") for count in (3, 20))
    for test in ({}, {"": [learned]}, {"": [asked]}):
        splits = Splits([learned], {"": [learned]}, test, ("a", "b"))
        prepared = prepare(TASKS["custom-classification"], splits, tokenizer, 512)
        found.append((prepared.lengths, prepared.test_lengths))
    (lengths, of_none), same, (still, of_longer) = found
    assert lengths == of_none == still and same == found[0]
    assert of_longer[:-1] == lengths and of_longer[-1] % 8 == 0 and of_longer[-1] >= prepared.test[""].features.lengths[0]


def test_cut_examples_are_counted_once_and_of_spans_the_questions_are_cut(small_corpus, capsys):
    tokenizer, words = LosslessTokenizer(small_corpus.tokenizer), "one " * 90
    race = [Example("f", "high1", (words, "a", "b"), 0), Example("f", "middle1", ("one", "a", "b"), 0)]
    train = [replace(race[0], id="high2")]
    prepare(TASKS["race"], Splits(train, {"": race, "high": race[:1], "middle": race[1:]}, {}, ()), tokenizer, 64)
    assert "2 of 3 examples are longer than 64 ids" in capsys.readouterr().out
    spans = [Example("f", "1", (question, words), (("one", 0),)) for question in ("why", words)]
    prepare(TASKS["squad"], Splits(spans, {"": spans[:1]}, {}, ()), tokenizer, 64)
    assert "1 of 2 examples have questions that are cut to 29 ids" in capsys.readouterr().out


def test_as_many_trials_together_as_memory_holds(monkeypatch):
    """On a CPU one, if nobody says otherwise; elsewhere the states of a device take half of its memory."""
    assert how_many_together(FinetuneConfig(), 1, 5) == 1
    assert how_many_together(FinetuneConfig(together=3), 1, 5) == 3 and how_many_together(FinetuneConfig(together=9), 1, 5) == 5
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * 20 * 1000}.__getitem__)
    monkeypatch.setattr(jax, "local_devices", lambda: [type("Device", (), {"memory_stats": lambda self: None})()])
    # Eight devices: eight trials are one on each, five would be five on each.
    assert [how_many_together(FinetuneConfig(), 1000, trials) for trials in (1, 2, 5, 8, 9)] == [1, 2, 4, 8, 8]
    assert how_many_together(FinetuneConfig(), 1001, 8) == 1
