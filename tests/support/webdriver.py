"""A real browser without a library for it: Debian's chromium, driven by its chromedriver over the WebDriver protocol.

The protocol is JSON over HTTP on loopback (https://www.w3.org/TR/webdriver2/); the handful of calls that the tests need
are here. Whatever is waited for is asked for again until it is there or the time is up.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Browser", "browser", "missing_program"]

_PATIENCE_SEC = 90.0  # MLflow's pages are heavy, and the machine may be busy
_FRAME_KEY = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's own name of a reference to an element
_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    # Nothing but the page is asked for: no updates, no sync, no field trials.
    *("--no-first-run", "--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
]


def missing_program() -> str | None:
    """Return the program that is not there, or None."""
    return next((name for name in ("chromium", "chromedriver") if shutil.which(name) is None), None)


class Browser:
    """One window."""

    def __init__(self, session: str) -> None:
        self._session = session

    def open(self, url: str) -> None:
        """Go to a page; return when its document is loaded."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Return what the body of a JavaScript function returns in the page, or in the frame that is entered."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        """Return the words that a person sees, as far as the page scrolls."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def wait_for(self, *words: str) -> str:
        """Wait until all words are to be read; return the page's text.

        Raises:
            TimeoutError: some never came; the message says which, and what was there.
        """
        wait_until(lambda: all(word in self.text() for word in words), lambda: self._missing(words))
        return self.text()

    def wait_until_true(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        wait_until(lambda: bool(self.run(f"return Boolean({script})")), lambda: f"never true: {script}")

    def enter_frame(self, selector: str) -> None:
        """Wait for a frame, and let :meth:`text` and :meth:`run` look into it until :meth:`leave_frame`."""
        self.wait_until_true(f"document.querySelector({json.dumps(selector)})")
        frame = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", "/frame", {"id": {_FRAME_KEY: frame[_FRAME_KEY]}})

    def leave_frame(self) -> None:
        """Look at the page itself again."""
        self._ask("POST", "/frame", {"id": None})

    def screenshot(self, path: Path) -> None:
        """Keep what the window shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """End the browser."""
        self._ask("DELETE", "")

    def _missing(self, words: tuple[str, ...]) -> str:
        text = self.text()
        return f"never seen: {[word for word in words if word not in text]}; there was: {text[:2000]!r}"

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return ask(method, self._session + path, body)


def ask(method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
    """Return the value of the driver's answer."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE_SEC) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{method} {url}: {json.loads(error.read())['value']['message']}") from error


def wait_until(done: Callable[[], bool], why_not: Callable[[], str]) -> None:
    """Ask again until it is so."""
    deadline = time.monotonic() + _PATIENCE_SEC
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(why_not())
        time.sleep(0.2)


@contextmanager
def browser(profile: Path, width: int = 1500, height: int = 1400) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _is_ready(f"http://127.0.0.1:{port}/status"), lambda: "chromedriver did not come up")
        arguments = [*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        options = {"binary": shutil.which("chromium"), "args": arguments}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        session = ask("POST", f"http://127.0.0.1:{port}/session", {"capabilities": wanted})["sessionId"]
        window = Browser(f"http://127.0.0.1:{port}/session/{session}")
        try:
            yield window
        finally:
            window.close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)


def _is_ready(url: str) -> bool:
    try:
        return bool(ask("GET", url)["ready"])
    except OSError:
        return False
