"""The blocks of EDF files: read as fabio reads them, and refused where they are not whole counts."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import itertools
import re
import zlib
from pathlib import Path
from typing import Any

import fabio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.edf_headers import frames_of, open_edf, read_counts
from dfxm_dask.sources.readers import frames
from tests.store.edf_series import COUNTS, all_frames, header, read, write


def test_refuses__edf_with_missing_bytes(tmp_path: Path) -> None:
    files = write(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:-7])
    with pytest.raises(SourceError, match=r"strain_0002\.edf: has 7 missing bytes"):
        read(tmp_path)


def test_refuses__edf_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.edf").write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match=r"a\.edf: is not a readable EDF file"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"b\.edf: is not a readable EDF file \(.*No such file"):
        read(tmp_path / "b.edf")
    with pytest.raises(SourceError, match=r"c\*\.edf: does not exist and, as a pattern, matches no file"):
        read(str(tmp_path / "c*.edf"))
    with pytest.raises(SourceError, match="is an empty list"):
        read([])


def test_refuses__edf_of_other_than_counts(tmp_path: Path) -> None:
    write(tmp_path, COUNTS.astype("float32"))
    with pytest.raises(SourceError, match="contains float32, not counts"):
        read(tmp_path)


@pytest.mark.parametrize(("offset", "match"), [(-1, "frame 0 of .* cannot be read"), (700, "has .* of 240 bytes")])
def test_frames__edf_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, match: str) -> None:
    (file,) = write(tmp_path, per_file=6)
    scan = read(tmp_path)
    size = file.stat().st_size
    place = offset if offset < 0 else size - offset % 240
    found = [dataclasses.replace(frame, offset=place) for frame in frames_of(str(file))]
    monkeypatch.setattr("dfxm_dask.sources.edf.frames_of", lambda name: found)
    with pytest.raises(SourceError, match=match):
        list(frames(scan))


def test_refuses__edf_of_negative_numbers(tmp_path: Path) -> None:
    wrong = COUNTS.astype("int16")
    wrong[3, 5, 5] = -2
    write(tmp_path, wrong)
    with pytest.raises(SourceError, match=r"frame 0 of .*strain_0003\.edf contains -2, but counts are not negative"):
        all_frames(read(tmp_path))
    write(tmp_path / "wide", COUNTS.astype("int64") << 30)
    with pytest.raises(SourceError, match="beyond uint32"):
        all_frames(read(tmp_path / "wide"))


KINDS = {
    "UnsignedByte": "u1",
    "Unsigned8": "u1",
    "SignedByte": "i1",
    "UnsignedShort": "u2",
    "SignedShort": "i2",
    "UnsignedInteger": "u4",
    "SignedInteger": "i4",
    "UnsignedLong": "u4",
    "Signed64": "i8",
    "Unsigned64": "u8",
}


PACKERS = {"None": bytes, "GZIP": gzip.compress, "ZLIB": zlib.compress, "BZIP2": bz2.compress}


@st.composite
def blocks(draw: st.DrawFn) -> tuple[bytes, list[np.ndarray]]:
    """The bytes of an EDF file, and the frames in it: headers of any spelling, order and length."""
    name = draw(st.sampled_from(sorted(KINDS)))
    kind = np.dtype(KINDS[name])
    big, many = draw(st.booleans()), draw(st.integers(1, 4))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    spell = draw(st.sampled_from([str, str.upper, str.lower]))
    packing = draw(st.sampled_from(sorted(PACKERS)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    text = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="{};="), max_size=30)
    data, found = b"", []
    if draw(st.booleans()):
        data += b"{\nEDF_DataFormatVersion = 2.40 ;\nEDF_BinarySize = 0 ;\nscan = ascan mu 0 0.5 5 1 ;\n}\n"
        data += draw(st.sampled_from([b"", b" " * 70, b"\n"]))
    for index in range(many):
        frame = rng.integers(0, min(np.iinfo(kind).max, 2**32 - 1), shape, endpoint=True, dtype=kind)
        found.append(frame)
        blob = PACKERS[packing](frame.astype(kind.newbyteorder(">" if big else "<")).tobytes())
        padded = blob if packing != "None" else blob + bytes(draw(st.sampled_from([0, 5, -len(blob) % 512])))
        keys = {
            "ByteOrder": "HighByteFirst" if big else "LowByteFirst",
            "DataType": name,
            "Dim_1": shape[1],
            "Dim_2": shape[0],
            "Image": index + 1,
            "point_no": index,
            "Compression": packing,
            "title": draw(text),
            "comment": draw(text),
        }
        size = draw(st.sampled_from(["Size", "EDF_BinarySize"] if spell is str else ["Size"]))
        keys |= {size: len(padded)}
        if draw(st.booleans()) and packing == "None" and size == "Size" and len(padded) == len(blob):
            del keys[size]
        order = draw(st.permutations(sorted(keys)))
        end = draw(st.sampled_from(["\n", "\r\n"]))
        head = "{" + end + "".join(f"{k if k.startswith('EDF_') else spell(k)} = {keys[k]} ;{end}" for k in order)
        head += " " * draw(st.sampled_from([0, -(len(head) + 2) % 512, 600])) + "}" + end
        data += head.encode() + padded
    return data, found


@given(blocks(), st.sampled_from(["", ".gz", ".bz2"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_of__reads_what_fabio_reads(tmp_path: Path, file: tuple[bytes, list[np.ndarray]], ending: str) -> None:
    data, expected = file
    path = tmp_path / f"a.edf{ending}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[ending](data))
    with fabio.open(str(path)) as image:
        many = image.nframes > 1  # of one frame it looks for the next file instead
        theirs = [image.getframe(k).data for k in range(image.nframes)] if many else [image.data]
    with open_edf(str(path)) as stream:
        ours = [read_counts(stream, frame, "") for frame in frames_of(str(path))]
    assert len(ours) == len(theirs) == len(expected)
    for mine, other, true in zip(ours, theirs, expected, strict=True):
        np.testing.assert_array_equal(mine, true)
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype.kind == "u"


@pytest.mark.parametrize("gap", [b"", bytes(7), b"\n", bytes(14642), b"\r\n\0 \0"])
@pytest.mark.parametrize("per_file", [1, 3])
def test_read_scan__edf_with_padding_that_no_header_counts(tmp_path: Path, gap: bytes, per_file: int) -> None:
    for file in write(tmp_path, per_file=per_file):
        data = file.read_bytes()
        starts = [m.start() for m in re.finditer(rb"\{\nHeaderID", data)] + [len(data)]
        file.write_bytes(b"".join(data[a:b] + gap for a, b in itertools.pairwise(starts)))
    np.testing.assert_array_equal(all_frames(read(tmp_path)), COUNTS)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_read_scan__edf_series_that_is_packed(tmp_path: Path, pack: Any) -> None:
    ending = ".gz" if pack is gzip.compress else ".bz2"
    for file in write(tmp_path, per_file=2):
        file.with_name(file.name + ending).write_bytes(pack(file.read_bytes()))
        file.unlink()
    np.testing.assert_array_equal(all_frames(read(tmp_path)), COUNTS)
    broken = sorted(tmp_path.iterdir())[1]
    whole = broken.read_bytes()
    for cut in (whole[:-20], whole[: len(whole) // 2], whole[:40] + b"\xff\xff" + whole[42:]):
        broken.write_bytes(cut)
        with pytest.raises(SourceError, match=rf"strain_0001\.edf\{ending}.*(cannot be read|missing|not a readable)"):
            all_frames(read(tmp_path))


@pytest.mark.parametrize("packing", ["GZIP", "ZLIB", "BZIP2"])
def test_frames__edf_block_that_unfolds_to_another_size_is_refused(tmp_path: Path, packing: str) -> None:
    for size in (239, 241, 10**7):
        blob = PACKERS[packing](bytes(size))
        head = "{\nByteOrder = LowByteFirst ;\nDataType = UnsignedShort ;\nDim_1 = 10 ;\nDim_2 = 12 ;\n"
        head += f"Size = {len(blob)} ;\nCompression = {packing} ;\n}}\n"
        (tmp_path / "a.edf").write_bytes(head.encode() + blob)
        with (
            open_edf(str(tmp_path / "a.edf")) as stream,
            pytest.raises(SourceError, match=r"frame 0 .* has 2\d\d of 240"),
        ):
            read_counts(stream, frames_of(str(tmp_path / "a.edf"))[0], "")


@pytest.mark.parametrize("extra", [b"x", b"\0\0x", b"{", b"{ a = 1 ;", b"\0" * 512 + b"\x01" * 3])
def test_refuses__edf_with_more_than_padding_at_its_end(tmp_path: Path, extra: bytes) -> None:
    files = write(tmp_path)
    files[2].write_bytes(files[2].read_bytes() + extra)
    with pytest.raises(SourceError, match=r"strain_0002\.edf: (has \d+ surplus bytes|header of frame 1 does not end)"):
        read(tmp_path)


def test_refuses__edf_with_pixels_that_no_header_counts(tmp_path: Path) -> None:
    (file,) = write(tmp_path, per_file=6)
    header(file, "Dim_1 = 10", "Dim_1 = 09")
    with pytest.raises(SourceError, match=r"Size 240 in its header, but 12 x 9 pixels, .*more than padding after them"):
        read(tmp_path)
