"""A model under another vocabulary: which tokens keep their rows, what the others begin as, and a run that goes on so."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import published
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax import main
from roberta_jax.config import plain
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.interop.pretrained import Pretrained
from roberta_jax.interop.vocabulary import origins, with_vocabulary
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.pretrained import FastTokenizer, LosslessTokenizer
from roberta_jax.tokenization.tokenizer import CHARACTER_OF, SPECIAL_TOKENS, ByteLevelBPE
from roberta_jax.training.checkpoint import read_params
from tests.conftest import english


def bpe(*merges: str) -> ByteLevelBPE:
    tokens = [*SPECIAL_TOKENS[:4], *CHARACTER_OF.values(), *(merge.replace(" ", "") for merge in merges), "<mask>"]
    return ByteLevelBPE({token: i for i, token in enumerate(tokens)}, [tuple(merge.split(" ")) for merge in merges])


def model(tokenizer, width: int = 8, **sizes) -> Pretrained:
    """Of random weights, biases too."""
    whole = LosslessTokenizer(tokenizer) if tokenizer.encoding in encodings.LOSSLESS else FastTokenizer(tokenizer)
    shape = replace(RobertaConfig(len(tokenizer), 1, width, 2 * width, 1, max_length=64, pad_id=tokenizer.pad), **sizes)
    shapes, random = jax.eval_shape(lambda: init_masked_lm(jax.random.key(0), shape)), np.random.default_rng(0)
    params = jax.tree.map(lambda like: random.normal(0.1, 0.1, like.shape).astype(np.float32), shapes)
    return Pretrained(shape, params, whole, "lm_head", origin="random weights")


def rows(params: dict) -> np.ndarray:
    """Of each id its embedding and its bias. [V, D + 1]"""
    return np.column_stack([params["encoder"]["embeddings"]["word"]["embedding"], params["lm_head"]["bias"]])


@pytest.fixture(scope="module")
def trained() -> dict:
    """A tokenizer of each encoding; unigram and bpe keep single bytes too."""
    return {name: encodings.train(english(200, 1), 420, name) for name in encodings.FILES}


def test_the_same_vocabulary_changes_nothing(trained):
    for tokenizer in trained.values():
        source = model(tokenizer)
        params, sentence = with_vocabulary(source, tokenizer, 0)
        jax.tree.map(np.testing.assert_array_equal, params, source.params)
        number = len(tokenizer)
        assert f"{number} are in both and copied, 0 begin as the mean of the old tokens of their text, 0 are drawn" in sentence


def test_other_ids_for_the_same_tokens_are_the_same_rows_in_another_order(trained):
    old = trained["bytes"]
    order = np.random.default_rng(1).permutation(len(old))
    new = ByteLevelBPE({token: int(order[i]) for token, i in old.vocab.items()}, old.merges)
    source = model(old)
    params, _ = with_vocabulary(source, new, 0)
    np.testing.assert_array_equal(rows(params)[order], rows(source.params))
    before, after = (each["encoder"]["embeddings"]["position"]["embedding"] for each in (source.params, params))
    np.testing.assert_array_equal(after[new.pad + 1 :], before[old.pad + 1 :])  # positions are counted from <pad> on
    assert len(after) == new.pad + 1 + 64 and new.pad != old.pad


def test_a_token_of_two_old_ones_has_their_mean_weighted_by_bytes():
    old, new = bpe("a b", "c d"), bpe("c d", "a b", "ab cd", "ab x")
    source = model(old)
    params, sentence = with_vocabulary(source, new, 0)
    before, after = rows(source.params), rows(params)
    ab, cd, x = (before[old.vocab[token]] for token in ("ab", "cd", "x"))
    np.testing.assert_allclose(after[new.vocab["abcd"]], (ab + cd) / 2, rtol=1e-6)
    np.testing.assert_allclose(after[new.vocab["abx"]], (2 * ab + x) / 3, rtol=1e-6)
    np.testing.assert_array_equal(after[new.vocab["ab"]], ab)
    assert (len(new), len(old)) == (265, 263)
    assert sentence == (
        "a vocabulary of 265 tokens takes the place of the model's 263: 263 are in both and copied, 2 begin as the mean of "
        "the old tokens of their text, 0 are drawn"
    )


@pytest.mark.parametrize("before", encodings.FILES)
def test_encodings_meet_by_the_text_that_a_token_stands_for(before, trained):
    """BERT's way puts a space before punctuation too, and a lower-case one has no other letters."""
    old = trained[before]
    for name, new in trained.items():
        pieces, copied = origins(old, new)
        for role, i in new.special.items():
            assert pieces[i] == [old.special[role]] and copied[i]
        for i in new.text_ids.tolist():
            text, begins = new.token_bytes[i], b"".join(old.token_bytes[j] for j in pieces[i])
            if "wordpiece" in (before, name):
                text, begins = (each.lower().removeprefix(b" ") for each in (text, begins))
            assert begins in (text, b"") or before != "bytes" and b"\xef\xbf\xbd" in begins, (name, text, begins)
            assert bool(pieces[i]) or before in ("wordpiece", "characters"), (name, text)
        if before != "characters" and name != "characters":
            at, was = new.token_bytes.index(b" the"), old.token_bytes.index(b" the")
            assert copied[at] and pieces[at] == [was]
    dot = next(i for i, text in enumerate(trained["wordpiece"].token_bytes) if text == b" .")
    assert origins(old, trained["wordpiece"])[0][dot] == [next(iter(old.encode("a.")[-1:].tolist()))]


def test_a_piece_within_a_word_does_not_begin_as_a_words_start(tmp_path):
    """XLM-R's tokenizer puts a space before every text, also before one that is but a word's end."""
    published.LAYOUTS["xlm_roberta"](tmp_path)
    old, new = encodings.of_model(str(tmp_path)), ByteLevelBPE.train(english(200, 1), 420)
    pieces, copied = origins(old, new)
    within = [i for i in new.text_ids if new.token_bytes[i].isalpha() and len(new.token_bytes[i]) > 1 and pieces[i]]
    assert len(within) > 30 and not copied[within].all()
    for i in within:
        assert b"".join(old.token_bytes[j] for j in pieces[i]) == new.token_bytes[i]
    at = new.token_bytes.index(b" the")
    assert copied[at] and old.token_bytes[pieces[at][0]] == b" the"


def test_what_has_no_old_piece_is_drawn_like_the_table(trained):
    old, source = trained["wordpiece"], model(trained["wordpiece"], width=64)
    new = encodings.train(["天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏" * 20], 60, "characters")
    params, sentence = with_vocabulary(source, new, 0)
    drawn = [i for i, ids in enumerate(origins(old, new)[0]) if not ids]
    assert len(drawn) > 20 and f"{len(drawn)} are drawn" in sentence
    made, known = rows(params)[drawn], rows(source.params)[old.text_ids]
    assert np.isfinite(made).all() and made.std() == pytest.approx(known.std(), rel=0.1)
    np.testing.assert_array_equal(rows(with_vocabulary(source, new, 0)[0]), rows(params))
    assert not np.array_equal(rows(with_vocabulary(source, new, 1)[0])[drawn], made)


def test_what_the_old_tokens_spell_in_parts_of_characters_is_drawn(trained):
    """Means of the same few bytes are all alike, and a model took longer to part them than to learn what was drawn."""
    old, source = trained["bytes"], model(trained["bytes"], width=64)
    new = ByteLevelBPE.train(["когда мы говорим о языке надо помнить что слова его стары как the мир " * 20], 400)
    pieces, copied = origins(old, new)
    words = [i for i in new.text_ids if not copied[i] and len(new.token_bytes[i]) > 5]
    assert len(words) > 20 and not any(pieces[i] for i in words)
    made, known = rows(with_vocabulary(source, new, 0)[0])[words], rows(source.params)[old.text_ids]
    assert made.std(0).mean() > 0.8 * known.std(0).mean()
    apart = origins(old, bpe("Ã ©", "a f", "af Ã©"))[0]  # é, and a word of which it is but a part
    assert [bool(ids) for ids in apart[-4:-1]] == [False, True, True]


def test_robertas_vocabulary_gives_way_to_a_small_one(roberta_tokenizer, documents):
    new = ByteLevelBPE.train([*documents[:100], "Zubereitungszeit Kühlschrank заморозить 冷蔵庫 " * 30], 420)
    source = model(roberta_tokenizer, vocab_size=50_304)  # some tables have more rows than there are ids
    params, sentence = with_vocabulary(source, new, 0)
    pieces, copied = origins(roberta_tokenizer, new)
    assert rows(params).shape == (len(new), 9) and "0 are drawn" in sentence and 0.8 < copied.mean() < 1
    for i in new.text_ids:
        assert b"".join(roberta_tokenizer.token_bytes[j] for j in pieces[i]) == new.token_bytes[i]
    np.testing.assert_array_equal(rows(params)[copied], rows(source.params)[[ids[0] for ids, c in zip(pieces, copied) if c]])


# Whole runs


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """A model of the byte-level vocabulary of 420, rows of 64."""
    folder = tmp_path_factory.mktemp("model")
    hub.save(model(trained["bytes"], width=32), folder)
    return folder


def fields(corpus, folder, **changes) -> dict:
    run = config(
        corpus, **{"steps": 4, "checkpoint_every": 1, "optimizer.warmup_steps": 1.0, "init_from": str(folder)} | changes
    )
    return json.loads(json.dumps(plain(run)))


def test_a_run_begins_with_a_vocabulary_of_its_own_and_resumes_exactly(small_corpus, folder, tmp_path, capsys):
    """The first update of a warm-up has rate 0, so the checkpoint behind it holds what the run began with."""
    shutil.copytree(folder, tmp_path / "in")
    run = fields(small_corpus, tmp_path / "in", new_vocabulary=True)
    main.run(run, tmp_path / "run")
    params, sentence = with_vocabulary(hub.load(folder), small_corpus.tokenizer, 0)
    assert sentence in capsys.readouterr().out
    began = read_params(tmp_path / "run" / "checkpoints", 1)
    jax.tree.map(np.testing.assert_array_equal, began, params)
    assert hub.load(tmp_path / "run").config.vocab_size == 400 and hub.load(tmp_path / "run").config.num_layers == 1
    killed = killed_after(tmp_path / "run", 2, tmp_path / "killed")
    (tmp_path / "in").rename(tmp_path / "gone")
    main.run(run, killed)
    assert_same(tmp_path / "run", killed, 4)
    assert sentence not in capsys.readouterr().out


def test_another_vocabulary_is_refused_where_none_was_asked_for(small_corpus, folder, tmp_path):
    run = fields(small_corpus, folder, **{"data.tokenizer": str(small_corpus.folder / "tokenizer")})
    with pytest.raises(UserError, match="or set config.new_vocabulary, which gives the model the corpus'"):
        main.run(run, tmp_path / "run")
    shutil.copytree(folder, tmp_path / "bare")
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "bare" / name).unlink()
    run = fields(small_corpus, tmp_path / "bare", new_vocabulary=True)
    with pytest.raises(UserError, match="bare has no tokenizer, and config.new_vocabulary begins from its tokens"):
        main.run(run, tmp_path / "run")
