"""Distribution of the orientation: against numpy's histogram, and its error against layers that are drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.engine.shapes import scan_axes
from dfxm_dask.errors import InputError

PHI, CHI = np.linspace(-0.1, 0.1, 11), np.linspace(1.0, -1.0, 5)


def maps(shape: tuple[int, int, int] = (4, 20, 30), seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    dims, angle = ("z", "y", "x"), {"units": "degree"}
    chi, phi = rng.normal(0, 0.5, shape), rng.normal(0, 0.04, shape)
    phi[0, :3] = np.nan
    total = rng.uniform(0, 100, shape).astype(np.float32)
    data = {"com_chi": (dims, chi, angle), "com_phi": (dims, phi, angle), "total": (dims, total, {"units": "count"})}
    coords = {d: (d, np.arange(n) * 1.0, {"units": "um"}) for d, n in zip(dims, shape, strict=True)}
    axes = {n: (n, p, {"units": "degree", "scan_axis": k}) for k, (n, p) in enumerate((("chi", CHI), ("phi", PHI)))}
    return xr.Dataset(data, coords | axes)


@pytest.mark.parametrize("weight", ["volume", "intensity"])
def test_distribution__is_the_histogram_at_the_positions(weight: str) -> None:
    data = maps()
    found = dfxm_dask.orientation_distribution(data, weight=weight).compute()
    cut = dfxm_dask.orientation_distribution(data.chunk({"z": 1, "y": 7}), weight=weight).compute()
    known = np.isfinite(data.com_phi.values)
    size = data.total.values[known].astype(float) if weight == "intensity" else np.ones(known.sum())
    edges = [np.append(p - s / 2, p[-1] + s / 2) for p, s in ((np.sort(CHI), 0.5), (PHI, 0.02))]
    wanted, *_ = np.histogram2d(data.com_chi.values[known], data.com_phi.values[known], edges, weights=size)
    np.testing.assert_allclose(found.orientation_distribution, wanted[::-1] / size.sum(), rtol=1e-12)
    np.testing.assert_allclose(cut.orientation_distribution, found.orientation_distribution, rtol=1e-12)
    assert float(found.orientation_distribution.sum() + found.orientation_outside) == pytest.approx(1)
    assert found.orientation_distribution.dims == ("chi", "phi")
    if weight == "volume":
        assert int(found.orientation_voxels.sum()) == round(wanted.sum())


def test_distribution__error_covers_layers_drawn_anew() -> None:
    """Layers with independent voxels: the jackknife agrees with the binomial error."""
    found = dfxm_dask.orientation_distribution(maps((40, 20, 30), 1)).compute()
    share, count = found.orientation_distribution.values, 40 * 600
    binomial = np.sqrt(share * (1 - share) / count)
    ratio = found.orientation_distribution_error.values[share > 0.005] / binomial[share > 0.005]
    assert ratio.mean() == pytest.approx(1, abs=0.1)
    assert np.isnan(dfxm_dask.orientation_distribution(maps((1, 20, 30))).orientation_distribution_error).all()


def test_distribution__by_intensity_needs_the_intensity() -> None:
    with pytest.raises(InputError, match="needs the variable 'total'"):
        dfxm_dask.orientation_distribution(maps().drop_vars("total"), weight="intensity").compute()


def test_scan_axes__are_those_of_the_centres_and_not_of_their_errors() -> None:
    """Maps without coordinates of the scan axes, as moments and moment_errors return."""
    data = maps((2, 3, 4))[["com_phi", "com_chi"]]  # no variable has the dims phi and chi
    data = data.assign(com_phi_error=data.com_phi, com_chi_phi_covariance=data.com_chi)
    assert scan_axes(data) == {"phi": "degree", "chi": "degree"}
