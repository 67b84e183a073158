"""Paths that exist are literal, patterns come in natural order, and nothing is read twice or by accident."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import SourceError
from dfxm_dask.run.nights.config import Nightly
from dfxm_dask.run.nights.scans import find_masters, look
from dfxm_dask.sources.paths import beside, named, natural
from dfxm_dask.sources.readers import named_scans, sources
from dfxm_dask.store.integrity import ledger
from dfxm_dask.view.compare.volumes import open_mask
from tests.beamline_files import known_counts, write_bliss, write_edf
from tests.view.volume_stores import write_store

ODD = ["run[1]", "what?", "a*b", "with space", "-dash", "[!a]", "sq[a-z]*", "50%", "é{1,2}", "a:b", "~"]


@pytest.mark.parametrize("folder", ODD)
def test_ingest__takes_a_path_that_exists_as_it_is(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate(["run1", "whatx", "aXb", "b", "sqb", folder]):
        Path(name).mkdir(exist_ok=True)
        mine = write_bliss(Path(name, "scan.h5"), seed=k)
    result = CliRunner().invoke(cli, ["ingest", "--", f"{folder}/scan.h5", "s.zarr"])
    assert result.exit_code == 0, result.stderr
    raw = dfxm_dask.open_scan("s.zarr", chunks=None)["raw"]
    np.testing.assert_array_equal(raw.counts.values[0], mine.grid())


def test_named__a_folder_that_exists_is_no_pattern_for_what_is_in_it(tmp_path: Path) -> None:
    for folder, files in (("r[1]", "s[2].h5 s2.h5 s10.h5"), ("r1", "s3.h5"), ("r2", "s[2].h5")):
        (tmp_path / folder).mkdir()
        for name in files.split():
            (tmp_path / folder / name).touch()
    one = str(tmp_path / "r[1]")
    assert named(f"{one}/s[0-9]*.h5") == [f"{one}/s2.h5", f"{one}/s10.h5"]
    assert named([f"{one}/s[2].h5", f"{one}/s?.h5"]) == [f"{one}/s[2].h5", f"{one}/s2.h5"]  # a name, then a pattern
    assert named(str(tmp_path / "r[12]" / "s*.h5")) == [f"{tmp_path}/r1/s3.h5", f"{tmp_path}/r2/s[2].h5"]
    with pytest.raises(SourceError, match="does not exist and, as a pattern, matches no file; check the path"):
        named(str(tmp_path / "r[12]" / "z*.h5"))
    for nothing in ([], "", " ", "a\0b"):
        with pytest.raises(SourceError, match=r"is an empty list|is not a file"):
            named(nothing)


@pytest.mark.parametrize(
    "ordered",
    [
        ["s1.h5", "s2.h5", "s10.h5", "s100.h5"],
        ["s0009.h5", "s10.h5", "s0011.h5"],
        ["a2b3.h5", "a2b21.h5", "a10b1.h5", "a10b1_2.h5"],
        ["r9/s10.h5", "r10/s2.h5", "r10/s9.h5"],
        ["s٣.h5", "s12.h5"],  # digits of any script
        ["s²3.h5", "s²12.h5"],  # a power is no digit
        ["s007.h5", "s07.h5", "s7.h5"],
        ["2.h5", "10.h5", "a1.h5"],
    ],
)
def test_natural__numbers_count_by_value(ordered: list[str]) -> None:
    for shuffled in itertools.islice(itertools.permutations(ordered), 24):
        assert sorted(shuffled, key=natural) == ordered


def test_natural__is_one_order_of_all_names() -> None:
    draw = random.Random(0)
    names = {"".join(draw.choices("ab01٣2/_.-", k=draw.randrange(1, 9))) for _ in range(400)}
    expected = sorted(names, key=natural)
    assert sorted(draw.sample(sorted(names), len(names)), key=natural) == expected


@pytest.mark.parametrize(
    "given", [["s1.h5", "s1.h5"], ["s*.h5", "s1.h5"], ["./s1.h5", "s?.h5"], ["link.h5", "s1.h5"], ["*.h5"]]
)
def test_named__a_file_named_twice_is_refused(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s1.h5").touch()
    Path("link.h5").symlink_to("s1.h5")
    with pytest.raises(SourceError, match=r"is named twice.*; give each file once"):
        named(given)


def test_ingest__z_stands_beside_files_of_a_pattern(tmp_path: Path) -> None:
    for k in (1, 2, 10):
        write_bliss(tmp_path / f"s{k}.h5", seed=k)
    words = ["ingest", str(tmp_path / "s*.h5"), str(tmp_path / "s.zarr"), "--z", "1,2,10"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.stderr
    told = [line for line in result.stdout.splitlines() if line.startswith("z = ")]
    assert told == [f"z = {k} um: {tmp_path}/s{k}.h5 entry 1.1" for k in (1, 2, 10)]
    made = ledger.group_provenance(tmp_path / "s.zarr", "raw")[1]["ingest"]
    assert made["layers"] == [[f"s{k}.h5", "1.1", k] for k in (1, 2, 10)]


@pytest.mark.parametrize("scan", ["", ",", " , ", [], [""]])
def test_named_scans__without_a_name_list_what_there_is(tmp_path: Path, scan: str | list[str]) -> None:
    write_bliss(tmp_path / "m.h5", layers=2)
    with pytest.raises(SourceError, match=r"no entry is given; entries are 1\.1, 2\.1"):
        named_scans(tmp_path / "m.h5", scan)


@pytest.mark.parametrize("scan", ["1.1,1.1", "2.1, 1.1, 2.1", ["1.1", " 1.1"]])
def test_named_scans__an_entry_named_twice_is_refused(tmp_path: Path, scan: str | list[str]) -> None:
    with pytest.raises(SourceError, match=r"entry [12]\.1: is named twice; give each entry once"):
        named_scans(tmp_path / "m.h5", scan)


def test_sources__edf_files_of_a_folder_are_a_series(tmp_path: Path) -> None:
    motors = {"mu": 0.1 * np.arange(6)}
    for k in (1, 2, 10):
        write_edf(tmp_path / f"z{k}", known_counts(6, seed=k), title="ascan mu 0 0.5 5 1", motors=motors)
    found = sources([str(tmp_path / "z[0-9]*" / "*.edf"), str(tmp_path / "m.h5")])
    assert [f if isinstance(f, str) else Path(f[0]).parent.name for f in found] == [
        "z1",
        "z2",
        "z10",
        f"{tmp_path}/m.h5",
    ]
    dfxm_dask.ingest(tmp_path / "z*" / "s*.edf", tmp_path / "s.zarr", z=[1, 2, 10])
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    for k in (1, 2, 10):
        np.testing.assert_array_equal(raw.counts.sel(z=k).values, known_counts(6, seed=k))


def test_sources__edf_files_that_hold_whole_scans_are_layers(tmp_path: Path) -> None:
    motors = {"mu": 0.1 * np.arange(6)}
    for k in (3, 20):
        counts = known_counts(6, seed=k)
        write_edf(tmp_path, counts, title="ascan mu 0 0.5 5 1", motors=motors, per_file=6, names=[f"l{k}.edf"])
    assert sources(str(tmp_path / "*.edf")) == [f"{tmp_path}/l3.edf", f"{tmp_path}/l20.edf"]


def test_find_masters__takes_roots_and_files_that_exist_as_they_are(tmp_path: Path) -> None:
    for folder in ("run[1]", "run1", "run[2]x"):
        (tmp_path / folder).mkdir()
        write_bliss(tmp_path / folder / "s.h5")
    own, other = tmp_path / "run[1]" / "s.h5", tmp_path / "run1" / "s.h5"
    for pattern, expected in (
        (tmp_path / "run[1]", [own]),
        (own, [own]),
        (tmp_path / "run[1]" / "*.h5", [own]),
        (tmp_path / "run?", [other]),
    ):
        night = Nightly(raw=[str(pattern)], report=str(tmp_path), processed=f"{tmp_path}/out/{{relative}}")
        found = find_masters(night)
        assert ([path for path, _ in found.masters], found.faults, found.notes) == (expected, (), ())
    assert {Path(f[0]) for f in look(str(own), ["1.1"], night).files} == {own}


def test_beside__names_a_file_after_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert beside("s.zarr", "_x.png") == Path("s_x.png")
    assert beside("run.1.zarr/", ".html") == Path("run.1.html")
    assert beside(".", ".html") == tmp_path.with_suffix(".html")
    assert beside("..", ".html") == tmp_path.parent.with_suffix(".html")


@pytest.mark.parametrize("name", ["s:beams", "s.zarr:beams/defects", "a[1]:truth"])
def test_open_mask__a_store_that_exists_is_not_taken_apart(tmp_path: Path, name: str) -> None:
    store = tmp_path / name
    mask = np.arange(24).reshape(2, 3, 4) % 2 == 0
    store.parent.mkdir(exist_ok=True)
    groups = {"volume": {"dislocation": (("z", "y", "x"), mask)}}
    write_store(store, groups, z=range(2), y=range(3), x=range(4))
    assert open_mask(store).path == store


@pytest.mark.parametrize("source", [None, 7, b"m.h5", [3], [None, "m.h5"]])
def test_ingest__a_source_that_is_no_name_is_refused(tmp_path: Path, source: Any) -> None:
    with pytest.raises(SourceError, match="not a file"):
        dfxm_dask.ingest(source, tmp_path / "s.zarr")
