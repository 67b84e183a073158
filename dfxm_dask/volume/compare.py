"""Agreement of two masks of the same place: overlap, distances in um, and what chance would reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.volume.sparse import Voxels, moved, nearest, shared, voxels

TAU = (0.5, 1.0, 2.0)
"""Distances (um) within which voxels are taken to be at the same place: sizes of a dislocation's image."""

BIN = 0.05
"""Width of a bin of a histogram of distances, um: about the finest voxel of such scans (our choice)."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Agreement of two volumes beside what chance would reach.

    Parameters
    ----------
    values : dict of str to float
        See :func:`compare_masks`.
    chance, spread : dict of str to float
        Mean and standard deviation of the same over copies of a moved somewhere else; NaN where there are none.
    voxels : (int, int)
        True voxels of a and of b.
    both : int
        Voxels of both.
    to_b, to_a : array (bin,), int64
        Histogram of the distance from the voxels of a to b, and from those of b to a, in bins of 0.05 um from 0.
    chance_to_b, chance_to_a : array (bin,), int64
        The same of the moved copies, over a sample of their voxels.
    """

    values: dict[str, float]
    chance: dict[str, float]
    spread: dict[str, float]
    voxels: tuple[int, int]
    both: int
    to_b: np.ndarray
    to_a: np.ndarray
    chance_to_b: np.ndarray
    chance_to_a: np.ndarray


def nearest_distances(a: np.ndarray, b: np.ndarray, sampling: Sequence[float]) -> np.ndarray:
    """Distance from every voxel of one mask to the nearest voxel of another.

    Parameters
    ----------
    a, b : array (y, x) or (z, y, x), bool
    sampling : sequence of float, um
        Distance of neighbouring voxels along each dimension.

    Returns
    -------
    array (voxel of a,), float64, um
        In the order of ``np.nonzero(a)``, 0 where b is too; NaN throughout where b is empty.

    Raises
    ------
    InputError
        Masks that are not boolean or of unequal shape, or distances that are not positive, one for each dimension.

    Notes
    -----
    Exact; see :func:`dfxm_dask.volume.sparse.nearest`. Time follows the voxels found and not the volume, of which
    dislocations fill some 0.3 %.

    Examples
    --------
    >>> a, b = np.array([[1, 0, 0, 1]], bool), np.array([[1, 0, 0, 0]], bool)
    >>> nearest_distances(a, b, (1.0, 0.5)).tolist()
    [0.0, 1.5]
    """
    a, b, spacing = _checked(a, b, sampling)
    return nearest(*_listed(a, b, spacing))


def compare_masks(
    a: np.ndarray, b: np.ndarray, sampling: Sequence[float], tau: Sequence[float] = TAU
) -> dict[str, float]:
    """Overlap and distances of two masks.

    Parameters
    ----------
    a, b : array (y, x) or (z, y, x), bool
        What was found, and the truth (or what another method found).
    sampling : sequence of float, um
        Distance of neighbouring voxels along each dimension.
    tau : sequence of float, um
        Distances within which voxels are taken to be at the same place.

    Returns
    -------
    dict of str to float
        ``dice`` = 2 |a and b| / (|a| + |b|) and ``iou`` = |a and b| / |a or b|;
        ``count_ratio``, the smaller number of voxels over the larger: it describes sizes, not agreement;
        ``distance`` (um), half the sum of the mean distance from a to b and of that from b to a;
        ``hd95`` (um), the larger of the 95 % quantiles of both; for each tau ``precision_<tau>``, the share of a
        within tau of b, ``recall_<tau>``, the share of b within tau of a, and ``f1_<tau>``, their harmonic mean.

        Where one mask is empty, the overlap, the shares of the other and F1 are 0, its own share and all distances
        NaN: nothing is at no distance from something. Where both are, all are NaN.

    Raises
    ------
    InputError
        See :func:`nearest_distances`; a tau that is negative or no number.

    Notes
    -----
    All but precision and recall, which change places, are the same for (b, a). Distances are between voxels, not
    between surfaces: on lines they are the same, and inside a thick mask what overlaps counts as 0.

    Examples
    --------
    >>> plane = np.zeros((5, 4, 4), bool)
    >>> plane[1] = True
    >>> found = compare_masks(plane, np.roll(plane, 1, axis=0), (1.5, 0.04, 0.12))
    >>> found["distance"], found["hd95"], found["dice"], found["f1_2"]
    (1.5, 1.5, 0.0, 1.0)
    """
    limits = _checked_tau(tau)
    a, b, spacing = _checked(a, b, sampling)
    first, second = _listed(a, b, spacing)
    return _values(nearest(first, second), nearest(second, first), shared(first, second), limits)


def compare_voxels(
    a: Voxels,
    b: Voxels,
    tau: Sequence[float] = TAU,
    *,
    copies: int = 8,
    sample: int = 100_000,
    seed: int = 0,
    threads: int = 1,
) -> Comparison:
    """Agreement of two volumes that are known as lists of voxels, beside what chance would reach.

    Parameters
    ----------
    a, b : Voxels
        What was found, and the truth (or what another method found), on one grid.
    tau : sequence of float, um
        Distances within which voxels are taken to be at the same place.
    copies : int
        Random copies of a for the chance level: shifted along every dimension and wrapped round, as those of
        :func:`chance_level`; 0 for none.
    sample : int
        Distances of copies are taken of so many voxels at most, drawn anew for each copy (our choice: the mean is then
        known to some per mille). Counts are of all voxels.
    seed : int
    threads : int
        The result does not depend on it.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Voxels of unequal grids; a negative number of copies, no sample; a tau that is negative or no number.

    Examples
    --------
    >>> grid = np.arange(40) * 0.1, np.arange(40) * 0.1
    >>> cloud = voxels(np.random.default_rng(0).random((40, 40)) < 0.05, grid)
    >>> found = compare_voxels(cloud, cloud)
    >>> found.values["distance"], found.values["dice"], found.chance["dice"] < 0.15, int(found.to_b[0]) == found.both
    (0.0, 1.0, True, True)
    """
    limits = _checked_tau(tau)
    if a.shape != b.shape or not all(np.array_equal(p, q) for p, q in zip(a.positions, b.positions, strict=True)):
        raise InputError("voxels to compare", f"lie on grids of {a.shape} and {b.shape}", "give voxels of one grid")
    if copies < 0 or sample < 1:
        raise InputError("chance level", f"of {copies} copies and {sample} voxels", "give 0 or more, and 1 or more")
    to_b = nearest(a, b, threads=threads)
    to_a = nearest(b, a, threads=threads)
    both = shared(a, b)
    values, bins = _values(to_b, to_a, both, limits), (_histogram(to_b), _histogram(to_a))
    del to_b, to_a
    shifts, draws = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    rows: list[dict[str, float]] = []
    chance = [np.zeros(0, np.int64), np.zeros(0, np.int64)]
    for _ in range(copies):
        copy = moved(a, [int(shifts.integers(n)) for n in a.shape])
        there = nearest(_some(copy, sample, draws), b, threads=threads)
        back = nearest(_some(b, sample, draws), copy, threads=threads)
        rows.append(_values(there, back, shared(copy, b), limits, sizes=(len(a.flat), len(b.flat))))
        chance = [_sum(known, _histogram(new)) for known, new in zip(chance, (there, back), strict=True)]
    columns = {name: np.array([row[name] for row in rows] or [np.nan]) for name in values}
    return Comparison(
        values,
        {name: float(column.mean()) for name, column in columns.items()},
        {name: float(column.std()) for name, column in columns.items()},
        (len(a.flat), len(b.flat)),
        both,
        *bins,
        *chance,
    )


def dice_within(found: np.ndarray, truth: np.ndarray, sampling: Sequence[float], tau: float) -> dict[str, float]:
    """Dice of two masks of lines that are taken as equal within a distance.

    Parameters
    ----------
    found, truth : array (y, x) or (z, y, x), bool
        A mask of images of lines, and the voxels on the lines.
    sampling : sequence of float, um
        Distance of neighbouring voxels along each dimension.
    tau : float, um

    Returns
    -------
    dict of str to float
        ``precision``, the share of found within tau of truth; ``recall``, the share of truth within tau of found;
        ``dice``, their harmonic mean. Empty masks as in :func:`compare_masks`.

    Raises
    ------
    InputError
        See :func:`nearest_distances`; a tau that is negative or no number.

    Notes
    -----
    With a tau below the distance of voxels precision and recall are plain ones, and ``dice`` is plain Dice. A line of
    one voxel never overlaps half of its image, which is some um wide, so plain Dice of a perfect image would be small.

    Examples
    --------
    >>> line, image = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    >>> line[4], image[3:6] = True, True
    >>> [round(dice_within(image, line, (0.5, 0.5), tau)["dice"], 2) for tau in (0, 0.5)]
    [0.5, 1.0]
    """
    (limit,) = _checked_tau((tau,))
    shares = _within(nearest_distances(found, truth, sampling), nearest_distances(truth, found, sampling), limit)
    return {"precision": shares["precision"], "recall": shares["recall"], "dice": shares["f1"]}


def chance_level(
    a: np.ndarray,
    b: np.ndarray,
    sampling: Sequence[float],
    tau: Sequence[float] = TAU,
    *,
    copy: Literal["moved", "scattered"] = "moved",
    within: np.ndarray | None = None,
    copies: int = 8,
    seed: int = 0,
) -> dict[str, float]:
    """What :func:`compare_masks` says of a mask that has nothing to do with the other one.

    Parameters
    ----------
    a, b, sampling, tau
        As of :func:`compare_masks`; a is replaced, b stays.
    copy : "moved" or "scattered"
        a shifted at random along every dimension and wrapped round, so that its lines stay lines; or as many voxels at
        random places.
    within : array of the shape of a, bool, optional
        Where voxels can be at all, such as the lit sample; everywhere by default. A moved copy loses what comes to lie
        outside, a scattered one is drawn inside.
    copies : int
        Random copies that are averaged.
    seed : int

    Returns
    -------
    dict of str to float
        Means over the copies, under the names of :func:`compare_masks`. NaN of single copies, which were moved out of
        ``within`` altogether, is left out; NaN where all are.

    Raises
    ------
    InputError
        As :func:`compare_masks`; a ``within`` of another shape or with fewer voxels than a; no copies.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud = rng.random((40, 40)) < 0.1
    >>> found = chance_level(cloud, cloud, (1.0, 1.0))
    >>> 0.05 < found["dice"] < 0.15, found["count_ratio"], 1.3 < found["distance"] < 1.9
    (True, 1.0, True)
    """
    a, b, _ = _checked(a, b, sampling)
    room = np.ones(a.shape, bool) if within is None else np.asarray(within)
    if room.dtype != bool or room.shape != a.shape:
        raise InputError("chance level: within", f"is {room.dtype} of shape {room.shape}", f"give bool of {a.shape}")
    wanted = int(a.sum())
    if int(room.sum()) < wanted:
        raise InputError("chance level: within", f"has {int(room.sum())} voxels for {wanted}", "give a larger region")
    if copies < 1:
        raise InputError("chance level: copies", f"is {copies}", "give one or more")
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    for _ in range(copies):
        if copy == "moved":
            made = np.roll(a, tuple(int(rng.integers(n)) for n in a.shape), tuple(range(a.ndim))) & room
        else:
            made = np.zeros(a.shape, bool)
            made.flat[rng.choice(np.flatnonzero(room), wanted, replace=False)] = True
        rows.append(compare_masks(made, b, sampling, tau))
    known = {name: [row[name] for row in rows if not np.isnan(row[name])] for name in rows[0]}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in known.items()}


def _listed(a: np.ndarray, b: np.ndarray, spacing: np.ndarray) -> tuple[Voxels, Voxels]:
    """Voxels of two checked masks."""
    positions = [np.arange(n) * step for n, step in zip(a.shape, spacing, strict=True)]
    return voxels(a, positions), voxels(b, positions)


def _some(mask: Voxels, most: int, draws: np.random.Generator) -> Voxels:
    """At most so many of the voxels."""
    if len(mask.flat) <= most:
        return mask
    return mask._replace(flat=mask.flat[np.sort(draws.choice(len(mask.flat), most, replace=False, shuffle=False))])


def _histogram(distance: np.ndarray) -> np.ndarray:
    """Number of distances in each bin; rounding of positions does not decide. Unknown distances are in none."""
    if not distance.size or np.isnan(distance[0]):
        return np.zeros(0, np.int64)
    return np.bincount((distance * (1 + 1e-9) / BIN).astype(np.int64))


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two histograms, of which one may be longer."""
    if len(a) < len(b):
        a, b = b, a
    return a + np.pad(b, (0, len(a) - len(b)))


def _values(
    to_b: np.ndarray, to_a: np.ndarray, both: int, limits: Sequence[float], sizes: tuple[int, int] | None = None
) -> dict[str, float]:
    """What :func:`compare_masks` returns, of distances from a to b and back; of samples of them where sizes differ."""
    sizes = sizes or (to_b.size, to_a.size)
    found = {
        "dice": _ratio(2 * both, sum(sizes)),
        "iou": _ratio(both, sum(sizes) - both),
        "count_ratio": _ratio(min(sizes), max(sizes)),
        "distance": float("nan"),
        "hd95": float("nan"),
    }
    if all(sizes):
        found["distance"] = float((to_b.mean() + to_a.mean()) / 2)
        found["hd95"] = float(max(np.quantile(d, 0.95) for d in (to_b, to_a)))
    for limit in limits:
        found |= {f"{name}_{limit:g}": value for name, value in _within(to_b, to_a, limit).items()}
    return found


def _checked(a: Any, b: Any, sampling: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, spacing = np.asarray(a), np.asarray(b), np.asarray(sampling, np.float64)
    if a.dtype != bool or b.dtype != bool:
        raise InputError("masks to compare", f"are {a.dtype} and {b.dtype}", "give boolean arrays, such as map > limit")
    if a.shape != b.shape:
        raise InputError("masks to compare", f"have the shapes {a.shape} and {b.shape}", "give masks of one grid")
    if spacing.shape != (a.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(
            f"sampling {tuple(sampling)} um",
            f"is not one positive distance for each of {a.ndim} dimensions",
            "give the distance of neighbouring voxels along each",
        )
    return a, b, spacing


def _checked_tau(tau: Sequence[float]) -> tuple[float, ...]:
    limits = tuple(float(t) for t in tau)
    if not all(t >= 0 for t in limits):
        raise InputError(f"tau {limits} um", "has what is no distance", "give numbers from 0 on")
    return limits


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _within(to_truth: np.ndarray, to_found: np.ndarray, tau: float) -> dict[str, float]:
    """Shares of both sets that lie within tau of the other; rounding of positions does not decide."""
    limit = tau * (1 + 1e-9)
    precision = _ratio(int(np.count_nonzero(to_truth <= limit)), to_truth.size)
    recall = _ratio(int(np.count_nonzero(to_found <= limit)), to_found.size)
    some = precision > 0 and recall > 0
    mean = 2 * precision * recall / (precision + recall) if some else 0.0
    empty = np.isnan(precision) and np.isnan(recall)
    return {"precision": precision, "recall": recall, "f1": float("nan") if empty else mean}
