"""Commands that draw and compare what stores have."""

from __future__ import annotations

from pathlib import Path

import click

from dfxm_dask.cli.options import FILE


@click.command()
@click.argument("store", type=FILE)
@click.argument("out_dir", type=FILE)
@click.option("--layer", type=click.IntRange(0), help="Number of the layer along z. [default: the middle one]")
def figures(store: Path, out_dir: Path, layer: int | None) -> None:
    """Draw what a store has, as PNG files."""
    from dfxm_dask.view.figures.index import figures as draw
    from dfxm_dask.view.tables import say

    for path in draw(store, out_dir, layer=layer):
        say(str(path))


@click.command("compare-beams")
@click.argument("store", type=FILE)
@click.option("--out", type=FILE, metavar="FILE.png", help="Figure. [default: STORE_beams.png beside the store]")
@click.option(
    "--layer",
    "layers",
    type=click.IntRange(0),
    multiple=True,
    help="Number of a layer along z; several are averaged. [default: the middle one]",
)
@click.option(
    "--regions",
    type=FILE,
    metavar="FILE.yaml",
    help="Boxes for Gram–Schmidt by hand: a list of {name: strong|weak_minus|weak_plus, box: [y0, y1, x0, x1]}, in um.",
)
@click.option("--weights", default="compact", show_default=True, metavar="NAME|FILE", help="Of the network.")
def compare_beams(store: Path, out: Path | None, layers: tuple[int, ...], regions: Path | None, weights: str) -> None:
    """Compare weak-beam maps of STORE by Gram–Schmidt, PCA, NMF, NICA, the rocking curve and the network.

    Where the truth is known, how well each tells dislocations; how much of the strong beam's fringes it shows; what a
    basis leaves of the curves. Nothing is written into the store.
    """
    from dfxm_dask.sources.paths import beside
    from dfxm_dask.view.compare.methods import COLUMNS, as_cells, compare_beams, how_to_read
    from dfxm_dask.view.tables import say, show_table

    out = beside(store, "_beams.png") if out is None else out
    rows, path = compare_beams(store, out, layer=layers or None, regions=regions, weights=weights)
    show_table(f"weak-beam maps of {store}", COLUMNS, as_cells(rows), right=range(1, len(COLUMNS) - 1))
    say(how_to_read(rows))
    say(f"figure:  {path}")
