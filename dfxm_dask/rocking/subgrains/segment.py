"""Segments of the layers of an orientation map, and the regions that they belong to, as maps."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.rocking.kam import COM
from dfxm_dask.rocking.moments import FLAGS
from dfxm_dask.rocking.subgrains.gradient import divided, gradient_size, known_angles, pixel_edges, smoothed
from dfxm_dask.schema import COM_ERROR, SPACE, Variable, X, Y

SEGMENT = Variable("segment", SPACE, "int32", "1", "segment number in the layer (0: none)")
SEGMENT_REGION = Variable("segment_region", ("segment_id",), "int32", "1", "region number of the segment (0: none)")
SEGMENT_START = Variable("segment_start", ("z",), "int64", "1", "number of segments in all earlier layers")
SEGMENT_COUNT = Variable("segment_count", ("z",), "int64", "1", "number of segments in the layer")
REGION = Variable("region", SPACE, "int32", "1", "region number (0: none)")

Scale = Annotated[
    float,
    Field(
        gt=0,
        description="length over which the gradient of the orientation is measured",
        json_schema_extra={"unit": "um"},
    ),
]
SCALE = 4.0


def blurred(angles: np.ndarray, scale: float, pixel: tuple[float, float]) -> np.ndarray:
    """Orientation after a Gaussian of a quarter of the scale, the standard deviation (our choice)."""
    return smoothed(angles, (scale / 4 / pixel[0], scale / 4 / pixel[1]))


@reduction(reads=(COM, Y, X), may_read=(FLAGS, COM_ERROR), writes=(SEGMENT,), over=("y", "x"), group="regions")
def segment_layers(
    com: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    flags: np.ndarray | None = None,
    com_error: dict[str, np.ndarray] | None = None,
    *,
    scale: Scale = SCALE,
) -> dict[str, np.ndarray]:
    """Segments of each layer: parts between which the orientation changes faster than within.

    The layer is divided into the basins of the gradient of the centre of mass, by a watershed. Segments are smaller
    than subgrains: :func:`link_segments` unites them, over all layers, and :func:`regions` writes the result as a map.

    Parameters
    ----------
    flags : array, optional
        Pixels with the flag ``single`` (lit in a single frame) belong to no segment.
    com_error : dict of arrays, optional
        From :func:`moment_errors`: pixels whose error exceeds eight times the median of their layer, such as noise
        beside the sample, belong to no segment.
    scale : float, um
        The map is smoothed by a Gaussian whose standard deviation is a quarter of the scale. Our choice, from simulated
        layers: 4, so that single dislocations of a wall do not interrupt the wall.

    Returns
    -------
    dict
        Numbered from 1 in each layer; 0 where the centre of mass is unknown.

    Raises
    ------
    InputError
        Pixels of unequal size.

    Notes
    -----
    The gradient has the size sqrt(Σ (∂COM/∂y)² + (∂COM/∂x)²) over all scan axes. Basins shallower than a tenth of its
    median are parts of others.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> maps = dfxm_dask.moments(dfxm_dask.example_scan(), background=100, noise_cut=5)
    >>> int(dfxm_dask.segment_layers(maps, scale=1.0)["segment"].max()) > 1
    True

    The kernel alone, on one layer:

    >>> position = np.arange(12.0)
    >>> tilt = np.where(position < 6, 0.0, 0.003) * np.ones((3, 1))
    >>> segment_layers.kernel({"phi": tilt}, position[:3], position)["segment"][1].tolist()
    [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    """
    pixel = pixel_edges("segment_layers", y, x)
    angles = blurred(known_angles(com, flags, com_error), scale, pixel)
    return {"segment": divided(gradient_size(angles, pixel))}


@reduction(
    reads=(SEGMENT, SEGMENT_REGION, SEGMENT_START, SEGMENT_COUNT),
    writes=(REGION,),
    over=("y", "x"),
    min_axes=0,
    group="regions",
)
def regions(
    segment: np.ndarray, segment_region: np.ndarray, segment_start: np.ndarray, segment_count: np.ndarray
) -> dict[str, np.ndarray]:
    """Regions of nearly one orientation (subgrains): the region number of each voxel.

    The segments of :func:`segment_layers` get the numbers of the regions to which :func:`link_segments` assigned them.
    The numbers are those of the rows of its tables, which begin with 1.

    Parameters
    ----------
    segment : array (y, x), int32
        The segments that were linked.

    Returns
    -------
    dict
        0 where the orientation is unknown, and for removed regions.

    Raises
    ------
    InputError
        The segments differ from the linked ones.

    Notes
    -----
    The result does not depend on blocks, on workers or on the order in which layers are computed.

    Our own definition.

    Examples
    --------
    >>> import dfxm_dask
    >>> maps = dfxm_dask.moments(dfxm_dask.example_scan(), background=100, noise_cut=5)
    >>> maps = maps.merge(dfxm_dask.segment_layers(maps, scale=1.0))
    >>> linked = dfxm_dask.link_segments.gather(maps, scale=1.0, distance=0.5, least_area=1.0)
    >>> int(dfxm_dask.regions(maps.merge(linked))["region"].max()) == linked.sizes["region_id"]
    True

    The kernel alone, on one layer:

    >>> regions.kernel(np.array([[1, 0, 2]]), np.array([7, 3, 4], np.int32), 1, 2)["region"].tolist()
    [[3, 0, 4]]
    """
    count = int(segment.max(initial=0))
    if count != int(segment_count):
        raise InputError(
            "regions: a layer of segments",
            f"has {count} segments, but {int(segment_count)} were linked",
            "run link_segments on these segments",
        )
    own = segment_region[int(segment_start) : int(segment_start) + count]
    return {"region": np.concatenate([np.zeros(1, np.int32), own]).astype(np.int32)[segment]}
