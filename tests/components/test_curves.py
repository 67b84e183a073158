"""Treatment of counts and the summary that fits are made from, against plain numpy on whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.components import curves as c
from dfxm_dask.components import pca

SCAN = {"chi": np.arange(3.0), "phi": np.linspace(0, 0.4, 5)}


def counts_of(shape: tuple[int, int] = (40, 60), seed: int = 1, frames: tuple[int, ...] = (3, 5)) -> np.ndarray:
    """Counts (y, x, scan axes) as a view of a buffer in storage order, about a background of 100."""
    generator = np.random.default_rng(seed)
    values = 95 + generator.poisson(generator.uniform(0, 400, shape), (*frames, *shape)).astype(np.uint16)
    return np.moveaxis(values, (-2, -1), (0, 1))


def truth(counts: np.ndarray, level: float, kind: str, offset: float) -> np.ndarray:
    """The formulas, in float64: (pixel, frame)."""
    above = counts.reshape(-1, int(np.prod(counts.shape[2:]))).astype(float) - level
    if kind == "log":
        return np.log(np.maximum(above, 0) + offset)
    return 2 * np.sqrt(np.maximum(above + offset, 0)) if kind == "anscombe" else above


@pytest.mark.parametrize(("kind", "offset"), [("log", 1.0), ("log", 0.02), ("anscombe", 4.5), ("plain", 0.0)])
def test_treated__is_the_formula_to_half_a_step(kind: c.Kind, offset: float) -> None:
    counts = counts_of()
    scaling = c.scaling_of("x", kind, offset, 100.4, None)
    level = c.dark_level("x", scaling, None, counts.shape[:2])
    found = c.treated(counts, level, np.arange(2400), scaling).T
    step = c.STEPS[c.KINDS.index(kind)]
    assert np.abs(found - truth(counts, 100.4, kind, offset)).max() < 0.55 * step
    np.testing.assert_array_equal(found / step, np.rint(found / step))


@pytest.mark.parametrize("kind", c.KINDS)
def test_treated__gives_nan_where_a_value_is_not_finite_and_nowhere_else(kind: c.Kind) -> None:
    counts = np.full((2, 3, 4), 150, np.float32)
    counts[0, 1, 2], counts[1, 2, 0] = np.nan, np.inf
    level = np.full((2, 3), 100, np.float32)
    level[1, 0] = np.nan
    found = c.treated(counts, level, np.arange(6), c.scaling_of("x", kind, None, None, level)).T.reshape(2, 3, 4)
    wrong = ~np.isfinite(counts - level[:, :, None])
    np.testing.assert_array_equal(np.isnan(found), wrong)


def test_summary__is_the_gram_matrix_and_the_mean_of_the_used_curves() -> None:
    counts = counts_of()
    counts = counts.astype(np.float32)
    counts[3, 5, 1, 1] = np.nan
    used = np.random.default_rng(3).random((40, 60)) < 0.7
    used[3, 5] = True
    scaling = c.scaling_of("x", "anscombe", None, 100, None)
    summary = c.summarise(counts, SCAN, used, np.full((40, 60), 100, np.float32), scaling)
    clean = used.copy()
    clean[3, 5] = False
    curves = truth(counts, 100, "anscombe", 0.375)[clean.ravel()]
    curves = np.rint(curves * 128) / 128
    assert int(summary["sum_pixels"]) == clean.sum()
    np.testing.assert_allclose(c.gram(summary), curves.T @ curves, rtol=1e-12)
    np.testing.assert_allclose(c.mean_curve(summary), curves.mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(summary["grid_phi"], np.broadcast_to(SCAN["phi"], (3, 5)))


def pieces(counts: np.ndarray, cuts: list[tuple[slice, slice]], z: float) -> list[c.Summary]:
    scaling = c.scaling_of("x", "log", None, 100, None)
    y, x = 0.5 * np.arange(counts.shape[0]), 0.25 * np.arange(counts.shape[1])
    level = np.full(counts.shape[:2], 100, np.float32)
    return [
        c.summarise(counts[rows, columns], SCAN, None, level[rows, columns], scaling, z, y[rows], x[columns])
        for rows, columns in cuts
    ]


def test_summary__is_the_same_to_the_last_bit_however_it_is_cut_and_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(c, "LAYER_SAMPLE", 50)
    monkeypatch.setattr(c, "SAMPLE", 120)
    layers = [counts_of(seed=k) for k in range(4)]
    whole = [pieces(counts, [(slice(None), slice(None))], z)[0] for z, counts in enumerate(layers)]
    merged = whole[0]
    for part in whole[1:]:
        merged = c.add_summaries(merged, part)
    cuts = [(slice(0, 7), slice(None)), (slice(7, 40), slice(0, 33)), (slice(7, 40), slice(33, 60))]
    parts = [part for z, counts in enumerate(layers) for part in pieces(counts, cuts, z)]
    parts = [parts[k] for k in np.random.default_rng(7).permutation(len(parts))]
    while len(parts) > 1:  # another tree than the chain above
        parts = [
            c.add_summaries(*parts[k : k + 2]) if k + 1 < len(parts) else parts[k] for k in range(0, len(parts), 2)
        ]
    assert merged.keys() == parts[0].keys()
    for name, values in merged.items():
        np.testing.assert_array_equal(values, parts[0][name], err_msg=name)
    assert merged["sample_curves"].shape == (120, 15)
    assert np.unique(merged["sample_layer"], return_counts=True)[1].max() <= 50


def test_sample__holds_curves_of_the_layer_evenly_spread() -> None:
    counts = counts_of((300, 200), frames=(3, 5))
    counts = np.array(counts)
    counts[..., 0, 0] = 100 + np.arange(300)[:, None]  # this frame tells the row
    (summary,) = pieces(counts, [(slice(None), slice(None))], 0.0)
    rows = np.rint(np.exp(summary["sample_curves"][:, 0]) - 1).astype(int)
    assert len(rows) == 2000
    found = np.histogram(rows, 10, (0, 300))[0]
    assert found.min() > 150  # of 200, with a standard deviation of 14
    assert found.max() < 250
    everything = c.treated(
        counts, np.full((300, 200), 100, np.float32), np.arange(60000), c.scaling_of("x", "log", None, 100, None)
    ).T
    assert {v.tobytes() for v in summary["sample_curves"]} <= {v.tobytes() for v in everything}


def test_summary__of_nothing_is_empty_and_adds_up() -> None:
    counts = counts_of((4, 5))
    scaling = c.scaling_of("x", "log", None, 100, None)
    level = np.full((4, 5), 100, np.float32)
    none = c.summarise(counts, SCAN, np.zeros((4, 5), bool), level, scaling)
    assert int(none["sum_pixels"]) == 0
    assert np.isnan(c.mean_curve(none)).all()
    some = c.summarise(counts, SCAN, None, level, scaling)
    for name, values in c.add_summaries(none, some).items():
        np.testing.assert_array_equal(values, some[name], err_msg=name)


def test_summaries__of_different_grids_or_scalings_are_refused() -> None:
    counts, level = counts_of((4, 5)), np.full((4, 5), 100, np.float32)
    log = c.scaling_of("x", "log", None, 100, None)
    first = c.summarise(counts, SCAN, None, level, log)
    other = c.summarise(counts, SCAN | {"phi": SCAN["phi"] + 1e-3}, None, level, log)
    with pytest.raises(ValueError, match="grid_phi of the curves: differs between parts of the scan"):
        c.add_summaries(first, other)
    with pytest.raises(ValueError, match="scaling of the curves: differs"):
        c.add_summaries(first, c.summarise(counts, SCAN, None, level, c.scaling_of("x", "log", 2.0, 100, None)))
    huge = first | {"sum_gram": np.full((15, 15), 2**62)}
    with pytest.raises(ValueError, match=r"sums of all curves: exceed 2\*\*62"):
        c.add_summaries(huge, first)


def test_counts__too_large_for_exact_sums_are_refused() -> None:
    counts = np.full((2, 2, 3), 600_000.0, np.float32)
    scaling = c.scaling_of("x", "plain", None, "none", None)
    with pytest.raises(
        ValueError, match="curves with scaling 'plain': reach 600000; scale the counts down below 524288"
    ):
        c.summarise(counts, {"phi": np.arange(3.0)}, None, np.zeros((2, 2), np.float32), scaling)


def test_scaling__bad_words_are_refused() -> None:
    level = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="there is a background map already"):
        c.scaling_of("pca", "log", None, 3.0, level)
    with pytest.raises(ValueError, match="pca without a background: would count the detector offset as light"):
        c.scaling_of("pca", "log", None, None, None)
    for kind, offset in (("log", 0.0), ("anscombe", -1.0), ("plain", 2.0), ("log", np.nan)):
        with pytest.raises(ValueError, match=f"does not suit scaling '{kind}'"):
            c.scaling_of("pca", kind, offset, 3.0, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the basis was fitted with a background map"):
        c.dark_level("project", c.scaling_of("pca", "log", None, None, level), None, (2, 2))
    with pytest.raises(ValueError, match="was fitted with a background of 3 counts everywhere"):
        c.dark_level("project", c.scaling_of("pca", "log", None, 3.0, None), level, (2, 2))
    with pytest.raises(ValueError, match="components=9: the scan has 7 frames; choose at most 7"):
        pca.kernel(np.zeros((2, 2, 7), np.uint16), {"phi": np.arange(7.0)}, components=9, background=3.0)


def test_described__names_every_variable_of_a_basis() -> None:
    counts, level = counts_of((4, 5)), np.full((4, 5), 100, np.float32)
    summary = c.summarise(counts, SCAN, None, level, c.scaling_of("x", "log", None, 100, None))
    found = c.described("pca", summary, np.eye(15)[:2], nonnegative=True)
    assert {n: v.shape for n, v in found.items()} == {
        "pca_basis": (2, 3, 5),
        "pca_mean": (3, 5),
        "pca_scaling": (4,),
        "pca_grid_chi": (3, 5),
        "pca_grid_phi": (3, 5),
    }
    assert found["pca_scaling"].tolist() == [0, 1, 100, 1]
