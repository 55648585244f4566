"""What a model's answer rests on, beside the model's own answers."""

import numpy as np
import pytest
from random_models import random_model

from roberta_jax import explain
from roberta_jax.errors import UserError
from tests.conftest import english

TEXT = "The old sailor found a wooden boat near the harbour."


@pytest.fixture(scope="module")
def masked_lm(small_corpus):
    return random_model(small_corpus.tokenizer, "lm_head")


def test_surprises_are_the_parts_of_a_texts_score(masked_lm):
    found = explain.surprises(masked_lm, TEXT)
    (score,) = masked_lm.score([TEXT])
    assert -sum(each.nats for each in found) == pytest.approx(score, rel=1e-5)
    assert "".join(each.token for each in found) == TEXT
    (row,) = masked_lm._rows([TEXT])
    for i in (0, 3, len(found) - 1):  # as filling a mask in its place says
        tokens = [masked_lm.tokenizer.decode([each]) for each in row[1:-1]]
        (guesses,) = masked_lm.fill_mask(["".join(tokens[:i]) + "<mask>" + "".join(tokens[i + 1 :])], len(masked_lm.tokenizer))[
            0
        ]
        if not tokens[i].startswith(" "):  # a mask takes the space before it
            (own,) = (each for each in guesses if each.id == row[1 + i])
            assert np.exp(-found[i].nats) == pytest.approx(own.probability, rel=1e-4)
            assert found[i].best == guesses[0].token and found[i].probability == pytest.approx(guesses[0].probability, rel=1e-4)


@pytest.mark.parametrize("width", [24, 40, 64, 128])
def test_copies_side_by_side_do_not_see_each_other(masked_lm, monkeypatch, width):
    """However many of them fill a row, and where a text is wider than one: as with each copy in a row of its own."""
    text = TEXT + " Her brother sold it at the market."
    found = np.array([each.nats for each in explain.surprises(masked_lm, text)])
    monkeypatch.setattr(explain, "WIDTHS", (16, width))
    np.testing.assert_allclose([each.nats for each in explain.surprises(masked_lm, text)], found, rtol=1e-5)
    assert -found.sum() == pytest.approx(masked_lm.score([text])[0], rel=1e-5)


def test_a_long_text_is_asked_about_in_few_rows(masked_lm, monkeypatch):
    """Each token once, several masked at once, as far as the text fits."""
    monkeypatch.setattr(explain, "ROWS", 8)
    found = explain.surprises(masked_lm, " ".join(english(5)))
    assert len(found) == masked_lm.config.max_length - 2 and all(each.nats > 0 for each in found)
    assert explain.surprises(masked_lm, "") == []


def test_an_effect_is_what_the_label_loses_without_the_word(small_corpus):
    model = random_model(small_corpus.tokenizer, "classification")
    (label, whole) = max(model.classify([TEXT])[0].items(), key=lambda each: each[1])
    (found,) = explain.effects(model, [TEXT], label)
    assert [each.text for each in found] == TEXT.split()
    (without,) = model.classify([TEXT.replace("wooden", "<mask>")])
    assert found[TEXT.split().index("wooden")].change == pytest.approx(whole - without[label], abs=1e-6)
    first, second = explain.effects(model, ["The boat", "It sank"], label)
    (pair,), (changed,) = model.classify([("The boat", "It sank")]), model.classify([("The boat", "It <mask>")])
    assert second[1].change == pytest.approx(pair[label] - changed[label], abs=1e-6) and len(first) == 2
    assert explain.effects(model, [""], label) == [[]]
    spaced = TEXT.replace(" ", "\n\n  ")  # white space that has tokens of its own stays where it is
    (found,), whole = explain.effects(model, [spaced], label), model.classify([spaced])[0][label]
    (without,) = model.classify([spaced.replace("wooden", "<mask>")])
    assert found[TEXT.split().index("wooden")].change == pytest.approx(whole - without[label], abs=1e-6)
    (many,) = explain.effects(model, ["boat " * 200], label)
    assert 50 <= len(many) <= explain.ROWS and sum(len(each.text.split()) for each in many) == model.config.max_length


def test_another_models_answer_is_refused(small_corpus, masked_lm):
    model = random_model(small_corpus.tokenizer, "classification")
    with pytest.raises(UserError, match="has no masked-LM head"):
        explain.surprises(model, TEXT)
    with pytest.raises(UserError, match="no label 'good'; it has negative, neutral, positive"):
        explain.effects(model, [TEXT], "good")
    with pytest.raises(UserError, match="cannot classify"):
        explain.effects(masked_lm, [TEXT], "good")
