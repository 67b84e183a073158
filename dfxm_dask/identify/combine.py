"""Probabilities of candidates from log evidences: of one scan, or of several scans of one dislocation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from dfxm_dask.errors import InputError


class Ranking(NamedTuple):
    """Probabilities of candidates.

    Attributes
    ----------
    probability : array (candidate,)
    none : float
        Probability of an undistorted lattice.
    """

    probability: np.ndarray
    none: float


def ranking(log_evidence: np.ndarray, *, prior_none: float = 0.5, temper: float = 1.0) -> Ranking:
    """Probabilities of candidates, each equally likely beforehand, and of none of them.

    Parameters
    ----------
    log_evidence : array (candidate,)
        Relative to that of an undistorted lattice; of several scans the sum.
    prior_none : float
        Prior probability that no dislocation exists.
    temper : float
        Divides the logarithms: larger than 1 where the model does not describe the counts within the noise.

    Examples
    --------
    >>> found = ranking(np.array([10.0, 10.0, 0.0]))
    >>> found.probability.round(2).tolist()
    [0.5, 0.5, 0.0]
    """
    logs = log_evidence / temper + np.log((1 - prior_none) / len(log_evidence))
    nothing = np.log(prior_none)
    total = np.logaddexp(logsumexp(logs), nothing)
    return Ranking(np.exp(logs - total), float(np.exp(nothing - total)))


def alike(distance: np.ndarray, contrast: np.ndarray, best: int, same: float) -> np.ndarray:
    """Candidates that no scan or layer distinguishes from the best one of all.

    Parameters
    ----------
    distance, contrast : array (scan, candidate)
        Chi2 between the expected counts of a candidate and those of the best one of that scan, and those without a
        dislocation.
    best : int
        Best candidate of all scans.
    same : float
        Chi2 below which two candidates are not distinguished.

    Notes
    -----
    Distances refer to the best candidate of their scan. Where this differs from the best of all by more than noise, the
    best of all is alone in its class, except among candidates without contrast in that scan.

    Examples
    --------
    >>> alike(np.array([[0.0, 9.0, 90.0], [50.0, 0.0, 7.0]]), np.full((2, 3), 99.0), 0, 16.0).tolist()
    [True, False, False]
    """
    out = np.ones(distance.shape[1], bool)
    for near, dark in zip(distance < same, contrast < same, strict=True):
        if near[best]:
            out &= near
        elif dark[best]:
            out &= dark
        else:
            out[:] = False
    out[best] = True
    return out


def combined(log_evidences: list[np.ndarray], none_prior: float = 0.5) -> tuple[np.ndarray, float]:
    """Probabilities of common candidates from several scans of one dislocation.

    Parameters
    ----------
    log_evidences : list of array (candidate,)
        Variable ``log_evidence`` of every scan. Candidates are numbered in the frame of the crystal, so that a number
        denotes the same dislocation in every reflection.
    none_prior : float
        Prior probability that no dislocation exists.

    Returns
    -------
    probability, none : array (candidate,), float

    Raises
    ------
    InputError
        No scan, or scans with different catalogues.

    Examples
    --------
    >>> probability, none = combined([np.array([3.0, 3.0]), np.array([9.0, 0.0])])
    >>> probability.round(2).tolist(), round(none, 2)
    ([1.0, 0.0], 0.0)
    """
    if len({len(one) for one in log_evidences}) != 1:
        sizes = [len(one) for one in log_evidences]
        raise InputError(
            "combined: log_evidences", f"have {sizes} candidates", "run match with the same kind and angles"
        )
    total = np.sum(log_evidences, axis=0)
    if np.isnan(total).any() or np.isneginf(logsumexp(total)):
        raise InputError("combined: log_evidences", "contain NaN", "leave out scans without weak-beam frames")
    found = ranking(total, prior_none=none_prior)
    return found.probability, found.none
