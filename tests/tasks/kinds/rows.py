"""What the tests of several kinds draw: rows of words, examples of them, arrays."""

import random
import warnings

import hypothesis.strategies as st
import numpy as np

from roberta_jax.tasks.definitions import Example

WORDS = ["a", "an", "unfinished", "letter", "naïve", "café", "東京", "हिन्दी", "🤗", "👩‍👧", "O'Neill", "U.S.", "3,000", "'s"]
WORDS += ["--", "(", "antidisestablishmentarianism", "…"]


def examples(kind_of_texts, labels=None):
    labels = labels or [None] * len(kind_of_texts)
    return [
        Example(f"train.tsv:{i + 2}", str(i), tuple(texts), label)
        for i, (texts, label) in enumerate(zip(kind_of_texts, labels))
    ]


def some_words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def arrays(*kinds, least: int = 1):
    """Arrays of one length, each of its own kind of element."""
    rows = st.lists(st.tuples(*kinds), min_size=least, max_size=30)
    return rows.map(lambda rows: [np.array(column) for column in zip(*rows)])


def quiet(function, *arguments, **named) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)
