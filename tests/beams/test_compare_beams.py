"""The comparison of weak-beam maps: scores against their definitions, what the store gives, what is not said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from bases import BY_HAND, FOUND, Basis, both_tails, every_basis, fitted_to
from compare_beams import (
    ENHANCED,
    FRAME,
    OF_TRUTH,
    PATCHES,
    PRIOR,
    TURNED,
    as_cells,
    chosen_layers,
    compare_beams,
    compared_layer,
    how_to_read,
    main,
    map_scores,
    prepared,
    read_regions,
    table_rows,
    uneven_by,
)
from map_scores import high_pass

import dfxm_dask
from dfxm_dask.components import gram_schmidt, pca, project_gram_schmidt
from dfxm_dask.errors import InputError, RecipeError
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.store.scan import open_scan

BOXES = """
- {name: strong, box: [1.0, 4.0, 6.0, 12.0]}
- {name: weak_minus, box: [80, 130, 40, 60], unit: pixel}
- {name: weak_plus, box: [30, 60, 120, 150], unit: pixel}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("methods") / "easy.zarr"
    dfxm_dask.simulate("easy", path, layers=2, shape=(192, 160), seed=3)
    return path


@pytest.fixture(scope="module")
def layer(store: Path) -> xr.Dataset:
    return prepared(open_scan(store), None, 1)


@pytest.fixture(scope="module")
def reduced(store: Path) -> Path:
    """The same with all bases."""
    path = Path(shutil.copytree(store, store.with_name("reduced.zarr")))
    assert dfxm_dask.run_recipe("components", path).complete
    return path


@pytest.fixture(scope="module")
def bases(reduced: Path) -> list[Basis]:
    return every_basis(open_scan(reduced), [1], None, None, None)


@pytest.fixture(scope="module")
def done(store: Path) -> tuple[dict[str, dict[str, Any]], Path]:
    """Rows by map of the middle layer, without anything in the store but counts and truth."""
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    rows, path = compare_beams(store, store.with_name("out") / "easy.png")
    assert before == {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    return {row["map"]: row for row in rows}, path


def truth(store: Path, lit: np.ndarray, layer: int = 1) -> tuple[np.ndarray, np.ndarray]:
    away = open_scan(store)["truth"]["distance"].values[layer]
    return lit & (away < 0.5), lit & (away > 2.5)


def pairwise(values: np.ndarray, near: np.ndarray, far: np.ndarray) -> float:
    """Share of pairs that are in order, ties for one half."""
    below = np.sort(values[far].astype(float))
    won = np.searchsorted(below, values[near], "left") + np.searchsorted(below, values[near], "right")
    return float(won.mean() / 2 / below.size)


def curves_of(layer: xr.Dataset) -> np.ndarray:
    """Counts above background of the lit pixels: (pixel, frame)."""
    above = layer["counts"].values[0].astype(float) - layer["background_map"].values[0]
    return above[:, layer["lit"].values[0]].T


def optimum(curves: np.ndarray) -> float:
    """Rms of what the first three singular vectors leave."""
    values = np.linalg.svd(curves, compute_uv=False)
    return float(np.sqrt((values[3:] ** 2).sum() / curves.size))


def test_compare_beams__scores_the_weak_beam_by_definition(store, layer, done):
    near, far = truth(store, layer["lit"].values[0])
    weak = dfxm_dask.integrate_beams(layer)["weak"].values[0]
    row = done[0][PRIOR]
    pixel = tuple(float(np.diff(layer[n].values[:2])[0]) for n in ("y", "x"))
    assert row["AUC"] == pytest.approx(pairwise(weak, near, far), rel=1e-9)
    passed = high_pass(np.where(layer["lit"].values[0], weak, np.nan), pixel)
    assert row["AUC 2 um"] == pytest.approx(pairwise(passed, near, far), rel=1e-9)
    assert row["kept"] == pytest.approx(1 / 31)
    frames = layer["counts"].values[0]
    assert done[0][FRAME]["AUC"] == pytest.approx(max(pairwise(f, near, far) for f in frames), rel=1e-9)


def test_compare_beams__scores_the_misorientation_and_the_mask(store, layer, done, tmp_path):
    """KAM and mask of the layer alone, by the recipe's steps in a store of their own."""
    other = Path(shutil.copytree(store, tmp_path / "s.zarr"))
    steps = "background: {quantile: 0.1}|moments: {noise_cut: 5}|kam: {radius: 0.5}|local_peak: {}|integrate_beams: {}"
    steps += "|enhance_beams: {}|isolate_lines: {}|threshold_beams: {}"
    recipe = "steps:\n" + "".join(f"  - {step}\n" for step in steps.split("|"))
    dfxm_dask.run_recipe(parse_recipe(recipe, Path("r.yaml")), other)
    tree = open_scan(other)
    near, far = truth(store, layer["lit"].values[0])
    turned, mask = tree["rocking"]["kam"].values[1], tree["beams"]["defects"].values[1]
    known = np.isfinite(turned)
    assert done[0][TURNED]["AUC"] == pytest.approx(pairwise(turned, near & known, far & known), rel=1e-9)
    away = tree["truth"]["distance"].values[1][mask & layer["lit"].values[0]]
    assert f"{100 * (away <= 1).mean():.3g} % of its mask lie within 1 um of a true line" in done[0][ENHANCED]["note"]


def test_compare_beams__scores_principal_components_as_those_of_an_svd(store, layer, done):
    lit = layer["lit"].values[0]
    near, far = (mask[lit] for mask in truth(store, lit))
    curves = curves_of(layer)
    coefficient = np.linalg.svd(curves, full_matrices=False)[0][:, :3]
    every = [pairwise(c, near, far) for c in coefficient.T]
    row = done[0]["PCA, best of 3"]
    assert row["AUC"] == pytest.approx(max(*every, *(1 - v for v in every)), abs=1e-3)
    assert row["rms left"] == pytest.approx(optimum(curves), rel=1e-3)
    assert row["least"] == pytest.approx(optimum(curves), rel=1e-3)
    assert row["kept"] == pytest.approx(3 / 31)
    assert "by truth" in row["note"]


def test_compare_beams__says_the_optimum_beside_what_is_left(layer, done):
    least = optimum(np.log(np.maximum(curves_of(layer), 0) + 1))
    for row in (f"{FOUND}, better tail", f"{FOUND}, both tails"):
        assert done[0][row]["least"] == pytest.approx(least, rel=1e-3)
        assert done[0][row]["rms left"] > done[0][row]["least"]
    for name in ("NMF", "NICA"):
        row = done[0][f"{name}, best of 3"]
        assert row["least"] == pytest.approx(optimum(curves_of(layer)), rel=1e-3)
        assert row["rms left"] > row["least"]


def test_compare_beams__local_reference_tells_dislocations_better_than_curves_that_add_up(done):
    rows = done[0]
    assert len(rows) == 10
    assert rows[ENHANCED]["AUC"] > 0.9
    assert rows[ENHANCED]["AUC"] > max(rows[f"{name}, best of 3"]["AUC"] for name in ("NMF", "NICA")) + 0.05
    assert all(0 <= row["contamination"] <= 1 for row in rows.values())
    assert all(row["basis"] in ("", "fitted to 1 layer") for row in rows.values())


@pytest.mark.slow
def test_compare_beams__averages_over_layers(store, done, tmp_path, monkeypatch):
    monkeypatch.setattr("compare_beams.every_basis", lambda *_: [])
    (first,), (both,) = (
        [r for r in compare_beams(store, tmp_path / "some.png", layer=layers)[0] if r["map"] == PRIOR]
        for layers in (0, [1, 0])
    )
    for name in (*OF_TRUTH, "contamination"):
        assert both[name] == pytest.approx((first[name] + done[0][PRIOR][name]) / 2, rel=1e-9)


def test_compare_beams__takes_what_the_store_has(reduced, bases, tmp_path, monkeypatch, capsys):
    assert [b.origin for b in bases] == ["stored, all layers"] * 4
    copy = Path(shutil.copytree(reduced, tmp_path / "copy.zarr"))
    shutil.rmtree(copy / "truth")
    monkeypatch.setattr("sys.argv", ["compare_beams.py", str(copy), "--layer", "1"])
    main()
    told = capsys.readouterr().out
    assert "no truth" in told
    assert "stored, all layers" in told
    assert "0.5 um" not in told
    assert copy.with_name("copy_beams.png").is_file()


def test_every_basis__of_drawn_regions_in_the_store_is_by_hand(store, tmp_path, monkeypatch):
    monkeypatch.setattr("bases.fitted_to", lambda *_: None)
    copy = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    recipe = tmp_path / "hand.yaml"
    boxes = BOXES.strip().replace("\n", "\n        ")
    recipe.write_text(
        "steps:\n  - background: {quantile: 0.1}\n  - local_peak: {}\n"
        f"  - gram_schmidt:\n      regions:\n        {boxes}\n"
    )
    dfxm_dask.run_recipe(recipe, copy)
    tree = open_scan(copy)
    found = every_basis(tree, [1], None, None, lambda k: prepared(tree, None, k))
    assert [(b.name, b.origin) for b in found[:2]] == [(BY_HAND, "stored, all layers"), (FOUND, "fitted to 1 layer")]


@pytest.mark.slow
def test_compare_beams__by_hand_is_scored_beside_automatic(reduced, layer, tmp_path):
    (tmp_path / "boxes.yaml").write_text("regions:" + BOXES)
    rows, _ = compare_beams(reduced, tmp_path / "hand.png", regions=tmp_path / "boxes.yaml")
    by_map = {row["map"]: row for row in rows}
    near, far = truth(reduced, layer["lit"].values[0])
    boxes = read_regions(tmp_path / "boxes.yaml")
    fit = gram_schmidt(layer, regions=boxes).compute()
    tails = project_gram_schmidt(layer.assign(fit.data_vars))["gram_schmidt_coefficient"].values[0, 1:]
    wanted = max(pairwise(t, near, far) for t in tails)
    assert by_map[f"{BY_HAND}, better tail"]["AUC"] == pytest.approx(wanted, rel=1e-9)
    assert {f"{BY_HAND}, both tails", f"{FOUND}, both tails"} <= set(by_map)


def test_fitted_to__of_layers_one_at_a_time_is_what_the_graph_gives(store):
    tree = open_scan(store)
    parts = [prepared(tree, None, k) for k in (0, 1)]
    whole = xr.concat(parts, "z", data_vars="minimal", coords="minimal", compat="override", join="override")
    for fit in (pca, gram_schmidt):
        found = fitted_to(fit, {}, parts)
        for name, values in fit(whole).compute().data_vars.items():
            np.testing.assert_array_equal(found[name].values, values.values)
            assert found[name].dims == values.dims


def test_every_basis__takes_regions_from_the_layer_that_they_name(reduced):
    tree = open_scan(reduced)
    boxes = [
        {"name": n, "box": [20, 60, 20 * k + 40, 20 * k + 60], "unit": "pixel", "z": float(tree["z"][0])}
        for k, n in enumerate(("strong", "weak_minus", "weak_plus"))
    ]
    found = every_basis(tree, [1], boxes, None, lambda k: prepared(tree, None, k))
    assert [(b.name, b.origin) for b in found[:2]] == [(BY_HAND, "fitted to 2 layers"), (FOUND, "stored, all layers")]


def test_table_rows__of_a_layer_without_weak_beam_have_no_numbers(layer, store, bases):
    one = layer.assign(has_weak_beam=layer["has_weak_beam"] & False)
    bases = [Basis(FOUND, "gram_schmidt", fitted_to(gram_schmidt, {}, [one]), ""), bases[1]]
    away = open_scan(store)["truth"]["distance"].values[1]
    compared = compared_layer(one, bases, away, away + np.inf, (0.04, 0.12), "compact")
    rows = {row["map"]: row for row in table_rows([compared], bases, 31)}
    for name in (PRIOR, ENHANCED, PATCHES):
        assert rows[name]["note"] == "no weak beam in the layer"
        assert all(np.isnan(rows[name][score]) for score in (*OF_TRUTH, "contamination"))
    assert rows[f"{FOUND}, both tails"]["note"].startswith("no regions of weak beam found")
    assert np.isnan(rows[f"{FOUND}, better tail"]["AUC"])
    assert np.isfinite(rows["PCA, best of 3"]["AUC"])
    assert "no weak beam in the layer" in how_to_read(list(rows.values()))
    assert [c for c in as_cells([rows[PRIOR]])[0] if c == "–"] == ["–"] * 7


def test_table_rows__without_truth_tell_every_component(layer, bases):
    compared = compared_layer(layer, bases, None, np.full((192, 160), np.inf), (0.04, 0.12), "compact")
    rows = table_rows([compared], bases, 31)
    names = [row["map"] for row in rows]
    assert names[3] == TURNED
    assert names[4:10] == [
        f"{FOUND}: weak below",
        f"{FOUND}: weak above",
        f"{FOUND}, both tails",
        "PCA 1",
        "PCA 2",
        "PCA 3",
    ]
    assert FRAME not in names
    assert len(names) == 4 + 3 + 9
    for row, cells in zip(rows, as_cells(rows), strict=True):
        assert cells[1:5] == ["no truth"] * 4
        assert 0 <= row["contamination"] <= 1


def test_map_scores__without_truth_counts_the_lower_places_alone():
    rng = np.random.default_rng(0)
    strong = np.tile(np.sin(np.arange(150.0) / 3), (150, 1))
    noise = rng.normal(0, 0.01, strong.shape)
    lit = np.ones(strong.shape, bool)
    assert map_scores(strong + noise, strong, lit, None, (0.1, 0.1))["contamination"] > 0.95
    assert map_scores(noise, strong, lit, None, (0.1, 0.1))["contamination"] < 0.03
    unlit = map_scores(noise * np.nan, strong, lit, None, (0.1, 0.1))
    assert all(np.isnan(v) for v in unlit.values())


def test_both_tails__is_the_larger_in_units_of_noise():
    rng = np.random.default_rng(1)
    tails = np.stack([rng.normal(5, 1, (120, 120)), 100 * rng.normal(0, 1, (120, 120))])
    tails[0, 20, 20] += 30
    tails[1, 80, 80] += 3000
    tails[0, :2] = np.nan
    found = both_tails(tails, (0.2, 0.2))
    assert np.isnan(found[:2]).all()
    # 30 standard deviations, in units of the median absolute value of a Gaussian (0.6745).
    assert found[20, 20] == pytest.approx(30 / 0.6745, rel=0.15)
    assert found[80, 80] == pytest.approx(30 / 0.6745, rel=0.15)
    assert (both_tails(tails * 0, (0.2, 0.2))[2:] == 0).all()


def test_basis__without_light_says_so(layer):
    made = fitted_to(pca, {}, [layer.assign(lit=layer["lit"] & False)])
    assert Basis("PCA", "pca", made, "").reason.startswith("no basis: no pixel is lit")


def test_prepared__puts_frames_on_one_scale(store, layer):
    tree = open_scan(store, chunks=None)
    raw = tree["raw"].to_dataset(inherit=False).load()
    factor = np.where(np.arange(31) % 2, 0.25, 1.0)
    counts = 106 + (raw["counts"] - 106.0) * factor[:, None, None]
    assert uneven_by(tree, [1]) is None
    monitor = raw["monitor"].copy(data=np.tile(1e5 * factor, (2, 1)))
    counts.attrs = raw["counts"].attrs
    tree["raw"] = xr.DataTree(raw.assign(counts=counts.astype(np.float32), monitor=monitor))
    assert uneven_by(tree, [1]) == ("monitor", 1e5)
    found = prepared(tree, ("monitor", 1e5), 1)
    dark = found["counts"].values[0] - layer["counts"].values[0]
    assert np.abs(dark).max() < 8 < np.abs(counts.values[1] - layer["counts"].values[0]).max()
    assert np.median(np.abs(dark[1::2])) < 8  # three counts of dark that the darkest place is off, times 1/0.25 − 1


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("name: strong", RecipeError, "is not a list of boxes"),
        ("[]", RecipeError, "is not a list of boxes"),
        ("- {name: middling, box: [0, 1, 0, 1]}", InputError, "regions"),
        ("- {name: strong", RecipeError, "is not YAML"),
    ],
)
def test_read_regions__refuses(tmp_path, text, error, words):
    (tmp_path / "boxes.yaml").write_text(text)
    with pytest.raises(error, match=words):
        read_regions(tmp_path / "boxes.yaml")


def test_compare_beams__refuses_before_computing(store, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="the scan has 2, from 0"):
        compare_beams(store, tmp_path / "a.png", layer=2)
    tree = open_scan(store)
    del tree["raw"]
    with pytest.raises(InputError, match="no complete raw counts"):
        chosen_layers(tree, None)
    with pytest.raises(RecipeError, match="absent"):
        compare_beams(store, tmp_path / "a.png", regions=tmp_path / "absent.yaml")
    copy = Path(shutil.copytree(store, tmp_path / "copy.zarr"))
    for meta in (copy / "x" / "zarr.json", copy / "zarr.json"):
        meta.write_text(meta.read_text().replace('"um"', '"pixel"'))
    monkeypatch.setattr("compare_beams.chosen_layers", lambda *_: [0])
    with pytest.raises(InputError, match="no pixel size in um"):
        compare_beams(copy, tmp_path / "a.png")
