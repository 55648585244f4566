"""Places where nothing, or not much, can be written: real ones, which only root may make."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A disk of its own, `size=1m` and the like, in a new folder; skips where mounting is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("nothing may be mounted here; root may")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Nothing in it can be written within the block, not by root either."""
    mount = lambda *how: subprocess.run(["mount", *how], capture_output=True).returncode == 0  # noqa: E731
    if not mount("--bind", folder, folder):
        pytest.skip("nothing may be mounted here; root may")
    try:
        assert mount("-o", "remount,bind,ro", folder)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def as_nobody(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    """Runs a command as a user whom the system does not know, without a home; it may read everything."""
    setpriv = shutil.which("setpriv")
    if os.getuid() or setpriv is None:
        pytest.skip("only root, with setpriv, can be another user")
    capability = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    command = [setpriv, "--reuid", "54321", "--clear-groups", *capability, *command]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120)
