"""Config files: every field known, the shipped ones whole."""

import importlib
from dataclasses import fields, is_dataclass

import pytest

from roberta_jax.config import typed
from roberta_jax.errors import UserError
from roberta_jax.training.pretrain import PretrainConfig


@pytest.mark.parametrize("name", ["tiny", "base", "large"])
def test_a_shipped_config_is_whole(name):
    """Every field that a person can set stands in the file, so that the file is its own documentation."""
    config = importlib.import_module(f"configs.{name}").get_config().to_dict()

    def check(cls, section, prefix=""):
        for field in fields(cls):
            if field.name in ("num_token_types", "pad_id", "layer_norm_eps"):
                continue  # RoBERTa's own, which no pretraining changes
            assert field.name in section, f"{prefix}{field.name}"
            if is_dataclass(field.type):
                check(field.type, section[field.name], f"{prefix}{field.name}.")

    check(PretrainConfig, config)
    typed(PretrainConfig, config)


@pytest.mark.parametrize(
    ("name", "model", "optimizer"),
    [
        ("base", (12, 768, 3072, 12), (6e-4, 24_000)),
        ("large", (24, 1024, 4096, 16), (4e-4, 30_000)),
    ],
)
def test_base_and_large_are_the_papers(name, model, optimizer):
    config = typed(PretrainConfig, importlib.import_module(f"configs.{name}").get_config().to_dict())
    m, o = config.model, config.optimizer
    assert (m.num_layers, m.hidden_size, m.intermediate_size, m.num_heads) == model
    assert (m.vocab_size, m.max_length, m.dropout, m.attention_dropout) == (50_265, 512, 0.1, 0.1)
    assert (o.learning_rate, o.warmup_steps) == optimizer
    assert (o.weight_decay, o.b1, o.b2, o.eps, o.clip_norm, o.decay_bias_and_norm) == (0.01, 0.9, 0.98, 1e-6, 0, True)
    assert (config.steps, config.batch_size) == (500_000, 8_192)
    assert (config.data.length, config.data.format) == (512, "full-sentences")
    assert (config.data.masking, config.data.masking_rate) == ("roberta", 0.15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 3}, r"config.step is not a field .* did you mean config.steps\?"),
        ({"model": {"hiden_size": 3}}, r"config.model.hiden_size .* did you mean config.model.hidden_size\?"),
        ({"steps": "many"}, "config.steps is 'many'; expected a value of type int"),
        ({"data": 3}, "config.data is 3; expected a section"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        typed(PretrainConfig, fields)


def test_an_int_where_a_float_stands_is_taken():
    assert typed(PretrainConfig, {"optimizer": {"clip_norm": 1}}).optimizer.clip_norm == 1.0
