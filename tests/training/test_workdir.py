"""The names of what lies in a workdir stand in one file."""

import ast
from pathlib import Path

import pytest

from roberta_jax.training import workdir

PACKAGE = Path(__file__).parents[2] / "roberta_jax"
NAMES = {value for name, value in vars(workdir).items() if name.isupper()}
# A corpus and a folder of transformers have their own: alike, as both hold what a workdir holds.
OF_OTHERS = {"interop/hub.py": {"config.json"}, "data/corpus.py": {"tokenizer"}, "ablations/run.py": {"tokenizer"}}
OF_OTHERS |= {"tokenization/encodings.py": {"config.json", "tokenizer"}, "tokenization/published.py": {"config.json"}}
OF_OTHERS |= {f"preparation/{name}.py": {"tokenizer"} for name in ("prepare", "plan", "shards")}


def spelled(text: str) -> set[str]:
    """The workdir's names that a program's text spells: those of files anywhere, those of folders in paths."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            within = [node.left, node.right]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("join"):
            within = node.args
        else:
            within = [node] if isinstance(node, ast.Constant) and "." in str(node.value) else []
        # A pattern of glob such as **/checkpoints too
        values = [str(each.value).rpartition("/")[2] for each in within if isinstance(each, ast.Constant)]
        found |= NAMES.intersection(values)
        if isinstance(node, ast.Constant) and "*" in str(node.value):
            found |= NAMES.intersection(str(node.value).split("/"))
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_other_file_spells_a_name_of_the_workdir(path):
    name = path.relative_to(PACKAGE).as_posix()
    if name != "training/workdir.py":
        assert not spelled(path.read_text()) - OF_OTHERS.get(name, set()), f"{name}: training/workdir.py has these names"


@pytest.mark.parametrize(
    "planted",
    [
        "workdir / 'checkpoints'",
        "storage.join(folder, 'tokenizer')",
        "open(f'{workdir}/metrics.jsonl')",
        "folder.glob('**/checkpoints')",
        "path.name == 'task.json'",
    ],
)
def test_each_way_to_spell_one_is_found(planted):
    assert spelled(planted)


def test_every_name_is_explained():
    for name in NAMES:
        assert name in workdir.__doc__, f"the head of training/workdir.py does not say what {name} is"


def test_metrics_are_read_behind_a_url_too():
    import fsspec

    url = "memory://workdir/metrics.jsonl"
    with fsspec.open(url, "wb") as file:
        file.write(b'{"step": 1, "train/loss": null}\ngarbage\n{"step": 2, "valid/loss": 3.5}\n{"step": 3')

    class Folder(str):
        def __truediv__(self, name: str) -> str:
            return f"{self}/{name}"

    first, second = workdir.read_metrics(Folder("memory://workdir"))
    assert first["step"] == 1 and first["train/loss"] != first["train/loss"] and second == {"step": 2, "valid/loss": 3.5}
