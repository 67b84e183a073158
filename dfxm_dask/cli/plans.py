"""The command that says what a run takes, before it is begun."""

from __future__ import annotations

from pathlib import Path

import click

from dfxm_dask.cli.options import FILE, plugin_option


@click.command("plan")
@click.argument("recipe")
@click.argument("store", type=FILE)
@click.option("--workers", type=click.IntRange(1), help="Workers of the run. [default: one for each core]")
@click.option("--memory-limit", metavar="SIZE", help="Of a worker, such as 2GiB. [default: an even share]")
@click.option("--cluster", metavar="NAME|FILE", help="Take workers and memory from this file.")
@click.option(
    "--probe/--no-probe",
    "probing",
    default=True,
    show_default=True,
    help="Compute a few blocks on this machine, beside the store, for time, disk and memory as they are.",
)
@click.option(
    "--blocks", type=click.IntRange(1), default=3, show_default=True, help="Blocks of each pass, or layers, to probe."
)
@click.option("--scratch", type=FILE, help="Folder for what is computed. [default: that for temporary files]")
@plugin_option
def plan_run(
    recipe: str,
    store: Path,
    workers: int | None,
    memory_limit: str | None,
    cluster: str | None,
    probing: bool,
    blocks: int,
    scratch: Path | None,
    plugins: tuple[Path, ...],
) -> None:
    """Say what RECIPE on STORE takes: tasks, memory of a worker, disk, time. Refuses what cannot fit.

    Nothing is written into STORE. What earlier runs have done is not counted.
    """
    from dfxm_dask.run.checks.probe import probe, projected, refuse_unfit, worker_limits
    from dfxm_dask.run.execute import plan
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.view.tables import show_plan

    asked = read_recipe(recipe)
    made = plan(asked, store)
    count, limit = worker_limits(cluster, workers, memory_limit)
    found = projected(made, count)
    if probing:
        refuse_unfit(made, found, limit)  # what is too large by its declaration is not tried
        found = probe(made, workers=count, blocks=blocks, scratch=scratch, plugins=plugins)
    show_plan(made, asked.name, store, found, limit)
    refuse_unfit(made, found, limit)
