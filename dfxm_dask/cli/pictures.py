"""Commands that draw what stores have."""

from __future__ import annotations

from pathlib import Path

import click

from dfxm_dask.cli.options import FILE, plugin_option


@click.command()
@click.argument("store", type=FILE)
@click.argument("out_dir", type=FILE)
@click.option("--layer", type=click.IntRange(0), help="Number of the layer along z. [default: the middle one]")
@plugin_option
def figures(store: Path, out_dir: Path, layer: int | None, plugins: tuple[Path, ...]) -> None:
    """Draw what a store has, as PNG files."""
    from dfxm_dask.view.figures.index import figures as draw
    from dfxm_dask.view.tables import say

    for path in draw(store, out_dir, layer=layer):
        say(str(path))
