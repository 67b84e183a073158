"""The page in a browser: what sliders, keys, clicks and the wheel do, and that its pixels are those of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dfxm_dask
from tests.view.browser.conftest import SHOWN, Served, canvas, maps, middle, raw_contrast
from tests.view.browser.devtools import Tab

Show = Callable[..., Tab]
SHIFT, CTRL = 8, 2


def counts_of(store: Path) -> np.ndarray:
    return np.asarray(dfxm_dask.open_scan(store, chunks=None)["raw"].counts)


def slide(tab: Tab, name: str, index: int) -> None:
    tab.js(
        f"(() => {{ const s = document.getElementById('slide-{name}'); s.value = {index}; "
        "s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    tab.wait(f"dfxm.state.index.{name} === {index} && {SHOWN}")


def grey_at(tab: Tab, row: int, column: int, pane: str = "frame") -> list[int]:
    """Colour of the middle of a pixel of the detector."""
    x, y = tab.js(f"dfxm.{pane}.toScreen({{x: 0.1 * {column}, y: 0.3 * {row}}}).map(Math.floor)")
    return [int(v) for v in canvas(tab, pane)[y, x]]


def test_sliders__move_the_frame_to_the_pixel(page: Show, rocked: Path) -> None:
    tab, counts = page(rocked, at="&cx=10&cy=20&k=40"), counts_of(rocked)
    raw_contrast(tab)
    for z, phi in ((1, 3), (1, 6), (0, 0), (2, 6)):
        slide(tab, "z", z)
        slide(tab, "phi", phi)
        tab.wait("dfxm.frame.got.step === 1")
        for row, column in ((66, 100), (70, 95), (63, 104)):
            assert grey_at(tab, row, column)[0] == counts[z, phi, row, column]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (149, 209), (0, 209), (75, 100)])
def test_one_to_one__every_pixel_is_that_of_the_store(page: Show, rocked: Path, row: int, column: int) -> None:
    tab, counts = page(rocked, at=f"&z=0.001&phi=0.29&x={0.1 * column}&y={0.3 * row}"), counts_of(rocked)
    raw_contrast(tab)
    tab.js("document.getElementById('one').click()")
    tab.wait(f"{SHOWN} && dfxm.frame.got.step === 1 && dfxm.frame.view().zoom === 10")
    z, phi = tab.js("[dfxm.state.index.z, dfxm.state.index.phi]")
    shown, (height, width) = canvas(tab, "frame")[..., 0], counts.shape[-2:]
    whole = np.repeat(counts[z, phi], 3, axis=0)  # 0.3 um and 0.1 um: three rows of the screen a pixel
    top = round(shown.shape[0] / 2 + (-0.15 - 0.3 * row) * 10 + 1e-9)
    left = round(shown.shape[1] / 2 + (-0.05 - 0.1 * column) * 10 + 1e-9)
    rows, columns = (slice(max(0, a), min(n, a + size)) for a, n, size in (
        (top, shown.shape[0], 3 * height), (left, shown.shape[1], width)))  # fmt: skip
    assert (rows.stop - rows.start) * (columns.stop - columns.start) > 10_000
    expected = whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    np.testing.assert_array_equal(shown[rows, columns], expected)


@pytest.mark.parametrize("name", list(maps(1, (2, 2))))
def test_maps__values_are_those_of_the_store(page: Show, rocked: Path, name: str) -> None:
    tab = page(rocked, at=f"&z=0.001&var=rocking/{name}&cx=10.5&cy=22.5&k=10")
    tab.wait(f"{SHOWN} && dfxm.map.got.step === 1")
    z, (y0, y1, x0, x1) = tab.js("[dfxm.state.index.z, dfxm.map.got.box]")
    got = np.array(tab.js("Array.from(dfxm.map.got.values, v => Number.isNaN(v) ? null : v)"), float)
    expected = maps()[name][z, y0:y1, x0:x1].astype(float)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    if name == "com_phi":
        assert grey_at(tab, 30, 50, "map")[:3] == [184, 184, 184]
        assert grey_at(tab, 50, 50, "map")[:3] != [184, 184, 184]
    words = tab.js("dfxm.map.find('.legend').textContent")
    assert words == ("unlithot" if name == "flags" else "")


def test_values__are_said_under_the_pointer(page: Show, rocked: Path) -> None:
    tab, counts = page(rocked, at="&z=0.001&phi=0.29"), counts_of(rocked)
    tab.mouse("mouseMoved", *middle(tab, "frame", 0.1 * 209, 0.3 * 149))
    said = tab.wait("dfxm.frame.hover && dfxm.frame.find('.value').textContent")
    z, phi = tab.js("[dfxm.state.index.z, dfxm.state.index.phi]")
    assert "[149, 209]" in said
    assert f": {counts[z, phi, 149, 209]} counts" in said or "mean of" in said


def test_click__shows_the_curve_of_the_pixel(page: Show, rocked: Path) -> None:
    tab, counts = page(rocked), counts_of(rocked)
    for pane, row, column, shift in (("frame", 20, 33, 0), ("map", 140, 200, 0), ("frame", 80, 90, SHIFT)):
        tab.click(*middle(tab, pane, 0.1 * column, 0.3 * row), modifiers=shift)
        which = "second" if shift else "cursor"
        code = f"dfxm.curves.{which}?.at === '{row},{row + 1},{column},{column + 1}' && dfxm.curves.{which}.counts"
        got = tab.wait(code)
        z = tab.js("dfxm.state.index.z")
        np.testing.assert_array_equal(got, counts[z, :, row, column])
    assert tab.js("document.querySelector('#curve .plot').dataset.points") == "7"


def test_curve__click_on_it_moves_the_frame(page: Show, rocked: Path) -> None:
    tab = page(rocked)
    tab.wait("Boolean(document.querySelector('#curve .u-over'))")
    box = tab.js("(() => { const b = document.querySelector('#curve .u-over').getBoundingClientRect(); "
                 "return [b.left, b.top, b.width, b.height] })()")  # fmt: skip
    tab.mouse("mouseMoved", box[0] + box[2] * 0.98, box[1] + 20)
    tab.click(box[0] + box[2] * 0.98, box[1] + 20)
    tab.wait("dfxm.state.index.phi === 6")


def test_wheel__keeps_the_place_under_the_pointer_and_the_aspect(page: Show, rocked: Path) -> None:
    tab = page(rocked)
    place = tuple(map(round, middle(tab, "frame", 5.0, 10.0)))
    at = tab.js(f"dfxm.frame.toPlace({{clientX: {place[0]}, clientY: {place[1]}}})")
    before = tab.js("dfxm.frame.view().zoom")
    for _ in range(3):
        tab.mouse("mouseWheel", *place, deltaX=0, deltaY=-100, button="none")
    tab.wait(f"dfxm.frame.view().zoom > 1.5 * {before} && {SHOWN}")
    np.testing.assert_allclose(middle(tab, "frame", at["x"], at["y"]), place, atol=1e-6)
    a, b, c = (tab.js(f"dfxm.frame.toScreen({{x: {x}, y: {y}}})") for x, y in ((1, 1), (2, 1), (1, 2)))
    assert b[0] - a[0] == pytest.approx(c[1] - a[1])  # one scale in um
    assert tab.js("dfxm.map.view().zoom") == tab.js("dfxm.frame.view().zoom")
    for _ in range(9):
        tab.mouse("mouseWheel", *place, deltaX=0, deltaY=100, button="none")
    tab.wait("dfxm.state.zoom === 0")


def test_drag__moves_both_images(page: Show, rocked: Path) -> None:
    tab = page(rocked, at="&cx=10&cy=20&k=40")
    start, zoom = middle(tab, "frame", 10.0, 20.0), 40
    tab.drag(start, (start[0] + 80, start[1] - 40))
    tab.wait(f"Math.abs(dfxm.state.centre.x - {10 - 80 / zoom}) < 1e-6 && {SHOWN}")
    assert tab.js("dfxm.state.centre.y") == pytest.approx(20 + 40 / zoom)
    assert tab.js("dfxm.frame.got.box") == tab.js("dfxm.map.got.box")


def test_keys__move_zoom_and_play(page: Show, rocked: Path) -> None:
    tab = page(rocked, at="&phi=0.29&z=-7700")
    begun = tab.js("dfxm.state.index")
    tab.key("ArrowRight")
    tab.key("ArrowRight")
    tab.key("ArrowLeft")
    tab.wait(f"dfxm.state.index.phi === {begun['phi'] + 1}")
    tab.key("ArrowUp")
    tab.wait(f"dfxm.state.index.z === {begun['z'] + 1}")
    tab.key("1")
    tab.wait("dfxm.state.zoom === 10")
    tab.key("+")
    tab.wait("dfxm.state.zoom > 14")
    tab.key("0")
    tab.wait("dfxm.state.zoom === 0")
    tab.key(" ")
    tab.wait("dfxm.state.index.phi === 5")
    tab.key(" ")
    tab.key("?")
    tab.wait("document.getElementById('keys').open")


def test_fields__take_values_of_the_scan(page: Show, rocked: Path) -> None:
    tab = page(rocked)
    tab.js("(() => { const f = document.getElementById('value-phi'); f.value = '0.2951'; f.onchange(); })()")
    tab.wait(f"dfxm.state.index.phi === 5 && {SHOWN}")


@pytest.mark.parametrize("size", [(1280, 720), (2560, 1340), (900, 600)])
def test_sizes__nothing_overlaps_and_everything_is_in_the_window(
    page: Show, rocked: Path, size: tuple[int, int]
) -> None:
    tab = page(rocked, size=size)
    boxes = tab.js("[...document.querySelectorAll('.pane')].map(p => p.getBoundingClientRect()).map(b => "
                   "[b.left, b.top, b.right, b.bottom])")  # fmt: skip
    assert len(boxes) == 5
    for k, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert top >= 0
        assert right <= size[0] + 0.5
        assert bottom <= size[1] + 0.5
        assert min(right - left, bottom - top) > 120
        for other in boxes[k + 1 :]:
            assert min(right, other[2]) - max(left, other[0]) <= 0 or min(bottom, other[3]) - max(top, other[1]) <= 0
    assert tab.js("document.documentElement.scrollWidth") == size[0]


def test_resize__draws_again_for_the_new_size(page: Show, rocked: Path) -> None:
    tab = page(rocked)
    tab.call("Emulation.setDeviceMetricsOverride", width=1600, height=900, deviceScaleFactor=2, mobile=False)
    tab.wait(f"dfxm.frame.picture.width > 1500 && {SHOWN}")
    drawn = canvas(tab, "frame")
    assert (drawn[drawn.shape[0] // 2, drawn.shape[1] // 2] > 0).any()


def test_contrast__needs_no_request(page: Show, rocked: Path) -> None:
    tab = page(rocked)
    tab.wait("dfxm.early !== true && !dfxm.frame.early")
    before = tab.js("performance.getEntriesByType('resource').filter(e => /image|curve/.test(e.name)).length")
    drawn = canvas(tab, "frame")
    tab.js("(() => { const f = dfxm.frame; f.find('.low').value = '90'; f.find('.high').value = '110'; f.typed(); })()")
    assert (canvas(tab, "frame") != drawn).any()
    assert tab.js("performance.getEntriesByType('resource').filter(e => /image|curve/.test(e.name)).length") == before


def test_address__a_reload_shows_the_same(page: Show, rocked: Path, served: Callable[..., Served]) -> None:
    tab = page(
        rocked, at="&z=0.001&phi=0.293&x=4&y=12&x2=9&y2=30&cx=8&cy=20&k=25&var=rocking/label&outline=rocking/inside"
    )
    tab.key("ArrowRight")
    tab.wait("location.hash.includes('phi=') && !location.hash.includes('token') && location.hash.includes('k=25')")
    index = tab.js("dfxm.state.index")
    address = tab.wait(f"location.hash.includes(dfxm.S.address()) && {SHOWN} && location.href")
    drawn = canvas(tab, "frame"), canvas(tab, "map")
    tab.call("Page.reload")
    tab.wait(
        f"window.dfxm?.state.catalogue && dfxm.state.index.phi === {index['phi']} && {SHOWN} "
        "&& dfxm.frame.got.step === 1"
    )
    assert tab.js("location.href") == address
    assert tab.js("[dfxm.state.variable, dfxm.state.outline, dfxm.state.zoom]") == [
        "rocking/label",
        "rocking/inside",
        25,
    ]
    tab.wait("dfxm.frame.options.limits()")
    for before, pane in zip(drawn, ("frame", "map"), strict=True):
        np.testing.assert_array_equal(canvas(tab, pane), before)


def test_address__another_one_in_the_same_tab_is_followed(page: Show, rocked: Path) -> None:
    tab = page(rocked)
    tab.js("location.hash = '#z=0&phi=0.2961&x=3&y=3&var=rocking/flags'")
    tab.wait(f"dfxm.state.index.phi === 6 && dfxm.state.variable === 'rocking/flags' && {SHOWN}")
    assert tab.js("document.querySelector('#map .variable').value") == "rocking/flags"


@pytest.mark.parametrize("name", ["com_phi", "label"])
def test_python__that_the_page_copies_gives_the_same_arrays(page: Show, rocked: Path, name: str) -> None:
    tab = page(rocked, at=f"&phi=0.294&cx=10.5&cy=22.5&k=10&var=rocking/{name}")
    tab.wait(f"{SHOWN} && dfxm.map.got.step === 1 && dfxm.frame.got.step === 1")
    given: dict[str, np.ndarray] = {}
    exec(tab.js("dfxm.python()"), given)
    for word, pane in (("frame", "frame"), ("image", "map")):
        y0, y1, x0, x1 = tab.js(f"dfxm.{pane}.got.box")
        shown = np.array(tab.js(f"Array.from(dfxm.{pane}.got.values, v => Number.isNaN(v) ? null : v)"), float)
        np.testing.assert_array_equal(np.asarray(given[word], float)[y0:y1, x0:x1].ravel(), shown)


def test_outline__follows_the_mask(page: Show, rocked: Path) -> None:
    tab = page(rocked, at="&outline=rocking/inside&cx=10&cy=21&k=12")
    tab.wait(f"{SHOWN}")
    code = """(() => { const c = dfxm.frame.marks, d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
      const found = []; for (let k = 0; k < d.length; k += 4)
        if (d[k] > 200 && d[k + 1] > 130 && d[k + 1] < 190 && d[k + 2] < 60 && d[k + 3] > 200) found.push(k / 4);
      return found.length > 50 && [c.width, found] })()"""
    width, places = tab.wait(code)
    rows, columns = np.divmod(np.array(places), width)
    middle_x, middle_y = tab.js("dfxm.frame.toScreen({x: 10, y: 21})")
    away = np.hypot((columns - middle_x) / 1.2, (rows - middle_y) / 3.6)  # pixels of the detector
    assert 47 < away.min()
    assert away.max() < 53


def test_section__is_the_store(page: Show, rocked: Path) -> None:
    tab, counts = page(rocked, at="&x=5&y=12"), counts_of(rocked)
    tab.wait("dfxm.sections.zx.got?.values")
    got = np.array(tab.js("Array.from(dfxm.sections.zx.got.values)")).reshape(3, -1)
    np.testing.assert_array_equal(got, counts[:, tab.js("dfxm.state.index.phi"), 40])
    tab.js("document.querySelector('[data-tab=sx]').click()")
    got = np.array(tab.js("1") and tab.wait("dfxm.sections.sx.got?.values && Array.from(dfxm.sections.sx.got.values)"))
    np.testing.assert_array_equal(got.reshape(7, -1), counts[tab.js("dfxm.state.index.z"), :, 40])


def test_navigator__is_the_mean_of_every_frame(page: Show, rocked: Path) -> None:
    tab, counts = page(rocked), counts_of(rocked)
    got = np.array(tab.wait("dfxm.navigator_.mean && Array.from(dfxm.navigator_.mean)")).reshape(3, 7)
    np.testing.assert_allclose(got, counts.mean((2, 3)), rtol=1e-6)
    box = tab.js("(() => { const b = document.querySelector('#navigator .marks').getBoundingClientRect(); "
                 "return [b.left, b.top, b.width, b.height] })()")  # fmt: skip
    tab.click(box[0] + box[2] - 9, box[1] + 8)
    tab.wait("dfxm.state.index.z === 0 && dfxm.state.index.phi === 6")


def test_ten_pages_at_once(page: Show, rocked: Path, served: Callable[..., Served]) -> None:
    url = served(rocked).url
    tabs = [page(url=url, at=f"&phi={0.29 + 0.001 * (k % 7):.3f}", ready=False) for k in range(10)]
    for k, tab in enumerate(tabs):
        tab.wait(f"window.dfxm?.state.catalogue && {SHOWN}", 60)
        assert tab.js("dfxm.state.index.phi") == k % 7


def test_slow_link__moves_by_jpeg_and_rests_on_values(page: Show, rocked: Path) -> None:
    tab, counts = page(rocked, at="&phi=0.29&z=-7700&cx=10&cy=20&k=40"), counts_of(rocked)
    raw_contrast(tab)
    tab.js("dfxm.link.slow = true; dfxm.link.fixed = true")
    tab.key("ArrowRight")
    tab.wait("performance.getEntriesByType('resource').some(e => /phi:1.*form=jpeg/.test(e.name))")
    tab.wait(f"{SHOWN} && !dfxm.frame.got.bitmap && dfxm.frame.got.step === 1")
    assert grey_at(tab, 66, 100)[0] == counts[0, 1, 66, 100]
