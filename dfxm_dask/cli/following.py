"""The command that reduces a scan while it is measured."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import (
    FILE,
    PARTIAL,
    complete_recipe,
    crystal_options,
    plugin_option,
    read_motors,
    read_pixel_size,
    read_roi,
    subscribers,
)


@click.command()
@click.argument("raw", type=FILE)
@click.argument("store", type=FILE)
@click.option("--recipe", required=True, metavar="RECIPE", shell_complete=complete_recipe, help="Name or YAML file.")
@click.option("--layers", type=click.IntRange(1), help="Number of layers after which the scan is complete.")
@click.option(
    "--idle",
    type=click.FloatRange(1),
    default=1800.0,
    show_default=True,
    metavar="S",
    help="Seconds without a change of RAW after which the scan is complete.",
)
@click.option("--beamline", default="id03", show_default=True, metavar="NAME|FILE", help="Names of motors and cameras.")
@click.option("--detector", help="Camera, if a scan contains several.")
@click.option("--roi", metavar="Y0:Y1,X0:X1", callback=read_roi, help="Region of every frame to keep, in pixels.")
@click.option("--pixel-size", metavar="Y,X", callback=read_pixel_size, help="Effective pixel in the object, in um.")
@click.option(
    "--motor", "motors", metavar="MOTOR=AXIS", multiple=True, callback=read_motors, help="Axis of a motor; repeatable."
)
@click.option("--root", "roots", type=FILE, multiple=True, help="Folder with frames of the scan. May be repeated.")
@click.option("--scan-mode", type=click.Choice(["rewind", "zigzag"]), help="Direction of rows, if not recorded.")
@crystal_options
@click.option("--events", type=FILE, help="Append all events to this file, as JSON lines.")
@plugin_option
def follow(raw: Path, store: Path, recipe: str, plugins: tuple[Path, ...], events: Path | None, **options: Any) -> None:
    """Ingest and reduce the layers of RAW while they are measured.

    RAW is a BLISS master file, which may not exist yet; its entries are the layers. A layer is reduced as soon as its
    last frame is on disk. RAW is read without locks. A follower that was stopped continues. In the end STORE is that
    of an ingest and a run of the finished scan. Exit code 0: complete; 3: stopped, or layers were aborted.

    \b
    Example:
      dfxm-dask follow scan.h5 scan.zarr --recipe weak_beam --layers 301 --pixel-size 0.04,0.106
    """
    from dfxm_dask.run.live.following import follow as follow_scan
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.run.stopping import heeding_signals
    from dfxm_dask.view.tables import say

    asked = read_recipe(recipe)
    with ExitStack() as stack:
        stack.enter_context(heeding_signals())
        publish = subscribers(stack, events)
        done = follow_scan(raw, store, asked, publish=publish, say=say, **options)
    if done.stopped:
        say(f"INCOMPLETE: {done.stopped}; the same command continues")
    elif done.aborted:
        say(f"INCOMPLETE: aborted entries {', '.join(done.aborted)}")
    if not done.complete:
        raise SystemExit(PARTIAL)
