"""Defects with and without rotation, against the kernel average misorientation of the whole layer."""

import numpy as np
import pytest
from scipy import ndimage

from dfxm_dask.errors import InputError
from dfxm_dask.rocking import classify_defects, kam

Y, X = 0.05 * np.arange(240), 0.1 * np.arange(160)
WITH, WITHOUT, UNKNOWN = 1, 2, 4


def lattice(seed=0, noise=2e-4):
    """Smooth bending, a step at y = 6 um for x below 8 um, noise of the centre of mass, and places without one."""
    rng = np.random.default_rng(seed)
    turn = 0.004 * np.sin(X / 9) + np.where((Y[:, None] > 6) & (X < 8), 0.003, 0.0)
    found = turn + rng.normal(0, noise, (Y.size, X.size))
    found[rng.random(found.shape) < 0.05] = np.nan
    return found


def disc(radius):
    ny, nx = int(radius / 0.05 + 1e-9), int(radius / 0.1 + 1e-9)
    dy, dx = np.mgrid[-ny : ny + 1, -nx : nx + 1]
    return np.hypot(0.05 * dy, 0.1 * dx) <= radius * (1 + 1e-9)


@pytest.mark.parametrize(("radius", "reach", "deviations"), [(0.5, 0.25, 6.0), (0.3, 0.0, 3.0), (0.8, 0.5, 4.0)])
def test_classify_defects__is_by_kam_of_the_whole_layer(radius, reach, deviations):
    com = {"phi": lattice(), "chi": lattice(1)[:, ::-1]}
    mask = np.random.default_rng(2).random((Y.size, X.size)) < 0.1
    given = {"radius": radius, "reach": reach, "deviations": deviations}
    found = classify_defects.kernel(mask, com, Y, X, **given)["defects_rotation"]
    turned = kam.kernel(com, Y, X, radius=radius)["kam"].astype(float)
    largest = ndimage.maximum_filter(np.where(np.isfinite(turned), turned, -1), footprint=disc(reach), mode="constant")
    some = largest[1::2, 1::2][largest[1::2, 1::2] >= 0]  # every second of 240 × 160 pixels along both sides
    middle = np.median(some)
    limit = middle + deviations * 1.4826 * np.median(np.abs(some - middle))
    wanted = np.where(largest < 0, UNKNOWN, np.where(largest > limit, WITH, WITHOUT))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.where(mask, wanted, 0))
    assert {WITH, WITHOUT} <= set(np.unique(found))


def test_classify_defects__tells_a_step_from_what_only_scatters():
    rows = np.abs(Y - 6.0) < 0.3
    mask = rows[:, None] & np.ones(X.size, bool)
    found = classify_defects.kernel(mask, {"phi": lattice()}, Y, X)["defects_rotation"]
    near = np.abs(Y - 6.0) < 0.15
    assert (found[near][:, X < 7] == WITH).mean() > 0.99
    assert (found[rows][:, X > 9] == WITHOUT).mean() > 0.99
    assert not found[~rows].any()


def test_classify_defects__says_where_nothing_is_known():
    mask = np.ones((Y.size, X.size), bool)
    nothing = {"phi": np.full(mask.shape, np.nan)}
    assert (classify_defects.kernel(mask, nothing, Y, X)["defects_rotation"] == UNKNOWN).all()
    half = lattice()
    half[:, :80] = np.nan
    found = classify_defects.kernel(mask, {"phi": half}, Y, X)["defects_rotation"]
    assert (found[:, :76] == UNKNOWN).all()
    assert not (found[:, 84:] == UNKNOWN).any()
    single = np.full(mask.shape, 2, np.uint8)  # lit in one frame only, as moments flags it
    assert set(np.unique(classify_defects.kernel(mask, {"phi": lattice()}, Y, X, single)["defects_rotation"])) <= {
        1,
        2,
        4,
    }
    one = classify_defects.kernel(mask[:1, :1], {"phi": half[:1, -1:]}, Y[:1], X[:1])["defects_rotation"]
    assert one.tolist() == [[UNKNOWN]]


def test_classify_defects__samples_large_layers():
    """Median and spread of every ninth pixel are those of all to a few per cent: the classes hardly change."""
    y, x = 0.05 * np.arange(720), 0.1 * np.arange(640)
    com = {"phi": np.random.default_rng(3).normal(0, 1e-4, (720, 640)) + 0.002 * (y[:, None] > 18)}
    mask = (np.abs(y - 18) < 0.2)[:, None] & np.ones(640, bool)
    mask |= (np.abs(y - 30) < 0.2)[:, None]
    found = classify_defects.kernel(mask, com, y, x)["defects_rotation"]
    assert (found[np.abs(y - 18) < 0.2] == WITH).all()
    assert (found[np.abs(y - 30) < 0.2] == WITHOUT).mean() > 0.99


def test_classify_defects__refuses_a_radius_without_neighbour():
    with pytest.raises(InputError, match=r"radius 0.04 um: contains no neighbour .* set a radius of at least 0.05 um"):
        classify_defects.kernel(np.ones((4, 4), bool), {"phi": np.zeros((4, 4))}, Y[:4], X[:4], radius=0.04)
    with pytest.raises(InputError, match="classify_defects: coordinate 'y'"):
        classify_defects.kernel(np.ones((4, 4), bool), {"phi": np.zeros((4, 4))}, Y[:4] ** 2, X[:4])
