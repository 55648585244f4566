"""Everything public in these rooms says in a line what it does."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "roberta_jax"
ROOMS = ("training/*.py", "model/*.py", "hardware.py", "hlo_analysis.py", "bucketing.py", "plan.py", "data/masking.py")
PATHS = sorted(path for room in ROOMS for path in PACKAGE.glob(room) if path.name != "__init__.py")
EVIDENT = ("setup", "close", "__call__")  # Flax's and Python's own
DEFINITIONS = ast.FunctionDef | ast.ClassDef


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_everything_public_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} does not say what it holds"
    public = [node for node in tree.body if isinstance(node, DEFINITIONS) and not node.name.startswith("_")]
    methods = [
        node for owner in public if isinstance(owner, ast.ClassDef) for node in owner.body if isinstance(node, DEFINITIONS)
    ]
    for node in public + [each for each in methods if not each.name.startswith("_") and each.name not in EVIDENT]:
        assert ast.get_docstring(node), f"{path}, line {node.lineno}: {node.name} has no docstring"
