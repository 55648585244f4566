"""Against transformers in PyTorch: the same numbers in both directions, and no tensor unaccounted for."""

import jax
import numpy as np
import pytest
import torch
import transformers
from reference import BASE, LARGE, SMALL, XLM_R, config, randomised, rows, run, tensors

from roberta_jax.errors import UserError
from roberta_jax.interop.conversion import (
    config_from_transformers,
    config_to_transformers,
    flatten,
    from_transformers,
    head_of,
    to_transformers,
)
from roberta_jax.model.dropout import row_keys
from roberta_jax.model.heads import apply_encoder, apply_masked_lm, apply_with_head, init_masked_lm, init_with_head

TOLERANCE = 1e-4
SHAPES = {"base": BASE, "large": LARGE, "xlm-r": XLM_R, "two token types": SMALL | {"type_vocab_size": 2}}

encoder, masked_lm, with_head = (
    jax.jit(function, static_argnums=1) for function in (apply_encoder, apply_masked_lm, apply_with_head)
)


def imported(model):
    architectures = [type(model).__name__]
    ours = config_from_transformers(model.config.to_dict(), "config.json")
    return ours, *from_transformers(tensors(model), ours, architectures, "model")


@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_hidden_states_and_logits_are_those_of_transformers(fields):
    model = randomised(transformers.RobertaForMaskedLM(config(**fields)))
    ours, params, head, ignored = imported(model)
    assert head == "lm_head" and ours.num_token_types == fields.get("type_vocab_size", 1)
    assert set(ignored) == {"lm_head.decoder.weight", "lm_head.decoder.bias"}
    for side in ("right", "left"):
        ids, mask = rows(ours.vocab_size, [7, 16, 12], 16, side)
        types = None if ours.num_token_types == 1 else (ids % 2).astype(np.int32)
        logits, _ = run(model, ids, mask)
        _, hidden = run(model, ids, mask, types)
        is_token = mask == 1
        everywhere = np.tile(np.arange(16, dtype=np.int32), (3, 1))
        np.testing.assert_allclose(encoder(params, ours, ids, mask, types)[is_token], hidden[is_token], atol=TOLERANCE)
        found = masked_lm(params, ours, ids, mask, everywhere)
        np.testing.assert_allclose(found[is_token], logits[is_token], atol=TOLERANCE)


@pytest.mark.parametrize("fields", [BASE, SMALL | {"type_vocab_size": 2}], ids=["base", "two token types"])
def test_our_weights_give_the_same_numbers_in_transformers(fields):
    theirs = config(**fields)
    ours = config_from_transformers(theirs.to_dict(), "config.json")
    random, shapes = np.random.default_rng(3), jax.eval_shape(lambda key: init_masked_lm(key, ours), jax.random.key(0))
    params = jax.tree.map(lambda x: 0.03 * random.standard_normal(x.shape, np.float32) + 0.01, shapes)
    model = transformers.RobertaForMaskedLM(theirs).eval()
    exported = {name: torch.tensor(array) for name, array in to_transformers(params).items()}
    lacking, extra = model.load_state_dict(exported, strict=False)
    assert set(lacking) <= {"lm_head.decoder.weight", "lm_head.decoder.bias"} and not extra
    ids, mask = rows(ours.vocab_size, [9, 16], 16)
    logits, _ = run(model, ids, mask)
    found = masked_lm(params, ours, ids, mask, np.tile(np.arange(16, dtype=np.int32), (2, 1)))
    np.testing.assert_allclose(found[mask == 1], logits[mask == 1], atol=TOLERANCE)


HEADS = {
    "classification": (transformers.RobertaForSequenceClassification, 3),
    "token_classification": (transformers.RobertaForTokenClassification, 5),
    "span": (transformers.RobertaForQuestionAnswering, 2),
    "multiple_choice": (transformers.RobertaForMultipleChoice, 1),
}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_the_logits_of_transformers(head):
    kind, outputs = HEADS[head]
    # multiple choice has one output whatever num_labels is
    model = randomised(kind(config(**SMALL, num_labels=max(2, outputs))))
    ours, params, found, _ = imported(model)
    assert found == head
    ids, mask = rows(300, [5, 16, 9, 12], 16)
    if head == "multiple_choice":
        ids, mask = ids.reshape(2, 2, 16), mask.reshape(2, 2, 16)
    with torch.inference_mode():
        out = model(input_ids=torch.tensor(ids.astype(np.int64)), attention_mask=torch.tensor(mask.astype(np.int64)))
    expected = torch.stack([out.start_logits, out.end_logits], -1) if head == "span" else out.logits
    logits, expected = np.asarray(with_head(params, ours, ids, mask)), expected.numpy()
    assert logits.shape == expected.shape
    at = mask == 1 if head in ("span", "token_classification") else ...
    np.testing.assert_allclose(logits[at], expected[at], atol=TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
def test_fresh_heads_have_the_places_of_imported_ones(head):
    kind, outputs = HEADS[head]
    ours, params, _, _ = imported(kind(config(**SMALL, num_labels=max(2, outputs))))
    fresh = jax.eval_shape(lambda key: init_with_head(key, ours, head, outputs), jax.random.key(0))
    shapes = [{path: leaf.shape for path, leaf in flatten(tree).items()} for tree in (params, fresh)]
    assert shapes[0] == shapes[1]


def test_heads_drop_out_with_a_key_alone():
    ours, params, _, _ = imported(transformers.RobertaForSequenceClassification(config(**SMALL)))
    ids, mask = rows(300, [5, 16], 16)
    drop = jax.jit(lambda seed: apply_with_head(params, ours, ids, mask, dropout_keys=row_keys(seed, 0, len(ids))))
    first, again, second = (np.asarray(drop(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and np.abs(first - second).max() > 1e-4


def test_there_and_back_is_bit_identical():
    model = randomised(transformers.RobertaForMaskedLM(config(**SMALL)))
    ours, params, _, _ = imported(model)
    again, _, _ = from_transformers(to_transformers(params), ours, ["RobertaForMaskedLM"], "export")
    for (path, before), after in zip(flatten(params).items(), flatten(again).values(), strict=True):
        assert before.tobytes() == after.tobytes() and before.dtype == np.float32, path
    source = tensors(model)
    for name, array in to_transformers(params).items():
        assert array.tobytes() == source[name].tobytes(), name


@pytest.fixture(scope="module")
def small():
    model = randomised(transformers.RobertaForMaskedLM(config(**SMALL)))
    return config_from_transformers(model.config.to_dict(), "config.json"), tensors(model)


def read(small, changed):
    return from_transformers(changed, small[0], ["RobertaForMaskedLM"], "model.safetensors")


def test_a_missing_tensor_is_named_with_its_shape(small):
    changed = dict(small[1])
    del changed["roberta.encoder.layer.1.attention.self.key.weight"]
    with pytest.raises(
        UserError, match=r"lacks the tensor roberta\.encoder\.layer\.1\.attention\.self\.key\.weight, .*\(64, 64\)"
    ):
        read(small, changed)


def test_a_misshapen_tensor_is_named_with_both_shapes(small):
    changed = small[1] | {"roberta.encoder.layer.0.intermediate.dense.weight": np.zeros((128, 63), np.float32)}
    with pytest.raises(UserError, match=r"layer\.0\.intermediate\.dense\.weight has shape \(128, 63\), expected \(128, 64\)"):
        read(small, changed)


def test_a_tensor_too_many_is_named_with_its_shape(small):
    with pytest.raises(UserError, match=r"has the tensor roberta\.encoder\.layer\.2\.output\.dense\.bias \(64,\)"):
        read(small, small[1] | {"roberta.encoder.layer.2.output.dense.bias": np.zeros(64, np.float32)})


def test_a_decoder_that_is_not_tied_is_refused(small):
    untied = small[1]["lm_head.decoder.weight"] + 1
    with pytest.raises(UserError, match=r"lm_head\.decoder\.weight \(300, 64\) differs from .*word_embeddings"):
        read(small, small[1] | {"lm_head.decoder.weight": untied})


def test_what_is_left_out_has_a_reason(small):
    extra = {
        "roberta.embeddings.position_ids": np.arange(66)[None],
        "roberta.pooler.dense.weight": np.zeros((64, 64)),
        "roberta.pooler.dense.bias": np.zeros(64),
    }
    params, _, ignored = read(small, small[1] | extra)
    assert ignored.keys() == extra.keys() | {"lm_head.decoder.weight", "lm_head.decoder.bias"} and all(ignored.values())
    used = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert used + 300 * 64 + 300 == sum(array.size for array in small[1].values())  # the decoder is there twice


def test_half_precision_is_read_as_float32(small):
    params, _, _ = read(small, {name: array.astype(np.float16) for name, array in small[1].items()})
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("kind", HEADS)
def test_without_architectures_the_tensors_say_which_head_it_is(kind):
    model = HEADS[kind][0](config(**SMALL, num_labels=max(2, HEADS[kind][1])))
    assert head_of(tensors(model), []) == kind
    assert head_of(tensors(transformers.RobertaModel(config(**SMALL))), []) == ""
    assert head_of(tensors(transformers.RobertaForMaskedLM(config(**SMALL))), []) == "lm_head"


def test_configs_go_there_and_back():
    theirs = config(**SMALL, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.05)
    ours = config_from_transformers(theirs.to_dict(), "config.json")
    assert (ours.max_length, ours.dropout, ours.attention_dropout) == (64, 0.2, 0.05)
    again = config_from_transformers(config_to_transformers(ours, "lm_head", (), 0, 2), "config.json")
    assert again == ours


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model_type": "bert"}, "'bert'.*roberta, xlm-roberta, camembert"),
        ({}, "model without a model_type"),
        ({"model_type": "roberta", "hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"model_type": "roberta", "position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"model_type": "roberta", "is_decoder": True}, "is_decoder is 'True'; this package computes False alone"),
        ({"model_type": "roberta", "vocab_size": 300}, "lacks num_hidden_layers"),
    ],
)
def test_a_config_of_another_architecture_is_refused(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        config_from_transformers(fields, "config.json")


def test_an_architecture_of_another_kind_is_refused(small):
    with pytest.raises(UserError, match="RobertaForCausalLM is none of those"):
        from_transformers(small[1], small[0], ["RobertaForCausalLM"], "model")
