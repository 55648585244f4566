"""The ledger: every second belongs to one kind, over all starts, and a wait that is too long is told of."""

import json
import time

import pytest

from roberta_jax.training import ledger as ledger_module
from roberta_jax.training.ledger import Ledger


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(ledger_module.time, "perf_counter", lambda: now[0])
    return now


def spend(clock, seconds):
    clock[0] += seconds


def test_every_second_is_of_one_kind_and_steps_that_are_made_twice_are_lost(tmp_path, clock):
    ledger = Ledger(tmp_path, pytest.fail)
    spend(clock, 5)
    ledger.begin(0)
    spend(clock, 30)
    with ledger("data"):
        spend(clock, 2)
    with ledger("evaluate"):
        spend(clock, 3)
    assert ledger.lap() == pytest.approx(32)
    spend(clock, 10)
    ledger.save(40)
    ledger.close()
    assert json.loads((tmp_path / "ledger.json").read_text())["step"] == 40
    again = Ledger(tmp_path, pytest.fail)
    spend(clock, 5)
    again.begin(30)  # ten of forty steps, which took 40 s, come again
    spend(clock, 10)
    line = again.close()
    assert again.seconds == {"step": 40, "start": 10, "compile": 0, "data": 2, "evaluate": 3, "checkpoint": 0, "lost": 10}
    assert again.goodput == pytest.approx(40 / 65) and again.starts == 2
    assert line == "65 s in 2 start(s): step 61.5%, start 15.4%, data 3.1%, evaluate 4.6%, lost 15.4%"


def test_of_a_run_that_continues_another_its_own_steps_are_lost_alone(tmp_path, clock):
    for start, reached in ((400_000, 400_900), (400_500, 400_600)):
        ledger = Ledger(tmp_path, pytest.fail)
        ledger.begin(start)
        spend(clock, reached - start)
        ledger.save(reached)
        ledger.close()
    assert ledger.seconds["lost"] == pytest.approx(400) and ledger.seconds["step"] == pytest.approx(600)


def test_a_batch_that_does_not_come_is_told_of_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "LONGEST", {"data": 0.2, "step": 30.0})
    told = []
    ledger = Ledger(tmp_path, told.append)
    ledger.begin(0)
    with ledger("data"):
        time.sleep(0.8)
    ledger.close()
    (sentence,) = told
    assert sentence.startswith("the next batch has not come for 0 s")
