"""Minimal pairs, one sentence acceptable and its neighbour not: BLiMP's and BabyLM's JSONL, Zorro's text, tables of one's own.

| file | pairs |
|---|---|
| .jsonl | an object a line, with a good and a bad field: `sentence_good` and `sentence_bad`, unless others are named |
| .csv, .tsv | a column of each, by the names in the first line |
| .txt | Zorro's: lines 1, 3, 5, … are bad, and the line after each is its good partner |

UnMasked's copy of Zorro has the good line of each pair first: its files are known by their first line, and read so.

A paradigm is what a field `UID` says, else the file's name without its suffix; its category BLiMP's `linguistics_term`.
"""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.pairs.published import SUPPLEMENT, ZORRO

GOOD, BAD = "sentence_good", "sentence_bad"
SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt")
BLIMP_SIZE, ZORRO_SIZE = (67, 1_000), (23, 2_000)  # paradigms, and pairs of each
# BLiMP's `linguistics_term` → the 12 categories of its paper, which counts s-selection into argument structure.
CATEGORIES = {
    "anaphor_agreement": "anaphor agreement",
    "argument_structure": "argument structure",
    "s-selection": "argument structure",
    "binding": "binding",
    "control_raising": "control/raising",
    "determiner_noun_agreement": "determiner-noun agreement",
    "ellipsis": "ellipsis",
    "filler_gap_dependency": "filler-gap",
    "irregular_forms": "irregular forms",
    "island_effects": "island effects",
    "npi_licensing": "NPI licensing",
    "quantifiers": "quantifiers",
    "subject_verb_agreement": "subject-verb agreement",
}
# The first good sentence of each of Zorro's files, as BLAKE2b of four bytes.
ZORRO_BEGINS = set(
    """
    273c3a86 6dcdc48b 8743fa27 9aad4622 de7a83b3 79dc9035 89ede70f 6b574c06 98942291 ac29542b b249a6e8 be29b37b
    9939e3be d9a7665d d01ab4db 84d8635b d7d1168b 1534c845 30135705 8a3db546 e3f2eebe 23658313 97475ea8
    """.split()
)


@dataclass(frozen=True)
class Paradigm:
    name: str
    category: str  # "" where there is none
    pairs: tuple[tuple[str, str], ...]  # (good, bad)
    of: int  # pairs that its files hold


@dataclass(frozen=True)
class Suite:
    name: str  # "BLiMP", "BLiMP, filtered", "BLiMP supplement, filtered", "Zorro", or of a folder or file
    paradigms: tuple[Paradigm, ...]
    whole: bool  # every paradigm of a published suite is there, so that its published scores may stand beside

    @property
    def pairs(self) -> int:
        return sum(len(paradigm.pairs) for paradigm in self.paradigms)


def read(sources: Sequence[str], good: str = GOOD, bad: str = BAD, pairs: int = 0) -> list[Suite]:
    """The suites that files, folders and globs hold, in the order in which they come.

    Args:
      good, bad: the fields, or columns, of the sentences.
      pairs: at most so many of a paradigm: a sample by a hash of the pair's place, the same for every model, of which a
        larger one holds the smaller; 0 takes all.

    Raises:
      UserError: names the file and line that cannot be read.
    """
    found: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))  # suite → paradigm → (good, bad, category)
    for path in dict.fromkeys(path for source in sources for path in _files(source)):
        stem, suffix, folder = PurePosixPath(path).stem, PurePosixPath(path).suffix, PurePosixPath(path).parent.name
        rows = list(_alternating(path) if suffix == ".txt" else _records(path, suffix, good, bad))
        if not rows:
            raise UserError(f"{path} holds no pair.")
        for of_good, of_bad, record in rows:
            paradigm, term = str(record.get("UID") or stem), str(record.get("linguistics_term") or "")
            found[_suite(folder, suffix, paradigm, term)][paradigm].append((of_good, of_bad, CATEGORIES.get(term, term)))
    return [_suite_of(name, paradigms, pairs) for name, paradigms in found.items()]


def _files(source: str) -> list[str]:
    files, is_folder = storage.find(source)
    if is_folder:
        files = [file for file in files if PurePosixPath(file.path).suffix in SUFFIXES]
    if not files:
        there = f"holds no file of {', '.join(SUFFIXES)}" if is_folder else "is no file, folder or glob that names any"
        raise UserError(f"{source} {there}; expected minimal pairs.")
    for file in files:
        if PurePosixPath(file.path).suffix not in SUFFIXES:
            raise UserError(f"{file.path}: minimal pairs are read from {', '.join(SUFFIXES)}.")
    return [file.path for file in files]


def _lines(path: str) -> list[str]:
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}.") from None
    if not text.strip():
        raise UserError(f"{path} is empty; expected minimal pairs.")
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")  # not at U+2028, which may stand in a sentence


def _alternating(path: str) -> Iterator[tuple[str, str, dict]]:
    lines = _lines(path)
    if len(lines) % 2:
        raise UserError(
            f"{path} has {len(lines):,} lines, an odd number: expected pairs, a bad sentence and below it its good partner."
        )
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}, line {number:,} is empty: expected a bad sentence and below it its good partner.")
    bad, good = lines[::2], lines[1::2]
    if hashlib.blake2b(lines[0].encode(), digest_size=4).hexdigest() in ZORRO_BEGINS:  # UnMasked's copy
        good, bad = bad, good
    for of_good, of_bad in zip(good, bad):
        yield of_good, of_bad, {}


def _records(path: str, suffix: str, good: str, bad: str) -> Iterator[tuple[str, str, dict]]:
    for place, record in _objects(path) if suffix == ".jsonl" else _table(path, "," if suffix == ".csv" else "\t"):
        for name, flag in ((good, "--good"), (bad, "--bad")):
            if name not in record:
                there = ", ".join(map(str, record))
                raise UserError(f"{place}: there is no {name!r} among {there}; {flag} names the field of that sentence.")
            if not isinstance(record[name], str) or not record[name].strip():
                raise UserError(f"{place}: {name} is {record[name]!r}; expected a sentence.")
        yield record[good], record[bad], record


def _objects(path: str) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_lines(path), 1):
        place = f"{path}, line {number:,}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place} is not JSON: {error}.") from None
        if not isinstance(record, dict):
            raise UserError(f"{place} is no JSON object.")
        yield place, record


def _table(path: str, delimiter: str) -> Iterator[tuple[str, dict]]:
    rows = csv.DictReader(io.StringIO("\n".join(_lines(path)), newline=""), delimiter=delimiter, strict=True)
    try:
        for record in rows:
            place = f"{path}, line {rows.line_num:,}"
            if None in record or None in record.values():
                raise UserError(f"{place} has another number of columns than the first line, which has {len(rows.fieldnames)}.")
            yield place, record
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num:,} cannot be read as a table: {error}.") from None


def _suite(folder: str, suffix: str, paradigm: str, term: str) -> str:
    """By what the pairs say of themselves, and for suites that do not, by the names of their files."""
    if term in CATEGORIES:
        return "BLiMP, filtered" if "filtered" in folder else "BLiMP"  # BabyLM's folder is blimp_filtered
    if paradigm in SUPPLEMENT:
        return "BLiMP supplement, filtered"
    return "Zorro" if suffix == ".txt" and paradigm in ZORRO else folder or paradigm


def _suite_of(name: str, found: dict[str, list], pairs: int) -> Suite:
    sizes = {len(rows) for rows in found.values()}
    whole = {
        "BLiMP": (len(found), sizes) == (BLIMP_SIZE[0], {BLIMP_SIZE[1]}),
        "BLiMP, filtered": len(found) == BLIMP_SIZE[0],
        "BLiMP supplement, filtered": len(found) == len(SUPPLEMENT),
        "Zorro": (len(found), sizes) == (ZORRO_SIZE[0], {ZORRO_SIZE[1]}),
    }.get(name, False)
    paradigms = [
        Paradigm(paradigm, rows[0][2], tuple(rows[i][:2] for i in _sample(paradigm, len(rows), pairs)), len(rows))
        for paradigm, rows in found.items()
    ]
    return Suite(name, tuple(paradigms), whole)


def _sample(paradigm: str, count: int, pairs: int) -> list[int]:
    if not 0 < pairs < count:
        return list(range(count))
    keys = [hashlib.blake2b(f"{paradigm} {i}".encode(), digest_size=8).digest() for i in range(count)]
    return sorted(sorted(range(count), key=keys.__getitem__)[:pairs])
