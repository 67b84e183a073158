"""Commands for unattended work: nights, and pages of what they and single runs made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfxm_dask.cli.options import FILE, PARTIAL, plugin_option, subscribers

if TYPE_CHECKING:
    from dfxm_dask.run.nights.night import Night, Outcome


@click.command()
@click.argument("config", type=FILE)
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="End the night after so many hours.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; nothing is written.")
@click.option(
    "--print-schedule",
    "scheduler",
    type=click.Choice(("all", "cron", "systemd", "scrontab")),
    is_flag=False,
    flag_value="all",
    help="Print the text that begins this night every day, and do nothing else.",
)
@click.option("--at", default="02:00", show_default=True, metavar="HH:MM", help="Time of day in that text.")
@click.option("--events", type=FILE, help="Append what happens to this file, as JSON lines.")
def nightly(
    config: Path, hours: float | None, dry_run: bool, scheduler: str | None, at: str, events: Path | None
) -> None:
    """Do what CONFIG says with all scans that are new: ingest, run recipes, write a page on it.

    A scan that is done is not touched again; one that may still be being written waits for the next night; one that
    fails is tried again, and then named every night. CONFIG is a YAML file like configs/nightly.yaml. Exit code 0: all
    is done, or nothing is new; 3: something is not, and the page says what and why.
    """
    from dfxm_dask.run.nights.config import SCHEDULERS, read_nightly, schedule

    night = read_nightly(config)
    if scheduler:
        wanted = SCHEDULERS if scheduler == "all" else (scheduler,)
        click.echo(
            "\n".join(
                f"{f'# --- {n} ---{chr(10)}' * (scheduler == 'all')}{schedule(config, n, at=at)}" for n in wanted
            ),
            nl=False,
        )
        return
    from dfxm_dask.run.nights.night import run_night

    facts: dict[tuple[str, tuple[str, ...]], Any] = {}

    def keep(outcome: Outcome) -> None:
        if outcome.status in ("done", "partial"):
            facts[outcome.source, outcome.entries] = _facts(outcome.store)

    def tell(text: str) -> None:
        click.echo(text, err=True)

    with ExitStack() as stack:
        publish = () if dry_run else subscribers(stack, events)
        done = run_night(night, hours=hours, dry=dry_run, publish=publish, say=tell, finished=keep)
    for text in (*done.notes, *done.faults):
        tell(f"NOTE: {text}")
    from dfxm_dask.view.report import night_page, night_verdict

    if not dry_run:
        page, beside = night_page(done, _page(done, Path(night.report)), facts)
        click.echo(f"page:     {page}\nfor programs: {beside}")
    click.echo(_dry_words(done) if dry_run else night_verdict(done))
    if not done.complete:
        raise SystemExit(PARTIAL)


def _facts(store: str) -> dict[str, Any]:
    """Numbers and pictures of a store; that they cannot be had is no fault of the scan."""
    from dfxm_dask.view.store_facts import scan_facts, without_facts

    try:
        return scan_facts(store)
    except Exception as error:
        return without_facts(store, error)


def _page(done: Night, folder: Path) -> Path:
    """A name for the page that is not taken: the time at which the night began."""
    name = f"night_{done.begun[:19].replace(':', '')}"
    page, k = folder / f"{name}.html", 1
    while page.exists():
        k += 1
        page = folder / f"{name}_{k}.html"
    return page


def _dry_words(done: Night) -> str:
    return "Would be left: " + (", ".join(f"{count} {status}" for status, count in done.counts.items()) or "nothing")


@click.command()
@click.argument("store", type=FILE)
@click.option("--out", type=FILE, metavar="FILE.html", help="The page. [default: STORE.html beside the store]")
@plugin_option
def report(store: Path, out: Path | None, plugins: tuple[Path, ...]) -> None:
    """Write a page on what STORE has: numbers, pictures, what is not complete, how it was made.

    The page is one file, and a JSON file with the same facts goes beside it. Exit code 3 says that the store is not
    complete.
    """
    from dfxm_dask.view.report import scan_page

    page, beside, complete = scan_page(store, out)
    click.echo(f"page:     {page}\nfor programs: {beside}")
    if not complete:
        click.echo("INCOMPLETE: the page says what is missing")
        raise SystemExit(PARTIAL)
