"""The command that joins the stores of several reflections to a set."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import CLUSTER, FILE, read_hkl, read_pixel_size
from dfxm_dask.cli.parameters import FieldType


def _numbers(_: Any, param: click.Parameter, text: str | None) -> list[float] | None:
    """``A,B,C`` as numbers."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 6.43,96.43,276.43") from None


def _matrix(_: Any, __: Any, text: str | None) -> list[list[float]] | None:
    """Nine numbers as the rows of a matrix."""
    found = _numbers(None, None, text)  # type: ignore[arg-type]
    if found is not None and len(found) != 9:
        raise click.BadParameter(f"has {len(found)} numbers instead of nine, row by row")
    return None if found is None else [found[k : k + 3] for k in (0, 3, 6)]


def _shift(_: Any, __: Any, text: str) -> str | list[tuple[float, float]]:
    """auto, none, or ``Y,X`` of every store, with semicolons between them."""
    if text in ("auto", "none"):
        return text
    try:
        found = [tuple(float(part) for part in pair.split(",")) for pair in text.split(";")]
        if any(len(pair) != 2 for pair in found):
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{text!r} is not auto, none, or Y,X;Y,X;... in um") from None
    return found  # type: ignore[return-value]


@click.command()
@click.argument("target", metavar="SET", type=FILE)
@click.argument("stores", nargs=-1, required=True, type=FILE)
@click.option(
    "--hkl",
    metavar="H,K,L",
    multiple=True,
    callback=lambda c, p, texts: [read_hkl(c, p, text) for text in texts] or None,
    help="Reflection, once for each store in the order of STORES. [default: as recorded]",
)
@click.option(
    "--lattice",
    metavar="{parameter: A, x: [h, k, l], z: [h, k, l]}",
    type=FieldType(dict),
    help="Cubic lattice: parameter A in um, and the crystal directions along x and z of the sample (the axes of the"
    " laboratory at omega = 0). [default: as recorded]",
)
@click.option(
    "--ub",
    "reciprocal_lattice",
    metavar="N,N,...",
    callback=_matrix,
    help="UB instead of --lattice: nine numbers in 1/angstrom, row by row, 2 pi included.",
)
@click.option("--energy", type=float, metavar="KEV", help="Photon energy, in keV. [default: as recorded]")
@click.option("--omega", metavar="A,B,C", callback=_numbers, help="omega of every store, in degree. [as recorded]")
@click.option("--eta", metavar="A[,B,C]", callback=_numbers, help="eta of all stores or of every store, in degree.")
@click.option("--mu", type=float, metavar="DEGREE", help="mu of all stores, in degree. [default: as recorded, else 0]")
@click.option(
    "--frame",
    type=click.Choice(["laboratory", "sample"]),
    help="Axes of the pixels. laboratory: turned by omega about z against the sample. [default: as recorded]",
)
@click.option(
    "--zero",
    type=click.Choice(["nominal", "mean"]),
    default="nominal",
    show_default=True,
    help="Reference of the angles. nominal: scan positions are deviations from the setting of the reference lattice."
    " mean: median over the lit pixels of each reflection; the deformation is then relative to the mean lattice.",
)
@click.option(
    "--shift",
    metavar="auto|none|Y,X;Y,X;...",
    default="auto",
    show_default=True,
    callback=_shift,
    help="Displacement of the sample in every store relative to the first one, in um along the axes of the sample."
    " auto: by registration of the maps. none: zero.",
)
@click.option(
    "--pixel-size",
    metavar="Y,X",
    callback=read_pixel_size,
    help="Pixel of the set, in um. [default: the grid of the first store, if in the axes of the sample, else square"
    " pixels]",
)
@click.option(
    "--beam-height",
    type=float,
    metavar="UM",
    help="Height of the line beam (full width at half maximum), in um: the average over it then adds to the errors.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing set.")
@click.option("--workers", type=click.IntRange(1), help="Number of layers in parallel. [default: 1, in this process]")
@click.option("--cluster", metavar=CLUSTER, help="Cluster that computes. [default: this machine]")
def join(target: Path, stores: tuple[Path, ...], cluster: str | None, workers: int | None, **options: Any) -> None:
    """Join the maps of several reflections of one sample to a set.

    STORES are the stores of the reflections, each with results of the steps moments and moment_errors. SET is a new
    store without counts: centres of mass and their covariances on one grid in the axes of the sample. A join that was
    stopped continues where it stopped.

    \b
    Example:
      dfxm-dask join set.zarr a.zarr b.zarr c.zarr
      dfxm-dask run strain set.zarr
    """
    from dfxm_dask.run.events import duration, many, megabytes
    from dfxm_dask.run.stopping import heeding_signals
    from dfxm_dask.run.task_queue import windowed
    from dfxm_dask.store.reflections.join import join as write
    from dfxm_dask.view.tables import say, show_table

    eta = options["eta"]
    options["eta"] = eta[0] if eta is not None and len(eta) == 1 else eta
    with ExitStack() as stack:
        client = None
        if cluster or workers:
            from dfxm_dask.run.clusters.cluster import open_cluster

            client = stack.enter_context(open_cluster(cluster, workers=workers))
        stack.enter_context(heeding_signals())
        report = write(target, *stores, each=lambda call, tasks: windowed(client, call, tasks), **options)
    rows = [
        (path.name, " ".join(map(str, hkl)), *(f"{angle:.4f}" for angle in setting), *map(_with_error, moved, errors))
        for path, hkl, setting, moved, errors in zip(
            stores, report.hkl, report.setting, report.shift, report.shift_error, strict=True
        )
    ]
    head = ("store", "hkl", "mu", "omega", "eta", "theta", "shift y (um)", "shift x (um)")
    show_table("reflections", head, rows, right=(2, 3, 4, 5, 6, 7))
    for remark in report.remarks:
        say(f"note: {remark}")
    say(f"{target}: {many(report.layers, 'layer')}, {megabytes(report.bytes)} in {duration(report.seconds)}")


def _with_error(value: float, error: float) -> str:
    return f"{value:.4f}" if error != error else f"{value:.4f} ± {error:.4f}"
