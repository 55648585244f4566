"""Each encoding against another library's, and whole: what comes back, what is lost, files, corpora, a run, its export."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import TEXTS
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from roberta_jax import prepare as prepare_command
from roberta_jax.config import typed
from roberta_jax.data.corpus import Corpus, bytes_per_token
from roberta_jax.data.masking import Masking
from roberta_jax.data.pipeline import train_batches, vocabulary_of
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.preparation import plan, prepare, shards
from roberta_jax.preparation.config import CorpusConfig, cache_key_fields
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.pretraining.job import pretrain
from roberta_jax.tasks.definitions import Example
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.encodings import FILES, LOSSLESS
from roberta_jax.tokenization.pretrained import FastTokenizer, load_tokenizer
from roberta_jax.tokenization.tokenizer import MASK, SPECIAL_TOKENS
from roberta_jax.training.workdir import read_metrics

SIZE = 500
OTHERS = [encoding for encoding in FILES if encoding != "bytes"]
KEEPING = [encoding for encoding in OTHERS if encoding in LOSSLESS]
MIXED = ["中文句子。 हिन्दी भाषा 'll don't 123 456\n\n\n    return x\tпривет мир naïve\n"] * 20


def paragraphs(assets, language: str) -> list[str]:
    articles = json.loads((assets / f"squad/xquad.{language}.json").read_text("utf-8"))["data"]
    return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]


@pytest.fixture(scope="module")
def texts(documents, assets) -> list[str]:
    return [*documents[:100], *paragraphs(assets, "en")[:40], *MIXED]


@pytest.fixture(scope="module")
def trained(texts):
    """encoding → a vocabulary trained here"""
    return {encoding: encodings.train(texts, SIZE, encoding) for encoding in FILES}


def pieces(tokenizer, text: str) -> list[bytes]:
    return [tokenizer.token_bytes[i] for i in tokenizer.encode(text)]


# Ids


@pytest.mark.parametrize("encoding", FILES)
def test_special_tokens_have_their_ids_and_the_size_is_the_one_asked_for(trained, encoding):
    tokenizer, last = trained[encoding], len(trained[encoding]) - 1
    assert len(tokenizer) == SIZE or encoding == "characters" and 80 < len(tokenizer) < 200
    assert [tokenizer.special[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3, last]
    assert tokenizer.text_ids.tolist() == list(range(4, last)) and tokenizer.text_ids.dtype == np.int32
    assert [tokenizer.token_bytes[i] for i in (0, 1, 2, last)] == [b""] * 4
    ids = tokenizer.encode("<s> a <pad></s> <unk> <mask>")
    assert ids.dtype == np.int32 and not {0, 1, 2, last} & {*ids.tolist()}
    assert tokenizer.decode([0, *tokenizer.encode("boat"), last]).replace(" ", "") == "<s>boat<mask>"


@pytest.mark.parametrize("encoding", KEEPING)
def test_any_text_and_any_bytes_survive(trained, encoding):
    tokenizer = trained[encoding]

    @settings(max_examples=300)
    @given(st.one_of(TEXTS, st.text(st.sampled_from("▁▅ \0\t\n\ud800a<0x41>"))), st.binary(max_size=8))
    def survives(text, raw):
        whole = text.encode("utf-8", "surrogatepass")
        ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(ids) == whole and tokenizer.unk not in ids and tokenizer.bytes_lost(text) == 0
        assert tokenizer.decode_bytes(tokenizer.encode(whole + raw)) == whole + raw

    survives()


@pytest.mark.parametrize("encoding", KEEPING)
def test_ids_equal_those_of_the_tokenizers_library(trained, encoding, assets):
    """It finds the best pieces, or merges them, with code of its own."""
    tokenizer, peer = trained[encoding], trained[encoding].fast()
    for text in [text for language in ("en", "zh", "hi") for text in paragraphs(assets, language)[::12]]:
        assert tokenizer.encode(text).tolist() == peer.encode(text).ids

    @settings(max_examples=300)
    @given(TEXTS.filter(lambda text: not {*"<▁"} & {*text}))
    def equal(text):
        assert tokenizer.encode(text).tolist() == peer.encode(text).ids

    equal()


def test_characters_are_the_most_frequent_ones_and_a_run_of_others_is_unknown(assets):
    texts = paragraphs(assets, "zh")[:40]
    tokenizer, counts = encodings.train(texts, 300, "characters"), Counter("".join(texts))
    characters = [piece.decode() for piece in tokenizer.token_bytes[4:-1]]
    assert len(tokenizer) == 300 and {*" \n\t"} <= {*characters}
    rarest = min(counts[character] for character in characters if character not in " \n\t")
    assert rarest >= max(counts[character] for character in counts.keys() - {*characters}) > 0
    ids, peer = {character: 4 + i for i, character in enumerate(characters)}, tokenizer.fast()

    def expected(text: str) -> list[int]:
        runs = itertools.groupby(text, lambda character: character in ids)
        return [i for known, run in runs for i in ([ids[character] for character in run] if known else [3])]

    @settings(max_examples=200)
    @given(st.one_of(TEXTS, st.text(st.sampled_from([*counts]))).filter(lambda text: not {*"<▁"} & {*text}))
    def equal(text):
        assert tokenizer.encode(text).tolist() == expected(text) == peer.encode(text).ids
        assert tokenizer.bytes_lost(text) == len("".join(c for c in text if c not in ids).encode())

    equal()
    assert tokenizer.encode("的▁ 的").tolist() == [ids["的"], 3, ids[" "], ids["的"]]


def test_wordpiece_cuts_as_berts_own_code_does(trained, tmp_path, assets):
    tokenizer = trained["wordpiece"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokenizer.tokens))
    peer = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), unk_token="<unk>", mask_token="<mask>", pad_token="<pad>")
    texts = [MIXED[0], "Naïve CAFÉ, isn't it? 中文 Ёж\0\u200b", "sailor's ", "harbour" * 20, "\ufffd a\x07b"]
    for text in [*texts, *(text for language in ("en", "zh", "hi") for text in paragraphs(assets, language)[::12])]:
        assert tokenizer.encode(text).tolist() == peer.convert_tokens_to_ids(peer.tokenize(text))
    assert tokenizer.encode("a\ud800b").tolist() == tokenizer.encode("ab").tolist() == tokenizer.encode(b"a\xffb").tolist()


def test_what_a_piece_stands_for(trained):
    for encoding in KEEPING:
        assert pieces(trained[encoding], "in the\n the") == [b"in", b" the", b"\n", b" the"]
    assert pieces(trained["characters"], "a \n\t☃☃b") == [b"a", b" ", b"\n", b"\t", "\ufffd".encode(), b"b"]
    wordpiece = trained["wordpiece"]
    assert pieces(wordpiece, "The  ☃☃,\nof") == [b" the", " \ufffd".encode(), b" ,", b" of"]
    first, *rest = pieces(wordpiece, "OFTHEOF")
    assert first + b"".join(rest) == b" oftheof" and rest and not any(piece.startswith(b" ") for piece in rest)
    assert wordpiece.bytes_lost("a ☃☃ b") == 6 and wordpiece.bytes_lost("A  b\n") == 0


@pytest.mark.parametrize("encoding", OTHERS)
def test_words_begin_where_whole_word_masking_looks(trained, encoding):
    tokenizer = trained[encoding]
    vocabulary, ids = vocabulary_of(tokenizer), tokenizer.encode("The wooden boat\nharbour ☃ wooden")
    starts = vocabulary.starts_word[ids] | [True, *vocabulary.ends_word[ids[:-1]]]
    words = [tokenizer.decode(word).strip().lower() for word in np.split(ids, np.flatnonzero(starts)[1:])]
    unknown = "☃" if encoding in LOSSLESS else "<unk>"
    assert [word for word in words if word] == ["the", "wooden", "boat", "harbour", unknown, "wooden"]


# Learning


def test_nothing_is_passed_over(documents):
    """The trainer leaves out lines that are long, or hold a tab, a NUL or ▅, and cannot place words of 65,536 characters."""
    line = "zebra quagga " * 500
    for encoding, text in itertools.product(KEEPING, (line, line.replace(" ", "\t"), f"\0▅▁{line}")):
        assert len(encodings.train([text, *documents[:9]], 400, encoding).encode(text)) < 0.6 * len(text), encoding
    assert len(encodings.train([line.replace(" ", "") * 12], 300, "bpe").encode("zebraquagga")) < 6
    for encoding in KEEPING:
        assert pieces(encodings.train(["中文", "句子"], 280, encoding), " z")[0] == b" "
    found = encodings.train(["a\tb\n" * 50], 20, "characters")
    assert len(found) == 10 and found.decode(found.encode("b a\t\n")) == "b a\t\n"


def test_the_same_text_gives_the_same_vocabulary_in_any_process(trained, texts):
    code = (
        "import json, sys; from roberta_jax.tokenization import encodings; texts = json.load(sys.stdin)\n"
        f"for encoding in encodings.FILES: print(encodings.train(texts, {SIZE}, encoding).hash)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, input=json.dumps(texts).encode(), capture_output=True)
    assert done.stdout.decode().split() == [tokenizer.hash for tokenizer in trained.values()], done.stderr


@pytest.mark.parametrize(
    ("encoding", "size", "said"),
    [
        ("unigram", 270, r"data\.tokenizer 270: no 'unigram' vocabulary of that size .*: this text needs at least 3\d\d\."),
        ("bpe", 270, r"data\.tokenizer 270: no 'bpe' vocabulary of that size .*: this text needs at least 3\d\d\."),
        ("characters", 5, r"data\.tokenizer 5: no 'characters' vocabulary of that size"),
        ("wordpiece", 9, r"data\.tokenizer 9: a 'wordpiece' vocabulary has at least 10"),
    ],
)
def test_a_size_that_is_too_small_is_refused(documents, encoding, size, said):
    with pytest.raises(UserError, match=said) as error:
        encodings.train([*documents[:50], *MIXED], size, encoding)
    if least := encoding in KEEPING and int(str(error.value).split()[-1].rstrip(".")):
        assert len(encodings.train([*documents[:50], *MIXED], least, encoding)) == least


def test_a_wordpiece_vocabulary_keeps_its_size_whatever_the_alphabet(assets):
    tokenizer = encodings.train([*paragraphs(assets, "zh")[:40], *paragraphs(assets, "en")[:9]], 200, "wordpiece")
    assert len(tokenizer) == 200 and (tokenizer.encode("的在是") != tokenizer.unk).all()


# Files


@pytest.mark.parametrize("encoding", FILES)
def test_saved_and_loaded_it_is_the_same(trained, encoding, tmp_path):
    tokenizer = trained[encoding]
    tokenizer.save(tmp_path)
    loaded = encodings.load(tmp_path)
    assert FILES[encoding] in {path.name for path in tmp_path.iterdir()} and encodings.encoding_in(tmp_path) == encoding
    assert (type(loaded), loaded.encoding, loaded.hash) == (type(tokenizer), encoding, tokenizer.hash)
    assert loaded.token_bytes == tokenizer.token_bytes
    assert loaded.encode(MIXED[0]).tolist() == tokenizer.encode(MIXED[0]).tolist()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("unigram.model", lambda whole: b"no model at all", r"unigram\.model is no whole SentencePiece model"),
        ("bpe.model", lambda whole: b"", r"bpe\.model is no whole SentencePiece model"),
        ("bpe.model", lambda whole: whole[: len(whole) // 2], r"bpe\.model is no whole SentencePiece model"),
        ("wordpiece.txt", lambda whole: b"[PAD]\n[UNK]\n", r"wordpiece\.txt: expected a token a line, the first <s> <pad>"),
        ("wordpiece.txt", lambda whole: whole.replace(b"##e\n", b"##o\n"), r"wordpiece\.txt: '##o' is there twice"),
        ("other.txt", lambda whole: b"", r"no vocab\.json there"),
    ],
)
def test_a_damaged_folder_is_named(trained, tmp_path, name, content, said):
    trained.get(Path(name).stem, trained["wordpiece"]).save(tmp_path)
    path = next(tmp_path.iterdir()).rename(tmp_path / name)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(UserError, match=said) as error:
        encodings.load(tmp_path)
    assert str(tmp_path) in str(error.value)


# Figures


def test_statistics_count_what_can_be_counted_by_hand(trained):
    tokenizer = trained["characters"]
    text = "The boat. привет ☃☃ Ёж ελ العربية हिन्दी 中文字 한국어 ひらカナ ქართ e\u0301té x1y2"
    found = encodings.statistics(tokenizer, [text])
    assert json.loads(json.dumps(found)) == found
    assert {script: values["words"] for script, values in found["scripts"].items()} == {
        "Latin": 5, "kana": 4, "Han": 3, "Cyrillic": 2, "Arabic": 1, "Devanagari": 1, "Greek": 1,
        "Hangul": 1, "Georgian": 1,
    }  # fmt: skip
    assert [*found["scripts"]][:4] == ["Latin", "kana", "Han", "Cyrillic"]
    ids = tokenizer.encode(text)
    assert (found["texts"], found["bytes"], found["tokens"]) == (1, len(text.encode()), len(ids))
    assert found["unknown_rate"] == (ids == 3).sum() / len(ids) > 0
    known = "".join(character for character in text if character.encode() in tokenizer.token_bytes)
    assert found["bytes_lost"] == pytest.approx(1 - len(known.encode()) / len(text.encode())) and 0 < found["bytes_lost"]
    # The space before a word is one of its characters; ж and Ё are not known, which makes one <unk> of the two.
    assert found["scripts"]["Cyrillic"] == {"words": 2, "tokens_per_word": (7 + 2) / 2, "unknown_rate": 1 / 9}
    assert encodings.statistics(tokenizer, [])["scripts"] == {}


def test_statistics_tell_the_encodings_apart(trained, assets):
    texts = [text for language in ("en", "zh", "hi") for text in paragraphs(assets, language)[:12]]
    found = {encoding: encodings.statistics(tokenizer, texts) for encoding, tokenizer in trained.items()}
    for encoding, of in found.items():
        assert (of["bytes_lost"] == of["unknown_rate"] == 0) == (encoding in LOSSLESS) and of["bytes_lost"] < 0.9
        assert {*of["scripts"]} >= {"Latin", "Han", "Devanagari"}
    english = {encoding: of["scripts"]["Latin"]["tokens_per_word"] for encoding, of in found.items()}
    assert max(english, key=english.get) == "characters" and found["bytes"]["scripts"]["Han"]["tokens_per_word"] > 2


# Corpora


def in_this_process(work, spills, processes) -> None:
    for shard in shards.unwritten(work):
        shards.write_shard(work, shard)


@pytest.fixture(scope="module")
def source(texts, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("source") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text}\n  The  end, {i}."}) + "\n" for i, text in enumerate(texts[:140])))
    return str(path)


@pytest.fixture(scope="module")
def corpora(source, tmp_path_factory) -> dict[str, Corpus]:
    folder, made = tmp_path_factory.mktemp("corpora"), {}
    for encoding in FILES:
        flags = ["--source", source, "--tokenizer=400", "--length=64", "--valid_fraction=0.1", f"--encoding={encoding}"]
        out = str(folder / encoding)
        prepare_command.run_command(prepare_command.parser().parse_args([*flags, "--out", out]), run=in_this_process)
        made[encoding] = Corpus(out)
    return made


@pytest.mark.parametrize("encoding", FILES)
def test_a_corpus_holds_the_text_and_says_how_it_was_cut(corpora, encoding, source):
    corpus = corpora[encoding]
    tokenizer, manifest = corpus.tokenizer, corpus.manifest
    assert (tokenizer.encoding, manifest["encoding"], manifest["recipe"]["encoding"]) == (encoding,) * 3
    rows = np.concatenate([of_split.gather(np.arange(len(of_split))) for of_split in (corpus.train, corpus.valid)])
    tokens = int((~np.isin(rows, [tokenizer.bos, tokenizer.pad, tokenizer.eos])).sum())
    assert manifest["text_tokens"] == tokens and bytes_per_token(manifest) == manifest["bytes"] / tokens
    texts = [json.loads(line)["text"] for line in Path(source).read_text().splitlines()]
    found = encodings.statistics(tokenizer, texts)
    assert (found["bytes"], found["tokens"]) == (manifest["bytes"], tokens)
    written = tokenizer.decode_bytes(rows.ravel())
    assert all(text.encode() in written for text in texts) == (encoding in LOSSLESS) and found["bytes_lost"] < 0.01
    batch = next(train_batches(corpus, Masking("whole_word"), 64, 0))
    predicted = batch["weights"].sum()
    assert 0.1 < predicted / (batch["input_ids"] > 2).sum() < 0.2
    assert 0.7 < (batch["input_ids"] == tokenizer.mask).sum() / predicted < 0.9


def test_corpora_made_before_there_were_encodings_are_still_found(source, monkeypatch, tmp_path):
    fields = cache_key_fields(CorpusConfig(("text.txt",), 400, length=64))
    made_of = [fields | {"source": None, "tokenizer": "hash"}]
    assert plan.key(1, made_of) == "8ee034d531823ddd"
    asked = []
    monkeypatch.setattr(prepare, "key", lambda *parts: asked.append(parts) or plan.key(*parts))
    for encoding in ("bytes", "characters"):
        recipe = CorpusConfig((source,), 400, length=64, valid_fraction=0.1, encoding=encoding)
        prepare.make(recipe, None, tmp_path, 1, in_this_process)
    assert [len(parts) for parts in asked] == [5, 2, 6, 2] and asked[2][-1] == "characters"


def test_what_disagrees_is_refused(corpora, source, tmp_path):
    made = str(corpora["unigram"].folder)
    with pytest.raises(UserError, match=r"data\.encoding is 'bpe'; .*tokenizer holds 'unigram'"):
        prepare.prepare(CorpusConfig((source,), f"{made}/tokenizer", encoding="bpe"), tmp_path / "out", tmp_path)
    with pytest.raises(UserError, match="data.encoding is 'letters'; it can be 'bytes' or 'wordpiece' or"):
        CorpusConfig((source,), 400, encoding="letters")
    with pytest.raises(UserError, match="prepared with encoding unigram, the config asks for bpe"):
        prepare.prepare(CorpusConfig((made,), 400, length=64, encoding="bpe"), cache=tmp_path)
    for fields in ({"tokenizer": f"{made}/tokenizer"}, {"tokenizer": 400, "encoding": "unigram"}):
        assert prepare.prepare(CorpusConfig((made,), length=64, **fields), cache=tmp_path).manifest["encoding"] == "unigram"
    fsspec.filesystem("memory").put(made, "/unigram", recursive=True)
    copied = prepare.prepare(CorpusConfig(("memory://unigram",), 400, length=64, encoding="unigram"), cache=tmp_path)
    assert copied.folder.parent == tmp_path and copied.tokenizer.hash == corpora["unigram"].tokenizer.hash
    characters = CorpusConfig(
        (str(corpora["characters"].folder),), 400, length=64
    )  # that many were asked for, and are not there
    assert prepare.prepare(characters, cache=tmp_path).manifest["vocabulary"] < 200
    with pytest.raises(UserError, match="before its manifest counted text_tokens"):
        bytes_per_token({"bytes": 9})


# A run, and what reads it


@pytest.mark.parametrize("encoding", OTHERS)
def test_texts_with_special_tokens_and_spans(trained, encoding, tmp_path):
    tokenizer = trained[encoding]
    tokenizer.save(tmp_path)
    text = load_tokenizer(tmp_path)
    assert isinstance(text, FastTokenizer) == (encoding not in LOSSLESS) and len(text) == len(tokenizer)
    line = "The boat,  found  <mask> by 中文 ☃."
    before, after = (tokenizer.encode(part).tolist() for part in ("The boat,  found", " by 中文 ☃."))
    assert text.encode([line])[0].tolist() == [*before, text.mask, *after]
    plain = line.replace(f"  {MASK}", "")
    ids, spans = text.encode_with_spans(plain)
    assert ids.tolist() == tokenizer.encode(plain).tolist()
    assert {i for span in spans for i in range(*span)} >= {i for i, character in enumerate(plain) if character.strip()}
    if encoding == "wordpiece":
        cut = [plain[start:end].lower() for start, end in spans]
        assert cut == ["☃" if i == 3 else tokenizer.tokens[i].removeprefix("##") for i in ids]
    fast = tokenizers.Tokenizer.from_str(text.to_json())
    assert fast.encode("a<mask>b").ids == [0, *tokenizer.encode("a"), text.mask, *tokenizer.encode("b"), 2]
    (again := tmp_path / "again").mkdir()
    text.save(again)
    assert load_tokenizer(again).base.hash == tokenizer.hash
    auto = transformers.PreTrainedTokenizerFast.from_pretrained(again, clean_up_tokenization_spaces=False)
    (ids,) = text.encode([line])
    assert auto(line)["input_ids"] == [0, *ids, 2] and auto.decode(ids) == text.decode(ids)


def test_a_run_learns_and_what_it_leaves_is_read_and_exported(corpora, tmp_path):
    corpus, folder = corpora["wordpiece"], tmp_path / "run"
    config = importlib.import_module("configs.tiny").get_config()
    config.update(steps=4, batch_size=8, log_every=1, eval_every=4, checkpoint_every=4)
    config.model.update(vocab_size=400, max_length=64, num_layers=1, hidden_size=32, intermediate_size=32)
    config.optimizer.update(name="adamw", warmup_steps=1)
    config.data.update(source=str(corpus.folder), tokenizer="400", encoding="wordpiece", masking="whole_word")
    pretrain(typed(PretrainConfig, config.to_dict()), folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    losses = [line["train/loss"] for line in read_metrics(folder) if "train/loss" in line]
    assert losses[-1] < losses[0] and encodings.load(folder / "tokenizer").hash == corpus.tokenizer.hash
    exported = hub.export(folder, tmp_path / "export")
    assert exported.tokenizer.base.hash == hub.load(tmp_path / "export").tokenizer.base.hash == corpus.tokenizer.hash
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    text = "The old sailor's boat ☃ <mask>."
    (ids,) = exported.tokenizer.encode([text])
    assert auto(text)["input_ids"] == [0, *ids.tolist(), 2] and (auto.mask_token_id, len(auto)) == (399, 400)
    features = KINDS["classification"].encode([Example("", "x", (text,))], exported.tokenizer, ("x",), 64)
    assert features.rows[0][0].tolist() == [0, *ids.tolist(), 2]
