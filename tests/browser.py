"""Pictures of pages, to see that they are there and look as they should."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()


def picture(html: Path, png: Path, width: int = 1200, height: int = 2000) -> None:
    """Writes what a browser without a network shows of a local page, as it looks in a window of width × height pixels."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no {NAMES[0]} here to look at a page with")
    with tempfile.TemporaryDirectory(prefix="browser") as profile:
        no_network = "--host-resolver-rules=MAP * ~NOTFOUND"
        look = [f"--user-data-dir={profile}", f"--screenshot={png}", f"--window-size={width},{height}"]
        command = [browser, *QUIET, no_network, *look, html.absolute().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert png.is_file(), done.stderr
