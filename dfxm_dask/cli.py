"""The command line. Exit codes: 0 done, 1 refused, 2 wrong usage, 3 done in part.

Whatever is heavy (dask, xarray, zarr, matplotlib) loads inside the commands that need it: help comes at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from dfxm_dask import __version__
from dfxm_dask.errors import DfxmError, InputError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from dfxm_dask.reduction import Reduction
    from dfxm_dask.run.events import Subscriber
    from dfxm_dask.run.recipe import Recipe

PARTIAL = 3
FILE = click.Path(path_type=Path)


class Commands(click.Group):
    """Commands whose refusals are one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DfxmError as error:
            raise click.ClickException(" ".join(str(error).split())) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are used


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dfxm-dask")
def cli() -> None:
    """Dark-field X-ray microscopy scans, larger than memory, reduced to labelled maps.

    A first look: `dfxm-dask demo`. Your own scan: `ingest`, then `run maps`, then `figures`. No scan: `simulate`.
    """


def main() -> None:
    """The entry point ``dfxm-dask``."""
    cli(prog_name="dfxm-dask")


def split_pair(text: str, what: str, convert: Callable[[str], Any], between: str = ",") -> tuple[Any, Any]:
    """Two values with a separator between them."""
    try:
        first, second = text.split(between)
        return convert(first.strip()), convert(second.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not {what}") from None


def read_roi(_: Any, __: Any, text: str | None) -> tuple[int, int, int, int] | None:
    """``y0:y1,x0:x1`` as four pixel numbers."""
    if text is None:
        return None
    y, x = split_pair(text, "y0:y1,x0:x1", lambda part: split_pair(part, "y0:y1,x0:x1", int, ":"))
    return *y, *x


def read_pixel_size(_: Any, __: Any, text: str | None) -> tuple[float, float] | None:
    """``Y,X`` in micrometres."""
    return None if text is None else split_pair(text, "Y,X in um, such as 0.2,0.06", float)


def read_shape(_: Any, __: Any, text: str | None) -> tuple[int, int] | None:
    """``Y,X`` in pixels."""
    return None if text is None else split_pair(text, "Y,X in pixels, such as 512,512", int)


def read_layers(_: Any, __: Any, text: str | None) -> list[float] | None:
    """``0,1,2`` as positions of layers."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers in um, such as 0,1,2") from None


def read_motors(_: Any, __: Any, texts: tuple[str, ...]) -> dict[str, str]:
    """``motor=axis`` words as a mapping."""
    return dict(split_pair(text, "MOTOR=AXIS, such as mu=phi", str, "=") for text in texts)


def load_plugins(_: Any, __: Any, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """Register the reductions of plug-in files before anything asks for them."""
    from dfxm_dask.run.recipe import load_plugin

    for file in files:
        try:
            load_plugin(file)
        except DfxmError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
    return files


plugin_option = click.option(
    "--plugin", "plugins", type=FILE, multiple=True, callback=load_plugins, is_eager=True,
    help="Python file that declares further reductions. It is run: name only files that you trust.",
)  # fmt: skip


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that computes."""
    function = click.option(
        "--overwrite", is_flag=True, help="Make steps anew that are there with other parameters or inputs."
    )(function)
    function = click.option("--events", type=FILE, help="Append what happens to this file, as JSON lines.")(function)
    function = click.option(
        "--workers", type=click.IntRange(1), help="Worker processes; with SLURM, jobs. [default: one for each core]"
    )(function)
    return click.option(
        "--cluster", metavar="NAME|FILE|tcp://...", help="Where to compute. [default: processes on this machine]"
    )(function)


@cli.command()
@click.option("--out", type=FILE, default=Path("demo"), show_default=True, help="Folder for the store and figures.")
@click.option("--preset", default="easy", show_default=True, help="What to simulate; see `dfxm-dask simulate --help`.")
@click.option("--real", is_flag=True, help="Reduce a real rocking scan of beamline ID03 instead.")
@click.option(
    "--pixel-size", metavar="Y,X", callback=read_pixel_size,
    help="With --real: effective pixel in um, for KAM and scale bars. The file does not record it. [default: 1,1]",
)  # fmt: skip
@run_options
def demo(out: Path, preset: str, real: bool, pixel_size: tuple[float, float] | None, **how: Any) -> None:
    """Simulate what a beamline writes, reduce it, draw it, and print what was found beside what is true."""
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.store.scan import open_scan
    from dfxm_dask.view.compare import truth_rows
    from dfxm_dask.view.figures import figures as draw
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
        truth = simulated(preset, source, how, format="bliss")
        pixel_size = float(truth.y[1] - truth.y[0]), float(truth.x[1] - truth.x[0])
    given = {"scan": "1.1" if real else "all", "pixel_size": pixel_size, "overwrite": how["overwrite"]}
    ingest_source(source, store, None, None, how["events"], **given)
    complete = all([compute(read_recipe(name), store, **how) for name in ("maps", "weak_beam")])
    tree = open_scan(store, chunks=None)
    if truth is not None:  # its coordinates went through a motor in mm: equal but for rounding
        tree["truth"] = truth["truth"].to_dataset(inherit=False)
    written = draw(tree, out / "figures")
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

    with ExitStack() as stack:
        client = None
        if how.get("cluster") or how.get("workers"):
            from dfxm_dask.run.cluster import open_cluster

            client = stack.enter_context(open_cluster(how["cluster"], workers=how["workers"]))
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


@cli.command()
@click.argument("preset")
@click.argument("out", type=FILE)
@click.option("--layers", type=click.IntRange(1), help="Layers along z. [default: of the preset]")
@click.option("--shape", metavar="Y,X", callback=read_shape, help="Rows and columns. [default: of the preset]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same counts.")
@click.option(
    "--format", type=click.Choice(["zarr", "bliss"]), default="zarr", show_default=True,
    help="A store; or a master file OUT.h5 with LIMA files, and the truth in OUT_truth.zarr.",
)  # fmt: skip
@run_options
def simulate(preset: str, out: Path, cluster: str | None, workers: int | None, **options: Any) -> None:
    """Simulate a scan with known truth.

    PRESET is easy, hard, multigrain, al002, movie, movie_long, reflections, empty or deformed. A simulation that was
    stopped goes on where it stopped.
    """
    from dfxm_dask.optics.presets import PRESETS
    from dfxm_dask.view.tables import say

    how = {"cluster": cluster, "workers": workers, **{word: options.pop(word) for word in ("events", "overwrite")}}
    simulated(preset, out, how, **options)
    say(f"{out}: preset {preset}, seed {options['seed']}: {PRESETS[preset].summary}")


@cli.command()
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
@click.option("--overwrite", is_flag=True, help="Replace a store that is there.")
@click.option("--workers", type=click.IntRange(1), help="Layers written at a time. [default: 1, in this process]")
@click.option("--cluster", metavar="NAME|FILE|tcp://...", help="Where to compute. [default: this machine]")
@click.option("--events", type=FILE, help="Append what happens to this file, as JSON lines.")
def ingest(
    source: tuple[str, ...], store: Path, cluster: str | None, workers: int | None, events: Path | None, **options: Any
) -> None:
    """Read beamline files (BLISS HDF5 or EDF) into one store.

    An ingest that was stopped goes on where it stopped. Exit code 3 says that layers are absent.
    """
    from dfxm_dask.run.events import duration, many, megabytes
    from dfxm_dask.view.tables import say

    report = ingest_source(source[0] if len(source) == 1 else list(source), store, cluster, workers, events, **options)
    say(f"{store}: {many(report.layers, 'layer')}, {megabytes(report.bytes)} in {duration(report.seconds)}")
    if report.absent:
        say(f"ABSENT: {', '.join(report.absent)}")
        raise SystemExit(PARTIAL)


def ingest_source(
    source: Any, store: Path, cluster: str | None, workers: int | None, events: Path | None, **options: Any
) -> Any:
    """Ingest with its events shown; here, or with layers in parallel where a cluster or workers were asked for."""
    from dfxm_dask.run.execute import run_ingest

    with ExitStack() as stack:
        client = None
        if cluster or workers:
            from dfxm_dask.run.cluster import open_cluster

            client = stack.enter_context(open_cluster(cluster, workers=workers))
        return run_ingest(source, store, client=client, publish=subscribers(stack, events), **options)


@cli.command()
@click.argument("store", type=FILE)
def info(store: Path) -> None:
    """Show what is in a store. Exit code 3 says that something is incomplete."""
    from dfxm_dask.view.tables import show_store

    if not show_store(store):
        raise SystemExit(PARTIAL)


@cli.command()
@click.argument("recipe")
@click.argument("store", type=FILE)
@plugin_option
def check(recipe: str, store: Path, plugins: tuple[Path, ...]) -> None:
    """Check RECIPE (a name such as maps, or a file) against STORE, and say what it costs; no pixel is read."""
    from dfxm_dask.run.execute import plan
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.view.tables import show_plan

    asked = read_recipe(recipe)
    show_plan(plan(asked, store), asked.name, store)


@cli.command()
@click.argument("recipe")
@click.argument("store", type=FILE)
@run_options
@plugin_option
def run(recipe: str, store: Path, plugins: tuple[Path, ...], **how: Any) -> None:
    """Run RECIPE (a name such as maps, or a file) on STORE.

    A run that was stopped goes on where it stopped.
    """
    from dfxm_dask.run.recipe import read_recipe

    if not compute(read_recipe(recipe), store, plugins, **how):
        raise SystemExit(PARTIAL)


def compute(
    recipe: Recipe,
    store: Path,
    plugins: tuple[Path, ...] = (),
    *,
    cluster: str | None,
    workers: int | None,
    events: Path | None,
    overwrite: bool,
) -> bool:
    """Plan, then run on a cluster; returns whether all is done."""
    from dfxm_dask.run.execute import plan, run_recipe

    plan(recipe, store)  # refuses before a cluster is started
    from dfxm_dask.run.cluster import open_cluster

    with ExitStack() as stack:
        client = stack.enter_context(open_cluster(cluster, workers=workers, plugins=plugins))
        report = run_recipe(recipe, store, client=client, publish=subscribers(stack, events), overwrite=overwrite)
    return bool(report.complete)


def subscribers(stack: ExitStack, events: Path | None) -> tuple[Subscriber, ...]:
    """What listens to a run: the terminal or log on stderr, and a file where wanted."""
    from dfxm_dask.run.events import choose_subscriber, json_lines

    shown = stack.enter_context(choose_subscriber(sys.stderr))
    return (shown, json_lines(events)) if events else (shown,)


class ReductionCommands(Commands):
    """One command for each reduction, made from its declaration."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from dfxm_dask.reduction import load_reductions

        return sorted(load_reductions())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from dfxm_dask.reduction import load_reductions

        known = load_reductions()
        return reduction_command(known[name]) if name in known else None


@cli.group(cls=ReductionCommands)
@plugin_option
def reduce(plugins: tuple[Path, ...]) -> None:
    """Run one reduction on a store."""
    click.get_current_context().obj = plugins


def reduction_command(found: Reduction) -> click.Command:
    """The command of a reduction: an option for each parameter, with unit and default in its help."""
    from dfxm_dask.view.tables import summary

    options = [field_option(name, field) for name, field in found.parameters.model_fields.items()]

    def call(store: Path, **options: Any) -> None:
        from dfxm_dask.run.recipe import Recipe, Step

        ctx = click.get_current_context()
        given = {name: options.pop(name) for name in found.parameters.model_fields}
        given = {name: value for name, value in given.items() if value is not None}
        try:
            parameters = found.validate(given)
        except InputError as error:
            raise click.UsageError(str(error), ctx) from error
        line = f"{found.name} {' '.join(f'{name}={value}' for name, value in given.items())}".strip()
        recipe = Recipe(found.name, "", (Step(found.name, parameters, line=1),), Path("command line"), line)
        if not compute(recipe, store, ctx.obj or (), **options):
            raise SystemExit(PARTIAL)

    function = run_options(call)
    text = summary(found.kernel)
    return click.Command(
        found.name,
        callback=function,
        params=[click.Argument(["store"], type=FILE), *options, *reversed(getattr(function, "__click_params__", []))],
        help=f"{text}\n\nMore: `dfxm-dask explain {found.name}`.",
        short_help=text,
    )


def field_option(name: str, field: FieldInfo) -> click.Option:
    """A parameter as an option. Its value stays a text, which the declaration checks, but for choices and switches."""
    from dfxm_dask.view.tables import type_words, unit

    words = f"--{name.replace('_', '-')}"
    default = field.get_default()
    shown = "" if default is None else f" [default: {default}]"
    measured = f", in {unit(field)}" if unit(field) else ""
    text = f"{field.description or name.replace('_', ' ')}{measured}.{shown}"
    if field.annotation is bool:
        return click.Option([f"{words}/--no-{words[2:]}", name], default=None, help=text)
    if get_origin(field.annotation) is Literal and all(isinstance(word, str) for word in get_args(field.annotation)):
        return click.Option([words, name], type=click.Choice(get_args(field.annotation)), help=text)
    several = get_origin(field.annotation) in (tuple, list)
    return click.Option(
        [words, name],
        metavar=type_words(field).upper().replace(" ", ""),
        callback=(lambda ctx, option, value: value and value.split(",")) if several else None,
        help=text,
    )


@cli.command()
@click.argument("stores", nargs=-1, required=True, type=FILE)
@click.option("--labels", required=True, metavar="truth|prior|FILE", help="Where labels come from.")
@click.option("--out", type=FILE, required=True, help="NAME.safetensors; what is known and figures go beside it.")
@click.option("--start", default="compact", show_default=True, metavar="NAME|FILE|none", help="Weights to begin with.")
@click.option("--architecture", help="Network. [default: that of the weights to begin with, else compact]")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="At most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same weights.")
@click.option(
    "--max-patches", "most", type=click.IntRange(2), default=6000, show_default=True,
    help="At most so many, the same share from every layer and class.",
)  # fmt: skip
@click.option("--dark", type=float, help="Counts without beam. [default: the darkest place of each layer]")
@click.option("--overwrite", is_flag=True, help="Replace weights that are there.")
def train(stores: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Train weights for `classify_beams` on labelled frames of STORES.

    Labels are the truth of a simulated scan, the rocking curve where it leaves no doubt (prior), or a YAML or CSV FILE
    with entries like {z: 12.0, phi: 0.0123, box: [0, 640, 0, 512], class: weak}. Frames of two layers at least.
    """
    from dfxm_dask.run.training import train_weights
    from dfxm_dask.view.training import show_training, training_figures

    known = train_weights(stores, out, **options, say=lambda text: click.echo(text, err=True))
    show_training(known)
    for path in (out, *training_figures(known, out)):
        click.echo(str(path))


@cli.command()
@plugin_option
def reductions(plugins: tuple[Path, ...]) -> None:
    """List what can be computed."""
    from dfxm_dask.reduction import load_reductions
    from dfxm_dask.view.tables import show_reductions

    show_reductions(load_reductions())


@cli.command()
@click.argument("name")
@plugin_option
def explain(name: str, plugins: tuple[Path, ...]) -> None:
    """Show what a reduction reads, writes and does, with units and defaults."""
    from dfxm_dask.reduction import find
    from dfxm_dask.view.tables import show_reduction

    show_reduction(find(name))


@cli.command()
@click.argument("store", type=FILE)
@click.argument("out_dir", type=FILE)
@click.option("--layer", type=click.IntRange(0), help="Number of the layer along z. [default: the middle one]")
def figures(store: Path, out_dir: Path, layer: int | None) -> None:
    """Draw what a store has, as PNG files."""
    from dfxm_dask.view.figures import figures as draw
    from dfxm_dask.view.tables import say

    for path in draw(store, out_dir, layer=layer):
        say(str(path))
