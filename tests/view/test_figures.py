"""Figures: a file for what there is, nothing outside the page, nothing on top of anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.errors import InputError
from dfxm_dask.view.figures import maps as module
from dfxm_dask.view.figures.curves import draw_curves, telling_pixels
from dfxm_dask.view.figures.layer_maps import flag_panel, layer_panels, single
from dfxm_dask.view.figures.maps import UNSOUND, Panel, finer_units, labelled, pixel_grid, robust_limits
from dfxm_dask.view.figures.overview import overview
from dfxm_dask.view.pictures import figures

Scan = Callable[..., xr.DataTree]
PNG = b"\x89PNG\r\n\x1a\n"


def test_figures__are_written_for_what_there_is(reduced_scan: Scan, tmp_path: Path) -> None:
    written = list(figures(reduced_scan(), tmp_path / "new" / "folder").values())
    assert [path.name for path in written] == [
        "total.png",
        "com_phi.png",
        "std_phi.png",
        "kam.png",
        "flags.png",
        "curves.png",
        "frames.png",
        "overview.png",
    ]
    assert all(path.read_bytes()[:8] == PNG for path in written)


def test_figures__of_two_axes_have_a_mosaicity_map_with_its_key(reduced_scan: Scan, tmp_path: Path) -> None:
    tree = reduced_scan(axes=("chi", "phi"), ny=20, nx=30)
    names = ["total", "com_chi", "com_phi", "flags"]
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[names])
    assert list(figures(tree, tmp_path)) == [*names, "mosaicity", "curves", "frames", "overview"]


def test_figures__leave_no_trace_in_pyplot(reduced_scan: Scan, tmp_path: Path) -> None:
    import sys

    sys.modules.pop("matplotlib.pyplot", None)
    tree = reduced_scan()
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["total"]])
    figures(tree, tmp_path)
    assert "matplotlib.pyplot" not in sys.modules


def test_figures__name_the_layer_of_a_stack(reduced_scan: Scan, tmp_path: Path) -> None:
    tree = reduced_scan(layers=2, ny=20, nx=30)
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["total"]])
    assert {path.name for path in figures(tree, tmp_path).values()} == {
        "total_layer1.png",
        "curves_layer1.png",
        "frames_layer1.png",
        "overview_layer1.png",
    }
    assert (tmp_path / "total_layer1.png").exists()
    with pytest.raises(InputError, match="layer 2: the scan has 2, numbered from 0; choose 0 to 1"):
        figures(tree, tmp_path, layer=2)


@pytest.mark.parametrize(("ny", "nx"), [(1, 40), (40, 1), (3, 300), (300, 3), (50, 60)])
def test_figures__have_all_text_on_the_page_and_apart(reduced_scan: Scan, ny: int, nx: int) -> None:
    tree = reduced_scan(ny=50, nx=60)
    raw, maps = tree["raw"].dataset.isel(z=0), tree["rocking"].dataset.isel(z=0)
    grid = pixel_grid(np.arange(ny) * 0.2, np.arange(nx) * 0.06, "um")
    panels = layer_panels(maps)
    pages: list[Any] = [overview(panels, grid, "heading $x"), *(single(panel, grid, "heading") for panel in panels)]
    pages.append(draw_curves(raw, maps, tree["frames"].dataset.isel(z=0), grid, "heading"))
    for page in pages:
        check_page(page)


def check_page(page: Any) -> None:
    """Every text lies on the page, and no two texts overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(page)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = []
    for text in page_texts(page):
        box = text.get_window_extent(renderer)
        if text.get_text().strip() and box.width and box.height:
            boxes.append((text.get_text(), box))
    width, height = page.bbox.width, page.bbox.height
    for text in page_texts(page):
        # 7 points on a page that is shown 17 cm wide.
        if text.get_text().strip() and page.get_figwidth() > 4:
            assert text.get_fontsize() * 6.69 / page.get_figwidth() > 6.99, text.get_text()
    for words, box in boxes:
        assert box.x0 >= -1, words
        assert box.y0 >= -1, words
        assert box.x1 <= width + 1, words
        assert box.y1 <= height + 1, words
    for index, (words, box) in enumerate(boxes):
        for other, second in boxes[index + 1 :]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            up = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert across < 1 or up < 1, (words, other)


def page_texts(page: Any) -> list[Any]:
    """Texts that are drawn; matplotlib also keeps labels of ticks beyond the ends of an axis."""
    found = list(page.texts)
    for axes in page.axes:
        legend = axes.get_legend()
        found += legend.get_texts() if legend else []
        if axes.axison:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label]
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                labels = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
                found += [label for place, label in labels if low <= place <= high]
    return found


def test_centre_of_mass__is_shown_about_its_median(reduced_scan: Scan) -> None:
    maps = reduced_scan()["rocking"].dataset.isel(z=0)
    (panel,) = (found for found in layer_panels(maps) if found.name == "com_phi")
    assert panel.label.startswith("phi relative to 0.30")
    assert panel.label.endswith("° (mdeg)")
    bits = dict(zip(maps.flags.attrs["flag_meanings"].split(), maps.flags.attrs["flag_masks"], strict=True))
    sound = maps.flags.values.astype(int) & sum(bits.get(name, 0) for name in UNSOUND) == 0
    assert abs(np.nanmedian(panel.image[sound])) < 1e-9
    assert -40 < panel.limits[0] < 0 < panel.limits[1] < 40


def test_flag_panel__shows_the_worst() -> None:
    flags = xr.DataArray(
        np.array([[0, 1, 3, 2, 24]], np.uint8),
        dims=("y", "x"),
        attrs={"flag_masks": [1, 2, 4, 8, 16], "flag_meanings": "unlit truncated saturated hot multimodal"},
    )
    panel = flag_panel(flags)
    assert [panel.categories[int(value)][0] for value in panel.image[0]] == [
        "sound",
        "unlit",
        "unlit",
        "truncated",
        "hot",
    ]


def test_telling_pixels__are_of_three_kinds() -> None:
    attrs = {"flag_masks": [1, 2], "flag_meanings": "unlit truncated"}
    total = np.array([[1.0, 5.0, 9.0], [8.0, 20.0, np.nan]])
    flags = np.array([[1, 0, 0], [0, 2, 0]])
    maps = xr.Dataset({"total": (("y", "x"), total), "flags": (("y", "x"), flags, attrs)})
    assert telling_pixels(maps) == {"brightest": (0, 2), "median": (1, 0), "brightest truncated": (1, 1)}
    dark = xr.Dataset({"total": (("y", "x"), np.full((2, 2), np.nan))})
    assert telling_pixels(dark) == {}


def test_draw_curves__of_a_dark_layer_is_none(reduced_scan: Scan) -> None:
    tree = reduced_scan(ny=10, nx=10)
    maps = tree["rocking"].dataset.isel(z=0)
    grid = pixel_grid(np.arange(10.0), np.arange(10.0), "um")
    raw = tree["raw"].dataset.isel(z=0)
    assert draw_curves(raw, maps.drop_vars("total"), None, grid, "") is None
    assert draw_curves(raw, maps.assign(total=maps["total"] * np.nan), None, grid, "") is None


def test_panels__of_nothing_but_nan_can_be_drawn() -> None:
    grid = pixel_grid(np.arange(4.0), np.arange(5.0), "pixel")
    nothing = np.full((4, 5), np.nan)
    for image in (nothing, np.full((4, 5, 3), np.nan)):
        check_page(single(Panel("a", "a", image, "b", limits=robust_limits(image)), grid, "heading"))


def test_robust_limits__are_apart() -> None:
    assert robust_limits(np.array([np.nan])) == (0.0, 1.0)
    assert robust_limits(np.zeros(5)) == (-0.5, 0.5)
    low, high = robust_limits(np.full(5, 1e6))
    assert low < 1e6 < high
    assert robust_limits(np.arange(101.0)) == (1.0, 99.0)


def test_pixel_grid__has_edges_half_a_pixel_out() -> None:
    grid = pixel_grid(np.array([0.0, 2.0]), np.array([1.0, 2.0, 3.0]), "um")
    assert (grid.left, grid.right, grid.top, grid.bottom) == (0.5, 3.5, -1.0, 3.0)
    assert grid.ratio == pytest.approx(4 / 3)
    assert pixel_grid(np.array([7.0]), np.array([1.0, 2.0]), "um").ratio == pytest.approx(0.5)


def test_units__are_printed_as_people_write_them() -> None:
    assert labelled("x", "um") == "x (µm)"
    assert labelled("skewness", "1") == "skewness"
    assert finer_units(0.01, "degree") == (1e3, "mdeg")
    assert finer_units(2.0, "degree") == (1.0, "degree")
    assert finer_units(0.01, "um") == (1.0, "um")
    assert finer_units(6e5, "count") == (1e-3, "kilocount")
    assert labelled("above background", "kilocount") == "above background (1000 counts)"
    assert module.symbol("degree") == "°"
