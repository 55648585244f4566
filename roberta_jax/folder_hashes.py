"""What the files of a folder were when they were saved: FOLDER.hashes.json beside it, by which damage is noticed."""

import hashlib
from pathlib import Path, PurePosixPath

from roberta_jax import storage
from roberta_jax.errors import UserError


def _hashes(folder: str | Path) -> str:
    return f"{str(folder).rstrip('/')}.hashes.json"


def hashes_in(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of every whole file of a folder, by its name."""
    whole = sorted(name for name in storage.names(folder) if not name.endswith(".partial"))
    return {name: sha256_of(storage.join(folder, name)) for name in whole}


def write_hashes(folder: str | Path, now_in: str | Path | None = None) -> None:
    """Notes the hash of every file of a folder in FOLDER.hashes.json beside it.

    Args:
      now_in: where the files are until they are moved to the folder.
    """
    storage.write_json(_hashes(folder), hashes_in(now_in or folder))


def check_hashes(folder: str | Path) -> None:
    """Raises a UserError where a file whose hash was noted has changed; a folder without notes is not checked."""
    if not storage.exists(noted := _hashes(folder)):
        return
    for name, wanted in storage.read_json(noted).items():
        path = storage.join(folder, storage.plain_name(name, noted))
        try:
            damaged = "it is not what was saved there" if sha256_of(path) != wanted else ""
        except OSError as error:
            damaged = storage.reason(error)
        if damaged:
            raise UserError(
                f"{path}: {damaged}, by {PurePosixPath(noted).name} beside its folder; put the file back, or, if it was "
                "changed on purpose, delete that list."
            )


def sha256_of(path: str) -> str:
    return hashlib.sha256(storage.read_bytes(path)).hexdigest()
