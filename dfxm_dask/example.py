"""A small simulated scan for examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def example_scan() -> xr.Dataset:
    """Example scan: two subgrains, one of them with a dislocation.

    The Dataset has the form of ``open_scan(path)["raw"]``, so that every reduction accepts it. It is computed from a
    fixed seed: no files, no download, always the same counts.

    Returns
    -------
    xarray.Dataset
        ``counts`` (z 2, phi 61, y 32, x 32), uint16, count; ``noise`` (z); ``monitor`` (z, phi); coordinates in um
        and degree. The background is 100 count. The rocking curves of the two subgrains are Gaussians of 1000 count and
        0.0057 degree FWHM at 0.024 and 0.036 degree, left and right of x = 4 um. The dislocation, a line two pixels
        wide, adds 100 count in the tail of the curve below the peak.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> dict(scan["counts"].sizes), int(scan["counts"].max()) > 1000
    ({'z': 2, 'phi': 61, 'y': 32, 'x': 32}, True)
    """
    import xarray as xr

    generator = np.random.default_rng(0)
    phi, side = 0.001 * np.arange(61), 0.25 * np.arange(32)
    peak = np.where(side < 4, 0.024, 0.036)
    light = 1000 * np.exp(-0.5 * ((phi[:, None, None] - peak) / 0.0024) ** 2) * np.ones((32, 1))
    counts = np.stack([light, light])
    for z in range(2):  # the dislocation is bright in the tail of the curve, and lies one pixel aside in the next layer
        counts[z, 5:14, 8:24, 6 + z : 8 + z] += 100
    counts = generator.normal(100 + counts, 2).round().astype(np.uint16)
    return xr.Dataset(
        {
            "counts": (("z", "phi", "y", "x"), counts, {"units": "count"}),
            "noise": ("z", np.full(2, 2, np.float32), {"units": "count"}),
            "monitor": (("z", "phi"), np.full((2, 61), 5e5)),
        },
        {
            "z": ("z", [0.0, 1.0], {"units": "um"}),
            "phi": ("phi", phi, {"units": "degree"}),
            "y": ("y", side, {"units": "um"}),
            "x": ("x", side, {"units": "um"}),
        },
    )


def example_reflections() -> xr.Dataset:
    """Example set of reflections: four oblique {113} reflections of Al around an edge dislocation.

    The Dataset has the form of ``open_scan(path)["raw"]`` of a set that ``dfxm_dask.join`` writes. It is computed from
    a fixed seed. The dislocation with the Burgers vector a/2 [1 1 0] follows z through the centre of the field.

    Returns
    -------
    xarray.Dataset
        ``centre`` (z 3, reflection 4, y 16, x 16, angle 3), degree, with a noise of 0.0003 degree, and the tables of
        the set; coordinates in um.

    Examples
    --------
    >>> import dfxm_dask
    >>> dict(dfxm_dask.example_reflections()["centre"].sizes)
    {'z': 3, 'reflection': 4, 'y': 16, 'x': 16, 'angle': 3}
    """
    import xarray as xr

    from dfxm_dask.optics.crystal import find_crystal, wavelength
    from dfxm_dask.optics.defects.dislocation import gradient, lines
    from dfxm_dask.optics.geometry import oblique
    from dfxm_dask.strain import variables
    from dfxm_dask.strain.goniometer import angles_of, reflections

    crystal, energy, noise = find_crystal("Al"), 19.1, 3e-4
    hkl = np.array([[-1, -1, 3], [-1, 1, 3], [1, -1, 3], [1, 1, 3]])
    omega, eta, theta = np.rad2deg([oblique(crystal.B, one, energy)[0] for one in hkl]).T
    setting = np.stack([np.zeros(4), omega, eta, theta], axis=1)
    at = reflections(hkl, setting, crystal.B, np.full(4, wavelength(energy)), deviation=1e-6)
    side, height = 0.1 * np.arange(16), np.array([0.0, 0.5, 1.0])
    z, y, x = np.meshgrid(height, side - side.mean(), side - side.mean(), indexing="ij")
    burgers = 0.5e-4 * crystal.edges @ [1, 1, 0]
    line = lines(np.zeros(3), burgers, np.array([0.0, 0, 1]))
    beta = gradient(np.stack([x, y, z], axis=-1), line, poisson=crystal.poisson)
    vectors = np.einsum("zyxji,kj->kzyxi", np.linalg.inv(np.eye(3) + beta), at.vectors)
    centre = np.rad2deg(angles_of(at, vectors)).swapaxes(0, 1)
    centre = centre + np.random.default_rng(0).normal(0, noise, centre.shape)
    known = {
        variables.CENTRE: centre,
        variables.CENTRE_COVARIANCE: np.tile(np.float32(noise**2) * np.eye(3, dtype=np.float32), (3, 4, 16, 16, 1, 1)),
        variables.HKL: hkl,
        variables.SETTING: setting,
        variables.ZERO: np.zeros((4, 3)),
        variables.RECIPROCAL_LATTICE: crystal.B,
        variables.WAVELENGTH: at.radius * 0 + wavelength(energy),
        variables.SHIFT: np.zeros((4, 2)),
        variables.SHIFT_ERROR: np.zeros((4, 2)),
    }
    lengths = {"z": height, "y": side, "x": side}
    return xr.Dataset(
        {v.name: (v.dims, values, v.attrs) for v, values in known.items()},
        {name: (name, values, {"units": "um"}) for name, values in lengths.items()},
    )
