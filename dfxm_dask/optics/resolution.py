"""Resolution function: the acceptance of the microscope for a local deviation of the scattering vector.

q = M x, with the ray x = (eps, zeta_v, zeta_h, d2, xi): relative energy, vertical and horizontal divergence, deviation
of 2 theta and horizontal angle inside the objective. q = (q_rock', q_roll, q_2theta) in fractions of |Q|, in the image
frame (Poulsen et al., J. Appl. Cryst. 50, 1441 (2017) and 54, 1555 (2021)). All rays but zeta_v are Gaussian; zeta_v
is Gaussian or uniform, and ends at a hard cut. The integral over zeta_v is then a difference of two error functions:
no Monte Carlo. Random rays (:func:`rays`) remain for checks, and for apertures that are not Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numba import njit
from scipy.special import erf

from dfxm_dask.errors import InputError
from dfxm_dask.optics.geometry import rotation_x
from dfxm_dask.optics.instrument.microscope import Microscope

# A cut narrower than this part of the blur is as good as a Gaussian of the same variance: they differ by its fourth
# power. Above, the difference of two error functions still has 12 digits.
NARROW = 1e-4


def transfer_matrix(microscope: Microscope) -> np.ndarray:
    """Map M (3, 5) from the ray (eps, zeta_v, zeta_h, d2, xi) to q = (q_rock', q_roll, q_2theta), float64.

    Notes
    -----
    q_rock = -(zeta_v + d2)/2, q_roll = -(zeta_h + xi)/(2 sin theta), q_par = eps + cot(theta) (d2 - zeta_v)/2, turned
    by theta about y into the image frame, and by eta about the beam: M = R_x(eta) M(eta = 0). In q_rock' the aperture
    of the objective cancels: it is -cos(theta) zeta_v + sin(theta) eps.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> transfer_matrix(find_microscope("id06_al111"))[0].round(5).tolist()
    [0.15597, -0.98776, 0.0, 0.0, 0.0]
    """
    c, s = math.cos(microscope.theta), math.sin(microscope.theta)
    upright = np.array(
        [
            [s, -c, 0, 0, 0],
            [0, 0, -0.5 / s, 0, -0.5 / s],
            [c, (s - c * c / s) / 2, 0, 0.5 / s, 0],
        ]
    )
    return rotation_x(microscope.eta) @ upright


def _variances(microscope: Microscope) -> np.ndarray:
    """Variances of the Gaussian rays, with 0 for zeta_v, which may not be Gaussian."""
    rms = (microscope.bandwidth, 0.0, microscope.divergence_h, microscope.aperture, microscope.aperture)
    return np.square(rms)


def _closed_form(matrix: np.ndarray, microscope: Microscope) -> tuple[np.ndarray, np.ndarray, float, float]:
    """K, u, d and peak density of :func:`coefficients`, for the rows of the transfer matrix that are given."""
    covariance = matrix * _variances(microscope) @ matrix.T
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale) if scale.all() else np.zeros_like(covariance)
    if not np.linalg.eigvalsh(correlation)[0] > 1e-12:
        raise InputError(
            f"resolution with bandwidth {microscope.bandwidth:g}, aperture {microscope.aperture:g} and horizontal "
            f"divergence {microscope.divergence_h:g}",
            "accepts a surface of no thickness: the covariance of its Gaussian rays is singular",
            "give a bandwidth and an aperture above 0, however small",
        )
    column, cut = matrix[:, 1], microscope.divergence_v_cut
    rigid = microscope.divergence_profile == "uniform"
    rms = np.inf if rigid else microscope.divergence_v
    if microscope.divergence_v > 0:
        v = np.linalg.solve(covariance, column)
        sharp = float(column @ v)
        spread = sharp + 1 / rms**2
        d = cut * math.sqrt(spread / 2)
        if d > NARROW:
            # K = C^-1 - v v^T/A as a sum of positive parts, across m and along v, not as a difference of large numbers.
            across = np.linalg.qr(column[:, None], mode="complete")[0][:, 1:]
            k = across @ np.linalg.inv(across.T @ covariance @ across) @ across.T
            k = k + np.outer(v, v) / (sharp * (1 + rms**2 * sharp))
            normal = 2 * cut if rigid else math.sqrt(2 * np.pi) * rms * erf(cut / (math.sqrt(2) * rms))
            area = math.sqrt(2 * np.pi / spread) * erf(d) / normal
            return k, v / math.sqrt(2 * spread), d, float(area * _peak(covariance))
        covariance = covariance + min(rms**2, cut**2 / 3) * np.outer(column, column)
    # Nothing to integrate over: a window that is always open.
    return np.linalg.inv(covariance), np.zeros(len(column)), 1.0, _peak(covariance)


def _peak(covariance: np.ndarray) -> float:
    return float(1 / np.sqrt(np.linalg.det(2 * np.pi * covariance)))


def coefficients(microscope: Microscope) -> np.ndarray:
    """Coefficients (11,), float64, of :func:`acceptance`.

    Parameters
    ----------
    microscope : Microscope

    Returns
    -------
    array (11,)
        Upper triangle of K (00, 01, 02, 11, 12, 22), u (3), d, 1/(2 erf(d)).

    Raises
    ------
    InputError
        Gaussian rays that do not fill three dimensions (no bandwidth, or no aperture).

    Notes
    -----
    With C the covariance of q from the Gaussian rays, m the column of zeta_v in M, s_v its rms and c its cut::

        A = m·C^-1 m + 1/s_v²    (uniform: 1/s_v² = 0)
        u = C^-1 m/√(2A),    d = c √(A/2),    K = C^-1 - 2 u u^T
        p(q) = exp(-q·K q/2) [erf(d - u·q) + erf(d + u·q)]/(2 erf(d))

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> acceptance(0.0, 0.0, 0.0, coefficients(find_microscope("id06_al111")))
    1.0
    """
    k, u, d, _ = _closed_form(transfer_matrix(microscope), microscope)
    return _packed(k[np.triu_indices(3)], u, d)


def _packed(triangle: np.ndarray, u: np.ndarray, d: float) -> np.ndarray:
    return np.concatenate([triangle, u, [d, 0.5 / erf(d)]])


@njit(cache=True)
def _window(x, d):
    # erf(d - x) + erf(d + x) for x >= 0. Outside of the cut as a difference of complements, which keeps its digits; and
    # without the functions where they are 0 or 1 to the last bit, which is most of an image.
    if x > d + 27.3:
        return 0.0
    if d > x + 6.0:
        return 2.0
    if x <= d:
        return math.erf(d - x) + (1.0 if d + x > 6.0 else math.erf(d + x))
    return math.erfc(x - d) - (0.0 if x * d > 10.0 else math.erfc(x + d))


@njit(cache=True)
def acceptance(q0, q1, q2, coefficients):
    """Acceptance p of one deviation of the scattering vector, float, 1 at the peak. Compiled, for use in kernels.

    Parameters
    ----------
    q0, q1, q2 : float
        q_rock', q_roll and q_2theta in the image frame, in fractions of |Q|.
    coefficients : array (11,), float64
        From :func:`coefficients`, which states the formula.

    Returns
    -------
    float
        Tends to 0 far from the peak.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> round(acceptance(1e-4, 0.0, 0.0, coefficients(find_microscope("id06_al111"))), 4)
    0.8615
    """
    x = abs(coefficients[6] * q0 + coefficients[7] * q1 + coefficients[8] * q2)
    window = _window(x, coefficients[9])
    if window == 0.0:
        return 0.0
    square = (
        q0 * (coefficients[0] * q0 + 2.0 * (coefficients[1] * q1 + coefficients[2] * q2))
        + q1 * (coefficients[3] * q1 + 2.0 * coefficients[4] * q2)
        + coefficients[5] * q2 * q2
    )
    return coefficients[10] * window * math.exp(-0.5 * square)


@njit(cache=True)
def _acceptances(q, coefficients, p):
    for i in range(q.shape[0]):
        p[i] = acceptance(q[i, 0], q[i, 1], q[i, 2], coefficients)


def _vectors(q: np.ndarray) -> np.ndarray:
    q = np.ascontiguousarray(q, np.float64)
    if q.shape[-1:] != (3,):
        raise InputError(f"deviations of shape {q.shape}", "are not vectors", "give (..., 3)")
    return q


def resolution(q: np.ndarray, microscope: Microscope, *, absolute: bool = False) -> np.ndarray:
    """Resolution function p(q), (...), float64.

    Parameters
    ----------
    q : array (..., 3)
        Deviations (q_rock', q_roll, q_2theta) in the image frame, in fractions of |Q|.
    microscope : Microscope
    absolute : bool
        The probability density of q for a random ray, integral 1, instead of p(0) = 1.

    Raises
    ------
    InputError
        A last axis that is not 3, or a microscope as in :func:`coefficients`.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> q = 1e-4 * np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    >>> resolution(q, find_microscope("id06_al111")).round(4).tolist()
    [1.0, 0.8615, 0.0]
    """
    q = _vectors(q)
    p = np.empty(q.shape[:-1])
    _acceptances(q.reshape(-1, 3), coefficients(microscope), p.reshape(-1))
    if absolute:
        p *= _closed_form(transfer_matrix(microscope), microscope)[3]
    return p


def rocking_coefficients(microscope: Microscope, blur: float = 0.0) -> np.ndarray:
    """Coefficients (11,), float64, with which :func:`acceptance` is a function of q_rock' alone.

    Parameters
    ----------
    microscope : Microscope
    blur : float
        Further Gaussian blur of q_rock', rms, in fractions of |Q|.

    Raises
    ------
    InputError
        No bandwidth and no blur, or a negative blur.

    Examples
    --------
    >>> from dfxm_dask.optics.instrument.microscope import find_microscope
    >>> acceptance(0.0, 9.0, 9.0, rocking_coefficients(find_microscope("al002")))
    1.0
    """
    k, u, d, _ = _rocking_form(microscope, blur)
    return _packed(np.array([k[0, 0], 0, 0, 0, 0, 0]), np.array([u[0], 0, 0]), d)


def _rocking_form(microscope: Microscope, blur: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """The law of q_rock' alone, with a further blur; see :func:`_closed_form`."""
    if not 0 <= blur < np.inf:
        raise InputError(f"rocking profile: blur {blur}", "is negative or not finite", "give an rms of 0 or more")
    row = transfer_matrix(microscope)[:1].copy()
    if blur:
        # Independent Gaussians add in variance: a wider band is the same blur of q_rock'.
        variance = (row[0, 0] * microscope.bandwidth) ** 2 + blur**2
        microscope = replace(microscope, bandwidth=math.sqrt(variance) / row[0, 0])
    return _closed_form(row, microscope)
