"""From a model's logits to answers: what is measured, and what a person or GLUE's server is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

from roberta_jax import storage
from roberta_jax.output import to_json
from roberta_jax.tasks import metrics, spans
from roberta_jax.tasks.definitions import Example, Task
from roberta_jax.tasks.features import Features, word_tags

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


@dataclass(frozen=True)
class Encoded:
    """A split's examples, as the model is given them."""

    examples: list[Example]
    features: Features
    windows: spans.SpanFeatures | None = None  # of kind span


def measure(task: Task, labels: tuple[str, ...], split: Encoded, logits: Logits) -> dict[str, float]:
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
        tags = word_tags(split.features, logits, labels, len(examples))
        return metrics.tagging([example.label for example in examples], tags)
    found = spans.best_spans(split.windows, logits)
    answers = [[text for text, _ in example.label] for example in examples]
    texts = [one.spans[0].text if one.spans else "" for one in found]
    return metrics.span(answers, texts, [one.null_score for one in found] if task.unanswerable else None)


def answers(task: Task, labels: tuple[str, ...], split: Encoded, logits: Logits) -> list[dict[str, Any]]:
    """{"id", "prediction", "scores" where there are some, "label" where it is known} for each example; not of spans."""
    if task.kind == "tagging":
        found = word_tags(split.features, logits, labels, len(split.examples))
        predictions = [{"prediction": tags} for tags in found]
    elif task.kind == "regression":
        predictions = [{"prediction": float(values[0])} for values in logits]
    elif task.kind == "multi_label":
        shares = scipy.special.expit(np.stack(logits))
        predictions = [
            {"prediction": [label for label, p in zip(labels, row) if p > 0.5], "scores": dict(zip(labels, row))}
            for row in shares.tolist()
        ]
    else:
        shares = scipy.special.softmax(np.stack(logits), axis=-1).tolist()
        if task.kind == "multiple_choice":
            predictions = [{"prediction": int(np.argmax(row)), "scores": row} for row in shares]
        else:
            predictions = [{"prediction": labels[int(np.argmax(row))], "scores": dict(zip(labels, row))} for row in shares]
    return [_answer(example, found) for example, found in zip(split.examples, predictions)]


def _answer(example: Example, found: dict[str, Any]) -> dict[str, Any]:
    return {"id": example.id} | found | ({} if example.label is None else {"label": example.label})


def _found_spans(task: Task, split: Encoded, logits: Logits) -> tuple[list[dict[str, Any]], dict[str, dict]]:
    found = spans.best_spans(split.windows, logits)
    files = spans.predictions(split.windows, found, 0.0 if task.unanswerable else None)
    texts, nulls = files["predictions.json"], files["null_odds.json"]
    lines = [_answer(example, {"prediction": texts[example.id], "null_score": nulls[example.id]}) for example in split.examples]
    return lines, files


def write(
    task_name: str, task: Task, labels: tuple[str, ...], split: Encoded, logits: Logits, part: str, test: bool, workdir: Path
) -> list[Path]:
    """predictions.jsonl of a valid split, predictions_test.jsonl of a test split, and GLUE's or SQuAD's own forms beside.

    Args:
      part: the split's name, such as "mismatched"; "" for the main one.
    """
    ending = ("_test" if test else "") + (f"_{part}" if part else "")
    path = workdir / f"predictions{ending}.jsonl"
    lines, files = _found_spans(task, split, logits) if task.kind == "span" else (answers(task, labels, split, logits), {})
    storage.write_text(path, "".join(to_json(line) + "\n" for line in lines))
    written = [path]
    for name, content in files.items():
        written.append(workdir / f"{Path(name).stem}{ending}.json")
        storage.write_json(written[-1], content)
    if test and part in SUBMISSION.get(task_name, {}):
        written.append(workdir / f"{SUBMISSION[task_name][part]}.tsv")
        rows = (f"{line['id']}\t{_for_glue(line['prediction'])}\n" for line in lines)
        storage.write_text(written[-1], "index\tprediction\n" + "".join(rows))
    return written


def _for_glue(prediction: str | float) -> str:
    """A label as it is; a similarity within the scale of STS-B."""
    return f"{min(5.0, max(0.0, prediction)):.3f}" if isinstance(prediction, float) else prediction
