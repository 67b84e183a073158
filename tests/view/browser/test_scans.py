"""Kinds of scans: two axes, time series, uneven steps, one layer, sets without counts, several stores, odd names."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

import dfxm_dask
from dfxm_dask.schema import Variable
from dfxm_dask.store.integrity.nodes import consolidate, create_group, root_attrs, write_small
from tests.reflection_stores import write_step
from tests.view.browser.conftest import MAP, SHOWN, Served, canvas, maps
from tests.view.browser.devtools import Tab
from tests.view.volume_stores import boundary_group

Show = Callable[..., Tab]
PICTURE = "d0e43dc19a0d466c"  # first bytes of the SHA-256 of the pixels; look at a picture before it is changed
MARKUP = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"


def test_two_axes__have_sliders_a_plane_and_the_mosaicity(page: Show, tilted: Path) -> None:
    tab = page(tilted, at="&var=(mosaicity)")
    counts = dfxm_dask.open_scan(tilted, chunks=None)["raw"].counts
    first, second = counts.dims[1:3]
    assert tab.js("dfxm.S.scanAxes()") == [first, second]
    got = tab.wait("dfxm.curves.cursor?.counts")
    row, column = tab.js("(p => [p.row, p.column])(dfxm.S.pixelOf(dfxm.state.cursor))")
    np.testing.assert_array_equal(got, counts.values[0, :, :, row, column].ravel())
    tab.wait(f"dfxm.state.variable === '(mosaicity)' && {SHOWN} && dfxm.map.got.rgb")
    y0, y1, x0, x1 = tab.js("dfxm.map.got.box")
    phi, chi = (maps(1, (60, 80), ("phi", "chi"))[f"com_{a}"][0, y0:y1, x0:x1] for a in (first, second))
    for name, expected in (("values", phi), ("second", chi)):
        shown = np.array(tab.js(f"Array.from(dfxm.map.got.{name}, v => Number.isNaN(v) ? null : v)"), float)
        np.testing.assert_array_equal(shown.reshape(expected.shape), expected)
    colours = np.array(tab.js("Array.from(dfxm.map.got.rgb)"), np.uint32).reshape(phi.shape)
    assert (colours[np.isnan(phi)] == 0xFFB8B8B8).all()
    assert len(np.unique(colours)) > 100
    before = tab.js(f"dfxm.state.index.{second}")
    tab.key("ArrowLeft", modifiers=8)
    moved = {a: tab.js(f"dfxm.state.index.{a}") for a in (first, second)}
    assert sorted(moved.values()) != [before, before] or moved[second] != before


def test_time_series__has_counts_over_time_and_no_fit(page: Show, movie: Path) -> None:
    tab = page(movie)
    tab.wait("dfxm.curves.cursor?.counts?.length === 9")
    assert tab.js("document.querySelector('#curve .what').textContent") == "Counts over time"
    assert tab.js("document.querySelector('#curve .fitted').parentElement.hidden")
    assert tab.js("document.querySelector('#map .ends').textContent") == "no maps: run the recipe maps"
    tab.key("ArrowRight")
    tab.wait(f"dfxm.state.index.time === 5 && {SHOWN}")


def test_uneven_steps__positions_are_those_of_the_scan(page: Show, uneven: Path) -> None:
    tab = page(uneven, at="&phi=0.3079")
    assert tab.js("dfxm.state.index.phi") == 3
    tab.key("ArrowRight")
    tab.wait("document.getElementById('value-phi').value === '0.316'")
    at, counts = tab.wait("dfxm.curves.data?.slice(0, 2)")
    measured = [(p, c) for p, c in zip(at, counts, strict=True) if c is not None]
    np.testing.assert_allclose([p for p, _ in measured], 0.3 + 0.001 * 2.0 ** np.arange(6))
    np.testing.assert_array_equal([c for _, c in measured], tab.js("dfxm.curves.cursor.counts"))
    tab.js("document.querySelector('[data-tab=sx]').click()")
    tab.wait("dfxm.sections.sx.got?.values")
    assert tab.js("document.getElementById('message').textContent") == ""


def test_one_layer__has_no_section_along_z(page: Show, movie: Path) -> None:
    tab = page(movie)
    assert tab.js("document.getElementById('slide-z')") is None
    tab.wait("dfxm.sections.zx.got?.failed === 'the scan has one layer'")


def test_sets__without_counts_show_their_maps(page: Show, joined: Path) -> None:
    tab = page(joined)
    tab.wait(f"dfxm.state.variable === 'raw/centre' && {SHOWN}")
    shown = tab.js("[...document.querySelectorAll('.pane')].filter(p => p.offsetParent).map(p => p.id)")
    assert shown == ["map", "more"]
    centre = np.asarray(dfxm_dask.open_scan(joined, chunks=None)["raw"].centre)
    tab.key("ArrowUp")
    tab.wait(f"dfxm.map.got.url.includes('z:{tab.js('dfxm.state.index.z')}') && {SHOWN}")
    z = tab.js("dfxm.state.index.z")
    np.testing.assert_array_equal(np.array(tab.js("Array.from(dfxm.map.got.values)")).reshape(30, 40), centre[z])
    given: dict[str, np.ndarray] = {}
    exec(tab.js("dfxm.python()"), given)
    np.testing.assert_array_equal(given["image"], centre[z])
    for name in ("zx", "sx", "scene", "labels", "facts"):
        tab.js(f"document.querySelector('[data-tab={name}]').click()")
    tab.wait("document.querySelector('#facts').textContent.includes('set of reflections')")
    assert tab.js("document.getElementById('message').textContent") == ""


def test_several_stores__one_after_the_other(
    page: Show, rocked: Path, tilted: Path, joined: Path, tmp_path: Path
) -> None:
    for k, store in enumerate((rocked, tilted)):
        (tmp_path / f"{k}.zarr").symlink_to(store)
    tab = page(tmp_path / "0.zarr", tmp_path / "1.zarr", joined, at="&store=1.zarr")
    for k, axes in ((0, 1), (2, 0), (1, 2), (0, 1)):
        tab.js(f"(() => {{ const s = document.getElementById('store'); s.value = {k}; s.onchange({{target: s}}); }})()")
        tab.wait(f"dfxm.state.store === {k} && dfxm.state.catalogue && dfxm.S.scanAxes().length === {axes} && {SHOWN}")
    assert tab.js("document.getElementById('message').textContent") == ""


def test_names__are_never_markup(page: Show, uneven: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{MARKUP.replace('/', '')}.zarr"
    create_group(path, "", root_attrs(64, MARKUP), anew=True)
    for name, size in (("z", 2), ("y", 30), ("x", 40)):
        write_small(path, "", name, (name,), 0.5 * np.arange(size), {"units": MARKUP, "long_name": MARKUP})
    values = np.ones((2, 30, 40), np.float32)
    write_step(path, "rocking", "moments", [Variable("total", MAP, "float32", MARKUP, MARKUP)], {"total": values})
    consolidate(path)
    tab = page(path, uneven)
    for name in ("zx", "scene", "labels", "facts"):
        tab.js(f"document.querySelector('[data-tab={name}]').click()")
    tab.wait(f"document.getElementById('facts').textContent.includes('onerror') && {SHOWN}")
    assert tab.js("document.title").startswith("<img")
    assert tab.js("[window.hit, document.querySelectorAll('img, main script').length]") == [None, 0]


def test_policy__inline_scripts_and_foreign_places_are_refused(page: Show, uneven: Path) -> None:
    tab = page(uneven)
    tab.js("""(() => { window.refused = [];
      document.addEventListener('securitypolicyviolation', e => window.refused.push(e.effectiveDirective));
      const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s);
      const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i);
        i.remove(); s.remove(); })()""")
    tab.wait("window.refused?.length >= 2")
    assert tab.js("window.hit") is None
    tab.events = [e for e in tab.events if "127.0.0.1:9/" not in str(e)]


def test_wrong_token__is_said(page: Show, uneven: Path, served: Callable[..., Served]) -> None:
    tab = page(url=served(uneven).url.replace("ttt", "ttu"), ready=False)
    tab.wait("document.getElementById('message').textContent.includes('dfxm-dask view')")
    assert tab.js("document.getElementById('message').className") == "bad"


def test_scene__is_the_reference_picture(page: Show, uneven: Path) -> None:
    """Boundaries in space: the same pixels on every machine."""
    tab = page(uneven)
    digest = tab.js("""(async () => {
      const {render} = await import(new URL('static/scene.js', location.href));
      const image = new ImageData(320, 240), depth = new Float32Array(320 * 240), points = new Float32Array(4 * 5000);
      let seed = 7; const next = () => (seed = (seed * 1103515245 + 12345) % 2147483648) / 2147483648;
      for (let k = 0; k < 5000; k++) points.set([10 * next(), k % 2 ? 5 : 8 * next(), 6 * next(), k % 3 - 1], 4 * k);
      const scene = { low: [0, 0, 0], high: [10, 8, 6], points, junctions: [[[5, 5, 0], [5, 5, 6]]],
        planes: [[[0, 5, 0], [10, 5, 0], [10, 5, 6], [0, 5, 6]], [[5, 0, 0], [5, 8, 0], [5, 8, 6], [5, 0, 6]]],
        lines: [{plane: 0, ends: [[1, 5, 0], [9, 5, 6]]}] };
      render(image, depth, scene, 0.6, 0.45);
      const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', image.data));
      const words = Array.from(hash.slice(0, 8), b => b.toString(16).padStart(2, '0')).join('');
      return [words, image.data[0], depth.filter(Number.isFinite).length] })()""")
    assert digest == [PICTURE, 255, 14046]


def test_scene__shows_the_boundaries_of_a_store(page: Show, rocked: Path, tmp_path: Path) -> None:
    store = tmp_path / "walls.zarr"
    shutil.copytree(rocked, store)
    create_group(store, "boundaries", {})
    for name, (dims, values) in boundary_group().items():
        write_small(store, "boundaries", name, dims, np.asarray(values), {"units": "um" if name == "spacing" else "1"})
    consolidate(store)
    tab = page(store)
    tab.js("document.querySelector('[data-tab=scene]').click()")
    said = tab.wait(
        "(text => /planes/.test(text) && text)(document.querySelector('#scene .picture').dataset.said ?? '')"
    )
    assert said.startswith("2 planes")
    assert len(np.unique(canvas_of(tab))) > 5


def canvas_of(tab: Tab) -> np.ndarray:
    tab.js("dfxm.spaced = { picture: document.querySelector('#scene .picture') }")
    return canvas(tab, "spaced")[..., 0]
