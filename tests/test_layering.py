"""An import only goes down, and each heavy package stays where the design keeps it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "roberta_jax"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# part of the package → the parts that it may import, itself included
BELOW_INTEROP = {"training", "data", "model", "hardware", "config", "errors", "imports"}
MAY_IMPORT = {
    "errors": {"errors"},
    "imports": set(),
    "memory": set(),
    "config": {"errors"},
    "data": {"data", "errors", "imports"},
    "model": {"model", "hardware", "errors"},
    "training": {"training", "data", "model", "hardware", "errors", "imports"},
    "interop": {"interop"} | BELOW_INTEROP,
    "batching": set(),
    "tasks": {"tasks", "interop", "batching"} | BELOW_INTEROP,
    "scoring": {"interop", "model", "batching"},
    "inference": {"tasks", "interop", "batching", "scoring"} | BELOW_INTEROP,
    "pairs": {"pairs", "data", "errors"},
    "serving": {"inference", "batching", "data", "errors"},
    "fill_mask": {"inference", "errors"},
    "embed": {"inference", "data", "errors"},
    "minimal_pairs": {"inference", "scoring", "pairs", "interop"} | BELOW_INTEROP,
    "compiled": set(),
    "hardware": {"errors"},
    "plan": {"compiled"} | BELOW_INTEROP,
    "ablations": {"ablations", "tasks", "interop"} | BELOW_INTEROP,
    "main": {"ablations", "tasks", "interop", "memory"} | BELOW_INTEROP,
    "verify_resume": {"interop", "training", "config", "errors"},
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
