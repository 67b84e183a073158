"""Rocking curves for component analysis, and the summary of many curves from which a fit is computed.

A fit and its projection must treat the counts equally. Therefore the treatment is described by four numbers, which are
stored with every basis (``<method>_scaling``).

Transformed curves are integer multiples of a small step. Their sums and products are then integers as well, which add
up exactly in any order: a fit is bitwise independent of the division of the scan into blocks.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit

from dfxm_dask.chance import mixed
from dfxm_dask.components.intensity_scaling import (
    BLOCK,
    LOG_STEPS,
    add_products,
    finite_columns,
    places_of,
    scale_counts,
    take_curves,
)
from dfxm_dask.errors import InputError
from dfxm_dask.memory import frame_lines
from dfxm_dask.schema import SCAN, Dim, Variable, check_background

Summary = dict[str, np.ndarray]
Kind = Literal["log", "anscombe", "plain"]

KINDS: tuple[Kind, ...] = ("log", "anscombe", "plain")
STEPS = (1 / LOG_STEPS, 2.0**-7, 2.0**-2)  # of each kind: far below the noise of one count (our choice)
OFFSETS = (1.0, 0.375, 0.0)  # log(1 + I), and the constant of Anscombe for photons
MANY = 128  # frames above which BLAS computes the sums of products
LIMIT = 2.0**21  # steps: products of two curves stay exact in float64 over a strip
STRIP = 2048  # pixels treated together: their curves stay in the second-level cache
LAYER_SAMPLE, SAMPLE = 2000, 20000  # curves kept from a layer, and in all
SAMPLE_VALUES = 2**24  # largest number of values in them


def component(method: str) -> Dim:
    """Dimension of the curves of a basis: the number of components, or one for each region of Gram–Schmidt."""
    return Dim(f"{method}_component", 3 if method == "gram_schmidt" else "components")


def basis_variables(method: str) -> tuple[Variable, Variable, Variable, Variable]:
    """Basis, mean, scaling and grid of a method: outputs of its fit (among others), and inputs of its projection.

    Parameters
    ----------
    method : str
        "gram_schmidt", "pca", ... Every name begins with it, including that of the dim: bases of different lengths are
        stored in one group.

    Examples
    --------
    >>> [v.name for v in basis_variables("pca")]
    ['pca_basis', 'pca_mean', 'pca_scaling', 'pca_grid_{axis}']
    """
    return (
        Variable(
            f"{method}_basis", (component(method), SCAN), "float64", "1", f"{method} basis curves", same_scale=True
        ),
        Variable(f"{method}_mean", (SCAN,), "float64", "1", "curve subtracted before the projection"),
        Variable(
            f"{method}_scaling",
            (Dim("scaling", 4),),
            "float64",
            "1",
            "scaling (0 log, 1 anscombe, 2 plain), offset, background (NaN: map), 1 if non-negative",
        ),
        Variable(f"{method}_grid_{{axis}}", (SCAN,), "float64", "{units}", "{axis} of every frame of the fitted scan"),
    )


def scaling_of(
    name: str,
    kind: Kind,
    offset: float | None,
    background: float | Literal["none"] | None,
    background_map: np.ndarray | None,
) -> np.ndarray:
    """The treatment of counts as numbers: kind, offset, background (NaN: a map), and a field for non-negativity.

    Parameters
    ----------
    name : str
        Name of the caller, for the text of an error.
    kind : "log", "anscombe" or "plain"
        ln(max(I − background, 0) + offset), 2 √max(I − background + offset, 0), or I − background.
    offset : float, count
        By default 1 for "log", 3/8 for "anscombe". For a detector of gain g and read noise s (both in counts) the
        general Anscombe transform has 3/8 g + s²/g.
    background : float or "none", optional
    background_map : array (y, x), optional

    Returns
    -------
    array (4,), float64

    Raises
    ------
    InputError
        No background at all, or both a map and a number; an offset that the kind does not allow.

    Examples
    --------
    >>> scaling_of("pca", "log", None, 100, None).tolist()
    [0.0, 1.0, 100.0, 0.0]
    """
    check_background(name, background_map, background)
    code = KINDS.index(kind)
    added = OFFSETS[code] if offset is None else float(offset)
    if not np.isfinite(added) or (kind == "log" and added <= 0) or (kind == "plain" and added != 0) or added < 0:
        raise InputError(
            f"{name}: parameter offset={offset!r}",
            f"does not suit scaling {kind!r}",
            "give an offset above 0 for log, of at least 0 for anscombe, and none for plain",
        )
    number = 0.0 if background is None or background == "none" else float(background)
    return np.array([code, added, number if background_map is None else np.nan, 0.0])


def dark_level(name: str, scaling: np.ndarray, background_map: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Counts to subtract from every pixel, as a fit did: (y, x), float32.

    Raises
    ------
    InputError
        The fit had a background map and none is given, or the reverse.
    """
    if np.isnan(scaling[2]):
        if background_map is None:
            raise InputError(
                f"{name} without a background map",
                "the basis was fitted with a background map",
                "run the step background first",
            )
        return np.require(background_map, np.float32, ["C", "W"])
    if background_map is not None:
        raise InputError(
            f"{name} with a background map",
            f"the basis was fitted with a background of {scaling[2]:g} counts everywhere",
            "fit it again, or omit the map",
        )
    return np.full(shape, scaling[2], np.float32)


def _in_steps(counts: np.ndarray, level: np.ndarray, pixels: np.ndarray, scaling: np.ndarray) -> np.ndarray:
    """Transformed curves of some pixels in integer steps: (frame, pixel), float32."""
    code = int(scaling[0])
    line, starts, row_step = frame_lines(counts)
    columns = max(1, counts.shape[1])
    curves = np.empty((starts.size, pixels.size), np.float32)
    take_curves(line, starts, pixels // columns * row_step + pixels % columns, level.ravel()[pixels], curves)
    scale_counts(curves.reshape(-1), code, np.float32(scaling[1]), STEPS[code])
    return curves


def treated(counts: np.ndarray, level: np.ndarray, pixels: np.ndarray, scaling: np.ndarray) -> np.ndarray:
    """Transformed curves of some pixels.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
    level : array (y, x), float32, count
        Background to subtract; see :func:`dark_level`.
    pixels : array (pixel,), int64
        Numbers of the pixels in the layer, x running fastest.
    scaling : array (4,)
        See :func:`scaling_of`.

    Returns
    -------
    array (frame, pixel), float32
        Exact multiples of the step of the scaling; NaN where a count or the background is not finite.

    Notes
    -----
    Steps are 1/8192 of the logarithm, 1/128 of the Anscombe transform (whose photon noise is 1), and 1/4 count.

    Examples
    --------
    >>> counts = np.array([[[99, 100, 101, 110]]], np.uint16)
    >>> scaling = scaling_of("pca", "log", 1.0, 100, None)
    >>> treated(counts, np.full((1, 1), 100, np.float32), np.array([0]), scaling)[:, 0].astype(float).round(3).tolist()
    [0.0, 0.0, 0.693, 2.398]
    """
    return _in_steps(counts, level, pixels, scaling) * np.float32(STEPS[int(scaling[0])])


@njit(nogil=True, cache=True)
def _ranks(z, y, x, pixels, ranks):
    """Compiled loop of :func:`place_ranks`."""
    for n in range(pixels.size):
        row, column = divmod(pixels[n], x.size)
        ranks[n] = mixed(mixed(mixed(z) + y[row]) + x[column])


def place_ranks(z: float, y: np.ndarray, x: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A pseudo-random number for each pixel that is determined by its position alone: uint64."""
    ranks = np.empty(pixels.size, np.uint64)
    bits = [np.ascontiguousarray(v, np.float64).view(np.uint64) for v in (np.atleast_1d(z), y, x)]
    _ranks(bits[0][0], bits[1], bits[2], pixels, ranks)
    return ranks


def _sums(
    counts: np.ndarray, level: np.ndarray, pixels: np.ndarray, scaling: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Sums of products of frames and of frames over some pixels, in steps, and the pixels with finite curves."""
    code = int(scaling[0])
    line, starts, row_step = frame_lines(counts)
    frames, columns = starts.size if counts.size else int(np.prod(counts.shape[2:])), max(1, counts.shape[1])
    padded = -(-frames // BLOCK) * BLOCK
    products, total = np.zeros((padded, padded), np.int64), np.zeros(padded, np.int64)
    curves, steps = np.empty((frames, STRIP), np.float32), np.zeros((padded, STRIP))
    complete, flat = [], level.ravel()
    for first in range(0, pixels.size, STRIP):
        part = pixels[first : first + STRIP].copy()
        if part.size < STRIP:
            curves = np.empty((frames, part.size), np.float32)
        take_curves(line, starts, places_of(part, columns, row_step), flat[part], curves)
        scale_counts(curves.reshape(-1), code, np.float32(scaling[1]), STEPS[code])
        count, most = finite_columns(curves, part, steps)
        if most >= LIMIT:
            raise InputError(
                f"curves with scaling {KINDS[code]!r}",
                f"reach {most * STEPS[code]:.6g}",
                f"scale the counts down below {LIMIT * STEPS[code]:.6g}, or choose scaling 'log'",
            )
        if frames <= MANY:
            add_products(steps, count, products, total)
        else:  # blocks of frames no longer fit into the cache; BLAS has better blocking
            here = steps[:, :count]
            products += (here @ here.T).astype(np.int64)
            total += here.sum(axis=1).astype(np.int64)
        complete.append(part[:count])
    lower = np.tril(products[:frames, :frames])
    return lower + np.tril(lower, -1).T, total[:frames], complete


def summarise(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    used: np.ndarray | None,
    level: np.ndarray,
    scaling: np.ndarray,
    z: np.ndarray | float | None = None,
    y: np.ndarray | None = None,
    x: np.ndarray | None = None,
) -> Summary:
    """Sums over the curves of a layer, or a part of one, for a fit; summaries add up by :func:`add_summaries`.

    Parameters
    ----------
    counts : array (y, x, scan axes), uint16 or float32, count
    scan : dict of str to array (length of the axis,)
        Positions along every scan axis.
    used : array (y, x), bool, optional
        Pixels to include, such as ``lit``; by default all. Curves with a value that is not finite are never included.
    level : array (y, x), float32, count
    scaling : array (4,)
    z, y, x : float, array (y,), array (x,), optional
        Position of the layer and its pixels. Without them the positions of any part begin at 0.

    Returns
    -------
    dict
        ``sum_gram`` (frame, frame), ``sum_curve`` (frame,) and ``sum_pixels`` (), int64, whole steps: see
        :func:`gram` and :func:`mean_curve`. ``sample_curves`` (pixel, frame), float32, of the 2000 pixels of lowest
        rank (:func:`place_ranks`), with ``sample_rank`` and ``sample_layer``. ``scaling``, and the positions of the
        frames, ``grid_<axis>`` (scan axes).

    Raises
    ------
    InputError
        A transformed value of more than 2**21 steps.
    """
    rows, columns = counts.shape[:2]
    inside = np.isfinite(level) if used is None else np.isfinite(level) & used
    gram_steps, curve_steps, complete = _sums(counts, level, np.flatnonzero(inside), scaling)
    pixels = np.concatenate(complete) if complete else np.zeros(0, np.int64)
    ranks = place_ranks(
        0.0 if z is None else float(z),
        np.arange(rows, dtype=float) if y is None else y,
        np.arange(columns, dtype=float) if x is None else x,
        pixels,
    )
    if pixels.size > LAYER_SAMPLE:
        chosen = np.argpartition(ranks, LAYER_SAMPLE)[:LAYER_SAMPLE]
        pixels, ranks = pixels[chosen], ranks[chosen]
    order = np.argsort(ranks)
    at = np.meshgrid(*(np.asarray(p, float) for p in scan.values()), indexing="ij")
    return {
        "sum_gram": gram_steps,
        "sum_curve": curve_steps,
        "sum_pixels": np.array(sum(p.size for p in complete), np.int64),
        "sample_curves": np.ascontiguousarray(treated(counts, level, pixels[order], scaling).T),
        "sample_rank": ranks[order],
        "sample_layer": np.full(pixels.size, 0.0 if z is None else float(z)),
        "scaling": scaling,
        **{f"grid_{name}": p for name, p in zip(scan, at, strict=True)},
    }


def add_summaries(first: Summary, second: Summary) -> Summary:
    """Combine two summaries, independent of their order: the ``combine`` of every fit.

    Entries named ``sum_`` add up. The sample keeps the 2000 lowest ranks of a layer and the 20000 lowest in all (fewer
    if the curves are long). All other entries must agree.

    Raises
    ------
    InputError
        The parts were scanned or treated differently, or the sums exceed 2**62.
    """
    result: Summary = {}
    for name, values in first.items():
        if name.startswith("sum_"):
            if np.abs(values).max(initial=0) > 2**61 or np.abs(second[name]).max(initial=0) > 2**61:
                remedy = "fit to fewer layers, or choose scaling 'log'"
                raise InputError("the sums of all curves", "exceed 2**62", remedy)
            result[name] = values + second[name]
        elif not name.startswith("sample_"):
            if name not in second or not np.array_equal(values, second[name], equal_nan=True):
                raise InputError(
                    f"{name} of the curves", "differs between parts of the scan", "fit to layers of one scan"
                )
            result[name] = values
    sample = {n: np.concatenate([first[n], second[n]]) for n in first if n.startswith("sample_")}
    if not sample:
        return result
    order = np.lexsort((sample["sample_rank"], sample["sample_layer"]))
    layer = sample["sample_layer"][order]
    begins = np.flatnonzero(np.r_[True, layer[1:] != layer[:-1]]) if layer.size else np.zeros(0, int)
    within = np.arange(layer.size) - np.repeat(begins, np.diff(np.r_[begins, layer.size]))
    order = order[within < LAYER_SAMPLE]
    order = order[np.argsort(sample["sample_rank"][order], kind="stable")]
    most = min(SAMPLE, max(LAYER_SAMPLE, SAMPLE_VALUES // max(1, sample["sample_curves"].shape[1])))
    return result | {n: v[order[:most]] for n, v in sample.items()}


def gram(summary: Summary) -> np.ndarray:
    """Sum of the products of two frames over all curves, (frame, frame), float64."""
    return np.asarray(summary["sum_gram"].astype(np.float64) * STEPS[int(summary["scaling"][0])] ** 2)


def mean_curve(summary: Summary) -> np.ndarray:
    """Mean of all curves, (frame,), float64; NaN without any."""
    pixels = int(summary["sum_pixels"])
    total = summary["sum_curve"].astype(np.float64) * STEPS[int(summary["scaling"][0])]
    return total / pixels if pixels else np.full_like(total, np.nan)


def described(
    method: str, summary: Summary, basis: np.ndarray, mean: np.ndarray | None = None, nonnegative: bool = False
) -> Summary:
    """The variables of :func:`basis_variables` for a basis (component, frame), returned by ``finish`` of a fit.

    Parameters
    ----------
    mean : array (frame,), optional
        Subtracted before the projection; by default zero.
    nonnegative : bool
        Whether the projection restricts coefficients to non-negative values.
    """
    grids = {name: values for name, values in summary.items() if name.startswith("grid_")}
    lengths = next(iter(grids.values())).shape
    scaling = np.array([*summary["scaling"][:3], float(nonnegative)])
    mean = np.zeros(lengths) if mean is None else np.asarray(mean, np.float64).reshape(lengths)
    return {
        f"{method}_basis": np.asarray(basis, np.float64).reshape(len(basis), *lengths),
        f"{method}_mean": mean,
        f"{method}_scaling": scaling,
        **{f"{method}_{name}": values for name, values in grids.items()},
    }
