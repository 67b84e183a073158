"""Tables, such as those of boundaries and objects, as CSV and Parquet: one row each, one column per component."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

TABLES = {
    "boundaries": {"boundary": "boundaries", "junction": "junctions"},
    "objects": {"object": "objects"},
    "regions": {"region_id": "regions", "boundary_id": "region_boundaries"},
    "tracks": {"detection": "detections", "track": "tracks"},
    "positions": {"core": "positions"},
    "reflections": {"reflection": "reflections"},
    "candidates": {"candidate": "candidates", "answer": "identification"},
}
"""Row dimension and name of each table, by kind of result."""
FIRST = {"object": 1, "region_id": 1}
"""Number of the first row if not 0: 0 in ``label`` and ``region`` means none."""
LABELS = {
    "row": tuple("xyz"),
    "column": tuple("xyz"),
    "component": tuple(row + column for row in "xyz" for column in "xyz"),
    "index": tuple("hkl"),
    "angle": ("two_theta", "phi", "chi"),
    "motor": ("mu", "omega", "eta", "theta"),
}
"""Components along a dim, and along the dim of this name with a 2."""

Columns = dict[str, tuple[np.ndarray, dict[str, str]]]


def columns(dataset: xr.Dataset, dim: str) -> Columns:
    """Columns of a table.

    Parameters
    ----------
    dataset : Dataset
    dim : str
        Dim of the rows; the table contains all variables with this first dim.

    Returns
    -------
    dict of str to (array (row,), dict)
        Values, with ``units`` and ``long_name``. The first column is the number of the boundary, junction or object, as
        in ``point_boundary`` and ``label``. A variable with more dims has a column for each component: ``normal_x``,
        ``normal_y``, ``normal_z`` along a dim ``xyz``, whose name lists its components; else the labels of the dim,
        else numbers from 0. Flags appear as a number, and as text in ``<name>_words``.

    Examples
    --------
    >>> import xarray as xr
    >>> table = xr.Dataset({"normal": (("boundary", "xyz"), np.eye(3)), "spacing": ("boundary", np.arange(3.0))})
    >>> list(columns(table, "boundary"))
    ['boundary', 'normal_x', 'normal_y', 'normal_z', 'spacing']
    """
    found: Columns = {}
    found[dim] = FIRST.get(dim, 0) + np.arange(dataset.sizes[dim]), {"units": "1", "long_name": f"number of the {dim}"}
    for name, variable in dataset.variables.items():
        if not variable.dims or variable.dims[0] != dim or name == dim:
            continue
        values = np.asarray(variable)
        attrs = {word: str(variable.attrs.get(word, "")) for word in ("units", "long_name")}
        labels = [component_labels(dataset, str(d)) for d in variable.dims[1:]]
        flat = values.reshape(len(values), prod(values.shape[1:]))  # the number of columns, also where there is no row
        for words, column in zip(product(*labels), flat.T, strict=True):
            found["_".join([str(name), *words])] = column, attrs
        if "flag_masks" in variable.attrs and variable.ndim == 1:
            words_of = {"units": "1", "long_name": f"{attrs['long_name']}, as text"}
            found[f"{name}_words"] = _meanings(values, variable.attrs), words_of
    return found


def _meanings(values: np.ndarray, attrs: Mapping[Any, Any]) -> np.ndarray:
    """Meanings of the bits of a flag variable, separated by spaces."""
    pairs = list(zip(np.atleast_1d(attrs["flag_masks"]), str(attrs["flag_meanings"]).split(), strict=True))
    return np.array([" ".join(word for mask, word in pairs if int(value) & int(mask)) for value in values], dtype=str)


def component_labels(dataset: xr.Dataset, dim: str) -> list[str]:
    """Names of the components along a dim: its labels, else the letters of its name, else numbers from 0."""
    size = dataset.sizes[dim]
    if dim in dataset.coords and dataset[dim].dims == (dim,):
        return [str(label) for label in np.asarray(dataset[dim])]
    for known in (LABELS.get(dim.removesuffix("2"), ()), dim.removesuffix("2")):
        if len(known) == size:
            return list(known)
    return [str(k) for k in range(size)]


def write_csv(path: Path, dataset: xr.Dataset, dim: str) -> None:
    """A table as text: numbers with all their digits, ``nan`` for missing values, ``true``, ``false``."""
    table = columns(dataset, dim)
    cells = [text_cells(values) for values, _ in table.values()]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*cells, strict=True))


def text_cells(values: np.ndarray) -> list[str]:
    """Values as text with all their digits."""
    if values.dtype.kind == "b":
        return ["true" if value else "false" for value in values]
    return [str(value) for value in values.astype(str)]


def write_units(path: Path, dataset: xr.Dataset, dim: str) -> None:
    """Unit and meaning of every column of a table, as JSON."""
    known: dict[str, Any] = {name: attrs for name, (_, attrs) in columns(dataset, dim).items()}
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_napari(path: Path, dataset: xr.Dataset) -> None:
    """Tracks as the viewer napari reads them: rows of track, frame, row and column (pixels), sorted by track and frame.

    ``napari.view_tracks(numpy.loadtxt(path, delimiter=",", skiprows=1))`` shows them.
    """
    from dfxm_dask.dynamics.track import napari_tracks

    rows = napari_tracks(*(np.asarray(dataset[name]) for name in ("frame", "row", "column", "track")))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("track_id", "t", "y", "x"))
        writer.writerows((int(track), int(frame), repr(float(y)), repr(float(x))) for track, frame, y, x in rows)


def need_parquet() -> None:
    """Refuse Parquet without pyarrow.

    Raises
    ------
    InputError
        pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise InputError("Parquet", "requires pyarrow, which is not installed", "pip install 'dfxm_dask[parquet]'")


def write_parquet(path: Path, dataset: xr.Dataset, dim: str) -> None:
    """A table as Parquet, with unit and meaning of each column in its metadata."""
    need_parquet()
    pyarrow: Any = import_module("pyarrow")
    parquet: Any = import_module("pyarrow.parquet")
    arrays, fields = [], []
    for name, (values, attrs) in columns(dataset, dim).items():
        arrays.append(pyarrow.array(values if values.dtype.kind in "biuf" else values.astype(str)))
        fields.append(pyarrow.field(name, arrays[-1].type, metadata=attrs))
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields)), path)
