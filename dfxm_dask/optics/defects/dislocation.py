"""Straight dislocations: their distortion in an isotropic body.

Lengths in um. beta_ij = du_i/dx_j. A line has the direction t and the Burgers vector b such that the closed integral of
beta·dl, counter-clockwise about +t, is +b: (b, t) and (-b, -t) are one defect. Every array is a vector in one frame,
whichever the caller uses.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.points import BLOCK, FIELD, add_block, add_turned, columns, take_block, tensors

LINE = np.dtype([("position", "f8", 3), ("burgers", "f8", 3), ("line", "f8", 3), ("core", "f8")])

# Nearer than this fraction of |b| is "on the line": far below any physical core, far above rounding (our choice).
ON_LINE = 1e-6


def lines(position: np.ndarray, burgers: np.ndarray, line: np.ndarray, core: np.ndarray | float = 0.0) -> np.ndarray:
    """Straight dislocations as one table.

    Parameters
    ----------
    position : array (3,) or (n, 3), um
        A point on the line.
    burgers : array (3,) or (n, 3), um
        Burgers vector b.
    line : array (3,) or (n, 3)
        Direction t; the length does not matter.
    core : float or array (n,), um
        Core radius a >= 0: R² becomes R² + a² in every denominator. 1 to 5 |b| is usual; 0 is the classical field.

    Returns
    -------
    array (n,), LINE
        With unit directions.

    Raises
    ------
    InputError
        Numbers that are not finite, shapes that do not fit, a direction of length zero, a negative core.

    Examples
    --------
    >>> lines([0, 0, 0], [2.86e-4, 0, 0], [0, 0, 2.0], 1e-3)["line"].tolist()
    [[0.0, 0.0, 1.0]]
    """
    vectors = {"position": position, "burgers": burgers, "line": line}
    arrays = {name: np.atleast_2d(np.asarray(value, np.float64)) for name, value in vectors.items()}
    radius = np.atleast_1d(np.asarray(core, np.float64))
    shapes = {name: value.shape for name, value in arrays.items()} | {"core": radius.shape}
    counts = {shape[0] for shape in shapes.values()} - {1}
    if any(a.ndim != 2 or a.shape[1] != 3 for a in arrays.values()) or radius.ndim != 1 or len(counts) > 1:
        raise InputError("lines: shapes", f"are {shapes}", "give (3,) or (n, 3), and one core or n of them")
    for name, value in {**arrays, "core": radius}.items():
        if not np.isfinite(value).all():
            raise InputError(f"lines: {name}", "holds a number that is not finite", "give finite numbers")
    length = np.linalg.norm(arrays["line"], axis=1)
    if (length == 0).any():
        raise InputError("lines: line", f"has length zero in row {np.argmin(length)}", "give a direction")
    if (radius < 0).any():
        raise InputError("lines: core", f"is {radius.min():.6g} um", "give a radius of zero or more")
    table = np.empty(counts.pop() if counts else 1, LINE)
    table["position"], table["burgers"], table["core"] = arrays["position"], arrays["burgers"], radius
    table["line"] = arrays["line"] / length[:, None]
    return table


def checked_poisson(poisson: float) -> float:
    """Poisson ratio of an isotropic body that is stable.

    Parameters
    ----------
    poisson : float
        Between -1 and 1/2, both excluded.

    Returns
    -------
    float

    Raises
    ------
    InputError
        A value outside.

    Examples
    --------
    >>> checked_poisson(0.334)
    0.334
    """
    if not -1 < poisson < 0.5:
        raise InputError("poisson", f"is {poisson!r}", "give a ratio between -1 and 0.5")
    return float(poisson)


def frames(burgers: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Frame of every dislocation: rows e1, n, t with e1 = n × t along the edge part of b.

    Parameters
    ----------
    burgers : array (n, 3), um
        Burgers vectors.
    line : array (n, 3)
        Unit directions.

    Returns
    -------
    array (n, 3, 3), float64
        Right-handed. b·n = 0 and b·e1 >= 0. Of a pure screw e1 is any direction across t: the field is the same.

    Examples
    --------
    >>> frames(np.array([[1.0, 0, 1]]), np.array([[0, 0, 1.0]]))[0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    edge = burgers - np.sum(burgers * line, axis=1)[:, None] * line
    # An edge part that is rounding of a screw has no direction of its own; nothing depends on the one that it gets.
    screw = np.linalg.norm(edge, axis=1) <= 1e-12 * np.linalg.norm(burgers, axis=1)
    axis = np.eye(3)[np.argmin(np.abs(line), axis=1)]
    edge = np.where(screw[:, None], axis, edge)
    edge = edge - np.sum(edge * line, axis=1)[:, None] * line
    e1 = edge / np.linalg.norm(edge, axis=1)[:, None]
    return np.stack([e1, np.cross(line, e1), line], axis=1)


def line_table(lines: np.ndarray, poisson: float, legacy: bool = False) -> np.ndarray:
    """Constants of every line, as `accumulate_lines` reads them.

    Parameters
    ----------
    lines : array (n,), LINE
        From `lines`.
    poisson : float
        Poisson ratio.
    legacy : bool
        See `gradient`.

    Returns
    -------
    array (n, 15), float64
        e1 (3), n (3), t (3), position·e1, position·n, b_e / 4 pi (1 - nu), b_s / 2 pi, core², sign of nu in b22.

    Raises
    ------
    InputError
        A Poisson ratio outside -1 to 1/2.

    Examples
    --------
    >>> line_table(lines([0, 0, 0], [1, 0, 0], [0, 0, 1]), 0.3).shape
    (1, 15)
    """
    poisson = checked_poisson(poisson)
    frame = frames(lines["burgers"], lines["line"])
    x0, y0, _ = np.einsum("nij,nj->in", frame, lines["position"])
    edge, _, screw = np.einsum("nij,nj->in", frame, lines["burgers"])
    constants = np.stack(
        [
            x0,
            y0,
            edge / (4 * np.pi * (1 - poisson)),
            screw / (2 * np.pi),
            lines["core"] ** 2,
            np.full(len(lines), -1.0 if legacy else 1.0),
        ],
        axis=1,
    )
    return np.ascontiguousarray(np.concatenate([frame.reshape(-1, 9), constants], axis=1))


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate_lines(x, y, z, table, poisson, out):
    """Distortion of straight lines, added to the given field.

    Parameters
    ----------
    x, y, z : array (n,), float64, um
        Points.
    table : array (m, 15), float64
        From `line_table`.
    poisson : float
        The same as in the table.
    out : array (9, n), float64
        beta in row-major order (b11, b12, b13, b21, ...), to which the field is added. On a line without a core it
        becomes NaN, which the caller has to check, like `gradient`.

    Notes
    -----
    Numbers of one point do not depend on the other points of the call, to the last bit.
    """
    linear = 1 - 2 * poisson
    s = np.empty(12 * BLOCK)
    for first in range(0, x.shape[0], BLOCK):
        take_block(x, y, z, first, s)
        for k in range(table.shape[0]):
            ax, ay, az, nx, ny, nz, tx, ty, tz, x0, y0, edge, screw, core2, sign = table[k]
            frame = (ax, ay, az, nx, ny, nz, tx, ty, tz)
            two_nu = 2 * sign * poisson
            for i in range(BLOCK):
                px, py, pz = s[i], s[BLOCK + i], s[2 * BLOCK + i]
                u = px * ax + py * ay + pz * az - x0
                v = px * nx + py * ny + pz * nz - y0
                uu, vv = u * u, v * v
                r2 = uu + vv
                g = 1 / (r2 + core2)
                e = edge * g * g
                eu, ev, sg = e * u, e * v, screw * g
                lin = linear * r2
                along = lin + 2 * uu
                b11, b12, b31 = -ev * along, eu * along, -sg * v
                b21, b22, b32 = -eu * (lin + 2 * vv), ev * (uu - vv + two_nu * r2), sg * u
                add_turned(s, FIELD + i, BLOCK, frame, (b11, b21, b31), (b12, b22, b32))
        add_block(s, first, out)


def gradient(points: np.ndarray, lines: np.ndarray, *, poisson: float, legacy: bool = False) -> np.ndarray:
    """Distortion beta of straight dislocations, summed over the lines.

    Parameters
    ----------
    points : array (..., 3), um
        Positions.
    lines : array (n,), LINE
        From `lines`, in the same frame.
    poisson : float
        Poisson ratio nu.
    legacy : bool
        The sign of nu in b22 as in published codes (DFXMTools, pyDFXM): b22 = A y [x² - y² - 2 nu R²]. That field is
        neither in equilibrium nor compatible; it serves only for comparison with images of these codes.

    Returns
    -------
    array (..., 3, 3), float64
        beta_ij = du_i/dx_j.

    Raises
    ------
    InputError
        A point on a line that has no core; a Poisson ratio outside -1 to 1/2.

    Notes
    -----
    In the frame e1, n, t of a line (x along e1, y along n, R² = x² + y²), with A = b_e / (4 pi (1 - nu) R⁴) and
    S = b_s / (2 pi R²) (Hirth and Lothe, Theory of Dislocations, sections 3-2 and 3-4):

        b11 = -A y [(3 - 2 nu) x² + (1 - 2 nu) y²]     b12 = A x [(3 - 2 nu) x² + (1 - 2 nu) y²]
        b21 = -A x [(1 - 2 nu) x² + (3 - 2 nu) y²]     b22 = A y [(1 + 2 nu) x² - (1 - 2 nu) y²]
        b31 = -S y                                     b32 = S x

    A core radius a replaces R² by R² + a² in A and S. The regularised field is finite, but compatible only for R >> a:
    use the non-singular segments where the core matters.

    Examples
    --------
    >>> screw = lines([0, 0, 0], [0, 0, 1], [0, 0, 1])
    >>> float(gradient(np.array([0.5, 0, 0]), screw, poisson=0.3)[2, 1] * np.pi)
    1.0
    """
    table = line_table(lines, poisson, legacy)
    x, y, z = columns(points)
    out = np.zeros((9, x.size))
    accumulate_lines(x, y, z, table, float(poisson), out)
    # The field is that large only next to a line, so the distances are looked at only then.
    if not (np.abs(out).max(initial=0.0) <= 1e3):
        refuse_on_line(np.stack([x, y, z], axis=1), lines)
    return tensors(out, np.shape(points)[:-1])


def refuse_on_line(points: np.ndarray, lines: np.ndarray) -> None:
    """Refuse points on a line without a core, where the field has no value.

    Parameters
    ----------
    points : array (n, 3), um
    lines : array (n,), LINE

    Raises
    ------
    InputError
    """
    for k, line in enumerate(lines):
        size = np.linalg.norm(line["burgers"])
        away = np.linalg.norm(np.cross(points - line["position"], line["line"]), axis=1)
        if line["core"] <= ON_LINE * size and (away <= ON_LINE * size).any():
            raise InputError(
                f"point {points[np.argmin(away)].tolist()} um",
                f"lies on line {k}, which has no core",
                "give the line a core radius of 1 to 5 |b|, or shift the points",
            )
