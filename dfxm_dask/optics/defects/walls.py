"""Walls of dislocations: continuous sheets, discrete walls, and Frank's rule.

A discrete wall, minus the sheet of the same Burgers vector per length, plus a rotation that is constant on either side,
is a wall with a short-range field only. Lengths in um; signs as in `dislocation`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import checked_poisson
from dfxm_dask.optics.defects.dislocation import lines as line_array
from dfxm_dask.optics.defects.points import add_turned

SHEET = np.dtype(
    [("origin", "f8", 3), ("line", "f8", 3), ("along", "f8", 3), ("start", "f8"), ("stop", "f8"), ("burgers", "f8", 3)]
)
# Cosine above which two directions are not at right angles any more (our choice).
SQUARE = 1e-6


def _unit(name: str, vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    if vector.shape[-1:] != (3,) or not np.isfinite(vector).all():
        raise InputError(name, f"is {vector.tolist()}", "give finite vectors of three components")
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    if (length == 0).any():
        raise InputError(name, "has length zero", "give a direction")
    return vector / length


def _refuse_oblique(name: str, first: np.ndarray, second: np.ndarray) -> None:
    cosine = np.abs(np.sum(first * second, axis=-1)).max(initial=0.0)
    if cosine > SQUARE:
        raise InputError(name, f"are not at right angles: cosine {cosine:.6g}", "give directions at right angles")


def sheets(
    origin: np.ndarray,
    line: np.ndarray,
    along: np.ndarray,
    start: np.ndarray | float,
    stop: np.ndarray | float,
    burgers: np.ndarray,
) -> np.ndarray:
    """Strips that are covered evenly by parallel straight dislocations, as one table.

    Parameters
    ----------
    origin : array (3,) or (n, 3), um
        A point of the plane.
    line, along : array (3,) or (n, 3)
        Direction of the dislocations, and across them in the plane: the strip is origin + s along, start <= s <= stop.
    start, stop : float or array (n,), um
        Edges. For a half-plane take one of them far away, where the field of its edge does not matter.
    burgers : array (3,) or (n, 3), um per um
        Burgers vector per length of s: b/D of the wall that the sheet replaces.

    Returns
    -------
    array (n,), SHEET
        With unit directions.

    Raises
    ------
    InputError
        Numbers that are not finite, directions of length zero or not at right angles, start not below stop.

    Examples
    --------
    >>> float(sheets([0, 0, 0], [0, 0, 1], [0, 2, 0], -1, 1, [5e-4, 0, 0])["along"][0, 1])
    1.0
    """
    line, along = _unit("sheets: line", line), _unit("sheets: along", along)
    start, stop, origin, burgers = (np.asarray(v, np.float64) for v in (start, stop, origin, burgers))
    if not all(np.isfinite(v).all() for v in (start, stop, origin, burgers)):
        raise InputError("sheets", "hold a number that is not finite", "give finite numbers")
    fields = {"origin": origin, "line": line, "along": along, "burgers": burgers}
    shapes = [v.shape[:-1] for v in fields.values()] + [start.shape, stop.shape]
    counts = {shape[0] if shape else 1 for shape in shapes} - {1}
    if any(v.shape[-1:] != (3,) for v in fields.values()) or any(len(s) > 1 for s in shapes) or len(counts) > 1:
        raise InputError("sheets: shapes", f"do not fit: {shapes}", "give vectors (3,) or (n, 3), edges one or n")
    table = np.empty(counts.pop() if counts else 1, SHEET)
    for name, value in {**fields, "start": start, "stop": stop}.items():
        table[name] = value
    if not (table["start"] < table["stop"]).all():
        raise InputError("sheets: start", "is not below stop", "give edges in rising order")
    _refuse_oblique("sheets: line and along", table["line"], table["along"])
    return table


def sheet_table(sheets: np.ndarray, poisson: float) -> np.ndarray:
    """Constants of every sheet, as `accumulate_sheets` reads them.

    Parameters
    ----------
    sheets : array (n,), SHEET
        From `sheets`.
    poisson : float
        Poisson ratio.

    Returns
    -------
    array (n, 16), float64
        along (3), line × along (3), line (3), origin·along, origin·(line × along), start, stop, and the Burgers vector
        in that frame over 4 pi (1 - nu), 4 pi (1 - nu) and 2 pi.

    Raises
    ------
    InputError
        A Poisson ratio outside -1 to 1/2.

    Examples
    --------
    >>> sheet_table(sheets([0, 0, 0], [0, 0, 1], [0, 1, 0], -1, 1, [5e-4, 0, 0]), 0.3).shape
    (1, 16)
    """
    poisson = checked_poisson(poisson)
    line, along = sheets["line"], sheets["along"]
    frame = np.stack([along, np.cross(line, along), line], axis=1)
    origin = np.einsum("nij,nj->ni", frame, sheets["origin"])[:, :2]
    edge = 4 * np.pi * (1 - poisson)
    burgers = np.einsum("nij,nj->ni", frame, sheets["burgers"]) / (edge, edge, 2 * np.pi)
    ends = np.stack([sheets["start"], sheets["stop"]], axis=1)
    return np.ascontiguousarray(np.concatenate([frame.reshape(-1, 9), origin, ends, burgers], axis=1))


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate_sheets(x, y, z, table, poisson, out):
    """Distortion of sheets, added to the given field.

    Parameters
    ----------
    x, y, z : array (n,), float64, um
        Points.
    table : array (m, 16), float64
        From `sheet_table`.
    poisson : float
        The same as in the table.
    out : array (9, n), float64
        beta in row-major order (b11, b12, b13, b21, ...); added to. At an edge of a strip it becomes infinite or NaN.

    Notes
    -----
    With X along the strip, Y across it and Z = X + iY, the terms x/R², y/R², y Re Z^-2 and y Im Z^-2 of a line at s
    integrate to the logarithm of (Z - start)/(Z - stop) and to 1/(Z - stop) - 1/(Z - start). The principal value of
    that logarithm jumps on the strip and nowhere else.
    """
    rows = out.reshape(-1)
    n4, n3, n1 = 2 - 2 * poisson, 3 - 2 * poisson, 1 - 2 * poisson
    for k in range(table.shape[0]):
        ax, ay, az, cx, cy, cz, tx, ty, tz, x0, y0, start, stop, b1, b2, b3 = table[k]
        frame = (ax, ay, az, cx, cy, cz, tx, ty, tz)
        width = stop - start
        for i in range(x.shape[0]):
            u = x[i] * ax + y[i] * ay + z[i] * az - x0
            v = x[i] * cx + y[i] * cy + z[i] * cz - y0 + 0.0  # never -0.0: the strip itself belongs to the upper side
            u0, u1 = u - start, u - stop
            r0, r1 = u0 * u0 + v * v, u1 * u1 + v * v
            ratio = r0 / r1
            if 0.5 < ratio < 2:  # far away, where the plain logarithm would lose the difference to 1
                real = 0.5 * np.log1p(width * (u0 + u1) / r1)
            else:
                real = 0.5 * np.log(ratio)
            angle = -np.arctan2(-v * width, u0 * u1 + v * v)
            pr = v * (u1 / r1 - u0 / r0)
            pi = v * v * (1 / r0 - 1 / r1)
            b11 = -b1 * (n4 * angle + pr) + b2 * (n1 * real + pi)
            b12 = b1 * (n3 * real + pi) + b2 * (n4 * angle + pr)
            b21 = b1 * (pi - n1 * real) + b2 * (pr - n4 * angle)
            b22 = b1 * (2 * poisson * angle + pr) + b2 * (n1 * real - pi)
            b31, b32 = -b3 * angle, b3 * real
            add_turned(rows, i, x.shape[0], frame, (b11, b21, b31), (b12, b22, b32))


def _plane(normal: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    normal, line = _unit("wall: normal", normal), _unit("wall: line", line)
    _refuse_oblique("wall: normal and line", normal, line)
    return line, np.cross(normal, line)


def wall_lines(
    origin: np.ndarray,
    normal: np.ndarray,
    line: np.ndarray,
    burgers: np.ndarray,
    spacing: float,
    start: float,
    stop: float,
    core: float,
) -> np.ndarray:
    """Straight dislocations of one wall, at s = start + (k + 1/2) spacing along normal × line, below stop.

    Parameters
    ----------
    origin : array (3,), um
        Point of the wall with s = 0.
    normal, line : array (3,)
        Normal of the wall and direction of the dislocations.
    burgers : array (3,), um
        Burgers vector.
    spacing, start, stop, core : float, um
        Distance D, extent and core radius. A `wall_sheet` of the same extent has the same Burgers vector in total if
        the extent is a whole number of spacings.

    Returns
    -------
    array (n,), LINE

    Raises
    ------
    InputError
        Directions of length zero or not at right angles, a spacing that is not positive, start not below stop.

    Notes
    -----
    The lattice on the side that the normal points to is turned against the other side by b/D: w(+) - w(-) = -b/D about
    the line for edges with b along the normal (Read and Shockley 1950; sign derived and tested).

    Examples
    --------
    >>> wall_lines([0, 0, 0], [1, 0, 0], [0, 0, 1], [3e-4, 0, 0], 0.5, -1, 1, 1e-3)["position"][:, 1].tolist()
    [0.75, 0.25, -0.25, -0.75]
    """
    line, along = _plane(normal, line)
    if not (0 < spacing < np.inf and start < stop):
        raise InputError(
            "wall: spacing, start and stop",
            f"are {spacing!r}, {start!r} and {stop!r} um",
            "give a spacing above zero and edges in rising order",
        )
    count = int(np.ceil((stop - start) / spacing - 0.5))
    s = start + (np.arange(count) + 0.5) * spacing
    return line_array(np.asarray(origin, np.float64) + s[:, None] * along, burgers, line, core)


def wall_sheet(
    origin: np.ndarray,
    normal: np.ndarray,
    line: np.ndarray,
    burgers: np.ndarray,
    spacing: float,
    start: float,
    stop: float,
) -> np.ndarray:
    """Sheet of a wall of lines, with the Burgers vector spread evenly.

    Parameters
    ----------
    origin, normal, line, burgers, spacing, start, stop
        See `wall_lines`.

    Returns
    -------
    array (1,), SHEET
        With burgers / spacing per length.

    Raises
    ------
    InputError
        See `wall_lines` and `sheets`.

    Examples
    --------
    >>> sheet = wall_sheet([0, 0, 0], [1, 0, 0], [0, 0, 1], [3e-4, 0, 0], 0.5, -1, 1)
    >>> sheet["along"].tolist(), sheet["burgers"].tolist()
    ([[0.0, -1.0, 0.0]], [[0.0006, 0.0, 0.0]])
    """
    line, along = _plane(normal, line)
    if not 0 < spacing < np.inf:
        raise InputError("wall: spacing", f"is {spacing!r} um", "give a spacing above zero")
    return sheets(origin, line, along, start, stop, np.asarray(burgers, np.float64) / spacing)


class FrankNet(NamedTuple):
    """Sets of parallel dislocations that make up a boundary.

    Attributes
    ----------
    densities : array (m,), float64, 1/um
        Lines per length, 1/D; negative where the Burgers vector has the opposite sense.
    rank : int
        Rank of the six equations; below m the densities are one solution of many: least norm of density times b.
    residual : float
        Norm of the part of the rotation that the sets do not provide, relative to the norm of the rotation.
    """

    densities: np.ndarray
    rank: int
    residual: float


def frank_bilby(normal: np.ndarray, axis: np.ndarray, angle: float, burgers: np.ndarray, lines: np.ndarray) -> FrankNet:
    """Densities of given sets of dislocations that turn one side of a boundary against the other.

    Parameters
    ----------
    normal, axis : array (3,)
        Normal of the boundary and axis of the rotation.
    angle : float, rad
        Rotation of the side that the normal points to, against the other, about the axis.
    burgers, lines : array (m, 3), um and without unit
        Burgers vector and line direction of every set; the lines lie in the plane of the boundary.

    Returns
    -------
    FrankNet

    Raises
    ------
    InputError
        No set, directions or Burgers vectors of length zero, lines that do not lie in the plane.

    Notes
    -----
    Frank's rule: for every v in the plane, sum_i rho_i b_i (N_i·v) = 2 sin(angle/2) (v × axis) with
    N_i = normal × line_i (Frank 1950; Hirth and Lothe, section 19-3). Two v
    give six equations, solved by least squares.

    Examples
    --------
    A tilt wall of edges: D = b / 2 sin(angle/2).

    >>> net = frank_bilby([1, 0, 0], [0, 0, 1], np.radians(0.05), [[2.86e-4, 0, 0]], [[0, 0, 1]])
    >>> round(float(1 / net.densities[0]), 5)
    -0.32773
    """
    normal, axis = _unit("frank_bilby: normal", normal), _unit("frank_bilby: axis", axis)
    burgers = np.asarray(burgers, np.float64).reshape(-1, 3)
    if len(burgers) == 0:
        raise InputError("frank_bilby: burgers", "hold no set", "give at least one Burgers vector and line")
    lines = _unit("frank_bilby: lines", np.asarray(lines, np.float64).reshape(-1, 3))
    if len(lines) != len(burgers):
        raise InputError("frank_bilby", f"{len(burgers)} Burgers vectors, {len(lines)} lines", "give one line for each")
    directions, size = _unit("frank_bilby: burgers", burgers), np.linalg.norm(burgers, axis=1)
    out = np.abs(lines @ normal)
    if out.max() > SQUARE:
        raise InputError(
            f"frank_bilby: line {np.argmax(out)}", f"leaves the plane: cosine {out.max():.6g}", "give lines in it"
        )
    first = lines[0]
    plane = np.stack([first, np.cross(normal, first)])
    across = np.cross(normal, lines)
    # Unknowns are density times |b|, so that short and long Burgers vectors have equal weight.
    matrix = np.einsum("mi,mj,vj->vim", directions, across, plane).reshape(6, -1)
    asked = 2 * np.sin(angle / 2) * np.cross(plane, axis).reshape(6)
    scaled, _, rank, _ = np.linalg.lstsq(matrix, asked, rcond=1e-9)
    norm = np.linalg.norm(asked)
    residual = np.linalg.norm(matrix @ scaled - asked) / (norm if norm else 1.0)
    return FrankNet(scaled / size, int(rank), float(residual))
