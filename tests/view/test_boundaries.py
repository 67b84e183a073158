"""Pages of the boundaries: points, lines and words as the group holds them, and nothing where nothing is known."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mpl_toolkits.mplot3d import proj3d

from dfxm_dask.boundaries import characterise_boundaries
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.view.boundaries import scene as boundaries_scene
from dfxm_dask.view.boundaries.pages import (
    boundary_pages,
    cloud_of,
    draw_boundary,
    line_angle,
    line_profile,
    period_power,
)
from dfxm_dask.view.boundaries.scene import clearest_view, draw_scene, plane_distances, seen_size
from dfxm_dask.view.boundaries.words import (
    MOST,
    boundary_words,
    finer,
    tables_of,
    vector_words,
    with_error,
)
from dfxm_dask.view.pictures import figures
from tests.view.boundary_tables import DIMS, LINES, group, store
from tests.view.test_figures import check_page

LINE, BLUE = "#d6006c", "#0072b2"


def tables(boundaries: int = 2, **changed: Any) -> dict[str, np.ndarray]:
    found = tables_of(store(group(boundaries, **changed)))
    assert found is not None
    return found


def words(figure: Any) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def keys(figure: Any) -> list[str]:
    found = [axes.get_legend() for axes in figure.axes]
    return [text.get_text() for legend in found if legend for text in legend.get_texts()]


def flat_of(found: dict[str, np.ndarray], k: int) -> np.ndarray:
    return (found["point"][found["point_boundary"] == k] - found["centre"][k]) @ in_plane(found["normal"][k]).T


def test_tables_of__says_nothing_of_what_is_absent() -> None:
    assert tables_of(store()) is None
    assert tables_of(store(xr.Dataset({"spacing": ("boundary", [1.0])}))) is None
    few = tables_of(store(group()[["normal", "centre", "point"]]))
    assert few is not None
    assert few["corner"].shape == (2, 4, 3)
    assert np.isnan(few["corner"]).all()
    assert few["dihedral"].shape == (0, 0)
    assert (few["point_boundary"] == -1).all()
    page = draw_boundary(few, 0)
    check_page(page)
    assert "not known" in words(page)
    check_page(draw_scene(few))


@pytest.mark.parametrize(
    ("value", "error", "units", "said"),
    [
        (4.1234, 0.0312, "um", "4.123 ± 0.031 µm"),
        (121.34, 0.345, "degree", "121.34 ± 0.34°"),
        (-12.4, 3.0, "mdeg", "−12.4 ± 3.0 mdeg"),
        (48.9, 1.7e9, "um", "48.9 ± 1.7e+09 µm"),
        (5.0, 0.0, "um", "5 ± 0 µm"),
        (5.0, np.inf, "um", "5 µm"),
        (np.nan, 0.1, "um", "not known"),
        (152.0, 41.0, "um", "152 ± 41 µm"),
        (0.5, np.nan, "1", "0.5"),
    ],
)
def test_with_error__has_two_digits_of_the_error(value: float, error: float, units: str, said: str) -> None:
    assert with_error(value, error, units) == said


def test_finer__of_a_small_angle_is_in_mdeg() -> None:
    assert finer(-0.00412, 0.00021, "degree") == "−4.12 ± 0.21 mdeg"
    assert vector_words(np.array([-1e-9, -0.5, 0.8664])) == "(0.000, −0.500, 0.866)"


def test_boundary_words__say_what_is_known_with_errors() -> None:
    said = boundary_words(tables(), 0)
    assert said[0] == "Boundary 0: normal (1.000, 0.000, 0.000) ± 0.31°, thickness 0.2 µm."
    assert "u runs along (0.000, 0.000, 1.000), v along (0.000, −1.000, 0.000)" in said[1]
    assert said[2] == (
        "Family 1: lines along (0.000, 0.000, 1.000), error in the plane 0.42°; period 4.020 ± 0.030 µm, contrast 0.97,"
        " 6 located one by one, mean gap 3.990 ± 0.012 µm."
    )
    assert said[3] == (
        "Burgers vectors that satisfy Frank's rule best: (0.286, 0.000, 0.000) nm, with a misfit of 1.5°; the next best"
        " have 30°."
    )
    assert said[4] == (
        "The local peak jumps by −4.10 ± 0.20 mdeg towards the normal. By Frank's rule the lattice rotates by 71 µrad"
        " (4.07 mdeg; 0.02 on a scale from tilt, 0, to twist, 1), which corresponds to a jump of 4.07 mdeg."
    )


def test_boundary_words__say_how_sure_burgers_vectors_are() -> None:
    nan = np.nan
    sure = {
        "burgers_probability": [[[0.97, 0.03], [nan] * 2], [[nan] * 2] * 2],
        "burgers_sign_probability": [0.995, nan],
        "g_dot_b": [[-1.0, nan], [nan, nan]],
        "g_dot_b_probability": [[0.96, nan], [nan, nan]],
        "misorientation_error": [1.2e-6, nan],
        "step_expected_error": [0.00007, nan],
    }
    said = boundary_words(tables(**sure), 0)
    assert said[3] == (
        "Most probable Burgers vectors: (0.286, 0.000, 0.000) nm, with probability 0.97 (0.99 for their sign). Product"
        " g·b, with its probability: −1 (0.96)."
    )
    assert "rotates by 71.0 ± 1.2 µrad" in said[4]
    assert "a jump of 4.070 ± 0.070 mdeg." in said[4]


def test_boundary_words__say_what_is_not_known() -> None:
    said = " ".join(boundary_words(tables(), 1))
    assert "no direction exceeds the limit from layers shifted at random" in said
    assert "The jump of the local peak across it is not known. The rotation by Frank's rule is not known." in said
    nothing = np.full((2, 2, 3), np.nan)
    assert "they require the spacing of the lines and a lattice" in " ".join(boundary_words(tables(burgers=nothing), 0))


def test_draw_boundary__shows_the_points_and_lines_of_the_group() -> None:
    found = tables()
    page = draw_boundary(found, 0, "heading $x")
    check_page(page)
    plane, profile, power = page.axes
    flat = flat_of(found, 0)
    np.testing.assert_allclose(plane.collections[0].get_offsets(), flat)
    ring = (found["corner"][0] - found["centre"][0]) @ in_plane(found["normal"][0]).T
    np.testing.assert_allclose(plane.lines[0].get_xydata(), ring[[0, 1, 2, 3, 0]])
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("u (µm)", "v (µm)")
    assert plane.get_aspect() == 1
    # v runs along -y from y = 11: a line at y lies at v = 11 - y, and u along z is free.
    located = [line for line in plane.lines if line.get_color() == LINE]
    assert sorted(line.get_xy1()[1] for line in located) == pytest.approx(sorted(11 - LINES), abs=0.11)
    assert [line.get_slope() or 0.0 for line in located] == pytest.approx([0.0] * 6, abs=1e-9)
    marks = [line.get_xdata()[0] for line in profile.lines if line.get_color() == LINE]
    assert sorted(marks) == pytest.approx(sorted(11 - LINES), abs=0.11)
    weights = found["point_weight"][found["point_boundary"] == 0]
    (curve,) = (line for line in profile.lines if line.get_color() == BLUE)
    place, values = curve.get_data()
    assert values.sum() * (place[1] - place[0]) == pytest.approx(weights.sum())
    (curve,) = (line for line in power.lines if line.get_color() == BLUE)
    for spacing, value in list(zip(*curve.get_data(), strict=True))[::37]:
        naive = abs(sum(w * np.exp(2j * np.pi * v / spacing) for w, (_, v) in zip(weights, flat, strict=True))) ** 2
        assert value == pytest.approx(naive / weights.sum() ** 2)
    (mark,) = (line for line in power.lines if line.get_marker() == "o")
    assert mark.get_xydata().tolist() == [[4.02, pytest.approx(0.97**2)]]
    assert power.get_xlim() == (1.5, 15.0)
    (band,) = power.patches
    assert [band.get_x(), band.get_x() + band.get_width()] == pytest.approx([3.99, 4.05])
    assert all(sentence in words(page) for sentence in boundary_words(found, 0))
    assert {"points", "patch: 90 % of the points", "lines of family 1", "maximum", "period of family 1"} <= set(
        keys(page)
    )
    assert "heading $x" in words(page)


def test_draw_boundary__without_lines_says_so_in_place_of_curves() -> None:
    page = draw_boundary(tables(), 1)
    check_page(page)
    assert [axes.texts[0].get_text() for axes in page.axes[1:]] == ["No direction of lines\nwas found."] * 2
    assert not any(axes.lines for axes in page.axes[1:])
    np.testing.assert_allclose(page.axes[0].collections[0].get_offsets(), flat_of(tables(), 1))


def test_draw_boundary__of_one_line_has_no_period() -> None:
    nothing = np.full((2, 2), np.nan)
    page = draw_boundary(tables(spacing=nothing, spacing_error=nothing, gap=nothing), 0)
    check_page(page)
    assert not any(line.get_marker() == "o" for line in page.axes[2].lines)
    assert "period not known" in words(page)


def test_draw_boundary__of_two_families_draws_both() -> None:
    line = group()["line"].values.copy()
    line[0, 1] = 0, 1, 0
    spacing = np.array([[4.0, 40.0], [np.nan, np.nan]])
    found = tables(line=line, spacing=spacing)
    page = draw_boundary(found, 0)
    check_page(page)
    assert {"lines of family 1", "lines of family 2"} <= set(keys(page))
    assert "Family 2: lines along (0.000, 1.000, 0.000)" in words(page)
    # A period outside the band that is searched is on the page all the same.
    far = draw_boundary(tables(spacing=spacing[:, ::-1]), 0).axes[2]
    assert far.get_xlim()[1] == pytest.approx(50.0)


def test_line_profile__is_blurred_and_whole() -> None:
    place, values = line_profile(np.array([-3.05, 4.05]), np.array([2.0, 1.0]))
    assert values.sum() * 0.2 == pytest.approx(3.0)
    assert place[values.argmax()] == pytest.approx(-3.05, abs=0.1)
    assert values.max() == pytest.approx(2 / (0.3 * np.sqrt(2 * np.pi)), rel=0.05)  # a Gaussian of 0.3 um


def with_single_lines() -> xr.Dataset:
    """The group with points on six vertical lines of the wall at x = 10, and on a line far away."""
    z, y = np.meshgrid(np.arange(11.0), LINES, indexing="ij")
    on = np.stack([np.full(z.size, 9.75), y.ravel(), z.ravel()], axis=1)
    away = np.stack([np.full(11, 24.75), np.full(11, 20.0), np.arange(11.0)], axis=1)
    points = np.concatenate([on, away])
    return group().assign(
        line_point=(("line_observation", "xyz"), points), line_point_weight=("line_observation", np.ones(len(points)))
    )


def test_draw_boundary__measures_single_lines_where_they_are_known() -> None:
    tree = store(with_single_lines())
    found = tables_of(tree)
    assert found is not None
    near, weights = cloud_of(found, 0)
    assert sorted(set(near[:, 1])) == LINES.tolist()
    assert len(near) == len(weights) == 66
    page = dict(boundary_pages(tree))["boundary_0"]()
    check_page(page)
    assert {"points of single lines", "single lines"} <= set(keys(page))
    own, single = page.axes[0].collections
    np.testing.assert_allclose(own.get_offsets(), flat_of(tables(), 0))
    assert len(single.get_offsets()) == 66
    flat = (near - found["centre"][0]) @ in_plane(found["normal"][0]).T
    angle = line_angle(np.array([0.0, 0, 1]), np.array([1.0, 0, 0]))
    power = period_power(flat[:, 1] * np.cos(angle) - flat[:, 0] * np.sin(angle), weights, np.array([4.0]))
    assert power == pytest.approx(1.0)
    far = found | {"line_point": np.zeros((1, 3)), "line_point_weight": np.ones(1)}
    assert draw_boundary(far, 0).axes[1].texts[0].get_text() == "There are no points\nof single lines."


def test_boundary_pages__measure_what_the_gather_measured() -> None:
    """A wall at x = 10 with single lines every 4 um: the power on the page goes through what the tables say."""
    rng = np.random.default_rng(0)
    y, x, z = np.arange(0, 24, 0.25), np.arange(8, 12.1, 0.5), np.arange(0, 20, 0.5)
    wall, single = np.zeros((2, 40, 96, 9), np.float32)
    wall[:, :, 4] = 6 + rng.random((40, 96))
    for k in range(40):
        single[k, np.rint((LINES + 0.1 * rng.normal(size=6)) / 0.25).astype(int), 4] = 8
        wall[k, rng.integers(0, 96, 4), rng.integers(0, 9, 4)] = 6
    parts = [
        characterise_boundaries.kernel(
            wall[k], wall[k] > 5, wall[k] >= 0, 0 * wall[k], y, x, z[k], single[k], replicates=10
        )
        for k in range(40)
    ]
    made = characterise_boundaries.finish(reduce(characterise_boundaries.combine, parts))
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords={"z": z, "y": y, "x": x}),
            "/boundaries": xr.Dataset({name: (DIMS[name], values) for name, values in made.items()}),
        }
    )
    pages = {name: draw() for name, draw in boundary_pages(tree)}
    assert list(pages) == ["boundaries_scene", "boundary_0", "boundary_0_fit"]
    power = pages["boundary_0"].axes[2]
    (mark,) = (line for line in power.lines if line.get_marker() == "o")
    ((spacing, height),) = mark.get_xydata()
    assert spacing == made["spacing"][0, 0] == pytest.approx(4.0, abs=0.02)
    found = tables_of(tree)
    assert found is not None
    points, weights = cloud_of(found, 0)
    angle = line_angle(made["line"][0, 0], made["normal"][0])
    flat = (points - made["centre"][0]) @ in_plane(made["normal"][0]).T
    across = flat[:, 1] * np.cos(angle) - flat[:, 0] * np.sin(angle)
    # The tables measure a profile of bins of 0.2 um, undone to within a few parts in a thousand.
    assert period_power(across, weights, np.array([spacing]))[0] == pytest.approx(height, rel=0.02)
    profile = pages["boundary_0"].axes[1]
    located = [line.get_xdata()[0] for line in profile.lines if line.get_color() == LINE]
    assert len(located) == made["lines"][0, 0] == 6
    assert np.ptp(located) / 5 == pytest.approx(made["gap"][0, 0], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_clearest_view__has_no_plane_on_edge_and_little_depth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(seed + 1, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    room = np.array([50.0, 20, 10])
    rows = []
    for up in np.arange(20, 51, 5):
        for about in np.arange(-180, 180, 5):
            e, a = np.deg2rad([up, about])
            towards = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
            rows.append((min(abs(n @ towards) for n in normals), room @ np.abs(towards), up, about))
    best = max(row[0] for row in rows)
    view = clearest_view(normals, room)
    (chosen,) = (row for row in rows if row[2:] == pytest.approx(view))
    assert chosen[0] >= 0.6 * best - 1e-9
    assert chosen[1] <= min(row[1] for row in rows if row[0] >= 0.6 * best) + 1e-6


def test_draw_scene__shows_points_planes_and_junctions_as_they_are() -> None:
    found = tables()
    page = draw_scene(found, "heading $x")
    check_page(page)
    space = page.axes[0]
    patches = [c for c in space.collections if type(c).__name__ == "Poly3DCollection"]
    planes = [patch for patch in patches if len(patch.get_paths()) == 1]  # cones have many sides
    assert len(patches) == 2 * len(planes) == 4
    clouds = [c for c in space.collections if type(c).__name__ == "Path3DCollection"]
    for k, cloud in zip((-1, 0, 1), clouds, strict=True):
        np.testing.assert_array_equal(np.stack(cloud._offsets3d, 1), found["point"][found["point_boundary"] == k])
    for k, quad in enumerate(sorted(planes, key=lambda quad: quad.get_facecolor()[0][2], reverse=True)):
        seen = np.stack(proj3d.proj_transform(*found["corner"][k].T, space.get_proj())[:2], 1)
        np.testing.assert_allclose(quad.get_paths()[0].vertices[:4], seen)
    lines = [np.stack(line.get_data_3d(), 1) for line in space.lines]
    np.testing.assert_allclose(lines[-1], [[10, 12, 1], [10, 12, 9]])
    # A normal from the centre of each boundary, and the lines of the first one.
    for k, normal in ((0, lines[0]), (1, lines[2])):
        np.testing.assert_allclose(normal[0], found["centre"][k])
        np.testing.assert_allclose(np.cross(normal[1] - normal[0], found["normal"][k]), 0, atol=1e-9)
    direction = lines[1]
    np.testing.assert_allclose(np.cross(direction[1] - direction[0], [0, 0, 1]), 0, atol=1e-12)
    np.testing.assert_allclose(direction.mean(axis=0), found["centre"][0])
    assert (space.get_xlabel(), space.get_ylabel(), space.get_zlabel()) == ("x (µm)", "y (µm)", "z (µm)")
    assert [key for key in keys(page) if "σ" not in key] == [
        "0: normal (1.000, 0.000, 0.000) ± 0.31°",
        "1: normal (0.000, 1.000, 0.000) ± 0.052°",
        "50 unassigned points",
        "direction of lines, family 1",
        "normal and its error, drawn 30 times as large",
        "where boundaries meet",
    ]
    assert "heading $x" in words(page)


def test_draw_scene__shows_all_on_one_scale() -> None:
    found = tables()
    page = draw_scene(found)
    FigureCanvasAgg(page).draw()
    space, dpi = page.axes[0], page.dpi

    def seen(points: np.ndarray) -> np.ndarray:
        flat = proj3d.proj_transform(*points.T, space.get_proj())[:2]
        return np.asarray(space.transData.transform(np.stack(flat, 1))) / dpi

    everything = seen(np.concatenate([found["point"], found["corner"].reshape(-1, 3)]))
    width, height = page.get_size_inches()
    low, high = everything.min(axis=0), everything.max(axis=0)
    assert 0.7 < low[0] < high[0] < width - 0.7
    assert boundaries_scene.BELOW + 0.3 < low[1] < high[1] < height - 0.3
    for axis in (space.xaxis, space.yaxis, space.zaxis):
        box = axis.label.get_window_extent()
        assert 0 < box.x0 < box.x1 < width * dpi
        assert boundaries_scene.BELOW * dpi < box.y0 < box.y1 < height * dpi
    # One um is as long along every axis: its lengths on the page, squared, add up to twice that of a um face on.
    steps = seen(np.concatenate([np.zeros((1, 3)), np.eye(3)]))
    limits = np.array([getattr(space, f"get_{a}lim")() for a in "xyz"])
    scale = np.ptp(seen(np.array(np.meshgrid(*limits)).reshape(3, -1).T), axis=0)
    across, up = seen_size(np.ptp(limits, axis=1), (space.elev, space.azim))
    assert scale == pytest.approx([scale[0], up * scale[0] / across], rel=1e-6)
    assert ((steps[1:] - steps[0]) ** 2).sum() == pytest.approx(2 * (scale[0] / across) ** 2, rel=1e-6)


def test_draw_scene__thins_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries_scene, "DRAWN", 100)
    page = draw_scene(tables())
    drawn = [len(c._offsets3d[0]) for c in page.axes[0].collections if type(c).__name__ == "Path3DCollection"]
    assert sum(drawn) == 100
    assert "100 of 950 points are drawn" in words(page)


def test_draw_scene__has_the_distances_of_points_from_their_planes() -> None:
    found = tables()
    page = draw_scene(found)
    histogram = page.axes[-1]
    assert histogram.get_xlabel() == "distance (µm)"
    for k, axis, at in ((0, 0, 10.0), (1, 1, 12.0)):
        own = found["point_boundary"] == k
        distance = found["point"][own][:, axis] - at
        np.testing.assert_allclose(plane_distances(found, k), distance)
        outline = histogram.patches[k].get_xy()
        edges = np.unique(outline[:, 0])
        heights, _ = np.histogram(distance, edges, weights=found["point_weight"][own])
        expected = heights / found["point_weight"][own].sum() / np.diff(edges)
        assert outline[:, 1].max() == pytest.approx(expected.max())
        gaussian = histogram.lines[k].get_ydata()
        assert gaussian.max() == pytest.approx(1 / (found["thickness"][k] * np.sqrt(2 * np.pi)))
    assert {"0: σ 0.2 µm", "1: σ 0.3 µm"} <= set(keys(page))


def test_draw_scene__of_no_boundary_says_so() -> None:
    page = draw_scene(tables(0, point_boundary=np.full(950, -1)), "heading")
    check_page(page)
    assert "No boundary was found among these points." in words(page)
    assert keys(page) == ["950 points"]
    assert len(page.axes[0].collections[0]._offsets3d[0]) == 950
    nothing = {"point": np.zeros((0, 3)), "point_weight": np.zeros(0), "point_boundary": np.zeros(0, int)}
    page = draw_scene(tables(0, **nothing), "heading")
    check_page(page)
    assert "No boundary was found: no pixel of the weak beam exceeds the noise." in words(page)
    assert page.axes == []
    assert [name for name, _ in boundary_pages(store(group(0, **nothing)))] == ["boundaries_scene"]


def test_draw_scene__of_many_boundaries_names_the_first() -> None:
    many = xr.concat([group()] * 6, "boundary", data_vars="minimal", coords="minimal", compat="override")
    tree = store(many)
    found = tables_of(tree)
    assert found is not None
    page = draw_scene(found)
    check_page(page)
    assert f"and {12 - MOST} more, in the same colours" in keys(page)
    assert len([key for key in keys(page) if ": normal" in key]) == MOST


@pytest.mark.parametrize("size", [(300.0, 4.0, 4.0), (40.0, 40.0, 0.0)])
def test_pages__of_any_shape_can_be_read(size: tuple[float, float, float]) -> None:
    scale = np.array(size) / np.array([30.0, 24.0, 10.0])
    found = tables()
    moved = {name: found[name] * scale for name in ("point", "centre", "corner", "junction_point")}
    found |= moved
    check_page(draw_scene(found, "heading"))
    check_page(draw_boundary(found, 0))


def test_figures__of_boundaries_are_of_the_whole_volume(tmp_path: Path) -> None:
    beams = xr.Dataset({"lit": (("z", "y", "x"), np.ones((11, 48, 60), bool))})
    assert [path.name for path in figures(store(group(), beams=beams), tmp_path).values()] == [
        "beams_layer5.png",
        "boundaries_scene.png",
        "boundary_0.png",
        "boundary_0_fit.png",
        "boundary_1.png",
        "boundary_1_fit.png",
    ]
    assert [path.name for path in figures(store(beams=beams), tmp_path / "none").values()] == ["beams_layer5.png"]
