"""Networks of many dislocation segments: their distortion by near segments and interpolated far fields.

Space is divided into cubes, each of them into eight, down to cubes that few segments are close to. The field of the
segments beyond one edge length from a cube is smooth inside it and is interpolated by Chebyshev polynomials; only the
segments close to the smallest cube are summed point by point. Cubes lie at fixed positions, so that the value at a
point does not depend on the other points.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.points import BLOCK
from dfxm_dask.optics.defects.segments import accumulate_segments, segment_table

ORDER = 8
"""Chebyshev nodes along each side of a cube. A singularity one edge length away lies on the Bernstein ellipse of
2 + sqrt(5), and the error falls as (2 + sqrt(5))^-8 = 1e-5 of the field of one segment there (our choice)."""

FEW = 60  # segments close to a smallest cube that cost about as much as one interpolation
DEEPEST = 8
KEPT = 4000  # cubes of 36 KiB in memory
GRID = 8  # points along each side of the cell for its mean distortion
SMOOTH = 1.5
"""Core radius for that mean, in steps of its grid: the mean of a periodic field does not depend on the core."""

OFFSETS = -0.15, 0.0, 0.15
"""Distances from the faces of the cell at which fields are compared, in cells: even powers are equal on the faces."""

DRIFT = 3  # degree of the polynomial by which a finite sum of images differs from a periodic field


@dataclass(frozen=True, eq=False)
class Network:
    """Straight dislocation segments between nodes, in a cell that may repeat.

    Parameters
    ----------
    nodes : ndarray (node, xyz), float64, um
    segments : ndarray (segment, 2), int64
        First and last node of every segment, in its line sense.
    burgers : ndarray (segment, xyz), float64, um
    normals : ndarray (segment, xyz), float64
        Normal of the glide plane; zero where it is unknown.
    core : float, um
        Core radius a > 0 of the non-singular field.
    cell : ndarray (3, xyz), float64, um
        Edges of the periodic cell as rows; zero for a network that does not repeat.
    origin : ndarray (xyz,), float64, um
        Lowest corner of the cell.
    shells : int or None
        Shells of periodic images that are summed. None: one if a segment crosses a face of the cell, else none.

    Raises
    ------
    InputError
        Segments of length zero, numbers that are not finite, a core of zero, images of a network without a cell.
    """

    nodes: np.ndarray
    segments: np.ndarray
    burgers: np.ndarray
    normals: np.ndarray
    core: float
    cell: np.ndarray
    origin: np.ndarray
    shells: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.core < np.inf:
            raise InputError(
                "network: core", f"is {self.core!r} um", "give a core radius above zero, such as 1 to 5 |b|"
            )
        if self.shells is not None and (self.shells < 0 or (self.shells and not self.repeats)):
            raise InputError("network: shells", f"is {self.shells}", "give 0, or a periodic cell and a number above 0")
        if not len(self.segments):
            raise InputError("network", "contains no segment", "give at least one")

    @property
    def repeats(self) -> bool:
        """Whether the network has a periodic cell."""
        return bool(np.abs(self.cell).any())

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of every segment, (segment, xyz), um: the end is the nearest image of the last node."""
        start, end = (self.nodes[self.segments[:, k]] for k in (0, 1))
        return start, end - self._wraps @ self.cell

    @cached_property
    def _wraps(self) -> np.ndarray:
        """Cells between the last node and its nearest image, (segment, 3)."""
        if not self.repeats:
            return np.zeros((len(self.segments), 3))
        apart = self.nodes[self.segments[:, 1]] - self.nodes[self.segments[:, 0]]
        return np.asarray(np.rint(apart @ np.linalg.inv(self.cell)))

    @cached_property
    def images(self) -> int:
        """Shells of images in the field."""
        return int(self._wraps.any()) if self.shells is None else self.shells

    @cached_property
    def table(self) -> np.ndarray:
        """Table of all segments and their images for
        :func:`~dfxm_dask.optics.defects.segments.accumulate_segments`."""
        start, end = self.ends
        steps = np.arange(-self.images, self.images + 1)
        moves = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3) @ self.cell
        first, last = ((e[None] + moves[:, None]).reshape(-1, 3) for e in (start, end))
        return segment_table(first, last, np.tile(self.burgers, (len(moves), 1)))

    @cached_property
    def cubes(self) -> _Cubes:
        """Interpolated far fields, computed where they are needed; one for each process."""
        return _Cubes(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def placed(network: Network, rotation: np.ndarray, origin: np.ndarray) -> Network:
    """The network in other axes.

    Parameters
    ----------
    network : Network
    rotation : array (3, 3)
        Rotation from the axes of the network to the new ones.
    origin : array (3,), um
        Position of the lowest corner of the cell in the new axes.

    Returns
    -------
    Network
    """
    turn = np.asarray(rotation, np.float64)
    return Network(
        nodes=(network.nodes - network.origin) @ turn.T + origin,
        segments=network.segments,
        burgers=network.burgers @ turn.T,
        normals=network.normals @ turn.T,
        core=network.core,
        cell=network.cell @ turn.T,
        origin=np.asarray(origin, np.float64),
        shells=network.shells,
    )


def network_field(network: Network, x: np.ndarray, y: np.ndarray, z: np.ndarray, poisson: float) -> np.ndarray:
    """Distortion of a network with its periodic images.

    Parameters
    ----------
    network : Network
    x, y, z : ndarray (point,), float64, um
    poisson : float
        Poisson ratio.

    Returns
    -------
    ndarray (9, point), float64
        beta_ij = du_i/dx_j, row-major. The error of the interpolation is of the order of 1e-5 of the field of one
        segment at the distance of a smallest cube.

    Notes
    -----
    The sum over a finite number of shells of images differs from the periodic field by a function that varies slowly
    over the cell (Cai et al. 2003, Philos. Mag. 83, 539). Its polynomial of third degree follows from the requirement
    that the field is equal on opposite faces, and is subtracted. With one shell the remaining error is 1e-2 of the mean
    field of a cell or less, with two shells 1e-3. A net Nye tensor of the cell, which would bend the crystal without
    bound, is compensated by an even spread of opposite sign. The constant, which no difference determines, is such
    that the mean distortion of the cell is zero: the crystal is free of mean stress.

    Examples
    --------
    >>> nodes = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    >>> loop = Network(nodes, np.array([[0, 1], [1, 2], [2, 0]]), np.tile([0, 0, 3e-4], (3, 1)), np.zeros((3, 3)), 1e-3,
    ...                np.zeros((3, 3)), np.zeros(3))
    >>> network_field(loop, np.zeros(2), np.zeros(2), np.ones(2), 0.3).shape
    (9, 2)
    """
    beta = np.zeros((9, x.size))
    cubes = network.cubes
    cubes.use(poisson)
    x, y, z = _wrapped(network, x, y, z)
    for some, depth, key in cubes.leaves(x, y, z):
        px, py, pz = x[some], y[some], z[some]
        part = np.zeros((9, some.size))
        accumulate_segments(px, py, pz, cubes.near(depth, *key), poisson, network.core, part)
        half, middle = cubes.edge(depth) / 2, cubes.middle(depth, key)
        inner = [(p - m) / half for p, m in zip((px, py, pz), middle, strict=True)]
        _interpolate(*inner, cubes.series(depth, *key), part)
        beta[:, some] = part
    return beta


def network_distance(network: Network, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Distance to the nearest segment of a network or of its images.

    Parameters
    ----------
    network : Network
    x, y, z : ndarray (point,), float64, um

    Returns
    -------
    ndarray (point,), float64, um
    """
    squared = np.empty(x.size)
    cubes = network.cubes
    x, y, z = _wrapped(network, x, y, z)
    for some, depth, (i, j, k) in cubes.leaves(x, y, z):
        left = some
        # A segment that is not close to a cube may be nearer than one beyond the edge length: then try larger cubes.
        for up in range(depth + 2):
            table = network.table if up > depth else cubes.near(depth - up, i >> up, j >> up, k >> up)
            part = np.full(left.size, np.inf)
            _nearest(x[left], y[left], z[left], table, part)
            squared[left] = part
            left = left[part > cubes.edge(max(depth - up, 0)) ** 2]
            if not left.size:
                break
    return np.sqrt(squared)


def _wrapped(network: Network, *points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Points moved into the cell of a network with images."""
    if not network.images:
        return points
    fraction = (np.stack(points, axis=1) - network.origin) @ np.linalg.inv(network.cell)
    x, y, z = np.ascontiguousarray(((fraction - np.floor(fraction)) @ network.cell + network.origin).T)
    return x, y, z


@njit(nogil=True, cache=True)
def _nearest(x, y, z, table, least):
    """Lowers the squared distances to those of the nearest segment of a table."""
    for row in range(table.shape[0]):
        ax, ay, az, nx, ny, nz, tx, ty, tz, x0, y0, z0, z1 = table[row, :13]
        for k in range(x.size):
            u = x[k] * ax + y[k] * ay + z[k] * az - x0
            v = x[k] * nx + y[k] * ny + z[k] * nz - y0
            w = x[k] * tx + y[k] * ty + z[k] * tz
            w -= min(max(w, z0), z1)
            least[k] = min(least[k], u * u + v * v + w * w)


class _Cubes:
    """Far fields of the cubes of one network, by depth and position."""

    def __init__(self, network: Network) -> None:
        self.network, self.poisson = network, np.nan
        self.found: dict[tuple[int, int, int, int], np.ndarray] = {}
        self.tables: dict[tuple[int, int, int, int], np.ndarray] = {}
        start, end = network.ends
        low, high = np.minimum(start, end).min(0), np.maximum(start, end).max(0)
        # Slightly off the nodes, which often lie on round numbers.
        self.size = float((high - low).max()) * 1.0001
        self.corner = (low + high) / 2 - self.size / 2
        nodes = np.cos(np.pi * (np.arange(ORDER) + 0.5) / ORDER)
        values = np.polynomial.chebyshev.chebvander(nodes, ORDER - 1)
        self.nodes = nodes
        self.to_series = 2 / ORDER * values.T
        self.to_series[0] /= 2
        self.to_child = [
            self.to_series @ np.polynomial.chebyshev.chebvander(nodes / 2 + side, ORDER - 1) for side in (-0.5, 0.5)
        ]

    def edge(self, depth: int) -> float:
        """Length of the edges of cubes, um."""
        return self.size / 2**depth

    def middle(self, depth: int, key: tuple[int, int, int]) -> np.ndarray:
        """Middle of a cube, um."""
        return np.asarray(self.corner + (np.array(key) + 0.5) * self.edge(depth))

    def leaves(
        self, x: np.ndarray, y: np.ndarray, z: np.ndarray
    ) -> Iterator[tuple[np.ndarray, int, tuple[int, int, int]]]:
        """Numbers of the points in every smallest cube, its depth and its position."""
        todo = [(np.arange(x.size), 0)]
        while todo:
            some, depth = todo.pop()
            keys = np.floor((np.stack([x[some], y[some], z[some]], axis=1) - self.corner) / self.edge(depth))
            order = np.lexsort(keys.T)
            for part in np.split(order, np.flatnonzero(np.diff(keys[order], axis=0).any(axis=1)) + 1):
                if not part.size:
                    continue
                i, j, k = (int(n) for n in keys[part[0]])
                if len(self.near(depth, i, j, k)) <= FEW or depth == DEEPEST:
                    yield some[part], depth, (i, j, k)
                else:
                    todo.append((some[part], depth + 1))

    def near(self, depth: int, i: int, j: int, k: int) -> np.ndarray:
        """Table of the segments that are closer to a cube than its edge."""
        key = (depth, i, j, k)
        if (table := self.tables.get(key)) is None:
            table = self.near(depth - 1, i >> 1, j >> 1, k >> 1) if depth else self.network.table
            close = _close(table, self.middle(depth, (i, j, k)), self.edge(depth) / 2)
            self.tables[key] = table = table if close.all() else np.ascontiguousarray(table[close])
        return table

    def use(self, poisson: float) -> None:
        """Discard the fields of another Poisson ratio, or of too many cubes."""
        if poisson != self.poisson or len(self.found) > KEPT:
            if poisson != self.poisson:
                self.drift = _drift(self.network, poisson) if self.network.images else None
            self.found.clear()
            self.tables.clear()
            self.poisson = poisson  # last: another thread may read it

    def series(self, depth: int, i: int, j: int, k: int) -> np.ndarray:
        """Chebyshev series (9, order, order, order) of the far field of a cube."""
        key = (depth, i, j, k)
        if (known := self.found.get(key)) is not None:
            return known
        half, middle = self.edge(depth) / 2, self.middle(depth, (i, j, k))
        table = self.network.table
        total = np.zeros((9, *(ORDER,) * 3))
        if depth:
            table = self.near(depth - 1, i >> 1, j >> 1, k >> 1)
            turn = [self.to_child[n % 2] for n in (i, j, k)]
            whole = self.series(depth - 1, i >> 1, j >> 1, k >> 1)
            total = np.einsum("ap,bq,cr,npqr->nabc", *turn, whole, optimize=True)
        far = table[~_close(table, middle, half)]
        grid = np.stack(np.meshgrid(*(self.nodes,) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        x, y, z = np.ascontiguousarray((middle + half * grid).T)
        values = np.zeros((9, x.size))
        accumulate_segments(x, y, z, far, self.poisson, self.network.core, values)
        if not depth and self.drift is not None:
            values -= self.drift @ _monomials(x, y, z, self.network)
        values = values.reshape(9, *(ORDER,) * 3)
        total = total + np.einsum("ap,bq,cr,npqr->nabc", *(self.to_series,) * 3, values, optimize=True)
        self.found[key] = total = np.ascontiguousarray(total)
        return total


def _close(table: np.ndarray, middle: np.ndarray, half: float) -> np.ndarray:
    """Which segments are closer to a cube than its edge: by the boxes around the segments."""
    frame = table[:, :9].reshape(-1, 3, 3)
    first, last = (np.einsum("nji,nj->ni", frame, table[:, [9, 10, n]]) for n in (11, 12))
    gap = np.maximum(np.minimum(first, last) - middle - half, middle - half - np.maximum(first, last))
    return np.asarray(np.linalg.norm(np.maximum(gap, 0.0), axis=1) < 2 * half)


@njit(nogil=True, cache=True, error_model="numpy")
def _interpolate(u, v, w, series, out):
    """Adds Chebyshev series (9, order, order, order) at positions in the cube, from -1 to 1."""
    order = series.shape[1]
    tu, tv, tw = np.empty((order, BLOCK)), np.empty((order, BLOCK)), np.empty((order, BLOCK))
    along, across = np.empty((9, BLOCK)), np.empty((9, BLOCK))
    for first in range(0, u.shape[0], BLOCK):
        last = min(BLOCK, u.shape[0] - first) - 1
        for n in range(BLOCK):
            at = first + min(n, last)
            tu[0, n], tv[0, n], tw[0, n] = 1.0, 1.0, 1.0
            tu[1, n], tv[1, n], tw[1, n] = u[at], v[at], w[at]
        for a in range(2, order):
            for n in range(BLOCK):
                tu[a, n] = 2 * tu[1, n] * tu[a - 1, n] - tu[a - 2, n]
                tv[a, n] = 2 * tv[1, n] * tv[a - 1, n] - tv[a - 2, n]
                tw[a, n] = 2 * tw[1, n] * tw[a - 1, n] - tw[a - 2, n]
        for a in range(order):
            across[:] = 0.0
            for b in range(order):
                for c in range(9):
                    for n in range(BLOCK):
                        along[c, n] = 0.0
                    for d in range(order):
                        one = series[c, a, b, d]
                        for n in range(BLOCK):
                            along[c, n] += one * tw[d, n]
                    for n in range(BLOCK):
                        across[c, n] += along[c, n] * tv[b, n]
            for c in range(9):
                for n in range(last + 1):
                    out[c, first + n] += across[c, n] * tu[a, n]


POWERS = np.array([(a, b, c) for a in range(4) for b in range(4) for c in range(4) if a + b + c <= DRIFT])
"""Exponents of the monomials of the drift; the first one is the constant."""


def _monomials(x: np.ndarray, y: np.ndarray, z: np.ndarray, network: Network) -> np.ndarray:
    """Powers of the fractional coordinates from the middle of the cell, (monomial, point)."""
    points = np.stack([x, y, z], axis=1) - network.origin
    fraction = points @ np.linalg.inv(network.cell) - 0.5
    return np.asarray(np.prod(fraction[None] ** POWERS[:, None, :], axis=-1))


def _drift(network: Network, poisson: float) -> np.ndarray:
    """Coefficients (9, monomial) by which the sum over the images differs from a periodic field of mean zero."""
    core = SMOOTH * float(np.linalg.norm(network.cell, axis=1).max()) / GRID
    side, inner = (np.arange(4) + 0.5) / 4, (np.arange(GRID) + 0.5) / GRID
    face = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = [np.insert(face, axis, value + off, axis=1) for value in (0.0, 1.0) for axis in range(3) for off in OFFSETS]
    grid = np.stack(np.meshgrid(inner, inner, inner, indexing="ij"), axis=-1).reshape(-1, 3)
    fraction = np.concatenate([*pairs, grid])
    x, y, z = np.ascontiguousarray((fraction @ network.cell + network.origin).T)
    beta, powers = np.zeros((9, x.size)), _monomials(x, y, z, network)
    accumulate_segments(x, y, z, network.table, poisson, core, beta)
    half = len(pairs) // 2 * len(face)
    step, matrix = (v[:, half : 2 * half] - v[:, :half] for v in (beta, powers))
    drift = np.zeros((9, len(POWERS)))
    drift[:, 1:] = np.linalg.lstsq(matrix[1:].T, step.T, rcond=None)[0].T
    drift[:, 0] = (beta - drift @ powers)[:, 2 * half :].mean(axis=1)
    return drift
