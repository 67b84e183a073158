"""Candidates that a trained network considers most likely, and the evidence of these alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import LINE_ANGLES, catalogue, on_axes
from dfxm_dask.identify.evidence import Evidence, evidences
from dfxm_dask.identify.likelihood import Record
from dfxm_dask.identify.network import FILE, Proposal, features_of, input_of, load, resampled, temperature
from dfxm_dask.optics.defects.lattice import Lattice, axes_of
from dfxm_dask.optics.forward import Setting, setting

TURNED = 2.0  # degree: largest angle between the scattering vector and that of the training (our choice)
ALIKE = 0.03  # largest relative difference of the length of the Burgers vector, and of theta (our choice)


def propose(
    counts: np.ndarray,
    phi: np.ndarray,
    pitch: tuple[float, float],
    lattice: Lattice,
    *,
    microscope: str = "id06_al111",
    angles: int = LINE_ANGLES,
    top: int = 20,
    path: Path = FILE,
) -> Proposal:
    """Candidates that a trained network considers most likely for a crop with one dislocation or none.

    Parameters
    ----------
    counts : array (frame, y, x)
        Counts; NaN marks invalid pixels. Of a large crop, the window of 4.8 x 5 um with most contrast counts.
    phi : array (frame,), rad
        Rocking angle of every frame from the peak of the lattice; each of ±0.012, ±0.016, ±0.02 and ±0.026 degree
        requires a frame within 0.003 degree.
    pitch : (float, float), um
        Of the pixels along y and x: 0.08 x 0.125 um or whole fractions.
    lattice : Lattice
        fcc, {111} reflection, and Burgers vector of aluminium within 3 %; any angle about the scattering vector.
    microscope : str
        Microscope of the training.
    angles : int
        Line directions in every slip plane.
    top : int
        Number of candidates.
    path : path
        Weights.

    Returns
    -------
    Proposal
        Its rows refer to ``catalogue("fcc", angles=angles)``.

    Raises
    ------
    InputError
        A crystal, scan or pixel outside the range of the training.

    Examples
    --------
    >>> import dfxm_dask
    >>> from dfxm_dask.optics.defects.lattice import Lattice
    >>> from dfxm_dask.optics.geometry import orientation, rotation_y
    >>> x, _, z = rotation_y(-0.1566) @ orientation((-1, 1, -1))
    >>> lattice = Lattice(parameter=4.05e-4, x=tuple(x), z=tuple(z), hkl=(-1, 1, -1))
    >>> phi = np.deg2rad(0.002) * np.arange(-15, 16)
    >>> counts = np.random.default_rng(0).normal(106, 12, (31, 120, 40))
    >>> dfxm_dask.propose(counts, phi, (0.04, 0.125), lattice, top=5).rows.shape
    (5,)
    """
    import torch

    network, about = load(path)
    at = setting(about["theta"])
    _within(lattice, microscope, about, at)
    images, strength = input_of(resampled(counts, phi, pitch)[None])
    known = features_of(on_axes(catalogue("fcc", angles=angles), lattice), at)
    with torch.inference_mode():
        made = network(torch.from_numpy(images), torch.from_numpy(strength), torch.from_numpy(known))
    logits = made[0].numpy().astype(np.float64) / temperature(strength, about["temperature"])[0]
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    order = np.argsort(-probability[:-1], kind="stable")
    return Proposal(order[:top], probability[:-1], float(probability[-1]))


def _within(lattice: Lattice, microscope: str, about: dict, at: Setting) -> None:
    """Refuse crystals outside the range of the training."""
    remedy = "leave the proposals out: the search then compares all candidates"
    if microscope != about["microscope"]:
        raise InputError("proposals", f"are for the microscope {about['microscope']}, not {microscope}", remedy)
    hkl = lattice.hkl
    if lattice.kind not in (None, "fcc") or hkl is None or sorted(abs(v) for v in hkl) != about["family"]:
        raise InputError("proposals", f"are for {{111}} reflections of fcc, not {lattice.kind} {hkl}", remedy)
    length = (lattice.parameter or np.nan) / np.sqrt(2)
    if not abs(length / about["burgers"] - 1) < ALIKE:
        found = f"are for |b| = {about['burgers']:.4g} um within 3 %, not {length:.4g} um"
        raise InputError("proposals", found, remedy)
    g = axes_of(lattice) @ np.asarray(hkl, np.float64)
    apart = np.rad2deg(np.arccos(np.clip(g @ at.direction / np.linalg.norm(g), -1, 1)))
    if apart > TURNED or (lattice.two_theta and abs(np.deg2rad(lattice.two_theta) / 2 / at.theta - 1) > ALIKE):
        found = f"are for theta {np.rad2deg(at.theta):.4g} degree, and g is {apart:.3g} degree from its direction"
        raise InputError("proposals", found, remedy)


def evidences_of(
    fine: Record,
    coarse: Record,
    table: np.ndarray,
    pairs: np.ndarray,
    proposal: Proposal,
) -> Evidence:
    """Evidence of the proposed candidates and of those with the opposite Burgers vectors; see :func:`evidences`.

    The others are not searched. Each gets the least evidence of the searched candidates, times the ratio of its
    probability by the network to the least one of these.
    """
    rows = np.union1d(proposal.rows, pairs[proposal.rows])
    rows = rows[rows >= 0]
    within = np.full(len(table) + 1, -1)
    within[rows] = np.arange(len(rows))
    some = evidences(fine, coarse, table[rows], within[pairs[rows]])
    log = np.log(np.maximum(proposal.probability, 1e-300))
    log_evidence = some.log_evidence.min() + np.minimum(log - log[rows].min(), 0.0)
    n = len(table)
    position, error, distance = np.full((n, 2), np.nan), np.full((n, 2), np.nan), np.full(n, np.inf)
    contrast, refined = np.full(n, np.inf), np.zeros(n, bool)
    for whole, part in zip((log_evidence, position, error, distance, contrast, refined), _columns(some), strict=True):
        whole[rows] = part
    return Evidence(log_evidence, position, error, some.chi2, some.lit, distance, contrast, refined)


def _columns(found: Evidence) -> tuple[np.ndarray, ...]:
    return found.log_evidence, found.position, found.position_error, found.distance, found.contrast, found.refined
