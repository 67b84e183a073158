"""Links between files: every source is there, whole, and inside the declared folders, or the scan is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.readers import frames, list_scans, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from tests.beamline_files import CAMERA_DATA, known_counts, write_bliss, write_lima

BEAMLINE = load_beamline("id03")


def read(path: Path, **options: Any) -> Scan:
    return read_scan(path, "1.1", beamline=BEAMLINE, **options)


def all_frames(scan: Scan) -> np.ndarray:
    return np.array([frame.copy() for _, frame in frames(scan)])


def master_with(path: Path, layout: h5py.VirtualLayout | None = None, **links: Any) -> Path:
    """A master of 30 frames whose camera is a mapping or a link of the test's own."""
    write_bliss(path, link="instrument")
    with h5py.File(path, "a") as file:
        del file["1.1/instrument/pco_ff/data"]
        if layout is not None:
            file["1.1/instrument/pco_ff"].create_virtual_dataset("data", layout)
        for name, link in links.items():
            file[f"1.1/measurement/{name}"] = link
    return path


def mapping(*runs: tuple[int, int, str, int], frame: tuple[int, int] = (12, 10), dtype: str = "u2") -> Any:
    """Runs (start, count, file, first frame there) as a virtual dataset of 30 frames."""
    layout = h5py.VirtualLayout((30, *frame), dtype)
    for start, count, file, first in runs:
        layout[start : start + count] = h5py.VirtualSource(file, CAMERA_DATA, (30, *frame))[first : first + count]
    return layout


def test_missing_virtual_source__is_refused_where_hdf5_reads_zeros(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", link="vds").path
    (tmp_path / "scan0001" / "pco_ff_0001.h5").unlink()
    with h5py.File(path, "r") as file:
        assert not file["1.1/instrument/pco_ff/data"][10:20].any()
    for partial in (False, True):  # later frames exist: this is a loss, not an abort
        with pytest.raises(SourceError, match=r"frames before 20 are missing .*pco_ff_0001\.h5, which is missing"):
            read(path, allow_partial=partial)


def test_missing_last_source__offers_the_rest(tmp_path: Path) -> None:
    path = write_bliss(tmp_path / "m.h5", link="vds").path
    (tmp_path / "scan0001" / "pco_ff_0002.h5").unlink()
    with pytest.raises(SourceError, match=r"needs .*pco_ff_0002\.h5, which is missing; .*--allow-partial"):
        read(path)


def test_short_virtual_source__says_how_many_frames_it_has(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5", link="vds")
    write_lima(tmp_path / "scan0001" / "new", written.counts[0][20:24], name="pco_ff", per_file=10)
    os.replace(tmp_path / "scan0001" / "new" / "pco_ff_0000.h5", tmp_path / "scan0001" / "pco_ff_0002.h5")
    with pytest.raises(SourceError, match=r"pco_ff_0002\.h5::.* has 4 of 10 frames; .*--allow-partial"):
        read(written.path)
    scan = read(written.path, allow_partial=True)
    assert (scan.found, scan.commanded) == (24, 30)
    np.testing.assert_array_equal(all_frames(scan), written.counts[0][:24])


@pytest.mark.parametrize("change", ["dtype", "shape", "name"])
def test_virtual_source_of_another_kind__is_refused(tmp_path: Path, change: str) -> None:
    path = write_bliss(tmp_path / "m.h5", link="vds").path
    with h5py.File(tmp_path / "scan0001" / "pco_ff_0002.h5", "a") as file:
        data = file[CAMERA_DATA][()]
        del file[CAMERA_DATA]
        if change == "dtype":
            file[CAMERA_DATA] = data.astype("u4")
        elif change == "shape":
            file[CAMERA_DATA] = data[:, :-1]
        else:
            file["elsewhere"] = data
    match = "is missing" if change == "name" else r"its virtual dataset uint16 \(30, 12, 10\)"
    with pytest.raises(SourceError, match=match):
        read(path)


def test_virtual_source_that_grew__is_refused(tmp_path: Path) -> None:
    write_lima(tmp_path, known_counts(40), name="a", per_file=40)
    layout = h5py.VirtualLayout((30, 12, 10), "u2")
    layout[:] = h5py.VirtualSource("a_0000.h5", CAMERA_DATA, (30, 12, 10))
    with pytest.raises(SourceError, match="has 40 frames, and 30 of these are mapped"):
        read(master_with(tmp_path / "m.h5", layout))


def test_mapping_out_of_order__is_read_in_the_order_of_frames(tmp_path: Path) -> None:
    counts = known_counts(30)
    write_lima(tmp_path, counts[15:], name="b", per_file=15)
    write_lima(tmp_path, counts[:15], name="a", per_file=15)
    layout = mapping((15, 15, "b_0000.h5", 0), (0, 5, "a_0000.h5", 0), (5, 10, "a_0000.h5", 5))
    scan = read(master_with(tmp_path / "m.h5", layout))
    assert [(p.start, p.count) for p in scan.pieces] == [(0, 15), (15, 15)]
    np.testing.assert_array_equal(all_frames(scan), counts)


def test_mapping_of_one_frame_a_file__and_of_flat_datasets(tmp_path: Path) -> None:
    counts = known_counts(30)
    layout = h5py.VirtualLayout((30, 12, 10), "u2")
    for k in range(30):
        with h5py.File(tmp_path / f"f{k}.h5", "w") as file:
            file["image"] = counts[k]
        layout[k] = h5py.VirtualSource(f"f{k}.h5", "image", (12, 10))
    np.testing.assert_array_equal(all_frames(read(master_with(tmp_path / "m.h5", layout))), counts)


def test_mapping_within_the_master_and_of_a_mapping(tmp_path: Path) -> None:
    counts = known_counts(30)
    write_lima(tmp_path, counts, name="a", per_file=10)
    path = master_with(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        inner = h5py.VirtualLayout((30, 12, 10), "u2")
        for k in range(3):
            inner[10 * k : 10 * k + 10] = h5py.VirtualSource(f"a_{k:04d}.h5", CAMERA_DATA, (10, 12, 10))
        file.create_virtual_dataset("inner", inner)
        outer = h5py.VirtualLayout((30, 12, 10), "u2")
        outer[:25] = h5py.VirtualSource(".", "inner", (30, 12, 10))[:25]
        outer[25:] = h5py.VirtualSource(".", "inner", (30, 12, 10))[25:]
        file.create_virtual_dataset("1.1/measurement/pco_ff", outer)
    scan = read(path)
    assert {Path(p.file).name for p in scan.pieces} == {"a_0000.h5", "a_0001.h5", "a_0002.h5"}
    np.testing.assert_array_equal(all_frames(scan), counts)


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (mapping((0, 20, "a_0000.h5", 0), (15, 15, "a_0000.h5", 15)), "maps frame 15 twice"),
        (mapping((0, 10, "a_0000.h5", 0), (20, 10, "a_0000.h5", 20)), "frames before 20 are missing .*to frame 10"),
        (mapping((0, 25, "a_0000.h5", 0)), "maps 25 of 30 frames; .*--allow-partial"),
    ],
)
def test_mapping_with_overlap_or_gap__is_refused(tmp_path: Path, layout: Any, match: str) -> None:
    write_lima(tmp_path, known_counts(30), name="a", per_file=30)
    with pytest.raises(SourceError, match=match):
        read(master_with(tmp_path / "m.h5", layout))


def test_mapping_of_parts_of_frames__is_refused(tmp_path: Path) -> None:
    write_lima(tmp_path, known_counts(30), name="a", per_file=30)
    halves = h5py.VirtualLayout((30, 12, 10), "u2")
    halves[:, :6] = h5py.VirtualSource("a_0000.h5", CAMERA_DATA, (30, 12, 10))[:, :6]
    strided = h5py.VirtualLayout((30, 12, 10), "u2")
    strided[::2] = h5py.VirtualSource("a_0000.h5", CAMERA_DATA, (30, 12, 10))[:15]
    shifted = h5py.VirtualLayout((30, 12, 10), "u2")
    shifted[:5] = h5py.VirtualSource("a_0000.h5", CAMERA_DATA, (30, 12, 10))[:10:2]
    for k, layout in enumerate((halves, strided, shifted)):
        with pytest.raises(SourceError, match="parts of frames"):
            read(master_with(tmp_path / f"m{k}.h5", layout))


@pytest.mark.parametrize(
    ("file", "match"), [("a_%b.h5", r"'a_%b\.h5' is a pattern"), ("a_0000.h5", "maps parts of frames")]
)
def test_mapping_without_an_end__is_refused(tmp_path: Path, file: str, match: str) -> None:
    endless = h5py.h5s.UNLIMITED
    layout = h5py.VirtualLayout((30, 12, 10), "u2", maxshape=(None, 12, 10))
    if "%" in file:
        # One frame of each file, as many files as there will be.
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        virtual = h5py.h5s.create_simple((30, 12, 10), (endless, 12, 10))
        virtual.select_hyperslab((0, 0, 0), (endless, 1, 1), (1, 1, 1), (1, 12, 10))
        create.set_virtual(virtual, file.encode(), CAMERA_DATA.encode(), h5py.h5s.create_simple((1, 12, 10)))
        path = master_with(tmp_path / "m.h5")
        with h5py.File(path, "a") as master:
            place = master["1.1/instrument/pco_ff"].id
            h5py.h5d.create(place, b"data", h5py.h5t.NATIVE_UINT16, virtual, create)
    else:
        source = h5py.VirtualSource(file, CAMERA_DATA, (30, 12, 10), maxshape=(None, 12, 10))
        layout[:endless] = source[:endless]
        path = master_with(tmp_path / "m.h5", layout)
    write_lima(tmp_path, known_counts(30), name="a", per_file=1 if "%" in file else 30)
    with pytest.raises(SourceError, match=match):
        read(path)


@pytest.mark.parametrize("kind", ["vds", "external", "soft chain", "symlink"])
def test_link_that_leaves_the_folder__needs_a_declared_root(tmp_path: Path, kind: str) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "far").mkdir()
    counts = known_counts(30)
    (file,) = write_lima(tmp_path / "far", counts, name="a", per_file=30)
    path = tmp_path / "scan" / "m.h5"
    if kind == "vds":
        master_with(path, mapping((0, 30, "../far/a_0000.h5", 0)))
    elif kind == "symlink":
        (tmp_path / "scan" / "near.h5").symlink_to(file)
        master_with(path, mapping((0, 30, "near.h5", 0)))
    elif kind == "external":
        master_with(path, pco_ff=h5py.ExternalLink(str(file), CAMERA_DATA))
    else:
        master_with(path, pco_ff=h5py.SoftLink("/camera/data"))
        with h5py.File(path, "a") as master:
            master["camera"] = h5py.ExternalLink("../far/a_0000.h5", CAMERA_DATA.rpartition("/")[0])
    with pytest.raises(SourceError, match=r"far/a_0000\.h5, outside .*declare its folder with --root"):
        read(path)
    np.testing.assert_array_equal(all_frames(read(path, roots=(tmp_path / "far",))), counts)
    own = load_beamline("id03", {"roots": [str(tmp_path / "far")]})
    assert read_scan(path, "1.1", beamline=own).found == 30


def test_absolute_path_of_moved_data__is_found_beside_the_master(tmp_path: Path) -> None:
    counts = known_counts(30)
    write_lima(tmp_path, counts, name="a", per_file=30)
    gone = str(tmp_path / "old" / "a_0000.h5")
    np.testing.assert_array_equal(all_frames(read(master_with(tmp_path / "m.h5", mapping((0, 30, gone, 0))))), counts)


def test_master_reached_by_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    written = write_bliss(tmp_path / "a" / "m.h5", link="vds")
    (tmp_path / "b.h5").symlink_to(tmp_path / "a" / "m.h5")
    np.testing.assert_array_equal(all_frames(read(tmp_path / "b.h5")), written.counts[0])


def test_entry_behind_an_external_link(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    written = write_bliss(tmp_path / "set" / "m.h5", link="vds", layers=2)
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["1.1"] = h5py.ExternalLink("set/m.h5", "/2.1")
        file["2.1"] = h5py.ExternalLink("lost/m.h5", "/1.1")
    np.testing.assert_array_equal(all_frames(read(tmp_path / "all.h5")), written.counts[1])
    (first, second) = list_scans(tmp_path / "all.h5")
    assert first == ("1.1", "fscan mu 0.29 0.001 30 0.5 0.58")
    assert "which is missing" in second[1]


@pytest.mark.parametrize("what", ["counts", "motor"])
def test_external_raw_storage__is_always_refused(tmp_path: Path, what: str) -> None:
    path = write_bliss(tmp_path / "m.h5", link="instrument", positioner="absent").path
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12 * 10 * 30 * 2))
    with h5py.File(path, "a") as file:
        if what == "counts":
            del file["1.1/instrument/pco_ff/data"]
            file.create_dataset(
                "1.1/instrument/pco_ff/data", (30, 12, 10), "u2", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
            )
        else:
            file.create_dataset("1.1/instrument/mu/value", (30,), "f8", external=[(str(secret), 0, 240)])
    with pytest.raises(SourceError, match=r"is external raw storage \(.*secret\)"):
        read(path)


def test_external_raw_storage_behind_a_mapping__is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a_0000.h5", "w") as file:
        file.create_dataset(CAMERA_DATA, (30, 12, 10), "u2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(SourceError, match=r"external raw storage \(/etc/passwd\)"):
        read(master_with(tmp_path / "m.h5", mapping((0, 30, "a_0000.h5", 0))))


def test_dangling_links__are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"link /1\.1/measurement/pco_ff of .* needs .*lost\.h5, which is missing"):
        read(master_with(tmp_path / "a.h5", pco_ff=h5py.ExternalLink("lost.h5", CAMERA_DATA)))
    write_lima(tmp_path, known_counts(30), name="a", per_file=30)
    with pytest.raises(SourceError, match=r"leads to wrong/place of .*a_0000\.h5, which does not exist"):
        read(master_with(tmp_path / "b.h5", pco_ff=h5py.ExternalLink("a_0000.h5", "wrong/place")))
    with pytest.raises(SourceError, match="has no detector"):
        read(master_with(tmp_path / "c.h5", pco_ff=h5py.SoftLink("/nowhere")))


def test_lost_camera__does_not_make_another_the_only_one(tmp_path: Path) -> None:
    path = master_with(tmp_path / "m.h5", pco_ff=h5py.ExternalLink("lost.h5", CAMERA_DATA))
    with h5py.File(path, "a") as file:
        file["1.1/instrument/side_camera/data"] = known_counts(30)
    with pytest.raises(SourceError, match=r"lost\.h5, which is missing"):
        read(path)
    with pytest.raises(SourceError, match=r"lost\.h5, which is missing"):
        read(path, detector="pco_ff")
    assert read(path, detector="side_camera").found == 30


def test_circular_links__end(tmp_path: Path) -> None:
    path = master_with(tmp_path / "m.h5", pco_ff=h5py.SoftLink("/1.1/measurement/pco_gg"))
    with h5py.File(path, "a") as file:
        file["1.1/measurement/pco_gg"] = h5py.SoftLink("/1.1/measurement/pco_ff")
    with pytest.raises(SourceError, match="more than 16 links in a row"):
        read(path)


def test_mapping_of_itself__ends(tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((30, 12, 10), "u2")
    layout[:] = h5py.VirtualSource(".", "1.1/instrument/pco_ff/data", (30, 12, 10))
    with pytest.raises(SourceError, match="virtual datasets nested beyond 16"):
        read(master_with(tmp_path / "m.h5", layout))


def test_a_pipe_in_the_place_of_a_file__is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a_0000.h5")
    with pytest.raises(SourceError, match="is not a regular file"):
        read(master_with(tmp_path / "m.h5", mapping((0, 30, "a_0000.h5", 0))))


def test_many_camera_files__few_stay_open(tmp_path: Path) -> None:
    written = write_bliss(tmp_path / "m.h5", link="vds", frames_per_file=1, size=(3, 2))
    scan = read(written.path)
    assert len(scan.files) == 31
    np.testing.assert_array_equal(all_frames(scan), written.counts[0])
