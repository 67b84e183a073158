"""The pages of the components: curves and maps as the store holds them, words with its numbers, nothing overlapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgba
from matplotlib.image import imread

import dfxm_dask
from dfxm_dask.components.curves import scaling_of
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.view.components.page import METHODS, MOST, draw_components
from dfxm_dask.view.components.words import fit_words, treatment_words
from dfxm_dask.view.figures.maps import NO_VALUE, signed_panel
from dfxm_dask.view.pictures import figures
from tests.view.test_figures import check_page

AXES = {"chi": np.linspace(-1, 2, 7), "phi": np.linspace(-0.03, 0.03, 11)}
REPORT: dict[str, dict[str, Any]] = {
    "gram_schmidt": {"condition": 13.57, "rms": 1.21, "rms_least": 1.1, "has_tails": True},
    "pca": {"noise_rank": 5.0},
    "nmf": {"found": 3.0, "rounds": 71.0, "converged": True, "unexplained": 0.0212, "optimum": 0.0207},
    "nica": {
        "found": 3.0,
        "rounds": 33.0,
        "converged": True,
        "unexplained": 0.03,
        "optimum": 0.02,
        "negative": 0.0157,
        "whitening": np.int8(1),
    },
}
SCALINGS = {
    "gram_schmidt": [0.0, 1.0, np.nan, 0.0],
    "pca": [2.0, 0.0, 106.0, 0.0],
    "nmf": [2.0, 0.0, 106.0, 1.0],
    "nica": [1.0, 0.375, np.nan, 1.0],
}


def components_scan(
    *methods: str,
    axes: tuple[str, ...] = ("phi",),
    ny: int = 40,
    nx: int = 60,
    layers: int = 1,
    count: int = 3,
    **changed: Any,
) -> xr.DataTree:
    """Noise as bases and coefficients, above zero for NMF and NICA; row 0 without a value; layer k is k + 1 times 0."""
    rng = np.random.default_rng(11)
    shape = tuple(AXES[a].size for a in axes)
    coords: dict[str, Any] = {
        "z": ("z", 2.0 * np.arange(layers), {"units": "um"}),
        "y": ("y", 0.04 * np.arange(ny), {"units": "um"}),
        "x": ("x", 0.12 * np.arange(nx), {"units": "um"}),
        **{a: (a, AXES[a], {"units": "degree", "scan_axis": k}) for k, a in enumerate(axes)},
    }
    group: dict[str, Any] = {}
    for method in methods:
        size = 3 if method == "gram_schmidt" else count
        basis, maps = rng.normal(size=(size, *shape)), 1000 * rng.normal(size=(size, ny, nx))
        left = rng.uniform(1, 2, (ny, nx))
        if method in ("nmf", "nica"):
            basis, maps = np.abs(basis), np.abs(maps)
        maps[:, 0], left[0] = np.nan, np.nan
        component = f"{method}_component"
        group[f"{method}_basis"] = (component, *axes), basis
        group[f"{method}_mean"] = axes, np.zeros(shape)
        group[f"{method}_scaling"] = "scaling", np.array(SCALINGS[method])
        group[f"{method}_coefficient"] = ("z", component, "y", "x"), np.stack([maps * (k + 1) for k in range(layers)])
        group[f"{method}_residual"] = ("z", "y", "x"), np.stack([left] * layers)
        if method == "gram_schmidt":
            group["gram_schmidt_region"] = component, np.array([0, 2, 1], np.int8)
            group["gram_schmidt_pixels"] = component, np.array([900, 70, 31])
            group["gram_schmidt_bootstrap"] = (component, *axes), np.abs(basis) / 10
        if method == "pca":
            group["pca_explained"] = component, np.linspace(0.5, 0.1, size)
        for name, value in REPORT[method].items():
            group[f"{method}_{name}"] = (), value
        for name, value in changed.items():
            if name in REPORT[method]:
                group[f"{method}_{name}"] = (), value
    data = {"/": xr.Dataset(coords=coords), "/components": xr.Dataset(group)}
    return xr.DataTree.from_dict(data)


def changed(tree: xr.DataTree, drop: tuple[str, ...] = (), **variables: Any) -> xr.DataTree:
    group = tree["components"].to_dataset(inherit=False).assign(variables)
    tree["components"] = xr.DataTree(
        group.drop_vars([n for n in group.data_vars if str(n).endswith(drop)] if drop else [])
    )
    return tree


def drawn(tree: xr.DataTree, method: str, layer: int = 0) -> Any:
    figure = draw_components(tree, method, layer, "heading $x")
    assert figure is not None
    return figure


def page(tree: xr.DataTree, method: str) -> Any:
    """A figure that can be read."""
    figure = drawn(tree, method)
    check_page(figure)
    return figure


def by_title(figure: Any, start: str) -> dict[str, Any]:
    return {a.get_title(): a for a in figure.axes if a.get_title().startswith(start)}


def words(figure: Any) -> str:
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def shown(axes: Any) -> np.ndarray:
    return np.ma.filled(axes.images[0].get_array().astype(float), np.nan)


def test_draw_components__shows_curves_and_maps_as_they_are() -> None:
    tree = components_scan("gram_schmidt")
    figure, found = page(tree, "gram_schmidt"), tree["components"].dataset
    curves, maps = by_title(figure, "curve: "), by_title(figure, "coefficient: ")
    assert list(curves) == ["curve: strong", "curve: weak_plus", "curve: weak_minus"]
    assert [title.partition(": ")[2] for title in maps] == ["strong", "weak_plus", "weak_minus"]
    for k, axes in enumerate(curves.values()):
        line = axes.lines[-1]
        np.testing.assert_array_equal(line.get_xdata(), AXES["phi"])
        np.testing.assert_array_equal(line.get_ydata(), found["gram_schmidt_basis"][k])
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("phi (°)", "curve of length 1")
        (band,) = axes.collections
        outline = {tuple(point) for point in band.get_paths()[0].vertices.round(9)}
        for sign in (1, -1):
            edge = found["gram_schmidt_basis"][k] + sign * found["gram_schmidt_bootstrap"][k]
            assert {tuple(p) for p in np.stack([AXES["phi"], edge], 1).round(9)} <= outline
    for k, axes in enumerate(maps.values()):
        np.testing.assert_array_equal(shown(axes), found["gram_schmidt_coefficient"][0, k])
        values = np.asarray(found["gram_schmidt_coefficient"][0, k])
        most = np.abs(np.percentile(values[np.isfinite(values)], [1, 99])).max()
        assert axes.images[0].get_clim() == pytest.approx((-most, most))
        assert axes.images[0].cmap.name == "RdBu_r"
        assert axes.images[0].cmap.get_bad() == pytest.approx(to_rgba(NO_VALUE))
        assert axes.images[0].get_extent() == pytest.approx((-0.06, 7.14, 1.58, -0.02))
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("x (µm)", "y (µm)")
    left = by_title(figure, "residual of the basis")["residual of the basis"]
    np.testing.assert_array_equal(shown(left), found["gram_schmidt_residual"][0])
    assert left.images[0].cmap.name == "viridis"
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels.count("coefficient of ln(I + 1)") == 3
    assert labels.count("rms over frames of ln(I + 1)") == 1
    said = words(figure)
    assert "Gram–Schmidt basis; heading $x" in said
    assert "one standard deviation of the bootstrap" in said


def test_draw_components__of_another_layer_shows_that_layer() -> None:
    tree = components_scan("pca", layers=2)
    maps = by_title(drawn(tree, "pca", 1), "coefficient: ")
    np.testing.assert_array_equal(
        shown(maps["coefficient: component 1 (50 %)"]), 2 * tree["components"].pca_coefficient[0, 0]
    )


def test_draw_components__of_counts_has_their_unit() -> None:
    figure = drawn(components_scan("nmf"), "nmf")
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels.count("coefficient (counts)") == 3
    assert labels.count("rms over frames (counts)") == 1
    assert {a.images[0].cmap.name for a in by_title(figure, "coefficient: ").values()} == {"viridis"}
    assert "Curves of counts above 106." in words(figure)


@pytest.mark.parametrize("method", ["gram_schmidt", "nmf"])
def test_draw_components__of_two_axes_shows_images_of_the_curves(method: str) -> None:
    tree = components_scan(method, axes=("chi", "phi"))
    figure = page(tree, method)
    for k, axes in enumerate(by_title(figure, "curve: ").values()):
        (mesh,) = axes.collections
        values = np.asarray(tree["components"][f"{method}_basis"][k])
        np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(7, 11), values)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("phi (°)", "chi (°)")
        low, high = mesh.get_clim()
        assert (mesh.cmap.name, low) == (("viridis", low) if method == "nmf" else ("RdBu_r", -high))
        corners = mesh.get_coordinates()
        assert tuple(corners[0, 0]) == pytest.approx((-0.033, -1.25))
        assert tuple(corners[-1, -1]) == pytest.approx((0.033, 2.25))
    assert "bootstrap" not in words(figure)


def test_draw_components__of_more_axes_says_over_which_it_averages() -> None:
    tree = components_scan("pca", axes=("chi", "phi"))
    basis = np.stack([tree["components"].pca_basis + k for k in (1, 2, 6)], 1)
    dims = ("energy", "chi", "phi")
    tree = changed(tree, pca_basis=(("pca_component", *dims), basis), pca_mean=(dims, 0 * basis[0]))
    axes = by_title(drawn(tree, "pca"), "curve: ")["curve: component 1 (50 %), mean over energy"]
    np.testing.assert_allclose(np.asarray(axes.collections[0].get_array()).reshape(7, 11), basis[0].mean(axis=0))


def test_draw_components__leaves_out_an_axis_of_one_position() -> None:
    tree = components_scan("pca", axes=("chi", "phi")).isel(chi=[0])
    axes = by_title(drawn(tree, "pca"), "curve: ")["curve: component 1 (50 %)"]
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), tree["components"].pca_basis[0, 0])


def test_draw_components__shows_the_mean_that_was_subtracted() -> None:
    tree = components_scan("pca")
    tree = changed(tree, pca_mean=("phi", np.arange(11.0)))
    figure = drawn(tree, "pca")
    (axes,) = by_title(figure, "mean curve, subtracted first").values()
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), np.arange(11.0))
    assert axes.get_ylabel() == "mean of curves (counts)"
    assert "90 % of the squares of all lit curves about the mean curve." in words(figure)


def test_draw_components__draws_the_first_of_many() -> None:
    figure = drawn(components_scan("nmf", count=MOST + 3), "nmf")
    assert len(by_title(figure, "curve: ")) == len(by_title(figure, "coefficient: ")) == MOST
    assert f"The first {MOST} of {MOST + 3} components are drawn." in words(figure)


def test_draw_components__draws_what_there_is() -> None:
    tree = changed(components_scan("pca"), drop=("coefficient", "residual"))
    figure = page(tree, "pca")
    assert len(by_title(figure, "curve: ")) == 3
    assert not by_title(figure, "coefficient: ")
    assert "There are no maps yet: run project_pca." in words(figure)
    assert draw_components(tree, "nmf", 0) is None
    del tree["components"]
    assert draw_components(tree, "pca", 0) is None


def test_draw_components__without_a_basis_says_why_and_draws_none() -> None:
    for method in METHODS:
        tree = components_scan(method, rms_least=np.nan)
        figure = page(changed(tree, **{f"{method}_basis": tree["components"][f"{method}_basis"] * np.nan}), method)
        assert figure.axes == []
        assert "There is no basis: no curve is lit." in words(figure)
    tree = components_scan("gram_schmidt")
    tree = changed(tree, gram_schmidt_basis=tree["components"].gram_schmidt_basis * np.nan)
    assert "There is no basis: one curve follows from the others." in words(page(tree, "gram_schmidt"))


@pytest.mark.parametrize(("ny", "nx"), [(1, 40), (300, 3), (400, 90)])
def test_draw_components__of_any_shape_stays_on_the_page(ny: int, nx: int) -> None:
    page(components_scan("gram_schmidt", ny=ny, nx=nx, has_tails=False), "gram_schmidt")


def told(method: str, **values: Any) -> list[str]:
    return fit_words(components_scan(method, **values)["components"].dataset, method)


def test_fit_words__of_gram_schmidt() -> None:
    verdict, *rest = told("gram_schmidt")
    assert verdict.startswith("Basis of the strong beam, and of the contributions of the weak beam on either side")
    assert rest == [
        "Curves of ln(I + 1), I being the counts above the background map.",
        "Residual of the basis: rms 1.21 over all lit curves, 10 % above 1.1 of the best basis of its size.",
        "Before orthonormalisation the curves were means of 900, 70 and 31 pixels, with a condition number of 13.6.",
    ]
    assert "clusters of curves, not of weak and strong beam" in told("gram_schmidt", has_tails=False)[0]
    tree = components_scan("gram_schmidt", has_tails=False)
    assert "curve: weak_plus (cluster)" in by_title(drawn(tree, "gram_schmidt"), "curve: ")


def test_fit_words__of_principal_components() -> None:
    verdict, _, rank = told("pca")
    assert verdict == "3 components explain 90 % of the squares of all lit curves about zero."
    assert rank == "5 components exceed the noise."
    assert "is not known: the estimate requires two lit curves for each frame" in told("pca", noise_rank=np.nan)[2]


def test_fit_words__of_fits_by_rounds() -> None:
    assert told("nmf") == [
        "The fit converged after 71 rounds.",
        "Curves of counts above 106.",
        "2.12 % of the squares of the sampled curves are unexplained; the optimum of 3 curves is 2.07 %.",
    ]
    assert (
        told("nmf", converged=False)[0] == "The fit did not converge within 71 rounds: these curves may still change."
    )
    assert told("nmf", found=2.0)[2].startswith("Only 2 of 3 components were found")
    last = told("nica")[-1]
    assert "1.57 % of the squares" in last
    assert "whitened by the mean products" in last


@pytest.mark.parametrize(
    ("kind", "offset", "dark", "formula", "unit", "text"),
    [
        ("log", None, 100, "ln(I + 1)", "1", "Curves of ln(I + 1), I being the counts above 100."),
        ("anscombe", 0.0, 100, "2 √(I)", "1", "Curves of 2 √(I), I being the counts above 100."),
        ("anscombe", 2.5, 7, "2 √(I + 2.5)", "1", "Curves of 2 √(I + 2.5), I being the counts above 7."),
        ("plain", None, None, "", "count", "Curves of counts above the background map."),
    ],
)
def test_treatment_words__follow_the_scaling(
    kind: Any, offset: float | None, dark: float | None, formula: str, unit: str, text: str
) -> None:
    scaling = scaling_of("test", kind, offset, dark, np.ones((1, 1), np.float32) if dark is None else None)
    assert treatment_words(scaling) == (formula, unit, text)


def test_signed_panel__has_two_colours_about_zero_where_there_are_two_signs() -> None:
    values = np.linspace(-10, 40, 501)[None]
    signed = signed_panel("a", "b", values, "c", "1")
    assert (signed.colours, signed.limits) == ("RdBu_r", pytest.approx((-39.5, 39.5)))
    plain = signed_panel("a", "b", values + 9.5, "c", "1")  # its first percentile is 0
    assert (plain.colours, plain.limits) == ("viridis", pytest.approx((0, 49)))
    negative = signed_panel("a", "b", values - 50, "c", "1")
    assert (negative.colours, negative.limits) == ("RdBu_r", pytest.approx((-59.5, 59.5)))
    bright = signed_panel("a", "b", 1000 * (values + 11), "c", "count")
    assert (bright.label, bright.limits) == ("c (1000 counts)", pytest.approx((1.5, 50.5)))
    np.testing.assert_allclose(bright.image, values + 11)


def test_figures__have_a_page_for_every_basis(reduced_scan: Any, tmp_path: Path) -> None:
    tree = reduced_scan(layers=2, ny=40, nx=60)
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["total"]])
    del tree["raw"]
    group = components_scan("nica", "gram_schmidt", layers=2)["components"].to_dataset(inherit=False)
    tree["components"] = xr.DataTree(group.isel(phi=[0] * tree.sizes["phi"]))
    written = list(figures(tree, tmp_path, layer=0).values())
    assert [path.name for path in written] == [
        "total_layer0.png",
        "components_gram_schmidt_layer0.png",
        "components_nica_layer0.png",
        "overview_layer0.png",
    ]
    for path in written[1:3]:
        picture = imread(path)[..., :3]
        assert 0.15 < (picture < 0.99).any(axis=-1).mean() < 0.9  # neither blank nor full


@pytest.mark.slow
def test_figures__of_a_real_scan_of_two_axes(real_scans: dict[str, Path], tmp_path: Path) -> None:
    dfxm_dask.ingest(real_scans["motor_drift"], tmp_path / "s.zarr", pixel_size=(0.2, 0.6), roi=(20, 70, 20, 70))
    steps = "  - background: {}\n  - local_peak: {}\n  - gram_schmidt: {}\n  - project_gram_schmidt: {}\n"
    report = run_recipe(parse_recipe(f"name: x\nsteps:\n{steps}", Path("test.yaml")), tmp_path / "s.zarr")
    assert any(text.startswith("the scan does not reach its weak beam") for text in report.remarks)
    tree = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)
    figure = page(tree, "gram_schmidt")
    curves = by_title(figure, "curve: ")
    assert list(curves) == [f"curve: {name} (cluster)" for name in ("strong", "weak_minus", "weak_plus")]
    for k, axes in enumerate(curves.values()):
        values = np.asarray(tree["components"].gram_schmidt_basis[k])
        assert values.shape == (26, 37)
        np.testing.assert_array_equal(np.asarray(axes.collections[0].get_array()).reshape(26, 37), values)
    assert f"an rms of {float(tree['components'].gram_schmidt_rms):.4g} of" in words(figure)
