"""The docstrings installed on this machine: text for a first run, wherever that is."""

import ast
import hashlib
import json
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from roberta_jax import lock, storage
from roberta_jax.preparation.workers import Workers


def collect_docstrings(cache_dir: Path, processes: int) -> Path:
    """Writes the docstrings of the standard library and of the packages installed here, one module a line, as JSONL.

    Modules are parsed with `ast` and never imported. The file is kept in `cache_dir` under a name that changes when a
    package is added, removed or changed.
    """
    files = sorted(_modules(), key=str)
    stats = "\n".join(f"{file} {file.stat().st_size}" for file in files)
    path = cache_dir / f"docs-{hashlib.sha256(stats.encode()).hexdigest()[:16]}.jsonl"
    if path.exists():
        return path
    with lock.waiting(path.with_suffix(".lock")):  # written twice it would have two times, and be two texts
        if not path.exists():
            _write(files, path, processes)
    return path


def _write(files: list[Path], path: Path, processes: int) -> None:
    with storage.written(path) as partial, open(partial, "w", encoding="utf-8") as out:
        with Workers(processes) as pool:
            for text in pool.map(_docstrings, files, chunksize=64):
                if text:
                    out.write(json.dumps({"text": text}) + "\n")


def _modules() -> Iterator[Path]:
    paths = sysconfig.get_paths()
    for root in {paths["stdlib"], paths["purelib"], paths["platlib"]}:
        for folder, folders, names in os.walk(root):
            skipped = ("__pycache__", "test", "tests", "site-packages", "dist-packages")
            folders[:] = [name for name in folders if name not in skipped]
            modules = (Path(folder, name) for name in names if name.endswith(".py"))
            yield from (module for module in modules if module.is_file())  # not a link that leads nowhere


def _docstrings(path: Path) -> str:
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # a template, or Python of another age
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return "\n\n".join(text for text in found if text)
