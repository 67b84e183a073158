"""Commands that make stores: demo, simulate, ingest; that set their pixel size; and one that looks into them."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import (
    FILE,
    PARTIAL,
    compute,
    crystal_options,
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
@click.option("--out", type=FILE, default=Path("demo"), show_default=True, help="Folder for the store and figures.")
@click.option("--preset", default="easy", show_default=True, help="What to simulate; see `dfxm-dask simulate --help`.")
@click.option("--real", is_flag=True, help="Reduce a real rocking scan of beamline ID03 instead.")
@click.option(
    "--pixel-size",
    metavar="Y,X",
    callback=read_pixel_size,
    help="With --real: effective pixel in um, for KAM and scale bars. The file does not record it. [default: 1,1]",
)
@run_options
def demo(out: Path, preset: str, real: bool, pixel_size: tuple[float, float] | None, **how: Any) -> None:
    """Simulate what a beamline writes, reduce it, draw it, and print what was found beside what is true.

    The strong beam of the simulated scan is sharp: in four layers the wall is not found where it is smeared.
    """
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.store.scan import open_scan
    from dfxm_dask.view.compare.truth import truth_rows
    from dfxm_dask.view.pictures import figures as draw
    from dfxm_dask.view.tables import findings, say, show_table

    truth = None
    if real:
        store = out / "rocking.zarr"
        if pixel_size is None:
            say("effective pixel taken as 1 um: the file does not record it (--pixel-size Y,X to say otherwise)")
        source, pixel_size = demo_scan(), pixel_size or (1.0, 1.0)
        out.mkdir(parents=True, exist_ok=True)
    else:
        store, source = out / f"{preset}.zarr", out / "raw" / f"{preset}.h5"
        source.parent.mkdir(parents=True, exist_ok=True)
        truth = simulated(preset, source, how, format="bliss", strong_beam="sharp")
        pixel_size = float(truth.y[1] - truth.y[0]), float(truth.x[1] - truth.x[0])
    given = {"scan": "1.1" if real else "all", "pixel_size": pixel_size, "overwrite": how["overwrite"]}
    ingest_source(source, store, None, None, how["events"], **given)
    complete = all([compute(read_recipe(name), store, **how) for name in ("maps", "weak_beam_volume")])
    tree = open_scan(store, chunks=None)
    if truth is not None:  # its coordinates went through a motor in mm: equal but for rounding
        tree["truth"] = truth["truth"].to_dataset(inherit=False)
    written = list(draw(tree, out / "figures").values())
    show_table("what was found", ("quantity", "value"), findings(tree), right=(1,))
    if truth is not None:
        rows = truth_rows(tree, tree["truth"].dataset)
        show_table("beside the truth", ("quantity", "found", "true"), rows, right=(1, 2))
    say("A truncated curve never comes down to its background within the scan: its width is a lower bound.")
    say(f"store:    {store}")
    say(f"figures:  {out / 'figures'} ({len(written)} files; begin with {written[-1].name})")
    if not complete:
        raise SystemExit(PARTIAL)


def simulated(preset: str, out: Path, how: dict[str, Any], **options: Any) -> Any:
    """Simulate with the events shown; layers in parallel where a cluster or workers were asked for."""
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
    """The real rocking scan that comes as a data file inside darling; its code is not loaded."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [file for file in files("darling-pypi") or [] if file.parts[-2:] == ("rocking_scan_id03", "rocking.h5")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise DfxmError("demo", "the example scan is not installed", "pip install 'dfxm_dask[demo]'")
    return Path(str(found[0].locate()))


@click.command()
@click.argument("preset")
@click.argument("out", type=FILE)
@click.option("--layers", type=click.IntRange(1), help="Layers along z. [default: of the preset]")
@click.option("--shape", metavar="Y,X", callback=read_shape, help="Rows and columns. [default: of the preset]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same counts.")
@click.option(
    "--strong-beam",
    type=click.Choice(["smeared", "sharp", "none"]),
    help="The lattice that the strong beam follows: with its dislocations, as wide as Takagi-Taupin shows it (smeared);"
    " subgrains that meet at a plane without width (sharp); no strong beam (none)."
    " [default: smeared; none for deformed and reflections]",
)
@click.option(
    "--format",
    type=click.Choice(["zarr", "bliss"]),
    default="zarr",
    show_default=True,
    help="A store; or a master file OUT.h5 with LIMA files, and the truth in OUT_truth.zarr.",
)
@run_options
def simulate(preset: str, out: Path, cluster: str | None, workers: int | None, **options: Any) -> None:
    """Simulate a scan with known truth.

    PRESET is easy, hard, multigrain, al002, movie, movie_long, reflections, empty or deformed. A simulation that was
    stopped goes on where it stopped.
    """
    from dfxm_dask.phantoms.presets import PRESETS
    from dfxm_dask.view.tables import say

    how = {"cluster": cluster, "workers": workers, **{word: options.pop(word) for word in ("events", "overwrite")}}
    simulated(preset, out, how, **options)
    say(f"{out}: preset {preset}, seed {options['seed']}: {PRESETS[preset].summary}")


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.argument("store", type=FILE)
@click.option("--scan", metavar="1.1,2.1|all", help="Entries; several become the layers of one store.")
@click.option("--beamline", default="id03", show_default=True, metavar="NAME|FILE", help="Names of motors and cameras.")
@click.option("--detector", help="Camera, where a scan holds several.")
@click.option("--roi", metavar="Y0:Y1,X0:X1", callback=read_roi, help="Part of every frame to keep, in pixels.")
@click.option(
    "--pixel-size", metavar="Y,X", callback=read_pixel_size, help="Effective pixel in the object, in um. Files lack it."
)
@click.option("--z", metavar="Z,Z,...", callback=read_layers, help="Layers, in um, where files lack them.")
@click.option(
    "--motor", "motors", metavar="MOTOR=AXIS", multiple=True, callback=read_motors, help="As mu=phi or samz=z."
)
@click.option("--root", "roots", type=FILE, multiple=True, help="Folder in which frames of the scan may lie.")
@click.option("--allow-partial", is_flag=True, help="Keep what an aborted scan has.")
@click.option(
    "--scan-mode", type=click.Choice(["rewind", "zigzag"]), help="Direction of rows, where the file does not say it."
)
@click.option("--format", metavar="NAME", help="As `dfxm-dask formats` lists them. [default: the one that fits]")
@click.option(
    "--positions", type=click.Choice(["motor", "command"]), help="What to believe where motors and command disagree."
)
@click.option(
    "--repeats",
    type=click.Choice(["point", "scan"]),
    help="Order of several frames for each row of a table: all of a point, or the scan again and again.",
)
@crystal_options
@click.option("--overwrite", is_flag=True, help="Replace a store that is there.")
@click.option("--workers", type=click.IntRange(1), help="Layers written at a time. [default: 1, in this process]")
@click.option("--cluster", metavar="NAME|FILE|tcp://...", help="Where to compute. [default: this machine]")
@click.option("--events", type=FILE, help="Append what happens to this file, as JSON lines.")
def ingest(
    source: tuple[str, ...], store: Path, cluster: str | None, workers: int | None, events: Path | None, **options: Any
) -> None:
    """Read beamline files into one store: BLISS HDF5, EDF, frames with a table; see `dfxm-dask formats`.

    An ingest that was stopped goes on where it stopped. Exit code 3 says that layers are absent.
    """
    from dfxm_dask.run.events import duration, many, megabytes
    from dfxm_dask.view.tables import say

    if options["z"]:
        from dfxm_dask.sources.readers import named_scans

        with suppress(DfxmError):  # ingest itself says what is wrong, also with their number
            scans = named_scans(list(source), options["scan"], options["format"])
            for (path, entry), at in zip(scans, options["z"], strict=False):
                files = path if isinstance(path, str | Path) else f"{path[0]} ... {path[-1]}"
                say(f"z = {at:g} um: {files} entry {entry}")
    report = ingest_source(source[0] if len(source) == 1 else list(source), store, cluster, workers, events, **options)
    say(f"{store}: {many(report.layers, 'layer')}, {megabytes(report.bytes)} in {duration(report.seconds)}")
    for remark in report.remarks:
        say(f"note: {remark}")
    if report.absent:
        say(f"ABSENT: {', '.join(report.absent)}")
        raise SystemExit(PARTIAL)


@click.command()
def formats() -> None:
    """List the formats that ingest reads, those of installed packages included."""
    from dfxm_dask.sources.readers import known_readers
    from dfxm_dask.view.tables import show_table

    rows = [(reader.name, reader.summary) for reader in known_readers().values()]
    show_table("formats of raw scans", ("name", "what it reads"), rows)


def ingest_source(
    source: Any, store: Path, cluster: str | None, workers: int | None, events: Path | None, **options: Any
) -> Any:
    """Ingest with its events shown; here, or with layers in parallel where a cluster or workers were asked for."""
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
@click.option("--camera-pixel", type=float, metavar="UM", help="Edge of a camera pixel. [default: as recorded]")
@click.option(
    "--magnification", type=float, metavar="M", help="From the object to the camera: X-ray objective times optics."
)
@click.option("--two-theta", type=float, metavar="DEGREE", help="Scattering angle. [default: as recorded]")
@click.option(
    "--detector",
    type=click.Choice(["vertical", "normal"]),
    default="vertical",
    show_default=True,
    help="Parallel to the lab yz plane (pixels stretched by 1/tan two-theta), or normal to the beam (1/sin two-theta).",
)
@click.option(
    "--stretched",
    type=click.Choice(["y", "x"]),
    help="Dim along which the layer is seen obliquely. [default: scattering_plane of the beamline, else x]",
)
@crystal_options
@click.option("--dry-run", is_flag=True, help="Say what would be withdrawn, and change nothing.")
@plugin_option
def calibrate(store: Path, dry_run: bool, plugins: tuple[Path, ...], **options: Any) -> None:
    """Set or change the effective pixel of a store, and what it knows of its crystal.

    Either --pixel-size, or --magnification with what the store does not record; or --lattice and --hkl alone. Raw data
    are not read again. Steps that do not depend on lengths are kept; the next run makes the others anew.
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
        say("the store knows this already: nothing changes")
        return
    say(f"before: pixels of {words(report.before)}")
    withdrawn = ", ".join(report.withdrawn) or "no step depends on lengths"
    say(f"{'would be withdrawn' if dry_run else 'withdrawn, and made anew by the next run'}: {withdrawn}")
    say(f"kept: {', '.join(report.kept) or 'the store has no other step'}")


@click.command()
@click.argument("store", type=FILE)
def info(store: Path) -> None:
    """Show what is in a store. Exit code 3 says that something is incomplete."""
    from dfxm_dask.view.tables import show_store

    if not show_store(store):
        raise SystemExit(PARTIAL)
