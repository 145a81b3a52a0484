"""A real Chromium without a window, driven over a pipe by its DevTools protocol: no driver has to be installed."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 30  # that one answer may take on a busy machine
# The browser reads commands from file 3 and writes answers to file 4, wherever the pipes are here.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_KEYS = {"Space": (" ", 32), "Enter": ("Enter", 13), "Tab": ("Tab", 9), "Home": ("Home", 36), "End": ("End", 35)}
_KEYS |= {"ArrowLeft": ("ArrowLeft", 37), "ArrowUp": ("ArrowUp", 38)}
_KEYS |= {"ArrowRight": ("ArrowRight", 39), "ArrowDown": ("ArrowDown", 40), "KeyU": ("u", 85)}


def find_chromium() -> str | None:
    """Path of a Chromium: `$CHROMIUM`, or one on the path."""
    given = os.environ.get("CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page in a browser; a context manager that ends the browser."""

    def __init__(self, binary: str, profile: Path) -> None:
        down, up = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (down[0], up[1])]
        flags = ["--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-sync"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox to enter
        command = [sys.executable, "-c", _START, *map(str, theirs), binary, *flags, f"--user-data-dir={profile}"]
        with open(profile.with_suffix(".log"), "wb") as log:
            self._process = subprocess.Popen(
                [*command, "about:blank"], pass_fds=theirs, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        for fd in (down[0], up[1], *theirs):
            os.close(fd)
        self._write, self._read, self._rest, self._number = down[1], up[0], b"", 0
        self.problems: list[str] = []  # what the page said on its console, and exceptions
        pages = [t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = pages[0]["targetId"] if pages else self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._send("Browser.close", {}, None)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command to the page."""
        return self._call(method, self._session, **parameters)

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.js("globalThis.old = true")
        self.call("Page.navigate", url=address)
        self.wait(lambda: self.js("!globalThis.old && document.readyState === 'complete'"))

    def js(self, code: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"]["exception"].get("description", found))
        return found["result"].get("value")

    def wait(self, condition: Callable[[], Any]) -> Any:
        """The first value of `condition` that is true."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            time.sleep(0.03)
        raise AssertionError(f"it never came true; the page said {self.problems}")

    def click(self, element: str) -> None:
        """A press and release of the mouse in the middle of the element that the expression gives."""
        x, y = self.js(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, *names: str) -> None:
        """Keys one after the other."""
        for name in names:
            key, code = _KEYS[name]
            for kind in ("rawKeyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=name, windowsVirtualKeyCode=code)

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """The size of the window, and light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, parameters, session)
        until = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                if not select.select([self._read], [], [], max(until - time.monotonic(), 0))[0]:
                    raise AssertionError(f"no answer to {method}")
                got = os.read(self._read, 1 << 16)
                if not got:
                    raise AssertionError(f"the browser ended at {method}")
                self._rest += got
            message, _, self._rest = self._rest.partition(b"\0")
            said = json.loads(message)
            if said.get("id") == number:
                if "error" in said:
                    raise AssertionError(f"{method}: {said['error']}")
                found: dict[str, Any] = said["result"]
                return found
            if said.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.problems.append(json.dumps(said["params"]))

    def _send(self, method: str, parameters: dict[str, Any], session: str | None) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return self._number
