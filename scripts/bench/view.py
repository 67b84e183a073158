"""The page in a real browser: times from an input to the pixels, processor time, bytes and memory, beside Panel."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import dfxm_dask
from bench import ours
from bench.data import FULL, QUICK, Data
from bench.timing import Row, at_least, at_most
from dfxm_dask.store.integrity.opened import open_store

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).with_name("view_peer.py")
COMMAND = (sys.executable, "-c", "from dfxm_dask.cli import main; main()")
READY = "window.dfxm?.frame.got?.values && !dfxm.frame.busy"
SIZE = (1280, 720)
PROBE = Path(__file__).with_name("view.js").read_text(encoding="utf-8")


@dataclass
class Viewed:
    """Settings: folder of the data, size of a frame, layers, moves, and the Python of an environment with Panel."""

    work: Path
    shape: tuple[int, int]
    layers: int
    moves: int
    peer_python: str | None

    @property
    def store(self) -> Path:
        """The store with maps, made on first use."""
        path = self.work / "view.zarr"
        data = Data(self.work, self.shape, self.layers, (self.layers,), 1)
        if not path.exists():
            ours.ingest(data.master(self.layers), path, ours.scans(self.layers))
        if "rocking" not in open_store(path).groups():
            dfxm_dask.run_recipe("maps", path)
        return path


def viewed(work: Path, quick: bool, layers: int, moves: int, peer_python: str | None) -> Viewed:
    shape = QUICK if quick else FULL
    folder = work / f"view_{shape[0]}x{shape[1]}_{layers}"
    folder.mkdir(exist_ok=True)
    return Viewed(folder, shape, layers, min(moves, 60) if quick else moves, peer_python)


@contextmanager
def chrome() -> Iterator[Any]:
    sys.path.append(str(ROOT))
    from tests.view.browser.devtools import REMEDY, Browser, chromium

    if chromium() is None:
        raise RuntimeError(REMEDY)
    browser = Browser()
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def served(*arguments: str) -> Iterator[tuple[psutil.Process, str, float]]:
    """Process, first line of output and start-up time of a server."""
    begun = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        yield psutil.Process(process.pid), url, time.perf_counter() - begun
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


def processor(process: psutil.Process) -> float:
    """Seconds of user and system time of a process and its children so far."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with_times = one.cpu_times() if one.is_running() else None
        total += with_times.user + with_times.system if with_times else 0.0
    return total


def shares(server: psutil.Process, browser: Any, before: tuple[float, float], moves: int) -> list[float]:
    """Processor time a move, in ms, of the server and of the browser, since a moment."""
    now = processor(server), processor(psutil.Process(browser.process.pid))
    return [1000 * (after - first) / moves for after, first in zip(now, before, strict=True)]


def listed(times: list[float]) -> str:
    middle, late, least = np.nanmedian(times), np.nanpercentile(times, 95), np.nanmin(times)
    return f"median {middle:.0f}, p95 {late:.0f}, least {least:.0f} ms, n {len(times)}"


def series(tab: Any, moves: list[str], pause: int = 120) -> list[float]:
    """Times of single acts in the page, each an expression that gives a promise of milliseconds."""
    return [float(v) if v is not None else float("nan") for v in tab.js(
        f"(async () => {{ {PROBE} const c = dfxm.frame.picture, out = []; "
        f"for (const act of [{', '.join(f'() => {move}' for move in moves)}]) "
        f"{{ out.push(await act()); await rest({pause}); }} "
        f"return out.map(v => Number.isNaN(v) ? null : v); }})()"
    )]  # fmt: skip


def jumps(count: int, size: int, seed: int = 0) -> list[int]:
    """Positions each at least two from the one before, so that none has been fetched ahead."""
    rng, out = np.random.default_rng(seed), [0]
    while len(out) <= count:
        k = int(rng.integers(size))
        if abs(k - out[-1]) > 1:
            out.append(k)
    return out[1:]


def figure_page(view: Viewed) -> list[Row]:
    """Everything that a user does on one machine."""
    store, rows = view.store, []
    frames = len(dfxm_dask.open_scan(store, chunks=None).phi)
    with chrome() as browser, served(*COMMAND, "view", str(store), "--no-open") as (server, url, started):
        rows.append(at_most("command → address", started, 4, "s", "with imports"))
        tab = browser.tab(url, SIZE)
        tab.wait(READY, 60)
        tab.wait("dfxm.navigator_.mean", 120)
        opened = []
        for _ in range(3):
            again = browser.tab("about:blank", SIZE)
            begun = time.perf_counter()
            again.go(url)
            again.wait(READY, 60)
            opened.append(time.perf_counter() - begun)
            again.close()
        rows.append(
            at_most(
                "page → first frame",
                statistics.median(opened),
                1.0,
                "s",
                f"of 3: {min(opened):.2f} to {max(opened):.2f} s",
            )
        )
        tab.js(f"(() => {{ {PROBE} show('rocking/com_phi'); }})()")
        tab.wait("dfxm.map.got?.values", 60)
        series(tab, [f"timed(c, () => slide('phi', {k}))" for k in jumps(6, frames, 9)])
        used = processor(server), processor(psutil.Process(browser.process.pid))
        times = series(tab, [f"timed(c, () => fresh(() => slide('phi', {k})))" for k in jumps(40, frames)], 250)
        spent = shares(server, browser, used, 40)
        rows.append(at_most("phi move, median", float(np.nanmedian(times)), 40, "ms", listed(times)))
        rows.append(at_most("phi move, p95", float(np.nanpercentile(times, 95)), 80, "ms", "the same moves"))
        detail = "with the finer picture at rest and one fetched ahead"
        rows.append(at_most("processor time a phi move, server", spent[0], 15, "ms", detail))
        rows.append(
            at_most(
                "processor time a phi move, browser",
                spent[1],
                50,
                "ms",
                "all its processes, with the probe that reads pixels back without pause",
            )
        )
        steps = [f"timed(c, () => slide('phi', {k}))" for k in range(2, min(20, frames))]
        ahead = series(tab, steps, 700)[2:]
        rows.append(at_most("prefetched neighbour", float(np.nanmedian(ahead)), 10, "ms", "one step every 0.7 s"))
        limits = [
            f"timed(c, () => {{ dfxm.frame.manual = [{90 + k}, {400 + 30 * k}]; dfxm.frame.repaint(); }})"
            for k in range(12)
        ]
        times = series(tab, limits)
        rows.append(at_most("contrast", float(np.nanmedian(times)), 20, "ms", listed(times) + ", no request"))
        tab.js("dfxm.frame.manual = null; dfxm.frame.repaint()")
        if view.layers > 1:
            turns = [k % view.layers for k in range(view.layers // 2 + 1, view.layers // 2 + 17)]
            layers = [f"timed(c, () => fresh(() => slide('z', {k})), () => shows(dfxm.map, 'z:{k}'))" for k in turns]
            times = series(tab, layers, 400)
            rows.append(at_most("z move with map, median", float(np.nanmedian(times)), 60, "ms", listed(times)))
        times = series(tab, [f"click({40 + 11 * k}, {30 + 9 * k})" for k in range(20)])
        rows.append(
            at_most("click → curve, median", float(np.nanmedian(times)), 40, "ms", listed(times) + ", with its fit")
        )
        tab.js("document.getElementById('one').click()")
        tab.wait(READY)
        pans = [f"timed(c, () => pan({(-1) ** k * 180}), () => same(dfxm.frame))" for k in range(20)]
        times = series(tab, pans, 250)
        rows.append(at_most("1:1 pan, median", float(np.nanmedian(times)), 80, "ms", listed(times)))
        tab.js("document.getElementById('fit').click()")
        rows += memory(tab, server, view.moves, frames)
        rows += space(tab)
        rows += network(browser, url, frames)
        rows += beside_a_run(tab, store, frames)
    return rows


def memory(tab: Any, server: psutil.Process, moves: int, frames: int) -> list[Row]:
    found = []
    for count in (100, moves - 100):
        for some in np.array_split(np.array(jumps(count, frames, count)), max(1, count // 100)):
            series(tab, [f"timed(c, () => slide('phi', {k}))" for k in some], 0)
        found.append(server.memory_info().rss / 1e6)
    tab.call("HeapProfiler.collectGarbage")
    heap = tab.js("performance.memory.usedJSHeapSize") / 1e6
    return [
        at_most("memory of the server", found[1], 450, "MB", f"after {moves} moves"),
        at_most(
            f"growth from move 100 to {moves}", found[1] - found[0], 5, "MB", f"{found[0]:.0f} → {found[1]:.0f} MB"
        ),
        at_most("JavaScript heap", heap, 150, "MB", "after collecting garbage"),
    ]


def space(tab: Any) -> list[Row]:
    times = tab.js(f"(() => {{ {PROBE} return orbit(25); }})()")
    rate = 1000 / statistics.median(times)
    return [at_least("3-D, 1 million points, 10 planes, 1600 × 900", rate, 20, "fps", listed(times))]


def network(browser: Any, url: str, frames: int) -> list[Row]:
    """Moves over 20 Mbit/s and 30 ms, after the page has noticed that the link is slow."""
    tab = browser.tab(url, SIZE)
    tab.wait(READY, 60)
    tab.call(
        "Network.emulateNetworkConditions",
        offline=False,
        latency=30,
        downloadThroughput=20e6 / 8,
        uploadThroughput=20e6 / 8,
    )
    series(tab, [f"timed(c, () => slide('phi', {k}))" for k in jumps(4, frames, 3)], 900)
    tab.js("performance.clearResourceTimings()")
    times = series(tab, [f"timed(c, () => slide('phi', {k}))" for k in jumps(24, frames, 4)], 20)
    sizes = tab.js(
        "performance.getEntriesByType('resource').filter(e => /form=jpeg/.test(e.name)).map(e => e.transferSize)"
    )
    whole = tab.js(
        "performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(n => /api.image/.test(n) && !/form=jpeg/.test(n)).length"
    )
    tab.close()
    kilo = statistics.median(sizes) / 1000 if sizes else float("nan")
    return [
        at_most("20 Mbit/s, 30 ms: phi move, median", float(np.nanmedian(times)), 120, "ms", listed(times)),
        at_most(
            "20 Mbit/s, 30 ms: bytes of a move",
            kilo,
            60,
            "kB",
            f"JPEG of {len(sizes)} moves; {whole} pictures as counts",
        ),
    ]


def beside_a_run(tab: Any, store: Path, frames: int) -> list[Row]:
    run = subprocess.Popen(
        [*COMMAND, "run", "maps", str(store), "--overwrite", "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        times: list[float] = []
        late: list[float] = []
        known, since = "", 0.0
        while run.poll() is None and len(times) < 400:
            times += series(tab, [f"timed(c, () => slide('phi', {k}))" for k in jumps(5, frames, len(times))], 20)
            ledgers = str(sorted((p.name, p.stat().st_size) for p in (store / "rocking/.ledger").glob("*.jsonl")))
            if ledgers != known:
                known, since = ledgers, time.perf_counter()
            stamp = tab.js("dfxm.S.json('version/0').then(v => v.stamp === dfxm.state.catalogue.stamp)")
            if since and stamp:
                late.append(time.perf_counter() - since)
                since = 0.0
    finally:
        run.wait()
    rows = [
        at_most("phi move beside a run on 2 workers, p95", float(np.nanpercentile(times, 95)), 250, "ms", listed(times))
    ]
    if late:
        rows.append(
            at_most(
                "block on disk → catalogue of the page",
                max(late),
                4,
                "s",
                f"{len(late)} times, looked at after every 5 moves",
            )
        )
    return rows


def figure_panel(view: Viewed) -> list[Row]:
    """The same moves in Panel with HoloViews, on the same store and browser."""
    python = view.peer_python or (sys.executable if importlib.util.find_spec("panel") else None)
    if python is None:
        return [
            Row(
                "Panel with HoloViews",
                "not measured",
                "",
                "install panel, holoviews and datashader, or give --panel-python",
            )
        ]
    store = view.store
    environment = f"PYTHONPATH={ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with chrome() as browser, served("env", environment, python, str(PEER), str(store)) as (server, line, started):
        facts = json.loads(line)
        begun = time.perf_counter()
        tab = browser.tab(facts["url"], SIZE)
        tab.wait(f"(() => {{ {PROBE} return window.Bokeh?.documents[0] && Boolean(first()); }})()", 90)
        opened = time.perf_counter() - begun
        time.sleep(3)
        used = processor(server), processor(psutil.Process(browser.process.pid))
        times = moved(tab, "phi", jumps(20, facts["phi"]))
        spent = shares(server, browser, used, 20)
        rows = [
            Row(
                "Panel: command → address / page → first canvas",
                f"{started:.1f} / {opened:.1f} s",
                "",
                facts["versions"],
            ),
            Row("Panel: phi move", f"{np.nanmedian(times):.0f} ms", "", listed(times)),
            Row("Panel: processor time a phi move, server / browser", f"{spent[0]:.0f} / {spent[1]:.0f} ms", "", ""),
        ]
        if facts["z"] > 1:
            times = moved(tab, "z", [k % facts["z"] for k in range(1, 13)])
            rows.append(Row("Panel: z move with map", f"{np.nanmedian(times):.0f} ms", "", listed(times)))
        rows.append(
            Row(
                "Panel: memory of the server", f"{server.memory_info().rss / 1e6:.0f} MB", "", "env and server together"
            )
        )
    return rows


def moved(tab: Any, name: str, places: list[int]) -> list[float]:
    """Times until the pixels in the middle of the first image change, by the slider with this title."""
    out = []
    for k in places:
        value = tab.js(
            f"(() => {{ {PROBE} const m = bokeh('{name}'); "
            f"return timed(first(), () => {{ m.value = {k}; m.value_throttled = {k}; }}); }})()"
        )
        out.append(float(value) if value is not None else float("nan"))
        time.sleep(0.3)
    return out


VIEW: dict[str, Callable[[Viewed], list[Row]]] = {"page": figure_page, "panel": figure_panel}
