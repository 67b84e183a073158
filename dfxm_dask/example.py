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
