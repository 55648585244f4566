"""What the notebooks show is what a run has written."""

import json
import random
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from roberta_jax import notebook
from roberta_jax.config_files import load_config
from roberta_jax.errors import UserError

InteractiveShell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
LABELS = ["no", "$maybe$", "yes"]


def written(folder, lines, labels=LABELS):
    folder.mkdir(exist_ok=True)
    (folder / "task.json").write_text(json.dumps({"labels": labels}))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_confusions_are_counted_as_others_count_them(tmp_path):
    chooser = random.Random(0)
    pairs = [chooser.choices(LABELS, [6, 3, 0])[0:1] + chooser.choices(LABELS) for _ in range(200)]  # one is never a label
    folder = written(tmp_path, [{"id": "0", "prediction": predicted, "label": label} for label, predicted in pairs])
    labels, counts = notebook.confusions(folder)
    np.testing.assert_array_equal(counts, confusion_matrix(*zip(*pairs), labels=LABELS))
    assert labels == LABELS and notebook.confusion_matrix(folder).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(("labels", "value"), [([], 3.5), (["a", "b"], ["a"]), (["a", "b"], "c"), (["a", "b"], ["B-PER", "O"])])
def test_what_is_not_one_label_a_text_is_a_sentence(labels, value, tmp_path):
    with pytest.raises(UserError, match="does not give each text one label of several"):
        notebook.confusion_matrix(written(tmp_path, [{"id": "0", "prediction": value, "label": value}], labels))


def test_a_run_that_has_not_ended_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="predictions.jsonl is not there; expected the workdir of a fine-tuning run that has"):
        notebook.confusion_matrix(tmp_path)


class Shown:
    """IPython's display, as far as a kernel is needed for it: what was drawn last, and how often."""

    def __init__(self):
        self.pictures, self.drawn = [], threading.Event()

    def display(self, picture, display_id):
        self.update(picture)
        return self

    def update(self, picture):
        self.pictures.append(picture.data)
        self.drawn.set()

    def wait(self) -> None:
        assert self.drawn.wait(60)
        self.drawn.clear()


def test_a_curve_grows_while_a_run_writes_and_no_oftener(tmp_path, monkeypatch):
    import IPython

    shown = Shown()
    monkeypatch.setattr(IPython.display, "display", shown.display)
    monkeypatch.setattr(notebook, "SECONDS", 0.01)
    with notebook.live_curve(tmp_path), open(tmp_path / "metrics.jsonl", "w") as metrics:
        shown.wait()
        for step in (1, 2):
            line = {"step": step, "train/loss": 5.0 / step, "valid/loss": None if step == 1 else 2.75}
            print(json.dumps(line), file=metrics, flush=True)
            shown.wait()
        time.sleep(0.2)
        assert len(shown.pictures) == 3  # nothing came, nothing is drawn
        print('{"step": 3, "train/loss": 1.0}', file=metrics, flush=True)
    assert len(set(shown.pictures)) == 4  # the end is drawn at once
    assert shown.pictures[-1] == notebook.loss_curve(tmp_path).data


def test_a_run_that_fails_leaves_no_thread(tmp_path, monkeypatch):
    import IPython

    monkeypatch.setattr(IPython.display, "display", Shown().display)
    before = threading.active_count()
    with pytest.raises(UserError, match="said"), notebook.live_curve(tmp_path):
        raise UserError("said")
    assert threading.active_count() == before


def test_rows_are_the_page_in_a_frame_of_its_own(small_corpus):
    fields = {"data.source": str(small_corpus.folder), "data.tokenizer": "400", "data.length": 64, "steps": 5}
    html = notebook.rows(load_config("tiny", fields), number=2).data
    assert html.count("<iframe") == html.count("sandbox") == 1 and "<article" not in html  # which is escaped
    assert html.count("&lt;article&gt;") == 2 and "&lt;mark class=" in html


@pytest.mark.parametrize(
    ("kind", "capability", "dtype"),
    [("Tesla T4", "7.5", "float32"), ("NVIDIA L4", "8.9", "bfloat16"), ("TPU v5e", "", "bfloat16")],
)
def test_the_device_says_what_arithmetic_suits_it(kind, capability, dtype, monkeypatch, capsys):
    """This machine's, and one of another kind."""
    assert notebook.begin() == "float32"
    assert "JAX " in (said := capsys.readouterr().out) and "× cpu\narithmetic in float32" in said
    device = SimpleNamespace(platform="gpu" if capability else "tpu", device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert notebook.begin() == dtype
    assert (f"{kind} has no products in bfloat16" in capsys.readouterr().out) == (capability == "7.5")


def test_an_error_of_ours_is_one_sentence_in_a_cell(capsys):
    shell = InteractiveShell.instance()
    try:
        notebook.begin()
        capsys.readouterr()
        ended = shell.run_cell("from roberta_jax.config_files import load_config\nload_config('tiniest')")
        said = capsys.readouterr()
        assert not ended.success and said.out.startswith("error: --config=tiniest: there is no such config; by name there are")
        assert said.out.count("\n") == 1 and not said.err
        assert not shell.run_cell("1 / 0").success and "Traceback" in capsys.readouterr().out  # others are as ever
    finally:
        InteractiveShell.clear_instance()
