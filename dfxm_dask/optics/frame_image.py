"""One kinematic image: the intensity that a microscope accepts from a lattice of known deviation."""

from __future__ import annotations

from dataclasses import replace
from math import cos, sin
from typing import NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.microscope import Microscope
from dfxm_dask.optics.resolution import acceptance, coefficients


class Acceptance(NamedTuple):
    """Acceptance of a microscope, tabulated for :func:`frame_image`; see :func:`accepted_by`."""

    numbers: np.ndarray
    reach: float
    part: float
    roll: float
    step: float
    wing: np.ndarray


def accepted_by(microscope: Microscope, *, tail: float = 0.0, tail_width: float = 2.5e-5) -> Acceptance:
    """Resolution function of a microscope, optionally with Lorentzian tails along the rocking direction.

    Parameters
    ----------
    microscope : Microscope
        Its q lies in the scattering plane, for every eta.
    tail : float
        Fraction of the Lorentzian, 0 to 1; real flanks need 0.1 to 0.3.
    tail_width : float, rad
        Half width at half maximum of the Lorentzian.

    Returns
    -------
    Acceptance

    Raises
    ------
    InputError
        tail outside [0, 1], a width that is not positive, or a tail where the beam has no clip.

    Notes
    -----
    The closed form of :func:`dfxm_dask.optics.resolution.coefficients`. Its flank is an error function, which falls far
    more sharply than measured curves do. The tail is the box of incidence angles convolved with a Lorentzian,
    [atan((c - q)/g) + atan((c + q)/g)] / (2 atan(c/g)) in the rocking component, times the Gaussian of the rolling
    component; tabulated, and interpolated to 1e-4 (1e-2 beyond 80 widths). Its form is our choice.
    """
    if not 0 <= tail <= 1:
        raise InputError("tail", f"is {tail}", "give a fraction from 0 to 1")
    if not tail_width > 0:
        raise InputError("tail_width", f"is {tail_width} rad", "give a positive half width")
    half = cos(microscope.theta) * microscope.divergence_v_cut
    if tail and not half < np.inf:
        raise InputError("tail", "the incident beam has no clip", "give the microscope a divergence_v_cut")
    roll = (microscope.aperture**2 + microscope.divergence_h**2) / (2 * sin(microscope.theta)) ** 2
    wing = np.zeros(2)
    step = 1.0
    if tail:
        step = tail_width / 50
        q = step * np.arange(int((half + 80 * tail_width) / step))
        wing = np.arctan((half - q) / tail_width) + np.arctan((half + q) / tail_width)
        wing /= 2 * np.arctan(half / tail_width)
    numbers = coefficients(replace(microscope, eta=0.0))
    reach = half + 9 * sin(microscope.theta) * microscope.bandwidth  # beyond it the closed form is below 1e-17
    return Acceptance(numbers, reach, tail, 0.5 / roll, step, wing)


def frame_image(
    q: np.ndarray, weight: np.ndarray, matrix: np.ndarray, shift: np.ndarray, accepts: Acceptance
) -> np.ndarray:
    """One kinematic image, relative to the perfect crystal at its peak.

    Parameters
    ----------
    q : ndarray (y, x, node, xyz), float32 or float64
        From :func:`dfxm_dask.optics.forward.sheet_deviation`.
    weight : ndarray (node,)
        Weights of the heights, from :func:`dfxm_dask.optics.forward.sheet_nodes`.
    matrix, shift : ndarray (3, 3), (3,)
        From :func:`dfxm_dask.optics.forward.seen`: the image frame has the deviation matrix (q + shift).
    accepts : Acceptance
        From :func:`accepted_by`.

    Returns
    -------
    ndarray (y, x), float32
    """
    out = np.empty(q.shape[:2], np.float32)
    _frame_image(q, weight, matrix, matrix @ shift, accepts, out)
    return out


@njit(nogil=True, cache=True)
def _frame_image(q, weight, matrix, shift, accepts, out):
    """One pass: rotate q, accept it, and add the tail, for every height of the sheet."""
    numbers, reach, part, roll, step, wing = accepts
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    s0, s1, s2 = shift[0], shift[1], shift[2]
    last = wing.size - 1
    for i in range(q.shape[0]):
        for j in range(q.shape[1]):
            total = 0.0
            for k in range(weight.size):
                a, b, c = float(q[i, j, k, 0]), float(q[i, j, k, 1]), float(q[i, j, k, 2])
                q0 = m00 * a + m01 * b + m02 * c + s0
                q1 = m10 * a + m11 * b + m12 * c + s1
                p = 0.0
                if abs(q0) < reach:
                    q2 = m20 * a + m21 * b + m22 * c + s2
                    p = (1.0 - part) * acceptance(q0, q1, q2, numbers)
                if part > 0.0:
                    place = abs(q0) / step
                    low = int(place)
                    if low < last:
                        across = roll * q1 * q1
                        # The series is exact to 2e-7 there, and an exponential costs more than the rest.
                        fall = 1.0 - across * (1.0 - 0.5 * across) if across < 0.01 else np.exp(-across)
                        rest = place - low
                        p += part * fall * (wing[low] + rest * (wing[low + 1] - wing[low]))
                    else:  # far out, a Lorentzian of the whole box
                        far = wing[last] * (last * step / abs(q0)) ** 2
                        p += part * np.exp(-roll * q1 * q1) * far
                total += weight[k] * p
            out[i, j] = total
