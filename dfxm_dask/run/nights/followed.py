"""Scans that grow during a night: they are followed layer by layer instead of waiting until they are complete."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import replace

from dfxm_dask.errors import SourceError
from dfxm_dask.run.events import Subscriber
from dfxm_dask.run.live.following import SETTLED, Followed, follow
from dfxm_dask.run.nights.config import Nightly
from dfxm_dask.run.nights.plan import NightScan, in_words
from dfxm_dask.run.nights.scans import apart, broken_look, look, scans_in
from dfxm_dask.run.recipe import Recipe

QUIET = 5 * SETTLED  # seconds of observation of a scan that did not change for `quiet_seconds` before


def follow_scan(
    scan: NightScan, night: Nightly, recipe: Recipe, publish: tuple[Subscriber, ...], say: Callable[[str], None]
) -> tuple[NightScan, Followed]:
    """The scan in its last state, and the outcome of :func:`dfxm_dask.run.live.following.follow`.

    Raises
    ------
    SourceError
        No layer was complete.
    """
    readable = not scan.title.startswith("(")
    done = follow(
        scan.source,
        scan.store,
        recipe,
        title=glob.escape(scan.title) if readable else None,
        idle=max(QUIET, night.quiet_seconds if scan.busy else 0.0),
        publish=publish,
        say=say,
        beamline=night.beamline,
        motors=night.motors,
        detector=night.detector,
        pixel_size=night.pixel_size,
        roi=night.roi,
        roots=night.roots,
        scan_mode=scan.seen.scan_mode or night.scan_mode if scan.seen else None,
    )
    return seen_again(scan, night), done


def seen_again(scan: NightScan, night: Nightly) -> NightScan:
    """The scan with the entries and files that it has now."""
    entries: Sequence[str] = scan.entries
    with apart() as ask:
        try:
            listed, _ = ask(scans_in, str(scan.source))
            entries = [name for name, title in listed if title == scan.title] or entries
            seen = ask(look, str(scan.source), entries, night)
        except SourceError as error:
            seen = broken_look(str(scan.source), entries, in_words(error), title=scan.title)
    return replace(scan, entries=tuple(entries), seen=seen)
