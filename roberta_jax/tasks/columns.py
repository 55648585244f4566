"""The columns of a row, whatever table it stood in; what is wrong with them is named with the row's place."""

import json
import math
from collections.abc import Sequence
from typing import Any

from roberta_jax.errors import UserError
from roberta_jax.preparation.records import text_lines
from roberta_jax.tasks.definitions import Task

# How people call the column of what a text is to be given.
_LABELS = ("label", "labels", "target", "targets", "class", "category", "gold_label")


def assumed_names(task: Task, found: Sequence[str], guesses: dict[str, str]) -> dict[str, str]:
    """Columns of a person's own data under other names than the task's, which can mean one thing only: name → the task's.

    Names may differ in case and in the white space around them; where no column of the label's usual names is there, the
    one of _LABELS is it.

    Args:
      guesses: {} before the first row, which notes here the column that is taken for the label's, "" for none; later rows
        take no other.
    """
    plain = {name: name.strip().lower() for name in found}
    wanted = [*(name for columns in task.text_columns for name in columns), *task.label_columns]
    assumed: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        alike = [each for each in found if plain[each] == name.lower() and each not in assumed]
        if name not in found and len(alike) == 1:
            assumed[alike[0]] = name
    if "label" in task.label_columns and {assumed.get(name, name) for name in found}.isdisjoint(task.label_columns):
        labels = [name for name in found if plain[name] in _LABELS]
        guess = guesses.setdefault("label", labels[0] if len(labels) == 1 else "")
        if guess in labels:
            assumed[guess] = task.label_columns[0]
    else:
        guesses.setdefault("label", "")
    return assumed


def columns_of(task: Task, place: str, row: dict[str, Any]) -> tuple[str, ...]:
    """The first of the task's alternatives for the texts' columns that the row has."""
    for columns in task.text_columns:
        if all(column in row for column in columns):
            return columns
    wanted = " or ".join(dict.fromkeys(", ".join(map(repr, columns)) for columns in task.text_columns))
    raise UserError(
        f"{place}: no columns {wanted} (config.data.text_columns names others); it has {', '.join(map(repr, row))}."
    )


def label_value(task: Task, place: str, row: dict[str, Any], split: str, may_be_empty: bool = False) -> Any:
    """What stands in the label's column; None where a test split gives none. A NaN is how pandas writes nothing.

    Args:
      may_be_empty: an empty field is a label.
    """
    column = next((column for column in task.label_columns if column in row), None)
    value = row[column] if column else None
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(value, str) and not value.strip() and not may_be_empty:
        value = None
    if split == "test":
        if task.tfds.startswith("glue/") and value in (-1, "-1"):  # how TFDS and the hub say that GLUE keeps it secret
            return None
    elif column is None:
        wanted = " or ".join(map(repr, task.label_columns))
        raise UserError(
            f"{place}: no column {wanted} (config.data.label_column names another); it has {', '.join(map(repr, row))}."
        )
    elif value is None:
        raise UserError(f"{place}: an empty {column!r}; expected a label.")
    return value


def text_of(task: Task, place: str, column: str, value: Any) -> str:
    """A value that has to be a text.

    That of a person's own data stays as it is, so that a model is trained on what it will be given; published files lose the
    white space around it, as in fairseq's preparation of GLUE.
    """
    if not isinstance(value, str):
        raise UserError(f"{place}: {column!r} is {value!r}; expected a text.")
    return value if task.custom else value.strip()


def list_of(place: str, what: str, value: Any) -> list:
    """A value that has to be a list, or a list's JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if not isinstance(value, list):
        raise UserError(f"{place}: {what} is {value!r}; expected a list, in a .tsv or .csv written as JSON.")
    return value


def read_json(path: str) -> Any:
    try:
        return json.loads("".join(line for _, line in text_lines(path)))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
