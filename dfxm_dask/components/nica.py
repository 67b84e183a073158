"""Non-negative independent components: statistically independent sources of intensity, and their curves."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.linalg import expm

from dfxm_dask.components.curves import Summary, mean_curve
from dfxm_dask.components.fits import Count, Offset, fit, summary_of_fit
from dfxm_dask.components.nmf import (
    MixtureKind,
    Rank,
    described_fit,
    factorise,
    fit_variables,
    looked_for,
    matched_sample,
    unit_rows,
)
from dfxm_dask.components.pca import ROUNDING, of_summary
from dfxm_dask.errors import InputError
from dfxm_dask.schema import PlainBackground, Variable

TURNS = 2000
LEAST_SLOPE = 1e-6  # of the negative part of sources with variance 1, per radian (our choice)
Whitening = Literal["covariance", "moment"]
WHITENINGS: tuple[Whitening, ...] = ("covariance", "moment")

NEGATIVE = Variable("nica_negative", (), "float64", "1", "share of squares below zero in sources and source curves")
WHITENING = Variable("nica_whitening", (), "int8", "1", "whitening method (0: covariance, 1: mean products)")


def whitening(
    moments: np.ndarray, mean: np.ndarray, basis: np.ndarray, by: Whitening
) -> tuple[np.ndarray, np.ndarray] | None:
    """Matrices that transform curves into uncorrelated coordinates, and back; the mean is not removed.

    Parameters
    ----------
    moments : array (frame, frame), float64
        Mean products of two frames.
    mean : array (frame,), float64
        Mean curve.
    basis : array (component, frame), float64
        Principal components about zero.
    by : "covariance" or "moment"
        Quantity that becomes the unit matrix: covariances of the coordinates, or their mean products.

    Returns
    -------
    forth, back : array (component, frame) and array (frame, component), float64
        Coordinates are ``curves @ forth.T``, and ``coordinates @ back.T`` is the part of the curves within the basis.
        Their means are not negative. None if the curves do not vary in as many dimensions.

    Examples
    --------
    >>> curves = np.array([[3.0, 1.0], [1.0, 2.0], [1.0, 1.0], [3.0, 4.0]])
    >>> moments, mean = curves.T @ curves / 4, curves.mean(axis=0)
    >>> forth, back = whitening(moments, mean, np.eye(2), "covariance")
    >>> coordinates = curves @ forth.T
    >>> np.cov(coordinates.T, bias=True).round(9).tolist(), bool((coordinates.mean(axis=0) > 0).all())
    ([[1.0, 0.0], [0.0, 1.0]], True)
    """
    inner, centre = basis @ moments @ basis.T, basis @ mean
    values, vectors = np.linalg.eigh(inner - np.outer(centre, centre) if by == "covariance" else inner)
    if by == "covariance" and not values[0] > ROUNDING * np.trace(inner):
        return None
    vectors = vectors * np.where(vectors.T @ centre < 0, -1.0, 1.0)
    return (vectors / np.sqrt(values)).T @ basis, basis.T @ (vectors * np.sqrt(values))


def nonnegative_rotation(coordinates: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """Rotation that makes uncorrelated coordinates as positive as possible.

    Parameters
    ----------
    coordinates : array (component, pixel), float64
        White (uncorrelated, of unit variance), with their mean.

    Returns
    -------
    rotation : array (component, component), float64
        W of the sources W z.
    turns : int
        At most 2000.
    converged : bool
        Whether the slope fell below 1e-6.

    Notes
    -----
    Steepest descent of J along rotations::

        J = ½ ⟨min(0, W z)²⟩
        E = ⟨f yᵀ − y fᵀ⟩,  y = W z,  f = min(0, y)
        W ← exp(−η E) W

    E is the slope, and η is chosen such that J decreases (Armijo). It begins at W = 1, without random numbers.

    References
    ----------
    M. D. Plumbley, IEEE Trans. Neural Networks 14 (2003) 534, algorithm of section V; E. Oja and M. D. Plumbley,
    Neural Computation 16 (2004) 1811 (on the role of the mean).

    Examples
    --------
    >>> sources = np.random.default_rng(0).exponential(size=(2, 5000))
    >>> turned = np.array([[0.8, -0.6], [0.6, 0.8]])
    >>> rotation, _, converged = nonnegative_rotation(turned @ sources)
    >>> np.abs(rotation @ turned).round(1).tolist(), converged
    ([[1.0, 0.0], [0.0, 1.0]], True)
    """
    count, pixels = coordinates.shape

    def below(rotation: np.ndarray) -> tuple[float, np.ndarray]:
        sources = rotation @ coordinates
        negative = np.minimum(sources, 0.0)
        product = negative @ sources.T / pixels
        return 0.5 * float((negative**2).sum()) / pixels, product - product.T

    rotation, step = np.eye(count), 1.0
    value, slope = below(rotation)
    for turn in range(TURNS):
        square = float((slope**2).sum()) / 2
        if np.sqrt(square) < LEAST_SLOPE:
            return rotation, turn, True
        while step > 1e-9:
            trial = expm(-step * slope) @ rotation
            lower, new_slope = below(trial)
            if lower <= value - 0.25 * step * square:
                break
            step /= 2
        else:
            return rotation, turn, False
        rotation, value, slope = trial, lower, new_slope
        step *= 1.6
    return rotation, TURNS, False


def _share_below(values: np.ndarray) -> float:
    """Mean over rows of the share of squares that negative values contribute."""
    squares = (values**2).sum(axis=1)
    return float(((np.minimum(values, 0) ** 2).sum(axis=1) / np.where(squares > 0, squares, 1)).mean())


def unmix(
    curves: np.ndarray, moments: np.ndarray, mean: np.ndarray, basis: np.ndarray, by: tuple[Whitening, ...] = WHITENINGS
) -> tuple[np.ndarray, np.ndarray, int, bool, float, str]:
    """Curves of non-negative independent sources, and their amounts, by the whitening that leaves the least negative.

    Parameters
    ----------
    curves : array (pixel, frame), float64
        A sample, from which the rotation is found.
    moments, mean, basis
        Those of all curves, as in :func:`whitening`.
    by : tuple of "covariance", "moment"
        Whitening methods to try.

    Returns
    -------
    curves : array (component, frame), float64
        Of length 1, in descending order of the squares of their amounts. Noise may make values negative.
    amounts : array (component, pixel), float64
        Amounts in the sample.
    turns, converged
        See :func:`nonnegative_rotation`.
    negative : float
        Share of squares of negative values, of amounts and of curves, summed.
    by : str
        The whitening chosen.

    Raises
    ------
    InputError
        Whitening by the covariance alone, and the curves do not vary in as many dimensions as the basis.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = np.array([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8]])
    >>> curves = rng.exponential((3.0, 1.0), (5000, 2)) @ true
    >>> result = unmix(curves, curves.T @ curves / 5000, curves.mean(axis=0), np.linalg.svd(true)[2][:2])
    >>> np.abs(result[0] - true).max().round(1).item(), result[-1]
    (0.0, 'covariance')
    """
    best = None
    for way in by:
        matrices = whitening(moments, mean, basis, way)
        if matrices is None:
            continue
        coordinates = matrices[0] @ curves.T
        rotation, turns, converged = nonnegative_rotation(coordinates)
        sources, mixing = rotation @ coordinates, rotation @ matrices[1].T
        negative = _share_below(sources) + _share_below(mixing)
        if best is None or negative < best[4]:
            length = np.linalg.norm(mixing, axis=1)
            amounts = sources * length[:, None]
            order = np.argsort(-(amounts**2).sum(axis=1), kind="stable")
            best = unit_rows(mixing)[order], amounts[order], turns, converged, negative, way
    if best is None:
        raise InputError(
            "nica: parameter whiten='covariance'",
            f"the curves do not vary in {len(basis)} dimensions",
            "request fewer components, or whiten by 'moment'",
        )
    return best


def _finish(summary: Summary) -> Summary:
    """Unmix the matched sample, and refine the curves if requested."""
    count, leading = looked_for(summary)
    refine, by = bool(summary["option_refine"]), tuple(np.array(WHITENINGS)[summary["option_by"]].tolist())
    if not count:
        report = described_fit("nica", summary, leading, np.nan, False, refine)
        return report | {"nica_negative": np.array(np.nan), "nica_whitening": np.array(-1, np.int8)}
    curves = matched_sample(summary)
    basis, _, turns, converged, negative, way = unmix(curves, of_summary(summary)[0], mean_curve(summary), leading, by)
    if refine:
        basis, rounds, settled = factorise(curves, np.maximum(basis, 0.0))
        turns, converged = turns + rounds, converged and settled
    return described_fit("nica", summary, basis, turns, converged, refine) | {
        "nica_negative": np.array(negative),
        "nica_whitening": np.array(WHITENINGS.index(way), np.int8),
    }


@fit("nica", _finish, (*fit_variables("nica"), NEGATIVE, WHITENING))
def nica(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    lit: np.ndarray | None = None,
    z: np.ndarray | None = None,
    y: np.ndarray | None = None,
    x: np.ndarray | None = None,
    *,
    components: Count = 3,
    rank: Rank = "given",
    refine: Annotated[
        Literal["nmf", "none"],
        Field(description="'nmf': non-negative factors that begin at the independent components; 'none': the latter"),
    ] = "nmf",
    whiten: Annotated[
        Literal["best", "covariance", "moment"],
        Field(description="whiten by 'covariance' for sources that overlap, by 'moment' for sources side by side"),
    ] = "best",
    scaling: MixtureKind = "plain",
    offset: Offset = None,
    background: PlainBackground = None,
) -> dict[str, np.ndarray]:
    """Rocking curves of statistically independent, non-negative sources, such as grains along the beam.

    Every rocking curve is a mixture of source curves in amounts that are not negative and independent of each other.
    The curves are whitened within their principal components and rotated such that the amounts become positive. With
    ``refine="nmf"`` the result is the start of a non-negative factorisation. ``project_nica`` then computes the amounts
    of every pixel.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        All frames must be on one scale.
    lit : array (y, x), bool, optional
        Pixels to include; all if it is not given.
    components : int
        At most the number of frames.
    rank : "given" or "noise"
        See :func:`~dfxm_dask.components.pca.noise_rank`.
    refine : "nmf" or "none"
        With "none", noise leaves some curves and amounts negative; their absolute values, used by darfix, no longer add
        up to the counts.
    whiten : "best", "covariance" or "moment"
        "best" tries both, and keeps the result with the smaller negative part.
    scaling : str
        See :func:`~dfxm_dask.components.curves.scaling_of`. Roots and logarithms of mixtures are not mixtures; these
        options serve for comparison.
    background : float or "none", optional
        Either a background map or this parameter is required.

    Returns
    -------
    dict
        Summary of the part, see :func:`dfxm_dask.components.curves.summarise`. The result has ``nica_basis``
        (nica_component, scan axes), float64, rows of length 1, with ``nica_mean`` (zero), ``nica_scaling`` and the
        grid; ``nica_found``, ``nica_rounds``, ``nica_converged``, ``nica_unexplained``, ``nica_optimum``,
        ``nica_negative``, ``nica_whitening``, each ().

    Raises
    ------
    InputError
        More components than frames; no background; whitening by the covariance alone if the curves do not vary.

    Notes
    -----
    Curves are whitened by the sums over all pixels, within their principal components about zero. The rotation W that
    minimises the negative part of the amounts z (:func:`nonnegative_rotation`)::

        minimise ⟨min(0, W z)²⟩  over rotations W

    and the refinement are computed on a sample of at most 2000 curves of a layer and 20000 in all
    (:func:`dfxm_dask.components.nmf.matched_sample`). The amounts of ``project_nica`` are non-negative with
    ``refine="nmf"``.

    The mean must not be removed: amounts are positive only together with their mean. darfix 7.0.2 removes it before the
    rotation.

    Amounts of independent sources have no covariance. Those of grains side by side are correlated: where one grain is,
    there is no other, so that their products vanish, and whitening must use these products (our choice to try both).

    References
    ----------
    M. D. Plumbley, IEEE Trans. Neural Networks 14 (2003) 534. Refinement as in A. Garriga Ferrer et al., J. Synchrotron
    Rad. 30 (2023) 527.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> fit = dfxm_dask.nica(scan, components=2, background=100)
    >>> fit["phi"].values[fit["nica_basis"].argmax("phi")].round(3).tolist()
    [0.024, 0.036]

    The kernel alone, on one layer:

    >>> one, other = np.array([0, 1, 5, 1, 0, 0, 0.0]), np.array([0, 0, 0, 2, 5, 2, 0.0])
    >>> part = np.random.default_rng(2).random((2, 30, 30, 1))
    >>> counts = np.rint(100 + 4000 * (part[0] * one + part[1] * other)).astype(np.uint16)
    >>> fit = nica.finish(nica.kernel(counts, {"phi": np.arange(7.0)}, components=2, background=100))
    >>> (fit["nica_basis"] / fit["nica_basis"].max(axis=1, keepdims=True)).round(1).tolist()
    [[0.0, 0.0, 0.0, 0.4, 1.0, 0.4, 0.0], [0.0, 0.2, 1.0, 0.2, 0.0, 0.0, 0.0]]
    """
    summary = summary_of_fit(
        "nica",
        counts,
        scan,
        background_map,
        lit,
        (z, y, x),
        components=components,
        scaling=scaling,
        offset=offset,
        background=background,
    )
    return summary | {
        "option_noise": np.array(rank == "noise"),
        "option_refine": np.array(refine == "nmf"),
        "option_by": np.array([whiten in ("best", way) for way in WHITENINGS]),
    }
