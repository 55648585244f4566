"""One text or two, and of them a class, a set of labels or a score: classification, multi_label and regression.

An example's label is a str, a tuple of str, or a float.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from roberta_jax.errors import UserError
from roberta_jax.tasks.columns import columns_of, label_value, list_of, text_of
from roberta_jax.tasks.definitions import Example, Task
from roberta_jax.tasks.features import Encoded, Features, Logits, label_index
from roberta_jax.tasks.kinds.kind import Kind, Labels, class_loss, same_shape
from roberta_jax.tokenization.pretrained import PretrainedTokenizer, encode_rows

# Files to examples


def _reader(label_of: Callable[[Task, str, Any], Any], empty_label: bool = False):
    """A `Kind.read_row`.

    Args:
      label_of: (task, place, what stands in the label's column) → the label.
      empty_label: an empty field is one.
    """

    def read(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
        columns = columns_of(task, place, row)
        texts = tuple(text_of(task, place, column, row[column]) for column in columns)
        value = label_value(task, place, row, split, empty_label)
        if task.faulty and value == "-":  # MNLI: no label that most agreed on
            value = None
            if split != "test":
                broken.append(place)
                return
        if split == "test" and not empty_label and isinstance(value, (list, dict)):
            value = None
        if not all(map(str.strip, texts)) and not (task.faulty and value is None):  # a test's prediction is owed for every line
            if task.faulty:
                broken.append(place)
                return
            raise UserError(f"{place}: an empty {columns[[*map(str.strip, texts)].index('')]!r}; expected a text.")
        yield Example(place, id, texts, None if value is None else label_of(task, place, value))

    return read


def _class(task: Task, place: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise UserError(f"{place}: the label is {value!r}; expected one class (custom-multi-label takes several).")
    if isinstance(value, float) and value.is_integer() and task.labels:
        value = int(value)
    label = str(int(value)) if isinstance(value, bool) else str(value).strip()
    # A number that was typed as one is a class of TFDS or the hub, whose order is the task's.
    if isinstance(value, int) and label not in task.labels and 0 <= value < len(task.labels):
        label = task.labels[value]
    return label


def _score(task: Task, place: str, value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{place}: the score is {value!r}; expected a number.")
    return score


def _one_name_a_number(task: Task, splits: dict[str, list[list[Example]]], said: dict[str, None]) -> Labels:
    """1 and 1.0 are one class: pandas writes the latter where some labels of a column are missing. The train split decides."""

    def number(label: str | None) -> str | None:
        found = re.fullmatch(r"(-?(?:0|[1-9]\d*))(?:\.0+)?", label or "")
        return found[1] if found else None

    names: dict[str | None, str] = {}
    for label in (*task.labels, *sorted({example.label for part in splits["train"] for example in part}, key=len)):
        names.setdefault(number(label), label)
    for parts in splits.values():
        for part in parts:
            for i, example in enumerate(part):
                found = number(example.label)
                name = names.get(found, example.label) if found else example.label
                if name != example.label:
                    said[f"the label {example.label!r} is taken for {name!r}"] = None
                    part[i] = dataclasses.replace(example, label=name)
    return ()


EMPTY = ("",)  # of a field in which nothing stands, until `_settle_sets`


def _label_set(task: Task, place: str, value: Any) -> tuple[str, ...] | tuple[float, ...]:
    """Names; numbers as they are, which `_settle_sets` takes for names or for 0 or 1 of each label."""
    if isinstance(value, str) and not value.strip():
        return EMPTY
    if isinstance(value, str) and not value.lstrip().startswith("["):
        labels = value.split("|")
    else:
        labels = list_of(place, "the set of labels", value)
    if labels and all(isinstance(label, int | float) for label in labels):
        if not all(float(label).is_integer() for label in labels):
            raise UserError(f"{place}: the labels are {value!r}; expected names, or 0 or 1 for each label.")
        return tuple(labels)
    if not all(isinstance(label, str | int) for label in labels):
        raise UserError(f"{place}: the labels are {value!r}; expected names, or 0 or 1 for each label.")
    labels = [str(label).strip() for label in labels]
    if "" in labels:
        raise UserError(f"{place}: an empty label in {value!r}; expected labels parted by | or a JSON list.")
    _refuse_numbers(place, value, labels)
    return tuple(dict.fromkeys(labels))


def _refuse_numbers(place: str, value: Any, labels: list[str]) -> None:
    """Raises where texts are a 0 or 1 for each label: no set of names has one twice."""
    if len(set(labels)) < len(labels) and set(labels) <= {"0", "1"}:
        raise UserError(f"{place}: the labels are {value!r}; write 0 or 1 for each label as a JSON list of numbers: [0, 1].")


def _settle_sets(task: Task, splits: dict[str, list[list[Example]]], said: dict[str, None]) -> Labels:
    """Which of two meanings lists of numbers have, and whether commas part labels, for all splits alike.

    An empty field is an empty set, but in a test split of nothing else no label: tables have no other way to say so.
    """
    for split, of_split in splits.items():
        for part in of_split:
            none = split == "test" and all(example.label in (None, EMPTY) for example in part)
            part[:] = [dataclasses.replace(e, label=None if none else ()) if e.label == EMPTY else e for e in part]
    parts = [part for of_split in splits.values() for part in of_split]
    every = [example for part in parts for example in part if example.label is not None]
    if any(isinstance(label, int | float) for example in every for label in example.label):
        if count := _multi_hot(every):
            names = tuple(map(str, range(count)))
            said[f"a label is 0 or 1 for each of {count} labels, which are called 0 to {count - 1}"] = None
            _relabel(parts, lambda label: tuple(name for name, there in zip(names, label) if there))
            return names
        _relabel(
            parts,
            lambda label: tuple(dict.fromkeys(str(int(name)) if isinstance(name, float) else str(name) for name in label)),
        )
    elif separator := _separator(every, said):
        _relabel(
            parts, lambda label: tuple(dict.fromkeys(p.strip() for name in label for p in name.split(separator) if p.strip()))
        )
    return ()


def _relabel(parts: list[list[Example]], renamed: Callable[[tuple], tuple]) -> None:
    for part in parts:
        part[:] = [e if e.label is None else dataclasses.replace(e, label=renamed(e.label)) for e in part]


def _multi_hot(examples: Sequence[Example]) -> int:
    """Of how many labels each example's has a 0 or a 1; 0: they are the labels' names. One that could be both is an error."""
    if not all(label in (0, 1) for example in examples for label in example.label):
        return 0
    # A set of names has none twice, and names are no truth values.
    sure = [e for e in examples if len(set(e.label)) < len(e.label) or any(isinstance(one, bool | float) for one in e.label)]
    first = (sure or examples)[0]
    other = next((example for example in examples if len(example.label) != len(first.label)), None)
    if sure and other:
        raise UserError(
            f"{other.place}: {len(other.label)} numbers for the labels; expected {len(first.label)}, each 0 or 1, as in "
            f"{first.place}."
        )
    if not sure and not other:
        raise UserError(
            f"{first.place}: the labels {list(first.label)} could be names, or 0 or 1 for each of {len(first.label)} labels; "
            "write names that are no numbers, or true and false."
        )
    return len(first.label) if sure else 0


def _separator(examples: Sequence[Example], said: dict[str, None]) -> str:
    """The comma or semicolon that parts labels within names, where fewer names are left then; else none, and that is said.

    Where any example has several labels already, something else parts them.
    """
    names = {name for example in examples for name in example.label}
    for separator in ",;" if all(len(example.label) < 2 for example in examples) else "":
        if holding := sorted(name for name in names if separator in name.strip(separator)):
            inner = {part.strip() for name in names for part in name.split(separator) if part.strip()}
            if len(inner) < len(names):
                for example in examples:
                    for name in example.label:
                        _refuse_numbers(example.place, name, [part.strip() for part in name.split(separator)])
                said[f"{holding[0]!r} is taken for several labels, parted by {separator!r}"] = None
                return separator
            said[f"{holding[0]!r} is taken for one label; of several, a | parts them"] = None
    return ""


# Examples to features, and the loss


def _sorted_labels(names: set[str], train: Sequence[Example], least: int) -> Labels:
    numbers = all(label.isdecimal() for label in names)  # 2 stands before 10
    labels = tuple(sorted(names, key=lambda label: (int(label) if numbers else 0, label)))
    if len(labels) < least:
        raise UserError(f"{train[0].place}: the train split has the labels {list(labels)} alone; expected more of them.")
    return labels


def _encoder(targets: Callable[[Sequence[Example], dict[str, int]], np.ndarray]):
    """A `Kind.encode`.

    Args:
      targets: (examples, label → output) → [N, …]
    """

    def encode(examples: Sequence[Example], tokenizer: PretrainedTokenizer, labels: Labels, max_length: int) -> Features:
        rows, cut = encode_rows(tokenizer, [example.texts for example in examples], max_length)
        indices = {label: i for i, label in enumerate(labels)}
        known = all(example.label is not None for example in examples)
        return Features([(row,) for row in rows], targets(examples, indices) if known else None, cut=cut)

    return encode


def _class_targets(examples: Sequence[Example], indices: dict[str, int]) -> np.ndarray:
    """int32 [N]"""
    return np.array([label_index(indices, example.label, example) for example in examples], np.int32)


def _set_targets(examples: Sequence[Example], indices: dict[str, int]) -> np.ndarray:
    """float32 [N, labels] of 0 and 1"""
    targets = np.zeros((len(examples), len(indices)), np.float32)
    for row, example in zip(targets, examples):
        row[[label_index(indices, label, example) for label in example.label]] = 1
    return targets


def _score_targets(examples: Sequence[Example], indices: dict[str, int]) -> np.ndarray:
    """float32 [N]"""
    return np.array([example.label for example in examples], np.float32)


def _multi_label_loss(logits: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
    """An example is right where all of its labels are."""
    labels = batch["labels"]
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean(-1), ((logits > 0) == (labels > 0)).all(-1)


def _regression_loss(logits: jax.Array, batch: dict) -> tuple[jax.Array, None]:
    return jnp.square(logits[:, 0] - batch["labels"]), None


def _entropy(train: Features) -> float:
    """Of the labels: ln n of n equal ones."""
    counts = np.bincount(train.labels)
    shares = counts[counts > 0] / counts.sum()
    return -(shares * np.log(shares)).sum()


# Logits to answers. scikit-learn and SciPy are imported where they are used, since they take seconds.


def classification_metrics(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """accuracy, matthews, and f1 of class 1 where there are two classes, else f1_macro: over classes seen in either.

    Args:
      labels, predictions: int [N], from 0 to classes - 1.

    Source: scikit-learn. Where a value is 0/0 (constant predictions, no example of class 1) it is 0.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    labels, predictions = same_shape(labels, predictions)
    constant = (labels == labels[0]).all() or (predictions == predictions[0]).all()
    name, average = ("f1", "binary") if classes == 2 else ("f1_macro", "macro")
    return {
        "accuracy": float((labels == predictions).mean()),
        name: float(f1_score(labels, predictions, average=average, zero_division=0.0)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(labels, predictions)),
    }


def multi_label_metrics(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """f1 over all decisions (micro), f1_macro over the labels, accuracy: how many examples have every label right.

    Args:
      labels, predictions: 0 or 1, int or bool [N, labels].

    Source: scikit-learn. A label that nothing has and nothing is given has F1 0.
    """
    from sklearn.metrics import f1_score

    labels, predictions = (array.astype(int) for array in same_shape(labels, predictions))
    columns = [f1_score(one, other, zero_division=0.0) for one, other in zip(labels.T, predictions.T)]
    return {
        "f1": float(f1_score(labels.ravel(), predictions.ravel(), zero_division=0.0)),
        "f1_macro": float(np.mean(columns)),
        "accuracy": float((labels == predictions).all(axis=1).mean()),
    }


def regression_metrics(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """pearson, spearman and mean_squared_error of float [N] each.

    Source: SciPy. A correlation that is not defined (constant or NaN values, one example) is 0: a NaN, which compares
    false with everything, would end the search for the best epoch.
    """
    from scipy.stats import pearsonr, spearmanr

    labels, predictions = (array.astype(np.float64) for array in same_shape(labels, predictions))
    varied = np.ptp(labels) > 0 and np.ptp(predictions) > 0
    return {
        "pearson": float(pearsonr(labels, predictions).statistic) if varied else 0.0,
        "spearman": float(spearmanr(labels, predictions).statistic) if varied else 0.0,
        "mean_squared_error": float(np.square(labels - predictions).mean()),
    }


def _predict_class(task: Task, labels: Labels, split: Encoded, logits: Logits) -> tuple[list[dict[str, Any]], dict]:
    from scipy.special import softmax

    probabilities = softmax(np.stack(logits), axis=-1).tolist()
    return [{"prediction": labels[int(np.argmax(row))], "scores": dict(zip(labels, row))} for row in probabilities], {}


def _predict_set(task: Task, labels: Labels, split: Encoded, logits: Logits) -> tuple[list[dict[str, Any]], dict]:
    from scipy.special import expit

    return [
        {"prediction": [label for label, p in zip(labels, row) if p > 0.5], "scores": dict(zip(labels, row))}
        for row in expit(np.stack(logits)).tolist()
    ], {}


CLASSIFICATION = Kind(
    head="classification",
    outputs=lambda task, labels: len(labels),
    read_row=_reader(_class),
    labels=lambda train: _sorted_labels({example.label for example in train}, train, 2),
    settle=_one_name_a_number,
    encode=_encoder(_class_targets),
    loss=class_loss,
    guessing_loss=_entropy,
    packable=True,
    measure=lambda task, labels, split, logits: classification_metrics(
        split.features.labels, np.stack(logits).argmax(-1), len(labels)
    ),
    predict=_predict_class,
)
MULTI_LABEL = Kind(
    head="classification",
    outputs=lambda task, labels: len(labels),
    read_row=_reader(_label_set, empty_label=True),
    labels=lambda train: _sorted_labels({label for example in train for label in example.label}, train, 1),
    settle=_settle_sets,
    encode=_encoder(_set_targets),
    loss=_multi_label_loss,
    packable=True,
    measure=lambda task, labels, split, logits: multi_label_metrics(split.features.labels, np.stack(logits) > 0),
    predict=_predict_set,
)
REGRESSION = Kind(
    head="classification",
    outputs=lambda task, labels: 1,
    read_row=_reader(_score),
    encode=_encoder(_score_targets),
    loss=_regression_loss,
    packable=True,
    measure=lambda task, labels, split, logits: regression_metrics(split.features.labels, np.stack(logits)[:, 0]),
    predict=lambda task, labels, split, logits: ([{"prediction": float(values[0])} for values in logits], {}),
)
