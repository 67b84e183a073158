"""Maps of several reflections on one grid: interpolation with the covariance of the result."""

from __future__ import annotations

import numpy as np

WHOLE = 1e-4
"""Fraction of a pixel below which a position is that of a whole pixel (our choice)."""


def resample(
    centre: np.ndarray, covariance: np.ndarray | None, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps at other positions by bilinear interpolation, with the covariance of the interpolated values.

    Parameters
    ----------
    centre : array (y, x, angle), float64
    covariance : array (y, x, angle, angle2), float64, or None
    rows, columns : array (new y, new x), float64
        Positions in pixels. If all of them are those of whole pixels, values are copied without interpolation.

    Returns
    -------
    array (new y, new x, angle), float64
        NaN outside the maps and where a pixel that contributes is NaN.
    array (new y, new x, angle, angle2), float64, or None

    Notes
    -----
    With weights w of the four pixels around a position, the value is the sum of w·v, and the covariance the sum of
    w²·C: the noise of neighbouring pixels is independent before the interpolation. After it, neighbouring values are
    correlated. Our own definition.

    Examples
    --------
    >>> values, covariance = np.arange(4.0).reshape(2, 2, 1), np.ones((2, 2, 1, 1))
    >>> made, spread = resample(values, covariance, np.array([[0.5]]), np.array([[0.5]]))
    >>> made.item(), spread.item()
    (1.5, 0.25)
    """
    low = [np.rint(v).astype(np.intp) for v in (rows, columns)]
    if all((np.abs(v - k) < WHOLE).all() for v, k in zip((rows, columns), low, strict=True)):
        fractions = [np.zeros(rows.shape)] * 2
    else:
        low = [np.floor(v).astype(np.intp) for v in (rows, columns)]
        fractions = [v - k for v, k in zip((rows, columns), low, strict=True)]
    ny, nx = centre.shape[:2]
    made = np.zeros((*rows.shape, *centre.shape[2:]))
    spread = None if covariance is None else np.zeros((*rows.shape, *covariance.shape[2:]))
    for down in (0, 1):
        for right in (0, 1):
            weight = (fractions[0] if down else 1 - fractions[0]) * (fractions[1] if right else 1 - fractions[1])
            used = weight > 0
            if not used.any():
                continue
            row, column = low[0] + down, low[1] + right
            inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
            place = np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1)
            lost = used & ~inside
            for out, values, power in ((made, centre, weight), (spread, covariance, weight**2)):
                if out is None or values is None:
                    continue
                axes = (..., *(None,) * (out.ndim - 2))
                out += np.where(used[axes], power[axes] * values[place], 0.0)
                out[lost] = np.nan
    return made, spread
