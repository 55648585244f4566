"""An import only goes down, and each heavy package stays where the design keeps it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "roberta_jax"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# part of the package → the parts that it may import, itself included
BELOW_INTEROP = {"training", "data", "model", "hardware", "config", "errors", "imports", "output"}
MAY_IMPORT = {
    "output": set(),
    "errors": {"errors", "output"},
    "imports": set(),
    "memory": set(),
    "config": {"errors"},
    "data": {"data", "errors", "imports", "output"},
    "model": {"model", "hardware", "errors"},
    "training": {"training", "data", "model", "hardware", "errors", "imports", "output"},
    "interop": {"interop"} | BELOW_INTEROP,
    "batching": set(),
    "tasks": {"tasks", "interop", "batching"} | BELOW_INTEROP,
    "scoring": {"interop", "model", "batching"},
    "inference": {"tasks", "interop", "batching", "scoring"} | BELOW_INTEROP,
    "pairs": {"pairs", "data", "errors"},
    "serving": {"inference", "batching", "data", "errors", "output"},
    "fill_mask": {"inference", "errors", "output"},
    "embed": {"inference", "data", "errors"},
    "minimal_pairs": {"inference", "scoring", "pairs", "interop"} | BELOW_INTEROP,
    "compiled": set(),
    "hardware": {"errors"},
    "plan": {"compiled"} | BELOW_INTEROP,
    "ablations": {"ablations", "tasks", "interop"} | BELOW_INTEROP,
    "main": {"ablations", "tasks", "interop", "memory"} | BELOW_INTEROP,
    "verify_resume": {"interop", "training", "config", "errors", "output"},
}
# A command, as main is one, that stands where a person looks for it; nothing imports it.
DATA_INSPECT, INSPECT_IMPORTS = Path("data/inspect.py"), {"training", "config"} | MAY_IMPORT["data"]
# package → where alone it may be imported
ONLY_IN = {
    "tensorflow": {"data"},
    "tensorflow_datasets": {"data"},
    "flax": {"model"},
    "orbax": {"training/checkpoint.py"},
    "ml_collections": {"main.py", "plan.py", "verify_resume.py", "data/inspect.py"},
    "apache_beam": {"data/beam.py"},
    "fsspec": {"data/storage.py"},
    "matplotlib": {"ablations"},
    "torch": set(),
    "transformers": set(),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    return path.with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_down(path):
    if path.name == "__init__.py" and len(path.parts) == 1:
        return
    ours = {name.split(".")[1] for name in imports(path) - {"roberta_jax.__version__"} if name.startswith("roberta_jax.")}
    allowed = INSPECT_IMPORTS if path == DATA_INSPECT else MAY_IMPORT[part(path)]
    assert ours <= allowed, f"{path} imports {ours - allowed}"
    assert "roberta_jax.data.inspect" not in imports(path)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_packages_stay_where_they_belong(path):
    for package in {name.split(".")[0] for name in imports(path)} & ONLY_IN.keys():
        allowed = ONLY_IN[package]
        assert part(path) in allowed or path.as_posix() in allowed, f"{path} imports {package}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_file_is_longer_than_400_lines(path):
    assert len((PACKAGE / path).read_text().splitlines()) <= 400


# What reads and what writes

COLOURED = "data/inspect.py"  # its text is made printable piece by piece, between escape sequences of its own
# Files that grow line by line, or whose half is as good as nothing: a lock, a lock's neighbour, a child's output.
GROWING = {"training/logging.py", "data/lock.py", "verify_resume.py", "data/storage.py"}
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
    allowed |= {"errors.py": ["flush"], "minimal_pairs.py": ["isatty"]}
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
        "output.py", "main.py", "training/pretrain.py", "data/recipe.py", "data/tokenizer.py", "data/encodings.py",
        "data/docstrings.py", "data/shards.py", "data/duplicates.py", "interop/text.py", "tasks/runs.py",
        "training/meeting.py", "training/notes.py", "training/provenance.py",
    }  # fmt: skip
    found = [name for name, owner, _ in calls(path) if owner == "json" and name in ("dump", "dumps")]
    assert not found or path.as_posix() in allowed, f"{path} writes JSON by itself; output.to_json does it"
