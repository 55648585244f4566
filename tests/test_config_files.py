"""Which config a flag names, and what it builds on, wherever a command is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roberta_jax.config_files import SHIPPED, find, load_config
from roberta_jax.errors import UserError

ROOT = Path(__file__).parent.parent
FOREIGN = "raise SystemExit('a foreign config was read')\n"
# In one process: for each folder and its arguments what the command's flags make of the config, or its error.
READ = """
import json, os, sys
from absl import flags
from roberta_jax.config_files import define_config, parse_flags
from roberta_jax.errors import UserError
for folder, *arguments in json.load(sys.stdin):
    os.chdir(folder)
    sys.path[0] = folder  # as `python -m` has it
    for name in list(flags.FLAGS):
        if name.startswith("config"):
            delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    sys.argv[1:] = arguments
    config = define_config()
    try:
        parse_flags(sys.argv, config)
        print(json.dumps(config.value.to_dict()))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def read(*cases: tuple) -> list:
    """What `(folder, argument …)` give, each the fields of a config or a sentence."""
    said = subprocess.run(
        [sys.executable, "-c", READ],
        input=json.dumps([[str(folder), *arguments] for folder, *arguments in cases]),
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    return [json.loads(line) for line in said.stdout.splitlines()]


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A working directory that has a `configs` of somebody else's, in each form in which Python would find it."""
    folder = tmp_path / "elsewhere"
    (folder / "configs").mkdir(parents=True)
    for name in ("configs.py", "base.py", "configs/__init__.py", "configs/base.py", "configs/tiny.py"):
        (folder / name).write_text(FOREIGN)
    return folder


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder with configs of a user's own."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "small.py").write_text(
        "from configs import base\n\n\ndef get_config(steps='7'):\n    config = base.get_config()\n"
        "    config.steps = int(steps)\n    return config\n"
    )
    return folder


def test_a_config_of_the_package_is_named_by_name_or_path_wherever_one_is(elsewhere, tmp_path):
    names = ["tiny", "base", "large", "finetune:rte", "ablations:masking"]
    arguments = [[f"--config={name}", "--config.seed=3"] for name in names]
    arguments += [[f"--config={SHIPPED / name.partition(':')[0]}.py{''.join(name.partition(':')[1:])}"] for name in names]
    found = read(*((elsewhere, *each) for each in arguments), (ROOT, "--config=configs/tiny.py"), (ROOT, "--config", "tiny"))
    by_name, by_path, (tiny, apart) = found[: len(names)], found[len(names) : -2], found[-2:]
    assert all(isinstance(fields, dict) for fields in found), found
    assert [fields["seed"] for fields in by_name] == [3] * len(names)
    assert [fields | {"seed": 0} for fields in by_name] == by_path
    assert tiny == apart == by_path[0] and by_path[2]["model"]["num_layers"] == 24 and by_path[3]["task"] == "rte"


def test_a_config_builds_on_what_stands_beside_it_then_on_the_packages_own(elsewhere, mine):
    small = f"--config={mine / 'small.py'}"
    shipped, given = read((elsewhere, small), (elsewhere, f"{small}:9", "--config.batch_size=8"))
    assert (shipped["steps"], shipped["batch_size"]) == (7, 8_192) and (given["steps"], given["batch_size"]) == (9, 8)
    (mine / "base.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'a': 1, 'steps': 2})\n"
    )
    beside, relative = read((elsewhere, small), (mine, "--config=small.py"))
    assert beside == relative == {"a": 1, "steps": 7}


def test_a_path_that_is_not_there_is_a_sentence_that_says_what_there_is(elsewhere, mine):
    (mine / "wrong.py").write_text("def get_config():\n    return 1 / 0\n")
    (mine / "half.py").write_text("def get_config(:\n")
    (mine / "other.py").write_text("from configs import nothing\n")
    (mine / "empty.py").touch()
    (mine / "none.py").write_text("def get_config():\n    pass\n")
    cases = {
        "configs/large.py": "--config=large comes with the package",
        "no/such.py": "there is no such file; by name there are ablations, base, finetune, large, small, tiny.",
        "huge": "--config=huge: there is no such config; by name there are",
        "tiny:much": "tiny.py: TypeError: get_config() takes 0 positional arguments but 1 was given.",
        f"{mine}/wrong.py": f"{mine}/wrong.py, line 2: ZeroDivisionError: division by zero.",
        f"{mine}/half.py": f"{mine}/half.py: SyntaxError: invalid syntax (half.py, line 1).",
        f"{mine}/other.py": f"{mine}/other.py, line 1: ImportError: cannot import name 'nothing' from 'configs'",
        f"{mine}/empty.py": f"{mine}/empty.py: has no function get_config; expected",
        f"{mine}/none.py": f"{mine}/none.py: get_config gives None; expected a ConfigDict.",
        f"{mine}/config.json": f"{mine}/config.json is no config file; expected one of Python, whose name ends in .py.",
        "../mine/wrong.py": "../mine/wrong.py, line 2: ZeroDivisionError: division by zero.",
    }
    (mine / "config.json").write_text("{}")
    for name, said in zip(cases, read(*((elsewhere, f"--config={name}") for name in cases))):
        assert isinstance(said, str) and cases[name] in said and "\n" not in said, said


def test_what_belongs_to_no_flag_is_refused(elsewhere):
    """A shell that expands text/*.txt, a space in the place of a comma, a forgotten --: none is half the data in silence."""
    forgotten = (["--config.data.source", "a/", "b/"], ["config.steps=9"], ["--config.steps=9", "now"])
    for words, said in zip(forgotten, read(*((elsewhere, "--config=tiny", *words) for words in forgotten))):
        assert isinstance(said, str) and said.startswith(f"{words[-1]!r} belongs to no flag; expected --FLAG=VALUE"), said


def test_a_name_of_the_packages_goes_before_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_text(FOREIGN)
    Path("mine").touch()
    assert find("tiny") == SHIPPED / "tiny.py" and find("mine") == Path("mine")
    with pytest.raises(UserError, match="there is no such config"):
        find("min")


CHANGES = {"steps": 5, "data.source": "a.txt,b.txt", "data.tokenizer": "300", "optimizer.learning_rate": 1e-4, "seed": 7}


@pytest.mark.parametrize("name", ["tiny", str(SHIPPED / "small.py")])
def test_a_program_is_given_the_fields_that_a_command_is(name, tmp_path):
    (fields,) = read((tmp_path, f"--config={name}", *(f"--config.{field}={value}" for field, value in CHANGES.items())))
    assert load_config(name, CHANGES) == fields


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("tiniest", {}, "there is no such config"),
        ("tiny", {"stepz": 5}, "config.stepz cannot be 5: "),
        ("tiny", {"data.sauce": "x"}, "config.data.sauce cannot be 'x': "),
        ("tiny", {"steps": "many"}, "config.steps cannot be 'many': "),
        ("tiny", {"data": 5}, "config.data cannot be 5: "),
        ("finetune:sst2", {"model.num_layers": 5}, "config.model.num_layers cannot be 5: "),
    ],
)
def test_what_a_program_cannot_change_is_a_sentence(name, fields, said):
    with pytest.raises(UserError, match=said):
        load_config(name, fields)
