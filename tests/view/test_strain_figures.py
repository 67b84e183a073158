"""Sets of reflections: the values, units and absent components that their figures and exported files show."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr

from dfxm_dask.strain.variables import ANGLES, MOTORS
from dfxm_dask.view.export import export
from dfxm_dask.view.export.tables import LABELS
from dfxm_dask.view.pictures import figures
from dfxm_dask.view.store_facts import measured, strain_findings
from dfxm_dask.view.strain.component_page import DEGREES, common_limits, number, scaled
from dfxm_dask.view.strain.density import draw_density
from dfxm_dask.view.strain.spacing import draw_spacing
from dfxm_dask.view.strain.tensors import tilt_colours
from tests.view.reflection_sets import BURGERS, distortion, reflection_set
from tests.view.test_figures import check_page, page_texts

PAGES = ("reflections", "registration", "deformation", "deformation_error", "rotation", "strain", "nye", "density")


def test_figures__of_a_set_of_reflections() -> None:
    tree = reflection_set(ny=24, nx=40)
    pages = figures(tree, only=PAGES)
    assert tuple(pages) == PAGES
    for name in ("reflections", "registration", "rotation", "nye", "density"):  # the others are laid out as nye
        check_page(pages[name])
    maps = [axes.images[0].get_array() for axes in pages["deformation"].axes[:9]]
    beta = tree["strain/deformation"].values[0] - np.eye(3)
    np.testing.assert_allclose(maps[2].filled(np.nan), 1e6 * beta[..., 0, 2], atol=1e-6)  # row by row, in 10⁻⁶
    ends = {axes.images[0].get_clim() for axes in pages["deformation"].axes if axes.images}
    assert len(ends) == 1
    said = {name: " ".join(text.get_text() for text in page_texts(page)) for name, page in pages.items()}
    assert "α xx, α xy, α yx, α yy, α zx, α zy" in said["nye"]
    assert "Not measured: 1 −1 3: two_theta" in said["reflections"]
    assert "10⁻⁶" in said["strain"]
    assert "µrad" in said["rotation"]


def test_density__shows_no_colour_below_its_floor() -> None:
    tree = reflection_set(ny=24, nx=40)
    found = tree["strain"].dataset
    (page,) = figures(tree, only=["density"]).values()
    shown = page.axes[0].images[0].get_array().filled(np.nan)
    density, floor = found["density"].values[0], found["density_floor"].values[0]
    above = density > floor
    np.testing.assert_allclose(10 ** shown[above], density[above])
    assert np.isnan(shown[~above]).all()
    tree["strain/density"] = found["density"] * np.nan
    assert draw_density(tree, 0, "") is None


def test_export__components_lie_before_the_pixels(tmp_path: Path) -> None:
    tree = reflection_set(ny=5, nx=8, layers=2)
    files = {path.name for path in export(tree, tmp_path, formats=["nexus", "tiff", "csv"])}
    assert {"maps.h5", "maps.csv", "strain_deformation.ome.tif", "reflections.csv", "raw_centre.ome.tif"} <= files
    true = tree["strain/deformation"].values
    with h5py.File(tmp_path / "maps.h5") as file:
        data = file["strain/deformation"]
        assert list(data.attrs["axes"]) == ["z", ".", ".", "y", "x"]
        np.testing.assert_array_equal(data["deformation"][1, 0, 2], true[1, :, :, 0, 2])
        assert data["deformation_errors"].shape == data["deformation"].shape
    with tifffile.TiffFile(tmp_path / "strain_deformation.ome.tif") as file:
        assert file.series[0].axes == "ZCYX"
        np.testing.assert_array_equal(file.series[0].asarray()[1, 5], true[1, :, :, 1, 2].astype(np.float32))
        assert 'Name="deformation_y_z"' in file.ome_metadata
    with open(tmp_path / "maps.csv", newline="", encoding="utf-8") as file:
        assert "centre_3_two_theta" in next(csv.reader(file))
    with open(tmp_path / "reflections.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["hkl_h"], row["setting_omega"], row["shift_x"]) for row in rows][1] == ("-1", "96.4316", "-0.12")
    assert (LABELS["angle"], LABELS["motor"]) == (ANGLES, MOTORS)


def test_distortion__of_the_example_closes_to_the_burgers_vector() -> None:
    y, x = np.linspace(0, 6, 201), np.linspace(0, 8, 267)
    beta = distortion(y, x)[..., 0, :] - distortion(y, x)[:1, :1, 0, :]
    left = slice(0, 133)
    sides = beta[0, left, 0].sum(), beta[:, 133, 1].sum(), -beta[-1, left, 0].sum(), -beta[:, 0, 1].sum()
    assert abs(sum(sides)) * (x[1] - x[0]) == pytest.approx(BURGERS, rel=0.02)


def test_findings__of_a_set() -> None:
    tree = reflection_set(ny=24, nx=40)
    found = {row["quantity"]: row for row in strain_findings(tree["strain"].dataset)}
    lit = np.isfinite(tree["strain/deformation"].values[..., 0, 0])
    assert found["pixels with all components of the deformation gradient"]["value"] == pytest.approx(100 * lit.mean())
    floor = np.nanmedian(tree["strain/density_floor"].values)
    assert found["median density that noise causes"] | {"value": floor} == found["median density that noise causes"]
    assert measured(found["median density that noise causes"]).endswith(" µm⁻²")


def test_scales__keep_numbers_short() -> None:
    assert scaled(0.02, DEGREES) == (1e3, "mdeg")
    assert scaled(0.0, DEGREES)[1] == "µdeg"
    assert common_limits([np.array([-3.0, np.nan]), np.array([1.0])], True)[0] < -2.9
    assert common_limits([np.array([np.nan])], False) == (0.0, 1.0)
    assert [number(v) for v in (0.0123, 25.06, 131.0, -2.0, np.nan)] == ["0.012", "25", "130", "−2", "unknown"]


def test_tilt_colours__differ_for_red_green_deficient_readers() -> None:
    from skimage.color import rgb2lab

    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring = rgb2lab(tilt_colours(np.sin(angle), np.cos(angle)))
    seen = ring[:, [0, 2]]  # without a*, red against green
    away = np.linalg.norm(seen[:, None] - seen, axis=-1) + 1e3 * np.eye(8)
    assert away.min() > 15
    assert np.isnan(tilt_colours(np.array([np.nan]), np.array([0.0]))).all()


def test_spacing__strain_beside_its_error() -> None:
    spread = 1e-6 * np.random.default_rng(3).normal(size=(1, 20, 30))
    maps = {
        "spacing": 2.3 * (1 + spread),
        "spacing_strain": spread,
        "spacing_strain_error": np.full(spread.shape, 1.1e-6, np.float32),
        "field_of_view_strain": np.full(spread.shape, np.nan, np.float32),
    }
    maps["spacing_strain_error"][0, 0] = 1.0  # the border of the crystal
    side = {"z": np.zeros(1), "y": 0.1 * np.arange(20), "x": 0.1 * np.arange(30)}
    coords = {name: (name, values, {"units": "um"}) for name, values in side.items()}
    found = {name: (("z", "y", "x"), values, {"units": "1"}) for name, values in maps.items()}
    root = xr.Dataset(coords=coords, attrs={"title": "one reflection"})
    tree = xr.DataTree.from_dict({"/": root, "/strain": xr.Dataset(found)})
    (page,) = figures(tree, only=["spacing"]).values()
    check_page(page)
    strain, error = (axes.images[0].get_array() for axes in page.axes[:2])
    np.testing.assert_allclose(strain, 1e6 * spread[0])
    assert error.max() == pytest.approx(3.3, rel=1e-6)
    said = " ".join(text.get_text() for text in page_texts(page))
    assert "Median spacing 2.3 Å" in said
    assert "median error 1.1·10⁻⁶" in said
    tree["strain/spacing"] = tree["strain/spacing"] * np.nan
    assert draw_spacing(tree, 0, "") is None
