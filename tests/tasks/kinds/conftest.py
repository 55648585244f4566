"""The published vocabulary, in ours and in transformers' tokenizer."""

import pytest

from roberta_jax.tokenization.pretrained import LosslessTokenizer


@pytest.fixture(scope="session")
def text(roberta_tokenizer):
    return LosslessTokenizer(roberta_tokenizer)


@pytest.fixture(scope="session")
def theirs(assets):
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    return transformers.RobertaTokenizer.from_pretrained(assets / "roberta-vocab")
