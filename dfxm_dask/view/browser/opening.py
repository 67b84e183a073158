"""Start the server of the page: from the command line, or in a thread for a notebook."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from dfxm_dask.errors import InputError
from dfxm_dask.view.browser import catalogue
from dfxm_dask.view.browser.server import LOOPBACK, Session, serve

HEIGHT = 760  # pixels of the page in a notebook


def fragment(token: str, at: str | None, shown: catalogue.Shown) -> str:
    """Fragment of the address: the token, and a position such as ``z=12,phi=0.31``.

    Raises
    ------
    InputError
        A position along an axis that the scan does not have, or not a number.
    """
    words = {"token": token}
    axes = ("z", *catalogue.scan_axes(shown), "x", "y")
    for part in filter(None, (at or "").split(",")):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"--at {part!r}", "has no number", "give for example z=12,phi=0.31") from None
        if name.strip() not in axes:
            raise InputError(f"--at {name.strip()!r}", f"is not an axis: {', '.join(axes)}", "name one of these")
        words[name.strip()] = f"{number:.12g}"
    return urlencode(words, quote_via=quote)


def checked(stores: Sequence[str | Path]) -> tuple[list[Path], catalogue.Shown]:
    """Paths of stores that can be shown, and the first one opened.

    Raises
    ------
    StoreError
        Not a store.
    InputError
        A store twice.
    """
    paths = [Path(store) for store in stores]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("view", "a store is named twice", "name every store once")
    opened = [catalogue.current(path) for path in paths]
    return paths, opened[0]


def run_server(
    stores: Sequence[Path],
    *,
    at: str | None = None,
    port: int = 0,
    socket: Path | None = None,
    hosts: Sequence[str] = (),
    browser: bool = True,
) -> None:
    """Serve until SIGINT or SIGTERM; the address is the first line on standard output."""
    paths, first = checked(stores)
    session = Session(paths, hosts=(*LOOPBACK, *(name.lower() for name in hosts)))
    session.shown[0] = first
    words = fragment(session.token, at, first)

    async def run() -> None:
        try:
            server, used = serve(session, port, socket)
        except OSError as error:
            where = f"port {port}" if socket is None else f"socket {socket}"
            raise InputError(f"view: {where}", f"cannot be used ({error.strerror})", "give another one") from None
        place = f"http://localhost:{used}/" if socket is None else f"http+unix://{quote(str(socket), safe='')}/"
        sys.stdout.write(f"{place}#{words}\n")
        sys.stdout.flush()
        if browser and socket is None:
            webbrowser.open(f"{place}#{words}")
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, done.set)
        warm = loop.run_in_executor(session.pool, _compile)
        await done.wait()
        server.stop()
        warm.cancel()
        session.jobs.close()
        if socket is not None:
            socket.unlink(missing_ok=True)

    try:
        asyncio.run(run())
    finally:
        session.pool.shutdown(wait=False, cancel_futures=True)


def _compile() -> None:
    """Compile the kernels while the page loads."""
    import numpy as np

    from dfxm_dask.view.browser import derived, pixels

    for dtype, sums in ((np.uint16, np.uint32), (np.float32, np.float64), (np.float64, np.float64)):
        chunk, total = np.zeros((4, 4), dtype), np.zeros((2, 2), sums)
        if dtype == np.uint16:
            pixels._add_counts(chunk, 0, 0, 0, 4, 0, 4, 2, total)
            pixels._round(total, 4, 4, 2, chunk[:2, :2].copy())
        else:
            pixels._add_values(chunk, 0, 0, 0, 4, 0, 4, 2, total, np.zeros((2, 2), np.uint32))
    derived._fit(np.arange(9.0), np.arange(9.0), "phi")


def view(*stores: str | Path, at: str | None = None, height: int = HEIGHT) -> Any:
    """Page in a notebook that slices stores of any size: frames, maps, curves, boundaries and labels.

    Parameters
    ----------
    stores : path
        One store or several.
    at : str, optional
        Position that the page shows first, such as ``z=12,phi=0.31``, in the units of the scan.
    height : int, pixel
        Of the page.

    Returns
    -------
    IPython.display.IFrame
        On a hub, served through jupyter-server-proxy; the server ends with the kernel.

    Raises
    ------
    StoreError
        Not a store of this package.
    InputError
        No store, a store twice, or an unknown axis in ``at``.

    Examples
    --------
    >>> dfxm_dask.view("scan.zarr", at="z=12,phi=0.31")                      # doctest: +SKIP
    """
    if not stores:
        raise InputError("view", "no store is given", "name at least one store")
    paths, first = checked(stores)
    # The names of hubs are not known here. The token protects the page under any name.
    session = Session(paths, hosts=("*",))
    session.shown[0] = first
    words = fragment(session.token, at, first)
    started: dict[str, Any] = {}
    ready = threading.Event()

    def run() -> None:
        async def forever() -> None:
            try:
                started["server"], started["port"] = serve(session)
            finally:
                ready.set()
            await asyncio.Event().wait()

        asyncio.run(forever())

    threading.Thread(target=run, name="dfxm-dask view", daemon=True).start()
    ready.wait(20)
    if "port" not in started:
        raise InputError("view", "no port of this machine can be used", "close other servers")
    from IPython.display import IFrame

    return IFrame(f"{proxied(started['port'])}#{words}", "100%", height)


def proxied(port: int) -> str:
    """Address of a port as the browser of a notebook reaches it: through the proxy of a hub, or on this machine."""
    import os

    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    return f"{prefix.rstrip('/')}/proxy/{port}/" if prefix else f"http://localhost:{port}/"
