"""Positions of frames off the grid, and far from zero, against a naive float64 loop; graph and run agree on them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.errors import FramesApartWarning, InputError, StoreError
from dfxm_dask.rocking import kam, moments
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.store.integrity import nodes
from tests.stores import raw_store


def curves(seed: int, lengths: tuple[int, ...], shape: tuple[int, int] = (3, 131)) -> np.ndarray:
    return np.moveaxis(np.random.default_rng(seed).poisson(60, (*lengths, *shape)).astype(np.uint16), (-2, -1), (0, 1))


def naive(counts: np.ndarray, at: dict[str, np.ndarray], level: float, y: int, x: int) -> dict[str, float]:
    """Two passes over one pixel in float64, about a point near the positions; every frame where it was taken."""
    w = np.maximum(counts[y, x].astype(float) - level, 0)
    found, apart = {}, {}
    for name, u in at.items():
        first = float(u.flat[0])
        offset = (w * (u - first)).sum() / w.sum()
        d = apart[name] = (u - first) - offset
        std = np.sqrt((w * d**2).sum() / w.sum())
        found |= {f"com_{name}": first + offset, f"std_{name}": std, f"peak_{name}": u.flat[w.argmax()]}
        found |= {f"skewness_{name}": (w * d**3).sum() / w.sum() / std**3}
        found |= {f"kurtosis_{name}": (w * d**4).sum() / w.sum() / std**4 - 3}
    names = list(at)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            found[f"cov_{a}_{b}"] = (w * apart[a] * apart[b]).sum() / w.sum()
    return found


@pytest.mark.parametrize("lengths", [(4, 9), (5, 6), (2, 3, 4)])
@pytest.mark.parametrize("start", [0.0, -179.99, 300.0])
def test_moments__frames_off_the_grid_are_the_naive_loop(lengths: tuple[int, ...], start: float) -> None:
    names = ("chi", "phi", "energy")[: len(lengths)]
    rng = np.random.default_rng(1)
    scan = {n: start + 0.01 * np.arange(k) for n, k in zip(names, lengths, strict=True)}
    grid = dict(zip(names, np.meshgrid(*scan.values(), indexing="ij"), strict=True))
    position = {n: v + 0.01 * rng.uniform(-0.45, 0.45, v.shape) for n, v in grid.items() if n != "chi"}
    counts = curves(2, lengths)
    found = moments.kernel(counts, scan, position=position, background=40)
    for y, x in ((0, 0), (1, 64), (2, 127), (2, 130)):
        for name, value in naive(counts, grid | position, 40, y, x).items():
            close = 1e-9 if name[:3] in ("com", "pea") else 2e-3 if name[:3] in ("ske", "kur") else 1e-6
            assert found[name][y, x] == pytest.approx(value, rel=0 if close == 1e-9 else close, abs=close), name


def test_moments__positions_on_the_grid_change_nothing_but_rounding() -> None:
    scan = {"chi": np.linspace(-1, 1, 4), "phi": np.linspace(3, 5, 7)}
    grid = dict(zip(scan, np.meshgrid(*scan.values(), indexing="ij"), strict=True))
    counts = curves(3, (4, 7))
    plain = moments.kernel(counts, scan, background=30)
    for name, values in moments.kernel(counts, scan, position=grid, background=30).items():
        np.testing.assert_allclose(values, plain[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("start", [300.0, -179.99, 1e4, 1.7e9])
def test_moments__centre_is_right_far_from_zero(start: float) -> None:
    step = 1e-4 if start < 1e6 else 0.5
    phi = start + step * np.arange(21)
    counts = curves(4, (21,))
    found = moments.kernel(counts, {"phi": phi}, background=40)
    for y, x in ((0, 0), (1, 70), (2, 130)):
        expected = naive(counts, {"phi": phi}, 40, y, x)
        assert abs(found["com_phi"][y, x] - expected["com_phi"]) <= max(1e-10, 4 * np.spacing(start))
        assert found["peak_phi"][y, x] == expected["peak_phi"]
    near = np.arange(131.0)
    turned = kam.kernel({"phi": found["com_phi"]}, near[:3], near, radius=1.0)["kam"]
    centred = kam.kernel({"phi": found["com_phi"] - start}, near[:3], near, radius=1.0)["kam"]
    np.testing.assert_allclose(turned, centred, rtol=1e-6)


MOVED = 0.45


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack of two layers whose second one was scanned 0.45 steps further on."""
    store = raw_store(tmp_path_factory.mktemp("moved"), layers=2, jitter=0.0)
    root = dfxm_dask.open_scan(store)
    phi = root["phi"].values
    step = float(np.median(np.diff(phi)))
    frames = np.broadcast_to(phi, root["raw"].counts.shape[:-2]) + MOVED * step * np.arange(2).reshape(
        -1, *[1] * (root["raw"].counts.ndim - 3)
    )
    dims = root["raw"].counts.dims[:-2]
    nodes.write_small(store, "raw", "position_phi", dims, np.array(frames), {"units": "degree"})
    nodes.consolidate(store)
    return store


def recipe(steps: str):
    return parse_recipe(f"name: x\nsteps:\n{steps}", Path("x.yaml"))


def test_positions__graph_and_run_take_those_of_the_layer(raw: Path) -> None:
    run_recipe(recipe("  - moments: {background: 100}\n"), raw, overwrite=True)
    tree = dfxm_dask.open_scan(raw)
    data = tree["raw"].to_dataset()
    lazy = dfxm_dask.moments(data, background=100).compute()
    for name, values in lazy.data_vars.items():
        np.testing.assert_array_equal(tree["rocking"][name].values, values.values, err_msg=str(name))
    one = dfxm_dask.moments(data.drop_vars("position_phi"), background=100).compute()
    step = float(np.median(np.diff(tree["phi"].values)))
    np.testing.assert_array_equal(lazy.com_phi[0], one.com_phi[0])
    np.testing.assert_allclose(
        lazy.com_phi[1] - one.com_phi[1], np.where(np.isnan(one.com_phi[1]), np.nan, MOVED * step)
    )


def test_positions__steps_that_take_layers_together_say_so(raw: Path) -> None:
    steps = "  - background: {}\n  - moments: {}\n  - pca: {}\n  - project_pca: {}\n"
    (told,) = plan(recipe(steps), raw).remarks
    assert "frames of all layers at one grid position of phi differ by up to 0.45 steps: pca, project_pca" in told
    data = dfxm_dask.open_scan(raw)["raw"].to_dataset()
    with pytest.warns(FramesApartWarning, match=re.escape(told.replace("pca, project_pca use", "pca uses"))):
        lazy = dfxm_dask.pca(data, background=100)
    plain = dfxm_dask.pca(data.drop_vars("position_phi"), background=100)
    xr.testing.assert_identical(lazy.compute(), plain.compute())


def test_positions__layers_need_all_or_none(raw: Path) -> None:
    data = dfxm_dask.open_scan(raw)["raw"].to_dataset().load()
    absent = data.assign(position_phi=data.position_phi.where(data.z > data.z[0]))
    plain = dfxm_dask.moments(data.drop_vars("position_phi"), background=100).com_phi[0]
    np.testing.assert_array_equal(dfxm_dask.moments(absent, background=100).com_phi[0], plain)
    holes = data.assign(position_phi=data.position_phi.where(data.phi != data.phi[1]))
    with pytest.raises(InputError, match=r"'position_phi': is not finite for 1 of the \d+ frames of a layer"):
        dfxm_dask.moments(holes, background=100).compute()


def rows_apart() -> xr.Dataset:
    """A to-and-fro scan of two axes: forward rows are read 0.45 steps beyond the grid, backward rows before it."""
    scan = {"chi": np.arange(4.0), "phi": 0.01 * np.arange(9)}
    frames = scan["phi"] + 0.0045 * np.array([1, -1, 1, -1])[:, None]
    counts = np.random.default_rng(0).poisson(60, (1, 4, 9, 5, 6)).astype(np.uint16)
    coords = {n: (n, v, {"units": "degree", "scan_axis": k}) for k, (n, v) in enumerate(scan.items())}
    coords |= {n: (n, 0.5 * np.arange(k), {"units": "um"}) for n, k in (("y", 5), ("x", 6))}
    attrs = {"units": "count"}
    variables = {
        "counts": (("z", "chi", "phi", "y", "x"), counts, attrs),
        "position_phi": (("z", "chi", "phi"), frames[None], {"units": "degree"}),
    }
    return xr.Dataset(variables, coords=coords)


@pytest.mark.parametrize("name", ["local_peak", "fit_curves", "integrated_curve", "nmf"])
def test_positions__rows_apart_are_taken_for_one_position_with_a_warning(name: str) -> None:
    data = rows_apart()
    options = {"axis": "phi"} if name == "fit_curves" else {} if name == "integrated_curve" else {"background": 40}
    with pytest.warns(
        FramesApartWarning, match=rf"at one grid position of phi differ by up to 0\.9 steps: {name} uses"
    ):
        found = getattr(dfxm_dask, name)(data, **options)
    grid = data.drop_vars("position_phi").assign_coords(phi=data.phi.copy(data=data.position_phi.mean("chi").values[0]))
    expected = getattr(dfxm_dask, name)(grid, **options).compute()
    xr.testing.assert_identical(
        found.compute().drop_vars("phi", errors="ignore"), expected.drop_vars("phi", errors="ignore")
    )


@pytest.mark.parametrize("step", ["integrated_curve", "fit_curves"])
def test_positions__rows_apart_give_the_same_in_a_run(tmp_path: Path, step: str) -> None:
    scan: dict[str, Any] = {"command": "fscan2d", "motors": ("chi", "mu"), "shape": (4, 9), "starts": (0, 1)}
    frames = 1 + 0.01 * np.arange(9) + 0.002 * np.array([1, -1, 1, 0.5])[:, None]
    store = raw_store(tmp_path, **scan, steps=(0.1, 0.01), readbacks={"mu": frames.ravel()}, jitter=0.0)
    options = {"axis": "phi"} if step == "fit_curves" else {}
    steps = recipe(f"  - {step}: {options}\n")
    (told,) = (text for text in plan(steps, store).remarks if "grid position of" in text)
    run_recipe(steps, store)
    tree = dfxm_dask.open_scan(store)
    with pytest.warns(FramesApartWarning, match=re.escape(told)):
        lazy = getattr(dfxm_dask, step)(tree["raw"].to_dataset(), **options)
    names = [n for group in tree.children.values() for n in group.data_vars if n in lazy and n != "counts"]
    assert names
    for name in names:
        stored = next(group[name] for group in tree.children.values() if name in group)
        np.testing.assert_array_equal(stored.values, lazy[name].values)


@pytest.mark.parametrize("name", ["background", "zingers"])
def test_positions__do_not_matter_where_only_counts_do(name: str) -> None:
    data = rows_apart()
    xr.testing.assert_identical(
        getattr(dfxm_dask, name)(data).compute(), getattr(dfxm_dask, name)(data.drop_vars("position_phi")).compute()
    )


def test_positions__maps_of_earlier_versions_are_read(raw: Path) -> None:
    run_recipe(recipe("  - moments: {background: 100}\n"), raw, overwrite=True)
    maps = dfxm_dask.open_scan(raw)["rocking"].to_dataset().load()
    older = maps.assign(com_phi=maps.com_phi.astype(np.float32))
    np.testing.assert_allclose(dfxm_dask.kam(older).kam, dfxm_dask.kam(maps).kam, atol=1e-7)


def test_positions__a_step_begun_in_float32_is_not_gone_on_with(raw: Path, tmp_path: Path) -> None:
    store, steps = shutil.copytree(raw, tmp_path / "s.zarr"), recipe("  - moments: {background: 100}\n")
    run_recipe(steps, store, overwrite=True)
    ledger = store / "rocking" / ".ledger" / "moments.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:2]))  # the second block is yet to come
    meta = store / "rocking" / "com_phi" / "zarr.json"
    meta.write_text(meta.read_text().replace("float64", "float32"))
    with pytest.raises(
        StoreError, match=r"1 of 2 blocks on disk, with com_phi as float32; its dtype is now float64.*overwrite"
    ):
        run_recipe(steps, store)
    run_recipe(steps, store, overwrite=True)
    assert dfxm_dask.open_scan(store)["rocking"].com_phi.dtype == np.float64
