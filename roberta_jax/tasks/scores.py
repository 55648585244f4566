"""From a model's logits to answers: what is measured, and what a person or GLUE's server is given."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roberta_jax.tasks import metrics, spans
from roberta_jax.tasks.table import Example, Task

if TYPE_CHECKING:
    from roberta_jax.tasks.finetune import Encoded

# A task's file in a submission to GLUE, by the name of the part of its test split.
SUBMISSION = {
    "cola": {"": "CoLA"},
    "sst2": {"": "SST-2"},
    "mrpc": {"": "MRPC"},
    "stsb": {"": "STS-B"},
    "qqp": {"": "QQP"},
    "mnli": {"": "MNLI-m", "mismatched": "MNLI-mm", "diagnostic": "AX"},
    "qnli": {"": "QNLI"},
    "rte": {"": "RTE"},
    "wnli": {"": "WNLI"},
}
Logits = Sequence[np.ndarray]  # of each feature; those of tokens with padding behind


def measure(task: Task, labels: tuple[str, ...], split: "Encoded", logits: Logits) -> dict[str, float]:
    """The metrics of the task's kind, as in metrics.py, on a split with labels."""
    examples, gold = split.examples, split.features.labels
    if task.kind == "classification":
        return metrics.classification(gold, np.stack(logits).argmax(-1), len(labels))
    if task.kind == "multi_label":
        return metrics.multi_label(gold, np.stack(logits) > 0)
    if task.kind == "regression":
        return metrics.regression(gold, np.stack(logits)[:, 0])
    if task.kind == "multiple_choice":
        return metrics.multiple_choice(gold, np.stack(logits).argmax(-1))
    if task.kind == "tagging":
        return metrics.tagging([example.label for example in examples], tags(labels, split, logits))
    found = spans.best_spans(split.windows, logits)
    answers = [[text for text, _ in example.label] for example in examples]
    texts = [one.spans[0].text if one.spans else "" for one in found]
    return metrics.span(answers, texts, [one.null_score for one in found] if task.unanswerable else None)


def tags(labels: tuple[str, ...], split: "Encoded", logits: Logits) -> list[list[str]]:
    """A tag for each word of each example."""
    found: list[list[str]] = [[] for _ in split.examples]
    for (example, _, at), values in zip(split.features.words, logits):
        found[example] += [labels[i] for i in values[at].argmax(-1)]
    return found


def answers(task: Task, labels: tuple[str, ...], split: "Encoded", logits: Logits) -> list[dict[str, Any]]:
    """{"id", "prediction", "scores" or "score", "label" where it is known} for each example."""
    if task.kind == "span":
        return _found_spans(task, split, logits)[0]
    if task.kind == "tagging":
        predictions = [{"prediction": found} for found in tags(labels, split, logits)]
    elif task.kind == "regression":
        predictions = [{"prediction": float(values[0])} for values in logits]
    elif task.kind == "multi_label":
        shares = 1 / (1 + np.exp(-np.stack(logits)))
        predictions = [
            {"prediction": [label for label, p in zip(labels, row) if p > 0.5], "scores": dict(zip(labels, row))}
            for row in shares.tolist()
        ]
    else:
        values = np.stack(logits)
        shares = np.exp(values - np.logaddexp.reduce(values, axis=-1, keepdims=True)).tolist()
        if task.kind == "multiple_choice":
            predictions = [{"prediction": int(np.argmax(row)), "scores": row} for row in shares]
        else:
            predictions = [{"prediction": labels[int(np.argmax(row))], "scores": dict(zip(labels, row))} for row in shares]
    return [_answer(example, found) for example, found in zip(split.examples, predictions)]


def _answer(example: Example, found: dict[str, Any]) -> dict[str, Any]:
    return {"id": example.id} | found | ({} if example.label is None else {"label": example.label})


def _found_spans(task: Task, split: "Encoded", logits: Logits) -> tuple[list[dict[str, Any]], dict[str, dict]]:
    found = spans.best_spans(split.windows, logits)
    files = spans.predictions(split.windows, found, 0.0 if task.unanswerable else None)
    texts, nulls = files["predictions.json"], files["null_odds.json"]
    lines = [_answer(example, {"prediction": texts[example.id], "null_score": nulls[example.id]}) for example in split.examples]
    return lines, files


def write(
    task_name: str, task: Task, labels: tuple[str, ...], split: "Encoded", logits: Logits, part: str, test: bool, workdir: Path
) -> list[Path]:
    """predictions.jsonl of a valid split, predictions_test.jsonl of a test split, and GLUE's or SQuAD's own forms beside.

    Args:
      part: the split's name, such as "mismatched"; "" for the main one.
    """
    ending = ("_test" if test else "") + (f"_{part}" if part else "")
    path = workdir / f"predictions{ending}.jsonl"
    lines, files = _found_spans(task, split, logits) if task.kind == "span" else (answers(task, labels, split, logits), {})
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    written = [path]
    for name, content in files.items():
        written.append(workdir / f"{Path(name).stem}{ending}.json")
        written[-1].write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
    if test and part in SUBMISSION.get(task_name, {}):
        written.append(workdir / f"{SUBMISSION[task_name][part]}.tsv")
        rows = (f"{line['id']}\t{_for_glue(line['prediction'])}\n" for line in lines)
        written[-1].write_text("index\tprediction\n" + "".join(rows), "utf-8")
    return written


def _for_glue(prediction: str | float) -> str:
    """A label as it is; a similarity within the scale of STS-B."""
    return f"{min(5.0, max(0.0, prediction)):.3f}" if isinstance(prediction, float) else prediction
