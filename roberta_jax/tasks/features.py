"""Examples as the model is given them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roberta_jax.errors import UserError
from roberta_jax.tasks.definitions import Example

UNLABELLED = -1  # of a token that is not learned
Logits = Sequence[np.ndarray]  # of each feature; those of tokens with padding behind


@dataclass(frozen=True)
class Features:
    """What a model is given, and what it shall answer."""

    rows: list[tuple[np.ndarray, ...]]  # N of the ids of one row, or of one row a choice
    labels: (
        np.ndarray | list[np.ndarray] | None
    )  # [N, …], of kinds that label tokens N of int32 [ids]; see each kind's `encode`
    layout: Any = None  # of kinds where a row is not an example: where in the rows each example stands
    cut: int = 0  # how many examples were too long

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Ids of each feature's longest row."""
        return np.array([max(map(len, rows)) for rows in self.rows])


@dataclass(frozen=True)
class Encoded:
    """A split's examples with their features."""

    examples: list[Example]
    features: Features


def label_index(indices: dict[str, int], label: str, example: Example) -> int:
    """Which output a label is; where it is none a UserError names the example's place."""
    if label not in indices:
        raise UserError(f"{example.place}: the label {label!r} is none of {', '.join(indices)}.")
    return indices[label]
