"""Number and positions of planes: a mixture that grows by one plane at a time."""

from __future__ import annotations

import numpy as np

from dfxm_dask.boundaries.junction import CLEAR, find_junctions
from dfxm_dask.boundaries.planes.local_planes import REACH, different, local_planes
from dfxm_dask.boundaries.planes.mixture import CELL, Mixture, fitted, layer_spread, probabilities, started
from dfxm_dask.boundaries.planes.plane import Planes, checked_points, thinned
from dfxm_dask.boundaries.planes.plane_support import worth
from dfxm_dask.boundaries.planes.sums import THINNEST
from dfxm_dask.errors import InputError

ROUNDS = 2  # the second finds walls whose points belonged to a wrong plane in the first
TRIES = 6  # number of consecutive hypotheses that may fail before the search ends (our choice)
BEYOND = 0.02  # largest fraction of a plane's points beyond the line in which it ends
CONTINUED = 25.0  # degree between a plane beyond its end and another one: at larger angles distance separates them
WIDER = 1.6  # times the usual spread of the points: images of lines are equally wide in every wall, a slab is wider
AMBIGUOUS = 2.0  # um from a line, where points of two planes lie within each other's spread
SMALL_STACK, LEAST_PART, FLATTEST = 8, 0.08, 0.95  # see supported (as in the specification)
ROUGH = 1.0  # um: initial standard deviation of a plane


def _with(planes: Planes, normal: np.ndarray, origin: np.ndarray) -> Planes:
    """Planes with one more plane of rough spread."""
    one = (normal[None], origin[None], np.array([ROUGH]), np.ones(1))
    return Planes(*(np.concatenate(pair) for pair in zip(planes, one, strict=True)))


def _extended(model: Mixture, normal: np.ndarray, origin: np.ndarray) -> Mixture:
    """A model with one additional plane, which starts with a third of every cell."""
    shares = np.concatenate([model.shares * (2 / 3), np.full((len(model.cells), 1), 1 / 3)], axis=1)
    return model._replace(planes=_with(model.planes, normal, origin), shares=shares)


def without(model: Mixture, plane: int) -> Mixture:
    """A model without one plane, whose shares become background; without ends, which that plane may have caused."""
    shares = np.delete(model.shares, plane + 1, axis=1)
    shares[:, 0] += model.shares[:, plane + 1]
    planes = Planes(*(np.delete(column, plane, axis=0) for column in model.planes))
    return without_ends(model)._replace(planes=planes, shares=shares)


def without_ends(model: Mixture) -> Mixture:
    """A model whose planes extend wherever their cells have a share."""
    return model._replace(ends=np.zeros((0, 5)))


def _no_planes() -> Planes:
    """An empty set of planes."""
    return Planes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


def find_planes(
    points: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    most_planes: int = 20,
    sample: int = 30_000,
    cell: float = CELL,
    reach: float = REACH,
    thickest: float = 1.0,
    layer: float = 0.0,
    seed: int = 0,
) -> Mixture:
    """Planes supported by a cloud of points.

    Parameters
    ----------
    points : array (point, xyz), um
        Voxels on dislocations, along the axes x, y and z of the store.
        Probability of each; 1 by default.
    most_planes : int
        Largest number of planes.
    sample : int
        Number of points for the search (:func:`~dfxm_dask.boundaries.planes.plane.thinned`); the last fit uses all.
    cell : float, um
        Edge of the cells in which shares are counted.
    reach : float, um
        Radius of local hypotheses.
    thickest : float, um
        Largest standard deviation of points from their plane.
    layer : float, um
        Distance of layers, over which a point is spread; planes whose points lie in a few layers are removed.
    seed : int

    Returns
    -------
    Mixture
        ``planes`` in descending order of mass; empty without points on planes.

    Raises
    ------
    InputError
        See :func:`~dfxm_dask.boundaries.planes.plane.checked_points`; parameters that are not positive.

    Notes
    -----
    The best of the local planes through unexplained points is added, all planes are fitted together, and the new one is
    kept if it justifies its parameters. Criterion: the gain of the likelihood, counted in independent observations
    (images of lines are about 1 um wide), must exceed 1/2 ln n for each of its parameters and each cell that it crosses
    (BIC), and 3 ln(size/sigma) for the planes from which it was selected; and a fifth of its points must lie outside
    its two heaviest lines. Then planes are ended where they meet. Planes that do not justify their parameters beside
    all others are removed, the worst first, as are those of the largest allowed thickness, or 1.6 times as thick as
    most; if any was removed, the search is repeated.
    """
    points, weights = checked_points("find_planes", points, weights)
    for name, value in (("most_planes", most_planes), ("sample", sample), ("reach", reach), ("thickest", thickest)):
        if not value > 0:
            raise InputError(f"find_planes: {name}", f"is {value!r}", "give a number above zero")
    few, few_weights = thinned(points, weights, most=sample, seed=seed)
    model = started(few, _no_planes(), cell, layer=layer)
    for turn in range(ROUNDS):
        model = _grown(few, few_weights, without_ends(model), most_planes, reach, thickest, seed + 1000 * turn)
        count = len(model.planes.sigma)
        model = supported(few, few_weights, _pruned(few, few_weights, model, thickest))
        if len(model.planes.sigma) == count:
            break
    model, _ = fitted(few, few_weights, with_ends(few, few_weights, _sorted(model)), steps=60, thickest=thickest)
    if len(few) < len(points) and len(model.planes.sigma):
        model, _ = fitted(points, weights, model, steps=10, thickest=thickest)
    return supported(points, weights, model)


def supported(points: np.ndarray, weights: np.ndarray, model: Mixture) -> Mixture:
    """The model without planes that lie in a few layers, or parallel to them.

    Notes
    -----
    In a stack of up to eight layers, at least three, and at least half, must contain 8 % each of the points of a plane,
    and its normal must not be within 18 degree of z; in higher stacks four layers, with a fraction that decreases as
    their number rises. Without layers (``layer`` is 0) all planes remain.
    """
    if not model.layer > 0 or not len(model.planes.sigma):
        return model
    levels, number = np.unique(points[:, 2], return_inverse=True)
    few = min(len(levels), SMALL_STACK)
    shares = probabilities(points, model) * weights[:, None]
    for plane in reversed(range(len(model.planes.sigma))):
        mass = np.bincount(number.reshape(-1), shares[:, plane], len(levels))
        held = np.count_nonzero(mass >= LEAST_PART * few / len(levels) * mass.sum())
        steep = abs(model.planes.normal[plane, 2])
        if held < max(3, -(-few // 2)) or steep > FLATTEST or not mass.sum() > 0:
            model = without(model, plane)
    return model


def with_ends(points: np.ndarray, weights: np.ndarray, model: Mixture) -> Mixture:
    """A model whose planes end at lines where another plane continues in nearly the same direction.

    Parameters
    ----------
    points, weights : array (point, xyz), um, and (point,)
    model : Mixture

    Notes
    -----
    Shares of cells do not determine on which side of a line within a cell a half plane lies. Without its end it
    includes points of another one that continues within 25 degree of its direction: an error of 0.05 degree at 10
    degree. A plane ends at this line if less than 2 % of its points are more than 6 um beyond it, and fewer are 2 to
    6 um beyond it than half of those as far before it.
    """
    shares = probabilities(points, without_ends(model)) * weights[:, None]
    ends = []
    for junction in find_junctions(points, shares, model.planes, kinds=False):
        for plane, along in zip(junction.plane, junction.along, strict=True):
            if (-junction.along @ along).max() < np.cos(np.deg2rad(CONTINUED)):
                continue
            inward, mass = (points - junction.point) @ along, shares[:, plane]
            beyond = mass[inward < -CLEAR[0]].sum() / mass.sum()
            before = mass[(inward > AMBIGUOUS) & (inward < CLEAR[0])].sum()
            behind = mass[(inward < -AMBIGUOUS) & (inward > -CLEAR[0])].sum()
            if beyond < BEYOND and behind < before / 2:
                ends.append([plane, *along, along @ junction.point])
    return model._replace(ends=np.array(ends, np.float64).reshape(-1, 5))


def _grown(
    points: np.ndarray, weights: np.ndarray, model: Mixture, most: int, reach: float, thickest: float, seed: int
) -> Mixture:
    """The model with planes added, one at a time, while each is justified."""
    model, level = fitted(points, weights, model, steps=60, thickest=thickest)
    more = True
    while more and len(model.planes.sigma) < most:
        free = weights * np.maximum(1 - probabilities(points, model).sum(axis=1), 0.0)
        more, seed = False, seed + 1
        for normal, origin in different(local_planes(points, free, reach=reach, seed=seed), TRIES):
            start = _extended(model, normal, origin)
            longer, gain = fitted(points, weights, start, steps=25, close=1e-3, thickest=thickest)
            if worth(points, weights, longer, len(longer.planes.sigma) - 1, gain - level)[0] > 0:
                model, level, more = longer, gain, True
                break
    return model


def _pruned(points: np.ndarray, weights: np.ndarray, model: Mixture, thickest: float) -> Mixture:
    """The model without planes that the points do not support beside the others; the worst is removed first."""
    model, level = _settled(points, weights, model, 60, thickest)
    while len(model.planes.sigma):
        sigma = np.sqrt(
            np.maximum(model.planes.sigma**2 - layer_spread(model.planes.normal, model.layer) ** 2, THINNEST**2)
        )
        order = np.argsort(sigma, kind="stable")
        half = np.searchsorted(np.cumsum(model.planes.mass[order]), 0.5 * model.planes.mass.sum())
        limit = min(WIDER * sigma[order][half], 0.95 * thickest)
        values, shorter = [], []
        for plane in range(len(model.planes.sigma)):
            smaller, below = _settled(points, weights, without(model, plane), 25, thickest)
            value = worth(points, weights, model, plane, level - below)[0]
            values.append(min(value, -1.0) if sigma[plane] > limit else value)
            shorter.append(smaller)
        worst = int(np.argmin(values))
        if values[worst] > 0:
            break
        model, level = fitted(points, weights, shorter[worst], steps=60, thickest=thickest)
    return model


def _settled(
    points: np.ndarray, weights: np.ndarray, model: Mixture, steps: int, thickest: float
) -> tuple[Mixture, float]:
    """Fit a model, determine the ends of its planes, and fit again."""
    model, _ = fitted(points, weights, without_ends(model), steps=steps, close=1e-3, thickest=thickest)
    return fitted(points, weights, with_ends(points, weights, model), steps=steps, close=1e-3, thickest=thickest)


def _sorted(model: Mixture) -> Mixture:
    """The model with planes in descending order of mass."""
    order = np.argsort(-model.planes.mass, kind="stable")
    planes = Planes(*(column[order] for column in model.planes))
    return model._replace(planes=planes, shares=model.shares[:, np.concatenate([[0], order + 1])])
