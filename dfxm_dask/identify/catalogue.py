"""Catalogue of the straight dislocations of a lattice: slip planes, Burgers vectors, line directions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.lattice import Lattice, axes_of

LINE_ANGLES = 36
ALIKE = 6  # decimals of Miller components within which two directions are equal
SLIP = {"fcc": (((1, 1, 1), (1, 1, 0)),), "bcc": (((1, 1, 0), (1, 1, 1)), ((1, 1, 2), (1, 1, 1)))}
"""Families of slip planes and slip directions: {111}<110>; {110}<111> and {112}<111>."""


class Candidates(NamedTuple):
    """Straight dislocations of a cubic lattice, in the frame of the crystal.

    Attributes
    ----------
    burgers : array (candidate, xyz), float64
        Burgers vectors in units of the cell.
    line, plane_normal : array (candidate, xyz), float64
        Unit directions. A screw that glides on several planes has the normal of the first plane.
    angle : array (candidate,), float64, degree
        Angle from the Burgers vector to the line, about the plane normal.
    """

    burgers: np.ndarray
    line: np.ndarray
    plane_normal: np.ndarray
    angle: np.ndarray

    def take(self, rows: np.ndarray) -> Candidates:
        """These candidates alone."""
        return Candidates(*(column[rows] for column in self))


def _family(indices: tuple[int, int, int]) -> np.ndarray:
    """Directions of a family, both signs, in descending order."""
    order = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    signs = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    made = {tuple(s[k] * indices[p[k]] for k in range(3)) for p in order for s in signs}
    return np.array(sorted(made, reverse=True), np.float64)


def catalogue(
    kind: str = "fcc", *, angles: int = LINE_ANGLES, distinct: bool = True, visible_in: tuple[int, ...] | None = None
) -> Candidates:
    """Candidate dislocations of a cubic lattice.

    Parameters
    ----------
    kind : "fcc" or "bcc"
        a/2 <110> on {111}; a/2 <111> on {110} and {112}.
    angles : int
        Line directions in each slip plane, evenly over 360 degree from the Burgers vector.
    distinct : bool
        Keep one of each pair (b, t) and (-b, -t), which are the same dislocation, and one of the screws that several
        planes share. Otherwise every plane, Burgers vector of either sign, and line direction is a candidate.
    visible_in : (h, k, l), optional
        Leave out the screws with g·b = 0 for this reflection, which have no contrast.

    Returns
    -------
    Candidates
        The first component of b that is not zero is positive if ``distinct``.

    Raises
    ------
    InputError
        An unknown lattice, or a number of line directions that is not even and positive.

    Notes
    -----
    fcc with 36 line directions: 4 planes, 6 Burgers vectors in each plane, 36 directions: 864. Without the screws that
    one {111} reflection does not show: 840, the number of Borgi et al. (2025), J. Appl. Cryst. 58, 813. One of each
    pair: 432. With one of each shared screw: 420.

    Examples
    --------
    >>> len(catalogue(distinct=False).angle), len(catalogue(distinct=False, visible_in=(-1, 1, -1)).angle)
    (864, 840)
    >>> len(catalogue().angle), len(catalogue("bcc").angle)
    (420, 824)
    """
    if kind not in SLIP:
        raise InputError(f"catalogue: kind {kind!r}", "is not known", f"use one of {', '.join(SLIP)}")
    if angles < 2 or angles % 2:
        raise InputError("catalogue: angles", f"is {angles}", "give an even number of line directions from 2 on")
    rows = []
    turn = np.deg2rad(360.0 / angles * np.arange(angles))
    for planes, directions in SLIP[kind]:
        for n in _half(_family(planes)):
            for b in _family(directions):
                if abs(n @ b) > 1e-9:
                    continue
                normal, along = n / np.linalg.norm(n), b / np.linalg.norm(b)
                across = np.cross(normal, along)
                lines = np.cos(turn)[:, None] * along + np.sin(turn)[:, None] * across
                rows += [(b / 2, line, normal, angle) for line, angle in zip(lines, np.rad2deg(turn), strict=True)]
    made = Candidates(*(np.array(column) for column in zip(*rows, strict=True)))
    if visible_in is not None:
        g = np.asarray(visible_in, np.float64)
        across = np.linalg.norm(np.cross(made.burgers, made.line), axis=1)
        made = made.take((across > 1e-9) | (np.abs(made.burgers @ g) > 1e-9))
    return made.take(_distinct(made)) if distinct else made


def _half(vectors: np.ndarray) -> np.ndarray:
    """One of each pair of opposite vectors: that whose first component other than zero is positive."""
    return vectors[_positive(vectors)]


def _positive(vectors: np.ndarray) -> np.ndarray:
    first = np.argmax(np.abs(vectors) > 1e-9, axis=1)
    return vectors[np.arange(len(vectors)), first] > 0


def _distinct(candidates: Candidates) -> np.ndarray:
    """Rows of the first of each set of equal dislocations with b of positive sign."""
    positive = np.flatnonzero(_positive(candidates.burgers))
    keys = np.concatenate([candidates.burgers, candidates.line], axis=1).round(ALIKE) + 0.0
    seen: dict[bytes, int] = {}
    for row in positive:
        seen.setdefault(keys[row].tobytes(), int(row))
    return np.array(sorted(seen.values()))


def on_axes(candidates: Candidates, lattice: Lattice) -> Candidates:
    """Candidates in the axes x, y, z of a store, with Burgers vectors in um.

    Parameters
    ----------
    candidates : Candidates
        From :func:`catalogue`.
    lattice : Lattice
        ``parameter`` (um), and the crystal directions along the axes x and z of the store.

    Returns
    -------
    Candidates

    Raises
    ------
    InputError
        A lattice without a cell, or directions that are not at right angles.

    Examples
    --------
    >>> lattice = Lattice(parameter=4e-4, x=(1, 0, 0), z=(0, 0, 1))
    >>> on_axes(catalogue(), lattice).burgers[0].round(6).tolist()
    [0.0002, 0.0, -0.0002]
    """
    if lattice.vectors is not None or lattice.parameter is None:
        raise InputError("identify: lattice", "has vectors without a cell", "give kind, parameter, x and z")
    turn = axes_of(lattice)
    return Candidates(
        lattice.parameter * candidates.burgers @ turn.T,
        candidates.line @ turn.T,
        candidates.plane_normal @ turn.T,
        candidates.angle,
    )


def names(candidates: Candidates) -> list[str]:
    """Names of candidates in the frame of the crystal: Burgers vector, plane, and angle of the line.

    Examples
    --------
    >>> names(catalogue())[0]
    'a/2[1 0 -1] (1 1 1) 0°'
    """
    out = []
    for b, n, angle in zip(candidates.burgers, candidates.plane_normal, candidates.angle, strict=True):
        out.append(f"a/2[{_miller(2 * b)}] ({_miller(n / np.abs(n)[np.abs(n) > 1e-9].min())}) {angle:.0f}°")
    return out


def _miller(vector: np.ndarray) -> str:
    return " ".join(f"{round(value):d}" for value in vector)


def opposite(candidates: Candidates) -> np.ndarray:
    """Row of the dislocation with -b and the same line and plane, for every row of distinct candidates.

    Examples
    --------
    >>> found = catalogue()
    >>> rows = opposite(found)
    >>> bool((found.line[rows] == -found.line).all() or abs(found.line[rows] + found.line).max() < 1e-9)
    True
    """
    keys = np.concatenate([candidates.burgers, candidates.line], axis=1).round(ALIKE) + 0.0
    turned = np.concatenate([candidates.burgers, -candidates.line], axis=1).round(ALIKE) + 0.0
    rows = {key.tobytes(): row for row, key in enumerate(keys)}
    return np.array([rows.get(key.tobytes(), -1) for key in turned])
