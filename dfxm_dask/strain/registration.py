"""Maps of several reflections on one grid: displacements between them, and interpolation with covariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

WHOLE = 1e-4
"""Fraction of a pixel below which a position is that of a whole pixel (our choice)."""
WIDTHS = (6.0, 3.0, 2.0)
"""Standard deviations in pixels of the Gaussians that smooth the maps, from coarse to fine (our choice)."""
ROUNDS = 12
SETTLED = 1e-3
"""Pixels: change of the displacements below which the iteration ends."""
NOISY = 4.0
"""Variance relative to the median above which a pixel has less weight (our choice)."""
COVERED = 0.7
"""Least share of lit pixels under the Gaussian."""
STRONG = (4.0, 40.0)
"""Squared local contrast over its median of the pixels that count: without those of noise alone, and without cores of
dislocations, which every reflection averages along another direction (our choice)."""
LOCAL = 5.0
"""Standard deviation in pixels of the Gaussian whose mean is subtracted for the local contrast (our choice)."""
BLOCK = 12
"""Edge in pixels of the blocks whose contributions count as independent."""
FEWEST_BLOCKS = 6
LEAST_OVERLAP = 0.5
"""Least share of the lit pixels that all maps cover after the registration (our choice)."""


class Displacement(NamedTuple):
    """Displacements of maps relative to the first one.

    Attributes
    ----------
    shift, error : array (map, yx), float64, pixel
        Displacement and standard error; NaN where the maps do not determine them.
    """

    shift: np.ndarray
    error: np.ndarray


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


def register(maps: np.ndarray, weights: np.ndarray, variance: np.ndarray | None = None) -> Displacement:
    """Displacements for which weighted sums of maps are constant.

    Parameters
    ----------
    maps : array (map, y, x, component), float64
        NaN in unlit pixels.
    weights : array (map, equation), float64
        The sum over the maps of weights times map is constant over the pixels where the maps are aligned.
    variance : array (map, y, x), float64, optional
        Relative variance of the noise: noisy pixels have less weight where the maps are smoothed.

    Returns
    -------
    Displacement
        Positive where a map shows the sample at higher positions than the first map.

    Notes
    -----
    With the displacements s of the maps M, the residual of equation k at the position r is::

        R_k(r) = sum over n of w_nk M_n(r + s_n) - its mean

    Gauss-Newton iterations minimise the sum of squares over all pixels, whitened by the covariance of the residual and
    with Huber weights, on maps that are smoothed less from level to level. They start at several levels, and the result
    with the least determinant of the covariance of the residual counts. Derivatives are central differences, whose
    noise is uncorrelated with the noise of the residual, so that noise does not bias the displacement. The standard
    error comes from the scatter of the contributions of blocks of 12 x 12 pixels. Our own definition.

    For scattering vectors Q of the reflections with Q = F^-T G, weights w with G w = 0 give Q w = 0 for any F.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :64] / 5.0
    >>> waves = np.stack([np.sin(y) + np.cos(x), np.sin(y - 0.2) + np.cos(x + 0.1)])[..., None]
    >>> register(waves, np.array([[1.0], [-1.0]])).shift.round(1)
    array([[ 0. ,  0. ],
           [ 1. , -0.5]])
    """
    levels = [_smoothed(maps, width, variance) for width in WIDTHS]
    area = np.count_nonzero(np.isfinite(levels[-1][0]).all(axis=(0, -1)))
    found: list[tuple[float, np.ndarray, _Equations]] = []
    for start in range(len(WIDTHS)):
        shift = np.zeros((len(maps), 2))
        for level, width in zip(levels[start:], WIDTHS[start:], strict=True):
            shift = _settled(level, weights, shift, width)
        last = _equations(levels[-1], weights, shift)
        if last is not None and last.pixels > LEAST_OVERLAP * area:
            found.append((last.misfit, shift, last))
    if not found:
        nothing = np.full((len(maps), 2), np.nan)
        return Displacement(nothing, nothing)
    _, shift, last = min(found, key=lambda one: one[0])
    error = np.vstack([np.zeros(2), last.error])
    return Displacement(shift, error)


def contradiction(
    maps: np.ndarray, weights: np.ndarray, variance: np.ndarray, pixel: Any
) -> Callable[[np.ndarray], float]:
    """Function that gives the part of the local contrast of maps in which they contradict each other.

    Parameters
    ----------
    maps, weights, variance
        See :func:`register`.
    pixel : float or array (yx,), um

    Returns
    -------
    callable
        Takes displacements (map, yx) in um and gives the sum of squares of the weighted sums of the maps over the sum
        of squares of their parts: 0 for perfect maps, about 1 for unrelated ones; infinite without a sufficient common
        area.
    """
    local = (_smoothed(maps, 1.0, variance)[0] - _smoothed(maps, LOCAL, variance)[0])[None]
    area = np.count_nonzero(np.isfinite(maps).all(axis=(0, -1)))
    weight = np.square(weights).sum(axis=1)

    def part(shift: np.ndarray) -> float:
        here = _moved(local, (shift - shift[0]) / pixel)[0]
        lit = np.isfinite(here).all(axis=(0, 3))
        if np.count_nonzero(lit) < LEAST_OVERLAP * area:
            return float("inf")
        values = here[:, lit]
        total = np.einsum("n,npi->pi", weight, np.square(values)).sum(axis=-1)
        left = np.square(np.einsum("npi,nk->pki", values, weights)).sum(axis=(1, 2))
        middle = np.median(total)
        used = (total > STRONG[0] * middle) & (total < STRONG[1] * middle)
        return float(left[used].sum() / total[used].sum()) if used.any() else float("inf")

    return part


def _settled(level: np.ndarray, weights: np.ndarray, start: np.ndarray, width: float) -> np.ndarray:
    """Displacements on maps of one smoothness; those of the start where the maps determine no better ones."""
    shift = start.copy()
    for _ in range(ROUNDS):
        found = _equations(level, weights, shift)
        if found is None or not found.error.max() < width:
            return start
        longest = np.abs(found.step).max()
        shift[1:] += found.step * min(1.0, 2 * width / max(longest, SETTLED))
        if longest < SETTLED:
            break
    return shift


def steepness(maps: np.ndarray, variance: np.ndarray) -> float:
    """Largest squared local contrast over its median, of all maps together; high around dislocations.

    Parameters
    ----------
    maps, variance
        See :func:`register`.
    """
    local = _smoothed(maps, 1.0, variance)[0] - _smoothed(maps, LOCAL, variance)[0]
    total = np.square(local).sum(axis=(0, 3))
    known = total[np.isfinite(total)]
    return float(known.max() / np.median(known)) if known.size else float("nan")


class _Equations(NamedTuple):
    """One Gauss-Newton step with its standard error, (map - 1, yx); the logarithm of the determinant of the covariance
    of the residual, as a measure of the misfit; and the number of pixels."""

    step: np.ndarray
    error: np.ndarray
    misfit: float
    pixels: int


def _smoothed(maps: np.ndarray, width: float, variance: np.ndarray | None = None) -> np.ndarray:
    """Maps under a Gaussian and their derivatives along y and x: (quantity, map, y, x, component)."""
    lit = np.isfinite(maps)
    weight = lit.astype(float)
    if variance is not None:
        typical = np.nanmedian(np.where(lit.all(axis=-1), variance, np.nan), axis=(1, 2), keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            trust = np.minimum(1.0, NOISY * typical / variance)
        weight *= np.where(np.isfinite(trust), trust, 0.0)[..., None]
    spread = (0, width, width, 0)
    share = ndimage.gaussian_filter(weight, spread, mode="constant")
    values = ndimage.gaussian_filter(np.where(lit, maps, 0.0) * weight, spread, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        smooth = np.where(lit & (share > COVERED), values / share, np.nan)
    return np.stack([smooth, *np.gradient(smooth, axis=(1, 2))])


def _moved(level: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """All quantities at displaced positions, bilinear."""
    count = level.shape[1]
    out = np.full(level.shape, np.nan)
    for n in range(count):
        low = np.floor(shift[n]).astype(int)
        part = shift[n] - low
        total = np.zeros(level[:, n].shape)
        for down in (0, 1):
            for right in (0, 1):
                weight = (part[0] if down else 1 - part[0]) * (part[1] if right else 1 - part[1])
                if weight > 0:
                    total += weight * _rolled(level[:, n], low[0] + down, low[1] + right)
        out[:, n] = total
    return out


def _rolled(values: np.ndarray, down: int, right: int) -> np.ndarray:
    """values[:, y + down, x + right], NaN outside."""
    out = np.full(values.shape, np.nan)
    ny, nx = values.shape[1:3]
    y, x = (slice(max(0, -k), min(n, n - k)) for k, n in ((down, ny), (right, nx)))
    if y.start < y.stop and x.start < x.stop:
        out[:, y, x] = values[:, y.start + down : y.stop + down, x.start + right : x.stop + right]
    return out


def _equations(level: np.ndarray, weights: np.ndarray, shift: np.ndarray) -> _Equations | None:
    """The Gauss-Newton step at given displacements; None where the maps do not determine it."""
    here = _moved(level, shift)
    lit = np.isfinite(here).all(axis=(0, 1, 4))
    if np.count_nonzero(lit) < FEWEST_BLOCKS * BLOCK**2:
        return None
    values, *slopes = (np.moveaxis(q[:, lit], 0, -1) for q in here)  # (pixel, component, map)
    residual = (values @ weights).reshape(len(values), -1)
    columns = np.stack(
        [(slope[..., n, None] * weights[n]).reshape(len(values), -1) for n in range(1, len(shift)) for slope in slopes],
        -1,
    )  # (pixel, equation, unknown)
    weight = np.ones(len(residual))
    for _ in range(3):
        mean = np.average(residual, axis=0, weights=weight)
        centred = residual - mean
        covariance = (weight[:, None] * centred).T @ centred / weight.sum()
        if not np.linalg.cond(covariance) < 1e12:
            covariance += 1e-12 * np.trace(covariance) * np.eye(len(covariance)) + np.finfo(float).tiny * np.eye(
                len(covariance)
            )
        whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
        size = np.sqrt(np.square(centred @ whiten).mean(axis=1))
        weight = np.minimum(1.0, 1.5 / np.maximum(size, 1e-12))
    slopes_of = columns - np.average(columns, axis=0, weights=weight)
    whitened, design = centred @ whiten, np.einsum("pek,ef->pfk", slopes_of, whiten)
    normal = np.einsum("p,pek,pem->km", weight, design, design)
    if not np.linalg.cond(normal) < 1e10:
        return None
    inverse = np.linalg.inv(normal)
    score = np.einsum("p,pek,pe->pk", weight, design, whitened)
    step = -inverse @ score.sum(axis=0)
    left = np.einsum("p,pek,pe->pk", weight, design, whitened + design @ step)
    y, x = np.nonzero(lit)
    numbers = np.unique((y // BLOCK) * (lit.shape[1] // BLOCK + 1) + x // BLOCK, return_inverse=True)[1]
    blocks = np.zeros((numbers.max() + 1, score.shape[1]))
    np.add.at(blocks, numbers, left)
    variance = np.diag(inverse @ (blocks.T @ blocks) @ inverse) * len(blocks) / max(1, len(blocks) - score.shape[1])
    misfit = float(np.linalg.slogdet(covariance)[1])
    return _Equations(step.reshape(-1, 2), np.sqrt(variance).reshape(-1, 2), misfit, len(values))
