"""Names of the deformations that a set of reflections does not determine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dfxm_dask.strain.goniometer import Reflections
from dfxm_dask.strain.solver import pattern

SMALL = 1e-6
"""Largest relative size of a part that counts as zero (our choice)."""


def undetermined(at: Reflections, measured: np.ndarray | None = None) -> list[str]:
    """Names of a basis of the undetermined deformations F - I, to first order.

    Parameters
    ----------
    at : Reflections
    measured : ndarray (reflection, angle), bool, optional
        Angles that are measured (two_theta, phi, chi); by default all of them.

    Returns
    -------
    list of str
        Rotations first, then strains, then combinations of both, with directions in the axes of the sample. Empty if F
        is determined.

    Examples
    --------
    >>> from dfxm_dask.strain.goniometer import reflections
    >>> setting = np.array([[9.0, 0.0, 0.0, 9.0]])
    >>> at = reflections(np.array([[0, 0, 1]]), setting, 3.0 * np.eye(3), np.array([0.65518]), deviation=0.01)
    >>> undetermined(at)[:2]
    ['rotation about z', 'strain along x']
    """
    measured = np.ones((len(at.theta), 3), bool) if measured is None else measured
    found = pattern(at, measured)
    null = -found.basis[:, found.rank :].T.reshape(-1, 3, 3).transpose(0, 2, 1)  # F - I = -H^T
    names = []
    for part, name in ((_symmetric, _rotation), (_antisymmetric, _strain)):
        inside, null = _without(null, part)
        names += [name(one) for one in _plain(inside)]
    return names + [f"{_rotation(_antisymmetric(one))} with {_strain(_symmetric(one))}" for one in _plain(null)]


def _without(tensors: np.ndarray, part: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bases of the space of those tensors whose given part vanishes, and of its complement."""
    if not len(tensors):
        return tensors, tensors
    turned, size, _ = np.linalg.svd(part(tensors).reshape(len(tensors), 9))
    turned = np.tensordot(turned.T, tensors, 1)
    count = int((size > SMALL).sum())
    return turned[count:], turned[:count]


def _plain(basis: np.ndarray) -> np.ndarray:
    """Basis of the same space with as many zeros as elimination gives, of unit norm."""
    flat = basis.reshape(len(basis), 9).copy()
    for row in range(len(flat)):
        largest = np.abs(flat[row:]).max(axis=0)
        column = int(np.argmax(largest > 0.3 * largest.max()))  # the first one that is not small
        best = row + int(np.argmax(np.abs(flat[row:, column])))
        flat[[row, best]] = flat[[best, row]]
        flat[row] /= flat[row, column]
        others = np.arange(len(flat)) != row
        flat[others] -= flat[others, column, None] * flat[row]
    flat[np.abs(flat) < SMALL] = 0.0
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).reshape(basis.shape)


def _symmetric(tensors: np.ndarray) -> np.ndarray:
    return 0.5 * (tensors + tensors.swapaxes(-1, -2))


def _antisymmetric(tensors: np.ndarray) -> np.ndarray:
    return 0.5 * (tensors - tensors.swapaxes(-1, -2))


def _rotation(tensor: np.ndarray) -> str:
    """Name of an antisymmetric tensor."""
    return f"rotation about {_direction(np.array([tensor[2, 1], tensor[0, 2], tensor[1, 0]]))}"


def _strain(tensor: np.ndarray) -> str:
    """Name of a symmetric tensor, by its principal strains."""
    size, axes = np.linalg.eigh(tensor)
    order = np.argsort(-np.abs(size).round(9), kind="stable")
    size, axes = size[order] / size[order[0]], axes[:, order]
    size[np.abs(size) < SMALL] = 0.0
    if np.ptp(size) < SMALL:
        return "equal strain in all directions"
    if size[1] == 0:
        return f"strain along {_direction(axes[:, 0])}"
    if size[2] == 0 and abs(size[1] + 1) < SMALL:
        pair = (_direction(axes[:, 0] + axes[:, 1]), _direction(axes[:, 0] - axes[:, 1]))
        return f"shear strain of {pair[0]} and {pair[1]}"
    for k in (0, 2):  # two equal ones have no directions of their own
        if abs(size[(k + 1) % 3] - size[(k + 2) % 3]) < SMALL:
            across, along = size[1], size[k]
            axis = _direction(axes[:, k])
            return f"strain {across:+.2f} perpendicular to {axis}, {along:+.2f} along {axis}"
    parts = [f"{s:+.2f} along {_direction(axes[:, k])}" for k, s in enumerate(size) if s]
    return f"strain {', '.join(parts)}"


def _direction(vector: np.ndarray) -> str:
    """Axis of the sample, or unit vector; the sign has no meaning."""
    unit = vector / np.linalg.norm(vector)
    unit = unit * np.sign(unit[int(np.argmax(np.abs(unit).round(6)))])
    for k, axis in enumerate("xyz"):
        if abs(unit[k] - 1) < SMALL:
            return axis
    return "[" + " ".join(f"{u + 0.0:.3f}" for u in unit.round(3)) + "]"
