"""Commands that check stores and scans."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from dfxm_dask.cli.options import FILE, PARTIAL, plugin_option, subscribers


@click.command()
@click.argument("store", type=FILE)
@click.option(
    "--deep", type=click.IntRange(0), default=0, metavar="N", help="Compute N random blocks again, and compare."
)
@click.option("--seed", type=click.IntRange(0), help="Of the choice. [default: another one each time]")
@click.option("--repair", is_flag=True, help="Make damaged results anew by the recipe that the store remembers.")
@click.option("--workers", type=click.IntRange(1), help="Worker processes. [default: this process]")
@click.option("--cluster", metavar="NAME|FILE|tcp://...", help="Where to read and compute. [default: this machine]")
@plugin_option
def verify(
    store: Path,
    deep: int,
    seed: int | None,
    repair: bool,
    workers: int | None,
    cluster: str | None,
    plugins: tuple[Path, ...],
) -> None:
    """Check every byte of STORE against its ledgers, and say what is wrong and where.

    Exit code 0: sound, or mended. Exit code 3: something is wrong; each line says what.
    """
    from dfxm_dask.run.checks.verify import verify as look
    from dfxm_dask.run.events import duration, many, megabytes
    from dfxm_dask.run.stopping import heeding_signals
    from dfxm_dask.view.tables import say

    with ExitStack() as stack:
        client = None
        if cluster or workers:
            from dfxm_dask.run.clusters.cluster import open_cluster

            client = stack.enter_context(open_cluster(cluster, workers=workers, plugins=plugins))
        stack.enter_context(heeding_signals())
        found = look(
            store,
            deep=deep,
            seed=seed,
            repair=repair,
            client=client,
            publish=subscribers(stack, None) if repair else (),
        )
    for fault in found.mended:
        say(f"MENDED  {fault}")
    for fault in found.faults:
        say(f"WRONG   {fault}")
    again = f", {many(len(found.recomputed), 'block')} computed again" if deep else ""
    looked = f"{many(found.files, 'file')} of blocks, {megabytes(found.bytes)}{again} in {duration(found.seconds)}"
    if found.faults:
        say(f"{store}: {many(len(found.faults), 'fault')}; {looked}")
        raise SystemExit(PARTIAL)
    say(f"{store}: sound; {looked}")
