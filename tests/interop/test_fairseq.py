"""fairseq's model.pt with dict.txt, made here after transformers' conversion script, gives RobertaForMaskedLM's numbers."""

import argparse

import jax
import numpy as np
import pytest
import torch
import transformers
from reference import SMALL, config, randomised, rows, run, tensors

from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.model.heads import apply_masked_lm
from roberta_jax.tokenization.tokenizer import BYTE_OF, MASK, ByteLevelBPE

# transformers/models/roberta/convert_roberta_original_pytorch_checkpoint_to_pytorch.py
NAMES = [
    ("roberta.embeddings.word_embeddings", "encoder.sentence_encoder.embed_tokens"),
    ("roberta.embeddings.position_embeddings", "encoder.sentence_encoder.embed_positions"),
    ("roberta.embeddings.LayerNorm", "encoder.sentence_encoder.layernorm_embedding"),
    ("roberta.encoder.layer.", "encoder.sentence_encoder.layers."),
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("attention.output.LayerNorm", "self_attn_layer_norm"),
    ("intermediate.dense", "fc1"),
    ("output.dense", "fc2"),
    ("output.LayerNorm", "final_layer_norm"),
    ("lm_head.", "encoder.lm_head."),
]
masked_lm = jax.jit(apply_masked_lm, static_argnums=1)
ARGUMENTS = dict(encoder_attention_heads=4, activation_fn="gelu", dropout=0.1, attention_dropout=0.0)


@pytest.fixture(scope="module")
def tokenizer():
    texts = ["the cat sat on the mat and the dog ran after the cat, it's said."] * 20
    return ByteLevelBPE.train(texts, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    return randomised(transformers.RobertaForMaskedLM(config(**SMALL | {"vocab_size": len(tokenizer)})))


def fairseq_tensors(model, old: bool) -> dict[str, torch.Tensor]:
    found = {}
    for name, array in tensors(model).items():
        if name.startswith("lm_head.decoder") or "token_type" in name:
            continue
        for theirs, fairseqs in NAMES:
            name = name.replace(theirs, fairseqs)
        found[name] = torch.tensor(array)
    found["encoder.lm_head.weight"] = found["encoder.sentence_encoder.embed_tokens.weight"]
    # fairseq has no token types: the table's one row goes into the positions
    row = torch.tensor(tensors(model)["roberta.embeddings.token_type_embeddings.weight"])
    found["encoder.sentence_encoder.embed_positions.weight"] = found["encoder.sentence_encoder.embed_positions.weight"] + row
    if old:
        for layer in range(2):
            stem = f"encoder.sentence_encoder.layers.{layer}.self_attn."
            for kind in ("weight", "bias"):
                joined = torch.cat([found.pop(f"{stem}{part}_proj.{kind}") for part in "qkv"])
                found[f"{stem}in_proj_{kind}"] = joined
        found = {
            name.replace("encoder.", "decoder.", 1).replace("layernorm_embedding", "emb_layer_norm"): tensor
            for name, tensor in found.items()
        }
    return found


def write(folder, model, tokenizer, old, **changed):
    arguments = argparse.Namespace(**ARGUMENTS | changed)
    checkpoint = {"args": arguments} if old else {"args": None, "cfg": {"model": arguments}}
    checkpoint |= {"model": fairseq_tensors(model, old), "extra_state": {}}
    torch.save(checkpoint, folder / "model.pt", _use_new_zipfile_serialization=not old)
    # dict.txt holds GPT-2's ids in the order of fairseq's
    gpt2 = {token: i for i, token in enumerate([*sorted(BYTE_OF), *(a + b for a, b in tokenizer.merges)])}
    ordered = sorted(tokenizer.vocab, key=tokenizer.vocab.get)[4:-1]
    (folder / "dict.txt").write_text("".join(f"{gpt2[token]} 1\n" for token in ordered))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in tokenizer.merges))


@pytest.mark.parametrize("old", [True, False], ids=["joined projections", "split projections"])
def test_logits_and_ids_are_right(tmp_path, model, tokenizer, old):
    write(tmp_path, model, tokenizer, old)
    found = hub.load(tmp_path)
    assert found.head == "lm_head" and found.ignored == {"encoder.lm_head.weight": "the word embeddings again"}
    assert (found.config.num_layers, found.config.max_length, found.config.num_token_types) == (2, 64, 1)
    assert found.tokenizer.base.vocab == tokenizer.vocab and found.tokenizer.mask == tokenizer.vocab[MASK]
    (tmp_path / "vocab.bpe").write_bytes((tmp_path / "vocab.bpe").read_bytes().replace(b"\n", b"\r\n"))
    assert hub.load(tmp_path).tokenizer.base.hash == found.tokenizer.base.hash
    ids, mask = rows(len(tokenizer), [9, 16], 16)
    everywhere = np.tile(np.arange(16, dtype=np.int32), (2, 1))
    logits = np.asarray(masked_lm(found.params, found.config, ids, mask, everywhere))
    np.testing.assert_allclose(logits[mask == 1], run(model, ids, mask)[0][mask == 1], atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"activation_fn": "relu"}, "activation_fn is 'relu'"),
        ({"encoder_attention_heads": None}, "how many attention heads"),
        ({"encoder_normalize_before": True}, "encoder_normalize_before is True"),
    ],
)
def test_another_architecture_is_refused(tmp_path, model, tokenizer, changed, sentence):
    write(tmp_path, model, tokenizer, True, **changed)
    with pytest.raises(UserError, match=sentence):
        hub.load(tmp_path)


def test_a_dictionary_of_another_size_or_none_is_refused(tmp_path, model, tokenizer):
    write(tmp_path, model, tokenizer, True)
    with open(tmp_path / "dict.txt", "a") as file:
        file.write("madeupword0000 0\n")
    with pytest.raises(UserError, match="a vocabulary of 293 tokens .* model.pt has 292"):
        hub.load(tmp_path)
    (tmp_path / "dict.txt").unlink()
    with pytest.raises(UserError, match="no dict.txt"):
        hub.load(tmp_path)


def test_a_missing_tensor_is_named(tmp_path, model, tokenizer):
    write(tmp_path, model, tokenizer, False)
    checkpoint = torch.load(tmp_path / "model.pt", weights_only=False)
    del checkpoint["model"]["encoder.sentence_encoder.layers.1.fc2.bias"]
    torch.save(checkpoint, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"lacks the tensor encoder\.sentence_encoder\.layers\.1\.fc2\.bias"):
        hub.load(tmp_path)
