"""A loaded model answers as transformers does, and the same whatever the padding, the batch and the bucket."""

import dataclasses
import io
import itertools
import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from roberta_jax import embed, export, fill_mask, inference, serving
from roberta_jax.bucketing import batches, buckets
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

SENTENCES = [
    "The tower is <mask> metres tall.",
    "Paris is the <mask> of <mask>.",
    "<mask>",
    "It was the best of times, it was the worst of times, it was the age of <mask>, it was the age of foolishness.",
    " ".join(["a long text that fills another bucket"] * 4) + " <mask>",
]
PLAIN = [sentence.replace("<mask>", "word") for sentence in SENTENCES] + ["", "東京 🤗"]
FIELDS = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, type_vocab_size=1)


@pytest.fixture(scope="module")
def text():
    return LosslessTokenizer(ByteLevelBPE.train(SENTENCES * 5, 320))


@pytest.fixture(scope="module")
def make(text, tmp_path_factory):
    """(suffix of a class, fields) → (folder, the model in PyTorch, its tokenizer)"""

    def make(kind: str, **fields):
        folder = tmp_path_factory.mktemp(kind)
        config = transformers.RobertaConfig(
            vocab_size=len(text), max_position_embeddings=130, layer_norm_eps=1e-5, **FIELDS, **fields
        )
        torch.manual_seed(0)
        model = getattr(transformers, f"RobertaFor{kind}")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(folder)
        text.save(folder)
        return folder, model, transformers.RobertaTokenizer.from_pretrained(folder)

    return make


@pytest.fixture(scope="module")
def masked_lm(make):
    return make("MaskedLM")


@pytest.fixture(scope="module")
def model(masked_lm):
    return inference.load(masked_lm[0])


def encoded(text, sentence):
    ids = torch.tensor([[0, *text.encode([sentence])[0].tolist(), 2]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_fill_mask_is_that_of_transformers(model, masked_lm, text):
    found = model.fill_mask(SENTENCES, top_k=3)
    assert [len(masks) for masks in found] == [1, 2, 1, 1, 1]
    for sentence, masks in zip(SENTENCES, found):
        inputs = encoded(text, sentence)
        with torch.inference_mode():
            logits = masked_lm[1](**inputs).logits[inputs["input_ids"] == text.mask]
        probabilities, ids = logits.softmax(-1).topk(3)
        for guesses, p, i in zip(masks, probabilities, ids, strict=True):
            assert [guess.id for guess in guesses] == i.tolist()
            np.testing.assert_allclose([guess.probability for guess in guesses], p, atol=1e-5)
    assert found[2][0][0].text == found[2][0][0].token == text.decode([found[2][0][0].id])
    assert found[1][0][0].text.count("<mask>") == 1


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_the_pooled_states_of_transformers(model, masked_lm, text, pooling):
    vectors = model.embed(PLAIN, pooling)
    assert vectors.shape == (len(PLAIN), 64) and vectors.dtype == np.float32
    for sentence, vector in zip(PLAIN, vectors):
        with torch.inference_mode():
            states = masked_lm[1].roberta(**encoded(text, sentence)).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.mean(0) if pooling == "mean" else states[0], atol=1e-4)
    normalized = model.embed(PLAIN, pooling, normalize=True)
    np.testing.assert_allclose(normalized, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("batch_tokens", "lengths"), [(1, None), (10_000, [128]), (64, range(3, 129))])
def test_padding_batch_size_and_bucket_change_no_answer(masked_lm, model, batch_tokens, lengths):
    other = inference.load(masked_lm[0], batch_tokens=batch_tokens)
    texts = PLAIN[::-1][:3]
    if lengths is not None:
        other.lengths = list(lengths)
    np.testing.assert_allclose(other.embed(texts), model.embed(PLAIN)[::-1][:3], atol=1e-5)
    for one, two in zip(other.fill_mask(SENTENCES[:3]), model.fill_mask(SENTENCES[:3])):
        for first, second in zip(one, two, strict=True):
            assert [guess.id for guess in first] == [guess.id for guess in second]
            np.testing.assert_allclose(
                [guess.probability for guess in first], [guess.probability for guess in second], atol=1e-5
            )


def test_empty_lists_have_empty_answers(model):
    assert model.fill_mask([]) == [] and model.embed([]).shape == (0, 64) and model.pseudo_perplexity([]).shape == (0,)


def test_rows_of_any_length_are_padded_little():
    """Those of models with more than 512 positions too."""
    lengths = np.array(buckets(4096))
    for length in range(9, 4097):
        assert lengths[np.searchsorted(lengths, length)] <= max(length + 7, 1.25 * length)


def test_few_shapes_are_compiled(model):
    model.embed(PLAIN)
    before = inference._embed._cache_size()
    model.embed(PLAIN[::-1])
    model.embed([sentence + "." for sentence in PLAIN])
    assert inference._embed._cache_size() == before
    random = np.random.default_rng(0)
    rows = [np.zeros(n, np.int32) for n in random.integers(2, 513, 5_000)]
    shapes = {ids.shape for _, ids, _ in batches(rows, buckets(512), 4_096, 1)}
    assert len(shapes) <= len(buckets(512)) + 1
    padded = sum(ids.size for _, ids, _ in batches(rows, buckets(512), 4_096, 1))
    assert padded < 1.25 * sum(map(len, rows))
    order = [i for indices, _, _ in batches(rows, buckets(512), 4_096, 1) for i in indices]
    assert sorted(order) == list(range(5_000))


def test_pseudo_perplexity_masks_each_token_in_its_turn(model, masked_lm, text):
    found = model.pseudo_perplexity(["The best of times.", "", "word"])
    inputs = encoded(text, "The best of times.")
    losses = []
    for position in range(1, inputs["input_ids"].shape[1] - 1):
        masked = inputs["input_ids"].clone()
        masked[0, position] = text.mask
        with torch.inference_mode():
            logits = masked_lm[1](input_ids=masked).logits[0, position]
        losses.append(-logits.log_softmax(-1)[inputs["input_ids"][0, position]].item())
    np.testing.assert_allclose(found[0], np.exp(np.mean(losses)), rtol=1e-4)
    assert np.isnan(found[1]) and found[2] > 1


def test_truncation_is_said_aloud_with_the_number_of_texts(model):
    long = "word " * 200
    with pytest.warns(UserWarning, match="2 of 3 texts are too long for the model's 128 tokens and were cut"):
        model.embed([long, "short", long])
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        assert model.fill_mask(["<mask> " + long + "<mask>"])[0][1] == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.embed(["word " * 20])


def test_pairs_are_parted_and_cut_as_transformers_does(make, text):
    folder, torch_model, tokenizer = make("SequenceClassification", id2label={0: "no", 1: "maybe", 2: "yes"})
    model = inference.load(folder)
    long = " ".join(map(str, range(200)))
    pairs = [("a", "b c"), ("short", long), (long, "short"), (long, long + "!")]
    with pytest.warns(UserWarning, match="3 of 4"):
        rows = model._rows(pairs)
    for pair, row in zip(pairs, rows):
        assert row.tolist() == tokenizer(*pair, truncation="longest_first", max_length=128)["input_ids"]
    found = model.classify(["one text", pairs[0]])
    assert list(found[0]) == ["no", "maybe", "yes"]
    with torch.inference_mode():
        inputs = tokenizer(*pairs[0], return_tensors="pt")
        probabilities = torch_model(**inputs).logits.softmax(-1)[0]
    np.testing.assert_allclose(list(found[1].values()), probabilities, atol=1e-5)


def test_a_regression_gives_its_value(make, text):
    folder, torch_model, tokenizer = make("SequenceClassification", num_labels=1)
    model = inference.load(folder)
    (found,) = model.classify([("a", "b")])
    assert model.problem == "regression"  # which config.json does not say of one output
    with torch.inference_mode():
        expected = torch_model(**tokenizer("a", "b", return_tensors="pt")).logits.item()
    assert found == {"LABEL_0": pytest.approx(expected, abs=1e-4)}


def test_several_labels_have_a_probability_each(make):
    fields = dict(id2label={0: "old", 1: "new"}, problem_type="multi_label_classification")
    folder, torch_model, tokenizer = make("SequenceClassification", **fields)
    (found,) = inference.load(folder).classify([("a", "b")])
    with torch.inference_mode():
        expected = torch_model(**tokenizer("a", "b", return_tensors="pt")).logits.sigmoid()[0]
    assert list(found) == ["old", "new"]
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-5)


def test_a_word_has_the_tag_of_its_first_token(make, text):
    folder, torch_model, _ = make("TokenClassification", id2label={0: "O", 1: "B-A", 2: "I-A"})
    model, words, long = inference.load(folder), ["It", "was", "naïve", "東京"], ["word"] * 100
    found = model.tag([words, " ".join(words), [], long])
    assert found[0] == found[1] and found[2] == [] and len(found[3]) == 100 and model.tag([]) == []
    for of_text, tags in ((words, found[0]), (long, found[3])):
        pieces = text.encode([" " * (i > 0) + word for i, word in enumerate(of_text)])
        ends = np.cumsum([len(of_word) for of_word in pieces])
        firsts, fit = np.append(0, ends[:-1]) + 1, ends <= 126
        firsts += [of_word[0] == text.encode([" "])[0][0] for of_word in pieces]  # a space alone is none of the word's
        ids = [0, *itertools.chain.from_iterable(pieces[: fit.sum()]), 2]
        with torch.inference_mode():
            best = torch_model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        assert tags[: fit.sum()] == [["O", "B-A", "I-A"][best[first]] for first in firsts[fit]]
        assert fit.all() or (0 < fit.sum() < 100 and set(tags) <= {"O", "B-A", "I-A"})  # the rest is another row
    for ask in (model.tag, model.embed):
        with pytest.raises(UserError, match="a list of texts"):
            ask("one text")


def test_candidates_share_the_probability(make):
    folder, torch_model, tokenizer = make("MultipleChoice")
    model, passage, candidates = inference.load(folder), "It was the age", ["of wisdom", "of foolishness, it was", "of"]
    with torch.inference_mode():
        inputs = tokenizer([passage] * 3, candidates, padding=True, return_tensors="pt")
        expected = torch_model(**{name: rows[None] for name, rows in inputs.items()}).logits.softmax(-1)[0]
    np.testing.assert_allclose(model.choose(passage, candidates), expected, atol=1e-5)
    assert model.choose(passage, []) == []
    with pytest.warns(UserWarning, match="1 of 1 passages are too long for the model's 128 tokens"):
        assert sum(model.choose(passage * 30, candidates)) == pytest.approx(1)


def test_a_third_output_says_whether_there_is_an_answer(make):
    folder, _, _ = make("QuestionAnswering")
    pretrained, (question, context) = hub.load(folder), ("Which times?", "It was the best of times.")
    (two,) = inference.Model(pretrained).answer([(question, context)])
    out = pretrained.params["span"]["out"]
    for bias in (-9.0, 9.0):
        kernel = np.pad(out["kernel"], ((0, 0), (0, 1)))
        head = {"out": {"kernel": kernel, "bias": np.append(out["bias"], np.float32(bias))}}
        model = inference.Model(dataclasses.replace(pretrained, params=pretrained.params | {"span": head}))
        (answer,) = model.answer([(question, context)], may_be_empty=True)
        assert (answer.text, answer.score) == (two.text if bias > 0 else "", pytest.approx(two.score if bias > 0 else 9.0))
        assert model.answer([(question, context)])[0].text == two.text


def test_answers_are_the_best_spans(make, text):
    folder, torch_model, tokenizer = make("QuestionAnswering")
    model = inference.load(folder)
    question, context = "Which times?", "It was the best of times, it was the worst of naïve times — 東京."
    short, long = model.answer([(question, context), (question, context * 12)])
    inputs = tokenizer(question, context, return_tensors="pt")
    with torch.inference_mode():
        out = torch_model(**inputs)
    sequence = np.array([-1 if i is None else i for i in inputs.sequence_ids()])
    tokens = np.flatnonzero(sequence == 1)
    best = max((out.start_logits[0, a] + out.end_logits[0, b], a, b) for a in tokens for b in tokens if a <= b < a + 30)
    assert short.score == pytest.approx(float(best[0]), abs=1e-4)
    assert short.text == context[short.start : short.end]
    theirs = tokenizer(question, context, return_offsets_mapping=True)["offset_mapping"]
    assert (short.start, short.end) == (theirs[best[1]][0], theirs[best[2]][1])
    assert long.text == (context * 12)[long.start : long.end] and np.isfinite(long.score)
    empty = model.answer([(question, "")], may_be_empty=True)[0]
    assert (empty.text, empty.start, empty.end) == ("", 0, 0)
    assert model.answer([]) == []
    with pytest.warns(UserWarning, match="1 of 1 questions are too long for the 61 tokens that a question may take"):
        model.answer([("why " * 99, context)])


def test_what_cannot_be_asked_is_one_sentence(model, masked_lm, tmp_path):
    with pytest.raises(UserError, match="cannot classify: its head is 'lm_head'"):
        model.classify(["a"])
    with pytest.raises(UserError, match="'no mask here' has no <mask> to fill"):
        model.fill_mask(["no mask here"])
    with pytest.raises(UserError, match="top_k is 0"):
        model.fill_mask(["<mask>"], top_k=0)
    with pytest.raises(UserError, match="pooling is 'max'"):
        model.embed(["a"], pooling="max")
    with pytest.raises(UserError, match="a list of texts"):
        model.embed("a")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((masked_lm[0] / name).read_bytes())
    with pytest.raises(UserError, match="has no tokenizer"):
        inference.load(tmp_path)


def test_bfloat16_is_close(masked_lm, model):
    half = inference.load(masked_lm[0], dtype="bfloat16").embed(PLAIN, normalize=True)
    assert (half * model.embed(PLAIN, normalize=True)).sum(1).min() > 0.99


SERVE = """
import sys
for name in ("flax", "roberta_jax.model", "roberta_jax.inference", "roberta_jax.interop"):
    sys.modules[name] = None
import numpy as np
from roberta_jax.serving import Served
served, rows = Served(sys.argv[1]), [row for row in np.load(sys.argv[2], allow_pickle=True)]
np.savez(sys.argv[3], *served.hidden(rows), *served.logits(rows))
"""


def test_a_file_for_another_platform_says_which(model, tmp_path, monkeypatch, capsys):
    """By JAX's names: that of a backend, "gpu", would be one that no device answers to."""
    for platforms, named in (((), ("cpu",)), (("cuda",), ("cuda",))):
        serving.write(model, tmp_path / "model.zip", lengths=[32], platforms=platforms)
        with zipfile.ZipFile(tmp_path / "model.zip") as archive:
            exported = jax.export.deserialize(bytearray(archive.read("hidden-32.bin")))
        assert exported.platforms == named
    with pytest.raises(SystemExit):
        run(monkeypatch, serving.main, "--model=x", "--out=x.zip", "--platforms", "gpu")
    assert "invalid choice: 'gpu' (choose from" in capsys.readouterr().err


def test_one_file_serves_without_the_models_code(model, tmp_path):
    path, rows = tmp_path / "model.zip", model._rows(SENTENCES)
    serving.write(model, path, lengths=[32, 128])
    array = np.empty(len(rows), object)
    array[:] = rows
    np.save(tmp_path / "rows.npy", array)
    command = [sys.executable, "-c", SERVE, str(path), str(tmp_path / "rows.npy"), str(tmp_path / "out.npz")]
    root = Path(serving.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = list(np.load(tmp_path / "out.npz").values())
    for row, states, logits, guesses in zip(rows, found, found[len(rows) :], model.fill_mask(SENTENCES), strict=False):
        assert states.shape == (len(row), 64)
        for of_mask, best in zip(logits, guesses, strict=True):
            assert of_mask.argmax() == best[0].id
            assert np.exp(of_mask - np.logaddexp.reduce(of_mask)).max() == pytest.approx(best[0].probability, abs=1e-5)
    means = [states.mean(0) for states in found[: len(rows)]]
    np.testing.assert_allclose(means, model.embed(SENTENCES), atol=1e-5)
    with pytest.raises(UserError, match="1 rows are longer than the 128 ids"):
        serving.Served(path).hidden([np.zeros(129, np.int32)])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="not a whole file"):
        serving.Served(path)


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    main()


def stdin(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content))


def test_standard_input_that_is_not_text_is_one_sentence(masked_lm, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", stdin(b"a <mask>\n\xff <mask>\n"))
    with pytest.raises(UserError, match="line 2 of standard input is not UTF-8"):
        run(monkeypatch, fill_mask.main, f"--model={masked_lm[0]}", "-")
    monkeypatch.setattr(sys, "stdin", stdin(b"\xff"))
    with pytest.raises(UserError, match="--texts is -, which cannot be read as UTF-8"):
        run(monkeypatch, embed.main, f"--model={masked_lm[0]}", "--texts=-", f"--out={tmp_path / 'x.npy'}")
    monkeypatch.setattr(sys, "stdin", None)  # closed
    run(monkeypatch, fill_mask.main, f"--model={masked_lm[0]}", "-")


def test_a_serving_file_in_a_folder_that_is_not_there_yet(masked_lm, monkeypatch, tmp_path):
    out = tmp_path / "new" / "model.zip"
    run(monkeypatch, serving.main, f"--model={masked_lm[0]}", f"--out={out}", "--lengths", "16")
    assert out.is_file()


def test_generators_are_lists(model):
    assert model.fill_mask(iter(SENTENCES[:2])) == model.fill_mask(SENTENCES[:2])
    np.testing.assert_array_equal(model.score(iter(PLAIN[:2])), model.score(PLAIN[:2]))
    np.testing.assert_array_equal(model.embed(iter(PLAIN)), model.embed(PLAIN))
    np.testing.assert_array_equal(model.pseudo_perplexity(iter(PLAIN[:1])), model.pseudo_perplexity(PLAIN[:1]))


def test_embed_reads_tables_and_standard_input(masked_lm, model, monkeypatch, tmp_path):
    expected = model.embed(PLAIN[:4])

    def embedded(source, *more) -> np.ndarray:
        run(monkeypatch, embed.main, f"--model={masked_lm[0]}", f"--texts={source}", f"--out={tmp_path / 'x.npy'}", *more)
        return np.load(tmp_path / "x.npy")

    frame = pa.table({"id": [1, 2, 3, 4], "body": PLAIN[:4]})
    pq.write_table(frame, tmp_path / "t.parquet")
    pyarrow.csv.write_csv(frame, tmp_path / "t.csv")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_pylist()))
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        np.testing.assert_allclose(embedded(tmp_path / name, "--column=body"), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"t.csv:2: the column 'text' is not there; .* There are id, body"):
        embedded(tmp_path / "t.csv")
    # A byte-order mark is no text, a lone \r ends no line: as many vectors as there are lines.
    monkeypatch.setattr(sys, "stdin", stdin(b"\xef\xbb\xbf" + "\r\n".join(PLAIN[:4]).encode()))
    np.testing.assert_allclose(embedded("-"), expected, atol=1e-5)
    (tmp_path / "cr.txt").write_bytes(b"one\rline\ntwo\n")
    np.testing.assert_allclose(embedded(tmp_path / "cr.txt"), model.embed(["one\rline", "two"]), atol=1e-5)


def test_embed_goes_on_where_it_was_stopped(masked_lm, model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(embed, "CHUNK", 2)
    (tmp_path / "lines.txt").write_text("\n".join(PLAIN) + "\n", "utf-8")
    arguments = [f"--model={masked_lm[0]}", f"--texts={tmp_path / 'lines.txt'}", f"--out={tmp_path / 'x.npy'}"]
    asked, whole = [], inference.Model.embed

    def stopped(self, texts, *how):
        asked.append(texts)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(self, texts, *how)

    monkeypatch.setattr(inference.Model, "embed", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, embed.main, *arguments)
    assert not (tmp_path / "x.npy").exists()
    run(monkeypatch, embed.main, *arguments)
    assert "goes on: 2 of 4 parts" in capsys.readouterr().err
    assert asked[3:] == [PLAIN[start : start + 2] for start in (4, 6)]  # the first two were there
    monkeypatch.undo()
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), model.embed(PLAIN), atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"lines.txt", "x.npy"}


def test_fill_mask_prints_a_table_or_json(masked_lm, monkeypatch, capsys):
    run(monkeypatch, fill_mask.main, f"--model={masked_lm[0]}", "--top_k=2", SENTENCES[1])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [SENTENCES[1], "  mask 1"] and len(lines) == 7 and lines[2].split()[0].endswith("%")
    monkeypatch.setattr(sys, "stdin", stdin(b"\xef\xbb\xbf" + "\r\n".join(SENTENCES[:2]).encode() + b"\n\n"))  # with a BOM
    run(monkeypatch, fill_mask.main, f"--model={masked_lm[0]}", "--json", "-")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["text"] for entry in found] == SENTENCES[:2] and len(found[1]["masks"]) == 2
    assert found[0]["masks"][0][0].keys() == {"token", "id", "probability", "text"}


def test_embed_writes_npy_and_parquet(masked_lm, model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(embed, "CHUNK", 3)
    source = tmp_path / "lines.txt"
    source.write_text("\n".join(PLAIN) + "\n", "utf-8")
    for name in ("vectors.npy", "vectors.parquet"):
        run(monkeypatch, embed.main, f"--model={masked_lm[0]}", f"--texts={source}", f"--out={tmp_path / name}")
    assert f"{len(PLAIN)}/{len(PLAIN)}" in capsys.readouterr().err
    expected = model.embed(PLAIN)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-5)
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert table["text"].to_pylist() == PLAIN
    np.testing.assert_allclose(table["embedding"].to_pylist(), expected, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"lines.txt", "vectors.npy", "vectors.parquet"}
    (tmp_path / "half.jsonl").write_text('{"text": "a cut \\ud83d"}\n')  # half a character, as cut texts end
    run(monkeypatch, embed.main, f"--model={masked_lm[0]}", f"--texts={tmp_path}/half.jsonl", f"--out={tmp_path}/half.parquet")
    assert pq.read_table(tmp_path / "half.parquet")["text"].to_pylist() == ["a cut \ufffd"]
    with pytest.raises(UserError, match="ends with .npy or .parquet"):
        run(monkeypatch, embed.main, "--model=x", f"--texts={source}", f"--out={tmp_path / 'x.csv'}")
    with pytest.raises(UserError, match="cannot be read"):
        run(monkeypatch, embed.main, "--model=x", f"--texts={tmp_path / 'none'}", f"--out={tmp_path / 'x.npy'}")


def test_embed_says_how_alike_the_vectors_of_a_masked_lm_are(masked_lm, model, make, monkeypatch, tmp_path, capsys):
    """And nothing of a model that has learned something else."""
    (tmp_path / "lines.txt").write_text("\n".join(PLAIN[:4]), "utf-8")
    for folder in (masked_lm[0], make("SequenceClassification")[0]):
        run(monkeypatch, embed.main, f"--model={folder}", f"--texts={tmp_path}/lines.txt", f"--out={tmp_path}/x.npy")
        said = capsys.readouterr().err
        if folder == masked_lm[0]:
            cosine = np.mean(_cosines(model.embed(PLAIN[:4])))
            assert f"two of these have a cosine of {cosine:.2f} on average" in said
        else:
            assert "cosine" not in said


def _cosines(vectors: np.ndarray) -> list[float]:
    """Of each two."""
    pairs = [(a, b) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
    return [float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in pairs]


@pytest.mark.parametrize("module", [fill_mask, embed, serving, export])
def test_commands_have_help_and_end_with_a_sentence(module, monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, module.main, "--help")
    assert ended.value.code == 0 and f"usage: python -m {module.__name__}" in capsys.readouterr().out
    (tmp_path / "lines.txt").write_text("a\n")
    missing = tmp_path / "no" / "model"
    arguments = {
        fill_mask: [f"--model={missing}", "a <mask>"],
        embed: [f"--model={missing}", f"--texts={tmp_path / 'lines.txt'}", f"--out={tmp_path / 'x.npy'}"],
        serving: [f"--model={missing}", f"--out={tmp_path / 'x.zip'}"],
        export: [f"--workdir={missing}", f"--out={tmp_path / 'x'}"],
    }
    with pytest.raises(UserError, match="there is no such folder"):
        run(monkeypatch, module.main, *arguments[module])
    if module is not fill_mask:
        far = [f"--model={missing}", *arguments[module][1:-1], "--out=gs://bucket/x.npy"]
        with pytest.raises(UserError, match="--out=gs://bucket/x.npy: expected a path of this machine"):
            run(monkeypatch, module.main, *far)
