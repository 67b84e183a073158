"""Design of an experiment: the reflections and scans that determine the deformation gradient best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import Any, Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.defects.lattice import Lattice, axes_of
from dfxm_dask.optics.geometry import oblique
from dfxm_dask.strain.goniometer import Reflections, reflections
from dfxm_dask.strain.null_space import undetermined
from dfxm_dask.strain.solver import RANK, equations

MOST_SETS = 300_000
"""Largest number of sets that are compared."""
CRITERIA = ("rms", "worst", "condition")
BATCH = 20_000


@dataclass(frozen=True)
class Design:
    """One set of reflections and its predicted errors.

    Parameters
    ----------
    hkl : tuple of (h, k, l)
    omega, eta, theta : tuple of float, degree
        Setting of every reflection, with mu = 0.
    rms, worst : float
        Root mean square and largest standard error of the nine components of F; NaN if F is not determined.
    condition : float
        Condition number of the measured angles, with the given errors.
    error : tuple of 3 tuples of 3 float
        Standard error of the components of F.
    undetermined : tuple of str
        Names of undetermined deformations.
    """

    hkl: tuple[tuple[int, int, int], ...]
    omega: tuple[float, ...]
    eta: tuple[float, ...]
    theta: tuple[float, ...]
    rms: float
    worst: float
    condition: float
    error: tuple[tuple[float, ...], ...]
    undetermined: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields, with None for NaN."""
        fields = asdict(self)
        error = [[None if np.isnan(value) else value for value in row] for row in self.error]
        return fields | {n: None for n in CRITERIA if np.isnan(fields[n])} | {"error": error}


def centre_error(width: float, counts: float, step: float, extent: float, background: float = 0.0) -> float:
    """Standard error of the centre of mass of a Gaussian rocking curve.

    Parameters
    ----------
    width : float, degree
        Full width at half maximum.
    counts : float
        Counts at the peak.
    step, extent : float, degree
        Step, and distance of the first and the last position; the peak is in the middle.
    background : float
        Background counts of every position, which are subtracted.

    Returns
    -------
    float, degree

    Raises
    ------
    InputError
        Values that are not positive, or fewer than two positions.

    Notes
    -----
    Counting statistics with N the counts of the peak at the positions x relative to the centre::

        error = sqrt(Σ x² (N + background)) / Σ N

    Our own definition.

    Examples
    --------
    >>> round(centre_error(0.01, 1000, 0.002, 0.06), 7)
    5.82e-05
    """
    values = {"width": width, "counts": counts, "step": step, "extent": extent}
    for name, value in values.items():
        if not 0 < value < np.inf:
            raise InputError(f"centre_error: {name}", f"is {value}", "give a positive number")
    if not 0 <= background < np.inf or extent < step:
        raise InputError("centre_error", f"background {background}, extent {extent}, step {step}", "give two positions")
    x = np.arange(-(extent / 2), extent / 2 + 1e-9 * step, step)
    n = counts * np.exp(-4 * np.log(2) * (x / width) ** 2)
    return float(np.sqrt(np.sum(x**2 * (n + background))) / n.sum())


def candidates(
    lattice: Lattice, energy: float, *, largest: int = 4, theta: tuple[float, float] = (4.0, 15.0), eta: float = 45.0
) -> np.ndarray:
    """Reflections of a cubic lattice that a rotation about the vertical brings to diffraction.

    Parameters
    ----------
    lattice : Lattice
        Cubic, with the crystal directions along x and z of the sample at omega = 0.
    energy : float, keV
    largest : int
        Largest index.
    theta : (float, float), degree
        First and last Bragg angle.
    eta : float, degree
        Largest azimuth on the Debye-Scherrer ring.

    Returns
    -------
    array (reflection, 3), int64

    Examples
    --------
    >>> lattice = Lattice(parameter=4.0495e-4, x=(1, 0, 0), z=(0, 0, 1))
    >>> candidates(lattice, 19.1, largest=3, theta=(15.0, 16.0), eta=30.0).tolist()
    [[-1, -1, 3], [-1, 1, 3], [1, -1, 3], [1, 1, 3]]
    """
    grid = np.arange(-largest, largest + 1)
    every = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    every = every[every.any(axis=1)]
    odd = every % 2
    allowed = (odd == odd[:, :1]).all(axis=1) if (lattice.kind or "fcc") == "fcc" else every.sum(axis=1) % 2 == 0
    matrix = reciprocal_lattice_of(lattice)
    return np.array(
        [one for one in every[allowed] if _setting(matrix, one, energy, theta, eta) is not None], np.int64
    ).reshape(-1, 3)


def reciprocal_lattice_of(lattice: Lattice) -> np.ndarray:
    """UB of a cubic lattice in the axes of the sample, array (3, 3), 1/angstrom, 2 pi included.

    Raises
    ------
    InputError
        The lattice is given by vectors.
    """
    if lattice.parameter is None:
        raise InputError("lattice", "is a list of vectors", "give parameter, x and z of a cubic lattice")
    return np.asarray(2 * np.pi / (1e4 * lattice.parameter) * axes_of(lattice))


def _setting(
    matrix: np.ndarray, hkl: np.ndarray, energy: float, theta: tuple[float, float], eta: float
) -> np.ndarray | None:
    """(omega, eta, theta) in degree within the limits, with the smallest eta, and eta > 0 of two; None without one."""
    try:
        rows = np.rad2deg(oblique(matrix, hkl, energy))
    except InputError:
        return None
    good = rows[(rows[:, 2] >= theta[0]) & (rows[:, 2] <= theta[1]) & (np.abs(rows[:, 1]) <= eta)]
    return min(good, key=lambda row: (round(abs(row[1]), 6), -row[1])) if len(good) else None


def design(
    lattice: Lattice,
    energy: float,
    *,
    hkl: Sequence[Sequence[int]] | None = None,
    count: int = 3,
    errors: tuple[float | None, float | None, float | None] = (0.001, 0.0005, 0.0005),
    theta: tuple[float, float] = (4.0, 15.0),
    eta: float = 45.0,
    largest: int = 4,
    criterion: Literal["rms", "worst", "condition"] = "rms",
    best: int = 10,
) -> list[Design]:
    """Sets of reflections, ranked by the predicted error of the deformation gradient.

    Parameters
    ----------
    lattice : Lattice
        Cubic, with the crystal directions along x and z of the sample at omega = 0.
    energy : float, keV
        Photon energy.
    hkl : sequence of (h, k, l), optional
        Reflections to choose from; by default all of :func:`candidates`.
    count : int
        Number of reflections of a set.
    errors : (float or None, float or None, float or None), degree
        Standard error of the centre of mass of two_theta, phi and chi, see :func:`centre_error`; None for an axis that
        is not scanned.
    theta : (float, float), degree
        First and last Bragg angle.
    eta : float, degree
        Largest azimuth on the Debye-Scherrer ring.
    largest : int
        Largest index of a reflection, if ``hkl`` is not given.
    criterion : "rms", "worst" or "condition"
        Quantity that ranks the sets, see :class:`Design`.
    best : int
        Number of sets to return.

    Returns
    -------
    list of Design
        Best first; sets that do not determine F follow those that do.

    Raises
    ------
    InputError
        A given reflection is out of reach, fewer reflections than ``count``, too many sets, or no scanned axis.

    Notes
    -----
    With the change K of the angles by H = F^-T - I and their covariance C, cov(H) = (Σ K^T C^-1 K)^-1 over the
    reflections of a set, and cov(F) = cov(H^T) to first order.

    References
    ----------
    C. Detlefs et al., J. Appl. Cryst. 58 (2025) 1119; B. Kanesalingam et al., arXiv:2507.17929.

    Examples
    --------
    >>> lattice = Lattice(parameter=4.0495e-4, x=(1, 0, 0), z=(0, 0, 1))
    >>> ranked = design(lattice, 19.1, count=4, theta=(15.0, 16.0), eta=30.0, largest=3)
    >>> len(ranked), ranked[0].hkl[0], round(1e6 * ranked[0].rms)
    (1, (-1, -1, 3), 20)
    """
    if criterion not in CRITERIA:
        raise InputError(f"design: criterion {criterion!r}", "is unknown", f"take one of {', '.join(CRITERIA)}")
    matrix = reciprocal_lattice_of(lattice)
    chosen = candidates(lattice, energy, largest=largest, theta=theta, eta=eta) if hkl is None else np.asarray(hkl)
    rows = [_setting(matrix, one, energy, theta, eta) for one in chosen]
    for one, row in zip(chosen, rows, strict=True):
        if row is None:
            limits = f"theta {theta[0]:g} to {theta[1]:g} and eta up to {eta:g} degree"
            raise InputError(
                f"design: reflection {' '.join(map(str, one))}", f"is out of reach of {limits}", "widen the limits"
            )
    if not 1 <= count <= len(chosen):
        raise InputError(f"design: sets of {count}", f"{len(chosen)} reflections are within reach", "widen the limits")
    if (sets := comb(len(chosen), count)) > MOST_SETS:
        raise InputError(
            f"design: sets of {count} of {len(chosen)} reflections",
            f"are {sets}, at most {MOST_SETS} are compared",
            "give fewer reflections, or narrower limits of theta or eta",
        )
    setting = np.array([[0.0, *row] for row in rows if row is not None])
    at = reflections(chosen, setting, matrix, np.full(len(chosen), wavelength(energy)), deviation=1e-6)
    picks = np.array(list(combinations(range(len(chosen)), count)))
    measured, information = _information(at, errors)
    parts = _predicted(information, picks)
    rms, worst, condition, error = (np.concatenate([part[k] for part in parts]) for k in range(4))
    value = {"rms": rms, "worst": worst, "condition": condition}[criterion]
    order = np.lexsort((np.arange(len(value)), np.where(np.isfinite(value), value, np.inf).round(12)))[:best]
    return [
        _design(at, setting, picks[k], measured, (float(rms[k]), float(worst[k]), float(condition[k])), error[k])
        for k in order
    ]


def _information(
    at: Reflections, errors: tuple[float | None, float | None, float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Scanned axes (3,), and the normal equations of every reflection (reflection, 9, 9)."""
    measured = np.array([e is not None for e in errors])
    known = [e for e in errors if e is not None]
    if not known or not all(0 < e < np.inf for e in known):
        raise InputError(f"design: errors {errors}", "are not positive", "give an error in degree for a scanned axis")
    rows = equations(at)[:, measured] / np.deg2rad(known)[:, None]
    return measured, np.einsum("kai,kaj->kij", rows, rows)


def _predicted(information: np.ndarray, picks: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """rms, worst, condition and errors (3, 3) of F of all sets, in batches."""
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(picks), BATCH):
        normal = information[picks[start : start + BATCH]].sum(axis=1)
        size, axes = np.linalg.eigh(normal)
        full = size[:, 0] > RANK**2 * size[:, -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.einsum("nij,nj->ni", axes**2, 1 / size)
            condition = np.where(full, np.sqrt(size[:, -1] / size[:, 0]), np.nan)
            error = np.where(full[:, None], np.sqrt(variance), np.nan).reshape(-1, 3, 3).swapaxes(1, 2)
        found.append((np.sqrt((error**2).mean(axis=(1, 2))), error.max(axis=(1, 2)), condition, error))
    return found


def _design(
    at: Reflections,
    setting: np.ndarray,
    pick: np.ndarray,
    measured: np.ndarray,
    scores: tuple[float, float, float],
    error: np.ndarray,
) -> Design:
    """One ranked set."""
    part = Reflections(at.hkl[pick], at.vectors[pick], at.turned[pick], at.theta[pick], at.radius[pick])
    _, omega, eta, theta = (tuple(map(float, column)) for column in setting[pick].T)
    return Design(
        tuple((int(h), int(k), int(m)) for h, k, m in part.hkl),
        omega,
        eta,
        theta,
        *scores,
        tuple(tuple(map(float, row)) for row in error),
        tuple(undetermined(part, np.tile(measured, (len(pick), 1)))),
    )
