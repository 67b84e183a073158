"""Commands for volumes: how well two agree, and files of them for other programs."""

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
@click.option("--tau", default="0.5,1,2", show_default=True, callback=read_tau, help="Distances in um that count.")
@click.option("--out", type=FILE, metavar="FILE.png", help="Figure. [default: A_against_B.png beside A]")
@click.option("--resample", is_flag=True, help="Put B on the grid of A, by nearest voxel, where they differ.")
@click.option("--json", "numbers", type=FILE, metavar="FILE", help="Write the numbers to this file, too.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Processor cores to use.")
def compare(
    a: str, b: str, tau: tuple[float, ...], out: Path | None, resample: bool, numbers: Path | None, threads: int
) -> None:
    """Compare the masks of two stores, A (what was found) with B (the truth, or another method).

    A and B are stores: their volume/dislocation counts, else beams/defects, else what lies near a true line. Name
    another as STORE:group/variable; where that is no mask, with a limit: "STORE:truth/distance<0.5". Each number stands
    beside what A would reach at random places.
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
    type=click.Choice(("boundaries", "points", "volume", "objects")),
    help="Only this; may be given several times. [default: all that the store has]",
)
@click.option("--parquet", is_flag=True, help="Tables as Parquet, too; needs pyarrow.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def export(store: Path, out: Path, what: tuple[str, ...], parquet: bool, overwrite: bool) -> None:
    """Write files of STORE for other programs into the folder OUT.

    Tables as CSV with units in a JSON file beside; planes, lines and points for ParaView (.vtkhdf); the volume with its
    labels for napari and others (OME-Zarr 0.5).
    """
    from dfxm_dask.view.export import export as write
    from dfxm_dask.view.tables import say

    files, notes = write(store, out, what=what, parquet=parquet, overwrite=overwrite)
    for path in files:
        say(str(path))
    for note in notes:
        say(f"NOTE: {note}")
