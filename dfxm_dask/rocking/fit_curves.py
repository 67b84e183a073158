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
FIT_MIXING = Variable("fit_mixing", SPACE, "float32", "1", "Lorentzian fraction of the fitted peak")
FIT_AMPLITUDE_STD = Variable("fit_amplitude_std", SPACE, "float32", "count", "standard error of the fitted height")
FIT_BACKGROUND_STD = Variable(
    "fit_background_std", SPACE, "float32", "count", "standard error of the fitted background"
)
FIT_MIXING_STD = Variable("fit_mixing_std", SPACE, "float32", "1", "standard error of the fitted Lorentzian fraction")
FIT_RMS = Variable("fit_rms", SPACE, "float32", "count", "root mean square of the fit residuals")
FIT_OK = Variable("fit_ok", SPACE, "bool", "1", "whether the fit converged to a significant peak inside the scan")

MODELS = {"gaussian": GAUSSIAN, "lorentzian": LORENTZIAN, "pseudo_voigt": PSEUDO_VOIGT}
STRIP = 64
DETECTED = 5.0  # least ratio of a peak to the standard deviation of the residuals
# Least ratio at which errors are stated, by model. Only this ratio is tested, because to first order it is independent
# of errors of the FWHM: a test on the errors would select narrow fits, whose stated errors are too small.
MEASURED = (11.0, 20.0, 70.0)
BROAD, BROAD_FACTOR = 1 / 3, 2.0  # a peak wider than this part of the scan leaves little background: a higher ratio
SHARPEST = 2.5  # steps of FWHM: below, too few frames lie on the peak to estimate the noise there
LINEAR = 0.25  # largest error, as part of the FWHM or height, that linear propagation can state


class Axis(NamedTuple):
    """The scan axis of the fit.

    Attributes
    ----------
    place : array (frame,), int
        Number of the position of each frame.
    u : array (position,)
        Increasing positions from mid-scan, in mean steps.
    """

    place: np.ndarray
    u: np.ndarray


class Pixels(NamedTuple):
    """Start value of the background (y, x), whether one is given, and the pixels (y, x) to leave out."""

    level: np.ndarray
    has_level: bool
    hot: np.ndarray


class Limits(NamedTuple):
    """Least height of a curve to be fitted (count), and the least variance of a frame (count²)."""

    lit_above: float
    least_variance: float


@njit(nogil=True, cache=True, error_model="numpy")
def _signal_to_noise(shape, amplitude, chi2, freedom):
    """Norm of the fitted peak about its mean, in standard deviations of the residuals."""
    total = squares = 0.0
    for g in shape:
        total += g
        squares += g * g
    return amplitude * np.sqrt((squares - total * total / shape.size) * freedom / chi2)


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_known(errors, p, model, others, narrowest):
    """NaN for errors where noise, or a mixing near its bounds, invalidates the linear approximation."""
    if not (p[2] > 2 * SHARPEST * narrowest and errors[1] < LINEAR * p[2]):
        errors[:] = np.nan
    known = errors[2] < LINEAR * p[2] and errors[0] < LINEAR * p[0]
    if model == PSEUDO_VOIGT:
        known &= others > 1 and errors[4] < min(p[4], 1 - p[4])
    if not known:
        errors[0] = errors[2] = errors[3] = errors[4] = np.nan
        if model != PSEUDO_VOIGT:  # the centre of that symmetric peak does not depend on the mixing
            errors[1] = np.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _select(values, k, size):
    """Reorders the first values so that value k is the k-th smallest and no value before it is larger."""
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
    """Half the distance between the two positions that enclose the centre."""
    after = min(max(np.searchsorted(u, centre), 1), u.size - 1)
    return (u[after] - u[after - 1]) / 2


# The compiler may reorder sums of the fit (see least_squares): another order of arguments changes their last bits.
@njit(nogil=True, cache=True, error_model="numpy")
def _fit(lines, axis, pixels, limits, model, work, rest, maps, ok):
    """Fills parameters, errors and rms of every pixel that has a peak, and the mask of these pixels."""
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
                f"set axis={varied[0]!r}" if varied else "fit a scan with at least two positions",
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
        str | None, Field(description="scan axis of the fit, summed over the others; required with more than one axis")
    ] = None,
    lit_above: Annotated[
        float,
        Field(
            ge=0,
            description="least excess of the peak of a curve over its median for a fit",
            json_schema_extra={"unit": "count"},
        ),
    ] = 0.0,
    noise_cut: Annotated[
        float,
        Field(
            ge=0, description="least excess of the peak over the median for a fit, in standard deviations of the noise"
        ),
    ] = 0.0,
) -> dict[str, np.ndarray]:
    """Centre, FWHM, height and background of a peak fitted to the rocking curve of each pixel, with standard errors.

    One Gaussian, Lorentzian or pseudo-Voigt on a constant background is fitted to the counts along one scan axis,
    summed over the other axes. The fit is robust against weak tails, unlike the moments of the curve, but wrong for
    curves with several peaks. The standard errors use the noise estimated from the residuals of each curve.

    Parameters
    ----------
    background_map : array, optional
        Start value of the background, which is itself a parameter of the fit.
    hot : array, optional
        Marked pixels are not fitted.
    noise_cut : float
        The noise of a curve summed over n positions of the other axes increases with sqrt(n).

    Returns
    -------
    dict
        All maps except ``fit_ok`` are NaN where ``fit_ok`` is False. Counts are those of the summed curve.
        ``fit_mixing`` is 0 for a Gaussian and 1 for a Lorentzian.

    Raises
    ------
    InputError
        ``axis`` is not given and the scan varies along several axes or along no axis, or ``axis`` is not in the scan.

    Notes
    -----
    The model of the counts at position x of the axis is::

        I(x) = b + A [m / (1 + 4 s²) + (1 − m) exp(−4 ln 2 s²)],    s = (x − centre) / FWHM

    with m = 0 (Gaussian), 1 (Lorentzian), or fitted between 0 and 1. The fit minimises the unweighted sum of squares in
    float64 by the Levenberg–Marquardt method with analytic derivatives. Positions need not be equally spaced.

    The standard errors hold for any gain and pedestal of the camera. The variance v of a frame and the covariance of
    the parameters are::

        v = a + b' × (fitted peak / height),    covariance = C Jᵀ V J C,    C = (JᵀJ)⁻¹

    with J the Jacobian and V the diagonal matrix of the variances. A weighted regression of the squared residuals of
    the curve yields a > 0 and b' ≥ −0.2 a. Deviations from the model, such as a second peak, increase the errors.

    A peak whose signal-to-noise ratio is less than twice the threshold at which errors are stated (next paragraph) may
    have passed that threshold by chance. Its errors are multiplied by f, and the likely shift d of the parameter is
    added in quadrature::

        f = exp(k c / s²),    d = 1.5 k c' / s²,    k = (s ln 2 / t) exp(−0.3 t − 0.45 t²)

    with s² the variance of the logarithm of that ratio, c its covariance with the logarithm of the inverse error, c'
    its covariance with the parameter, and t the logarithm of the ratio over its threshold, in units of s.

    Errors are NaN where the signal-to-noise ratio (the norm of the fitted peak about its mean, over the standard
    deviation of the residuals) is less than 11 (Gaussian), 20 (Lorentzian, and the centre of a pseudo-Voigt) or 70
    (other parameters of a pseudo-Voigt), or twice these values for a FWHM of more than a third of the scan; where the
    FWHM is below 2.5 steps; where errors exceed a quarter of the height or of the FWHM; and, except for the centre,
    where the mixing is within its error of 0 or 1.

    ``scripts/evaluate/fits.py`` compares the stated with the true errors, for equal noise, read noise with photons, and
    photons on a pedestal, 31 to 150 frames and FWHM of 3 to 15 steps. Where two in five peaks or more have errors, the
    median error is 0.91 to 1.15 times the root mean square of the true errors (0.94 to 1.08 for Gaussians), and the
    interval of ± 1 error contains the truth in 61 to 78 % of all cases. Where fewer than one in six peaks pass the
    threshold, the median error is 0.48 to 1.10 times the true error, and the interval contains the truth in 27 to 78 %,
    least for the height, which is then too large by chance.

    ``fit_ok`` requires convergence, a centre inside the scan, a FWHM between half the step at the centre and twice the
    range of the scan, a positive amplitude of at least five standard deviations of the residuals, and more frames than
    parameters. It is not a test of the model: compare ``fit_rms`` with ``fit_amplitude``.

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
