"""Files to examples: tables, SQuAD's JSON, RACE's folders, CoNLL's columns. Whatever is wrong is named with its place."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roberta_jax.errors import UserError
from roberta_jax.preparation.tables import lines, read_table
from roberta_jax.tasks.definitions import Example, Task

_IDS = ("index", "id", "idx", "example_id")  # columns that may hold an example's id


def read_examples(task: Task, sources: list[str], split: str, broken: list[str]) -> list[Example]:
    """The examples of one split, from its sources in turn: paths, or "tfds:NAME:SPLIT".

    Labels are not compared with the task's here. Texts lose the white space around them, save a span's context, in which
    answers are found by position. An example without an id of its own gets its number in the split.

    Args:
      split: "train", "valid" or "test"; in "test" alone a label may be missing.
      broken: takes the places of faulty lines that are left out, where the task's published files have such.

    Raises:
      UserError: names the file, and the line, the question or the row.
    """
    examples: list[Example] = []
    for source in sources:
        ending = "" if source.startswith("tfds:") else Path(source.removesuffix(".gz").removesuffix(".zst")).suffix
        if task.kind == "span" and ending == ".json":
            found = _squad(task, source, split)
        elif task.kind == "multiple_choice" and ending == ".txt":
            found = _race_file(task, source, split, broken)
        elif task.kind == "tagging" and not source.startswith("tfds:") and ending not in (".jsonl", ".parquet"):
            found = _conll(source, split, len(examples))
        else:
            found = _table(task, source, split, len(examples), broken)
        examples.extend(found)
    return examples


def _table(task: Task, source: str, split: str, number: int, broken: list[str]) -> Iterator[Example]:
    read = {"multiple_choice": _choices, "span": _flat_span, "tagging": _tagged}.get(task.kind, _texts_and_label)
    header = {"index", *task.label_columns, *(column for columns in task.text_columns for column in columns)}
    for place, row in read_table(source, task.columns, header, task.labels, broken if task.faulty else None):
        id = next((str(row[column]) for column in _IDS if row.get(column) not in (None, "")), str(number))
        number += 1
        yield from read(task, place, id, row, split, broken)


def _columns(task: Task, place: str, row: dict[str, Any]) -> tuple[str, ...]:
    for columns in task.text_columns:
        if all(column in row for column in columns):
            return columns
    wanted = " or ".join(dict.fromkeys(", ".join(map(repr, columns)) for columns in task.text_columns))
    raise UserError(
        f"{place}: no columns {wanted} (config.data.text_columns names others); it has {', '.join(map(repr, row))}."
    )


def _label_value(task: Task, place: str, row: dict[str, Any], split: str) -> Any:
    """What stands in the label's column; None where a test split gives none."""
    column = next((column for column in task.label_columns if column in row), None)
    value = row[column] if column else None
    if split == "test":
        if value == "" and task.kind != "multi_label":
            return None
        if task.tfds.startswith("glue/") and value in (-1, "-1"):  # how TFDS and the hub say that GLUE keeps it secret
            return None
    elif column is None:
        wanted = " or ".join(map(repr, task.label_columns))
        raise UserError(
            f"{place}: no column {wanted} (config.data.label_column names another); it has {', '.join(map(repr, row))}."
        )
    elif value is None or (value == "" and task.kind != "multi_label"):
        raise UserError(f"{place}: an empty {column!r}; expected a label.")
    return value


def _text(place: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {column!r} is {value!r}; expected a text.")
    return value.strip()


def _texts_and_label(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    columns = _columns(task, place, row)
    texts = tuple(_text(place, column, row[column]) for column in columns)
    value = _label_value(task, place, row, split)
    if not all(texts) and not (task.faulty and value is None):  # a test's prediction is owed for every line
        if task.faulty:
            broken.append(place)
            return
        raise UserError(f"{place}: an empty {columns[texts.index('')]!r}; expected a text.")
    if value is None:
        label = None
    elif task.kind == "regression":
        label = _score(place, value)
    elif task.kind == "multi_label":
        label = _label_set(place, value)
    else:
        label = str(int(value)) if isinstance(value, bool) else str(value).strip()
        # A number that was typed as one is a class of TFDS or the hub, whose order is the task's.
        if isinstance(value, int) and label not in task.labels and 0 <= value < len(task.labels):
            label = task.labels[value]
    yield Example(place, id, texts, label)


def _score(place: str, value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{place}: the score is {value!r}; expected a number.")
    return score


def _json_list(place: str, what: str, value: Any) -> list:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    if not isinstance(value, list):
        raise UserError(f"{place}: {what} is {value!r}; expected a list, in a .tsv or .csv written as JSON.")
    return value


def _label_set(place: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and not value.lstrip().startswith("["):
        labels = [label.strip() for label in value.split("|")] if value.strip() else []
    else:
        labels = [str(label).strip() for label in _json_list(place, "the set of labels", value)]
    if "" in labels:
        raise UserError(f"{place}: an empty label in {value!r}; expected labels parted by | or a JSON list.")
    return tuple(dict.fromkeys(labels))


# Multiple choice


def _choices(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    """One question a row, or RACE's own: `questions`, `options` and `answers`, a list with an item for each question."""
    columns = passage, question, options = _columns(task, place, row)
    value = _label_value(task, place, row, split)
    if not isinstance(row[question], list):
        parts = [(place, id, row[question], _json_list(place, repr(options), row[options]), value)]
    else:
        count, answers = len(row[question]), value if value is not None else [None] * len(row[question])
        lists = {options: row[options], "the answers": answers}
        for name, items in lists.items():
            if not isinstance(items, list) or len(items) != count:
                found = len(items) if isinstance(items, list) else repr(items)
                raise UserError(f"{place}: {count} questions and {found} in {name}; expected as many of each.")
        parts = [
            (f"{place}: question {n}", f"{id}/{n}", *part) for n, part in enumerate(zip(row[question], row[options], answers))
        ]
    for place, id, question_text, option_texts, answer in parts:
        option_texts = [
            _text(place, f"an item of {options}", option) for option in _json_list(place, repr(options), option_texts)
        ]
        article, question_text = _text(place, passage, row[passage]), _text(place, question, question_text)
        joined = [_join(question_text, option) for option in option_texts]
        empty = not article or not all(joined)
        if task.faulty and empty:
            broken.append(place)
            continue
        if empty or (not task.faulty and not all((question_text, *option_texts))):
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
    choice = int(text) if text.isdecimal() else ord(text.upper()) - ord("A") if len(text) == 1 else -1
    if not 0 <= choice < count:
        raise UserError(
            f"{place}: the answer is {value!r}; expected a letter from A to {chr(ord('A') + count - 1)}, "
            f"or a number from 0 to {count - 1}."
        )
    return choice


def _race_file(task: Task, path: str, split: str, broken: list[str]) -> Iterator[Example]:
    """One of RACE's files, a JSON object; its id is that of the whole RACE, such as "high17.txt"."""
    row = _json(path)
    if not isinstance(row, dict):
        raise UserError(f"{path}: a JSON {type(row).__name__}; expected RACE's object with article, questions, options.")
    folder, name = Path(path).parts[-2:]
    yield from _choices(task, path, f"{folder}{name}", row, split, broken)


def _json(path: str) -> Any:
    try:
        return json.loads("".join(line for _, line in lines(path)))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None


# Spans


def _squad(task: Task, path: str, split: str) -> Iterator[Example]:
    """SQuAD's JSON, 1.1 or 2.0."""
    document, place = _json(path), path
    try:
        for article in document["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    place = f"{path}: question {question['id']}"
                    row = {"context": paragraph["context"], "answers": [], **question}
                    if split == "test" and "answers" not in question:
                        row["answers"] = None
                    yield _span(task, place, str(question["id"]), "question", "context", row, row["answers"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{place}: not as SQuAD's JSON is made ({type(error).__name__}: {error}).") from None


def _flat_span(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    """A row with question, context and answers, which are {"text": [...], "answer_start": [...]} or a list of such pairs."""
    question, context = _columns(task, place, row)
    answers = _label_value(task, place, row, split)
    if isinstance(answers, dict) and {"text", "answer_start"} <= answers.keys():
        answers = [{"text": text, "answer_start": start} for text, start in zip(answers["text"], answers["answer_start"])]
    if not isinstance(answers, list | None):
        raise UserError(f"{place}: the answers are {answers!r}; expected texts with their answer_start.")
    yield _span(task, place, id, question, context, row, answers)


def _span(
    task: Task, place: str, id: str, question: str, context: str, row: dict[str, Any], answers: list[dict] | None
) -> Example:
    asked, text = _text(place, question, row[question]), row[context]
    if not asked or not _text(place, context, text):
        raise UserError(f"{place}: an empty {context if asked else question!r}; expected a text.")
    if answers is None:
        return Example(place, id, (asked, text))
    pairs = []
    for answer in [] if row.get("is_impossible") else answers:
        try:
            found, start = answer["text"], int(answer["answer_start"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{place}: the answer {answer!r} lacks its text or a whole number answer_start.") from None
        if not found or start < 0 or text[start : start + len(found)] != found:
            there = text[max(start, 0) : max(start, 0) + len(found)]
            raise UserError(f"{place}: the answer {found!r} is not in its context at {start}, where {there!r} stands.")
        pairs.append((found, start))
    if not pairs and not task.unanswerable:
        raise UserError(f"{place}: no answer; this task takes questions that have one, squad2 and custom-span the others too.")
    return Example(place, id, (asked, text), tuple(pairs))


# Tagging


def _tagged(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    (column,) = _columns(task, place, row)
    words = _json_list(place, repr(column), row[column])
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f"{place}: {column!r} has no word or an empty one; expected a list of words.")
    value = _label_value(task, place, row, split)
    if value is None:
        yield Example(place, id, tuple(words))
        return
    tags = _json_list(place, "the tags", value)
    if len(tags) != len(words):
        raise UserError(f"{place}: {len(words)} words and {len(tags)} tags; expected as many of each.")
    yield Example(place, id, tuple(words), _iob2([(place, tag) for tag in tags]))


def _iob2(tags: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Tags of one sentence, each with its place, as IOB2: each entity begins with B-.

    In CoNLL-2003's original, IOB1, B- stands only between two neighbours of one type. What is IOB2 already stays as it is.
    """
    found, before = [], "O"
    for place, tag in tags:
        if not isinstance(tag, str) or not (tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)):
            raise UserError(f"{place}: the tag {tag!r} is not known; expected O, B-TYPE or I-TYPE.")
        if tag.startswith("I-") and before[2:] != tag[2:]:
            tag = "B-" + tag[2:]
        found.append(tag)
        before = tag
    return tuple(found)


def _conll(path: str, split: str, number: int) -> Iterator[Example]:
    """`token … tag` a line, parted by tabs or spaces; an empty line ends a sentence, and -DOCSTART- is no token.

    A file of tokens alone is a test split without labels. Tags come out as IOB2, whatever IOB they were. A place is the
    line of a sentence's first token.
    """
    sentence: list[tuple[str, list[str]]] = []
    first = ("", 0)  # the first token's place, and how many columns it has
    for at, line in (*lines(path), (0, "")):
        # WNUT-17 ends sentences with a lone tab too, and a file with a byte order mark.
        fields = re.split("\t" if "\t" in line else " +", line.strip("\ufeff \t\r\n"))
        if fields[0] not in ("", "-DOCSTART-"):
            place = f"{path}:{at}"
            first = first if first[1] else (place, len(fields))
            if len(fields) != first[1] or "" in fields:
                raise UserError(f"{place}: {len(fields)} columns; expected {first[1]}, as in {first[0]}.")
            sentence.append((place, fields))
        elif sentence:
            words = tuple(fields[0] for _, fields in sentence)
            if first[1] == 1 and split != "test":
                raise UserError(f"{first[0]}: one column; expected a token and its tag.")
            tags = _iob2([(place, fields[-1]) for place, fields in sentence]) if first[1] > 1 else None
            yield Example(sentence[0][0], str(number), words, tags)
            sentence, number = [], number + 1
