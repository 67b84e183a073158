"""Stores and ledgers from strangers: nothing is allocated, opened, followed or written before they are looked at."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import StoreError
from dfxm_dask.sources.source import load_beamline
from dfxm_dask.store import metadata, shards
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.metadata import check_store, read_node
from dfxm_dask.store.shards import open_array
from tests.store.test_broken_inputs import meta, refusal, regular

BEAMLINE = load_beamline("id03")
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


# Stores.

NODE = "raw/counts"


def inner(**words: Any) -> Callable[[Path], None]:
    return meta(NODE, lambda m: m["codecs"][0]["configuration"].update(words))


def huge(path: Path) -> None:
    (path / NODE / "zarr.json").write_bytes(b" " * (17 << 20) + (path / NODE / "zarr.json").read_bytes())


def fifo(name: str) -> Callable[[Path], None]:
    def make(store: Path) -> None:
        (store / name).unlink()
        os.mkfifo(store / name)

    return make


def link(name: str, target: str) -> Callable[[Path], None]:
    """Put a link in the place of a file or folder, or where nothing is."""

    def make(store: Path) -> None:
        place = store / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        place.symlink_to(target)

    return make


def set_of(**words: Any) -> Callable[[Path], None]:
    return meta(NODE, lambda m: m.update(words))


def coordinate(**words: Any) -> Callable[[Path], None]:
    return meta("x", lambda m: m.update(words))


def named(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).mkdir()


METADATA: dict[str, tuple[Callable[[Path], Any], str]] = {
    "10**12 layers": (set_of(shape=[10**12, 5, 64, 70]), "more than .* files"),
    "negative": (set_of(shape=[-2, 5, 64, 70]), "has shape"),
    "a fraction": (set_of(shape=[2.5, 5, 64, 70]), "has shape"),
    "NaN": (set_of(shape=[float("nan"), 5, 64, 70]), "has shape"),
    "infinity": (set_of(shape=[float("inf"), 5, 64, 70]), "has shape"),
    "True": (set_of(shape=[True, 5, 64, 70]), "has shape"),
    "text": (set_of(shape=["2", 5, 64, 70]), "has shape"),
    "10**40": (set_of(shape=[10**40, 5, 64, 70]), "has shape"),
    "hundred dims": (set_of(shape=[1] * 100), "has shape"),
    "objects": (set_of(data_type="object"), "has data type 'object'"),
    "texts of any width": (set_of(data_type="string"), "has data type 'string'"),
    "bytes of 1 GB": (set_of(data_type="V1000000000"), "has data type"),
    "complex": (set_of(data_type="complex128"), "has data type"),
    "a record": (set_of(data_type={"name": "structured"}), "has data type"),
    "pickle codec": (inner(codecs=[{"name": "numcodecs.pickle"}]), "supported are bytes with"),
    "codec of another package": (inner(codecs=[{"name": "bytes"}, {"name": "numcodecs.json2"}]), "supported are bytes"),
    "gzip": (
        set_of(codecs=[{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}]),
        "supported are bytes",
    ),
    "shards in shards": (inner(codecs=[{"name": "sharding_indexed", "configuration": {}}]), "supported are bytes with"),
    "no codecs": (set_of(codecs=[]), "has codecs"),
    "codecs of texts": (set_of(codecs=["bytes"]), "has codecs"),
    "inner chunk of 0": (inner(chunk_shape=[1, 1, 0, 256]), "has inner chunks"),
    "inner chunk of 100 GB": (
        set_of(
            chunk_grid=regular(1, 5, 2**18, 2**18),
            codecs=[
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "chunk_shape": [1, 1, 2**18, 2**18],
                        "codecs": [{"name": "bytes"}],
                        "index_codecs": [],
                    },
                }
            ],
        ),
        r"declares inner chunks of 137438953472 bytes",
    ),
    "shard of 2**40 chunks": (set_of(chunk_grid=regular(1, 5, 2**28, 2**28)), "shards of more than"),
    "chunk of 100 GB": (coordinate(chunk_grid=regular(10**10)), "declares chunks of"),
    "index of other codecs": (inner(index_codecs=[{"name": "bytes"}, {"name": "blosc"}]), "has a shard index"),
    "transformers": (set_of(storage_transformers=[{"name": "remote", "configuration": {}}]), "storage transformers"),
    "keys that climb": (
        set_of(chunk_key_encoding={"name": "default", "configuration": {"separator": "/../"}}),
        "key separator",
    ),
    "keys of another kind": (set_of(chunk_key_encoding={"name": "fanout"}), "chunk key encoding"),
    "dims of one name": (set_of(dimension_names=["z", "z", "y", "x"]), "has dimension names"),
    "dims that are numbers": (set_of(dimension_names=[1, 2, 3, 4]), "has dimension names"),
    "dims that disagree": (set_of(dimension_names=["z", "phi", "x", "y"]), "has (64|70) positions along"),
    "fill of 1e400": (set_of(fill_value=10**400), "has fill value"),
    "fill of code": (set_of(fill_value="__import__('os')"), "has fill value"),
    "10**12 positions": (coordinate(shape=[10**12], chunk_grid=regular(10**6)), "more than|at most"),
    "10**7 positions": (coordinate(shape=[10**7], chunk_grid=regular(10**7)), "with at most 1048576 positions"),
    "axis of text": (meta("phi", lambda m: m["attributes"].update(scan_axis="../x")), "has scan_axis"),
    "rows of NaN": (meta("", lambda m: m["attributes"].update(unit_rows=float("nan"))), "has unit_rows nan"),
    "nested 10,000 deep": (
        lambda s: (s / NODE / "zarr.json").write_text('{"a":' * 10_000 + "1" + "}" * 10_000),
        "is not JSON|nested deeper",
    ),
    "nested 100 deep": (
        meta(NODE, lambda m: m["attributes"].update(a=json.loads("[" * 100 + "]" * 100))),
        "nested deeper than 32",
    ),
    "17 MB": (huge, r"has 178\d+ bytes"),
    "a number of 5000 digits": (
        lambda s: (s / NODE / "zarr.json").write_text('{"shape": [' + "9" * 5000 + "]}"),
        "is not JSON",
    ),
    "provenance that climbs": (
        meta("raw", lambda m: m["attributes"]["provenance"]["ingest"].update(inputs={"../../etc/passwd": "x"})),
        "names files outside the store",
    ),
    "provenance at the root": (
        meta("raw", lambda m: m["attributes"]["provenance"]["ingest"].update(small_files={"/etc/passwd": [1, ""]})),
        "names files outside the store",
    ),
    "step that climbs": (
        meta("raw", lambda m: m["attributes"]["provenance"].update({"../../x": {}})),
        "that is not a mapping",
    ),
    "metadata that are a link": (link("raw/zarr.json", "/etc/passwd"), r"raw/zarr\.json: is a link|not a regular file"),
    "metadata that are a pipe": (fifo("x/zarr.json"), "neither a file nor a folder|not a regular file"),
    "group that is a link": (link("rocking", "/etc"), r"rocking: is a link to /etc"),
    "array that is a link": (link("raw/more", "/etc"), r"more: is a link to /etc"),
    "chunks that are a link": (link("raw/counts/c", "/etc"), "is a link to /etc|layers on disk"),
    "coordinate that is a link": (link("x/c/0", "/etc/passwd"), "is a link to /etc/passwd"),
    "coordinate that is a pipe": (fifo("x/c/0"), "neither a file nor a folder"),
    "ledger that is a link": (link("raw/.ledger/moments.jsonl", "/etc/passwd"), "is a link to /etc/passwd"),
    "name that steers a terminal": (named("raw/\x1b[2J"), r"contains a file named '\\x1b\[2J'"),
    "name in two lines": (named("raw/a\nError"), r"contains a file named 'a\\nError'"),
}


@pytest.mark.parametrize("case", METADATA)
def test_store__of_a_stranger_is_refused_before_anything_is_allocated(
    store: Path, small_memory: None, case: str
) -> None:
    change, match = METADATA[case]
    change(store)
    for words in (["info", str(store)], ["check", "maps", str(store)]):
        line = refusal(words)
        assert re.search(match, line), line
        assert len(line) < 1000
        assert "root:" not in line
    with pytest.raises(StoreError):
        check_store(store) and dfxm_dask.open_scan(store)


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_shard__that_leads_out_is_not_opened(store: Path, kind: str) -> None:
    path = store / "raw/counts/c/1/0/0/0"
    size = path.stat().st_size
    away = store.parent / "away"
    if kind == "folder link":
        shutil.move(store / "raw/counts/c/1", away)
        (store / "raw/counts/c/1").symlink_to(away)
    elif kind == "link":
        shutil.move(path, away)
        path.symlink_to(away)
    else:
        path.unlink()
        os.mkfifo(path)
    assert size
    if kind != "pipe":  # whose size the ledger knows to be another
        tree = dfxm_dask.open_scan(store)
        with pytest.raises(StoreError, match="is a link or not a regular file"):
            tree["raw"].counts.isel(z=1).compute(scheduler="synchronous")
    array = open_array(store / NODE)
    assert array is not None
    with pytest.raises(StoreError, match="is a link or not a regular file"):
        shards.ShardFile(array, (1, 0, 0, 0))


def forged(store: Path, change: Callable[[bytearray], None]) -> None:
    """Change the first chunk of a shard as somebody who knows the format would: all checksums are right."""
    path = store / "raw/counts/c/1/0/0/0"
    array = open_array(store / NODE)
    assert array is not None
    with shards.ShardFile(array, (1, 0, 0, 0)) as file:
        start, length = (int(n) for n in file.index[0, 0, 0, 0])
    data = bytearray(path.read_bytes())
    body = data[start : start + length - 4]
    change(body)
    data[start : start + length] = body + google_crc32c.value(bytes(body)).to_bytes(4, "little")
    path.write_bytes(data)


def put(at: int, value: int) -> Callable[[bytearray], None]:
    def change(body: bytearray) -> None:
        body[at : at + 4] = value.to_bytes(4, "little")

    return change


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (4, 2**31 - 1),
        (4, 0),
        (4, 16),
        (12, 2**31 - 1),
        (12, 2**20),
        (12, 0),
        (8, 0),
        (8, 2**31 - 1),
        (0, 0),
        (16, 2**31 - 1),
    ],
)
def test_shard__whose_blosc_header_lies_is_refused(store: Path, at: int, value: int) -> None:
    forged(store, put(at, value))
    counts = dfxm_dask.open_scan(store)["raw"].counts
    with pytest.raises(StoreError, match=r"a chunk whose header declares|cannot be decoded"):
        counts.isel(z=1, phi=0).compute(scheduler="synchronous")


@pytest.mark.slow
def test_shard__no_header_of_blosc_ends_the_process(store: Path) -> None:
    """Random headers with right checksums; without the check of lengths one in some hundred ends the process."""
    original = (store / "raw/counts/c/1/0/0/0").read_bytes()
    array = open_array(store / NODE)
    assert array is not None
    chance = np.random.default_rng(0)
    refused = 0
    for _ in range(3000):
        (store / "raw/counts/c/1/0/0/0").write_bytes(original)

        def change(body: bytearray) -> None:
            for _ in range(int(chance.integers(1, 4))):
                body[int(chance.integers(0, 32))] = int(chance.integers(256))

        forged(store, change)
        try:
            shards.read(array, (slice(1, 2), slice(0, 1), slice(None), slice(None)))
        except StoreError:
            refused += 1
    assert refused > 1000


def test_foreign_array__with_a_link_or_without_sense(tmp_path: Path) -> None:
    import zarr

    from dfxm_dask.store.scan import open_foreign

    zarr.create_array(str(tmp_path / "a"), shape=(8, 8), chunks=(4, 4), dtype="uint16")[...] = 1
    (tmp_path / "a/c/0/0").unlink()
    (tmp_path / "a/c/0/0").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="is a link to /etc/passwd"):
        open_foreign(tmp_path / "a")
    (tmp_path / "a/c/0/0").unlink()
    (tmp_path / "a/zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="cannot be opened by Zarr"):
        open_foreign(tmp_path / "a")


def test_foreign_array__whose_chunk_is_none(store: Path) -> None:
    import zarr

    array = zarr.create_array(
        str(store / "raw/more"), shape=(70,), chunks=(70,), dtype="float64", dimension_names=["x"]
    )
    array[...] = 1.0
    (store / "raw/more/c/0").write_bytes(b"nothing of the kind")
    tree = dfxm_dask.open_scan(store, chunks=None)
    with pytest.raises(StoreError, match=r"raw/more: cannot be read"):
        tree["raw"]["more"].load()


def test_small_array__that_zarr_refuses(store: Path) -> None:
    meta("x", lambda m: m.update(codecs=[{"name": "bytes", "configuration": {"endian": "middle"}}]))(store)
    assert "has metadata that Zarr refuses" in refusal(["info", str(store)])


def test_node__without_dimension_names_is_no_part_of_a_store(store: Path) -> None:
    meta(NODE, lambda m: m.pop("dimension_names"))(store)
    assert "has no dimension names" in refusal(["info", str(store)])


def test_store__that_is_a_part_of_one(store: Path) -> None:
    assert "raw/counts: is a part of the store" in refusal(["info", str(store / "raw/counts")])


def test_node__that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no readable zarr\.json \(No such file"):
        read_node(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be read \(Not a directory"):
        metadata.refuse_links(tmp_path / "file")


def test_tiles__of_chunks_that_are_no_frames(store: Path) -> None:
    array = open_array(store / NODE)
    assert array is not None
    from dataclasses import replace

    odd = replace(array, chunk=(1, 2, *array.chunk[2:]), shard=(1, 6, *array.shard[2:]))
    with pytest.raises(StoreError, match=r"has chunks \(1, 2, .*ingest the scan again"):
        next(shards.tiles(odd, 0, 0, 64, shards.Buffers.empty()))


def test_consolidated_metadata__that_differ_are_not_believed(store: Path) -> None:
    def lie(root: dict[str, Any]) -> None:
        nodes = root["consolidated_metadata"]["metadata"]
        nodes["raw/counts"]["shape"] = [1000, 5, 64, 70]
        nodes["raw/counts"]["data_type"] = "object"
        nodes["../../etc"] = nodes["raw"]

    before = dfxm_dask.open_scan(store, chunks=None)["raw"].counts.load()
    meta("", lie)(store)
    after = dfxm_dask.open_scan(store, chunks=None)["raw"].counts.load()
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    np.testing.assert_array_equal(after, before)


def test_run__writes_nothing_through_a_link(store: Path) -> None:
    away = store.parent / "away"
    away.mkdir()
    (store / "rocking").symlink_to(away)
    for words in (["run", "maps", str(store)], ["reduce", "moments", str(store), "--background", "100"]):
        assert "is a link to" in refusal(words)
    assert list(away.iterdir()) == []


# Ledgers.


def record(store: Path, **words: Any) -> Path:
    path = ledger.ledger_path(store, "raw", "ingest")
    ledger.append(path, {"block": "z0000", "read": [], "files": {}, "seconds": 0, **words})
    return path


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "raw/../../x"])
def test_ledger__that_names_files_outside_is_refused(store: Path, name: str) -> None:
    record(store, files={name: [os.stat("/etc/passwd").st_size, ""]})
    for words in (["info", str(store)], ["check", "maps", str(store)]):
        assert "outside the store" in refusal(words)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"block":' * 50_000,
        b"\0" * 1_000_000,
        b'"text"',
        b"3",
        b"null",
        b'{"block": "z0000", "files": ' + b"[" * 50_000,
    ],
    ids=range(7),
)
def test_ledger__lines_of_anything_are_damage_and_nothing_else(store: Path, line: bytes) -> None:
    path = ledger.ledger_path(store, "raw", "ingest")
    header, records = ledger.read_ledger(path)
    path.write_bytes(path.read_bytes() + line + b"\n")
    assert ledger.read_ledger(path) == (header, records)
    assert call("info", store).exit_code in (0, 1, 3)


HEADERS: dict[str, dict[str, Any]] = {
    "blocks of layers that are not there": {"blocks": ["z9999999"]},
    "blocks that climb": {"blocks": ["../../x"]},
    "blocks of nothing": {"blocks": None},
    "blocks that are numbers": {"blocks": [1, 2]},
    "plan that is a list": {"plan": []},
    "plan that writes numbers": {"plan": {"writes": [1]}},
}
RECORDS: dict[str, dict[str, Any]] = {
    "files that are a list": {"files": ["a"]},
    "files without sizes": {"files": {"raw/zarr.json": "x"}},
    "files of nothing": {"files": None},
    "files of negative size": {"files": {"raw/zarr.json": [-1, ""]}},
    "block that is a list": {"block": ["a"]},
    "withdrawn that is a number": {"withdrawn": 3},
    "torn that is a list": {"torn": [1]},
}


@pytest.mark.parametrize("case", [*HEADERS, *RECORDS])
def test_ledger__entries_of_another_form_are_refused_or_left_out(store: Path, case: str) -> None:
    path = ledger.ledger_path(store, "raw", "ingest")
    header, records = ledger.read_ledger(path)
    path.unlink()
    for entry in ({**header, **HEADERS.get(case, {})}, *({**r, **RECORDS.get(case, {})} for r in records.values())):
        if "block" in entry and HEADERS.get(case, {}).get("blocks"):
            entry["block"] = HEADERS[case]["blocks"][0]  # so that the records agree with the header
        ledger.append(path, {word: value for word, value in entry.items() if word != "sum"})
    for words in (["info"], ["check", "maps"], ["run", "maps"]):
        result = call(*words, store)
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code in (1, 3), result.output


def test_attacks__are_as_many_as_promised() -> None:
    assert len(METADATA) + len(HEADERS) + len(RECORDS) >= 60
