"""Non-negative independent components: sources of light that know nothing of each other, and their curves."""

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
LEAST_SLOPE = 1e-6  # of the part below zero of sources with variance 1, for one radian (our choice)
Whitening = Literal["covariance", "moment"]
WHITENINGS: tuple[Whitening, ...] = ("covariance", "moment")

NEGATIVE = Variable("nica_negative", (), "float64", "1", "share of squares below zero in sources and source curves")
WHITENING = Variable("nica_whitening", (), "int8", "1", "whitening method (0: covariance, 1: mean products)")


def whitening(
    moments: np.ndarray, mean: np.ndarray, basis: np.ndarray, by: Whitening
) -> tuple[np.ndarray, np.ndarray] | None:
    """Matrices that turn curves into coordinates without correlation, and back; the mean is not removed.

    Parameters
    ----------
    moments : array (frame, frame), float64
        Mean products of two frames.
    mean : array (frame,), float64
        Mean curve.
    basis : array (component, frame), float64
        Principal components about zero.
    by : "covariance" or "moment"
        What becomes the unit matrix: variances and covariances of the coordinates, or their mean products.

    Returns
    -------
    forth, back : array (component, frame) and array (frame, component), float64
        Coordinates are ``curves @ forth.T``, and ``coordinates @ back.T`` the part of the curves within the basis.
        Their means are not below zero. None where the curves do not vary in so many ways.

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
    """Rotation that brings white coordinates above zero as far as possible.

    Parameters
    ----------
    coordinates : array (component, pixel), float64
        White, with their mean.

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
    Steepest descent of J = ½ ⟨min(0, W z)²⟩ along rotations: with y = W z and f = min(0, y) the slope is
    E = ⟨f yᵀ − y fᵀ⟩, and W becomes exp(−η E) W, an exact rotation, with η such that J falls (Armijo). It begins at
    W = 1, so nothing is drawn by chance.

    References
    ----------
    M. D. Plumbley, IEEE Trans. Neural Networks 14 (2003) 534, algorithm of section V; E. Oja and M. D. Plumbley,
    Neural Computation 16 (2004) 1811 (why the mean must stay).

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
            found, slope_there = below(trial)
            if found <= value - 0.25 * step * square:
                break
            step /= 2
        else:
            return rotation, turn, False
        rotation, value, slope = trial, found, slope_there
        step *= 1.6
    return rotation, TURNS, False


def _share_below(values: np.ndarray) -> float:
    """Mean over rows of the share of squares that values below zero have."""
    squares = (values**2).sum(axis=1)
    return float(((np.minimum(values, 0) ** 2).sum(axis=1) / np.where(squares > 0, squares, 1)).mean())


def unmix(
    curves: np.ndarray, moments: np.ndarray, mean: np.ndarray, basis: np.ndarray, by: tuple[Whitening, ...] = WHITENINGS
) -> tuple[np.ndarray, np.ndarray, int, bool, float, str]:
    """Curves of non-negative independent sources, and their amounts, by the whitening that leaves least below zero.

    Parameters
    ----------
    curves : array (pixel, frame), float64
        A sample; the rotation is found on it.
    moments, mean, basis
        Of all curves, as in :func:`whitening`.
    by : tuple of "covariance", "moment"
        Ways to try.

    Returns
    -------
    curves : array (component, frame), float64
        Of length 1, those with the largest squares of amounts first. Noise may take them below zero.
    amounts : array (component, pixel), float64
        Of the sample.
    turns, converged
        See :func:`nonnegative_rotation`.
    negative : float
        Share of squares below zero, of amounts and of curves, summed.
    by : str
        The whitening.

    Raises
    ------
    InputError
        Whitening by the covariance alone, and the curves do not vary in so many ways.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = np.array([[0.8, 0.6, 0.0], [0.0, 0.6, 0.8]])
    >>> curves = rng.exponential((3.0, 1.0), (5000, 2)) @ true
    >>> found = unmix(curves, curves.T @ curves / 5000, curves.mean(axis=0), np.linalg.svd(true)[2][:2])
    >>> np.abs(found[0] - true).max().round(1).item(), found[-1]
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
            f"the curves do not vary in {len(basis)} ways",
            "ask for fewer components, or whiten by 'moment'",
        )
    return best


def _finish(summary: Summary) -> Summary:
    found, leading = looked_for(summary)
    refine, by = bool(summary["option_refine"]), tuple(np.array(WHITENINGS)[summary["option_by"]].tolist())
    if not found:
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
        Field(description="'nmf': non-negative factors that begin at the independent ones; 'none': those themselves"),
    ] = "nmf",
    whiten: Annotated[
        Literal["best", "covariance", "moment"],
        Field(description="by 'covariance' for sources that overlap, by 'moment' for such that exclude each other"),
    ] = "best",
    scaling: MixtureKind = "plain",
    offset: Offset = None,
    background: PlainBackground = None,
) -> dict[str, np.ndarray]:
    """Rocking curves of non-negative sources that know nothing of each other, such as grains along the beam.

    Parameters
    ----------
    lit : array, optional
        Pixels that count; all where it is not known.
    components : int
        At most the number of frames.
    rank : "given" or "noise"
        See :func:`~dfxm_dask.components.pca.noise_rank`.
    refine : "nmf" or "none"
        With "none" curves and amounts keep what noise takes below zero: their absolute values, as in darfix, no
        longer add up to the counts.
    whiten : "best", "covariance" or "moment"
        "best" tries both, and keeps what leaves less below zero.
    scaling : str
        See :func:`~dfxm_dask.components.curves.scaling_of`. Roots and logarithms of mixtures are no mixtures: they are
        there for comparison.

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
        More components than frames; no background; whitening by the covariance alone where curves do not vary.

    Notes
    -----
    Curves are whitened by the sums over all pixels, within their principal components about zero. The rotation that
    brings the sources above zero (:func:`nonnegative_rotation`) is found on a sample of at most 2000 curves of a layer
    and 20000 in all (:func:`dfxm_dask.components.nmf.matched_sample`), and so are the factors that refine it.
    ``project_nica`` then finds the amounts of every pixel: non-negative ones with ``refine="nmf"``.

    The mean must stay in: sources are above zero, and without their mean they are not. darfix 7.0.2 removes it
    before the rotation.

    Amounts of sources that know nothing of each other have no covariance. Those of grains side by side have: where
    there is one there is no other, so it is their products that vanish, and whitening has to be by those (our
    choice to try both).

    References
    ----------
    M. D. Plumbley, IEEE Trans. Neural Networks 14 (2003) 534. Refined as in A. Garriga Ferrer et al., J. Synchrotron
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
    >>> found = nica.finish(nica.kernel(counts, {"phi": np.arange(7.0)}, components=2, background=100))
    >>> (found["nica_basis"] / found["nica_basis"].max(axis=1, keepdims=True)).round(1).tolist()
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
