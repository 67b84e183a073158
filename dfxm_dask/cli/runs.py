"""Commands that compute: recipes, single reductions, training; and the list of reductions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfxm_dask.cli.options import (
    FILE,
    PARTIAL,
    Commands,
    answer,
    complete_recipe,
    complete_reduction,
    compute,
    json_option,
    plugin_option,
    plugins_first,
    run_options,
    shard_option,
)
from dfxm_dask.cli.parameters import field_option
from dfxm_dask.errors import InputError

if TYPE_CHECKING:
    from dfxm_dask.reduction import Reduction


@click.command()
@click.argument("recipe", shell_complete=complete_recipe)
@click.argument("store", type=FILE)
@run_options
@shard_option
@plugin_option
def run(recipe: str, store: Path, plugins: tuple[Path, ...], **how: Any) -> None:
    """Run RECIPE on STORE.

    RECIPE is a name such as maps, or a YAML file. A run that was stopped continues where it stopped. Ctrl-C or SIGTERM
    stops a run after the blocks in progress. Exit code 3: the result is incomplete.

    \b
    Examples:
      dfxm-dask run maps scan.zarr
      dfxm-dask run mine.yaml scan.zarr --workers 8
      dfxm-dask run weak_beam_volume scan.zarr --cluster slurm --workers 4
    """
    from dfxm_dask.run.recipe import read_recipe

    if not compute(read_recipe(recipe), store, plugins, **how):
        raise SystemExit(PARTIAL)


class ReductionCommands(Commands):
    """One command for each reduction, built from its declaration."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, plugins_first(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        from dfxm_dask.catalogue import load_reductions

        return sorted(load_reductions())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from dfxm_dask.catalogue import load_reductions

        known = load_reductions()
        return reduction_command(known[name]) if name in known else None


@click.group(cls=ReductionCommands)
@plugin_option
def reduce(plugins: tuple[Path, ...]) -> None:
    """Run a single reduction on a store.

    `dfxm-dask reductions` lists the reductions, `dfxm-dask reduce NAME --help` lists the options of one.

    \b
    Example:
      dfxm-dask reduce moments scan.zarr --background 100
    """
    click.get_current_context().obj = plugins


def reduction_command(found: Reduction) -> click.Command:
    """The command of a reduction: one option for each parameter, with unit and default in the help."""
    from dfxm_dask.view.reductions import summary

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
    text = summary(found)
    return click.Command(
        found.name,
        callback=function,
        params=[click.Argument(["store"], type=FILE), *options, *reversed(getattr(function, "__click_params__", []))],
        help=f"{text}\n\n`dfxm-dask explain {found.name}` shows the full documentation.",
        short_help=text,
    )


@click.command()
@click.argument("stores", nargs=-1, required=True, type=FILE)
@click.option("--labels", required=True, metavar="truth|prior|FILE", help="Source of the labels.")
@click.option(
    "--out", type=FILE, required=True, help="NAME.safetensors; a description and figures go beside this file."
)
@click.option("--start", default="compact", show_default=True, metavar="NAME|FILE|none", help="Initial weights.")
@click.option("--architecture", help="Network. [default: that of the initial weights, else compact]")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of epochs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Equal seeds give equal weights.")
@click.option(
    "--max-patches",
    "most",
    type=click.IntRange(2),
    default=6000,
    show_default=True,
    help="Maximum number of patches; each layer and each class contributes the same share.",
)
@click.option("--dark", type=float, help="Counts without beam. [default: the darkest region of each layer]")
@click.option("--overwrite", is_flag=True, help="Replace existing weights.")
def train(stores: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Train weights for classify_beams on labelled frames.

    The frames of STORES come from two layers or more. Labels come from the truth of a simulated scan (truth), from
    rocking curves of unambiguous patches (prior), or from a YAML or CSV file with entries such as
    {z: 12.0, phi: 0.0123, box: [0, 640, 0, 512], class: weak}.

    \b
    Example:
      dfxm-dask train a.zarr b.zarr --labels prior --out mine.safetensors
    """
    from dfxm_dask.run.training import train_weights
    from dfxm_dask.view.training import show_training, training_figures

    known = train_weights(stores, out, **options, say=lambda text: click.echo(text, err=True))
    show_training(known)
    for path in (out, *training_figures(known, out)):
        click.echo(str(path))


@click.command()
@json_option
@plugin_option
def reductions(as_json: bool, plugins: tuple[Path, ...]) -> None:
    """List all reductions with their groups and parameters."""
    from dfxm_dask.catalogue import load_reductions
    from dfxm_dask.view.reductions import list_reductions

    answer(list_reductions(load_reductions()), as_json)


@click.command()
@click.argument("name", shell_complete=complete_reduction)
@plugin_option
def explain(name: str, plugins: tuple[Path, ...]) -> None:
    """Show input, output and parameters of a reduction.

    Each variable and parameter has its unit, each parameter its default.

    \b
    Example:
      dfxm-dask explain moments
    """
    from dfxm_dask.catalogue import find
    from dfxm_dask.view.reductions import explain_reduction

    explain_reduction(find(name)).show()
