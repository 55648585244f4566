"""Runs in phases: which steps each has, its rate, its rows and masks, and that a kill in any changes nothing."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import assert_same, config, killed_after

from roberta_jax.data.masking import Masking
from roberta_jax.data.pipeline import train_batches
from roberta_jax.errors import UserError
from roberta_jax.pretraining.config import with_sizes
from roberta_jax.pretraining.course import Course, Reading, Source
from roberta_jax.pretraining.job import pretrain
from roberta_jax.training import provenance
from roberta_jax.training.checkpoint import read_arrays
from roberta_jax.training.notes import read_notes
from roberta_jax.training.sharding import make_mesh


def rates(*args, **changes) -> np.ndarray:
    return np.asarray(jax.vmap(config(*args, **changes).rates())(jnp.arange(502)))


WHOLE = {"steps": 500, "optimizer.warmup_steps": 50.0}


@pytest.mark.parametrize("phases", ["steps=400,steps=100", "steps=0.8, optimizer.schedule=1-sqrt"])
def test_a_phase_with_a_decay_is_the_end_of_the_one_schedule(small_corpus, phases):
    """Where no phase names a rate, there is one schedule over all steps, whatever the phases."""
    decay = {"optimizer.schedule": "1-sqrt", "optimizer.decay_steps": 100.0}
    of_config = {} if "1-sqrt" in phases else decay
    found = rates(small_corpus, phases=phases, **WHOLE, **of_config)
    np.testing.assert_array_equal(found, rates(small_corpus, **WHOLE, **decay))
    assert found[400] == np.float32(3e-3) and found[500] == pytest.approx(3e-4) and found[450] < found[449]


def test_phases_have_shares_of_the_steps_and_a_warm_up_from_the_rate_before(small_corpus):
    run = config(small_corpus, phases="steps=0.5 optimizer.schedule=linear,steps=150,optimizer.warmup_steps=10", **WHOLE)
    assert [(phase.first, phase.config.steps) for phase in run.parts] == [(0, 250), (250, 150), (400, 100)]
    found = np.asarray(jax.vmap(run.rates())(jnp.arange(501)))
    peak, floor = np.float32(3e-3), np.float32(3e-4)
    np.testing.assert_allclose(found[[0, 25, 50, 249]], [0, peak / 2, peak, floor + (peak - floor) / 200], rtol=1e-5)
    np.testing.assert_array_equal(found[250:400], peak)  # no warm-up, where none is asked for
    np.testing.assert_array_equal(found[400:], peak)  # it begins at the peak
    down = config(small_corpus, phases="steps=250,optimizer.warmup_steps=10 optimizer.learning_rate=1e-3", **WHOLE)
    np.testing.assert_allclose(np.asarray(jax.vmap(down.rates())(jnp.array([250, 255, 260]))), [3e-3, 2e-3, 1e-3], rtol=1e-5)


def test_phases_keep_their_proportions_in_a_short_run(small_corpus):
    run = config(small_corpus, phases="steps=400 data.masking_rate=0.3,steps=90,data.fraction=0.5", **WHOLE)
    assert run.phases_of(20) == "steps=16 data.masking_rate=0.3,steps=3,steps=1 data.fraction=0.5"
    short = config(small_corpus, phases=run.phases_of(50), **WHOLE | {"steps": 50})
    assert [(phase.first, phase.config.steps) for phase in short.parts] == [(0, 40), (40, 9), (49, 1)]
    assert [phase.config.data.fraction for phase in short.parts] == [1, 1, 0.5]
    rates = "steps=200 optimizer.warmup_steps=100,optimizer.decay_steps=150 optimizer.schedule=linear"
    for steps, first, last in ((20, (4, 0), (0, 6)), (5, (1, 0), (0, 2))):  # of 8 and 12 steps, of 2 and 3
        phases = config(small_corpus, phases=rates, **WHOLE).phases_of(steps)
        few = config(small_corpus, phases=phases, **WHOLE | {"steps": steps})
        few.check_together()
        found = [(each.config.optimizer.warmup_steps, each.config.optimizer.decay_steps) for each in few.parts]
        assert found == [first, last] and few.parts[1].config.optimizer.schedule == "linear"
    spaced = config(small_corpus, phases="steps=400 'data.source=my text/',steps=100", **WHOLE)
    again = config(small_corpus, phases=spaced.phases_of(50), **WHOLE | {"steps": 50})
    assert [(phase.config.steps, phase.config.data.source) for phase in again.parts][0] == (40, ("my text/",))
    assert [phase.config.steps for phase in again.parts] == [40, 10]


def test_a_phases_source_takes_the_place_of_the_mixture(small_corpus):
    """Whose sources would be read in its place."""
    mixed = "data.mixture=a/=0.5\\,b/=0.5"
    run = config(small_corpus, phases=f"steps=400 {mixed},data.source=best/ data.masking_rate=0.3", **WHOLE)
    mixture = {"data.mixture": "web/=0.7,books/=0.3"}
    other = config(small_corpus, phases=f"steps=300,steps=100 data.source=best/,steps=100 {mixed}", **WHOLE | mixture)
    read = [[[name for name, *_ in phase.config.data.sources()] for phase in each.parts] for each in (run, other)]
    assert read == [[["a", "b"], ["best"]], [["web", "books"], ["best"], ["a", "b"]]]


def test_rows_that_are_measured_fit_the_model_too(small_corpus):
    """valid/loss is of config.data, whatever the phases read: longer rows would have no positions, and no loss."""
    short = config(small_corpus, phases="steps=400 data.length=8,steps=100 data.length=8", **WHOLE | {"model.max_length": 8})
    with pytest.raises(UserError, match="model.max_length is 8; expected at least config.data.length, "):
        short.check_together()
    longer = config(small_corpus, phases="steps=400,data.length=4096", **WHOLE | {"model.max_length": 0})
    assert with_sizes(longer).model.max_length == longer.longest == 4096
    with_sizes(longer).check_together()


def test_commands_that_look_at_one_step_take_the_first_phase_and_say_so(small_corpus, capsys):
    run = config(small_corpus, phases="steps=0.8 batch_size=8 data.masking_rate=0.3,batch_size=32", **WHOLE)
    first = run.of_first_phase()
    assert (first.steps, first.batch_size, first.data.masking_rate, first.phases) == (500, 8, 0.3, ())
    assert "the first of 2, 'steps=0.8 batch_size=8 data.masking_rate=0.3'\n" in capsys.readouterr().err
    assert first.of_first_phase() is first and not capsys.readouterr().err
    warm = "steps=0.8 optimizer.warmup_steps=9,optimizer.schedule=linear"
    long = config(small_corpus, phases=warm, **WHOLE | {"optimizer.warmup_steps": 24_000.0})
    long.check_together()
    long.of_first_phase().check_together()  # whose own warm-up is no phase's


def test_runs_of_the_version_before_there_were_phases_are_the_same_runs(small_corpus):
    named = {f"config.{name}" for name in ("phases", "continue_from", "keep_every", "data.mixture")}
    assert not provenance.fields(config(small_corpus)).keys() & named
    phased = provenance.fields(config(small_corpus, phases="steps=0.5,"))
    assert phased["config.phases"] == "steps=0.5" and "config.keep_every" not in phased


def test_rows_go_on_from_phase_to_phase_and_a_batch_is_a_function_of_its_number(small_corpus):
    """From whichever batch on, and told by a checkpoint or not."""
    masks, few = Masking(), Masking(rate=0.05)
    one = (Source("small", small_corpus),)
    readings = [Reading(0, one, masks, 16, 3), Reading(5, one, few, 32, 3), Reading(7, one, masks, 8, 4)]
    course, mesh = Course(readings), make_mesh()

    def take(course, first, number):
        return jax.device_get(list(itertools.islice(course.batches(first, mesh), number)))

    batches = take(course, 0, 10)
    expected = list(itertools.islice(train_batches(small_corpus, masks, 16, 3), 5))
    expected += list(itertools.islice(train_batches(small_corpus, few, 32, 3, first_row=80), 2))
    expected += list(itertools.islice(train_batches(small_corpus, masks, 8, 4), 3))
    jax.tree.map(np.testing.assert_array_equal, batches, expected)
    (order,), (other,) = readings[0].orders, readings[2].orders
    assert course.drawn(6) == {"in all": 112, order: 112}
    assert course.drawn(9) == {"in all": 160, order: 144, other: 16}
    for first in (4, 6, 9):
        resumed = Course(readings)
        resumed.begin(course.note(first))
        for each in (course, resumed):
            jax.tree.map(np.testing.assert_array_equal, take(each, first, 1), batches[first : first + 1])
            assert each.note(9) == course.note(9)
        rows = np.array(course.rows_of(first))
        labels = np.take_along_axis(small_corpus.train.gather(rows), batches[first]["positions"], 1)
        np.testing.assert_array_equal(labels, batches[first]["labels"])


PHASES = (
    "steps=4 batch_size=8 data.masking_rate=0.3,"
    "steps=4 data.length=32 data.fraction=0.5,"
    "optimizer.schedule=1-sqrt data.length=32 data.fraction=0.5"
)


def test_a_run_killed_in_any_phase_ends_as_an_undisturbed_one(small_corpus, tmp_path, capsys):
    """Other batches, masks, lengths and rows; the step is compiled once for each shape; one curve, one step count."""
    source, vocabulary = small_corpus.folder.parent / "text.txt", small_corpus.folder / "tokenizer"
    data = {"data.source": str(source), "data.tokenizer": str(vocabulary), "data.valid_fraction": 0.1}
    run = config(small_corpus, steps=11, phases=PHASES, **data)
    pretrain(run, tmp_path / "one")
    said = capsys.readouterr().out
    assert re.findall(r"compiled the step for (.*) in", said) == ["(8, 64)", "(16, 32)"]
    assert "phase 2 of 3, steps 5 to 8: steps=4 data.length=32 data.fraction=0.5\n" in said
    noted = read_notes(tmp_path / "one" / "checkpoints", 11).memory["data"]
    assert sorted(noted["rows"].values()) == [4 * 8, 7 * 16, 4 * 8 + 7 * 16]
    arrays = read_arrays(tmp_path / "one" / "checkpoints", 11)
    assert np.isfinite(arrays["guard/losses"]).sum() == 7  # compared with one another: the last phase changes the rate alone
    for step in (4, 10):
        killed = killed_after(tmp_path / "one", step, tmp_path / f"killed-{step}")
        pretrain(run, killed)
        assert_same(tmp_path / "one", killed, 11)
