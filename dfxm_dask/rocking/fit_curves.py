"""A Gaussian, Lorentzian or pseudo-Voigt fitted to the rocking curve of every pixel."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numba import njit
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.least_squares import GAUSSIAN, LORENTZIAN, PSEUDO_VOIGT, buffers, fit_peak, start_values
from dfxm_dask.rocking.moments import cut_in_counts
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, HOT, NOISE, SPACE, Variable

FIT_CENTRE = Variable("fit_centre_{axis}", SPACE, "float32", "{units}", "fitted centre along {axis}")
FIT_CENTRE_STD = Variable(
    "fit_centre_std_{axis}", SPACE, "float32", "{units}", "standard uncertainty of the fitted centre along {axis}"
)
FIT_FWHM = Variable("fit_fwhm_{axis}", SPACE, "float32", "{units}", "fitted full width at half maximum along {axis}")
FIT_AMPLITUDE = Variable("fit_amplitude", SPACE, "float32", "count", "fitted height above background")
FIT_BACKGROUND = Variable("fit_background", SPACE, "float32", "count", "fitted background")
FIT_RMS = Variable("fit_rms", SPACE, "float32", "count", "root mean square of the fit residuals")
FIT_MIXING = Variable("fit_mixing", SPACE, "float32", "1", "Lorentzian part of the fitted curve")
FIT_OK = Variable("fit_ok", SPACE, "bool", "1", "fit converged to a peak inside the scan")

MODELS = {"gaussian": GAUSSIAN, "lorentzian": LORENTZIAN, "pseudo_voigt": PSEUDO_VOIGT}
STRIP = 64


@njit(nogil=True, cache=True, error_model="numpy")
def _fit(line, starts, row_step, place, u, level, has_level, hot, lit_above, model, work, maps, ok):  # type: ignore[no-untyped-def]
    rows, columns = ok.shape
    points = u.size
    curves = np.empty((STRIP, points))
    ordered = np.empty(points)
    p = np.empty(5)
    low, high = min(u[0], u[-1]), max(u[0], u[-1])
    size = 5 if model == PSEUDO_VOIGT else 4
    for y in range(rows):
        for first in range(0, columns, STRIP):
            width = min(STRIP, columns - first)
            curves[:] = 0
            for frame in range(starts.size):
                start, i = starts[frame] + y * row_step + first, place[frame]
                for x in range(width):
                    curves[x, i] += line[start + x]
            for n in range(width):
                x, curve = first + n, curves[n]
                if hot[y, x] or points < size or not np.isfinite(curve.sum()):
                    continue
                ordered[:] = curve
                ordered.sort()
                median = (ordered[(points - 1) // 2] + ordered[points // 2]) / 2
                peak = curve.argmax()
                if not curve[peak] - median > lit_above:
                    continue
                base = level[y, x] if has_level and np.isfinite(level[y, x]) else ordered[points // 8]
                base = min(base, median)
                p[1], p[2] = start_values(u, curve, base, peak)
                p[0], p[3] = curve[peak] - base, base
                p[4] = 0.0 if model == GAUSSIAN else 1.0 if model == LORENTZIAN else 0.5
                good, chi2, variance = fit_peak(u, curve, p, model, work)
                good &= low <= p[1] <= high and 0.5 <= p[2] <= 2 * (high - low) and 0 < p[0] < np.inf
                if good:
                    ok[y, x] = True
                    maps[0, y, x], maps[1, y, x] = p[1], p[2]
                    maps[2, y, x] = np.sqrt(variance * chi2 / (points - size)) if points > size else np.nan
                    maps[3, y, x], maps[4, y, x] = p[0], p[3]
                    maps[5, y, x] = np.sqrt(chi2 / points)
                    maps[6, y, x] = p[4]


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
        FIT_CENTRE, FIT_CENTRE_STD, FIT_FWHM, FIT_AMPLITUDE, FIT_BACKGROUND, FIT_RMS, FIT_MIXING, FIT_OK,
    ),
    over=("scan",),
)  # fmt: skip
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
        float, Field(ge=0, description="the same in standard deviations of the noise where nothing diffracts")
    ] = 0.0,
) -> dict[str, np.ndarray]:
    """Centre, width and height of one peak fitted to the rocking curve, with its uncertainty.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        Detector counts of one layer.
    scan : dict of str to array (length of the axis,), float64
        Positions along every scan axis, in its unit.
    background_map : array (y, x), float32, count, optional
        Where the fitted background starts; the result has its own.
    hot : array (y, x), bool, optional
        Pixels to leave out.
    noise : array (), float32, count, optional
        Noise of a voxel where nothing diffracts.
    model : "gaussian", "lorentzian" or "pseudo_voigt"
        Shape of the peak.
    axis : str, optional
        Scan axis to fit along. The curve is the sum over the other axes.
    lit_above : float, count
        Only pixels whose largest count exceeds the median of their curve by more than this are fitted.
    noise_cut : float
        The same in units of ``noise``; for a curve summed over n positions of other axes that grows with sqrt(n).

    Returns
    -------
    dict of str to array (y, x)
        ``fit_centre_``, ``fit_fwhm_``, ``fit_centre_std_`` of the axis (float32, its unit); ``fit_amplitude``,
        ``fit_background``, ``fit_rms`` (float32, count, of the summed curve); ``fit_mixing`` (float32: Lorentzian part,
        0 for a Gaussian and 1 for a Lorentzian); ``fit_ok`` (bool). All NaN where ``fit_ok`` is False.

    Raises
    ------
    InputError
        No axis named in a scan that varies along several or none; an axis that the scan does not have.

    Notes
    -----
    I(x) = b + A [m / (1 + 4 s²) + (1 − m) exp(−4 ln 2 s²)], s = (x − centre) / FWHM, with m = 0, 1 or fitted between
    these; unweighted least squares in float64 by Levenberg–Marquardt with analytic derivatives. The uncertainty is
    sqrt((JᵀJ)⁻¹ χ² / (n − p)): that of a single peak with noise of equal size in every frame, and too small where the
    curve has several peaks.

    ``fit_ok`` asks for convergence, a centre inside the scan, 0.5 steps ≤ FWHM ≤ twice the range, a positive amplitude,
    and at least as many frames as parameters. It does not say that the curve looks like the model: compare ``fit_rms``
    with ``fit_amplitude``.

    References
    ----------
    D. W. Marquardt, J. Soc. Indust. Appl. Math. 11 (1963) 431, eqs. 30–35.

    Examples
    --------
    >>> phi = np.linspace(-1, 1, 21)
    >>> counts = (100 + 900 * np.exp(-4 * np.log(2) * ((phi - 0.12) / 0.5) ** 2)).astype(np.float32)
    >>> maps = fit_curves.kernel(counts[None, None], {"phi": phi})
    >>> round(maps["fit_centre_phi"].item(), 4), round(maps["fit_fwhm_phi"].item(), 4), maps["fit_ok"].item()
    (0.12, 0.5, True)
    """
    chosen = _chosen(scan, axis)
    cut = cut_in_counts("fit_curves", noise_cut, noise)
    shape = counts.shape[:2]
    maps = np.full((7, *shape), np.nan, np.float32)
    ok = np.zeros(shape, bool)
    positions = scan[chosen]
    points = positions.size
    if counts.size and points > 1:
        line, starts, row_step = frame_lines(counts)
        lengths = [scan[name].size for name in scan]
        place = np.indices(lengths)[list(scan).index(chosen)].ravel()
        middle, step = (positions[0] + positions[-1]) / 2, abs(positions[-1] - positions[0]) / (points - 1)
        others = place.size // points
        start = np.zeros(shape) if background_map is None else background_map.astype(np.float64) * others
        least = float(max(lit_above, cut * np.sqrt(others)))
        hidden = np.zeros(shape, bool) if hot is None else np.require(hot, bool, ["C", "W"])
        u = (positions - middle) / step
        _fit(
            line, starts, row_step, place, u, start, background_map is not None, hidden, least, MODELS[model],
            buffers(points), maps, ok,
        )  # fmt: skip
        scale = np.float64(step)
        maps[0] = maps[0] * scale + middle
        maps[1:3] = maps[1:3] * scale
    result = {}
    for name in scan if axis is None else (chosen,):
        missing = np.full(shape, np.nan, np.float32)  # an axis of one position has no peak
        for k, word in enumerate(("fit_centre", "fit_fwhm", "fit_centre_std")):
            result[f"{word}_{name}"] = maps[k] if name == chosen else missing
    for k, word in enumerate(("fit_amplitude", "fit_background", "fit_rms", "fit_mixing")):
        result[word] = maps[3 + k]
    result["fit_ok"] = ok
    return result
