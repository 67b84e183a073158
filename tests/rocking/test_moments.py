"""Moments against closed forms, a naive float64 loop in two passes, and darling on a real scan."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfxm_dask.errors import InputError
from dfxm_dask.rocking import moments


def scan_last(frames: np.ndarray) -> np.ndarray:
    return np.moveaxis(frames, (-2, -1), (0, 1))


def naive(counts: np.ndarray, scan: dict[str, np.ndarray], background: float | np.ndarray) -> dict[str, np.ndarray]:
    """Two passes per pixel, in float64, as in the textbook."""
    result: dict[str, np.ndarray] = {}
    names = list(scan)
    grid = np.meshgrid(*scan.values(), indexing="ij")
    level = np.broadcast_to(background, counts.shape[:2])
    for y, x in np.ndindex(counts.shape[:2]):
        w = np.maximum(counts[y, x].astype(np.float64) - float(level[y, x]), 0)
        values = {"total": w.sum(), "peak": w.max()}
        if w.max() > 0:
            with np.errstate(invalid="ignore", divide="ignore"):
                deviation = {}
                for name, u in zip(names, grid, strict=True):
                    values[f"peak_{name}"] = u.ravel()[w.argmax()]
                    com = values[f"com_{name}"] = (w * u).sum() / w.sum()
                    d = deviation[name] = u - com
                    std = values[f"std_{name}"] = np.sqrt((w * d**2).sum() / w.sum())
                    values[f"skewness_{name}"] = (w * d**3).sum() / w.sum() / std**3
                    values[f"kurtosis_{name}"] = (w * d**4).sum() / w.sum() / std**4 - 3
                for i, name in enumerate(names):
                    for other in names[i + 1 :]:
                        product = (w * deviation[name] * deviation[other]).sum() / w.sum()
                        values[f"cov_{name}_{other}"] = product
        for key, value in values.items():
            result.setdefault(key, np.full(counts.shape[:2], np.nan))[y, x] = value
    return result


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], scan: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        word, _, axis = name.partition("_")
        reach = np.ptp(scan[axis.split("_")[0]]) if axis else 1.0
        relative = {"total": 1e-6, "peak": 1e-6, "std": 1e-5, "skewness": 1e-3, "kurtosis": 1e-3}.get(word, 0)
        absolute = {"com": 1e-6, "peak": 1e-6, "cov": 1e-6 * reach, "skewness": 1e-3, "kurtosis": 1e-3}.get(word, 1e-9)
        np.testing.assert_allclose(found[name], values, rtol=relative, atol=absolute * reach, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "columns"),
    [
        ("uint16", 1),
        ("uint16", 63),
        ("uint16", 64),
        ("uint16", 65),
        ("float32", 130),
        pytest.param("uint32", 130, marks=pytest.mark.slow),  # compiles for seconds
    ],
)
def test_moments__one_axis_is_the_naive_two_pass_loop(dtype: str, columns: int) -> None:
    rng = np.random.default_rng(1)
    scan = {"phi": np.sort(rng.uniform(-0.3, 0.7, 31))}
    counts = scan_last(rng.poisson(120, (31, 3, columns)).astype(dtype))
    background = rng.uniform(90, 110, (3, columns)).astype(np.float32)
    found = moments.kernel(counts, scan, background_map=background)
    assert_close(found, naive(counts, scan, background), scan)


@pytest.mark.parametrize("lengths", [(4, 9), (7, 3), (1, 6), (5, 1), (2, 3, 4)])
def test_moments__several_axes_are_the_naive_two_pass_loop(lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    names = ("chi", "phi", "energy")[: len(lengths)]
    scan = {name: np.linspace(-1 - k, 2 + k, n) for k, (name, n) in enumerate(zip(names, lengths, strict=True))}
    counts = scan_last(rng.poisson(30, (*lengths, 4, 70)).astype(np.uint16))
    expected = naive(counts, scan, 20.0)
    found = moments.kernel(counts, scan, background=20)
    assert {name for name in found if name != "flags"} == set(expected)
    with np.errstate(invalid="ignore"):
        for name, length in zip(names, lengths, strict=True):
            if length == 1:
                for word in ("skewness", "kurtosis"):
                    assert np.isnan(found[f"{word}_{name}"]).all()
                    del expected[f"{word}_{name}"]
    assert_close(found, expected, {k: v if v.size > 1 else np.array([0.0, 1.0]) for k, v in scan.items()})


@pytest.mark.parametrize("centre", [0.5, 3.0, 74.5, 147.0])
def test_moments__narrow_peak_anywhere_in_a_long_scan_keeps_its_shape(centre: float) -> None:
    steps = np.arange(150.0)
    scan = {"phi": 0.001 * steps - 4.0}
    frames = 20000 * np.exp(-0.5 * ((steps - centre) / 0.7) ** 2)
    counts = scan_last(np.rint(np.tile(frames[:, None, None], (1, 1, 5))).astype(np.uint16))
    assert_close(moments.kernel(counts, scan, background="none"), naive(counts, scan, 0.0), scan)


def test_moments__gaussian_has_its_closed_form() -> None:
    phi = np.linspace(-1, 1, 81)
    counts = (50000 * np.exp(-0.5 * ((phi - 0.11) / 0.08) ** 2)).astype(np.float32)
    found = moments.kernel(counts[None, None], {"phi": phi}, background="none")
    assert found["com_phi"].item() == pytest.approx(0.11, abs=1e-6)
    assert found["std_phi"].item() == pytest.approx(0.08, rel=1e-5)
    assert found["skewness_phi"].item() == pytest.approx(0, abs=1e-4)
    assert found["kurtosis_phi"].item() == pytest.approx(0, abs=1e-3)
    assert found["flags"].item() == 0


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-100, 100), factor=st.integers(1, 50), seed=st.integers(0, 1000))
def test_moments__shift_and_scale_laws(shift: float, factor: int, seed: int) -> None:
    counts = scan_last(np.random.default_rng(seed).integers(0, 1000, (9, 2, 3)).astype(np.uint16))
    phi = np.linspace(0, 1, 9)
    here = moments.kernel(counts, {"phi": phi}, background="none")
    there = moments.kernel(counts, {"phi": phi + shift}, background="none")
    scaled = moments.kernel(counts * np.uint16(factor), {"phi": phi}, background="none")
    mirrored = moments.kernel(counts, {"phi": -phi}, background="none")
    np.testing.assert_allclose(there["com_phi"], here["com_phi"] + shift, atol=1e-5 * (1 + abs(shift)))
    np.testing.assert_allclose(there["std_phi"], here["std_phi"], rtol=1e-5)
    for name in ("com_phi", "std_phi", "skewness_phi", "kurtosis_phi"):
        np.testing.assert_allclose(scaled[name], here[name], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scaled["total"], factor * here["total"], rtol=1e-6)
    np.testing.assert_allclose(mirrored["com_phi"], -here["com_phi"], atol=1e-7)
    np.testing.assert_allclose(mirrored["skewness_phi"], -here["skewness_phi"], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 8), column=st.integers(0, 149), wide=st.booleans())
def test_moments__any_cut_gives_the_same_bits(row: int, column: int, wide: bool) -> None:
    rng = np.random.default_rng(7)
    scan = {"chi": np.linspace(-1, 1, 3), "phi": np.linspace(-0.1, 0.3, 6)} if wide else {"phi": np.linspace(0, 1, 18)}
    counts = scan_last(rng.poisson(40, (*(v.size for v in scan.values()), 9, 150)).astype(np.uint16))
    background = rng.uniform(20, 40, (9, 150)).astype(np.float32)
    whole = moments.kernel(counts, scan, background_map=background)
    for part in (np.s_[:row, :column], np.s_[row:, column:]):
        piece = moments.kernel(counts[part], scan, background_map=background[part])
        for name, values in piece.items():
            np.testing.assert_array_equal(values, whole[name][part], err_msg=name)


def test_moments__memory_order_does_not_matter() -> None:
    counts = np.random.default_rng(3).integers(0, 500, (6, 70, 7)).astype(np.uint16)
    scan = {"phi": np.arange(7.0)}
    storage = scan_last(np.ascontiguousarray(np.moveaxis(counts, -1, 0)))
    swapped = storage.astype(storage.dtype.newbyteorder())
    expected = moments.kernel(storage, scan, background=3)
    for other in (counts, counts[::-1][::-1], swapped):
        for name, values in moments.kernel(other, scan, background=3).items():
            np.testing.assert_array_equal(values, expected[name])


def test_moments__no_light_no_frame_no_pixel_are_safe() -> None:
    scan = {"phi": np.linspace(0, 1, 5)}
    dark = moments.kernel(np.zeros((2, 3, 5), np.uint16), scan, background="none")
    assert (dark["flags"] == 1).all()
    assert (dark["total"] == 0).all()
    assert (dark["peak"] == 0).all()
    assert all(np.isnan(dark[f"{word}_phi"]).all() for word in ("peak", "com", "std", "skewness", "kurtosis"))
    for shape in ((0, 3, 5), (2, 0, 5), (0, 0, 5)):
        assert moments.kernel(np.zeros(shape, np.uint16), scan, background="none")["com_phi"].shape == shape[:2]
    single = moments.kernel(np.full((1, 1, 1), 9, np.uint16), {"phi": np.array([0.25])}, background="none")
    assert single["com_phi"].item() == 0.25
    assert single["std_phi"].item() == 0
    assert np.isnan(single["skewness_phi"]).all()


def test_moments__one_lit_frame_has_a_centre_and_no_shape() -> None:
    counts = np.zeros((1, 150, 150), np.uint16)
    counts[0, np.arange(150), np.arange(150)] = 777
    phi = np.linspace(-7, 3, 150)
    found = moments.kernel(counts, {"phi": phi}, background="none")
    np.testing.assert_allclose(found["com_phi"][0], phi, atol=1e-6)
    np.testing.assert_array_equal(found["peak_phi"][0], phi)
    assert (found["std_phi"] == 0).all()
    assert np.isnan(found["skewness_phi"]).all()
    assert np.isnan(found["kurtosis_phi"]).all()
    assert not (found["flags"] & 16).any()
    assert (found["flags"] & 32).all()  # "single"


def test_moments__nan_stays_nan_in_its_pixel_alone() -> None:
    counts = np.random.default_rng(0).uniform(0, 100, (3, 70, 9)).astype(np.float32)
    scan = {"phi": np.arange(9.0)}
    expected = moments.kernel(counts.copy(), scan, background=10)
    counts[1, 65, 0] = np.nan
    found = moments.kernel(counts, scan, background=10)
    for name, values in found.items():
        if name != "flags":
            assert np.isnan(values[1, 65]), name
            values[1, 65] = expected[name][1, 65]
        else:
            values[1, 65] = expected[name][1, 65]
        np.testing.assert_array_equal(values, expected[name])


def test_moments__flags_name_what_is_wrong() -> None:
    phi = np.arange(21.0)

    def gaussian(centre: float, sigma: float = 1.5) -> np.ndarray:
        return 1000 * np.exp(-0.5 * ((phi - centre) / sigma) ** 2)

    full = gaussian(10)
    full[10] = 65535
    curves = [gaussian(10), 0 * phi, gaussian(0.5), full, gaussian(10), gaussian(5) + gaussian(15)]
    counts = np.array([curves]).astype(np.uint16)
    hot = np.array([[False, False, False, False, True, False]])
    found = moments.kernel(counts, {"phi": phi}, hot=hot, background="none")
    assert found["flags"].tolist() == [[0, 1, 2, 4, 8, 16]]
    assert all(np.isnan(values[0, 4]) for name, values in found.items() if name != "flags")
    assert moments.kernel(counts, {"phi": phi}, background="none", saturation=900)["flags"][0, 0] == 4
    assert moments.kernel(counts, {"phi": phi}, background="none", lit_above=1001)["flags"][0, 0] == 1
    assert moments.kernel(counts, {"phi": phi}, background="none", edge_fraction=1.0)["flags"][0, 2] == 0


def test_moments__saturation_is_seen_under_any_background() -> None:
    counts = np.full((1, 1, 5), 65535, np.uint16)
    found = moments.kernel(counts, {"phi": np.arange(5.0)}, background_map=np.full((1, 1), 65535, np.float32))
    assert found["flags"].item() == 1 | 4


def test_moments__short_axes_have_no_border() -> None:
    counts = np.array([[[[5, 9, 5, 0], [5, 9, 5, 0]]]], np.uint16)
    found = moments.kernel(counts, {"chi": np.arange(2.0), "phi": np.arange(4.0)}, background="none")
    assert not found["flags"].item() & 2 or counts[0, 0, :, 0].max() > 4.5
    inside = moments.kernel(
        counts * np.array([0, 1, 0, 0], np.uint16), {"chi": np.arange(2.0), "phi": np.arange(4.0)}, background="none"
    )
    assert not inside["flags"].item() & 2


def test_moments__background_must_be_said_once() -> None:
    counts, scan = np.ones((1, 1, 3), np.uint16), {"phi": np.arange(3.0)}
    with pytest.raises(InputError, match=r"without a background.*run the step background first.*background='none'"):
        moments.kernel(counts, scan)
    with pytest.raises(InputError, match=r"background=5.*there is a background map already"):
        moments.kernel(counts, scan, background_map=np.zeros((1, 1), np.float32), background=5)
    # Errors come for an empty block too, so that they come when the graph is built.
    with pytest.raises(InputError, match="moments without a background"):
        moments.kernel(counts[:0], scan)
    with pytest.raises(InputError, match="lit_above"):
        moments.validate({"lit_above": -1})


def real_rocking(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["1.1/instrument/pco_ff/image"][:, 60:160, 60:160], file["1.1/instrument/mu/value"][()]


def test_moments__real_rocking_scan_is_the_naive_loop(real_scans: dict[str, Path]) -> None:
    frames, phi = real_rocking(real_scans["rocking"])
    counts = scan_last(frames)[:30, :70]
    assert_close(moments.kernel(counts, {"phi": phi}, background=2560), naive(counts, {"phi": phi}, 2560), {"phi": phi})


def test_moments__background_left_in_shrinks_the_real_scan(real_scans: dict[str, Path]) -> None:
    frames, phi = real_rocking(real_scans["rocking"])
    right = moments.kernel(scan_last(frames), {"phi": phi}, background=2560, lit_above=1000)["com_phi"]
    wrong = moments.kernel(scan_last(frames), {"phi": phi}, background="none", lit_above=1000 + 2560)["com_phi"]
    known = np.isfinite(right) & np.isfinite(wrong)
    slope = np.polyfit(right[known].astype(float), wrong[known].astype(float), 1)[0]
    assert 0.2 < slope < 0.7


@pytest.mark.slow
def test_moments__real_rocking_scan_agrees_with_darling(real_scans: dict[str, Path]) -> None:
    from darling import properties  # which takes seconds to compile

    frames, phi = real_rocking(real_scans["rocking"])
    subtracted = scan_last(np.maximum(frames, 2560) - np.uint16(2560))
    mean, _ = properties.moments(np.ascontiguousarray(subtracted), (phi,))
    found = moments.kernel(scan_last(frames), {"phi": phi}, background=2560)
    lit = found["total"] > 0
    assert lit.mean() > 0.5
    np.testing.assert_allclose(found["com_phi"][lit], np.asarray(mean).reshape(lit.shape)[lit], atol=1e-6)


def test_moments__noise_cut_frees_the_centre_of_mass_from_dark_frames() -> None:
    """A reflection of 6 frames in a scan of 800, on Gaussian noise: without a cut the noise outweighs it."""
    rng = np.random.default_rng(4)
    phi = np.linspace(0, 8, 800)
    curve = 400 * np.exp(-0.5 * ((phi - 6.5) / 0.02) ** 2)
    counts = rng.normal(100 + curve, 5, (20, 30, 800)).round().astype(np.uint16)
    level = np.full((20, 30), 100, np.float32)
    plain = moments.kernel(counts, {"phi": phi}, background_map=level)
    cut = moments.kernel(counts, {"phi": phi}, background_map=level, noise=np.float32(5), noise_cut=5)
    assert np.abs(plain["com_phi"] - 6.5).min() > 0.3
    assert np.abs(cut["com_phi"] - 6.5).max() < 0.01
    w = np.where(counts - 100.0 > 25, counts - 100.0, 0)
    np.testing.assert_allclose(cut["com_phi"], (w * phi).sum(-1) / w.sum(-1), rtol=1e-6)


def test_moments__noise_cut_leaves_dark_pixels_unlit() -> None:
    counts = np.random.default_rng(1).normal(100, 5, (50, 60, 31)).round().astype(np.uint16)
    found = moments.kernel(
        counts,
        {"phi": np.arange(31.0)},
        background_map=np.full((50, 60), 100, np.float32),
        noise=np.float32(5),
        noise_cut=5,
    )
    assert np.isnan(found["com_phi"]).mean() > 0.999
    assert (found["flags"] & 1).mean() > 0.999


def test_moments__noise_cut_needs_the_noise() -> None:
    with pytest.raises(InputError, match=r"noise_cut=3: the noise is unknown"):
        moments.kernel(np.ones((1, 1, 3), np.uint16), {"phi": np.arange(3.0)}, background=0, noise_cut=3)


@pytest.mark.parametrize("lengths", [(31,), (6, 7)])
@pytest.mark.parametrize("scales", [(1, 1), (0.2, 20), (400, 1)])
def test_moments__cut_follows_the_scale_of_every_frame(lengths: tuple[int, ...], scales: tuple[float, float]) -> None:
    """Noise of dark pixels is scaled with their frames: none is lit, and what stands out of quiet frames stays."""
    rng = np.random.default_rng(8)
    scale = rng.choice(scales, lengths).astype(float)
    scan = {f"axis{k}": np.arange(float(n)) for k, n in enumerate(lengths)}
    counts = rng.normal(0, 3 * scale, (20, 30, *lengths)) + 100
    quiet = np.unravel_index(np.argmin(scale), lengths)
    counts[5, 7][quiet] += 30 * scale.min()
    options = {"noise": np.float32(3), "background": 100, "noise_cut": 5}
    maps = moments.kernel(counts.astype(np.float32), scan, frame_scale=scale, **options)
    lit = np.argwhere(maps["flags"] & 1 == 0).tolist()
    assert [5, 7] in lit
    assert len(lit) <= 2
    if scales == (1, 1):
        plain = moments.kernel(counts.astype(np.float32), scan, **options)
        for name, values in plain.items():
            np.testing.assert_array_equal(maps[name][5, 7], values[5, 7], name)
