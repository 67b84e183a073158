"""Readers are found by what a path holds, one for each path, and plug-ins are readers as ours are."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import DfxmError, SourceError
from dfxm_dask.sources import readers
from dfxm_dask.sources.source import Axis, Roi, Scan, load_beamline
from tests.beamline_files import known_counts, write_bliss, write_edf
from tests.store.test_geo import write_geo

COUNTS = known_counts(4)
LINE = load_beamline("id03")


def raw_reader(name: str = "raw", narrows: tuple[str, ...] = ()) -> types.ModuleType:
    """A format of another package: files .raw of counts of 12 x 10, scanned along mu by 0.1 degree."""

    class Plug(types.ModuleType):
        summary = "counts without a header"

        def matches(self, paths: Sequence[str]) -> bool:
            return all(path.endswith(".raw") for path in paths)

        def sources(self, paths: Sequence[str]) -> list[list[str]]:
            return [[path] for path in paths]

        def scans(self, paths: Sequence[str], roots: tuple[Path, ...]) -> list[tuple[str, str]]:
            return [("1.1", "raw")]

        def read(self, paths: Sequence[str], entry: str, how: readers.How) -> Scan:
            count = Path(paths[0]).stat().st_size // 240
            axis = Axis("phi", "mu", 0.1 * np.arange(count), "degree", source="given", position="given by the format")
            return Scan(
                paths[0],
                entry,
                "raw",
                (axis,),
                np.arange(count),
                (12, 10),
                np.dtype("u2"),
                (),
                "raw",
                commanded=count,
                found=count,
                remarks=("nothing is known of the beam",),
            )

        def frames(self, scan: Scan, roi: Roi) -> Iterator[tuple[int, np.ndarray]]:
            y0, y1, x0, x1 = roi
            yield from enumerate(np.fromfile(scan.source, "u2").reshape(-1, 12, 10)[:, y0:y1, x0:x1])

    module = Plug("plugged")
    module.name, module.narrows = name, narrows  # type: ignore[attr-defined]
    return module


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A way to install readers of other packages."""

    def install(*modules: Any) -> None:
        points = []
        for k, module in enumerate(modules):
            monkeypatch.setitem(sys.modules, f"plugged_{k}", module)
            points.append(EntryPoint(f"plug{k}", f"plugged_{k}", readers.GROUP))
        monkeypatch.setattr(readers, "entry_points", lambda group: [p for p in points if p.group == group])
        readers.known_readers.cache_clear()

    yield install
    readers.known_readers.cache_clear()


def test_known_readers__have_all_that_a_reader_needs() -> None:
    known = readers.known_readers()
    assert {"bliss", "edf", "frames", "dfxm-geo"} <= set(known)
    for name, reader in known.items():
        assert name == reader.name
        assert all(hasattr(reader, word) for word in readers.WORDS)
        assert 20 < len(reader.summary) < 120
        assert set(reader.narrows) <= set(known) - {name}
        assert not reader.matches(["no such folder/no such file.xyz"])


def test_reader_of__files_and_folders(tmp_path: Path) -> None:
    motors = {"mu": 0.1 * np.arange(4)}
    write_bliss(tmp_path / "m.h5")
    edfs = write_edf(tmp_path / "edf", COUNTS, title="ascan mu 0 0.3 3 1", motors=motors)
    (tmp_path / "edf" / "notes.csv").write_text("mu\n1\n")  # a folder of EDF files stays one
    (tmp_path / "t").mkdir()
    tifffile.imwrite(tmp_path / "t" / "a_1.tif", COUNTS[0])
    geo, _ = write_geo(tmp_path / "geo", phi=np.linspace(-1e-3, 1e-3, 4))
    for paths, name in (
        (["m.h5"], "bliss"),
        (["geo/dfxm_geo.h5"], "dfxm-geo"),
        (["edf"], "edf"),
        ([f"edf/{f.name}" for f in edfs], "edf"),
        (["t"], "frames"),
        (["t/a_1.tif"], "frames"),
        (["edf", "edf/notes.csv"], "frames"),
        (["m.h5", "edf/notes.csv"], "frames"),
        (["geo/scan0001/dfxm_sim_detector_0000.h5"], "bliss"),
    ):
        assert readers.reader_of([str(tmp_path / path) for path in paths]).name == name, paths
    assert readers.read_scan(geo, format="bliss", beamline=LINE).format == "bliss"
    mixed = readers.sources([tmp_path / "m.h5", *edfs[:2], geo, tmp_path / "edf"])
    assert mixed == [str(tmp_path / "m.h5"), [str(f) for f in edfs[:2]], str(geo), str(tmp_path / "edf")]


def test_ingest__by_a_reader_of_another_package(tmp_path: Path, plugged: Any) -> None:
    plugged(raw_reader())
    COUNTS.tofile(tmp_path / "a.raw")
    result = CliRunner().invoke(cli, ["ingest", str(tmp_path / "a.raw"), str(tmp_path / "s.zarr")])
    assert result.exit_code == 0, result.output
    assert "note: nothing is known of the beam" in result.output
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    np.testing.assert_array_equal(raw.counts.values[0], COUNTS)
    assert "counts without a header" in CliRunner().invoke(cli, ["formats"]).output


def test_refuses__a_path_of_several_formats(tmp_path: Path, plugged: Any) -> None:
    plugged(raw_reader("raw"), raw_reader("raw2"))
    COUNTS.tofile(tmp_path / "a.raw")
    words = r"a\.raw: matches several formats: raw, raw2; use --format raw or --format raw2"
    with pytest.raises(SourceError, match=words):
        dfxm_dask.ingest(tmp_path / "a.raw", tmp_path / "s.zarr")
    assert readers.read_scan(tmp_path / "a.raw", format="raw2", beamline=LINE).format == "raw2"
    plugged(raw_reader("raw"), raw_reader("raw2", narrows=("raw",)))
    assert readers.reader_of(["b.raw"]).name == "raw2"


@pytest.mark.parametrize("what", ["number", "several", "nothing"])
def test_refuses__a_path_of_no_format_and_names_those_there_are(tmp_path: Path, what: str) -> None:
    (tmp_path / "a.dat").write_bytes(b"counts" if what != "nothing" else b"")
    write_bliss(tmp_path / "m.h5")
    paths = [tmp_path / "a.dat", *([tmp_path / "m.h5"] if what == "several" else [])]
    with pytest.raises(SourceError, match=r"a\.dat: is .*\(formats: bliss, edf, frames, dfxm-geo"):
        readers.sources(paths)
    with pytest.raises(SourceError, match=r"a\.dat.*: (is|match) .*bliss, edf, frames, dfxm-geo"):
        readers.read_scan(paths, beamline=LINE)


@pytest.mark.parametrize("fault", ["lacks", "twice", "raises"])
def test_refuses__plug_ins_that_are_no_readers(plugged: Any, fault: str) -> None:
    module: Any = raw_reader("edf" if fault == "twice" else "raw")
    if fault == "lacks":
        module = types.SimpleNamespace(name="raw", matches=lambda paths: False)
    plugged(module)
    if fault == "raises":
        del sys.modules["plugged_0"]
        readers.known_readers.cache_clear()
    words = {
        "lacks": "has no summary, narrows, sources",
        "twice": "has the same name as another reader, edf",
        "raises": "be loaded",
    }
    with pytest.raises(SourceError, match=rf"reader plug0 of .*{words[fault]}.*; repair or uninstall that package"):
        readers.known_readers()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "blis"}, r"format 'blis': is unknown.*bliss.*; choose from bliss, edf"),
        ({"positions": "title"}, "positions='title': is unknown; give 'motor' or 'command'"),
        ({"repeats": "3"}, "repeats='3': is unknown; give 'point' or 'scan'"),
    ],
)
def test_ingest__refuses_choices_that_there_are_not(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    write_bliss(tmp_path / "m.h5")
    with pytest.raises(DfxmError, match=words):
        dfxm_dask.ingest(tmp_path / "m.h5", tmp_path / "s.zarr", **options)


@pytest.mark.parametrize("off", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("mode", ["REWIND", "ZIGZAG"])
def test_read_scan__positions_are_those_of_motors_or_of_the_command(tmp_path: Path, mode: str, off: float) -> None:
    slow, fast = np.divmod(np.arange(15), 5)
    fast = np.where(slow % 2, 4 - fast, fast) if mode == "ZIGZAG" else fast
    read = {"chi": 0.1 * slow, "mu": 0.02 * fast + 0.01 * off}  # off by steps: commanded steps are 0.01
    grid: dict[str, Any] = {"command": "fscan2d", "motors": ("chi", "mu"), "shape": (3, 5), "starts": (0, 0)}
    path = write_bliss(tmp_path / "m.h5", **grid, steps=(0.1, 0.01), mode=mode, readbacks=read).path
    with pytest.raises(SourceError, match="steps from the command"):
        readers.read_scan(path, beamline=LINE)
    scan = readers.read_scan(path, beamline=LINE, positions="motor")
    np.testing.assert_allclose(scan.axes[1].positions, 0.02 * np.arange(5) + 0.01 * off)
    assert (scan.axes[1].source, scan.axes[1].commanded_step) == ("read", None)
    np.testing.assert_array_equal(scan.order, slow * 5 + fast)
    scan = readers.read_scan(path, beamline=LINE, positions="command")
    np.testing.assert_allclose(np.diff(scan.axes[1].positions), 0.01)
    assert scan.axes[1].source == "commanded"
    assert "ignored on request" in scan.axes[1].position


def test_read_scan__positions_of_motors_need_them(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", positioner="absent").path
    with pytest.raises(SourceError, match="has no position of motor mu for each frame; use --positions command"):
        readers.read_scan(path, beamline=LINE, positions="motor")
    mixed = {"mu": np.random.default_rng(0).permutation(15) * 0.01, "chi": 0.1 * (np.arange(15) // 5)}
    grid: dict[str, Any] = {"command": "fscan2d", "motors": ("chi", "mu"), "shape": (3, 5), "starts": (0, 0)}
    path = write_bliss(tmp_path / "n.h5", **grid, steps=(0.1, 0.01), readbacks=mixed).path
    with pytest.raises(SourceError, match=r"motor mu|reverses"):
        readers.read_scan(path, beamline=LINE, positions="motor")
