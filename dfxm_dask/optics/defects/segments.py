"""Non-singular dislocation segments: loops and networks of straight pieces in an isotropic body.

The distortion of Cai, Arsenlis, Weinberger and Bulatov, J. Mech. Phys. Solids 54, 561 (2006): the Burgers vector is
spread such that R becomes R_a = sqrt(R² + a²) in the Green's function. Lengths in um. A segment has the line sense
end - start, and the sign convention of `dislocation`: the closed integral of beta·dl counter-clockwise about the line
sense is +b.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import checked_poisson, frames
from dfxm_dask.optics.defects.points import BLOCK, FIELD, add_block, add_turned, columns, take_block, tensors

# Conservation of the Burgers vector at a node, relative to the longest one of the network (our choice).
CLOSED = 1e-9


def segment_table(start: np.ndarray, end: np.ndarray, burgers: np.ndarray) -> np.ndarray:
    """Constants of every segment, as `accumulate_segments` reads them.

    Parameters
    ----------
    start, end : array (m, 3), um
        Ends; the line sense is end - start.
    burgers : array (m, 3), um
        Burgers vectors.

    Returns
    -------
    array (m, 15), float64
        e1 (3), n (3), t (3), start·e1, start·n, start·t, end·t, b_e / 8 pi, b_s / 8 pi.

    Raises
    ------
    InputError
        Shapes that do not fit, numbers that are not finite, a segment of length zero.

    Examples
    --------
    >>> segment_table(np.zeros((1, 3)), np.array([[0, 0, 1.0]]), np.array([[1.0, 0, 0]])).shape
    (1, 15)
    """
    start, end, burgers = (np.asarray(v, np.float64) for v in (start, end, burgers))
    if start.ndim != 2 or start.shape[1] != 3 or not start.shape == end.shape == burgers.shape:
        raise InputError(
            "segments: start, end and burgers",
            f"have the shapes {start.shape}, {end.shape} and {burgers.shape}",
            "give three arrays (m, 3)",
        )
    if not all(np.isfinite(v).all() for v in (start, end, burgers)):
        raise InputError("segments", "hold a number that is not finite", "give finite numbers")
    length = np.linalg.norm(end - start, axis=1)
    if (length == 0).any():
        raise InputError(f"segment {np.argmin(length)}", "has length zero", "leave it out, or move one of its nodes")
    frame = frames(burgers, (end - start) / length[:, None])
    x0, y0, z0 = np.einsum("nij,nj->in", frame, start)
    z1 = np.einsum("nj,nj->n", frame[:, 2], end)
    edge, _, screw = np.einsum("nij,nj->in", frame, burgers) / (8 * np.pi)
    return np.ascontiguousarray(
        np.concatenate([frame.reshape(-1, 9), np.stack([x0, y0, z0, z1, edge, screw], axis=1)], axis=1)
    )


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate_segments(x, y, z, table, poisson, core, out):
    """Distortion of straight segments, added to the given field.

    Parameters
    ----------
    x, y, z : array (n,), float64, um
        Points.
    table : array (m, 15), float64
        From `segment_table`.
    poisson : float
        Poisson ratio.
    core : float, um
        Core radius a > 0.
    out : array (9, n), float64
        beta in row-major order (b11, b12, b13, b21, ...); added to.

    Notes
    -----
    Numbers of one point do not depend on the other points of the call, to the last bit.

    With R = x - x' = d + q t along the segment (d across it, q along it), and Mura's formula

        beta_ji = e_inh t_h b_m / 8 pi · int ( nu/(1-nu) δ_mn R_ppj + δ_jm R_ppn + δ_jn R_ppm - R_jmn/(1-nu) ) dq,

    where R_jmn are derivatives of R_a, everything reduces to the integrals I_kn = int q^k R_a^-n dq with
    ρ² = d² + a²:

        I03 = q/(ρ² R_a)                              I13 = -1/R_a
        I05 = q/(3 ρ² R_a) (1/R_a² + 2/ρ²)            I15 = -1/(3 R_a³)            I25 = q³/(3 ρ² R_a³)
    """
    m = 1 / (1 - poisson)
    k = poisson * m
    m3 = 3 * m
    a2 = core * core
    third = 1 / 3
    s = np.empty(12 * BLOCK)
    for first in range(0, x.shape[0], BLOCK):
        take_block(x, y, z, first, s)
        for row in range(table.shape[0]):
            ax, ay, az, nx, ny, nz, tx, ty, tz, x0, y0, z0, z1, be, bs = table[row]
            frame = (ax, ay, az, nx, ny, nz, tx, ty, tz)
            for i in range(BLOCK):
                px, py, pz = s[i], s[BLOCK + i], s[2 * BLOCK + i]
                u = px * ax + py * ay + pz * az - x0
                v = px * nx + py * ny + pz * nz - y0
                w = px * tx + py * ty + pz * tz
                # The segment runs from q = w - z1 (its end) to q = w - z0 (its start), since ds = -dq.
                p, q = w - z0, w - z1
                rho2 = u * u + v * v + a2
                over = 1 / rho2
                rp, rq = 1 / np.sqrt(rho2 + p * p), 1 / np.sqrt(rho2 + q * q)
                p3, q3 = p * rp, q * rq
                rp3, rq3 = rp * rp * rp, rq * rq * rq
                i03 = (p3 - q3) * over
                i13 = rq - rp
                i05 = (p3 * (rp * rp + 2 * over) - q3 * (rq * rq + 2 * over)) * over * third
                i15 = (rq3 - rp3) * third
                i25 = (p3 * p3 * p3 - q3 * q3 * q3) * over * third
                # int R_ppn dq = d l0 + t l1, int R_n R_a^-3 dq = d I03 + t I13.
                l0 = -2 * i03 - 3 * a2 * i05
                l1 = -2 * i13 - 3 * a2 * i15
                mixed = l0 + m * i03
                bd = be * u
                w1 = m3 * (bd * i05 + bs * i15)
                w2 = m3 * (bd * i15 + bs * i25)
                across = be * (k * l0 + m * i03)
                turn = bd * mixed + bs * (l1 + m * i13)
                f1, f2, f3 = be * mixed - u * w1, -v * w1, bs * mixed - w2
                # Columns of beta along e1 and along n; the one along t is zero.
                b11, b21, b31 = v * f1, v * f2 + turn, v * f3
                b12, b22, b32 = -u * f1 - across * u - turn, -u * f2 - across * v, -u * f3 - be * (k * l1 + m * i13)
                add_turned(s, FIELD + i, BLOCK, frame, (b11, b21, b31), (b12, b22, b32))
        add_block(s, first, out)


def _sum(points: np.ndarray, table: np.ndarray, poisson: float, core: float) -> np.ndarray:
    """Field of segments that together are closed."""
    poisson = checked_poisson(poisson)
    if not 0 < core < np.inf:
        raise InputError("segments: core", f"is {core!r} um", "give a core radius above zero, such as 1 to 5 |b|")
    x, y, z = columns(points)
    out = np.zeros((9, x.size))
    accumulate_segments(x, y, z, table, poisson, float(core), out)
    return tensors(out, np.shape(points)[:-1])


def network_gradient(
    points: np.ndarray, nodes: np.ndarray, segments: np.ndarray, burgers: np.ndarray, *, poisson: float, core: float
) -> np.ndarray:
    """Distortion beta of a closed network of segments.

    Parameters
    ----------
    points : array (..., 3), um
        Positions.
    nodes : array (n, 3), um
        Nodes.
    segments : array (m, 2), int
        First and last node of every segment, in its line sense.
    burgers : array (m, 3), um
        Burgers vector of every segment.
    poisson : float
        Poisson ratio.
    core : float, um
        Core radius a > 0.

    Returns
    -------
    array (..., 3, 3), float64
        beta_ij = du_i/dx_j.

    Raises
    ------
    InputError
        A node where the Burgers vectors that leave do not equal those that arrive (to 1e-9 of the longest), unknown
        nodes, a segment of length zero, numbers that are not finite, a core of zero, a Poisson ratio outside
        -1 to 1/2.

    Examples
    --------
    >>> square = polygon_loop([0, 0, 0], [0, 0, 1], 0.5, 4)
    >>> joined = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    >>> b = np.tile([3e-4, 0, 0], (4, 1))
    >>> network_gradient(np.zeros((2, 3)), square, joined, b, poisson=0.3, core=1e-3).shape
    (2, 3, 3)
    """
    nodes, burgers = np.asarray(nodes, np.float64), np.asarray(burgers, np.float64)
    segments = np.asarray(segments)
    if segments.ndim != 2 or segments.shape[1] != 2 or segments.dtype.kind not in "iu":
        raise InputError(
            "network: segments", f"have the shape {segments.shape} and {segments.dtype}", "give integers (m, 2)"
        )
    if segments.size and not (segments.min() >= 0 and segments.max() < len(nodes)):
        raise InputError("network: segments", f"name a node outside 0 to {len(nodes) - 1}", "give nodes that exist")
    table = segment_table(nodes[segments[:, 0]], nodes[segments[:, 1]], burgers)
    balance = np.zeros_like(nodes)
    np.add.at(balance, segments[:, 0], burgers)
    np.subtract.at(balance, segments[:, 1], burgers)
    excess = np.linalg.norm(balance, axis=1)
    if (excess > CLOSED * np.linalg.norm(burgers, axis=1).max(initial=0.0)).any():
        node = int(np.argmax(excess))
        raise InputError(
            "network is not closed",
            f"at node {node} the Burgers vectors that leave exceed those that arrive by {balance[node].tolist()} um",
            "add the segments that are missing, or change the sense of one",
        )
    return _sum(points, table, poisson, core)


def polygon_loop(centre: np.ndarray, normal: np.ndarray, radius: float, sides: int) -> np.ndarray:
    """Corners of a regular polygon, counter-clockwise about its normal.

    Parameters
    ----------
    centre : array (3,), um
        Centre.
    normal : array (3,)
        Normal; the length does not matter.
    radius : float, um
        Distance from the centre to a corner.
    sides : int
        At least 3.

    Returns
    -------
    array (sides, 3), float64, um

    Raises
    ------
    InputError
        A normal of length zero, a radius that is not positive, fewer than three sides.

    Examples
    --------
    >>> np.allclose(polygon_loop([0, 0, 1], [0, 0, 1], 2.0, 4), [[2, 0, 1], [0, 2, 1], [-2, 0, 1], [0, -2, 1]])
    True
    """
    normal = np.asarray(normal, np.float64)
    length = np.linalg.norm(normal)
    if not 0 < length < np.inf:
        raise InputError("polygon: normal", f"is {normal.tolist()}", "give a direction")
    if not 0 < radius < np.inf or sides < 3:
        raise InputError(
            "polygon: radius and sides", f"are {radius!r} um and {sides!r}", "give a radius above zero and 3 or more"
        )
    # A screw along the normal has no edge part, so `frames` chooses the two axes across it.
    first, second, _ = frames(normal[None] / length, normal[None] / length)[0]
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    return np.asarray(centre, np.float64) + radius * ring
