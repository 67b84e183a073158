"""Frames in files without scan information: TIFF, EDF, or a stack in HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
from tifffile import PHOTOMETRIC, TIFF, TiffFile

from dfxm_dask.errors import SourceError
from dfxm_dask.schema import printable
from dfxm_dask.sources.bliss.detector import COUNTS, SIGNED
from dfxm_dask.sources.bliss.frames import hdf5_frames
from dfxm_dask.sources.bliss.pieces import frame_pieces
from dfxm_dask.sources.edf import EDF
from dfxm_dask.sources.edf import frames as edf_frames
from dfxm_dask.sources.edf_headers import LARGEST_FRAME, frames_of
from dfxm_dask.sources.hdf5_links import Sources
from dfxm_dask.sources.paths import EDF_NAMES, HDF5_NAMES
from dfxm_dask.sources.source import Piece, Roi, Scan, check_unchanged

TIFF_NAMES = (".tif", ".tiff")
FRAME_NAMES = (*TIFF_NAMES, *EDF_NAMES, *HDF5_NAMES)
PAGES = "tiff"
"""Name of the dataset in pieces of TIFF files, which have no datasets."""
AGAIN = "copy the file again"


@dataclass(frozen=True)
class Stack:
    """The frames of one file: dataset, shape, dtype of the counts, and the files with the data."""

    file: str
    pieces: tuple[Piece, ...]
    shape: tuple[int, int]
    dtype: np.dtype
    files: tuple[tuple[str, int, int], ...]

    @property
    def count(self) -> int:
        return sum(piece.count for piece in self.pieces)


def kind_of_frames(file: str) -> str:
    """ "tiff", "edf" or "hdf5", by the name of a file; "" for another."""
    kinds = (("tiff", TIFF_NAMES), ("edf", EDF_NAMES), ("hdf5", HDF5_NAMES))
    return next((kind for kind, names in kinds if file.lower().endswith(names)), "")


def stack_of(file: str, detector: str | None, roots: Sequence[Path], asked: str) -> Stack:
    """The frames of a file.

    Parameters
    ----------
    file : str
    detector : str, optional
        Path of the dataset in an HDF5 file with several.
    roots : sequence of Path
        Further folders for links of an HDF5 file, besides its own folder.
    asked : str
        Name of the data being read, for messages.

    Raises
    ------
    SourceError
        Unreadable, incomplete, or without counts.
    """
    kind = kind_of_frames(file)
    if kind == "hdf5":
        return _hdf5(file, detector, tuple(roots), asked)
    found = os.stat(file)
    seen = ((file, found.st_size, found.st_mtime_ns),)
    if kind == "tiff":
        count, shape, dtype = _tiff(file, found.st_size, asked)
        return Stack(file, (Piece(file, PAGES, 0, count, 0),), shape, dtype, seen)
    frames = frames_of(file)
    odd = next((f for f in frames if (f.shape, f.dtype) != (frames[0].shape, frames[0].dtype)), None)
    if odd is not None:
        raise _differ(
            asked, file, odd.index, odd.shape, np.dtype(odd.dtype), frames[0].shape, np.dtype(frames[0].dtype)
        )
    stored, counts = np.dtype(frames[0].dtype).newbyteorder("="), frames[0].counts
    dtype = stored if stored.itemsize <= counts.itemsize else counts
    return Stack(file, (Piece(file, EDF, 0, len(frames), 0),), frames[0].shape, dtype, seen)


def _differ(
    asked: str, file: str, index: int, shape: tuple[int, ...], dtype: np.dtype, other: tuple[int, ...], kind: np.dtype
) -> SourceError:
    return SourceError(
        asked,
        f"frame {index} of {file} is {' x '.join(map(str, shape))} of {dtype.name}, but the first is "
        f"{' x '.join(map(str, other))} of {kind.name}",
        "select the frames of one scan",
    )


def _counts(dtype: np.dtype, where: str, asked: str) -> np.dtype:
    native = dtype.newbyteorder("=")
    if native.name not in (*COUNTS, *SIGNED):
        raise SourceError(
            asked, f"{where} contains {native}, not counts", f"provide raw detector counts of {', '.join(COUNTS)}"
        )
    return native


def _tiff(file: str, size: int, asked: str) -> tuple[int, tuple[int, int], np.dtype]:
    """Number of pages, their shape and dtype, from the tags alone."""
    try:
        with TiffFile(file) as tiff:
            pages = [(p.shape, p.dtype, p.bitspersample, p.compression, _end(p)) for p in tiff.pages]
            palette = any(p.photometric == PHOTOMETRIC.PALETTE for p in tiff.pages)
            # A description may announce further frames after the only page.
            promised = max(series.size for series in tiff.series) if len(pages) == 1 and size > 2 * pages[0][-1] else 0
    except Exception as error:  # tifffile raises many kinds of exceptions for damaged tags
        raise SourceError(asked, f"{file} is not a readable TIFF file ({_one_line(error)})", AGAIN) from error
    if not pages:
        raise SourceError(asked, f"{file} is a TIFF file without a frame", AGAIN)
    shape, dtype, bits = pages[0][:3]
    if len(shape) != 2 or dtype is None or palette:
        raise SourceError(asked, f"{file} has frames of shape {shape}, a colour image", "provide raw frames")
    native = _counts(np.dtype(dtype), file, asked)
    if not 0 < int(np.prod(shape)) * native.itemsize <= LARGEST_FRAME:
        raise SourceError(asked, f"{file} has frames of {shape[0]} x {shape[1]} pixels", "check the file")
    if bits != 8 * native.itemsize:
        raise SourceError(asked, f"{file} packs {bits} bits per pixel", "write its frames with 8, 16 or 32 bits")
    for index, (other, kind, _, packing, end) in enumerate(pages):
        if (other, kind) != (shape, dtype):
            raise _differ(asked, file, index, other, np.dtype(kind), shape, np.dtype(dtype))
        if not 0 < end <= size:
            there = f"ends at byte {end} of {size}" if end else "was not completely written"
            raise SourceError(asked, f"{file} is truncated: frame {index} {there}", AGAIN)
        try:
            TIFF.DECOMPRESSORS[packing]
        except KeyError:
            raise SourceError(
                asked,
                f"{file} is compressed by {getattr(packing, 'name', packing)}",
                "write its frames without compression or with deflate, or pip install imagecodecs",
            ) from None
    if promised > np.prod(shape):
        raise SourceError(asked, f"{file} has several frames in one page", "write one page per frame")
    return len(pages), (int(shape[0]), int(shape[1])), native


def _end(page: object) -> int:
    """End of the counts of a page in bytes; 0 if a part was never written and would be read as zeros."""
    starts, lengths = page.dataoffsets, page.databytecounts  # type: ignore[attr-defined]
    return max((a + n for a, n in zip(starts, lengths, strict=True)), default=0) if all(starts) and all(lengths) else 0


def _hdf5(file: str, detector: str | None, roots: tuple[Path, ...], asked: str) -> Stack:
    with Sources(Path(file), asked, roots) as sources:
        if detector:
            dataset = sources.find(sources.master, detector.strip("/"))
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim not in (2, 3):
                raise SourceError(asked, f"{file} has no frames at {detector!r}", "set their dataset with --detector")
        else:
            dataset = _only_stack(sources.master, file, asked)
        where = f"{file}::{dataset.name}"
        dtype = _counts(dataset.dtype, where, asked)
        if 0 in dataset.shape:
            raise SourceError(asked, f"{where} has shape {dataset.shape}", "check the detector")
        pieces, problem = frame_pieces(sources, dataset)
        if problem is not None:
            raise problem
        return Stack(file, pieces, (int(dataset.shape[-2]), int(dataset.shape[-1])), dtype, sources.files)


def _only_stack(master: h5py.File, file: str, asked: str) -> h5py.Dataset:
    """The only dataset with three dims, or else the only one with two."""
    found: dict[int, list[h5py.Dataset]] = {2: [], 3: []}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in found and item.dtype.kind in "iuf" and min(item.shape) > 1:
            found[item.ndim].append(item)
        elif isinstance(item, h5py.Dataset) and item.ndim == 3 and item.dtype.kind in "iuf":
            found[3].append(item)  # a single frame is also a stack

    master.visititems(note)
    several = found[3] or found[2]
    if len(several) != 1:
        listed = ", ".join(f"{printable(d.name)} {d.shape}" for d in several[:8]) or "none"
        raise SourceError(
            asked, f"{file} contains {len(several)} stacks of frames ({listed})", "choose one with --detector"
        )
    return several[0]


def frames_in(scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
    """Frames in recorded order with their numbers; see :func:`dfxm_dask.sources.readers.frames`."""
    first = scan.pieces[0].dataset
    return (_tiff_frames if first == PAGES else edf_frames if first == EDF else hdf5_frames)(scan, roi)


def _tiff_frames(scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
    y0, y1, x0, x1 = roi
    asked = f"{scan.source} entry {scan.entry}"
    for file, pieces in groupby(scan.pieces, key=lambda piece: piece.file):
        check_unchanged(scan, file)
        with TiffFile(file) as tiff:
            for piece in pieces:
                for step in range(piece.count):
                    page = piece.first + step
                    try:
                        frame = tiff.pages[page].asarray()
                    except Exception as error:  # as above
                        found = f"frame {page} of {file} cannot be read ({_one_line(error)})"
                        raise SourceError(asked, found, AGAIN) from error
                    yield piece.start + step, np.ascontiguousarray(frame[y0:y1, x0:x1], scan.dtype)
        check_unchanged(scan, file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
