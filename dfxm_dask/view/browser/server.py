"""The server of the page: slices, curves and labels over plain HTTP, for one user.

Everybody on a node can reach its loopback interface: every request to ``api`` needs the token, in a header of its own,
which pages of other origins cannot send. Names of a store reach the page as JSON only.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from dfxm_dask.errors import DfxmError, InputError, StoreError
from dfxm_dask.view.browser import catalogue, derived, jobs, labels, pixels

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self' http://localhost:* http://127.0.0.1:*",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # errors too: a browser keeps the answer 410 otherwise
}
MOST_BODY = 4 * 2**20
THREADS = 3


class Session:
    """Stores that are shown, and their state as last read.

    Parameters
    ----------
    stores : sequence of Path
    token : str
    hosts : tuple of str
        Names by which the page may be reached; "*" for any, in Jupyter.
    """

    def __init__(self, stores: list[Path], token: str = "", hosts: tuple[str, ...] = LOOPBACK) -> None:
        self.stores, self.hosts = stores, hosts
        self.token = token or secrets.token_urlsafe(24)
        self.shown: dict[int, catalogue.Shown] = {}
        self.reading: dict[int, asyncio.Lock] = {}
        self.jobs = jobs.Jobs()
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="view")

    async def current(self, number: int, check: bool = False) -> catalogue.Shown:
        """A store, read again if it was replaced, or, with ``check``, if anything in it has changed."""
        if not 0 <= number < len(self.stores):
            raise InputError(f"store {number}", f"there are {len(self.stores)}", "see api/stores")
        before = self.shown.get(number)
        if before is not None and not check and before.is_here():
            return before
        async with self.reading.setdefault(number, asyncio.Lock()):
            before = self.shown.get(number)
            loop = asyncio.get_running_loop()
            self.shown[number] = await loop.run_in_executor(self.pool, catalogue.current, self.stores[number], before)
            return self.shown[number]


class Base(RequestHandler):
    """Headers of every answer, the check of the host, and errors in one line."""

    session: Session

    def initialize(self, session: Session) -> None:
        self.session = session

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        hosts = self.session.hosts
        name = (urlsplit(f"//{self.request.host}").hostname or "").lower()
        if "*" not in hosts and name not in hosts:
            raise HTTPError(403, reason="This host name is not allowed")
        origin = self.request.headers.get("Origin")
        if origin and "*" not in hosts:
            here = {self.request.host, self.request.headers.get("X-Forwarded-Host", self.request.host)}
            if urlsplit(origin).netloc not in here and (urlsplit(origin).hostname or "") not in hosts:
                raise HTTPError(403, reason="This origin is not allowed")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, StoreError) and error.found == "no longer exists":
            status_code = 410
        elif isinstance(error, DfxmError):
            status_code = 400
        self.set_status(status_code)
        text = " ".join(str(error).split()) if isinstance(error, DfxmError) else self._reason
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": text[:500]}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, DfxmError | HTTPError):
            super().log_exception(typ, value, tb)


class Page(Base):
    """The page itself."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish((STATIC / "index.html").read_bytes())


class Unknown(Base):
    """Any other address."""

    def prepare(self) -> None:
        super().prepare()
        raise HTTPError(404, reason="There is nothing here")


class Files(Base, StaticFileHandler):
    """Scripts and style sheets of the page."""

    def initialize(self, session: Session, path: str) -> None:  # type: ignore[override]
        Base.initialize(self, session)
        StaticFileHandler.initialize(self, path)

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")


class Api(Base):
    """Requests with the token. Handlers below get text and return bytes or JSON."""

    def prepare(self) -> None:
        super().prepare()
        given = self.request.headers.get("X-Dfxm-Token", "")
        if not hmac.compare_digest(given.encode(), self.session.token.encode()):
            raise HTTPError(403, reason="The token is missing or wrong")

    def text(self, name: str, default: str | None = None) -> str:
        values = self.get_query_arguments(name)
        if not values and default is None:
            raise InputError(f"query {name}", "is missing", "reload the page")
        return values[-1] if values else str(default)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number of the query, low <= n < high."""
        text = self.text(name, None if default is None else str(default))
        if not re.fullmatch(r"-?[0-9]{1,10}", text) or not low <= int(text) < high:
            raise InputError(f"query {name}", f"is {text[:40]!r}", f"give a whole number from {low} to {high - 1}")
        return int(text)

    def number(self, name: str, default: float | None = None) -> float:
        text = self.text(name, None if default is None else str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"query {name}", f"is {text[:40]!r}", "give a number")
        return value

    def box(self, shape: tuple[int, int]) -> pixels.Bounds:
        """``box=y0,y1,x0,x1`` of the query, inside an image; by default the whole image."""
        text = self.text("box", f"0,{shape[0]},0,{shape[1]}")
        parts = text.split(",")
        if len(parts) != 4 or not all(re.fullmatch(r"[0-9]{1,9}", p) for p in parts):
            raise InputError("query box", f"is {text[:60]!r}", "give y0,y1,x0,x1 in pixels")
        y0, y1, x0, x1 = map(int, parts)
        if not (0 <= y0 < y1 <= shape[0] and 0 <= x0 < x1 <= shape[1]):
            raise InputError("query box", f"is {text[:60]!r}", f"stay inside {shape[0]} rows and {shape[1]} columns")
        return y0, y1, x0, x1

    def indices(self, drawn: catalogue.Drawn, without: tuple[str, ...] = ()) -> dict[str, int]:
        """``at=z:3,phi:12`` of the query: one index for every dim that is not a side of the image."""
        found: dict[str, int] = {}
        for part in filter(None, self.text("at", "").split(",")):
            name, _, value = part.partition(":")
            if not re.fullmatch(r"[0-9]{1,9}", value):
                raise InputError("query at", f"has {part[:40]!r}", "give dim:index, such as z:3")
            found[name] = int(value)
        for name, size in zip(drawn.dims, drawn.array.shape, strict=True):
            if name in drawn.sides or name in without:
                continue
            if found.get(name, 0) >= size:
                raise InputError(f"index {found[name]} of {name}", f"there are {size}", "give a smaller one")
            found.setdefault(name, 0)
        return found

    async def thread(self, function: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.session.pool, function, *given)

    def send(self, array: np.ndarray, **facts: Any) -> None:
        """An array as bytes, its shape, type and facts in headers."""
        if array.dtype.kind == "b":
            array = array.view(np.uint8)
        elif array.dtype.itemsize == 8 and array.dtype.kind in "iu":
            array = array.astype(np.float64)
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("X-Shape", ",".join(map(str, array.shape)))
        self.set_header("X-Dtype", str(array.dtype))
        self.set_header("X-Ms", f"{self.request.request_time() * 1000:.1f}")
        for name, value in facts.items():
            self.set_header(f"X-{name.capitalize()}", str(value))
        self.finish(np.ascontiguousarray(array).tobytes())

    def answer(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(catalogue.plain(value), allow_nan=False))


class Stores(Api):
    """The stores of this session."""

    def get(self) -> None:
        self.answer([{"number": k, "name": path.name} for k, path in enumerate(self.session.stores)])


class Catalogue(Api):
    """Content of a store."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number), check=True)
        self.answer(await self.thread(catalogue.catalogue, shown))


class Version(Api):
    """Whether a store has changed: a few stats."""

    async def get(self, number: str) -> None:
        path = self.session.stores[int(number)] if int(number) < len(self.session.stores) else None
        if path is None:
            raise InputError(f"store {number}", "is unknown", "see api/stores")
        stamp, identity = await self.thread(catalogue.stamp_of, path)
        self.answer({"stamp": stamp, "identity": identity})


class Image(Api):
    """A frame or a map, binned."""

    async def get(self, number: str, name: str) -> None:
        shown = await self.session.current(int(number))
        drawn = shown.image(name)
        at = self.indices(drawn)
        shape = tuple(drawn.array.shape[drawn.dims.index(side)] for side in drawn.sides)
        box = self.box((shape[0], shape[1]))
        step = self.whole("step", 1, 65, 1)
        kind = self.text("form", "raw")
        values = await self.thread(
            pixels.frame_of, drawn.array, drawn.dims, drawn.sides, at, box, step, drawn.committed
        )
        missing = ""
        if drawn.valid is not None:
            lacking = ~drawn.valid[at["z"]]
            if drawn.sides != ("y", "x"):  # patches: all of the layer, or nothing
                box = (0, len(lacking), 0, 0)
                lacking = np.repeat(lacking.any(), len(lacking))
            lacking = lacking[box[0] : box[1]]
            edges = np.flatnonzero(np.diff(np.concatenate([[0], lacking.astype(np.int8), [0]])))
            missing = ";".join(f"{box[0] + a}-{box[0] + b}" for a, b in edges.reshape(-1, 2))
            if values.dtype.kind == "f" and lacking.any():
                values = values.copy()
                values[lacking[::step][: len(values)] if drawn.sides == ("y", "x") else slice(None)] = np.nan
        if kind == "jpeg":
            low, high = self.number("low"), self.number("high")
            body = await self.thread(pixels.jpeg, values, low, high, self.text("scale", "linear"))
            self.set_header("Content-Type", "image/jpeg")
            self.set_header("X-Shape", ",".join(map(str, values.shape)))
            self.set_header("X-Missing", missing)
            self.finish(body)
            return
        if kind != "raw":
            raise InputError("query form", f"is {kind[:20]!r}", "use raw or jpeg")
        if step > 1 and values.dtype == np.float64:
            values = values.astype(np.float32)  # means, for the screen; the values themselves stay float64
        self.send(values, missing=missing)


class Curve(Api):
    """Rocking curve of a pixel or box."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number))
        drawn = shown.image("raw/counts")
        layer = self.whole("z", 0, drawn.array.shape[0])
        box = self.box((drawn.array.shape[-2], drawn.array.shape[-1]))
        self.answer(await self.thread(derived.curve, shown, layer, box, self.text("fit", "1") == "1"))


class Section(Api):
    """A section through a scan: rows along z or a scan axis, columns along x."""

    async def get(self, number: str, name: str) -> None:
        shown = await self.session.current(int(number))
        drawn = shown.image(name)
        rows = self.text("rows")
        at = self.indices(drawn, without=(rows,))
        nx = drawn.array.shape[drawn.dims.index("x")] if "x" in drawn.dims else 0
        ny = drawn.array.shape[drawn.dims.index("y")] if "y" in drawn.dims else 0
        at["y"] = self.whole("y", 0, ny, 0)
        first = self.whole("first", 0, nx, 0)
        last = self.whole("last", first + 1, nx + 1, nx)
        most = self.whole("most", 16, 10_000, 2000)
        values, missing = await self.thread(derived.section, shown, name, rows, at, (first, last), most)
        self.send(values.astype(np.float32), missing=";".join(map(str, missing)), columns=f"{first},{last}")


class Navigator(Api):
    """Mean counts and contrast limits of all frames."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number))
        mean, limits = await self.thread(catalogue.navigator, shown)
        self.send(np.concatenate([mean[..., None], limits], axis=-1).astype(np.float32))


class Scene(Api):
    """Boundaries: planes, lines and junctions; with ``points`` the points of defects."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number))
        facts, points = await self.thread(derived.scene, shown)
        if self.text("points", "0") == "1":
            self.send(points)
        else:
            self.answer(facts)


class Tracks(Api):
    """Tracks of a time series."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number))
        self.answer(await self.thread(derived.tracks, shown))


class Preview(Api):
    """P(weak) of a layer with the weights trained on the labels."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number))
        layer = self.whole("z", 0, shown.image("raw/counts").array.shape[0])
        self.send(await self.thread(derived.preview, shown, layer, jobs.weights_path(shown.path)))


class Labels(Api):
    """The labels file."""

    async def get(self, number: str) -> None:
        shown = await self.session.current(int(number))
        self.answer(await self.thread(labels.stored_labels, shown))

    async def post(self, number: str) -> None:
        shown = await self.session.current(int(number))
        body = _body(self)
        self.answer(await self.thread(labels.store_labels, shown, body.get("entries"), str(body.get("digest", ""))))


class Job(Api):
    """Start, follow and cancel a command."""

    def get(self) -> None:
        self.answer(self.session.jobs.now())

    async def post(self) -> None:
        body = _body(self)
        number = body.get("store", 0)
        if not isinstance(number, int) or not 0 <= number < len(self.session.stores):
            raise InputError("job", "names no store of this session", "reload the page")
        self.answer(await self.thread(self.session.jobs.start, body, self.session.stores[number]))

    def delete(self) -> None:
        self.answer(self.session.jobs.cancel())


def _body(handler: Api) -> dict[str, Any]:
    try:
        value = json.loads(handler.request.body or b"null")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError("request", "is not a JSON object", "reload the page")
    return value


def application(session: Session) -> Application:
    """All routes. They are relative in the page: a proxy may add a prefix, or strip one."""
    name = r"([A-Za-z0-9_]{1,80}/[A-Za-z0-9_]{1,80})"
    given = {"session": session}
    routes: list[Any] = [
        (r".*/api/stores", Stores, given),
        (r".*/api/catalogue/(\d{1,4})", Catalogue, given),
        (r".*/api/version/(\d{1,4})", Version, given),
        (rf".*/api/image/(\d{{1,4}})/{name}", Image, given),
        (r".*/api/curve/(\d{1,4})", Curve, given),
        (rf".*/api/section/(\d{{1,4}})/{name}", Section, given),
        (r".*/api/navigator/(\d{1,4})", Navigator, given),
        (r".*/api/scene/(\d{1,4})", Scene, given),
        (r".*/api/tracks/(\d{1,4})", Tracks, given),
        (r".*/api/preview/(\d{1,4})", Preview, given),
        (r".*/api/labels/(\d{1,4})", Labels, given),
        (r".*/api/job", Job, given),
        (r".*/static/((?:vendor/)?[A-Za-z0-9_.]+)", Files, {**given, "path": str(STATIC)}),
        (r".*/", Page, given),
    ]
    return Application(
        routes, log_function=lambda handler: None, default_handler_class=Unknown, default_handler_args=given
    )


def serve(session: Session, port: int = 0, socket: Path | None = None) -> tuple[Any, int]:
    """Listen on the loopback interface, or on a Unix socket that only its owner can open. Returns server and port."""
    import os

    from tornado.netutil import bind_sockets, bind_unix_socket

    server = HTTPServer(application(session), max_body_size=MOST_BODY, max_buffer_size=MOST_BODY)
    if socket is not None:
        before = os.umask(0o177)
        try:
            server.add_socket(bind_unix_socket(str(socket), mode=0o600))
        finally:
            os.umask(before)
        return server, 0
    sockets = bind_sockets(port, "127.0.0.1")
    server.add_sockets(sockets)
    return server, int(sockets[0].getsockname()[1])
