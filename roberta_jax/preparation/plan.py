"""The plan of a preparation, from which any worker takes its part."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, fields

from roberta_jax import storage
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.documents import Piece
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import Tokenizer

PARTITION_BYTES = 256 << 20  # of source whose documents' hashes are compared at a time


def key(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Preparation:
    """A preparation on its way: the folder of the rows, where `work/` holds the plan and what the workers leave."""

    folder: str
    key: str

    def path(self, name: str) -> str:
        return storage.join(self.folder, "work", name)

    def save_plan(self, config: CorpusConfig, shards: list[list[Piece]]) -> None:
        partitions = 1 + sum(piece.size for pieces in shards for piece in pieces) // PARTITION_BYTES
        deciding = {each.name: getattr(config, each.name) for each in fields(CorpusConfig)}
        plan = {
            "config": deciding,
            "shards": [[asdict(piece) for piece in pieces] for pieces in shards],
            "partitions": partitions,
        }
        storage.write_text(self.path("plan.json"), json.dumps({"key": self.key, **plan}))

    def found(self) -> bool:
        """Whether this preparation has begun here."""
        path = self.path("plan.json")
        return storage.exists(path) and storage.read_json(path).get("key") == self.key


@dataclass(frozen=True)
class Plan:
    config: CorpusConfig
    shards: list[list[Piece]]
    partitions: int  # of the documents' hashes; each is compared within itself

    @property
    def sizes(self) -> list[int]:
        """Bytes of source of each shard."""
        return [sum(piece.size for piece in pieces) for pieces in self.shards]


@functools.lru_cache(1)  # once a process, not once a shard
def plan_of(work: Preparation) -> Plan:
    saved = storage.read_json(work.path("plan.json"))
    config = CorpusConfig(**saved["config"] | {name: tuple(saved["config"][name]) for name in ("source", "exclude")})
    shards = [[Piece(**piece) for piece in pieces] for pieces in saved["shards"]]
    return Plan(config, shards, saved["partitions"])


@functools.lru_cache(1)
def tokenizer_of(work: Preparation) -> Tokenizer:
    return encodings.load(storage.join(work.folder, "tokenizer"))
