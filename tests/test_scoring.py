"""Scores are those of a plain loop over transformers' model, whatever the tokenizer adds, and however rows are batched."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import normalizers, pre_tokenizers, processors

from roberta_jax import bucketing, inference, scoring
from roberta_jax.errors import UserError
from roberta_jax.pairs.accuracy import measure
from roberta_jax.pairs.suites import Paradigm, Suite, read
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.pretrained import FastTokenizer, LosslessTokenizer, encode_whole
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

torch.set_num_threads(1)
SENTENCES = [
    "The unbelievably quiet librarians weren't lost, were they?",
    "David: Should you quit?\nSarah: No, I shouldn't.",
    "word",
    "Michael chose the good one some time ago .",
    "A naïve 東京 🤗!",
]
ALL_LENGTHS, FEW = scoring.LENGTHS, (32, 64)  # that rows are padded to; of the few, as each is compiled
PADDED = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
ADDS = {"<s> and </s>": "<s> $A </s>", "</s> alone": "$A </s>", "nothing": "$A", "<s> alone": "<s> $A"}


@pytest.fixture(autouse=True)
def few_lengths(monkeypatch):
    monkeypatch.setattr(scoring, "LENGTHS", FEW)


def save_model(folder: Path, vocab_size: int) -> None:
    config = transformers.RobertaConfig(
        vocab_size=vocab_size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.RobertaForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)


def template(ids: dict[str, int], single: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, special_tokens=[(name, ids[name]) for name in ("<s>", "</s>")])


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> LosslessTokenizer:
    return LosslessTokenizer(ByteLevelBPE.train([*SENTENCES * 5, "the those them weren't chosen librarian"], 330))


def of_ours(folder: Path, text: LosslessTokenizer, adds: str) -> None:
    """A byte-level tokenizer, whose tokenizer.json adds other special tokens than RoBERTa's does."""
    text.save(folder)
    fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    fast.post_processor = template(text.base.special, ADDS[adds])
    fast.save(str(folder / "tokenizer.json"))


def of_babyberta(folder: Path, adds: str) -> None:
    """As BabyBERTa's: other ids, lower-cased, a space before the first word, all of it in tokenizer.json."""
    fast = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = ["<mask>", "<pad>", "<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator(SENTENCES * 5, trainer)
    fast.post_processor = template({name: i for i, name in enumerate(special)}, ADDS[adds])
    fast.save(str(folder / "tokenizer.json"))
    # Without it transformers takes the flags of RobertaTokenizer, which puts no space there.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module", params=[(kind, adds) for kind in ("ours", "BabyBERTa's") for adds in ADDS], ids=" ".join)
def both(request, text, tmp_path_factory):
    """(our model, its folder, transformers' tokenizer), of a tokenizer that adds special tokens in some places."""
    (kind, adds), folder = request.param, tmp_path_factory.mktemp("model")
    of_ours(folder, text, adds) if kind == "ours" else of_babyberta(folder, adds)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **PADDED)
    save_model(folder, len(text) if kind == "ours" else len(fast))
    return inference.load(folder), folder, fast


def loop(folder: Path, tokenizer, texts: list[str], metric: str) -> list[float]:
    """One sentence after another, each of its rows written out, by the definitions of the papers."""
    model, found = transformers.RobertaForMaskedLM.from_pretrained(folder).eval(), []
    for sentence in texts:
        encoded = tokenizer(sentence, return_special_tokens_mask=True)
        ids, special, words = encoded["input_ids"], encoded["special_tokens_mask"], encoded.word_ids()
        if metric == "holistic":
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids])).logits[0]
            found.append(-torch.nn.functional.cross_entropy(logits, torch.tensor(ids)).item())
            continue
        rows, positions = [], [position for position in range(len(ids)) if not special[position]]
        for position in positions:
            row = list(ids)
            row[position] = tokenizer.mask_token_id
            if metric == "pll-word-l2r":
                for later in range(position + 1, len(ids)):
                    if words[later] is not None and words[later] == words[position]:
                        row[later] = tokenizer.mask_token_id
            rows.append(row)
        with torch.inference_mode():
            log_p = model(input_ids=torch.tensor(rows)).logits.log_softmax(-1)
        found.append(sum(log_p[i, position, ids[position]].item() for i, position in enumerate(positions)))
    return found


@pytest.mark.parametrize("metric", scoring.METRICS)
def test_scores_are_those_of_a_plain_loop_whatever_the_tokenizer_adds(both, metric):
    model, folder, tokenizer = both
    found = model.score([*SENTENCES, SENTENCES[0]], metric)
    np.testing.assert_allclose(found, loop(folder, tokenizer, [*SENTENCES, SENTENCES[0]], metric), rtol=1e-4)
    assert found[0] == found[-1] and found.dtype == np.float64
    others = [name for name in scoring.METRICS if name != metric]
    assert all(abs(found - model.score([*SENTENCES, SENTENCES[0]], name)).max() > 1e-3 for name in others)


@pytest.mark.parametrize("encoding", ["bytes", "wordpiece", "unigram", "bpe", "characters"])
def test_words_are_those_that_spaces_part(encoding):
    """Whether the library's own word_ids know them or, without a pre-tokenizer, take the text for one word."""
    sentence = "The librarians chose the good one some time ago"
    base = encodings.train([sentence, *SENTENCES] * 40, 330, encoding)
    tokenizer = LosslessTokenizer(base) if encoding == "bytes" else FastTokenizer(base)
    (found,) = encode_whole(tokenizer.fast(), [sentence])
    words = [number for number in dict.fromkeys(found.words.tolist()) if number >= 0]
    texts = [tokenizer.decode(found.ids[found.words == number]).strip() for number in words]
    assert [text.lower() for text in texts] == sentence.lower().split() and (found.words[found.special] == -1).all()


@pytest.fixture(scope="module")
def masked_lm(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    text.save(folder)
    save_model(folder, len(text))
    return folder, inference.load(folder)


@pytest.fixture(scope="module")
def pairs(minimal_pairs) -> list[tuple[str, str]]:
    """500 from all paradigms of the three suites."""
    suites = read([str(minimal_pairs / name) for name in ("blimp", "blimp-supplement", "zorro")], pairs=6)
    found = [pair for suite in suites for paradigm in suite.paradigms for pair in paradigm.pairs]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:500]]


@pytest.fixture(scope="module")
def model_of_pairs(pairs, tmp_path_factory):
    """Of a vocabulary in which the pairs have few tokens, for each of them is a row."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = LosslessTokenizer(ByteLevelBPE.train([sentence for pair in pairs for sentence in pair], 2_000))
    tokenizer.save(folder)
    save_model(folder, len(tokenizer))
    return folder, inference.load(folder)


@pytest.mark.parametrize("metric", scoring.METRICS)
def test_pairs_of_the_suites_are_ranked_as_by_a_plain_loop(model_of_pairs, pairs, metric):
    """PLL on 500 pairs, the others on 100: PLL masks the most; within 1e-4, and every pair the same way round."""
    folder, model = model_of_pairs
    chosen = [sentence for pair in (pairs if metric == "pll" else pairs[:100]) for sentence in pair]
    found = model.score(chosen, metric)
    expected = np.array(loop(folder, transformers.RobertaTokenizerFast.from_pretrained(folder), chosen, metric))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(np.sign(found[::2] - found[1::2]), np.sign(expected[::2] - expected[1::2]))


@pytest.mark.parametrize("metric", scoring.METRICS)
def test_batches_and_padding_change_no_score(masked_lm, metric, monkeypatch):
    folder, model = masked_lm
    texts = [*SENTENCES, " ".join(SENTENCES[:1] * 3)]
    expected = model.score(texts, metric)
    for batch_tokens, lengths in ((1, (64,)), (300, (8, 16, 40)), (100_000, ())):
        other = inference.load(folder, batch_tokens=batch_tokens)
        monkeypatch.setattr(scoring, "LENGTHS", lengths)
        np.testing.assert_allclose(other.score(texts[::-1], metric)[::-1], expected, rtol=1e-5)


def test_memory_does_not_grow_with_the_number_of_sentences(masked_lm):
    """Batches are made as they are computed: few are there at a time, none is larger than was asked for."""
    _, model = masked_lm
    sentences, made, done = inference.encode_whole(model.tokenizer.fast(), SENTENCES * 100), [], []

    def forward(batch):
        made.append(batch.ids.size)
        assert len(made) - len(done) <= scoring.IN_FLIGHT + 1
        return np.zeros(batch.positions.shape)

    progress = lambda rows: done.append(rows)  # noqa: E731
    found = scoring.score(forward, sentences, "pll", [128], 2_048, 64, 4, 1, progress)
    assert max(made) <= 2_048 and len(made) > 100 and sum(done) == scoring.rows_of(sentences, "pll")
    assert (found == 0).all() and len(found) == 500


def test_rows_are_padded_little_and_shapes_are_few(minimal_pairs, roberta_tokenizer):
    """On a sample of all suites: fewer than a tenth of the ids are padding, and each length has one shape."""
    suites = read([str(minimal_pairs / name) for name in ("blimp", "blimp-supplement", "zorro")], pairs=40)
    texts = [sentence for suite in suites for paradigm in suite.paradigms for pair in paradigm.pairs for sentence in pair]
    fast = LosslessTokenizer(roberta_tokenizer).fast()
    shapes, used, padded = set(), 0, 0

    def forward(batch):
        nonlocal used, padded
        shapes.add(batch.ids.shape)
        used, padded = used + batch.used.sum(), padded + batch.ids.size
        return np.zeros(batch.positions.shape)

    lengths = bucketing.buckets(512, ALL_LENGTHS)
    scoring.score(forward, inference.encode_whole(fast, texts), "pll", lengths, 1_024, 8_192, 4, 1)
    assert used > 0.9 * padded and len(shapes) == len({length for _, length in shapes}) <= 15


def test_a_constant_model_ranks_no_pair_and_says_so(masked_lm):
    """Holistic means are equal for all sentences, sums for those of as many tokens."""
    folder, _ = masked_lm
    model = inference.load(folder)
    model.params = inference.jax.tree.map(lambda x: x * 0, model.params)
    of_a_length = {}
    for sentence in [first + second for first in "abcdef" for second in "ghijk"] + SENTENCES:
        of_a_length.setdefault(len(model._fast.encode(sentence).ids), []).append(sentence)
    same = [pair for sentences in of_a_length.values() for pair in zip(sentences[::2], sentences[1::2])]
    mixed = [*same, *zip(SENTENCES, SENTENCES[1:])]
    for metric, of in (("pll", same), ("pll-word-l2r", same), ("holistic", mixed)):
        suite = Suite("mine", (Paradigm("all", "", tuple(of), len(of)),), False)
        (result,) = measure([suite], lambda texts: model.score(texts, metric))  # noqa: B023
        assert (result.overall.accuracy, result.overall.ties) == (0, len(of)) and len(of) >= 10


def test_a_model_of_random_weights_is_as_often_right_as_wrong_where_which_is_good_is_left_to_chance(masked_lm, pairs):
    """As they are, pairs are not fair to it: the shorter sentence has fewer tokens to guess, and is good more often."""
    turned = tuple(pair[::-1] if number % 2 else pair for number, pair in enumerate(pairs[:200]))
    (result,) = measure([Suite("mine", (Paradigm("all", "", turned, len(turned)),), False)], masked_lm[1].score)
    assert result.overall.low <= 0.5 <= result.overall.high and not result.overall.ties


def test_what_cannot_be_scored_is_a_sentence(masked_lm, make_head):
    _, model = masked_lm
    with pytest.raises(UserError, match=r"a text of \d\d\d tokens is longer than the model's 128, and .* 'word word"):
        model.score(["short", "word " * 250])
    with pytest.raises(UserError, match="metric is 'mlm'; it can be 'pll' or 'pll-word-l2r' or 'holistic'"):
        model.score(["a"], "mlm")
    with pytest.raises(UserError, match=r"'a <mask>' has <mask> in it"):
        model.score(["a <mask>"])
    with pytest.raises(UserError, match="a list of texts"):
        model.score("one text")
    with pytest.raises(UserError, match="cannot score: its head is 'classification', that needs 'lm_head'"):
        make_head.score(["a"])
    assert model.score([]).shape == (0,)
    for metric in ("pll", "pll-word-l2r"):
        assert np.isnan(model.score(["", "a"], metric)).tolist() == [True, False]


@pytest.fixture(scope="module")
def make_head(masked_lm, tmp_path_factory):
    """A model with another head."""
    folder = tmp_path_factory.mktemp("classifier")
    fields = json.loads((masked_lm[0] / "config.json").read_text())
    config = transformers.RobertaConfig(**{name: value for name, value in fields.items() if name != "architectures"})
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    masked_lm[1].tokenizer.save(folder)
    return inference.load(folder)
