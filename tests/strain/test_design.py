"""Predicted errors of sets of reflections against the measured scatter of F; rotation and strain of known fields."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from dfxm_dask.cli import cli
from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.strain.decompose import decompose, reference_deformation
from dfxm_dask.strain.deformation import deformation
from dfxm_dask.strain.design import centre_error, design
from tests.strain.oblique_set import covariances, set_of

AL = Lattice(parameter=4.0493e-4, x=(1, 0, 0), z=(0, 0, 1))
SIGMA = np.array([0.0012, 0.0006, 0.0009])


def test_design__predicts_the_scatter_of_five_sets() -> None:
    given = {"errors": tuple(SIGMA), "theta": (8.0, 17.0), "eta": 50.0}
    ranked = design(AL, 19.1, count=3, best=400, **given)
    determined = [one for one in ranked if not one.undetermined]
    assert ranked[: len(determined)] == determined
    assert determined[0].rms < determined[-1].rms
    ranked = [determined[k] for k in (0, len(determined) // 2, -1)]
    ranked += design(AL, 19.1, count=4, best=2, largest=3, **given)
    for one in ranked:
        tables = set_of(np.array(one.hkl))
        tables["setting"] = np.stack([np.zeros(len(one.hkl)), one.omega, one.eta, one.theta], axis=1)
        shape = (len(one.hkl), 1, 4000)
        noise = np.random.default_rng(1).normal(0, 1, (*shape, 3)) * SIGMA
        found = deformation.kernel(noise, covariances(shape, np.deg2rad(SIGMA)), **tables)["deformation"]
        np.testing.assert_allclose(found.std(axis=(0, 1)), one.error, rtol=0.1)
        assert np.sqrt(found.var(axis=(0, 1)).mean()) == pytest.approx(one.rms, rel=0.1)


def test_design__of_a_missing_scan_names_the_null_space() -> None:
    hkl = [(-1, -1, 3), (-1, 1, 3), (1, -1, 3), (1, 1, 3)]
    (one,) = design(AL, 19.1, hkl=hkl, count=4, theta=(10, 20), errors=(None, 0.001, 0.001))
    assert np.isnan(one.rms)
    assert one.undetermined == ("rotation about z with strain +1.00 perpendicular to z, +0.69 along z",)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"hkl": [(0, 0, 2)]}, "reflection 0 0 2: is out of reach"),
        ({"count": 9, "hkl": [(1, 1, 3)], "theta": (10, 20)}, "1 reflections are within reach"),
        ({"count": 5, "largest": 7, "theta": (1, 40), "eta": 90.0}, "at most 300000 are compared"),
        ({"errors": (None, None, None)}, "are not positive"),
        ({"criterion": "best"}, "take one of rms, worst, condition"),
    ],
)
def test_design__refuses(given, text: str) -> None:
    with pytest.raises(InputError, match=text):
        design(AL, 19.1, **given)


def test_design__command() -> None:
    lattice = "{parameter: 4.0493e-4, x: [1, 0, 0], z: [0, 0, 1]}"
    given = ["design", "--lattice", lattice, "--energy", "19.1", "--theta", "14,17", "--eta", "25", "--largest", "3"]
    shown = CliRunner().invoke(cli, [*given, "--count", "2"])
    assert shown.exit_code == 0, shown.output
    assert "strain along" in shown.output
    result = json.loads(CliRunner().invoke(cli, [*given, "--count", "4", "--json"]).output)
    assert result["sets"][0]["rms"] == design(AL, 19.1, count=4, theta=(14, 17), eta=25.0, largest=3)[0].rms
    assert CliRunner().invoke(cli, [*given, "--errors", "1,2"]).exit_code == 2


def test_centre_error__is_the_scatter_of_poisson_counts() -> None:
    x = np.arange(-15, 15.5) * 0.002
    mean = 400 * np.exp(-4 * np.log(2) * (x / 0.01) ** 2)
    counts = np.random.default_rng(2).poisson(mean + 30, (4000, len(x))) - 30
    assert (counts @ x / counts.sum(axis=1)).std() == pytest.approx(centre_error(0.01, 400, 0.002, 0.06, 30), rel=0.05)


@pytest.mark.parametrize("measure", ["small", "lagrange", "stretch"])
def test_decompose__against_scipy(measure: str) -> None:
    generator = np.random.default_rng(3)
    deformed = np.eye(3) + generator.normal(0, 0.02, (3, 4, 3, 3))
    found = decompose.kernel(deformed, np.zeros((3, 4, 9, 9), np.float32), measure=measure)
    for index in np.ndindex(3, 4):
        f = deformed[index]
        turned, stretch = polar(f)
        strain = {"small": (f + f.T) / 2 - np.eye(3), "lagrange": (f.T @ f - np.eye(3)) / 2}.get(
            measure, stretch - np.eye(3)
        )
        np.testing.assert_allclose(found["strain"][index], strain, rtol=0, atol=1e-14)
        w = Rotation.from_matrix(turned).as_rotvec()
        if measure == "small":
            w = np.array([f[2, 1] - f[1, 2], f[0, 2] - f[2, 0], f[1, 0] - f[0, 1]]) / 2
        np.testing.assert_allclose(found["rotation"][index], w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("measure", ["small", "lagrange", "stretch"])
def test_decompose__errors_are_the_scatter(measure: str) -> None:
    generator = np.random.default_rng(4)
    factor = generator.normal(0, 1e-5, (9, 9))
    turned = Rotation.from_rotvec([0.05, -0.1, 0.2]).as_matrix()
    drawn = turned + (generator.normal(0, 1, (1, 6000, 9)) @ factor.T).reshape(1, 6000, 3, 3)
    spread = np.zeros((1, 6000, 9, 9), np.float32)
    spread[...] = factor @ factor.T
    found = decompose.kernel(drawn, spread, measure=measure)
    for name, limit in (("strain", 0.05), ("rotation", 0.05)):
        np.testing.assert_allclose(found[name].std(axis=(0, 1)), found[f"{name}_error"][0, 0], rtol=limit)


def test_decompose__missing_components_and_reference() -> None:
    deformed = np.tile(np.eye(3) + 1e-3 * np.arange(9).reshape(3, 3), (1, 2, 1, 1))
    deformed[0, 1, 0, 1] = np.nan
    spread = np.full((1, 2, 9, 9), np.nan, np.float32)
    spread[0, 0] = spread[0, 1] = 1e-10 * np.eye(9)
    spread[0, 1, 1] = spread[0, 1, :, 1] = np.nan
    found = decompose.kernel(deformed, spread, measure="stretch")
    assert np.isnan(found["rotation"][0, 1]).tolist() == [False, False, True]
    assert np.isnan(found["strain"][0, 1]).sum() == 2
    assert (np.isnan(found["strain"]) == np.isnan(found["strain_error"])).all()
    error = np.full(deformed.shape, 1e-5, np.float32)
    summary = reference_deformation.kernel(deformed[:, :1], error[:, :1], np.zeros(1), np.zeros(1))
    reference = reference_deformation.finish(summary)["reference_deformation"]
    relative = decompose.kernel(deformed[:, :1], spread[:, :1], reference, reference="mean")
    np.testing.assert_allclose(relative["strain"], 0, atol=1e-15)
    with pytest.raises(InputError, match="run the step reference_deformation first"):
        decompose.kernel(deformed, spread, reference="mean")
