"""The volume as OME-Zarr 0.5: the mask as an image, objects as its labels, with a pyramid, written layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from dfxm_dask.errors import InputError
from dfxm_dask.schema import SPACE, Variable
from dfxm_dask.store.chunks import Layout, round_up
from dfxm_dask.store.integrity.nodes import create_array, create_group

if TYPE_CHECKING:
    import xarray as xr

MOST_SLOTS = 4  # largest number of slots of the even grid per layer (our choice)
EDGE = 256  # pixels: edge of a chunk, and of the smallest level of the pyramid (our choice)


def write_volume(path: Path, dataset: xr.Dataset, notes: list[str]) -> None:
    """Write a volume for viewers.

    Parameters
    ----------
    path : Path
    dataset : Dataset
        ``dislocation (z, y, x)`` bool, ``label (z, y, x)`` integer, or one of them; z, y, x in um.
    notes : list of str
        Receives a note on absent layers.

    Raises
    ------
    InputError
        Positions are not in um, or layers are not evenly spaced.

    Notes
    -----
    The mask is written as 0 and 1 in uint8, since many viewers do not support bool; without a mask, the image marks all
    voxels with a label. Levels halve y and x, never z, whose voxels are far longer: a voxel is true if any of its four
    voxels in the finer level is true, and has the largest of their labels. Absent layers leave a gap, filled with 0 and
    listed in ``attributes/dfxm_dask``. One layer is in memory at a time.

    References
    ----------
    OME-NGFF 0.5, ngff.openmicroscopy.org/0.5, sections multiscales, labels and image-label.
    """
    z, slots, absent = even_layers(np.asarray(dataset["z"], float))
    for dim in SPACE:
        if dataset[dim].attrs.get("units") != "um":
            raise InputError(
                "OME-Zarr of the volume",
                f"{dim} is in {dataset[dim].attrs.get('units', 'no unit')}",
                "set the effective pixel with dfxm-dask calibrate STORE --pixel-size Y,X",
            )
    grid = [z, *(_line(np.asarray(dataset[d], float)) for d in ("y", "x"))]
    shape = (int(slots.max()) + 1, dataset.sizes["y"], dataset.sizes["x"])
    label = dataset["label"] if "label" in dataset else None
    image = dataset["dislocation"] if "dislocation" in dataset else None
    own: dict[str, Any] = {"absent_layers_um": absent}
    if absent:
        notes.append(f"layers absent from the store are empty in the volume: z = {', '.join(map(str, absent))}")
    create_group(path, "", {"ome": _multiscales("dislocation", shape, grid, "any"), "dfxm_dask": own})
    arrays = [_levels(path, "", "dislocation", np.dtype("uint8"), shape)]
    if label is not None:
        create_group(path, "labels", {"ome": {"version": "0.5", "labels": ["label"]}})
        found = _multiscales("label", shape, grid, "max") | {"image-label": {"source": {"image": "../../"}}}
        create_group(path, "labels/label", {"ome": found, "dfxm_dask": own})
        arrays.append(_levels(path, "labels/label", "label", label.dtype, shape))
    empty = sorted(set(range(shape[0])) - set(slots.tolist()))
    for number, slot in [*enumerate(slots.tolist()), *((None, slot) for slot in empty)]:
        layers = [np.zeros(shape[1:], levels[0].dtype) for levels in arrays]
        if number is not None:
            if label is not None:
                layers[1] = np.asarray(label[number])
            layers[0] = (np.asarray(image[number]) if image is not None else layers[1] != 0).astype(np.uint8)
        for levels, layer in zip(arrays, layers, strict=True):
            for level in levels:
                level[slot] = layer
                layer = halved(layer)


def even_layers(z: np.ndarray) -> tuple[tuple[float, float], np.ndarray, list[float]]:
    """An even grid with a slot for every layer.

    Parameters
    ----------
    z : array (z,), um

    Returns
    -------
    (first, step) : float, um
        Position of slot 0 and distance of slots; a step of 1 for one layer.
    slots : array (z,), int
        Slot of each layer.
    absent : list of float, um
        Positions of slots without a layer.

    Raises
    ------
    InputError
        Layers deviate from an even grid by more than a hundredth of its step, or the grid has more than four slots per
        layer (our choices).

    Examples
    --------
    >>> even_layers(np.array([4.0, 5.0, 7.0]))
    ((4.0, 1.0), array([0, 1, 3]), [6.0])
    """
    if z.size < 2:
        return (float(z[0]), 1.0), np.zeros(1, int), []
    gaps = np.abs(np.diff(z))
    least = float(gaps.min())
    span = float(z.max() - z.min())
    step = span / max(1, round(span / least)) if least > 0 else 0.0
    if step and round(span / step) + 1 > MOST_SLOTS * z.size:
        raise InputError(
            "OME-Zarr of the volume",
            f"layers are {least:g} to {gaps.max():g} um apart: an even grid would have {round(span / step) + 1} layers "
            f"for {z.size}",
            "export maps, tables and points, which keep the true positions",
        )
    slots = np.rint((z - z.min()) / step).astype(int) if step else np.zeros(z.size, int)
    if len(set(slots.tolist())) < z.size or np.abs(z - z.min() - slots * step).max() > 0.01 * step:
        raise InputError(
            "OME-Zarr of the volume",
            f"layers are {least:g} to {gaps.max():g} um apart, not evenly spaced",
            "export maps, tables and points, which keep the true positions",
        )
    step = float(f"{step:.9g}")
    absent = sorted(set(range(int(slots.max()) + 1)) - set(slots.tolist()))
    return (float(z.min()), step), slots, [round(float(z.min()) + k * step, 6) for k in absent]


def _line(positions: np.ndarray) -> tuple[float, float]:
    """First position and step of evenly spaced positions."""
    step = (positions[-1] - positions[0]) / (positions.size - 1) if positions.size > 1 else 1.0
    return float(positions[0]), float(f"{step:.9g}")


def halved(layer: np.ndarray) -> np.ndarray:
    """The largest of every 2 x 2 pixels; an odd last row or column is reduced alone.

    Examples
    --------
    >>> halved(np.array([[1, 0, 3], [0, 2, 0], [0, 0, 5]])).tolist()
    [[2, 3], [0, 5]]
    """
    ny, nx = (round_up(n, 2) for n in layer.shape)
    padded = np.pad(layer, ((0, ny - layer.shape[0]), (0, nx - layer.shape[1])), mode="edge")
    return padded.reshape(ny // 2, 2, nx // 2, 2).max((1, 3))


def sizes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the levels of a pyramid, down to the first that fits into a chunk."""
    found = [shape]
    while max(found[-1][1:]) > EDGE:
        found.append((shape[0], *(-(-n // 2) for n in found[-1][1:])))
    return found


def _levels(path: Path, group: str, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> list[zarr.Array[Any]]:
    """Arrays of a pyramid, with one shard per layer."""
    arrays = []
    for k, size in enumerate(sizes(shape)):
        shard = (1, *(round_up(n, EDGE) for n in size[1:]))
        create_array(
            path, group, Variable(str(k), SPACE, dtype.name, "1", name), Layout(size, (1, EDGE, EDGE), shard), {}
        )
        arrays.append(zarr.open_array(str(path / group / str(k)), mode="r+"))
    return arrays


def _multiscales(name: str, shape: tuple[int, ...], grid: list[tuple[float, float]], method: str) -> dict[str, Any]:
    """The metadata of a pyramid: axes, and scale and translation of every level to the centres of its voxels, um."""
    levels = []
    for k in range(len(sizes(shape))):
        factors = (1, 2**k, 2**k)
        scale = [step * factor for (_, step), factor in zip(grid, factors, strict=True)]
        first = [at + step * (factor - 1) / 2 for (at, step), factor in zip(grid, factors, strict=True)]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": first}]
        levels.append({"path": str(k), "coordinateTransformations": steps})
    axes = [{"name": dim, "type": "space", "unit": "micrometer"} for dim in SPACE]
    how = {"description": f"{method} of 2 x 2 pixels of y and x"}
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": levels, "type": method, "metadata": how}],
    }
