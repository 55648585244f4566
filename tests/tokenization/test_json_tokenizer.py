"""Tokenizers of the `tokenizers` library, as others publish them: sentences of a text, special tokens, dropout."""

import json
from itertools import chain

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from roberta_jax.preparation import shards
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import make
from roberta_jax.tokenization import encodings, json_tokenizer
from roberta_jax.tokenization.json_tokenizer import JsonTokenizer
from roberta_jax.tokenization.sentences import split_sentences
from roberta_jax.tokenization.tokenizer import SPECIAL_TOKENS

TEXT = "こんにちは。世界。“Yes!” “はい。”と言った。 A b.\n\nC d\n\n世. E? नमस्ते।क ख"
BEFORE = {
    "xlm-r": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
    "llama": pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    "bytes": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "plain": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
}


def written(folder, kind: str, special=SPECIAL_TOKENS, **model) -> str:
    """A folder with the tokenizer.json that one learns of the text."""
    fast = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    fast.pre_tokenizer = BEFORE[kind]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False)
    fast.train_from_iterator([TEXT], trainer)
    fields = json.loads(fast.to_str())
    fields["model"] |= model
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    return str(folder)


@pytest.mark.parametrize("kind", BEFORE)
def test_the_ids_of_sentences_joined_are_the_texts(tmp_path, kind, monkeypatch):
    """Where the tokenizer puts a space before a text; another one's sentences are each a text, as they were."""
    tokenizer, sentences = encodings.load(written(tmp_path / kind, kind)), split_sentences(TEXT)
    found = tokenizer.encode_sentences(sentences)
    apart = [tokenizer.encode(sentence) for sentence in sentences]
    assert len(found) == len(sentences) == 9
    if kind == "plain":
        assert list(chain(*found)) == list(chain(*apart)) and not tokenizer.prefixes
    else:
        assert list(chain(*found)) == tokenizer.encode(TEXT).tolist() != list(chain(*apart))
    first = tokenizer.encode_sentences(sentences[:1])
    assert [each.tolist() for each in first] == [apart[0].tolist()] and tokenizer.encode_sentences([]) == []
    monkeypatch.setattr(json_tokenizer, "AT_ONCE", 1)  # of a longer text's stretches each is a text
    assert list(chain(*tokenizer.encode_sentences(sentences))) == list(chain(*apart))


def in_this_process(work, spills, processes) -> None:
    for shard in shards.unwritten(work):
        shards.write_shard(work, shard)


def test_their_corpora_are_others_than_before(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("\n\n".join(f"{TEXT[:9]}{i}。世界。" for i in range(40)))
    folder = written(tmp_path / "bytes", "bytes")

    def made(format: str) -> str:
        config = CorpusConfig((f"{tmp_path}/text.txt",), folder, format, length=16, valid_fraction=0.2)
        return make(config, cache=tmp_path / "cache", workers=1, run=in_this_process)

    now = [made(format) for format in ("full-sentences", "single-sentences-packed")]
    monkeypatch.setattr(JsonTokenizer, "prefixes", False)
    before = [made(format) for format in ("full-sentences", "single-sentences-packed")]
    assert now[0] != before[0] and now[1] == before[1]


@pytest.mark.parametrize("framed", [False, True])
def test_special_tokens_that_no_file_lists_are_the_same_ones_once_saved(tmp_path, framed):
    """They stand in the vocabulary, and perhaps in the post-processor."""
    folder = tmp_path / "in"
    written(folder, "bytes", [*SPECIAL_TOKENS, "[A]", "[B]"])
    fields = json.loads((folder / "tokenizer.json").read_text()) | {"added_tokens": []}
    if framed:
        ids = [(token, fields["model"]["vocab"][token]) for token in ("[A]", "[B]")]
        processor = tokenizers.processors.TemplateProcessing("[A] $A [B]", "[A] $A [B] $B [B]", ids)
        fields["post_processor"] = json.loads(processor.__getstate__())
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    first = encodings.load(folder)
    first.save(tmp_path / "saved")
    again = encodings.load(tmp_path / "saved")
    assert again.hash == first.hash and (again.bos, again.eos) == (first.bos, first.eos)
    np.testing.assert_array_equal(again.encode(f"<s>{TEXT}"), first.encode(f"<s>{TEXT}"))


def test_dropout_is_off_and_that_is_said_once(tmp_path, capsys):
    folder = written(tmp_path / "in", "bytes", dropout=0.5)
    first = encodings.load(folder)
    assert "in/tokenizer.json has BPE dropout 0.5, which cuts a text another way each time" in capsys.readouterr().err
    assert len({tuple(first.encode(TEXT)) for _ in range(9)}) == 1
    first.save(tmp_path / "saved")
    assert encodings.load(tmp_path / "saved").hash == encodings.load(folder).hash == first.hash
    assert capsys.readouterr().err == ""
