"""A trained model for longer rows: which positions its further ones begin as, and a run that goes on so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from test_round_trip import fields_of, write
from test_vocabulary import bpe, model

from roberta_jax import main
from roberta_jax.interop import hub
from roberta_jax.interop.positions import with_positions
from tests.conftest import english


def positions(params: dict) -> np.ndarray:
    return params["encoder"]["embeddings"]["position"]["embedding"]


@pytest.mark.parametrize("length", [64, 65, 128, 150, 300])
def test_the_positions_that_lack_are_its_own_again(length):
    source = model(bpe("a b"))
    longer, first = with_positions(source, length), source.config.pad_id + 1
    before, after = positions(source.params), positions(longer.params)
    assert longer.config == replace(source.config, max_length=length) and len(after) == first + length
    np.testing.assert_array_equal(after[:first], before[:first])
    for i in range(length):
        np.testing.assert_array_equal(after[first + i], before[first + i % 64])
    assert len(positions(source.params)) == first + 64  # it is as it was


def test_a_run_on_longer_rows_gives_a_model_that_transformers_runs_on_them(tmp_path, capsys):
    write("roberta", tmp_path / "in")
    (tmp_path / "text.txt").write_text("\n\n".join(english(200, 3)))
    fields = fields_of(tmp_path / "in", tmp_path, 2)
    fields["phases"] = "steps=1,data.length=200"  # the longest of all phases count
    main.run(fields, tmp_path / "run")
    sentence = "config.init_from has 128 positions, rows 200: the further ones begin as its own again"
    assert sentence in capsys.readouterr().out
    hub.export(tmp_path / "run", tmp_path / "out")
    encoder = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert encoder.config.max_position_embeddings == 202
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert auto.model_max_length == 200
    with torch.inference_mode():
        logits = encoder(**auto(" ".join(english(200, 3)), truncation=True, return_tensors="pt")).logits
    assert logits.shape[1] == 200 and torch.isfinite(logits).all()
    fields["steps"] = 3
    main.run(fields, tmp_path / "run")  # a run that resumes has them in its workdir
    assert sentence not in capsys.readouterr().out


def test_rows_that_fit_leave_a_model_as_it_is():
    source = model(bpe("a b"))
    np.testing.assert_array_equal(positions(with_positions(source, 64).params), positions(source.params))
