"""What a checkpoint says beside its arrays: a small file of JSON with a hash of itself."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from roberta_jax import storage


class Damaged(Exception):
    """A checkpoint that cannot be read, or does not hold what was written."""


@dataclass(frozen=True)
class Notes:
    """What a checkpoint holds beside its arrays."""

    metrics: dict[str, float] | None = None  # of the evaluation at its step
    planned: bool = True  # its state is sound, and a run that is left alone saves it too; else it is a stop's
    memory: dict | None = None  # `Memory` as JSON; None: an older version wrote it
    arrays: str = ""  # the fingerprint of the arrays' paths and shapes


@dataclass
class Memory:
    """What the loop knows beside the state; every checkpoint holds it, so that a killed run goes on as if it had not been."""

    rewinds: int = 0  # in a row, without a planned checkpoint between
    due: bool = False  # a planned checkpoint waits for a sound step
    steps: list[dict[str, np.ndarray]] = field(default_factory=list)  # the metrics of those since the last line
    data: dict = field(default_factory=dict)  # `Job.note` of the next batch; {}: an older version wrote it, or there is nothing
    keep: bool = False  # the next planned checkpoint, or this one, is kept for good

    def to_json(self) -> dict:
        """The metrics' float32 as their bits, so that they come back exactly, NaN too."""
        names = sorted(self.steps[-1]) if self.steps else []
        values = np.array([[step[name] for name in names] for step in self.steps], np.float32)
        fields = {"rewinds": self.rewinds, "due": self.due, "names": names, "bits": values.view(np.uint32).tolist()}
        return fields | ({"keep": True} if self.keep else {}) | ({"data": self.data} if self.data else {})

    @classmethod
    def from_json(cls, fields: dict) -> "Memory":
        """The inverse of `to_json`."""
        values = np.array(fields["bits"], np.uint32).view(np.float32)
        steps = [dict(zip(fields["names"], step)) for step in values]
        return cls(fields["rewinds"], fields["due"], steps, fields.get("data", {}), fields.get("keep", False))


def _path(folder: str | Path, step: int) -> str:
    """Where Orbax writes metrics; older versions wrote no more than these."""
    return storage.join(folder, str(step), "metrics", "metrics")


def read_notes(folder: str | Path, step: int) -> Notes:
    """Raises Damaged where they are not what was written."""
    path = _path(folder, step)
    try:
        if not storage.exists(path):
            return Notes()
        fields = json.loads(storage.read_bytes(path))
        if "sha256" not in fields:
            return Notes({str(name): float(value) for name, value in fields.items()})
        seal = fields.pop("sha256")
        notes = Notes(**fields)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"its metrics cannot be read: {error}") from None
    if seal != fingerprint(asdict(notes)):
        raise Damaged("its metrics are not those that were saved")
    return notes


def write_notes(folder: Path, step: int, notes: Notes) -> None:
    """In place of those that a checkpoint has."""
    storage.write_text(_path(folder, step), json.dumps(sealed(notes)))


def sealed(notes: Notes) -> dict:
    """The notes' fields and the fingerprint of these, by which damage is noticed."""
    return asdict(notes) | {"sha256": fingerprint(asdict(notes))}


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
