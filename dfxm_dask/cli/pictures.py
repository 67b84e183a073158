"""Commands that draw a store: figures, and a page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import FILE, plugin_option


def read_numbers(count: int, form: str) -> Any:
    """A callback that reads a fixed count of numbers with commas between them."""

    def read(_: Any, __: Any, text: str | None) -> tuple[float, ...] | None:
        if text is None:
            return None
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != count:
            raise click.BadParameter(f"{text!r} is not {form}")
        return numbers

    return read


@click.command()
@click.argument("store", type=FILE)
@click.argument("out_dir", type=FILE)
@click.option("--only", multiple=True, metavar="NAME", help="Figure to draw, such as overview or com_phi; repeatable.")
@click.option("--variable", multiple=True, metavar="NAME", help="Map to draw, such as com_phi or beams/weak.")
@click.option("--layer", type=click.IntRange(0), help="Number of the layer along z, from 0. [default: the middle one]")
@click.option(
    "--limits", metavar="LO,HI", callback=read_numbers(2, "LO,HI"), help="Ends of the colour bar of --variable."
)
@click.option("--format", type=click.Choice(("png", "pdf", "svg")), default="png", show_default=True, help="Of files.")
@click.option(
    "--point",
    metavar="Y,X",
    callback=read_numbers(2, "Y,X"),
    help="Rocking curve of the pixel at this position, in um (or pixels, without pixel size).",
)
@click.option(
    "--profile",
    metavar="Y0,X0,Y1,X1",
    callback=read_numbers(4, "Y0,X0,Y1,X1"),
    help="Values along a line, of --variable or of the centres of mass.",
)
@click.option("--difference", type=FILE, metavar="OTHER", help="This store minus OTHER, which has the same grid.")
@plugin_option
def figures(store: Path, out_dir: Path, plugins: tuple[Path, ...], **options: Any) -> None:
    """Draw STORE into OUT_DIR, as PNG, PDF or SVG files.

    Without options: all figures that the store has data for, of the middle layer.
    """
    from dfxm_dask.view.pictures import figures as draw
    from dfxm_dask.view.tables import say

    for path in draw(store, out_dir, **options).values():
        say(str(path))


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

    The page reads only the pixels that it shows, from stores of any size. Its address, with a token, is the first line
    of output. The server listens on this machine alone and ends with Ctrl-C. From another machine, forward the port:
    ssh -L 8801:localhost:8801 NODE, with --port 8801.

    \b
    Examples:
      dfxm-dask view scan.zarr
      dfxm-dask view scan.zarr --at z=12,phi=0.31 --port 8801 --no-open
    """
    from dfxm_dask.view.browser.opening import run_server

    run_server(stores, at=at, port=port, socket=socket, hosts=allow_host, browser=not no_open)
