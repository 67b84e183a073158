"""The distortion of a crystal with defects: lines, loops, walls, subgrains and smooth bending, superposed exactly.

A boundary consists of discrete lines, minus the same Burgers vectors spread evenly over its plane, plus the constant
rotation of each subgrain. The even spread and the rotation are one field where Frank's rule holds, so the sum is the
field of the lines alone; but it is free of stress far away, also for half planes that end at a triple junction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import LINE, accumulate_lines, line_table
from dfxm_dask.optics.defects.segments import accumulate_segments, segment_table
from dfxm_dask.optics.defects.walls import SHEET, accumulate_sheets, sheet_table

LOOP_REACH = 12.0
"""Radii beyond which a loop is left out: its field falls as the third power and is below 1e-7 there (our choice)."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A closed polygon of dislocation segments.

    Parameters
    ----------
    nodes : ndarray (node, xyz), float64, um
    burgers : ndarray (xyz,), float64, um
    core : float, um
    """

    nodes: np.ndarray
    burgers: np.ndarray
    core: float


@dataclass(frozen=True, eq=False)
class Junction:
    """Subgrains that meet along a line; with two sectors of half a turn each, a plane.

    Parameters
    ----------
    origin, line : ndarray (xyz,), float64
        A point (um) and the direction of the junction.
    azimuths : ndarray (sector,), float64, rad
        Ascending directions of the half planes, about ``line`` from ``reference``; sector k lies between azimuth k and
        k + 1.
    reference : ndarray (xyz,)
        Direction of azimuth 0, normal to ``line``.
    rotations : ndarray (sector, xyz), float64, rad
        Rotation vector of each subgrain.
    """

    origin: np.ndarray
    line: np.ndarray
    reference: np.ndarray
    azimuths: np.ndarray
    rotations: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that distorts a crystal. Lengths in um, in the axes x, y, z of the store.

    Parameters
    ----------
    poisson : float
    lines : LINE array
        Straight dislocations, infinitely long.
    loops : tuple of Loop
    sheets : SHEET array
        Even spreads of dislocations; subtracted.
    junctions : tuple of Junction
    wave_vectors, wave_displacements, wave_phases : ndarray (wave, xyz) 1/um, (wave, xyz) um, (wave,) rad
        Smooth bending: the displacement is the sum of wave_displacements sin(wave_vectors r + wave_phases).
    """

    poisson: float
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, LINE))
    loops: tuple[Loop, ...] = ()
    sheets: np.ndarray = field(default_factory=lambda: np.zeros(0, SHEET))
    junctions: tuple[Junction, ...] = ()
    wave_vectors: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    wave_displacements: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    wave_phases: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def line_constants(self) -> np.ndarray:
        """Table of the lines for :func:`~dfxm_dask.optics.defects.dislocation.accumulate_lines`."""
        return line_table(self.lines, self.poisson)


def placed(scene: Scene, rotation: np.ndarray, shift: np.ndarray) -> Scene:
    """A scene of lines, loops and bending in other axes: r -> rotation r + shift.

    Parameters
    ----------
    rotation : ndarray (3, 3)
    shift : ndarray (xyz,), um

    Raises
    ------
    InputError
        A scene with boundaries.
    """
    if len(scene.sheets) or scene.junctions:
        raise InputError("scene in other axes", "has boundaries", "build its boundaries in these axes")
    made = scene.lines.copy()
    made["position"] = scene.lines["position"] @ rotation.T + shift
    for name in ("burgers", "line"):
        made[name] = scene.lines[name] @ rotation.T
    waves = scene.wave_vectors @ rotation.T
    return Scene(
        scene.poisson,
        made,
        tuple(Loop(loop.nodes @ rotation.T + shift, rotation @ loop.burgers, loop.core) for loop in scene.loops),
        wave_vectors=waves,
        wave_displacements=scene.wave_displacements @ rotation.T,
        wave_phases=scene.wave_phases - waves @ shift,
    )


def sector(junction: Junction, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Number of the subgrain at each point.

    Parameters
    ----------
    x, y, z : ndarray (point,), um

    Returns
    -------
    ndarray (point,), int64
    """
    first = junction.reference
    second = np.cross(junction.line, first)
    dx, dy, dz = x - junction.origin[0], y - junction.origin[1], z - junction.origin[2]
    azimuth = np.arctan2(
        dx * second[0] + dy * second[1] + dz * second[2], dx * first[0] + dy * first[1] + dz * first[2]
    )
    start = junction.azimuths[0]
    return np.searchsorted(junction.azimuths - start, np.mod(azimuth - start, 2 * np.pi), side="right") - 1


def lattice(scene: Scene, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Displacement gradient of the lattice between the dislocations: rotation of the subgrains, and bending.

    Parameters
    ----------
    scene : Scene
    x, y, z : ndarray (point,), um

    Returns
    -------
    ndarray (9, point), float64
        beta_ij = du_i/dx_j, row-major. The long-range part of single lines is not in it.
    """
    rotation = np.zeros((3, x.size))
    for junction in scene.junctions:
        rotation += junction.rotations[sector(junction, x, y, z)].T
    beta = skew(rotation)
    for k, u, phase in zip(scene.wave_vectors, scene.wave_displacements, scene.wave_phases, strict=True):
        _add_wave(np.outer(u, k).ravel(), np.cos(k[0] * x + k[1] * y + k[2] * z + phase), beta)
    return beta


@njit(nogil=True, cache=True)
def _add_wave(amplitude, wave, beta):
    """Adds one wave to all components without a temporary array of their size."""
    for i in range(9):
        for k in range(wave.size):
            beta[i, k] += amplitude[i] * wave[k]


def skew(rotation: np.ndarray) -> np.ndarray:
    """Distortion of a small rotation.

    Parameters
    ----------
    rotation : ndarray (xyz, point), rad
        The displacement is rotation x r.

    Returns
    -------
    ndarray (9, point), float64
        beta_ij = du_i/dx_j, row-major.
    """
    a, b, c = rotation
    zero = np.zeros_like(a)
    return np.stack([zero, -c, b, c, zero, -a, -b, a, zero])


def distortion(scene: Scene, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Displacement gradient at points.

    Parameters
    ----------
    scene : Scene
    x, y, z : ndarray (point,), float64, um

    Returns
    -------
    ndarray (9, point), float64
        beta_ij = du_i/dx_j, row-major. The value at a point does not depend on the other points.

    Raises
    ------
    InputError
        Coordinates that are not 1-D arrays of one length, or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> distortion(Scene(poisson=0.334), np.zeros(2), np.zeros(2), np.zeros(2)).shape
    (9, 2)
    """
    x, y, z = (np.ascontiguousarray(v, float) for v in (x, y, z))
    if x.ndim != 1 or x.shape != y.shape or x.shape != z.shape:
        raise InputError("points", f"have shapes {x.shape}, {y.shape}, {z.shape}", "give 1-D arrays of one length")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(z).all()):
        raise InputError("points", "are not finite", "leave out those that are not")
    beta = np.zeros((9, x.size))
    if scene.sheets.size:
        accumulate_sheets(x, y, z, sheet_table(scene.sheets, scene.poisson), scene.poisson, beta)
        np.negative(beta, out=beta)
    if scene.lines.size:
        accumulate_lines(x, y, z, scene.line_constants, scene.poisson, beta)
    for loop in scene.loops:
        _add_loop(loop, scene.poisson, x, y, z, beta)
    if scene.junctions or scene.wave_phases.size:
        beta += lattice(scene, x, y, z)
    return beta


def _add_loop(loop: Loop, poisson: float, x: np.ndarray, y: np.ndarray, z: np.ndarray, beta: np.ndarray) -> None:
    """Add loops only within :data:`LOOP_REACH` radii: farther out their fields are negligible."""
    centre = loop.nodes.mean(0)
    radius = np.sqrt(((loop.nodes - centre) ** 2).sum(1).max())
    far = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 > (LOOP_REACH * radius) ** 2
    near = np.flatnonzero(~far)
    if not near.size:
        return
    table = segment_table(loop.nodes, np.roll(loop.nodes, -1, axis=0), np.tile(loop.burgers, (len(loop.nodes), 1)))
    part = np.zeros((9, near.size))
    accumulate_segments(x[near], y[near], z[near], table, poisson, loop.core, part)
    beta[:, near] += part


def distance(scene: Scene, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance to the nearest dislocation line.

    Parameters
    ----------
    scene : Scene
    x, y, z : ndarray (point,), um

    Returns
    -------
    ndarray (point,), float64, um
        Infinite where the scene has no dislocation.
    """
    least = np.full(x.size, np.inf)
    for line in scene.lines:
        _nearest(x, y, z, line["position"], line["line"], -np.inf, np.inf, least)
    for loop in scene.loops:
        for start, stop in zip(loop.nodes, np.roll(loop.nodes, -1, axis=0), strict=True):
            length = np.linalg.norm(stop - start)
            _nearest(x, y, z, start, (stop - start) / length, 0.0, length, least)
    return np.sqrt(least)


@njit(nogil=True, cache=True)
def _nearest(x, y, z, start, direction, low, high, least):
    """Lowers the squared distances to those of one segment, where these are smaller."""
    for k in range(x.size):
        dx, dy, dz = x[k] - start[0], y[k] - start[1], z[k] - start[2]
        along = min(max(dx * direction[0] + dy * direction[1] + dz * direction[2], low), high)
        dx, dy, dz = dx - along * direction[0], dy - along * direction[1], dz - along * direction[2]
        least[k] = min(least[k], dx * dx + dy * dy + dz * dz)


def line_points(scene: Scene, box: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Points on all dislocation lines within a box.

    Parameters
    ----------
    scene : Scene
    box : ndarray (2, xyz), um
        Lowest and highest corner.
    step : float, um
        Distance between points of one line.

    Returns
    -------
    points : ndarray (point, xyz), float64, um
    number : ndarray (point,), int32
        Which line (straight ones first, then loops).
    """
    reach = float(np.linalg.norm(box[1] - box[0]))
    middle = box.mean(0)
    points, numbers = [np.zeros((0, 3))], [np.zeros(0, np.int32)]
    for number, line in enumerate(scene.lines):
        foot = line["position"] + line["line"] * ((middle - line["position"]) @ line["line"])
        found = foot + np.arange(-reach, reach + step, step)[:, None] * line["line"]
        points.append(found)
        numbers.append(np.full(len(found), number, np.int32))
    for number, loop in enumerate(scene.loops, start=len(scene.lines)):
        for start, stop in zip(loop.nodes, np.roll(loop.nodes, -1, axis=0), strict=True):
            count = max(1, int(np.ceil(np.linalg.norm(stop - start) / step)))
            points.append(start + np.arange(count)[:, None] / count * (stop - start))
            numbers.append(np.full(count, number, np.int32))
    every, number_of = np.concatenate(points), np.concatenate(numbers)
    inside = ((every >= box[0]) & (every <= box[1])).all(1)
    return every[inside], number_of[inside]
