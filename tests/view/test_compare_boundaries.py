"""Boundaries found beside true ones: partners by brute force, and rows whose numbers are known."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.view.boundaries.words import tables_of
from dfxm_dask.view.compare.boundaries import axis_angles, boundary_rows, found_dihedral, matched_planes, one_to_one
from dfxm_dask.view.compare.truth import truth_rows
from tests.view.boundary_tables import group, store

VECTOR = ("boundary", "xyz")


def truth(**changed: Any) -> xr.Dataset:
    """Two half planes that meet at x = 10, y = 12, and a whole plane that was not found.

    The first runs to -y: it is the wall of :func:`tests.view.boundary_tables.group`, its normal reversed and turned by
    2 degree about z, with two sets of lines. The second runs to +x.
    """
    turn = np.deg2rad(2.0)
    values: dict[str, Any] = {
        "normal": (VECTOR, [[-np.cos(turn), -np.sin(turn), 0], [0, -1.0, 0], [0, 0, 1.0]]),
        "origin": (VECTOR, [[10.0, 12, 5], [10, 12, 5], [15, 12, 2]]),
        "line": (VECTOR, [[0.0, 0, 1], [0, 0, 1], [1, 0, 0]]),
        "axis": (VECTOR, [[0.0, 0.6, 0.8], [0, 1, 0], [0, 0, 1]]),
        "misorientation": ("boundary", [8e-5, 5e-5, 4e-5]),
        "dihedral": ("boundary", [88.0, 272.0, np.nan]),
        "twist": ("boundary", [False, False, True]),
        "set_boundary": ("set", [0, 0, 1, 2]),
        "set_line": (("set", "xyz"), [[0, np.sin(0.1), np.cos(0.1)], [0, 1.0, 0], [0, 0, 1], [1, 0, 0]]),
        "set_spacing": ("set", [4.1, 7.0, 5.5, 3.0]),
    }
    return xr.Dataset(values | changed)


def rows_of(found: xr.Dataset, known: xr.Dataset) -> dict[str, tuple[str, str]]:
    rows = boundary_rows(store(found), known)
    assert len({row[0] for row in rows}) == len(rows)
    return {name: (value, true) for name, value, true in rows}


def partners(found: xr.Dataset, known: xr.Dataset) -> tuple[dict[int, int], np.ndarray, np.ndarray]:
    made = tables_of(store(found))
    assert made is not None
    return matched_planes(made, known)


def test_axis_angles__are_exact_when_small() -> None:
    angles = 10.0 ** np.arange(-8, 2)
    b = np.stack([np.cos(np.deg2rad(angles)), -np.sin(np.deg2rad(angles)), 0 * angles], 1)
    np.testing.assert_allclose(axis_angles(np.array([[-1.0, 0, 0]]), b)[0], angles, rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_one_to_one__has_most_partners_and_then_least_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = np.where(rng.random((4, 3)) < 0.5, np.inf, rng.uniform(0, 10, (4, 3)))
    found = one_to_one(cost)
    assert len(set(found.values())) == len(found)
    tried = []
    for order in permutations(range(4), 3):
        pairs = [cost[r, c] for c, r in enumerate(order) if np.isfinite(cost[r, c])]
        tried.append((-len(pairs), sum(pairs)))
    best = min(tried)
    assert len(found) == -best[0]
    assert sum(cost[r, c] for c, r in found.items()) == pytest.approx(best[1])
    assert one_to_one(np.full((2, 2), np.inf)) == one_to_one(np.zeros((0, 2))) == {}


def test_matched_planes__are_by_angle_and_distance_one_to_one() -> None:
    found = group()
    centre = found["centre"].values
    pairs, angle, distance = partners(found, truth())
    assert pairs == {0: 0, 1: 1}
    assert angle[:, 0].tolist() == [pytest.approx(2.0), pytest.approx(88.0)]
    # The centre lies at x = 10, y = 11: 1 um from the junction along a plane turned by 2 degree about it.
    assert distance[0, 0] == pytest.approx(np.sin(np.deg2rad(2.0)))
    assert partners(group(centre=centre + [[5.1, 0, 0], [0, 0, 0]]), truth())[0] == {1: 1}
    # The other side of the junction is beyond the end of the half plane.
    assert partners(group(centre=centre + [[0, 7, 0], [0, 0, 0]]), truth())[0] == {1: 1}
    turned = np.deg2rad(9.0)
    normal = np.array([[np.cos(turned), -np.sin(turned), 0], [0, 1.0, 0]])
    assert partners(group(normal=normal), truth())[0] == {1: 1}
    # Two planes near one true boundary: the nearer one is it, and the other is invented.
    twice = group(normal=np.array([[1.0, 0, 0]] * 2), centre=np.array([[11.0, 11, 5], [10.1, 11, 5]]))
    assert partners(twice, truth())[0] == {0: 1}


def test_boundary_rows__have_the_known_numbers() -> None:
    rows = rows_of(group(), truth())
    name = "boundary 0 (tilt of 80 µrad)"
    assert rows["true boundaries found"] == ("2", "3")
    assert rows["false boundaries"] == ("0", "0")
    assert rows[f"{name}, found as 0: angle between normals"] == ("2.00 ± 0.31°", "0°")
    assert rows[f"{name}: distance from the plane"] == ("0.0349 µm", "0 µm")
    # 0.1 rad between the lines.
    assert rows[f"{name}, lines 1 of 2: angle between them"] == ("5.73 ± 0.42°", "0°")
    assert rows[f"{name}, lines 1 of 2: period"] == ("4.020 ± 0.030 µm", "4.1 µm")
    assert rows[f"{name}, lines 1 of 2: mean gap"] == ("3.990 ± 0.012 µm", "4.1 µm")
    assert rows[f"{name}, lines 2 of 2: spacing"] == ("not found", "7 µm")
    assert rows[f"{name}: angle between subgrains, by b/D"] == ("71 µrad", "80 µrad")
    # Turned by 48 µrad about y: the peak moves by -2.75 mdeg, and by +2.75 seen from the side of the found normal.
    assert rows[f"{name}: jump of the peak along phi"] == ("−4.10 ± 0.20 mdeg", "2.75 mdeg")
    second = "boundary 1 (tilt of 50 µrad)"
    assert rows[f"{second}, found as 1: angle between normals"] == ("0.000 ± 0.052°", "0°")
    assert rows[f"{second}, lines: spacing"] == ("not found", "5.5 µm")
    assert rows[f"{second}: angle between subgrains, by b/D"] == ("not known", "50 µrad")
    assert rows[f"{second}: jump of the peak along phi"] == ("not known", "2.86 mdeg")
    assert rows["boundary 2 (twist of 40 µrad): plane"] == ("not found", "present")
    assert rows["dihedral angle from boundary 0 to 1"] == ("90.00 ± 0.50°", "88°")
    assert not any("boundary 2" in name for name in rows if "dihedral" in name)


def test_boundary_rows__count_families_that_are_not_true() -> None:
    line = group()["line"].values.copy()
    line[0, 1] = [0, np.cos(0.8), np.sin(0.8)]
    rows = rows_of(group(line=line), truth())
    assert rows["boundary 0 (tilt of 80 µrad): false families of lines"] == ("1", "0")
    assert rows["boundary 0 (tilt of 80 µrad), lines 2 of 2: spacing"] == ("not found", "7 µm")


def test_boundary_rows__of_a_volume_without_boundaries() -> None:
    assert boundary_rows(store(), truth()) == []
    assert list(rows_of(group(0), truth()).items())[:3] == [
        ("true boundaries found", ("0", "3")),
        ("false boundaries", ("0", "0")),
        ("boundary 0 (tilt of 80 µrad): plane", ("not found", "present")),
    ]
    assert rows_of(group(), xr.Dataset()) == {
        "true boundaries found": ("0", "0"),
        "false boundaries": ("2", "0"),
    }
    assert truth_rows(store(group()), truth()) == boundary_rows(store(group()), truth())
    assert len(boundary_rows(store(group()), truth())) > 10


def ring(line: float) -> dict[str, np.ndarray]:
    """Three half planes: 0, then 2 after 110 degree, then 1 after 120, counter-clockwise about z times ``line``."""
    found = tables_of(
        store(
            group(
                junction_direction=np.array([[0.0, 0, line]]),
                junction_boundary=np.array([[0, 2, 1, -1, -1, -1]]),
                dihedral=np.array([[110.0, 120, 130, *[np.nan] * 3]]),
                dihedral_error=np.array([[1.0, 2, 3, *[np.nan] * 3]]),
            )
        )
    )
    assert found is not None
    return found


def test_found_dihedral__follows_the_sense_of_the_line() -> None:
    up = np.array([0.1, 0, 1.0])
    assert found_dihedral(ring(1.0), 0, 2, up) == (110.0, 1.0)
    assert found_dihedral(ring(1.0), 1, 0, up) == (130.0, 3.0)
    assert found_dihedral(ring(1.0), 2, 0, up) is None
    assert found_dihedral(ring(-1.0), 2, 0, up) == (110.0, 1.0)
    assert found_dihedral(ring(-1.0), 0, 2, up) is None
    assert found_dihedral(ring(1.0), 2, 0, -up) == (110.0, 1.0)
    assert found_dihedral(ring(1.0), 0, 3, up) is None
    assert found_dihedral(ring(1.0) | {"junction_kind": np.array([4])}, 0, 2, up) is None  # planes that cross
