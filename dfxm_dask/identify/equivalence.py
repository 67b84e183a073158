"""Dislocations that no image of given reflections can distinguish."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import Candidates
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z

ALIKE = 1e-6
"""Largest relative rms difference of equal fields."""


class Equivalence(NamedTuple):
    """Classes of dislocations with equal images.

    Attributes
    ----------
    equal : array (candidate,), int64
        Number of the class: candidates of one class have the same image in every frame.
    turned : array (candidate,), int64
        The same if an image and the image turned by 180 degree about the core count as one.
    hidden : array (candidate,), bool
        No contrast in any reflection, to first order.
    """

    equal: np.ndarray
    turned: np.ndarray
    hidden: np.ndarray


def equivalent(
    candidates: Candidates,
    hkl: Sequence[tuple[int, int, int]],
    *,
    energy: float,
    parameter: float,
    axes: Sequence[str] = ("phi",),
    turn: Sequence[float] | None = None,
    poisson: float = 0.334,
) -> Equivalence:
    """Candidates that cannot be distinguished in principle by scans of these reflections.

    Parameters
    ----------
    candidates : Candidates
        From :func:`dfxm_dask.identify.catalogue.catalogue`, in the frame of the crystal.
    hkl : sequence of (h, k, l)
        Reflections of the cubic lattice.
    energy : float, keV
    parameter : float, um
        Edge of the cell.
    axes : sequence of str
        Axes that the scans move: ``phi``, ``chi``, ``two_theta``.
    turn : sequence of float, rad, optional
        Rotation of the crystal about the scattering vector of every reflection, as in ``visibility``.
    poisson : float

    Returns
    -------
    Equivalence

    Raises
    ------
    InputError
        Unknown axes, a reflection out of reach, or another number of rotations than of reflections.

    Notes
    -----
    Fields dq = -beta^T g/|g| are compared at 72 points of three heights around the core. The acceptance is even in
    dq, and even in its rolling component: the sign of dq along the axes that the scan does not move has no effect on
    any frame (chi: the rolling component; phi and two_theta: the other two together).

    (b, t) and (-b, -t) are one dislocation, and a screw belongs to every slip plane that contains it. -b at the point
    -r has the field of b at r, so that b and -b differ by a rotation of the image. If g is normal to the slip plane,
    only the edge part of b acts: Burgers vectors with equal edge parts have equal images. Our own definition.

    Examples
    --------
    >>> from dfxm_dask.identify.catalogue import catalogue
    >>> every = catalogue(distinct=False)
    >>> found = equivalent(every, [(-1, 1, -1)], energy=17.0, parameter=4.05e-4, turn=[0.7])
    >>> len(every.angle), len(set(found.equal)), len(set(found.equal[~found.hidden]))
    (864, 397, 396)
    """
    for axis in axes:
        if axis not in ("phi", "chi", "two_theta"):
            raise InputError(f"equivalent: axis {axis!r}", "is not known", "use phi, chi or two_theta")
    turns = [0.0] * len(hkl) if turn is None else list(turn)
    if len(turns) != len(hkl) or not hkl:
        raise InputError("equivalent: turn", f"has {len(turns)} values for {len(hkl)} reflections", "give one for each")
    count = len(candidates.angle)
    equal, turned = np.ones((count, count), bool), np.ones((count, count), bool)
    hidden = np.ones(count, bool)
    for one, angle in zip(hkl, turns, strict=True):
        field = _fields(candidates, one, energy, parameter, angle, poisson)
        size = np.sqrt((field**2).mean(axis=(1, 2)))
        hidden &= size < ALIKE * size.max()
        field = np.where((size < ALIKE * size.max())[:, None, None], 0.0, field)
        same, half_turn = np.zeros((count, count), bool), np.zeros((count, count), bool)
        for sign in _signs(axes):
            same |= _alike(field, field * sign)
            half_turn |= _alike(field, field[:, ::-1] * sign)
        equal &= same
        turned &= same | half_turn
    classes = [connected_components(pairs)[1].astype(np.int64) for pairs in (equal, turned)]
    return Equivalence(classes[0], classes[1], hidden)


def _signs(axes: Sequence[str]) -> list[np.ndarray]:
    """Signs of the rocking, rolling and strain component of dq under which no frame changes."""
    roll = (1,) if "chi" in axes else (1, -1)
    other = (1,) if {"phi", "two_theta"} & set(axes) else (1, -1)
    return [np.array([a, b, a]) for a, b in product(other, roll)]


def _fields(
    candidates: Candidates, hkl: tuple[int, int, int], energy: float, parameter: float, turn: float, poisson: float
) -> np.ndarray:
    """dq (candidate, point, component) in the image frame; point -1 - n is point n turned by 180 degree about z."""
    g = np.asarray(hkl, np.float64)
    sine = 1e-4 * wavelength(energy) * np.linalg.norm(g) / (2 * parameter)
    if not 0 < sine < 1:
        raise InputError(
            f"equivalent: reflection {' '.join(map(str, hkl))}",
            f"does not diffract at {energy:g} keV",
            "give other indices or a higher energy",
        )
    theta = float(np.arcsin(sine))
    to_sample = rotation_z(turn) @ orientation(hkl)
    to_laboratory = rotation_y(-theta) @ to_sample
    psi = (np.arange(12) + 0.37) * np.pi / 12
    ring = np.stack([np.cos(psi), np.sin(psi), 0 * psi], axis=1)
    half = np.concatenate([ring + [0, 0, height] for height in (-0.3, 0.0, 0.3)])
    points = np.concatenate([half, (half * [-1, -1, -1])[::-1]]) @ to_laboratory
    out = []
    for b, t in zip(candidates.burgers, candidates.line, strict=True):
        beta = gradient(points, lines(np.zeros(3), b, t, 1e-3), poisson=poisson).reshape(-1, 3, 3)
        out.append(-np.einsum("pij,i->pj", beta, g / np.linalg.norm(g)) @ (rotation_y(theta) @ to_sample).T)
    return np.stack(out)


def _alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs (candidate, candidate) of fields whose difference is below ``ALIKE``."""
    a, b = (field.reshape(len(field), -1) for field in (first, second))
    scale = np.sqrt((a**2).sum(axis=1).max())
    a, b = a / scale, b / scale
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return square < ALIKE**2
