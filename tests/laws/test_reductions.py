"""Laws that every registered reduction obeys, whatever it computes."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import sys
from functools import cache
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from scipy import ndimage

import dfxm_dask
from dfxm_dask.catalogue import load_reductions
from dfxm_dask.engine.docstring import OWN_SOURCE, entries, split
from dfxm_dask.engine.layer import run_kernel, scan_last
from dfxm_dask.engine.shapes import expanded_writes, lengths, scan_axes
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.reduction import Reduction
from dfxm_dask.schema import SPACE, expand
from tests.strain.oblique_set import HKL, set_of

PARAMETERS: dict[str, dict[str, Any]] = {
    "burgers_from_curves": {
        "lattice": Lattice(parameter=4.05e-4, x=(1, 0, -0.158), z=(0.158, 0, 1), hkl=(0, 0, 2)),
        "angles": 2,
    },
    "locate": {
        "lattice": Lattice(parameter=4.05e-4, x=(1, 0, 0), z=(0, 0, 1)),
        "lines": [[0, 1, 1, 0, 1, 1], [0, -1, -1, 0, 1, 1]],
        "angle": 0.0126,
    },
    "match": {
        "lattice": Lattice(parameter=4.05e-4, x=(1, 0, -0.158), z=(0.158, 0, 1), hkl=(0, 0, 2)),
        "angles": 2,
    },
    "normalise": {"by": "monitor", "reference": 1000.0, "offset": 0.0},
    "fit_curves": {"axis": "phi"},
    "lattice_spacing": {"energy": 17.0, "offset": 20.0},
    "classify_beams": {"method": "fused"},
    "follow_boundary": {"spacing": 4},
}
SIZES = {
    "z": 3,
    "y": 12,
    "x": 17,
    "phi": 7,
    "chi": 5,
    "patch_y": 1,
    "patch_x": 1,
    "scaling": 4,
    "piece": 200,
    "segment_id": 15,
}
SIZES |= {"image_number": 17, "image_column": 11, "reflection": len(HKL)}
REFLECTIONS = set_of()
COMPONENTS = 3
EVERY = sorted(load_reductions())
NAMES = [n for n in EVERY if {*SPACE} & {d for v in load_reductions()[n].reads for d in v.dims}]
"""Reductions of scans; those of tables alone have no blocks (see tests/dynamics)."""
AXES_SETS = [("phi",), ("chi", "phi")]


def axes_for(reduction: Reduction, names: tuple[str, ...]) -> dict[str, str]:
    if len(names) < reduction.min_axes:
        pytest.skip(f"{reduction.name} needs {reduction.min_axes} scan axes")
    return dict.fromkeys(names, "degree")


def example(reduction: Reduction, axes: dict[str, str], fill: str = "real") -> xr.Dataset:
    """A Dataset with everything that the reduction reads or may read."""
    generator = np.random.default_rng(5)
    coords = {
        name: (
            name,
            np.arange(size) * (0.5 if name in SPACE else 0.01),
            {"units": "um" if name in SPACE else "degree"} | ({} if name in SPACE else {"scan_axis": 0}),
        )
        for name, size in SIZES.items()
        if name in SPACE or name in axes
    }
    for k, name in enumerate(axes):
        coords[name][2]["scan_axis"] = k
    variables = {}
    for declared in (*reduction.reads, *reduction.may_read):
        if declared.coordinate:
            continue
        for variable in expand(declared, axes):
            declared_lengths = (getattr(d, "length", None) for d in variable.dims)
            shape = tuple(
                SIZES.get(d) or (n if isinstance(n, int) else COMPONENTS)
                for d, n in zip(variable.dims, declared_lengths, strict=True)
            )
            dtype = np.dtype(variable.dtype)
            if variable.name.endswith("_scaling"):
                values = np.array([0.0, 1.0, np.nan, float("nmf" in variable.name)])  # log above a background map
            elif declared.name.endswith("_grid_{axis}"):
                own = variable.name.rpartition("_grid_")[2]
                values = np.broadcast_to(coords[own][1].reshape([-1 if a == own else 1 for a in axes]), shape)
            elif variable.name in REFLECTIONS:
                values = REFLECTIONS[variable.name]
            elif variable.name == "centre":
                values = generator.normal(0.0, 0.01, shape)
            elif variable.name == "deformation":
                values = _screws(generator)
            elif variable.name.startswith("com_") and variable.name.endswith("covariance"):
                values = np.zeros(shape, dtype)
            elif variable.name.endswith("covariance"):
                values = np.broadcast_to(1e-6 * np.eye(shape[-1], dtype=dtype), shape).copy()
            elif variable.name == "counts":
                values = _counts(axes, fill, generator)
            elif variable.name.startswith("piece_"):
                values = _pieces(variable.name, variables["defects"][1])
            elif variable.name.startswith("segment"):
                values = _segments(variable.name).astype(dtype)
            elif dtype.kind == "b":
                values = generator.random(shape) < 0.1
            elif variable.name == "background_map":
                values = np.full(shape, 100, dtype)
            elif variable.name in ("lit", "p_weak"):
                values = (generator.random(shape) < 0.9).astype(dtype)
            elif variable.name in ("monitor", "exposure"):
                values = generator.uniform(900, 1100, shape).astype(dtype)
            elif variable.name == "frame_scale":
                values = generator.uniform(0.9, 1.1, shape).astype(dtype)
            else:
                values = generator.normal(0.03, 0.01, shape).astype(dtype)
            if variable.name == "noise":
                values = np.full(shape, 5, dtype)
            elif (
                variable.name.startswith(("monitor", "exposure", "position_", "frame_scale"))
                or "z" not in variable.dims
            ):
                pass
            elif len(variable.dims) == 1:
                pass
            elif fill == "nan" and values.dtype.kind == "f":
                values[:, 2:4, 3:9] = np.nan
            variables[variable.name] = (variable.dims, values, variable.attrs)
    return xr.Dataset(variables, coords=coords)


def _screws(generator: np.random.Generator) -> np.ndarray:
    """Deformation by a screw dislocation along z in every layer, far above the errors: in noise a fit does not end."""
    z, y, x = np.meshgrid(*(np.arange(SIZES[d]) for d in SPACE), indexing="ij")
    y, x = 0.5 * (y - 5.3), 0.5 * (x - 7.4 - z)  # um
    values = np.eye(3) + generator.normal(0, 1e-3, (*x.shape, 3, 3))
    values[..., 2, :2] += 0.05 / (2 * np.pi) * np.stack([-y, x], -1) / (y**2 + x**2)[..., None]
    return values


def _pieces(name: str, mask: np.ndarray) -> np.ndarray:
    """What is known of the pieces of every layer of a mask; every third is removed."""
    counts = np.array([ndimage.label(layer)[1] for layer in mask])
    numbers = np.arange(SIZES["piece"], dtype=np.int32)
    return {"piece_count": counts, "piece_start": counts.cumsum() - counts}.get(name, numbers * (numbers % 3 > 0))


def _segments(name: str) -> np.ndarray:
    """Five segments in each layer, and the regions that they belong to."""
    label = np.broadcast_to(np.arange(SIZES["x"]) // 4 + 1, [SIZES[d] for d in SPACE])
    known = {"segment": label, "segment_start": np.arange(0, 15, 5), "segment_count": np.full(SIZES["z"], 5)}
    return known.get(name, np.arange(SIZES["segment_id"]) % 3)


def _counts(axes: dict[str, str], fill: str, generator: np.random.Generator) -> np.ndarray:
    shape = (SIZES["z"], *(SIZES[a] for a in axes), SIZES["y"], SIZES["x"])
    if fill == "zero":
        return np.zeros(shape, np.uint16)
    if fill == "dark":
        return np.full(shape, 100, np.uint16)
    centre = generator.uniform(1, 5, (SIZES["z"], SIZES["y"], SIZES["x"]))
    grid = np.zeros(shape)
    for k, a in enumerate(axes, start=1):
        position = np.arange(SIZES[a]).reshape([-1 if j == k else 1 for j in range(len(shape))])
        grid = grid + (position - np.expand_dims(centre, tuple(range(1, 1 + len(axes))))) ** 2
    counts = generator.poisson(100 + 900 * np.exp(-grid / 3)).astype(np.uint16)
    counts[0, ..., 0, 0] = 65535
    if fill == "nan":
        values = counts.astype(np.float32)
        values[(slice(None), *(0 for _ in axes), slice(2, 4), slice(3, 9))] = np.nan
        return values
    return counts


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed while the graph was built")


def same(a: xr.Dataset, b: xr.Dataset, exact: bool = True) -> None:
    assert set(a.data_vars) == set(b.data_vars)
    for name in a.data_vars:
        if exact:
            np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))
        else:
            np.testing.assert_allclose(a[name].values, b[name].values, rtol=1e-12, err_msg=str(name))


@pytest.fixture(params=NAMES)
def reduction(request: pytest.FixtureRequest) -> Reduction:
    return load_reductions()[request.param]


@pytest.fixture(params=EVERY)
def declared(request: pytest.FixtureRequest) -> Reduction:
    return load_reductions()[request.param]


@pytest.fixture(params=AXES_SETS, ids="-".join)
def axes(request: pytest.FixtureRequest, reduction: Reduction) -> dict[str, str]:
    return axes_for(reduction, request.param)


def parameters(reduction: Reduction) -> dict[str, Any]:
    return PARAMETERS.get(reduction.name, {})


def is_open(reduction: Reduction, data: xr.Dataset) -> bool:
    """Whether only the data tell how long the result is."""
    chosen, axes = reduction.validate(parameters(reduction)), scan_axes(data)
    return None in lengths(reduction, axes, chosen, data.sizes).values()


def computed(reduction: Reduction, data: xr.Dataset) -> xr.Dataset:
    if is_open(reduction, data):
        return reduction.gather(data, **parameters(reduction))
    return reduction(data, **parameters(reduction)).compute()


@cache
def whole(name: str, axes: tuple[str, ...]) -> xr.Dataset:
    """The result of the example in one piece, which several laws compare with others."""
    reduction = load_reductions()[name]
    return computed(reduction, example(reduction, dict.fromkeys(axes, "degree")))


def test_reduction__computes_nothing_while_its_graph_is_built(reduction: Reduction, axes: dict[str, str]) -> None:
    data = example(reduction, axes).chunk({"z": 1, "y": 6})
    with dask.config.set(scheduler=refuse):
        if is_open(reduction, data):
            with pytest.raises(ValueError, match=f"{reduction.name}.gather"):
                reduction(data, **parameters(reduction))
            return
        result = reduction(data, **parameters(reduction))
    assert all(v.chunks is not None for v in result.data_vars.values())


def test_reduction__returns_what_it_declares(reduction: Reduction, axes: dict[str, str]) -> None:
    data = example(reduction, axes)
    chosen = reduction.validate(parameters(reduction))
    data = data.chunk({"z": 1})
    result = computed(reduction, data) if is_open(reduction, data) else reduction(data, **parameters(reduction))
    wanted = {v.name: v for v in expanded_writes(reduction, axes, chosen)}
    assert set(result.data_vars) == set(wanted)
    found = result.compute()
    for name, variable in wanted.items():
        assert result[name].dims == variable.dims
        assert result[name].attrs["units"] == variable.units != ""
        assert result[name].attrs["long_name"]
        values = found[name]
        assert values.dtype == result[name].dtype
        assert values.shape == result[name].shape
        if variable.stored:
            assert values.dtype == np.dtype(variable.dtype)


@pytest.mark.parametrize("chunks", [{"z": 1, "y": 5, "x": 4}, {"z": 2, "y": 7}, {"z": 3, "x": 3, "phi": 2}])
def test_reduction__does_not_depend_on_chunks(
    reduction: Reduction, axes: dict[str, str], chunks: dict[str, int]
) -> None:
    data = example(reduction, axes)
    cut = computed(reduction, data.chunk({d: n for d, n in chunks.items() if d in data.dims}))
    same(whole(reduction.name, tuple(axes)), cut, exact=reduction.combine is None)


def one_by_one(
    data: xr.Dataset, axes: dict[str, str], fetch: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Positions of every frame, and arguments of a kernel that takes frames one by one; joins the axes of ``fetch``."""
    for name in (str(n) for n, v in data.variables.items() if set(axes) <= set(v.dims)):
        fetch[name] = fetch[name].reshape(*fetch[name].shape[: -len(axes)], -1)
    grids = np.meshgrid(*(data[a].values for a in axes), indexing="ij")
    return {a: grid.ravel() for a, grid in zip(axes, grids, strict=True)}, {"first": 0}


def test_reduction__graph_equals_kernel(reduction: Reduction, axes: dict[str, str]) -> None:
    data = example(reduction, axes)
    chosen = reduction.validate(parameters(reduction))
    result = computed(reduction, data.chunk({"z": 1, "y": 5}))
    positions = {a: data[a].values.astype(float) for a in axes}
    merged = None
    for z in range(SIZES["z"]):
        low = max(0, z - reduction.halo)
        seen = slice(low, z + reduction.halo + 1) if reduction.halo else z
        fetch = {
            str(n): scan_last(v.isel(z=seen).values, v.isel(z=seen).dims, axes) if "z" in v.dims else v.values
            for n, v in data.variables.items()
        }
        extra = {"middle": z - low} if reduction.halo else {}
        own = positions
        if reduction.by_frame:
            own, extra = one_by_one(data, axes, fetch)
        layer = run_kernel(reduction, axes, fetch, own, chosen, **extra)
        if reduction.combine:
            merged = layer if merged is None else reduction.combine(merged, layer)
            continue
        for name, values in layer.items():
            if reduction.by_frame:
                values = values.reshape(*values.shape[:-1], *(SIZES[a] for a in axes))
            dims = [d for d in result[name].dims if d != "z"]
            order = [d for d in dims if d not in axes] + [d for d in dims if d in axes]
            np.testing.assert_array_equal(result[name].isel(z=z).transpose(*order).values, values, err_msg=name)
    if reduction.combine and merged is not None:
        finished = reduction.finish(merged) if reduction.finish else merged
        for name, values in finished.items():
            np.testing.assert_allclose(result[name].values, values, rtol=1e-12)


def test_reduction__is_deterministic(reduction: Reduction, axes: dict[str, str]) -> None:
    data = example(reduction, axes).chunk({"z": 1, "y": 6})
    # A sum over blocks may differ in its last digit from that of the whole, but not from itself.
    again = computed(reduction, data) if reduction.combine else whole(reduction.name, tuple(axes))
    same(computed(reduction, data), again)


@pytest.mark.parametrize("fill", ["dark", "zero", "nan"])
def test_reduction__is_safe_on_dark_empty_and_nan(reduction: Reduction, axes: dict[str, str], fill: str) -> None:
    data = example(reduction, axes, fill)
    result = computed(reduction, data)
    again = computed(reduction, data.chunk({"z": 1, "y": 5}))
    same(result, again, exact=reduction.combine is None)
    for name, variable in result.data_vars.items():
        if variable.dtype.kind == "f":
            assert not np.isinf(variable.values).any(), name


def test_reduction__is_a_function_that_python_knows(declared: Reduction) -> None:
    assert getattr(dfxm_dask, declared.name) is declared
    assert declared.name in dir(dfxm_dask)
    module = sys.modules[declared.__module__]
    assert (declared.__name__, getattr(module, declared.__qualname__)) == (declared.name, declared)
    dataset, *given = inspect.signature(declared).parameters.values()
    assert (dataset.name, dataset.kind) == ("dataset", dataset.POSITIONAL_OR_KEYWORD)
    asked = [p for p in inspect.signature(declared.kernel).parameters.values() if p.kind is p.KEYWORD_ONLY]
    asked = [p for p in asked if p.name not in ("middle", "first", "inner")]
    assert [(p.name, p.kind, p.default) for p in given] == [(p.name, p.kind, p.default) for p in asked]
    assert all(p.annotation is not p.empty for p in given)
    assert not hasattr(declared, "__wrapped__")
    assert pickle.loads(pickle.dumps(declared)) is declared
    assert f"{declared.name}(dataset: " in pydoc.render_doc(declared, renderer=pydoc.plaintext)


def test_reduction__docstring_is_for_its_caller(declared: Reduction) -> None:
    text = declared.__doc__ or ""
    summary, sections = split(text)
    assert summary == split(declared.kernel.__doc__ or "")[0]
    assert list(sections)[:3] == ["Parameters", "Returns", "Raises"]
    assert "References" in sections or OWN_SOURCE in sections["Notes"]
    assert f"dfxm_dask.{declared.name}" in sections["Examples"]
    assert ".kernel(" in sections["Examples"]
    assert max(map(len, text.splitlines())) <= 120
    named = entries(sections["Parameters"])
    assert list(named) == ["dataset", *declared.parameters.model_fields]
    for variable in (*declared.reads, *declared.may_read):
        assert variable.long_name in named["dataset"]
    assert all(variable.long_name in " ".join(sections["Returns"].split()) for variable in declared.writes)
    for name, field in declared.parameters.model_fields.items():
        assert field.description, f"parameter {name} has no description"
        assert field.description[1:] in named[name]


def test_kernel__docstring_names_only_what_is_declared(declared: Reduction) -> None:
    _, sections = split(declared.kernel.__doc__ or "")
    known = set(inspect.signature(declared.kernel).parameters)
    assert set(entries(sections.get("Parameters", ""))) <= known


def test_reduction__refuses_unknown_parameters_by_nearest_name(declared: Reduction) -> None:
    for name in declared.parameters.model_fields:
        with pytest.raises(ValueError, match=f"did you mean '{name}'"):
            declared.validate({name + "s": 1})
    with pytest.raises(ValueError, match="is unknown"):
        declared.validate({"qqqqqq": 1})


def test_reduction__refuses_a_missing_input(reduction: Reduction, axes: dict[str, str]) -> None:
    data = example(reduction, axes)
    for declared in reduction.reads:
        for variable in expand(declared, axes):
            if variable.name in data.data_vars and variable.name != "counts" and not declared.template:
                with pytest.raises(ValueError, match="is not in the Dataset"):
                    reduction(data.drop_vars(variable.name), **parameters(reduction))


def test_reduction__refuses_wrong_dims_and_units(reduction: Reduction, axes: dict[str, str]) -> None:
    data = example(reduction, axes)
    name = next(iter(data.data_vars))
    wrong = data.assign({name: data[name].assign_attrs(units="furlong")})
    with pytest.raises(ValueError, match="furlong"):
        reduction(wrong, **parameters(reduction))
    with pytest.raises(ValueError, match="has dims"):
        reduction(data.assign({name: data[name].transpose("x", ...)}), **parameters(reduction))
