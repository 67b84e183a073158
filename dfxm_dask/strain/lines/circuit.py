"""Burgers vectors by closed integrals of the distortion."""

from __future__ import annotations

import numpy as np

from dfxm_dask.errors import InputError


def circuit(
    deformation: np.ndarray,
    covariance: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    box: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Burgers vector of all lines that pierce a rectangle of one layer.

    Parameters
    ----------
    deformation : ndarray (y, x, row, column)
    covariance : ndarray (y, x, component, component2)
    y, x : ndarray (y,), (x,), um
        In increasing order.
    box : (first row, last row, first column, last column)
        Pixels at the corners.

    Returns
    -------
    burgers : ndarray (xyz,), um
        NaN where a pixel of the edge is missing.
    covariance : ndarray (xyz, xyz), um2

    Raises
    ------
    InputError
        A box outside the layer, or without an area.

    Notes
    -----
    The closed integral of beta·dl, counter-clockwise about z, by the trapezoidal rule between neighbouring pixels, with
    independent errors of the pixels. The rule is exact to second order in the pixel size; far from the core the
    distortion is smooth.

    J. P. Hirth and J. Lothe, Theory of Dislocations (1982), chapter 1.

    Examples
    --------
    >>> import dfxm_dask
    >>> found = dfxm_dask.deformation(dfxm_dask.example_reflections()).isel(z=1)
    >>> values = [found[name].values for name in ("deformation", "deformation_covariance", "y", "x")]
    >>> burgers, covariance = circuit(*values, (1, 14, 1, 14))
    >>> (1e4 * burgers).round(1).tolist()
    [2.0, 2.0, 0.0]
    """
    low_y, high_y, low_x, high_x = box
    if not (0 <= low_y < high_y < y.size and 0 <= low_x < high_x < x.size):
        raise InputError(f"circuit: box {box}", f"is not within {y.size} x {x.size} pixels", "give rows, then columns")
    weight = np.zeros((y.size, x.size, 2))  # along x and y
    for row, sign in ((low_y, 1.0), (high_y, -1.0)):
        step = np.diff(x[low_x : high_x + 1])
        weight[row, low_x:high_x, 0] += sign * step / 2
        weight[row, low_x + 1 : high_x + 1, 0] += sign * step / 2
    for column, sign in ((high_x, 1.0), (low_x, -1.0)):
        step = np.diff(y[low_y : high_y + 1])
        weight[low_y:high_y, column, 1] += sign * step / 2
        weight[low_y + 1 : high_y + 1, column, 1] += sign * step / 2
    edge = weight.any(axis=-1)
    w, beta = weight[edge], (deformation[edge] - np.eye(3))[..., :2]
    spread = covariance[edge].reshape(-1, 3, 3, 3, 3)[:, :, :2, :, :2].astype(np.float64)
    return np.einsum("nk,nik->i", w, beta), np.einsum("nk,nikjl,nl->ij", w, spread, w)
