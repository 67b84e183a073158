"""Broken inputs through the command line: each refused before any computing, in one line that says which file and why.

The readers' own tests look closer at each refusal; here it is the way from a broken file to what a user sees, and that
nothing is left at the target that could be taken for a result.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.beams.network.weights import shipped
from dfxm_dask.cli import cli
from dfxm_dask.errors import DfxmError
from tests.beamline_files import CAMERA_DATA, known_counts, write_bliss, write_edf, write_lima
from tests.store.test_bliss_refusals import ASCAN, FSCAN2D, edit, replace
from tests.stores import raw_store

Made = tuple[list[str], str]
"""Words of a command, and what its refusal must match."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two layers; commands are given copies of it."""
    folder = tmp_path_factory.mktemp("sound")
    return raw_store(folder, layers=2, shape=(5,), size=(64, 70), pixel_size=(0.5, 0.25))


def refusal(words: list[str]) -> str:
    """The line of a command that must be refused."""
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in line
    assert "; " in line  # what is wrong; what to do
    return line


# Beamline files.


def bliss(match: str, entry: str = "1.1", change: Callable[[h5py.File], None] | None = None, **options: Any) -> Any:
    """A maker of a master file with something wrong in it."""

    def make(folder: Path) -> Made:
        path = write_bliss(folder / "m.h5", **options).path
        if change is not None:
            with edit(path) as file:
                change(file)
        return ["ingest", str(path), str(folder / "out.zarr"), "--scan", entry], match

    return make


def motor(values: np.ndarray) -> Callable[[h5py.File], None]:
    return lambda file: replace(file, "1.1/instrument/mu/value", values)


def spoiled(name: str, change: Callable[[bytes], bytes], match: str, **options: Any) -> Any:
    """A maker of a scan of which one file has other bytes."""

    def make(folder: Path) -> Made:
        path = write_bliss(folder / "m.h5", **options).path
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        return ["ingest", str(path), str(folder / "out.zarr")], match

    return make


def camera(link: Callable[[Path], Any], match: str) -> Any:
    """A maker of a scan whose frames are a link."""

    def make(folder: Path) -> Made:
        path = write_bliss(folder / "m.h5", link="instrument").path
        with edit(path) as file:
            del file["1.1/instrument/pco_ff/data"]
            file["1.1/measurement/pco_ff"] = link(folder)
        return ["ingest", str(path), str(folder / "out.zarr"), "--scan", "1.1"], match

    return make


def outside(folder: Path) -> Any:
    (far,) = write_lima(folder.parent / f"{folder.name}_far", known_counts(30), name="a", per_file=30)
    return h5py.ExternalLink(str(far), CAMERA_DATA)


def lost_source(folder: Path) -> Made:
    path = write_bliss(folder / "m.h5", link="vds").path
    (folder / "scan0001" / "pco_ff_0001.h5").unlink()
    return ["ingest", str(path), str(folder / "out.zarr")], r"m\.h5 entry 1\.1: frames before 20 are missing"


def raw_storage(folder: Path) -> Made:
    path = write_bliss(folder / "m.h5", link="instrument").path
    with edit(path) as file:
        del file["1.1/instrument/pco_ff/data"]
        endless = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("1.1/instrument/pco_ff/data", (30, 12, 10), "u2", external=endless)
    return ["ingest", str(path), str(folder / "out.zarr")], r"m\.h5 is external raw storage \(/etc/passwd\)"


def unwritten(file: h5py.File) -> None:
    del file["1.1/measurement/pco_ff"]
    file.create_dataset("1.1/measurement/pco_ff", (30, 12, 10), "u2", chunks=(1, 12, 10))[:20] = known_counts(20)


def no_detector(file: h5py.File) -> None:
    del file["1.1/measurement/pco_ff"]


def layers(match: str, **options: Any) -> Any:
    def make(folder: Path) -> Made:
        path = write_bliss(folder / "m.h5", layers=2, **options).path
        return ["ingest", str(path), str(folder / "out.zarr"), "--scan", "all"], match

    return make


def other_layers(folder: Path) -> Made:
    write_bliss(folder / "a.h5")
    write_bliss(folder / "b.h5", size=(12, 11), base=7)
    words = ["ingest", str(folder / "a.h5"), str(folder / "b.h5"), str(folder / "out.zarr"), "--scan", "1.1"]
    return words, r"b\.h5 entry 1\.1: frame shape is \(12, 11\)"


def edf(match: str, change: Callable[[list[Path]], None] = lambda files: None, **options: Any) -> Any:
    def make(folder: Path) -> Made:
        motors = {"mu": 0.1 * np.arange(6), "samz": np.full(6, 0.25)}
        given = {"title": "ascan mu 0 0.5 5 1", "motors": motors} | options
        change(write_edf(folder / "edf", known_counts(6), **given))
        return ["ingest", str(folder / "edf"), str(folder / "out.zarr")], match

    return make


def shorter(files: list[Path]) -> None:
    files[2].write_bytes(files[2].read_bytes()[:-7])


def words_of(text: bytes, name: str, match: str) -> Any:
    """A maker of a file that is no master file."""

    def make(folder: Path) -> Made:
        (folder / name).write_bytes(text)
        return ["ingest", str(folder / name), str(folder / "out.zarr")], match

    return make


def nothing_there(folder: Path) -> Made:
    return ["ingest", str(folder / "none.h5"), str(folder / "out.zarr")], r"none\.h5 cannot be opened \(No such file"


INGESTS: dict[str, Callable[[Path], Made]] = {
    "no such file": nothing_there,
    "no HDF5": words_of(b"fscan mu 0 1 2", "m.h5", r"m\.h5 is not an HDF5 file"),
    "empty file": words_of(b"", "m.h5", r"m\.h5 is an empty file"),
    "EDF of nothing": words_of(b"nothing", "m.edf", r"m\.edf: is not a readable EDF file"),
    "truncated master": spoiled("m.h5", lambda b: b[:-3000], r"m\.h5 is truncated", compression=None),
    "truncated camera file": spoiled(
        "scan0001/pco_ff_0001.h5", lambda b: b[:-400], r"pco_ff_0001\.h5 is truncated", link="vds"
    ),
    "no such entry": bliss(r"m\.h5 entry 7\.1: does not exist", "7.1"),
    "slow sensors": bliss(r"m\.h5 entry 1\.2: is not a scan with frames", "1.2"),
    "entry that climbs": bliss(r"entry \.\./\.\./x: does not exist", "../../x"),
    "no command": bliss(r"m\.h5 entry 1\.1: has neither a title", title="", parameters=False),
    "unknown command": bliss("unknown scan command 'fscan3d", title="fscan3d mu 0 1", parameters=False),
    "command cut short": bliss("ends before the command is complete", title="fscan mu 0.29", parameters=False),
    "command disagrees": bliss(r"title gives mu \(29\)", title="fscan mu 0.29 0.001 29 0.5"),
    "unknown motor": bliss("motor hexapod_rx is not mapped", motors=("hexapod_rx",)),
    "two motors of one axis": bliss("are both mapped to phi", **(FSCAN2D | dict(motors=("diffrz", "diffry")))),
    "scan of the layer motor": bliss("scans samz", **(ASCAN | dict(motors=("samz",)))),
    "unknown way": bliss("fast_motor_mode is 'SPIRAL'", mode="SPIRAL", **FSCAN2D),
    "motor that climbs": bliss("is not a name", title="ascan ../../x 0 1 29 0.5", parameters=False),
    "step of nothing": bliss("by steps of 0", title="ascan chi 0.5 0.5 10 0.5", **ASCAN),
    "aborted": bliss("25 of 30 frames", recorded=25),
    "too many frames": bliss("command requests 28", title="fscan mu 0.29 0.001 28 0.5", parameters=False),
    "motor too short": bliss("motor mu has 23 positions for 30 frames", change=motor(np.arange(23.0))),
    "motor of NaN": bliss("motor mu is nan at frame 0", change=motor(np.full(30, np.nan))),
    "motor at infinity": bliss("motor mu is inf at frame 0", change=motor(np.full(30, np.inf))),
    "motor that stood still": bliss("motor mu did not move", change=motor(np.full(30, 0.3))),
    "motor that runs back": bliss("motor mu is .* at frame", change=motor(0.319 - 0.001 * np.arange(30))),
    "motor elsewhere": bliss("more than half a step off", change=motor(1 + 0.001 * np.arange(30))),
    "no detector": bliss("has no detector", change=no_detector),
    "counts that are floats": bliss(
        "contains float32, not counts",
        change=lambda f: replace(f, "1.1/measurement/pco_ff", known_counts(30).astype("f4")),
    ),
    "frames without pixels": bliss(
        "frames of 0 x 10 pixels", change=lambda f: replace(f, "1.1/measurement/pco_ff", np.zeros((30, 0, 10), "u2"))
    ),
    "frames never written": bliss("has 20 of 30 frames written", change=unwritten),
    "lost source": lost_source,
    "lost camera file": camera(lambda f: h5py.ExternalLink("lost.h5", "x"), r"lost\.h5, which is missing"),
    "camera file outside": camera(outside, r"a_0000\.h5, outside .*declare its folder with --root"),
    "links in a circle": camera(lambda f: h5py.SoftLink("/1.1/measurement/pco_ff"), "more than 16 links in a row"),
    "raw storage of another file": raw_storage,
    "layers at one place": layers(r"m\.h5 entry 2\.1: is at samz", z_step=0.0),
    "layers of other frames": other_layers,
    "EDF file lost": edf("point_no of the frames are not consecutive", lambda files: files[2].unlink()),
    "EDF file cut": edf(r"strain_0002\.edf: has 7 missing bytes", shorter),
    "EDF of another command": edf("unknown scan command", title="zscan mu 0 0.5 5 1"),
    "EDF aborted": edf("6 of 9 frames", title="ascan mu 0 0.8 8 1"),
}


@pytest.mark.parametrize("case", INGESTS)
def test_ingest__refuses_with_one_line_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    words, match = INGESTS[case](tmp_path)
    line = refusal(words)
    assert re.search(match, line), line
    assert tmp_path.name in line  # the file is named with its folder
    assert not (tmp_path / "out.zarr").exists()


def test_ingest__frame_that_turns_out_unreadable_leaves_nothing_that_opens(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", compression="gzip", size=(60, 50)).path
    with h5py.File(path, "r") as file:
        where = file["1.1/measurement/pco_ff"].id.get_chunk_info(13)
    data = bytearray(path.read_bytes())
    data[where.byte_offset + 8 : where.byte_offset + 80] = bytes(72)
    path.write_bytes(data)
    assert re.search(
        r"frame 13 of .*m\.h5::/1\.1/measurement/pco_ff cannot be read",
        refusal(["ingest", str(path), str(tmp_path / "out.zarr")]),
    )
    with pytest.raises(DfxmError, match=r"0 of 1 blocks|does not exist"):
        dfxm_dask.open_scan(tmp_path / "out.zarr")
    assert "out.zarr" in refusal(["run", "maps", str(tmp_path / "out.zarr")])


# Stores.


def meta(path: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the metadata of a node."""

    def make(store: Path) -> None:
        file = store / path / "zarr.json"
        data = json.loads(file.read_bytes())
        if "provenance" in data.get("attributes", {}):  # a mapping, as earlier versions wrote it, is easier to change
            data["attributes"]["provenance"] = json.loads(data["attributes"]["provenance"])
        change(data)
        file.write_text(json.dumps(data))

    return make


def regular(*chunk: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": chunk}}


def provenance(**words: Any) -> Callable[[Path], None]:
    return meta("raw", lambda m: m["attributes"]["provenance"]["ingest"].update(words))


def bytes_of(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda store: (store / path).write_bytes(change((store / path).read_bytes())) and None


def gone(path: str) -> Callable[[Path], None]:
    return lambda store: shutil.rmtree(store / path) if (store / path).is_dir() else (store / path).unlink()


def linked(path: str) -> Callable[[Path], None]:
    """Put a node elsewhere, and a link in its place."""

    def make(store: Path) -> None:
        away = store.parent / "away"
        shutil.move(store / path, away)
        (store / path).symlink_to(away)

    return make


STORES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no store": (gone("zarr.json"), r"s\.zarr: is a store without its zarr\.json; restore the file"),
    "root cut": (bytes_of("zarr.json", lambda b: b[:50]), r"s\.zarr/zarr\.json: is not JSON"),
    "root a list": (bytes_of("zarr.json", lambda b: b"[]"), "is neither a group nor an array"),
    "Zarr format 2": (meta("", lambda m: m.update(zarr_format=2)), "nor an array of Zarr format 3"),
    "newer schema": (meta("", lambda m: m["attributes"].update(schema_version=99)), "upgrade dfxm_dask"),
    "no schema": (meta("", lambda m: m["attributes"].pop("schema_version")), "schema_version of the store: is None"),
    "units of no rows": (meta("", lambda m: m["attributes"].update(unit_rows=0)), "has unit_rows 0"),
    "attributes a text": (meta("raw", lambda m: m.update(attributes="none")), "attributes that are not a mapping"),
    "provenance a list": (
        meta("raw", lambda m: m["attributes"].update(provenance=[])),
        "provenance that is not a mapping",
    ),
    "provenance no JSON": (
        meta("raw", lambda m: m["attributes"].update(provenance="{")),
        "has a provenance that is not JSON",
    ),
    "provenance of texts": (provenance(small_files=["x"]), "in which small_files is not a dict"),
    "counts not described": (gone("raw/counts/zarr.json"), r"raw data of .*s\.zarr: "),
    "counts cut": (bytes_of("raw/counts/zarr.json", lambda b: b[:-9]), r"counts/zarr\.json: is not JSON"),
    "shard lost": (gone("raw/counts/c/1"), r"raw data of .*s\.zarr: 1 of 2 layers"),
    "shard cut": (bytes_of("raw/counts/c/0/0/0/0", lambda b: b[:-1]), r"s\.zarr: 1 of 2 layers"),
    "coordinate lost": (gone("x"), r"has no coordinate x|x.*is missing|1 of 2|0 of 2|is missing"),
    "coordinate of another length": (
        meta("y", lambda m: m.update(shape=[63], chunk_grid=regular(63))),
        r"has 6[34] positions along y, not 6[34]",
    ),
    "coordinate of two dims": (
        meta(
            "y",
            lambda m: m.update(
                shape=[8, 8],
                dimension_names=["y", "x"],
                chunk_grid=regular(8, 8),
            ),
        ),
        "coordinate .*/y: has dims",
    ),
    "ledger lost": (gone("raw/.ledger"), r"raw data of .*s\.zarr"),
    "group that is a link": (linked("raw"), r"s\.zarr/raw: is a link to .*away"),
    "ledger that is a link": (linked("raw/.ledger/ingest.jsonl"), r"ingest\.jsonl: is a link to .*away"),
}


@pytest.mark.parametrize("case", STORES)
def test_check__refuses_broken_stores(sound: Path, tmp_path: Path, case: str) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(sound, store)
    change, match = STORES[case]
    change(store)
    for words in (["check", "maps", str(store)], ["run", "maps", str(store)]):
        line = refusal(words)
        assert re.search(match, line), line
    with pytest.raises(DfxmError):
        dfxm_dask.open_scan(store)


# Recipes, clusters, labels and weights.


def text_file(name: str, text: str, *words: str) -> Callable[[Path], list[str]]:
    """A maker of a file and of the command that reads it: FILE and STORE stand for their paths."""

    def make(folder: Path) -> list[str]:
        (folder / name).write_text(text)
        return [{"FILE": str(folder / name), "STORE": str(folder / "s.zarr")}.get(word, word) for word in words]

    return make


def recipe(text: str) -> Callable[[Path], list[str]]:
    return text_file("own.yaml", text, "run", "FILE", "STORE")


def cluster(text: str) -> Callable[[Path], list[str]]:
    return text_file("own.yaml", text, "run", "maps", "STORE", "--cluster", "FILE")


def labels(name: str, text: str) -> Callable[[Path], list[str]]:
    return text_file(name, text, "train", "STORE", "--labels", "FILE", "--out", "w.safetensors", "--start", "none")


def weights(change: Callable[[Path], Any], name: str = "own.safetensors") -> Callable[[Path], list[str]]:
    """A maker of weights like the shipped ones, changed, and of the training that begins with them."""

    def make(folder: Path) -> list[str]:
        path = folder / name
        path.write_bytes(shipped().read_bytes())
        path.with_suffix(".json").write_bytes(shipped().with_suffix(".json").read_bytes())
        change(path)
        out = str(folder / "new.safetensors")
        return ["train", str(folder / "s.zarr"), "--labels", "prior", "--out", out, "--start", str(path)]

    return make


def told(path: Path, **facts: Any) -> None:
    path = path.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


CONFIGS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "recipe without steps": (recipe("name: a\n"), r"own\.yaml:1: 'steps': is missing"),
    "recipe of an unknown step": (recipe("steps:\n- momens: {}\n"), r"own\.yaml:2: .*did you mean 'moments'"),
    "recipe of an unknown word": (recipe("steps:\n- moments: {backgruond: 3}\n"), r"own\.yaml:2: .*'background'"),
    "recipe out of range": (recipe("steps:\n- background: {quantile: 7}\n"), r"own\.yaml:2: .*less than"),
    "recipe without input": (recipe("steps:\n- kam: {}\n"), r"own\.yaml:2: step kam: reads 'com_phi'"),
    "recipe for two axes": (recipe("steps:\n- background: {}\n- moments: {}\n- mosaicity: {}\n"), "needs 2 scan axes"),
    "recipe of bytes": (recipe("\0\1\2"), r"own\.yaml:\d+: is not YAML"),
    "cluster of no kind": (cluster("workers: 2\n"), r"own\.yaml:1: 'kind': is None"),
    "cluster of an unknown word": (cluster("kind: local\nworker: 2\n"), r"own\.yaml:2: 'worker': .*'workers'"),
    "cluster of no workers": (cluster("kind: local\nworkers: 0\n"), r"own\.yaml:2: 'workers'"),
    "labels of an unknown class": (labels("own.yaml", "- {z: 0, class: weakly}\n"), r"own\.yaml:1: class 'weakly'"),
    "labels without position": (labels("own.csv", "phi,class\n0.1,weak\n"), r"own\.csv:2: 'z': is missing"),
    "labels of ragged rows": (labels("own.csv", "z,class\n1,weak,3\n"), r"own\.csv:2: has 3 cells, the header 2"),
    "weights that are a pickle": (
        weights(lambda p: p.write_bytes(pickle.dumps({}, protocol=4))),
        r"own\.safetensors: are a pickle under",
    ),
    "weights cut": (weights(lambda p: p.write_bytes(p.read_bytes()[:-5])), r"own\.safetensors: have \d+ bytes"),
    "weights alone": (weights(lambda p: p.with_suffix(".json").unlink()), r"own\.json is not beside them"),
    "weights of another network": (
        weights(lambda p: told(p, architecture={"name": "published"})),
        r"own\.safetensors: are not",
    ),
    "weights of any size": (
        weights(lambda p: told(p, architecture={"name": "compact", "options": {"widths": [10**12, 2]}})),
        r"own\.safetensors: say architecture",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_run__refuses_broken_configurations(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    shutil.copytree(sound, tmp_path / "s.zarr")
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    make, match = CONFIGS[case]
    words = make(tmp_path)
    line = refusal(words)
    assert re.search(match, line), line
    new = {p.relative_to(tmp_path) for p in tmp_path.rglob("*")} - set(before)
    assert all(p.name.startswith("own.") for p in new), new


def test_kinds__are_as_many_as_promised() -> None:
    assert len(INGESTS) + len(STORES) + len(CONFIGS) >= 80
