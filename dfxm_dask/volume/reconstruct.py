"""A volume from a stack of layers: pieces of each layer, the objects that they make up, and their labels."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import DEFECTS, SPACE, XYZ, Dim, Variable, X, Y, Z, pixel_length
from dfxm_dask.volume.align import SHIFT_X, SHIFT_Y
from dfxm_dask.volume.objects import (
    AROUND,
    CORNERS,
    FACES,
    moved,
    neighbouring,
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
    return {n: v if n in ("grid", "asked") else np.concatenate([v, second[n]]) for n, v in first.items()}


def _linked(summary: Arrays) -> Arrays:
    """Objects from the pieces of all layers and from the pairs that touch."""
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
        Field(description="neighbours of a voxel: all 26, or the 6 that share a face with it"),
    ] = 26,
    least_voxels: Annotated[int, Field(ge=1, description="objects of fewer voxels are removed")] = 1,
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
    """Objects of a mask of layers: which pieces of the layers belong together, and where and how long they are.

    Parameters
    ----------
    z : array
        In any distance: what lies between layers that are further apart than 1.5 times the median distance is missing,
        and objects end there.
    shift_y, shift_x : array, optional
        Of :func:`dfxm_dask.volume.align_layers`: layers are taken back by the nearest whole number of pixels.
    connectivity : 26 or 6
        What touches by a corner is one object with 26 (our choice: a line that crosses pixels obliquely is one line).
    least_voxels, least_length : int and um
        Of what :func:`dfxm_dask.beams.threshold_beams` has left nothing is removed by default: in simulated scans,
        what was shorter than 3 um was about as often on a line as what was longer.

    Returns
    -------
    dict
        Summaries. Finished: ``piece_object``, ``piece_start``, ``piece_count``, ``offset_y``, ``offset_x``, which
        :func:`reconstruct` reads; ``voxels_outside`` and ``joined`` (z,); and the table of objects, in um on the real
        voxel: ``object_voxels``, ``object_volume``, ``object_centroid``, ``object_low``, ``object_high``,
        ``object_extent``, ``object_axes`` (see :func:`dfxm_dask.volume.objects.object_table`).

    Raises
    ------
    InputError
        Pixels of unequal size, layers whose positions neither rise nor fall, or a shift that is no number.

    Notes
    -----
    A piece is what hangs together by edges of pixels in one layer; pieces that touch, in the layer or between layers,
    are united over the whole stack. Sums over pieces are whole numbers, and pieces come in the order of the layers, so
    nothing depends on the blocks. Objects are numbered by their first voxel in the order z, y, x, as by
    ``scipy.ndimage.label``. The volume takes the median distance of layers; it is NaN for a single layer, whose
    thickness is not known.

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
    >>> found = link_layers.kernel(layers, at[:3], at, at[:2], middle=1)
    >>> found["pieces"].tolist(), found["across"].tolist()
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
    """Distance from each pixel to the next, with its sign; 0 along a side of one pixel."""
    length = pixel_length(name, "link_layers", positions)
    return float(np.copysign(length, positions[-1] - positions[0])) if np.isfinite(length) else 0.0


def _offset(
    layer: int, y: np.ndarray, x: np.ndarray, shift_y: np.ndarray | None, shift_x: np.ndarray | None
) -> tuple[int, int]:
    """Whole pixels along y and x that the image of a layer lies aside."""
    found = []
    for name, positions, shift in (("y", y, shift_y), ("x", x, shift_x)):
        step = _step(name, positions)
        aside = 0.0 if shift is None else float(shift[layer])
        if not np.isfinite(aside):
            raise InputError(f"link_layers: shift_{name}", f"is {aside}", "give 0 where no shift is known")
        found.append(int(np.rint(aside / step)) if step else 0)
    return found[0], found[1]


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
    """Volume of what stands out, and the number of the object that each voxel belongs to.

    Parameters
    ----------
    defects : array
        As :func:`link_layers` saw it.

    Returns
    -------
    dict
        Of the layer taken back to its place, without the objects that were removed: False and 0 where the detector did
        not see that place.

    Raises
    ------
    InputError
        Another mask than was linked.

    Notes
    -----
    Labels are those of ``scipy.ndimage.label`` of the whole volume, numbers included, where no layer is missing.

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
    found, count = pieces(moved(defects, (int(offset_y), int(offset_x))))
    if count != int(piece_count):
        raise InputError(
            "reconstruct: a layer of defects",
            f"has {count} pieces, and {int(piece_count)} were linked",
            "run link_layers on this mask",
        )
    own = piece_object[int(piece_start) : int(piece_start) + count]
    label = np.concatenate([np.zeros(1, np.int32), own]).astype(np.int32)[found]
    return {"dislocation": label > 0, "label": label}
