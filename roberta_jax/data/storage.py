"""Files of this machine, or behind a URL (gs://, s3://, whatever fsspec knows): found, read in ranges, written whole."""

import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow

from roberta_jax.errors import UserError


@dataclass(frozen=True)
class File:
    path: str
    size: int
    fingerprint: tuple  # changes when the content does


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def local(path: str | Path) -> Path | None:
    """The path on this machine, None for a URL."""
    return None if is_url(path) else Path(path).expanduser()


def join(folder: str | Path, *names: str) -> str:
    return "/".join([str(folder).rstrip("/"), *names])


def _filesystem(url: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(str(url), use_listings_cache=False)  # other machines write here at the same time
    except (ImportError, ValueError) as error:  # "Install gcsfs to access …", "Protocol not known: …"
        raise UserError(f"{url}: fsspec cannot reach it ({str(error).splitlines()[0].rstrip('.')}).") from None


def find(source: str) -> tuple[list[File], bool]:
    """The files that a path, a folder or a glob names, in the order of their paths, and whether it is a folder."""
    if path := local(source):
        if is_folder := path.is_dir():
            paths = path.rglob("*")
        else:
            paths = [path] if path.is_file() else map(Path, glob(str(path), recursive=True))
        stats = [(each, each.stat()) for each in sorted(paths) if each.is_file()]
        return [File(str(each), stat.st_size, (str(each), stat.st_size, stat.st_mtime_ns)) for each, stat in stats], is_folder
    system, path = _filesystem(source)
    try:
        is_folder = not has_magic(path) and system.isdir(path)
        if is_folder:
            found = system.find(path, detail=True)
        else:
            found = system.glob(path, detail=True) if has_magic(path) else {path: system.info(path)}
    except FileNotFoundError:
        return [], False
    except Exception as error:  # each kind of store has classes of its own
        raise UserError(f"{source}: cannot be listed ({type(error).__name__}: {error}).") from None
    files = [
        File(system.unstrip_protocol(name), info["size"], (system.unstrip_protocol(name), info["size"], _stamp(info)))
        for name, info in sorted(found.items(), key=lambda item: PurePosixPath(item[0]))
        if info["type"] == "file"
    ]
    return files, is_folder


def _stamp(info: dict) -> str:
    """What tells one content from another of the same size, by whichever name the kind of store has for it."""
    names = ("etag", "ETag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
    return next((str(info[name]) for name in names if info.get(name)), "")


class _Reader:
    """An open file behind a URL. A line that breaks is an error of its own, never damage of what the file holds."""

    def __init__(self, path: str):
        system, name = _filesystem(path)
        self._path, self._file = path, system.open(name, "rb")

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # each kind of store has classes of its own
            raise UserError(f"{self._path}: the store stopped answering ({type(error).__name__}: {error}).") from None


def open_file(path: str) -> pyarrow.NativeFile:
    """For reading, from any position.

    Raises:
      UserError: it cannot be opened, or not be reached later.
    """
    try:
        return pyarrow.PythonFile(_Reader(path), "r") if is_url(path) else pyarrow.OSFile(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error}).") from None


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop), fewer at the end."""
    if is_url(path):
        system, name = _filesystem(path)
        return system.cat_file(name, start=start, end=stop)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


def read_bytes(path: str | Path) -> bytes:
    if there := local(path):
        return there.read_bytes()
    system, name = _filesystem(path)
    return system.cat_file(name)


def exists(path: str | Path) -> bool:
    if there := local(path):
        return there.is_file()
    system, name = _filesystem(path)
    return system.isfile(name)


def names(folder: str | Path) -> set[str]:
    """Of all that lies right in a folder, which need not be there."""
    if there := local(folder):
        return {each.name for each in there.iterdir()} if there.is_dir() else set()
    system, path = _filesystem(folder)
    try:
        return {PurePosixPath(name).name for name in system.ls(path, detail=False)}
    except FileNotFoundError:
        return set()


def require_writable(folder: Path) -> None:
    """Raises an OSError that names what is in the way, where a folder can't be made or nothing can be written into it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not stat.S_ISDIR(there.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(there))


def require_place(file: Path) -> None:
    """Raises an OSError that names what is in the way, where a file can't be written; before the work that gives it."""
    require_writable(file.parent)
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """The system's errors within it name `path`, as that of a write, unlike that of an opening, does not by itself."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        elif of_rust := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors' and tokenizers' errors
            raise OSError(number := int(of_rust[1]), os.strerror(number), str(path)) from None
        raise


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A file to write here and now; it takes its place whole where the block ends without an error."""
    if there := local(path):
        there.parent.mkdir(parents=True, exist_ok=True)
        partial = there.with_name(f"{there.name}.{os.getpid()}.partial")
        with naming(there):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, there)
        return
    system, name = _filesystem(path)
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder, PurePosixPath(name).name)
        yield partial
        system.makedirs(PurePosixPath(name).parent.as_posix(), exist_ok=True)
        system.put_file(str(partial), name)


def write_text(path: str | Path, text: str) -> None:
    with written(path) as partial:
        partial.write_text(text, "utf-8")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(path: str, to: Path, wanted: str | None = None) -> None:
    """Copies a file to this machine, once its SHA-256 is the one that is wanted."""
    system, name = _filesystem(path)
    if not system.isfile(name):
        raise UserError(f"{path}: not there, though it is part of that corpus; prepare the corpus again.")
    with written(to) as partial:
        system.get_file(name, str(partial))
        if wanted and (found := sha256(partial)) != wanted:
            partial.unlink()
            raise UserError(
                f"{path}: its SHA-256 is {found[:12]}…, the manifest says {wanted[:12]}…: the shard is damaged; prepare "
                "the corpus again."
            )


def remove_folder(folder: str | Path) -> None:
    system, path = _filesystem(folder)
    if system.exists(path):
        system.rm(path, recursive=True)
