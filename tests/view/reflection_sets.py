"""A set of reflections in memory, with strain maps of a bent crystal and two dislocations."""

from __future__ import annotations

import numpy as np
import xarray as xr

from dfxm_dask.optics.defects.dislocation import gradient, lines

HKL = ((-1, -1, 3), (-1, 1, 3), (1, -1, 3), (1, 1, 3))
BURGERS = 2.863e-4
ERROR = 2e-5


def distortion(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distortion (y, x, row, column) of two edge dislocations along z and of a bent lattice."""
    at_y, at_x = (axis.mean() + s * np.ptp(axis) / 5 for axis, s in ((y, 0.7), (x, 1.1)))
    table = lines(
        [[at_x, at_y, 0.0], [2 * x.mean() - at_x, 2 * y.mean() - at_y, 0.0]],
        [[BURGERS, 0, 0], [-BURGERS, 0, 0]],
        [[0, 0, 1.0]],
        2 * BURGERS,
    )
    grid = np.stack([*np.meshgrid(x, y), np.zeros((y.size, x.size))], axis=-1)
    beta = gradient(grid.reshape(-1, 3), table, poisson=0.334).reshape(y.size, x.size, 3, 3)
    bend = 4e-5 * (x - x.mean())
    beta[..., 0, 2] += bend
    beta[..., 2, 0] -= bend
    return beta


def reflection_set(ny: int = 60, nx: int = 80, layers: int = 1, pixel: tuple[float, float] = (0.1, 0.1)) -> xr.DataTree:
    """The store that joins four reflections, with the groups raw and strain; the rim of the field is dark."""
    rng = np.random.default_rng(5)
    y, x = np.arange(ny) * pixel[0], np.arange(nx) * pixel[1]
    beta = distortion(y, x)
    edge = np.minimum.reduce(
        np.broadcast_arrays(np.arange(ny)[:, None], ny - 1 - np.arange(ny)[:, None], np.arange(nx))
    )
    lit = edge > 2 + 2 * np.sin(np.arange(nx) / 9)
    measured = np.where(lit[..., None, None], beta + rng.normal(0, ERROR, beta.shape), np.nan)
    dims = ("z", "y", "x")

    def maps(values: np.ndarray, more: tuple[str, ...], units: str, name: str) -> xr.Variable:
        return xr.Variable((*dims, *more), np.stack([values] * layers), {"units": units, "long_name": name})

    error = np.where(lit[..., None, None], ERROR * (1 + 0.5 * rng.random(beta.shape)), np.nan)
    turn = 0.5 * (measured - measured.swapaxes(-1, -2))
    nye = np.full(beta.shape, np.nan)
    for row in range(3):  # the curl of the rows about z, which one layer determines
        nye[..., row, 2] = np.gradient(measured[..., row, 1], x, axis=1) - np.gradient(measured[..., row, 0], y, axis=0)
    floor = np.where(lit, ERROR / (BURGERS * pixel[1]) * (1 + 0.2 * np.arange(nx) / nx), np.nan)
    tensor = ("row", "column")
    strain = {
        "deformation": maps(np.eye(3) + measured, tensor, "1", "deformation gradient"),
        "deformation_error": maps(error.astype(np.float32), tensor, "1", "standard error"),
        "rotation": maps(
            np.stack([turn[..., 2, 1], turn[..., 0, 2], turn[..., 1, 0]], -1), ("xyz",), "rad", "rotation"
        ),
        "rotation_error": maps(error[..., 0], ("xyz",), "rad", "standard error of the rotation"),
        "strain": maps(0.5 * (measured + measured.swapaxes(-1, -2)), tensor, "1", "strain"),
        "strain_error": maps(error, tensor, "1", "standard error of the strain"),
        "nye": maps(nye, tensor, "1/um", "Nye tensor"),
        "nye_error": maps(np.where(np.isfinite(nye), ERROR / pixel[1], np.nan), tensor, "1/um", "standard error"),
        "density": maps(np.sqrt(np.nansum(nye**2, (-1, -2))) / BURGERS + 0 * floor, (), "1/um2", "density"),
        "density_floor": maps(floor, (), "1/um2", "density that noise causes"),
    }
    centre = np.rad2deg(np.einsum("yxij,rj->ryxi", measured, np.array(HKL) / np.sqrt(11)))
    centre[1, : ny // 8] = centre[3, :, -nx // 10 :] = np.nan
    centre[2, ..., 0] = np.nan  # two_theta was not scanned
    raw = {
        "centre": (("z", "reflection", "y", "x", "angle"), np.stack([centre] * layers), {"units": "degree"}),
        "hkl": (("reflection", "index"), np.array(HKL)),
        "setting": (("reflection", "motor"), np.array([[0, 6.4316 + 90 * k, 20.2326, 15.4168] for k in (0, 1, 3, 2)])),
        "zero": (("reflection", "angle"), np.zeros((4, 3)), {"units": "degree"}),
        "wavelength": (("reflection",), np.full(4, 0.64913), {"units": "angstrom"}),
        "shift": (("reflection", "yx"), np.array([[0, 0], [0.31, -0.12], [-0.2, 0.24], [0.05, 0.4]]), {"units": "um"}),
        "shift_error": (("reflection", "yx"), np.array([[0, 0], [0.01, 0.02], [0.01, 0.01], [0.02, 0.01]])),
    }
    coords = {
        "z": ("z", np.arange(layers) * 1.0, {"units": "um"}),
        "y": ("y", y, {"units": "um"}),
        "x": ("x", x, {"units": "um"}),
    }
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=coords, attrs={"title": "four reflections of one volume", "schema_version": 1}),
            "/raw": xr.Dataset(raw),
            "/strain": xr.Dataset(strain),
        }
    )
