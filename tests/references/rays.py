"""Random rays through a microscope, and the law of their rocking component."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.microscope import Microscope
from dfxm_dask.optics.resolution import _acceptances, _rocking_form, _variances, rocking_coefficients


def rocking_profile(
    q_rock: np.ndarray | float, microscope: Microscope, *, blur: float = 0.0, absolute: bool = False
) -> np.ndarray:
    """Acceptance as a function of q_rock' alone: the integral of the resolution function over the other two."""
    q = np.zeros((*np.shape(q_rock), 3))
    q[..., 0] = q_rock
    p = np.empty(q.shape[:-1])
    _acceptances(q.reshape(-1, 3), rocking_coefficients(microscope, blur), p.reshape(-1))
    return p * _rocking_form(microscope, blur)[3] if absolute else p


def rays(microscope: Microscope, n: int, seed: int, aperture: float | None = None) -> np.ndarray:
    """Random rays (n, 5): eps, zeta_v, zeta_h, d2, xi; of d2 and xi only those below ``aperture`` (rad) pass."""
    if n < 1:
        raise InputError(f"{n} rays", "are none", "ask for at least one")
    if aperture is not None and not aperture > 0:
        raise InputError(f"aperture of {aperture} rad", "lets nothing pass", "give a positive half angle")
    rng = np.random.default_rng(seed)
    rms = np.sqrt(_variances(microscope))
    cuts = np.full(5, np.inf)
    cuts[1] = microscope.divergence_v_cut
    if aperture is not None:
        cuts[3:] = aperture
    uniform = rng.random((n, 5))
    rms[1] = 0 if microscope.divergence_profile == "uniform" else microscope.divergence_v
    result = np.zeros((n, 5))
    for k in np.flatnonzero(rms):
        low = ndtr(-cuts[k] / rms[k])
        result[:, k] = rms[k] * ndtri(low + (1 - 2 * low) * uniform[:, k])
    if microscope.divergence_profile == "uniform":
        result[:, 1] = microscope.divergence_v * (uniform[:, 1] - 0.5)
    return result
