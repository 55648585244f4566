"""Runs on mixtures: the tokens of each source, losses by source, and going on."""

import itertools

import numpy as np
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax.data.masking import Masking
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import prepare
from roberta_jax.pretraining.course import Course, Reading, Source
from roberta_jax.pretraining.job import pretrain
from roberta_jax.training.notes import read_notes
from roberta_jax.training.sharding import make_mesh
from roberta_jax.training.workdir import read_metrics
from tests.conftest import english


@pytest.fixture(scope="module")
def short_rows(small_corpus, tmp_path_factory):
    """A corpus of other documents, with the same tokenizer, whose rows are much emptier than the small corpus'."""
    folder = tmp_path_factory.mktemp("short")
    (folder / "text.txt").write_text("\n\n".join(english(300, seed=1)))
    vocabulary = str(small_corpus.folder / "tokenizer")
    recipe = CorpusConfig((str(folder / "text.txt"),), vocabulary, "doc-sentences", length=64, valid_fraction=0.1)
    return prepare(recipe, folder / "corpus", folder / "cache", processes=1)


def test_weights_are_of_tokens_however_full_the_rows_are(small_corpus, short_rows):
    sources = (Source("full", small_corpus, 0.7), Source("short", short_rows, 0.3))
    fills = [c.manifest["tokens"]["train"] / c.manifest["rows"]["train"] for c in (small_corpus, short_rows)]
    assert fills[0] > 1.05 * fills[1]
    course = Course([Reading(0, sources, Masking(), 24, 0)])
    tokens, number = np.zeros(2), 400
    for batch in itertools.islice(course.batches(0, make_mesh()), number):
        lengths = (np.asarray(batch["segment_ids"]) > 0).sum(1)
        tokens += np.bincount(np.asarray(batch["source"]), lengths, 2)
    np.testing.assert_allclose(tokens / tokens.sum(), [0.7, 0.3], atol=2e-3)  # of 9,600 rows of uneven length
    drawn = course.drawn(number)
    expected = [drawn[order] * fill for order, fill in zip(course.reading(0).orders, fills)]
    np.testing.assert_allclose(np.array(expected) / sum(expected), [0.7, 0.3], atol=3e-4)


def test_sources_of_phases_that_end_alike_have_their_whole_paths_as_names(small_corpus):
    changes = {"data.mixture": "old/web=3,old/books=1"}
    for later, names in (("new/web=3\\,old/books=1", ["old/web", "old/books", "new/web"]), ("old/web=1", ["web", "books"])):
        run = config(small_corpus, phases=f"steps=3,data.mixture={later}", **changes)
        read = [name for phase in run.parts for name, *_ in run.sources_of(phase.config.data)]
        assert list(dict.fromkeys(read)) == names and [name for name, *_ in run.sources_of(run.data)] == names[:2]


def test_a_run_says_losses_by_source_and_goes_on_from_a_kill(small_corpus, other_corpus, tmp_path, capsys):
    """By way of a phase with one source alone; the step is compiled once. The run's own batch, which no phase has, is none."""
    for name, corpus in (("web", small_corpus), ("books", other_corpus)):
        (tmp_path / name).symlink_to(corpus.folder)
    mixture = f"{tmp_path}/web=3,{tmp_path}/books=1"
    phases = f"steps=3 batch_size=16 data.mixture= data.source={tmp_path}/books,steps=5 batch_size=16"
    run = config(small_corpus, steps=8, batch_size=12, phases=phases, **{"data.mixture": mixture})  # on 8 devices
    pretrain(run, tmp_path / "one")
    said = capsys.readouterr().out
    assert said.count("compiled the step") == 1 and "% from web: 1,776 rows" in said
    lines = read_metrics(tmp_path / "one")
    first, *_, last = [line for line in lines if "train/loss" in line]
    assert first["train/share/books"] == 1 and np.isnan(first["train/loss/web"])
    shares, losses = ([last[f"train/{kind}/{name}"] for name in ("web", "books")] for kind in ("share", "loss"))
    assert sum(shares) == pytest.approx(1, rel=1e-6) and shares[0] == pytest.approx(0.75, abs=0.05)
    assert np.dot(shares, losses) == pytest.approx(last["train/loss"], rel=1e-5)
    valid = lines[-1]
    assert valid["valid/loss"] == pytest.approx(0.75 * valid["valid/loss/web"] + 0.25 * valid["valid/loss/books"], rel=1e-6)
    noted = read_notes(tmp_path / "one" / "checkpoints", 8).memory["data"]["rows"]
    assert noted.pop("in all") == sum(noted.values()) == 128 and 3 * 16 in noted.values() and len(noted) == 3
    pretrain(run, killed_after(tmp_path / "one", 6, tmp_path / "killed"))
    assert_same(tmp_path / "one", tmp_path / "killed", 8)
