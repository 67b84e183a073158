"""Families of parallel dislocation lines in a plane: their directions and spacings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter1d

from dfxm_dask.boundaries.planes.plane import canonical, checked_points, in_plane, thinned
from dfxm_dask.errors import InputError

SHORTEST, LONGEST = 1.5, 15.0
"""Range of spacings in um: below, images of dislocations overlap; above, a wall has few lines. As in the specification
of the method."""

BIN = 0.2  # um of a projected profile: half of the width of a line's image
BLUR = 0.3  # um: of the profile in which single lines are located (our choice)
COARSE = 20_000  # points used to try all directions
LEAST = 30  # least number of points of a plane in which lines are detected (our choice)
APART = 10.0  # degree between two families (our choice)
WEAKEST = 0.04
"""Least fraction of the first family's power in another one, whose spacing may be five times larger (our choice)."""
SURE = 12.0  # robust standard deviations above the median of all directions (our choice)


class Families(NamedTuple):
    """Families of parallel lines in one plane, strongest first.

    Attributes
    ----------
    line : array (family, xyz), float64
        Unit vector along the lines; its largest component is positive.
    spacing : array (family,), float64, um
        Period of the lines.
    gap : array (family,), float64, um
        Mean distance of neighbouring lines, located one by one; NaN for fewer than two. Frank's rule requires this
        mean. It equals the period if lines are evenly spaced and all are located.
    count : array (family,), int64
        Number of located lines.
    contrast : array (family,), float64
        Length of the mean of exp(2 pi i s/spacing) over the weight of the plane, s across the lines: 1 for a plane full
        of sharp and evenly spaced lines, 0 without lines.
    power : array (family,), float64
        Power of the projection, in standard deviations above that of directions without lines.
    """

    line: np.ndarray
    spacing: np.ndarray
    gap: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # tuples have a method count
    contrast: np.ndarray
    power: np.ndarray


@njit(nogil=True, cache=True)
def _profiles(u, v, weights, angles, step, reach, profiles):
    """Add weights to projected profiles, with linear interpolation."""
    for a in range(angles.size):
        c, s = np.cos(angles[a]), np.sin(angles[a])
        for i in range(u.size):
            place = (v[i] * c - u[i] * s + reach) / step
            low = int(place)
            part = place - low
            profiles[a, low] += weights[i] * (1 - part)
            profiles[a, low + 1] += weights[i] * part


def projected_power(
    flat: np.ndarray, weights: np.ndarray, angles: np.ndarray, band: tuple[float, float] = (SHORTEST, LONGEST)
) -> np.ndarray:
    """Power of the profile across lines of each direction, within a band of spacings.

    Parameters
    ----------
    flat : array (point, 2), um
        Positions in the plane.
    weights : array (point,)
    angles : array (angle,), rad
        Angles of the lines from the first axis.
    band : (float, float), um
        Shortest and longest spacing.

    Returns
    -------
    array (angle,), float64
        Sum of |Fourier coefficient|²: by Parseval the variance of the profile within the band.
    """
    reach = float(np.sqrt((flat**2).sum(axis=1).max(initial=0.0))) + BIN
    # Twice as long as the profile, so that a frequency between two bins loses little.
    length = 2 ** int(np.ceil(np.log2(4 * reach / BIN + 2)))
    frequency = np.fft.rfftfreq(length, BIN)
    inside = (frequency >= 1 / band[1]) & (frequency <= 1 / band[0])
    out = np.empty(len(angles))
    for first in range(0, len(angles), 64):
        some = np.ascontiguousarray(angles[first : first + 64], np.float64)
        profiles = np.zeros((len(some), length))
        _profiles(flat[:, 0].copy(), flat[:, 1].copy(), weights, some, BIN, reach, profiles)
        out[first : first + 64] = (np.abs(np.fft.rfft(profiles, axis=1)[:, inside]) ** 2).sum(axis=1)
    return out


def tapered(flat: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights that decrease to 0 towards the rim of a patch, so that its edges do not appear as lines.

    Notes
    -----
    cos²(pi rho/2) with rho the elliptic radius, 1 at the farthest point along either principal axis.
    """
    centred = flat - np.average(flat, axis=0, weights=weights)
    _, axes = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    along = centred @ axes
    rho = np.sqrt(((along / np.maximum(np.abs(along).max(axis=0), 1e-9)) ** 2).sum(axis=1))
    return weights * np.where(rho < 1, np.cos(np.pi / 2 * rho) ** 2, 0.0)


def sharpest_angle(flat: np.ndarray, weights: np.ndarray, start: float, width: float, close: float = 1e-4) -> float:
    """Angle of largest power near a start; rad.

    Parameters
    ----------
    flat, weights : array (point, 2), um, and (point,)
        Tapered weights.
    start, width : float, rad
        The search covers angles within ``width``, on ever finer grids.
    close : float, degree
        Half width of the last grid.
    """
    best = start
    while width > np.deg2rad(close):
        grid = best + np.linspace(-width, width, 9)
        power = projected_power(flat, weights, grid)
        place = int(np.clip(power.argmax(), 1, 7))
        below, at, above = power[place - 1 : place + 2]
        curve = below - 2 * at + above
        step = grid[1] - grid[0]
        best = grid[place] + (0.5 * step * (below - above) / curve if curve < 0 else 0.0)
        width /= 4
    return float(best)


def spacing_at(flat: np.ndarray, weights: np.ndarray, angle: float, near: float | None = None) -> tuple[float, float]:
    """Spacing of lines of a direction, and the contrast of their profile.

    Parameters
    ----------
    flat, weights : array (point, 2), um, and (point,)
    angle : float, rad
    near : float, um, optional
        Centre of the search; the whole band by default.

    Returns
    -------
    spacing : float, um
    contrast : float
        |sum w exp(2 pi i s/spacing)| / sum w.
    """
    place = flat[:, 1] * np.cos(angle) - flat[:, 0] * np.sin(angle)
    reach = float(np.ptp(place)) + BIN
    low, high = (1 / LONGEST, 1 / SHORTEST) if near is None else (1 / near - 0.5 / reach, 1 / near + 0.5 / reach)
    low = min(max(low, 1 / LONGEST, 1 / reach), 0.9 * high)  # lower frequencies are those of the weight itself
    profile = np.zeros((1, int(2 * np.abs(place).max() / BIN) + 8))
    half = float(np.abs(place).max()) + BIN
    _profiles(flat[:, 0].copy(), flat[:, 1].copy(), weights, np.array([angle]), BIN, half, profile)
    at = np.arange(profile.size) * BIN

    def strength(frequency: np.ndarray) -> np.ndarray:
        # Interpolation between neighbouring bins blurs by sinc²; correct for it, so that fine spacings stay strong.
        wave = np.exp(-2j * np.pi * frequency[:, None] * at)
        return np.abs(wave @ profile[0]) / np.sinc(frequency * BIN) ** 2

    grid = np.linspace(low, high, max(9, int((high - low) * reach * 4) + 2))
    strengths = strength(grid)
    # Overtones of very sharp lines are as strong as the fundamental.
    best = int(np.flatnonzero(strengths >= 0.85 * strengths.max())[0])
    best = int(np.clip(best + strengths[best : best + 5].argmax(), 1, len(grid) - 2))
    for _ in range(8):
        grid = np.linspace(grid[best - 1], grid[best + 1], 9)
        strengths = strength(grid)
        best = int(np.clip(strengths.argmax(), 1, len(grid) - 2))
    return float(1 / grid[best]), float(strengths[best] / weights.sum())


def located_lines(flat: np.ndarray, weights: np.ndarray, angle: float) -> np.ndarray:
    """Positions of single lines of a direction, across them; (line,), float64, um, ascending.

    Parameters
    ----------
    flat, weights : array (point, 2), um, and (point,)
    angle : float, rad

    Notes
    -----
    Maxima of the profile, blurred by 0.3 um, that exceed the ground on both sides by a quarter of a typical line (the
    80th percentile of all maxima, weighted by height).
    """
    from scipy.signal import find_peaks  # takes a second to import, which most callers do not need

    half = float(np.sqrt((flat**2).sum(axis=1).max(initial=0.0))) + 2.0
    profile = np.zeros((1, int(2 * half / BIN) + 8))
    _profiles(flat[:, 0].copy(), flat[:, 1].copy(), weights, np.array([angle]), BIN, half, profile)
    smooth = gaussian_filter1d(profile[0], BLUR / BIN, mode="constant")
    maxima, properties = find_peaks(smooth, prominence=1e-6)
    if not len(maxima):
        return np.zeros(0)
    rise = properties["prominences"]
    order = np.argsort(rise)
    usual = rise[order][np.searchsorted(np.cumsum(rise[order]), 0.8 * rise.sum())]
    return maxima[rise > 0.25 * usual] * BIN - half


def line_families(
    points: np.ndarray, weights: np.ndarray | None, normal: np.ndarray, *, most: int = 2, seed: int = 0
) -> Families:
    """Directions and spacings of the lines in a plane.

    Parameters
    ----------
    points : array (point, xyz), um
        Points of one plane.
    weights : array (point,), optional
        Probability of each to lie on the plane.
    normal : array (xyz,)
        Unit normal of the plane.
    most : int
        Largest number of families.
    seed : int

    Returns
    -------
    Families
        Empty if no direction is significant, or with fewer than 30 points.

    Raises
    ------
    InputError
        See :func:`~dfxm_dask.boundaries.planes.plane.checked_points`; a normal that is not a unit vector.

    Notes
    -----
    Points are projected into the plane and onto every direction in it, 0.5 um apart at the rim. The power of the
    profile in the band of spacings 1.5 to 15 um has a maximum along each family, which is refined to 1e-4 degree. A
    direction is a family if its power is far above that of most directions, at least 4 % of the strongest, and 10
    degree from any stronger one. The spacing is that of the strongest Fourier coefficient along it.

    Examples
    --------
    >>> y, z = np.mgrid[0:40:4, 0:40:0.1].reshape(2, -1)
    >>> y = y + np.random.default_rng(0).normal(0, 0.3, y.size)
    >>> families = line_families(np.stack([0 * y, y, z], -1), None, np.array([1.0, 0, 0]))
    >>> np.abs(families.line).round(2).tolist(), families.spacing.round(1).tolist(), families.count.tolist()
    ([[0.0, 0.0, 1.0]], [4.0], [10])
    """
    normal = np.asarray(normal, np.float64)
    if normal.shape != (3,) or not abs(np.linalg.norm(normal) - 1) < 1e-6:
        raise InputError("line_families: normal", f"is {normal.tolist()}", "give a unit vector (xyz)")
    points, weights = checked_points("line_families", points, weights)
    axes = in_plane(normal)
    rows: list[tuple[np.ndarray, float, float, int, float, float]] = []
    if len(points) >= LEAST:
        centre = np.average(points, axis=0, weights=weights)
        few, few_weights = thinned(points, weights, most=COARSE, seed=seed)
        coarse = (few - centre) @ axes.T
        flat = (points - centre) @ axes.T
        soft = tapered(flat, weights)
        for angle, power in _directions(coarse, tapered(coarse, few_weights), most):
            angle = sharpest_angle(flat, soft, angle, 0.5 / _reach(coarse))
            spacing, _ = spacing_at(flat, soft, angle)
            spacing, contrast = spacing_at(flat, weights, angle, spacing)
            line = np.cos(angle) * axes[0] + np.sin(angle) * axes[1]
            lines = located_lines(flat, weights, angle)
            gap = float(np.ptp(lines)) / (len(lines) - 1) if len(lines) > 1 else np.nan
            rows.append((canonical(line), spacing, gap, len(lines), contrast, power))
    columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.zeros(0)] * 6
    directions, spacings, gaps, counts, contrasts, powers = columns
    return Families(directions.reshape(-1, 3), spacings, gaps, counts.astype(np.int64), contrasts, powers)


def _reach(flat: np.ndarray) -> float:
    """Largest distance of points from the origin."""
    return float(np.sqrt((flat**2).sum(axis=1).max()))


def _directions(flat: np.ndarray, weights: np.ndarray, most: int) -> list[tuple[float, float]]:
    """Angles (rad) of significant maxima, and their significance, strongest first."""
    count = int(np.ceil(np.pi * max(_reach(flat), 20.0) / 0.5))
    angles = np.arange(count) * np.pi / count
    power = projected_power(flat, weights, angles)
    middle = np.median(power)
    above = (power - middle) / (1.4826 * np.median(np.abs(power - middle)) + 1e-12 * power.max())
    found: list[tuple[float, float]] = []
    strongest = power.max() - middle
    peaks = np.flatnonzero((power >= np.roll(power, 1)) & (power >= np.roll(power, -1)))
    for k in peaks[np.argsort(-power[peaks], kind="stable")]:
        apart = all(np.abs(np.sin(angles[k] - a)) > np.sin(np.deg2rad(APART)) for a, _ in found)
        if len(found) < most and apart and above[k] > SURE and power[k] - middle > WEAKEST * strongest:
            found.append((float(angles[k]), float(above[k])))
    return found
