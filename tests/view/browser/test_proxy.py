"""The page behind proxies: one that keeps its prefix, as a node proxy, and one that strips it, as that of Jupyter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tests.view.browser.conftest import SHOWN, TOKEN, Served
from tests.view.browser.devtools import Tab

Show = Callable[..., Tab]
PREFIX = "/user/me/proxy/8801"


class Forward(RequestHandler):
    """Hands a request on, with the host and origin of the browser."""

    def initialize(self, port: int, keep: bool) -> None:
        self.port, self.keep = port, keep

    async def get(self) -> None:
        path = self.request.uri or ""
        if not self.keep:
            path = path.removeprefix(PREFIX)
        client = AsyncHTTPClient(force_instance=True)
        asked = HTTPRequest(
            f"http://127.0.0.1:{self.port}{path}", self.request.method, self.request.headers,
            self.request.body or None, allow_nonstandard_methods=True, decompress_response=False,
            follow_redirects=False,
        )  # fmt: skip
        answer = await client.fetch(asked, raise_error=False)
        client.close()
        self.set_status(answer.code)
        for name, value in answer.headers.get_all():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.set_header(name, value)
        self.finish(answer.body or b"")

    post = delete = get


@pytest.fixture
def proxy() -> Iterator[Callable[[int, bool], int]]:
    ends: list[Callable[[], None]] = []

    def start(port: int, keep: bool) -> int:
        ready, found = threading.Event(), {}

        async def run() -> None:
            server = HTTPServer(Application([(rf"{PREFIX}/.*", Forward, {"port": port, "keep": keep})]))
            (socket,) = bind_sockets(0, "127.0.0.1")
            server.add_sockets([socket])
            done, loop = asyncio.Event(), asyncio.get_running_loop()
            found["port"] = socket.getsockname()[1]
            ends.append(lambda: loop.call_soon_threadsafe(done.set))
            ready.set()
            await done.wait()
            server.stop()
            await server.close_all_connections()

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        assert ready.wait(30)
        ends.append(lambda: thread.join(30))
        return int(found["port"])

    yield start
    for end in ends:
        end()


@pytest.mark.parametrize("keep", [True, False], ids=["prefix kept", "prefix stripped"])
def test_proxies__page_images_and_posts_pass(
    page: Show, served: Callable[..., Served], proxy: Callable[[int, bool], int], rocked: Path, keep: bool
) -> None:
    tab = page(url=f"http://localhost:{proxy(served(rocked).port, keep)}{PREFIX}/#token={TOKEN}")
    before = tab.js("dfxm.state.index.phi")
    tab.key("ArrowRight")
    tab.wait(f"dfxm.state.index.phi === {before + 1} && {SHOWN} && dfxm.frame.got.values")
    tab.wait("dfxm.curves.cursor?.counts?.length === 7")
    asked = [e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"]
    assert asked
    assert all(PREFIX in url or url.startswith(("data:", "about:")) for url in asked)
    assert not any(TOKEN in url.partition("#")[0] for url in asked)
    assert TOKEN not in tab.js("location.href")
    assert tab.js("dfxm.S.post('labels/0', {entries: 3}).catch(e => e.status)") == 400
    assert not [e for e in tab.events if e.get("method") == "Network.webSocketCreated"]
