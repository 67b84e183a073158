"""The direct shard reader and writer against zarr itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from dfxm_dask.errors import StoreError
from dfxm_dask.store import shards
from dfxm_dask.store.chunks import bands, chunk_edge, map_layout, raw_layout, unit_rows
from dfxm_dask.store.shards import Buffers, open_array, read, tiles, write_shard

Shape = tuple[int, ...]


def declare(path: Path, shape: Shape, chunk: Shape, shard: Shape, dtype: str) -> zarr.Array:
    compressors = [
        BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize),
        Crc32cCodec(),
    ]
    return zarr.create_array(
        str(path),
        shape=shape,
        chunks=chunk,
        shards=shard,
        dtype=dtype,
        compressors=compressors,
        fill_value=0,
        config={"write_empty_chunks": True},
    )


@pytest.fixture
def counts(tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(1).poisson(100, (2, 5, 150, 200)).astype(np.uint16)
    declare(tmp_path / "a", values.shape, (1, 1, 64, 64), (1, 5, 128, 256), "uint16")
    array = open_array(tmp_path / "a")
    assert array is not None
    for z in range(2):
        for band in range(2):
            write_shard(array, (z, 0, band, 0), values[z : z + 1, :, band * 128 : (band + 1) * 128])
    return tmp_path / "a", values


def test_write_shard__is_read_back_by_zarr(counts: tuple[Path, np.ndarray]) -> None:
    path, values = counts
    np.testing.assert_array_equal(zarr.open_array(str(path), mode="r")[...], values)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "float32", "float64", "bool", "uint8", "int32"])
def test_read__reads_what_zarr_wrote(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(2).integers(0, 2 if dtype == "bool" else 200, (3, 70, 90)).astype(dtype)
    declare(tmp_path / "a", values.shape, (1, 32, 32), (1, 64, 96), dtype)[...] = values
    array = open_array(tmp_path / "a")
    assert array is not None
    np.testing.assert_array_equal(read(array, (slice(None),) * 3), values)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_read__any_box(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "boxes"
    values = np.arange(2 * 3 * 50 * 70, dtype=np.uint32).reshape(2, 3, 50, 70)
    if not folder.exists():
        declare(folder, values.shape, (1, 1, 16, 16), (1, 3, 32, 80), "uint32")[...] = values
    array = open_array(folder)
    assert array is not None
    box = []
    for n in values.shape:
        start = data.draw(st.integers(0, n))
        box.append(slice(start, data.draw(st.integers(start, n))))
    np.testing.assert_array_equal(read(array, tuple(box)), values[tuple(box)])


@pytest.mark.parametrize("rows", [(0, 128), (128, 150), (64, 150), (0, 150)])
def test_tiles__cover_a_band_once(counts: tuple[Path, np.ndarray], rows: tuple[int, int]) -> None:
    path, values = counts
    array = open_array(path)
    assert array is not None
    found = np.zeros((5, rows[1] - rows[0], 200), np.uint16)
    seen = np.zeros(found.shape[1:], int)
    for y, x, tile in tiles(array, 1, *rows, Buffers.empty()):
        found[:, y.start - rows[0] : y.stop - rows[0], x] = tile
        seen[y.start - rows[0] : y.stop - rows[0], x] += 1
    np.testing.assert_array_equal(found, values[1][:, rows[0] : rows[1]])
    assert (seen == 1).all()


def test_tiles__of_two_scan_axes(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 999, (1, 4, 3, 70, 130)).astype(np.uint16)
    declare(tmp_path / "a", values.shape, (1, 1, 1, 64, 64), (1, 4, 3, 128, 192), "uint16")[...] = values
    array = open_array(tmp_path / "a")
    assert array is not None
    for y, x, tile in tiles(array, 0, 0, 70, Buffers.empty()):
        np.testing.assert_array_equal(tile, values[0][:, :, y, x])


def test_read__missing_shard_is_an_error_and_never_a_fill_value(counts: tuple[Path, np.ndarray]) -> None:
    path, _ = counts
    (path / "c/1/0/0/0").unlink()
    array = open_array(path)
    assert array is not None
    with pytest.raises(StoreError, match=r"c/1/0/0/0: is missing; run the step again"):
        read(array, (slice(None),) * 4)


def test_read__chunk_that_the_index_lacks_is_an_error(tmp_path: Path) -> None:
    values = np.zeros((1, 2, 64, 128), np.uint16)
    declare(tmp_path / "a", values.shape, (1, 1, 64, 64), (1, 2, 64, 128), "uint16")
    array = open_array(tmp_path / "a")
    assert array is not None
    writer = shards.ShardWriter(array, (0, 0, 0, 0))
    writer.write((0, 0, 0, 0), np.zeros((64, 64), np.uint16))
    shards.place_shards([writer])
    with pytest.raises(StoreError, match=r"lacks chunk \(0, 0, 0, 1\)"):
        read(array, (slice(None),) * 4)


@pytest.mark.parametrize("trial", range(60))
def test_read__any_flipped_bit_is_found(counts: tuple[Path, np.ndarray], trial: int) -> None:
    path, _ = counts
    file = path / "c/0/0/0/0"
    data = bytearray(file.read_bytes())
    generator = np.random.default_rng(trial)
    position = int(generator.integers(len(data)))
    data[position] ^= 1 << int(generator.integers(8))
    file.write_bytes(bytes(data))
    array = open_array(path)
    assert array is not None
    index = np.frombuffer(bytes(data)[-(5 * 2 * 4 * 16 + 4) : -4], "<u8")
    assert index.size == 80
    with pytest.raises(StoreError, match=r"wrong checksum|no valid index"):
        read(array, (slice(0, 1), slice(None), slice(0, 128), slice(None)))


@pytest.mark.parametrize("keep", [0, 3, 700, -1])
def test_read__truncated_shard_is_found(counts: tuple[Path, np.ndarray], keep: int) -> None:
    path, _ = counts
    file = path / "c/0/0/0/0"
    file.write_bytes(file.read_bytes()[:keep])
    array = open_array(path)
    assert array is not None
    with pytest.raises(StoreError, match="has no valid index"):
        read(array, (slice(0, 1), slice(0, 1), slice(0, 1), slice(0, 1)))


def test_shard_writer__abandoned_leaves_nothing(tmp_path: Path) -> None:
    declare(tmp_path / "a", (1, 1, 64, 64), (1, 1, 64, 64), (1, 1, 64, 64), "uint16")
    array = open_array(tmp_path / "a")
    assert array is not None
    writer = shards.ShardWriter(array, (0, 0, 0, 0))
    writer.write((0, 0, 0, 0), np.zeros((64, 64), np.uint16))
    assert not Path(array.shard_path((0, 0, 0, 0))).exists()
    writer.abandon()
    assert [p for p in (tmp_path / "a").rglob("*") if p.is_file()] == [tmp_path / "a/zarr.json"]


def test_place_shards__everything_is_on_disk_before_the_first_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path / "a", (2, 1, 64, 64), (1, 1, 64, 64), (1, 1, 64, 64), "uint16")
    array = open_array(tmp_path / "a")
    assert array is not None
    events: list[tuple[str, int, int]] = []  # what, inode, bytes
    fsync, replace = os.fsync, os.replace

    def forced(descriptor: int) -> None:
        fsync(descriptor)
        found = os.fstat(descriptor)
        events.append(("folder" if stat.S_ISDIR(found.st_mode) else "file", found.st_ino, found.st_size))

    def named(old: str, new: str) -> None:
        events.append(("name", os.stat(old).st_ino, os.stat(old).st_size))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", named)
    writers = [shards.stage_shard(array, (z, 0, 0, 0), np.full((1, 1, 64, 64), z, np.uint16)) for z in range(2)]
    shards.place_shards(writers)
    monkeypatch.undo()
    paths = [array.shard_path((z, 0, 0, 0)) for z in range(2)]
    whole = [(os.stat(p).st_ino, os.stat(p).st_size) for p in paths]
    assert [e[1:] for e in events[:4]] == [*whole, *whole]
    assert [e[0] for e in events[:4]] == ["file", "file", "name", "name"]
    folders = {os.stat(f).st_ino for p in paths for f in list(Path(p).parents)[:5]}
    assert {e[0] for e in events[4:]} == {"folder"}
    assert {e[1] for e in events[4:]} == folders


def test_write_shard__digest_says_what_and_where(tmp_path: Path) -> None:
    declare(tmp_path / "a", (4, 64, 64), (1, 32, 32), (1, 64, 64), "uint16")
    array = open_array(tmp_path / "a")
    assert array is not None
    values = np.random.default_rng(0).integers(0, 99, (1, 64, 64)).astype(np.uint16)
    first = write_shard(array, (0, 0, 0), values)
    assert write_shard(array, (1, 0, 0), values) == first
    swapped = values[:, :, ::-1]
    assert write_shard(array, (2, 0, 0), swapped)[1] != first[1]


def test_open_array__leaves_other_layouts_to_zarr(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "z"), shape=(8, 8), chunks=(4, 4), dtype="uint16", compressors=[ZstdCodec()])
    assert open_array(tmp_path / "z") is None


def test_open_array__without_metadata(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no readable zarr\.json"):
        open_array(tmp_path)


def test_open_array__distrusts_huge_chunks(tmp_path: Path) -> None:
    declare(tmp_path / "a", (2**15, 2**15), (2**15, 2**15), (2**15, 2**15), "uint16")
    with pytest.raises(StoreError, match="do not trust this store"):
        open_array(tmp_path / "a")


def test_raw_layout__one_shard_a_layer_below_a_gigabyte() -> None:
    layout = raw_layout((301, 31, 2160, 2560), 2)
    assert (layout.chunk, layout.shard) == ((1, 1, 256, 256), (1, 31, 2304, 2560))
    assert unit_rows(layout, 2) == 768
    assert 301 * len(bands(2160, unit_rows(layout, 2))) == 903


def test_raw_layout__bands_where_a_layer_is_larger() -> None:
    layout = raw_layout((1, 26, 37, 2160, 2560), 2)
    assert layout.chunk == (1, 1, 1, 128, 128)
    assert layout.shard[-2] % 128 == 0
    assert 26 * 37 * layout.shard[-2] * layout.shard[-1] * 2 <= 1e9


def test_chunk_edge__keeps_a_tile_of_all_frames_small() -> None:
    for frames in (1, 31, 244, 245, 962, 2666):
        edge = chunk_edge(frames, 2)
        assert edge == 64 or frames * edge * edge * 2 <= 32 * 2**20
        assert edge % 64 == 0


def test_map_layout__one_shard_a_unit() -> None:
    layout = map_layout(("z", "y", "x", "rgb"), (3, 2160, 2560, 3), 768, 256)
    assert (layout.chunk, layout.shard) == ((1, 256, 256, 3), (1, 768, 2560, 3))
