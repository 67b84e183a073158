"""One Chromium and a few small stores for all tests of the page, and a server in this process for each test."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfxm_dask.schema import COUNTS, Variable, expand
from dfxm_dask.store.integrity.nodes import consolidate, create_group, root_attrs, write_small
from dfxm_dask.view.browser.server import Session, serve
from tests.beamline_files import known_counts
from tests.reflection_stores import write_step
from tests.stores import raw_store
from tests.view.browser.devtools import REMEDY, Browser, Tab, chromium

SIZE = 150, 210
TOKEN = "t" * 32
FLAGS = ((1, "unlit"), (2, "truncated"), (4, "hot"))
MAP = ("z", "y", "x")


def maps(layers: int = 3, size: tuple[int, int] = SIZE, axes: tuple[str, ...] = ("phi",)) -> dict[str, np.ndarray]:
    """Maps of all kinds with known values: float64 with NaN, flags, labels of objects, and a mask."""
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*map(np.arange, (layers, *size)), indexing="ij")
    made: dict[str, np.ndarray] = {}
    for k, axis in enumerate(axes):
        made[f"com_{axis}"] = 0.29 + 1e-9 * rng.random(z.shape) + 1e-4 * (x if k == 0 else y) + 0.01 * z
        made[f"com_{axis}"][:, 20:40, 30:70] = np.nan
        made[f"com_{axis}"][:, -1, -1] = np.nan
    made["flags"] = np.where(x < 20, 1, 0).astype(np.uint8) | np.where(y > 130, 4, 0).astype(np.uint8)
    made["label"] = np.where((x // 40 + y // 40) % 2, 1 + x // 40 + 70_000 * (y // 40), 0).astype(np.int32)
    made["inside"] = (x - 100) ** 2 + (y - 70) ** 2 < 50**2
    return made


def add_maps(path: Path, values: dict[str, np.ndarray], group: str = "rocking", step: str = "moments") -> None:
    """One complete step with these maps."""
    units = {"com_phi": "degree", "com_chi": "degree", "peak_local": "degree", "width_local": "degree"}
    declared = [
        Variable(n, MAP[: v.ndim], v.dtype.name, units.get(n, "1"), f"{n} of a test", FLAGS if n == "flags" else ())
        for n, v in values.items()
    ]
    write_step(path, group, step, declared, values)
    consolidate(path)


@pytest.fixture(scope="session")
def rocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers of 7 frames with maps; pixels of 0.3 um along y and 0.1 um along x."""
    folder = tmp_path_factory.mktemp("rocked")
    store = raw_store(folder, layers=3, size=SIZE, shape=(7,), pixel_size=(0.3, 0.1))
    add_maps(store, maps())
    return store


@pytest.fixture(scope="session")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of 5 × 4 frames along two axes."""
    folder = tmp_path_factory.mktemp("tilted")
    more: dict[str, Any] = {"motors": ("chi", "mu"), "starts": (-0.2, 0.29), "steps": (0.1, 0.001)}
    store = raw_store(folder, command="fscan2d", shape=(5, 4), size=(60, 80), pixel_size=(0.2, 0.2), **more)
    add_maps(store, maps(1, (60, 80), ("phi", "chi")))
    return store


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer whose steps along phi double, without maps and without statistics of its frames."""
    path = tmp_path_factory.mktemp("uneven") / "s.zarr"
    create_group(path, "", root_attrs(64, "uneven steps"), anew=True)
    for name, values in (("z", [0.0]), ("y", 0.2 * np.arange(40)), ("x", 0.2 * np.arange(50))):
        write_small(path, "", name, (name,), np.asarray(values), {"units": "um"})
    phi = 0.3 + 0.001 * 2.0 ** np.arange(6)
    write_small(path, "", "phi", ("phi",), phi, {"units": "degree", "scan_axis": 0})
    counts = expand(COUNTS, {"phi": "degree"})[0]
    write_step(path, "raw", "ingest", [counts], {"counts": known_counts(6, (40, 50))[None]})
    consolidate(path)
    return path


@pytest.fixture(scope="session")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A time series of 9 frames."""
    folder = tmp_path_factory.mktemp("movie")
    return raw_store(folder, command="loopscan", shape=(9,), size=(40, 50), pixel_size=(0.2, 0.2))


@pytest.fixture(scope="session")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without counts: centres of two layers of a set of reflections."""
    path = tmp_path_factory.mktemp("joined") / "set.zarr"
    create_group(path, "", root_attrs(64, "set of reflections"), anew=True)
    for name, size in (("z", 2), ("y", 30), ("x", 40)):
        write_small(path, "", name, (name,), 0.5 * np.arange(size), {"units": "um"})
    centre = np.random.default_rng(4).random((2, 30, 40))
    write_step(path, "raw", "join", [Variable("centre", MAP, "float64", "degree", "centre")], {"centre": centre})
    consolidate(path)
    return path


class Served:
    """A server in a thread of this process."""

    def __init__(self, *stores: Path, socket: Path | None = None, hosts: tuple[str, ...] = ()) -> None:
        names = {"hosts": ("localhost", "127.0.0.1", *hosts)} if hosts else {}
        self.session = Session(list(stores), TOKEN, **names)
        self.ready, self.socket, self.port = threading.Event(), socket, 0
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.thread.start()
        assert self.ready.wait(60)

    async def _run(self) -> None:
        self.loop, self.done = asyncio.get_running_loop(), asyncio.Event()
        server, self.port = serve(self.session, 0, self.socket)
        self.ready.set()
        await self.done.wait()
        server.stop()
        await server.close_all_connections()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/#token={TOKEN}"

    def close(self) -> None:
        if not self.thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join(30)
        self.session.jobs.close()
        self.session.pool.shutdown()


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*stores: Path, **options: Any) -> Served:
        made.append(Served(*stores, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip(REMEDY)
    made = Browser()
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser, served: Callable[..., Served]) -> Iterator[Callable[..., Tab]]:
    """A tab that shows stores; at its end no script has failed and no request has left the server."""
    tabs: list[tuple[Tab, str]] = []

    def show(
        *stores: Path, at: str = "", url: str = "", size: tuple[int, int] = (1280, 720), ready: bool = True
    ) -> Tab:
        address = url or served(*stores).url
        tab = browser.tab(address + at, size)
        tabs.append((tab, address.partition("#")[0].partition("//")[2].partition("/")[0]))
        if ready:
            tab.wait(f"window.dfxm?.state.catalogue && {SHOWN}")
        return tab

    yield show
    for tab, host in tabs:
        tab.js("1")  # events that came before this answer are known after it
        failed = [e["params"] for e in tab.events if e.get("method") == "Runtime.exceptionThrown"]
        asked = [e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"]
        tab.close()
        assert failed == []
        assert [u for u in asked if not u.startswith((f"http://{host}/", "data:", "blob:", "about:"))] == []


SHOWN = "[dfxm.frame, dfxm.map].every(p => !p.wanted || p.got?.key === p.wanted.key && !p.busy)"
"""Both images are those that were asked for."""


def canvas(tab: Tab, pane: str) -> np.ndarray:
    """Pixels (y, x, rgba) of the picture of a pane, once it no longer changes."""
    code = f"""(() => {{ const c = dfxm.{pane}.picture,
      d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    let s = ""; for (let k = 0; k < d.length; k += 32768) s += String.fromCharCode(...d.subarray(k, k + 32768));
    return [c.width, c.height, btoa(s)]; }})()"""
    import base64

    before, found = None, tab.js(code)
    while found != before:
        time.sleep(0.08)
        before, found = found, tab.js(code)
    width, height, data = found
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def middle(tab: Tab, pane: str, x: float, y: float) -> tuple[float, float]:
    """Place in the window of a position in um."""
    left, top, at = tab.js(
        f"(() => {{ const b = dfxm.{pane}.marks.getBoundingClientRect(); "
        f"return [b.left, b.top, dfxm.{pane}.toScreen({{x: {x}, y: {y}}})] }})()"
    )
    return left + at[0], top + at[1]


def raw_contrast(tab: Tab) -> None:
    """Grey levels of the frame are the counts themselves."""
    tab.js(
        "(() => { const s = dfxm.frame.find('.scale'); s.value = 'linear'; dfxm.frame.manual = [0, 255]; "
        "dfxm.frame.repaint(); })()"
    )


def catalogue_of(tab: Tab) -> dict[str, Any]:
    return dict(tab.js("dfxm.state.catalogue"))
