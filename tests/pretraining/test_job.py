"""Runs on pairs: what they begin with, what they write, and what is left of them."""

import importlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from roberta_jax import __version__
from roberta_jax.config import typed
from roberta_jax.data.masking import Masking
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import prepare
from roberta_jax.pretraining.config import PretrainConfig, masking_of, with_sizes
from roberta_jax.pretraining.job import (
    _note_order,
    model_of,
    nothing_learned,
    of_pairs,
    pretrain,
    unigram_entropy,
    unigram_loss,
)
from roberta_jax.training.workdir import read_metrics


def test_masks_are_drawn_as_the_config_says():
    fields = {"masking": "hf", "masking_rate": 0.3, "mask_replace_prob": 0.6, "random_replace_prob": 0.15}
    assert masking_of(typed(PretrainConfig, {"data": fields}).data) == Masking("hf", 0.3, 0.6, 0.15)


def test_what_is_prepared_is_kept_on_this_machine():
    with pytest.raises(UserError, match="config.data.cache is 'gs://bucket/cache'; expected a folder of this machine"):
        typed(PretrainConfig, {"data": {"cache": "gs://bucket/cache"}})


def test_a_run_on_pairs_begins_with_any_model_and_gives_one_without_the_head(small_corpus, tmp_path, capsys):
    source, vocabulary = small_corpus.folder.parent / "text.txt", small_corpus.folder / "tokenizer"
    recipe = CorpusConfig((str(source),), str(vocabulary), "segment-pair", 64, 0.1)
    corpus = prepare(recipe, tmp_path / "corpus", tmp_path / "cache", processes=1)
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(steps=2, batch_size=16, log_every=1, eval_every=2, checkpoint_every=1)
    fields.optimizer.update(name="adamw", warmup_steps=1)
    fields.model.update(num_layers=1, hidden_size=32, intermediate_size=64, vocab_size=400)
    fields.data.update(
        source=str(corpus.folder),
        tokenizer=str(vocabulary),
        format="segment-pair",
        masking="static",
        fraction=0.5,
        mask_replace_prob=0.9,
    )
    config = with_sizes(typed(PretrainConfig, fields.to_dict()))
    assert of_pairs(config) and model_of(config).num_token_types == 2 and config.model.num_token_types == 1
    initial = jax.device_get(jax.jit(init_masked_lm, static_argnums=1)(jax.random.key(7), config.model))
    pretrain(config, tmp_path / "run", (config.model, lambda tokenizer: initial, corpus.tokenizer))
    lines = read_metrics(tmp_path / "run")
    for split in ("train", "valid"):
        (*_, last) = [line for line in lines if f"{split}/loss" in line]
        last = {name.removeprefix(f"{split}/"): value for name, value in last.items()}
        assert last["loss"] == pytest.approx(last["mlm_loss"] + last["nsp_loss"], rel=1e-5)
        assert last["perplexity"] == pytest.approx(np.exp(last["mlm_loss"]), rel=1e-5)
        assert 0.4 < last["nsp_loss"] < 1.2 and 0 < last["nsp_accuracy"] < 1 and "pairs" not in last
    rows = corpus.manifest["rows"]["train"] // 2
    said = capsys.readouterr().out
    assert (
        f"{rows:,} rows of 64 in {corpus.folder}: 2 steps are {32 / rows:.2f} epochs\nstatic masks come again after 10" in said
    )
    assert "masking static 0.15: of what is predicted 90.0% is <mask>, 10.0% random, 0.0% kept\n" in said
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["model"]["num_token_types"] == 2 and written["data"]["mask_replace_prob"] == 0.9

    found = hub.load(tmp_path / "run", 1)  # the first update of a warm-up changes nothing
    assert (
        found.head == "lm_head" and found.params.keys() == {"encoder", "lm_head"} and list(found.ignored) == ["next_sentence"]
    )
    types = found.params["encoder"]["embeddings"].pop("token_type")["embedding"]
    known = initial["encoder"]["embeddings"].pop("token_type")["embedding"]
    np.testing.assert_array_equal(types, np.concatenate([known, known]))
    jax.tree.map(np.testing.assert_array_equal, found.params, initial)
    hub.export(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["type_vocab_size"] == 2
    assert hub.load(tmp_path / "out").params["encoder"]["embeddings"]["token_type"]["embedding"].shape == (2, 32)


def test_a_run_that_learns_nothing_says_so_once(small_corpus, tmp_path, capsys):
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(steps=110, batch_size=8, log_every=10, eval_every=110, checkpoint_every=110)
    fields.optimizer.update(name="adamw", learning_rate=1e-9)
    fields.model.update(num_layers=1, hidden_size=32, intermediate_size=64)
    fields.data.update(source=str(small_corpus.folder), tokenizer=str(small_corpus.folder / "tokenizer"))
    pretrain(typed(PretrainConfig, fields.to_dict()), tmp_path)
    floor = unigram_entropy(small_corpus, Masking())
    assert floor == pytest.approx(unigram_loss(small_corpus, Masking()), abs=0.15)
    assert f"without learning the loss is {np.log(400):.2f}, by how often each token stands" in capsys.readouterr().out
    (incident,) = map(json.loads, (tmp_path / "incidents.jsonl").read_text().splitlines())
    assert (incident["kind"], incident["step"]) == ("no learning", 100)
    assert f"no better than {floor:.2f}" in incident["what"]


@pytest.mark.parametrize("loss", ["loss", "mlm_loss"])
def test_learning_is_asked_for_in_one_line_behind_the_warm_up_a_third_and_a_hundred_steps(loss):
    for warmup, steps, due in ((40, 120, 100), (200, 400, 200), (10, 900, 300)):
        config = SimpleNamespace(warmup_steps=warmup, steps=steps, log_every=10)
        asked = [step for step in range(10, steps + 1, 10) if nothing_learned(config, 5.0, step, {loss: 5.0})]
        assert asked == [due]
        assert nothing_learned(config, 5.0, due, {loss: 4.99}) and nothing_learned(config, 5.0, due, {loss: 4.97}) is None
    assert nothing_learned(config, 5.0, due, {"loss": 5.7, "mlm_loss": 4.9}) is None  # of pairs, the words' loss counts


def test_a_run_that_began_by_the_old_order_of_rows_is_told_so_once(small_corpus, tmp_path, capsys):
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(batch_size=8, log_every=1, eval_every=10, checkpoint_every=1)
    fields.optimizer.update(name="adamw", warmup_steps=1)
    fields.model.update(num_layers=1, hidden_size=32, intermediate_size=64, vocab_size=400)
    fields.data.update(source=str(small_corpus.folder), tokenizer=str(small_corpus.folder / "tokenizer"))
    for steps in (2, 3):
        fields.steps = steps
        pretrain(typed(PretrainConfig, fields.to_dict()), tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["version"] == __version__
        if steps == 2:  # as an older version left it
            (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "version"}))
    _note_order(tmp_path)
    (incident,) = map(json.loads, (tmp_path / "incidents.jsonl").read_text().splitlines())
    assert incident["kind"] == "order" and incident["step"] == 2 and "much the same in every epoch" in incident["what"]
    assert capsys.readouterr().out.count("much the same in every epoch") == 1
