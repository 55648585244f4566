"""The notebooks run from top to bottom, with small settings; as they lie in git they hold no output."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from forked import simulated
from test_docs import anchors

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def with_parameters(name: str, **parameters):
    """A notebook with these in a cell behind that of the tag `parameters`, as papermill does it."""
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    (at,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    known = set(re.findall(r"^(\w+) = ", notebook.cells[at].source, re.M))
    assert parameters.keys() <= known, parameters.keys() - known
    injected = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in parameters.items()))
    notebook.cells.insert(at + 1, injected)
    return notebook


def outputs(notebook, of: str):
    """What the one cell whose source has `of` in it has shown: (its text, the MIME types of its pictures and pages)."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and of in cell.source)
    text = "".join(each.get("text", "") for each in cell.outputs)
    return text, {kind for each in cell.outputs for kind in each.get("data", {})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, documents) -> Path:
    """The working folder of both, with a text and a table."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "text.txt").write_text("\n\n".join(documents[:200]))
    return folder


@pytest.fixture(scope="module")
def executed(folder) -> dict:
    """name → the notebook after its last cell. One kernel runs both, the second in a namespace of its own: what they import is
    imported once."""
    sentences = ["The old sailor found <mask> near the harbour."]
    first = with_parameters("pretrain.ipynb", TEXT="text.txt", STEPS=20, VOCABULARY=400, SENTENCES=sentences)
    second = with_parameters("finetune.ipynb", MODEL="run", STEPS=10, BATCH=8, MAX_LENGTH=32)
    both = nbformat.v4.new_notebook(metadata=first.metadata)
    both.cells = [*first.cells, nbformat.v4.new_code_cell("%reset -f"), *second.cells]
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (simulated(1) | {"PYTHONPATH": str(ROOT)}).items():
            patched.setenv(name, value)
        patched.delenv("TF_CPP_MIN_LOG_LEVEL")  # the tests' own wish
        nbclient.NotebookClient(both, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return {"pretrain.ipynb": first, "finetune.ipynb": second}


@pytest.fixture(scope="module")
def pretrained(executed):
    return executed["pretrain.ipynb"]


@pytest.fixture(scope="module")
def tuned(executed):
    return executed["finetune.ipynb"]


def test_a_text_becomes_a_model_that_fills_masks(pretrained, folder):
    assert "is installed" in outputs(pretrained, "SOURCE =")[0]
    assert "on 1 × cpu" in outputs(pretrained, "notebook.begin()")[0]
    page = outputs(pretrained, "notebook.rows(")[1]
    assert "text/html" in page
    said, shown = outputs(pretrained, "live_curve")
    assert "image/png" in shown and "step 20/20" in said and "without learning the loss is" in said
    assert outputs(pretrained, "fill_mask(SENTENCES)):")[0].count("%") == 5
    assert "nats   best:" in outputs(pretrained, "surprises")[0]
    assert "model.safetensors" in outputs(pretrained, "SAVE_TO ==")[0] and (folder / "exported" / "config.json").is_file()


def test_a_table_becomes_a_classifier_with_a_confusion_matrix(tuned, folder):
    assert "labels: jax, matplotlib, numpy, os, scipy" in outputs(tuned, "read_splits(")[0]
    said, shown = outputs(tuned, "live_curve")
    assert "image/png" in shown and "step 10/10" in said
    said, shown = outputs(tuned, "confusion_matrix")
    assert "custom-classification" in said and "image/png" in shown
    assert outputs(tuned, "model.classify")[0].count("%") == 10
    assert (folder / "exported-classifier" / "model.safetensors").is_file()


@named
def test_nothing_is_said_but_by_us(path, executed):
    """No line of another library, and on standard error the preparation's bar alone."""
    for cell in executed[path.name].cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                assert re.fullmatch(r"(preparing:[^\r\n]*|[\r\n])*", output.text), output.text
            else:
                assert not re.search(r"^(WARNING|ERROR|INFO)|Warning:", output.get("text", ""), re.M), output.text


# As they lie in git


@named
def test_no_output_is_kept(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert cell["cell_type"] == "markdown" or not cell["outputs"] and cell["execution_count"] is None
    assert path.read_text() == nbformat.writes(nbformat.read(path, as_version=4), indent=1) + "\n"


@named
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)):
        if target.startswith("https://"):
            assert target.split("/")[2] in ("colab.research.google.com", "kaggle.com"), target
            continue
        file, _, anchor = target.partition("#")
        assert (path.parent / file).exists() and (not anchor or anchor in anchors((path.parent / file).resolve())), target


def test_one_address_stands_everywhere():
    """In badges, in what the notebooks install, and on the pages: who sets it changes it with one command."""
    files = [*NOTEBOOKS, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    found = {path.name: re.findall(r"github(?:\.com)?/([\w-]+)/roberta_jax", path.read_text()) for path in files}
    assert {owner for owners in found.values() for owner in owners} and len(
        {o for owners in found.values() for o in owners}
    ) == 1
    assert all(len(found[path.name]) == 3 for path in NOTEBOOKS)  # two badges and the install cell


def test_the_command_of_the_page_sets_every_address_and_leaves_the_guard(tmp_path):
    (command,) = re.findall(r"`(sed [^`]*notebooks/\*\.ipynb)`", (ROOT / "CONTRIBUTING.md").read_text())
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    for path in NOTEBOOKS:
        text = (tmp_path / "notebooks" / path.name).read_text()
        assert re.findall(r"github(?:\.com)?/([\w-]+)/roberta_jax", text) == ["YOU"] * 3
        assert text.count("OWNER") == 1 and 'if \\"/OWNER/\\" in SOURCE' in text


@named
def test_the_readme_links_it(path):
    assert f"(notebooks/{path.name})" in (ROOT / "README.md").read_text()
