"""Straight dislocations in a cubic crystal: their distortion with anisotropic elasticity (Stroh's formalism).

Lengths and signs are those of :mod:`dfxm_dask.optics.defects.dislocation`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import frames, refuse_on_line
from dfxm_dask.optics.defects.points import BLOCK, FIELD, add_block, add_turned, columns, take_block, tensors

ISOTROPIC = 1e-6  # deviation of the Zener ratio from 1 below which the roots are degenerate (our choice)


def stiffness(moduli: tuple[float, float, float], axes: np.ndarray) -> np.ndarray:
    """Elastic stiffness of a cubic crystal.

    Parameters
    ----------
    moduli : tuple, any one unit
        C11, C12, C44.
    axes : array (3, 3)
        Rotation whose columns are the cube axes.

    Returns
    -------
    array (3, 3, 3, 3)
        C_ijkl in the unit of the moduli.

    Raises
    ------
    InputError
        An unstable crystal, or axes that are not a rotation.

    Examples
    --------
    >>> float(stiffness((108.2, 61.3, 28.5), np.eye(3))[0, 1, 0, 1])
    28.5
    """
    c11, c12, c44 = moduli
    axes = np.asarray(axes, np.float64)
    if not (c44 > 0 and c11 > abs(c12) and c11 + 2 * c12 > 0):
        raise InputError("elastic moduli", f"are {moduli}", "give C11, C12, C44 of a stable cubic crystal")
    if axes.shape != (3, 3) or not np.allclose(axes @ axes.T, np.eye(3), atol=1e-8):
        raise InputError(
            "elastic moduli: axes", f"are {axes.tolist()}", "give a rotation with the cube axes as columns"
        )
    one = np.eye(3)
    made = c12 * np.einsum("ij,kl->ijkl", one, one) + (c11 - c12 - 2 * c44) * np.einsum("ia,ja,ka,la", *[axes] * 4)
    return np.asarray(made + c44 * (np.einsum("ik,jl->ijkl", one, one) + np.einsum("il,jk->ijkl", one, one)))


def stroh_table(lines: np.ndarray, moduli: tuple[float, float, float], axes: np.ndarray) -> np.ndarray:
    """Constants of every line, as `accumulate_stroh` reads them.

    Parameters
    ----------
    lines : array (n,), LINE
        From :func:`~dfxm_dask.optics.defects.dislocation.lines`.
    moduli, axes
        See :func:`stiffness`.

    Returns
    -------
    array (n, 36), float64
        e1 (3), n (3), t (3), position·e1, position·n, core²; then for each of three roots the real and imaginary parts
        of p and of A (L·b) / pi in the frame e1, n, t.

    Raises
    ------
    InputError
        An unstable crystal, or an isotropic one, whose roots are degenerate.

    Examples
    --------
    >>> from dfxm_dask.optics.defects.dislocation import lines
    >>> stroh_table(lines([0, 0, 0], [1, 0, 0], [0, 0, 1]), (108.2, 61.3, 28.5), np.eye(3)).shape
    (1, 36)
    """
    whole = stiffness(moduli, axes)
    c11, c12, c44 = moduli
    if abs(2 * c44 / (c11 - c12) - 1) <= ISOTROPIC:
        raise InputError("elastic moduli", f"are those of an isotropic body: {moduli}", "use its Poisson ratio instead")
    table = np.empty((len(lines), 36))
    for row, line, frame in zip(table, lines, frames(lines["burgers"], lines["line"]), strict=True):
        e1, n, _ = frame
        q, r, t = (np.einsum("ijkl,j,l->ik", whole, u, v) for u, v in ((e1, e1), (e1, n), (n, n)))
        soft = np.linalg.inv(t)
        roots, vectors = np.linalg.eig(np.block([[-soft @ r.T, soft], [r @ soft @ r.T - q, -r @ soft]]))
        above = np.flatnonzero(roots.imag > 0)
        a, ell = vectors[:3, above], vectors[3:, above]
        weight = frame @ (a * (line["burgers"] @ ell) / (2 * np.pi * np.sum(a * ell, axis=0)))
        x0, y0, _ = frame @ line["position"]
        row[:12] = [*frame.ravel(), x0, y0, line["core"] ** 2]
        parts = np.concatenate([roots[above][None], weight]).T
        row[12:] = np.stack([parts.real, parts.imag], axis=-1).ravel()
    return table


@njit(nogil=True, cache=True, error_model="numpy")
def accumulate_stroh(x, y, z, table, out):
    """Distortion of straight lines in a cubic crystal, added to the given field.

    Parameters
    ----------
    x, y, z : array (n,), float64, um
        Points.
    table : array (m, 36), float64
        From `stroh_table`.
    out : array (9, n), float64
        beta in row-major order (b11, b12, b13, b21, ...), to which the field is added.
    """
    s = np.empty(12 * BLOCK)
    for first in range(0, x.shape[0], BLOCK):
        take_block(x, y, z, first, s)
        for row in range(table.shape[0]):
            line = table[row]
            ax, ay, az, nx, ny, nz, tx, ty, tz, x0, y0, core2 = line[:12]
            frame = (ax, ay, az, nx, ny, nz, tx, ty, tz)
            for root in range(3):
                pr, pi, wr1, wi1, wr2, wi2, wr3, wi3 = line[12 + 8 * root : 20 + 8 * root]
                for i in range(BLOCK):
                    px, py, pz = s[i], s[BLOCK + i], s[2 * BLOCK + i]
                    u = px * ax + py * ay + pz * az - x0
                    v = px * nx + py * ny + pz * nz - y0
                    re, im = u + pr * v, pi * v
                    over = 1 / (re * re + im * im + core2)
                    gr, gi = re * over, -im * over
                    hr, hi = pr * gr - pi * gi, pr * gi + pi * gr
                    b11, b21, b31 = wr1 * gi + wi1 * gr, wr2 * gi + wi2 * gr, wr3 * gi + wi3 * gr
                    b12, b22, b32 = wr1 * hi + wi1 * hr, wr2 * hi + wi2 * hr, wr3 * hi + wi3 * hr
                    add_turned(s, FIELD + i, BLOCK, frame, (b11, b21, b31), (b12, b22, b32))
        add_block(s, first, out)


def stroh(points: np.ndarray, lines: np.ndarray, *, moduli: tuple[float, float, float], axes: np.ndarray) -> np.ndarray:
    """Distortion beta of straight dislocations in a cubic crystal, summed over the lines.

    Parameters
    ----------
    points : array (..., 3), um
        Positions.
    lines : array (n,), LINE
        From :func:`~dfxm_dask.optics.defects.dislocation.lines`, in the same frame. A core radius a replaces 1/w,
        w = x + p y, by conj(w) / (|w|² + a²) (our choice).
    moduli : tuple, any one unit
        C11, C12, C44. Aluminium: 108.2, 61.3, 28.5 GPa.
    axes : array (3, 3)
        Rotation whose columns are the cube axes in the frame of the points.

    Returns
    -------
    array (..., 3, 3), float64
        beta_ij = du_i/dx_j.

    Raises
    ------
    InputError
        An unstable crystal, an isotropic one (its roots are degenerate), a point on a line that has no core.

    Notes
    -----
    Stroh's formalism (Hirth and Lothe, chapter 13): beta_ij = Im sum_a A_ia (L_a·b) k_j / (pi (x + p_a y)) over the
    three roots with Im p > 0, k = e1 + p_a n, 2 A_a·L_a = 1.

    Examples
    --------
    >>> from dfxm_dask.optics.defects.dislocation import lines
    >>> edge = lines([0, 0, 0], [1, 0, 0], [0, 0, 1])
    >>> stroh(np.ones(3), edge, moduli=(108.2, 61.3, 28.5), axes=np.eye(3)).shape
    (3, 3)
    """
    table = stroh_table(lines, moduli, axes)
    x, y, z = columns(points)
    refuse_on_line(np.stack([x, y, z], axis=1), lines)
    out = np.zeros((9, x.size))
    accumulate_stroh(x, y, z, table, out)
    return tensors(out, np.shape(points)[:-1])
