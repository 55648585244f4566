"""The fields of `config.data` that decide a corpus' rows, which are the flags of `prepare` too."""

from dataclasses import dataclass, fields
from typing import Any

from roberta_jax.config import check_choices, option
from roberta_jax.errors import check
from roberta_jax.preparation import packing
from roberta_jax.tokenization import encodings


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """How files become documents."""

    text_column: str = option("text", "of .jsonl, .json, .parquet and TFDS")
    documents: str = option(
        "blank-line",
        "what parts the documents of a .txt; line: each line is one; file: each file is",
        choices=("blank-line", "line", "file"),
    )
    invalid_utf8: str = option("replace", "what becomes of bytes that are no UTF-8", choices=("replace", "error"))
    bad_records: str = option(
        "error",
        "what becomes of what cannot be read, broken lines and damaged files; skip: counted and left out",
        choices=("error", "skip"),
    )

    def __post_init__(self):
        check(bool(self.text_column), "data.text_column", self.text_column, "a name")
        check_choices(self, "data.")


@dataclass(frozen=True)
class CorpusConfig(ReaderConfig):
    """All that turns sources into rows."""

    source: tuple[str, ...] = option(
        ("docs",),
        "files, folders and globs of .txt, .jsonl, .json, .parquet (plain, .gz, .zst), here or behind a URL (gs://, s3://); a "
        "prepared corpus, but not for prepare; tfds:NAME[:version][:split]; or docs, the docstrings of Python packages "
        "installed here",
    )
    tokenizer: int | str = option(
        50_265,
        "the size of a vocabulary to train, or whose to take: a folder with a tokenizer, a model's, a hub name; in a run with "
        "init_from or continue_from a size means that model's own, unless there is a new_vocabulary",
    )
    format: str = option("full-sentences", "how sentences fill rows", choices=tuple(packing.FORMATS))
    length: int = option(512, "ids a row")
    valid_fraction: float = option(0.01, "of the documents that are held out, by their hash")
    deduplicate: str = option(
        "none",
        "documents to drop: exact, those equal to an earlier one; near, or nearly so",
        choices=("none", "exact", "near"),
    )
    exclude: tuple[str, ...] = option(
        (), "evaluation sets, as sources or .csv and .tsv: documents that share 13 words in a row with them are dropped"
    )
    encoding: str = option(
        "bytes",
        "of the vocabulary to train: byte-level BPE, BERT's WordPiece, SentencePiece's unigram or BPE, or characters",
        choices=tuple(encodings.FILES),
    )

    def __post_init__(self):
        super().__post_init__()
        check(bool(self.source), "data.source", "", "a file, a folder, a glob, tfds:NAME, docs, or several parted by commas")
        check(self.tokenizer != "", "data.tokenizer", self.tokenizer, "a name")
        if isinstance(self.tokenizer, int):
            least = f"a folder, or the size of a vocabulary to train, {encodings.SMALLEST[self.encoding]} or more"
            check(self.tokenizer >= encodings.SMALLEST[self.encoding], "data.tokenizer", self.tokenizer, least)
        check(8 <= self.length < 2**31, "data.length", self.length, "8 or more: a row needs at least 8 ids")
        check(0 < self.valid_fraction < 1, "data.valid_fraction", self.valid_fraction, "a share between 0 and 1")

    @property
    def drops(self) -> bool:
        """Whether documents are compared before any is written."""
        return self.deduplicate != "none" or bool(self.exclude)


# Fields that came when corpora had been made already: where they do nothing, those corpora are still found.
_LATER = {"deduplicate": "none", "exclude": (), "bad_records": "error", "encoding": "bytes"}


def recipe(config: CorpusConfig) -> dict[str, Any]:
    """What a manifest says of how it was made: the fields by name, the reader's under "reading"."""
    reading, every = ([each.name for each in fields(cls)] for cls in (ReaderConfig, CorpusConfig))
    rows = {name: getattr(config, name) for name in every if name not in reading}
    return rows | {"reading": {name: getattr(config, name) for name in reading}}


def cache_key_fields(config: CorpusConfig) -> dict[str, Any]:
    """Those of `recipe` that decide the rows."""
    from roberta_jax.preparation.ngrams import VERSION  # here, for its tables take a moment

    def deciding(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}

    values = recipe(config)
    of_words = {"words": VERSION} if config.deduplicate == "near" or config.exclude else {}
    return deciding(values) | {"reading": deciding(values["reading"])} | of_words
