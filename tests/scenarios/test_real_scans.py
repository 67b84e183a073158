"""Real ID03 scans from file to maps: counts, motors, centre of mass, KAM, and honesty about what is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe

EXAMPLES = Path(__file__).parents[2] / "scripts/examples"
SCANS = {
    "rocking": ("1.1", "measurement/pco_ff", "instrument/mu/value", ("phi",), (150,)),
    "mosa_scan": ("1.1,2.1", "instrument/pco_ff/image", "instrument/diffrz/data", ("chi", "phi"), (62, 43)),
    "motor_drift": ("1.1", "instrument/pco_ff/image", "instrument/diffry/data", ("chi", "phi"), (26, 37)),
    "2D_domains": ("1.1", "instrument/pco_ff/image", "instrument/diffry/data", ("chi", "phi"), (26, 37)),
}


def find(entry: h5py.Group, *names: str) -> np.ndarray:
    for name in names:
        if name in entry:
            return np.asarray(entry[name])
    raise KeyError(names)


@pytest.fixture(scope="module", params=list(SCANS))
def scan(
    request: pytest.FixtureRequest, real_scans: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    name = request.param
    store = tmp_path_factory.mktemp(name) / "scan.zarr"
    z = [0.0, 1.0] if name == "mosa_scan" else None
    dfxm_dask.ingest(real_scans[name], store, scan=SCANS[name][0], z=z, pixel_size=(1, 1))
    return name, real_scans[name], store


def test_ingest__counts_and_motors_equal_the_file(scan: tuple[str, Path, Path]) -> None:
    name, source, store = scan
    entries, _, motor, axes, shape = SCANS[name]
    raw = dfxm_dask.open_scan(store)["raw"]
    with h5py.File(source) as file:
        for z, entry in enumerate(entries.split(",")):
            image = find(file[entry], "instrument/pco_ff/image", "instrument/pco_ff/data", "measurement/pco_ff")
            np.testing.assert_array_equal(raw.counts[z].values.reshape(image.shape), image)
            read = find(file[entry], motor, motor.replace("data", "value"))
            np.testing.assert_array_equal(raw.readback_phi[z].values.ravel(), read)
            np.testing.assert_allclose(
                raw.phi.values, read.reshape(shape).mean(axis=tuple(range(len(axes) - 1))), atol=1e-3
            )
    assert raw.counts.dims == ("z", *axes, "y", "x")


def test_moments__centre_of_mass_against_float64(scan: tuple[str, Path, Path]) -> None:
    name, _, store = scan
    raw = dfxm_dask.open_scan(store)["raw"].to_dataset()
    level = {"rocking": 2560.0, "2D_domains": 0.0}.get(name, 101.0)
    found = dfxm_dask.moments(raw, background=level).compute()
    w = np.maximum(raw.counts.values.astype(float) - level, 0)
    axes = SCANS[name][3]
    total = w.sum(axis=tuple(range(1, 1 + len(axes))))
    for k, axis in enumerate(axes):
        position = raw[axis].values.reshape([-1 if j == k + 1 else 1 for j in range(w.ndim)])
        with np.errstate(invalid="ignore"):
            com = (w * position).sum(axis=tuple(range(1, 1 + len(axes)))) / total
        np.testing.assert_array_equal(np.isnan(found[f"com_{axis}"]), np.isnan(com))
        np.testing.assert_allclose(found[f"com_{axis}"], com, rtol=0, atol=1e-6)


MAPS = """
name: maps
steps:
  - background: {method: quantile, quantile: 0.1}
  - moments: {noise_cut: 5}
  - kam: {radius: 2.0}
"""


def lies_on_the_reflection(raw: xr.Dataset, maps: xr.Dataset) -> None:
    """Scans of many dark frames: as by an own median background and cut; without the cut the noise moves it away."""
    above = raw.counts.values[0] - np.median(raw.counts.values[0], axis=(0, 1))
    weight = np.where(above > 15, above, 0)
    plain = dfxm_dask.moments(raw, background=float(np.median(raw.counts.values))).compute()
    for k, axis in enumerate(("chi", "phi")):
        step = abs(float(raw[axis][1] - raw[axis][0]))
        position = raw[axis].values.reshape((-1, 1, 1, 1) if k == 0 else (1, -1, 1, 1))
        with np.errstate(invalid="ignore"):
            expected = (weight * position).sum((0, 1)) / weight.sum((0, 1))
        away = np.nanmedian(np.abs(maps[f"com_{axis}"].values[0] - expected)) / step
        assert away < 0.25
        assert np.nanmedian(np.abs(plain[f"com_{axis}"].values[0] - expected)) / step > 3 * away


def test_maps__centre_of_mass_lies_on_the_reflection(real_scans: dict[str, Path], tmp_path: Path) -> None:
    dfxm_dask.ingest(real_scans["motor_drift"], tmp_path / "s.zarr", scan="1.1", pixel_size=(1, 1))
    run_recipe(parse_recipe(MAPS, Path("maps.yaml")), tmp_path / "s.zarr")
    tree = dfxm_dask.open_scan(tmp_path / "s.zarr")
    lies_on_the_reflection(tree["raw"].to_dataset(), tree["rocking"].to_dataset().load())


def test_example__truncated_curves_of_the_rocking_scan_are_flagged(
    run_example: Callable[[Path], dict[str, Any]],
) -> None:
    """A third to a half of the lit pixels have a curve that the scan cuts off: each carries the flag."""
    done = run_example(EXAMPLES / "1_rocking_scan.py")
    known = done["known"]
    lit = (known.flags & 1) == 0
    assert 0.3 < float(((known.flags & 2) > 0).sum() / lit.sum()) < 0.6
    assert done["widths"]["background of 2560 counts"] * 2.3548 == pytest.approx(0.082, abs=0.008)
    assert 0.3 < done["truncated"] < 0.4
    assert "weak beam: False" in done["printed"]


def test_example__of_the_mosaicity_scan(run_example: Callable[[Path], dict[str, Any]]) -> None:
    done = run_example(EXAMPLES / "2_mosaicity_scan.py")
    raw = done["tree"]["raw"].to_dataset().isel(z=slice(1)).chunk(z=1)
    lies_on_the_reflection(raw, done["maps"])
    assert (done["colours"].mosaicity.values.max(-1) > 0).all()
    assert done["single"] < 0.01


def test_kam__of_a_real_orientation_field() -> None:
    """Real 647 x 861 field of deformed aluminium, a third of it NaN: against a naive loop at random pixels."""
    import importlib.metadata

    files = importlib.metadata.files("darling-pypi") or []
    path = next(f.locate() for f in files if "mosa_Al_1050" in str(f) and str(f).endswith(".npy"))
    field = np.load(str(path))
    data = xr.Dataset(
        {f"com_{a}": (("z", "y", "x"), field[None, ..., k], {"units": "degree"}) for k, a in enumerate(("chi", "phi"))},
        coords={d: (d, np.arange(n) * p, {"units": "um"}) for d, n, p in (("y", 647, 0.5), ("x", 861, 0.25))},
    )
    found = dfxm_dask.kam(data, radius=1.0).kam.values[0]
    generator = np.random.default_rng(3)
    for y, x in zip(generator.integers(0, 647, 400), generator.integers(0, 861, 400), strict=True):
        differences = []
        for dy in range(-2, 3):
            for dx in range(-4, 5):
                j, i = y + dy, x + dx
                near = 0 < (dy * 0.5) ** 2 + (dx * 0.25) ** 2 <= 1 + 1e-9
                if near and 0 <= j < 647 and 0 <= i < 861:
                    differences.append(np.linalg.norm(field[j, i].astype(float) - field[y, x].astype(float)))
        expected = np.nanmean(differences) if np.isfinite(differences).any() else np.nan
        np.testing.assert_allclose(found[y, x], expected, rtol=1e-5)
