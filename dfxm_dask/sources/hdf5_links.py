"""Links between HDF5 files: every link is checked before it is followed.

HDF5 follows an external link to any path, reads a dataset of external raw storage from any file, and returns zeros for
frames of a virtual dataset with a missing source, and for unwritten chunks. This module follows paths link by link,
requires every file to be under a declared root, and reports missing frames.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the bitshuffle filter of LIMA files)
import numpy as np

from dfxm_dask.errors import SourceError
from dfxm_dask.schema import printable
from dfxm_dask.sources.wrong_kinds import kind_of

MOST_HOPS = 16
MOST_OPEN = 16
LARGEST_VALUE = 64_000_000
ATTEMPTS, PAUSE = 4, 0.25


def open_hdf5(path: str, asked: str) -> h5py.File:
    """A file, opened without a lock, so that a writer is never blocked.

    Raises
    ------
    SourceError
        The file is absent, not a regular file, not HDF5, or truncated.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise SourceError(asked, f"{path} cannot be opened ({error.strerror})", "check the path") from error
    if not stat.S_ISREG(mode):
        raise SourceError(asked, f"{path} is not a regular file", "name a file")
    options: dict[str, Any] = {"locking": False}
    for attempt in range(ATTEMPTS):
        try:
            return h5py.File(path, "r", **options)
        except OSError as error:
            text = " ".join(str(error).split())
            if "locking flag values" in text and options:
                # This process has the file open with a lock: HDF5 then requires a lock here too.
                options = {}
                continue
            busy = (error.errno in (errno.EAGAIN, errno.EACCES) and "lock" in text) or "already open for" in text
            if busy and attempt < ATTEMPTS - 1:
                time.sleep(PAUSE)
                continue
            if "truncated" in text:
                raise SourceError(asked, f"{path} is truncated ({text})", "copy the file again") from error
            if "file signature not found" in text:
                kind = kind_of(path).replace("a file of an unknown kind", "not an HDF5 file")
                raise SourceError(asked, f"{path} {kind}", "give the master file of the scan") from error
            raise SourceError(asked, f"{path} cannot be opened ({text})", "check the file") from error
    raise AssertionError("unreachable")


class Sources:
    """The files behind one scan, opened on demand and only below the declared roots.

    Parameters
    ----------
    master : Path
        File given by the user; its folder is the first root.
    asked : str
        Name of the scan, for error messages.
    roots : tuple of Path
        Further folders that may contain linked files.
    """

    def __init__(self, master: Path, asked: str, roots: tuple[Path, ...] = ()) -> None:
        self.asked = asked
        # The folder under its given and its real path: a linked folder counts like its target.
        self.roots = tuple(
            dict.fromkeys([Path(os.path.realpath(master)).parent, *(Path(os.path.realpath(r)) for r in roots)])
        )
        self.seen: dict[str, tuple[int, int]] = {}
        self._kept: dict[str, h5py.File] = {}
        self._passing: OrderedDict[str, h5py.File] = OrderedDict()
        self.master = self._open(os.path.realpath(master), keep=True)

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in [*self._kept.values(), *self._passing.values()]:
            file.close()

    @property
    def files(self) -> tuple[tuple[str, int, int], ...]:
        """Path, size and modification time of every opened file."""
        return tuple((path, size, mtime) for path, (size, mtime) in self.seen.items())

    def _open(self, path: str, *, keep: bool) -> h5py.File:
        if path in self._kept:
            return self._kept[path]
        if path in self._passing:
            self._passing.move_to_end(path)
            return self._passing[path]
        file = open_hdf5(path, self.asked)
        found = os.stat(path)
        self.seen[path] = (found.st_size, found.st_mtime_ns)
        if keep:
            self._kept[path] = file
            return file
        # A scan may consist of a thousand files; only a few stay open.
        while len(self._passing) >= MOST_OPEN:
            self._passing.popitem(last=False)[1].close()
        self._passing[path] = file
        return file

    def open_linked(
        self, holder: h5py.File, name: str, *, what: str, keep: bool, gone: type[SourceError] = SourceError
    ) -> h5py.File:
        """A linked file, if it is under a root.

        Parameters
        ----------
        holder : h5py.File
            File with the link.
        name : str
            Target of the link: absolute, or relative to the folder of ``holder``.
        what : str
            The link, for the message.
        gone : type
            Error for a missing file.
        """
        self._refuse_odd(name)
        folder = os.path.dirname(os.path.realpath(holder.filename))
        # Like HDF5, look beside the holder if an absolute path does not exist: this finds moved data.
        candidates = (
            [name, os.path.join(folder, os.path.basename(name))]
            if os.path.isabs(name)
            else [os.path.join(folder, name)]
        )
        for candidate in candidates:
            real = os.path.realpath(candidate)
            if not any(Path(real).is_relative_to(root) for root in self.roots):
                raise SourceError(
                    self.asked,
                    f"{what} leads to {real}, outside {', '.join(map(str, self.roots))}",
                    "declare its folder with --root if you trust it",
                )
            if os.path.exists(real):
                return self._open(real, keep=keep)
        raise gone(self.asked, f"{what} needs {candidates[0]}, which is missing", "restore the file")

    def _refuse_odd(self, name: str) -> None:
        """Refuse a name with control characters, which could control a terminal."""
        if printable(name) != name:
            raise SourceError(
                self.asked, f"contains the name {name!r} with control characters", "do not trust this file"
            )

    def find(self, start: Any, path: str, *, keep: bool = True, hops: int = 0) -> Any:
        """The object at a path, followed link by link.

        Parameters
        ----------
        start : h5py.Group
            Start of the path, unless the path begins with "/".
        path : str
            Names separated by "/".

        Returns
        -------
        h5py.Group, h5py.Dataset or None
            None if the last link is broken within the files.
        """
        if hops > MOST_HOPS:
            raise SourceError(self.asked, f"more than {MOST_HOPS} links in a row at {path!r}", "correct the links")
        here = start.file["/"] if path.startswith("/") else start
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(here, h5py.Group):
                return None
            self._refuse_odd(name)
            # Low-level calls: an entry has hundreds of links, most of them hard links.
            links, encoded = here.id.links, name.encode()
            if not links.exists(encoded):
                return None
            try:
                hard = links.get_info(encoded).type == h5py.h5l.TYPE_HARD
                link = None if hard else here.get(name, getlink=True)
            except TypeError as error:
                raise SourceError(
                    self.asked, f"{here.name}/{name} is a link of unknown kind", "copy the data"
                ) from error
            if hard:
                try:
                    here = here[name]
                except (KeyError, OSError, RuntimeError) as error:
                    text = " ".join(str(error).split())
                    where = f"{here.name.rstrip('/')}/{name} of {here.file.filename}"
                    raise SourceError(self.asked, f"{where} cannot be read ({text})", "copy the file again") from error
                continue
            where = f"link {here.name.rstrip('/')}/{name} of {here.file.filename}"
            if isinstance(link, h5py.SoftLink):
                here = self.find(here, link.path, keep=keep, hops=hops + 1)
            elif isinstance(link, h5py.ExternalLink):
                file = self.open_linked(here.file, link.filename, what=where, keep=keep)
                here = self.find(file["/"], link.path, keep=keep, hops=hops + 1)
                if here is None:
                    raise SourceError(
                        self.asked,
                        f"{where} leads to {link.path} of {file.filename}, which does not exist",
                        "correct the link",
                    )
            if here is None:
                return None
        return here

    def value(self, start: h5py.Group, path: str) -> Any:
        """Value of a small dataset (bytes become str), or None for an absent dataset.

        Raises
        ------
        SourceError
            The data are outside the file, unwritten, or unreadable.
        """
        return self.read(self.find(start, path))

    def read(self, found: Any) -> Any:
        """:meth:`value` of an object."""
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            return None
        refuse_external(found, self.asked)
        if found.is_virtual:
            raise SourceError(self.asked, f"{_where(found)} is a virtual dataset", "copy its values into the file")
        if found.size * found.dtype.itemsize > LARGEST_VALUE:
            raise SourceError(self.asked, f"{_where(found)} has {found.size} values", "check the file")
        try:
            value = found[()]
        except (OSError, RuntimeError, TypeError, UnicodeError) as error:
            text = " ".join(str(error).split())
            raise SourceError(self.asked, f"{_where(found)} cannot be read ({text})", "copy the file again") from error
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return printable(value) if isinstance(value, str) else value

    def unit(self, dataset: h5py.Dataset) -> str:
        """Unit of a dataset in the spelling of the file; "" without a unit.

        Raises
        ------
        SourceError
            The attribute cannot be read.
        """
        try:
            found = dataset.attrs.get("units", "")
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())
            words = f"unit of {_where(dataset)} cannot be read ({text})"
            raise SourceError(self.asked, words, "copy the file again") from error
        found = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
        return printable(found).strip() if isinstance(found, str) else ""


def _where(dataset: h5py.Dataset) -> str:
    """Dataset and file, for messages."""
    return f"{dataset.name} of {dataset.file.filename}"


def refuse_external(dataset: h5py.Dataset, asked: str) -> None:
    """Refuse a dataset with external raw storage, which may be any file."""
    if dataset.id.get_create_plist().get_external_count():
        names = ", ".join(name for name, _, _ in dataset.external or [])
        raise SourceError(
            asked,
            f"{dataset.name} of {dataset.file.filename} is external raw storage ({names})",
            "copy its values into an HDF5 dataset",
        )
