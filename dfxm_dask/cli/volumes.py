"""Commands that compare two masks, and export results for other programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import FILE


def read_tau(_: Any, __: Any, text: str) -> tuple[float, ...]:
    """``0.5,1,2`` as distances."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of distances in um, such as 0.5,1,2") from None


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--tau", default="0.5,1,2", show_default=True, callback=read_tau, help="Tolerances in um for a match.")
@click.option("--out", type=FILE, metavar="FILE.png", help="Figure. [default: A_against_B.png beside A]")
@click.option("--resample", is_flag=True, help="Resample B to the grid of A (nearest voxel).")
@click.option("--json", "numbers", type=FILE, metavar="FILE", help="Also write the numbers to this JSON file.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Processor cores to use.")
def compare(
    a: str, b: str, tau: tuple[float, ...], out: Path | None, resample: bool, numbers: Path | None, threads: int
) -> None:
    """Compare the masks of two stores.

    A is the result, B the truth or the result of another method. The mask of a store is volume/dislocation, else
    beams/defects, else the voxels near a true line. Choose another variable as STORE:group/variable, with a limit if it
    is not a mask: "STORE:truth/distance<0.5". Each number is shown with the value that A reaches by chance, at random
    positions.
    """
    from dfxm_dask.sources.paths import beside
    from dfxm_dask.store.integrity.ledger import replace_file
    from dfxm_dask.store.output_paths import refuse_file
    from dfxm_dask.view.compare.volumes import compare_volumes, open_mask
    from dfxm_dask.view.compare.volumes_page import COLUMNS, comparison_rows, draw_comparison, ratio_words
    from dfxm_dask.view.pictures import save
    from dfxm_dask.view.tables import say, show_table

    masks = open_mask(a), open_mask(b)
    first, second = (mask.path for mask in masks)
    out = out or beside(first, f"_against_{beside(second, '').name}.png")
    refuse_file(out, "--out FILE.png")
    if numbers:
        refuse_file(numbers, "--json FILE")
    found, notes = compare_volumes(*masks, tau=tau, resample=resample, threads=threads)
    show_table(f"A {masks[0].name}, B {masks[1].name}", COLUMNS, comparison_rows(found), right=(1, 2))
    for note in notes:
        say(f"NOTE: {note}")
    say(ratio_words(found))
    figure = draw_comparison(found, (masks[0].name, masks[1].name), tau)
    save(figure, out, {"figure": "comparison", "store": f"{masks[0].name} and {masks[1].name}", "layer": "all"})
    say(f"figure:  {out}")
    if numbers:
        parts = {"values": found.values, "chance": found.chance, "spread": found.spread}
        known: dict[str, Any] = {
            name: {key: None if math.isnan(value) else value for key, value in part.items()}
            for name, part in parts.items()
        }
        bins = {name: getattr(found, name).tolist() for name in ("to_b", "to_a", "chance_to_b", "chance_to_a")}
        known |= {"a": masks[0].name, "b": masks[1].name, "voxels": found.voxels, "both": found.both, "notes": notes}
        replace_file(numbers, json.dumps({**known, "histograms_0.05_um": bins}, indent=1).encode())
        say(f"numbers: {numbers}")


@click.command()
@click.argument("store", type=FILE)
@click.argument("out", type=FILE)
@click.option(
    "--what",
    multiple=True,
    type=click.Choice(
        (
            "maps",
            "boundaries",
            "points",
            "volume",
            "objects",
            "regions",
            "tracks",
            "positions",
            "reflections",
            "candidates",
        )
    ),
    help="Export only this; repeatable. [default: all results in STORE]",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(("nexus", "tiff", "csv", "netcdf", "zarr")),
    help="Format of the maps; repeatable. [default: nexus]",
)
@click.option("--parquet", is_flag=True, help="Write tables as Parquet in addition to CSV; requires pyarrow.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def export(
    store: Path, out: Path, what: tuple[str, ...], formats: tuple[str, ...], parquet: bool, overwrite: bool
) -> None:
    """Write results as files for other programs.

    The files of STORE go into the folder OUT.

    \b
    maps        NeXus HDF5 for silx view and h5web, OME-TIFF, CSV, netCDF, Zarr
    boundaries  tables (CSV, units in a JSON file), planes and lines for ParaView (.vtkhdf)
    points      points of boundaries for ParaView
    volume      mask and labels for napari and other viewers (OME-Zarr 0.5)
    objects     table of the dislocation objects
    """
    from dfxm_dask.view.export import export_with_notes
    from dfxm_dask.view.tables import say

    files, notes = export_with_notes(store, out, what=what, formats=formats, parquet=parquet, overwrite=overwrite)
    for path in files:
        say(str(path))
    for note in notes:
        say(f"NOTE: {note}")
