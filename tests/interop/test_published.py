"""Folders in the layouts that people publish give transformers' ids and hidden states, or one sentence."""

import functools
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import published
import pytest
import torch
import transformers
from published import LAYOUTS
from reference import randomised

from roberta_jax.errors import UserError
from roberta_jax.inference import load
from roberta_jax.interop import hub
from roberta_jax.model.heads import apply_encoder
from roberta_jax.tasks.definitions import Example
from roberta_jax.tasks.kinds import span
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.pretrained import join

TEXTS = published.texts()
READ = [name for name in LAYOUTS if name not in published.REFUSED]
encode = jax.jit(apply_encoder, static_argnames="config")


@functools.cache
def weights(kind: str, architecture: str, types: int, pad: int) -> torch.nn.Module:
    fields = published.config(kind, type_vocab_size=types, pad_token_id=pad)
    config = transformers.AutoConfig.for_model(**fields)
    bare = architecture.endswith("Model")
    auto = transformers.AutoModel if bare else transformers.AutoModelForMaskedLM
    return randomised(auto.from_config(config))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """name → the layout's folder, with weights."""

    @functools.cache
    def write(name: str):
        folder = tmp_path_factory.mktemp(name)
        LAYOUTS[name](folder)
        fields = (folder / "config.json").read_text()
        told = json.loads(fields)
        shape = told["model_type"], told["architectures"][0], told["type_vocab_size"], told["pad_token_id"]
        weights(*shape).save_pretrained(folder)
        (folder / "config.json").write_text(fields)
        return folder

    return write


def peer(name: str, folder):
    """transformers' tokenizer, as those versions have it with which the folder was made."""
    if name in published.MASK_FORGOTTEN:
        mask = transformers.AddedToken("<mask>", lstrip=True, normalized=False, special=True)
        return transformers.AutoTokenizer.from_pretrained(folder, mask_token=mask)
    if name in published.FILE_FORGOTTEN:
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def ours(tokenizer, pairs: bool = True) -> list[list[int]]:
    """The ids of TEXTS, and of each with the next."""
    ids = tokenizer.encode(TEXTS)
    second = [join(tokenizer, [a, b]) for a, b in zip(ids, ids[1:])] if pairs else []
    return [row.tolist() for row in [join(tokenizer, [each]) for each in ids] + second]


def theirs(tokenizer, pairs: bool = True) -> list[list[int]]:
    plain = {"truncation": False, "padding": False}
    second = tokenizer(TEXTS[:-1], TEXTS[1:], **plain)["input_ids"] if pairs else []
    return tokenizer(TEXTS, **plain)["input_ids"] + second


def test_there_are_enough():
    assert len(TEXTS) == 200 and len(READ) >= 25


@pytest.mark.parametrize("name", READ)
def test_ids_and_hidden_states_are_those_of_transformers(name, written):
    folder, pairs = written(name), name not in published.PAIRS_REFUSED
    model, auto = load(folder), peer(name, folder)
    rows, expected = ours(model.tokenizer, pairs), theirs(auto, pairs)
    for text, row, wanted in zip([*TEXTS, *zip(TEXTS, TEXTS[1:])], rows, expected):
        assert row == wanted, text
    assert (model.tokenizer.mask, model.tokenizer.pad) == (auto.mask_token_id, auto.pad_token_id)
    some = [row for row in rows if 0 < len(row) <= 48]
    some = [*some[:12], *some[-12:]]
    ids = np.full((len(some), 48), auto.pad_token_id, np.int32)
    used = np.zeros_like(ids)
    for at, row in enumerate(some):
        ids[at, : len(row)], used[at, : len(row)] = row, 1
    with torch.inference_mode():
        whole = transformers.AutoModel.from_pretrained(folder)
        hidden = whole(input_ids=torch.tensor(ids), attention_mask=torch.tensor(used)).last_hidden_state.numpy()
    found = np.asarray(encode(model.params, model.config, ids, used))
    np.testing.assert_allclose(found[used == 1], hidden[used == 1], atol=1e-4)


BYTES = ["roberta", "robbert_2023", "prefix_space_in_both", "template", "added_tokens", "gap", "bert_processing"]


@pytest.mark.parametrize("name", BYTES)
def test_spans_are_where_the_tokens_stand(name, written):
    """Also where a pre-tokenizer's offsets lie: transformers' own are a letter short there."""
    tokenizer = hub.load(written(name)).tokenizer
    for text in TEXTS:
        ids, spans = tokenizer.encode_with_spans(text)
        assert np.array_equal(ids, tokenizer.encode([text])[0])
        at = 0
        for i, (start, end) in zip(ids, spans):
            token = tokenizer.decode([i])
            if "\ufffd" not in token:  # a part of a character
                assert text[start:end].strip() == token.strip(), text
                assert start >= at or not token.strip()
            at = start


def test_an_answer_keeps_its_first_letter(written):
    """By windows of a question and its context, as in RobBERT-2023."""
    tokenizer = hub.load(written("robbert_2023")).tokenizer
    context = "Her brother sold the red lantern (near the harbour) last winter."
    windows = span.encode_windows([Example("", "", ("What?", context))], tokenizer, 64, answers=False)
    found = [context[start:end] for start, end in windows.offsets[0]]
    assert "".join(found) == context.replace(" ", "") and found[0] == context[: len(found[0])]


@pytest.mark.parametrize("name", published.REFUSED)
def test_what_is_not_read_is_one_sentence(name, written):
    with pytest.raises(UserError, match=published.REFUSED[name]) as caught:
        load(written(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", published.PAIRS_REFUSED)
def test_pairs_that_need_types_are_one_sentence(name, written):
    with pytest.raises(UserError, match="token types"):
        load(written(name)).embed([("a", "b")])


@pytest.mark.parametrize("name", READ)
def test_an_export_and_what_transformers_makes_of_it_have_the_same_ids(name, written, tmp_path):
    """ours → transformers → ours"""
    first = hub.export(written(name), tmp_path / "out").tokenizer
    expected = ours(first, name not in published.PAIRS_REFUSED)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs(auto, name not in published.PAIRS_REFUSED) == expected
    assert auto.mask_token_id == first.mask and auto.pad_token_id == first.pad and auto.model_max_length == 128
    for file in (tmp_path / "out").iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    auto.save_pretrained(tmp_path / "out")
    again = hub.load(tmp_path / "out").tokenizer
    assert ours(again, name not in published.PAIRS_REFUSED) == expected
    assert type(again) is type(first)


# Other versions of transformers, each in an environment of its own, which has neither PyTorch nor JAX.

IDS = """
import json, sys
import transformers
given, found = json.load(open(sys.argv[1])), {}
for name, (folder, pairs) in given["folders"].items():
    tokenizer, texts = transformers.AutoTokenizer.from_pretrained(folder), given["texts"]
    plain = {"truncation": False, "padding": False}
    found[name] = tokenizer(texts, **plain)["input_ids"]
    found[name] += tokenizer(texts[:-1], texts[1:], **plain)["input_ids"] if pairs else []
json.dump([transformers.__version__, found], open(sys.argv[2], "w"))
"""
HOW = "ROBERTA_TEST_TRANSFORMERS names none, as VERSION=PYTHON, with commas: the Python of an environment with that version"


def other_version(version: str, folders: dict, tmp_path) -> dict[str, list[list[int]]]:
    named = dict(each.split("=", 1) for each in os.environ.get("ROBERTA_TEST_TRANSFORMERS", "").split(",") if "=" in each)
    if version not in named:
        pytest.skip(f"no transformers {version}: {HOW}")
    (tmp_path / "given.json").write_text(json.dumps({"texts": TEXTS, "folders": folders}))
    command = [named[version], "-c", IDS, str(tmp_path / "given.json"), str(tmp_path / "found.json")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found, ids = json.loads((tmp_path / "found.json").read_text())
    assert found.startswith(version)
    return ids


OTHERS = {"4.57": published.NOT_4_57, "4.40": published.NOT_4_40}


@pytest.mark.parametrize("version", OTHERS)
def test_folders_have_the_ids_of_other_versions(version, written, tmp_path):
    names = [name for name in READ if name not in OTHERS[version]]
    folders = {name: (str(written(name)), name not in published.PAIRS_REFUSED) for name in names}
    for name, ids in other_version(version, folders, tmp_path).items():
        assert ours(hub.load(written(name)).tokenizer, name not in published.PAIRS_REFUSED) == ids, name


@pytest.mark.parametrize("version", OTHERS)
def test_exports_have_the_same_ids_in_other_versions(version, written, tmp_path):
    expected = {}
    for name in READ:
        tokenizer = hub.export(written(name), tmp_path / name).tokenizer
        expected[name] = ours(tokenizer, name not in published.PAIRS_REFUSED)
    folders = {name: (str(tmp_path / name), name not in published.PAIRS_REFUSED) for name in READ}
    found = other_version(version, folders, tmp_path)
    assert [name for name in READ if found[name] != expected[name]] == []


def test_a_tokenizer_is_the_same_when_it_was_saved(written, tmp_path):
    """A corpus keeps it, and is refused where its hash is another one; no name of a special token in a text is one."""
    for name in ("a_frame_of_its_own", "cls_and_sep_of_their_own", "word_level", "bert_processing"):
        base = encodings.load(written(name))
        base.save(tmp_path / name)
        again = encodings.load(tmp_path / name)
        assert again.hash == base.hash and again.names == base.names and again.special == base.special, name
        assert not set(base.encode("<s> <c> [CLS]").tolist()) & {base.bos, base.eos}, name


def test_more_special_tokens_may_have_names(written, tmp_path):
    """Their names are attributes of transformers' object, and no tokens."""
    shutil.copytree(written("roberta"), tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    settings |= {"extra_special_tokens": {"image_token": "<pad>"}}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert encodings.load(tmp_path / "model").hash == encodings.load(written("roberta")).hash
