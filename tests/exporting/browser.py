"""A headless Chromium for the tests of pages, driven over its debugging protocol.

`find_chromium` names the program, or nothing; `Page` opens a file without any network and takes its picture.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--hide-scrollbars", "--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--force-device-scale-factor=1", "--remote-debugging-port=0", "about:blank"),
)


def find_chromium() -> str | None:
    """The browser named by $CHROMIUM, or the first that is installed."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


class Page:
    """One tab. What its console says, and what it asks the network for, is kept."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._next = socket, 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", **offline)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer, noting the events that come before."""
        self._next += 1
        self._socket.send(json.dumps({"id": self._next, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=120))
            if message.get("id") == self._next:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(json.dumps(params["entry"])[:500])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"][:100])

    def open(self, path: Path, width: int, height: int, *, touch: bool = False) -> None:
        """Opens a file in a window of so many pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        if touch:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
        self.call("Page.navigate", url=path.resolve().as_uri())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self) -> np.ndarray:
        """The canvas as it is, without the panels over it: [H, W, 3] RGB bytes."""
        self.evaluate(
            "document.querySelectorAll('[class*=mantine]').forEach("
            "e => { if (!e.querySelector('canvas')) e.style.visibility = 'hidden' })"
        )
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        return bgr[:, :, ::-1].copy()

    def settled_picture(self, timeout: float = 60.0) -> np.ndarray:
        """The picture once it shows something and no longer changes."""
        end, last = time.monotonic() + timeout, None
        while time.monotonic() < end:
            time.sleep(1.0)
            now = self.picture()
            if last is not None and now.std() > 2.0 and np.array_equal(now, last):
                return now
            last = now
        raise TimeoutError(f"the page did not come to rest within {timeout:.0f} s")

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drags with the left mouse button."""
        self._mouse("mousePressed", start, buttons=1)
        for step in range(1, 6):
            self._mouse("mouseMoved", _between(start, end, step / 5), buttons=1)
        self._mouse("mouseReleased", end, buttons=0)

    def _mouse(self, kind: str, at: tuple[int, int], *, buttons: int) -> None:
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=at[0],
            y=at[1],
            button="left",
            buttons=buttons,
            clickCount=1,
        )

    def swipe(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drags with one finger."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": start[0], "y": start[1]}])
        for step in range(1, 6):
            x, y = _between(start, end, step / 5)
            self.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


@contextmanager
def browser_page(program: str, profile: Path) -> Iterator[Page]:
    """A tab of a browser of its own, which is ended with the block."""
    from websockets.sync.client import connect

    command = [program, *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _wait_for(profile / "DevToolsActivePort", process).split()
        with connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None, open_timeout=60) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(browser.recv(timeout=60))["result"]["targetInfos"]
        (tab,) = (target["targetId"] for target in targets if target["type"] == "page")
        address = f"ws://127.0.0.1:{port[0]}/devtools/page/{tab}"
        with connect(address, max_size=None, open_timeout=60) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> str:
    """The two lines that the browser writes once it listens."""
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the browser ended with {process.returncode}")
        if path.is_file() and len(path.read_text().split()) == 2:
            return path.read_text()
        time.sleep(0.1)
    raise TimeoutError("the browser did not open its debugging port within 60 s")


def _between(start: tuple[int, int], end: tuple[int, int], part: float) -> tuple[int, int]:
    return round(start[0] + part * (end[0] - start[0])), round(start[1] + part * (end[1] - start[1]))
