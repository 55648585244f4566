"""A model behind a URL, copied to the cache: Orbax, safetensors and tokenizers read files of this machine."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roberta_jax import lock, storage
from roberta_jax.errors import UserError
from roberta_jax.training.workdir import CHECKPOINTS, TOKENIZER, choose

# The last file that Orbax writes of a checkpoint; older versions write it only in stores that cannot rename.
COMMITTED = "commit_success.txt"
NOTES = "copied.json"  # of each file of a copy, what it was made from


@contextmanager
def copied(url: str, checkpoint: str = "newest") -> Iterator[tuple[Path, str]]:
    """(its copy, which checkpoint of it to read): of a workdir that one and what stands beside the checkpoints.

    What has not changed since is not copied again. While the copy is read it is locked: another process that asks for another
    checkpoint waits.

    Raises:
      UserError: there is nothing, or no such checkpoint.
    """
    root = url.rstrip("/") + "/"
    there = {_within(file.path, root): file for file in storage.find(root, hidden=True)[0]}
    if not there:
        raise UserError(f"{url}: there is no such folder.")
    folder = storage.CACHE.expanduser() / f"copy-{hashlib.sha256(root.encode()).hexdigest()[:16]}"
    beside = {name: file for name, file in there.items() if name.count("/") == 0 or name.startswith(f"{TOKENIZER}/")}
    with lock.waiting(folder.with_suffix(".lock")):
        _remove_others(folder, {*there})
        _copy(beside, folder)
        of_checkpoint: dict[str, storage.File] = {}
        if steps := _steps(set(there)):
            checkpoint = str(choose(folder, steps, checkpoint))
            of_checkpoint = {name: file for name, file in there.items() if name.startswith(f"{CHECKPOINTS}/{checkpoint}/")}
        _remove_others(folder, {*beside, *of_checkpoint})
        _copy(of_checkpoint, folder)
        yield folder, checkpoint


def _remove_others(folder: Path, names: set[str]) -> None:
    """Deletes from a copy all files but those of these names, and NOTES: what is left of before would be read with them."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if name in names or name == NOTES:
            continue
        if not path.is_dir():
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def forget(folder: Path) -> None:
    """Has all of a copy be made anew the next time."""
    (folder / NOTES).unlink(missing_ok=True)


def steps_of(url: str) -> list[int]:
    """The checkpoints of a workdir that are whole, ascending."""
    root = url.rstrip("/") + "/"
    return _steps({_within(file.path, root) for file in storage.find(f"{root}{CHECKPOINTS}/", hidden=True)[0]})


def _within(path: str, root: str) -> str:
    """The name of a file below a folder, whichever of its forms the store gives the URL back in."""
    top = root.split("://", 1)[1].strip("/") + "/"
    return path.split("://", 1)[1].lstrip("/").removeprefix(top)


def _steps(names: set[str]) -> list[int]:
    """The checkpoints that are whole, ascending."""
    steps = {name.split("/")[1] for name in names if name.startswith(f"{CHECKPOINTS}/") and name.count("/") > 1}
    whole = {step for step in steps if f"{CHECKPOINTS}/{step}/{COMMITTED}" in names} or steps
    return sorted(int(step) for step in whole if step.isdigit())


def _copy(files: dict[str, storage.File], folder: Path) -> None:
    notes = folder / NOTES
    known = storage.read_json(notes) if notes.is_file() else {}
    for name, file in files.items():
        stamp = [file.size, str(file.fingerprint[-1])]
        if known.get(name) == stamp and (folder / name).is_file() and (folder / name).stat().st_size == file.size:
            continue
        try:
            storage.download(file.path, folder / name)
        except FileNotFoundError:
            raise UserError(f"{file.path} has gone while it was to be copied; run the command again.") from None
        known[name] = stamp
    storage.write_json(notes, known)
