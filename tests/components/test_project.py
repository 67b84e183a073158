"""Coefficients in a basis: against least squares of numpy and scipy, in memory and from a store, on real scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import nnls

import dfxm_dask
from dfxm_dask.components import gram_schmidt, pca, project_gram_schmidt, project_nmf, project_pca
from dfxm_dask.components.curves import scaling_of, treated
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.store.integrity import ledger, nodes

SCAN = {"chi": np.arange(3.0), "phi": np.linspace(0, 0.4, 7)}
GRID = dict(zip(SCAN, np.meshgrid(*SCAN.values(), indexing="ij"), strict=True))


def some(seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Counts (y, x, chi, phi), a basis that is not orthonormal, a mean curve, and treated curves (pixel, frame)."""
    generator = np.random.default_rng(seed)
    counts = np.moveaxis(generator.poisson(generator.uniform(90, 300, (9, 11)), (3, 7, 9, 11)), (2, 3), (0, 1))
    basis, mean = generator.uniform(0, 1, (4, 3, 7)), generator.uniform(0, 1, (3, 7))
    curves = treated(
        counts.astype(np.uint16),
        np.full((9, 11), 90, np.float32),
        np.arange(99),
        scaling_of("x", "log", None, 90, None),
    )
    return counts.astype(np.uint16), basis, mean, curves.T.astype(float)


def test_project__equals_least_squares() -> None:
    counts, basis, mean, curves = some()
    scaling = scaling_of("x", "log", None, 90, None)
    maps = project_pca.kernel(counts, SCAN, basis, mean, scaling, GRID)
    rows, wanted = basis.reshape(4, -1), curves - mean.ravel()
    expected = np.linalg.lstsq(rows.T, wanted.T, rcond=None)[0]
    np.testing.assert_allclose(maps["pca_coefficient"].reshape(4, -1), expected, atol=1e-5)
    left = np.sqrt(((wanted.T - rows.T @ expected) ** 2).mean(axis=0))
    np.testing.assert_allclose(maps["pca_residual"].ravel(), left, rtol=1e-6)


def test_project__equals_nonnegative_least_squares_where_the_fit_says_so() -> None:
    counts, basis, _, curves = some()
    scaling = scaling_of("x", "log", None, 90, None)
    scaling[3] = 1
    maps = project_nmf.kernel(counts, SCAN, basis, np.zeros((3, 7)), scaling, GRID)
    expected, left = zip(*(nnls(basis.reshape(4, -1).T, c) for c in curves), strict=True)
    np.testing.assert_allclose(maps["nmf_coefficient"].reshape(4, -1).T, expected, atol=1e-5)
    np.testing.assert_allclose(maps["nmf_residual"].ravel(), np.array(left) / np.sqrt(21), rtol=1e-6)
    assert (np.array(expected) == 0).any()


def test_project__is_nan_where_unlit_or_not_finite_and_unmoved_elsewhere() -> None:
    counts, basis, mean, _ = some()
    scaling = scaling_of("x", "log", None, 90, None)
    whole = project_pca.kernel(counts, SCAN, basis, mean, scaling, GRID)
    broken = counts.astype(np.float32)
    broken[4, 5, 1, 2] = np.nan
    lit = np.ones((9, 11), bool)
    lit[0, :3] = False
    maps = project_pca.kernel(broken, SCAN, basis, mean, scaling, GRID, lit=lit)
    bad = ~lit
    bad[4, 5] = True
    for name, values in maps.items():
        np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(bad, values.shape))
        np.testing.assert_array_equal(values[..., ~bad], whole[name][..., ~bad])


def test_project__of_its_own_image_is_that_image() -> None:
    """A curve made of the basis is given back: projection is idempotent."""
    generator = np.random.default_rng(3)
    basis = np.linalg.qr(generator.normal(size=(21, 3)))[0].T
    wanted = generator.uniform(-200, 200, (9, 11, 3))
    counts = (wanted @ basis).reshape(9, 11, 3, 7).astype(np.float32)
    scaling = scaling_of("x", "plain", None, "none", None)
    maps = project_pca.kernel(counts, SCAN, basis.reshape(3, 3, 7), np.zeros((3, 7)), scaling, GRID)
    np.testing.assert_allclose(np.moveaxis(maps["pca_coefficient"], 0, -1), wanted, atol=0.6)  # steps of 1/4 count
    assert maps["pca_residual"].max() < 0.125


def test_project__refuses_frames_elsewhere_and_another_background() -> None:
    counts, basis, mean, _ = some()
    scaling = scaling_of("x", "log", None, 90, None)
    nearly = GRID | {"phi": GRID["phi"] + 1e-4}
    project_pca.kernel(counts, SCAN, basis, mean, scaling, nearly)
    shifted = GRID | {"phi": GRID["phi"] + 0.02}
    text = "project_pca: the basis of pca: was fitted to other frames: phi 0.02 to 0.42, not 0 to 0.4 in 7 positions"
    with pytest.raises(ValueError, match=text):
        project_pca.kernel(counts, SCAN, basis, mean, scaling, shifted)
    with pytest.raises(ValueError, match="was fitted with a background of 90 counts everywhere"):
        project_pca.kernel(counts, SCAN, basis, mean, scaling, GRID, np.full((9, 11), 90, np.float32))
    with pytest.raises(ValueError, match="project_pca without a background map"):
        project_pca.kernel(counts, SCAN, basis, mean, scaling_of("x", "log", None, None, mean), GRID)


def test_project__a_basis_of_other_positions_is_refused_when_a_dataset_takes_it_over() -> None:
    """xarray aligns what is assigned: a foreign basis comes in as NaN, which must not become maps of NaN."""
    generator = np.random.default_rng(5)

    def dataset(start: float) -> xr.Dataset:
        phi = xr.Variable("phi", start + 0.1 * np.arange(7), {"units": "degree"})
        counts = xr.Variable(
            ("z", "phi", "y", "x"), generator.poisson(200, (2, 7, 8, 9)).astype(np.uint16), {"units": "count"}
        )
        return xr.Dataset({"counts": counts}, coords={"phi": phi, "z": np.arange(2.0)}).chunk({"z": 1})

    first, second, third = dataset(0), dataset(0), dataset(0.25)
    basis = pca(first, components=4, background=100).compute()
    maps = project_pca(second.merge(basis)).compute()
    assert maps.pca_coefficient.dims == ("z", "pca_component", "y", "x")
    assert maps.pca_coefficient.shape == (2, 4, 8, 9)
    with pytest.raises(ValueError, match="was fitted to other frames"):
        project_pca(third.assign(basis.data_vars)).compute()


RECIPE = """name: t
steps:
  - background: {method: quantile, quantile: 0.1}
  - local_peak: {}
  - gram_schmidt: {}
  - pca: {components: 5}
  - moments: {noise_cut: 5}
  - project_gram_schmidt: {}
  - project_pca: {}
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("components") / "s.zarr"
    dfxm_dask.simulate("easy", store, layers=2, shape=(128, 128), seed=7)
    run_recipe(parse_recipe(RECIPE, Path("t.yaml")), store)
    return store


def test_run__bases_of_different_lengths_live_in_one_store(simulated: Path) -> None:
    tree = dfxm_dask.open_scan(simulated)
    made = tree["components"].to_dataset().load()
    assert made.sizes["gram_schmidt_component"] == 3
    assert made.sizes["pca_component"] == 5
    assert made.gram_schmidt_has_tails
    assert made.gram_schmidt_coefficient.shape == (2, 3, 128, 128)
    assert made.pca_coefficient.shape == (2, 5, 128, 128)
    frames = tree["raw"].counts.sizes["phi"]
    assert 1 - made.gram_schmidt_coefficient.size / tree["raw"].counts.size == pytest.approx(1 - 3 / frames)
    lit = tree["beams"].lit.values
    np.testing.assert_array_equal(np.isfinite(made.gram_schmidt_residual.values), lit)
    rms = np.sqrt((made.gram_schmidt_residual.values[lit].astype(float) ** 2).mean())
    assert rms == pytest.approx(float(made.gram_schmidt_rms), rel=1e-6)  # the fit and the projection see the same


def test_run__equals_the_lazy_graph(simulated: Path) -> None:
    tree = dfxm_dask.open_scan(simulated)
    inputs = xr.merge([tree[g].to_dataset() for g in ("raw", "frames", "beams")], compat="override")
    basis = gram_schmidt(inputs).compute()
    made = tree["components"].to_dataset().load()
    for name, values in basis.data_vars.items():
        np.testing.assert_array_equal(values, made[name], err_msg=str(name))
    maps = project_gram_schmidt(inputs.chunk({"z": 1, "y": 37, "x": 50}).merge(basis)).compute()
    for name, values in maps.data_vars.items():
        np.testing.assert_array_equal(values, made[name], err_msg=str(name))


def test_run__a_projection_waits_for_its_basis_and_shares_the_reading(simulated: Path) -> None:
    found = plan(parse_recipe(RECIPE, Path("t.yaml")), simulated)
    names = [[s.name for s in one.steps] for one in found.passes]
    for method in ("gram_schmidt", "pca"):
        assert not any({method, f"project_{method}"} <= set(p) for p in names)
    assert any({"moments", "project_gram_schmidt"} <= set(p) for p in names)
    step = next(s for s in found.steps if s.name == "project_pca")
    assert step.bytes_written == 2 * 128 * 128 * (5 + 1) * 4


def test_run__a_projection_without_a_basis_is_refused(simulated: Path) -> None:
    with pytest.raises(ValueError, match="reads 'nica_basis', which no earlier step writes"):
        plan(parse_recipe("name: t\nsteps:\n  - project_nica: {}\n", Path("t.yaml")), simulated)


def test_run__a_basis_of_scaled_counts_is_not_taken_for_raw_ones(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    dfxm_dask.simulate("easy", store, layers=1, shape=(64, 64), seed=1)
    scaled = "  - normalise: {by: monitor, reference: 1000.0, offset: 106}\n"
    fit = "  - pca: {components: 2, background: 106}\n"
    run_recipe(parse_recipe(f"name: t\nsteps:\n{scaled}{fit}", Path("t.yaml")), store)
    with pytest.raises(ValueError, match="counts as recorded, and the pca_basis that pca computed from counts"):
        plan(parse_recipe("name: t\nsteps:\n  - project_pca: {}\n", Path("t.yaml")), store)
    both = f"name: t\nsteps:\n{scaled}{fit}  - project_pca: {{}}\n"
    assert run_recipe(parse_recipe(both, Path("t.yaml")), store).complete


@pytest.mark.parametrize(
    ("name", "background", "roi"),
    [("rocking", 2560, None), pytest.param("mosa_scan", 100, (0, 20, 0, 30), marks=pytest.mark.slow)],
)
def test_real_scans__have_no_weak_beam_tails_and_say_so(
    name: str, background: int, roi: tuple[int, ...] | None, real_scans: dict[str, Path], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    dfxm_dask.ingest(real_scans[name], store, scan="1.1", pixel_size=(1, 1), roi=roi)
    text = (
        f"name: t\nsteps:\n  - background: {{method: scalar, value: {background}}}\n  - local_peak: {{}}\n"
        "  - gram_schmidt: {}\n  - project_gram_schmidt: {}\n"
    )
    run_recipe(parse_recipe(text, Path("t.yaml")), store)
    tree = dfxm_dask.open_scan(store)
    made, axes = tree["components"].to_dataset().load(), tree["raw"].counts.dims[1:-2]
    assert not made.gram_schmidt_has_tails
    assert made.gram_schmidt_basis.dims == ("gram_schmidt_component", *axes)
    rows = made.gram_schmidt_basis.values.reshape(3, -1)
    assert np.abs(rows @ rows.T - np.eye(3)).max() < 1e-12
    assert (
        float(made.gram_schmidt_rms_least) <= float(made.gram_schmidt_rms) < 1.06 * float(made.gram_schmidt_rms_least)
    )


def test_open_scan__in_part_leaves_out_tables_that_are_being_made_anew(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    dfxm_dask.simulate("easy", store, layers=1, shape=(64, 64), seed=1)
    steps = "name: t\nsteps:\n  - pca: {components: 2, background: 106}\n  - project_pca: {}\n"
    run_recipe(parse_recipe(steps, Path("t.yaml")), store)
    ledger.withdraw(store, "components", "pca")
    dims = ("pca_component",)
    nodes.write_small(store, "components", "pca_explained", dims, np.zeros(4), {"units": "1", "long_name": "x"})
    with pytest.raises(ValueError, match="is not complete"):
        dfxm_dask.open_scan(store)
    part = dfxm_dask.open_scan(store, allow_partial=True)["components"]
    assert "pca_explained" not in part
    assert "pca_coefficient" in part
