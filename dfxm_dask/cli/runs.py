"""Commands that compute: recipes, single reductions, training; and what can be computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfxm_dask.cli.options import (
    FILE,
    PARTIAL,
    Commands,
    compute,
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


@click.command()
@click.argument("recipe")
@click.argument("store", type=FILE)
@run_options
@shard_option
@plugin_option
def run(recipe: str, store: Path, plugins: tuple[Path, ...], **how: Any) -> None:
    """Run RECIPE (a name such as maps, or a file) on STORE.

    A run that was stopped goes on where it stopped. Ctrl-C or SIGTERM end it after the blocks at work: exit code 3.
    """
    from dfxm_dask.run.recipe import read_recipe

    if not compute(read_recipe(recipe), store, plugins, **how):
        raise SystemExit(PARTIAL)


class ReductionCommands(Commands):
    """One command for each reduction, made from its declaration."""

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
    """Run one reduction on a store. `--plugin` may stand anywhere."""
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
    text = summary(found)
    return click.Command(
        found.name,
        callback=function,
        params=[click.Argument(["store"], type=FILE), *options, *reversed(getattr(function, "__click_params__", []))],
        help=f"{text}\n\nMore: `dfxm-dask explain {found.name}`.",
        short_help=text,
    )


@click.command()
@click.argument("stores", nargs=-1, required=True, type=FILE)
@click.option("--labels", required=True, metavar="truth|prior|FILE", help="Where labels come from.")
@click.option("--out", type=FILE, required=True, help="NAME.safetensors; what is known and figures go beside it.")
@click.option("--start", default="compact", show_default=True, metavar="NAME|FILE|none", help="Weights to begin with.")
@click.option("--architecture", help="Network. [default: that of the weights to begin with, else compact]")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="At most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same weights.")
@click.option(
    "--max-patches",
    "most",
    type=click.IntRange(2),
    default=6000,
    show_default=True,
    help="At most so many, the same share from every layer and class.",
)
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


@click.command()
@plugin_option
def reductions(plugins: tuple[Path, ...]) -> None:
    """List what can be computed."""
    from dfxm_dask.catalogue import load_reductions
    from dfxm_dask.view.tables import show_reductions

    show_reductions(load_reductions())


@click.command()
@click.argument("name")
@plugin_option
def explain(name: str, plugins: tuple[Path, ...]) -> None:
    """Show what a reduction reads, writes and does, with units and defaults."""
    from dfxm_dask.catalogue import find
    from dfxm_dask.view.tables import show_reduction

    show_reduction(find(name))
