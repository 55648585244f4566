"""A task's data: which files or TFDS splits are train, valid and test, what is held out, and which labels there are."""

import dataclasses
import functools
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from roberta_jax import storage
from roberta_jax.config import parts as parts_of
from roberta_jax.errors import UserError
from roberta_jax.preparation.records import COMPRESSIONS, ending_of
from roberta_jax.preparation.tables import read_table, tfds_splits
from roberta_jax.tasks.columns import assumed_names
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.definitions import TASKS, Example, Task
from roberta_jax.tasks.kinds.kind import ALSO_VALID, VALID, Kind
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.training.logging import say

_IDS = ("index", "id", "idx", "example_id")  # columns that may hold an example's id


@dataclass(frozen=True)
class Splits:
    """All examples of a task. The main split of `valid` and `test` is "", others go by a name such as "mismatched"."""

    train: list[Example]
    valid: dict[str, list[Example]]
    test: dict[str, list[Example]]
    labels: tuple[str, ...]  # in the order of the outputs; () for regression, multiple choice and span

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """Of what was read, wherever it lay: of "train" and "valid" what figures depend on; of "test" all, and valid's ids."""
        valid, test = sorted(self.valid.items()), sorted(self.test.items())
        return {
            "train": _hash((example.texts, example.label) for example in self.train),
            "valid": _hash((part, example.texts, example.label) for part, examples in valid for example in examples),
            "test": _hash(
                (part, example.id, example.texts if of_test else (), example.label if of_test else None)
                for of_test, parts in ((False, valid), (True, test))
                for part, examples in parts
                for example in examples
            ),
        }


def _hash(values: Iterable[tuple]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def _names(task_name: str, task: Task) -> dict[str, dict[str, tuple[str, ...]]]:
    """split → name of a part → patterns of file names without ending, or of TFDS splits; the first that is there counts."""
    train, valid, test = KINDS[task.kind].files(task)
    if task_name == "mnli":
        return {
            "train": {"": train},
            "valid": {"": (f"{VALID}_matched", VALID, ALSO_VALID), "mismatched": (f"{VALID}_mismatched",)},
            "test": {"": ("test_matched", "test"), "mismatched": ("test_mismatched",), "diagnostic": ("diagnostic",)},
        }
    if task_name == "mrpc":  # Microsoft's own two files, where GLUE's are not made of them
        train, test = (*train, "msr_paraphrase_train"), (*test, "msr_paraphrase_test")
    return {"train": {"": train}, "valid": {"": valid}, "test": {"": test}}


def read_examples(
    task: Task, sources: list[str], split: str, broken: list[str], said: dict[str, None], guesses: dict[str, str]
) -> list[Example]:
    """The examples of one split, from its sources in turn: paths, or "tfds:NAME:SPLIT".

    Labels are not compared with the task's here. An example without an id of its own gets its number in the split.

    Args:
      split: "train", "valid" or "test"; in "test" alone a label may be missing.
      broken: takes the places of faulty lines that are left out, where the task's published files have such.
      said: takes what was assumed.
      guesses: see `assumed_names`.

    Raises:
      UserError: names the file, and the line, the question or the row.
    """
    examples: list[Example] = []
    for source in sources:
        read = None if source.startswith("tfds:") else KINDS[task.kind].file_reader(ending_of(source))
        if read:
            examples.extend(read(task, source, split, len(examples), broken))
        else:
            examples.extend(_read_table(task, source, split, len(examples), broken, said, guesses))
    return examples


def _read_table(
    task: Task, source: str, split: str, number: int, broken: list[str], said: dict[str, None], guesses: dict[str, str]
) -> Iterator[Example]:
    header = {"index", *task.label_columns, *(column for columns in task.text_columns for column in columns)}
    names: dict[tuple[str, ...], dict[str, str]] = {}  # by a row's columns
    rows = read_table(source, task.columns, header, task.labels, broken if task.faulty else None, task.custom)
    for place, row in rows:
        if task.custom:
            if (found := tuple(row)) not in names:
                names[found] = assumed_names(task, found, guesses)
                said |= {f"the column {theirs!r} is taken for {ours!r}": None for theirs, ours in names[found].items()}
            row = {names[found].get(name, name): value for name, value in row.items()}
        id = next((str(row[column]) for column in _IDS if row.get(column) not in (None, "")), str(number))
        number += 1
        yield from KINDS[task.kind].read_row(task, place, id, row, split, broken)


def read_splits(task_name: str, data: TaskData) -> Splits:
    """Reads all splits of a task.

    Parts by name: MNLI has "mismatched", and in test GLUE's "diagnostic", where these are; `race` has "middle" and "high"
    beside "", which is both. Lines that the published QQP, MNLI and RACE have broken are left out, with one warning.

    Raises:
      UserError: for a split that is not there or is empty, and whatever is wrong in a file, with its line.
    """
    if task_name not in TASKS:
        raise UserError(f"config.task is {task_name!r}; there are {', '.join(TASKS)}.")
    if not data.source and not data.train:
        raise UserError("config.data.source and config.data.train are empty; expected a folder, tfds:NAME or files.")
    task = TASKS[task_name]
    if columns := parts_of(data.text_columns):
        counts = sorted({len(each) for each in task.text_columns})
        named = f"config.data.text_columns is {data.text_columns!r}"
        if len(columns) not in counts:
            raise UserError(f"{named}; expected names of columns, {' or '.join(map(str, counts))} for {task_name}.")
        task = dataclasses.replace(task, text_columns=(columns,))
    if data.label_column:
        task = dataclasses.replace(task, label_columns=(data.label_column,))
    broken: list[str] = []
    said: dict[str, None] = {}  # what was assumed, each once
    guesses: dict[str, str] = {}
    read: dict[str, dict[str, list[Example]]] = {}
    for split, parts in _names(task_name, task).items():
        read[split] = {}
        for part, sources in _sources(split, parts, task, data).items():
            # Which column is the label, train says for test, whose may be missing; a valid split has its own.
            examples = read_examples(task, sources, split, broken, said, {} if split == "valid" else guesses)
            if task_name in ("race-middle", "race-high"):
                examples = [example for example in examples if example.id.startswith(task_name[5:])]
            if not examples:
                raise UserError(f"{', '.join(sources[:3])}: the {split} split holds no example; expected at least one.")
            bare = next((example for example in examples if example.label is None), None)
            if bare and split != "test":
                raise UserError(f"{bare.place}: no label; expected one of each example of the {split} split.")
            read[split][part] = examples
    if broken:
        warnings.warn(
            f"{len(broken)} lines are left out, the first of them {broken[0]}: they have an empty text, no label "
            "that was agreed on (-), or another number of fields than the header.",
            stacklevel=2,
        )
    settled = KINDS[task.kind].settle(task, {split: list(parts.values()) for split, parts in read.items()}, said)
    train = read["train"][""]
    labels = task.labels or settled or KINDS[task.kind].labels(train)
    for examples in (train, *read["valid"].values(), *read["test"].values()):
        _check(KINDS[task.kind], examples, labels, train[0])
    if "" not in read["valid"]:  # there may be another part, as MNLI's mismatched one
        train, read["valid"][""] = _hold_out(KINDS[task.kind], train, data.valid_fraction)
        said[
            f"there is no valid split, so {len(read['valid']['']):,} of {len(train) + len(read['valid']['']):,} train examples "
            "are held out (config.data.valid names a file)"
        ] = None
    for sentence in said:
        say(f"! {task_name}: {sentence}")
    for parts in (read["valid"], read["test"]) if task_name == "race" else ():
        levels = {level: [e for e in parts.get("", ()) if e.id.startswith(level)] for level in ("middle", "high")}
        parts.update({level: examples for level, examples in levels.items() if examples})
    return Splits(train, read["valid"], read["test"], labels)


def _sources(split: str, parts: dict[str, tuple[str, ...]], task: Task, data: TaskData) -> dict[str, list[str]]:
    """name of a part → what to read for it; a part that is not there is left out, save train's."""
    given, kind = parts_of(getattr(data, split)), KINDS[task.kind]
    if given:
        return {"": [path for source in given for path in _given(split, source, kind)]}
    if not data.source:
        return {}
    if data.source.startswith("tfds:"):
        names = parts_of(data.source.removeprefix("tfds:") or task.tfds)
        if not names:
            raise UserError("config.data.source is 'tfds:', but TFDS has no data set of this task's own; expected tfds:NAME.")
        by_part = {part: [s for name in names for s in _tfds_sources(name, patterns)] for part, patterns in parts.items()}
        has = "; ".join(f"{name} has {', '.join(tfds_splits(name))}" for name in names)
    else:
        names, folder = sorted(storage.names(data.source)), storage.local(data.source)
        if not names and not (folder and folder.is_dir()):
            raise UserError(f"{data.source}: no such folder (config.data.source); expected one, or tfds:NAME.")
        by_part = {part: _files(data.source, names, patterns, split, kind) for part, patterns in parts.items()}
        if "diagnostic" in parts and not by_part["diagnostic"]:
            by_part["diagnostic"] = _diagnostic(data.source, parts["diagnostic"], kind)
        has = "it has " + (", ".join(names[:10]) or "nothing")
    if split == "train" and not by_part[""]:
        looked_for = " or ".join(pattern.replace("\\", "") for pattern in parts[""])
        endings = "any ending" if kind.endings is None else " ".join("." + ending for ending in kind.endings)
        endings += f", or a folder of RACE's .{kind.folder_ending}" if kind.folder_ending else ""
        raise UserError(f"{data.source}: no train split here (config.data.train); looked for {looked_for} ({endings}); {has}.")
    return {part: sources for part, sources in by_part.items() if sources}


def _given(split: str, source: str, kind: Kind) -> list[str]:
    if source.startswith("tfds:"):
        return [source]
    files, is_folder = storage.find(source)
    if kind.folder_ending and is_folder:
        return sorted(file.path for file in files if ending_of(file.path) == kind.folder_ending)
    if is_folder or not files:
        raise UserError(f"{source}: no such file (config.data.{split}).")
    return [file.path for file in files]


def _tfds_sources(name: str, patterns: tuple[str, ...]) -> list[str]:
    for pattern in patterns:
        if splits := [split for split in tfds_splits(name) if re.fullmatch(pattern, split)]:
            return [f"tfds:{name}:{splits[0]}"]
    return []


def _diagnostic(folder: str, patterns: tuple[str, ...], kind: Kind) -> list[str]:
    """GLUE's diagnostic set where its script puts it: in a folder of its own, beside that of MNLI."""
    above = str(there.absolute().parent) if (there := storage.local(folder)) else folder.rstrip("/").rpartition("/")[0]
    for place in (storage.join(folder, "diagnostic"), storage.join(above, "diagnostic")):
        if found := _files(place, sorted(storage.names(place)), patterns, "test", kind):
            return found
    return []


def _files(folder: str, names: list[str], patterns: tuple[str, ...], split: str, kind: Kind) -> list[str]:
    """A split's files by the first pattern that one has, in small letters or, where there is none, in any."""
    names = [name for name in names if not name.startswith(".")]
    return next((found for i in ("", "(?i)") if (found := _named(folder, names, patterns, i, split, kind))), [])


def _named(folder: str, names: list[str], patterns: tuple[str, ...], case: str, split: str, kind: Kind) -> list[str]:
    for pattern in patterns:
        for name in names if kind.folder_ending else ():
            if re.fullmatch(case + pattern, name):
                found, is_folder = storage.find(storage.join(folder, name))
                if is_folder:
                    return sorted(file.path for file in found if ending_of(file.path) == kind.folder_ending)
        ending = ""
        if endings := ("txt",) if pattern.startswith("msr_") else kind.endings:
            compressions = "|".join(map(re.escape, COMPRESSIONS))
            ending = rf"(-\d+-of-\d+)?(?i:\.({'|'.join(endings)})({compressions})?)"
        matching = [name for name in names if re.fullmatch(f"{case}({pattern}){ending}", name)]
        found = {name: storage.find(storage.join(folder, name)) for name in matching}
        paths = {name: files[0].path for name, (files, is_folder) in found.items() if files and not is_folder}
        tables = {name: path for name, path in paths.items() if ending_of(name) != "json"}
        if tables and not kind.file_reader("json"):  # a .json beside a table is more often a folder's settings
            paths = tables
        if len({re.sub(r"-\d+-of-\d+", "", name) for name in paths}) > 1:
            raise UserError(f"{folder}: {', '.join(paths)} could each be the {split} split; config.data.{split} can say which.")
        if paths:
            return list(paths.values())
    return []


def _check(kind: Kind, examples: list[Example], labels: tuple[str, ...], first: Example) -> None:
    """Labels are known ones; of texts or options there are as many everywhere as in the first example."""
    known = set(labels)
    for example in examples:
        if (size := kind.size(example)) != (expected := kind.size(first)):
            raise UserError(f"{example.place}: {size[0]} {size[1]}; expected {expected[0]}, as elsewhere.")
        if known and example.label is not None:
            for label in (example.label,) if isinstance(example.label, str) else example.label:
                if label not in known:
                    raise UserError(f"{example.place}: the label {label!r} is not known; there are {', '.join(labels)}.")


def _hold_out(kind: Kind, examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(train, valid), by a hash of what must not be on both sides: a context, a passage, else all texts."""
    train, valid = [], []
    for example in examples:
        digest = hashlib.blake2b("\0".join(kind.shared_texts(example)).encode(errors="surrogatepass"), digest_size=8).digest()
        (valid if int.from_bytes(digest) < fraction * 2**64 else train).append(example)
    if not train or not valid:
        side = "valid" if train else "train"
        raise UserError(
            f"config.data.valid_fraction {fraction} leaves no {side} example out of {len(examples)}; expected another "
            "fraction, more examples or a file in config.data.valid."
        )
    return train, valid
