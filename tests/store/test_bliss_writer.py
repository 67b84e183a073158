"""Files that we write as a beamline would: our own readers give back what went in; nothing half-written is left."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.phantoms.beamline_files import write_lima, write_master
from dfxm_dask.phantoms.entry import Entry
from dfxm_dask.sources.readers import list_scans, read_scan
from dfxm_dask.sources.source import load_beamline
from tests.beamline_files import known_counts

MU = (("mu", 0.29, 0.001, 7, "degree"),)
MESH = (("chi", -0.5, 0.08, 3, "degree"), ("diffry", 7.0, 0.06, 4, "degree"))


def readbacks(axes: tuple[Any, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Where motors stand in the middle of the exposure: a part of a step beyond the command, with jitter."""
    counts = [a[3] for a in axes]
    index = np.indices(counts).reshape(len(counts), -1)
    rng = np.random.default_rng(seed)
    return {
        a[0]: a[1] + a[2] * (k + (0.4 if a is axes[-1] else 0.0) + rng.uniform(-0.05, 0.05, k.size))
        for a, k in zip(axes, index, strict=True)
    }


def entry_of(folder: Path, axes: tuple[Any, ...], *, number: int = 1, per_file: int | None = 5, **more: Any) -> Entry:
    """An entry with its frames written."""
    n = int(np.prod([a[3] for a in axes]))
    options: dict[str, Any] = dict(dtype="uint16", exposure=0.3, z=-7.7 + 0.002 * number) | more
    counts = known_counts(n, (20, 30), seed=number, dtype=options["dtype"])
    files = write_lima(folder / f"scan{number:04d}", iter(counts), count=n, frames_per_file=per_file)
    moved = {} if axes[0][0] in ("", "time") else readbacks(axes, number)
    return Entry(
        **{
            "number": number,
            "axes": axes,
            "positions": moved,
            "monitor": 1e6 + 3.0 * np.arange(n) + number,
            "files": files,
            "shape": (20, 30),
            **options,
        }
    )


def stored(master: Path, store: Path) -> Any:
    dfxm_dask.ingest(master, store, scan="all")
    return dfxm_dask.open_scan(store)["raw"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("per_file", [None, 1, 3, 7])
def test_write_master__one_axis_comes_back(tmp_path: Path, dtype: str, per_file: int | None) -> None:
    entry = entry_of(tmp_path, MU, per_file=per_file, dtype=dtype)
    assert sum(n for _, n in entry.files) == 7
    assert len(entry.files) == {None: 1, 1: 7, 3: 3, 7: 1}[per_file]
    raw = stored(write_master(tmp_path / "m.h5", [entry]), tmp_path / "s.zarr")
    assert raw.counts.dims == ("z", "phi", "y", "x")
    np.testing.assert_array_equal(raw.counts.values[0], known_counts(7, (20, 30), seed=1, dtype=dtype))
    np.testing.assert_array_equal(raw.phi.values, entry.positions["mu"])
    assert raw.phi.attrs["units"] == "degree"
    np.testing.assert_array_equal(raw.readback_phi.values[0], entry.positions["mu"])
    np.testing.assert_array_equal(raw.monitor.values[0], entry.monitor)
    np.testing.assert_array_equal(raw.exposure.values[0], 0.3)
    assert raw.z.values.tolist() == [pytest.approx(-7698.0)]
    assert raw.y.attrs["detector_pixel_um"] == 6.5


def test_write_master__two_axes_and_layers_come_back(tmp_path: Path) -> None:
    entries = [entry_of(tmp_path, MESH, number=k) for k in (1, 2, 3)]
    master = write_master(tmp_path / "m.h5", entries[::-1], sample="copper")
    assert list_scans(master) == [(f"{k}.1", "fscan2d chi -0.5 0.08 3 diffry 7 0.06 4 0.3 0.3") for k in (1, 2, 3)]
    raw = stored(master, tmp_path / "s.zarr")
    assert raw.counts.dims == ("z", "chi", "phi", "y", "x")
    np.testing.assert_allclose(raw.z, [-7698.0, -7696.0, -7694.0], rtol=1e-12)
    for k, entry in enumerate(entries):
        grid = known_counts(12, (20, 30), seed=k + 1).reshape(3, 4, 20, 30)
        np.testing.assert_array_equal(raw.counts.values[k], grid)
        np.testing.assert_array_equal(raw.readback_chi.values[k].ravel(), entry.positions["chi"])
        np.testing.assert_array_equal(raw.readback_phi.values[k].ravel(), entry.positions["diffry"])
        np.testing.assert_array_equal(raw.monitor.values[k].ravel(), entry.monitor)
    mean = np.mean([e.positions["chi"].reshape(3, 4).mean(1) for e in entries], axis=0)
    np.testing.assert_allclose(raw.chi.values, mean, atol=1e-12)
    assert dfxm_dask.open_scan(tmp_path / "s.zarr").attrs["title"] == "copper"


@pytest.mark.parametrize("motor", ["", "time"])
def test_write_master__time_series_comes_back(tmp_path: Path, motor: str) -> None:
    entry = entry_of(tmp_path, ((motor, 0.0, 0.35, 9),))
    raw = stored(write_master(tmp_path / "m.h5", [entry]), tmp_path / "s.zarr")
    assert raw.counts.dims == ("z", "time", "y", "x")
    np.testing.assert_array_equal(raw.counts.values[0], known_counts(9, (20, 30), seed=1))
    np.testing.assert_allclose(raw.time.values, 0.35 * np.arange(9), rtol=1e-12)
    np.testing.assert_array_equal(raw.exposure.values[0], 0.3)
    uneven = np.cumsum(np.random.default_rng(0).uniform(0.3, 0.5, 9))
    later = replace(entry, number=2, positions={"time": uneven}, z=None)
    scan = read_scan(write_master(tmp_path / "n.h5", [later]), "2.1", beamline=load_beamline("id03"))
    np.testing.assert_array_equal(scan.axes[0].positions, uneven - uneven[0])
    assert scan.title == "loopscan 9 0.3"
    assert scan.z is None


def test_write_master__scans_down_without_units_or_monitor(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, (("ccmth", 6.8, -0.0005, 6),), monitor=None)
    raw = stored(write_master(tmp_path / "m.h5", [entry]), tmp_path / "s.zarr")
    assert (np.diff(raw.energy) < 0).all()
    np.testing.assert_array_equal(raw.energy.values, entry.positions["ccmth"])
    assert "monitor" not in raw
    assert raw.energy.attrs["units"] == "degree"


def test_write_master__folder_can_be_moved(tmp_path: Path) -> None:
    entry = entry_of(tmp_path / "here", MU)
    write_master(tmp_path / "here" / "m.h5", [entry])
    (tmp_path / "here").rename(tmp_path / "there")
    raw = stored(tmp_path / "there" / "m.h5", tmp_path / "s.zarr")
    np.testing.assert_array_equal(raw.counts.values[0], known_counts(7, (20, 30), seed=1))


def test_write_master__hdf5_alone_reads_the_frames(tmp_path: Path) -> None:
    """What any other reader sees: every path to the frames and to the motors."""
    entry = entry_of(tmp_path, MESH)
    counts = known_counts(12, (20, 30), seed=1)
    with h5py.File(write_master(tmp_path / "m.h5", [entry]), "r") as file:
        here = file["1.1"]
        assert here["instrument/pco_ff/data"].is_virtual
        for path in ("measurement/pco_ff", "instrument/pco_ff/data", "instrument/pco_ff/image"):
            np.testing.assert_array_equal(here[path][...], counts)
        for path in ("instrument/chi/value", "instrument/chi/data", "measurement/chi", "instrument/positioners/chi"):
            np.testing.assert_array_equal(here[path][...], entry.positions["chi"])
        assert here["instrument/positioners/diffry"][()] == entry.positions["diffry"][0]
        assert here["instrument/chi/value"].attrs["units"] == "deg"
        parameters = here["instrument/fscan_parameters"]
        assert parameters["fast_motor_mode"][()] == b"REWIND"
        assert (parameters["slow_npoints"][()], parameters["fast_npoints"][()]) == (3, 4)
        assert (file.attrs["creator"], here.attrs["NX_class"]) == ("dfxm_dask", "NXentry")
    with h5py.File(tmp_path / "scan0001" / "pco_ff_0000.h5", "r") as file:
        frames = file["entry_0000/measurement/data"]
        assert frames.chunks == (1, 20, 30)
        assert "32008" in str(frames._filters)  # bitshuffle
        assert frames.dtype == np.uint16


def test_writer__same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        entry = entry_of(tmp_path / name, MESH)
        master = write_master(tmp_path / name / "m.h5", [entry])
        written.append([master.read_bytes(), *(p.read_bytes() for p in sorted((tmp_path / name).rglob("pco*.h5")))])
    assert written[0] == written[1]
    assert len(written[0]) == 4


def test_write_lima__keeps_one_frame_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def made() -> Iterator[np.ndarray]:
        for k in range(20):
            assert all(ref() is None for ref in alive), f"frame {k - 1} is still there"
            frames = [np.full((40, 50), k, np.uint16)]
            alive.append(weakref.ref(frames[0]))
            yield frames.pop()

    files = write_lima(tmp_path / "scan0001", made(), count=20, frames_per_file=6)
    assert [n for _, n in files] == [6, 6, 6, 2]
    assert len(alive) == 20


def test_write_lima__memory_does_not_grow_with_frames(tmp_path: Path) -> None:
    frame = 300 * 400 * 2
    tracemalloc.start()
    try:
        write_lima(tmp_path / "scan0001", (np.full((300, 400), k, np.uint16) for k in range(60)), count=60)
        assert tracemalloc.get_traced_memory()[1] < 4 * frame
    finally:
        tracemalloc.stop()


def test_write_lima__appears_only_when_whole(tmp_path: Path) -> None:
    folder = tmp_path / "scan0001"

    def looked_at() -> Iterator[np.ndarray]:
        for k in range(6):
            assert list(folder.glob("*.h5")) == []
            yield np.full((4, 5), k, np.uint16)

    write_lima(folder, looked_at(), count=6, frames_per_file=2)
    assert sorted(p.name for p in folder.iterdir()) == [f"pco_ff_000{k}.h5" for k in range(3)]


def failing(kind: str) -> Iterator[np.ndarray]:
    for k in range(9):
        odd = k == 5
        if odd and kind == "stop":
            return
        if odd and kind == "fail":
            raise RuntimeError("no more light")
        shape = (5, 4) if odd and kind == "shape" else (4, 5, 1) if odd and kind == "3-D" else (4, 5)
        yield np.zeros(shape, np.uint8 if odd and kind == "dtype" else np.float32 if kind == "float" else np.uint16)


@pytest.mark.parametrize(
    ("kind", "count", "said"),
    [
        ("stop", 7, "5 of 7 were given"),
        ("", 7, "are more than 7"),
        ("", 10, "9 of 10 were given"),
        ("shape", 9, r"frame 5 of .*scan0001: is uint16 \(5, 4\), the first is uint16 \(4, 5\)"),
        ("dtype", 9, r"frame 5 of .*: is uint8 \(4, 5\), the first is uint16"),
        ("3-D", 9, r"frame 5 of .*: is uint16 \(4, 5, 1\); give counts"),
        ("float", 9, "frame 0 of .*: is float32"),
        ("", 0, "count of .*: is 0"),
        ("fail", 9, "no more light"),
    ],
)
def test_write_lima__refuses_and_leaves_nothing(tmp_path: Path, kind: str, count: int, said: str) -> None:
    folder = tmp_path / "scan0001"
    with pytest.raises(RuntimeError if kind == "fail" else InputError, match=said):
        write_lima(folder, failing(kind), count=count, frames_per_file=2 if count else None)
    assert not folder.exists() or list(folder.iterdir()) == []


def test_write_lima__refuses_names_and_files_that_exist(tmp_path: Path) -> None:
    folder = tmp_path / "scan0001"
    write_lima(folder, failing(""), count=9, frames_per_file=4)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    asked = failing("")
    (folder / "pco_ff_0000.h5").unlink()
    with pytest.raises(InputError, match=r"file .*pco_ff_0001\.h5: exists; remove it"):
        write_lima(folder, asked, count=9, frames_per_file=4)
    assert next(asked).shape == (4, 5)  # no frame was taken
    assert all(p.read_bytes() == data for p, data in before.items() if p.exists())
    with pytest.raises(InputError, match=r"frames_per_file of .*: is 0"):
        write_lima(folder, failing(""), count=9, frames_per_file=0)
    with pytest.raises(InputError, match=r"name '\.\./pco': is not a plain name"):
        write_lima(folder, failing(""), count=9, detector="../pco")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"number": 0}, "entry number 0: is not a count"),
        ({"axes": ()}, "entry 1.1: has 0 scan axes"),
        ({"axes": (*MESH, ("ccmth", 7.0, 0.1, 1))}, "has 3 scan axes; scan commands of BLISS move one or two"),
        ({"axes": (MESH[0], MESH[0])}, "scans 'chi' and 'chi'"),
        ({"axes": (MESH[0], ("time", 0, 1, 4))}, "scans 'chi' and 'time'; name two motors, or time alone"),
        ({"axes": (MESH[0], ("diffry", 7, 0, 4))}, "axis 'diffry': has a step of 0"),
        ({"axes": (MESH[0], ("diffry", 7, np.nan, 4))}, "axis 'diffry': is 4 positions from 7 by nan"),
        ({"axes": (MESH[0], ("diffry", 7, 0.1, 0))}, "axis 'diffry': is 0 positions"),
        ({"axes": (MESH[0], ("diff ry", 7, 0.1, 4))}, "name 'diff ry': is not a plain name"),
        ({"detector": "a/b"}, "name 'a/b': is not a plain name"),
        ({"positions": {"chi": np.zeros(12)}}, r"positions: are of \['chi'\], the scan is of \['chi', 'diffry'\]"),
        ({"positions": readbacks(MESH) | {"chi": np.zeros(11)}}, r"positions of chi: has shape \(11,\)"),
        ({"positions": readbacks(MESH) | {"chi": np.full(12, np.nan)}}, "positions of chi: .* is not finite"),
        (
            {"positions": {k: v[::-1] for k, v in readbacks(MESH).items()}},
            "motor chi: is 2.0. steps from the command at frame",
        ),
        ({"exposure": 0.0}, "exposure: is 0.0 s"),
        ({"exposure": np.nan}, "exposure: is nan s"),
        ({"z": np.inf}, "z: is inf"),
        ({"dtype": "float32"}, "dtype: is float32; give one of uint8"),
        ({"monitor": np.ones(3)}, r"monitor: has shape \(3,\)"),
        ({"files": [("scan0001/pco_ff_0000.h5", 5)]}, "has 5 frames in files for 12 scanned"),
        ({"axes": (("time", 0, -1.0, 12),), "positions": {}}, "time: does not grow"),
        ({"axes": (("time", 0, 1.0, 12),), "positions": {"mu": np.zeros(12)}}, r"are of \['mu'\], the scan is of \[\]"),
    ],
)
def test_entry__refuses_what_no_beamline_recorded(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    entry = entry_of(tmp_path, MESH)
    with pytest.raises(InputError, match=said):
        replace(entry, **change)


def test_write_master__refuses_files_that_do_not_fit(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, MU)
    path = tmp_path / "m.h5"
    with pytest.raises(InputError, match=r"entries of .*: are numbered \[\]"):
        write_master(path, [])
    with pytest.raises(InputError, match=r"are numbered \[1, 1\]"):
        write_master(path, [entry, entry])
    for change, said in (
        ({"files": [("scan0001/none.h5", 7)]}, "none.h5 cannot be opened"),
        ({"files": [("../scan0001/pco_ff_0000.h5", 7)]}, "does not lie beside it"),
        ({"files": [(str(tmp_path / "scan0001" / "pco_ff_0000.h5"), 7)]}, "does not lie beside it"),
        ({"files": [(entry.files[0][0], 7)]}, r"holds uint16 \(5, 20, 30\), not uint16 \(7, 20, 30\)"),
        ({"shape": (30, 20)}, r"holds uint16 \(5, 20, 30\), not uint16 \(5, 30, 20\)"),
        ({"dtype": "uint32"}, "not uint32"),
    ):
        with pytest.raises(InputError, match=said):
            write_master(path, [replace(entry, **change)])
    assert [p.name for p in tmp_path.iterdir()] == ["scan0001"]
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = 1
    with pytest.raises(InputError, match=r"other\.h5 has no /entry_0000/measurement/data"):
        write_master(path, [replace(entry, files=[("other.h5", 7)])])
    write_master(path, [entry])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"file .*m\.h5: exists"):
        write_master(path, [entry])
    assert path.read_bytes() == before


def test_write_master__leaves_nothing_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = entry_of(tmp_path, MU)

    def broken(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("dfxm_dask.phantoms.beamline_files._write_parameters", broken)
    with pytest.raises(OSError, match="disk is full"):
        write_master(tmp_path / "m.h5", [entry])
    assert [p.name for p in tmp_path.iterdir()] == ["scan0001"]
