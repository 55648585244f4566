"""Ids against FACTS' golden ones and against `tokenizers` and transformers; bytes, files, errors."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from roberta_jax.errors import UserError
from roberta_jax.tokenization.sentences import split_sentences
from roberta_jax.tokenization.tokenizer import BYTE_OF, MASK, SPECIAL_TOKENS, ByteLevelBPE

SIZE = 480  # of the vocabulary trained here

# Any text; text where words, digits, marks and white space of every kind meet; white space; letters of any script.
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b"
MEETING = "aZé'’sdmtrevl019²½.,!?…。！？।؟_-*#中文हिन्दीعربי😀👩‍👩‍👧e\u0301ǅß\ufeff\0" + SPACES
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from(MEETING), max_size=60),
    st.text(st.sampled_from(SPACES + "a'."), max_size=40),
    st.text(st.characters(categories=["Lo", "Mn", "Mc", "Nd", "Po", "Zs"]), max_size=40),
    st.lists(st.sampled_from(["'ll", "'s", " don't", "I'Ve", " 3rd", "  ", "\n\n ", "<mask>", "<s>", " ...", " x", "."])).map(
        "".join
    ),
)


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory):
    """A vocabulary trained here, saved and opened by `tokenizers`."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = ByteLevelBPE.train([*documents, "中文句子。 हिन्दी 'll don't 123 456\n\n\n    return x\n" * 20], SIZE)
    tokenizer.save(folder)
    return tokenizer, reference(folder), folder


def reference(folder) -> tokenizers.ByteLevelBPETokenizer:
    return tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def assert_same_ids(tokenizer, peer, texts):
    for text, ours, theirs in zip(texts, tokenizer.encode_batch(texts), peer.encode_batch(texts)):
        assert ours.tolist() == theirs.ids, text[:200]


def texts_of(assets) -> list[str]:
    """Every text under the assets: whole files, and the strings inside the JSON ones."""
    texts = []

    def strings(node):
        if isinstance(node, str):
            texts.append(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            strings(child)

    for path in sorted(path for path in assets.rglob("*") if path.is_file() and path.parent.name != "roberta-vocab"):
        text = path.read_bytes().decode()
        texts.append(text)
        if path.suffix == ".json":
            strings(json.loads(text))
    return texts


def test_golden_ids(roberta_tokenizer):
    golden = {
        "Hello world": [31414, 232],
        "Hello world!": [31414, 232, 328],
        " world": [232],
        "world": [8331],
    }
    assert {text: roberta_tokenizer.encode(text).tolist() for text in golden} == golden
    ids = [getattr(roberta_tokenizer, name) for name in ("bos", "pad", "eos", "unk", "mask")]
    assert ids == [0, 1, 2, 3, 50264] and len(roberta_tokenizer) == 50265


def test_ids_equal_those_of_tokenizers_on_every_asset(roberta_tokenizer, assets):
    texts = texts_of(assets)
    assert len(texts) > 5_000 and any("。" in text for text in texts) and any("।" in text for text in texts)
    assert_same_ids(roberta_tokenizer, reference(assets / "roberta-vocab"), texts)


def test_ids_equal_those_of_tokenizers_on_ten_thousand_made_up_strings(roberta_tokenizer, assets):
    peer, seen = reference(assets / "roberta-vocab"), []

    @settings(max_examples=10_000)
    @given(TEXTS)
    def compare(text):
        seen.append(text)
        assert roberta_tokenizer.encode(text).tolist() == peer.encode(text).ids

    compare()
    assert len(seen) >= 10_000 and len(set(seen)) > 8_000


@settings(max_examples=1_000)
@given(text=TEXTS)
def test_ids_equal_those_of_tokenizers_with_a_vocabulary_trained_here(trained, text):
    tokenizer, peer, _ = trained
    assert tokenizer.encode(text).tolist() == peer.encode(text).ids


@settings(max_examples=1_000)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        TEXTS.map(str.encode),
        st.tuples(TEXTS, st.binary(max_size=4), TEXTS).map(lambda parts: parts[0].encode() + parts[1] + parts[2].encode()),
    )
)
def test_any_bytes_survive(trained, data):
    ids = trained[0].encode(data)
    assert ids.dtype == np.int32
    assert trained[0].decode_bytes(ids) == data


@settings(max_examples=1_000)
@given(text=TEXTS)
def test_any_text_survives(trained, text):
    ids = trained[0].encode(text)
    assert trained[0].decode(ids) == text
    assert set(ids.tolist()) <= set(trained[0].text_ids.tolist())


def test_a_lone_surrogate_becomes_the_bytes_that_stand_for_it(trained):
    assert trained[0].decode_bytes(trained[0].encode("a\ud800b")) == "a\ud800b".encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("run", [" ", "\n", "a", ".", "中", "1"])
def test_a_million_times_the_same_character(trained, run):
    tokenizer, peer, _ = trained
    text = "x" + run * 1_200_000 + "."
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    if run.isspace():
        assert ids.tolist() == peer.encode(text).ids


def test_special_tokens_in_a_text_are_text_and_in_ids_have_names(trained):
    tokenizer = trained[0]
    assert not {tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.unk, tokenizer.mask} & set(
        tokenizer.encode("<s> <pad> </s> <unk> <mask>").tolist()
    )
    ids = [tokenizer.bos, *tokenizer.encode("boat"), tokenizer.mask, tokenizer.eos, tokenizer.pad]
    assert tokenizer.decode(ids) == "<s>boat<mask></s><pad>"
    assert tokenizer.decode_bytes(ids) == b"boat"


def test_training_gives_the_special_tokens_their_ids_and_the_size_asked_for(trained):
    tokenizer = trained[0]
    assert len(tokenizer) == SIZE
    assert [tokenizer.vocab[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3, SIZE - 1]
    assert len(tokenizer.text_ids) == SIZE - 5 == len(set(tokenizer.text_ids.tolist()))


def test_saved_and_loaded_it_is_the_same(trained):
    tokenizer, _, folder = trained
    loaded = ByteLevelBPE.load(folder)
    assert loaded.hash == tokenizer.hash and loaded.vocab == tokenizer.vocab and loaded.merges == tokenizer.merges
    assert ByteLevelBPE(tokenizer.vocab, tokenizer.merges[:-1]).hash != tokenizer.hash


def test_transformers_reads_the_saved_files(trained, documents):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    tokenizer, _, folder = trained
    peer = transformers.RobertaTokenizerFast.from_pretrained(str(folder))
    assert (peer.bos_token_id, peer.pad_token_id, peer.eos_token_id, peer.unk_token_id, peer.mask_token_id) == (
        0,
        1,
        2,
        3,
        SIZE - 1,
    )
    for text in documents[:50]:
        assert peer(text)["input_ids"] == [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]


def broken(folder, to, vocab=None, merges=None):
    shutil.copytree(folder, to)
    for name, change in (("vocab.json", vocab), ("merges.txt", merges)):
        if change:
            (to / name).write_text(change((to / name).read_text()))
    return to


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_folder_without_a_file_is_named(trained, tmp_path, name):
    folder = broken(trained[2], tmp_path / "t")
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{folder}: no {name}"):
        ByteLevelBPE.load(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "nothing")):
        ByteLevelBPE.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "vocab, merges, said",
    [
        (lambda s: s[:-5], None, r"vocab\.json is not JSON"),
        (lambda s: s.replace(MASK, "<musk>"), None, "lacks 1 tokens.*<mask>"),
        (lambda s: s.replace('"<unk>": 3', '"<unk>": 2'), None, f"ids are not 0 to {SIZE - 1}"),
        (None, lambda s: s + "a b c\n", r"merges\.txt: 'a b c'"),
        (None, lambda s: s + "a \N{SNOWMAN}\n", r"merges\.txt: 'a ☃'"),
        (None, lambda s: s + "zq zq\n", "lacks 1 tokens.*zqzq"),
        (None, lambda s: s + s.split("\n")[1] + "\n", "two merges make the same token"),
    ],
)
def test_a_damaged_folder_is_named(trained, tmp_path, vocab, merges, said):
    folder = broken(trained[2], tmp_path / "t", vocab, merges)
    with pytest.raises(UserError, match=said) as error:
        ByteLevelBPE.load(folder)
    assert str(folder) in str(error.value)


@settings(max_examples=40)
@given(TEXTS)
def test_sentences_have_the_ids_that_each_has_alone(trained, text):
    for pieces in (split_sentences(text), split_sentences(f"{text} A. {text}\n\nB! {text}。{text}")):
        found = trained[0].encode_sentences(pieces)
        assert [ids.tolist() for ids in found] == [trained[0].encode(piece).tolist() for piece in pieces]


def test_sentences_of_real_text_have_the_ids_that_each_has_alone(assets, roberta_tokenizer):
    texts = [text[start : start + 2_000] for text in texts_of(assets) for start in range(0, len(text), 2_000)]
    assert len(texts) > 1_000
    for text in texts[:: len(texts) // 200]:
        pieces = split_sentences(text)
        for ids, piece in zip(roberta_tokenizer.encode_sentences(pieces), pieces, strict=True):
            assert ids.tolist() == roberta_tokenizer.encode(piece).tolist(), piece


@pytest.mark.parametrize("left", [0, 10, 210])
def test_merges_that_were_cut_short_are_named(trained, tmp_path, left):
    folder = broken(trained[2], tmp_path / "t", merges=lambda s: "\n".join(s.split("\n")[: 1 + left]))
    unmade = SIZE - 261 - left
    if unmade > 20:
        with pytest.raises(UserError, match=rf"merges\.txt makes none of {unmade} tokens of vocab\.json, such as"):
            ByteLevelBPE.load(folder)
    else:  # as if some tokens had been added to the vocabulary
        assert len(ByteLevelBPE.load(folder)) == SIZE


@pytest.mark.parametrize("name, content, said", [
    ("vocab.json", b"null", r"vocab\.json is not JSON: it holds null, expected an object"),
    ("vocab.json", "{\"caf\xe9\": 1}".encode("latin-1"), r"vocab\.json is not JSON"),
    ("merges.txt", "#version: 0.2\ncaf \xe9\n".encode("latin-1"), r"merges\.txt cannot be read as UTF-8 text"),
])  # fmt: skip
def test_files_of_another_encoding_or_of_nothing_are_named(trained, tmp_path, name, content, said):
    folder = broken(trained[2], tmp_path / "t")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        ByteLevelBPE.load(folder)


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    with pytest.raises(UserError, match="at least 261 entries.* 260"):
        ByteLevelBPE.train(["text"], 260)
    assert len(BYTE_OF) + len(SPECIAL_TOKENS) == 261
