"""Fields of one open segment and of one closed polygon, to compare with other codes and with quadratures."""

from __future__ import annotations

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.segments import _sum, segment_table


def segment_gradient(
    points: np.ndarray, start: np.ndarray, end: np.ndarray, burgers: np.ndarray, *, poisson: float, core: float
) -> np.ndarray:
    """Distortion beta of one open segment: a term of a sum, and no field of a body.

    Terms that depend on an end alone cancel wherever segments meet. They are chosen here as in the paper: the symmetric
    part is the strain of its segment stress. `accumulate_segments` leaves them out.
    """
    ends = np.atleast_2d(np.asarray(start, np.float64)), np.atleast_2d(np.asarray(end, np.float64))
    vector = np.atleast_2d(np.asarray(burgers, np.float64))
    beta = _sum(points, segment_table(*ends, vector), poisson, core)
    for sign, node in zip((1, -1), ends, strict=True):
        beta += sign * _end_term(np.asarray(points, np.float64) - node[0], vector[0], poisson, core)
    return beta


def _end_term(apart: np.ndarray, burgers: np.ndarray, poisson: float, core: float) -> np.ndarray:
    """(e_jik b_k R_pp - e_ikl b_k R_lj / (1 - nu)) / 8 pi at one end, R the regularised distance."""
    one = np.eye(3)
    radius = np.sqrt(np.sum(apart**2, axis=-1) + core**2)[..., None, None]
    hessian = one / radius - apart[..., :, None] * apart[..., None, :] / radius**3
    laplacian = 2 / radius + core**2 / radius**3
    skew = np.cross(burgers, one)  # e_jik b_k, indices j and i
    return (skew * laplacian - hessian @ skew / (1 - poisson)) / (8 * np.pi)


def loop_gradient(
    points: np.ndarray, nodes: np.ndarray, burgers: np.ndarray, *, poisson: float, core: float
) -> np.ndarray:
    """Distortion beta of one closed polygon."""
    nodes = np.asarray(nodes, np.float64)
    if nodes.ndim != 2 or nodes.shape[0] < 3 or nodes.shape[1] != 3:
        raise InputError("loop: nodes", f"have the shape {nodes.shape}", "give at least three corners (n, 3)")
    ends = np.roll(nodes, -1, axis=0)
    return _sum(points, segment_table(nodes, ends, np.broadcast_to(burgers, nodes.shape)), poisson, core)
