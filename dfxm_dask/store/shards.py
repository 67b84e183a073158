"""Direct reading and writing of the shards of a Zarr v3 array.

The pipeline of zarr spends 0.3 to 0.9 ms on every inner chunk; with chunks one frame deep this is ten times the cost
of decoding. This module supports one fixed layout: little-endian bytes, blosc, crc32c, one index at the end of the
shard. Files are valid Zarr v3. Arrays with any other layout are refused by :func:`open_array` and left to zarr. A
chunk missing in the index is an error here, never a fill value.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc

from dfxm_dask.errors import DamagedError, StoreError
from dfxm_dask.store.integrity.files import force, full_disk_said
from dfxm_dask.store.metadata import read_node, sharding

ABSENT = 2**64 - 1
GAP_BYTES = 4096
READ_BYTES = 32 * 2**20
SEND_BYTES = 16 * 2**20
PAD = 96  # elements between the frames of a tile: a power of two would map all frames to the same cache sets
REMEDY = "run the step again with --overwrite, or restore the file"

blosc.use_threads = False  # one thread per worker; also avoids the global, locked context of blosc


@dataclass(frozen=True)
class ShardedArray:
    """Layout of an array on disk, small enough to send with a task."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    separator: str = "/"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """Inner chunks along every dimension of one shard."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    @property
    def chunk_bytes(self) -> int:
        return prod(self.chunk) * self.dtype.itemsize

    def shard_path(self, coordinates: tuple[int, ...]) -> str:
        """Path of the file of one shard."""
        return os.path.join(self.path, "c" + self.separator + self.separator.join(map(str, coordinates)))


def open_array(path: str | Path) -> ShardedArray | None:
    """The array at a path, or None if this module does not support its layout.

    Raises
    ------
    StoreError
        No readable ``zarr.json``, or metadata beyond the bounds of :mod:`dfxm_dask.store.metadata`.
    """
    meta = read_node(path)
    inner = sharding(meta) if meta["node_type"] == "array" else None
    if inner is None:
        return None
    ours = (
        [codec["name"] for codec in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
        and inner["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
        and inner["index_codecs"][0].get("configuration", {}).get("endian", "little") == "little"
        and inner.get("index_location", "end") == "end"
    )
    if not ours:
        return None
    return ShardedArray(
        str(path),
        tuple(meta["shape"]),
        np.dtype(meta["data_type"]),
        tuple(meta["chunk_grid"]["configuration"]["chunk_shape"]),
        tuple(inner["chunk_shape"]),
        meta["chunk_key_encoding"].get("configuration", {}).get("separator", "/"),
    )


def refuse_links(array: ShardedArray, path: str) -> None:
    """Refuse a shard that is not a regular file or is reached through a link: links lead out of a store.

    Raises
    ------
    StoreError
    FileNotFoundError
        The shard does not exist.
    """
    place = array.path
    for part in path[len(array.path) + 1 :].split(os.sep):
        place = os.path.join(place, part)
        mode = os.lstat(place).st_mode
        if not (stat.S_ISREG(mode) if place == path else stat.S_ISDIR(mode)):
            raise StoreError(
                f"shard {path}", f"{place} is a link or not a regular file", "copy the file into the store"
            )


class ShardFile:
    """One shard, open for reading: its index in memory, its chunks read on demand."""

    def __init__(self, array: ShardedArray, coordinates: tuple[int, ...]) -> None:
        self.array, self.path = array, array.shard_path(coordinates)
        try:
            refuse_links(array, self.path)
            self.descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise DamagedError(f"shard {self.path}", "is missing", REMEDY) from None
        try:
            size = prod(array.grid) * 16 + 4
            total = os.fstat(self.descriptor).st_size
            raw = os.pread(self.descriptor, size, total - size) if total >= size else b""
            if len(raw) != size or google_crc32c.value(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
                raise DamagedError(f"shard {self.path}", f"has no valid index ({total} bytes)", REMEDY)
            self.index = np.frombuffer(raw[:-4], "<u8").reshape(*array.grid, 2).astype(np.int64)
            ends = self.index[..., 0] + self.index[..., 1]
            if ((self.index[..., 0] >= 0) & ((self.index[..., 1] < 20) | (ends > total - size))).any():
                raise DamagedError(f"shard {self.path}", "has an index that points outside the file", REMEDY)
        except BaseException:
            os.close(self.descriptor)
            raise

    def __enter__(self) -> ShardFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def fetch(self, chunks: list[tuple[int, ...]], buffer: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Encoded bytes of chunks, in as few reads as possible.

        Returns the buffer (enlarged if necessary) and one view of the buffer per chunk, in the requested order.
        """
        places = [self.index[chunk] for chunk in chunks]
        for chunk, (offset, _) in zip(chunks, places, strict=True):
            if offset < 0:
                raise DamagedError(f"shard {self.path}", f"lacks chunk {chunk}", REMEDY)
        order = sorted(range(len(chunks)), key=lambda k: int(places[k][0]))
        runs: list[tuple[int, int, list[int]]] = []  # file range and the chunks in it
        for k in order:
            start, stop = int(places[k][0]), int(places[k][0] + places[k][1])
            if runs and 0 <= start - runs[-1][1] <= GAP_BYTES and stop - runs[-1][0] <= READ_BYTES:
                runs[-1] = (runs[-1][0], stop, [*runs[-1][2], k])
            else:
                runs.append((start, stop, [k]))
        need = sum(stop - start for start, stop, _ in runs)
        if buffer.nbytes < need:
            buffer = np.empty(need * 5 // 4, np.uint8)
        views: list[np.ndarray] = [buffer] * len(chunks)
        at = 0
        for start, stop, members in runs:
            length = stop - start
            got = os.preadv(self.descriptor, [buffer[at : at + length].data], start)
            if got != length:
                raise DamagedError(f"shard {self.path}", f"ends {length - got} bytes early", REMEDY)
            for k in members:
                first = at + int(places[k][0]) - start
                views[k] = buffer[first : first + int(places[k][1])]
            at += length
        return buffer, views

    def decode(self, encoded: np.ndarray, out: np.ndarray) -> None:
        """Decode one chunk into a contiguous array, checking its crc32c first."""
        body = encoded[:-4]
        if google_crc32c.value(body) != int.from_bytes(encoded[-4:].tobytes(), "little"):
            raise DamagedError(f"shard {self.path}", "has a chunk with a wrong checksum", REMEDY)
        # blosc trusts its header: a header with too many bytes would be read beyond the end of the data.
        nbytes, length = (int.from_bytes(body[k : k + 4].tobytes(), "little") for k in (4, 12))
        if (nbytes, length) != (out.nbytes, len(body)):
            found = f"has a chunk whose header declares {nbytes} bytes in {length}, not {out.nbytes} in {len(body)}"
            raise DamagedError(f"shard {self.path}", found, REMEDY)
        try:
            blosc.decompress(body, out)
        except (RuntimeError, ValueError) as error:
            raise DamagedError(f"shard {self.path}", f"has a chunk that cannot be decoded ({error})", REMEDY) from None


@dataclass
class Buffers:
    """Memory that a worker reuses between units: page faults on fresh memory cost as much as decoding."""

    encoded: np.ndarray
    tile: np.ndarray

    @classmethod
    def empty(cls) -> Buffers:
        return cls(np.empty(0, np.uint8), np.empty(0, np.uint8))


_memory = threading.local()


def _own_buffers() -> Buffers:
    """The buffers of this thread."""
    if not hasattr(_memory, "buffers"):
        _memory.buffers = Buffers.empty()
    buffers: Buffers = _memory.buffers
    return buffers


def read(array: ShardedArray, selection: tuple[slice, ...], *, known: frozenset[str] | None = None) -> np.ndarray:
    """Values of a box (slices of step 1), decoded chunk by chunk.

    Parameters
    ----------
    known : frozenset of str, optional
        Paths of the committed shards; other shards are not read and yield zeros. Only for callers that mask them.

    Raises
    ------
    StoreError
        A shard or chunk is missing, or has a wrong checksum.
    """
    bounds = [s.indices(n)[:2] for s, n in zip(selection, array.shape, strict=True)]
    shape = tuple(max(0, stop - start) for start, stop in bounds)
    result = np.empty(shape, array.dtype) if known is None else np.zeros(shape, array.dtype)
    if 0 in shape:
        return result
    memory = _own_buffers()
    scratch = np.empty(array.chunk, array.dtype)
    spans = [range(a // s, ceil(b / s)) for (a, b), s in zip(bounds, array.shard, strict=True)]
    for shard in product(*spans):
        if known is not None and array.shard_path(shard) not in known:
            continue
        origin = [i * s for i, s in zip(shard, array.shard, strict=True)]
        boxes = [(max(a - o, 0), min(b - o, s)) for (a, b), o, s in zip(bounds, origin, array.shard, strict=True)]
        chunks = list(product(*(range(a // c, ceil(b / c)) for (a, b), c in zip(boxes, array.chunk, strict=True))))
        batch = max(1, READ_BYTES // array.chunk_bytes)
        with ShardFile(array, shard) as file:
            for first in range(0, len(chunks), batch):
                part = chunks[first : first + batch]
                memory.encoded, views = file.fetch(part, memory.encoded)
                for chunk, encoded in zip(part, views, strict=True):
                    source, target = [], []
                    for i, c, (lo, hi), o, (a, _) in zip(chunk, array.chunk, boxes, origin, bounds, strict=True):
                        start, stop = max(lo, i * c), min(hi, (i + 1) * c)
                        source.append(slice(start - i * c, stop - i * c))
                        target.append(slice(start + o - a, stop + o - a))
                    place = result[tuple(target)]
                    if place.shape == array.chunk and place.flags.c_contiguous:
                        file.decode(encoded, place)
                    else:
                        file.decode(encoded, scratch)
                        place[...] = scratch[tuple(source)]
    return result


def tiles(array: ShardedArray, z: int, y0: int, y1: int, buffers: Buffers) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Tile columns of one band of ``counts``: (rows, columns, counts (scan axes, y, x)), into one reused buffer.

    The next tile overwrites the current one. ``y0`` must be the start of a chunk row.
    """
    edge, nx = array.chunk[-1], array.shape[-1]
    scan = array.shape[1:-2]
    frame_deep = array.chunk == (*(1,) * (array.ndim - 2), edge, edge)
    if not frame_deep or array.shard[:-2] != (1, *scan) or array.shard[-1] < nx or y0 % edge:
        found = f"has chunks {array.chunk} in shards {array.shard}"
        raise StoreError(f"array {array.path}", found, "ingest the scan again")
    frames = prod(scan)
    columns = ceil(nx / edge)
    pitch = edge * edge + PAD
    size = frames * pitch * array.dtype.itemsize
    if buffers.tile.nbytes < size:
        buffers.tile = np.empty(size, np.uint8)
    tile = buffers.tile[:size].view(array.dtype).reshape(frames, pitch)[:, : edge * edge].reshape(frames, edge, edge)
    group = max(1, min(columns, READ_BYTES // (frames * array.chunk_bytes // 2)))
    in_shard = array.shard[-2] // edge
    for row in range(y0 // edge, ceil(y1 / edge)):
        with ShardFile(array, (z, *(0,) * len(scan), row // in_shard, 0)) as file:
            for first in range(0, columns, group):
                wide = range(first, min(first + group, columns))
                keys = [(0, *k, row % in_shard, c) for k in np.ndindex(*scan) for c in wide]
                buffers.encoded, views = file.fetch(keys, buffers.encoded)
                for column in wide:
                    for k in range(frames):
                        file.decode(views[k * len(wide) + column - first], tile[k])
                    rows = slice(row * edge, min((row + 1) * edge, y1))
                    cols = slice(column * edge, min((column + 1) * edge, nx))
                    part = tile[:, : rows.stop - rows.start, : cols.stop - cols.start]
                    part.flags.writeable = False  # fused kernels share the tile
                    yield rows, cols, part.reshape(*scan, *part.shape[1:]) if len(scan) > 1 else part


class ShardWriter:
    """One shard, written chunk by chunk under a temporary name; :func:`place_shards` renames the complete shard."""

    def __init__(self, array: ShardedArray, coordinates: tuple[int, ...]) -> None:
        self.array, self.path = array, array.shard_path(coordinates)
        self.partial = f"{self.path}.{uuid.uuid4().hex}.partial"
        with full_disk_said(f"shard {self.path}"):
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            self.file = open(self.partial, "wb", buffering=2**20)
        self.index = np.full((*array.grid, 2), ABSENT, "<u8")
        self.at = self.sent = 0
        self.finished: tuple[int, str] | None = None
        self.digest = hashlib.sha256()

    def write(self, chunk: tuple[int, ...], values: np.ndarray) -> None:
        """Encode and append one full, contiguous inner chunk."""
        body = blosc.compress(values, b"lz4", 5, blosc.BITSHUFFLE, 0, values.dtype.itemsize)
        check = google_crc32c.value(body).to_bytes(4, "little")
        with full_disk_said(f"shard {self.path}"):
            self.file.write(body)
            self.file.write(check)
        self.digest.update(check)
        self.index[chunk] = self.at, len(body) + 4
        self.at += len(body) + 4
        if self.at - self.sent > SEND_BYTES:
            self._send()

    def _send(self) -> None:
        """Start writing to disk: the kernel writes while the next frames or shards are encoded."""
        self.file.flush()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), self.sent, self.at - self.sent, os.POSIX_FADV_DONTNEED)
            self.sent = self.at

    def finish(self) -> tuple[int, str]:
        """Write the index and close the file, which is not forced to disk yet. Returns bytes and digest of the shard.

        The digest is a sha256 over the checksums of the chunks in file order and the index. It binds the content of the
        shard and its order, at no cost per byte.
        """
        if self.finished is not None:
            return self.finished
        raw = self.index.tobytes()
        check = google_crc32c.value(raw).to_bytes(4, "little")
        with full_disk_said(f"shard {self.path}"):
            self.file.write(raw + check)
            self._send()
            self.file.close()
        self.digest.update(raw)
        self.finished = self.at + len(raw) + 4, self.digest.hexdigest()
        return self.finished

    def abandon(self) -> None:
        """Remove the partial file."""
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            self.file.close()
        with suppress(FileNotFoundError):
            os.unlink(self.partial)


def place_shards(writers: Iterable[ShardWriter], may_commit: Callable[[], None] | None = None) -> dict[str, list[Any]]:
    """Finish shards, rename them, and force them and all their parent folders to disk.

    All shards are forced to disk before the first is renamed. Folders come last, each once, so that a file system with
    a journal writes the journal once.

    Parameters
    ----------
    may_commit : callable, optional
        Called before the first shard is renamed; raises if the run no longer owns the store.

    Returns
    -------
    dict
        Bytes and digest of each shard, by path.
    """
    shards = list(writers)
    files = {shard.path: list(shard.finish()) for shard in shards}
    for shard in shards:
        with full_disk_said(f"shard {shard.path}"):
            force(shard.partial)
    if may_commit is not None:
        may_commit()
    folders: dict[str, None] = {}
    for shard in shards:
        with full_disk_said(f"shard {shard.path}"):
            os.replace(shard.partial, shard.path)
        folder = os.path.dirname(shard.path)
        while len(folder) >= len(shard.array.path):
            folders[folder] = None
            folder = os.path.dirname(folder)
    for folder in folders:
        with full_disk_said(f"folder {folder}"):
            force(folder)
    return files


def stage_shard(array: ShardedArray, coordinates: tuple[int, ...], values: np.ndarray) -> ShardWriter:
    """One whole shard from memory, under its temporary name; values may end at the edge of the array."""
    writer = ShardWriter(array, coordinates)
    try:
        full = np.zeros(array.chunk, array.dtype)
        for chunk in product(*(range(ceil(n / c)) for n, c in zip(values.shape, array.chunk, strict=True))):
            part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(chunk, array.chunk, strict=True))]
            if part.shape != array.chunk:
                full[...] = 0
                full[tuple(slice(0, n) for n in part.shape)] = part
                part = full
            writer.write(chunk, np.ascontiguousarray(part))
        writer.finish()  # closed: a step may have hundreds of shards
    except BaseException:
        writer.abandon()
        raise
    return writer


@contextmanager
def staging() -> Iterator[list[ShardWriter]]:
    """A list for shards that are written together; shards that are not renamed in the end are removed."""
    writers: list[ShardWriter] = []
    try:
        yield writers
    finally:
        for writer in writers:
            writer.abandon()


def write_shard(array: ShardedArray, coordinates: tuple[int, ...], values: np.ndarray) -> tuple[int, str]:
    """Write one whole shard from memory. Returns bytes and digest."""
    with staging() as writers:
        writers.append(stage_shard(array, coordinates, values))
        ((size, digest),) = place_shards(writers).values()
    return size, digest
