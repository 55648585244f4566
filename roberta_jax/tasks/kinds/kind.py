"""What a kind of task consists of: how it is read, encoded, learned, measured and answered."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.preparation.tables import ENDINGS
from roberta_jax.tasks.definitions import Example, Task
from roberta_jax.tasks.features import Encoded, Features, Logits
from roberta_jax.tokenization.pretrained import PretrainedTokenizer
from roberta_jax.training.cross_entropy import cross_entropy

VALID = "(dev|valid|validation)"  # how a valid split may be called
ALSO_VALID = "(val|eval|evaluation|devel|development)"  # where none is called so
Labels = tuple[str, ...]  # in the order of the outputs
# Of a file in a format of the kind's own: (task, path, split, number of its first example, broken) → examples.
FileReader = Callable[[Task, str, str, int, list[str]], Iterator[Example]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Kind:
    """All that the tasks of one kind share. `broken` takes the places of faulty lines that are left out."""

    head: str  # a key of model.heads.HEADS
    outputs: Callable[[Task, Labels], int]  # of the head

    # Files to examples
    read_row: Callable[[Task, str, str, dict[str, Any], str, list[str]], Iterator[Example]]
    """(task, place, id, a table's row: column → value, split, broken) → examples"""
    file_reader: Callable[[str], FileReader | None] = lambda ending: None
    """By a file's ending, such as "json", the reader of a format of the kind's own; None: it is a table."""
    files: Callable[[Task], tuple[tuple[str, ...], ...]] = lambda task: (("train",), (VALID, ALSO_VALID), ("test",))
    """For train, valid and test patterns of file names without ending, or of TFDS splits; the first that is there counts."""
    endings: tuple[str, ...] | None = ENDINGS  # of its files; None: any
    folder_ending: str = ""  # of the files where a split may be a folder
    shared_texts: Callable[[Example], tuple[str, ...]] = lambda example: example.texts
    """The texts of an example that must not be in train too, where it is in a valid split that is held out of train."""
    size: Callable[[Example], tuple[int, str] | None] = lambda example: (len(example.texts), "texts")
    """What every example has as many of, as (how many, of what); None: of nothing."""
    labels: Callable[[Sequence[Example]], Labels] = lambda train: ()
    """The labels of a train split, in an order that does not depend on that of the examples; (): they are no classes."""

    settle: Callable[[Task, dict[str, list[list[Example]]], dict[str, None]], Labels] = lambda task, splits, said: ()
    """(task, split → the examples of its parts, said) → the labels, where the train split alone does not tell them.

    For what only all examples together tell: it puts others in the place of some, and adds what it assumed to `said`.
    """

    # Examples to features, and the loss
    encode: Callable[[Sequence[Example], PretrainedTokenizer, Labels, int], Features]
    """(examples, tokenizer, labels, most ids of a row) → features, without labels where the first example has none"""
    loss: Callable[[jax.Array, dict], tuple[jax.Array, jax.Array | None]]
    """(logits, batch) → (losses, 1 for each right answer), as they are weighted: [B], of tokens [B, L]; None: no right ones"""
    guessing_loss: Callable[[Features], float] = lambda train: np.inf
    """The loss of guessing by how often each answer is in train, from its features; infinite where there is no such loss."""
    too_long: Callable[[int], str] = lambda max_length: f"are longer than {max_length} ids"
    """By the most ids of a row, what those examples are that `Features.cut` counts."""
    packable: bool = False  # several examples may share a row

    # Logits to answers
    measure: Callable[[Task, Labels, Encoded, Logits], dict[str, float]]
    """(task, labels, a split with labels, logits) → metric → value, a fraction unless it says otherwise"""
    predict: Callable[[Task, Labels, Encoded, Logits], tuple[list[dict[str, Any]], dict[str, dict]]]
    """(task, labels, split, logits) → ({"prediction", …} of each example, name → content of files of the kind's own)"""


def class_loss(logits: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
    """A `Kind.loss` of answers that are one of several: logits [..., C], `batch["labels"]` int32 [...]"""
    return cross_entropy(logits, batch["labels"]), logits.argmax(-1) == batch["labels"]


def same_shape(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays. Of no example at all nothing can be measured: a UserError."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {labels.shape}, predictions {predictions.shape}")
    if labels.size == 0:
        raise UserError("there are no examples to measure.")
    return labels, predictions
