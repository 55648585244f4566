"""Orders of rows have their names by the rows; runs that began when they had them by the corpus' key keep to that."""

import copy
import hashlib

from pytest import approx

from roberta_jax.data.masking import Masking
from roberta_jax.pretraining.course import Course, Reading, Source


def readings(*corpora) -> list[Reading]:
    """A phase of the first alone, then one of all as a mixture."""
    sources = tuple(Source(str(i), corpus) for i, corpus in enumerate(corpora))
    return [Reading(0, sources[:1], Masking(), 16, 3), Reading(4, sources, Masking(), 16, 3)]


def prepared_again(corpus):
    """The same rows of a copy of the text, whose files have another time."""
    other = copy.copy(corpus)
    other.manifest = corpus.manifest | {"key": f"{corpus.manifest['key'][:-1]}!"}
    return other


def test_the_same_rows_of_another_copy_of_a_text_go_on(small_corpus, other_corpus):
    """As another host has it, or a later day."""
    course = Course(readings(small_corpus, other_corpus))
    resumed = Course(readings(prepared_again(small_corpus), prepared_again(other_corpus)))
    for number in (0, 3, 6):
        resumed.begin(course.note(number))
        assert resumed.note(9) == course.note(9) and resumed.rows_of(number) == course.rows_of(number)


def test_a_run_that_began_with_names_by_key_keeps_to_them(small_corpus, other_corpus):
    """From a checkpoint of its first phase on: the mixture that follows has the seeds that it would have had."""
    keys = [corpus.manifest["key"] for corpus in (small_corpus, other_corpus)]
    seeds = [int.from_bytes(hashlib.sha256(f"3 {key}".encode()).digest()[:7]) for key in keys]
    alone, *mixed = [f"{key}, fraction 1, seed {seed}" for key, seed in zip((keys[0], *keys), (3, *seeds))]
    course = Course(readings(small_corpus, other_corpus))
    assert not set(course.drawn(9)) & {alone, *mixed} and not set(course.reading(4).seeds) & set(seeds)
    before = {"batch": 2, "rows": {"in all": 32, alone: 32}, "tokens": 1, "words": 1, "held": "as it was"}
    course.begin(before)
    assert course.reading(4).seeds == seeds and course.held(3).startswith(f'["{alone}"')
    assert course.drawn(6) == {"in all": 96, alone: 64, mixed[0]: 16, mixed[1]: 16}
    resumed = Course(readings(small_corpus, other_corpus))
    resumed.begin(course.note(6))
    assert resumed.note(9) == course.note(9) and resumed.rows_of(8) == course.rows_of(8)
    course.begin({})
    assert course.note(9) == Course(readings(small_corpus, other_corpus)).note(9)


def test_the_last_batch_is_noted_apart_from_the_mean(small_corpus):
    """Behind larger ones the mean would give another name to a checkpoint that was kept for a number of words."""
    source = (Source("a", small_corpus),)
    course = Course([Reading(0, source, Masking(), 4, 3), Reading(5, source, Masking(), 64, 3)])
    of_step = [course.note(number)["last"]["words"] for number in (5, 6)]
    assert of_step[1] == approx(16 * of_step[0], rel=0.01)
    assert course.note(6)["words"] == 5 * of_step[0] + of_step[1]
