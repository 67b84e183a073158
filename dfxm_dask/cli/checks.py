"""Commands that compute nothing new: they check recipes, stores and the machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from dfxm_dask.cli.options import (
    CLUSTER,
    FILE,
    PARTIAL,
    answer,
    complete_recipe,
    json_option,
    plugin_option,
    subscribers,
)


@click.command()
@click.argument("recipe", metavar="[RECIPE]", shell_complete=complete_recipe)
@click.argument("store", type=FILE, required=False, metavar="STORE")
@json_option
@plugin_option
def check(recipe: str, store: Path | None, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """Check the raw data of STORE, or whether RECIPE fits STORE.

    With STORE alone: tests whether frames are paired with their own positions, and names saturated, lost and equal
    frames, faults of the beam, and curves that the scan does not bracket. Exit code 1: a finding is wrong; warnings
    alone exit with 0. The check reads the statistics of the frames that ingest keeps.

    With RECIPE, a name such as maps or a YAML file: lists its steps with the memory, the data read and the data
    written by each step. No pixel is read.

    \b
    Examples:
      dfxm-dask check scan.zarr
      dfxm-dask check maps scan.zarr
    """
    if store is None:
        from dfxm_dask.view.scan_check import check_scan

        if not Path(recipe).exists():
            raise click.UsageError(f"Missing argument 'STORE': {recipe} does not exist.", click.get_current_context())
        found = check_scan(recipe)
        answer(found, as_json)
        if not found.as_dict()["sound"]:
            raise SystemExit(1)
        return
    from dfxm_dask.view.answers import check as look

    answer(look(recipe, store), as_json)


@click.command("plan")
@click.argument("recipe", shell_complete=complete_recipe)
@click.argument("store", type=FILE)
@click.option("--workers", type=click.IntRange(1), help="Number of workers of the run. [default: as in `run`]")
@click.option("--memory-limit", metavar="SIZE", help="Memory of a worker, such as 2GiB. [default: an even share]")
@click.option("--cluster", metavar="NAME|FILE", help="Cluster whose configuration sets workers and memory.")
@json_option
@plugin_option
def plan_run(
    recipe: str,
    store: Path,
    workers: int | None,
    memory_limit: str | None,
    cluster: str | None,
    as_json: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Estimate the cost of RECIPE on STORE.

    The estimate gives tasks, memory of a worker, disk space and files of the blocks that no earlier run has computed.
    Nothing is computed, and STORE is not changed. A run that exceeds the memory or the disk is refused with exit
    code 1.

    \b
    Examples:
      dfxm-dask plan weak_beam_volume scan.zarr
      dfxm-dask plan maps scan.zarr --workers 8 --memory-limit 4GiB
    """
    from dfxm_dask.view.answers import planned

    found, refused = planned(recipe, store, workers=workers, memory_limit=memory_limit, cluster=cluster)
    answer(found, as_json)
    if refused:
        raise refused


@click.command()
@click.argument("store", type=FILE)
@click.option(
    "--deep", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Recompute N random blocks too."
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the random choice. [default: a new one each time]")
@click.option("--repair", is_flag=True, help="Recompute damaged results by the recipe that STORE records.")
@click.option("--workers", type=click.IntRange(1), help="Number of worker processes. [default: this process]")
@click.option("--cluster", metavar=CLUSTER, help="Cluster that reads and computes. [default: this machine]")
@json_option
@plugin_option
def verify(
    store: Path,
    deep: int,
    seed: int | None,
    repair: bool,
    workers: int | None,
    cluster: str | None,
    as_json: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Check all files of STORE against their checksums.

    A line for each fault names group, step, block and file. Exit code 0: STORE is sound, or sound again after
    --repair. Exit code 3: faults remain.

    \b
    Examples:
      dfxm-dask verify scan.zarr --deep 10
      dfxm-dask verify scan.zarr --repair
    """
    from dfxm_dask.run.stopping import heeding_signals
    from dfxm_dask.view.answers import verify as look

    with ExitStack() as stack:
        client = None
        if cluster or workers:
            from dfxm_dask.run.clusters.cluster import open_cluster

            client = stack.enter_context(open_cluster(cluster, workers=workers, plugins=plugins))
        stack.enter_context(heeding_signals())
        publish = subscribers(stack, None) if repair else ()
        found = look(store, deep=deep, seed=seed, repair=repair, client=client, publish=publish)
    answer(found, as_json)
    if not found.as_dict()["sound"]:
        raise SystemExit(PARTIAL)


@click.command()
@click.argument("folder", type=FILE, default=Path(), metavar="[FOLDER]")
@click.option("--cluster", metavar="NAME|FILE", help="Check this cluster too.")
@json_option
def doctor(folder: Path, cluster: str | None, as_json: bool) -> None:
    """Check the installation, the machine and a folder.

    The checks cover packages, codecs, memory, GPU, batch system, and whether FOLDER suits stores (default: the current
    folder). Probe files are written into FOLDER and removed. Exit code 1: a check fails.

    \b
    Example:
      dfxm-dask doctor /data/visitor/ma0001/PROCESSED_DATA
    """
    from dfxm_dask.view.answers import doctor as look

    found = look(folder, cluster)
    answer(found, as_json)
    if found.as_dict()["counts"]["fail"]:
        raise SystemExit(1)
