"""Commands that write stores (demo, simulate, ingest), set their pixel size, and show their content."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import (
    CLUSTER,
    FILE,
    PARTIAL,
    answer,
    complete_preset,
    compute,
    crystal_options,
    json_option,
    plugin_option,
    read_layers,
    read_motors,
    read_pixel_size,
    read_roi,
    read_shape,
    run_options,
    subscribers,
)
from dfxm_dask.errors import DfxmError


@click.command()
@click.option("--out", type=FILE, default=Path("demo"), show_default=True, help="Folder for the store and the figures.")
@click.option(
    "--preset",
    default="easy",
    show_default=True,
    shell_complete=complete_preset,
    help="Simulated sample; see `dfxm-dask simulate --help`.",
)
@click.option("--real", is_flag=True, help="Reduce a real rocking scan of beamline ID03 instead.")
@click.option("--movie", is_flag=True, help="Track the moving dislocations of a simulated movie instead.")
@click.option(
    "--pixel-size",
    metavar="Y,X",
    callback=read_pixel_size,
    help="Effective pixel of the real scan in um, for KAM and scale bars. The file does not record it. [default: 1,1]",
)
@run_options
def demo(out: Path, preset: str, real: bool, movie: bool, pixel_size: tuple[float, float] | None, **how: Any) -> None:
    """Simulate a scan, reduce it, and compare with the truth.

    The demo simulates the files of a beamline, ingests and reduces them, draws figures, and prints the results beside
    the truth. The strong beam of the simulated scan is sharp: four layers are too few to find the wall under a smeared
    strong beam.

    \b
    Examples:
      dfxm-dask demo
      dfxm-dask demo --real --out real
      dfxm-dask demo --movie --out movie
    """
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.store.scan import open_scan
    from dfxm_dask.view.compare.truth import truth_rows
    from dfxm_dask.view.pictures import figures as draw
    from dfxm_dask.view.store_facts import findings, measured
    from dfxm_dask.view.tables import say, show_table

    if real and movie:
        raise DfxmError("demo --real --movie", "are two different scans", "choose one of them")
    truth = None
    if real:
        store = out / "rocking.zarr"
        if pixel_size is None:
            say("effective pixel set to 1 um: the file does not record it (--pixel-size Y,X sets another)")
        source, pixel_size = demo_scan(), pixel_size or (1.0, 1.0)
        out.mkdir(parents=True, exist_ok=True)
    else:
        preset = "movie" if movie else preset
        store, source = out / f"{preset}.zarr", out / "raw" / f"{preset}.h5"
        source.parent.mkdir(parents=True, exist_ok=True)
        truth = simulated(preset, source, how, format="bliss", strong_beam=None if movie else "sharp")
        pixel_size = float(truth.y[1] - truth.y[0]), float(truth.x[1] - truth.x[0])
    given = {"scan": "1.1" if real else "all", "pixel_size": pixel_size, "overwrite": how["overwrite"]}
    ingest_source(source, store, None, None, how["events"], **given)
    recipes = ("movie",) if movie else ("maps", "weak_beam_volume")
    complete = all([compute(read_recipe(name), store, **how) for name in recipes])
    tree = open_scan(store, chunks=None)
    if truth is not None:  # its coordinates went through a motor in mm: equal except for rounding
        tree["truth"] = truth["truth"].to_dataset(inherit=False)
    written = list(draw(tree, out / "figures").values())
    if "rocking" in tree:
        found = [(one["quantity"], measured(one)) for one in findings(tree["rocking"].dataset)]
        show_table("findings", ("quantity", "value"), found, right=(1,))
    if truth is not None:
        rows = truth_rows(tree, tree["truth"].dataset)
        show_table("beside the truth", ("quantity", "found", "true"), rows, right=(1, 2))
    if "rocking" in tree:
        say("The scan ends before truncated curves reach their background: their widths are lower bounds.")
    say(f"store:    {store}")
    say(f"figures:  {out / 'figures'} ({len(written)} files; begin with {written[-1].name})")
    if not complete:
        raise SystemExit(PARTIAL)


def simulated(preset: str, out: Path, how: dict[str, Any], **options: Any) -> Any:
    """Simulate and show the events; with ``--cluster`` or ``--workers`` layers are computed in parallel."""
    from dfxm_dask.run.execute import run_simulate
    from dfxm_dask.run.stopping import heeding_signals

    with ExitStack() as stack:
        client = None
        if how.get("cluster") or how.get("workers"):
            from dfxm_dask.run.clusters.cluster import open_cluster

            client = stack.enter_context(open_cluster(how["cluster"], workers=how["workers"]))
        stack.enter_context(heeding_signals())
        publish = subscribers(stack, how["events"])
        return run_simulate(preset, out, client=client, publish=publish, overwrite=how["overwrite"], **options)


def demo_scan() -> Path:
    """The real rocking scan, a data file of the package darling, whose code is not loaded."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [file for file in files("darling-pypi") or [] if file.parts[-2:] == ("rocking_scan_id03", "rocking.h5")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise DfxmError("demo", "the example scan is not installed", "pip install 'dfxm_dask[demo]'")
    return Path(str(found[0].locate()))


@click.command()
@click.argument("preset", shell_complete=complete_preset)
@click.argument("out", type=FILE)
@click.option("--layers", type=click.IntRange(1), help="Number of layers along z. [default: set by PRESET]")
@click.option("--shape", metavar="Y,X", callback=read_shape, help="Rows and columns. [default: set by PRESET]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Equal seeds give equal counts.")
@click.option(
    "--strong-beam",
    type=click.Choice(["smeared", "sharp", "none"]),
    help="Lattice that diffracts the strong beam. smeared: the lattice with its dislocations, smeared over the width"
    " of a Takagi-Taupin calculation. sharp: subgrains that meet at a plane without width. none: no strong beam."
    " [default: smeared; none for deformed, reflections and isolated]",
)
@click.option(
    "--network",
    type=FILE,
    help="Dislocation network for the preset network: a file of ParaDiS or ExaDiS. [default: loops at random]",
)
@click.option(
    "--format",
    type=click.Choice(["zarr", "bliss"]),
    default="zarr",
    show_default=True,
    help="zarr: a store. bliss: a master file OUT.h5 with LIMA files, and the truth in OUT_truth.zarr.",
)
@run_options
def simulate(preset: str, out: Path, cluster: str | None, workers: int | None, **options: Any) -> None:
    """Simulate a scan with known truth.

    PRESET is easy, hard, multigrain, al002, movie, movie_long, movie_crowded, movie_empty, isolated,
    isolated_phi_chi, isolated_reflections, reflections, reflections_edge, network, empty or deformed.
    A simulation that was stopped continues where it stopped.

    \b
    Examples:
      dfxm-dask simulate easy easy.zarr
      dfxm-dask simulate hard hard.h5 --format bliss --layers 4
      dfxm-dask simulate network network.zarr --network restart.data --workers 2
    """
    from dfxm_dask.phantoms.presets import PRESETS
    from dfxm_dask.view.tables import say

    how = {"cluster": cluster, "workers": workers, **{word: options.pop(word) for word in ("events", "overwrite")}}
    simulated(preset, out, how, **options)
    say(f"{out}: preset {preset}, seed {options['seed']}: {PRESETS[preset].summary}")


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("store", type=FILE)
@click.option("--scan", metavar="1.1,2.1|all", help="Entries of SOURCE; several become the layers of one store.")
@click.option(
    "--beamline",
    default="id03",
    show_default=True,
    metavar="NAME|FILE",
    help="Configuration with the names of motors and cameras.",
)
@click.option("--detector", help="Camera, if a scan contains several.")
@click.option("--roi", metavar="Y0:Y1,X0:X1", callback=read_roi, help="Region of every frame to keep, in pixels.")
@click.option(
    "--pixel-size",
    metavar="Y,X",
    callback=read_pixel_size,
    help="Effective pixel in the object, in um. Files do not record it.",
)
@click.option(
    "--z", metavar="Z,Z,...", callback=read_layers, help="Positions of the layers, in um, if files do not record them."
)
@click.option(
    "--motor",
    "motors",
    metavar="MOTOR=AXIS",
    multiple=True,
    callback=read_motors,
    help="Axis of a motor, such as mu=phi or samz=z. The option may be repeated.",
)
@click.option("--root", "roots", type=FILE, multiple=True, help="Folder with frames of the scan. May be repeated.")
@click.option("--allow-partial", is_flag=True, help="Keep the complete part of an aborted scan.")
@click.option(
    "--scan-mode", type=click.Choice(["rewind", "zigzag"]), help="Direction of rows, if the file does not record it."
)
@click.option(
    "--format", metavar="NAME", help="Format; `dfxm-dask formats` lists them. [default: the format of the file]"
)
@click.option(
    "--positions",
    type=click.Choice(["motor", "command"]),
    help="Source of the positions, if motors and scan command disagree.",
)
@click.option(
    "--repeats",
    type=click.Choice(["point", "scan"]),
    help="Order of repeated frames in a table. point: all frames of a point together. scan: the whole scan repeated.",
)
@click.option(
    "--time-step", type=float, metavar="S", help="Time between frames that record neither motors nor times, in s."
)
@crystal_options
@click.option("--overwrite", is_flag=True, help="Replace an existing store.")
@click.option("--workers", type=click.IntRange(1), help="Number of layers in parallel. [default: 1, in this process]")
@click.option("--cluster", metavar=CLUSTER, help="Cluster that computes. [default: this machine]")
@click.option("--events", type=FILE, help="Append all events to this file, as JSON lines.")
def ingest(
    source: tuple[str, ...], store: Path, cluster: str | None, workers: int | None, events: Path | None, **options: Any
) -> None:
    """Read beamline files into a store.

    SOURCE is one or more files: BLISS HDF5, EDF, or frames with a table (see `dfxm-dask formats`). An ingest that was
    stopped continues where it stopped. Exit code 3: layers are absent from SOURCE.

    \b
    Examples:
      dfxm-dask ingest scan.h5 scan.zarr --pixel-size 0.2,0.06
      dfxm-dask ingest layers.h5 stack.zarr --scan all
      dfxm-dask ingest a.h5 b.h5 stack.zarr --z 0,1
    """
    from dfxm_dask.run.events import duration, many, megabytes
    from dfxm_dask.store.integrity.opened import open_store
    from dfxm_dask.view.tables import say

    if options["z"]:
        from dfxm_dask.sources.readers import named_scans

        with suppress(DfxmError):  # ingest itself reports errors, a wrong number of layers included
            scans = named_scans(list(source), options["scan"], options["format"])
            for (path, entry), at in zip(scans, options["z"], strict=False):
                files = path if isinstance(path, str | Path) else f"{path[0]} ... {path[-1]}"
                say(f"z = {at:g} um: {files} entry {entry}")
    report = ingest_source(source[0] if len(source) == 1 else list(source), store, cluster, workers, events, **options)
    say(f"{store}: {many(report.layers, 'layer')}, {megabytes(report.bytes)} in {duration(report.seconds)}")
    for remark in report.remarks:
        say(f"note: {remark}")
    with suppress(DfxmError):  # the lines below report an incomplete store
        if open_store(store).nodes.get("y", {}).get("attributes", {}).get("units") == "pixel":
            say(f"note: no pixel size: y and x count pixels; set it with dfxm-dask calibrate {store} --pixel-size Y,X")
    if report.absent:
        say(f"ABSENT: {', '.join(report.absent)}")
        raise SystemExit(PARTIAL)


@click.command()
def formats() -> None:
    """List the formats that ingest reads.

    The list includes formats of installed plug-in packages.
    """
    from dfxm_dask.sources.readers import known_readers
    from dfxm_dask.view.tables import show_table

    rows = [(reader.name, reader.summary) for reader in known_readers().values()]
    show_table("formats of raw scans", ("name", "files"), rows)


def ingest_source(
    source: Any, store: Path, cluster: str | None, workers: int | None, events: Path | None, **options: Any
) -> Any:
    """Ingest and show the events; with ``--cluster`` or ``--workers`` layers are written in parallel."""
    from dfxm_dask.run.execute import run_ingest
    from dfxm_dask.run.stopping import heeding_signals

    with ExitStack() as stack:
        client = None
        if cluster or workers:
            from dfxm_dask.run.clusters.cluster import open_cluster

            client = stack.enter_context(open_cluster(cluster, workers=workers))
        stack.enter_context(heeding_signals())
        return run_ingest(source, store, client=client, publish=subscribers(stack, events), **options)


@click.command()
@click.argument("store", type=FILE)
@click.option("--pixel-size", metavar="Y,X", callback=read_pixel_size, help="Effective pixel in the object, in um.")
@click.option("--camera-pixel", type=float, metavar="UM", help="Edge of a camera pixel, in um. [default: as recorded]")
@click.option(
    "--magnification",
    type=float,
    metavar="M",
    help="Magnification from the object to the camera: X-ray objective times optics.",
)
@click.option("--two-theta", type=float, metavar="DEGREE", help="Scattering angle, in degree. [default: as recorded]")
@click.option(
    "--detector",
    type=click.Choice(["vertical", "normal"]),
    default="vertical",
    show_default=True,
    help="vertical: parallel to the yz plane of the laboratory (pixels stretched by 1/tan two-theta). normal: normal to"
    " the beam (1/sin two-theta).",
)
@click.option(
    "--stretched",
    type=click.Choice(["y", "x"]),
    help="Dimension along which the detector views the layer obliquely. [default: scattering_plane of the beamline,"
    " else x]",
)
@crystal_options
@click.option("--dry-run", is_flag=True, help="List the steps that would be invalidated, and change nothing.")
@plugin_option
def calibrate(store: Path, dry_run: bool, plugins: tuple[Path, ...], **options: Any) -> None:
    """Set the effective pixel size or the crystal of a store.

    Give --pixel-size; or --magnification, and the values that the store does not record; or only the crystal and its
    setting.
    Raw data are not read again. Steps that depend on lengths are invalidated, and the next run recomputes them; the
    other steps stay.

    \b
    Examples:
      dfxm-dask calibrate scan.zarr --pixel-size 0.2,0.06
      dfxm-dask calibrate scan.zarr --magnification 35 --two-theta 17.8 --dry-run
    """
    from dfxm_dask.store.calibrate import calibrate as change
    from dfxm_dask.store.crystal import crystal_words
    from dfxm_dask.store.lengths import words
    from dfxm_dask.view.tables import say

    report = change(store, dry_run=dry_run, **options)
    say(f"{store}: pixels of {words(report.pixel_size)} ({report.source})")
    if report.crystal:
        say(f"crystal: {crystal_words(report.crystal)}")
    if not report.changed:
        say("the store already records these values: nothing changes")
        return
    say(f"before: pixels of {words(report.before)}")
    withdrawn = ", ".join(report.withdrawn) or "none"
    say(f"{'would be invalidated' if dry_run else 'invalidated, and recomputed by the next run'}: {withdrawn}")
    say(f"kept: {', '.join(report.kept) or 'none'}")


@click.command()
@click.argument("store", type=FILE)
@json_option
def info(store: Path, as_json: bool) -> None:
    """Show the content and the state of a store.

    The tables list axes, variables, and steps with their parameters. Exit code 3: the store is incomplete.
    """
    from dfxm_dask.view.answers import info as look

    found = look(store)
    answer(found, as_json)
    if not found.as_dict()["complete"]:
        raise SystemExit(PARTIAL)
