"""From logits to metrics, to a person's lines of JSON, and to the forms that GLUE's and SQuAD's servers take."""

import json
import zipfile

import numpy as np
import pytest

from roberta_jax.tasks import predictions
from roberta_jax.tasks.definitions import TASKS, Example
from roberta_jax.tasks.examples import Splits
from roberta_jax.tasks.features import Encoded
from roberta_jax.tasks.finetune import prepare
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tokenization.pretrained import LosslessTokenizer

LABELS = {
    "custom-classification": ("no", "yes"),
    "custom-multi-label": ("a", "b", "c"),
    "custom-tagging": ("O", "B-X", "I-X"),
}
EXAMPLES = {
    "custom-classification": [(("one",), "yes"), (("two",), "no")],
    "custom-multi-label": [(("one",), ("a", "c")), (("two",), ())],
    "custom-regression": [(("one",), 1.5), (("two",), -2.0)],
    "custom-multiple-choice": [(("passage", "one", "two"), 1), (("passage", "one", "two"), 0)],
    "custom-tagging": [(("the", "mayor", "of", "tomorrow"), ("O", "B-X", "I-X", "O")), (("boats",), ("B-X",))],
    "custom-span": [(("who", "the mayor sold it"), (("the mayor", 0),)), (("why", "the mayor sold it"), ())],
}


@pytest.fixture(scope="module")
def encoded(small_corpus):
    """task, with its labels or without → its two examples as the model is given them; rows of 16 ids at most."""

    def made(task: str, labels: bool = True) -> Encoded:
        examples = [
            Example(f"f:{i}", f"q{i}", texts, label if labels else None) for i, (texts, label) in enumerate(EXAMPLES[task])
        ]
        splits = Splits(examples, {"": examples}, {}, LABELS.get(task, ()))
        return prepare(TASKS[task], splits, LosslessTokenizer(small_corpus.tokenizer), 16).train

    return made


def right(task: str, split: Encoded) -> list[np.ndarray]:
    """Logits that say the labels, with padding behind those of tokens."""
    if task == "custom-regression":
        return [np.array([example.label]) for example in split.examples]
    if task == "custom-multi-label":
        return [np.where(row > 0, 2.0, -2.0) for row in split.features.labels]
    if task == "custom-tagging":
        return [np.pad(np.eye(3)[np.maximum(labels, 0)], ((0, 40), (0, 0))) for labels in split.features.labels]
    if task == "custom-span":
        found = []
        for (row,), (first, last) in zip(split.features.rows, split.features.labels):
            logits = np.zeros((len(row) + 10, 3))
            logits[first, 0] = logits[last, 1] = 9
            logits[0, 2] = 5 if first else -5
            found.append(logits)
        return found
    return [4.0 * np.eye(2)[label] for label in split.features.labels]


@pytest.mark.parametrize("task", EXAMPLES)
def test_right_logits_measure_1_and_come_out_as_the_labels(task, encoded, tmp_path):
    split, labels = encoded(task), LABELS.get(task, ())
    logits, kind = right(task, split), KINDS[TASKS[task].kind]
    measured = kind.measure(TASKS[task], labels, split, logits)
    assert measured[TASKS[task].metrics[0]] == pytest.approx(1.0)
    wrong = [-values for values in logits]
    assert kind.measure(TASKS[task], labels, split, wrong)[TASKS[task].metrics[0]] < 0.6
    (path, *_) = predictions.write(task, TASKS[task], labels, split, logits, "", False, tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "predictions.jsonl" and [line["id"] for line in lines] == ["q0", "q1"]
    expected = [label for _, label in EXAMPLES[task]]
    if task == "custom-span":
        expected = ["the mayor", ""]
        assert lines[0]["null_score"] < 0 < lines[1]["null_score"]
    assert [line["prediction"] for line in lines] == [list(one) if isinstance(one, tuple) else one for one in expected]
    assert all("label" in line for line in lines)


def test_scores_are_shares_of_the_labels(encoded):
    (one, two), _ = KINDS["classification"].predict(
        TASKS["custom-classification"],
        ("no", "yes"),
        encoded("custom-classification"),
        [np.log([1.0, 3.0]), np.array([900.0, 0])],
    )
    assert one["scores"] == pytest.approx({"no": 0.25, "yes": 0.75}) and two["scores"] == {"no": 1.0, "yes": 0.0}
    task = "custom-multi-label"
    (one, two), _ = KINDS["multi_label"].predict(
        TASKS[task], LABELS[task], encoded(task), [np.log([1.0, 3.0, 1 / 3]), np.array([-1.0, 0, 1])]
    )
    assert one["scores"] == pytest.approx({"a": 0.5, "b": 0.75, "c": 0.25}) and one["prediction"] == ["b"]
    assert two["prediction"] == ["c"]


def test_a_test_split_has_a_file_of_its_own_and_no_labels(encoded, tmp_path):
    split = encoded("custom-classification", labels=False)
    logits = [np.array([0.0, 1.0])] * 2
    for part, name in (("", "predictions_test.jsonl"), ("more", "predictions_test_more.jsonl")):
        task = TASKS["custom-classification"]
        written = predictions.write("custom-classification", task, ("no", "yes"), split, logits, part, True, tmp_path)
        assert [path.name for path in written] == [name]
        assert [json.loads(line).keys() for line in written[0].read_text().splitlines()] == [{"id", "prediction", "scores"}] * 2


def test_what_was_written_of_a_test_split_goes_with_it(encoded, tmp_path):
    split = encoded("custom-span")
    logits = right("custom-span", split)
    for part, test in (("", False), ("", True), ("more", True)):
        predictions.write("squad2", TASKS["squad2"], (), split, logits, part, test, tmp_path)
    predictions.remove_of_test("squad2", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions.jsonl", "predictions.json", "nbest_predictions.json", "null_odds.json"
    }  # fmt: skip


def test_a_submission_without_a_file_goes(tmp_path):
    (tmp_path / "CoLA.tsv").write_text("index\tprediction\n")
    predictions.zip_submission({"cola": tmp_path}, tmp_path)
    assert zipfile.ZipFile(tmp_path / "submission.zip").namelist() == ["CoLA.tsv"]
    predictions.remove_of_test("cola", tmp_path)
    for _ in range(2):
        predictions.zip_submission({"cola": tmp_path}, tmp_path)
        assert not list(tmp_path.iterdir())


def test_squads_files_for_its_own_script(encoded, tmp_path):
    split = encoded("custom-span")
    written = predictions.write("squad2", TASKS["squad2"], (), split, right("custom-span", split), "", False, tmp_path)
    files = {path.name: path for path in written[1:]}
    assert json.loads(files["predictions.json"].read_text()) == {"q0": "the mayor", "q1": ""}
    assert json.loads(files["null_odds.json"].read_text()) == {"q0": -5.0, "q1": 5.0}
    best = json.loads(files["nbest_predictions.json"].read_text())
    assert best["q0"][0]["text"] == "the mayor" and best["q0"][0]["start"] == 0 and best["q0"][0]["end"] == 9


@pytest.mark.parametrize(
    ("name", "part", "file", "logits", "lines"),
    [
        ("cola", "", "CoLA", [[1, 0], [0, 1]], ["0", "1"]),
        ("rte", "", "RTE", [[1, 0], [0, 1]], ["entailment", "not_entailment"]),
        ("mnli", "", "MNLI-m", [[1, 0, 0], [0, 0, 1]], ["entailment", "contradiction"]),
        ("mnli", "mismatched", "MNLI-mm", [[0, 1, 0], [0, 0, 1]], ["neutral", "contradiction"]),
        ("mnli", "diagnostic", "AX", [[0, 1, 0], [0, 0, 1]], ["neutral", "contradiction"]),
        ("stsb", "", "STS-B", [[2.34567], [5.2]], ["2.346", "5.000"]),
        ("stsb", "", "STS-B", [[-0.1], [0.0]], ["0.000", "0.000"]),
    ],
)
def test_glues_form(name, part, file, logits, lines, encoded, tmp_path):
    split = encoded("custom-classification", labels=False)
    arrays = [np.array(row, np.float32) for row in logits]
    written = predictions.write(name, TASKS[name], TASKS[name].labels, split, arrays, part, True, tmp_path)
    assert written[1].name == f"{file}.tsv"
    assert written[1].read_text().splitlines() == ["index\tprediction", *(f"q{i}\t{line}" for i, line in enumerate(lines))]
    valid = predictions.write(name, TASKS[name], TASKS[name].labels, split, arrays, part, False, tmp_path)
    assert [path.suffix for path in valid] == [".jsonl"]  # of the test split alone
