"""A Gaussian, Lorentzian or pseudo-Voigt fitted to the rocking curve of every pixel."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.fit_errors import room, standard_errors
from dfxm_dask.rocking.least_squares import GAUSSIAN, LORENTZIAN, PSEUDO_VOIGT, buffers, fit_peak, start_values
from dfxm_dask.rocking.moments import cut_in_counts
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, HOT, NOISE, SPACE, Variable

FIT_CENTRE = Variable("fit_centre_{axis}", SPACE, "float64", "{units}", "centre of the fitted peak along {axis}")
FIT_FWHM = Variable("fit_fwhm_{axis}", SPACE, "float32", "{units}", "FWHM of the fitted peak along {axis}")
FIT_CENTRE_STD = Variable(
    "fit_centre_std_{axis}", SPACE, "float32", "{units}", "standard error of the fitted centre along {axis}"
)
FIT_FWHM_STD = Variable(
    "fit_fwhm_std_{axis}", SPACE, "float32", "{units}", "standard error of the fitted FWHM along {axis}"
)
FIT_AMPLITUDE = Variable("fit_amplitude", SPACE, "float32", "count", "height of the fitted peak above background")
FIT_BACKGROUND = Variable("fit_background", SPACE, "float32", "count", "background of the fitted peak")
FIT_MIXING = Variable("fit_mixing", SPACE, "float32", "1", "Lorentzian part of the fitted peak")
FIT_AMPLITUDE_STD = Variable("fit_amplitude_std", SPACE, "float32", "count", "standard error of the fitted height")
FIT_BACKGROUND_STD = Variable(
    "fit_background_std", SPACE, "float32", "count", "standard error of the fitted background"
)
FIT_MIXING_STD = Variable("fit_mixing_std", SPACE, "float32", "1", "standard error of the fitted Lorentzian part")
FIT_RMS = Variable("fit_rms", SPACE, "float32", "count", "root mean square of the fit residuals")
FIT_OK = Variable("fit_ok", SPACE, "bool", "1", "whether the fit converged to a significant peak inside the scan")

MODELS = {"gaussian": GAUSSIAN, "lorentzian": LORENTZIAN, "pseudo_voigt": PSEUDO_VOIGT}
STRIP = 64
DETECTED = 5.0  # standard deviations by which a peak has to stand out of what the fit leaves
# The same for errors to be stated, by model. The test is on that alone, for to first order it does not depend on
# whether the FWHM came out too small: a test on the errors would select narrow fits, whose stated errors are too small.
MEASURED = (11.0, 20.0, 70.0)
BROAD, BROAD_FACTOR = 1 / 3, 2.0  # a peak of more than this part of the scan leaves little background: it needs more
SHARPEST = 2.5  # steps of FWHM: below, too few frames lie on the peak to know the noise there
LINEAR = 0.25  # largest error, as part of the FWHM or height, that linear propagation can state


class Axis(NamedTuple):
    """The axis that is fitted along.

    Attributes
    ----------
    place : array (frame,), int
        Number of the position of each frame.
    u : array (position,)
        Rising; from mid-scan, in mean steps.
    """

    place: np.ndarray
    u: np.ndarray


class Pixels(NamedTuple):
    """Background to begin with (y, x), whether one is known, and the pixels (y, x) to leave out."""

    level: np.ndarray
    has_level: bool
    hot: np.ndarray


class Limits(NamedTuple):
    """What a curve must exceed to be fitted (count), and the least variance of a frame (count²)."""

    lit_above: float
    least_variance: float


@njit(nogil=True, cache=True, error_model="numpy")
def _signal_to_noise(shape, amplitude, chi2, freedom):
    """Norm of the fitted peak above its mean, in standard deviations of what the fit leaves."""
    total = squares = 0.0
    for g in shape:
        total += g
        squares += g * g
    return amplitude * np.sqrt((squares - total * total / shape.size) * freedom / chi2)


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_known(errors, p, model, others, narrowest):
    """NaN for errors where noise is so large, or a mixing so near to its bounds, that the curve is not linear."""
    if not (p[2] > 2 * SHARPEST * narrowest and errors[1] < LINEAR * p[2]):
        errors[:] = np.nan
    known = errors[2] < LINEAR * p[2] and errors[0] < LINEAR * p[0]
    if model == PSEUDO_VOIGT:
        known &= others > 1 and errors[4] < min(p[4], 1 - p[4])
    if not known:
        errors[0] = errors[2] = errors[3] = errors[4] = np.nan
        if model != PSEUDO_VOIGT:  # that symmetric peak has its centre whatever its mixing
            errors[1] = np.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _select(values, k, size):
    """Reorders the first values so that value k is the one that sorting puts there and none before it is larger."""
    low, high = 0, size - 1
    while low < high:
        first, middle, last = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(nogil=True, cache=True, error_model="numpy")
def _narrowest(u, centre):
    """Half of the distance of the positions to either side of the centre."""
    after = min(max(np.searchsorted(u, centre), 1), u.size - 1)
    return (u[after] - u[after - 1]) / 2


# The compiler may reorder sums of the fit (see least_squares): another order of arguments changes their last bits.
@njit(nogil=True, cache=True, error_model="numpy")
def _fit(lines, axis, pixels, limits, model, work, rest, maps, ok):
    """Fills parameters, errors and rms of every pixel that has a peak, and where that is."""
    line, starts, row_step = lines
    u, level = axis.u, pixels.level
    rows, columns = ok.shape
    points = u.size
    curves = np.empty((STRIP, points))
    ordered = np.empty(points)
    p, errors = np.empty(5), np.empty(5)
    size = 5 if model == PSEUDO_VOIGT else 4
    basis = work[0]
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            curves[:] = 0
            for frame in range(starts.size):
                start, i = starts[frame] + y * row_step + first, axis.place[frame]
                for x in range(width):
                    curves[x, i] += line[start + x]
            for n in range(width):
                x, curve = first + n, curves[n]
                if pixels.hot[y, x] or points <= size or not np.isfinite(curve.sum()):
                    continue
                ordered[:] = curve
                median = _select(ordered, points // 2, points)  # sorting takes a fifth of the time
                if points % 2 == 0:
                    median = (ordered[: points // 2].max() + median) / 2
                peak = curve.argmax()
                if not curve[peak] - median > limits.lit_above:
                    continue
                base = (
                    level[y, x]
                    if pixels.has_level and np.isfinite(level[y, x])
                    else _select(ordered, points // 8, points // 2)
                )
                base = min(base, median)
                p[1], p[2] = start_values(u, curve, base, peak)
                p[0], p[3] = curve[peak] - base, base
                p[4] = 0.0 if model == GAUSSIAN else 1.0 if model == LORENTZIAN else 0.5
                good, chi2, matrix = fit_peak(u, curve, p, model, work)
                good = good and u[0] <= p[1] <= u[-1] and p[2] <= 2 * (u[-1] - u[0]) and 0 < p[0] < np.inf
                narrowest = _narrowest(u, p[1])
                if not good or p[2] < narrowest:
                    continue
                signal = _signal_to_noise(basis[0, :points], p[0], chi2, points - size)
                if not signal > DETECTED:
                    continue
                floor = max(limits.least_variance, 1e-12 * p[0] * p[0])
                errors[:] = np.nan
                signal /= MEASURED[min(model, LORENTZIAN)] * (BROAD_FACTOR if p[2] > BROAD * points else 1.0)
                if signal > 1:
                    others = signal * MEASURED[min(model, LORENTZIAN)] / MEASURED[model]
                    standard_errors(basis, matrix, p, size, chi2, floor, signal, others, rest, errors)
                    _keep_known(errors, p, model, others, narrowest)
                ok[y, x] = True
                for k in range(5):
                    maps[k, y, x] = p[k]
                    maps[5 + k, y, x] = errors[k] if k < size else np.nan
                maps[10, y, x] = np.sqrt(chi2 / points)


def _chosen(scan: dict[str, np.ndarray], axis: str | None) -> str:
    if axis is None:
        varied = [name for name, positions in scan.items() if positions.size > 1]
        if len(varied) != 1:
            raise InputError(
                "fit_curves without an axis",
                f"the scan varies along {', '.join(varied) or 'no axis'}",
                f"say axis={varied[0]!r}" if varied else "fit a scan with at least two positions",
            )
        return varied[0]
    if axis not in scan:
        raise InputError(f"fit_curves: axis {axis!r}", f"the scan has {', '.join(scan)}", "name one of these")
    return axis


@reduction(
    reads=(COUNTS, AXES),
    may_read=(BACKGROUND, HOT, NOISE),
    writes=(
        FIT_CENTRE,
        FIT_CENTRE_STD,
        FIT_FWHM,
        FIT_FWHM_STD,
        FIT_AMPLITUDE,
        FIT_AMPLITUDE_STD,
        FIT_BACKGROUND,
        FIT_BACKGROUND_STD,
        FIT_MIXING,
        FIT_MIXING_STD,
        FIT_RMS,
        FIT_OK,
    ),
    over=("scan",),
)
def fit_curves(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    hot: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    *,
    model: Annotated[
        Literal["gaussian", "lorentzian", "pseudo_voigt"], Field(description="shape of the peak")
    ] = "gaussian",
    axis: Annotated[
        str | None, Field(description="scan axis to fit along, summed over the others; needed with more than one")
    ] = None,
    lit_above: Annotated[
        float,
        Field(
            ge=0,
            description="a pixel is fitted if its peak exceeds its median by this",
            json_schema_extra={"unit": "count"},
        ),
    ] = 0.0,
    noise_cut: Annotated[
        float,
        Field(
            ge=0, description="a pixel is fitted if its peak exceeds its median by this many deviations of the noise"
        ),
    ] = 0.0,
) -> dict[str, np.ndarray]:
    """Centre, width and height of one peak fitted to the rocking curve, with its uncertainty.

    Parameters
    ----------
    background_map : array, optional
        Where the fitted background starts; the result has its own.
    hot : array, optional
        Such a pixel is not fitted.
    noise_cut : float
        For a curve summed over n positions of other axes the noise grows with sqrt(n).

    Returns
    -------
    dict
        All NaN where ``fit_ok`` is False. Counts are those of the summed curve. ``fit_mixing`` is 0 for a Gaussian and
        1 for a Lorentzian.

    Raises
    ------
    InputError
        No axis named in a scan that varies along several or none; an axis that the scan does not have.

    Notes
    -----
    I(x) = b + A [m / (1 + 4 s²) + (1 − m) exp(−4 ln 2 s²)], s = (x − centre) / FWHM, with m = 0, 1 or fitted between
    these; unweighted least squares in float64 by Levenberg–Marquardt with analytic derivatives, about the middle of the
    scan. Positions need not be even.

    The standard errors hold for any gain and pedestal of the camera: the variance of a frame is a + b × (fitted peak /
    its height), and a > 0 and b ≥ −0.2 a follow from a weighted regression of the squared residuals of that curve. The
    covariance is C Jᵀ V J C with C = (JᵀJ)⁻¹ and V the diagonal of the variances. What is no noise but another shape
    than the model, such as a second peak, makes the errors larger.

    Below twice the signal-to-noise ratio that errors need (next paragraph) a weaker peak may have passed by chance.
    Errors then grow by exp(k c / s²) and by the likely shift of the parameter, 1.5 k c' / s²: s² is the variance of the
    logarithm of that ratio, c its covariance with the logarithm of the inverse error, c' that with the parameter, and
    k = s ln 2 / t exp(−0.3 t − 0.45 t²) with t the logarithm of the ratio over its threshold, in units of s.

    Errors are NaN where the fitted peak, the norm of its values about their mean, is less than 11 (Gaussian), 20
    (Lorentzian, and the centre of a pseudo-Voigt) or 70 (its other parameters) standard deviations of the residuals,
    or twice that for a FWHM of more than a third of the scan; where the FWHM is below 2.5 steps; where they exceed a
    quarter of the height or of the FWHM; and, but for the centre, where the mixing is within its error of 0 or 1.

    ``scripts/evaluate/fits.py`` compares them with the true errors, for equal noise, read noise with photons, and
    photons on a pedestal, 31 to 150 frames and FWHM of 3 to 15 steps. Where two in five peaks or more have errors, the
    median error is 0.91 to 1.15 times the root mean square of the true errors (0.94 to 1.08 for Gaussians) and ± 1
    error holds the truth in 61 to 78 % of all cases. Where fewer than one in six peaks pass the threshold, it is 0.48
    to 1.10 times the true error and holds the truth in 27 to 78 %, least for the height, which is then too large by
    chance.

    ``fit_ok`` asks for convergence, a centre inside the scan, FWHM from half of the step at the centre up to twice the
    range, a positive amplitude of at least five standard deviations of what the fit leaves, and more frames than
    parameters. It does not say that the curve looks like the model: compare ``fit_rms`` with ``fit_amplitude``.

    References
    ----------
    D. W. Marquardt, J. Soc. Indust. Appl. Math. 11 (1963) 431, eqs. 30–35.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> fits = dfxm_dask.fit_curves(scan)
    >>> fits["fit_centre_phi"].isel(z=0, y=0)[[0, -1]].values.round(3).tolist()
    [0.024, 0.036]

    The kernel alone, on one layer:

    >>> phi = np.linspace(-1, 1, 21)
    >>> counts = (100 + 900 * np.exp(-4 * np.log(2) * ((phi - 0.12) / 0.5) ** 2)).astype(np.float32)
    >>> maps = fit_curves.kernel(counts[None, None], {"phi": phi})
    >>> round(maps["fit_centre_phi"].item(), 4), round(maps["fit_fwhm_phi"].item(), 4), maps["fit_ok"].item()
    (0.12, 0.5, True)
    """
    chosen = _chosen(scan, axis)
    cut = cut_in_counts("fit_curves", noise_cut, noise)
    shape = counts.shape[:2]
    maps = np.full((11, *shape), np.nan)
    ok = np.zeros(shape, bool)
    positions = np.asarray(scan[chosen], np.float64)
    points = positions.size
    if counts.size and np.ptp(positions) > 0:
        lengths = [scan[name].size for name in scan]
        order = np.argsort(positions, kind="stable")
        place = np.argsort(order)[np.indices(lengths)[list(scan).index(chosen)].ravel()]
        middle, step = (positions.min() + positions.max()) / 2, np.ptp(positions) / (points - 1)
        others = place.size // points
        level = np.zeros(shape) if background_map is None else background_map.astype(np.float64) * others
        limits = Limits(
            lit_above=float(max(lit_above, cut * np.sqrt(others))),
            least_variance=others / 12 if counts.dtype.kind in "iu" else 0.0,  # rounding to whole counts
        )
        hidden = np.zeros(shape, bool) if hot is None else np.require(hot, bool, ["C", "W"])
        curve_axis = Axis(place, (positions[order] - middle) / step)
        pixels = Pixels(level, background_map is not None, hidden)
        _fit(frame_lines(counts), curve_axis, pixels, limits, MODELS[model], buffers(points), room(points), maps, ok)
        maps[[1, 2, 6, 7]] *= step
        maps[1] += middle
    of_axis = {FIT_CENTRE: 1, FIT_FWHM: 2, FIT_CENTRE_STD: 6, FIT_FWHM_STD: 7}
    of_curve = {
        FIT_AMPLITUDE: 0,
        FIT_BACKGROUND: 3,
        FIT_MIXING: 4,
        FIT_AMPLITUDE_STD: 5,
        FIT_BACKGROUND_STD: 8,
        FIT_MIXING_STD: 9,
        FIT_RMS: 10,
    }
    result = {variable.name: maps[k].astype(variable.dtype) for variable, k in of_curve.items()}
    for name in scan if axis is None else (chosen,):
        missing = np.full(shape, np.nan)  # an axis of one position has no peak
        for variable, k in of_axis.items():
            values = maps[k] if name == chosen else missing
            result[variable.name.format(axis=name)] = values.astype(variable.dtype)
    result["fit_ok"] = ok
    return result
