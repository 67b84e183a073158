"""A headless Chromium, driven over its DevTools protocol: enough to press keys, click, and look at pixels."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

REMEDY = "install Chromium (Debian: apt-get install chromium) to run the tests of the page"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)  # fmt: skip


def chromium() -> str | None:
    """Path of an installed Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One Chromium for all tests; every test has a tab of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="dfxm_chromium_")
        self.loop = asyncio.new_event_loop()
        self.process = subprocess.Popen(
            [str(chromium()), *FLAGS, f"--user-data-dir={self.folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port = Path(self.folder, "DevToolsActivePort")
        for _ in range(400):
            if port.exists() and port.read_text().count("\n"):
                break
            time.sleep(0.05)
        self.base = f"http://127.0.0.1:{port.read_text().split()[0]}"

    def tab(self, url: str = "about:blank", size: tuple[int, int] = (1280, 720)) -> Tab:
        request = urllib.request.Request(f"{self.base}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request) as answer:
            facts = json.load(answer)
        tab = Tab(self, facts["id"], facts["webSocketDebuggerUrl"])
        tab.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
        for domain in ("Page", "Runtime", "Network"):
            tab.call(f"{domain}.enable")
        if url != "about:blank":
            tab.go(url)
        return tab

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


async def _connected(address: str) -> Any:
    return await websocket_connect(address, max_message_size=2**28)


async def _closed(socket: Any) -> None:
    socket.close()


class Tab:
    """A tab: commands, and the events that came meanwhile."""

    def __init__(self, browser: Browser, name: str, address: str) -> None:
        self.browser, self.name, self.number = browser, name, 0
        self.events: list[dict[str, Any]] = []
        self.socket = browser.loop.run_until_complete(_connected(address))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.loop.run_until_complete(self._call(method, params))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        mine = self.number
        await self.socket.write_message(json.dumps({"id": mine, "method": method, "params": params}))
        while True:
            got = json.loads(str(await asyncio.wait_for(self.socket.read_message(), 60)))
            if got.get("id") == mine:
                if "error" in got:
                    raise RuntimeError(f"{method}: {got['error']}")
                return dict(got["result"])
            self.events.append(got)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def js(self, code: str) -> Any:
        made = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in made:
            raise RuntimeError(json.dumps(made["exceptionDetails"])[:800])
        return made["result"].get("value")

    def wait(self, code: str, seconds: float = 15.0) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                value = self.js(f"({code})")
            except RuntimeError as error:
                value, reason = None, str(error)
            else:
                reason = f"is {value!r}"
            if value:
                return value
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{code}: {reason}; page says {self.js('document.getElementById(`message`)?.textContent')!r}"
                )
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **{"button": "left", "clickCount": 1, **more})

    def click(self, x: float, y: float, modifiers: int = 0) -> None:
        self.mouse("mousePressed", x, y, modifiers=modifiers)
        self.mouse("mouseReleased", x, y, modifiers=modifiers)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.mouse("mousePressed", *start)
        self.mouse("mouseMoved", (start[0] + end[0]) / 2, (start[1] + end[1]) / 2, buttons=1)
        self.mouse("mouseMoved", *end, buttons=1)
        self.mouse("mouseReleased", *end)

    def key(self, key: str, modifiers: int = 0) -> None:
        text = {"text": key} if len(key) == 1 and not modifiers else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers)

    def picture(self, path: str | os.PathLike[str] | None = None) -> bytes:
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path:
            Path(path).write_bytes(data)
        return data

    def close(self) -> None:
        self.browser.loop.run_until_complete(_closed(self.socket))
        with urllib.request.urlopen(f"{self.browser.base}/json/close/{self.name}"):
            pass
