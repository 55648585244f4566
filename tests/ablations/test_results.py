"""Runs to JSON and back."""

import json
import math

import pytest

from roberta_jax.ablations.results import Run, in_order, load, save
from roberta_jax.errors import UserError


def test_runs_come_back(tmp_path):
    runs = [
        Run(
            "s", "v", 3, {"loss": 1 / 3, "sst2": 74.9}, [(10, 9.5), (20, 1 / 7)], 1.5, 20, 7, {"tokens_per_word": {"Han": 2.0}}
        ),
        Run("s", "w", 3, {"loss": math.inf, "rte": -math.inf}, [(10, math.inf)], 1.5, 20, 7),
    ]
    path = tmp_path / "new" / "runs.json"
    save(path, runs)
    assert load(path) == runs


def test_not_a_number_is_strict_json_and_comes_back(tmp_path):
    path = tmp_path / "runs.json"
    save(path, [Run("s", "v", 0, {"loss": math.nan}, [(10, math.nan)], 1.0, 10, 7)])
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (run,) = load(path)
    assert math.isnan(run.metrics["loss"]) and math.isnan(run.curve[0][1])


@pytest.mark.parametrize("text", ["[{", '{"a": 1}', '[{"metrics": {}, "curve": []}]', "[1]", '[{"study": "s"}]'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "runs.json"
    path.write_text(text)
    with pytest.raises(UserError, match="runs.json.*is not a list of runs"):
        load(path)
    with pytest.raises(UserError, match="none.json.*not there"):
        load(tmp_path / "none.json")


def test_order_of_metrics():
    assert in_order(["zzz", "sst2", "aaa", "loss", "sst2"]) == ["loss", "sst2", "aaa", "zzz"]
