"""A browser that the tests look through: Debian's chromium, driven by Selenium over its own chromedriver."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

__all__ = ["Browser", "browser", "missing_program"]

_PATIENCE_SEC = 90.0  # MLflow's pages are heavy, and the machine may be busy
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

    def __init__(self, driver: WebDriver) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        """Load a page afresh, also where its address differs from the last one's after the # alone."""
        self._driver.get("about:blank")
        self._driver.get(url)

    def run(self, script: str) -> Any:
        """Return what the body of a JavaScript function returns in the page, or in the frame that is entered."""
        return self._driver.execute_script(script)

    def text(self) -> str:
        """Return the words that a person sees, as far as the page scrolls."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def wait_for(self, *words: str) -> str:
        """Wait until all words are on the page; return the page's text.

        Raises:
            TimeoutError: some never came; the message names them, and holds the text.
        """
        _wait_until(lambda: all(word in self.text() for word in words), lambda: self._missing(words))
        return self.text()

    def wait_until_true(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        _wait_until(lambda: bool(self.run(f"return Boolean({script})")), lambda: f"never true: {script}")

    def click(
        self, text: str, *, selector: str = "a, button, [role=tab], [role=menuitem], [role=columnheader]"
    ) -> None:
        """Wait for the first element of this text, and click it as a person would."""
        elements = f"[...document.querySelectorAll({json.dumps(selector)})]"
        chosen = f"{elements}.find(e => e.innerText.trim() == {json.dumps(text)})"
        self.wait_until_true(chosen)
        self.run(f"const chosen = {chosen}; chosen.scrollIntoView({{block: 'center'}}); chosen.click()")

    def enter_frame(self, selector: str) -> None:
        """Wait for a frame, and let :meth:`text` and :meth:`run` look into it until :meth:`leave_frame`."""
        self.wait_until_true(f"document.querySelector({json.dumps(selector)})")
        self._driver.switch_to.frame(self._driver.find_element("css selector", selector))

    def leave_frame(self) -> None:
        """Look at the page itself again."""
        self._driver.switch_to.default_content()

    def screenshot(self, path: Path) -> None:
        """Keep what the window shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._driver.save_screenshot(str(path))

    def _missing(self, words: tuple[str, ...]) -> str:
        text = self.text()
        return f"never seen: {[word for word in words if word not in text]}; there was: {text[:2000]!r}"


def _wait_until(is_done: Callable[[], bool], why_not: Callable[[], str]) -> None:
    """Ask again until it is so; a page that is just being replaced has no answer."""
    from selenium.common.exceptions import WebDriverException

    deadline = time.monotonic() + _PATIENCE_SEC
    while True:
        try:
            if is_done():
                return
        except WebDriverException:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(why_not())
        time.sleep(0.2)


@contextmanager
def browser(profile: Path, width: int = 1500, height: int = 1400) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in [*_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
        options.add_argument(argument)
    driver = Chrome(options, ChromeService(str(shutil.which("chromedriver"))))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
