"""A volume from a stack of layers: pieces of each layer, objects composed of pieces, and their labels."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.gaps import neighbouring
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import DEFECTS, SPACE, XYZ, Dim, Variable, X, Y, Z, pixel_length
from dfxm_dask.volume.align import SHIFT_X, SHIFT_Y
from dfxm_dask.volume.objects import (
    AROUND,
    CORNERS,
    FACES,
    moved,
    numbered,
    object_table,
    piece_sums,
    pieces,
    touching,
)

PIECE_OBJECT = Variable("piece_object", ("piece",), "int32", "1", "object number of the piece (0: removed)")
PIECE_START = Variable("piece_start", ("z",), "int64", "1", "number of pieces in all earlier layers")
PIECE_COUNT = Variable("piece_count", ("z",), "int64", "1", "number of pieces in the layer")
OFFSET_Y = Variable("offset_y", ("z",), "int32", "1", "alignment offset of the layer along y, in whole pixels")
OFFSET_X = Variable("offset_x", ("z",), "int32", "1", "alignment offset of the layer along x, in whole pixels")
OUTSIDE = Variable("voxels_outside", ("z",), "int64", "1", "number of mask voxels shifted out of the frame")
JOINED = Variable("joined", ("z",), "bool", "1", "whether objects continue from the previous layer without a gap")
PRINCIPAL = Dim("axis", 3)
TABLE = (
    Variable("object_voxels", ("object",), "int64", "1", "number of voxels of the object"),
    Variable("object_volume", ("object",), "float64", "um3", "volume of the object"),
    Variable("object_centroid", ("object", XYZ), "float64", "um", "centroid of the object"),
    Variable("object_low", ("object", XYZ), "float64", "um", "lowest voxel centre of the object along each axis"),
    Variable("object_high", ("object", XYZ), "float64", "um", "highest voxel centre of the object along each axis"),
    Variable(
        "object_extent",
        ("object", PRINCIPAL),
        "float64",
        "um",
        "standard deviation of the object along each principal axis",
    ),
    Variable("object_axes", ("object", PRINCIPAL, XYZ), "float64", "1", "principal axes of the object, longest first"),
)
DISLOCATION = Variable("dislocation", SPACE, "bool", "1", "whether the voxel belongs to a reconstructed object")
LABEL = Variable("label", SPACE, "int32", "1", "object number (0: none)")


def _join(first: Arrays, second: Arrays) -> Arrays:
    """Combine two summaries."""
    return {n: v if n in ("grid", "asked") else np.concatenate([v, second[n]]) for n, v in first.items()}


def _linked(summary: Arrays) -> Arrays:
    """Objects from the pieces of all layers and from the pairs of touching pieces."""
    z, counts = summary["z"], summary["pieces"]
    near = neighbouring(z)
    starts = np.cumsum(counts) - counts
    total = int(counts.sum())
    across = np.repeat(np.arange(len(z)), summary["across_pairs"])
    within = np.repeat(np.arange(len(z)), summary["within_pairs"])
    across, up = across[near[across]], summary["across"][near[across]]
    pairs = (
        np.concatenate(
            [
                np.column_stack([up[:, 0] + starts[across], up[:, 1] + starts[np.maximum(across - 1, 0)]]),
                summary["within"] + starts[within][:, None],
            ]
        )
        - 1
    )
    member, height = numbered(total, pairs), np.repeat(z, counts)
    table = object_table(summary["sums"], height, member, summary["grid"])
    least_voxels, least_length = summary["asked"]
    length = np.linalg.norm(table["high"] - table["low"], axis=1)
    kept = (table["voxels"] >= least_voxels) & (length >= least_length * (1 - 1e-9))
    number = np.where(kept, np.cumsum(kept), 0)
    steps = np.abs(np.diff(z))
    cell = np.prod(np.abs(summary["grid"][2:])) * (np.median(steps) if steps.size else 0.0)
    table["volume"] = table["voxels"] * (cell if cell > 0 else np.nan)
    return {
        "piece_object": number[member].astype(np.int32),
        "piece_start": starts,
        "piece_count": counts,
        "offset_y": summary["offset"][:, 0].astype(np.int32),
        "offset_x": summary["offset"][:, 1].astype(np.int32),
        "voxels_outside": summary["outside"],
        "joined": near,
        **{f"object_{name}": values[kept] for name, values in table.items()},
    }


@reduction(
    reads=(DEFECTS, Y, X, Z),
    may_read=(SHIFT_Y, SHIFT_X),
    writes=(PIECE_OBJECT, PIECE_START, PIECE_COUNT, OFFSET_Y, OFFSET_X, OUTSIDE, JOINED, *TABLE),
    over=("y", "x"),
    halo=1,
    combine=_join,
    finish=_linked,
    min_axes=0,
)
def link_layers(
    defects: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    shift_y: np.ndarray | None = None,
    shift_x: np.ndarray | None = None,
    *,
    connectivity: Annotated[
        Literal[26, 6],
        Field(description="neighbours of a voxel: all 26, or the 6 that share a face with the voxel"),
    ] = 26,
    least_voxels: Annotated[int, Field(ge=1, description="objects with fewer voxels are removed")] = 1,
    least_length: Annotated[
        float,
        Field(
            ge=0,
            description="objects whose box has a shorter diagonal are removed",
            json_schema_extra={"unit": "um"},
        ),
    ] = 0.0,
    middle: int = 0,
) -> dict[str, np.ndarray]:
    """Objects in the defect masks of a stack of layers: connected pieces with their position, size and axes.

    Pixels of a layer that share an edge form a piece. Pieces that touch, within a layer or between neighbouring layers,
    are united to objects over the whole stack. Each object is described by its number of voxels, volume, centroid,
    bounding box and principal axes. :func:`reconstruct` then writes the objects as a labelled volume.

    Parameters
    ----------
    defects : array (y, x), bool
        See :func:`dfxm_dask.beams.threshold_beams`.
    z : array (z,), float64, um
        Layers may have any distance. If neighbouring layers are farther apart than 1.5 times the median distance, a
        layer is missing, and objects end there.
    shift_y, shift_x : array (z,), float64, um, optional
        From :func:`dfxm_dask.volume.align_layers`: layers are shifted back by the nearest whole number of pixels.
    connectivity : 26 or 6
        With 26, voxels that touch at a corner belong to one object (our choice: a line that crosses pixels obliquely is
        one line).
    least_voxels, least_length : int and um
        By default no object of :func:`dfxm_dask.beams.threshold_beams` is removed: in simulated scans, objects shorter
        than 3 um were about as often on a line as longer ones.

    Returns
    -------
    dict
        Summaries. The result has ``piece_object``, ``piece_start``, ``piece_count``, ``offset_y`` and ``offset_x``,
        the inputs of :func:`reconstruct`; ``voxels_outside`` and ``joined`` (z,); and the table of objects, in um on
        the actual voxel size: ``object_voxels``, ``object_volume``, ``object_centroid``, ``object_low``,
        ``object_high``, ``object_extent``, ``object_axes`` (see :func:`dfxm_dask.volume.objects.object_table`).

    Raises
    ------
    InputError
        Pixels of unequal size, layers whose positions are neither ascending nor descending, or a shift that is NaN.

    Notes
    -----
    Sums over pieces are integers, and pieces are ordered by layer, so that the result does not depend on blocks.
    Objects are numbered by their first voxel in the order z, y, x, as by ``scipy.ndimage.label``. The volume of an
    object assumes the median distance of layers; it is NaN for a single layer, whose thickness is unknown.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> mask = np.zeros((2, 32, 32), bool)
    >>> mask[0, 3, 4:9] = mask[1, 4, 8] = mask[1, 20, 20] = True
    >>> objects = dfxm_dask.link_layers.gather(scan.assign(defects=(("z", "y", "x"), mask)))
    >>> objects["object_voxels"].values.tolist()
    [6, 1]

    The kernel alone, on one layer:

    >>> layers = np.zeros((2, 3, 4), bool)
    >>> layers[0, 0, 0] = layers[1, 1, 1] = layers[1, 2, 3] = True
    >>> at = np.arange(4.0)
    >>> summary = link_layers.kernel(layers, at[:3], at, at[:2], middle=1)
    >>> summary["pieces"].tolist(), summary["across"].tolist()
    ([2], [[1, 1]])
    """
    offsets = [_offset(middle - k, y, x, shift_y, shift_x) for k in range(1 + (middle > 0))]
    here, count = pieces(moved(defects[middle], offsets[0]))
    across = np.zeros((0, 2), np.int64)
    if middle:
        before = pieces(moved(defects[middle - 1], offsets[1]))[0]
        across = touching(here, before, AROUND if connectivity == 26 else FACES)
    within = touching(here, here, CORNERS) if connectivity == 26 else across[:0]
    within = within[within[:, 0] != within[:, 1]]
    sums = piece_sums(here, count)
    origin = [float(p[0]) for p in (y, x)]
    return {
        "pieces": np.array([count]),
        "sums": sums,
        "across": across,
        "within": within,
        "across_pairs": np.array([len(across)]),
        "within_pairs": np.array([len(within)]),
        "z": np.array([float(z[middle])]),
        "offset": np.array([offsets[0]]),
        "outside": np.array([np.count_nonzero(defects[middle]) - sums[:, 0].sum()]),
        "grid": np.array([*origin, *(_step(n, p) for n, p in (("y", y), ("x", x)))]),
        "asked": np.array([float(least_voxels), least_length]),
    }


def _step(name: str, positions: np.ndarray) -> float:
    """Signed distance from each pixel to the next; 0 along a side of one pixel."""
    length = pixel_length(name, "link_layers", positions)
    return float(np.copysign(length, positions[-1] - positions[0])) if np.isfinite(length) else 0.0


def _offset(
    layer: int, y: np.ndarray, x: np.ndarray, shift_y: np.ndarray | None, shift_x: np.ndarray | None
) -> tuple[int, int]:
    """Displacement of the image of a layer in whole pixels along y and x."""
    offsets = []
    for name, positions, shift in (("y", y, shift_y), ("x", x, shift_x)):
        step = _step(name, positions)
        length = 0.0 if shift is None else float(shift[layer])
        if not np.isfinite(length):
            raise InputError(f"link_layers: shift_{name}", f"is {length}", "give 0 where the shift is unknown")
        offsets.append(int(np.rint(length / step)) if step else 0)
    return offsets[0], offsets[1]


@reduction(
    reads=(DEFECTS, PIECE_OBJECT, PIECE_START, PIECE_COUNT, OFFSET_Y, OFFSET_X),
    writes=(DISLOCATION, LABEL),
    over=("y", "x"),
    min_axes=0,
)
def reconstruct(
    defects: np.ndarray,
    piece_object: np.ndarray,
    piece_start: np.ndarray,
    piece_count: np.ndarray,
    offset_y: np.ndarray,
    offset_x: np.ndarray,
) -> dict[str, np.ndarray]:
    """Volume of the objects of :func:`link_layers`, and the object number of each voxel.

    The mask of each layer is shifted back by its alignment offset. Each of its pieces gets the number of its object;
    removed objects become background.

    Parameters
    ----------
    defects : array (y, x), bool
        The mask from which :func:`link_layers` was computed.

    Returns
    -------
    dict
        False and 0 for removed objects, and where an aligned layer has no data.

    Raises
    ------
    InputError
        The mask differs from the linked one.

    Notes
    -----
    Labels, including their numbers, equal those of ``scipy.ndimage.label`` of the whole volume if no layer is missing.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> scan = dfxm_dask.example_scan()
    >>> mask = np.zeros((2, 32, 32), bool)
    >>> mask[0, 3, 4:9] = mask[1, 4, 8] = mask[1, 20, 20] = True
    >>> stack = scan.assign(defects=(("z", "y", "x"), mask))
    >>> volume = dfxm_dask.reconstruct(stack.merge(dfxm_dask.link_layers.gather(stack)))
    >>> int(volume["label"][1, 4, 8]), int(volume["label"][1, 20, 20])
    (1, 2)

    The kernel alone, on one layer:

    >>> mask = np.array([[1, 0, 1]], bool)
    >>> numbers = np.array([4, 0, 2], np.int32)
    >>> reconstruct.kernel(mask, numbers, 1, 2, 0, 0)["label"].tolist()
    [[0, 0, 2]]
    """
    piece, count = pieces(moved(defects, (int(offset_y), int(offset_x))))
    if count != int(piece_count):
        raise InputError(
            "reconstruct: a layer of defects",
            f"has {count} pieces, but {int(piece_count)} were linked",
            "run link_layers on this mask",
        )
    own = piece_object[int(piece_start) : int(piece_start) + count]
    label = np.concatenate([np.zeros(1, np.int32), own]).astype(np.int32)[piece]
    return {"dislocation": label > 0, "label": label}
