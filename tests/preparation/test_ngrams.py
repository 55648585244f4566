"""Words, n-grams and signatures are what a plain implementation says, and the same in every process."""

import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roberta_jax.preparation import ngrams

CHARACTERS = "ab Z9.,'\n\t-_éß“”—中文かカ。、한글हि©😀\u3000\u2028\xa0«»¿€،؟۔।，！々"


def parts(character: str) -> bool:
    """Whether it stands between words."""
    if character.isascii():
        return not character.isalnum()
    category = unicodedata.category(character)
    return ord(character) < 1 << 16 and (category[0] in "PZS" or category == "Cc" or 0x2000 <= ord(character) < 0x2040)


def plain_words(text: str) -> list[str]:
    marked = (" " if parts(c) else f" {c} " if 0x3000 <= ord(c) < 0xA000 else c for c in text.lower())
    return [word for word in "".join(marked).split(" ") if word]


@given(st.text(CHARACTERS, max_size=60))
def test_words_are_those_of_a_plain_loop(text):
    hashes, first, last, encoded = ngrams.words(text)
    assert [encoded[a:b].decode() for a, b in zip(first, last)] == plain_words(text)
    by_word = dict(zip(plain_words(text), hashes))
    assert all(by_word[word] == value for word, value in zip(plain_words(text), hashes))
    assert len(set(by_word.values())) == len(by_word)


@pytest.mark.parametrize("text", ["«one two»", "one\xa0two", "¿one two?", "one two।", "one，two", "‹one›—two", "one two 。"])
def test_white_space_and_punctuation_of_any_script_do_not_count(text):
    assert ngrams.words(text)[0].tolist() == ngrams.words("One, two.")[0].tolist()


@given(st.lists(st.sampled_from(["one", "two", "three"]), max_size=20), st.integers(1, 6))
def test_ngrams_are_equal_where_their_words_are(chosen, size):
    grams = ngrams.ngrams(ngrams.words(" ".join(chosen))[0], size)
    plain = [tuple(chosen[i : i + size]) for i in range(len(chosen) - size + 1)]
    assert len(grams) == len(plain)
    assert len(set(grams.tolist())) == len(set(plain)) == len(set(zip(plain, grams.tolist())))


def test_hashes_are_the_same_in_another_process():
    text = "The same words in every process."
    code = f"from roberta_jax.preparation import ngrams; print(ngrams.words({text!r})[0].tolist())"
    said = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert said.stdout.strip() == str(ngrams.words(text)[0].tolist())


def test_a_word_has_one_hash_wherever_it_stands_in_a_long_text():
    hashes = ngrams.words("word " * 300_000)[0]
    assert len(hashes) == 300_000 and len(np.unique(hashes)) == 1


@pytest.mark.parametrize("jaccard", [0.2, 0.5, 0.8, 0.95])
def test_signatures_agree_as_often_as_sets_overlap(jaccard):
    chooser, found, true = random.Random(0), [], []
    for _ in range(100):
        words = [f"w{chooser.randrange(10**9)}" for _ in range(400)]
        start = round(400 * (1 - jaccard) / (1 + jaccard))
        texts = [" ".join(words[:-start]), " ".join(words[start:])]  # all shingles differ but those of the shared middle
        sets = [{tuple(t.split()[i : i + 5]) for i in range(len(t.split()) - 4)} for t in texts]
        true.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
        a, b = (ngrams.signature(ngrams.words(text)[0]) for text in texts)
        found.append((a == b).mean())
    deviation = (jaccard * (1 - jaccard) / ngrams.HASHES) ** 0.5  # of one estimate, were the hash functions independent
    assert abs(np.mean(found) - np.mean(true)) < 4 * deviation / 10
    assert np.std(np.subtract(found, true)) < 1.3 * deviation


def test_short_texts_have_signatures_of_their_own():
    texts = ["one", "two", "one two", "one two three four five", "one two three four five six"]
    signatures = [ngrams.signature(ngrams.words(text)[0]).tolist() for text in texts]
    assert len(set(map(tuple, signatures))) == len(texts)
    assert not ngrams.signature(ngrams.words("?!")[0]).any()


def test_bands_are_equal_where_eight_hashes_are():
    signatures = np.random.default_rng(0).integers(1 << 16, size=(2, ngrams.HASHES)).astype(np.uint16)
    signatures[1, 8:16] = signatures[0, 8:16]
    signatures[1, 16:24] = signatures[0, :8]  # in another band it does not count
    hashes = ngrams.bands(signatures)
    assert np.flatnonzero(hashes[0] == hashes[1]).tolist() == [1] and len(np.unique(hashes)) == 31


def naive_overlap(text: str, evaluation: list[str]) -> bool:
    words = plain_words(text)
    for other in map(plain_words, evaluation):
        size = min(13, len(other))
        if not size or (size < 8 and len(words) != size):
            continue
        grams = {tuple(other[i : i + size]) for i in range(len(other) - size + 1)}
        if any(tuple(words[i : i + size]) in grams for i in range(len(words) - size + 1)):
            return True
    return False


@pytest.mark.parametrize("seed", range(5))
def test_overlap_is_what_a_naive_search_finds(seed):
    chooser = random.Random(seed)

    def text(longest):
        return " ".join(chooser.choice(["a", "B", "c.", "d"]) for _ in range(chooser.randint(0, longest)))

    evaluation = [text(chooser.choice([3, 9, 12, 30])) for _ in range(40)]
    texts = [text(chooser.choice([5, 30])) for _ in range(300)]
    texts += [f"{text(9)} {chooser.choice(evaluation)} {text(9)}" for _ in range(50)]
    overlap = ngrams.Overlap.of(evaluation)
    found = [overlap.find(ngrams.words(text)) for text in texts]
    assert [ngram is not None for ngram in found] == [naive_overlap(text, evaluation) for text in texts]
    assert 0 < sum(ngram is not None for ngram in found) < len(texts)
    for ngram, text in zip(found, texts):
        if ngram is not None:
            assert ngram in text.lower() and naive_overlap(ngram, evaluation)


# Scripts that put no spaces between words

UNSPACED = {
    "Thai": "กขคงจชซญดตทนบปผพฟมยรลวสหอ าิีึืุูเแโใไ่้๊ะ",
    "Lao": "ກຂຄງຈຊຍດຕຖທນບປຜຝພຟມຢຣລວສຫອຮ າິີຶືຸູເແໂໃໄ່້",
    "Khmer": "កខគឃងចឆជឈញដឋឌឍណតថទធនបផពភមយរលវសហឡអ ាិីឹឺុូើែៃោៅ្",
    "Burmese": "ကခဂဃငစဆဇညတထဒဓနပဖဗဘမယရလဝသဟအ ာိီုူေဲံ့း်ျြွှ",
}


def syllables(script: str, chooser: random.Random, count: int) -> str:
    """Running text: letters with vowels and marks behind some, a space here and there, as between sentences."""
    letters, marks = UNSPACED[script].split()
    spaces = chooser.random() < 0.3
    ends = ["", "", " "] if spaces else [""]
    parts = (chooser.choice(letters) + chooser.choice([*marks, "", ""]) for _ in range(count))
    return "".join(part + (chooser.choice(ends) if i % 15 == 14 else "") for i, part in enumerate(parts))


@pytest.mark.parametrize("script", UNSPACED)
def test_a_character_with_its_marks_is_a_word_where_no_spaces_are(script):
    text = "abc" + syllables(script, random.Random(0), 60) + "d 12" + syllables(script, random.Random(1), 9)
    _, first, last, encoded = ngrams.words(text)
    found = [encoded[a:b].decode() for a, b in zip(first, last)]
    assert "".join(found) == re.sub(r"\s", "", text) and found[0] == "abc" and "d" in found and "12" in found
    for word in found:
        if not word.isascii():
            first, *marks = map(unicodedata.category, word)
            assert not first.startswith("M") and all(mark.startswith("M") for mark in marks)


@given(st.text("กา่ิแ ก๏ab1ក្ខ។သ်ကའོད་。中", max_size=40))
def test_words_of_mixed_scripts_hold_all_but_what_parts_them(text):
    hashes, first, last, encoded = ngrams.words(text)
    assert len(first) == len(last) == len(hashes) and (first < last).all() and (last[:-1] <= first[1:]).all()
    found = [encoded[a:b].decode() for a, b in zip(first, last)]
    assert "".join(found) == re.sub(r"[\s๏។་。]", "", text)


@pytest.mark.parametrize("script", UNSPACED)
def test_questions_are_found_within_text_of_their_script(script):
    chooser = random.Random(0)
    questions = [syllables(script, chooser, chooser.randint(14, 90)) for _ in range(80)]
    questions = [question for question in questions if len(question) >= 20]
    overlap = ngrams.Overlap.of(questions)
    inside = [syllables(script, chooser, 200) + question + syllables(script, chooser, 200) for question in questions]
    found = [overlap.find(ngrams.words(text)) for text in inside]
    assert sum(ngram is not None for ngram in found) >= 0.95 * len(questions)
    others = [syllables(script, chooser, 400) for _ in range(80)]
    assert not any(overlap.find(ngrams.words(text)) for text in others)
    # A phrase that is common to both is no overlap: four words, here of about four characters each.
    long = [question for question in questions if len(question) > 90]
    overlap = ngrams.Overlap.of(long)
    phrases = [syllables(script, chooser, 60) + question[30:46] + syllables(script, chooser, 60) for question in long]
    assert long and not any(overlap.find(ngrams.words(text)) for text in phrases)


def test_a_short_name_in_a_script_without_spaces_counts_against_its_equals_alone():
    name, others = "ประเทศสหรัฐอเมริกา", "ในปีนั้นมีคนเดินทางไป"
    overlap = ngrams.Overlap.of([name, "กรุงเทพ", "13", "in Bangkok กรุงเทพ"])
    found = [overlap.find(ngrams.words(text)) for text in (name, f" {name}. ", f"{others}{name}{others}", others)]
    assert found == [name, name, None, None]


@pytest.mark.parametrize("script", UNSPACED)
def test_near_duplicates_of_scripts_without_spaces(script):
    text = syllables(script, random.Random(0), 2_000)
    changed = text[:500] + syllables(script, random.Random(1), 20) + text[520:]
    other = syllables(script, random.Random(2), 2_000)
    one, two, three = (ngrams.signature(ngrams.words(each)[0]) for each in (text, changed, other))
    assert (one == two).mean() > 0.9 and (one == three).mean() < 0.2


def test_no_evaluation_text_overlaps_nothing():
    assert ngrams.Overlap.of(["", "?"]).find(ngrams.words("Some words here.")) is None
