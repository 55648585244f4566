"""Stores behind URLs (gs://, s3://, whatever fsspec knows): which one a URL names, and its errors as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from roberta_jax.errors import UserError, first_line


def is_url(path: str | Path) -> bool:
    return "://" in str(path)


def filesystem(url: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """(the store that a URL names, the path there)."""
    try:
        return fsspec.core.url_to_fs(str(url), use_listings_cache=False)  # other machines write here at the same time
    except (ImportError, ValueError) as error:  # "Install gcsfs to access …", "Protocol not known: …"
        raise UserError(f"{url}: fsspec cannot reach it ({first_line(error).rstrip('.')}).") from None


@contextmanager
def answering(url: str | Path) -> Iterator[None]:
    """A store's errors within it are one sentence, whatever their class; that something is not there is none of them."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # each kind of store has classes of its own
        raise UserError(f"{url}: the store did not answer ({type(error).__name__}: {first_line(error)}).") from None
