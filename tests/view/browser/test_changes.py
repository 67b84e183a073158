"""Stores that change while the page shows them: a run that goes on, a store that is overwritten or deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dfxm_dask.schema import Variable
from dfxm_dask.store.chunks import map_layout
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.nodes import consolidate, create_array, create_group
from dfxm_dask.store.layers import write_maps
from tests.stores import raw_store
from tests.view.browser.conftest import MAP, SHOWN, SIZE, canvas
from tests.view.browser.devtools import Tab

Show = Callable[..., Tab]
WAIT = 60  # s; far longer than the page takes, so that a busy machine does not fail


@pytest.fixture
def store(rocked: Path, tmp_path: Path) -> Path:
    shutil.copytree(rocked, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def begin(store: Path) -> np.ndarray:
    """A step of three layers, none of which is on disk."""
    values = np.random.default_rng(0).random((3, *SIZE)).astype(np.float32) + 1
    create_group(store, "beams", {})
    for name, kind in (("level", "float32"), ("number", "uint16")):
        layout = map_layout(MAP, values.shape, 64, 64)
        create_array(store, "beams", Variable(name, MAP, kind, "count", f"{name} of counts"), layout, {})
    ledger.begin(store, "beams", "late", {"writes": ["level", "number"]}, [f"z{z:04d}" for z in range(3)])
    consolidate(store)
    return values


def commit(store: Path, values: np.ndarray, z: int) -> None:
    files = write_maps(str(store), "beams", z, {"level": values[z], "number": (values[z] * 100).astype(np.uint16)})
    ledger.commit(store, "beams", "late", {"block": f"z{z:04d}", "read": [], "files": files, "seconds": 0.0})


def complete(store: Path) -> None:
    provenance = {"reduction": "late", "version": "0", "parameters": {}, "inputs": {}}
    ledger.complete(store, "beams", "late", provenance, [f"beams/{n}/zarr.json" for n in ("level", "number")])


@pytest.mark.parametrize("name", ["level", "number"])
def test_run_that_goes_on__layers_fill_in_and_what_lacks_is_hatched(page: Show, store: Path, name: str) -> None:
    values = begin(store)
    commit(store, values, 0)
    tab = page(store, at=f"&z=-7699&var=beams/{name}")
    tab.wait(f"dfxm.state.index.z === 1 && {SHOWN} && dfxm.map.got.missing.length")
    assert "late" in tab.js("document.getElementById('message').textContent")
    drawn = canvas(tab, "map")
    left, top, width, height = (round(v) for v in tab.js("dfxm.map.frameOn(dfxm.map.view())"))
    inner = drawn[top + 2 : top + height - 2, max(left, 0) + 2 : left + width - 2, :3]
    colours = {tuple(int(v) for v in one) for one in inner[::7, ::3].reshape(-1, 3)}
    assert (230, 233, 236) in colours  # the ground of the hatching
    assert all(min(one) > 150 and max(one) - min(one) < 25 for one in colours)  # greys, no colour of a value
    at = tab.js("(b => [b.left + b.width / 2, b.top + b.height / 2])(dfxm.map.marks.getBoundingClientRect())")
    tab.mouse("mouseMoved", *at)
    tab.wait("/not on disk/.test(dfxm.map.find('.value').textContent)")
    commit(store, values, 1)
    tab.wait(f"dfxm.map.got?.missing?.length === 0 && {SHOWN}", WAIT)
    commit(store, values, 2)
    complete(store)
    tab.wait("!dfxm.state.catalogue.problems.length", WAIT)
    tab.wait(f"document.getElementById('message').hidden && {SHOWN}")
    y0, y1, x0, x1 = tab.js("dfxm.map.got.box")
    got = (
        np.array(tab.js("Array.from(dfxm.map.got.values)")).reshape(y1 - y0, -1)
        if tab.js("dfxm.map.got.step") == 1
        else None
    )
    if got is not None:
        expected = values[1] if name == "level" else (values[1] * 100).astype(np.uint16)
        np.testing.assert_array_equal(got, expected[y0:y1, x0:x1])


def test_python__of_an_incomplete_store_says_so(page: Show, store: Path) -> None:
    values = begin(store)
    commit(store, values, 2)
    tab = page(store, at="&z=-7698&var=beams/level")
    assert "allow_partial=True" in tab.js("dfxm.python()")
    given: dict[str, np.ndarray] = {}
    exec(tab.js("dfxm.python()"), given)
    np.testing.assert_array_equal(given["image"], values[2])


def test_overwritten__the_page_shows_the_new_scan_and_says_so(page: Show, store: Path, tmp_path: Path) -> None:
    tab = page(store, at="&cx=10&cy=20&k=40&phi=0.292")
    fresh = raw_store(tmp_path / "fresh" if (tmp_path / "fresh").mkdir() is None else tmp_path, layers=2, size=(60, 70),
                      shape=(4,), seed=9, pixel_size=(0.2, 0.2))  # fmt: skip
    shutil.rmtree(store)
    fresh.rename(store)
    tab.wait("/was overwritten/.test(document.getElementById('message').textContent)", WAIT)
    tab.wait(
        f"dfxm.state.catalogue.axes.phi.size === 4 && dfxm.state.zoom === 0 && {SHOWN} && dfxm.frame.got.step === 1"
    )
    import dfxm_dask

    z, phi = tab.js("[dfxm.state.index.z, dfxm.state.index.phi]")
    got = np.array(tab.js("Array.from(dfxm.frame.got.values)")).reshape(60, 70)
    np.testing.assert_array_equal(got, dfxm_dask.open_scan(store, chunks=None)["raw"].counts[z, phi])


def test_deleted__is_said_and_no_pixel_is_invented(page: Show, store: Path) -> None:
    tab = page(store, at="&phi=0.292")
    shutil.rmtree(store)
    tab.key("ArrowRight")
    tab.key("ArrowRight")
    tab.wait("/no longer exists/.test(document.getElementById('message').textContent)", WAIT)
    assert tab.js("document.getElementById('message').className") == "bad"
    shown = tab.js("dfxm.frame.got?.values ? Array.from(dfxm.frame.got.values) : null")
    assert shown is None or min(shown) > 0


def test_restored__the_message_goes(page: Show, store: Path) -> None:
    tab = page(store)
    store.rename(store.with_name("away"))
    tab.wait("/no longer exists/.test(document.getElementById('message').textContent)", WAIT)
    store.with_name("away").rename(store)
    tab.wait(f"document.getElementById('message').hidden && {SHOWN}", WAIT)


def test_server_that_ends__is_said(browser: object, served: Callable[..., object], page: Show, store: Path) -> None:
    server = served(store)
    tab = page(url=server.url)  # type: ignore[attr-defined]
    server.close()  # type: ignore[attr-defined]
    tab.wait("/does not answer/.test(document.getElementById('message').textContent)", WAIT)
