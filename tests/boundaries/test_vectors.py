"""Rows of Burgers vectors of one boundary: what is stated, what is left open, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfxm_dask.boundaries.tables import empty_tables
from dfxm_dask.boundaries.vectors.burgers import rotation_of_wall
from dfxm_dask.boundaries.vectors.tables import FLAG, crystal_options, give_vectors, known_crystal
from dfxm_dask.optics.defects.lattice import Crystal, Lattice, crystal_of

S, C = np.sin(np.deg2rad(10.0)), np.cos(np.deg2rad(10.0))
LATTICE = {"parameter": 4.05e-4, "x": (C * 0.8, C * 0.6, -S), "z": (S * 0.8, S * 0.6, C)}
CRYSTAL = crystal_of(Lattice(**LATTICE, hkl=(0, 0, 2)))
NO_CELLS = np.zeros((0, 9))


def rows(sets: list[tuple[int, np.ndarray, float]], normal: np.ndarray, **changed: Any) -> tuple[dict, np.ndarray]:
    """Tables of one boundary of sets (candidate, line, spacing), all numbers true; and its rotation."""
    made = empty_tables(1, len(CRYSTAL.burgers))
    line = np.array([one / np.linalg.norm(one) for _, one, _ in sets])
    spacing = np.array([d for _, _, d in sets])
    turn, residual = rotation_of_wall(normal, line, spacing, CRYSTAL.burgers[[b for b, _, _ in sets]])
    assert residual < 1e-9
    count = len(sets)
    made["normal"][0], made["normal_error"][0] = normal, 0.5
    made["line"][0, :count], made["line_error"][0, :count] = line, 0.5
    made["spacing"][0, :count], made["spacing_error"][0, :count] = spacing, 0.02 * spacing
    made["gap"][0], made["lines"][0, :count] = made["spacing"][0], 9
    made["step"][0], made["step_error"][0] = -np.rad2deg(turn[1]), 0.02 * abs(np.rad2deg(turn[1]))
    made["corner"][0] = np.zeros((4, 3))
    for name, values in changed.items():
        made[name][0] = values
    return made, turn


def tilt(number: int) -> tuple[list, np.ndarray]:
    normal = CRYSTAL.burgers[number] / np.linalg.norm(CRYSTAL.burgers[number])
    return [(number, np.cross(normal, [0.3, 0.1, 0.9]), 4.0)], normal


def twist(first: int) -> tuple[list, np.ndarray]:
    """Two screws at right angles: (first, first + 1) of the six of fcc lie on a cube face."""
    normal = np.cross(CRYSTAL.burgers[first], CRYSTAL.burgers[first + 1])
    return [(k, CRYSTAL.burgers[k], 4.1) for k in (first, first + 1)], normal / np.linalg.norm(normal)


@pytest.mark.parametrize("wall", [tilt(0), tilt(2), tilt(5), twist(0), twist(2), twist(4)])
def test_vectors__are_stated_with_sign_product_and_rotation(wall: tuple) -> None:
    made, turn = rows(*wall)
    give_vectors(made, 0, CRYSTAL, NO_CELLS, along_phi=True, seed=0)
    signed = abs(turn[1]) > 0.1 * np.linalg.norm(turn)
    for m, (number, _, _) in enumerate(wall[0]):
        assert made["burgers_probability"][0, m].argmax() == number
        assert made["burgers_probability"][0, m].max() > 0.9
        assert made["burgers_probability"][0, m].sum() == pytest.approx(1)
        assert abs(made["g_dot_b"][0, m]) == abs(CRYSTAL.products[number])
        assert made["burgers_reason"][0, m] == FLAG["no_image"]
        if signed:
            np.testing.assert_allclose(made["burgers"][0, m], CRYSTAL.burgers[number], atol=1e-12)
            assert made["g_dot_b"][0, m] == CRYSTAL.products[number]
            assert made["g_dot_b_probability"][0, m] > 0.9
    assert made["misorientation"][0] == pytest.approx(np.linalg.norm(turn), rel=0.02)
    assert 0 < made["misorientation_error"][0] < 0.05 * np.linalg.norm(turn)
    assert abs(made["step_expected"][0]) == pytest.approx(abs(np.rad2deg(turn[1])), rel=0.02)
    assert 0 < made["step_expected_error"][0] < 1e-3


BETWEEN = CRYSTAL.burgers[2] + CRYSTAL.burgers[0] * np.sign(CRYSTAL.burgers[2] @ CRYSTAL.burgers[0])
BETWEEN = BETWEEN / np.linalg.norm(BETWEEN)


@pytest.mark.parametrize(
    ("changed", "crystal", "reason"),
    [
        ({"spacing": np.nan, "gap": np.nan}, CRYSTAL, "no_spacing"),
        ({"line_error": np.nan}, CRYSTAL, "no_error"),
        ({"normal_error": np.nan}, CRYSTAL, "no_error"),
        ({"step": 0.009, "step_error": 1e-4}, CRYSTAL, "hidden_lines"),  # turned by more than the lines carry
        ({}, Crystal(CRYSTAL.burgers, None, None), "no_reflection"),
        ({"normal_error": 20.0, "step": np.nan, "towards": BETWEEN}, CRYSTAL, "unsure"),
    ],
)
def test_vectors__say_why_they_are_open(changed: dict, crystal: Crystal, reason: str) -> None:
    towards = changed.get("towards")
    made, _ = rows(*tilt(2), **{name: value for name, value in changed.items() if name != "towards"})
    if towards is not None:  # as far from one Burgers vector as from another
        made["normal"][0] = towards
        line = np.cross(CRYSTAL.burgers[0], CRYSTAL.burgers[2])
        made["line"][0, 0] = line / np.linalg.norm(line)
    give_vectors(made, 0, crystal, NO_CELLS, along_phi=True, seed=0)
    assert made["burgers_reason"][0, 0] & FLAG[reason]
    assert made["burgers_reason"][0, 1] == FLAG["no_spacing"]
    known = np.isfinite(made["burgers_probability"][0, 0]).all()
    assert known == (reason not in ("no_spacing", "no_error"))
    assert np.isfinite(made["g_dot_b"][0, 0]) == (known and reason != "no_reflection")
    assert np.isfinite(made["misorientation_error"][0]) == (reason in ("no_reflection", "unsure"))
    if known and reason in ("hidden_lines", "unsure"):
        assert made["burgers_probability"][0, 0].max() < 0.9


def test_vectors__of_errors_that_are_zero_are_stated() -> None:
    made, turn = rows(*tilt(2), normal_error=0.0, line_error=0.0, spacing_error=0.0, step_error=0.0)
    give_vectors(made, 0, CRYSTAL, NO_CELLS, along_phi=True, seed=0)
    assert made["burgers_probability"][0, 0, 2] > 0.9
    assert made["misorientation"][0] == pytest.approx(np.linalg.norm(turn))


def test_vectors__of_a_mean_gap_are_less_certain() -> None:
    sharp, _ = rows(*tilt(4))
    wide, _ = rows(*tilt(4), spacing=np.nan)
    for made in (sharp, wide):
        give_vectors(made, 0, CRYSTAL, NO_CELLS, along_phi=True, seed=0)
        assert made["burgers_probability"][0, 0].argmax() == 4
    assert wide["misorientation_error"][0] > 5 * sharp["misorientation_error"][0]


@pytest.mark.parametrize("wall", [tilt(0), tilt(3), twist(2)])
def test_vectors__of_lines_with_a_second_direction_say_that_they_hold_for_the_first(wall: tuple) -> None:
    for second in (False, True):
        alias = np.full((2, 3), np.nan)
        alias[0] = [1.0, 0, 0] if second else np.nan
        made, _ = rows(*wall, line_alias=alias)
        give_vectors(made, 0, CRYSTAL, NO_CELLS, along_phi=True, seed=0)
        marked = (made["burgers_reason"][0] & FLAG["of_first_direction"]) > 0
        assert marked.tolist() == [second, False]


def test_crystal__goes_through_the_summary_of_a_layer() -> None:
    for lattice in (None, Lattice(**LATTICE), Lattice(**LATTICE, hkl=(0, 0, 2))):
        options = crystal_options(lattice, along_phi=True)
        back = known_crystal(options)
        assert len(back.burgers) == (0 if lattice is None else 6)
        assert (back.products is None) == (lattice is None or lattice.hkl is None) == (back.theta is None)
    before = {"option_burgers": CRYSTAL.burgers}  # of an earlier version
    assert known_crystal(before).products is None
