"""A task's data: which files or TFDS splits are train, valid and test, what is held out, and which labels there are."""

import dataclasses
import functools
import hashlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from roberta_jax.errors import UserError, check
from roberta_jax.preparation.tables import KINDS, tfds_splits
from roberta_jax.tasks.definitions import TASKS, Example, Task
from roberta_jax.tasks.formats import read_examples


@dataclass(frozen=True)
class TaskData:
    """Where a task's examples come from (fields of `config.data` of a fine-tuning job)."""

    source: str = ""  # a folder with the published files, "tfds:" for the task's own data set, or "tfds:NAME"
    train: str = ""  # files, parted by commas, instead of those that the folder has; "tfds:NAME:SPLIT" too
    valid: str = ""
    test: str = ""
    valid_fraction: float = 0.1  # of train, held out by a hash, where there is no valid split
    text_columns: str = ""  # of a table, parted by commas; "": the names that the task knows
    label_column: str = ""

    def __post_init__(self):
        check(0 < self.valid_fraction < 1, "data.valid_fraction", self.valid_fraction, "more than 0 and less than 1")


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


_VALID = "(dev|valid|validation)"
_ENDING = {
    "span": r"\.(json|jsonl|parquet)(\.gz|\.zst)?",
    "tagging": "",
    "": rf"(-\d+-of-\d+)?\.({'|'.join(KINDS)})(\.gz|\.zst)?",
}


def _names(task_name: str, task: Task) -> dict[str, dict[str, tuple[str, ...]]]:
    """split → name of a part → patterns of file names without ending, or of TFDS splits; the first that is there counts."""
    train, valid, test = ("train",), (_VALID,), ("test",)
    if task_name == "mnli":
        return {
            "train": {"": train},
            "valid": {"": (f"{_VALID}_matched", _VALID), "mismatched": (f"{_VALID}_mismatched",)},
            "test": {"": ("test_matched", "test"), "mismatched": ("test_mismatched",), "diagnostic": ("diagnostic",)},
        }
    if task_name == "mrpc":  # Microsoft's own two files, where GLUE's are not made of them
        train, test = ("train", "msr_paraphrase_train"), ("test", "msr_paraphrase_test")
    if task.kind == "span":
        version = r"-v2\.0" if task.unanswerable else r"-v1\.1"
        train, valid, test = ((name + version, f"{name}(-.*)?") for name in ("train", _VALID, "test"))
    if task.kind == "tagging":  # eng.train, eng.testa, eng.testb; wnut17train.conll, emerging.dev.conll and so on
        train, valid = (".*train.*",), (".*(dev|valid|testa).*",)
        test = (r".*testb.*|.*test\.annotated.*", "(?!.*testa).*test.*")
    return {"train": {"": train}, "valid": {"": valid}, "test": {"": test}}


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
    if data.text_columns:
        task = dataclasses.replace(task, text_columns=(_parts(data.text_columns),))
    if data.label_column:
        task = dataclasses.replace(task, label_columns=(data.label_column,))
    broken: list[str] = []
    read: dict[str, dict[str, list[Example]]] = {}
    for split, parts in _names(task_name, task).items():
        read[split] = {}
        for part, sources in _sources(split, parts, task, data).items():
            examples = read_examples(task, sources, split, broken)
            if task_name in ("race-middle", "race-high"):
                examples = [example for example in examples if example.id.startswith(task_name[5:])]
            if not examples:
                raise UserError(f"{', '.join(sources[:3])}: the {split} split holds no example; expected at least one.")
            read[split][part] = examples
    if broken:
        warnings.warn(
            f"{len(broken)} lines are left out, the first of them {broken[0]}: they have an empty text, or another number "
            "of fields than the header.",
            stacklevel=2,
        )
    train = read["train"][""]
    labels = task.labels or _labels(task, train)
    for examples in (train, *read["valid"].values(), *read["test"].values()):
        _check(task, examples, labels, len(train[0].texts))
    if not read["valid"]:
        train, read["valid"][""] = _hold_out(task, train, data.valid_fraction)
    for parts in (read["valid"], read["test"]) if task_name == "race" else ():
        levels = {level: [e for e in parts.get("", ()) if e.id.startswith(level)] for level in ("middle", "high")}
        parts.update({level: examples for level, examples in levels.items() if examples})
    return Splits(train, read["valid"], read["test"], labels)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _sources(split: str, parts: dict[str, tuple[str, ...]], task: Task, data: TaskData) -> dict[str, list[str]]:
    """name of a part → what to read for it; a part that is not there is left out, save train's."""
    given = _parts(getattr(data, split))
    if given:
        return {"": [path for source in given for path in _given(split, source, task)]}
    if not data.source:
        return {}
    if data.source.startswith("tfds:"):
        names = _parts(data.source.removeprefix("tfds:") or task.tfds)
        if not names:
            raise UserError("config.data.source is 'tfds:', but TFDS has no data set of this task's own; expected tfds:NAME.")
        found = {part: [s for name in names for s in _tfds_sources(name, patterns)] for part, patterns in parts.items()}
        has = "; ".join(f"{name} has {', '.join(tfds_splits(name))}" for name in names)
    else:
        folder = Path(data.source).expanduser()
        if not folder.is_dir():
            raise UserError(f"{data.source}: no such folder (config.data.source); expected one, or tfds:NAME.")
        found = {part: _files(folder, patterns, split, task) for part, patterns in parts.items()}
        has = "it has " + (", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing")
    if split == "train" and not found[""]:
        looked_for = " or ".join(pattern.replace("\\", "") for pattern in parts[""])
        kinds = {"span": ".json .jsonl .parquet", "tagging": "any ending"}.get(task.kind, " ".join("." + k for k in KINDS))
        kinds += ", or a folder of RACE's .txt" if task.kind == "multiple_choice" else ""
        raise UserError(f"{data.source}: no train split here (config.data.train); looked for {looked_for} ({kinds}); {has}.")
    return {part: sources for part, sources in found.items() if sources}


def _given(split: str, source: str, task: Task) -> list[str]:
    path = Path(source).expanduser()
    if task.kind == "multiple_choice" and path.is_dir():  # of RACE
        return sorted(str(file) for file in path.rglob("*.txt"))
    if not source.startswith("tfds:") and not path.is_file():
        raise UserError(f"{source}: no such file (config.data.{split}).")
    return [source if source.startswith("tfds:") else str(path)]


def _tfds_sources(name: str, patterns: tuple[str, ...]) -> list[str]:
    for pattern in patterns:
        if found := [split for split in tfds_splits(name) if re.fullmatch(pattern, split)]:
            return [f"tfds:{name}:{found[0]}"]
    return []


def _files(folder: Path, patterns: tuple[str, ...], split: str, task: Task) -> list[str]:
    entries = sorted(folder.iterdir())
    for pattern in patterns:
        if task.kind == "multiple_choice":
            for entry in entries:
                if entry.is_dir() and re.fullmatch(pattern, entry.name):
                    return sorted(str(file) for file in entry.rglob("*.txt"))
        ending = r"\.txt" if pattern.startswith("msr_") else _ENDING.get(task.kind, _ENDING[""])
        found = [entry for entry in entries if entry.is_file() and re.fullmatch(f"({pattern}){ending}", entry.name)]
        if len({re.sub(r"-\d+-of-\d+", "", file.name) for file in found}) > 1:
            several = ", ".join(file.name for file in found)
            raise UserError(f"{folder}: {several} could each be the {split} split; config.data.{split} can say which.")
        if found:
            return [str(file) for file in found]
    return []


def _labels(task: Task, train: list[Example]) -> tuple[str, ...]:
    """Labels in an order that does not depend on that of the examples."""
    if task.kind == "tagging":
        # Both tags of each type, so that a rare I- of the valid split is known.
        types = {tag[2:] for example in train for tag in example.label if tag != "O"}
        return ("O", *(prefix + type for type in sorted(types) for prefix in ("B-", "I-")))
    if task.kind == "classification":
        found = {example.label for example in train}
    elif task.kind == "multi_label":
        found = {label for example in train for label in example.label}
    else:
        return ()
    numbers = all(label.isdecimal() for label in found)  # 2 stands before 10
    labels = tuple(sorted(found, key=lambda label: (int(label) if numbers else 0, label)))
    if len(labels) < (2 if task.kind == "classification" else 1):
        raise UserError(f"{train[0].place}: the train split has the labels {list(labels)} alone; expected more of them.")
    return labels


def _check(task: Task, examples: list[Example], labels: tuple[str, ...], count: int) -> None:
    """Labels are known ones; a choice is among as many options everywhere, and texts are as many as in train."""
    known = set(labels)
    for example in examples:
        if task.kind not in ("span", "tagging") and len(example.texts) != count:
            what = "options" if task.kind == "multiple_choice" else "texts"
            less = what == "options"
            raise UserError(f"{example.place}: {len(example.texts) - less} {what}; expected {count - less}, as elsewhere.")
        if known and example.label is not None:
            for label in (example.label,) if task.kind == "classification" else example.label:
                if label not in known:
                    raise UserError(f"{example.place}: the label {label!r} is not known; there are {', '.join(labels)}.")


def _hold_out(task: Task, examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(train, valid), by a hash of what must not be on both sides: a context, a passage, else all texts."""
    train, valid = [], []
    for example in examples:
        texts = {"span": example.texts[1:], "multiple_choice": example.texts[:1]}.get(task.kind, example.texts)
        digest = hashlib.blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).digest()
        (valid if int.from_bytes(digest) < fraction * 2**64 else train).append(example)
    if not train or not valid:
        side = "valid" if train else "train"
        raise UserError(
            f"config.data.valid_fraction {fraction} leaves no {side} example out of {len(examples)}; expected another "
            "fraction, more examples or a file in config.data.valid."
        )
    return train, valid
