"""An import only goes down, and each heavy package stays where the design keeps it."""

import ast
import functools
from pathlib import Path

import pytest

from tests.conftest import peers_of

PACKAGE = Path(__file__).parent.parent / "roberta_jax"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
SOURCES = {path: (PACKAGE / path).read_text() for path in MODULES}

# From the ground up: what stands in one line imports the lines below it, and of its own line only its own folder or file.
LAYERS = [
    {"output"},
    {"errors", "imports", "memory", "bucketing", "hlo_analysis", "html_page", "walk"},
    {"stores"},
    {"storage", "config", "config_files", "hardware", "snapshot"},
    {"lock", "folder_hashes"},
    {"model", "tokenization"},
    {"training", "data"},
    {"interop", "preparation"},
    {"pretraining", "tasks", "pairs", "scoring"},
    {"inference", "planning"},
    {"ablations", "explain", "notebook"},
]
NEVER = {("training", "tokenization")}  # below it, but what every job shares knows arrays alone
COMMANDS = {  # which nothing imports
    "main", "prepare", "inspect", "plan", "export", "fill_mask", "embed", "minimal_pairs", "serving", "demo", "verify_resume"
}  # fmt: skip
DOOR = "__main__"  # runs each command by its name
MOVED = {"data/prepare.py", "data/inspect.py", "data/beam.py", "interop/hub.py"}  # say what their command is called now
# package → where alone it may be imported
ONLY_IN = {
    "tensorflow": {"data/tensorflow_on_host.py"},
    "tensorflow_datasets": {"preparation"},
    "flax": {"model"},
    "orbax": {"training/checkpoint.py"},
    "ml_collections": {"config_files.py"},
    "apache_beam": {"preparation/beam.py"},
    "fsspec": {"stores.py"},
    "wandb": {"training/trackers.py"},
    "mlflow": {"training/trackers.py"},
    "trackio": {"training/trackers.py"},
    "matplotlib": {"ablations", "notebook.py"},
    "IPython": {"notebook.py"},
    "torch": set(),
    "transformers": set(),
    "benchmarks": set(),
    "configs": set(),
    "tests": set(),
}


@functools.cache
def imports(text: str, path: Path) -> set[str]:
    """Every module, and every name of one, that a file imports, whenever it does."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = [*path.parts[:-1]][: len(path.parts) - node.level] if node.level else None
            module = ".".join(["roberta_jax", *package, *filter(None, [node.module])]) if node.level else node.module
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__", "run_module", "resolve_name"):
                said = node.args[0] if node.args else None
                found.add(str(said.value).replace(":", ".") if isinstance(said, ast.Constant) else "a name that is computed")
    return found


def part(path: Path) -> str:
    return path.with_suffix("").parts[0]


def layer(name: str) -> int:
    return next((i for i, names in enumerate(LAYERS) if name in names), len(LAYERS) if name in COMMANDS | {DOOR} else -1)


def graph(sources: dict[Path, str]) -> dict[Path, set[Path]]:
    """file → the files that it imports"""
    by_name = {".".join(["roberta_jax", *path.with_suffix("").parts]): path for path in sources if path.name != "__init__.py"}
    return {path: {by_name[name] for name in imports(text, path) & by_name.keys()} for path, text in sources.items()}


def circles(edges: dict[Path, set[Path]]) -> list[set[Path]]:
    """The pairs of files each of which imports the other, be it by way of more."""

    def reached(start: Path) -> set[Path]:
        found, todo = set(), [start]
        while todo:
            new = edges[todo.pop()] - found
            found |= new
            todo += new
        return found

    below = {path: reached(path) for path in edges}
    return [{path, other} for path in edges for other in below[path] if path < other and path in below[other]]


def faults(sources: dict[Path, str]) -> list[str]:
    """What is wrong with who imports what, a sentence each."""
    found, edges = [], graph(sources)
    for path, text in sources.items():
        here, names = part(path), imports(text, path)
        if layer(here) < 0 and path.name != "__init__.py":
            found.append(f"{path} stands in no layer")
        for other in edges[path]:
            there = part(other)
            if there in COMMANDS:
                found.append(f"{path} imports the command {other}")
            elif (here, there) in NEVER:
                found.append(f"{path} imports {other}")
            elif layer(there) > layer(here) or layer(there) == layer(here) and there != here and there not in COMMANDS:
                found.append(f"{path} imports {other}, which is not below it")
        for package in {name.split(".")[0] for name in names} & ONLY_IN.keys():
            if here not in ONLY_IN[package] and path.as_posix() not in ONLY_IN[package]:
                found.append(f"{path} imports {package}")
        if "a name that is computed" in names and here != DOOR:
            found.append(f"{path} imports what no reader can see")
        if (
            len(path.parts) > 1
            and path.as_posix() not in MOVED
            and (names & {"argparse", "absl.app", "absl.flags"} or "\nif __name__" in text)
        ):
            found.append(f"{path} is a command inside a folder")
    return found + [f"{one} and {other} import each other" for one, other in map(sorted, circles(edges))]


def test_an_import_only_goes_down():
    assert not faults(SOURCES)


PLANTED = {  # file → what is added to it
    "a folder above": ("model/layers.py", "from roberta_jax.training import step"),
    "a folder beside": ("training/step.py", "from roberta_jax.data.corpus import Corpus"),
    "text by those who train": ("training/train.py", "import roberta_jax.tokenization.encodings"),
    "the other job": ("tasks/runs.py", "from roberta_jax.pretraining import job"),
    "the ground on the house": ("storage.py", "from roberta_jax.data import order"),
    "the ground within itself": ("errors.py", "from roberta_jax import storage"),
    "inside a function": ("data/corpus.py", "def f():\n    from roberta_jax.interop import hub"),
    "for types alone": ("interop/pretrained.py", "if TYPE_CHECKING:\n    from roberta_jax.interop.hub import load"),
    "a circle in a folder": ("model/tracing.py", "from roberta_jax.model import attention"),
    "a circle of three": ("training/sharding.py", "from roberta_jax.training.train import Job"),
    "by a relative path": ("model/dropout.py", "from ..training import step"),
    "by its name at run time": ("model/heads.py", "importlib.import_module('roberta_jax.inference')"),
    "by a name that is computed": ("model/heads.py", "importlib.import_module(f'roberta_jax.{where}')"),
    "by __import__": ("data/masking.py", "__import__('roberta_jax.pretraining.job')"),
    "a command": ("ablations/run.py", "from roberta_jax import fill_mask"),
    "a command inside a folder": ("tasks/examples.py", "import argparse"),
    "the benchmarks": ("inference.py", "from benchmarks import sides"),
    "the configs": ("config.py", "import configs.base"),
    "the tests": ("inference.py", "from tests import conftest"),
    "tensorflow elsewhere": ("data/masking.py", "import tensorflow as tf"),
    "flax elsewhere": ("training/train.py", "import flax.linen"),
    "orbax elsewhere": ("training/train.py", "from orbax import checkpoint"),
    "a file of a store": ("preparation/documents.py", "import fsspec"),
    "torch": ("interop/torch_files.py", "import torch"),
    "a new folder": ("extra/new.py", "import os"),
}


@pytest.mark.parametrize("where", PLANTED)
def test_each_kind_of_fault_is_found(where):
    path, added = PLANTED[where]
    text = SOURCES.get(Path(path), "")
    assert faults(SOURCES | {Path(path): f"{text}\n{added}\n"})


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_file_is_longer_than_400_lines(path):
    assert len((PACKAGE / path).read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_function_is_longer_than_100_lines(path):
    """So that it is read without scrolling back."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 100, f"{path}: {node.name} has {node.end_lineno - node.lineno + 1} lines"


# What reads and what writes

COLOURED = "inspect.py"  # its text is made printable piece by piece, between escape sequences of its own
# Files that grow line by line, or whose half is as good as nothing: a lock, a lock's neighbour, a child's output.
GROWING = {"training/logging.py", "lock.py", "verify_resume.py", "storage.py"}
WRITES = {"write_text", "write_bytes", "open", "ZipFile", "save_file", "ParquetWriter"}


def calls(path: Path):
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Call):
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), owner, node


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_all_that_is_printed_goes_through_one_function(path):
    printed = [
        name for name, owner, _ in calls(path) if (name, owner) == ("print", "") or owner in ("sys.stdout", "sys.stderr")
    ]
    allowed = {"output.py": ["print"], COLOURED: ["print", "isatty"], "training/distributed.py": ["flush", "flush", "fileno"]}
    allowed |= {"errors.py": ["flush"], "minimal_pairs.py": ["isatty"], "data/tensorflow_on_host.py": ["flush", "flush"]}
    assert sorted(printed) == sorted(allowed.get(path.as_posix(), [])), f"{path} prints by itself; output.show does it"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_all_that_stays_is_written_by_way_of_a_partial_file(path):
    if path.as_posix() in GROWING:
        return
    for name, owner, node in calls(path):
        if name not in WRITES or owner == "storage":
            continue
        arguments = [ast.unparse(each) for each in (*node.args, *(keyword.value for keyword in node.keywords))]
        reads = name in ("open", "ZipFile") and not any(mode[:2] in ("'w", "'a", "'x", "'r+") for mode in arguments)
        to = arguments[0] if name in ("open", "ZipFile", "ParquetWriter") else f"{owner} {arguments[1:2]}"
        assert reads or "partial" in to or to == "path" and path.as_posix() in ("data/corpus.py", "embed.py"), (
            f"{path}, line {node.lineno}: {ast.unparse(node)[:60]} does not write to a partial file of storage.written"
        )


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_json_is_written_by_one_function(path):
    """The rest of json.dumps is hashed, compared, read by json.loads here, or the vocabulary, which has no numbers but ids."""
    allowed = {
        "output.py", "main.py", "pretraining/job.py", "tasks/runs.py",
        "tokenization/tokenizer.py", "tokenization/encodings.py", "tokenization/pretrained.py",
        "preparation/plan.py", "preparation/docstrings.py", "preparation/shards.py", "preparation/duplicates.py",
        "training/meeting.py", "training/notes.py", "training/provenance.py",
    }  # fmt: skip
    found = [name for name, owner, _ in calls(path) if owner == "json" and name in ("dump", "dumps")]
    assert not found or path.as_posix() in allowed, f"{path} writes JSON by itself; output.to_json does it"


def test_tests_that_compare_with_no_peer_need_none():
    """What a file imports of the tests' own modules, and the conftest.py that it is below, import no peer in its place."""
    tests = sorted(Path(__file__).parent.rglob("*.py"))
    named = {path.stem: path for path in tests}
    for path in tests:
        if not peers_of(path):
            imported = [each for each in ast.parse(path.read_text()).body if isinstance(each, ast.Import | ast.ImportFrom)]
            names = {name for each in imported for name in (getattr(each, "module", ""), *(one.name for one in each.names))}
            others = [named[name] for name in names if name in named] + [*path.parent.glob("conftest.py")]
            assert not [other for other in others if peers_of(other)], path
