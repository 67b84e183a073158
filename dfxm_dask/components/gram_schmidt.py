"""Gram–Schmidt basis: the curve of the strong beam, and the additional contributions of the weak-beam curves."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.components.curves import (
    STEPS,
    Summary,
    add_summaries,
    basis_variables,
    component,
    dark_level,
    described,
    gram,
    mean_curve,
    scaling_of,
    summarise,
)
from dfxm_dask.components.drawn_regions import Region, drawn_regions, mask_digests
from dfxm_dask.components.fits import Z_AT
from dfxm_dask.components.region_curves import RESAMPLES, chosen_parts, orthonormal, region_sums
from dfxm_dask.components.regions import (
    NAMES,
    Name,
    clustered_regions,
    found_regions,
    peak_parts,
    tail_means,
)
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import (
    AXES,
    BACKGROUND,
    COUNTS,
    HAS_WEAK_BEAM,
    LIT,
    PEAK_LOCAL,
    SCAN,
    WIDTH_LOCAL,
    PlainBackground,
    RockingAxis,
    Variable,
    X,
    Y,
    pixel_length,
)

MANY = 200  # frames above which only the largest eigenvalues are computed

COMPONENT = component("gram_schmidt")
REPORT = (
    Variable(
        "gram_schmidt_region",
        (COMPONENT,),
        "int8",
        "1",
        "region of the component (0: strong, 1: weak_minus, 2: weak_plus)",
    ),
    Variable("gram_schmidt_pixels", (COMPONENT,), "int64", "1", "number of pixels averaged in the region curve"),
    Variable("gram_schmidt_peak", (COMPONENT,), "float64", "{units}", "local peak of the region (NaN: all peaks)"),
    Variable(
        "gram_schmidt_bootstrap", (COMPONENT, SCAN), "float64", "1", "bootstrap standard deviation of the basis curves"
    ),
    Variable("gram_schmidt_condition", (), "float64", "1", "condition number of the curves of the three regions"),
    Variable("gram_schmidt_rms", (), "float64", "1", "rms residual in the basis"),
    Variable(
        "gram_schmidt_rms_least", (), "float64", "1", "rms residual in the best basis of equal size (from the SVD)"
    ),
    Variable("gram_schmidt_has_tails", (), "bool", "1", "whether regions of weak beam were found or drawn"),
)


def _rms(left: float, count: float) -> float:
    """Root of the mean of a sum of squares; NaN for no values."""
    return float(np.sqrt(max(left, 0.0) / count)) if count else np.nan


def _largest_three(products: np.ndarray) -> float:
    """Sum of the three largest eigenvalues; for many frames by Lanczos iteration, a hundred times faster."""
    if len(products) <= MANY or not products.any():
        return float(np.linalg.eigvalsh(products)[-3:].sum())
    from scipy.sparse.linalg import eigsh  # slow to load

    return float(eigsh(products, 3, v0=np.ones(len(products)), return_eigenvectors=False).sum())


def _finish(summary: Summary) -> Summary:
    """Basis and report from the sums of all layers; without weak regions, from clusters of the sample."""
    step = STEPS[int(summary["scaling"][0])]
    order, drawn = summary["option_order"], bool(summary["option_drawn"])
    sums, pixels = summary["sum_region"], summary["sum_region_pixels"]
    products, parts, peak = gram(summary), sums.shape[1], np.full(3, np.nan)
    for name, count in zip(NAMES, pixels.sum(axis=1), strict=True):
        if drawn and count == 0:
            raise InputError(
                f"gram_schmidt: region {name!r}",
                "is unlit in every layer, or belongs to a layer that does not exist",
                "draw it where the sample diffracts, with the z of a layer of the scan",
            )
    has_tails = bool(pixels.any(axis=1).all())
    if has_tails:
        mean = mean_curve(summary)
        covariance = products / float(summary["sum_pixels"]) - np.outer(mean, mean)
        chosen = list(enumerate(chosen_parts(sums * step, pixels, mean, covariance)))
        drawn_sums, drawn_pixels = (
            np.stack([summary[f"sum_{n}"][:, k, part].sum(axis=1) for k, part in chosen], axis=1)
            for n in ("drawn", "drawn_pixels")
        )
        sums, pixels = (np.stack([v[k, part].sum(axis=0) for k, part in chosen]) for v in (sums, pixels))
        positions = summary["option_places"]
        middle = positions.min() + (np.arange(parts) + 0.5) / parts * (positions.max() - positions.min())
        peak = np.array([np.nan if part.start is None else middle[part.start] for _, part in chosen])
    else:
        sample = np.rint(summary["sample_curves"] / np.float32(step)).astype(float)
        masks = clustered_regions(summary["sample_curves"], summary["option_places"], int(summary["option_seed"]))
        pixels, sums = masks.sum(axis=1), masks.astype(float) @ sample
        generator = np.random.default_rng(int(summary["option_seed"]))
        weight = generator.poisson(1.0, (RESAMPLES, 1, len(sample))) * masks.astype(float)
        drawn_sums, drawn_pixels = weight @ sample, weight.sum(axis=2)

    def means(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        full = count[..., None] > 0
        return np.where(full, total * step / np.where(full, count[..., None], 1), np.nan)[..., order, :]

    curves = means(sums, pixels)
    basis = orthonormal(curves)
    if drawn and np.isnan(basis).any():
        raise InputError("gram_schmidt: the drawn regions", "have linearly dependent curves", "draw them elsewhere")
    resampled = np.stack([orthonormal(c) for c in means(drawn_sums, drawn_pixels)])
    resampled = resampled[np.isfinite(resampled).all(axis=(1, 2))]
    complete = bool(np.isfinite(basis).all())
    spread = resampled.std(axis=0, ddof=1) if complete and len(resampled) > 1 else np.full(basis.shape, np.nan)
    values, whole = float(summary["sum_pixels"]) * basis.shape[1], float(np.trace(products))
    explained = float(np.einsum("kf,fg,kg->", basis, products, basis))
    best = _largest_three(products)
    basis_of_all = described("gram_schmidt", summary, basis)
    return basis_of_all | {
        "gram_schmidt_region": order.astype(np.int8),
        "gram_schmidt_pixels": pixels[order].astype(np.int64),
        "gram_schmidt_peak": peak[order],
        "gram_schmidt_bootstrap": spread.reshape(basis_of_all["gram_schmidt_basis"].shape),
        "gram_schmidt_condition": np.array(np.linalg.cond(curves) if complete else np.nan),
        "gram_schmidt_rms": np.array(_rms(whole - explained, values) if complete else np.nan),
        "gram_schmidt_rms_least": np.array(_rms(whole - best, values)),
        "gram_schmidt_has_tails": np.array(has_tails),
    }


def _rocking_axis(scan: dict[str, np.ndarray], axis: str | None) -> str:
    """The rocking axis, by the rule of local_peak; rooms do not import each other, so a test compares the two."""
    if axis is not None and axis not in scan:
        raise InputError(f"gram_schmidt: axis {axis!r}", f"the scan has {', '.join(scan)}", "choose one of them")
    if axis is not None:
        return axis
    long = [a for a in scan if scan[a].size >= 3]  # as in local_peak, whose peaks are compared with the positions
    return "phi" if "phi" in long or not long else long[0]


@reduction(
    reads=(COUNTS, AXES, LIT, PEAK_LOCAL, WIDTH_LOCAL, HAS_WEAK_BEAM, Y, X),
    may_read=(BACKGROUND, Z_AT),
    writes=(*basis_variables("gram_schmidt"), *REPORT),
    over=("scan", "y", "x"),
    combine=add_summaries,
    finish=_finish,
    min_positions=3,
    files=mask_digests,
    positions="common",
)
def gram_schmidt(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    lit: np.ndarray,
    peak_local: np.ndarray,
    width_local: np.ndarray,
    has_weak_beam: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    background_map: np.ndarray | None = None,
    z: np.ndarray | None = None,
    *,
    regions: Annotated[
        list[Region] | None,
        Field(
            description="boxes {name: strong|weak_minus|weak_plus, box: [y0, y1, x0, x1], unit, z}, or mask: file.npy"
            " instead of box and unit; by default regions are found automatically"
        ),
    ] = None,
    order: Annotated[
        tuple[Name, ...],
        Field(description="order of orthonormalisation of the region curves", min_length=3, max_length=3),
    ] = NAMES,
    scaling: Annotated[
        Literal["log", "anscombe", "plain"], Field(description="transformation of the counts above background")
    ] = "log",
    offset: Annotated[
        float | None,
        Field(description="added before logarithm or root; by default 1 and 3/8", json_schema_extra={"unit": "count"}),
    ] = None,
    axis: RockingAxis = None,
    background: PlainBackground = None,
    seed: Annotated[int, Field(ge=0, description="seed of the clusters that are used if no weak region is found")] = 0,
) -> dict[str, np.ndarray]:
    """Gram–Schmidt basis of strong and weak beam: three orthonormal curves for all layers.

    Counts above background are transformed, by default to logarithms, and averaged over three regions: the strong beam,
    and the weak beam below and above the peak. The three mean curves are orthonormalised in the given order. Regions
    are drawn by the user, or found in every layer in the local rocking coordinate. The report compares the residual of
    this basis with the least residual of any three curves.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
        All frames must be on one scale.
    peak_local, width_local, has_weak_beam : array
        See :func:`dfxm_dask.beams.local_peak`; a layer without weak beam has no weak regions.
    regions : list of {name, box, unit, mask, z}, optional
        Boxes [y0, y1, x0, x1] are in um or pixels; masks are .npy files (y, x), bool, of the whole frame. Each of
        strong, weak_minus and weak_plus requires at least one region, in all layers or in the layer at z (um).
    order : three names
        The first component contains the shape that all curves have in common.
    scaling : "log", "anscombe" or "plain"
        ln(max(I, 0) + offset), 2 √max(I + offset, 0), or I, with I the counts above background.
    offset : float, count
        The publication gives no value.
    background : float or "none", optional
        Either a background map or this parameter is required.

    Returns
    -------
    dict
        Summary of the layer; summaries of layers add up. The result is ``gram_schmidt_basis`` (component, scan axes),
        float64, with ``gram_schmidt_mean`` (zero), ``_scaling`` and ``_grid_<axis>``, which the projection requires,
        and the report ``_region``, ``_pixels`` and ``_peak`` (component), ``_bootstrap`` (component, scan axes),
        ``_condition``, ``_rms``, ``_rms_least`` and ``_has_tails``. NaN if no pixel is lit or the curves are linearly
        dependent.

    Raises
    ------
    InputError
        No background; an order that repeats a name; an unknown axis; a region that is not drawn, empty, outside the
        frame or unlit, or whose mask cannot be read or has another shape; drawn regions with linearly dependent curves.

    Notes
    -----
    With r₁, r₂, r₃ the mean transformed curves of the three regions in the given order::

        u₁ = r₁ / |r₁|
        u₂ ∝ r₂ − ⟨r₂, u₁⟩ u₁
        u₃ ∝ r₃ − ⟨r₃, u₁⟩ u₁ − ⟨r₃, u₂⟩ u₂

    See :func:`dfxm_dask.components.region_curves.orthonormal`. Regions are found by
    :func:`dfxm_dask.components.regions.found_regions` in the local coordinate u = (phi − peak)/width, so that they have
    the same meaning in every layer. Their sums are kept by the position of the peak: if the curves of one subgrain
    separate the weak beam better than those of all, only these are used, with their peak in ``_peak``; see
    :func:`dfxm_dask.components.region_curves.chosen_parts`. If no layer has a weak region on both sides, the scan does
    not reach its weak beam: ``has_tails`` is False, and the curves are those of clusters of a sample
    (:func:`dfxm_dask.components.regions.clustered_regions`).

    ``bootstrap`` is the standard deviation over 50 resamples of blocks of 4 um. ``rms`` is the residual of all lit
    transformed curves in the basis, ``rms_least`` their residual in the first three singular vectors, which is the
    least of any three curves (Eckart and Young).

    References
    ----------
    P. Huang, R. Coffee, L. Dresselhaus-Marais, IMMI 12 (2023) 83, arXiv:2211.05247, with regions drawn by hand.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> data = scan.merge(dfxm_dask.local_peak(scan, background=100))
    >>> fit = dfxm_dask.gram_schmidt(data, background=100)
    >>> curves = fit["gram_schmidt_basis"].values
    >>> bool(np.allclose(curves @ curves.T, np.eye(3))), bool(fit["gram_schmidt_has_tails"])
    (True, True)

    The kernel alone, on one layer:

    >>> phi, y = np.arange(5.0), np.arange(4.0)
    >>> curves = np.array([[0, 9, 90, 9, 0], [40, 9, 90, 9, 0], [0, 9, 90, 9, 70], [0, 9, 90, 9, 0]], np.uint16)
    >>> boxes = [{"name": n, "box": [k, k + 1, 0, 1], "unit": "pixel"}
    ...          for k, n in enumerate(["strong", "weak_minus", "weak_plus"])]
    >>> one = np.ones((4, 1), np.float32)
    >>> summary = gram_schmidt.kernel(
    ...     curves[:, None], {"phi": phi}, one > 0, 2 * one, one, True, y, y[:1], regions=boxes, background="none"
    ... )
    >>> basis = gram_schmidt.finish(summary)["gram_schmidt_basis"]
    >>> np.abs(basis).round(3).tolist()
    [[0.0, 0.414, 0.811, 0.414, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    if sorted(order) != sorted(NAMES):
        raise InputError(f"gram_schmidt: parameter order={order}", "repeats a name", f"order {', '.join(NAMES)}")
    treatment = scaling_of("gram_schmidt", scaling, offset, background, background_map)
    level = dark_level("gram_schmidt", treatment, background_map, counts.shape[:2])
    rocking = _rocking_axis(scan, axis)
    pixel = (pixel_length("y", "gram_schmidt", y), pixel_length("x", "gram_schmidt", x))
    at = 0.0 if z is None else float(z)
    positions = np.meshgrid(*(np.asarray(p, float) for p in scan.values()), indexing="ij")[
        list(scan).index(rocking)
    ].ravel()
    part = None
    if regions is not None:
        drawn = gram_schmidt.validate({"regions": regions})["regions"]
        masks = drawn_regions(drawn, lit, z if z is None else at, y, x)
    else:
        tails = tail_means(counts, level, treatment, positions, lit, peak_local, width_local)
        masks, part = found_regions(*tails, lit, pixel, bool(has_weak_beam)), peak_parts(peak_local, positions)
    summary = summarise(counts, scan, lit, level, treatment, at, y, x)
    return (
        summary
        | region_sums(counts, level, treatment, masks, part, at, pixel)
        | {
            "option_order": np.array([NAMES.index(n) for n in order]),
            "option_drawn": np.array(regions is not None),
            "option_seed": np.array(seed),
            "option_places": positions,
        }
    )
