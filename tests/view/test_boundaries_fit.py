"""Pages of the fit of a boundary: what is drawn is what the maps were made with, and a panel without data says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import erf

from dfxm_dask.boundaries.step import FLAG
from dfxm_dask.view.boundaries.fit_page import DATA, FIT, LINES, draw_fit
from dfxm_dask.view.boundaries.step import Beside, beside_step, jumps_along, places_by, places_of, strip_cells
from dfxm_dask.view.boundaries.words import boundary_words, tables_of
from tests.view.boundary_tables import group, store
from tests.view.test_figures import check_page

STEP, WIDTH, SPACING, NORMAL, CENTRE = -0.004, 0.6, 4.0, (0.96, 0.28, 0.0), (15.0, 12.0, 5.0)
LAYERS = np.arange(11.0)


def maps(bend: float = 0.0, *, shift: float = 0.0) -> dict[str, xr.Dataset]:
    """A wall with a step along phi, ``bend`` um aside in every layer above the middle, and lines that lean by 0.1."""
    z, y, x = np.meshgrid(LAYERS, np.arange(0, 24, 0.5), np.arange(0, 30, 0.5) - shift, indexing="ij")
    s = (x - CENTRE[0]) * NORMAL[0] + (y - CENTRE[1]) * NORMAL[1] - np.where(z > 5, bend, 0.0)
    t = (y - CENTRE[1]) * NORMAL[0] - (x - CENTRE[0]) * NORMAL[1]
    rng = np.random.default_rng(0)
    com = 0.01 * z + STEP / 2 * erf(s / (WIDTH * np.sqrt(2))) + 1e-4 * rng.normal(size=s.shape)
    wave = np.cos(2 * np.pi * (t - 0.1 * (z - 5)) / SPACING)
    lines = np.exp(4 * wave - 4) * np.exp(-0.5 * (s / 0.6) ** 2)
    made = {"weak_isolated": 5 * lines + 0.3 * rng.normal(size=s.shape), "lit": np.ones(s.shape, bool)}
    dims = "z", "y", "x"
    axes = {"z": LAYERS, "y": np.arange(0, 24, 0.5), "x": np.arange(0, 30, 0.5)}
    beams = xr.Dataset({name: (dims, values) for name, values in made.items()}, axes)
    found = {"rocking": xr.Dataset({"com_phi": (dims, com)}, axes), "beams": beams}
    if shift:
        found["volume"] = xr.Dataset(
            {"shift_x": ("z", np.full(11, shift)), "shift_y": ("z", np.zeros(11))}, {"z": LAYERS}
        )
    return found


def tree(bend: float = 0.0, *, shift: float = 0.0, drop: tuple[str, ...] = (), **changed: Any) -> xr.DataTree:
    """A store with one boundary."""
    across, up = np.array([-0.28, 0.96, 0.0]), np.array([0.0, 0.0, 1.0])
    corner = np.array(CENTRE) + np.array(
        [-9 * across - 5 * up, 9 * across - 5 * up, 9 * across + 5 * up, -9 * across + 5 * up]
    )
    line = np.array([*(0.1 * across[:2]), 1.0]) / np.sqrt(1.01)
    values: dict[str, Any] = {
        "normal": [NORMAL],
        "centre": [CENTRE],
        "corner": [corner],
        "step": [STEP],
        "step_error": [1e-4],
        "step_width": [WIDTH],
        "offset_error": [0.02],
        "reason": [0],
        "line": [[line, [np.nan] * 3]],
        "spacing": [[SPACING / np.sqrt(1.01), np.nan]],
    }
    one = group().isel(boundary=[0], junction=slice(0)).drop_vars(["line_point", "line_point_weight"], errors="ignore")
    from tests.view.boundary_tables import DIMS

    made = one.assign({name: (DIMS[name], np.asarray(v)) for name, v in (values | changed).items()})
    parts = {name: ds.drop_vars(drop, errors="ignore") for name, ds in maps(bend, shift=shift).items()}
    return store(made, **parts)


def drawn(of: xr.DataTree, k: int = 0) -> Any:
    found = tables_of(of)
    assert found is not None
    page = draw_fit(of, found, k, "heading")
    check_page(page)
    return page


def strip_of(of: xr.DataTree) -> tuple[Beside, np.ndarray]:
    found = tables_of(of)
    assert found is not None
    cells = strip_cells(of, found, 0)
    return beside_step(cells, found, 0), cells


@pytest.mark.parametrize("shift", [0.0, 2.0, -3.5])
def test_strip__is_read_near_the_trace_and_has_the_step(shift: float) -> None:
    strip, cells = strip_of(tree(shift=shift))
    distance = (cells[:, :3] - CENTRE) @ NORMAL
    assert np.abs(distance).max() < 3
    assert set(cells[:, 2]) == set(LAYERS)
    expected = STEP / 2 * erf(strip.s / (WIDTH * np.sqrt(2)))
    assert np.abs(strip.value - expected).max() < 6e-4
    assert strip.slope == pytest.approx(0, abs=2e-5)
    jumps = jumps_along(strip)
    assert len(jumps.at) >= 8
    np.testing.assert_allclose(jumps.mean, STEP, rtol=0.03)
    assert (np.abs(jumps.mean - STEP) < 4 * jumps.error).all()
    _, z, place, weight = places_of(strip)
    by_layer = places_by(z, place, weight)
    np.testing.assert_array_equal(by_layer.at, LAYERS)
    assert np.abs(by_layer.mean).max() < 0.05


def test_places__show_where_layers_lie_aside() -> None:
    strip, _ = strip_of(tree(0.4))
    along, z, place, weight = places_of(strip)
    by_layer = places_by(z, place, weight)
    np.testing.assert_allclose(by_layer.mean, np.where(LAYERS > 5, 0.4, 0.0), atol=0.06)
    assert np.abs(places_by(along, place, weight).mean - 0.18).max() < 0.08
    # A step out of reach of what is tried is nowhere.
    assert np.isnan(places_of(strip_of(tree(2.5))[0])[2][z > 5]).all()


def test_draw_fit__shows_step_jump_place_and_spectrum() -> None:
    page = drawn(tree())
    strip, jump, along, layer, spectrum = page.axes[:5]
    (curve,) = (line for line in strip.lines if line.get_color() == FIT)
    at, values = curve.get_data()
    np.testing.assert_allclose(values, 1e3 * STEP / 2 * erf(at / (WIDTH * np.sqrt(2))), atol=0.05)
    assert strip.get_ylabel() == "centre of mass − local mean (mdeg)"
    assert jump.get_ylabel() == "jump of the centre of mass (mdeg)"
    (mean,) = (line for line in jump.lines if line.get_color() == FIT)
    assert set(mean.get_ydata()) == {1e3 * STEP}
    for axes, label in ((along, "position along the trace (µm)"), (layer, "z (µm)")):
        assert axes.get_xlabel() == label
        points = next(line for line in axes.lines if line.get_color() == DATA and line.get_marker() == "o")
        assert np.abs(points.get_ydata()).max() < 0.1
    (mark,) = (line for line in spectrum.lines if line.get_marker() == "o")
    assert mark.get_color() == LINES[0]
    # A wave t − 0.1 z of 4 um has 1/4 along the trace, and −0.1/4 along z.
    np.testing.assert_allclose(np.ravel(mark.get_xydata()), [0.25, -0.025], atol=1e-6)
    image = spectrum.collections[0]
    ratio = np.ma.filled(image.get_array(), 0.0)
    assert ratio.max() > 1.3
    places = image.get_coordinates()
    row, column = np.unravel_index(ratio.argmax(), ratio.shape)
    np.testing.assert_allclose(places[row : row + 2, column : column + 2].mean(axis=(0, 1)), [0.25, -0.025], atol=0.02)
    assert "steps by −4.00 ± 0.10 mdeg towards the normal" in " ".join(
        " ".join(text.get_text() for text in page.texts).split()
    )


@pytest.mark.parametrize(
    ("missing", "panel", "said"),
    [
        (("com_phi",), 0, "no centre of mass"),
        (("com_phi",), 3, "no centre of mass"),
        (("weak_isolated",), 4, "no isolated weak beam"),
    ],
)
def test_draw_fit__without_a_map_says_so(missing: tuple[str, ...], panel: int, said: str) -> None:
    page = drawn(tree(drop=missing))
    assert said in page.axes[panel].texts[0].get_text()


@pytest.mark.parametrize(
    ("changed", "panel", "said"),
    [
        ({"step": [np.nan], "step_width": [np.nan], "reason": [FLAG["no_step"]]}, 1, "No step was fitted"),
        ({"corner": np.full((1, 4, 3), np.nan)}, 0, "no centre of mass"),
        ({"normal": [[0.0, 0.0, 1.0]]}, 2, "no centre of mass"),
    ],
)
def test_draw_fit__without_a_step_or_a_trace_says_so(changed: dict[str, Any], panel: int, said: str) -> None:
    page = drawn(tree(**changed))
    assert said in page.axes[panel].texts[0].get_text()


def test_draw_fit__says_that_a_boundary_is_curved() -> None:
    of = tree(reason=[FLAG["curved"]])
    found = tables_of(of)
    assert found is not None
    sentence = "The boundary is curved: its normal and position are those of the mean plane."
    assert sentence in " ".join(text.get_text() for text in drawn(of).texts)
    assert sentence in boundary_words(found, 0)
