"""The commands of docs/adapting.md, on folders of the published layouts with random weights."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import transformers
from forked import Process, simulated
from test_round_trip import write

from benchmarks.vectors import measure, read_pairs
from roberta_jax import inference
from roberta_jax.interop import hub
from tests.conftest import english

PAGE = Path(__file__).parents[2] / "docs" / "adapting.md"
COMMANDS = re.findall(r"^```sh\n(python -m roberta_jax\.main .*?)^```", PAGE.read_text(), re.M | re.S)
LAYOUTS = {"roberta-base": "roberta", "xlm-roberta-base": "xlm_roberta"}
# What makes a run small and no other: two steps, and rows, batches and vocabularies for a model of two narrow layers.
SMALL = {"steps": 2, "batch_size": 8, "log_every": 1, "eval_every": 2, "checkpoint_every": 2, "optimizer.warmup_steps": 1}
SMALL |= {"microbatch_size": 0, "data.length": 64, "data.valid_fraction": 0.1, "data.processes": 1}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """What the page's names stand for."""
    folder = tmp_path_factory.mktemp("places")
    for name, layout in LAYOUTS.items():
        write(layout, folder / name)
    (folder / "text").mkdir()
    (folder / "text" / "lines.txt").write_text("\n\n".join(english(60, 3)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "roberta-base")
    tokenizer.add_tokens(["thrombocytopenia", "immunoglobulin"])
    tokenizer.save_pretrained(folder / "vocabulary")
    return {name: str(folder / name) for name in (*LAYOUTS, "text/", "vocabulary/")}


def test_the_pages_commands_are_found():
    assert len(COMMANDS) >= 3 and {name for name in LAYOUTS for command in COMMANDS if f"={name} " in command} == {*LAYOUTS}


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_a_command_of_the_page_runs(number, places, tmp_path):
    words = shlex.split(re.sub(r" *\\\n\s*", " ", COMMANDS[number]))[3:]
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    flags |= {name: places.get(value, value) for name, value in flags.items()} | {"workdir": str(tmp_path / "run")}
    if flags.get("config.data.tokenizer", "").isdigit():
        flags["config.data.tokenizer"] = "320"
    longer = "config.data.length" in flags
    flags |= {f"config.{name}": str(value) for name, value in SMALL.items()} | {"config.data.cache": str(tmp_path / "cache")}
    if longer:
        flags["config.data.length"] = "256"
    process = Process(
        [f"--{name}={value}" if value else f"--{name}" for name, value in flags.items()], simulated(1), tmp_path / "log"
    )
    assert process.wait() == 0, process.output()
    before, after = hub.load(flags["config.init_from"]), hub.load(tmp_path / "run")
    assert after.config.hidden_size == before.config.hidden_size and after.origin.endswith("step 2")
    assert (after.config.max_length, before.config.max_length) == ((256, 128) if longer else (128, 128))
    said = "takes the place of the model's" in process.output()
    assert said == ("config.new_vocabulary" in flags) == (before.tokenizer.base.hash != after.tokenizer.base.hash)
    if "vocabulary" in flags.get("config.data.tokenizer", ""):
        kept = len(before.tokenizer)
        assert len(after.tokenizer) == kept + 2 and f"{kept} are in both and copied, 2 begin as the mean" in process.output()


def test_an_export_learns_to_tell_texts_apart_in_sentence_transformers(assets, tmp_path, monkeypatch):
    """By the page's own lines; the vectors that `embed` then gives are those of sentence-transformers."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers, which the recipe is for, is not installed")
    write("roberta", tmp_path / "released")
    hub.export(tmp_path / "released", tmp_path / "DIR")
    pairs = read_pairs(assets / "glue" / "STS-B" / "train.csv")
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([tuple(pairs), *list(zip(*pairs.values()))[::100]])
    (lines,) = re.findall(r"^```python\n(import datasets\n.*?)^```", PAGE.read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(lines, known)
    found = measure(known["encoder"], {name: values[:40] for name, values in pairs.items()})
    assert -1 <= found["spearman"] <= 1 and -1 <= found["cosine_of_others"] < 1
    texts = pairs["sentence1"][:40]
    theirs = known["encoder"].encode(texts)
    np.testing.assert_allclose(inference.load(tmp_path / "VECTORS").embed(texts), theirs, atol=1e-4)
    before = inference.load(tmp_path / "DIR").embed(texts)
    assert np.abs(before - theirs).max() > 1e-3  # it has learned
