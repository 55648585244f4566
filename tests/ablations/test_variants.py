"""The studies' variants are fields that there are, and their published figures the paper's."""

from dataclasses import asdict, replace

import pytest

from roberta_jax.ablations.variants import changed, studies
from roberta_jax.pretraining.config import PretrainConfig

BASE = replace(PretrainConfig(), steps=1_000, batch_size=64)
STUDIES = {study.name: study for study in studies(BASE)}


@pytest.mark.parametrize("name", STUDIES)
def test_each_variant_is_a_config_of_its_own(name):
    study = STUDIES[name]
    made = [changed(BASE, variant.fields) for variant in study.variants]
    assert len({str(asdict(config)) for config in made}) == len(made) >= 5
    names = {variant.name for variant in study.variants}
    assert study.control in names
    assert study.claims and all({claim.variant, claim.other} <= names for claim in study.claims)


def test_batches_of_all_sizes_see_as_many_rows_and_keep_the_papers_rates():
    made = {variant.name: changed(BASE, variant.fields) for variant in STUDIES["batch_size"].variants}
    for config in made.values():
        assert config.steps * config.batch_size == pytest.approx(64_000, rel=0.01)
    rates = {name: config.optimizer.learning_rate / BASE.optimizer.learning_rate for name, config in made.items()}
    assert rates["256"] == pytest.approx(1e-4 / 7e-4) and rates["8K"] == pytest.approx(1e-3 / 7e-4)
    assert [made[name].batch_size for name in ("256", "2K", "8K")] == [8, 64, 256]
    assert made["8K-lamb"].optimizer.name == "lamb"


def test_published_figures():
    """FACTS.md's, from the paper's tables 1 to 4."""
    published = {(study, v.name): v.published for study, each in STUDIES.items() for v in each.variants if v.published}
    assert published["masking", "static"] == {"squad2_f1": 78.3, "sst2": 92.5}
    assert published["masking", "dynamic"] == {"squad2_f1": 78.7, "sst2": 92.9}
    assert published["input_format", "sentence-pair"] == {"squad1_f1": 88.7, "squad2_f1": 76.2, "sst2": 92.1}
    assert published["input_format", "doc-sentences"] == {"squad1_f1": 90.6, "squad2_f1": 79.7, "sst2": 92.7}
    assert [published["batch_size", name]["perplexity"] for name in ("256", "2K", "8K")] == [3.99, 3.68, 3.77]
    assert published["data", "16x-data-5x-steps"] == {"sst2": 96.4, "squad2_f1": 89.4}
    assert len(published) == 2 + 4 + 3 + 4
