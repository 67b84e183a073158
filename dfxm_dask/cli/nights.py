"""Commands for nightly reduction, and for pages of results."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfxm_dask.cli.options import FILE, PARTIAL, answer, json_option, plugin_option, subscribers

if TYPE_CHECKING:
    from dfxm_dask.run.nights.night import Night, Outcome


@click.command()
@click.argument("config", type=FILE)
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Maximum duration of the night, in hours.")
@click.option("--dry-run", is_flag=True, help="List the scans without reducing them; nothing is written.")
@click.option(
    "--print-schedule",
    "scheduler",
    type=click.Choice(("all", "cron", "systemd", "scrontab")),
    is_flag=False,
    flag_value="all",
    help="Print the entry for a scheduler that starts this night every day, and exit.",
)
@click.option("--at", default="02:00", show_default=True, metavar="HH:MM", help="Time of day for --print-schedule.")
@click.option("--events", type=FILE, help="Append all events to this file, as JSON lines.")
def nightly(
    config: Path, hours: float | None, dry_run: bool, scheduler: str | None, at: str, events: Path | None
) -> None:
    """Reduce all new scans that CONFIG describes.

    A night ingests new scans, runs recipes on them, and writes a page. CONFIG is a YAML file like configs/nightly.yaml.
    Complete scans stay untouched. A scan that is still being written waits for the next night. A scan that fails is
    tried again, and then listed every night. Exit code 0: all scans are complete, or none is new. Exit code 3: some
    scans are incomplete; the page gives the reasons.

    \b
    Examples:
      dfxm-dask nightly nightly.yaml --dry-run
      dfxm-dask nightly nightly.yaml --print-schedule cron --at 03:30
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
    """Findings and pictures of a store, or the reason why they cannot be shown."""
    from dfxm_dask.view.store_facts import scan_facts, without_facts

    try:
        return scan_facts(store)
    except Exception as error:
        return without_facts(store, error)


def _page(done: Night, folder: Path) -> Path:
    """An unused name for the page, from the time at which the night began."""
    name = f"night_{done.begun[:19].replace(':', '')}"
    page, k = folder / f"{name}.html", 1
    while page.exists():
        k += 1
        page = folder / f"{name}_{k}.html"
    return page


def _dry_words(done: Night) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in done.counts.items())
    return f"Scans by state, nothing reduced: {counts or 'none'}"


@click.command()
@click.argument("store", type=FILE)
@click.option("--out", type=FILE, metavar="FILE.html", help="Path of the page. [default: STORE.html beside STORE]")
@json_option
@plugin_option
def report(store: Path, out: Path | None, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """Write a page with findings and pictures of a store.

    The page is one HTML file; a JSON file with the same facts goes beside it. Exit code 3: the store is incomplete.

    \b
    Example:
      dfxm-dask report scan.zarr --out scan.html
    """
    from dfxm_dask.view.answers import report as write

    found = write(store, out)
    answer(found, as_json)
    if not found.as_dict()["complete"]:
        raise SystemExit(PARTIAL)
