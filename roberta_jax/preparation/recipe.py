"""What turns a source into rows, and the plan of a preparation, from which any worker takes its part."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field

from roberta_jax import storage
from roberta_jax.errors import check, check_choice
from roberta_jax.preparation import packing
from roberta_jax.preparation.documents import Piece, Reading
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import Tokenizer

DEDUPLICATE = ("none", "exact", "near")
# Fields that came when corpora had been made already: where they do nothing, those corpora are still found.
LATER_FIELDS = {"deduplicate": "none", "exclude": (), "bad_records": "error", "encoding": "bytes"}
PARTITION_BYTES = 256 << 20  # of source whose documents' hashes are compared at a time


@dataclass(frozen=True)
class Recipe:
    """All that turns a source into rows (fields of `config.data`)."""

    source: tuple[str, ...]  # each a path, a glob, a URL, tfds:NAME[:split] or docs
    tokenizer: str | int  # a folder with vocab.json and merges.txt, or another encoding's; or the size of one to train
    format: str = "full-sentences"  # or another of packing.FORMATS
    length: int = 512  # of a row, in ids
    valid_fraction: float = 0.01  # of the documents, by their hash
    reading: Reading = field(default_factory=Reading)
    deduplicate: str = "none"  # documents to drop: those "exact", or also "near", to an earlier one
    exclude: tuple[str, ...] = ()  # evaluation sets, named as sources are: documents that overlap them are dropped
    encoding: str = "bytes"  # of the vocabulary to train, one of `encodings.FILES`; a folder's own says what it is

    def __post_init__(self):
        for name, allowed in (("format", packing.FORMATS), ("deduplicate", DEDUPLICATE), ("encoding", encodings.FILES)):
            check_choice(f"data.{name}", getattr(self, name), allowed)
        check(bool(self.source), "data.source", "", "a file, a folder, a glob, tfds:NAME, docs, or several parted by commas")
        if isinstance(self.tokenizer, int):
            least = f"a folder, or the size of a vocabulary to train, {encodings.SMALLEST[self.encoding]} or more"
            check(self.tokenizer >= encodings.SMALLEST[self.encoding], "data.tokenizer", self.tokenizer, least)
        check(8 <= self.length < 2**31, "data.length", self.length, "8 or more: a row needs at least 8 ids")
        check(0 < self.valid_fraction < 1, "data.valid_fraction", self.valid_fraction, "a share between 0 and 1")

    @property
    def drops(self) -> bool:
        """Whether documents are compared before any is written."""
        return self.deduplicate != "none" or bool(self.exclude)


def deciding(fields: dict) -> dict:
    """The fields of a recipe that decide its rows."""
    kept = {name: value for name, value in fields.items() if name not in LATER_FIELDS or value != LATER_FIELDS[name]}
    return {name: deciding(value) if isinstance(value, dict) else value for name, value in kept.items()}


def key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Work:
    """A preparation on its way: the folder of the rows, where `work/` holds the plan and what the workers leave."""

    folder: str
    key: str

    def path(self, name: str) -> str:
        return storage.join(self.folder, "work", name)

    def save_plan(self, recipe: Recipe, shards: list[list[Piece]]) -> None:
        partitions = 1 + sum(piece.size for pieces in shards for piece in pieces) // PARTITION_BYTES
        plan = Plan(recipe, shards, partitions)
        storage.write_text(self.path("plan.json"), json.dumps({"key": self.key, **asdict(plan)}))

    def found(self) -> bool:
        """Whether this preparation has begun here."""
        path = self.path("plan.json")
        return storage.exists(path) and storage.read_json(path).get("key") == self.key


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    shards: list[list[Piece]]
    partitions: int  # of the documents' hashes; each is compared within itself

    @property
    def sizes(self) -> list[int]:
        """Bytes of source of each shard."""
        return [sum(piece.size for piece in pieces) for pieces in self.shards]


@functools.lru_cache(1)  # once a process, not once a shard
def plan_of(work: Work) -> Plan:
    saved = storage.read_json(work.path("plan.json"))
    fields = saved["recipe"] | {"reading": Reading(**saved["recipe"]["reading"])}
    fields |= {name: tuple(fields[name]) for name in ("source", "exclude")}
    shards = [[Piece(**piece) for piece in pieces] for pieces in saved["shards"]]
    return Plan(Recipe(**fields), shards, saved["partitions"])


@functools.lru_cache(1)
def tokenizer_of(work: Work) -> Tokenizer:
    return encodings.load(storage.join(work.folder, "tokenizer"))
