"""A published folder → pretraining goes on with its own tokenizer → export → transformers."""

import importlib

import numpy as np
import published
import pytest
import torch
import transformers
from reference import randomised

from roberta_jax import main
from roberta_jax.data.corpus import Corpus
from roberta_jax.interop import hub
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.pretrained import join
from tests.conftest import english

TEXTS = [text for text in published.texts() if not any(name in text for name in published.SPECIAL)]
ROUND = ["roberta", "xlm_roberta", "camembert", "babyberta_by_its_file", "klue"]


def write(name: str, folder) -> None:
    published.LAYOUTS[name](folder)
    model = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    fields = (folder / "config.json").read_text()
    randomised(model).save_pretrained(folder)
    (folder / "config.json").write_text(fields)


def fields_of(folder, tmp_path, steps: int = 5) -> dict:
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(steps=steps, batch_size=8, log_every=1, eval_every=steps, checkpoint_every=steps, init_from=str(folder))
    fields.optimizer.update(name="adamw", warmup_steps=1, learning_rate=1e-3)
    fields.data.update(source=str(tmp_path / "text.txt"), length=64, valid_fraction=0.1)
    fields.data.update(cache=str(tmp_path / "cache"), processes=1, masking="whole_word")
    return fields.to_dict()


@pytest.mark.parametrize("name", ROUND)
def test_pretraining_goes_on_with_a_published_model(name, tmp_path):
    write(name, tmp_path / "in")
    (tmp_path / "text.txt").write_text("\n\n".join(english(60, 3)))
    main.run(fields_of(tmp_path / "in", tmp_path), tmp_path / "run")
    (corpus,) = (Corpus(path.parent) for path in (tmp_path / "cache").glob("corpus-*/manifest.json"))
    source = hub.load(tmp_path / "in")
    assert corpus.tokenizer.hash == source.tokenizer.base.hash
    exported = hub.export(tmp_path / "run", tmp_path / "out")
    assert exported.config.vocab_size == published.VOCABULARY and exported.config.pad_id == source.config.pad_id
    before = source.params["encoder"]["embeddings"]["word"]["embedding"]
    assert not np.array_equal(before, exported.params["encoder"]["embeddings"]["word"]["embedding"])
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = [join(source.tokenizer, [ids]).tolist() for ids in source.tokenizer.encode(published.texts())]
    assert auto(published.texts())["input_ids"] == ours
    model, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    with torch.inference_mode():
        logits = model(**auto(TEXTS[:8], padding=True, return_tensors="pt", return_token_type_ids=False)).logits
    assert torch.isfinite(logits).all()


def test_a_run_resumes_with_the_tokenizer_in_its_workdir(tmp_path):
    write("xlm_roberta", tmp_path / "in")
    (tmp_path / "text.txt").write_text("\n\n".join(english(60, 3)))
    main.run(fields_of(tmp_path / "in", tmp_path, 2), tmp_path / "run")
    (tmp_path / "in").rename(tmp_path / "gone")
    main.run(fields_of(tmp_path / "in", tmp_path, 4), tmp_path / "run")
    assert hub.load(tmp_path / "run").origin.endswith("step 4")


@pytest.mark.parametrize("name", sorted(published.LAYOUTS.keys() - published.REFUSED.keys()))
def test_every_tokenizer_that_a_model_may_have_encodes_a_corpus(name, tmp_path):
    """Names of special tokens are text there, and no id of a text is one of theirs."""
    published.LAYOUTS[name](tmp_path / "in")
    tokenizer = encodings.of_model(str(tmp_path / "in"))
    encoded = tokenizer.encode_batch(published.texts())
    special = [tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.mask]
    assert not np.isin(np.concatenate(encoded), special).any()
    whole = hub.load_tokenizer(tmp_path / "in")
    for ids, text in zip(whole.encode(TEXTS), TEXTS):
        if "[" not in text:
            assert np.array_equal(tokenizer.encode(text), ids), text
    tokenizer.save(tmp_path / "kept")
    again = encodings.load(tmp_path / "kept")
    assert again.hash == tokenizer.hash and len(again) == len(tokenizer) and again.special == tokenizer.special
    assert all(np.array_equal(again.encode(text), ids) for text, ids in zip(published.texts(), encoded))
    text = "Her brother sold the red lantern last winter."
    words = tokenizer.decode_bytes(tokenizer.encode(text)).decode().lower().replace(" .", ".").split()
    known = [word for word in words if word != "\ufffd"]
    assert known and set(known) <= {*text.lower().split(), "winter"}
    starts = sum(tokenizer.token_bytes[i].startswith(b" ") for i in tokenizer.encode(text))
    assert len(text.split()) - 1 <= starts <= len(text.split()) + 1
