"""Pages in a browser: pictures of them, to see that they look as they should, and clicks."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
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


class Page:
    """A page in a browser that has no network but this machine, driven by Chrome's DevTools protocol over two pipes.

    Args:
      dark: the screen that it is told of.
    """

    def __init__(self, url: str, width: int = 1200, height: int = 900, dark: bool = False):
        browser = next(filter(None, map(shutil.which, NAMES)), None)
        if browser is None:
            pytest.skip(f"no {NAMES[0]} here to look at a page with")
        self._profile = tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True)
        self._count, self._said = 0, b""
        for_browser, self._to = os.pipe()
        self._from, of_browser = os.pipe()
        no_network = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        command = [browser, *QUIET, no_network, f"--user-data-dir={self._profile.name}", "--remote-debugging-pipe"]
        # It reads from its descriptor 3 and writes to 4, which either pipe may have here.
        shell = ["bash", "-c", f'exec 98<&{for_browser} 99>&{of_browser}; exec "$@" 3<&98 4>&99', "bash", *command]
        self._process = subprocess.Popen(shell, pass_fds=(for_browser, of_browser), stderr=subprocess.DEVNULL)
        os.close(for_browser)
        os.close(of_browser)
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._call("Page.navigate", url=url)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def _call(self, method: str, **parameters) -> dict:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._said:
                said = os.read(self._from, 1 << 20)
                assert said, "the browser has ended"
                self._said += said
            one, _, self._said = self._said.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script: str):
        """What an expression of JavaScript gives on the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({script})"):
            assert time.monotonic() < end, f"{script} did not come; the page says: {self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """With a mouse, in the middle of the element, which has to lie on top there."""
        name = json.dumps(selector)
        self.evaluate(f"document.querySelector({name}).scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({name}).getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """In the place of what the field holds."""
        self.evaluate(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select() }})()")
        if text:
            self._call("Input.insertText", text=text)
        else:
            for kind in ("keyDown", "keyUp"):
                self._call("Input.dispatchKeyEvent", type=kind, key="Backspace", code="Backspace", windowsVirtualKeyCode=8)

    def picture(self, png: Path) -> None:
        """Writes the whole page, as far down as it goes."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        png.write_bytes(base64.b64decode(found["data"]))
