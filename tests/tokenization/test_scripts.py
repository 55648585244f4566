"""The script of a character is the same wherever texts are counted."""

import pytest

from roberta_jax.preparation import statistics
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.scripts import script_of
from roberta_jax.tokenization.tokenizer import ByteLevelBPE


@pytest.mark.parametrize(
    "character, script",
    [
        ("a", "Latin"),
        ("ｆ", "Latin"),
        ("ก", "Thai"),
        ("א", "Hebrew"),
        ("中", "Han"),
        ("カ", "kana"),
        ("ｶ", "kana"),
        ("ა", "Georgian"),
    ],
)
def test_a_letter_has_one_script(character, script):
    words = encodings.statistics(ByteLevelBPE.train(["a"], 261), [character])["scripts"]
    assert script_of(character) == script and [*words] == [script] and statistics.scripts(character) == {script: 1.0}


def test_what_is_of_no_script():
    assert [script_of(character) for character in "1!\u0301ⴰ\udcff"] == [None] * 5  # ⴰ: Tifinagh
