"""Pixels of a frame or map, binned while its chunks are decoded."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, product
from math import ceil, prod
from operator import itemgetter

import numpy as np
from numba import njit

from dfxm_dask.errors import InputError
from dfxm_dask.store.shards import ShardedArray, ShardFile, read

OPEN = 64  # shards whose index stays in memory
SHARED = 8 * 2**20  # bytes of decoded chunks above which a second thread saves more than it costs
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": np.asarray,
    "sqrt": np.sqrt,
    "log": lambda part: np.log1p(part * 999) / np.log(1000),
}
NONE = 184  # grey of NaN
Bounds = tuple[int, int, int, int]
"""y0, y1, x0, x1 in pixels, half-open."""
_Part = tuple[tuple[int, ...], tuple[int, ...]]


class _Open:
    """Open shards, the least recently used closed first. A file that was replaced is opened again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: OrderedDict[str, tuple[tuple[int, ...], ShardFile]] = OrderedDict()

    def get(self, array: ShardedArray, coordinates: tuple[int, ...]) -> ShardFile:
        path = array.shard_path(coordinates)
        try:
            state = os.stat(path)
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size, *array.grid)
        except FileNotFoundError:
            stamp = ()
        with self.lock:
            known = self.files.get(path)
            if known is not None and known[0] == stamp:
                self.files.move_to_end(path)
                return known[1]
            file = _Closing(array, coordinates)
            self.files[path] = stamp, file
            # A shard that another thread may still read is closed when its last user drops it.
            while len(self.files) > OPEN:
                self.files.popitem(last=False)
            return file


class _Closing(ShardFile):
    """A shard that closes its file when nothing refers to it."""

    whole = False

    def __init__(self, array: ShardedArray, coordinates: tuple[int, ...]) -> None:
        super().__init__(array, coordinates)
        self.whole = True

    def __del__(self) -> None:
        if self.whole:
            os.close(self.descriptor)


_open = _Open()
_memory = threading.local()
_second = ThreadPoolExecutor(2, thread_name_prefix="chunks")


@njit(cache=True, nogil=True)
def _add_bins(row, start, stop, first, step, out):
    """Add pixels start to stop of a row to their bins; ``first``: first column of the row in the box."""
    for k in range(start, stop):
        out[(first + k) // step] += row[k]


@njit(cache=True, nogil=True)
def _add_counts(chunk, top, left, y0, y1, x0, x1, step, sums):
    """Add the pixels of a chunk inside a box to the sums of their bins; ``top``, ``left``: first pixel of the chunk."""
    first_y, last_y = max(top, y0), min(top + chunk.shape[0], y1)
    first_x, last_x = max(left, x0), min(left + chunk.shape[1], x1)
    width = last_x - first_x
    if width <= 0:
        return
    row = np.empty(width, sums.dtype)
    y = first_y
    while y < last_y:
        i = (y - y0) // step
        end = min(y0 + (i + 1) * step, last_y)
        line = chunk[y - top, first_x - left : last_x - left]
        for k in range(width):
            row[k] = line[k]
        y += 1
        while y < end:
            line = chunk[y - top, first_x - left : last_x - left]
            for k in range(width):
                row[k] += line[k]
            y += 1
        out = sums[i]
        x = first_x + min((x0 - first_x) % step, width)  # whole bins begin here
        _add_bins(row, 0, x - first_x, first_x - x0, step, out)
        j, whole = (x - x0) // step, (last_x - x) // step
        k = x - first_x
        if step == 2:
            for b in range(whole):
                out[j + b] += row[k + 2 * b] + row[k + 2 * b + 1]
        elif step == 4:
            for b in range(whole):
                at = k + 4 * b
                out[j + b] += row[at] + row[at + 1] + row[at + 2] + row[at + 3]
        else:
            for b in range(whole):
                total = out[j + b]
                for n in range(k + step * b, k + step * (b + 1)):
                    total += row[n]
                out[j + b] = total
        _add_bins(row, k + step * whole, width, first_x - x0, step, out)


@njit(cache=True, nogil=True)
def _add_values(chunk, top, left, y0, y1, x0, x1, step, sums, number):
    """The same for floats: NaN and infinities are left out and ``number`` counts the others."""
    first, last = max(left, x0), min(left + chunk.shape[1], x1)
    width = last - first
    if width <= 0:
        return
    row, finite = np.empty(width, np.float64), np.empty(width, np.uint32)
    y, last_y = max(top, y0), min(top + chunk.shape[0], y1)
    while y < last_y:
        i = (y - y0) // step
        end = min(y0 + (i + 1) * step, last_y)
        row[:] = 0
        finite[:] = 0
        while y < end:
            line = chunk[y - top, first - left : last - left]
            for k in range(width):
                value = np.float64(line[k])
                good = value - value == 0  # false for NaN and infinities
                row[k] += value if good else 0.0
                finite[k] += np.uint32(good)
            y += 1
        x = first
        while x < last:
            j = (x - x0) // step
            stop = min(x0 + (j + 1) * step, last)
            total, count = 0.0, np.uint32(0)
            for k in range(x - first, stop - first):
                total += row[k]
                count += finite[k]
            sums[i, j] += total
            number[i, j] += count
            x = stop


@njit(cache=True, nogil=True)
def _round(sums, height, width, step, out):
    """Sums of bins to the nearest mean, halves upwards; whole bins of a power of two by a shift."""
    shift = 0
    while 1 << shift < step * step:
        shift += 1
    exact = 1 << shift == step * step
    for i in range(out.shape[0]):
        rows = min(step, height - i * step)
        whole = width // step if exact and rows == step else 0
        half = sums.dtype.type(step * step // 2)
        for j in range(whole):
            out[i, j] = (sums[i, j] + half) >> shift
        for j in range(whole, out.shape[1]):
            number = rows * min(step, width - j * step)
            out[i, j] = (sums[i, j] + number // 2) // number


def binned(
    array: ShardedArray, leading: tuple[int, ...], box: Bounds, step: int, committed: frozenset[str] | None = None
) -> np.ndarray:
    """Mean of every bin of ``step`` × ``step`` pixels of one frame or map; with step 1 the values themselves.

    Parameters
    ----------
    array : ShardedArray
        Its last two dims are y and x.
    leading : tuple of int
        Index along the other dims.
    box : (y0, y1, x0, x1), pixel
    step : int
        Bins start at the corner of the box; those at its far sides may be smaller.
    committed : frozenset of str, optional
        Paths of committed shards: others are not read, and give NaN (integers: zero).

    Returns
    -------
    array (y, x)
        Counts: rounded to the nearest count. Floats: mean of the finite values, NaN without any. bool: fraction of true
        pixels, as float32. Other integers, which are classes, flags or labels: the first pixel of each bin.
    """
    y0, y1, x0, x1 = box
    shape = ceil((y1 - y0) / step), ceil((x1 - x0) / step)
    kind = array.dtype.kind
    if step == 1 or kind not in "fbu" or array.dtype == np.uint8:
        whole = tuple(slice(i, i + 1) for i in leading) + (slice(y0, y1), slice(x0, x1))
        values = read(array, whole, known=committed).reshape(y1 - y0, x1 - x0)
        if kind == "b" and step > 1:
            return _means(values.astype(np.float32), step)
        return values[::step, ::step]
    wide = np.dtype(np.float64 if kind == "f" else np.uint64 if array.dtype.itemsize > 2 else np.uint32)

    def added(parts: list[_Part]) -> tuple[np.ndarray, np.ndarray]:
        sums, number = np.zeros(shape, wide), np.zeros(shape if kind == "f" else (0, 0), np.uint32)
        for top, left, chunk in _chunks(array, leading, parts):
            if kind == "f":
                _add_values(chunk, top, left, y0, y1, x0, x1, step, sums, number)
            else:
                _add_counts(chunk.view(np.uint8) if kind == "b" else chunk, top, left, y0, y1, x0, x1, step, sums)
        return sums, number

    parts = _parts(array, leading, box, committed)
    if len(parts) * array.chunk_bytes < SHARED:
        sums, number = added(parts)
    else:  # half of the chunks in a second thread
        other = _second.submit(added, parts[len(parts) // 2 :])
        sums, number = added(parts[: len(parts) // 2])
        for mine, theirs in zip((sums, number), other.result(), strict=True):
            mine += theirs
    if kind == "f":
        with np.errstate(invalid="ignore"):
            return (sums / np.where(number > 0, number, np.nan)).astype(array.dtype)
    if kind == "b":
        return (sums / (_sizes(y1 - y0, step)[:, None] * _sizes(x1 - x0, step))).astype(np.float32)
    out = np.empty(shape, array.dtype)
    _round(sums, y1 - y0, x1 - x0, step, out)
    return out


def _parts(array: ShardedArray, leading: tuple[int, ...], box: Bounds, committed: frozenset[str] | None) -> list[_Part]:
    """Chunks of one frame in a box: index of the shard, and of the chunk in it."""
    y0, y1, x0, x1 = box
    (sy, sx), (cy, cx) = array.shard[-2:], array.chunk[-2:]
    outer = tuple(i // s for i, s in zip(leading, array.shard, strict=False))
    part = tuple(i % s // c for i, s, c in zip(leading, array.shard, array.chunk, strict=False))
    found = []
    for row, column in product(range(y0 // sy, ceil(y1 / sy)), range(x0 // sx, ceil(x1 / sx))):
        if committed is not None and array.shard_path((*outer, row, column)) not in committed:
            continue
        rows = range(max(y0 - row * sy, 0) // cy, ceil(min(y1 - row * sy, sy) / cy))
        columns = range(max(x0 - column * sx, 0) // cx, ceil(min(x1 - column * sx, sx) / cx))
        found += [((*outer, row, column), (*part, i, j)) for i in rows for j in columns]
    return found


def _chunks(array: ShardedArray, leading: tuple[int, ...], parts: list[_Part]) -> Iterator[tuple[int, int, np.ndarray]]:
    """First row, first column and values (y, x) of chunks, in one reused buffer."""
    if not hasattr(_memory, "encoded"):
        _memory.encoded = np.empty(0, np.uint8)
    scratch = np.empty(array.chunk, array.dtype)
    inner = tuple(i % c for i, c in zip(leading, array.chunk, strict=False))
    (sy, sx), (cy, cx) = array.shard[-2:], array.chunk[-2:]
    for shard, group in groupby(parts, key=itemgetter(0)):
        file = _open.get(array, shard)
        wanted = [chunk for _, chunk in group]
        _memory.encoded, views = file.fetch(wanted, _memory.encoded)
        for chunk, encoded in zip(wanted, views, strict=True):
            file.decode(encoded, scratch)
            yield shard[-2] * sy + chunk[-2] * cy, shard[-1] * sx + chunk[-1] * cx, scratch[inner]


def _sizes(length: int, step: int) -> np.ndarray:
    sizes = np.full(ceil(length / step), step, np.uint64)
    sizes[-1] = length - (len(sizes) - 1) * step
    return sizes


def _means(values: np.ndarray, step: int) -> np.ndarray:
    """Mean of the finite values of every bin, NaN without any."""
    starts = [np.arange(0, n, step) for n in values.shape]
    finite = np.isfinite(values)
    sums = np.where(finite, values, 0).astype(np.float64)
    number = finite.astype(np.float64)
    for axis, at in enumerate(starts):
        sums, number = np.add.reduceat(sums, at, axis), np.add.reduceat(number, at, axis)
    with np.errstate(invalid="ignore"):
        return (sums / np.where(number > 0, number, np.nan)).astype(values.dtype)


def frame_of(
    array: ShardedArray,
    dims: tuple[str, ...],
    sides: tuple[str, str],
    at: dict[str, int],
    box: Bounds,
    step: int,
    committed: frozenset[str] | None = None,
) -> np.ndarray:
    """One frame of an array of any order of dims: see :func:`binned`.

    Parameters
    ----------
    dims : tuple of str
        Of the array.
    sides : (str, str)
        Dims along the rows and columns of the frame.
    at : dict
        Index along every other dim.
    """
    if dims[-2:] == sides:
        return binned(array, tuple(at[d] for d in dims[:-2]), box, step, committed)
    edges = dict(zip(sides, (slice(*box[:2]), slice(*box[2:])), strict=True))
    whole = tuple(edges.get(d) or slice(at[d], at[d] + 1) for d in dims)
    values = read(array, whole, known=committed)
    values = values.reshape([n for n, d in zip(values.shape, dims, strict=True) if d in sides])
    if dims.index(sides[0]) > dims.index(sides[1]):
        values = values.T
    return _means(values, step) if step > 1 and values.dtype.kind == "f" else values[::step, ::step]


def curve_of(array: ShardedArray, layer: int, box: Bounds, committed: frozenset[str] | None = None) -> np.ndarray:
    """Mean counts of a box in every frame of a layer: float64 (scan axes)."""
    y0, y1, x0, x1 = box
    scan = tuple(slice(0, n) for n in array.shape[1:-2])
    out = np.empty(array.shape[1:-2])
    first = array.shape[1] if len(scan) else 0
    whole = prod(array.shape[1:-2]) * (y1 - y0) * (x1 - x0)
    most = max(1, int(first * 16e6 // max(whole, 1)))
    if not scan:
        return np.asarray(read(array, (slice(layer, layer + 1), slice(y0, y1), slice(x0, x1)), known=committed)).mean()
    for start in range(0, first, most):
        part = (slice(start, min(start + most, first)), *scan[1:])
        values = read(array, (slice(layer, layer + 1), *part, slice(y0, y1), slice(x0, x1)), known=committed)[0]
        out[start : start + most] = values.mean(axis=(-2, -1), dtype=np.float64)
    return out


def jpeg(frame: np.ndarray, low: float, high: float, scale: str) -> bytes:
    """A frame as grey JPEG between two values, on the scale "linear", "sqrt" or "log" of the page."""
    from PIL import Image

    if scale not in SCALES:
        raise InputError("query scale", f"is {scale[:20]!r}", f"use {', '.join(SCALES)}")
    part = np.clip((frame.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    grey = np.where(np.isfinite(part), SCALES[scale](part) * 255 + 0.5, NONE)
    stream = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()
