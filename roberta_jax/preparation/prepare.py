"""Documents to a prepared corpus.

Shards are made in parallel processes and do not depend on their number; `beam` makes the same ones on many machines. Until
the last one is done the folder's name ends in `.partial`, or, behind a URL and where the folder was there, empty, before,
it has no manifest; a killed preparation goes on from there.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

from roberta_jax import lock, storage
from roberta_jax.data.corpus import Corpus, on_this_machine, read_manifest, report
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import write_hashes
from roberta_jax.output import show, to_json
from roberta_jax.preparation import processes
from roberta_jax.preparation.config import CorpusConfig, cache_key_fields
from roberta_jax.preparation.documents import Counts, Piece, read, resolve
from roberta_jax.preparation.duplicates import save_overlap
from roberta_jax.preparation.evaluation_sets import overlap_of
from roberta_jax.preparation.hashing import hash64
from roberta_jax.preparation.plan import Preparation, key
from roberta_jax.preparation.shards import VERSION, is_valid, summarise
from roberta_jax.preparation.workers import require_main_guard
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import Tokenizer

TOKENIZER_BYTES, TOKENIZER_SHARDS = 64 << 20, 1_024  # of text, from shards alike, to learn a vocabulary from; at most
LOCK = ".lock"  # in a folder that was there before
NOTHING = {LOCK, lock.NAME, "lost+found"}  # what an empty folder may hold: the latter is what a new disk is mounted with


def _named(config: CorpusConfig) -> Tokenizer | None:
    """The one that the config names; None where it is to be trained."""
    return None if isinstance(config.tokenizer, int) else encodings.of_model(config.tokenizer)


def _tokenizer(config: CorpusConfig, shards: list[list[Piece]], cache: Path) -> Tokenizer:
    """One trained on the train documents and kept in the cache."""
    fingerprints = [asdict(piece) for pieces in shards for piece in pieces]
    reading = cache_key_fields(config)["reading"]
    other = [config.encoding] if config.encoding != CorpusConfig.encoding else []
    folder = cache / f"tokenizer-{key(VERSION, config.tokenizer, reading, config.valid_fraction, fingerprints, *other)}"
    if encodings.encoding_in(folder):
        with suppress(UserError):  # whatever is damaged is mended below, in a cache that can be written
            return encodings.load(folder)
    with lock.waiting(folder.with_suffix(".lock")):
        if encodings.encoding_in(folder):
            try:
                return encodings.load(folder)
            except UserError as error:
                show(f"! {error} It is {storage.put_aside(folder)} now, and the vocabulary is learned anew.")
        show(f"training a vocabulary of {config.tokenizer:,} entries: {config.encoding}")
        partial = folder.with_suffix(".partial")
        encodings.train(_training_texts(config, shards), config.tokenizer, config.encoding).save(partial)
        write_hashes(folder, now_in=partial)
        os.replace(partial, folder)
        return encodings.load(folder)


def _training_texts(config: CorpusConfig, shards: list[list[Piece]]) -> Iterator[str]:
    shards = shards[:: -(-len(shards) // TOKENIZER_SHARDS)]
    for pieces in shards:
        left = TOKENIZER_BYTES // len(shards)
        for text in (text for piece in pieces for text in read(piece, config, Counts())):
            encoded = text.encode()
            if not is_valid(hash64(encoded), config.valid_fraction):
                yield text
                left -= len(encoded)
            if left <= 0:
                break


def prepare(
    config: CorpusConfig,
    out: str | Path | None = None,
    cache: Path | None = None,
    processes: int | None = None,
    agree: Callable[[Tokenizer], None] = lambda tokenizer: None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """The corpus that the config describes: made, or found in `out` (by default a folder in the cache).

    A source that is a prepared corpus already is opened, and must be what the config asks for.

    Args:
      agree: raises a UserError where the tokenizer is not the right one; it is asked before any row is made.
      tokenizer: in the place of the one that the config names.

    Raises:
      UserError: for a source, a tokenizer or a document that cannot be used.
    """
    cache, tokenizer = cache or storage.CACHE, tokenizer or _named(config)
    if tokenizer is not None:
        agree(tokenizer)
    if len(config.source) == 1 and _is_corpus(config.source[0]):
        _refuse_another(config.source[0], config, tokenizer)
        agree(encodings.load(storage.join(config.source[0], "tokenizer")))
        return Corpus(on_this_machine(config.source[0], cache))
    return Corpus(on_this_machine(make(config, out, cache, processes, agree=agree, tokenizer=tokenizer), cache))


def _is_corpus(source: str) -> bool:
    try:
        return storage.exists(storage.join(source, "manifest.json"))
    except UserError:  # a public store may give a file, and no answer to what else there is
        if storage.find(source)[1]:
            raise
        return False


def _usable(cache: Path) -> Path:
    """The folder of the cache, which there is or can be."""
    folder = Path(cache).expanduser()
    try:
        if not folder.is_dir():
            storage.require_writable(folder)
    except OSError as error:
        where = f"{cache}, and {error.filename} is in the way ({error.strerror})"
        raise UserError(f"the cache is {where}; name another folder in config.data.cache, or in XDG_CACHE_HOME.") from None
    return folder


def make(
    config: CorpusConfig,
    out: str | Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    run: Callable[[Preparation, Path, int], None] = processes.run,
    agree: Callable[[Tokenizer], None] = lambda tokenizer: None,
    tokenizer: Tokenizer | None = None,
) -> str:
    """The folder of the corpus that the config describes, which may be a URL: made, or found.

    Args:
      run: what writes the shards: (work, a folder for what goes between stages, processes).
      agree, tokenizer: as in `prepare`.
    """
    require_main_guard()
    if out:
        _refuse_foreign(out)
    cache, workers, tokenizer = cache or storage.CACHE, workers or os.cpu_count(), tokenizer or _named(config)
    if tokenizer and config.encoding not in (CorpusConfig.encoding, tokenizer.encoding):
        raise UserError(f"data.encoding is {config.encoding!r}; {config.tokenizer} holds {tokenizer.encoding!r}.")
    if tokenizer is None or not out or storage.is_url(out) or "docs" in (*config.source, *config.exclude):
        cache = _usable(cache)
    shards = resolve(config.source, config, cache, workers)
    excluded = resolve(config.exclude, config, cache, workers, evaluation=True) if config.exclude else []
    tokenizer = tokenizer or _tokenizer(config, shards, cache)
    agree(tokenizer)
    # Before the second version such a tokenizer put a space before each sentence.
    of_sentences = {"sentences": 2} if tokenizer.prefixes and config.format != "single-sentences-packed" else {}
    made_of = [
        cache_key_fields(config) | {"source": None, "tokenizer": tokenizer.hash} | of_sentences,
        *[[[asdict(piece) for piece in pieces] for pieces in each] for each in (shards, excluded) if each],
    ]
    made = key(VERSION, made_of)
    folder = str(storage.local(out) or out) if out else str(cache / f"corpus-{made}")
    remote, manifest_path = storage.is_url(folder), storage.join(folder, "manifest.json")
    within = remote or os.path.isdir(folder)  # a mounted disk, or a link to one, is not to be replaced by another folder
    waited_for = Path(folder, LOCK) if within else Path(f"{folder}.lock")
    if storage.exists(manifest_path):
        alone = nullcontext()
    else:
        alone = lock.held(folder) if remote else lock.waiting(waited_for)
    with alone:
        if not storage.exists(manifest_path):
            work = Preparation(folder if within else f"{folder}.{made}.partial", made)
            if within and storage.names(folder) - NOTHING and not work.found():
                raise UserError(f"{folder} holds the beginning of another corpus: name a new folder, or empty this one.")
            work.save_plan(config, shards)  # first: by it a folder is known to be a preparation's
            tokenizer.save(storage.join(work.folder, "tokenizer"))
            if config.exclude:
                save_overlap(work, overlap_of(excluded, config))
            spills = cache / f"spills-{key(made, folder)}" if remote else Path(work.path("spills"))
            run(work, spills, workers)
            manifest = summarise(work, tokenizer)
            if not remote:
                for leftover in Path(work.folder).glob("*.partial"):  # of a kill
                    leftover.unlink()
            storage.write_text(storage.join(work.folder, "manifest.json"), to_json(manifest, 1))
            if not within:
                os.replace(work.folder, folder)
            for done_with in (storage.join(folder, "work"), spills):
                storage.remove_folder(done_with)
            if within and not remote:
                waited_for.unlink()  # who waits for it finds the manifest
            show(report(manifest))
    if read_manifest(folder)["key"] != made:
        raise UserError(
            f"{folder} holds a corpus made from something else (another source, tokenizer or field): name a new folder."
        )
    return folder


def _refuse_foreign(out: str | Path) -> None:
    """Raises where a corpus can't be made: something else stands there, or nothing can be written."""
    names, begun = storage.names(out), storage.exists(storage.join(out, "work", "plan.json"))
    if names - NOTHING and "manifest.json" not in names and not begun:
        raise UserError(f"{out} is not empty and holds no prepared corpus: name a new folder.")
    if "manifest.json" not in names and (there := storage.local(out)):
        storage.require_writable(there if os.path.lexists(there) else there.parent)


def _refuse_another(folder: str, config: CorpusConfig, tokenizer: Tokenizer | None) -> None:
    """A prepared corpus that is not what the config asks for, with that tokenizer if there is one."""
    manifest = read_manifest(folder)
    wanted = {"length": config.length, "format": config.format}
    if tokenizer is not None:
        wanted["tokenizer"] = tokenizer.hash
    elif config.tokenizer != manifest["recipe"]["tokenizer"]:  # a text may not give as many entries as were asked for
        wanted["vocabulary"] = config.tokenizer
    if config.encoding != CorpusConfig.encoding:
        wanted["encoding"] = config.encoding
    if config.deduplicate != "none":
        wanted["deduplicate"] = config.deduplicate
    if config.exclude:
        wanted["exclude"] = list(config.exclude)
    for name, value in wanted.items():
        found = manifest.get(name, manifest["recipe"].get(name))
        if found != value:
            raise UserError(
                f"{folder}: this corpus was prepared with {name} {found}, the config asks for {value}; "
                "change the config or prepare the corpus again."
            )
