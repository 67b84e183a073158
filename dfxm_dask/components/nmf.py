"""Non-negative curves in non-negative amounts: components of every pixel, for intensities that add up."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.components.curves import (
    Kind,
    Summary,
    described,
)
from dfxm_dask.components.fits import Count, Offset, fit, summary_of_fit
from dfxm_dask.components.nnls import nonnegative_coefficients
from dfxm_dask.components.pca import CURVES_A_FRAME, ROUNDING, noise_rank, of_summary, principal_components
from dfxm_dask.schema import PlainBackground, Variable

# Parameters shared with nica.
Rank = Annotated[
    Literal["given", "noise"],
    Field(description="'noise' limits the number of components to those above the noise, the others are zero"),
]
MixtureKind = Annotated[
    Kind, Field(description="transformation of the counts: 'plain' (additive), 'anscombe' or 'log'")
]

ROUNDS, SWEEPS = 500, 4
TOLERANCE = 1e-6  # relative decrease of the residual in one round at which iteration stops (our choice)
STRIDE, LONGER, SHORTER = 0.5, 1.05, 1.5  # of the last step, as its factor; factors after a good and a bad round
BRIGHT = 0.5  # of the 90 % quantile of the amounts: darker curves are excluded, being mostly noise (our choice)


def fit_variables(method: str) -> tuple[Variable, ...]:
    """Variables that report on an iterative fit."""
    return (
        Variable(f"{method}_found", (), "float64", "1", "number of components requested"),
        Variable(f"{method}_rounds", (), "float64", "1", "number of iterations until convergence"),
        Variable(
            f"{method}_converged", (), "bool", "1", "whether the factorisation converged within the allowed iterations"
        ),
        Variable(f"{method}_unexplained", (), "float64", "1", "unexplained share of squares of the sampled curves"),
        Variable(
            f"{method}_optimum", (), "float64", "1", "least unexplained share of squares for any basis of equal size"
        ),
    )


def matched_sample(summary: Summary) -> np.ndarray:
    """The sampled curves, moved slightly so that the mean products of two frames equal those of all curves.

    Parameters
    ----------
    summary : dict
        See :func:`dfxm_dask.components.curves.summarise`.

    Returns
    -------
    array (pixel, frame), float64
        The unchanged sample if it has fewer than two curves for each frame.

    Notes
    -----
    With S and G the mean products of the sample and of all curves, and R = S^½, the curves are multiplied by
    R⁻¹ (R G R)^½ R⁻¹: of all matrices that transform S into G, the one that moves the curves least. Apart from the
    signs of the amounts, the residual of all curves in a basis depends on G only. On a real scan, 2000 of 400 000
    curves gave a residual 0.4 % larger than all curves did, and 0.01 % after matching; on simulated grains, whose
    amounts are often zero, 0.15 % and 0.09 %.

    References
    ----------
    I. Olkin and F. Pukelsheim, Linear Algebra Appl. 48 (1982) 257.

    Examples
    --------
    >>> sample = np.random.default_rng(0).random((50, 2))
    >>> summary = {"sample_curves": sample, "sum_gram": np.array([[4, 1], [1, 3]]), "sum_pixels": np.array(1)}
    >>> matched = matched_sample(summary | {"scaling": np.array([2.0])})  # a plain count is four steps
    >>> (matched.T @ matched / 50 * 16).round(6).tolist()
    [[4.0, 1.0], [1.0, 3.0]]
    """
    curves = summary["sample_curves"].astype(np.float64)
    if len(curves) < CURVES_A_FRAME * curves.shape[1]:
        return curves
    moments, _, _ = of_summary(summary)
    values, vectors = np.linalg.eigh(curves.T @ curves / len(curves))
    present = values > ROUNDING * max(values[-1], 0.0)
    scale, rows = np.sqrt(values[present]), vectors[:, present].T
    middle, turned = np.linalg.eigh(scale[:, None] * (rows @ moments @ rows.T) * scale)
    root = (turned * np.sqrt(np.maximum(middle, 0.0))) @ turned.T
    return np.asarray(curves @ rows.T @ (root / np.outer(scale, scale)) @ rows)


def curves_from_sums(basis: np.ndarray, products: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Non-negative curves that fit given amounts better, from sums over pixels.

    Parameters
    ----------
    basis : array (component, frame), float64
        Initial curves.
    products : array (component, frame), float64
        Σ amount × curve over all pixels. It adds up over blocks.
    cross : array (component, component), float64
        Σ amount × amount over all pixels. It adds up over blocks, too.

    Returns
    -------
    array (component, frame), float64
        Curves after four sweeps that optimise one curve after another while the others are fixed (hierarchical least
        squares).

    References
    ----------
    N. Gillis and F. Glineur, Neural Computation 24 (2012) 1085.

    Examples
    --------
    >>> amounts, curves = np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([[3.0, 0.0], [3.0, 4.0]])
    >>> curves_from_sums(np.ones((2, 2)), amounts.T @ curves, amounts.T @ amounts).round(3).tolist()
    [[2.875, 0.125], [0.062, 1.938]]
    """
    result = basis.copy()
    for _ in range(SWEEPS):
        for k in range(len(result)):
            if cross[k, k] > 0:
                result[k] = np.maximum(0.0, result[k] + (products[k] - cross[k] @ result) / cross[k, k])
    return result


def purest_curves(curves: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Select as many bright curves as the basis has rows, each as unlike the previous ones as possible.

    Parameters
    ----------
    curves : array (pixel, frame), float64
    basis : array (component, frame), float64
        Principal components about zero; the part of the curves outside their span counts as noise.

    Notes
    -----
    Successive projections.

    References
    ----------
    M. C. U. Araújo et al., Chemometrics and Intelligent Laboratory Systems 57 (2001) 65.

    Examples
    --------
    >>> curves = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    >>> purest_curves(curves, np.eye(2)).tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """
    inside = curves @ basis.T
    smooth = inside @ basis
    amount = smooth.sum(axis=1)
    bright = np.flatnonzero((amount > 0) & (amount >= BRIGHT * np.quantile(amount, 0.9)))
    pure = []
    if bright.size:
        rest = inside[bright] / amount[bright, None]
        for _ in range(len(basis)):
            squares = (rest**2).sum(axis=1)
            at = int(squares.argmax())
            pure.append(np.maximum(smooth[bright[at]], 0.0))
            if squares[at] > 0:
                rest = rest - np.outer(rest @ rest[at], rest[at]) / squares[at]
    return np.array(pure) if pure else np.maximum(basis, 0.0)


def unit_rows(basis: np.ndarray) -> np.ndarray:
    """Curves scaled to length 1; a curve that is zero stays zero."""
    length = np.linalg.norm(basis, axis=1, keepdims=True)
    return np.asarray(basis / np.where(length > 0, length, 1.0))


def factorise(curves: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """Non-negative curves whose non-negative mixtures fit the given ones best.

    Parameters
    ----------
    curves : array (pixel, frame), float64
        Negative values from noise are fitted like all others, not clipped.
    start : array (component, frame), float64
        Initial curves, non-negative.

    Returns
    -------
    basis : array (component, frame), float64
        Rows of length 1, those with the largest squares of amounts first.
    rounds : int
        At most 500.
    converged : bool
        Whether the residual decreased by less than a millionth in the last round.

    Notes
    -----
    Amounts and curves are optimised alternately. Each round begins a stride ahead of the end of the last one, in the
    direction of its change; strides grow until the residual increases.

    References
    ----------
    A. M. S. Ang and N. Gillis, Neural Computation 31 (2019) 417.
    """
    total = float((curves**2).sum())
    basis = ahead = unit_rows(start)
    last, rounds, converged, stride = np.inf, 0, False, STRIDE
    while rounds < ROUNDS and not converged:
        rounds += 1
        amounts = nonnegative_coefficients(ahead @ ahead.T, curves @ ahead.T)
        products, cross = amounts.T @ curves, amounts.T @ amounts
        improved = curves_from_sums(ahead, products, cross)
        left = total - 2 * float((improved * products).sum()) + float((cross * (improved @ improved.T)).sum())
        if left > last + ROUNDING * total:  # too far: return to the end of the last round with a shorter stride
            ahead, stride = basis, stride / SHORTER
            continue
        converged = last - left <= TOLERANCE * max(left, ROUNDING * total)
        improved, last = unit_rows(improved), left
        ahead = np.maximum(0.0, improved + stride * (improved - basis))
        basis, stride = improved, min(1.0, stride * LONGER)
    amounts = nonnegative_coefficients(basis @ basis.T, curves @ basis.T)
    order = np.argsort(-(amounts**2).sum(axis=0), kind="stable")
    return basis[order], rounds, converged


def unexplained(curves: np.ndarray, basis: np.ndarray, nonnegative: bool) -> tuple[float, float]:
    """Relative residual (of the sum of squares) of mixtures of a basis, and the least one for as many curves."""
    total = float((curves**2).sum())
    if total == 0:
        return np.nan, np.nan
    targets, cross = curves @ basis.T, basis @ basis.T
    amounts = nonnegative_coefficients(cross, targets) if nonnegative else targets @ np.linalg.pinv(cross)
    left = float(((curves - amounts @ basis) ** 2).sum())
    kept = principal_components(curves.T @ curves, len(basis))[1].sum()
    return left / total, max(0.0, 1 - kept / total)


def looked_for(summary: Summary) -> tuple[int, np.ndarray]:
    """Number of components to fit, and as many principal components about zero.

    The requested number, but at most the rank of the curves and, if requested, at most the number above the noise. 0 if
    no pixel is lit.
    """
    moments, curves, least = of_summary(summary)
    basis, _, _ = principal_components(moments, int(summary["option_components"]))
    count = int((basis**2).sum(axis=1).round().sum()) if np.isfinite(basis).all() else 0
    stands_out = noise_rank(moments, curves, least)[0] if summary["option_noise"] else np.nan
    count = count if np.isnan(stands_out) else min(count, max(1, int(stands_out)))
    return count, basis[:count]


def filled_up(basis: np.ndarray, summary: Summary) -> np.ndarray:
    """A basis with the requested number of rows: missing ones are zero, or NaN if the basis is empty."""
    absent = 0.0 if len(basis) else np.nan
    result = np.full((int(summary["option_components"]), summary["sum_curve"].size), absent)
    result[: len(basis)] = basis
    return result


def described_fit(
    method: str, summary: Summary, basis: np.ndarray, rounds: float, converged: bool, nonnegative: bool
) -> Summary:
    """The variables of a basis and :func:`fit_variables`."""
    shares = np.nan, np.nan
    if len(basis):
        shares = unexplained(matched_sample(summary), basis, nonnegative)
    values = float(len(basis)), float(rounds), bool(converged), *shares
    values_by_name = {v.name: np.array(n) for v, n in zip(fit_variables(method), values, strict=True)}
    return described(method, summary, filled_up(basis, summary), nonnegative=nonnegative) | values_by_name


def _finish(summary: Summary) -> Summary:
    """Factorise the matched sample, beginning at its purest curves."""
    count, leading = looked_for(summary)
    if not count:
        return described_fit("nmf", summary, leading, np.nan, False, True)
    curves = matched_sample(summary)
    return described_fit("nmf", summary, *factorise(curves, purest_curves(curves, leading)), True)


@fit("nmf", _finish, fit_variables("nmf"))
def nmf(
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
    scaling: MixtureKind = "plain",
    offset: Offset = None,
    background: PlainBackground = None,
) -> dict[str, np.ndarray]:
    """Non-negative curves whose non-negative mixtures fit the rocking curves of all lit pixels best.

    Intensities add up, so that each rocking curve is a sum of the curves of the grains or beams in its pixel, in
    amounts that are not negative. The fit alternates between amounts and curves on a sample of all layers, and reports
    its residual with the least residual of any basis of equal size. ``project_nmf`` then computes the amounts of every
    pixel.

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
    scaling : str
        See :func:`~dfxm_dask.components.curves.scaling_of`. Roots and logarithms of mixtures are not mixtures; these
        options serve for comparison.
    background : float or "none", optional
        Either a background map or this parameter is required.

    Returns
    -------
    dict
        Summary of the part, see :func:`dfxm_dask.components.curves.summarise`. The result has ``nmf_basis``
        (nmf_component, scan axes), float64, rows non-negative and of length 1, with ``nmf_mean`` (zero),
        ``nmf_scaling`` and the grid; ``nmf_found``, ``nmf_rounds``, ``nmf_converged``, ``nmf_unexplained``,
        ``nmf_optimum``, each ().

    Raises
    ------
    InputError
        More components than frames; no background.

    Notes
    -----
    With X the curves, B the basis and C the amounts::

        minimise |X − C B|²  subject to  C ≥ 0, B ≥ 0

    B is fitted to a sample of at most 2000 curves of a layer and 20000 in all, chosen by position and matched to the
    sums over all curves (:func:`matched_sample`). Rounds alternate between exact amounts
    (:func:`dfxm_dask.components.nnls.nonnegative_coefficients`) and :func:`curves_from_sums`. They begin at the purest
    curves (:func:`purest_curves`), without random numbers. The minimum is a local one. Components beyond the rank of
    the curves are zero.

    References
    ----------
    D. D. Lee and H. S. Seung, Nature 401 (1999) 788, for the problem. The algorithms are from the sources given in the
    functions named above.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> fit = dfxm_dask.nmf(scan, components=2, background=100)
    >>> fit["phi"].values[fit["nmf_basis"].argmax("phi")].round(3).tolist()
    [0.024, 0.036]

    The kernel alone, on one layer:

    >>> one, other = np.array([0, 1, 5, 1, 0, 0, 0.0]), np.array([0, 0, 0, 2, 5, 2, 0.0])
    >>> part = np.random.default_rng(2).random((2, 30, 30, 1))
    >>> counts = np.rint(100 + 4000 * (part[0] * one + part[1] * other)).astype(np.uint16)
    >>> fit = nmf.finish(nmf.kernel(counts, {"phi": np.arange(7.0)}, components=2, background=100))
    >>> (fit["nmf_basis"] / fit["nmf_basis"].max(axis=1, keepdims=True)).round(1).tolist()
    [[0.0, 0.0, 0.0, 0.4, 1.0, 0.4, 0.0], [0.0, 0.2, 1.0, 0.2, 0.0, 0.0, 0.0]]
    """
    summary = summary_of_fit(
        "nmf",
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
    return summary | {"option_noise": np.array(rank == "noise")}
