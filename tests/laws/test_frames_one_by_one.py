"""Kernels that take frames one by one: the same results from any cut along the frames, as a gather and as maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.errors import IncompleteError, RecipeError
from dfxm_dask.reduction import REGISTRY, Arrays, Reduction, reduction
from dfxm_dask.run.checks.verify import verify
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.run.unit import run_unit
from dfxm_dask.schema import AXES, COUNTS, SCAN, Variable
from dfxm_dask.store.integrity import ledger
from tests.stores import raw_store

ROW = ("spot",)
COLUMNS = (Variable("frame", ROW, "int64", "1", "frame"), Variable("y", ROW, "float64", "pixel", "row"))
COLUMNS += (Variable("time", ROW, "float64", "s", "time"), Variable("phi", ROW, "float64", "degree", "angle"))
MEAN = Variable("frame_mean", ("z", SCAN, "y", "x"), "float32", "count", "counts minus the mean of their frame")
AT = Variable("at", ("first_spot",), "float64", "pixel", "row of the first spot")


def _join(first: Arrays, second: Arrays) -> Arrays:
    return {name: np.concatenate([first[name], second[name]]) for name in first}


@pytest.fixture
def spots() -> Iterator[Reduction]:
    @reduction(
        reads=(COUNTS, AXES), writes=COLUMNS, over=("y", "x"), combine=_join, finish=dict, group="dynamics", min_axes=0
    )
    def spots(counts: np.ndarray, scan: dict[str, np.ndarray], *, first: int = 0) -> Arrays:
        """Brightest pixel of each frame."""
        rows = counts.reshape(-1, counts.shape[-1]).argmax(axis=0) // counts.shape[1]
        frames = first + np.arange(counts.shape[-1])
        unknown = np.full(frames.size, np.nan)
        found = {"frame": frames, "y": rows.astype(float)}
        return found | {name: np.array(scan.get(name, unknown)) for name in ("time", "phi")}

    yield spots
    REGISTRY.pop("spots")


@pytest.fixture
def contrast_of_frames() -> Iterator[Reduction]:
    @reduction(reads=(COUNTS,), writes=(MEAN,), over=("y", "x"), group="frames")
    def contrast_of_frames(counts: np.ndarray, *, first: int = 0) -> Arrays:
        """Counts minus the mean of their frame, plus the number of the frame."""
        values = counts - counts.mean(axis=(0, 1)) + first + np.arange(counts.shape[-1])
        return {"frame_mean": values.astype(np.float32)}

    yield contrast_of_frames
    REGISTRY.pop("contrast_of_frames")


@pytest.fixture
def first_row() -> Iterator[Reduction]:
    @reduction(reads=COLUMNS[:2], writes=(AT,), combine=lambda a, b: a, finish=dict, group="dynamics", min_axes=0)
    def first_row(frame: np.ndarray, y: np.ndarray) -> Arrays:
        """Row of the first spot."""
        return {"at": y[frame == 0]}

    yield first_row
    REGISTRY.pop("first_row")


def scan(counts: np.ndarray) -> xr.Dataset:
    names = {"chi": "degree", "phi": "degree"} if counts.ndim == 5 else {"time": "s"}
    coords = {
        n: (n, 0.5 * np.arange(m), {"units": u}) for (n, u), m in zip(names.items(), counts.shape[1:], strict=False)
    }
    return xr.Dataset({"counts": (("z", *names, "y", "x"), counts, {"units": "count"})}, coords)


@pytest.mark.parametrize("shape", [(1, 7, 6, 5), (2, 3, 4, 6, 5)])
def test_frames__any_cut_gives_the_results_of_a_loop(
    spots: Reduction, contrast_of_frames: Reduction, shape: tuple[int, ...]
) -> None:
    counts = np.random.default_rng(3).integers(50, 5000, shape).astype(np.uint16)
    data = scan(counts)
    axis = data.counts.dims[1]
    frames = counts.reshape(shape[0], -1, *shape[-2:]).astype(float)
    rows = frames.reshape(-1, shape[-2] * shape[-1]).argmax(1) // shape[-1]
    means = frames - frames.mean(axis=(2, 3), keepdims=True) + np.arange(frames.shape[1])[:, None, None]
    angle = np.tile(0.5 * np.arange(shape[2]), shape[1]) if len(shape) == 5 else np.full(shape[1], np.nan)
    for chunks in ({}, {axis: 1}, {axis: 2, "y": 3, "x": 2}, {"z": 1, axis: 5}):
        found = spots.gather(data.chunk(chunks) if chunks else data)
        np.testing.assert_array_equal(found["y"], rows)
        np.testing.assert_array_equal(found["frame"], np.tile(np.arange(frames.shape[1]), shape[0]))
        np.testing.assert_array_equal(found["phi"], np.tile(angle, shape[0]))
        made = contrast_of_frames(data.chunk(chunks) if chunks else data)["frame_mean"]
        np.testing.assert_array_equal(made, means.reshape(shape).astype(np.float32))
    with pytest.raises(ValueError, match="leave out one of both"):
        reduction(reads=(COUNTS,), writes=(MEAN,), over=(SCAN,))(contrast_of_frames.kernel)


def test_run__cuts_a_scan_along_its_frames_and_resumes(
    tmp_path: Path,
    spots: Reduction,
    contrast_of_frames: Reduction,
    first_row: Reduction,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = raw_store(tmp_path, command="loopscan", motors=("time",), shape=(35,), starts=(0.0,), steps=(0.1,))
    text = "name: film\nsteps:\n  - spots: {}\n  - contrast_of_frames: {}\n  - first_row: {}\n"
    recipe = parse_recipe(text, tmp_path / "film.yaml")
    left = iter(range(7))

    def stopped(task):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return run_unit(task)

    with monkeypatch.context() as patch:
        patch.setattr("dfxm_dask.run.passes.run_unit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, store, publish=())
    with pytest.raises(IncompleteError, match="7 of 12 blocks"):
        dfxm_dask.open_scan(store)
    part = dfxm_dask.open_scan(store, allow_partial=True)
    assert not part["frames/valid_contrast_of_frames"].values.any()
    report = run_recipe(recipe, store, publish=())
    assert (report.complete, report.blocks_skipped) == (True, 14)
    tree = dfxm_dask.open_scan(store)
    counts = tree["raw/counts"].values[0].astype(float)
    assert tree["dynamics"]["y"].dims == tree["dynamics"].to_dataset()["time"].dims == ("spot",)
    np.testing.assert_array_equal(tree["dynamics"]["y"], counts.reshape(35, -1).argmax(1) // counts.shape[-1])
    np.testing.assert_array_equal(tree["dynamics"]["time"], tree["time"])
    np.testing.assert_array_equal(tree["dynamics"]["at"], tree["dynamics"]["y"][:1])
    expected = counts - counts.mean(axis=(1, 2), keepdims=True) + np.arange(35)[:, None, None]
    np.testing.assert_array_equal(tree["frames/frame_mean"][0], expected.astype(np.float32))
    assert tree["raw"].to_dataset().sel(time=0.6, method="nearest").sizes["y"] == tree["frames"].sizes["y"]
    assert tree["dynamics"].to_dataset().isel(spot=3)["y"].values == tree["dynamics/y"][3].values
    block = ledger.states(store, "dynamics")["spots"].blocks[1]
    assert block == "z0000-0:12@3:6"
    assert not verify(store, deep=True).faults
    other = xr.open_zarr(store, group="dynamics")
    assert other["y"].dims == ("spot",)
    assert set(other.coords) == {"y", "time"}
    with monkeypatch.context() as patch:
        patch.setitem(contrast_of_frames.__dict__, "group", "dynamics")
        with pytest.raises(RecipeError, match="table has a column time and a map the dim time"):
            run_recipe(recipe, store, overwrite=True, publish=())
    after = parse_recipe("name: n\nsteps:\n  - zingers: {}\n  - spots: {}\n", tmp_path / "n.yaml")
    with pytest.raises(RecipeError, match="takes frames one by one"):
        run_recipe(after, store, overwrite=True, publish=())
