"""Principal components of all rocking curves, exact, from one matrix of products of frames."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.linalg import eigh

from dfxm_dask.components.curves import (
    STEPS,
    Kind,
    Summary,
    component,
    described,
    gram,
    mean_curve,
)
from dfxm_dask.components.fits import Count, Offset, fit, summary_of_fit
from dfxm_dask.schema import SCAN, PlainBackground, Variable

ROUNDING = 1e-12
"""Fraction of the largest eigenvalue below which an eigenvalue is a rounding error (our choice)."""
CONDITION = 1e-13
"""Fraction of the sum of squares that is added to every frame, so that linearly dependent frames have an inverse."""
CURVES_A_FRAME = 2
"""Least number of curves for each frame at which noise can be separated from signal (our choice)."""

EXPLAINED = Variable(
    "pca_explained", (component("pca"),), "float64", "1", "share of the component in the sum of squares of all curves"
)
VARIANCE = Variable("pca_variance", (component("pca"),), "float64", "1", "mean square of the component coefficient")
NOISE_RANK = Variable("pca_noise_rank", (), "float64", "1", "number of components above the noise")
FRAME_NOISE = Variable(
    "pca_noise", (SCAN,), "float64", "1", "standard deviation of a frame not explained by the other frames"
)


def principal_components(moments: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthonormal curves with the least residual, their mean squares and their shares.

    Parameters
    ----------
    moments : array (frame, frame), float64
        Mean products of two frames, about zero or about the mean curve.
    components : int

    Returns
    -------
    basis : array (component, frame), float64
        The largest value of each row is positive; a component beyond the rank of the curves is zero.
    variance : array (component,), float64
        Mean square of the coefficient.
    explained : array (component,), float64
        Share of the sum of squares of all curves. NaN, as is the basis, if all curves are zero.

    Examples
    --------
    >>> basis, variance, explained = principal_components(np.array([[2.0, 1.0], [1.0, 2.0]]), 1)
    >>> basis.round(3).tolist(), variance.round(6).tolist(), explained.round(6).tolist()
    ([[0.707, 0.707]], [3.0], [0.75])
    """
    total = float(np.trace(moments))
    if not (np.isfinite(total) and total > 0):
        return np.full((components, len(moments)), np.nan), *np.full((2, components), np.nan)
    count = len(moments)
    values, vectors = eigh(moments, subset_by_index=(count - components, count - 1))
    values, basis = values[::-1].copy(), vectors.T[::-1]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], 1)
    basis = basis * np.where(largest < 0, -1.0, 1.0)
    absent = values <= ROUNDING * values[0]
    basis[absent], values[absent] = 0.0, 0.0
    return basis, values, values / total


def frame_noise_of(moments: np.ndarray, curves: int, least: float) -> np.ndarray:
    """Variance of every frame that no linear combination of all other frames explains.

    Parameters
    ----------
    moments : array (frame, frame), float64
        Mean products of two frames.
    curves : int
        Number of curves.
    least : float
        Variance of rounding that every frame has.

    Returns
    -------
    array (frame,), float64

    Notes
    -----
    The residual variance of a regression on all other frames is 1 / (M⁻¹)ₖₖ. Noise of the others increases it
    slightly, so that a component as weak as the noise may be missed, but noise never counts as a component. No values
    of photons, gain or read noise are required, and frames may differ in these.

    References
    ----------
    J. M. Bioucas-Dias and J. M. P. Nascimento, IEEE Trans. Geosci. Remote Sens. 46 (2008) 2435.
    """
    floor = max(least, CONDITION * float(np.trace(moments)))
    inverse = np.linalg.inv(moments + floor * np.eye(len(moments))).diagonal()
    return np.asarray(curves / (curves - len(moments) + 1) / inverse)


def noise_rank(moments: np.ndarray, curves: int, least: float) -> tuple[float, np.ndarray]:
    """Number of components above the noise, and the variance of the noise of every frame.

    Parameters
    ----------
    moments, curves, least
        See :func:`frame_noise_of`.

    Returns
    -------
    rank : float
        NaN if there are fewer than two curves for each frame, or all are zero.
    variance : array (frame,), float64

    Notes
    -----
    Every frame is divided by its noise. The largest eigenvalue of pure noise is then (1 + √(frames/curves))², the
    edge of Marchenko and Pastur; components above it count. Counts above background are mixtures, so that their rank is
    the number of components mixed. Logarithms and Anscombe roots of mixtures are not mixtures: their rank is larger.

    References
    ----------
    V. A. Marchenko and L. A. Pastur, Math. USSR Sbornik 1 (1967) 457.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> curves = np.outer(rng.random(900), np.ones(5)) * 30 + rng.standard_normal((900, 5))
    >>> noise_rank(curves.T @ curves / 900, 900, 0.0)[0]
    1.0
    """
    frames = len(moments)
    if curves < CURVES_A_FRAME * frames or not np.trace(moments) > 0:
        return np.nan, np.full(frames, np.nan)
    variance = frame_noise_of(moments, curves, least)
    scale = np.sqrt(variance)
    values = np.linalg.eigvalsh(moments / np.outer(scale, scale))
    return float((values > (1 + np.sqrt(frames / curves)) ** 2).sum()), variance


def of_summary(summary: Summary) -> tuple[np.ndarray, int, float]:
    """Mean products of two frames, number of curves, and the variance of rounding, from a summary."""
    curves = int(summary["sum_pixels"])
    return gram(summary) / max(curves, 1), curves, STEPS[int(summary["scaling"][0])] ** 2 / 12


def _finish(summary: Summary) -> Summary:
    """Principal components and their report, from the sums of all layers."""
    moments, curves, least = of_summary(summary)
    centred = bool(summary["option_centred"])
    mean = mean_curve(summary) if centred else np.zeros(len(moments))
    moments = moments - np.outer(mean, mean)
    basis, variance, explained = principal_components(moments, int(summary["option_components"]))
    rank, noise = noise_rank(moments, curves, least)
    result = described("pca", summary, basis, mean)
    return result | {
        "pca_explained": explained,
        "pca_variance": variance,
        "pca_noise_rank": np.array(rank),
        "pca_noise": np.sqrt(noise).reshape(result["pca_mean"].shape),
    }


@fit("pca", _finish, (EXPLAINED, VARIANCE, NOISE_RANK, FRAME_NOISE))
def pca(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None = None,
    lit: np.ndarray | None = None,
    z: np.ndarray | None = None,
    y: np.ndarray | None = None,
    x: np.ndarray | None = None,
    *,
    components: Count = 3,
    centred: Annotated[
        bool, Field(description="decompose about the mean curve; otherwise about zero, the curve without intensity")
    ] = False,
    scaling: Annotated[
        Kind, Field(description="transformation of the counts: 'plain', 'anscombe' (uniform photon noise) or 'log'")
    ] = "plain",
    offset: Offset = None,
    background: PlainBackground = None,
) -> dict[str, np.ndarray]:
    """Principal components of the rocking curves of all lit pixels, and how many of them exceed the noise.

    Counts above background are transformed as requested and summed to one matrix of mean products of two frames, over
    all lit pixels of all layers. Its leading eigenvectors are the orthonormal curves with the least residual. The
    number of components above the noise follows from the same matrix, without assumptions on the detector.
    ``project_pca`` then computes the coefficients of every pixel.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        All frames must be on one scale.
    lit : array (y, x), bool, optional
        Pixels to include; all if it is not given.
    components : int
        At most the number of frames.
    centred : bool
        About zero, a dark pixel has coefficients 0, the basis alone reproduces the curves, and the residual is the
        least of any basis of this length, including Gram–Schmidt (Eckart and Young). darfix and scikit-learn centre.
    scaling : str
        See :func:`~dfxm_dask.components.curves.scaling_of`.
    background : float or "none", optional
        Either a background map or this parameter is required.

    Returns
    -------
    dict
        Summary of the part, see :func:`dfxm_dask.components.curves.summarise`. The result has ``pca_basis``
        (pca_component, scan axes), float64, rows orthonormal, with ``pca_mean``, ``pca_scaling`` and the grid;
        ``pca_explained`` and ``pca_variance`` (pca_component), ``pca_noise_rank`` () and ``pca_noise`` (scan axes).

    Raises
    ------
    InputError
        More components than frames; no background.

    Notes
    -----
    The components are the eigenvectors of::

        M = Σ x xᵀ / n

    over all n curves x. M is exact for any number of pixels and bitwise identical for any division of the scan into
    blocks, since its terms are integers. Components beyond the rank of the curves are zero; if no pixel is lit,
    everything is NaN.

    Singular values below 1e-6 of the largest are lost, because M contains their squares. The rank is that of
    :func:`noise_rank`; the criterion of darfix, "99 % of the variance", includes noise in faint scans and excludes
    grains in bright ones.

    References
    ----------
    K. Pearson, Philosophical Magazine 2 (1901) 559. C. Eckart and G. Young, Psychometrika 1 (1936) 211.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> fit = dfxm_dask.pca(scan, components=2, background=100)
    >>> fit["pca_explained"].values.round(2).tolist(), float(fit["pca_noise_rank"])
    ([0.5, 0.5], 3.0)

    The kernel alone, on one layer:

    >>> rng = np.random.default_rng(1)
    >>> shape = np.exp(-((np.arange(9) - 4.0) ** 2) / 4)
    >>> counts = rng.poisson(100 + 500 * rng.random((20, 20, 1)) * shape).astype(np.uint16)
    >>> fit = pca.finish(pca.kernel(counts, {"phi": np.arange(9.0)}, components=2, background=100))
    >>> fit["pca_noise_rank"].item(), fit["pca_explained"].round(2).tolist()
    (1.0, [0.99, 0.0])
    """
    summary = summary_of_fit(
        "pca",
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
    return summary | {"option_centred": np.array(centred)}
