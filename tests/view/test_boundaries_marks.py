"""Marks of boundaries: junctions and crossings, reasons in words, cones of errors, planes clipped to the data."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.step import REASONS
from dfxm_dask.view.boundaries.scene import clipped, cone, draw_scene
from dfxm_dask.view.boundaries.words import REASON_WORDS, boundary_words
from tests.view.test_boundaries import keys, tables


@pytest.mark.parametrize(
    ("kind", "halves", "boundary", "said"),
    [
        (
            1,
            [0, 1, 0],
            0,
            "It meets boundary 1 in a line along (0.000, 0.000, 1.000). Dihedral angles: 0 to 1,",
        ),
        (2, [0, 1, 0], 0, "Boundary 1 ends on it in a line"),
        (2, [0, 1, 0], 1, "It ends on boundary 0 in a line"),
        (4, [0, 1, 0], 1, "It crosses boundary 0 in a line along (0.000, 0.000, 1.000); no end of either"),
    ],
)
def test_boundary_words__tell_junctions_from_crossings(kind: int, halves: list, boundary: int, said: str) -> None:
    found = tables(junction_kind=[kind], junction_boundary=[[*halves, -1, -1, -1]])
    text = " ".join(boundary_words(found, boundary))
    assert said in text
    assert ("Dihedral" in text) == (kind != 4)
    scene = keys(draw_scene(found))
    assert ("boundaries cross here: no junction" in scene) == (kind == 4)
    assert ("junction: boundaries end here" in scene) == (kind != 4)


def test_boundary_words__name_the_second_reading_of_lines() -> None:
    alias, spacing = np.full((2, 2, 3), np.nan), np.full((2, 2), np.nan)
    alias[0, 0], spacing[0, 0] = [0.6, 0.0, 0.8], 1.63
    first, other = (" ".join(boundary_words(tables(line_alias=alias, spacing_alias=spacing), k)) for k in (0, 1))
    assert "(or lines along (0.600, 0.000, 0.800) every 1.63 µm)" in first
    assert "or lines along" not in other


@pytest.mark.parametrize("reason", REASONS)
def test_boundary_words__have_a_sentence_for_every_reason(reason: tuple[int, str]) -> None:
    bit, name = reason
    said = boundary_words(tables(reason=[bit, 0]), 0)
    assert said[-1] == f"{REASON_WORDS[name]}."
    assert boundary_words(tables(reason=[bit, 0]), 1)[-1] != said[-1]
    marks = {"curved": "; curved", "weak_beam_place": "; position from the weak beam", "faint_step": "; faint step"}
    in_key = marks.get(name, "0.31°")
    assert keys(draw_scene(tables(reason=[bit, 0])))[0].endswith(in_key)


def test_cone__has_the_angle_of_the_error() -> None:
    for axis, angle in (([0.0, 0, 1], 5.0), ([0.6, 0.8, 0], 20.0), ([-0.36, 0.48, 0.8], 0.1)):
        sides = cone(np.array([1.0, 2, 3]), np.array(axis), 4.0, angle)
        rim = sides[:, 1:].reshape(-1, 3) - [1, 2, 3]
        turn = np.arccos(rim @ np.array(axis) / np.linalg.norm(rim, axis=1))
        np.testing.assert_allclose(np.rad2deg(turn), angle, atol=1e-5)
        np.testing.assert_allclose(rim @ np.array(axis), 4.0)
    assert "normal and its error, drawn 30 times as large" in keys(draw_scene(tables()))
    assert "normal and its error" in keys(draw_scene(tables(normal_error=[8.0, 0.1])))
    assert "normal and its error" in keys(draw_scene(tables(normal_error=[np.nan, np.nan])))


def test_clipped__leaves_what_is_inside_the_box() -> None:
    low, high = np.zeros(3), np.array([10.0, 8, 6])
    ring = np.array([[-5.0, 4, 1], [12, 4, 1], [12, 4, 9], [-5, 4, 9]])
    inside = clipped(ring, low, high)
    np.testing.assert_allclose(sorted(map(tuple, inside)), [(0, 4, 1), (0, 4, 6), (10, 4, 1), (10, 4, 6)])
    assert len(clipped(ring + [0, 9, 0], low, high)) == 0
    np.testing.assert_array_equal(clipped(ring / 20 + 2, low, high), ring / 20 + 2)
