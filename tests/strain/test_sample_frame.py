"""Directions and positions in the axes of the sample: closed forms, darling's goniometer, and resampling of planes."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from darling.goniometer import total_rotation

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.optics.geometry import lab_to_sample
from dfxm_dask.sample_frame import laboratory_to_sample
from dfxm_dask.strain.sample.directions import diffraction_vectors, directions

SPACE = ("z", "y", "x")


def stack(shape: tuple[int, int, int] = (6, 9, 11), **maps: np.ndarray) -> xr.Dataset:
    steps = {"z": 1.0, "y": 0.5, "x": -0.25}
    coords = {d: (d, 3 + steps[d] * np.arange(n), {"units": "um"}) for d, n in zip(SPACE, shape, strict=True)}
    return xr.Dataset({n: (SPACE, v, {"units": "degree"}) for n, v in maps.items()}, coords)


def random_angles(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).uniform(-8, 8, (count, 2))


def test_directions__equal_the_goniometer_of_darling() -> None:
    """Q in the laboratory lies in the plane of diffraction; the inverse goniometer brings it into the sample."""
    phi, chi = random_angles().T
    for mu, omega, eta, theta in ((8.0, 0.0, 0.0, 8.0), (0.0, 6.4, 20.2, 15.4), (3.0, -40.0, -10.0, 9.0)):
        t, e = np.deg2rad([theta, eta])
        k_in, k_out = (
            np.array([1.0, 0, 0]),
            np.array([np.cos(2 * t), -np.sin(2 * t) * np.sin(e), np.sin(2 * t) * np.cos(e)]),
        )
        q = (k_out - k_in) / np.linalg.norm(k_out - k_in)
        wanted = np.array([total_rotation(mu, omega, c, p).inv().apply(q) for p, c in zip(phi, chi, strict=True)])
        found = directions(np.zeros(50), phi, chi, (mu, omega, eta, theta))
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        if mu == theta and omega == eta == 0:
            np.testing.assert_allclose(directions(np.zeros(50), phi, chi), wanted, atol=1e-12)


def test_diffraction_vectors__total_rotation_is_that_of_both_axes() -> None:
    phi, chi = random_angles(12).T.reshape(2, 3, 4) / 20
    scan = {"chi": np.array([-0.5, 0.5]), "phi": np.array([-0.5, 0.5])}
    found = diffraction_vectors.kernel({"chi": chi, "phi": phi}, scan)
    a, b = np.deg2rad(phi), np.deg2rad(chi)
    np.testing.assert_allclose(found["total_rotation"], np.rad2deg(np.arccos(np.cos(a) * np.cos(b))), rtol=1e-9)
    alone = diffraction_vectors.kernel({"phi": phi}, {"phi": np.array([0.0, 2.0])})
    np.testing.assert_allclose(alone["total_rotation"], np.abs(phi - 1), rtol=1e-9)
    strained = diffraction_vectors.kernel({"two_theta": phi}, {"two_theta": np.array([-1.0, 1.0])})
    np.testing.assert_allclose(strained["total_rotation"], np.abs(phi) / 2, rtol=1e-9)
    with pytest.raises(InputError, match="has an axis energy"):
        diffraction_vectors.kernel({"energy": phi}, {"energy": np.array([17.0, 18.0])})


def test_laboratory_to_sample__is_darlings_and_that_of_the_microscope() -> None:
    for mu, omega, chi, phi in ((7.0, 0.0, 0.0, 0.0), (7.0, 30.0, -2.0, 4.0)):
        wanted = total_rotation(mu, omega, chi, phi).inv().as_matrix()
        np.testing.assert_allclose(laboratory_to_sample(mu, omega, chi, phi), wanted, atol=1e-14)
    np.testing.assert_allclose(laboratory_to_sample(7.0), lab_to_sample(np.deg2rad(7.0)), atol=1e-15)


def test_sample_coordinates__are_the_rotated_positions() -> None:
    data = stack(tilt=np.zeros((6, 9, 11)))
    placed = dfxm_dask.sample_coordinates(data, mu=7.0, omega=30.0, chi=-2.0, phi=4.0)
    z, y, x = np.meshgrid(*(data[d].values for d in SPACE), indexing="ij")
    turn = total_rotation(7.0, 30.0, -2.0, 4.0).inv()
    wanted = turn.apply(np.stack([x, y, z], -1).reshape(-1, 3)).reshape(6, 9, 11, 3)
    for k, name in enumerate(("x_sample", "y_sample", "z_sample")):
        np.testing.assert_allclose(placed[name].transpose(*SPACE), wanted[..., k], atol=1e-12)
    on_top = dfxm_dask.sample_coordinates(data, mu=7.0, stage="sample")
    np.testing.assert_allclose(on_top.z_sample, data.z - np.sin(np.deg2rad(7.0)) * data.x)
    assert on_top.x_sample.dims == ("x",)
    assert dfxm_dask.sample_coordinates(data, mu=7.0).y_sample.dims == ("y",)


@pytest.mark.parametrize(("detector", "stretch"), [("vertical", np.tan), ("normal", np.sin)])
def test_sample_coordinates__pixels_of_the_detector_are_stretched_along_the_beam(detector, stretch) -> None:
    data = stack(tilt=np.zeros((6, 9, 11)))
    placed = dfxm_dask.sample_coordinates(data, mu=0.0, theta=8.0, detector=detector)
    np.testing.assert_allclose(placed.x_sample, data.x / stretch(np.deg2rad(16.0)))
    with pytest.raises(InputError, match="needs theta"):
        dfxm_dask.sample_coordinates(data, mu=0.0, detector=detector)


def test_resample__is_exact_on_a_plane_and_invents_nothing() -> None:
    data = stack(tilt=np.zeros((6, 9, 11)))
    placed = dfxm_dask.sample_coordinates(data, mu=20.0, omega=10.0)
    plane = 2 * placed.x_sample - 3 * placed.y_sample + 0.5 * placed.z_sample
    placed["tilt"] = plane.transpose(*SPACE)
    placed["inside"] = xr.ones_like(placed["tilt"], bool)
    volume = dfxm_dask.resample(placed, (0.3, 0.2, 0.2))
    wanted = 2 * volume.x - 3 * volume.y + 0.5 * volume.z
    known = np.isfinite(volume.tilt)
    assert 0.1 < float(known.mean()) < 0.9
    np.testing.assert_allclose(volume.tilt.where(known), wanted.where(known).transpose(*SPACE), atol=1e-6)
    # A grid point outside of the stack is unknown, one inside is known.
    points = np.stack([g.ravel() for g in np.meshgrid(volume.x, volume.y, volume.z, indexing="ij")], 1)
    back = total_rotation(20.0, 10.0, 0.0, 0.0).apply(points).reshape(volume.sizes["x"], volume.sizes["y"], -1, 3)
    inside = np.ones(back.shape[:3], bool)
    for k, d in enumerate(("x", "y", "z")):
        low, high = float(data[d].min()), float(data[d].max())
        inside &= (back[..., k] > low + 1e-6) & (back[..., k] < high - 1e-6)
    assert (known.transpose("x", "y", "z").values >= inside).all()
    assert (~volume.inside.values[~known.values]).sum() > 0
    holed = placed.assign(tilt=placed.tilt.where(placed.z != 5))
    assert np.isnan(dfxm_dask.resample(holed, (0.3, 0.2, 0.2)).tilt).sum() > (~known).sum()


def test_resample__without_a_rotation_returns_the_maps() -> None:
    values = np.random.default_rng(0).normal(size=(6, 9, 11))
    data = stack(tilt=values).assign(label=(SPACE, np.arange(594).reshape(6, 9, 11).astype(np.int32)))
    volume = dfxm_dask.resample(dfxm_dask.sample_coordinates(data, mu=0.0), (1.0, 0.5, 0.25))
    np.testing.assert_allclose(volume.tilt.values[..., ::-1], values, rtol=1e-12)
    np.testing.assert_array_equal(volume.label.values[..., ::-1], data.label)


def test_resample__refuses() -> None:
    data = stack(tilt=np.zeros((6, 9, 11)))
    with pytest.raises(InputError, match="there is no coordinate x_sample"):
        dfxm_dask.resample(data, (1, 1, 1))
    placed = dfxm_dask.sample_coordinates(data, mu=5.0)
    for given, words in ((placed.isel(z=[0]), "at least two along"), (placed.isel(y=[0, 1, 5]), "not evenly spaced")):
        with pytest.raises(InputError, match=words):
            dfxm_dask.resample(given, (1, 1, 1))
    with pytest.raises(InputError, match="three positive lengths"):
        dfxm_dask.resample(placed, (1, 0, 1))
    with pytest.raises(InputError, match="grid points"):
        dfxm_dask.resample(placed, (1e-3, 1e-3, 1e-3))
    with pytest.raises(InputError, match="is not a map"):
        dfxm_dask.resample(placed, (1, 1, 1), variables=["x"])
    with pytest.raises(InputError, match="is in None"):
        dfxm_dask.sample_coordinates(data.assign_coords(z=np.arange(6.0)), mu=5.0)
    with pytest.raises(InputError, match="finite angles"):
        dfxm_dask.sample_coordinates(data, mu=np.nan)
