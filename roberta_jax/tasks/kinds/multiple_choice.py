"""A passage, a question and its options, one of which is right. An option is a row of its own.

An example's texts are the passage, then each question joined with an option; its label is the number of the right one.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.tasks.columns import columns_of, label_value, list_of, read_json, text_of
from roberta_jax.tasks.definitions import Example, Task
from roberta_jax.tasks.features import Encoded, Features, Logits
from roberta_jax.tasks.kinds.kind import Kind, Labels, class_loss, same_shape
from roberta_jax.tokenization.pretrained import PretrainedTokenizer, added, join

LONGEST_OPTION = 128  # ids of a question joined with an option (fairseq's RACE)


def _read_row(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    """One question a row, or RACE's own: `questions`, `options` and `answers`, a list with an item for each question."""
    columns = passage, question, options = columns_of(task, place, row)
    value = label_value(task, place, row, split)
    if not isinstance(row[question], list):
        parts = [(place, id, row[question], list_of(place, repr(options), row[options]), value)]
    else:
        count, answers = len(row[question]), value if value is not None else [None] * len(row[question])
        lists = {options: row[options], "the answers": answers}
        for name, items in lists.items():
            if not isinstance(items, list) or len(items) != count:
                number = len(items) if isinstance(items, list) else repr(items)
                raise UserError(f"{place}: {count} questions and {number} in {name}; expected as many of each.")
        parts = [
            (f"{place}: question {n}", f"{id}/{n}", *part) for n, part in enumerate(zip(row[question], row[options], answers))
        ]
    for place, id, question_text, option_texts, answer in parts:
        option_texts = [
            text_of(task, place, f"an item of {options}", option) for option in list_of(place, repr(options), option_texts)
        ]
        article, question_text = text_of(task, place, passage, row[passage]), text_of(task, place, question, question_text)
        joined = [_join(question_text, option) for option in option_texts]
        empty = not article.strip() or not all(joined)
        if task.faulty and empty:
            broken.append(place)
            continue
        if empty or (not task.faulty and not all(map(str.strip, (question_text, *option_texts)))):
            raise UserError(f"{place}: an empty text in one of {', '.join(map(repr, columns))}; expected none.")
        if len(joined) < 2:
            raise UserError(f"{place}: {len(joined)} options; expected two or more.")
        yield Example(place, id, (article, *joined), None if answer is None else _choice(place, answer, len(joined)))


def _join(question: str, option: str) -> str:
    """A gap in the question, one `_` or a row of them, is filled; else the option follows (fairseq's RACE)."""
    if "_" in question:
        return re.sub("_+", lambda _: option, question)
    return f"{question} {option}".strip()


def _choice(place: str, value: Any, count: int) -> int:
    """A letter from A on, or a number from 0 on."""
    text = str(value).strip()
    choice = int(text) if text.isdecimal() else "ABCDEFGHIJKLMNOPQRSTUVWXYZ".find(text.upper()) if len(text) == 1 else -1
    if not 0 <= choice < count:
        raise UserError(
            f"{place}: the answer is {value!r}; expected a letter from A to {chr(ord('A') + count - 1)}, "
            f"or a number from 0 to {count - 1}."
        )
    return choice


def _read_race(task: Task, path: str, split: str, number: int, broken: list[str]) -> Iterator[Example]:
    """One of RACE's files, a JSON object; its id is that of the whole RACE, such as "high17.txt"."""
    row = read_json(path)
    if not isinstance(row, dict):
        raise UserError(f"{path}: a JSON {type(row).__name__}; expected RACE's object with article, questions, options.")
    folder, name = Path(path).parts[-2:]
    yield from _read_row(task, path, f"{folder}{name}", row, split, broken)


def encode(examples: Sequence[Example], tokenizer: PretrainedTokenizer, labels: Labels, max_length: int) -> Features:
    """`<s> passage </s></s> question and option </s>` for each option; the passage is cut so that all fit. Labels int32 [N]."""
    passages = tokenizer.encode([example.texts[0] for example in examples])
    options = iter(tokenizer.encode([option for example in examples for option in example.texts[1:]]))
    room = max_length - added(tokenizer, 2)
    longest = min(LONGEST_OPTION, room)
    rows, cut = [], 0
    for passage, example in zip(passages, examples):
        shortened = [next(options)[:longest] for _ in example.texts[1:]]
        cut += len(passage) + max(map(len, shortened)) > room
        rows.append(tuple(join(tokenizer, [passage[: room - len(option)], option]) for option in shortened))
    known = all(example.label is not None for example in examples)
    return Features(rows, np.array([example.label for example in examples], np.int32) if known else None, cut=cut)


def choice_metrics(labels: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """accuracy of int [N] each: which option."""
    labels, predictions = same_shape(labels, predictions)
    return {"accuracy": float((labels == predictions).mean())}


def _predict(task: Task, labels: Labels, split: Encoded, logits: Logits) -> tuple[list[dict[str, Any]], dict]:
    from scipy.special import softmax  # here, since it takes its time

    return [{"prediction": int(np.argmax(row)), "scores": row} for row in softmax(np.stack(logits), axis=-1).tolist()], {}


MULTIPLE_CHOICE = Kind(
    head="multiple_choice",
    outputs=lambda task, labels: 1,
    read_row=_read_row,
    file_reader={"txt": _read_race}.get,
    folder_ending="txt",
    shared_texts=lambda example: example.texts[:1],
    size=lambda example: (len(example.texts) - 1, "options"),
    encode=encode,
    loss=class_loss,
    guessing_loss=lambda train: np.log(len(train.rows[0])),
    measure=lambda task, labels, split, logits: choice_metrics(split.features.labels, np.stack(logits).argmax(-1)),
    predict=_predict,
)
