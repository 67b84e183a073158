"""Location of the frames of a detector: resolution of virtual datasets, and search for unwritten frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.hdf5_links import MOST_HOPS, Sources, refuse_external
from dfxm_dask.sources.source import Piece

RESTORE = "restore the files, or read the complete part with --allow-partial"


def frame_pieces(sources: Sources, dataset: h5py.Dataset) -> tuple[tuple[Piece, ...], SourceError | None]:
    """Runs of frames that cover a dataset from its first frame, and the fault of the rest.

    Parameters
    ----------
    sources : Sources
        Opens the files.
    dataset : h5py.Dataset
        Counts (frame, y, x); virtual, chunked or contiguous.

    Returns
    -------
    pieces : tuple of Piece
        Gapless from frame 0.
    problem : SourceError or None
        Reason if they end before the dataset.

    Raises
    ------
    SourceError
        Frames missing in the middle, mapped twice or in parts, or of a different kind.
    """
    pieces, problem = _pieces(sources, dataset, 0)
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        # One mapping for each frame is common; a run of them is one piece.
        if last and (last.file, last.dataset, last.first + last.count) == (piece.file, piece.dataset, piece.first):
            joined[-1] = replace(last, count=last.count + piece.count)
        else:
            joined.append(piece)
    return tuple(joined), problem


def _pieces(sources: Sources, dataset: h5py.Dataset, depth: int) -> tuple[list[Piece], SourceError | None]:
    if depth > MOST_HOPS:
        raise SourceError(sources.asked, f"virtual datasets nested beyond {MOST_HOPS}", "correct the mapping")
    if dataset.is_virtual:
        return _virtual(sources, dataset, depth)
    refuse_external(dataset, sources.asked)
    _check_filters(sources, dataset)
    total = 1 if dataset.ndim == 2 else int(dataset.shape[0])
    count = written_frames(sources, dataset)
    where = f"{dataset.file.filename}::{dataset.name}"
    problem = None
    if count < total:
        problem = SourceError(sources.asked, f"{where} has {count} of {total} frames written", RESTORE)
    return ([Piece(dataset.file.filename, dataset.name, 0, count, 0)] if count else []), problem


def _check_filters(sources: Sources, dataset: h5py.Dataset) -> None:
    plist = dataset.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(index)
        if not h5py.h5z.filter_avail(code):
            raise SourceError(
                sources.asked,
                f"{dataset.file.filename}::{dataset.name} is compressed with filter {code} "
                f"({name.decode('utf-8', 'replace')}), which is not available",
                "install the filter, or rewrite the file with bitshuffle-LZ4",
            )


def written_frames(sources: Sources, dataset: h5py.Dataset) -> int:
    """Number of leading frames with all chunks written. HDF5 silently reads unwritten chunks as zeros.

    Raises
    ------
    SourceError
        Unwritten frames followed by written ones.
    """
    total = 1 if dataset.ndim == 2 else int(dataset.shape[0])
    if dataset.chunks is None:
        return total if dataset.id.get_storage_size() else 0
    grid = [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    if dataset.id.get_num_chunks() == int(np.prod(grid)):
        return total
    if dataset.ndim == 2:
        return 0
    tally = np.zeros(grid[0], np.int64)

    def count(chunk: Any) -> None:
        tally[chunk.chunk_offset[0] // dataset.chunks[0]] += 1

    dataset.id.chunk_iter(count)
    whole = tally == int(np.prod(grid[1:]))
    lead = grid[0] if whole.all() else int(np.argmin(whole))
    if tally[lead + 1 :].any():
        raise SourceError(
            sources.asked,
            f"{dataset.file.filename}::{dataset.name} lacks frame {lead * dataset.chunks[0]}, but has later ones",
            "copy the file again",
        )
    return min(lead * dataset.chunks[0], total)


def _bounds(space: Any, frame: tuple[int, ...]) -> tuple[int, int] | None:
    """First frame and number of frames of a selection of whole consecutive frames; None for everything else."""
    try:
        low, high = space.get_select_bounds()
        number = int(space.get_select_npoints())
    except (RuntimeError, ValueError):
        return None
    if len(low) == len(frame):
        low, high = (0, *low), (0, *high)
    if len(low) != 3 or tuple(low[1:]) != (0, 0) or tuple(h + 1 for h in high[1:]) != frame:
        return None
    count = int(high[0]) - int(low[0]) + 1
    return (int(low[0]), count) if number == count * frame[0] * frame[1] else None


def _virtual(sources: Sources, dataset: h5py.Dataset, depth: int) -> tuple[list[Piece], SourceError | None]:
    where = f"virtual dataset {dataset.file.filename}::{dataset.name}"
    total, frame = 1 if dataset.ndim == 2 else int(dataset.shape[0]), tuple(dataset.shape[-2:])
    asked = sources.asked
    maps: list[tuple[int, int, str, str, Any]] = []
    for entry in dataset.virtual_sources():
        if "%" in entry.file_name.replace("%%", ""):
            raise SourceError(asked, f"virtual source {entry.file_name!r} is a pattern", "map the files one by one")
        place = _bounds(entry.vspace, frame)
        if place is None:
            raise SourceError(
                asked, f"{where} maps parts of frames or every n-th frame", "map whole consecutive frames"
            )
        maps.append((*place, entry.file_name, entry.dset_name, entry.src_space))
    maps.sort(key=lambda m: m[0])

    pieces: list[Piece] = []
    done, problem = 0, None
    for start, count, file_name, name, space in maps:
        if start < done:
            raise SourceError(asked, f"{where} maps frame {start} twice", "correct the mapping")
        if start > done and problem is None:
            problem = SourceError(asked, f"{where} maps no file to frame {done}", RESTORE)
        try:
            found, lack = _mapped(sources, dataset, (count, file_name, name, space), depth)
        except _Missing as error:
            found, lack = [], SourceError(asked, error.found, RESTORE)
        if problem is not None and found:
            raise SourceError(
                asked, f"frames before {start} are missing ({problem.found})", "restore the files: later frames exist"
            )
        pieces += [replace(piece, start=start + piece.start) for piece in found]
        problem = problem or lack
        done = start + count
    if problem is None and done < total:
        problem = SourceError(asked, f"{where} maps {done} of {total} frames", RESTORE)
    return pieces, problem


class _Missing(SourceError):
    """A source that does not exist."""


def _mapped(
    sources: Sources, dataset: h5py.Dataset, entry: tuple[int, str, str, Any], depth: int
) -> tuple[list[Piece], SourceError | None]:
    """Pieces of one mapping, numbered from its first frame."""
    count, file_name, name, space = entry
    asked, frame = sources.asked, tuple(dataset.shape[-2:])
    if file_name == ".":
        holder = dataset.file
    else:
        holder = sources.open_linked(
            dataset.file,
            file_name.replace("%%", "%"),
            what=f"virtual dataset {dataset.name}",
            keep=False,
            gone=_Missing,
        )
    source = sources.find(holder, "/" + name.lstrip("/"), keep=False)
    where = f"{holder.filename}::{name}"
    if not isinstance(source, h5py.Dataset):
        raise _Missing(asked, f"{where}, a source of {dataset.name}, is missing", RESTORE)
    if source.dtype != dataset.dtype or tuple(source.shape[-2:]) != frame or source.ndim not in (2, 3):
        raise SourceError(
            asked,
            f"{where} is {source.dtype} {source.shape}, but its virtual dataset {dataset.dtype} {dataset.shape}",
            "write the virtual dataset again",
        )
    has = 1 if source.ndim == 2 else int(source.shape[0])
    # A selection of "everything" has no bounds of its own.
    place = (0, count) if space.get_select_type() == h5py.h5s.SEL_ALL else _bounds(space, frame)
    if place is None or place[1] != count:
        raise SourceError(asked, f"{where} is mapped in parts of frames", "map whole consecutive frames")
    if space.get_select_type() == h5py.h5s.SEL_ALL and has > count:
        raise SourceError(
            asked, f"{where} has {has} frames, and {count} of these are mapped", "write the virtual dataset again"
        )
    first = place[0]
    inner, lack = _pieces(sources, source, depth + 1)
    pieces, available = [], 0
    for piece in inner:
        low, high = max(piece.start, first), min(piece.start + piece.count, first + count)
        if low < high:
            pieces.append(replace(piece, first=piece.first + low - piece.start, count=high - low, start=low - first))
            available = high - first
    if available == count:
        return pieces, None
    if first + count > has or lack is None:
        lack = SourceError(asked, f"{where} has {available} of {count} frames", RESTORE)
    return pieces, lack
