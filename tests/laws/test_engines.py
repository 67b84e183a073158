"""The unit that a run executes gives the same bits as the lazy graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.catalogue import find
from dfxm_dask.engine.layer import beside
from dfxm_dask.engine.shapes import expanded_writes, lengths
from dfxm_dask.reduction import Reduction
from dfxm_dask.run.passes import read_summary
from dfxm_dask.run.unit import UnitStep, UnitTask, run_unit, summary_path
from dfxm_dask.schema import SPACE, Variable, expand
from dfxm_dask.store.chunks import Layout, bands, map_layout
from dfxm_dask.store.integrity.nodes import create_array, create_group, root_attrs, write_small
from dfxm_dask.store.shards import open_array, read, write_shard
from tests.laws.test_reductions import NAMES, axes_for, computed, example, parameters


def write_store(path: Path, data: xr.Dataset, axes: dict[str, str], rows: int, in_raw: set[str]) -> dict[str, str]:
    """A store with the variables of a Dataset. Returns the group of each."""
    create_group(path, "", root_attrs(rows, "law"))
    for group in ("raw", "given", "made"):
        create_group(path, group, {})
    for name in data.coords:
        write_small(path, "", str(name), (str(name),), data[name].values, data[name].attrs)
    groups = {}
    for name, variable in data.data_vars.items():
        groups[str(name)] = group = "raw" if name in in_raw | {"counts"} else "given"
        dims, values = tuple(map(str, variable.dims)), variable.values
        if name != "counts":
            write_small(path, group, str(name), dims, values, variable.attrs)
            continue
        chunk = (*(1 for _ in dims[:-2]), rows, rows)
        band = (1, *values.shape[1:-2], rows, -(-values.shape[-1] // rows) * rows)
        layout = Layout(values.shape, chunk, band)
        create_array(path, group, Variable("counts", dims, values.dtype.name, "count", "counts"), layout, {})
        array = open_array(path / group / "counts")
        assert array is not None
        for z in range(len(values)):
            for k, (low, high) in enumerate(bands(values.shape[-2], rows)):
                write_shard(array, (z, *(0 for _ in axes), k, 0), values[z : z + 1, ..., low:high, :])
    return groups


def executed(chain: list[Reduction], data: xr.Dataset, axes: dict[str, str], path: Path) -> dict[str, np.ndarray]:
    """Results of the last of some reductions in one unit for each block of a store, as a run makes and joins them."""
    rows = max((r.patch or 8) for r in chain)
    groups = write_store(path, data, axes, rows, {v.name for r in chain for b in beside(r) for v in expand(b, axes)})
    layer = any({"y", "x"} & set(r.over) for r in chain)
    along = next(iter(axes)) if any(r.by_frame for r in chain) else None
    frames = bands(data.sizes[along], 3) if along else [None]
    steps = [UnitStep(r.name, "made", r.validate(parameters(r)), dict(groups), r is chain[-1]) for r in chain]
    last, names = chain[-1], expanded_writes(chain[-1], axes, steps[-1].parameters)
    for variable in names if last.combine is None else ():
        sizes = lengths(last, axes, steps[-1].parameters, data.sizes)
        shape = tuple(sizes[d] or 0 for d in variable.dims)
        plan = map_layout(variable.dims, shape, rows, rows, last.patch, (along, 3) if along else None)
        create_array(path, "made", variable, plan, {})
    (path / "made" / ".ledger").mkdir()
    merged = None
    for z in range(data.sizes["z"]):
        for y0, y1 in [(0, data.sizes["y"])] if layer else bands(data.sizes["y"], rows):
            for some in frames:
                task = UnitTask(str(path), tuple(steps), z, y0, y1, layer, axes, rows, some)
                run_unit(task)
                if last.combine:
                    part = read_summary(summary_path(str(path), "made", last.name, task.block))
                    merged = part if merged is None else last.combine(merged, part)
    if merged is not None:
        return dict(last.finish(merged) if last.finish else merged)
    arrays = {v.name: open_array(path / "made" / v.name) for v in names if v.stored}
    return {name: read(a, (slice(None),) * len(a.shape)) for name, a in arrays.items() if a is not None}


@pytest.mark.parametrize("name", NAMES)
def test_unit__equals_lazy_graph(name: str, tmp_path: Path) -> None:
    reduction = find(name)
    axes = axes_for(reduction, ("chi", "phi"))
    data = example(reduction, axes)
    chain, lazy = [reduction], data.chunk({"z": 1, "y": 8})
    if not all(v.stored for v in reduction.writes):  # what lives in one pass shows in what is made of it
        chain = [reduction, find("moments")]
        level = np.full([data.sizes[d] for d in SPACE], 100, np.float32)
        data = data.assign(background_map=(SPACE, level, {"units": "count"})).drop_vars("saturation", errors="ignore")
        lazy = data.chunk({"z": 1, "y": 8})
        lazy = lazy.assign(computed(reduction, lazy))
    expected = computed(chain[-1], lazy)
    found = executed(chain, data, axes, tmp_path)
    assert set(found) == {str(n) for n in expected.data_vars}
    assert not set(found) & set(SPACE) - {v.name for v in reduction.writes}  # tables have positions of their own
    for variable, values in found.items():
        assert values.dtype == expected[variable].dtype, variable
        np.testing.assert_array_equal(values, expected[variable].values, err_msg=variable)


def test_unit__knows_masked_pixels_in_every_tile(tmp_path: Path) -> None:
    reduction, axes = find("integrated_curve"), {"phi": "degree"}
    data = example(reduction, axes)
    counts = data["counts"].values.copy()
    counts[..., 10, 12] = 65535
    data = data.assign(counts=(data["counts"].dims, counts, data["counts"].attrs))
    data["masked"] = ("z", np.ones(data.sizes["z"], np.uint32), {"units": "1"})
    expected = computed(reduction, data.chunk({"z": 1, "y": 8}))
    found = executed([reduction], data, axes, tmp_path)
    np.testing.assert_array_equal(found["integrated_curve"], expected["integrated_curve"].values)
