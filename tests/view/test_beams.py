"""The page of the beams: what is drawn of a layer, what is not drawn and said instead, and that it can be read."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgba

from dfxm_dask.beams.weak_beam_verdict import reasons
from dfxm_dask.schema import ROTATION, SPACE
from dfxm_dask.view.beams.page import DEFECT, STILL, draw_beams, evidence_words, map_panels, near_words
from dfxm_dask.view.beams.patches import beam_colours, shares, shown_frames
from dfxm_dask.view.figures.frames import LABELS
from dfxm_dask.view.figures.layout import wrapped
from dfxm_dask.view.figures.maps import NO_VALUE
from dfxm_dask.view.pictures import figures
from tests.view.test_figures import check_page
from tests.view.test_frames import CURVE, raw_scan, with_truth

NUMBERS = {
    "weak_of_lit": 0.42,
    "tail": 0.013,
    "scatter": 0.07,
    "cut_off": 0.03,
    "width_steps": 2.6,
    "mask_strength": 5.5,
}


def beams_scan(ny: int = 100, nx: int = 150, *, layers: int = 1, curve: np.ndarray = CURVE, **changed: Any) -> Any:
    """Ramps of light with a group of beams: unlit above row 16, defects in rows 40 to 59 of columns 70 to 79.

    P(weak) of frame k is 1 − 0.1 (k + 1), half of that in the last column of patches, NaN in the first patch.
    """
    tree = with_truth(raw_scan(curve, ("phi", "chi")[: curve.ndim], ny, nx, layers))
    lit = (np.arange(ny) >= 16)[:, None] & np.ones(nx, bool) if ny > 16 else np.ones((ny, nx), bool)
    weak = np.where(lit, np.arange(ny)[:, None] + 0.01 * np.arange(nx), np.nan)
    mask = np.zeros((ny, nx), bool)
    mask[40:60, 70:80] = True
    frames = 1 - 0.1 * (np.arange(curve.size).reshape(curve.shape) % 9 + 1)
    p_weak = frames[..., None, None] * np.ones((-(-ny // 64), -(-nx // 64)))
    p_weak[..., -1] /= 2
    p_weak[..., 0, 0] = np.nan
    space: dict[str, tuple[np.ndarray, str]] = {
        "lit": (lit, "1"),
        "weak": (weak, "count"),
        "strong": (10 * weak, "count"),
        "weak_enhanced": (weak - 50, "1"),
        "defects": (mask, "1"),
    }
    group: dict[str, Any] = {
        name: (("z", "y", "x"), np.stack([values] * layers), {"units": units})
        for name, (values, units) in space.items()
    }
    group["p_weak"] = (("z", *("phi", "chi")[: curve.ndim], "patch_y", "patch_x"), np.stack([p_weak] * layers))
    for name, value in {"has_weak_beam": True, "has_defects": True, **NUMBERS, **changed}.items():
        group[name] = (("z",), np.array([value] * layers))
    tree["beams"] = xr.DataTree(xr.Dataset(group))
    return tree


def drawn(tree: xr.DataTree, layer: int = 0) -> Any:
    figure = draw_beams(tree, layer, "heading $x")
    assert figure is not None
    return figure


def page(tree: xr.DataTree) -> Any:
    """A figure that can be read."""
    figure = drawn(tree)
    check_page(figure)
    return figure


@cache
def whole() -> tuple[xr.DataTree, Any]:
    """A scan with all that a page shows, and its page; neither is to be changed."""
    tree = beams_scan()
    return tree, page(tree)


def maps(figure: Any) -> dict[str, Any]:
    """Axes with an image, by the first line of their title."""
    return {axes.get_title().partition("\n")[0]: axes for axes in figure.axes if axes.images}


def words(figure: Any) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def without(tree: xr.DataTree, *names: str) -> xr.DataTree:
    tree["beams"] = xr.DataTree(tree["beams"].to_dataset().drop_vars(names))
    return tree


def test_draw_beams__shows_what_the_store_holds() -> None:
    tree, figure = whole()
    shown = maps(figure)
    assert list(shown) == [
        "weak beam (WB)",
        "strong beam (SB)",
        "weak beam, enhanced",
        "mask above the noise, on the weak beam",
        "mask, with the true lines",
        "(a) patches over the peak frame",
        "(b) patches over the most divided frame",
    ]
    found = tree["beams"].dataset.isel(z=0)
    for title, name in zip(list(shown)[:4], ("weak", "strong", "weak_enhanced", "weak"), strict=True):
        image = np.ma.filled(shown[title].images[0].get_array(), np.nan)
        np.testing.assert_array_equal(image, found[name])
        assert shown[title].images[0].get_extent() == pytest.approx((-0.06, 17.94, 3.98, -0.02))
        assert shown[title].images[0].cmap.get_bad() == pytest.approx(to_rgba(NO_VALUE))
    values = np.asarray(found["weak"])
    limits = np.percentile(values[np.isfinite(values)], [1, 99])
    assert shown["weak beam (WB)"].images[0].get_clim() == pytest.approx(limits)


def test_draw_beams__of_another_layer_shows_that_layer() -> None:
    tree = beams_scan(layers=2)
    group = tree["beams"].to_dataset()
    group["weak"][1] *= 3
    group["has_weak_beam"][0] = False
    tree["beams"] = xr.DataTree(group)
    assert "weak beam (WB)" not in maps(drawn(tree, 0))
    image = maps(drawn(tree, 1))["weak beam (WB)"].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(image, np.nan), group["weak"][1])


@pytest.mark.parametrize(("units", "label"), [("um", "x (µm)"), ("pixel", "x (px)")])
def test_draw_beams__has_axes_in_the_unit_of_the_store(units: str, label: str) -> None:
    tree = beams_scan()
    for group in ("beams", "raw", "truth"):
        data = tree[group].to_dataset()
        for name in "yx":
            data[name].attrs["units"] = units
        tree[group] = xr.DataTree(data)
    for axes in maps(drawn(tree)).values():
        assert axes.get_xlabel() == label
        assert axes.get_ylabel() == label.replace("x", "y", 1)
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3


def test_draw_beams__colour_bars_have_units() -> None:
    labels = [" ".join(axes.get_xlabel().split()) for axes in whole()[1].axes]
    assert labels.count("mean of a frame, above background (counts)") == 2
    assert labels.count("above surroundings (standard deviations of the noise)") == 1
    assert labels.count("P(weak beam); grey: not lit") == 2
    assert labels.count("phi (°)") == 1


def test_map_panels__name_the_published_contrast() -> None:
    found = beams_scan()["beams"].dataset.isel(z=0)
    told = found.assign_attrs(provenance={"enhance_beams": {"parameters": {"legacy": True}}})
    assert map_panels(told)[2].label == "published contrast, 0 to 1"


def test_draw_beams__without_a_weak_beam_says_so_and_draws_none() -> None:
    tree = beams_scan(has_weak_beam=False, has_defects=False, scatter=0.31)
    figure = page(tree)
    assert list(maps(figure)) == ["where the sample diffracts", "strong beam (SB)"]
    said = words(figure)
    assert "This layer has no weak beam: its weak-beam maps would mislead and are not drawn." in said
    assert "peaks scatter by 0.310 half widths about their surroundings" in said
    for sentence in reasons(0.42, 0.013, 0.31, 0.03, 2.6, 5.5):
        assert sentence in said
    lit = maps(figure)["where the sample diffracts"]
    np.testing.assert_array_equal(lit.images[0].get_array(), tree["beams"].dataset["lit"][0])
    legend = [text.get_text() for axes in figure.axes if (key := axes.get_legend()) for text in key.get_texts()]
    assert legend == ["unlit 16 %", "lit 84 %"]
    # Images of a layer without weak beam are NaN; only the words are left where nothing else was written.
    alone = page(without(tree, "lit", "strong", "weak", "weak_enhanced", "defects", "p_weak"))
    assert maps(alone) == {}
    assert "no weak beam" in words(alone)


def test_evidence_words__say_the_verdict() -> None:
    found = beams_scan()["beams"].dataset.isel(z=0)
    assert evidence_words(found) == (
        "This layer has a weak beam that shows defects.",
        reasons(*NUMBERS.values()),
    )
    for name in ("has_defects", "mask_strength"):  # stores of an earlier version judged before there was a mask
        assert evidence_words(found.drop_vars(name))[0] == "This layer has a weak beam."
    assert "nothing exceeds its noise" in evidence_words(found.assign(has_defects=False))[0]
    unchecked, why = evidence_words(found.drop_vars(["has_weak_beam", "tail"]))
    assert unchecked == "This layer has not been tested for a weak beam."
    assert why == ()
    dark = found.assign(has_weak_beam=False, **dict.fromkeys(NUMBERS, np.nan))
    assert evidence_words(dark)[1] == ("nothing is lit",)


def test_draw_beams__colours_the_mask_and_nothing_else() -> None:
    tree, figure = whole()
    shown = maps(figure)
    mask = np.asarray(tree["beams"].dataset["defects"][0])
    for title in ("mask above the noise, on the weak beam", "mask, with the true lines"):
        over = np.asarray(shown[title].images[1].get_array())
        np.testing.assert_array_equal(over[..., 3] > 0, mask)
        np.testing.assert_allclose(over[mask][:, :3], np.tile(to_rgba(DEFECT)[:3], (200, 1)))
        assert shown[title].images[1].get_extent() == shown[title].images[0].get_extent()


def test_draw_beams__colours_apart_what_does_not_rotate_the_lattice() -> None:
    tree = beams_scan()
    beams = tree["beams"].dataset
    mask = np.asarray(beams["defects"][0])
    kind = np.where(mask, np.where(np.cumsum(mask).reshape(mask.shape) > 50, 1, 2), 0).astype(np.uint8)
    tree["beams"] = xr.DataTree(beams.assign(defects_rotation=(SPACE, kind[None], ROTATION.attrs)))
    figure = draw_beams(tree, 0)
    over = np.asarray(maps(figure)["mask above the noise, on the weak beam"].images[1].get_array())
    np.testing.assert_allclose(over[kind == 1][:, :3], np.tile(to_rgba(DEFECT)[:3], (150, 1)))
    np.testing.assert_allclose(over[kind == 2][:, :3], np.tile(to_rgba(STILL)[:3], (50, 1)))
    legend = [t.get_text() for axes in figure.axes if axes.get_legend() for t in axes.get_legend().get_texts()]
    assert legend.count("25 % of the mask: lattice without rotation") == 2


def test_draw_beams__outlines_the_true_lines_and_counts_what_lies_at_them() -> None:
    tree, figure = whole()
    (outline,) = maps(figure)["mask, with the true lines"].collections
    points = np.concatenate([path.vertices for path in outline.get_paths()])
    np.testing.assert_allclose(np.hypot(points[:, 0] - 9, points[:, 1] - 2), 0.5, atol=0.02)
    y, x = np.asarray(tree["y"]), np.asarray(tree["x"])
    counts = np.zeros((2, 2))  # of the mask, of the lit pixels: all, and near
    for row, column in np.ndindex(100, 150):
        near = np.hypot(y[row] - 2, x[column] - 9) < 0.5
        if row >= 16:
            counts[1] += 1, near
            if 40 <= row < 60 and 70 <= column < 80:
                counts[0] += 1, near
    part, chance = (f"{100 * near / every:.3g} %" for every, near in counts)
    assert 5 < 100 * counts[0, 1] / counts[0, 0] < 100
    legend = [text.get_text() for axes in figure.axes if (key := axes.get_legend()) for text in key.get_texts()]
    assert f"0.5 µm from a dislocation, enclosing\n{part} of the mask, {chance} of the lit pixels" in legend
    assert legend.count(f"above the noise: {100 * 200 / (84 * 150):.3g} % of the lit pixels") == 2


def test_near_words__of_no_line_and_of_no_mask() -> None:
    near, lit = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    assert near_words(near, lit, lit) == "no dislocation in this layer"
    near[0] = True
    assert near_words(near, lit & False, lit).startswith("0.5 µm from a dislocation, enclosing\nnone of the mask")


def test_draw_beams__without_a_line_nearby_draws_no_outline() -> None:
    tree = beams_scan()
    for value in (3.0, np.nan):
        truth = tree["truth"].to_dataset()
        tree["truth"] = xr.DataTree(truth.assign(distance=truth["distance"] * 0 + value))
        assert not maps(drawn(tree))["mask, with the true lines"].collections


def test_draw_beams__colours_every_patch_by_its_probability() -> None:
    tree, figure = whole()
    axes = maps(figure)["(b) patches over the most divided frame"]
    (squares,) = axes.collections
    found = np.asarray(tree["beams"].dataset["p_weak"][0, 3])
    assert axes.get_title().endswith("\nphi = −0.002°")
    for k, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        middle = squares.get_paths()[k].get_extents()
        rows, columns = (64 * row, min(64 * row + 64, 100)), (64 * column, min(64 * column + 64, 150))
        centre = 0.12 * (sum(columns) - 1) / 2, 0.04 * (sum(rows) - 1) / 2
        assert ((middle.x0 + middle.x1) / 2, (middle.y0 + middle.y1) / 2) == pytest.approx(centre)
        colour = to_rgba(NO_VALUE) if (row, column) == (0, 0) else beam_colours()(float(found[row, column]))
        assert tuple(squares.get_edgecolors()[k]) == pytest.approx(colour)
    named = dict(LABELS)
    ends = [tuple(beam_colours()(value)) for value in (0.0, 1.0)]
    assert ends == [pytest.approx(to_rgba(named["strong"])), pytest.approx(to_rgba(named["weak"]))]


def test_shown_frames__has_the_most_divided_between_peak_and_tail() -> None:
    telling: dict[str, tuple[int, ...]] = {"peak": (5,), "flank": (3,), "tail": (1,)}
    means = xr.DataArray([1.0, 0.9, 0.61, 0.8, 0.02, 0.0, 0.3], dims="phi")
    p_weak = means.expand_dims({"patch_y": 2, "patch_x": 3}).transpose("phi", ...).copy()
    assert shown_frames(telling, p_weak) == {"peak": (5,), "most divided": (2,), "tail": (1,)}
    # Frame 6 becomes 1/2 on average over the one patch that is lit in it.
    p_weak[6] = np.nan
    p_weak[6, 1, 2] = 0.5
    assert shown_frames(telling, p_weak)["most divided"] == (6,)
    assert shown_frames(telling, p_weak * np.nan) == telling
    assert shown_frames({"peak": (0,)}, p_weak[:1]) == {"peak": (0,)}


def test_shares__are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(4)
    values = rng.uniform(0, 1, (3, 7, 4, 5))
    values[rng.uniform(size=values.shape) < 0.3] = np.nan
    values[:, 2] = np.nan
    p_weak = xr.DataArray(values, dims=("chi", "phi", "patch_y", "patch_x"))
    weak, mean = shares(p_weak, "phi")
    for k in range(7):
        known = [float(v) for v in values[:, k].ravel() if np.isfinite(v)]
        if k == 2:
            assert np.isnan([weak[k], mean[k]]).all()
            continue
        assert weak[k] == pytest.approx(100 * sum(v > 0.5 for v in known) / len(known))
        assert mean[k] == pytest.approx(100 * sum(known) / len(known))


def test_draw_beams__plots_the_shares_along_phi_with_the_frames_marked() -> None:
    tree, figure = whole()
    (axes,) = (a for a in figure.axes if a.get_title() == "lit patches in the weak beam")
    share, mean, *marks = axes.lines
    level = 1 - 0.1 * np.arange(1, 10)
    np.testing.assert_allclose(share.get_xdata(), tree["phi"])
    # Two of the five lit patches see half of it.
    np.testing.assert_allclose(mean.get_ydata(), 100 * level * (3 + 2 * 0.5) / 5)
    np.testing.assert_allclose(share.get_ydata(), [60 if v > 0.5 + 1e-9 else 0 for v in level])
    phi = np.asarray(tree["phi"])
    assert sorted(mark.get_xdata()[0] for mark in marks) == pytest.approx(sorted(phi[[5, 3]]))
    assert {text.get_text(): text.get_position()[0] for text in axes.texts} == pytest.approx(
        {"(a)": phi[5], "(b)": phi[3]}
    )


def test_draw_beams__of_two_scan_axes() -> None:
    curve = np.outer(CURVE, [0.1, 1.0, 0.2])
    figure = drawn(beams_scan(curve=curve))
    assert maps(figure)["(a) patches over the peak frame"].get_title().endswith("phi = 0.002°, chi = 0°")
    (axes,) = (a for a in figure.axes if a.get_title() == "lit patches in the weak beam")
    assert axes.get_xlabel() == "phi (°)"
    assert axes.lines[0].get_xdata().size == 9


@pytest.mark.parametrize("name", ["lit", "weak", "strong", "weak_enhanced", "defects", "p_weak", "has_weak_beam"])
def test_draw_beams__draws_what_there_is(name: str) -> None:
    every = maps(whole()[1])
    left = maps(drawn(without(beams_scan(), name)))
    lost = {
        "weak": ["weak beam (WB)"],
        "strong": ["strong beam (SB)"],
        "weak_enhanced": ["weak beam, enhanced"],
        "defects": ["mask above the noise, on the weak beam", "mask, with the true lines"],
        "p_weak": [title for title in every if "patches" in title],
    }.get(name, [])
    assert list(left) == [title for title in every if title not in lost]


def test_draw_beams__of_nothing_is_none() -> None:
    tree = beams_scan()
    group = tree["beams"].to_dataset()
    tree["beams"] = xr.DataTree(group[["tail"]])
    assert draw_beams(tree, 0) is None
    del tree["beams"]
    assert draw_beams(tree, 0) is None


def test_draw_beams__of_nothing_lit_can_be_drawn() -> None:
    tree = beams_scan()
    group = tree["beams"].to_dataset()
    for name in ("weak", "strong", "weak_enhanced", "p_weak"):
        group[name] = group[name] * np.nan
    tree["beams"] = xr.DataTree(group.assign(lit=group["lit"] & False, defects=group["defects"] & False))
    figure = page(tree)
    legend = [text.get_text() for axes in figure.axes if (key := axes.get_legend()) for text in key.get_texts()]
    assert legend.count("above the noise: nothing is lit") == 2
    assert "(b) patches over the flank frame" in maps(figure)


@pytest.mark.parametrize(
    ("ny", "nx", "weak"),
    [(1, 40, True), (40, 1, True), (3, 300, True), (300, 3, True), (200, 60, True), (300, 3, False)],
)
def test_draw_beams__of_any_shape_stays_on_the_page(ny: int, nx: int, weak: bool) -> None:
    page(beams_scan(ny, nx, has_weak_beam=weak))


def test_wrapped__keeps_all_words_in_order() -> None:
    lines = wrapped(["one two three four five", "six seven eight"], 1.0, 8.0)
    assert " ".join(" ".join(line for line, _ in lines).split()) == "one two three four five six seven eight"
    assert len(lines) > 2
    assert {weight for line, weight in lines if "six" in line or "eight" in line} == {"normal"}
    assert {weight for line, weight in lines if "one" in line or "five" in line} == {"bold"}


def test_figures__of_a_store_with_beams_have_a_page_for_them(tmp_path: Path) -> None:
    tree = beams_scan(layers=2)
    names = [path.name for path in figures(tree, tmp_path, layer=1).values()]
    assert names == ["beams_layer1.png", "frames_layer1.png"]
    del tree["raw"]
    assert [path.name for path in figures(tree, tmp_path / "alone").values()] == ["beams_layer1.png"]
