"""Words with a tag each. An example's texts are the words, its label their tags as IOB2."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.preparation.records import FORMATS, text_lines
from roberta_jax.tasks.columns import columns_of, label_value, list_of
from roberta_jax.tasks.definitions import NER, Example, Task
from roberta_jax.tasks.features import UNLABELLED, Encoded, Features, Logits, label_index
from roberta_jax.tasks.kinds.kind import Kind, Labels, class_loss
from roberta_jax.tokenization.pretrained import PretrainedTokenizer, added, frame_of, join


def _read_row(task: Task, place: str, id: str, row: dict[str, Any], split: str, broken: list[str]) -> Iterator[Example]:
    (column,) = columns_of(task, place, row)
    words = list_of(place, repr(column), row[column])
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise UserError(f"{place}: {column!r} has no word or an empty one; expected a list of words.")
    value = label_value(task, place, row, split)
    if value is None:
        yield Example(place, id, tuple(words))
        return
    tags = list_of(place, "the tags", value)
    if len(tags) != len(words):
        raise UserError(f"{place}: {len(words)} words and {len(tags)} tags; expected as many of each.")
    yield Example(place, id, tuple(words), _iob2([(place, _name_of(task, place, tag)) for tag in tags]))


def _name_of(task: Task, place: str, tag: Any) -> Any:
    """A tag that the hub's copy gives as a number, by its name."""
    if not isinstance(tag, int):
        return tag
    if not 0 <= tag < len(task.tags):
        known = f"numbers up to {len(task.tags) - 1}" if task.tags else "names, such as B-PER, which the hub's .parquet has too"
        raise UserError(f"{place}: the tag {tag} is not known; expected {known}.")
    return task.tags[tag]


_PREFIXES = {"B": "B", "I": "I", "S": "B", "U": "B", "E": "I", "L": "I"}  # IOB, BIOES and BILOU


def _is_tag(text: Any) -> bool:
    return text == "O" or isinstance(text, str) and text[:1] in _PREFIXES and text[1:2] == "-" and len(text) > 2


def _iob2(tags: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Tags of one sentence, each with its place, as IOB2: each entity begins with B-.

    In CoNLL-2003's original, IOB1, B- stands only between two neighbours of one type. In BIOES and BILOU an entity's last
    word, and its only one, have prefixes of their own. What is IOB2 already stays as it is.
    """
    iob2, before = [], "O"
    for place, tag in tags:
        if not _is_tag(tag):
            raise UserError(f"{place}: the tag {tag!r} is not known; expected O, B-TYPE or I-TYPE, or those of BIOES.")
        if tag != "O":
            prefix = _PREFIXES[tag[0]]
            # An entity's last word ends it: what follows belongs to the next.
            goes_on = prefix == "I" and before[2:] == tag[2:] and before[0] not in "SUEL"
            iob2.append(f"{'I' if goes_on else 'B'}-{tag[2:]}")
        else:
            iob2.append(tag)
        before = tag
    return tuple(iob2)


def _read_conll(task: Task, path: str, split: str, number: int, broken: list[str]) -> Iterator[Example]:
    """`token … tag` a line, parted by tabs or spaces; an empty line ends a sentence, and -DOCSTART- is no token.

    A file of tokens alone is a test split without labels. Tags come out as IOB2, whatever IOB they were. A place is the
    line of a sentence's first token. Which columns are words and tags, config.data.text_columns and label_column may say, by
    their numbers from 1.
    """
    sentences: list[list[tuple[str, list[str]]]] = [[]]
    first = ("", 0)  # the first token's place, and how many columns it has
    for at, line in text_lines(path):
        # WNUT-17 ends sentences with a lone tab too, and a file with a byte order mark.
        fields = re.split("\t" if "\t" in line else " +", line.strip("\ufeff \t\r\n"))
        comments = ("#begin", "#end") if sentences[-1] else ("#", "#begin", "#end")
        if fields[0] in comments and len(fields) > 1 and not _is_tag(fields[-1]):
            continue  # as GermEval's and CoNLL-U's files have them before a sentence, OntoNotes' around a document
        if fields[0] not in ("", "-DOCSTART-"):
            place = f"{path}:{at}"
            first = first if first[1] else (place, len(fields))
            if len(fields) != first[1] or "" in fields:
                raise UserError(f"{place}: {len(fields)} columns; expected {first[1]}, as in {first[0]}.")
            sentences[-1].append((place, fields))
        elif sentences[-1]:
            sentences.append([])
    sentences = [sentence for sentence in sentences if sentence]
    of_words, of_tags = _columns(task, sentences, split) if sentences else (0, None)
    if sentences and of_tags is None and split != "test":
        raise UserError(f"{first[0]}: one column; expected a token and its tag.")
    for i, sentence in enumerate(sentences, number):
        words = tuple(fields[of_words] for _, fields in sentence)
        tags = None if of_tags is None else _iob2([(place, fields[of_tags]) for place, fields in sentence])
        yield Example(sentence[0][0], str(i), words, tags)


def _columns(task: Task, sentences: list[list[tuple[str, list[str]]]], split: str) -> tuple[int, int | None]:
    """Which column of a file holds the words and which the tags, None where none does."""
    (place, fields), count = sentences[0][0], len(sentences[0][0][1])
    shown = ", ".join(f"{i + 1}: {field!r}" for i, field in enumerate(fields))
    if split == "test" and count == 1:  # tokens alone, wherever the others have their tags
        return 0, None
    of_words = _numbered(place, task.text_columns[0][0], "text_columns", count, shown)
    of_tags = _numbered(place, task.label_columns[0], "label_column", count, shown)
    tag_columns = [i for i in range(1, count) if all(_is_tag(line[i]) for sentence in sentences for _, line in sentence)]
    numbered = ([line[0] for _, line in sentence] for sentence in sentences)  # GermEval's first column counts the words
    counts = all(column in ([str(i + base) for i in range(len(column))] for base in (0, 1)) for column in numbered)
    counts = counts and any(len(sentence) > 1 for sentence in sentences) and tag_columns != [1]
    if counts and of_tags is None and len(tag_columns) > 1 + (of_words in tag_columns):
        raise UserError(
            f"{place}: several columns may hold the tags; it has {shown}. config.data.label_column={tag_columns[0] + 1} takes "
            "one by its number, and config.data.text_columns that of the words."
        )
    if of_words is None:
        of_words = int(counts and count > 1)
    if of_tags is None:
        last = tag_columns[0] if counts and tag_columns else count - 1
        of_tags = last if last != of_words else None
    return of_words, of_tags


def _numbered(place: str, name: str, field: str, count: int, shown: str) -> int | None:
    """The column that a field of config.data names by its number from 1; None: by a name of a table's, or not at all."""
    if name in (*sum(NER["text_columns"], ()), *NER["label_columns"]):
        return None
    if not name.isdecimal() or not 0 < int(name) <= count:
        raise UserError(f"{place}: there is no column {name}; it has {shown} (config.data.{field} takes one by its number).")
    return int(name) - 1


def _labels(train: Sequence[Example]) -> Labels:
    """Both tags of each type, so that a rare I- of the valid split is known."""
    types = {tag[2:] for example in train for tag in example.label if tag != "O"}
    return ("O", *(prefix + type for type in sorted(types) for prefix in ("B-", "I-")))


def encode(examples: Sequence[Example], tokenizer: PretrainedTokenizer, labels: Labels, max_length: int) -> Features:
    """The words joined by spaces; a sentence too long for a row goes on in the next. A word's first token has its tag.

    Returns:
      labels: int32 [ids] for each row, UNLABELLED but where a word begins.
      layout: (example, its first word here, where each word begins) for each row.
    """
    indices, rows, targets, words, cut = {tag: i for i, tag in enumerate(labels)}, [], [], [], 0
    head, room = len(frame_of(tokenizer, 1)[0]), max_length - added(tokenizer, 1)
    for i, example in enumerate(examples):
        ids, spans = tokenizer.encode_with_spans(" ".join(example.texts))
        lengths = np.array([len(word) for word in example.texts])
        starts = np.cumsum(lengths + 1) - lengths - 1
        firsts = np.searchsorted(spans[:, 1], starts, side="right")  # the first token that ends behind the word's start
        parts = _parts(np.append(firsts, len(ids)), room)
        cut += len(parts) > 1
        for first, last in parts:
            part = ids[firsts[first] : firsts[last] if last < len(firsts) else None][:room]
            row = join(tokenizer, [part])
            at = np.minimum(firsts[first:last] - firsts[first] + head, len(row) - 1)
            tags = np.full(len(row), UNLABELLED, np.int32)
            if example.label is not None:
                tags[at] = [label_index(indices, tag, example) for tag in example.label[first:last]]
            rows.append((row,))
            targets.append(tags)
            words.append((i, first, at))
    return Features(rows, targets if all(example.label is not None for example in examples) else None, words, cut)


def _parts(firsts: np.ndarray, room: int) -> list[tuple[int, int]]:
    """Runs of words, first and last + 1, each of at most `room` tokens, or of one word. firsts int [words + 1]"""
    parts, start = [], 0
    while start < len(firsts) - 1:
        stop = int(np.searchsorted(firsts, firsts[start] + room, side="right")) - 1
        parts.append((start, max(stop, start + 1)))
        start = parts[-1][1]
    return parts


def word_tags(features: Features, logits: Logits, labels: Labels, examples: int) -> list[list[str]]:
    """The likeliest tag of each word of each example, read where the word begins; padding may follow in the logits."""
    tags: list[list[str]] = [[] for _ in range(examples)]
    for (example, _, at), values in zip(features.layout, logits):
        tags[example] += [labels[tag] for tag in values[at].argmax(axis=-1)]
    return tags


def entity_metrics(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """precision, recall and f1 of whole entities, and accuracy over the words; a tag for each word of each text.

    Source: conlleval of CoNLL-2000, as seqeval's default mode has it. 0/0 is 0, so without any entity f1 is 0.

    Raises:
      UserError: a tag is not of the form O, B-TYPE or I-TYPE.
    """
    if list(map(len, labels)) != list(map(len, predictions)):
        raise ValueError("labels and predictions have different numbers of words")
    if not any(map(len, labels)):
        raise UserError("there are no words to measure.")
    for tag in sorted({tag for tags in (*labels, *predictions) for tag in tags}):
        if not re.fullmatch(r"O|[BI]-.+", tag):
            raise UserError(f"the tag {tag!r} is none of O, B-TYPE and I-TYPE (IOB2), of which entities are made.")
    pairs = [(entities(one), entities(other)) for one, other in zip(labels, predictions)]
    labelled, predicted = sum(len(one) for one, _ in pairs), sum(len(other) for _, other in pairs)
    correct = sum(len(one & other) for one, other in pairs)
    right = sum(map(str.__eq__, itertools.chain(*labels), itertools.chain(*predictions)))
    return {
        "f1": 2 * correct / max(1, labelled + predicted),
        "precision": correct / max(1, predicted),
        "recall": correct / max(1, labelled),
        "accuracy": right / sum(map(len, labels)),
    }


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word + 1) of each entity. An I-TYPE that continues none of its type begins one."""
    spans, start, before = set(), 0, "O"
    for i, tag in enumerate([*tags, "O"]):
        if tag[0] != "I" or tag[1:] != before[1:]:
            if before != "O":
                spans.add((before[2:], start, i))
            start = i
        before = tag
    return spans


def _measure(task: Task, labels: Labels, split: Encoded, logits: Logits) -> dict[str, float]:
    tags = word_tags(split.features, logits, labels, len(split.examples))
    return entity_metrics([example.label for example in split.examples], tags)


def _predict(task: Task, labels: Labels, split: Encoded, logits: Logits) -> tuple[list[dict[str, Any]], dict]:
    return [{"prediction": tags} for tags in word_tags(split.features, logits, labels, len(split.examples))], {}


TAGGING = Kind(
    head="token_classification",
    outputs=lambda task, labels: len(labels),
    read_row=_read_row,
    file_reader=lambda ending: None if ending in FORMATS else _read_conll,
    # eng.train, eng.testa, eng.testb; wnut17train.conll, emerging.dev.conll and so on
    files=lambda task: (
        (".*train.*",),
        (".*(dev|valid|testa).*",),
        (r".*testb.*|.*test\.annotated.*", "(?!.*testa).*test.*"),
    ),
    endings=None,
    size=lambda example: None,
    labels=_labels,
    encode=encode,
    loss=class_loss,
    packable=True,
    measure=_measure,
    predict=_predict,
)
