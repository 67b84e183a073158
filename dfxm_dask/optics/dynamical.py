"""Two-beam dynamical diffraction in symmetric Laue geometry: Takagi-Taupin on the characteristic lattice.

Frame: the plate fills 0 <= depth <= thickness; the lateral axis is along the scattering vector Q. The incident beam
runs along (-sin theta, cos theta) and the diffracted one along (+sin theta, cos theta) in (lateral, depth).
Waves are exp(+i k·r), for which chi0 = -a + i b absorbs. Tables often list the conjugate, for exp(-i k·r), which would
change the sign of the anomalous absorption of bent waves. Here the sign of Im is set, never read.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError

ANGSTROM = 1e-4  # um
LARGEST_TURN = np.pi / 2  # of the diffracted wave in one step, rad (our choice): at 2 pi the lattice has a false peak


class Medium(NamedTuple):
    """Constants of one step along the beams: coupling of the two waves, turn of the diffracted wave for each deviation,
    and the transmitted part of an amplitude."""

    coupling: complex
    turn: np.ndarray
    loss: float


@njit(nogil=True, cache=True)
def _unit_wave(phase, cosine, sine, solid):
    """cos and sin of a row of phases; 0 where the phase is NaN (no crystal).

    Within 2e-16 for |phase| < 1e6: reduction by pi/2 in two parts and the usual polynomials on ±pi/4, free of branches
    so that it vectorises (7 ns against 40 for the library's).
    """
    for j in range(phase.size):
        here = 1.0 if phase[j] == phase[j] else 0.0
        angle = phase[j] if phase[j] == phase[j] else 0.0
        turns = np.floor(angle * 0.6366197723675814 + 0.5)
        r = (angle - turns * 1.57079632673412561417) - turns * 6.07710050650619224932e-11
        r2 = r * r
        odd_part = -1.98412698298579493134e-04 + r2 * (
            2.75573137070700676789e-06 + r2 * (-2.50507602534068634195e-08 + r2 * 1.58969099521155010221e-10)
        )
        s = r + r * r2 * (-1.66666666666666324348e-01 + r2 * (8.33333333332248946124e-03 + r2 * odd_part))
        even_part = 2.48015872894767294178e-05 + r2 * (
            -2.75573143513906633035e-07 + r2 * (2.08757232129817482790e-09 + r2 * -1.13596475577881948265e-11)
        )
        c = 1 - 0.5 * r2 + r2 * r2 * (4.16666666666666019037e-02 + r2 * (-1.38888888888741095749e-03 + r2 * even_part))
        quadrant = turns - 4.0 * np.floor(turns * 0.25)
        odd = quadrant - 2.0 * np.floor(quadrant * 0.5)
        high = (quadrant - odd) * 0.5  # quadrants 2 and 3
        cosine[j] = here * (1 - 2 * abs(odd - high)) * (odd * s + (1 - odd) * c)
        sine[j] = here * (1 - 2 * high) * (odd * c + (1 - odd) * s)
        solid[j] = here


@njit(nogil=True, cache=True)
def _kick(incident, diffracted, crystal, keep, mix, turn):
    """Coupling of both waves in every node of a row, in place; the diffracted wave then turns by its deviation.

    Waves are (real, imaginary) rows; ``crystal`` holds the cosine and sine of Q·u and where there is crystal.
    """
    ar, ai, br, bi = incident[0], incident[1], diffracted[0], diffracted[1]
    cosine, sine, solid = crystal
    keep_re, keep_im, mix_re, mix_im, turn_re, turn_im = keep.real, keep.imag, mix.real, mix.imag, turn.real, turn.imag
    for j in range(ar.size):
        xr, xi, yr, yi = ar[j], ai[j], br[j], bi[j]
        pr, pi = cosine[j] * yr - sine[j] * yi, cosine[j] * yi + sine[j] * yr  # f Dh
        qr, qi = cosine[j] * xr + sine[j] * xi, cosine[j] * xi - sine[j] * xr  # f* D0
        kr, ki = 1.0 + solid[j] * (keep_re - 1.0), solid[j] * keep_im
        ar[j] = kr * xr - ki * xi + mix_re * pr - mix_im * pi
        ai[j] = kr * xi + ki * xr + mix_re * pi + mix_im * pr
        ur, ui = kr * yr - ki * yi + mix_re * qr - mix_im * qi, kr * yi + ki * yr + mix_re * qi + mix_im * qr
        br[j] = turn_re * ur - turn_im * ui
        bi[j] = turn_re * ui + turn_im * ur


@njit(nogil=True, cache=True)
def _march(incident, phase, steps, medium, plane, lit, transmitted, diffracted):
    """Both waves at the exit, from the nodes of the entry that are lit (first, and one behind the last)."""
    coupling, turn, loss = medium
    first, last = lit
    nodes, beams = incident.size, turn.size
    spare = steps // 2 + 1
    # A row drifts by moving the view: the incident wave to the left, the diffracted one to the right.
    waves = np.zeros((beams, 4, nodes + spare))
    for a in range(beams):
        waves[a, 0, :nodes] = incident.real
        waves[a, 1, :nodes] = incident.imag
    left, right = 0, spare  # start of the views of the incident and the diffracted wave
    cosine, sine, solid = np.empty(nodes), np.empty(nodes), np.empty(nodes)
    square = coupling * coupling
    deformed = phase.shape[0] > 1
    if not deformed:
        _unit_wave(phase[0], cosine, sine, solid)
    for n in range(steps + 1):
        if n == 0:
            keep, mix, damp = 1 + 0j, coupling, math.sqrt(loss)
        elif n < steps:
            keep, mix, damp = (1 + square) / (1 - square), 2 * coupling / (1 - square), loss
        else:
            keep, mix, damp = 1 / (1 - square), coupling / (1 - square), math.sqrt(loss)
        keep, mix = keep * damp, mix * damp
        f_re, f_im, here = cosine[first:last], sine[first:last], solid[first:last]
        if deformed:
            _unit_wave(phase[n, first:last], f_re, f_im, here)
        for a in range(beams):
            d0, dh = waves[a, :2, left + first : left + last], waves[a, 2:, right + first : right + last]
            _kick(d0, dh, (f_re, f_im, here), keep, mix, turn[a] if n < steps else 1 + 0j)
        if n == steps:
            break
        if (n + 1) % 2:
            left += 1
            first = max(first - 1, 0)
            for a in range(beams):
                for part in range(2):
                    waves[a, part, left + nodes - 1] = waves[a, part, left + nodes - 2] if plane else 0.0
        else:
            right -= 1
            last = min(last + 1, nodes)
            for a in range(beams):
                for part in range(2, 4):
                    waves[a, part, right] = waves[a, part, right + 1] if plane else 0.0
    for a in range(beams):
        for j in range(nodes):
            transmitted[a, j] = complex(waves[a, 0, left + j], waves[a, 1, left + j])
            diffracted[a, j] = complex(waves[a, 2, right + j], waves[a, 3, right + j])


def _check(theta: float, wavelength: float, chi_h: complex, polarisation: float) -> None:
    """Refuse waves without coupling and impossible angles, at which nothing is diffracted."""
    if not 0 < theta < np.pi / 2:
        raise InputError(f"Takagi-Taupin: theta = {theta:g} rad", "no Bragg angle", "give one between 0 and pi/2 rad")
    if not (np.isfinite(wavelength) and wavelength > 0):
        raise InputError(f"Takagi-Taupin: wavelength = {wavelength:g}", "is not positive", "give it in angstrom")
    if not (np.isfinite(chi_h) and abs(chi_h) > 0 and np.isfinite(polarisation) and polarisation > 0):
        raise InputError(
            f"Takagi-Taupin: chi_h = {chi_h:g}, polarisation = {polarisation:g}",
            "the two waves are not coupled",
            "choose an allowed reflection; without coupling nothing is diffracted",
        )


def lattice(nodes: int, *, thickness: float, step: float, theta: float, start: float = 0.0) -> tuple:
    """Positions of the nodes of the characteristic lattice.

    Parameters
    ----------
    nodes : int
        Nodes of every row.
    thickness : float, um
        Thickness of the plate; the last row lies on its exit face.
    step : float, um
        Largest step along either beam. The true one divides the path thickness / cos(theta) into whole steps.
    theta : float, rad
        Bragg angle.
    start : float, um
        Lateral position of the first node of the entry row.

    Returns
    -------
    depth : array (steps + 1,), float64, um
    lateral : array (steps + 1, nodes), float64, um
        Neighbours of a row are 2 p sin(theta) apart; odd rows are shifted by half of that, p the true step.
    step : float, um
        True step p.

    Raises
    ------
    InputError
        A step that is not positive, a thickness below one step, or an impossible Bragg angle.

    Examples
    --------
    >>> depth, lateral, step = lattice(3, thickness=1.0, step=0.5, theta=np.pi / 6)
    >>> len(depth), round(step, 4)
    (4, 0.3849)
    >>> (lateral[:2] / step).round(6).tolist()
    [[0.0, 1.0, 2.0], [0.5, 1.5, 2.5]]
    """
    if not 0 < theta < np.pi / 2:
        raise InputError(f"lattice: theta = {theta:g} rad", "no Bragg angle", "give one between 0 and pi/2 rad")
    if not (np.isfinite(step) and step > 0):
        raise InputError(f"lattice: step = {step:g} um", "is not positive", "take about 0.25 um")
    path = thickness / np.cos(theta)
    if not (np.isfinite(path) and path >= step * (1 - 1e-9)):
        raise InputError(
            f"lattice: thickness = {thickness:g} um",
            f"is less than one step of {step:g} um along the beam",
            f"take a thicker plate or a step of at most {max(path, 0):.3g} um",
        )
    steps = max(1, math.ceil(path / step - 1e-9))
    true = path / steps
    row = np.arange(steps + 1)
    half = true * np.sin(theta)
    lateral = start + half * (2 * np.arange(nodes)[None, :] + (row % 2)[:, None])
    return row * true * np.cos(theta), lateral, float(true)


def takagi_taupin(
    incident: np.ndarray,
    phase: np.ndarray | None = None,
    *,
    thickness: float,
    theta: float,
    wavelength: float,
    chi_h: complex,
    chi0: complex = 0.0,
    deviation: float | np.ndarray = 0.0,
    step: float = 0.25,
    polarisation: float = 1.0,
    outside: Literal["dark", "plane"] = "dark",
) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes of the transmitted and the diffracted wave at the exit face of a deformed plate.

    Parameters
    ----------
    incident : array (m,), complex128
        Amplitude of the incident wave at the nodes of the entry row.
    phase : array (steps + 1, m), float64, rad, optional
        Q·u at the nodes, u the displacement; jumps by 2 pi n are harmless. NaN: no crystal there; the surface then
        lies half a step before the first node within. None: a perfect plate.
    thickness, theta, step : float, um, rad, um
        See :func:`lattice`, which gives the positions of the nodes.
    wavelength : float, angstrom
        Wavelength of the beam.
    chi_h, chi0 : complex
        Fourier coefficients of the susceptibility. Where the structure has no centre of symmetry give
        sqrt(chi_h chi_-h). The sign of their imaginary parts is not read: matter absorbs.
    deviation : float or array (a,), rad
        Glancing angle minus Bragg angle of the incident wave. An array shares the work on the phase.
    polarisation : float
        C: 1 across the scattering plane, cos(2 theta) within.
    outside : "dark" or "plane"
        Wave that enters through the ends of the lateral window: none, or that of the last node within. "plane" is
        exact where the wave does not vary laterally; with a deformed crystal leave out thickness tan(theta) at both
        ends.

    Returns
    -------
    transmitted, diffracted : array (m,) or (a, m), complex128
        At the nodes of the last row.

    Raises
    ------
    InputError
        No coupling, an impossible angle, wavelength, step or thickness, a phase of the wrong shape, infinite or NaN
        amplitudes, or a step too long for the deviation (the diffracted wave may turn by pi/2 a step, our choice).

    Notes
    -----
    With kap = pi C chi_h / lambda, c = i kap p / 2, f = exp(i Q·u), e = exp(2 pi i sin(2 theta) deviation p / lambda),
    at a node with the parents ' (along the incident) and '' (along the diffracted beam)::

        D0 - c f  Dh =     D0' + c f'   Dh'
        Dh - c f* D0 = e [ Dh'' + c f''* D0'' ]

    S. Takagi, Acta Cryst. 15 (1962) 1311; A. Authier, C. Malgrange and M. Tournarie, Acta Cryst. A24 (1968) 126. Both
    sides are half a coupling (1 ± c M), M = [[0, f], [f*, 0]], so that every inner node is one product with
    (1 - c M)^-1 (1 + c M), which is unitary without absorption: flux is conserved to rounding whatever the step. The
    error falls as p². Absorption is exp(-mu p / 2) a step, mu = 2 pi |Im chi0| / lambda.

    Examples
    --------
    Half a Pendelloesung length lets all of the beam out in the diffracted direction:

    >>> wave = np.ones(8, np.complex128)
    >>> crystal = dict(theta=0.1566, wavelength=0.7293, chi_h=-2.49e-6)
    >>> _, diffracted = takagi_taupin(wave, thickness=28.93 / 2, outside="plane", **crystal)
    >>> (np.abs(diffracted) ** 2).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    _check(theta, wavelength, chi_h, polarisation)
    if outside not in ("dark", "plane"):
        raise InputError(f"Takagi-Taupin: outside = {outside!r}", "is unknown", "set 'dark' or 'plane'")
    incident = np.require(incident, np.complex128, ["C", "W"])  # writable: one compiled version
    if incident.ndim != 1 or not incident.size or not np.isfinite(incident).all():
        raise InputError(
            f"Takagi-Taupin: incident wave of shape {incident.shape}",
            "is not a row of finite amplitudes",
            "give one amplitude for each node of the entry row",
        )
    depth, _, true = lattice(1, thickness=thickness, step=step, theta=theta)
    steps = len(depth) - 1
    if phase is not None:
        phase = np.require(phase, np.float64, ["C", "W"])
        if phase.shape != (steps + 1, incident.size):
            raise InputError(
                f"Takagi-Taupin: phase of shape {phase.shape}",
                f"the lattice has (steps + 1, nodes) = {(steps + 1, incident.size)}",
                "take Q·u at the positions that lattice() gives",
            )
        if np.isinf(phase).any():
            raise InputError("Takagi-Taupin: phase", "is infinite at some node", "soften the core of the dislocation")
    angles = np.atleast_1d(np.asarray(deviation, np.float64))
    length = wavelength * ANGSTROM
    turn = 2 * np.pi * np.sin(2 * theta) * angles * true / length
    if angles.ndim != 1 or not np.abs(turn).max(initial=0) <= LARGEST_TURN:
        largest = np.abs(angles).max(initial=0)
        raise InputError(
            f"Takagi-Taupin: deviation up to {largest:.3g} rad with a step of {true:.3g} um",
            "the diffracted wave turns by more than pi/2 from node to node",
            f"take a step of at most {LARGEST_TURN * length / (2 * np.pi * np.sin(2 * theta) * largest):.3g} um",
        )
    # chi_h = S (-a + i b) for exp(+i k·r), S the real geometrical factor of either sign: Im opposes Re.
    chi_h = complex(chi_h)
    coupling = 0.5j * np.pi * polarisation / length * true * complex(chi_h.real, -math.copysign(chi_h.imag, chi_h.real))
    loss = np.exp(-np.pi * abs(complex(chi0).imag) / length * true)
    plane = outside == "plane"
    at = np.flatnonzero(incident)
    lit = (0, incident.size) if plane else (int(at[0]), int(at[-1]) + 1) if at.size else (0, 0)
    transmitted = np.empty((angles.size, incident.size), np.complex128)
    diffracted = np.empty_like(transmitted)
    field = np.zeros((1, incident.size)) if phase is None else phase
    medium = Medium(coupling, np.exp(1j * turn), loss)
    _march(incident, field, steps, medium, plane, lit, transmitted, diffracted)
    return (transmitted[0], diffracted[0]) if np.ndim(deviation) == 0 else (transmitted, diffracted)
