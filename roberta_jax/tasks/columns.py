"""The columns of a row, whatever table it stood in; what is wrong with them is named with the row's place."""

import json
from typing import Any

from roberta_jax.errors import UserError
from roberta_jax.preparation.records import text_lines
from roberta_jax.tasks.definitions import Task


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
    """What stands in the label's column; None where a test split gives none.

    Args:
      may_be_empty: an empty field is a label.
    """
    column = next((column for column in task.label_columns if column in row), None)
    value = row[column] if column else None
    if split == "test":
        if value == "" and not may_be_empty:
            return None
        if task.tfds.startswith("glue/") and value in (-1, "-1"):  # how TFDS and the hub say that GLUE keeps it secret
            return None
    elif column is None:
        wanted = " or ".join(map(repr, task.label_columns))
        raise UserError(
            f"{place}: no column {wanted} (config.data.label_column names another); it has {', '.join(map(repr, row))}."
        )
    elif value is None or (value == "" and not may_be_empty):
        raise UserError(f"{place}: an empty {column!r}; expected a label.")
    return value


def text_of(place: str, column: str, value: Any) -> str:
    """A value that has to be a text, without the white space around it."""
    if not isinstance(value, str):
        raise UserError(f"{place}: {column!r} is {value!r}; expected a text.")
    return value.strip()


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
