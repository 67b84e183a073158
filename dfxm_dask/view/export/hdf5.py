"""A file for HDF5 that reports a full disk as an error; the library itself ends the process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _Quiet(io.FileIO):
    """Keeps the first error of a write and hides it: HDF5 crashes when it closes a file after a failed write."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while len(rest) and self.fault is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.fault = error
        return len(memoryview(data).cast("B"))

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return size or 0


@contextmanager
def whole_file(path: Path) -> Iterator[io.FileIO]:
    """A new file for h5py or h5netcdf.

    Raises
    ------
    OSError
        A write failed, for example because the disk is full.
    """
    with _Quiet(path, "w+") as file:
        try:
            yield file
        except Exception:
            if file.fault is None:
                raise
        if file.fault is not None:
            raise file.fault from None
