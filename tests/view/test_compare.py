"""Found beside true: known answers on made-up maps, and a simulated scan that is reduced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.view.compare import truth as module
from dfxm_dask.view.compare.distances import boundary_distances
from dfxm_dask.view.compare.truth import compared, scan_step, sound_pixels, truth_rows
from dfxm_dask.view.figures.truth import draw_compare
from dfxm_dask.view.pictures import figures
from tests.view.test_figures import check_page

NY, NX = 60, 160  # 12 by 16 um
MASKS = {"unlit": 1, "truncated": 2, "saturated": 4, "hot": 8, "multimodal": 16}


def scan(*, gain: float = 1.5, offset: float = 1e-4) -> xr.DataTree:
    """A crystal above y = 2 um with a tilt wall at x = 8 um, and maps that are off by a known amount.

    phi0 is 0.001 degree on the left, 0.004 on the right. The centre of mass is ``gain`` phi0 + ``offset``; within 1 um
    of a line at y = 6 um it is 0.1 degree further. Rows 11 to 14 are above the crystal and lit all the same.
    """
    y, x = np.arange(NY) * 0.2, np.arange(NX) * 0.1
    phi0 = np.where(x < 8, 0.001, 0.004) * np.ones((NY, 1))
    com = gain * phi0 + offset
    distance = np.abs(y - 6)[:, None] * np.ones(NX)
    com[distance <= 1] += 0.1
    crystal = (np.arange(NY) > 10)[:, None] & np.ones(NX, bool)
    phi0 = np.where(crystal, phi0, np.nan)
    flags = np.zeros((NY, NX), np.uint8)
    flags[:7] = MASKS["unlit"]
    flags[50, :40], com[50, :40] = MASKS["truncated"], 9.0
    flags[51, :40], com[51, :40] = MASKS["hot"], np.nan
    flags[52, :40], com[52, :40] = MASKS["saturated"], 9.0
    com[:7] = np.nan
    z = np.zeros(1)
    maps = {
        "com_phi": (("z", "y", "x"), com[None], {"units": "degree"}),
        "std_phi": (("z", "y", "x"), np.full((1, NY, NX), 0.005), {"units": "degree"}),
        "flags": (("z", "y", "x"), flags[None], {"flag_masks": list(MASKS.values()), "flag_meanings": " ".join(MASKS)}),
    }
    truth = {
        "phi0": (("z", "y", "x"), phi0[None], {"units": "degree"}),
        "width": (("z", "y", "x"), np.where(crystal, 0.016, np.nan)[None], {"units": "degree"}),
        "distance": (("z", "y", "x"), distance[None], {"units": "um"}),
        "normal": (("boundary", "xyz"), np.array([[1.0, 0, 0]])),
        "line": (("boundary", "xyz"), np.array([[0.0, 0, 1]])),
        "origin": (("boundary", "xyz"), np.array([[7.95, 3.0, 0]])),
        "misorientation": (("boundary",), np.array([52.4e-6])),
        "twist": (("boundary",), np.array([False])),
        "dihedral": (("boundary",), np.array([np.nan])),
    }
    coords = {
        "z": ("z", z, {"units": "um"}),
        "y": ("y", y, {"units": "um"}),
        "x": ("x", x, {"units": "um"}),
        "phi": ("phi", 0.002 * np.arange(-5, 6), {"units": "degree", "scan_axis": 0}),
    }
    root = xr.Dataset(coords=coords, attrs={"title": "made up"})
    return xr.DataTree.from_dict({"/": root, "/rocking": xr.Dataset(maps), "/truth": xr.Dataset(truth)})


def rows_of(tree: xr.DataTree) -> dict[str, tuple[float, float, str]]:
    return {name: rest for name, *rest in compared(tree["rocking"].dataset, tree["truth"].dataset)}  # type: ignore[misc]


FAR = "more than 1 µm from any dislocation"


def test_compared__has_the_known_answers() -> None:
    rows = rows_of(scan())
    # Right of the wall 0.5 * 0.004 + 0.0001, left of it 0.5 * 0.001 + 0.0001; the right half and a bit is sound.
    assert rows[f"median |centre of mass − phi0|, {FAR}"] == [pytest.approx(0.0021), 0.0, "degree"]
    # Rows 7 to 59 are lit but for 40 hot pixels without a value; rows 11 to 59 are crystal.
    lit, crystal = 53 * NX - 40, 49 * NX
    assert rows["lit pixels"] == [pytest.approx(100 * lit / NY / NX), pytest.approx(100 * crystal / NY / NX), "%"]
    wrong = 4 * NX + 40
    assert rows["pixels correctly lit or unlit"] == [pytest.approx(100 * (1 - wrong / NY / NX)), 100.0, "%"]
    assert rows[f"median FWHM along phi (2.3548 std), {FAR}"] == [
        pytest.approx(0.011774),
        pytest.approx(0.016),
        "degree",
    ]
    jump = rows["median jump of the centre of mass along phi across boundary 0 (tilt of 52.4 µrad)"]
    assert jump == [pytest.approx(0.0045), pytest.approx(0.003), "degree"]
    assert len(rows) == 6


def test_compared__of_an_offset_has_its_sign() -> None:
    rows = rows_of(scan(gain=1.0, offset=-3e-4))
    assert rows[f"median |centre of mass − phi0|, {FAR}"][0] == pytest.approx(3e-4)
    assert rows[f"median (centre of mass − phi0), {FAR}"][0] == pytest.approx(-3e-4)


def test_compared__prefers_the_fitted_width_where_the_fit_is_good() -> None:
    tree = scan()
    maps = tree["rocking"].to_dataset()
    good = np.zeros((1, NY, NX), bool)
    good[0, 20:, ::2] = True
    fitted = np.where(good, 0.0155, 99.0)
    tree["rocking"] = xr.DataTree(maps.assign(fit_fwhm_phi=(("z", "y", "x"), fitted), fit_ok=(("z", "y", "x"), good)))
    assert rows_of(tree)[f"median FWHM along phi (fitted), {FAR}"][0] == pytest.approx(0.0155)
    tree["rocking"] = xr.DataTree(
        maps.assign(fit_fwhm_phi=(("z", "y", "x"), fitted), fit_ok=(("z", "y", "x"), good & False))
    )
    assert not any("FWHM" in name for name in rows_of(tree))


def test_compared__leaves_out_what_cannot_be_known() -> None:
    tree = scan()
    maps, truth = tree["rocking"].to_dataset(), tree["truth"].to_dataset()
    assert compared(maps.drop_vars("com_phi"), truth) == []
    assert compared(maps, truth.drop_vars("phi0")) == []
    names = [row[0] for row in compared(maps.drop_vars(["std_phi", "flags"]), truth[["phi0", "width"]])]
    assert names == [
        "median |centre of mass − phi0|, sound pixels",
        "median (centre of mass − phi0), sound pixels",
        "lit pixels",
        "pixels correctly lit or unlit",
    ]
    unknown = maps.assign_coords(x=("x", np.arange(NX) * 1.0, {"units": "pixel"}))
    assert not any("jump" in row[0] for row in compared(unknown, truth))
    aside = truth.assign(origin=(("boundary", "xyz"), np.array([[15.0, 0, 0]])))
    assert not any("jump" in row[0] for row in compared(maps, aside))
    dark = maps.assign(com_phi=maps["com_phi"] * np.nan)
    assert [row[0] for row in compared(dark, truth)] == ["lit pixels", "pixels correctly lit or unlit"]


def test_sound_pixels__are_those_without_fault() -> None:
    maps = scan()["rocking"].dataset
    sound = sound_pixels(maps)[0]
    assert sound.sum() == 53 * NX - 3 * 40
    assert not sound[:7].any()
    assert not sound[50:53, :40].any()


def test_truth_rows__say_values_with_units_and_the_step() -> None:
    tree = scan()
    rows = truth_rows(tree, tree["truth"].dataset)
    assert rows[0] == (f"median |centre of mass − phi0|, {FAR} (step of the scan: 2 mdeg)", "2.1 mdeg", "0 mdeg")
    assert ("pixels correctly lit or unlit", "92.92 %", "100 %") in rows
    assert rows[-1][1:] == ("4.5 mdeg", "3 mdeg")
    tree = scan(gain=1.0, offset=-3e-4)
    assert truth_rows(tree, tree["truth"].dataset)[1][1] == "−0.3 mdeg"
    del tree["rocking"]
    assert truth_rows(tree, tree["truth"].dataset) == []


def test_scan_step__is_the_median_spacing() -> None:
    maps = scan()["rocking"].dataset
    assert scan_step(maps) == pytest.approx(0.002)
    assert scan_step(maps.drop_vars("phi")) is None


def test_boundary_distances__of_half_planes_are_those_of_the_simulator() -> None:
    """Against a cloud of points on every boundary, spread along the directions that built it."""
    from dfxm_dask.phantoms.presets import build
    from dfxm_dask.phantoms.truth import tables

    (phantom,) = build("hard", layers=1, shape=(128, 160), seed=3)
    truth = xr.Dataset({name: (dims, values) for name, (dims, values, _) in tables(phantom).items()})
    rng = np.random.default_rng(0)
    x, y, z = points = rng.uniform(0, 1, (3, 25)) * [[19.0], [5.0], [1.0]]
    signed, nearest = boundary_distances(truth, x, y, z)
    spread = np.arange(-60, 60.01, 0.1)
    for k, boundary in enumerate(phantom.boundaries):
        assert boundary.along is not None
        s, t = (v.ravel() for v in np.meshgrid(spread[spread >= 0], spread))
        cloud = boundary.origin[:, None] + boundary.along[:, None] * s + boundary.line[0][:, None] * t
        for n, point in enumerate(points.T):
            away = cloud - point[:, None]
            distance = np.sqrt((away**2).sum(0).min())
            assert nearest[k, n] == pytest.approx(distance, abs=0.08)
            beside = (point - boundary.origin) @ boundary.along > 0
            assert np.isfinite(signed[k, n]) == beside
            if beside:
                assert abs(signed[k, n]) == pytest.approx(nearest[k, n])
                assert np.sign(signed[k, n]) == np.sign((point - boundary.origin) @ boundary.normal)


def test_jumps__across_half_planes_keep_to_their_own_strips() -> None:
    """Three subgrains about a point: each jump is the difference of the two that share the half plane."""
    tree = scan()
    y, x = np.asarray(tree["y"]) - 6, np.asarray(tree["x"]) - 8
    azimuth = np.mod(np.arctan2(y[:, None], x[None, :]), 2 * np.pi)
    edges = np.deg2rad([20.0, 150.0, 260.0])
    grain = (np.searchsorted(edges, azimuth) - 1) % 3
    level = np.array([0.001, 0.006, -0.002])
    along = np.column_stack([np.cos(edges), np.sin(edges), 0 * edges])
    line = np.tile([0.0, 0, 1], (3, 1))
    truth: dict[str, Any] = {
        "phi0": (("z", "y", "x"), level[grain][None]),
        "normal": (("boundary", "xyz"), np.cross(along, line)),
        "line": (("boundary", "xyz"), line),
        "origin": (("boundary", "xyz"), np.tile([8.0, 6, 0], (3, 1))),
        "dihedral": (("boundary",), np.array([130.0, 110, 120])),
    }
    maps = tree["rocking"].to_dataset()[["com_phi"]]
    maps["com_phi"] = maps["com_phi"].copy(data=2 * level[grain][None])
    rows = [row for row in compared(maps, xr.Dataset(truth)) if "jump" in row[0]]
    # The normal along × line points clockwise: to the subgrain before the half plane.
    wanted = level[[2, 0, 1]] - level[[0, 1, 2]]
    assert [row[0][-12:] for row in rows] == ["0 (boundary)", "1 (boundary)", "2 (boundary)"]
    assert [row[2] for row in rows] == pytest.approx(wanted)
    assert [row[1] for row in rows] == pytest.approx(2 * wanted)


def test_draw_compare__shows_found_true_and_difference() -> None:
    tree = scan()
    figure = draw_compare(tree, tree["truth"].dataset, 0, "made up")
    assert figure is not None
    check_page(figure)
    found, true, error = (np.ma.filled(a.images[0].get_array(), np.nan) for a in figure.axes if a.images)
    com = np.asarray(tree["rocking"].dataset["com_phi"][0])
    phi0 = np.asarray(tree["truth"].dataset["phi0"][0])
    middle = np.nanmedian(phi0)
    np.testing.assert_allclose(true, 1e3 * (phi0 - middle), atol=1e-9)
    np.testing.assert_allclose(found, 1e3 * (com - middle), atol=1e-9)
    np.testing.assert_allclose(error, 1e3 * (com - phi0), atol=1e-9)
    panels = [a for a in figure.axes if a.images]
    assert panels[0].images[0].get_clim() == panels[1].images[0].get_clim()
    low, high = panels[2].images[0].get_clim()
    assert low == -high
    assert all(a.images[0].get_extent() == pytest.approx((-0.05, 15.95, 11.9, -0.1)) for a in panels)
    (axes,) = (a for a in figure.axes if a.get_title() == "error of the centre of mass")
    assert axes.get_xlabel() == "found minus true (mdeg)"
    words = [t.get_text() for a in figure.axes if a.get_legend() for t in a.get_legend().get_texts()]
    assert "half a step of the scan: 1 mdeg" in words
    assert "> 1 µm from a line: median |error| 2.1 mdeg" in words


def test_draw_compare__counts_every_sound_pixel_in_the_histogram() -> None:
    tree = scan(gain=1.0, offset=3e-4)
    truth = tree["truth"].to_dataset().drop_vars("distance")
    figure = draw_compare(tree, truth, 0)
    assert figure is not None
    check_page(figure)
    (axes,) = (a for a in figure.axes if a.get_title() == "error of the centre of mass")
    (outline,) = axes.patches
    xs, ys = outline.get_xy().T
    # Rows 25 to 35 are within 1 um of the line, and 0.1 degree off; 120 of the other pixels are not sound.
    near, sound = 11 * NX, 49 * NX - 120
    step = 2 * 1.2 * 100.3 / 100
    edges = {round(float(x / step)) for x, y in zip(xs, ys, strict=True) if y > 0}
    assert max(ys) == pytest.approx(100 * (1 - near / sound))
    assert sorted(set(np.round(ys, 9))) == pytest.approx([0, 100 * near / sound, 100 * (1 - near / sound)])
    assert edges == {0, 1, 41, 42}


def test_draw_compare__without_phi_is_none() -> None:
    tree = scan()
    truth = tree["truth"].to_dataset()
    assert draw_compare(tree, truth.drop_vars("phi0"), 0) is None
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["std_phi"]])
    assert draw_compare(tree, truth, 0) is None
    del tree["rocking"]
    assert draw_compare(tree, truth, 0) is None


def test_draw_compare__of_nothing_but_nan_can_be_drawn() -> None:
    tree = scan()
    maps = tree["rocking"].to_dataset()
    tree["rocking"] = xr.DataTree(maps.assign(com_phi=maps["com_phi"] * np.nan))
    truth = tree["truth"].to_dataset()
    figure = draw_compare(tree, truth.assign(phi0=truth["phi0"] * np.nan), 0)
    assert figure is not None
    check_page(figure)


@pytest.mark.parametrize(("ny", "nx"), [(1, 40), (160, 3)])
def test_draw_compare__of_any_shape_stays_on_the_page(ny: int, nx: int) -> None:
    tree = scan()
    rows, columns = np.arange(ny) % NY, np.arange(nx)
    spread = {"y": ("y", np.arange(ny) * 0.2, {"units": "um"}), "x": ("x", np.arange(nx) * 0.1, {"units": "um"})}
    cut = {g: tree[g].to_dataset().isel(y=rows, x=columns).assign_coords(spread) for g in ("rocking", "truth")}
    small = xr.DataTree.from_dict({"/rocking": cut["rocking"]})
    figure = draw_compare(small, cut["truth"], 0, "heading")
    assert figure is not None
    check_page(figure)


def test_figures__of_a_store_with_truth_have_a_page_for_it(tmp_path: Path) -> None:
    tree = scan()
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["com_phi"]])
    assert [p.name for p in figures(tree, tmp_path).values()] == ["com_phi.png", "truth.png", "overview.png"]


@pytest.mark.slow
def test_truth_rows__of_a_simulated_scan(tmp_path: Path) -> None:
    import dfxm_dask

    store = tmp_path / "easy.zarr"
    dfxm_dask.simulate("easy", store, layers=1, shape=(128, 160))
    dfxm_dask.run_recipe("maps", store)
    tree = dfxm_dask.open_scan(store, chunks=None)
    truth = tree["truth"].dataset
    maps = tree["rocking"].dataset
    rows: dict[str, Any] = {name: rest for name, *rest in compared(maps, truth)}
    error, _, units = rows[f"median |centre of mass − phi0|, {FAR}"]
    assert units == "degree"
    assert error < 0.001  # half a step of the scan
    assert rows["lit pixels"][1] == pytest.approx(100 * np.isfinite(np.asarray(truth["phi0"])).mean())
    assert rows[f"median FWHM along phi (2.3548 std), {FAR}"][1] == pytest.approx(float(truth["width"].median()))
    (jump,) = (row for name, row in rows.items() if "jump" in name)
    # A tilt about a direction a turns the rocking curve by its part along the axis that phi turns about, y.
    turn = np.rad2deg(float(truth["misorientation"][0]) * float(truth["axis"][0, 1]))
    assert abs(jump[1]) == pytest.approx(abs(turn), rel=0.25)
    assert jump[0] == pytest.approx(jump[1], rel=0.1)
    assert module.truth_rows(tree, truth)[0][2] == "0 mdeg"
    assert len(figures(tree, tmp_path / "pictures")) == 9


def test_truth_rows__mask_of_defects_beside_true_lines() -> None:
    """One line along y at x = 4 um, a mask 0.5 um beside half of it, and one false pixel far away."""
    y, x = 0.25 * np.arange(40), 0.5 * np.arange(30)
    distance = np.abs(x - 4.0) + 0 * y[:, None]
    mask = np.zeros((40, 30), bool)
    mask[:20, 9] = mask[30, 25] = True
    beams = xr.Dataset(
        {"defects": (("z", "y", "x"), mask[None]), "lit": (("z", "y", "x"), np.ones((1, 40, 30), bool))},
        coords={"z": [0.0], "y": y, "x": x},
    )
    truth = xr.Dataset({"distance": (("z", "y", "x"), distance[None])}, coords=beams.coords)
    tree = xr.DataTree.from_dict({"/beams": beams, "/rocking": xr.Dataset()})
    near, seen = truth_rows(tree, truth)
    assert near[1:] == (f"{100 * 20 / 21:.3g} %", f"{100 * 3 / 30:.3g} % of the lit pixels")
    # Rows 0 to 19 see it at 0.5 um; those below at more, until 1 um is passed.
    below = sum(np.hypot(0.25 * (row - 19), 0.5) < 1 for row in range(20, 40))
    assert seen[1:] == (f"{100 * (20 + below) / 40:.3g} %", "100 %")
    # A boundary along y at x = 12 um explains the false pixel.
    wall = {
        n: (("boundary", "xyz"), [v]) for n, v in (("normal", [1, 0, 0]), ("line", [0, 0, 1]), ("origin", [12, 0, 0]))
    }
    both = truth_rows(tree, truth.assign(wall | {"dihedral": ("boundary", [np.nan])}))[1]
    assert both[1:] == ("100 %", f"{100 * 6 / 30:.3g} % of the lit pixels")
    # A layer in which nothing was found has no line within any distance of it.
    two = tree.map_over_datasets(lambda d: xr.concat([d, d.assign(defects=d.defects & False)], "z") if d else d)
    both = xr.concat([truth, truth], "z")
    assert truth_rows(two, both)[1][1] == f"{100 * ((20 + below) / 80):.3g} %"
    beams["defects"][:] = False
    assert truth_rows(tree, truth)[0][1] == "none"
