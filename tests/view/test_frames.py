"""Frames: which ones are shown, what matplotlib is given of them, and where the truth is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import AsinhNorm, Normalize, to_rgba

from dfxm_dask.errors import InputError
from dfxm_dask.view.figures import frames as module
from dfxm_dask.view.figures.frames import LABELS, draw_frames
from dfxm_dask.view.figures.telling_frames import (
    absent_frames,
    attenuated,
    dark_levels,
    frame_brightness,
    moving_frames,
    patch_means,
    telling_frames,
)
from dfxm_dask.view.pictures import figures
from tests.view.test_figures import check_page

Scan = Callable[..., xr.DataTree]
CURVE = np.array([1.0, 2.0, 4.0, 15.0, 400.0, 2000.0, 700.0, 3.0, 1.5])
"""Light of the frames of the scan below: peak 5; flank 6 (35 %); tail 3 (0.75 %, nearest to 1 %)."""


def raw_scan(
    curve: np.ndarray = CURVE, axes: tuple[str, ...] = ("phi",), ny: int = 100, nx: int = 150, layers: int = 1
) -> xr.DataTree:
    """Frames that are 110 in a dark rim of 16 rows, and elsewhere 110 + light * (1 + column / nx)."""
    light = np.zeros((ny, nx))
    light[16:] = 1 + np.arange(nx) / nx
    counts = np.round(110 + curve[..., None, None] * light).astype(np.uint16)
    coords: dict[str, Any] = {
        "z": ("z", np.arange(layers) * 1.0, {"units": "um"}),
        "y": ("y", np.arange(ny) * 0.04, {"units": "um"}),
        "x": ("x", np.arange(nx) * 0.12, {"units": "um"}),
    }
    for k, (name, n) in enumerate(zip(axes, curve.shape, strict=True)):
        units = "s" if name == "time" else "degree"
        coords[name] = (name, 0.002 * (k + 1) * (np.arange(n) - n // 2), {"units": units, "scan_axis": k})
    raw = xr.Dataset({"counts": (("z", *axes, "y", "x"), np.stack([counts] * layers), {"units": "count"})})
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=coords, attrs={"title": "ramps"}), "/raw": raw})


def with_statistics(tree: xr.DataTree) -> xr.DataTree:
    """The scan with sums and sizes of its 64 px patches, from a plain loop."""
    raw = tree["raw"].to_dataset()
    counts = np.asarray(raw["counts"], np.int64)
    tiles = [
        [counts[..., y : y + 64, x : x + 64] for x in range(0, counts.shape[-1], 64)]
        for y in range(0, counts.shape[-2], 64)
    ]
    dims = (*raw["counts"].dims[:-2], "patch_y", "patch_x")
    total = np.moveaxis(np.array([[t.sum((-2, -1)) for t in row] for row in tiles]), (0, 1), (-2, -1))
    size = np.moveaxis(
        np.array([[np.full(t.shape[:-2], t.shape[-1] * t.shape[-2]) for t in row] for row in tiles]), (0, 1), (-2, -1)
    )
    raw["patch_sum"], raw["patch_n"] = (dims, total.astype(np.uint64)), (dims, size.astype(np.uint16))
    tree["raw"] = xr.DataTree(raw)
    return tree


def with_truth(tree: xr.DataTree) -> xr.DataTree:
    """A line along z through (x, y) = (9, 2) um; the labels of frame k start with k % 4 and go on in reading order."""
    raw = tree["raw"].dataset
    names = [str(d) for d in raw["counts"].dims[1:-2]]
    shape = tuple(raw.sizes[n] for n in names)
    x, y = np.meshgrid(raw["x"], raw["y"])
    start = np.arange(np.prod(shape)).reshape(shape)
    labels = (start[..., None, None] + np.arange(6).reshape(2, 3)) % 4
    layers = raw.sizes["z"]
    truth = {
        "distance": (("z", "y", "x"), np.stack([np.hypot(x - 9, y - 2)] * layers), {"units": "um"}),
        "label": (("z", *names, "patch_y", "patch_x"), np.stack([labels.astype(np.uint8)] * layers)),
    }
    tree["truth"] = xr.DataTree(xr.Dataset(truth))
    return tree


class Watched:
    """An array that notes which parts of it are read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.read: list[Any] = []

    def __getitem__(self, key: Any) -> np.ndarray:
        self.read.append(key)
        return np.asarray(self.values[key])


def images(figure: Any) -> list[Any]:
    """Images of the frames, in order; colour bars left out."""
    return [axes.images[0] for axes in figure.axes if axes.images]


def test_telling_frames__are_peak_flank_and_tail() -> None:
    assert telling_frames(CURVE) == {"peak": (5,), "flank": (6,), "tail": (3,)}
    assert telling_frames(1000 * CURVE) == telling_frames(CURVE)
    assert telling_frames(CURVE[::-1]) == {"peak": (3,), "flank": (2,), "tail": (5,)}


def test_telling_frames__name_no_flank_or_tail_that_the_scan_lacks() -> None:
    """A curve that never falls below 41 % of its peak, as the real rocking scan, and one without a flank."""
    bare = telling_frames(np.array([1000.0, 1500, 2200, 2400, 2000, 990]))
    assert bare == {"peak": (3,), "flank": (5,)}
    assert absent_frames(bare) == ["No frame is below 5 % of the peak: the scan contains no tail."]
    high = telling_frames(np.array([70.0, 100, 80, 65]))
    assert high == {"peak": (1,), "faintest": (3,)}
    assert [said.partition(":")[0] for said in absent_frames(high)] == [
        "No frame has 20 to 60 % of the peak",
        "No frame is below 5 % of the peak",
    ]
    sharp = telling_frames(np.array([0.1, 100.0, 2.0, 0.4]))
    assert sharp == {"peak": (1,), "tail": (2,)}


def test_telling_frames__of_few_or_equal_frames_are_different_frames() -> None:
    for n in range(1, 6):
        for curve in (np.ones(n), np.arange(n) * 1.0, np.zeros(n)):
            chosen = telling_frames(curve)
            assert "peak" in chosen
            assert len(set(chosen.values())) == len(chosen)


def test_telling_frames__of_two_axes_index_both() -> None:
    grid = np.zeros((3, 4))
    grid[1, 2], grid[2, 0], grid[0, 1], grid[0, 3] = 100, 30, 0.02, 1.2
    chosen = telling_frames(grid)
    assert (chosen["peak"], chosen["flank"]) == ((1, 2), (2, 0))
    assert chosen["tail"] == (0, 3)


def test_moving_frames__are_brightest_median_and_faintest() -> None:
    assert moving_frames(np.array([3.0, 9.0, 5.0, 1.0, 4.0])) == {"brightest": (1,), "median": (4,), "faintest": (3,)}
    assert moving_frames(np.array([3.0])) == {"brightest": (0,)}


@pytest.mark.parametrize("axes", [("phi",), ("chi", "phi"), ("two_theta", "chi", "phi")])
def test_frame_brightness__is_the_mean_above_the_faintest_patch(axes: tuple[str, ...]) -> None:
    curve = CURVE[:8].reshape({1: (8,), 2: (2, 4), 3: (2, 2, 2)}[len(axes)])
    tree = raw_scan(curve, axes)
    raw = tree["raw"].dataset.isel(z=0)
    counts = np.asarray(raw["counts"], float)
    patches = [counts[..., y : y + 64, x : x + 64].mean((-2, -1)) for y in (0, 64) for x in (0, 64, 128)]
    wanted = np.mean(patches, axis=0) - np.min(patches)
    assert frame_brightness(raw) == pytest.approx(wanted, rel=1e-12)
    known = with_statistics(tree)["raw"].dataset.isel(z=0)
    np.testing.assert_allclose(patch_means(known), patch_means(raw), rtol=1e-12)
    assert frame_brightness(known) == pytest.approx(wanted, rel=1e-12)


def test_frame_brightness__sees_through_attenuators_but_not_through_drift() -> None:
    gain = np.array([1, 1, 1, 0.5, 0.05, 0.005, 0.01, 1, 1])
    raw = raw_scan(CURVE * gain)["raw"].to_dataset().isel(z=0)
    assert telling_frames(frame_brightness(raw))["peak"] == (4,)
    for monitor, wanted in ((1e6 * gain, 5), (np.where(gain < 0.1, 0.0, 1e6), 4), (np.full(9, np.nan), 4)):
        seen = raw.assign(monitor=("phi", monitor))
        assert attenuated(seen) == (wanted == 5)
        assert telling_frames(frame_brightness(seen))["peak"] == (wanted,)
    drifted = raw_scan()["raw"].to_dataset().isel(z=0).assign(monitor=("phi", np.linspace(1e6, 1.9e6, 9)))
    assert not attenuated(drifted)
    np.testing.assert_array_equal(frame_brightness(drifted), frame_brightness(drifted.drop_vars("monitor")))


def test_dark_levels__are_medians_of_a_dark_rim() -> None:
    rng = np.random.default_rng(3)
    images = rng.normal(110, 8, (3, 320, 400))
    images += np.array([0.0, 5.0, -4.0])[:, None, None]
    images[0, 20:] += 4000
    images[1, 20:] += 60
    images[2, 40, 40] = np.nan
    assert dark_levels(images) == pytest.approx([110, 115, 106], abs=2.5)
    absent = np.full((2, 20, 30), np.nan)
    assert np.isnan(dark_levels(absent)).all()


def test_draw_frames__gives_counts_above_dark_in_micrometres() -> None:
    tree = raw_scan()
    figure = draw_frames(tree, 0, "heading")
    counts = np.asarray(tree["raw"].dataset["counts"][0], np.float32)
    shown = images(figure)
    for image, frame in zip(shown, (5, 6, 3), strict=True):
        np.testing.assert_array_equal(np.asarray(image.get_array()), counts[frame] - 110)
        assert tuple(image.get_extent()) == pytest.approx((-0.06, 17.94, 3.98, -0.02))
        above = counts[frame] - 110
        assert (image.norm.vmin, image.norm.vmax) == pytest.approx(tuple(np.percentile(above, [0.5, 99.8])))
    assert type(shown[0].norm) is type(shown[1].norm) is AsinhNorm
    assert type(shown[2].norm) is Normalize
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == [
        "peak\nphi = 0.002°",
        "flank, 35 % of the peak\nphi = 0.004°",
        "tail, 0.72 % of the peak\nphi = −0.002°",
    ]
    check_page(figure)


@pytest.mark.parametrize("deferred", [False, True])
def test_draw_frames__reads_three_frames_where_patches_are_known(deferred: bool) -> None:
    import dask.array

    tree = raw_scan()
    if not deferred:
        tree = with_statistics(tree)
    raw = tree["raw"].to_dataset()
    watched = Watched(np.asarray(raw["counts"]))
    lazy = dask.array.from_array(watched, chunks=(1, 1, 100, 150), meta=np.empty((0,) * 4, np.uint16))
    raw["counts"] = (raw["counts"].dims, lazy, raw["counts"].attrs)
    tree["raw"] = xr.DataTree(raw)
    figure = draw_frames(tree, 0)
    counts = watched.values[0].astype(np.float32)
    for image, frame in zip(images(figure), (5, 6, 3), strict=True):
        np.testing.assert_array_equal(np.asarray(image.get_array()), counts[frame] - 110)
    frames = [key[1].start for key in watched.read]
    # Without statistics: every frame once for the brightness, then the three.
    assert sorted(frames) == ([3, 5, 6] if not deferred else sorted([*range(9), 3, 5, 6]))


def test_draw_frames__with_truth_outlines_lines_and_colours_patches() -> None:
    tree = with_truth(raw_scan())
    figure = draw_frames(tree, 0)
    check_page(figure)
    (axes,) = (a for a in figure.axes if a.get_title().startswith("truth over the tail frame\nphi = −0.002°"))
    np.testing.assert_array_equal(
        np.asarray(axes.images[0].get_array()), np.asarray(tree["raw"].dataset["counts"][0, 3], np.float32) - 110
    )
    squares, outline = axes.collections
    labels = (3 + np.arange(6)) % 4
    np.testing.assert_allclose(squares.get_edgecolors(), [to_rgba(LABELS[k][1]) for k in labels])
    for path, (row, column) in zip(squares.get_paths(), np.ndindex(2, 3), strict=True):
        rows, columns = (64, 36)[row], (64, 64, 22)[column]
        middle = path.get_extents().get_points().mean(0)
        assert middle == pytest.approx([(column * 64 + columns / 2 - 0.5) * 0.12, (row * 64 + rows / 2 - 0.5) * 0.04])
        assert path.get_extents().width == pytest.approx(0.92 * columns * 0.12)
    (circle,) = (p for p in outline.get_paths() if len(p.vertices))
    distance = np.hypot(*(circle.vertices - [9, 2]).T)
    assert distance == pytest.approx(np.full(distance.shape, 0.3), abs=0.01)
    (legend,) = (a.get_legend() for a in figure.axes if a.get_legend())
    assert [t.get_text() for t in legend.get_texts()] == [
        "unlit 33.3 %",
        "weak 16.7 %",
        "strong 16.7 %",
        "ambiguous 33.3 %",
        "0.3 µm from a dislocation",
    ]


def test_draw_frames__of_a_time_series_mark_where_lines_are() -> None:
    curve = np.array([200.0, 203.0, 201.0, 199.0])
    tree = with_truth(raw_scan(curve, ("time",)))
    truth = tree["truth"].to_dataset().drop_vars("distance")
    place = np.arange(16.0).reshape(4, 2, 2) * 0.2
    tree["truth"] = xr.DataTree(truth.assign(position=(("time", "dislocation", "yx"), place)))
    figure = draw_frames(tree, 0)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert [t.split()[0] for t in titles] == ["brightest", "median", "faintest", "truth"]
    assert titles[0].endswith("\ntime = −0.002 s")
    (axes,) = (a for a in figure.axes if a.get_title().startswith("truth"))
    (dots,) = axes.lines
    np.testing.assert_array_equal(np.column_stack([dots.get_ydata(), dots.get_xdata()]), place[0])
    check_page(figure)


def test_draw_frames__of_three_axes_say_where_they_were_taken() -> None:
    curve = np.zeros((2, 3, 4))
    curve[1, 2, 0], curve[0, 1, 3], curve[0, 0, 2] = 5000, 60, 10
    tree = with_truth(raw_scan(curve, ("two_theta", "chi", "phi")))
    figure = draw_frames(tree, 0)
    titles = [axes.get_title().partition("\n")[2] for axes in figure.axes if axes.images]
    assert titles[0] == "two_theta = 0°, chi = 0.004°, phi = −0.012°"
    assert titles[1] == titles[2] == "two_theta = −0.002°, chi = 0°, phi = 0.006°"
    (axes,) = (a for a in figure.axes if a.get_title().startswith("truth"))
    labels = (int(np.ravel_multi_index((0, 1, 3), (2, 3, 4))) + np.arange(6)) % 4
    np.testing.assert_allclose(axes.collections[0].get_edgecolors(), [to_rgba(LABELS[k][1]) for k in labels])
    check_page(figure)


@pytest.mark.parametrize(("ny", "nx"), [(1, 40), (300, 3), (70, 60)])
def test_draw_frames__of_any_shape_stay_on_the_page(ny: int, nx: int) -> None:
    tree = raw_scan(ny=ny, nx=nx)
    rows, columns = -(-ny // 64), -(-nx // 64)
    label = np.ones((1, CURVE.size, rows, columns), np.uint8)
    distance = np.full((1, ny, nx), 0.2)
    tree["truth"] = xr.DataTree(
        xr.Dataset(
            {
                "label": (("z", "phi", "patch_y", "patch_x"), label),
                "distance": (("z", "y", "x"), distance),
            }
        )
    )
    check_page(draw_frames(tree, 0, "heading"))


def test_draw_frames__without_values_are_grey() -> None:
    tree = raw_scan()
    raw = tree["raw"].to_dataset()
    raw["counts"] = raw["counts"].astype(float) * np.nan
    tree["raw"] = xr.DataTree(raw)
    figure = draw_frames(tree, 0)
    assert all(
        np.isnan(np.asarray(image.get_array(), float).data).all() or np.ma.getmaskarray(image.get_array()).all()
        for image in images(figure)
    )
    check_page(figure)


def test_figures__draw_frames_of_a_store_without_maps(tmp_path: Path) -> None:
    tree = with_truth(with_statistics(raw_scan(layers=2)))
    assert [p.name for p in figures(tree, tmp_path).values()] == ["frames_layer1.png"]
    assert (tmp_path / "frames_layer1.png").read_bytes()[:4] == b"\x89PNG"


def test_figures__draw_frames_beside_maps(reduced_scan: Scan, tmp_path: Path) -> None:
    tree = reduced_scan(ny=20, nx=30)
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["total"]])
    assert list(figures(tree, tmp_path)) == ["total", "curves", "frames", "overview"]
    del tree["raw"]
    assert list(figures(tree, tmp_path)) == ["total", "overview"]


def test_figures__of_neither_maps_nor_counts_are_refused(tmp_path: Path) -> None:
    tree = with_truth(raw_scan())
    del tree["raw"]
    with pytest.raises(InputError, match="the store has neither maps nor raw counts; ingest a scan first"):
        figures(tree, tmp_path)


def test_label_colours__follow_the_truth_of_the_simulator() -> None:
    from dfxm_dask.phantoms.render import MEANINGS

    assert tuple(name for name, _ in module.LABELS) == MEANINGS
