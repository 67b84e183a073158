"""Pieces, pairs and tables of objects against counting voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dfxm_dask.gaps import neighbouring
from dfxm_dask.volume.objects import (
    AROUND,
    CORNERS,
    FACES,
    moved,
    numbered,
    object_table,
    piece_sums,
    pieces,
    touching,
)
from tests.volume.blobs import PIXEL


@pytest.mark.parametrize("share", [0.02, 0.4, 0.59, 0.95])
def test_pieces__come_in_the_order_of_their_first_pixel(share: float) -> None:
    mask = np.random.default_rng(3).random((61, 47)) < share
    label, count = pieces(mask)
    first = [int(np.flatnonzero(label.ravel() == n)[0]) for n in range(1, count + 1)]
    assert first == sorted(first)
    assert ((label > 0) == mask).all()
    assert (pieces(np.asfortranarray(mask))[0] == label).all()


def test_piece_sums__equal_sums_over_pixels() -> None:
    label, count = pieces(np.random.default_rng(0).random((40, 50)) < 0.5)
    found = piece_sums(label, count)
    for n in range(1, count + 1):
        places = [(y, x) for y in range(40) for x in range(50) if label[y, x] == n]
        rows, columns = zip(*places, strict=True)
        wanted = [
            len(places),
            min(rows),
            max(rows),
            min(columns),
            max(columns),
            sum(rows),
            sum(columns),
            sum(y * y for y in rows),
            sum(y * x for y, x in places),
            sum(x * x for x in columns),
        ]
        assert found[n - 1].tolist() == wanted
    assert piece_sums(np.zeros((4, 5), np.int32), 0).shape == (0, 10)


def test_piece_sums__are_exact_for_a_full_detector() -> None:
    rows, columns = 2160, 2560
    (found,) = piece_sums(np.ones((rows, columns), np.int32), 1).tolist()
    below = rows - 1, columns - 1
    line, square = ([n * (n + 1) // 2 for n in below], [n * (n + 1) * (2 * n + 1) // 6 for n in below])
    assert found == [
        rows * columns,
        0,
        below[0],
        0,
        below[1],
        line[0] * columns,
        line[1] * rows,
        square[0] * columns,
        line[0] * line[1],
        square[1] * rows,
    ]


@pytest.mark.parametrize("steps", [FACES, AROUND, CORNERS])
def test_touching__equals_a_search_around_every_pixel(steps: tuple[tuple[int, int], ...]) -> None:
    rng = np.random.default_rng(1)
    here, other = (pieces(rng.random((23, 31)) < 0.3)[0] for _ in range(2))
    wanted = set()
    for y, x in np.argwhere(here):
        for dy, dx in steps:
            if 0 <= y + dy < 23 and 0 <= x + dx < 31 and other[y + dy, x + dx]:
                wanted.add((int(here[y, x]), int(other[y + dy, x + dx])))
    assert touching(here, other, steps).tolist() == [list(pair) for pair in sorted(wanted)]
    assert touching(here, 0 * other, steps).shape == (0, 2)


def test_numbered__unites_chains_in_the_order_of_first_pieces() -> None:
    pairs = np.array([[9, 2], [5, 9], [7, 8], [8, 7], [1, 1]])
    assert numbered(10, pairs).tolist() == [0, 1, 2, 3, 4, 2, 5, 6, 6, 2]
    assert numbered(3, pairs[:0]).tolist() == [0, 1, 2]
    assert numbered(0, pairs[:0]).size == 0


@pytest.mark.parametrize("offset", [(0, 0), (2, -3), (-5, 1), (7, 0), (0, -9)])
def test_moved__shows_what_was_aside(offset: tuple[int, int]) -> None:
    layer = np.arange(1, 43).reshape(6, 7)
    found = moved(layer, offset)
    for y in range(6):
        for x in range(7):
            inside = 0 <= y + offset[0] < 6 and 0 <= x + offset[1] < 7
            assert found[y, x] == (layer[y + offset[0], x + offset[1]] if inside else 0)


def test_neighbouring__is_false_beside_missing_layers_only() -> None:
    assert neighbouring(np.array([10.0, 9, 8, 6, 5])).tolist() == [False, True, True, False, True]
    assert neighbouring(np.array([0.0, 7])).tolist() == [False, True]
    assert neighbouring(np.array([3.0])).tolist() == [False]


@pytest.mark.parametrize("z", [[0.0, 0.0], [0.0, 2.0, 1.0], [0.0, np.nan]])
def test_neighbouring__refuses_layers_without_an_order(z: list[float]) -> None:
    with pytest.raises(ValueError, match=r"layers of a volume: lie at z = .*ascending or descending"):
        neighbouring(np.array(z))


def table_of(mask: np.ndarray, z: np.ndarray, step: tuple[float, float]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Table of the objects of a volume by their pieces, and scipy's labels."""
    label = ndimage.label(mask, np.ones((3, 3, 3)))[0]
    sums, heights, member = [], [], []
    for k, layer in enumerate(mask):
        piece, count = pieces(layer)
        sums.append(piece_sums(piece, count))
        heights += [z[k]] * count
        member += [int(label[k][piece == n][0]) - 1 for n in range(1, count + 1)]
    grid = np.array([5.0, -3.0, *step])
    return object_table(np.concatenate(sums), np.array(heights), np.array(member), grid), label


@pytest.mark.parametrize("step", [PIXEL, (-PIXEL[0], PIXEL[1])])
def test_object_table__equals_moments_of_the_voxels(step: tuple[float, float]) -> None:
    z = np.array([0.0, 1, 2, 3.2, 4])
    mask = ndimage.binary_dilation(np.random.default_rng(2).random((5, 30, 40)) < 0.01, iterations=1)
    table, label = table_of(mask, z, step)
    assert len(table["voxels"]) == label.max() > 5
    for n in range(1, label.max() + 1):
        k, y, x = np.nonzero(label == n)
        points = np.stack([-3.0 + step[1] * x, 5.0 + step[0] * y, z[k]], axis=1)
        assert table["voxels"][n - 1] == len(points)
        np.testing.assert_allclose(table["low"][n - 1], points.min(axis=0), atol=1e-12)
        np.testing.assert_allclose(table["high"][n - 1], points.max(axis=0), atol=1e-12)
        np.testing.assert_allclose(table["centroid"][n - 1], points.mean(axis=0), atol=1e-12)
        covariance = np.cov(points.T, bias=True)
        extent, axes = table["extent"][n - 1], table["axes"][n - 1]
        np.testing.assert_allclose(extent**2, np.linalg.eigvalsh(covariance)[::-1], atol=1e-12)
        for deviation, axis in zip(extent, axes, strict=True):
            if np.isfinite(axis).all():
                np.testing.assert_allclose(covariance @ axis, deviation**2 * axis, atol=1e-12)
                assert axis[np.argmax(np.abs(axis))] > 0


def test_object_table__line_has_the_direction_that_it_was_drawn_with() -> None:
    """In um, on voxels of 40 nm x 120 nm x 1 um: in voxels the direction would be off by tens of degrees."""
    direction = np.array([0.5, -0.6, 1.0]) / np.linalg.norm([0.5, -0.6, 1.0])
    z = np.arange(30.0)
    mask = np.zeros((30, 600, 160), bool)
    for k in range(30):
        y, x = (
            round((s + direction[a] / direction[2] * z[k]) / p) for a, s, p in ((1, 20, PIXEL[0]), (0, 2, PIXEL[1]))
        )
        mask[k, y - 5 : y + 6, x - 2 : x + 3] = True
    sums, member = [], []
    for layer in mask:
        sums.append(piece_sums(*pieces(layer)))
        member.append(0)
    table = object_table(np.concatenate(sums), z, np.array(member), np.array([0, 0, *PIXEL]))
    assert np.rad2deg(np.arccos(abs(table["axes"][0, 0] @ direction))) < 0.2
    assert table["extent"][0, 0] == pytest.approx(np.std(z) / direction[2], rel=0.01)


def test_object_table__axes_that_nothing_tells_are_nan() -> None:
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 0, 0] = mask[0, 4, 2:8] = mask[0, 7:9, 0] = True
    table, _ = table_of(mask, np.zeros(1), (0.5, 0.5))
    assert np.isnan(table["axes"][0]).all()
    np.testing.assert_array_equal(table["extent"][0], 0)
    np.testing.assert_array_equal(np.isnan(table["axes"][1]).all(axis=1), [False, True, True])
    np.testing.assert_array_equal(table["axes"][1, 0], [1, 0, 0])
    assert table["extent"][1].tolist() == [pytest.approx(0.5 * np.std(range(6))), 0, 0]


def test_object_table__of_nothing_is_empty() -> None:
    table = object_table(np.zeros((0, 10), np.int64), np.zeros(0), np.zeros(0, np.int64), np.array([0, 0, 1, 1.0]))
    assert {name: len(values) for name, values in table.items()} == dict.fromkeys(table, 0)
