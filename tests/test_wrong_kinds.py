"""Every command that takes a store or a file says in one line what it got instead, and what to name."""

from __future__ import annotations

import bz2
import gzip
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

from dfxm_dask.catalogue import load_reductions
from dfxm_dask.cli import cli
from dfxm_dask.store.integrity.nodes import create_group, write_small
from tests.beamline_files import known_counts, write_bliss, write_edf
from tests.stores import raw_store


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load_reductions()
    store = raw_store(tmp_path_factory.mktemp("own"))
    create_group(store, "volume", {})
    write_small(store, "volume", "dislocation", ("z", "y", "x"), np.ones((1, 12, 10), bool), {})
    return store


def hdf5(**content: object) -> Callable[[Path, Path], Path]:
    def make(folder: Path, own: Path) -> Path:
        with h5py.File(folder / "f.h5", "w") as file:
            for name, value in content.items():
                file[name.replace("__", "/")] = value
        return folder / "f.h5"

    return make


def words(name: str, data: bytes) -> Callable[[Path, Path], Path]:
    def make(folder: Path, own: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def folder_of(name: str, *inside: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, own: Path) -> Path:
        (folder / name).mkdir()
        for file in inside:
            (folder / name / file).write_bytes(b"x")
        return folder / name

    return make


def with_store_in_it(folder: Path, own: Path) -> Path:
    shutil.copytree(own, folder / "night" / "s[1].zarr")
    return folder / "night"


def edf(folder: Path, own: Path) -> Path:
    motors = {"mu": 0.1 * np.arange(3), "samz": np.zeros(3)}
    return write_edf(folder, known_counts(3), title="ascan mu 0 0.2 2 1", motors=motors, per_file=3)[0]


def packed(folder: Path, own: Path) -> Path:
    with zipfile.ZipFile(folder / "s.zarr.zip", "w") as archive:
        archive.write(own / "zarr.json", "zarr.json")
    return folder / "s.zarr.zip"


def foreign(folder: Path, own: Path) -> Path:
    xr.Dataset({"v": ("x", np.ones(3))}, {"x": np.arange(3.0)}).to_zarr(folder / "x.zarr", consolidated=False)
    return folder / "x.zarr"


def format_2(folder: Path, own: Path) -> Path:
    zarr.open_group(str(folder / "two.zarr"), mode="w", zarr_format=2).create_array("a", shape=(3,), dtype="i4")
    return folder / "two.zarr"


def lone_array(folder: Path, own: Path) -> Path:
    zarr.create_array(str(folder / "a.zarr"), shape=(3,), dtype="i4")
    return folder / "a.zarr"


def lost(folder: Path, own: Path) -> Path:
    shutil.copytree(own, folder / "l.zarr")
    (folder / "l.zarr" / "zarr.json").unlink()
    return folder / "l.zarr"


def nowhere(folder: Path, own: Path) -> Path:
    (folder / "link").symlink_to(folder / "away")
    return folder / "link"


CAMERA = hdf5(entry_0000__measurement__data=known_counts(3))
# Kind: how it is made; what is said of it where a store is asked, and where a raw file is.
KINDS: dict[str, tuple[Callable[[Path, Path], Path], str, str]] = {
    "nothing": (lambda folder, own: folder / "gone", "does not exist; check the path", "exist; check the path"),
    "below a file": (lambda folder, own: own / "zarr.json" / "x", "does not exist; give the store", "check the path"),
    "link to nowhere": (nowhere, "is a link to .*away, which does not exist|does not exist", "exist; check the path"),
    "device": (lambda folder, own: Path("/dev/null"), "is neither a file nor a folder", "nor a folder; give"),
    "folder": (folder_of("f"), "is a folder but not a store", "is a folder without .edf files; give the master"),
    "folder called scan.h5": (folder_of("scan.h5"), "is a folder but not a store", "a folder without .edf files"),
    "folder of masters": (folder_of("m", "s2.h5", "s10.h5"), "folder but not a", r"give a master file: .*s2\.h5"),
    "folder of stores": (with_store_in_it, r"choose one of .*s\[1\]\.zarr", "is a folder without .edf files"),
    "empty file": (words("e.h5", b""), "is an empty file", "is an empty file; give the master file"),
    "text called .h5": (words("t.h5", b"{a: 1}\n"), "is a file of an unknown kind", "is not an HDF5 file; give"),
    "text called .edf": (words("t.edf", b"scan 1\n"), "is an EDF file", "is not a readable EDF file"),
    "empty .edf": (words("t.edf", b""), "is an empty file", "is not a readable EDF file"),
    "header alone": (words("t.edf", b"{\nscan = 1 ;\n}\n"), "is an EDF file", "frame 0 has shape"),
    "gzip that is none": (words("t.edf.gz", b"{\n}\n"), "is an EDF file", "is not a readable EDF file|cannot be read"),
    "gzip of nothing": (words("t.edf.gz", gzip.compress(b"")), "is an EDF file", "is not a readable EDF file"),
    "bzip2": (words("t.tar.bz2", bz2.compress(b"x")), "a bzip2 file; unpack it", "a bzip2 file; give the master"),
    "NumPy": (words("t.npy", b"\x93NUMPY\x01\0"), "is a NumPy file", "is a NumPy file; give the master"),
    "NetCDF 3": (words("t.nc", b"CDF\x01\0\0"), "is a NetCDF file", "is a NetCDF file"),
    "EDF": (edf, "is an EDF file; ingest it first", ""),
    "master": (lambda folder, own: write_bliss(folder / "m.h5").path, "is an HDF5 file; ingest it first", ""),
    "camera file": (
        CAMERA,
        "is an HDF5 file; ingest",
        "contains no scan .*but entry_0000; give the master file of BLISS",
    ),
    "maps in HDF5": (hdf5(mean=np.ones((3, 3)), covariance=np.ones(3)), "is an HDF5 file", "but covariance, mean"),
    "empty HDF5": (hdf5(), "is an HDF5 file", "but nothing; give the master"),
    "slow chain alone": (hdf5(**{"1.2__title": "x"}), "is an HDF5 file", r"contains no scan .* but 1\.2"),
    "entry that is none": (hdf5(**{"1.1": np.ones(3)}), "is an HDF5 file", r"entry 1\.1: is not a group"),
    "entry without anything": (hdf5(**{"1.1__a": 1}), "is an HDF5 file", "neither a title nor fscan_parameters"),
    "zip": (packed, "is a zip archive; unpack it, then give the store", "is a zip archive; give the master"),
    "foreign Zarr": (foreign, "in Zarr format 3, of another program; give a store", "in Zarr format 3, of another"),
    "Zarr format 2": (format_2, "is in Zarr format 2, of another program; give", "is in Zarr format 2"),
    "lone array": (lone_array, "in Zarr format 3, of another program", "in Zarr format 3, of another program"),
    "group of a store": (lambda folder, own: own / "raw", r"a part of the store .*; give the store", "a part of"),
    "array of a store": (lambda folder, own: own / "raw/counts", r"give the store .*s\.zarr", "a part of the store"),
    "file of a store": (lambda folder, own: own / "zarr.json", r"a file in the store .*; give", "in the store"),
    "lost root": (lost, "is a store without its zarr.json; restore", "is a store without"),
    "store": (lambda folder, own: own, "", "is a store of this package; give the master"),
}

STORES = (
    "info @",
    "check maps @",
    "plan maps @",
    "run maps @ --shard 1/2",
    "reduce moments @ --workers 1",
    "figures @ +/figures",
    "report @",
    "compare @ !",
    "compare ! @",
    "compare @:beams/defects !",
    "export @ +/files",
    "verify @",
    "verify @ --repair",
    "verify @ --deep 1",
    "train @ --labels truth --out +/w.safetensors",
    "train ! @ --labels prior --out +/w.safetensors",
)
RAW = (
    "ingest @ +/new.zarr",
    "ingest @ +/new.zarr --scan all",
    "ingest @ +/new.zarr --scan 1.1",
    "ingest @ +/n.zarr --z 1",
)


def refused(line: str, path: Path, own: Path, folder: Path) -> str:
    marks = {"@": str(path), "!": str(own), "+": str(folder)}
    given = ["".join(marks.get(c, c) for c in word) for word in line.split()]
    result = CliRunner().invoke(cli, given)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2), result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize("kind", [kind for kind, (_, said, _) in KINDS.items() if said])
def test_commands__refuse_what_is_no_store(kind: str, own: Path, tmp_path: Path) -> None:
    make, said, _ = KINDS[kind]
    path = make(tmp_path, own)
    before = sorted(tmp_path.rglob("*"))
    for line in STORES:
        if kind == "lost root" and line.startswith("verify"):
            continue  # it tells all that is wrong with a damaged store, and this is one of them
        stderr = refused(line, path, own, tmp_path)
        assert re.search(said, stderr), f"{line}: {stderr}"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [kind for kind, (_, _, said) in KINDS.items() if said])
def test_commands__refuse_what_is_no_raw_file(kind: str, own: Path, tmp_path: Path) -> None:
    make, _, said = KINDS[kind]
    path = make(tmp_path, own)
    before = sorted(tmp_path.rglob("*"))
    for line in RAW:
        stderr = refused(line, path, own, tmp_path)
        assert re.search(said, stderr), f"{line}: {stderr}"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["nothing", "folder", "camera file", "empty file", "zip", "store", "NumPy", "device"])
@pytest.mark.parametrize(
    "line",
    [
        "nightly @",
        "run @ !",
        "check @ !",
        "plan @ !",
        "explain @",
        "reductions --plugin @",
        "run maps ! --cluster @",
        "ingest + +/n.zarr --beamline @",
        "train ! --labels @ --out +/w.safetensors",
        "train ! --labels truth --start @ --out +/w.safetensors",
    ],
)
def test_commands__refuse_other_files_than_they_ask_for(line: str, kind: str, own: Path, tmp_path: Path) -> None:
    assert refused(line, KINDS[kind][0](tmp_path, own), own, tmp_path)


@pytest.mark.parametrize("line", ["report .", "report ..", "compare . .", "export . out"])
def test_commands__refuse_the_current_folder(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert "is a folder but not a store" in refused(line, tmp_path, tmp_path, tmp_path)


def test_report__of_the_current_folder_lies_beside_it(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(own, tmp_path / "s.zarr")
    monkeypatch.chdir(tmp_path / "s.zarr")
    assert CliRunner().invoke(cli, ["report", "."]).exit_code == 0
    assert (tmp_path / "s.html").exists()
