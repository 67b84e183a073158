"""Reductions of every declared shape, run through units on a store, against numpy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import Field

import dfxm_dask
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.errors import IncompleteError, InputError, RecipeError, StoreError
from dfxm_dask.reduction import REGISTRY, reduction
from dfxm_dask.run import passes
from dfxm_dask.run.execute import plan, run_recipe
from dfxm_dask.run.recipe import Recipe, parse_recipe
from dfxm_dask.schema import AXES, COUNTS, SPACE, Dim, Variable, Y
from tests.beamline_files import write_bliss
from tests.run.test_execute import _narrow_units
from tests.stores import contents

SUM = Variable("sum_map", SPACE, "float64", "count", "sum along the scan")
MEAN = Variable("mean_map", SPACE, "float64", "count", "mean of neighbouring layers")
SLOPE = Variable("slope", SPACE, "float64", "count", "second difference along y of the mean of neighbouring layers")
AGAIN = Variable("again_map", SPACE, "float64", "count", "mean of means")
CURVE = Variable("bright_curve", ("scan",), "float64", "count", "curve of the brightest pixel")
PART = Variable("part", SPACE, "float64", "1", "projection on the brightest curve")
FLAT = Variable("flat", SPACE, "float64", "count", "of a wrong shape")
POWERS = Variable("powers", (*SPACE, Dim("power", "most")), "float64", "1", "powers of the sum along the scan")
LEVELS = Variable("levels", ("level",), "float64", "count", "brightest sum of every part")
ABOVE = Variable("above", ("z", "level", "y", "x"), "bool", "1", "whether the sum along the scan is above a level")


def curved(sums: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of the differences to the rows two above and two below, where there are such rows, times the position."""
    mean = sums.mean(0)
    both = np.pad(mean, ((2, 2), (0, 0)), mode="edge")
    return (2 * mean - both[:-4] - both[4:]) * y[:, None]


def brighter(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return a if a["total"] >= b["total"] else b


def joined(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"levels": np.concatenate([a["levels"], b["levels"]])}


@pytest.fixture(scope="module", autouse=True)
def throwaway() -> Iterator[None]:
    """Reductions that exist only here; the laws must not see them."""
    load_reductions()
    before = dict(REGISTRY)

    @reduction(reads=(COUNTS,), writes=(SUM,), over=("scan",), group="extra")
    def sums(counts: np.ndarray, *, plus: Annotated[float, Field(description="added")] = 0.0) -> dict[str, Any]:
        return {"sum_map": counts.sum(tuple(range(2, counts.ndim))).astype(float) + plus}

    @reduction(reads=(SUM,), writes=(MEAN,), halo=1, group="extra")
    def means(sum_map: np.ndarray, *, middle: int = 0) -> dict[str, Any]:
        return {"mean_map": sum_map.mean(0) + 0 * middle}

    @reduction(reads=(MEAN,), writes=(AGAIN,), halo=2, group="extra")
    def again(mean_map: np.ndarray, *, middle: int = 0) -> dict[str, Any]:
        return {"again_map": mean_map.mean(0) + 0 * middle}

    @reduction(reads=(SUM, Y), writes=(SLOPE,), over=("x",), halo=1, border=2, min_axes=0, group="extra")
    def slopes(sum_map: np.ndarray, y: np.ndarray, *, middle: int = 0, inner: slice = slice(None)) -> dict[str, Any]:
        assert sum_map.shape[1] == y.size
        assert 0 <= middle < len(sum_map)
        return {"slope": curved(sum_map, y)[inner]}

    def patches_of(edge: int) -> Any:
        def kernel(counts: np.ndarray) -> dict[str, Any]:
            ny, nx = counts.shape[:2]
            made = np.zeros((-(-ny // edge), -(-nx // edge), *counts.shape[2:]))
            for j in range(made.shape[0]):
                for i in range(made.shape[1]):
                    made[j, i] = counts[j * edge : (j + 1) * edge, i * edge : (i + 1) * edge].sum((0, 1))
            return {"patch_total": made}

        kernel.__name__ = f"patches{edge}"
        tiles = Dim("patch_y", of="y", step=edge), Dim("patch_x", of="x", step=edge)
        total = Variable("patch_total", ("z", "scan", *tiles), "float64", "count", "sum in a patch")
        return reduction(reads=(COUNTS,), writes=(total,), over=("scan",), patch=edge, group="extra")(kernel)

    patches_of(64)
    patches_of(50)

    @reduction(
        reads=(COUNTS, AXES),
        writes=(CURVE,),
        over=("scan",),
        combine=brighter,
        group="extra",
        finish=lambda s: {"bright_curve": s["curve"].astype(float)},
    )
    def brightest(counts: np.ndarray, scan: dict[str, np.ndarray]) -> dict[str, Any]:
        total = counts.sum(tuple(range(2, counts.ndim)))
        y, x = np.unravel_index(np.argmax(total), total.shape)
        return {"curve": counts[y, x], "total": total[y, x]}  # a view, as careless kernels give

    @reduction(reads=(COUNTS, CURVE), writes=(PART,), over=("scan",), group="extra")
    def project(counts: np.ndarray, bright_curve: np.ndarray) -> dict[str, Any]:
        return {"part": counts @ bright_curve}

    @reduction(reads=(SUM,), writes=(POWERS,), group="extra")
    def powers(sum_map: np.ndarray, *, most: Annotated[int, Field(description="powers")] = 2) -> dict[str, Any]:
        return {"powers": np.stack([sum_map**k for k in range(most)], -1)}

    @reduction(reads=(SUM,), writes=(LEVELS,), combine=joined, group="extra")
    def levels(sum_map: np.ndarray) -> dict[str, Any]:
        return {"levels": np.array([sum_map.max()])}

    @reduction(reads=(SUM, LEVELS), writes=(ABOVE,), group="extra")
    def above(sum_map: np.ndarray, levels: np.ndarray) -> dict[str, Any]:
        return {"above": sum_map >= levels[:, None, None]}

    @reduction(reads=(COUNTS,), writes=(FLAT,), over=("scan",), group="extra")
    def wrong_shape(counts: np.ndarray) -> dict[str, Any]:
        return {"flat": counts.sum(-1).astype(float)[:, :1]}

    @reduction(reads=(SUM,), writes=(MEAN,), over=("z",), group="other")
    def whole_z(sum_map: np.ndarray) -> dict[str, Any]:
        return {"mean_map": sum_map - sum_map.mean(0)}

    @reduction(reads=(COUNTS,), writes=(SUM,), over=("scan",), group="extra")
    def second_writer(counts: np.ndarray) -> dict[str, Any]:
        return {"sum_map": counts.sum(-1).astype(float)}

    @reduction(reads=(COUNTS, SUM), writes=(PART,), over=("scan", "y", "x"), group="extra")
    def of_layer(counts: np.ndarray, sum_map: np.ndarray) -> dict[str, Any]:
        return {"part": sum_map / sum_map.mean() + counts.max()}

    @reduction(reads=(PART, SUM), writes=(FLAT,), over=("y", "x"), group="extra")
    def of_map(part: np.ndarray, sum_map: np.ndarray) -> dict[str, Any]:
        return {"flat": part - sum_map.max()}

    @reduction(reads=(COUNTS,), writes=(FLAT,), over=("scan",), group="extra")
    def mutating(counts: np.ndarray) -> dict[str, Any]:
        counts -= 1
        return {"flat": counts.sum(-1).astype(float)}

    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("shapes")
    written = write_bliss(folder / "s.h5", layers=5, shape=(6,), size=(600, 300))
    dfxm_dask.ingest(folder / "s.h5", folder / "s.zarr", scan="all", pixel_size=(1, 1))
    _narrow_units(folder / "s.zarr")
    return folder / "s.zarr", np.stack([written.grid(z) for z in range(5)])


@pytest.fixture
def store(raw: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    shutil.copytree(raw[0], tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def recipe(*steps: str) -> Recipe:
    lines = "\n".join(f"  - {s}" if ":" in s else f"  - {s}: {{}}" for s in steps)
    return parse_recipe(f"name: shapes\nsteps:\n{lines}\n", Path("shapes.yaml"))


def near(values: np.ndarray, halo: int) -> np.ndarray:
    return np.stack([values[max(0, z - halo) : z + halo + 1].mean(0) for z in range(len(values))])


@pytest.mark.parametrize("edge", [64, 50])
def test_patch__every_band_is_right(store: Path, raw: tuple[Path, np.ndarray], edge: int) -> None:
    run_recipe(recipe(f"patches{edge}"), store)
    found = dfxm_dask.open_scan(store)["extra"].patch_total.values
    counts = raw[1].astype(float)
    assert found.shape == (5, 6, -(-600 // edge), -(-300 // edge))
    for j in range(found.shape[2]):
        for i in range(found.shape[3]):
            part = counts[:, :, j * edge : (j + 1) * edge, i * edge : (i + 1) * edge].sum((2, 3))
            np.testing.assert_array_equal(found[:, :, j, i], part)


def test_halo__chained_over_layers(store: Path, raw: tuple[Path, np.ndarray]) -> None:
    run_recipe(recipe("sums", "means", "again"), store)
    extra = dfxm_dask.open_scan(store)["extra"]
    sums = raw[1].sum(1).astype(float)
    np.testing.assert_allclose(extra.mean_map.values, near(sums, 1), rtol=1e-12)
    np.testing.assert_allclose(extra.again_map.values, near(near(sums, 1), 2), rtol=1e-12)


def test_border__bands_layers_and_blocks_give_equal_values(store: Path, raw: tuple[Path, np.ndarray]) -> None:
    made = plan(recipe("sums", "slopes"), store)
    assert [p.unit for p in made.passes] == ["band", "band"]
    run_recipe(recipe("sums", "slopes"), store)
    tree = dfxm_dask.open_scan(store)
    found = tree["extra"].slope.values
    sums = raw[1].sum(1).astype(float)
    y = tree["extra"].y.values
    whole = np.stack([curved(sums[max(0, z - 1) : z + 2], y) for z in range(5)])
    np.testing.assert_array_equal(found, whole)
    data = tree["extra"].to_dataset()[["sum_map"]]
    for chunks in ({"z": 2, "y": 199, "x": 100}, {"z": 5, "y": 600}):
        np.testing.assert_array_equal(REGISTRY["slopes"](data.chunk(chunks)).slope.values, whole)
    few = np.stack([curved(sums[max(0, z - 1) : z + 2, :30], y[:30]) for z in range(5)])
    single = data.isel(y=slice(30)).chunk({"z": 1, "y": 1})  # chunks below the border
    np.testing.assert_array_equal(REGISTRY["slopes"](single).slope.values, few)


def test_border__with_tiles_is_refused() -> None:
    with pytest.raises(
        InputError, match="has a border along y, and whole layers, tiles or frames; leave out one of both"
    ):

        @reduction(reads=(SUM,), writes=(MEAN,), border=1, over=("y",), group="extra")
        def both(sum_map: np.ndarray, *, inner: slice = slice(None)) -> dict[str, Any]:
            return {}


def test_gather__its_result_is_read_by_the_next_step(store: Path, raw: tuple[Path, np.ndarray]) -> None:
    run_recipe(recipe("brightest", "project"), store)
    extra = dfxm_dask.open_scan(store)["extra"]
    counts = raw[1].astype(float)
    totals = counts.sum(1)
    z, y, x = np.unravel_index(np.argmax(totals), totals.shape)
    np.testing.assert_array_equal(extra.bright_curve.values, counts[z, :, y, x])
    np.testing.assert_allclose(extra.part.values, np.tensordot(counts, counts[z, :, y, x], (1, 0)), rtol=1e-12)


def test_gather__lazy_equals_units(store: Path) -> None:
    run_recipe(recipe("brightest"), store)
    tree = dfxm_dask.open_scan(store)
    lazy = REGISTRY["brightest"](tree["raw"].to_dataset()).bright_curve
    np.testing.assert_array_equal(lazy.values, tree["extra"].bright_curve.values)


def test_gather__lost_result_is_noticed_and_made_again(store: Path) -> None:
    run_recipe(recipe("brightest"), store)
    before = contents(store)
    (store / "extra/bright_curve/c/0").unlink()
    with pytest.raises(IncompleteError, match=r"bright_curve/c/0 is missing"):
        dfxm_dask.open_scan(store)
    run_recipe(recipe("brightest"), store)
    assert contents(store) == before


def test_dims__that_a_plugin_declares_are_the_same_in_units_and_lazily(store: Path) -> None:
    run_recipe(recipe("sums", "powers: {most: 4}", "levels", "above"), store)
    found = dfxm_dask.open_scan(store)["extra"].to_dataset()
    assert found.sizes["power"] == 4
    assert found.sizes["level"] > 5  # bands or layers, as the data were cut: only they tell it
    lazy = REGISTRY["powers"](found, most=4).merge(REGISTRY["above"](found))
    for name in ("powers", "above"):
        np.testing.assert_array_equal(found[name], lazy[name])


@pytest.mark.parametrize(
    ("dim", "fault"),
    [
        ("depth", "without a length; declare it with dfxm_dask.schema.Dim, such as Dim('depth', 3)"),
        (Dim("depth", "count"), "whose length is not a parameter: 'count'"),
        (Dim("depth", -3), "whose length is -3"),
        (Dim("depth", of="z", step=2), "of tiles of 2 along 'z'; tiles cut y or x"),
    ],
)
def test_dims__whose_length_nothing_tells_are_refused(dim: str, fault: str) -> None:
    depth = Variable("deep", (*SPACE, dim), "float64", "1", "of unknown depth")
    with pytest.raises(InputError, match=re.escape(f"has a dim 'depth' {fault}")):

        @reduction(reads=(COUNTS,), writes=(depth,), group="extra")
        def deep(counts: np.ndarray) -> dict[str, Any]:
            return {}


def test_kernel__cannot_change_what_the_next_step_sees(store: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        run_recipe(recipe("mutating", "sums"), store)


def test_kernel__of_a_wrong_shape_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match=r"flat of block z0000-0:256: has shape \(256, 1\)"):
        run_recipe(recipe("wrong_shape"), store)


def test_plan__all_layers_at_once_are_refused(store: Path) -> None:
    with pytest.raises(RecipeError, match="requires all layers at once; make it a gather"):
        plan(recipe("sums", "whole_z"), store)


def test_plan__two_writers_of_a_variable_are_refused(store: Path) -> None:
    with pytest.raises(RecipeError, match="writes sum_map, as does step sums"):
        plan(recipe("sums", "second_writer"), store)


def test_run_recipe__refused_before_anything_is_begun(store: Path) -> None:
    """A recipe whose last step is refused must leave the store as it was."""
    run_recipe(recipe("sums: {plus: 1}"), store)
    before = contents(store)
    with pytest.raises(StoreError, match="already exists with different parameters"):
        run_recipe(recipe("brightest", "sums: {plus: 2}"), store)
    assert contents(store) == before
    dfxm_dask.open_scan(store)


def test_run_recipe__another_fusion_starts_the_step_anew(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step killed while it rode with layers must finish when the next recipe cuts it into bands."""
    text = "name: x\nsteps:\n  - background: {method: scalar, value: 50}\n  - moments: {}\n"
    riding = text + "  - hot_pixels: {}\n"
    run_recipe(parse_recipe(riding, Path("a.yaml")), store)
    first = dfxm_dask.open_scan(store)["rocking"].com_phi.values
    # the same step with layers as blocks, as if it had ridden there and been killed
    from dfxm_dask.store.integrity import ledger

    header, records = ledger.read_ledger(ledger.ledger_path(store, "rocking", "moments"))
    path = ledger.ledger_path(store, "rocking", "moments")
    ledger.withdraw(store, "rocking", "moments")
    ledger.append(path, {**header, "blocks": [f"z{z:04d}-0:600" for z in range(5)]})
    report = run_recipe(parse_recipe(riding, Path("a.yaml")), store)
    assert report.blocks_done >= len(records)
    np.testing.assert_array_equal(dfxm_dask.open_scan(store)["rocking"].com_phi.values, first)


def test_run_recipe__overwrite_mends_a_damaged_shard(store: Path) -> None:
    run_recipe(recipe("sums"), store)
    before = contents(store)
    shard = store / "extra/sum_map/c/2/1/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="run the step again with --overwrite"):
        dfxm_dask.open_scan(store)["extra"].sum_map.compute(scheduler="synchronous")
    run_recipe(recipe("sums"), store, overwrite=True)
    assert contents(store) == before


def test_run_recipe__stale_results_are_refused_as_input_and_on_resume(store: Path) -> None:
    run_recipe(recipe("sums", "means"), store)
    run_recipe(recipe("sums: {plus: 3}"), store, overwrite=True)
    with pytest.raises(
        IncompleteError, match=r"its input extra/sums has been recomputed since; run the recipe again with --over"
    ):
        dfxm_dask.open_scan(store)
    with pytest.raises(StoreError, match=r"'means'.*already exists with different inputs"):
        run_recipe(recipe("sums: {plus: 3}", "means"), store)
    run_recipe(recipe("sums: {plus: 3}", "means"), store, overwrite=True)
    dfxm_dask.open_scan(store)


def test_plan__units_of_scan_axes_are_checked(tmp_path: Path) -> None:
    """KAM of a time series would be in seconds: refused, not labelled degree."""
    write_bliss(tmp_path / "s.h5", command="loopscan", motors=(), shape=(9,), starts=(), steps=())
    dfxm_dask.ingest(tmp_path / "s.h5", tmp_path / "s.zarr", pixel_size=(1, 1))
    text = "name: x\nsteps:\n  - moments: {background: 50}\n  - kam: {radius: 2.0}\n"
    with pytest.raises(RecipeError, match="'com_time': is in 's', not 'degree'"):
        plan(parse_recipe(text, Path("x.yaml")), tmp_path / "s.zarr")


def test_plan__memory_counts_layers_that_a_step_holds(store: Path) -> None:
    banded = plan(recipe("sums"), store).memory_bytes
    assert plan(recipe("sums", "means"), store).passes[1].steps[0].memory_bytes > 0
    assert banded < 400 * 2**20


def _of_layers(counts: np.ndarray, plus: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    total = counts.sum(1).astype(float) + plus
    part = total / total.mean((1, 2), keepdims=True) + counts.max((1, 2, 3))[:, None, None]
    return part, part - total.max((1, 2))[:, None, None]


def test_run__tiles_and_layers_share_one_reading(store: Path, raw: tuple[Path, np.ndarray]) -> None:
    planned = plan(recipe("sums", "of_layer", "of_map"), store)
    assert len(planned.passes) == 1
    assert [s.tiled for s in planned.steps] == [True, False, False]
    events: list[Any] = []
    run_recipe(recipe("sums", "of_layer", "of_map"), store, publish=(events.append,))
    done = [e for e in events if type(e).__name__ == "BlockDone"]
    assert [e.bytes_read for e in done] == [raw[1][0].nbytes] * 5
    part, flat = _of_layers(raw[1])
    found = dfxm_dask.open_scan(store)["extra"]
    np.testing.assert_array_equal(found.sum_map, raw[1].sum(1))
    np.testing.assert_allclose(found.part, part, rtol=1e-12)
    np.testing.assert_allclose(found.flat, flat, rtol=1e-12)


def test_run__what_another_recipe_made_is_taken_as_it_lies(store: Path, raw: tuple[Path, np.ndarray]) -> None:
    run_recipe(recipe("sums"), store)  # in bands
    before = contents(store / "extra")
    planned = plan(recipe("sums", "of_layer"), store)
    assert len(planned.passes) == 2
    report = run_recipe(recipe("sums", "of_layer"), store)
    assert report.blocks_done == 5
    assert {k: v for k, v in contents(store / "extra").items() if "sum_map" in k} == {
        k: v for k, v in before.items() if "sum_map" in k
    }
    np.testing.assert_allclose(dfxm_dask.open_scan(store)["extra"].part, _of_layers(raw[1])[0], rtol=1e-12)


def test_run__joined_steps_are_taken_by_a_recipe_that_cuts_otherwise(store: Path, raw: tuple[Path, np.ndarray]) -> None:
    run_recipe(recipe("sums", "of_layer"), store)
    before = contents(store / "extra")
    report = run_recipe(recipe("sums"), store)
    assert report.blocks_done == 0
    assert contents(store / "extra") == before


def test_run__joined_steps_resume(store: Path, raw: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ("sums", "of_layer", "of_map")
    real, calls = passes.run_unit, []

    def stop(task: Any) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(task)
        return real(task)

    monkeypatch.setattr(passes, "run_unit", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(*steps), store)
    monkeypatch.setattr(passes, "run_unit", real)
    report = run_recipe(recipe(*steps), store)
    assert (report.blocks_done, report.blocks_skipped) == (9, 6)
    np.testing.assert_allclose(dfxm_dask.open_scan(store)["extra"].flat, _of_layers(raw[1])[1], rtol=1e-12)
