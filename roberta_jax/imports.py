"""Imports that would load more than is used."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(package: str) -> Iterator[None]:
    """Within it `package` cannot be imported: for a library that imports it wherever it is installed, and can do without.

    One that is loaded already stays, and afterwards it can be imported as ever.
    """
    hidden = package not in sys.modules
    if hidden:
        sys.modules[package] = None  # which Python's import takes as not there
    try:
        yield
    finally:
        if hidden:
            del sys.modules[package]
