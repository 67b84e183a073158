"""Independence of the machine and of the user's settings: folder of compiled kernels, encoding, figures, threads.

This module uses the standard library only, since it is imported before everything else.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from contextlib import suppress
from pathlib import Path

ROOM = 2**20
"""Bytes that must fit into a cache; otherwise it counts as full (our choice; all kernels take some 20 MB)."""


def numba_cache() -> Path:
    """Directory of this machine for compiled kernels. In a shared home, workers that start together would collide."""
    import tempfile

    path = Path(tempfile.gettempdir()) / f"dfxm_dask-numba-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    # numba unpickles files in this directory: one that another user owns or can write is not used.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="dfxm_dask-numba-"))
    return path


def keep_kernels_somewhere() -> None:
    """Give numba a writable folder for compiled kernels, or switch its cache off, with a warning.

    numba refuses to compile if neither the folder of the package nor the home can be written, and fails during a
    computation if their disks are full.
    """
    asked = os.environ.get("NUMBA_CACHE_DIR")
    package = Path(__file__).parent
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    usual = [Path(asked).absolute()] if asked else [package / "rocking" / "__pycache__", Path(home, "numba")]
    if any(_takes_files(path) for path in usual):
        return
    where = f"{asked} (NUMBA_CACHE_DIR)" if asked else "the folder of dfxm_dask and the home"
    try:
        found = numba_cache()
        if not _takes_files(found):
            raise OSError
    except OSError:
        _do_without()
        _say(f"{where} and the folder of temporary files cannot be written: every process compiles its kernels again")
        return
    os.environ["NUMBA_CACHE_DIR"] = str(found)  # also for the processes that this one starts
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(found)
    _say(f"{where} cannot be written: compiled kernels are kept in {found}")


def _takes_files(folder: Path) -> bool:
    """Whether a folder that exists or can be created has room for a file."""
    if not folder.is_absolute():  # an unknown home leaves "~" in the path
        return False
    while not os.path.exists(folder):
        folder = folder.parent
    probe = folder / f".dfxm_dask-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return False
    try:
        return os.write(descriptor, bytes(ROOM)) == ROOM  # a quota is enforced here
    except OSError:
        return False
    finally:
        os.close(descriptor)
        os.unlink(probe)


def _do_without() -> None:
    """Switch the cache of numba off, for which it has no setting; used only where numba would refuse every kernel."""
    from numba.core.dispatcher import Dispatcher

    Dispatcher.enable_caching = lambda self: None  # type: ignore[method-assign]


def _say(text: str) -> None:
    import logging

    logging.getLogger("dfxm_dask").warning(text)


def command_line() -> None:
    """Settings of a process that runs a command of this package and no other code.

    Characters that a terminal or log cannot show are replaced. Figures do not depend on a matplotlibrc and need no
    screen. Warnings of packages are not errors. Worker processes import nothing from the current folder. Commands and
    worker processes share one cache of compiled kernels. Linear algebra of numpy runs in one thread, as in a worker;
    otherwise results would depend on the number of cores.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever began the command
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")
    warnings.filters[:] = [one for one in warnings.filters if one[0] != "error"]  # type: ignore[index]
    os.environ.pop("PYTHONWARNINGS", None)
    os.environ |= {"PYTHONSAFEPATH": "1", "MATPLOTLIBRC": os.devnull, "MPLBACKEND": "agg", "OPENBLAS_NUM_THREADS": "1"}
    with suppress(OSError):  # no folder for temporary files: kernels stay beside the package
        os.environ.setdefault("NUMBA_CACHE_DIR", str(numba_cache()))
