"""Boxes drawn with the mouse: in the file of labels, in conflict, in training, and in the map that follows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import dfxm_dask
from dfxm_dask.errors import FramesApartWarning
from dfxm_dask.schema import Variable
from dfxm_dask.store.integrity.nodes import consolidate
from dfxm_dask.view.browser.jobs import weights_path, with_weights
from dfxm_dask.view.browser.labels import labels_path
from tests.reflection_stores import write_step
from tests.stores import raw_store
from tests.view.browser.conftest import SHOWN, Served, add_maps, middle
from tests.view.browser.devtools import Tab

Show = Callable[..., Tab]
SIZE, PITCH = (128, 192), 0.2


@pytest.fixture(scope="session")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of 5 frames of 2 × 3 patches, with the local peaks that a training reads."""
    folder = tmp_path_factory.mktemp("lit")
    store = raw_store(folder, layers=2, size=SIZE, shape=(5,), pixel_size=(PITCH, PITCH))
    whole = np.ones((2, *SIZE))
    peaks = {"peak_local": 0.292 * whole, "width_local": 0.001 * whole, "lit": whole > 0}
    add_maps(store, peaks | {"has_weak_beam": np.array([True, True])}, "beams", "local_peak")
    return store


@pytest.fixture
def store(lit: Path, tmp_path: Path) -> Path:
    shutil.copytree(lit, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def box(tab: Tab, y0: int, y1: int, x0: int, x1: int) -> None:
    """Draw a box over these pixels, by their middles."""
    ends = [middle(tab, "frame", PITCH * x, PITCH * y) for y, x in ((y0, x0), (y1 - 1, x1 - 1))]
    tab.drag(ends[0], ends[1])


def label(tab: Tab, key: str, count: int) -> None:
    tab.key(key)
    tab.wait(f"document.getElementById('counted').textContent.startsWith('{count} boxes')")


def entries(store: Path) -> list[dict[str, object]]:
    return list(yaml.safe_load(labels_path(store).read_text()))


def test_labels__drawn_named_undone_and_kept(page: Show, store: Path) -> None:
    tab = page(store, at="&z=-7700&phi=0.292")
    tab.key("l")
    tab.key("w")
    tab.wait("/Draw a box first/.test(document.getElementById('output').textContent)")
    box(tab, 0, 64, 0, 128)
    label(tab, "w", 1)
    tab.key("ArrowUp")
    box(tab, 60, 128, 60, 192)
    label(tab, "s", 2)
    first, second = entries(store)
    assert first["class"] == "weak"
    assert first["phi"] == pytest.approx(0.292, abs=6e-4)
    assert (first["z"], second["z"]) == (-7700, -7699)
    # The pointer has whole pixels of the screen, about three on one of the detector.
    np.testing.assert_allclose(np.array(first["box"], float), [0, 64, 0, 128], atol=1)
    np.testing.assert_allclose(np.array(second["box"], float), [60, 128, 60, 192], atol=1)
    assert "# Drawn in dfxm-dask view by" in labels_path(store).read_text()
    tab.key("z", modifiers=2)
    tab.wait("document.getElementById('counted').textContent.startsWith('1 boxes')")
    assert entries(store) == [first]
    tab.call("Page.reload")
    tab.wait("window.dfxm?.state.catalogue && document.getElementById('counted').textContent.startsWith('1 boxes')")
    assert not [p for p in store.rglob("*") if "labels" in p.name]


def test_labels__a_box_without_a_whole_patch_is_refused(page: Show, store: Path) -> None:
    tab = page(store)
    tab.key("l")
    box(tab, 5, 25, 5, 25)
    tab.key("w")
    tab.wait("/gives no patch/.test(document.getElementById('output').textContent)")
    assert not labels_path(store).exists()
    assert not [p.name for p in store.parent.iterdir() if "draft" in p.name]


def test_labels__two_pages_do_not_overwrite_each_other(page: Show, store: Path, served: Callable[..., Served]) -> None:
    url = served(store).url
    first, second = page(url=url), page(url=url)
    for tab in (first, second):
        tab.call("Page.bringToFront")
        tab.key("l")
        box(tab, 0, 64, 0, 64)
    first.call("Page.bringToFront")
    label(first, "w", 1)
    second.call("Page.bringToFront")
    second.key("s")
    second.wait("/changed by another page/.test(document.getElementById('output').textContent)")
    second.wait("document.getElementById('counted').textContent.startsWith('1 boxes')")
    assert [one["class"] for one in entries(store)] == ["weak"]


def test_copies__regions_and_roi_are_those_of_the_package(page: Show, store: Path) -> None:
    tab = page(store, at="&z=-7700&phi=0.29")
    brightest = tab.wait("(m => m && m.indexOf(Math.max(...m.slice(0, 5))))(dfxm.navigator_.mean)")
    assert 0 < brightest < 4
    tab.key("l")
    for count, (column, key) in enumerate(((0, "w"), (64, "s"), (128, "w"))):
        box(tab, 0, 64, column, column + 64)
        label(tab, key, count + 1)
        tab.key("ArrowRight")
        tab.key("ArrowRight")
    tab.js("document.getElementById('regions').click()")
    text = tab.wait("(t => t.includes('gram_schmidt') && t)(document.getElementById('output').textContent)")
    step = yaml.safe_load(text[text.index("- gram_schmidt") :])[0]["gram_schmidt"]
    assert [one["name"] for one in step["regions"]] == ["weak_minus", "strong", "weak_plus"]
    tree = dfxm_dask.open_scan(store)
    with pytest.warns(FramesApartWarning):  # the readback of the test jitters
        dfxm_dask.gram_schmidt(tree["raw"].to_dataset().merge(tree["beams"].to_dataset()), **step)  # it accepts them
    tab.js("document.getElementById('roi').click()")
    text = tab.wait("(t => t.includes('--roi') && t)(document.getElementById('output').textContent)")
    assert text.endswith("--roi 0:128,0:192")


def test_labels__train_and_show_the_new_map(page: Show, store: Path) -> None:
    p_weak = np.random.default_rng(5).random((2, 5, 2, 3), np.float32)
    declared = Variable("p_weak", ("z", "phi", "patch_y", "patch_x"), "float32", "1", "probability of weak beam")
    write_step(store, "beams", "classify_beams", [declared], {"p_weak": p_weak})
    consolidate(store)
    tab = page(store, at="&z=-7700&phi=0.292")
    tab.key("l")
    count = 0
    for move, keys in (("ArrowDown", "ws"), ("ArrowUp", "sw")):
        tab.key(move)
        for column, key in zip((0, 64), keys, strict=True):
            box(tab, 0, 128, column, column + 64)
            count += 1
            label(tab, key, count)
    tab.wait("!document.getElementById('train').disabled")
    tab.js("document.getElementById('train').click()")
    tab.wait("/ended with exit code/.test(document.getElementById('output').textContent)", 300)
    assert "exit code 0" in tab.js("document.getElementById('output').textContent")
    assert weights_path(store).exists()
    tab.wait("!document.getElementById('compare').disabled")
    z = tab.js("dfxm.state.index.z")
    shown = np.array(tab.js(f"dfxm.S.array('preview/0?z={z}').then(a => Array.from(a.values))")).reshape(5, 2, 3)
    tree = dfxm_dask.open_scan(store)
    scan = tree["raw"].to_dataset()[["counts"]].isel(z=[z]).merge(
        tree["beams"].to_dataset()[["lit", "peak_local", "width_local"]].isel(z=[z]))  # fmt: skip
    made = dfxm_dask.classify_beams(scan, method="lcnn", weights=str(weights_path(store)))
    np.testing.assert_allclose(shown, np.asarray(made.p_weak)[0], rtol=1e-5)
    phi = tab.js("dfxm.state.index.phi")
    before, after = p_weak[z, phi], shown[phi]
    for mode, values in (("old", before), ("new", after), ("difference", after - before)):
        tab.js("document.getElementById('compare').click()")
        drawn = tab.wait(
            f"document.getElementById('compare').textContent.startsWith('{mode}') && dfxm.map.got?.values?.length === 6"
            " && dfxm.map.got.key === dfxm.map.wanted.key && Array.from(dfxm.map.got.values)"
        )
        np.testing.assert_allclose(np.array(drawn).reshape(2, 3), values, atol=1e-6)
    changed = yaml.safe_load(with_weights("weak_beam", store).read_text())
    steps = {name: step[name] for step in changed["steps"] for name in step}
    assert steps["classify_beams"]["weights"] == str(weights_path(store))


def test_jobs__are_cancelled_and_leave_no_process(page: Show, store: Path, served: Callable[..., Served]) -> None:
    server = served(store)
    tab = page(url=server.url)
    tab.js("dfxm.S.post('job', {kind: 'run', recipe: 'maps', store: 0})")
    assert tab.js("dfxm.S.post('job', {kind: 'run', recipe: 'maps', store: 0}).catch(e => e.status)") == 400
    process = server.session.jobs.process
    assert process is not None
    tab.js("dfxm.S.post('job', {}, 'DELETE')")
    assert process.wait(120) != 0
    tab.wait("dfxm.S.json('job').then(j => !j.running)", 30)
    assert tab.js(f"dfxm.state.catalogue && {SHOWN}")
