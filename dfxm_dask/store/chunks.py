"""The layout plan: the arrangement of a scan on disk, and the resulting unit of work.

One raw shard contains one z layer if a layer is smaller than about 1 GB, else one (z, y-band). Inner chunks are one
frame deep, so that a frame at fixed (z, phi) costs one frame of decoding; their edge shrinks for scans of many frames,
so that a tile column of all frames stays within a few tens of megabytes. A unit of work is one layer and one band of
whole chunk rows. Every result map has one shard per unit, so that no two units write the same shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from dfxm_dask.schema import Dim

SHARD_BYTES = 1_000_000_000
TILE_BYTES = 32 * 2**20
UNIT_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Layout:
    """Shape of the inner chunk and of the shard of one array."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]


def round_up(value: int, step: int) -> int:
    """Smallest multiple of ``step`` that is at least ``value``."""
    return ceil(value / step) * step


def chunk_edge(frames: int, itemsize: int) -> int:
    """Edge in pixels of the square inner chunk: 256, or less if a tile of all frames exceeds 32 MiB; at least 64."""
    edge = 256
    while edge > 64 and frames * edge * edge * itemsize > TILE_BYTES:
        edge //= 2
    return edge


def raw_layout(shape: tuple[int, ...], itemsize: int) -> Layout:
    """Layout of ``counts`` with dims (z, scan axes, y, x)."""
    frames, (ny, nx) = prod(shape[1:-2]), shape[-2:]
    edge = chunk_edge(frames, itemsize)
    row_bytes = frames * edge * round_up(nx, edge) * itemsize
    rows = min(ceil(ny / edge), max(1, SHARD_BYTES // row_bytes))
    return Layout(
        shape,
        (1,) * (len(shape) - 2) + (edge, edge),
        (1, *shape[1:-2], rows * edge, round_up(nx, edge)),
    )


def unit_rows(raw: Layout, itemsize: int) -> int:
    """Rows of y in one unit of work: whole chunk rows, about 128 MiB of counts."""
    edge = raw.chunk[-1]
    row_bytes = prod(raw.shape[1:-2]) * round_up(raw.shape[-1], edge) * itemsize
    rows = max(edge, UNIT_BYTES // row_bytes // edge * edge)
    return min(rows, round_up(raw.shape[-2], edge))


def unit_frames(shape: tuple[int, ...], itemsize: int) -> int:
    """Positions along the first scan axis in one unit of frames: about 128 MiB of counts, and at least 16 units.

    Parameters
    ----------
    shape : tuple of int
        Of the counts: z, scan axes, y, x.
    """
    each = prod(shape[2:]) * itemsize
    return max(1, min(UNIT_BYTES // each, ceil(shape[1] / 16)))


def map_layout(
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    rows: int,
    edge: int,
    patch: int | None = None,
    frames: tuple[str, int] | None = None,
) -> Layout:
    """Layout of a result: one shard per layer and band of ``rows``; no other dimension is split.

    Parameters
    ----------
    dims, shape : tuple
        Of the variable; only the dims z, y and x are cut.
    rows : int
        Rows of y in one unit (see :func:`unit_rows`).
    edge : int
        Edge of the inner chunk in pixels.
    patch : int, optional
        Edge of tiles that must stay whole: a dim of such tiles along y is also cut into bands if they fit ``rows``.
    frames : (str, int), optional
        First scan axis and its positions in one unit of frames: a shard contains these frames in full.
    """
    if frames is not None:
        rows = round_up(shape[dims.index("y")], edge) if "y" in dims else 1
    shards = {"z": 1, "y": rows, "x": round_up(shape[dims.index("x")], edge) if "x" in dims else 1}
    chunks = {"z": 1, "y": edge, "x": edge}
    for d in dims:
        if patch and isinstance(d, Dim) and d.of == "y" and rows % d.step == 0:
            shards[d] = chunks[d] = rows // d.step
    if frames is not None and frames[0] in dims:
        shards[frames[0]], chunks[frames[0]] = frames[1], 1
    return Layout(
        shape,
        tuple(chunks.get(d, n) for d, n in zip(dims, shape, strict=True)),
        tuple(shards.get(d, n) for d, n in zip(dims, shape, strict=True)),
    )


def bands(ny: int, rows: int) -> list[tuple[int, int]]:
    """Row ranges (y0, y1) of the units of one layer."""
    return [(y, min(y + rows, ny)) for y in range(0, ny, rows)]
