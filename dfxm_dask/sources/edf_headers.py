"""Headers of EDF files: start of the counts of each frame, and readings of the motors.

A file is a sequence of blocks: a header in braces, ``{ key = value ; ... }``, followed by the number of bytes given
there. Zeros and white space between and after blocks are padding.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from fabio.edfimage import DATA_TYPES

from dfxm_dask.errors import SourceError
from dfxm_dask.schema import printable

BLOCK = 512
LONGEST_HEADER = 1 << 20
LARGEST_FRAME = 1 << 31
PADDING = b"\0 \t\r\n"
COUNTS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint32"}
"""Dtype of the counts by the size of an integer in bytes: counts are not negative, and below 2^32."""
UNREADABLE = (OSError, EOFError, zlib.error)
AGAIN = "copy the file again"


@dataclass(frozen=True)
class Frame:
    """One frame: file, number in it, first byte of its counts, and its header, with keys in lower case.

    ``dtype`` is the dtype in the file; ``stored`` is the number of bytes of the block, and ``packing`` their
    compression.
    """

    file: str
    index: int
    offset: int
    shape: tuple[int, int]
    dtype: str
    header: Mapping[str, str]
    motors: Mapping[str, float]
    counters: Mapping[str, float]
    stored: int = 0
    packing: str = ""

    @property
    def counts(self) -> np.dtype[np.unsignedinteger]:
        """Dtype of the counts after reading."""
        return np.dtype(COUNTS[np.dtype(self.dtype).itemsize])

    @property
    def point(self) -> int | None:
        """Number of the point in the scan."""
        return _whole(self.header.get("point_no"))

    @property
    def scan_number(self) -> int:
        """Number of the scan; 1 without a number in the header."""
        number = _whole(self.header.get("scan_no"))
        return 1 if number is None else number


def _whole(text: str | None) -> int | None:
    """A whole number, also in the form 24.0."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        value = _number(text)
        return int(value) if math.isfinite(value) and value == int(value) else None


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _pairs(header: Mapping[str, str], kind: str, asked: str) -> dict[str, float]:
    """Names and values from the two parallel lists of a header."""
    names, texts = header.get(f"{kind}_mne", "").split(), header.get(f"{kind}_pos", "").split()
    if len(names) != len(texts):
        raise SourceError(
            asked, f"{kind}_mne has {len(names)} names, but {kind}_pos {len(texts)} values", "correct the header"
        )
    return {name: _number(text) for name, text in zip(names, texts, strict=True)}


def open_edf(file: str) -> BinaryIO:
    """The bytes of a file, unpacked if the whole file is compressed."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise OSError("not a regular file")
    if file.lower().endswith(".gz"):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if file.lower().endswith(".bz2"):
        return bz2.open(file, "rb")  # type: ignore[return-value]
    return open(file, "rb")


def frames_of(file: str) -> list[Frame]:
    """Frames of one file, from its headers alone.

    Raises
    ------
    SourceError
        Not EDF, truncated, more bytes than the headers declare, or frames without counts.
    """
    found: list[Frame] = []
    general: dict[str, str] = {}
    try:
        with open_edf(file) as stream:
            at = 0
            while (begun := _skip_padding(stream, at, file, len(found))) is not None:
                at = begun
                header, at = _header(stream, at, file, len(found))
                if "edf_dataformatversion" in header:  # a general block with the keys common to all frames
                    general = {k: v for k, v in header.items() if not k.startswith("edf_")}
                    general = {k: v for k, v in general.items() if k not in ("size", "image", "headerid")}
                    at += _whole(header.get("edf_binarysize")) or 0
                    continue
                frame = _frame(file, len(found), at, {**general, **header})
                found.append(frame)
                at = _behind(stream, frame)
    except UNREADABLE as error:
        said = " ".join(str(error).split()) or type(error).__name__
        if found or isinstance(error, EOFError | zlib.error):
            raise SourceError(file, f"cannot be read to the end ({said})", AGAIN) from error
        raise SourceError(file, f"is not a readable EDF file ({said})", "check it") from error
    if not found:
        raise SourceError(file, "is not a readable EDF file (no header with an image)", "check it")
    return found


def _skip_padding(stream: BinaryIO, at: int, file: str, index: int) -> int | None:
    """Start of the next header, or None at the end of the file."""
    stream.seek(at)
    while block := stream.read(1 << 16):
        rest = block.lstrip(PADDING)
        if rest:
            at += len(block) - len(rest)
            if rest[:1] == b"{":
                return at
            if not index:
                raise SourceError(
                    file,
                    "is not a readable EDF file (it does not begin with a header in braces)",
                    "give the .edf files, or the master .h5 file",
                )
            surplus = len(rest) + sum(len(more) for more in iter(lambda: stream.read(1 << 20), b""))
            raise SourceError(
                file, f"has {surplus} surplus bytes: the headers declare {at}, but the file has {at + surplus}", AGAIN
            )
        at += len(block)
    return None


def _header(stream: BinaryIO, at: int, file: str, index: int) -> tuple[dict[str, str], int]:
    """Keys (lower case) and values of the header at this offset, and its end."""
    stream.seek(at)
    text = b""
    while (end := re.search(rb"}\r?\n", text)) is None:
        block = stream.read(BLOCK)
        if not block or len(text) > LONGEST_HEADER:
            raise SourceError(
                file, f"header of frame {index} does not end within {len(text)} bytes", "check it, or " + AGAIN
            )
        text += block
    header = {}
    for line in text[1 : end.start()].decode("utf-8", "replace").split(";"):
        key, equal, value = line.partition("=")
        if equal:
            header[printable(key.strip("\0 \t\r\n\v\f")).lower()] = printable(value.strip("\0 \t\r\n\v\f"))
    return header, at + end.end()


def _frame(file: str, index: int, at: int, header: dict[str, str]) -> Frame:
    """Description of a frame from its header."""
    if any(key.startswith("edf_binaryfile") for key in header):
        raise SourceError(file, "has its counts in another file", "write them into one file, with fabio")
    rank = max((int(key[4:]) for key in header if re.fullmatch(r"dim_[1-9]", key)), default=0)
    sizes = [_whole(header.get(f"dim_{k}", "1")) for k in range(rank, 0, -1)]
    shape = tuple(-1 if n is None else n for n in sizes)
    if len(shape) < 2 or any(n != 1 for n in shape[:-2]) or min(shape) < 0:
        raise SourceError(file, f"frame {index} has shape {shape}", "provide frames of two dimensions, Dim_1 and Dim_2")
    ny, nx = shape[-2:]
    name = header.get("datatype")
    if name not in DATA_TYPES:
        raise SourceError(file, f"frame {index} has DataType {name}", "set a type such as UnsignedShort in its header")
    kind = np.dtype(DATA_TYPES[name])
    if kind.kind not in "iu":
        raise SourceError(
            file, f"contains {kind.name}, not counts", "provide raw detector counts, which are whole numbers"
        )
    if 0 in shape:
        raise SourceError(file, f"has frames of {ny} x {nx} pixels", "check the detector")
    order = header.get("byteorder", "").lower()
    if kind.itemsize > 1 and "low" not in order and "high" not in order:
        raise SourceError(
            file, f"frame {index} has ByteOrder {order or None}", "set LowByteFirst or HighByteFirst in its header"
        )
    packing = header.get("compression", "").upper()
    packing = "" if packing.startswith("NO") else packing
    if packing and not any(word in packing for word in ("GZ", "BZ", "Z")):
        raise SourceError(file, f"is compressed by {packing}", "write it without compression in the original program")
    expected = ny * nx * kind.itemsize
    stored = _whole(header.get("size", header.get("edf_binarysize", "" if packing else str(expected))))
    if expected > LARGEST_FRAME or stored is None or stored < (0 if packing else expected):
        raise SourceError(
            file,
            f"frame {index} has Size {header.get('size', header.get('edf_binarysize'))} in its header, but {ny} x {nx} "
            f"pixels of {kind.name}, {expected} bytes",
            "correct the header",
        )
    dtype = kind.newbyteorder(">" if "high" in order else "<").str
    return Frame(
        file,
        index,
        at,
        (ny, nx),
        dtype,
        header,
        _pairs(header, "motor", file),
        _pairs(header, "counter", file),
        stored,
        packing,
    )


def _behind(stream: BinaryIO, frame: Frame) -> int:
    """End of the block of a frame; bytes after the pixels must be padding."""
    expected = frame.stored if frame.packing else math.prod(frame.shape) * np.dtype(frame.dtype).itemsize
    end = frame.offset + expected
    stream.seek(end - 1)
    if not stream.read(1):
        size = stream.seek(0, io.SEEK_END)
        raise SourceError(
            frame.file, f"has {end - size} missing bytes: the headers declare {end}, but the file has {size}", AGAIN
        )
    left = frame.stored - expected
    while left > 0 and (block := stream.read(min(left, 1 << 20))):
        if block.strip(PADDING):
            raise SourceError(
                frame.file,
                f"frame {frame.index} has Size {frame.stored} in its header, but {frame.shape[0]} x {frame.shape[1]} "
                f"pixels, {expected} bytes, and more than padding after them",
                "correct the header",
            )
        left -= len(block)
    return end + frame.stored - expected - left


def read_counts(stream: BinaryIO, frame: Frame, asked: str) -> np.ndarray:
    """Counts (y, x) of a frame, of dtype ``frame.counts``.

    Raises
    ------
    SourceError
        Missing bytes, bytes that cannot be unpacked, or numbers that are not counts.
    """
    where = f"frame {frame.index} of {frame.file}"
    kind = np.dtype(frame.dtype)
    expected = math.prod(frame.shape) * kind.itemsize
    try:
        stream.seek(frame.offset)
        data = stream.read(frame.stored if frame.packing else expected)
        if frame.packing:
            data = _unpacked(data, frame.packing, expected)
    except (*UNREADABLE, ValueError) as error:
        raise SourceError(asked, f"{where} cannot be read ({' '.join(str(error).split())})", AGAIN) from error
    if len(data) != expected:
        raise SourceError(asked, f"{where} has {len(data)} of {expected} bytes", AGAIN)
    values = np.frombuffer(data, kind).reshape(frame.shape)
    if kind.kind == "i" and values.min() < 0:
        raise SourceError(
            asked,
            f"{where} contains {values.min()}, but counts are not negative",
            "ingest raw frames, not corrected ones",
        )
    if kind.itemsize > 4 and values.max() > np.iinfo(frame.counts).max:
        raise SourceError(asked, f"{where} contains {values.max()}, beyond {frame.counts}", "check the file")
    return values.astype(frame.counts)


def _unpacked(data: bytes, packing: str, expected: int) -> bytes:
    """The unpacked data, at most one byte more than expected."""
    if "BZ" in packing:
        return bz2.BZ2Decompressor().decompress(data, expected + 1)
    return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, expected + 1)  # gzip or zlib, by its first bytes
