"""The studies' variants are fields that there are, and their published figures the paper's."""

from dataclasses import asdict, replace

import pytest

from roberta_jax.ablations.variants import changed, chosen, studies
from roberta_jax.errors import UserError
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


@pytest.mark.parametrize(
    "names, expected",
    [
        ("all", dict.fromkeys(STUDIES)),
        ("data, masking", {"data": None, "masking": None}),
        ("masking/spans,batch_size,masking/static", {"masking": ["dynamic", "static", "spans"], "batch_size": None}),
        ("input_format/segment-pair", {"input_format": ["full-sentences", "segment-pair"]}),
        ("masking/dynamic", {"masking": ["dynamic"]}),
        ("masking/hf,masking", {"masking": None}),
    ],
)
def test_studies_and_variants_are_chosen_by_name(names, expected):
    made = {study.name: study for study in chosen(BASE, names)}
    assert list(made) == list(expected)
    for name, study in made.items():
        whole = {variant.name: variant for variant in STUDIES[name].variants}
        kept = expected[name] or list(whole)
        assert study.variants == tuple(whole[each] for each in kept)
        assert study.claims == tuple(each for each in STUDIES[name].claims if {each.variant, each.other} <= set(kept))


@pytest.mark.parametrize(
    "names, sentence",
    [
        ("masks/static", "config.study 'masks' is not known; there are all, masking, input_format"),
        ("masking,", "config.study '' is not known"),
        ("masking/statics", "config.study 'masking' has no variant 'statics'; there are dynamic, static, "),
        ("all/static", "config.study 'all' is not known"),
    ],
)
def test_an_unknown_study_or_variant_is_refused(names, sentence):
    with pytest.raises(UserError, match=sentence):
        chosen(BASE, names)


@pytest.mark.parametrize(("rows", "devices", "microbatch"), [(64, 1, 0), (64, 8, 0), (32, 8, 0), (32, 1, 16), (96, 8, 4)])
def test_batches_of_all_sizes_are_whole_microbatches_of_each_device(rows, devices, microbatch):
    """The fourfold and larger ones are taken as the config's own is; an eighth has a row for each device at least."""
    base = replace(BASE, batch_size=rows, microbatch_size=microbatch)
    (study,) = chosen(base, "batch_size", devices)
    for variant in study.variants:
        made = changed(base, variant.fields)
        share = made.batch_size // devices
        assert made.batch_size % devices == 0 and share % (made.microbatch_size or share) == 0, variant.name
        assert (made.microbatch_size or share) <= (microbatch or rows // devices)
        assert made.steps * made.batch_size == pytest.approx(1_000 * rows, rel=0.01)


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
