"""Curves of regions: sums over a layer by intervals of the rocking axis, and the choice of intervals for the basis."""

from __future__ import annotations

from itertools import product

import numpy as np
from numba import njit

from dfxm_dask.components.curves import STEPS, STRIP, Summary, place_ranks, treated
from dfxm_dask.components.regions import PARTS

RESAMPLES, BLOCK = 50, 4.0  # of the bootstrap, and the um within which pixels count as dependent (our choice)
DEPENDENT = 1e-6  # least part of a curve that is independent of the others (our choice)
LEAST_PART = 0.05  # least share of the pixels of a region in a part that represents the region (our choice)


def orthonormal(curves: np.ndarray) -> np.ndarray:
    """Gram–Schmidt basis of curves, in their order.

    Parameters
    ----------
    curves : array (component, frame), float64

    Returns
    -------
    array (component, frame), float64
        Orthonormal rows; NaN throughout if a curve depends on those before it to a part in 10⁶, or is not finite.

    Notes
    -----
    Modified Gram–Schmidt::

        u₁ = r₁ / |r₁|
        u₂ ∝ r₂ − ⟨r₂, u₁⟩ u₁

    and so on, every projection subtracted twice, which makes the rows orthogonal up to rounding for any condition
    number. Equal to QR up to signs; here ⟨r, u⟩ > 0.

    References
    ----------
    P. Huang, R. Coffee, L. Dresselhaus-Marais, IMMI 12 (2023) 83, arXiv:2211.05247.

    Examples
    --------
    >>> orthonormal(np.array([[3.0, 0.0], [2.0, -5.0]])).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    basis = np.full(curves.shape, np.nan)
    if not np.isfinite(curves).all():
        return basis
    for k, curve in enumerate(curves):
        left = curve.astype(np.float64)
        for other in [*basis[:k], *basis[:k]]:
            left = left - (left @ other) * other
        length = np.sqrt(left @ left)
        if not length > DEPENDENT * np.sqrt(curve @ curve):
            return np.full(curves.shape, np.nan)
        basis[k] = left / length
    return basis


@njit(nogil=True, cache=True)
def _add_to_blocks(curves, block, sums, pixels):
    """Add curves to the sums of their blocks; a curve with a value that is not finite is left out."""
    for n in range(block.size):
        finite = True
        for frame in range(curves.shape[0]):
            finite &= curves[frame, n] - curves[frame, n] == 0
        if finite:
            pixels[block[n]] += 1
            for frame in range(curves.shape[0]):
                sums[block[n], frame] += np.int64(curves[frame, n])


def region_sums(
    counts: np.ndarray,
    level: np.ndarray,
    scaling: np.ndarray,
    masks: np.ndarray,
    part: np.ndarray | None,
    z: float,
    pixel: tuple[float, float],
) -> Summary:
    """Sums of the curves of each region by parts, and of 50 resamples: integer steps, which add up over layers.

    Parameters
    ----------
    masks : array (3, y, x), bool
    part : array (y, x), int64, optional
        See :func:`dfxm_dask.components.regions.peak_parts`; by default each region is one part.

    Returns
    -------
    dict
        ``sum_region`` (3, part, frame), ``sum_drawn`` (resample, 3, part, frame), and the number of pixels in each.

    Notes
    -----
    Blocks of 4 um, not pixels, are drawn. The number of times follows a Poisson distribution of mean 1 and is
    determined by the position of the layer. For many blocks this equals drawing with replacement, and layers are
    independent of each other.
    """
    frames = int(np.prod(counts.shape[2:]))
    edges = [max(1, round(BLOCK / p)) if np.isfinite(p) else 1 for p in pixel]
    rows, columns = (np.arange(n) // e for n, e in zip(masks.shape[1:], edges, strict=True))
    number = rows[:, None] * (columns[-1] + 1 if columns.size else 0) + columns
    blocks = int(number.max()) + 1 if number.size else 0
    seed = int(place_ranks(z, np.zeros(1), np.zeros(1), np.zeros(1, np.int64))[0])
    weight = np.random.default_rng(seed).poisson(1.0, (RESAMPLES, blocks))
    parts = 1 if part is None else PARTS
    result: Summary = {
        "sum_region": np.zeros((3, parts, frames), np.int64),
        "sum_region_pixels": np.zeros((3, parts), np.int64),
        "sum_drawn": np.zeros((RESAMPLES, 3, parts, frames), np.int64),
        "sum_drawn_pixels": np.zeros((RESAMPLES, 3, parts), np.int64),
    }
    for k, mask in enumerate(masks):
        chosen = np.flatnonzero(mask & np.isfinite(level))
        of = number.ravel()[chosen] + (0 if part is None else blocks * part.ravel()[chosen])
        held = np.zeros(parts * blocks, bool)
        held[of] = True
        full = np.flatnonzero(held)  # a few of all pairs of part and block
        row = (np.cumsum(held) - 1)[of]
        sums, pixels = np.zeros((full.size, frames), np.int64), np.zeros(full.size, np.int64)
        for first in range(0, chosen.size, STRIP):
            curves = treated(counts, level, chosen[first : first + STRIP], scaling) / np.float32(STEPS[int(scaling[0])])
            _add_to_blocks(curves, row[first : first + STRIP], sums, pixels)
        for p in np.unique(full // max(1, blocks)):
            at = full // blocks == p
            often = weight[:, full[at] % blocks]
            result["sum_region"][k, p], result["sum_region_pixels"][k, p] = sums[at].sum(axis=0), pixels[at].sum()
            result["sum_drawn"][:, k, p] = often.astype(float) @ sums[at].astype(float)  # exact below 2**53
            result["sum_drawn_pixels"][:, k, p] = often @ pixels[at]
    return result


def chosen_parts(sums: np.ndarray, pixels: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> list[slice]:
    """The part of each region, or the whole region, whose curves form the basis that separates the weak regions best.

    Parameters
    ----------
    sums : array (3, part, frame)
        Sums of the transformed curves of strong, weak_minus and weak_plus.
    pixels : array (3, part), int64
    mean, covariance : array (frame,), array (frame, frame)
        Mean and covariance of all lit transformed curves.

    Returns
    -------
    list of 3 slice
        Slices along ``part``.

    Notes
    -----
    Misoriented subgrains have the same curves at shifted positions. A basis from all of them shows the subgrains; a
    basis with curves of a single subgrain each, as a user would draw them, shows details within. The choice does not
    require dislocations to be known: of all combinations of parts that contain at least 5 % of their region, the basis
    u with the largest value of::

        ⟨r_k − mean, u_k⟩ / √(u_kᵀ C u_k)

    for the worse of weak_minus and weak_plus, with r_k the mean curve of the whole region, and mean and C the mean and
    covariance of all curves.
    """
    slices = [
        [slice(None), *(slice(p, p + 1) for p in np.flatnonzero(n >= max(1, LEAST_PART * n.sum())) if n[p] < n.sum())]
        for n in pixels
    ]
    curves = [
        [s[at].sum(axis=0) / n[at].sum() for at in parts] for s, n, parts in zip(sums, pixels, slices, strict=True)
    ]
    beyond = np.stack([curves[1][0], curves[2][0]]) - mean
    best: tuple[int, ...] = (0, 0, 0)
    most = -np.inf
    for choice in product(*(range(len(parts)) for parts in slices)):
        weak = orthonormal(np.stack([c[n] for c, n in zip(curves, choice, strict=True)]))[1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            separation = float(((weak * beyond).sum(axis=1) / np.sqrt(((weak @ covariance) * weak).sum(axis=1))).min())
        if separation > most:
            best, most = choice, separation
    return [parts[n] for parts, n in zip(slices, best, strict=True)]
