"""Pages to read in the morning: one of a scan, one of a night; whole in themselves, with the same facts as JSON beside.

Names, titles and reasons come from files that anybody may have written. Jinja escapes every one of them; characters
that are not seen, or that turn the order of others, are shown by their number; no address is ever made of them; and
the page forbids its reader to run or fetch anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.errors import StoreError
from dfxm_dask.run.events import duration, many, megabytes
from dfxm_dask.sources.paths import beside
from dfxm_dask.store import scan
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.output_paths import refuse_file
from dfxm_dask.view.store_facts import FOR_A_NIGHT, scan_facts

if TYPE_CHECKING:
    from dfxm_dask.run.nights.night import Night, Outcome

SCHEMA = 1
PAGE_BYTES = 9_000_000
"""Pictures of a night beyond this are left out, and named (our choice: such a page still goes by mail)."""
LONGEST = 400
"""Longer words from files are cut in the middle."""
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
    "failed": "Tried again the next night.",
    "quarantined": "Not tried again until its files or the configuration change, or its .nightly.json is removed.",
    "changed": "Named every night until somebody acts.",
    "partial": "Done as far as the files go; not tried again.",
    "deferred": "Looked at again the next night.",
    "not done": "Goes on the next night.",
}


def scan_page(store: str | Path, out: str | Path | None = None) -> tuple[Path, Path, bool]:
    """The page of one scan: what was found, pictures, what is not complete, how it was made.

    Parameters
    ----------
    store : path
    out : path, optional
        The page; by default ``<store>.html`` beside the store.

    Returns
    -------
    (Path, Path, bool)
        The page, the JSON file beside it, and whether the store is complete.

    Raises
    ------
    StoreError
        Not a store, or a place under RAW_DATA.
    """
    store = Path(store)
    open_store(store)  # what is no store says so first
    page = Path(out) if out else beside(store, ".html")
    _refuse(page)
    for file in (page, page.with_suffix(".json")):
        refuse_file(file, "--out FILE.html")
    facts = scan_facts(store, names=None)
    pictures = [{**p, "data": None} for p in facts["pictures"]]
    record = {"schema": SCHEMA, "kind": "scan", "version": __version__, **facts, "pictures": pictures}
    verdict = "Complete." if facts["complete"] else "NOT COMPLETE: see below what is missing, and what to do."
    head = {
        "over": "Dark-field X-ray microscopy scan",
        "heading": facts["title"],
        "verdict": verdict,
        "tone": "good" if facts["complete"] else "bad",
        "facts": [("store", store), ("command", facts["command"]), ("on disk", megabytes(facts["bytes"]))],
    }
    return *_write(page, record, head, scan=facts, night=None), bool(facts["complete"])


def night_page(night: Night, out: str | Path, facts: Mapping[tuple[str, tuple[str, ...]], Any]) -> tuple[Path, Path]:
    """The page of a night: what was done, what was not and why, and every scan that was done.

    Parameters
    ----------
    night : Night
    out : path
        The page.
    facts : mapping of (source, entries) to facts
        Of scans that were done; from :func:`scan_facts`.

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
            ("begun", f"{begun:%Y-%m-%d %H:%M} UTC"),
            ("took", duration((ended - begun).total_seconds())),
            ("on", night.host),
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
        return "Nothing new: there are no scans yet."
    if set(counts) <= {"unchanged"} and night.complete:
        return f"Nothing new: {many(counts.get('unchanged', 0), 'scan')} unchanged."
    words = [many(counts.get("done", 0), "scan") + " done"]
    words += [f"{counts[status]} {status}" for status in NEXT if status in counts]
    told = ", ".join(words) + "."
    if night.stopped:
        told += f" Stopped early: {night.stopped}."
    if night.faults:
        told += f" {many(len(night.faults), 'place')} could not be searched."
    return told


def _urgent(night: Night) -> bool:
    return bool(night.faults or {"failed", "quarantined"} & set(night.counts))


<<<<<<< HEAD
def scan_facts(store: str | Path, names: tuple[str, ...] | None = FOR_A_NIGHT) -> dict[str, Any]:
    """All that a page says of a store.

    Parameters
    ----------
    store : path
    names : tuple of str, optional
        Pictures to draw; all by default.

    Raises
    ------
    StoreError
        Not a store of this package.
    """
    store = Path(store)
    problems, absent = _problems(store)
    try:
        tree = scan.open_scan(store, chunks=None)
    except IncompleteError:
        tree = scan.open_scan(store, chunks=None, allow_partial=True)
    layers = int(tree.dataset.sizes.get("z", 1))
    layer = layers // 2
    axes = [
        {
            "axis": str(name),
            "motor": str(values.attrs.get("motor", "")),
            "positions": int(values.size),
            "first": f"{float(values.values.flat[0]):.6g}",
            "last": f"{float(values.values.flat[-1]):.6g}",
            "unit": str(values.attrs.get("units", "")),
        }
        for name, values in tree.dataset.coords.items()
        if values.ndim == 1 and values.size
    ]
    pictures: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name, caption, figure in pictures_of(tree, layer, names):
        if isinstance(figure, str):
            left_out.append(f"{name}: {figure}")
        else:
            data = _as_data(figure)
            pictures.append({"name": name, "caption": caption, "bytes": len(data), "data": data})
    numbers: list[tuple[str, str]] = []
    if "rocking" in tree and "total" in tree["rocking"].data_vars:
        one = tree["rocking"].dataset.isel(z=[layer])
        import xarray as xr

        numbers = findings(xr.DataTree.from_dict({"/rocking": one}))
    steps = _steps(store)
    where = f"layer {layer} of {layers}" if layers > 1 else ""
    return {
        "store": str(store),
        "title": str(tree.attrs.get("title") or store.name),
        "command": str(tree.attrs.get("command", "")),
        "complete": not problems and not absent,
        "problems": problems,
        "absent": absent,
        "remarks": [*of_results(store, tree.children)],
        "axes": axes,
        "shown_layer": where,
        "numbers": numbers,
        "steps": steps,
        "bytes": sum(step["bytes"] for step in steps),
        "pictures": pictures,
        "pictures_left_out": left_out,
    }


def without_facts(store: str | Path, error: Exception) -> dict[str, Any]:
    """What a page says of a store of which nothing can be shown."""
    reason = f"nothing of {store} can be shown ({type(error).__name__}: {' '.join(str(error).split())})"
    return {
        "store": str(store),
        "title": Path(store).name,
        "command": "",
        "complete": False,
        "problems": [reason],
        "absent": [],
        "remarks": [],
        "axes": [],
        "shown_layer": "",
        "numbers": [],
        "steps": [],
        "bytes": 0,
        "pictures": [],
        "pictures_left_out": [],
    }


def _problems(store: Path) -> tuple[list[str], list[str]]:
    """What is not complete, each with the remedy; and layers or frames that the source lacked."""
    recover(store)
    opened = open_store(store)
    problems, absent = [], []
    for group in opened.groups():
        for state in opened.states(group).values():
            known = state.provenance or {}
            absent += [str(name) for name in (*known.get("absent", ()), *known.get("cropped", ()))]
        for step, (reason, remedy) in opened.incomplete(group).items():
            if not reason.startswith("layers were absent"):
                problems.append(f"{group}/{step}: {reason}; {remedy}")
    if "raw" not in opened.groups():
        problems.append("there are no raw data: the ingest was stopped before it began; run it again")
    return problems, list(dict.fromkeys(absent))


def _steps(store: Path) -> list[dict[str, Any]]:
    """Every step with its blocks, bytes on disk, seconds of its workers, version and parameters."""
    rows = []
    opened = open_store(store)
    for group in opened.groups():
        for step, state in opened.states(group).items():
            _, records = ledger.read_ledger(ledger.ledger_path(store, group, step))
            done = [records[block] for block in state.done]
            known = state.provenance or {}
            given = ", ".join(f"{k}={v}" for k, v in dict(known.get("parameters") or {}).items() if v is not None)
            rows.append(
                {
                    "group": group,
                    "step": step,
                    "done": len(state.done),
                    "blocks": len(state.blocks),
                    "bytes": sum(int(size) for record in done for size, _ in record["files"].values()),
                    "seconds": float(sum(record.get("seconds", 0.0) for record in done)),
                    "version": str(known.get("version", "")),
                    "parameters": given,
                }
            )
    return rows


def pictures_of(
    tree: xr.DataTree, layer: int, names: tuple[str, ...] | None
) -> Iterator[tuple[str, str, Figure | str]]:
    """Name, caption and figure of what a layer has; instead of a figure, why it could not be drawn."""

    def wanted(name: str) -> bool:
        return names is None or name in names

    raw = tree["raw"].dataset if "raw" in tree and "counts" in tree["raw"].data_vars else None
    reduced = tree["rocking"].dataset if "rocking" in tree and tree["rocking"].data_vars else None
    maps = None if reduced is None else reduced.isel(z=layer)
    heading = f"layer {layer} of {tree.dataset.sizes['z']}" if tree.dataset.sizes.get("z", 1) > 1 else ""

    def maps_page() -> Figure | None:
        if maps is None:
            return None
        panels = layer_panels(maps) + ([mosaicity_panel(maps)] if "mosaicity" in maps else [])
        grid = pixel_grid(np.asarray(maps["y"]), np.asarray(maps["x"]), maps["x"].attrs.get("units", "pixel"))
        return overview(panels, grid, heading) if panels else None

    def curves_page() -> Figure | None:
        if maps is None or raw is None:
            return None
        frames = tree["frames"].dataset.isel(z=layer) if "frames" in tree else None
        grid = pixel_grid(np.asarray(maps["y"]), np.asarray(maps["x"]), maps["x"].attrs.get("units", "pixel"))
        return draw_curves(raw.isel(z=layer), maps, frames, grid, heading)

    drawn: list[tuple[str, str, Any]] = [
        ("overview", "Maps of the rocking curve", maps_page),
        ("curves", "Rocking curves of telling pixels", curves_page),
        ("beams", "Weak and strong beam", lambda: draw_beams(tree, layer, heading) if "beams" in tree else None),
        *(
            (f"components_{m}", f"Components: {METHODS[m]}", lambda m=m: draw_components(tree, m, layer, heading))
            for m in METHODS
        ),
        ("boundaries", "Boundaries", lambda: next(iter(boundary_pages(tree, "")), ("", None))[1]),
        ("frames", "Frames as they were measured", lambda: draw_frames(tree, layer, heading) if raw is not None else 0),
    ]
    for name, caption, draw in drawn:
        if wanted(name):
            try:
                figure = draw()
            except Exception as error:  # a picture less is no reason to have no page
                yield name, caption, f"could not be drawn ({type(error).__name__}: {' '.join(str(error).split())})"
                continue
            if figure:
                yield name, caption, figure


def _as_data(figure: Figure) -> str:
    """A figure as a data URL."""
    stream = io.BytesIO()
    figure.savefig(
        stream,
        format="jpeg",
        dpi=PICTURE_DPI,
        facecolor="white",
        pil_kwargs={"quality": PICTURE_QUALITY, "optimize": True},
    )
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


=======
>>>>>>> e2/main
def _keep_small(facts: list[dict[str, Any]]) -> None:
    """Leave out pictures, the less telling ones first, until the page is small enough; and name them."""
    total = sum(picture["bytes"] for one in facts for picture in one["pictures"])
    for name in reversed(FOR_A_NIGHT):
        for one in reversed(facts):
            for picture in [p for p in one["pictures"] if p["name"] == name and total > PAGE_BYTES]:
                one["pictures"].remove(picture)
                one["pictures_left_out"].append(
                    f"{name}: to keep this page small; `dfxm-dask report` makes a page of the store alone"
                )
                total -= picture["bytes"]


def _shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome with words for people."""
    tries = f" Failed {many(outcome.failures, 'time')}." if outcome.failures else ""
    return {
        **asdict(outcome),
        "short": f"{Path(outcome.source).stem} {', '.join(outcome.entries)}".strip(),
        "next": (NEXT[outcome.status] + tries) if outcome.status in NEXT else "",
        "left_out_words": [f"{step}: {reason}" for step, reason in outcome.left_out],
    }


def seen_plainly(value: Any) -> Any:
    """A text with nothing in it that is not seen: control, format and private characters by their number; cut in the
    middle where it is very long. Other values stay."""
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
    """Page and JSON file, each whole or not at all."""
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
    # What we drew is longer than any word, and holds nothing but letters and digits after its head.
    drawn = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
    environment.filters |= {
        "size": megabytes,
        "span": duration,
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
    ledger.replace_file(beside, json.dumps({**record, "made": made}, indent=1, default=_plain).encode())
    ledger.replace_file(page, text.encode("utf-8", "backslashreplace"))
    return page, beside


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else str(value)


def _refuse(page: Path) -> None:
    if "RAW_DATA" in (part.upper() for part in page.resolve().parts):
        raise StoreError(f"page {page}", "lies under RAW_DATA, which is read-only", "write under PROCESSED_DATA")
