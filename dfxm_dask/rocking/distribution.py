"""Distribution of the orientation over the sample."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.rocking.moments import FLAGS, TOTAL, without_single
from dfxm_dask.schema import AXES, COM, SCAN, Variable

DISTRIBUTION = Variable(
    "orientation_distribution", (SCAN,), "float64", "1", "fraction of the sample with a centre of mass at the position"
)
DISTRIBUTION_ERROR = Variable(
    "orientation_distribution_error",
    (SCAN,),
    "float64",
    "1",
    "standard error of the fraction of the sample, from the scatter of layers",
)
VOXELS = Variable(
    "orientation_voxels", (SCAN,), "int64", "1", "number of voxels with a centre of mass at the scan position"
)
OUTSIDE = Variable("orientation_outside", (), "float64", "1", "fraction of the sample beyond the range of the scan")


def _join(first: Arrays, second: Arrays) -> Arrays:
    """Combine two summaries: layers follow each other."""
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _finish(summary: Arrays) -> Arrays:
    """Fractions of the sum over all layers, and their standard error by leaving out each layer in turn."""
    weight, outside = summary["weight"], summary["outside"]
    each = weight.sum(axis=tuple(range(1, weight.ndim))) + outside
    total = float(each.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight.sum(axis=0) / total
        used = each > 0
        count = int(used.sum())
        rest = (total - each[used]).reshape(-1, *(1,) * (weight.ndim - 1))
        without = (weight.sum(axis=0) - weight[used]) / rest
        square = ((without - without.mean(axis=0)) ** 2).sum(axis=0) * (count - 1) / count if count > 1 else np.nan
    return {
        "orientation_distribution": share if total > 0 else np.full(share.shape, np.nan),
        "orientation_distribution_error": np.broadcast_to(np.sqrt(square), share.shape).copy(),
        "orientation_voxels": summary["voxels"].sum(axis=0),
        "orientation_outside": np.array(outside.sum() / total if total > 0 else np.nan),
    }


@reduction(
    reads=(COM, AXES),
    may_read=(TOTAL, FLAGS),
    writes=(DISTRIBUTION, DISTRIBUTION_ERROR, VOXELS, OUTSIDE),
    over=("y", "x"),
    combine=_join,
    finish=_finish,
    positions="common",
)
def orientation_distribution(
    com: dict[str, np.ndarray],
    scan: dict[str, np.ndarray],
    total: np.ndarray | None = None,
    flags: np.ndarray | None = None,
    *,
    weight: Annotated[
        Literal["volume", "intensity"], Field(description="whether voxels count equally, or by their diffracted counts")
    ] = "volume",
) -> dict[str, np.ndarray]:
    """Orientation distribution of the sample in one reflection: fraction of the sample at each scan position.

    The centre of mass of every voxel is counted at the nearest position of each scan axis. A scan of phi and chi gives
    a pole figure of the reflection around its mean direction, a scan of phi alone its distribution along phi.

    Parameters
    ----------
    scan : dict of arrays
        Mean positions over layers.
    total : array, optional
        Needed for ``weight="intensity"``.
    flags : array, optional
        Pixels with the flag ``single`` (lit in a single frame) are left out.
    weight : "volume" or "intensity"
        Voxels whose diffracted beam was absorbed, or which extinction weakens, count less by intensity.

    Returns
    -------
    dict
        Summaries of a layer. In the result, ``orientation_distribution`` and ``orientation_outside``, the part more
        than half a step beyond the scan, add up to 1; voxels without a centre of mass are left out.
        ``orientation_distribution_error`` is the jackknife standard error over layers: how well the measured layers
        represent others like them. It is not a counting error, as neighbouring pixels are not independent; neither are
        neighbouring layers, so that it is too small for a coarse structure. NaN for fewer than two layers.

    Raises
    ------
    InputError
        ``weight="intensity"`` without ``total``.

    Notes
    -----
    One reflection shows the direction of the diffraction vector, never the rotation about it. Along an axis that was
    not scanned the distribution is integrated over the acceptance of the microscope; if the scattering angle was not
    scanned, strain shifts the centre of mass along phi and appears as orientation. Each voxel counts once, at its mean
    orientation: the width of its own rocking curve is not part of the distribution, unlike in ``integrated_curve``.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> maps = dfxm_dask.moments(scan, background=100, noise_cut=5)
    >>> found = dfxm_dask.orientation_distribution(scan.merge(maps))
    >>> round(float(found["orientation_distribution"].sum() + found["orientation_outside"]), 6)
    1.0

    The kernel alone, on one layer:

    >>> tilt = np.array([[0.1, 0.9, np.nan, 3.0]])
    >>> summary = orientation_distribution.kernel({"phi": tilt}, {"phi": np.arange(3.0)})
    >>> summary["voxels"].tolist(), summary["outside"].tolist()
    ([[1, 1, 0]], [1.0])
    """
    if weight == "intensity" and total is None:
        raise InputError(
            "orientation_distribution: weight 'intensity'",
            "needs the variable 'total', which is missing",
            "run moments first, or leave out weight",
        )
    angles = without_single(com, flags)
    known = np.logical_and.reduce([np.isfinite(a) for a in angles.values()])
    shape = tuple(len(scan[name]) for name in angles)
    cell, inside = np.zeros(int(known.sum()), np.int64), np.ones(int(known.sum()), bool)
    for name, angle in angles.items():
        place, within = _nearest(np.asarray(angle[known], np.float64), scan[name])
        cell, inside = cell * len(scan[name]) + place, inside & within
    size = np.ones(cell.shape) if weight == "volume" or total is None else np.nan_to_num(total[known].astype(float))
    count = int(np.prod(shape))
    return {
        "weight": np.bincount(cell[inside], size[inside], count).reshape(1, *shape),
        "voxels": np.bincount(cell[inside], minlength=count).reshape(1, *shape),
        "outside": np.array([size[~inside].sum()]),
    }


def _nearest(values: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the nearest position of each value, and whether it lies within half a step of the scan.

    A single position has no step: every value is at it.
    """
    if len(positions) == 1:
        return np.zeros(values.shape, np.int64), np.ones(values.shape, bool)
    order = np.argsort(positions)
    placed = np.asarray(positions, np.float64)[order]
    middles = (placed[1:] + placed[:-1]) / 2
    low, high = 1.5 * placed[0] - 0.5 * placed[1], 1.5 * placed[-1] - 0.5 * placed[-2]
    return order[np.searchsorted(middles, values)], (values >= low) & (values <= high)
