"""Pages of a scan and of a night: single HTML files without external parts, with the same facts as JSON beside them.

Names, titles and reasons come from files of unknown origin. Jinja escapes all of them. Invisible characters, and
characters that change the direction of text, appear as their numbers. No such text becomes an address, and the page
forbids scripts and downloads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfxm_dask import __version__
from dfxm_dask.errors import StoreError
from dfxm_dask.run.events import duration, many, megabytes
from dfxm_dask.sources.paths import beside
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.output_paths import refuse_file
from dfxm_dask.view.store_facts import FOR_A_NIGHT, given_words, measured, scan_facts
from dfxm_dask.view.tables import as_json

if TYPE_CHECKING:
    from dfxm_dask.run.nights.night import Night, Outcome

SCHEMA = 2
"""Of the JSON files; 2: numbers as numbers, with their units beside them."""
PAGE_BYTES = 9_000_000
"""Pictures of a night beyond this size are left out and listed (our choice: a page of this size fits into a mail)."""
LONGEST = 400
"""Longer texts from files are cut in the middle."""
TONES = {
    "failed": "bad",
    "quarantined": "bad",
    "changed": "warn",
    "partial": "warn",
    "deferred": "quiet",
    "not done": "warn",
    "done": "good",
    "new": "good",
    "unchanged": "quiet",
}
NEXT = {
    "failed": "The next night tries this scan again.",
    "quarantined": "Excluded until its files or the configuration change, or until you remove its .nightly.json.",
    "changed": "Listed every night until you act.",
    "partial": "Reduced as far as the files reach; not tried again.",
    "deferred": "The next night looks at this scan again.",
    "not done": "The next night continues here.",
}


def scan_page(store: str | Path, out: str | Path | None = None) -> tuple[Path, Path, dict[str, Any]]:
    """The page of one scan: findings, pictures, missing parts, and how each step was computed.

    Parameters
    ----------
    store : path
    out : path, optional
        The page; by default ``<store>.html`` beside the store.

    Returns
    -------
    (Path, Path, dict)
        The page, the JSON file beside it, and the facts of that file.

    Raises
    ------
    StoreError
        Not a store, or a path under RAW_DATA.
    """
    store = Path(store)
    open_store(store)  # refuse what is not a store first
    page = Path(out) if out else beside(store, ".html")
    _refuse(page)
    for file in (page, page.with_suffix(".json")):
        refuse_file(file, "--out FILE.html")
    facts = scan_facts(store, names=None)
    pictures = [{**p, "data": None} for p in facts["pictures"]]
    record = {"schema": SCHEMA, "kind": "scan", "version": __version__, **facts, "pictures": pictures}
    verdict = "Complete." if facts["complete"] else "NOT COMPLETE: the list below names the missing parts."
    head = {
        "over": "Dark-field X-ray microscopy scan",
        "heading": facts["title"],
        "verdict": verdict,
        "tone": "good" if facts["complete"] else "bad",
        "facts": [("store", store), ("command", facts["command"]), ("on disk", megabytes(facts["bytes"]))],
    }
    return *_write(page, record, head, scan=facts, night=None), record


def night_page(night: Night, out: str | Path, facts: Mapping[tuple[str, tuple[str, ...]], Any]) -> tuple[Path, Path]:
    """The page of a night: scans that were reduced, scans that were not and why, and the findings of each scan.

    Parameters
    ----------
    night : Night
    out : path
        The page.
    facts : mapping of (source, entries) to facts
        Of reduced scans; from :func:`scan_facts`.

    Returns
    -------
    (Path, Path)
        The page, and the JSON file beside it.
    """
    page = Path(out)
    _refuse(page)
    shown = [{**_shown(o), "facts": facts.get((o.source, o.entries))} for o in night.outcomes]
    _keep_small([one["facts"] for one in shown if one["facts"]])
    scans = []
    for outcome, one in zip(night.outcomes, shown, strict=True):
        known = one["facts"] and {**one["facts"], "pictures": [{**p, "data": None} for p in one["facts"]["pictures"]]}
        scans.append({**asdict(outcome), "facts": known})
    record = {"schema": SCHEMA, "kind": "night", **night.as_json(), "outcomes": scans}
    worked = [one for one in shown if one["status"] in ("done", "partial")]
    trouble = [one for one in shown if one["next"]]
    begun, ended = datetime.fromisoformat(night.begun), datetime.fromisoformat(night.ended)
    head = {
        "over": "Dark-field X-ray microscopy, nightly reduction",
        "heading": f"Night of {begun.day} {begun:%B %Y}",
        "verdict": night_verdict(night),
        "tone": "good" if night.complete else "bad" if _urgent(night) else "warn",
        "facts": [
            ("started", f"{begun:%Y-%m-%d %H:%M} UTC"),
            ("duration", duration((ended - begun).total_seconds())),
            ("machine", night.host),
            ("configuration", night.config),
            ("read", megabytes(sum(o.bytes_read for o in night.outcomes))),
            ("written", megabytes(sum(o.bytes_written for o in night.outcomes))),
        ],
    }
    tiles = [(status, night.counts.get(status, 0)) for status in ("done", *NEXT, "unchanged")]
    unchanged = [one for one in shown if one["status"] == "unchanged"]
    return _write(
        page, record, head, night=night, tiles=tiles, worked=worked, trouble=trouble, unchanged=unchanged, scan=None
    )


def night_verdict(night: Night) -> str:
    """A night in one sentence or two."""
    counts = night.counts
    if not counts and night.complete:
        return "Nothing new: no scans yet."
    if set(counts) <= {"unchanged"} and night.complete:
        return f"Nothing new: {many(counts.get('unchanged', 0), 'scan')} unchanged."
    words = [many(counts.get("done", 0), "scan") + " done"]
    words += [f"{counts[status]} {status}" for status in NEXT if status in counts]
    told = ", ".join(words) + "."
    if night.stopped:
        told += f" Stopped early: {night.stopped}."
    if night.faults:
        told += f" {many(len(night.faults), 'location')} could not be searched."
    return told


def _urgent(night: Night) -> bool:
    return bool(night.faults or {"failed", "quarantined"} & set(night.counts))


def _keep_small(facts: list[dict[str, Any]]) -> None:
    """Leave out pictures, the least important first, until the page is small enough; and list them."""
    total = sum(picture["bytes"] for one in facts for picture in one["pictures"])
    for name in reversed(FOR_A_NIGHT):
        for one in reversed(facts):
            for picture in [p for p in one["pictures"] if p["name"] == name and total > PAGE_BYTES]:
                one["pictures"].remove(picture)
                one["pictures_left_out"].append(
                    f"{name}: left out to keep this page small; `dfxm-dask report` writes a page of this store alone"
                )
                total -= picture["bytes"]


def _shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome with texts for the page."""
    tries = f" Failed {many(outcome.failures, 'time')}." if outcome.failures else ""
    return {
        **asdict(outcome),
        "short": f"{Path(outcome.source).stem} {', '.join(outcome.entries)}".strip(),
        "next": (NEXT[outcome.status] + tries) if outcome.status in NEXT else "",
        "left_out_words": [f"{step}: {reason}" for step, reason in outcome.left_out],
    }


def seen_plainly(value: Any) -> Any:
    """A text without invisible characters: control, format and private characters appear as their numbers. A very
    long text is cut in the middle. Other values pass."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = "".join(
        " "
        if c in "\n\t"
        else c
        if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else f"\\u{ord(c):04x}"
        for c in value
    )
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def _write(page: Path, record: dict[str, Any], head: dict[str, Any], **values: Any) -> tuple[Path, Path]:
    """Page and JSON file, each written completely or not at all."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    beside = page.with_suffix(".json")
    folder = Path(__file__).parent
    style = (folder / "report.css").read_text(encoding="utf-8").strip()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: seen_plainly(str(value) if isinstance(value, Path) else value),
    )
    # Our pictures are longer than any text, with nothing but letters and digits after their head.
    drawn = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
    environment.filters |= {
        "size": megabytes,
        "span": duration,
        "number": lambda value: f"{value:.6g}",
        "given": given_words,
        "measured": lambda numbers: [(one["quantity"], measured(one)) for one in numbers],
        "drawn": lambda data: Markup(data) if drawn.fullmatch(data) else "",
    }
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    text = environment.from_string((folder / "report.html").read_text(encoding="utf-8")).render(
        style=Markup(style),
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        page={**head, "version": __version__, "made": made, "json_name": beside.name},
        tones=TONES,
        **values,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    ledger.replace_file(beside, json.dumps({**as_json(record), "made": made}, indent=1, allow_nan=False).encode())
    ledger.replace_file(page, text.encode("utf-8", "backslashreplace"))
    return page, beside


def _refuse(page: Path) -> None:
    if "RAW_DATA" in (part.upper() for part in page.resolve().parts):
        raise StoreError(f"page {page}", "is under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
