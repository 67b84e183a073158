"""All that a page says of a store, with its pictures: what was found, what is not complete, how it was made."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfxm_dask.errors import IncompleteError
from dfxm_dask.run.scan_remarks import of_results
from dfxm_dask.store import scan
from dfxm_dask.store.calibrate import recover
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.view.figures.index import known_figures
from dfxm_dask.view.tables import findings

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

PICTURE_DPI, PICTURE_QUALITY = 100, 82
FOR_A_NIGHT = ("overview", "curves", "beams")
"""Pictures that tell most: the first ones of a page, and all that a scan has on the page of a night."""


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
    layers = tree.dataset.sizes.get("z", 1)
    heading = f"layer {layer} of {layers}" if layers > 1 else ""
    kinds = known_figures()
    for name in dict.fromkeys((*FOR_A_NIGHT, *kinds)):
        kind = kinds[name]
        if kind.caption and (names is None or name in names):
            try:
                page = next(kind.pages(tree, layer, "" if kind.of_volume else heading), None)
            except Exception as error:  # a picture less is no reason to have no page
                reason = f"could not be drawn ({type(error).__name__}: {' '.join(str(error).split())})"
                yield name, kind.caption, reason
                continue
            if page:
                yield name, kind.caption, page[1]


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
