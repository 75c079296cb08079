"""A headless Chromium for the tests of pages: it opens a file without any network and takes its picture.

An installed browser is driven by playwright; nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# viser's panels and its word on software rendering lie over the picture
_HIDE_PANELS = (
    "document.querySelectorAll('[class*=mantine]').forEach("
    "e => { if (!e.querySelector('canvas')) e.style.visibility = 'hidden' })"
)


def find_chromium() -> str | None:
    """The browser named by $CHROMIUM, or the first that is installed."""
    names = (os.environ.get("CHROMIUM", ""), *NAMES)
    return next(filter(None, (shutil.which(name) for name in names if name)), None)


class Tab:
    """One page at a time. What its console says is an error, and what it asks the network for, is kept."""

    def __init__(self, browser: Any) -> None:
        self._browser: Any = browser
        self._context: Any = None
        self._page: Any = None
        self.errors: list[str] = []
        self.requests: list[str] = []

    def open(self, path: Path, width: int, height: int, *, touch: bool = False) -> None:
        """Opens a file in a window of so many pixels, offline."""
        if self._context is not None:
            self._context.close()
        self._context = self._browser.new_context(
            viewport={"width": width, "height": height}, has_touch=touch, offline=True
        )
        self._page = page = self._context.new_page()
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        # a worker that is refused says so to the log alone
        self._protocol = self._context.new_cdp_session(page)
        self._protocol.on("Log.entryAdded", lambda event: self._note(event["entry"]))
        self._protocol.send("Log.enable")
        page.goto(path.resolve().as_uri())

    def _note(self, entry: dict[str, Any]) -> None:
        if entry["level"] == "error":
            self.errors.append(f"{entry['source']}: {entry['text']}")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self._page.evaluate(expression)

    def picture(self) -> np.ndarray:
        """What is shown now, without the panels over it: [H, W, 3] RGB bytes."""
        self.evaluate(_HIDE_PANELS)
        bgr = cv2.imdecode(np.frombuffer(self._page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        return bgr[:, :, ::-1].copy()

    def settled_picture(self, timeout: float = 60.0) -> np.ndarray:
        """The picture once it shows something and no longer changes."""
        end, last = time.monotonic() + timeout, None
        while time.monotonic() < end:
            self._page.wait_for_timeout(1000)
            now = self.picture()
            if last is not None and now.std() > 2.0 and np.array_equal(now, last):
                return now
            last = now
        raise TimeoutError(f"the page did not come to rest within {timeout:.0f} s; errors: {self.errors}")

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drags with the left mouse button."""
        self._page.mouse.move(*start)
        self._page.mouse.down()
        self._page.mouse.move(*end, steps=5)
        self._page.mouse.up()

    def swipe(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drags with one finger."""
        for kind, part in (("touchStart", 0.0), *(("touchMove", step / 5) for step in range(1, 6))):
            x, y = (round(a + part * (b - a)) for a, b in zip(start, end, strict=True))
            self._protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        self._protocol.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@contextmanager
def open_browser(program: str) -> Iterator[Tab]:
    """A tab of a browser of its own, which is ended with the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            yield Tab(browser)
        finally:
            browser.close()
