"""The command that shows stores in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from dfxm_dask.cli.options import FILE


@click.command()
@click.argument("stores", nargs=-1, required=True, type=FILE)
@click.option("--at", metavar="z=12,phi=0.31", help="Position that the page shows first, in the units of the scan.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on this machine. [default: a free one]")
@click.option("--socket", type=FILE, metavar="PATH", help="Unix socket instead of a port, which only you can open.")
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Name under which a proxy serves the page; repeatable."
)
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def view(
    stores: tuple[Path, ...], at: str | None, port: int, socket: Path | None, allow_host: tuple[str, ...], no_open: bool
) -> None:
    """Show STORES in the browser: frames, maps, curves, labels.

    The page reads only what it shows, from stores of any size. Its address, with a token, is the first line of output.
    The server listens on this machine alone and ends with Ctrl-C. From another machine, forward the port:
    ssh -L 8801:localhost:8801 NODE, with --port 8801.

    \b
    Examples:
      dfxm-dask view scan.zarr
      dfxm-dask view scan.zarr --at z=12,phi=0.31 --port 8801 --no-open
    """
    from dfxm_dask.view.browser.opening import run_server

    run_server(stores, at=at, port=port, socket=socket, hosts=allow_host, browser=not no_open)
