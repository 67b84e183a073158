"""Agreement of two masks of one region: overlap, distances in um, and the agreement expected by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.volume.sparse import Voxels, moved, nearest, shared, voxels

TAU = (0.5, 1.0, 2.0)
"""Distances (um) within which voxels count as equal: sizes of a dislocation's image."""

BIN = 0.05
"""Width of a bin of a histogram of distances, um: about the finest voxel of such scans (our choice)."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Agreement of two volumes beside the agreement expected by chance.

    Parameters
    ----------
    values : dict of str to float
        See :func:`compare_masks`.
    chance, spread : dict of str to float
        Mean and standard deviation of the same values over randomly shifted copies of a; NaN without copies.
    voxels : (int, int)
        Number of true voxels of a and of b.
    both : int
        Number of common voxels.
    to_b, to_a : array (bin,), int64
        Histogram of the distance from the voxels of a to b, and from those of b to a, in bins of 0.05 um from 0.
    chance_to_b, chance_to_a : array (bin,), int64
        The same for the shifted copies, over a sample of their voxels.
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
        In the order of ``np.nonzero(a)``, 0 for voxels in both; NaN throughout if b is empty.

    Raises
    ------
    InputError
        Masks that are not boolean or of unequal shape; distances that are not positive, or not one per dimension.

    Notes
    -----
    Exact; see :func:`dfxm_dask.volume.sparse.nearest`. Time is proportional to the number of true voxels, not to the
    volume, in which dislocations fill some 0.3 %.

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
        The result, and the truth (or the result of another method).
    sampling : sequence of float, um
        Distance of neighbouring voxels along each dimension.
    tau : sequence of float, um
        Distances within which voxels count as equal.

    Returns
    -------
    dict of str to float
        The overlaps ``dice`` and ``iou``; ``count_ratio``, the smaller number of voxels over the larger, which
        describes sizes, not agreement; ``distance`` (um), half the sum of the mean distance from a to b and of that
        from b to a; ``hd95`` (um), the larger of the 95 % quantiles of both; for each tau ``precision_<tau>``, the
        share of a within tau of b, ``recall_<tau>``, the share of b within tau of a, and ``f1_<tau>``, their harmonic
        mean.

        If one mask is empty, the overlap, the shares of the other and F1 are 0; its own share and all distances are
        NaN. If both are empty, all values are NaN.

    Raises
    ------
    InputError
        See :func:`nearest_distances`; a tau that is negative or NaN.

    Notes
    -----
    Formulas::

        dice = 2 |a ∩ b| / (|a| + |b|)
        iou = |a ∩ b| / |a ∪ b|

    All values except precision and recall, which are exchanged, are symmetric in a and b. Distances are between voxels,
    not between surfaces: on lines they are the same, and inside a thick mask the overlap counts as 0.

    Examples
    --------
    >>> plane = np.zeros((5, 4, 4), bool)
    >>> plane[1] = True
    >>> scores = compare_masks(plane, np.roll(plane, 1, axis=0), (1.5, 0.04, 0.12))
    >>> scores["distance"], scores["hd95"], scores["dice"], scores["f1_2"]
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
    """Agreement of two volumes given as lists of voxels, beside the agreement expected by chance.

    Parameters
    ----------
    a, b : Voxels
        The result, and the truth (or the result of another method), on one grid.
    tau : sequence of float, um
        Distances within which voxels count as equal.
    copies : int
        Number of random copies of a for the chance level: shifted along every dimension with periodic boundaries, as in
        :func:`chance_level`; 0 for none.
    sample : int
        Distances of copies are computed for at most this number of voxels, drawn again for each copy (our choice: the
        mean is then known to some per mille). Counts include all voxels.
    seed : int
    threads : int
        Number of threads; the result does not depend on it.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Voxels of unequal grids; a negative number of copies, no sample; a tau that is negative or NaN.

    Examples
    --------
    >>> grid = np.arange(40) * 0.1, np.arange(40) * 0.1
    >>> cloud = voxels(np.random.default_rng(0).random((40, 40)) < 0.05, grid)
    >>> same = compare_voxels(cloud, cloud)
    >>> same.values["distance"], same.values["dice"], same.chance["dice"] < 0.15, int(same.to_b[0]) == same.both
    (0.0, 1.0, True, True)
    """
    limits = _checked_tau(tau)
    if a.shape != b.shape or not all(np.array_equal(p, q) for p, q in zip(a.positions, b.positions, strict=True)):
        raise InputError("voxels to compare", f"lie on grids of {a.shape} and {b.shape}", "give voxels of one grid")
    if copies < 0 or sample < 1:
        raise InputError("chance level", f"of {copies} copies and {sample} voxels", "give at least 0 and 1")
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
        forth = nearest(_some(copy, sample, draws), b, threads=threads)
        back = nearest(_some(b, sample, draws), copy, threads=threads)
        rows.append(_values(forth, back, shared(copy, b), limits, sizes=(len(a.flat), len(b.flat))))
        chance = [_sum(sums, _histogram(new)) for sums, new in zip(chance, (forth, back), strict=True)]
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
    """Dice coefficient of two masks of lines that count as equal within a distance.

    Parameters
    ----------
    found, truth : array (y, x) or (z, y, x), bool
        A mask of line images, and the voxels on the lines.
    sampling : sequence of float, um
        Distance of neighbouring voxels along each dimension.
    tau : float, um

    Returns
    -------
    dict of str to float
        ``precision``, the share of found within tau of truth; ``recall``, the share of truth within tau of found;
        ``dice``, their harmonic mean. For empty masks see :func:`compare_masks`.

    Raises
    ------
    InputError
        See :func:`nearest_distances`; a tau that is negative or NaN.

    Notes
    -----
    With a tau below the distance of voxels, precision, recall and ``dice`` are the ordinary ones. A line of one voxel
    never overlaps half of its image, which is some um wide, so that the ordinary Dice of a perfect image is small.

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
    """Values of :func:`compare_masks` for a mask that is unrelated to the other one.

    Parameters
    ----------
    a, b, sampling, tau
        See :func:`compare_masks`; a is replaced, b is not.
    copy : "moved" or "scattered"
        a is shifted at random along every dimension with periodic boundaries, which keeps its lines; or replaced by the
        same number of voxels at random positions.
    within : array of the shape of a, bool, optional
        Region of possible voxels, such as the lit sample; by default everywhere. A moved copy loses voxels outside, a
        scattered copy is drawn inside.
    copies : int
        Number of random copies to average.
    seed : int

    Returns
    -------
    dict of str to float
        Means over the copies, named as in :func:`compare_masks`. Copies with NaN, which were moved out of ``within``
        completely, are excluded; NaN if all are.

    Raises
    ------
    InputError
        See :func:`compare_masks`; a ``within`` of another shape or with fewer voxels than a; no copies.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> cloud = rng.random((40, 40)) < 0.1
    >>> chance = chance_level(cloud, cloud, (1.0, 1.0))
    >>> 0.05 < chance["dice"] < 0.15, chance["count_ratio"], 1.3 < chance["distance"] < 1.9
    (True, 1.0, True)
    """
    a, b, _ = _checked(a, b, sampling)
    room = np.ones(a.shape, bool) if within is None else np.asarray(within)
    if room.dtype != bool or room.shape != a.shape:
        raise InputError("chance level: within", f"is {room.dtype} of shape {room.shape}", f"give bool of {a.shape}")
    count = int(a.sum())
    if int(room.sum()) < count:
        raise InputError("chance level: within", f"has {int(room.sum())} voxels for {count}", "give a larger region")
    if copies < 1:
        raise InputError("chance level: copies", f"is {copies}", "give one or more")
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float]] = []
    for _ in range(copies):
        if copy == "moved":
            random_copy = np.roll(a, tuple(int(rng.integers(n)) for n in a.shape), tuple(range(a.ndim))) & room
        else:
            random_copy = np.zeros(a.shape, bool)
            random_copy.flat[rng.choice(np.flatnonzero(room), count, replace=False)] = True
        rows.append(compare_masks(random_copy, b, sampling, tau))
    finite = {name: [row[name] for row in rows if not np.isnan(row[name])] for name in rows[0]}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in finite.items()}


def _listed(a: np.ndarray, b: np.ndarray, spacing: np.ndarray) -> tuple[Voxels, Voxels]:
    """Voxels of two checked masks."""
    positions = [np.arange(n) * step for n, step in zip(a.shape, spacing, strict=True)]
    return voxels(a, positions), voxels(b, positions)


def _some(mask: Voxels, most: int, draws: np.random.Generator) -> Voxels:
    """A random selection of at most `most` voxels."""
    if len(mask.flat) <= most:
        return mask
    return mask._replace(flat=mask.flat[np.sort(draws.choice(len(mask.flat), most, replace=False, shuffle=False))])


def _histogram(distance: np.ndarray) -> np.ndarray:
    """Number of distances in each bin, robust against rounding of positions. NaN is not counted."""
    if not distance.size or np.isnan(distance[0]):
        return np.zeros(0, np.int64)
    return np.bincount((distance * (1 + 1e-9) / BIN).astype(np.int64))


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two histograms of different length."""
    if len(a) < len(b):
        a, b = b, a
    return a + np.pad(b, (0, len(a) - len(b)))


def _values(
    to_b: np.ndarray, to_a: np.ndarray, both: int, limits: Sequence[float], sizes: tuple[int, int] | None = None
) -> dict[str, float]:
    """Result of :func:`compare_masks` from distances from a to b and back, or from samples if sizes differ."""
    sizes = sizes or (to_b.size, to_a.size)
    scores = {
        "dice": _ratio(2 * both, sum(sizes)),
        "iou": _ratio(both, sum(sizes) - both),
        "count_ratio": _ratio(min(sizes), max(sizes)),
        "distance": float("nan"),
        "hd95": float("nan"),
    }
    if all(sizes):
        scores["distance"] = float((to_b.mean() + to_a.mean()) / 2)
        scores["hd95"] = float(max(np.quantile(d, 0.95) for d in (to_b, to_a)))
    for limit in limits:
        scores |= {f"{name}_{limit:g}": value for name, value in _within(to_b, to_a, limit).items()}
    return scores


def _checked(a: Any, b: Any, sampling: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks and spacing as arrays, checked."""
    a, b, spacing = np.asarray(a), np.asarray(b), np.asarray(sampling, np.float64)
    if a.dtype != bool or b.dtype != bool:
        raise InputError("masks to compare", f"are {a.dtype} and {b.dtype}", "give boolean arrays, such as map > limit")
    if a.shape != b.shape:
        raise InputError("masks to compare", f"have the shapes {a.shape} and {b.shape}", "give masks of one grid")
    if spacing.shape != (a.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(
            f"sampling {tuple(sampling)} um",
            f"needs one positive distance for each of {a.ndim} dimensions",
            "give the distance of neighbouring voxels along each",
        )
    return a, b, spacing


def _checked_tau(tau: Sequence[float]) -> tuple[float, ...]:
    """Distances as floats, checked."""
    limits = tuple(float(t) for t in tau)
    if not all(t >= 0 for t in limits):
        raise InputError(f"tau {limits} um", "contains a value that is not a distance", "give numbers from 0 on")
    return limits


def _ratio(part: float, whole: float) -> float:
    """Ratio, or NaN for an empty whole."""
    return part / whole if whole else float("nan")


def _within(to_truth: np.ndarray, to_found: np.ndarray, tau: float) -> dict[str, float]:
    """Shares of both sets that lie within tau of the other, robust against rounding of positions."""
    limit = tau * (1 + 1e-9)
    precision = _ratio(int(np.count_nonzero(to_truth <= limit)), to_truth.size)
    recall = _ratio(int(np.count_nonzero(to_found <= limit)), to_found.size)
    some = precision > 0 and recall > 0
    mean = 2 * precision * recall / (precision + recall) if some else 0.0
    empty = np.isnan(precision) and np.isnan(recall)
    return {"precision": precision, "recall": recall, "f1": float("nan") if empty else mean}
