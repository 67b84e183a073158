"""Frames from HDF5 files: directly from their datasets into one buffer.

Datasets with one frame per chunk (LIMA) are read frame by frame. If chunks are several frames deep, a slab of that
depth is read at once, so that no chunk is decoded twice. Memory does not grow with the number of frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.hdf5_links import open_hdf5
from dfxm_dask.sources.source import Piece, Roi, Scan, check_unchanged

LARGEST_SLAB = 64 << 20
SMALLEST_SLAB = 1 << 20
LARGEST_CACHE = 2 << 30
READ_ERRORS = (OSError, RuntimeError, ValueError)


def hdf5_frames(scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
    """Frames in recorded order with their numbers; see :func:`dfxm_dask.sources.readers.frames`."""
    y0, y1, x0, x1 = roi
    slab = np.empty((0, y1 - y0, x1 - x0), scan.dtype)
    asked = f"{scan.source} entry {scan.entry}"
    for path, pieces in groupby(scan.pieces, key=lambda piece: piece.file):
        check_unchanged(scan, path)
        with open_hdf5(path, asked) as file:
            for piece in pieces:
                dataset, depth = _open(file, piece, scan, roi, asked)
                if len(slab) < depth:
                    slab = np.empty((depth, *slab.shape[1:]), scan.dtype)
                yield from _piece_frames(dataset, piece, depth, slab, roi, asked)
        check_unchanged(scan, path)


def _open(file: h5py.File, piece: Piece, scan: Scan, roi: Roi, asked: str) -> tuple[h5py.h5d.DatasetID, int]:
    """A dataset with a suitable chunk cache, and the number of frames to read at once."""
    frame = (roi[1] - roi[0]) * (roi[3] - roi[2]) * scan.dtype.itemsize
    try:
        name = piece.dataset.encode()
        dataset = h5py.h5d.open(file.id, name)
        plist = dataset.get_create_plist()
        chunked = plist.get_layout() == h5py.h5d.CHUNKED and len(dataset.shape) == 3
        chunk = plist.get_chunk() if chunked else (1, 0, 0)
        if chunk[0] * frame <= LARGEST_SLAB:
            return dataset, min(chunk[0] * max(1, SMALLEST_SLAB // max(1, chunk[0] * frame)), piece.count + chunk[0])
        # A slab would be too large: keep one layer of decoded chunks in the cache, and read frame by frame.
        across = -(-scan.frame_shape[0] // chunk[1]) * -(-scan.frame_shape[1] // chunk[2])
        size = min(across * int(np.prod(chunk)) * scan.dtype.itemsize, LARGEST_CACHE)
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_chunk_cache(100 * across + 1, size + SMALLEST_SLAB, 1.0)
        return h5py.h5d.open(file.id, name, access), 1
    except (OSError, KeyError, RuntimeError) as error:
        raise SourceError(
            asked, f"{piece.file}::{piece.dataset} cannot be opened ({_one_line(error)})", "restore the file"
        ) from error


def _piece_frames(
    dataset: h5py.h5d.DatasetID, piece: Piece, depth: int, slab: np.ndarray, roi: Roi, asked: str
) -> Iterator[tuple[int, np.ndarray]]:
    flat = len(dataset.shape) == 2
    at, end = piece.first, piece.first + piece.count
    while at < end:
        # Stop at multiples of the depth, where chunks end.
        count = 1 if flat else min(end - at, depth - at % depth)
        try:
            _read(dataset, at, slab[:count], roi)
        except READ_ERRORS as error:
            raise _unreadable(dataset, piece, at, slab[:count], roi, asked, error) from error
        first = piece.start + at - piece.first
        for step in range(count):
            yield first + step, slab[step]
        at += count


def _read(dataset: h5py.h5d.DatasetID, at: int, target: np.ndarray, roi: Roi) -> None:
    y0, y1, x0, x1 = roi
    space = dataset.get_space()
    if len(dataset.shape) == 2:
        space.select_hyperslab((y0, x0), (y1 - y0, x1 - x0))
    else:
        space.select_hyperslab((at, y0, x0), (len(target), y1 - y0, x1 - x0))
    dataset.read(h5py.h5s.create_simple(target.shape), space, target, h5py.h5t.py_create(target.dtype))


def _unreadable(
    dataset: h5py.h5d.DatasetID, piece: Piece, at: int, target: np.ndarray, roi: Roi, asked: str, error: Exception
) -> SourceError:
    """Error with the first unreadable frame of a slab."""
    for step in range(len(target)):
        try:
            _read(dataset, at + step, target[step : step + 1], roi)
        except READ_ERRORS:
            at += step
            break
    return SourceError(
        asked,
        f"frame {at} of {piece.file}::{piece.dataset} cannot be read ({_one_line(error)})",
        "copy the file again",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
