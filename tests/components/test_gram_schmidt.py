"""Gram–Schmidt basis: algebra against QR and SVD, regions against naive loops and known places, phantoms and truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from dfxm_dask.beams import local_peak
from dfxm_dask.components import gram_schmidt
from dfxm_dask.components.curves import dark_level, scaling_of, treated
from dfxm_dask.components.drawn_regions import drawn_regions
from dfxm_dask.components.gram_schmidt import _largest_three, _rocking_axis
from dfxm_dask.components.region_curves import chosen_parts, orthonormal, region_sums
from dfxm_dask.components.regions import (
    clustered_regions,
    clusters_of,
    found_regions,
    peak_parts,
    surroundings,
    tail_means,
)
from tests.beams.phantoms import auc, layer

PHI = np.linspace(-4, 4, 17)
NAMES = ("strong", "weak_minus", "weak_plus")


def boxes(**places: list[float]) -> list[dict[str, Any]]:
    return [{"name": n, "box": b, "unit": "pixel"} for n, b in places.items()]


STRIPES = boxes(strong=[0, 24, 0, 24], weak_minus=[0, 24, 24, 48], weak_plus=[0, 24, 48, 72])


def striped(seed: int, layers: int = 1) -> list[np.ndarray]:
    """Layers of three stripes: a peak alone, and with a tail on either side; Poisson noise on a background of 10."""
    generator = np.random.default_rng(seed)
    peak = 300 * np.exp(-(PHI**2))
    curves = np.stack([peak, peak + 40 * (np.abs(PHI + 3) < 1), peak + 25 * (np.abs(PHI - 3) < 1)])
    mean = 10 + np.repeat(np.repeat(curves[None], 24, axis=0), 24, axis=1)
    return [generator.poisson(mean).astype(np.uint16) for _ in range(layers)]


def fit(layers: list[np.ndarray], regions: list[dict[str, Any]] | None = STRIPES, **parameters: Any) -> dict[str, Any]:
    merged = None
    for z, counts in enumerate(layers):
        one = np.ones(counts.shape[:2], np.float32)
        y, x = (np.arange(float(n)) for n in counts.shape[:2])
        summary = gram_schmidt.kernel(
            counts,
            {"phi": PHI},
            one > 0,
            0 * one,
            one,
            True,
            y,
            x,
            z=float(z),
            regions=regions,
            background=10,
            **parameters,
        )
        merged = summary if merged is None else gram_schmidt.combine(merged, summary)
    return gram_schmidt.finish(merged)


def curves_of(layers: list[np.ndarray], scaling: str = "log") -> np.ndarray:
    """Treated curves of all pixels (pixel, frame)."""
    numbers = scaling_of("test", scaling, None, 10, None)  # type: ignore[arg-type]
    level = dark_level("test", numbers, None, layers[0].shape[:2])
    return np.concatenate([treated(c, level, np.arange(level.size), numbers).T for c in layers]).astype(float)


@pytest.mark.parametrize("alike", [1.0, 1e-3, 1e-5])
def test_orthonormal__is_so_to_rounding_and_equals_qr_up_to_sign(alike: float) -> None:
    generator = np.random.default_rng(4)
    curves = generator.normal(size=31) + alike * generator.normal(size=(3, 31))
    basis = orthonormal(curves)
    assert np.abs(basis @ basis.T - np.eye(3)).max() < 1e-12
    q, r = np.linalg.qr(curves.T)
    np.testing.assert_allclose(basis, q.T * np.sign(np.diag(r))[:, None], atol=1e-13 / alike)
    assert (np.einsum("kf,kf->k", basis, curves) > 0).all()


def test_orthonormal__of_dependent_curves_is_nothing() -> None:
    curves = np.array([[1.0, 2, 3], [0, 1, 0], [2, 5, 6]])
    assert np.isnan(orthonormal(curves)).all()
    assert np.isnan(orthonormal(np.array([[1.0, np.nan]]))).all()


@pytest.mark.parametrize("order", [NAMES, ("weak_plus", "strong", "weak_minus")])
def test_gram_schmidt__is_qr_of_the_mean_curves_in_the_order_asked_for(order: tuple[str, ...]) -> None:
    layers = striped(1, 2)
    found = fit(layers, order=order)
    curves = curves_of(layers).reshape(2, 24, 3, 24, -1).mean(axis=(0, 1, 3))
    means = np.stack([curves[NAMES.index(n)] for n in order])
    q, r = np.linalg.qr(means.T)
    np.testing.assert_allclose(found["gram_schmidt_basis"], q.T * np.sign(np.diag(r))[:, None], atol=1e-12)
    assert float(found["gram_schmidt_condition"]) == pytest.approx(np.linalg.cond(means), rel=1e-10)
    assert found["gram_schmidt_pixels"].tolist() == [2 * 24 * 24] * 3
    assert [NAMES[k] for k in found["gram_schmidt_region"]] == list(order)
    assert found["gram_schmidt_has_tails"]


def test_gram_schmidt__leaves_no_less_than_the_singular_vectors() -> None:
    layers = striped(2, 2)
    found, curves = fit(layers), curves_of(layers)
    basis = found["gram_schmidt_basis"]
    left = curves - curves @ basis.T @ basis
    assert float(found["gram_schmidt_rms"]) == pytest.approx(np.sqrt((left**2).mean()), rel=1e-9)
    singular = np.linalg.svd(curves, compute_uv=False)
    best = np.sqrt((singular[3:] ** 2).sum() / curves.size)
    assert float(found["gram_schmidt_rms_least"]) == pytest.approx(best, rel=1e-9)
    assert best < float(found["gram_schmidt_rms"]) < 1.05 * best  # three curves made these data


def test_gram_schmidt__three_largest_eigenvalues_of_many_frames_are_those_of_all() -> None:
    values = np.random.default_rng(3).normal(size=(300, 260)) * np.linspace(1, 3, 260)
    products = values.T @ values
    expected = np.linalg.eigvalsh(products)[-3:].sum()
    assert _largest_three(products) == pytest.approx(expected, rel=1e-12)
    assert _largest_three(0 * products) == 0


def test_gram_schmidt__bootstrap_is_how_far_the_basis_scatters() -> None:
    scatter = np.stack([fit(striped(s))["gram_schmidt_basis"] for s in range(20)]).std(axis=0, ddof=1)
    told = np.mean([fit(striped(s))["gram_schmidt_bootstrap"] for s in range(4)], axis=0)
    ratio = np.sqrt((told**2).mean(axis=1) / (scatter**2).mean(axis=1))
    assert (ratio > 0.75).all(), ratio
    assert (ratio < 1.35).all(), ratio


@pytest.mark.parametrize(
    ("regions", "text"),
    [
        (boxes(strong=[0, 5, 0, 5], weak_minus=[0, 5, 5, 9]), "region 'weak_plus': is not drawn"),
        (boxes(strong=[5, 5, 0, 5], weak_minus=[0, 5, 5, 9], weak_plus=[0, 9, 0, 9]), "region 'strong', .* is empty"),
        (
            boxes(strong=[0, 5, 0, 5], weak_minus=[0, 5, 70, 79], weak_plus=[0, 9, 0, 9]),
            "region 'weak_minus', .* reaches outside the frame",
        ),
        (
            boxes(strong=[0, 5, 0, 5], weak_minus=[0, 5, 20, 29], weak_plus=[1.2, 1.4, 0, 9]),
            "region 'weak_plus', .* contains no pixel",
        ),
        (
            [*STRIPES[:2], STRIPES[2] | {"z": 7.0}],
            "region 'weak_plus': is unlit in every layer, or belongs to a layer that does not exist",
        ),
        ([STRIPES[0], STRIPES[1], STRIPES[0] | {"name": "weak_plus"}], "linearly dependent curves"),
    ],
)
def test_gram_schmidt__refuses_bad_regions_by_name(regions: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fit(striped(1), regions)


def test_drawn_regions__in_um_are_those_in_pixels_and_only_lit_ones_count() -> None:
    lit = np.ones((20, 30), bool)
    lit[:, 10:14] = False
    y, x = 5 + 0.5 * np.arange(20), -2 + 0.25 * np.arange(30)
    pixel = boxes(strong=[2, 8, 4, 16], weak_minus=[0, 20, 20, 30], weak_plus=[3, 4, 0, 1])
    um = [
        {"name": r["name"], "box": [5 + 0.5 * a, 5 + 0.5 * b, -2 + 0.25 * c, -2 + 0.25 * d], "unit": "um"}
        for r in pixel
        for a, b, c, d in [r["box"]]
    ]
    masks = drawn_regions(pixel, lit, 0.0, y, x)
    np.testing.assert_array_equal(masks, drawn_regions(um, lit, 0.0, y, x))
    expected = np.zeros_like(lit)
    expected[2:8, 4:16] = True
    np.testing.assert_array_equal(masks[0], expected & lit)
    with pytest.raises(ValueError, match=r"region 'strong', .* is unlit at z = 3 um"):
        drawn_regions([{**pixel[0], "box": [0, 5, 10, 14], "z": 3.0}, *pixel], lit, 3.0, y, x)


def test_gram_schmidt__refuses_bad_words() -> None:
    with pytest.raises(ValueError, match="repeats a name"):
        fit(striped(1), order=("strong", "strong", "weak_plus"))
    with pytest.raises(ValueError, match="axis 'chi': the scan has phi"):
        fit(striped(1), axis="chi")
    with pytest.raises(ValueError, match="Input should be 'strong', 'weak_minus' or 'weak_plus'"):
        gram_schmidt.validate({"regions": [{"name": "weak", "box": [0, 1, 0, 1]}]})


def test_tail_means__equal_a_naive_loop() -> None:
    generator = np.random.default_rng(6)
    counts = generator.poisson(50, (5, 6, 17)).astype(np.float32)
    counts[2, 3, 4] = np.nan
    lit = generator.random((5, 6)) < 0.8
    lit[2, 3] = True
    peak, width = (generator.uniform(a, b, (5, 6)).astype(np.float32) for a, b in ((-1, 1), (0.4, 0.9)))
    numbers = scaling_of("test", "log", None, 10, None)
    means, frames = tail_means(counts, np.full((5, 6), 10, np.float32), numbers, PHI, lit, peak, width)
    curves = np.log(np.maximum(counts.astype(float) - 10, 0) + 1)
    for (y, x), here in np.ndenumerate(lit):
        u = (PHI - float(peak[y, x])) / float(width[y, x])
        for side, half in enumerate((u < 0, u > 0)):
            h = half / ((1 + np.exp((2 - np.abs(u)) / 0.3)) * (1 + np.exp((np.abs(u) - 6) / 0.3)))
            if not here or np.isnan(curves[y, x]).any():
                assert np.isnan(means[side, y, x])
                assert frames[side, y, x] == 0
                continue
            assert frames[side, y, x] == pytest.approx(h.sum(), abs=0.02)
            assert means[side, y, x] == pytest.approx((h * curves[y, x]).sum() / h.sum(), abs=0.02)


def test_surroundings__are_the_running_median_where_a_block_is_a_pixel() -> None:
    values = np.random.default_rng(8).normal(size=(30, 40)).astype(np.float32)
    expected = ndimage.median_filter(values, [9, 9], mode="nearest")  # 4 um of 0.5 um
    np.testing.assert_array_equal(surroundings(values, (0.5, 0.5)), expected)
    holes = np.where(np.random.default_rng(9).random(values.shape) < 0.1, np.nan, values).astype(np.float32)
    known = surroundings(holes, (0.5, 0.5))
    assert np.isfinite(known).all()
    assert np.abs(known - expected).mean() < 0.1  # of 81 values with a standard deviation of 1, eight are missing
    assert np.isnan(surroundings(np.full((4, 4), np.nan, np.float32), (0.5, 0.5))).all()


def test_found_regions__are_what_stands_out_and_what_lies_far_from_it() -> None:
    generator = np.random.default_rng(10)
    means = generator.normal(0, 0.05, (2, 200, 200)).astype(np.float32)
    spots = np.zeros((2, 200, 200), bool)
    spots[0, 50:56, 60:70], spots[1, 120:126, 100:112] = True, True
    means += 3 * spots
    means += np.linspace(0, 2, 200, dtype=np.float32)  # bending: not what is looked for
    lit = np.ones((200, 200), bool)
    lit[:, 180:] = False
    masks = found_regions(means, np.full(means.shape, 3, np.float32), lit, (0.25, 0.25))
    for mask, spot in zip(masks[1:], spots, strict=True):
        assert mask[spot].all()
    assert (masks[1:] & ~np.pad(lit[:, :176], ((0, 0), (0, 24)))).sum() == 0  # 1 um off the border of the lit places
    strong = masks[0]
    assert strong[lit].mean() > 0.1
    distance = ndimage.distance_transform_edt(~(masks[1] | masks[2]))
    assert (distance[strong] > 6).all()  # 1.5 um
    assert found_regions(means, np.full(means.shape, 3, np.float32), lit, (0.25, 0.25), weak=False)[1:].sum() == 0
    assert found_regions(means, np.ones(means.shape, np.float32), lit, (0.25, 0.25))[1:].sum() == 0
    assert found_regions(means, np.ones(means.shape, np.float32), ~lit & lit, (0.25, 0.25)).sum() == 0


def grains(shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """A layer of grains whose peaks lie apart, without tails, and the number of its grain for each pixel."""
    generator = np.random.default_rng(12)
    grain = np.repeat(np.repeat(np.arange(9).reshape(3, 3), 12, axis=0), 12, axis=1)
    places = shift * (np.arange(9) - 4) / 4
    height = np.where(np.arange(9) == 4, 900, 300)
    mean = 10 + height[grain][..., None] * np.exp(-((PHI - places[grain][..., None]) ** 2) / 0.5)
    return generator.poisson(mean).astype(np.uint16), grain


def test_gram_schmidt__of_a_scan_without_weak_beam_says_so_and_takes_clusters() -> None:
    counts, _ = grains()
    one = np.ones(counts.shape[:2], np.float32)
    y = np.arange(36.0)
    summary = gram_schmidt.kernel(counts, {"phi": PHI}, one > 0, 0 * one, one, False, y, y, background=10)
    found = gram_schmidt.finish(summary)
    assert not found["gram_schmidt_has_tails"]
    basis = found["gram_schmidt_basis"]
    assert np.abs(basis @ basis.T - np.eye(3)).max() < 1e-12
    assert (found["gram_schmidt_pixels"] > 100).all()
    assert np.isfinite(found["gram_schmidt_bootstrap"]).all()
    weak = (np.sign(basis[2]) * np.abs(basis[2])) @ PHI - basis[1] @ PHI
    assert weak > 0  # weak_plus looks to the high side
    again = gram_schmidt.finish(
        gram_schmidt.kernel(counts, {"phi": PHI}, one > 0, 0 * one, one, False, y, y, background=10)
    )
    np.testing.assert_array_equal(again["gram_schmidt_basis"], basis)


def test_clusters__part_curves_by_their_shape_and_not_their_height() -> None:
    counts, grain = grains(3.0)
    curves = counts.reshape(-1, PHI.size).astype(np.float32)
    label = clusters_of(curves, 0)
    for k in range(9):
        assert np.bincount(label[grain.ravel() == k]).max() > 0.95 * (grain == k).sum()
    masks = clustered_regions(curves, PHI, 0)
    peaks = [curves[m].mean(axis=0).argmax() for m in masks]
    assert peaks[1] < peaks[0] < peaks[2]
    assert (clusters_of(np.ones((50, 5), np.float32), 0) == -1).all()
    assert not clustered_regions(np.ones((50, 5), np.float32), np.arange(5.0), 0).any()


def subgrains() -> tuple[np.ndarray, np.ndarray]:
    """Treated curves of two subgrains without tails, with tails below and above the peak, and what each is (0 to 5)."""
    generator = np.random.default_rng(21)
    kind = np.repeat(np.arange(6), (400, 300, 40, 30, 35, 45))
    centre = np.where(kind % 2, 0.8, -0.8)[:, None]
    tail = np.where(kind < 2, 0, np.where(kind < 4, -1, 1))[:, None]
    curves = 5 * np.exp(-((PHI - centre) ** 2)) + 0.8 * (tail != 0) * (np.abs(PHI - centre - 2.6 * tail) < 1)
    return curves + generator.normal(0, 0.1, curves.shape), kind


def test_chosen_parts__are_those_whose_coefficients_tell_the_weak_regions_best() -> None:
    """Against every choice, with the coefficient of every curve by QR."""
    curves, kind = subgrains()
    region, part = kind // 2, 3 + 2 * (kind % 2)
    sums, pixels = np.zeros((3, 16, PHI.size)), np.zeros((3, 16), int)
    np.add.at(sums, (region, part), curves)
    np.add.at(pixels, (region, part), 1)
    found = chosen_parts(sums, pixels, curves.mean(axis=0), np.cov(curves.T, ddof=0))
    told = {}
    for choice in np.ndindex(3, 3, 3):
        chosen = [(region == k) & ((c == 2) | (part == (3, 5, 0)[c])) for k, c in enumerate(choice)]
        means = np.stack([curves[c].mean(axis=0) for c in chosen])
        basis = np.linalg.qr(means.T)[0]
        weak = (curves @ (basis * np.sign(np.einsum("fk,kf->k", basis, means))))[:, 1:]
        beyond = [weak[region == k, k - 1].mean() - weak[:, k - 1].mean() for k in (1, 2)]
        told[choice] = (beyond / weak.std(axis=0)).min()
    best = max(told, key=lambda c: told[c])
    assert [(3, 5, None)[c] for c in best] == [p.start for p in found]
    assert told[best] > 1.2 * told[2, 2, 2]


def test_chosen_parts__are_all_where_nothing_is_parted_or_parts_are_small() -> None:
    curves, kind = subgrains()
    sums, pixels = np.zeros((3, 16, PHI.size)), np.zeros((3, 16), int)
    part = np.where(np.arange(kind.size) % 25, 7, 8)  # 4 % in another part: too few to stand for the region
    np.add.at(sums, (kind // 2, part), curves)
    np.add.at(pixels, (kind // 2, part), 1)
    found = chosen_parts(sums, pixels, curves.mean(axis=0), np.cov(curves.T, ddof=0))
    assert all(p.start in (None, 7) for p in found)
    one = chosen_parts(sums.sum(1)[:, None], pixels.sum(1)[:, None], sums[0, 7], np.eye(PHI.size))
    assert one == [slice(None)] * 3


def test_peak_parts__are_the_same_for_a_position_wherever_it_stands() -> None:
    peak = np.random.default_rng(7).uniform(-4, 4, (20, 30)).astype(np.float32)
    parts = peak_parts(peak, PHI)
    np.testing.assert_array_equal(parts, np.floor((peak.astype(float) + 4) * 2))
    np.testing.assert_array_equal(peak_parts(peak[3:9, 20:], PHI[::-1]), parts[3:9, 20:])


def test_region_sums__are_those_of_a_naive_loop_and_add_up_over_parts_and_layers() -> None:
    layers = striped(5, 2)
    generator = np.random.default_rng(9)
    masks = generator.random((3, 24, 72)) < 0.3
    part = generator.integers(0, 16, (24, 72))
    numbers = scaling_of("test", "log", None, 10, None)
    level = dark_level("test", numbers, None, (24, 72))
    for z, counts in enumerate(layers):
        told = region_sums(counts, level, numbers, masks, part, float(z), (1.0, 1.0))
        whole = region_sums(counts, level, numbers, masks, None, float(z), (1.0, 1.0))
        curves = (curves_of([counts]) * 2**13).reshape(24, 72, -1)
        for k, p in np.ndindex(3, 16):
            here = masks[k] & (part == p)
            np.testing.assert_array_equal(told["sum_region"][k, p], curves[here].sum(axis=0))
            assert told["sum_region_pixels"][k, p] == here.sum()
        for name, values in whole.items():
            axis = {"sum_region": 1, "sum_region_pixels": 1, "sum_drawn": 2, "sum_drawn_pixels": 2}[name]
            np.testing.assert_array_equal(told[name].sum(axis=axis, keepdims=True), values)


@pytest.mark.parametrize(
    ("name", "seed"),
    [("easy", 3), *(pytest.param("multigrain", k, marks=pytest.mark.slow) for k in (1, 3, 5))],
)
def test_gram_schmidt__by_itself_tells_dislocations_as_well_as_the_best_of_20_who_draw(name: str, seed: int) -> None:
    """The larger of both weak coefficients above its surroundings of 2 um, against known distances.

    Boxes of 10 pixels are drawn by one who knows the truth: strong far from dislocations, weak on them. Of several
    subgrains the coefficient as it is shows how these are turned, and tells dislocations by luck where more of them lie
    in one of the subgrains. So as it is, the best of 20 is its measure in the easy layer only.
    """
    made = layer(name, seed)
    local = local_peak.kernel(made.counts, made.scan, made.y, made.x, made.level)
    lit, distance = local["lit"], made.truth["distance"]
    near, away = lit & (distance < 0.5), lit & (distance > 2.5)
    generator = np.random.default_rng(0)
    sides = [2 / abs(float(p[1] - p[0])) for p in (made.y, made.x)]
    numbers = scaling_of("test", "log", None, None, made.level)
    curves = treated(made.counts, made.level, np.arange(lit.size), numbers).T.reshape(*lit.shape, -1)
    share = np.maximum(ndimage.gaussian_filter(lit.astype(float), sides), 1e-9)

    def score(basis: np.ndarray) -> tuple[float, float]:
        weak = np.where(lit, (curves @ basis[1:].T.astype(np.float32)).max(axis=2), 0)
        return auc(weak, near, away), auc(weak - ndimage.gaussian_filter(weak, sides) / share, near, away)

    def box(where: np.ndarray) -> np.ndarray:
        inside = np.flatnonzero(where[5:-5, 5:-5])
        y, x = divmod(int(generator.choice(inside)), where.shape[1] - 10)
        return curves[y : y + 10, x : x + 10][lit[y : y + 10, x : x + 10]].mean(axis=0, dtype=float)

    drawn = np.array([score(orthonormal(np.stack([box(away), box(near), box(near)]))) for _ in range(20)])
    summary = gram_schmidt.kernel(
        made.counts,
        made.scan,
        lit,
        local["peak_local"],
        local["width_local"],
        local["has_weak_beam"],
        made.y,
        made.x,
        made.level,
    )
    found = gram_schmidt.finish(summary)
    assert found["gram_schmidt_has_tails"]
    plain, high_passed = score(found["gram_schmidt_basis"])
    assert high_passed >= drawn[:, 1].max()
    if name == "easy":
        assert plain >= drawn[:, 0].max()


def test_rocking_axis__is_the_one_whose_peaks_local_peak_found() -> None:
    from dfxm_dask.beams.prior import rocking_axis

    for sizes in ({"chi": 5, "omega": 31}, {"phi": 2, "chi": 31}, {"chi": 4, "phi": 3}, {"phi": 31}):
        scan = {name: np.arange(float(n)) for name, n in sizes.items()}
        assert _rocking_axis(scan, None) == rocking_axis("x", scan)
