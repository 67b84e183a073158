"""Zingers against a naive loop and the one in a real scan."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.frames import zingers


def scan_last(frames: np.ndarray) -> np.ndarray:
    return np.moveaxis(frames, (-2, -1), (0, 1))


def around(counts: np.ndarray, place: tuple[int, ...], tile: int = 64) -> float:
    """The fifth largest of the 24 counts around in the same frame, in proportion where the tile ends."""
    (y, x), frame = place[:2], counts[(..., *place[2:])]
    near = [
        float(frame[i, j])
        for i, j in np.ndindex(frame.shape)
        if (i // tile, j // tile) == (y // tile, x // tile) and 0 < max(abs(i - y), abs(j - x)) <= 2
    ]
    return sorted(near, reverse=True)[max(int(5 * len(near) / 24 + 0.5), 1) - 1]


def naive(counts: np.ndarray, threshold: float = 12, ratio: float = 4) -> tuple[np.ndarray, np.ndarray]:
    cleaned, replaced = counts.copy(), np.zeros(counts.shape[:2], int)
    for place in np.ndindex(counts.shape):
        near, enclosed = [], False
        for axis in range(2, counts.ndim):
            found = []
            for shift in (-1, 1):
                other = list(place)
                other[axis] += shift
                if 0 <= other[axis] < counts.shape[axis]:
                    found.append(float(counts[tuple(other)]))
            enclosed |= len(found) == 2
            near += found
        if enclosed:
            level, value = max(*near, around(counts, place)), float(counts[place])
            sigma = np.sqrt(2.6**2 + 0.46 * max(level - 100, 0))
            if value - level > threshold * sigma and value - 100 > ratio * max(level - 100, 0):
                mean = sum(near) / len(near)
                cleaned[place] = np.floor(mean + 0.5) if counts.dtype.kind == "u" else mean
                replaced[place[:2]] += 1
    return cleaned, replaced


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("lengths", [(1,), (2,), (3,), (15,), (4, 6), (2, 5), (2, 2), (1, 7)])
def test_zingers__are_those_of_the_naive_loop(lengths: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(3)
    counts = rng.normal(104, 4, (*lengths, 4, 9))
    counts[rng.random(counts.shape) < 0.05] *= 10
    counts = scan_last(np.maximum(counts, 0).astype(dtype))
    scan = {f"axis{k}": np.arange(float(n)) for k, n in enumerate(lengths)}
    found = zingers.kernel(counts, scan)
    cleaned, replaced = naive(counts)
    np.testing.assert_array_equal(found["counts"], cleaned)
    np.testing.assert_array_equal(found["zinger_count"], replaced)
    assert found["counts"].dtype == counts.dtype
    assert found["zinger_count"].dtype == np.uint16
    assert np.moveaxis(found["counts"], (0, 1), (-2, -1)).flags.c_contiguous
    if max(lengths) < 3:
        assert not replaced.any()


def test_zingers__the_real_one_is_removed(real_scans: dict[str, Path]) -> None:
    with h5py.File(real_scans["motor_drift"]) as file:
        frames = file["1.1/instrument/pco_ff/image"][:, 70:84, 42:58]
    blob = np.s_[44, 6:9, 6:9]
    assert frames[44].max() == 2071
    # 962 frames = 26 positions of chi times 37 of the translation.
    counts = scan_last(frames.reshape(26, 37, *frames.shape[1:]))
    found = zingers.kernel(counts, {"chi": np.arange(26.0), "diffry": np.arange(37.0)})
    cleaned = np.moveaxis(found["counts"], (0, 1), (-2, -1)).reshape(frames.shape)
    hit = frames[blob] > 500
    assert sorted(frames[blob][hit].tolist()) == [562, 661, 975, 2071]
    assert (cleaned[blob][hit] < 115).all()
    assert found["zinger_count"].sum() < 1e-3 * frames.size


def test_zingers__smooth_reflections_are_left_alone() -> None:
    steps = np.arange(31.0)
    places = [(centre, width) for centre in (0, 1, 15, 15.5) for width in (1.5, 2, 4)]
    curves = [100 + 60000 * np.exp(-4 * np.log(2) * ((steps - c) / w) ** 2) for c, w in places]
    counts = np.array([curves]).astype(np.uint16)
    found = zingers.kernel(counts, {"phi": steps})
    np.testing.assert_array_equal(found["counts"], counts)
    # One step wide is too coarse to tell: documented.
    narrow = (100 + 60000 * np.exp(-4 * np.log(2) * (steps - 15) ** 2)).astype(np.uint16)
    assert zingers.kernel(narrow[None, None], {"phi": steps})["zinger_count"].item() == 1


@pytest.mark.parametrize("width", [0.7, 1.0, 1.4, 2.0])
@pytest.mark.parametrize("background", [0, 100, 3000])
def test_zingers__reflections_as_narrow_as_a_step_are_kept_and_zingers_on_them_taken(width, background) -> None:
    """A grain whose lattice turns, so that pixels peak in different frames; zingers on it and beside it."""
    rng = np.random.default_rng(4)
    y, x, steps = np.arange(24.0)[:, None, None], np.arange(24.0)[None, :, None], np.arange(31.0)
    curve = 4000 * np.exp(-4 * np.log(2) * ((steps - 12 - 0.2 * y - 0.1 * x) / width) ** 2) * (x > 6)
    clean = rng.normal(background + curve, np.sqrt(9 + 0.46 * curve))
    counts = np.maximum(clean, 0).astype(np.uint16)
    hit = [(3, 2, 9), (20, 15, 27), (12, 20, 3)]
    for place in hit:
        counts[place] += 9000
    found = zingers.kernel(counts, {"phi": steps}, np.float32(3.0), offset=float(background))
    assert all(found["zinger_count"][place[:2]] for place in hit)
    assert (found["zinger_count"] > 0).sum() <= 3 + 0.02 * (24 * 17)  # some along the edge of the grain
    assert all(found["counts"][place] < background + 100 for place in hit)


CLUSTERS = {
    "one": [(0, 0)],
    "pair": [(0, 0), (1, 1)],
    "corner": [(0, 0), (0, 1), (1, 0)],
    "square": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "track": [(k, k) for k in range(7)],
}


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("height", [60, 200, 5000])
@pytest.mark.parametrize("corner", [(70, 90), (64, 63), (0, 5)])
def test_zingers__clusters_and_tracks_are_taken(cluster, height, corner) -> None:
    """On 20 standard deviations of noise and more, also where the tile of 64 x 64 pixels or the frame ends."""
    rng = np.random.default_rng(5)
    clean = rng.normal(100, 2.6, (100, 110, 9))
    places = tuple(np.add(corner, CLUSTERS[cluster]).T)
    counts = clean.copy()
    counts[(*places, 4)] += height
    found = zingers.kernel(counts.astype(np.uint16), {"phi": np.arange(9.0)})
    taken = found["zinger_count"][places] > 0
    assert taken.all() if corner == (70, 90) else taken.mean() >= 0.5
    assert found["zinger_count"].sum() == taken.sum()


@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("size", [0.9, 1.5, 3.0])
@pytest.mark.parametrize("height", [100, 1000])
def test_zingers__spots_that_light_a_single_frame_are_kept_to_their_edges(offset, size, height) -> None:
    """Domains narrower than a scan step, some pixels wide; counts above background may be clipped at zero."""
    rng = np.random.default_rng(6)
    y, x = np.arange(64.0)[:, None], np.arange(64.0)
    spots = [height * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * size**2)) for a, b in rng.uniform(4, 60, (20, 2))]
    frames = np.zeros((64, 64, 61))
    frames[..., 1:-1:3] = np.moveaxis(spots, 0, -1)
    counts = np.maximum(rng.normal(frames, np.sqrt(2 + frames)), 0) + offset
    noise = 0.05 if offset == 0 else 1.5
    found = zingers.kernel(counts.astype(np.uint16), {"phi": np.arange(61.0)}, np.float32(noise), offset=float(offset))
    assert found["zinger_count"].sum() <= 2 if size > 1 else found["zinger_count"].sum() <= 20


def test_zingers__nan_neither_spreads_nor_is_replaced() -> None:
    counts = np.full((1, 2, 5), 101, np.float32)
    counts[0, 0] = (101, np.nan, 900, 101, 101)
    found = zingers.kernel(counts, {"phi": np.arange(5.0)})
    np.testing.assert_array_equal(found["counts"], counts)
    assert not found["zinger_count"].any()


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 2, 0), (1, 1, 1)])
def test_zingers__small_blocks_are_safe(shape: tuple[int, ...]) -> None:
    found = zingers.kernel(np.zeros(shape, np.uint16), {"phi": np.arange(float(shape[2]))})
    assert found["counts"].shape == shape
    assert found["zinger_count"].shape == shape[:2]


def test_zingers__refuses_a_ratio_below_one() -> None:
    with pytest.raises(InputError, match="ratio"):
        zingers.validate({"ratio": 0.5})
