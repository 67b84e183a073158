"""Headers of EDF files: where the counts of each frame begin, and what the motors read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import fabio.edfimage
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.schema import printable
from dfxm_dask.store.bliss_detector import COUNTS, SIGNED


@dataclass(frozen=True)
class Frame:
    """One frame: file, number in it, first byte of its counts, and what its header says."""

    file: str
    index: int
    offset: int
    shape: tuple[int, int]
    dtype: str
    header: Mapping[str, str]
    motors: Mapping[str, float]
    counters: Mapping[str, float]

    @property
    def point(self) -> int | None:
        """Number of the point in the scan."""
        return _whole(self.header.get("point_no"))

    @property
    def scan_number(self) -> int:
        """Number of the scan; 1 where the header has none."""
        number = _whole(self.header.get("scan_no"))
        return 1 if number is None else number


def _whole(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _pairs(header: Mapping[str, str], kind: str, asked: str) -> dict[str, float]:
    """Names and values out of the two parallel lists of a header."""
    names, texts = header.get(f"{kind}_mne", "").split(), header.get(f"{kind}_pos", "").split()
    if len(names) != len(texts):
        raise SourceError(
            asked, f"{kind}_mne has {len(names)} names, {kind}_pos {len(texts)} values", "correct the header"
        )
    values = {}
    for name, text in zip(names, texts, strict=True):
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = math.nan
    return values


def frames_of(file: str) -> list[Frame]:
    """Frames of one file, from its headers alone.

    Raises
    ------
    SourceError
        Not EDF, compressed, or more or fewer bytes than the headers account for.
    """
    try:
        size = os.stat(file).st_size
        image = fabio.edfimage.EdfImage().read(file)
    except Exception as error:  # fabio raises whatever its parser meets
        raise SourceError(file, f"is not a readable EDF file ({' '.join(str(error).split())})", "check it") from error
    try:
        found, end = [], 0
        for index, frame in enumerate(image._frames):
            header = {printable(str(key)): printable(str(value)) for key, value in frame.header.items()}
            if header.get("Compression", "NONE").upper() not in ("NONE", "") or file.lower().endswith((".gz", ".bz2")):
                raise SourceError(file, "is compressed", "unpack it first")
            if any(key.startswith("EDF_BinaryFile") for key in header):
                raise SourceError(file, "keeps its counts in another file", "write them into one file")
            shape = tuple(int(n) for n in frame.shape)
            kind = np.dtype(frame.dtype)
            if len(shape) != 2:
                raise SourceError(file, f"frame {index} has shape {shape}", "give frames of two dimensions")
            if kind.newbyteorder("=").name not in (*COUNTS, *SIGNED):
                raise SourceError(file, f"holds {kind.name}, not counts", f"give one of {', '.join(COUNTS)}")
            if 0 in shape:
                raise SourceError(file, f"has frames of {shape[0]} x {shape[1]} pixels", "check the detector")
            expected = shape[0] * shape[1] * kind.itemsize
            if int(frame.blobsize) != expected:
                raise SourceError(
                    file,
                    f"frame {index} has Size {frame.blobsize} in its header, but {shape[0]} x {shape[1]} pixels of "
                    f"{kind.name}, which are {expected} bytes",
                    "correct the header",
                )
            order = ">" if "High" in header.get("ByteOrder", "Low") else "<"
            place = Frame(
                file, index, int(frame.start), (shape[0], shape[1]), kind.newbyteorder(order).str, header,
                _pairs(header, "motor", file), _pairs(header, "counter", file),
            )  # fmt: skip
            found.append(place)
            end = place.offset + expected
    finally:
        image.close()
    if end != size:
        off = f"{size - end} surplus" if size > end else f"{end - size} missing"
        raise SourceError(
            file, f"has {off} bytes: the headers account for {end}, the file has {size}", "copy the file again"
        )
    return found
