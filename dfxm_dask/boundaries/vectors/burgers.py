"""Burgers vectors of a wall: lattice vectors that rotate one side against the other without long-range strain."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.errors import InputError

LARGEST_FIT = 3  # families of one wall; more combinations take too long (our choice)


def _vectors(name: str, values: np.ndarray) -> np.ndarray:
    """Finite vectors (number, xyz) of positive length, checked."""
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != 3 or not np.isfinite(values).all():
        raise InputError(name, f"{values.shape} {values.tolist()}"[:120], "give finite vectors (number, xyz)")
    if not (np.linalg.norm(values, axis=1) > 0).all():
        raise InputError(name, "contain a vector of length zero", "give directions")
    return values


def rotation_of_wall(
    normal: np.ndarray, line: np.ndarray, spacing: np.ndarray, burgers: np.ndarray
) -> tuple[np.ndarray, float]:
    """Rotation across a wall of given dislocations, and the fraction of their content not due to a rotation.

    Parameters
    ----------
    normal : array (xyz,)
        Unit vector.
    line : array (family, xyz)
        Unit vectors in the plane.
    spacing : array (family,), um
    burgers : array (family, xyz), um
        Signs belong to those of the lines: both reversed describe the same dislocation.

    Returns
    -------
    rotation : array (xyz,), float64, rad
        Rotation of the lattice on the side of the normal relative to the other side; of length 2 sin(angle/2).
    residual : float
        Norm of the content that no rotation explains, over the norm of all: 0 for a wall without long-range stress;
        sqrt(1/2) for one family of screws, which is half a twist; 1 for edges with b in the plane.

    Raises
    ------
    InputError
        Vectors of length zero or not finite, arrays that do not fit, spacings that are not positive.

    Notes
    -----
    Frank's rule, for every v in the plane (Frank 1950; Hirth and Lothe, section 19-3)::

        Σ_i b_i (N_i·v) / D_i = v × rotation,  N_i = normal × line_i

    solved for the rotation by least squares over two v at right angles. The densities for a given rotation are computed
    by :func:`dfxm_dask.optics.defects.walls.frank_bilby`.

    Examples
    --------
    Edges with b along the normal, 4.1 um apart: the published spacing of a wall of 0.0040 degree.

    >>> rotation, residual = rotation_of_wall([1, 0, 0], [[0, 0, 1]], [4.1], [[2.86e-4, 0, 0]])
    >>> np.rad2deg(rotation).round(6).tolist(), residual
    ([0.0, 0.0, -0.003997], 0.0)
    """
    normal = _vectors("rotation_of_wall: normal", np.atleast_2d(normal))[0]
    normal = normal / np.linalg.norm(normal)
    line, burgers = _vectors("rotation_of_wall: line", line), _vectors("rotation_of_wall: burgers", burgers)
    spacing = np.asarray(spacing, np.float64)
    if not len(line) == len(burgers) == spacing.size:
        raise InputError(
            "rotation_of_wall",
            f"{len(line)} lines, {spacing.size} spacings, {len(burgers)} Burgers vectors",
            "give one of each for every family",
        )
    if not ((spacing > 0) & (spacing < np.inf)).all():
        raise InputError("rotation_of_wall: spacing", f"is {spacing.tolist()} um", "give lengths above zero")
    content, turning = _equations(normal, line / np.linalg.norm(line, axis=1, keepdims=True), spacing, burgers)
    rotation, residual = _solved(content, turning)
    return rotation, residual


def _equations(
    normal: np.ndarray, line: np.ndarray, spacing: np.ndarray, burgers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Content of two directions in the plane (6,), and the matrix (6, 3) from a rotation to its content."""
    plane = in_plane(normal)
    across = np.cross(normal, line)
    content = np.einsum("m,mi,vm->vi", 1 / spacing, burgers, plane @ across.T).reshape(6)
    turning = np.concatenate([np.cross(v, np.eye(3)).T for v in plane])
    return content, turning


def _solved(content: np.ndarray, turning: np.ndarray) -> tuple[np.ndarray, float]:
    """Rotation of least squares, and its relative residual."""
    rotation, *_ = np.linalg.lstsq(turning, content, rcond=None)
    size = float(np.linalg.norm(content))
    return rotation, float(np.linalg.norm(turning @ rotation - content)) / size if size else 0.0


class Assignment(NamedTuple):
    """Possible Burgers vectors of a wall, best first.

    Attributes
    ----------
    burgers : array (assignment, family, xyz), float64, um
        With the sign that belongs to the given line; that of the first family is one of the candidates as given, since
        all signs reversed rotate the other way and are equivalent.
    rotation : array (assignment, xyz), float64, rad
    residual : array (assignment,), float64
        See :func:`rotation_of_wall`.
    misfit : array (assignment,), float64, degree
        Angle whose sine is the residual: for one family of edges, that between b and the normal.
    twist : array (assignment,), float64
        |rotation · normal| / |rotation|: 0 tilt, 1 twist.
    """

    burgers: np.ndarray
    rotation: np.ndarray
    residual: np.ndarray
    misfit: np.ndarray
    twist: np.ndarray


def burgers_of_wall(
    normal: np.ndarray, line: np.ndarray, spacing: np.ndarray, candidates: np.ndarray, *, most: int = 6
) -> Assignment:
    """Lattice Burgers vectors for the families of a wall, in order of their long-range stress.

    Parameters
    ----------
    normal : array (xyz,)
        Unit vector.
    line : array (family, xyz)
        One to three families.
    spacing : array (family,), um
    candidates : array (candidate, xyz), um
        Returned by :func:`dfxm_dask.optics.crystal.burgers_vectors`, rotated into the axes of the store.
    most : int
        Largest number of assignments.

    Returns
    -------
    Assignment

    Raises
    ------
    InputError
        No family, more than three; see also :func:`rotation_of_wall`.

    Notes
    -----
    Every combination of candidates and signs is tried in Frank's rule. One family of edges is a tilt wall: the best
    candidate is the one nearest to the normal. A twist wall needs two families of screws; a single one has a residual
    of sqrt(1/2), which indicates a family that is invisible in the reflection. Residuals that differ by less than the
    errors of normal, line and spacing are not decisive.

    Examples
    --------
    Two families of screws at right angles: a twist wall.

    >>> b = 2.86e-4 / np.sqrt(2) * np.array([[0, 1, 1], [0, 1, -1], [1, 0, 1], [1, 0, -1], [1, 1, 0], [1, -1, 0]])
    >>> fit = burgers_of_wall([1, 0, 0], [[0, 1, 1], [0, 1, -1]], [4.1, 4.1], b)
    >>> (fit.burgers[0] / b[0, 1]).round(6).tolist(), fit.residual[:1].round(6), fit.twist[:1].round(6)
    ([[0.0, 1.0, 1.0], [0.0, 1.0, -1.0]], array([0.]), array([1.]))
    """
    line = _vectors("burgers_of_wall: line", line)
    candidates = _vectors("burgers_of_wall: candidates", candidates)
    if not 1 <= len(line) <= LARGEST_FIT:
        raise InputError("burgers_of_wall", f"{len(line)} families of lines", f"give one to {LARGEST_FIT}")
    rotation_of_wall(normal, line, spacing, np.tile(candidates[0], (len(line), 1)))  # refuses invalid arguments
    spacing = np.asarray(spacing, np.float64)
    normal = np.asarray(normal, np.float64) / np.linalg.norm(normal)
    line = line / np.linalg.norm(line, axis=1, keepdims=True)
    signed = np.concatenate([candidates, -candidates])
    rows = []
    for chosen in product(candidates, *[signed] * (len(line) - 1)):
        burgers = np.array(chosen)
        rotation, residual = _solved(*_equations(normal, line, spacing, burgers))
        rows.append((residual, rotation, burgers))
    order = np.argsort([round(residual, 9) for residual, _, _ in rows], kind="stable")[:most]
    residuals = np.array([rows[k][0] for k in order])
    rotations = np.array([rows[k][1] for k in order])
    size = np.linalg.norm(rotations, axis=1)
    twist = np.abs(rotations @ normal) / np.where(size > 0, size, 1.0)
    misfit = np.rad2deg(np.arcsin(np.minimum(residuals, 1.0)))
    return Assignment(np.array([rows[k][2] for k in order]), rotations, residuals, misfit, twist)


def peak_steps(rotation: np.ndarray, theta: float) -> tuple[float, float]:
    """Steps of the local peak in phi and chi from a rotation of the lattice; degree.

    Parameters
    ----------
    rotation : array (xyz,), rad
        In the axes of the laboratory: x along the beam, z up.
    theta : float, rad
        Bragg angle, the base tilt.

    Returns
    -------
    phi, chi : float, degree

    Raises
    ------
    InputError
        A rotation that is not a finite vector.

    Notes
    -----
    A lattice rotated by w about +y peaks at phi = -w, and one rotated about the x axis of the sample at chi = +w. A
    rotation about the scattering vector has no effect.

    Examples
    --------
    >>> peak_steps([0, 7e-5, 0], 0.15)[0].__round__(6)
    -0.004011
    """
    turn = np.asarray(rotation, np.float64)
    if turn.shape != (3,) or not np.isfinite(turn).all():
        raise InputError("peak_steps: rotation", f"is {turn.tolist()}", "give three finite numbers")
    along = np.array([np.cos(theta), 0.0, np.sin(theta)])  # the sample's x axis, with r_s = R_y(theta) r
    return float(-np.rad2deg(turn[1])), float(np.rad2deg(turn @ along))


class Step(NamedTuple):
    """Jump of a map across a plane, + side minus - side, in the unit of the map, its error, and number of blocks."""

    step: float
    error: float
    blocks: int


def step_across(
    points: np.ndarray,
    values: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
    *,
    strip: tuple[float, float] = (2.0, 10.0),
    block: float = 20.0,
    replicates: int = 200,
    seed: int = 0,
) -> Step:
    """Jump of a map across a plane, such as that of the local peak: the misorientation that b/D must equal.

    Parameters
    ----------
    points : array (point, xyz), um
        Pixels near the boundary.
    values : array (point,)
        For example ``com_phi``, degree; NaN where unknown.
    normal, origin : array (xyz,)
    strip : (float, float), um
        Range of distances from the plane: beyond the images of the dislocations, and not too far away.
    block : float, um
        Edge of the squares of the plane that count as one observation each.
    replicates, seed : int
        Parameters of the bootstrap.

    Returns
    -------
    Step
        NaN without a block of 20 points on either side; its error is NaN with fewer than three blocks.

    Raises
    ------
    InputError
        Arrays that do not fit, a normal that is not a unit vector, or a strip of no width.

    Notes
    -----
    In every block a plane is fitted to either side, with one gradient for both, so that bending does not count as a
    jump; values more than four robust standard deviations off are excluded once. The step is the median over the
    blocks, its error that of a bootstrap over them.
    """
    points, values = np.asarray(points, np.float64), np.asarray(values, np.float64)
    normal = np.asarray(normal, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or values.shape != points.shape[:1]:
        raise InputError("step_across", f"points {points.shape}, values {values.shape}", "give (point, xyz), (point,)")
    if normal.shape != (3,) or not abs(np.linalg.norm(normal) - 1) < 1e-6:
        raise InputError("step_across: normal", f"is {normal.tolist()}", "give a unit vector (xyz)")
    if not (0 <= strip[0] < strip[1] and block > 0):
        raise InputError(
            "step_across", f"strip {strip} um, block {block} um", "give 0 <= near < far and a block above 0"
        )
    distance = (points - origin) @ normal
    used = np.isfinite(values) & (np.abs(distance) >= strip[0]) & (np.abs(distance) <= strip[1])
    distance, values = distance[used], values[used]
    flat = (points[used] - origin) @ in_plane(normal).T
    steps = []
    blocks, of_point = np.unique(np.floor(flat / block).astype(np.int64), axis=0, return_inverse=True)
    for k in range(len(blocks)):
        mine = of_point.reshape(-1) == k
        if min((distance[mine] > 0).sum(), (distance[mine] < 0).sum()) >= 20:
            steps.append(_block_step(distance[mine], flat[mine], values[mine]))
    if not steps:
        return Step(np.nan, np.nan, 0)
    all_steps = np.array(steps)
    drawn = np.random.default_rng(seed).integers(0, len(all_steps), (replicates, len(all_steps)))
    error = float(np.median(all_steps[drawn], axis=1).std()) if len(all_steps) >= 3 else np.nan
    return Step(float(np.median(all_steps)), error, len(all_steps))


def _block_step(distance: np.ndarray, flat: np.ndarray, values: np.ndarray) -> float:
    """Jump of one block from a robust fit of two parallel planes."""
    design = np.column_stack([np.sign(distance) / 2, np.ones(len(distance)), distance, flat - flat.mean(axis=0)])
    kept = np.ones(len(values), bool)
    for _ in range(2):
        solved, *_ = np.linalg.lstsq(design[kept], values[kept], rcond=None)
        left = np.abs(values - design @ solved)
        kept = left <= 4 * 1.4826 * np.median(left[kept]) + 1e-12
    return float(solved[0])
