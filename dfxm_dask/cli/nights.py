"""Commands for nightly reduction, for scans that are being measured, and for pages of results."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfxm_dask.cli.options import (
    FILE,
    PARTIAL,
    answer,
    complete_recipe,
    crystal_options,
    json_option,
    plugin_option,
    read_motors,
    read_pixel_size,
    read_roi,
    subscribers,
)

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


@click.command()
@click.argument("raw", type=FILE)
@click.argument("store", type=FILE)
@click.option("--recipe", required=True, metavar="RECIPE", shell_complete=complete_recipe, help="Name or YAML file.")
@click.option("--layers", type=click.IntRange(1), help="Number of layers after which the scan is complete.")
@click.option("--title", metavar="PATTERN", help="Titles of the layers, such as 'fscan diffry *'. [default: all]")
@click.option(
    "--idle",
    type=click.FloatRange(1),
    default=1800.0,
    show_default=True,
    metavar="S",
    help="Seconds without a change of RAW or its frames after which the scan is complete.",
)
@click.option("--beamline", default="id03", show_default=True, metavar="NAME|FILE", help="Names of motors and cameras.")
@click.option("--detector", help="Camera, if a scan contains several.")
@click.option("--roi", metavar="Y0:Y1,X0:X1", callback=read_roi, help="Region of every frame to keep, in pixels.")
@click.option("--pixel-size", metavar="Y,X", callback=read_pixel_size, help="Effective pixel in the object, in um.")
@click.option(
    "--motor", "motors", metavar="MOTOR=AXIS", multiple=True, callback=read_motors, help="Axis of a motor; repeatable."
)
@click.option("--root", "roots", type=FILE, multiple=True, help="Folder with frames of the scan. May be repeated.")
@click.option("--scan-mode", type=click.Choice(["rewind", "zigzag"]), help="Direction of rows, if not recorded.")
@click.option("--positions", type=click.Choice(["motor", "command"]), help="Source of positions, if they disagree.")
@crystal_options
@click.option("--events", type=FILE, help="Append all events to this file, as JSON lines.")
@plugin_option
def follow(raw: Path, store: Path, recipe: str, plugins: tuple[Path, ...], events: Path | None, **options: Any) -> None:
    """Ingest and reduce the layers of RAW while they are measured.

    RAW is a BLISS master file, which may not exist yet; its entries are the layers. A layer is reduced as soon as its
    last frame is on disk. RAW is read without locks. A follower that was stopped continues. In the end STORE is that
    of an ingest and a run of the finished scan. Exit code 0: complete; 3: stopped, or layers are aborted or left out.

    \b
    Example:
      dfxm-dask follow scan.h5 scan.zarr --recipe weak_beam --layers 301 --pixel-size 0.04,0.106
    """
    from dfxm_dask.run.live.following import follow as follow_scan
    from dfxm_dask.run.recipe import read_recipe
    from dfxm_dask.run.stopping import heeding_signals
    from dfxm_dask.view.tables import say

    asked = read_recipe(recipe)
    with ExitStack() as stack:
        stack.enter_context(heeding_signals())
        publish = subscribers(stack, events)
        done = follow_scan(raw, store, asked, publish=publish, say=say, **options)
    if reason := done.lacking():
        say(f"INCOMPLETE: {reason}")
        raise SystemExit(PARTIAL)
