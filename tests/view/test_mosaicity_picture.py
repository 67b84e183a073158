"""The mosaicity picture: a key from the data, shared by all layers, in strong colours, beside the distribution."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.view.figures.mosaic import disc_colours, draw_mosaicity, key_of, mosaicity_panel, two_centres
from tests.view.test_figures import check_page

Scan = Callable[..., xr.DataTree]
TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB from 0 to 1; IEC 61966-2-1 and CIE 15."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ TO_XYZ.T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def two_axis_maps(layers: int = 1, tail: float = 0.02) -> xr.Dataset:
    """Centres of mass spread over 0.3 and 0.05 degree of a scan of 10 times that, a few of them far away."""
    rng = np.random.default_rng(5)
    chi = 1.0 + rng.uniform(-0.15, 0.15, (layers, 40, 50)) + 0.05 * np.arange(layers)[:, None, None]
    phi = 8.0 + rng.uniform(-0.025, 0.025, (layers, 40, 50))
    far = rng.random(chi.shape) < tail
    flags = np.where(rng.random(chi.shape) < 0.05, 1, 0)
    chi = np.where(far, chi + 1.0, np.where(flags == 1, 1.5, chi))
    attrs = {"flag_masks": [1], "flag_meanings": "unlit"}
    coords = {
        "chi": ("chi", np.linspace(-0.5, 2.5, 31), {"units": "degree", "scan_axis": 0}),
        "phi": ("phi", np.linspace(7.75, 8.25, 31), {"units": "degree", "scan_axis": 1}),
        "z": ("z", np.arange(layers) * 10.0, {"units": "um"}),
        "y": ("y", np.arange(40) * 0.2, {"units": "um"}),
        "x": ("x", np.arange(50) * 0.2, {"units": "um"}),
    }
    dims = ("z", "y", "x")
    return xr.Dataset(
        {
            "com_chi": (dims, chi, {"units": "degree"}),
            "com_phi": (dims, phi, {"units": "degree"}),
            "flags": (dims, flags, attrs),
        },
        coords=coords,
    )


def test_key_of__spans_the_sound_pixels_and_not_the_scan() -> None:
    maps = two_axis_maps(layers=2)
    key = key_of(maps)
    assert (key.axes, key.units) == (("chi", "phi"), ("degree", "degree"))
    assert key.middle == pytest.approx((1.025, 8.0), abs=0.03)
    assert key.half[1] == pytest.approx(0.025 * np.sqrt(2), rel=0.25)
    sound = maps["flags"].values == 0
    u = (maps["com_chi"].values[sound] - key.middle[0]) / key.half[0]
    v = (maps["com_phi"].values[sound] - key.middle[1]) / key.half[1]
    assert np.percentile(np.hypot(u, v), 95) == pytest.approx(1.0)
    assert np.percentile(np.hypot(u, v), 90) > 0.6
    # All layers share it: the same centres have the same colour in both.
    one = maps.isel(z=[0])
    assert key_of(one) != key
    twice = xr.concat([one.isel(z=0), one.isel(z=0)], "z").assign_coords(z=[0.0, 1.0])
    np.testing.assert_array_equal(mosaicity_panel(twice, 0).image, mosaicity_panel(twice, 1).image)


def test_key_of__keeps_what_the_recipe_gave() -> None:
    told = {"mosaicity": {"parameters": {"centre": [0, 1], "half_range": [2, 3]}}}
    key = key_of(two_axis_maps().assign_attrs(provenance=told))
    assert (key.middle, key.half) == ((0.0, 1.0), (2.0, 3.0))


def test_mosaicity_panel__has_chroma_over_most_of_the_map() -> None:
    """Evenly spread orientations, with outliers and flagged pixels: mean chroma C* far above the 16 of a scan's key."""
    maps = two_axis_maps()
    image = mosaicity_panel(maps, 0).image
    chroma = np.hypot(*np.moveaxis(lab(image)[..., 1:], -1, 0))
    assert chroma[maps["flags"].values[0] == 0].mean() > 45


def test_disc_colours__are_hsv_of_value_one_and_rim_beyond() -> None:
    for angle in np.linspace(0, 2 * np.pi, 13)[:-1]:
        for radius in (0.0, 0.3, 1.0):
            u, v = radius * np.sin(angle), radius * np.cos(angle)
            expected = colorsys.hsv_to_rgb(angle / (2 * np.pi) if radius else 0.0, radius, 1.0)
            assert disc_colours(np.array(u), np.array(v)) == pytest.approx(np.array(expected), abs=1e-6)
    np.testing.assert_allclose(disc_colours(np.array(0.0), np.array(7.0)), [1, 0, 0])
    assert np.isnan(disc_colours(np.array(np.nan), np.array(0.0))).all()
    red, green = lab(disc_colours(np.array([0.0, np.sin(2 * np.pi / 3)]), np.array([1.0, np.cos(2 * np.pi / 3)])))
    assert green[0] - red[0] > 30  # apart in lightness, for readers who confuse them


@pytest.mark.parametrize("shape", [(20, 30), (12, 90), (60, 15)])
def test_draw_mosaicity__has_key_and_distribution_in_degree(reduced_scan: Scan, shape: tuple[int, int]) -> None:
    tree = reduced_scan(axes=("chi", "phi"), ny=shape[0], nx=shape[1])
    assert two_centres(tree["rocking"].dataset) == ("chi", "phi")
    page = draw_mosaicity(tree, 0, "title\nz = 10 µm (layer 2 of 2)")
    check_page(page)
    _, key, distribution = page.axes
    for axes in (key, distribution):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("phi (°)", "chi (°)")
    (mesh,) = distribution.collections
    maps = tree["rocking"].dataset.isel(z=0)
    sound = np.isfinite(maps["com_chi"].values) & (maps["flags"].values & ~np.uint8(16) == 0)
    assert np.nansum(mesh.get_array()) == pytest.approx(sound.sum(), rel=0.02)
    assert two_centres(reduced_scan(ny=10, nx=10)["rocking"].dataset) is None
