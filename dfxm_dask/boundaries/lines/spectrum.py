"""Families of parallel dislocation lines in a boundary: directions and spacings from a spectrum with a null test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.special import stdtrit

from dfxm_dask.boundaries.lines.periods import LEAST, LONGEST, SHORTEST, SINGLE, Plane, images_of_a_line, ridge_of
from dfxm_dask.boundaries.lines.projected_lines import WEAKEST, located_lines
from dfxm_dask.boundaries.lines.strip import ALIKE, PLACE, StripMap, alias_period, fitted_wave, strip_map, wave_power
from dfxm_dask.boundaries.planes.plane import canonical
from dfxm_dask.chance import mixed
from dfxm_dask.errors import InputError

BEYOND = 1.3  # The spectrum extends beyond both ends by this factor, to separate maxima from flanks of outer maxima.
MAPS = 30  # of the null test: every layer shifted cyclically along the trace, so that lines are no longer continuous
MARGIN = 1.15  # limit over the largest power of these maps
SURE = 1.3  # power/limit above which a direction is reported
PERIODS = 4.0  # across the patch, above which a spacing is reported
FAMILIES = 2
RIVAL = 0.55
"""Power of another period of the same lines, over that of the strongest, above which they have no common period. 19 in
20 sets of lines at random positions exceed it, 1 in 10 sets of lines that deviate by a tenth of their spacing from a
grid (our choice, on simulated maps)."""

ALIAS = 0.4  # |frequency| along z times spacing of layers, above which neither direction is more likely
SHARP = 0.1  # power at twice the frequency, over that at it, of lines whose images are narrower than their spacing
BLURRED = 1.1
"""1/um: images of lines, 0.25 um of standard deviation or more, keep less than a tenth of the power of waves as fine as
this, so that lines with an overtone there do not have this direction."""
TURN, STRETCH = 1.1, 1.1
"""Factors of the errors of direction and spacing, so that 68 % of true values are within one (on simulated walls)."""

APART = 10.0  # degree between two families (our choice)
OVERTONES = 3  # subtracted with a wave: layers alias them to other directions
COMPONENTS = 8  # largest number of waves subtracted from the map while families are detected (our choice)

NO_FAMILY, TOO_LITTLE, FEW_PERIODS, OVERTONE, ALIASED, END_OF_RANGE, UNEVEN = (1 << k for k in range(7))
REASONS = {
    NO_FAMILY: "no line family above the limit of rolled layers",
    TOO_LITTLE: "too few layers or too little trace",
    FEW_PERIODS: "fewer than four periods across the patch",
    OVERTONE: "spacing or twice the spacing",
    ALIASED: "a second direction explains the layers as well",
    END_OF_RANGE: "spacing or period along the trace at the end of the range",
    UNEVEN: "lines without a common period",
}
"""Meaning of every bit of ``reason``."""


class LineSets(NamedTuple):
    """Families of parallel lines in one boundary, strongest first; always two rows, NaN where unknown.

    Attributes
    ----------
    line : array (family, xyz), float64
        Unit vector along the lines, in the plane; its largest component is positive.
    line_error : array (family,), float64, degree
        Standard error of the direction in the plane.
    spacing, spacing_error : array (family,), float64, um
    spacing_overtone : array (family,), bool
        The true spacing may be twice the stated one.
    power_ratio : array (family,), float64
        Power of the maximum over the limit of shifted layers.
    periods : array (family,), float64
        Periods across the patch.
    count : array (family,), int64
        Number of lines located one by one.
    gap : array (family,), float64, um
        Mean distance of these; NaN for fewer than two.
    line_alias : array (family, xyz), float64
        Second direction that explains the layers as well; NaN without ambiguity.
    spacing_alias : array (family,), float64, um
        Spacing of lines along this second direction.
    reason : array (family,), uint16
        Bits of :data:`REASONS`: why a value is NaN or ambiguous.
    """

    line: np.ndarray
    line_error: np.ndarray
    spacing: np.ndarray
    spacing_error: np.ndarray
    spacing_overtone: np.ndarray
    power_ratio: np.ndarray
    periods: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # tuples have a method count
    gap: np.ndarray
    line_alias: np.ndarray
    spacing_alias: np.ndarray
    reason: np.ndarray


class FrequencyGrid(NamedTuple):
    """Frequencies along the trace (t,) and along z (f,), 1/um, and arrays over (f, t)."""

    trace: np.ndarray
    first: int
    length: int
    up: np.ndarray
    waves: np.ndarray  # (f, layer)
    inside: np.ndarray  # within the reported range
    wide: np.ndarray  # including the margin beyond


def long_enough(strip: StripMap) -> bool:
    """Whether the map has enough layers and trace to detect lines."""
    return len(strip.z) >= LEAST and strip.known.sum(axis=1).max(initial=0) * PLACE >= SHORTEST * PERIODS


def frequency_grid(strip: StripMap) -> FrequencyGrid:
    """Frequencies at which the power of a map is computed, and those of them in the reported range."""
    length = 2 ** int(np.ceil(np.log2(4 * len(strip.along))))
    trace = np.fft.rfftfreq(length, PLACE)
    keep = np.flatnonzero((trace >= 1 / (LONGEST * BEYOND**2)) & (trace <= BEYOND / SHORTEST))
    rise = strip.axes[1, 2]
    most = min(alias_period(strip.z) / 2, BEYOND / SHORTEST / rise)
    depth = np.ptp(strip.z) * len(strip.z) / (len(strip.z) - 1)
    half = int(np.ceil(most * 4 * depth))
    up = np.linspace(-most, most, 2 * half + 1)
    size = np.hypot(trace[keep][None], up[:, None] * rise)
    wide = size <= BEYOND / SHORTEST
    inside = (size <= 1 / SHORTEST) & (trace[keep] >= 1 / LONGEST)[None]
    waves = np.exp(-2j * np.pi * up[:, None] * strip.z)
    return FrequencyGrid(trace[keep], int(keep[0]), length, up, waves, inside, wide)


def _power(rows: np.ndarray, grid: FrequencyGrid) -> np.ndarray:
    """Power (f, t) of a map (layer, position)."""
    spectra = np.fft.rfft(rows, grid.length, axis=1)[:, grid.first : grid.first + len(grid.trace)]
    waves = grid.waves @ spectra
    return waves.real**2 + waves.imag**2


def _limits(rows: np.ndarray, grid: FrequencyGrid, seed: int) -> tuple[float, float]:
    """Limits of the power, within the range and beyond, from maps whose layers are shifted at random."""
    layers, length = rows.shape
    with np.errstate(over="ignore"):
        keys = np.arange(MAPS * layers, dtype=np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        shifts = (mixed(keys) % np.uint64(length)).astype(np.int64).reshape(MAPS, layers)
    best = [0.0, 0.0]
    for shift in shifts:
        power = _power(np.take_along_axis(rows, (np.arange(length) - shift[:, None]) % length, axis=1), grid)
        best[0] = max(best[0], float(power[grid.inside].max(initial=0.0)))
        best[1] = max(best[1], float(power[grid.wide & ~grid.inside].max(initial=0.0)))
    return MARGIN * best[0], MARGIN * best[1]


def power_and_limit(strip: StripMap, grid: FrequencyGrid, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Power (f, t) of a map, and its limit (f, t) from maps with shifted layers; 0 outside the searched range."""
    power = np.where(grid.wide, _power(strip.values, grid), 0.0)
    return power, np.where(grid.inside, *_limits(strip.values, grid, seed))


def _refined(strip: StripMap, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Frequency (trace, up) of the maximum of the power near a start."""
    best = start
    offsets = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for _ in range(12):
        tries = best + offsets * step
        best = tries[wave_power(strip, *tries.T).argmax()]
        step = step / 2
    return best


class _Family(NamedTuple):
    """Frequency (trace, up), power over the limit, and whether it lies within the reported range."""

    at: np.ndarray
    ratio: float
    inside: bool


def _families(strip: StripMap, grid: FrequencyGrid, seed: int) -> list[_Family]:
    """Significant maxima of the spectrum, strongest first, each 10 degree from every stronger one."""
    families: list[_Family] = []
    strongest = 0.0
    step = np.array([grid.trace[1] - grid.trace[0], grid.up[1] - grid.up[0]])
    for number in range(COMPONENTS):
        power, limits = power_and_limit(strip, grid, seed * COMPONENTS + number)
        peaks = (power == maximum_filter(power, 3)) & (power > limits) & (limits > 0)
        strongest = max(strongest, float(power[peaks].max(initial=0.0)))
        if not (power[peaks] > WEAKEST * strongest).any():  # residuals of a strong family are not a family
            break
        # By power, not by power over limit: overtones are weak, as is their null, and must not come first.
        row, column = np.unravel_index(np.where(peaks, power, 0.0).argmax(), power.shape)
        at = _refined(strip, np.array([grid.trace[column], grid.up[row]]), step)
        ratio = float(wave_power(strip, *at[:, None])[0] / limits[row, column])
        size = np.hypot(at[0], at[1] * strip.axes[1, 2])
        # On the flank of a maximum outside the range, the refinement moves to the end of the range or beyond.
        inside = bool(grid.inside[row, column] and at[0] > 1 / LONGEST and size < 1 / SHORTEST)
        if all(_between(strip, at, other.at) > APART and not is_overtone(strip, at, other.at) for other in families):
            families.append(_Family(at, ratio, inside))
            if sum(one.inside for one in families) == FAMILIES:
                break
        strip = strip._replace(values=strip.values - fitted_wave(strip, at, OVERTONES)[0])
    return sorted(families, key=lambda one: -one.inside)


def is_overtone(strip: StripMap, at: np.ndarray, other: np.ndarray) -> bool:
    """Whether a frequency is an overtone of another one, or its alias in evenly spaced layers."""
    off = at - np.arange(2, OVERTONES + 2)[:, None] * other
    period = alias_period(strip.z)
    if np.isfinite(period):
        off[:, 1] -= period * np.rint(off[:, 1] / period)
    return bool((np.abs(off * [np.ptp(strip.along), np.ptp(strip.z)]) < 1).all(axis=1).any())


def _between(strip: StripMap, first: np.ndarray, second: np.ndarray) -> float:
    """Angle between the lines of two frequencies in the plane; degree."""
    a, b = first * [1, strip.axes[1, 2]], second * [1, strip.axes[1, 2]]
    return float(np.rad2deg(np.arctan2(abs(a[0] * b[1] - a[1] * b[0]), abs(a @ b))))


def _covariance(strip: StripMap, at: np.ndarray) -> tuple[np.ndarray, int]:
    """Covariance (trace, up) of a frequency, (1/um)², and the smaller number of clusters.

    Notes
    -----
    Sandwich estimate for the least-squares wave, clustered by line and by layer, both added: a line is one observation
    through all layers, and each layer has its own noise.
    """
    valid = strip.known
    fitted, turns = fitted_wave(strip, at, 1)
    angle = 2 * np.pi * turns[valid]
    cos, sin = np.cos(angle), np.sin(angle)
    values = strip.values[valid]
    solved, *_ = np.linalg.lstsq(np.stack([cos, sin], 1), values, rcond=None)
    slope = 2 * np.pi * (solved[1] * cos - solved[0] * sin)
    along, z = (np.broadcast_to(a, valid.shape)[valid] for a in (strip.along[None], strip.z[:, None]))
    design = np.stack([cos, sin, slope * along, slope * z], axis=1)
    scores = design * (values - fitted[valid])[:, None]
    phase = np.arctan2(solved[1], solved[0]) / (2 * np.pi)  # the brightest positions are in the middle of a cluster
    kinds = np.rint(turns[valid] - phase).astype(np.int64), np.nonzero(valid)[0]
    bread = np.linalg.pinv(design.T @ design)
    total = np.zeros((4, 4))
    fewest = 10**9
    for kind in kinds:
        _, number = np.unique(kind, return_inverse=True)
        count = int(number.max()) + 1
        sums = np.stack([np.bincount(number.reshape(-1), column, count) for column in scores.T], axis=1)
        total += count / max(count - 1, 1) * sums.T @ sums
        fewest = min(fewest, count)
    return (bread @ total @ bread)[2:, 2:], fewest


def line_sets(
    cells: np.ndarray, normal: np.ndarray, origin: np.ndarray, corner: np.ndarray | None = None, *, seed: int = 0
) -> LineSets:
    """Directions and spacings of the lines in one boundary.

    Parameters
    ----------
    cells : array (cell, column)
        Squares of 0.25 um near the boundary in every layer: columns x, y, z (um), com, isolated, minus, plus, pixels
        (number of pixels in the square); NaN where unknown. Order and spacing of layers are arbitrary.
    normal, origin : array (xyz,)
        Unit vector, and a point of the plane, um.
    corner : array (vertex, xyz), um, optional
        Corners of the patch of the boundary.
    seed : int
        Seed of the shifted layers.

    Returns
    -------
    LineSets

    Raises
    ------
    InputError
        Arrays of other shapes, a normal that is not a unit vector.

    Notes
    -----
    The mean of ``isolated`` within 0.7 um of the plane, for every layer and 0.25 um of trace, minus its mean over 8 um
    of trace, has a power at every frequency along the trace and along z. Its maximum is a family if it exceeds 1.15
    times the largest power of 30 maps whose layers are shifted cyclically along the trace at random. The wave and its
    overtones are then subtracted, and the next family is detected. A direction is reported from 1.3 times the limit, a
    spacing from four periods across the patch.
    """
    cells, normal, origin = (np.asarray(a, np.float64) for a in (cells, normal, origin))
    if cells.ndim != 2 or cells.shape[1] != 8:
        raise InputError("line_sets: cells", f"have the shape {cells.shape}", "give (cell, 8 columns)")
    if normal.shape != (3,) or not abs(np.linalg.norm(normal) - 1) < 1e-6:
        raise InputError("line_sets: normal", f"is {normal.tolist()}", "give a unit vector (xyz)")
    if origin.shape != (3,) or not np.isfinite(origin).all():
        raise InputError("line_sets: origin", f"is {origin.tolist()}", "give a point of the plane (xyz), um")
    sets = _nothing()
    plane = (normal, origin, None if corner is None else np.asarray(corner, np.float64))
    strip = strip_map(cells, cells[:, 4], *plane)
    if not long_enough(strip):
        sets.reason[:] = TOO_LITTLE
        return sets
    families = _families(strip, frequency_grid(strip), seed)[:FAMILIES]
    sets.reason[len(families) :] = NO_FAMILY
    for k, family in enumerate(families):
        sets.power_ratio[k] = family.ratio
        if not family.inside:
            sets.reason[k] = END_OF_RANGE
        elif family.ratio < SURE:
            sets.reason[k] = NO_FAMILY
        else:
            _describe(sets, k, strip, cells, plane, family.at)
    return sets


def _nothing() -> LineSets:
    """Rows without values."""
    rows = np.full((5, FAMILIES), np.nan)
    return LineSets(
        np.full((FAMILIES, 3), np.nan),
        rows[0].copy(),
        rows[1].copy(),
        rows[2].copy(),
        np.zeros(FAMILIES, bool),
        rows[3].copy(),
        rows[4].copy(),
        np.zeros(FAMILIES, np.int64),
        rows[0].copy(),
        np.full((FAMILIES, 3), np.nan),
        rows[0].copy(),
        np.zeros(FAMILIES, np.uint16),
    )


def _line(strip: StripMap, at: np.ndarray) -> np.ndarray:
    """Direction of the lines of a frequency."""
    plane = at * [1, strip.axes[1, 2]]
    return canonical((plane[0] * strip.axes[1] - plane[1] * strip.axes[0]) / np.hypot(*plane))


def _describe(sets: LineSets, k: int, strip: StripMap, cells: np.ndarray, plane: Plane, at: np.ndarray) -> None:
    """Fill one row: direction, alias, spacing with the number of images, and reasons for missing numbers."""
    rise = strip.axes[1, 2]
    visible = strip.along[strip.known.any(axis=0)]
    wave_periods = float(np.abs(at) @ [np.ptp(visible) + PLACE, np.ptp(strip.z)])
    covariance, clusters = _covariance(strip, at)
    covariance = covariance * np.outer([1, rise], [1, rise])
    wave = at * [1, rise]
    size = float(np.hypot(*wave))
    few = float(stdtrit(max(clusters - 1, 1), 0.8413447))  # Student's t of as many clusters for one standard deviation
    across = np.array([-wave[1], wave[0]])
    sets.line[k] = _line(strip, at)
    sets.line_error[k] = np.rad2deg(TURN * few * np.sqrt(across @ covariance @ across)) / size**2
    ridge = ridge_of(strip, at, wave_periods)
    period = alias_period(strip.z)
    if np.isfinite(period):
        other = at - [0, np.copysign(period, at[1])]
        finer = float(np.hypot(other[0], other[1] * rise))
        first, second, twice = wave_power(strip, *np.stack([at, other, 2 * at], axis=1))
        excluded = 2 * finer > BLURRED > 2 * size and twice > max(SHARP * first, SINGLE * ridge.mean)
        if (abs(at[1]) > ALIAS * period or finer < 1 / SHORTEST) and second > ALIKE * first and not excluded:
            sets.reason[k] |= ALIASED
            sets.line_alias[k], sets.spacing_alias[k] = _line(strip, other), 1 / finer
    times = images_of_a_line(strip, ridge, cells, plane, at, wave_periods)
    sets.spacing_overtone[k] = times == 0
    images = max(times, 1)
    sets.periods[k] = wave_periods / images
    lines = _located(strip, at)
    sets.count[k] = -(-len(lines) // images)
    sets.gap[k] = images * np.ptp(lines) / (len(lines) - 1) if len(lines) > 1 else np.nan
    if sets.periods[k] < PERIODS:
        sets.reason[k] |= FEW_PERIODS
    elif sets.reason[k] & ALIASED and abs(at[1]) > ALIAS * period:  # either direction has its own spacing
        pass
    elif ridge.largest > RIVAL * ridge.peak:
        sets.reason[k] |= UNEVEN
    else:
        sets.spacing[k] = images / size
        sets.spacing_error[k] = images * STRETCH * few * float(np.sqrt(wave @ covariance @ wave)) / size**3
        sets.reason[k] |= OVERTONE if times == 0 else 0
    sets.spacing_overtone[k] &= np.isfinite(sets.spacing[k])


def _located(strip: StripMap, at: np.ndarray) -> np.ndarray:
    """Positions of single lines across them, um."""
    bright = strip.values > 1
    layer, position = np.nonzero(bright)
    flat = np.stack([strip.along[position], strip.z[layer] / strip.axes[1, 2]], axis=1)
    flat -= flat.mean(axis=0) if len(flat) else 0.0
    return located_lines(flat, strip.values[bright], float(np.arctan2(at[0], -at[1] * strip.axes[1, 2])))
