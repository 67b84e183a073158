"""The command that says what a run takes, before it is begun."""

from __future__ import annotations

from pathlib import Path

import click

from dfxm_dask.cli.options import FILE, plugin_option
from dfxm_dask.errors import RecipeError


@click.command("plan")
@click.argument("recipe")
@click.argument("store", type=FILE)
@click.option("--workers", type=click.IntRange(1), help="Workers of the run. [default: one for each core]")
@click.option("--memory-limit", metavar="SIZE", help="Of a worker, such as 2GiB. [default: an even share]")
@click.option("--cluster", metavar="NAME|FILE", help="Take workers and memory from this file.")
@plugin_option
def plan_run(
    recipe: str,
    store: Path,
    workers: int | None,
    memory_limit: str | None,
    cluster: str | None,
    plugins: tuple[Path, ...],
) -> None:
    """Say what RECIPE on STORE takes: tasks, memory of a worker, disk. Refuses what cannot fit.

    Nothing is computed, and nothing is written into STORE. What earlier runs have done is not counted.
    """
    from dfxm_dask.run.checks.forecast import forecast, refuse_unfit
    from dfxm_dask.run.clusters.cluster import read_cluster
    from dfxm_dask.run.execute import plan
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.view.tables import show_plan

    asked = read_recipe(recipe)
    made = plan(asked, store)
    if cluster and "://" in cluster:
        raise RecipeError(f"cluster {cluster}", "is known to its scheduler only", "say --workers and --memory-limit")
    count, limit = read_cluster(cluster).sized(workers, memory_limit).limits()
    found = forecast(made)
    show_plan(made, asked.name, store, found, f"{count} worker{'s' if count > 1 else ''}", limit)
    refuse_unfit(made, found, limit)
