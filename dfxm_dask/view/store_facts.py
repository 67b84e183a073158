"""Facts about a store: content, findings, pictures, missing parts, and how each step was computed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.errors import IncompleteError
from dfxm_dask.run.scan_remarks import of_results
from dfxm_dask.store import scan
from dfxm_dask.store.calibrate import recover
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import OpenStore, open_store

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

PICTURE_DPI, PICTURE_QUALITY = 100, 82
FOR_A_NIGHT = ("overview", "curves", "beams")
"""The most important pictures: first on the page of a scan, and the only ones of a scan on the page of a night."""
FWHM = 2.3548
"""Full width at half maximum of a Gaussian, in standard deviations."""


def store_facts(store: str | Path) -> tuple[dict[str, Any], xr.DataTree]:
    """Content and state of a store.

    Parameters
    ----------
    store : path

    Returns
    -------
    dict, xarray.DataTree
        The facts, and the opened store; missing blocks are NaN.

    Raises
    ------
    StoreError
        Not a store of this package.
    """
    store = Path(store)
    recover(store)
    opened = open_store(store)
    problems, absent = _problems(opened)
    try:
        tree = scan.open_scan(store, chunks=None)
    except IncompleteError:
        tree = scan.open_scan(store, chunks=None, allow_partial=True)
    axes = [
        {
            "axis": str(name),
            "motor": str(values.attrs.get("motor", "")),
            "positions": int(values.size),
            "first": float(values.values.flat[0]),
            "last": float(values.values.flat[-1]),
            "unit": str(values.attrs.get("units", "")),
            "source": str(values.attrs.get("position_source", "")),
            "note": str(values.attrs.get("position", "")),
            "scan_mode": str(values.attrs.get("scan_mode", "")),
            "scan_mode_source": str(values.attrs.get("scan_mode_source", "")),
        }
        for name, values in tree.dataset.coords.items()
        if values.ndim == 1 and values.size
    ]
    variables = [
        {
            "variable": f"{group}/{name}",
            "dims": {str(dim): int(size) for dim, size in variable.sizes.items()},
            "dtype": str(variable.dtype),
            "unit": str(variable.attrs.get("units", "")),
            "long_name": str(variable.attrs.get("long_name", "")),
            "bytes": int(variable.nbytes),
        }
        for group, node in tree.children.items()
        for name, variable in node.dataset.data_vars.items()
    ]
    steps, remarks = _steps(opened)
    facts = {
        "store": str(store),
        "title": str(tree.attrs.get("title") or store.name),
        "command": str(tree.attrs.get("command", "")),
        "schema_version": tree.attrs.get("schema_version"),
        "complete": not problems and not absent,
        "problems": problems,
        "absent": absent,
        "remarks": list(dict.fromkeys([*remarks, *of_results(store, tree.children)])),
        "axes": axes,
        "variables": variables,
        "steps": steps,
        "bytes": sum(step["bytes"] for step in steps),
    }
    return facts, tree


def scan_facts(store: str | Path, names: tuple[str, ...] | None = FOR_A_NIGHT) -> dict[str, Any]:
    """Facts, findings and pictures of a store, for a page.

    Parameters
    ----------
    store : path
    names : tuple of str, optional
        Pictures to draw; None draws all.

    Raises
    ------
    StoreError
        Not a store of this package.
    """
    from dfxm_dask.run.checks.scan_check import NAMES, check_raw
    from dfxm_dask.view.figures.index import has
    from dfxm_dask.view.scan_check import check_facts

    facts, tree = store_facts(store)
    layer = int(tree.dataset.sizes.get("z", 1)) // 2
    pictures: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name, caption, figure in pictures_of(tree, layer, names):
        if isinstance(figure, str):
            left_out.append(f"{name}: {figure}")
        else:
            data = _as_data(figure)
            pictures.append({"name": name, "caption": caption, "bytes": len(data), "data": data})
    numbers: list[dict[str, Any]] = []
    if "rocking" in tree and "total" in tree["rocking"].data_vars:
        numbers = findings(tree["rocking"].dataset.isel(z=[layer]))
    if "strain" in tree and "deformation" in tree["strain"].data_vars:
        numbers += strain_findings(tree["strain"].dataset.isel(z=[layer]))
    there = all(has(tree, f"raw/{name}") for name in ("counts", *NAMES))
    checked = check_facts(check_raw(tree), tree) if names is None and there else None
    return {
        **facts,
        "checked": checked,
        "shown_layer": layer_words(tree, layer),
        "numbers": numbers,
        "pictures": pictures,
        "pictures_left_out": left_out,
    }


def without_facts(store: str | Path, error: Exception) -> dict[str, Any]:
    """Facts about a store that cannot be shown: the reason."""
    reason = f"{store} cannot be shown ({type(error).__name__}: {' '.join(str(error).split())})"
    lists = ("absent", "remarks", "axes", "variables", "steps", "numbers", "pictures", "pictures_left_out")
    return {
        "store": str(store),
        "title": Path(store).name,
        "command": "",
        "schema_version": None,
        "complete": False,
        "problems": [reason],
        "shown_layer": "",
        "bytes": 0,
        "checked": None,
        **{name: [] for name in lists},
    }


def layer_words(tree: xr.DataTree, layer: int) -> str:
    """Position and number of a layer, from 1: ``z = 10 um (layer 2 of 2)``. Nothing for a scan of one layer."""
    z = tree.dataset.coords.get("z")
    if z is None or z.size < 2:
        return ""
    at = f"{float(z[layer]):.4g} {z.attrs.get('units', '')}".strip()
    return f"z = {at} (layer {layer + 1} of {z.size})"


def _problems(opened: OpenStore) -> tuple[list[str], list[str]]:
    """Missing results, each with the remedy; and layers or frames that the source lacked."""
    problems, absent = [], []
    for group in opened.groups():
        for state in opened.states(group).values():
            known = state.provenance or {}
            absent += [str(name) for name in (*known.get("absent", ()), *known.get("cropped", ()))]
        for step, (reason, remedy) in opened.incomplete(group).items():
            if not reason.startswith("layers were absent"):
                problems.append(f"{group}/{step}: {reason}; {remedy}")
    if "raw" not in opened.groups():
        problems.append("raw data are missing: the ingest stopped before it wrote any; run the ingest again")
    return problems, list(dict.fromkeys(absent))


def _steps(opened: OpenStore) -> tuple[list[dict[str, Any]], list[str]]:
    """Every step with its blocks, bytes on disk, seconds of its workers, version and parameters; and its remarks."""
    rows, remarks = [], []
    for group in opened.groups():
        for step, state in opened.states(group).items():
            _, records = ledger.read_ledger(ledger.ledger_path(opened.path, group, step))
            done = [records[block] for block in state.done]
            known = state.provenance or {}
            remarks += [f"{group}: {remark}" for remark in known.get("remarks") or ()]
            rows.append(
                {
                    "group": group,
                    "step": step,
                    "done": len(state.done),
                    "blocks": len(state.blocks),
                    "bytes": sum(int(size) for record in done for size, _ in record["files"].values()),
                    "seconds": float(sum(record.get("seconds", 0.0) for record in done)),
                    "version": str(known.get("version", "")),
                    "parameters": dict(known.get("parameters") or {}),
                }
            )
    return rows, remarks


def given_words(parameters: Mapping[str, Any]) -> str:
    """Parameters of a step on one line, without those left out."""
    return ", ".join(f"{name}={value}" for name, value in parameters.items() if value is not None)


def findings(maps: xr.Dataset) -> list[dict[str, Any]]:
    """Medians over sound pixels, and the fraction of pixels that are lit, truncated, or lit in a single frame.

    Parameters
    ----------
    maps : xarray.Dataset
        Group ``rocking`` of a store.

    Returns
    -------
    list of dict
        ``quantity``, ``value`` and ``unit``; angles in the unit of the scan axis, fractions in percent.
    """
    from dfxm_dask.view.figures.maps import UNSOUND, flagged

    maps = maps.load()
    rows: list[dict[str, Any]] = []
    lit = np.isfinite(np.asarray(maps["total"]))
    sound = lit.copy()

    def add(quantity: str, value: float, unit: str) -> None:
        rows.append({"quantity": quantity, "value": float(value), "unit": unit})

    def median(label: str, name: str, factor: float = 1.0) -> None:
        values = np.asarray(maps[name])[sound]
        values = values[np.isfinite(values)]
        if values.size:
            add(label, factor * float(np.median(values)), str(maps[name].attrs.get("units", "")))

    if "flags" in maps:
        lit &= ~flagged(maps["flags"], "unlit")
        truncated = lit & flagged(maps["flags"], "truncated")
        single = lit & flagged(maps["flags"], "single")
        sound = lit & ~flagged(maps["flags"], *UNSOUND)
        add("lit pixels", 100 * lit.mean(), "%")
        add("truncated curves, of the lit pixels", 100 * truncated.sum() / max(lit.sum(), 1), "%")
        add("lit in a single frame, of the lit pixels", 100 * single.sum() / max(lit.sum(), 1), "%")
    for name in map(str, maps.data_vars):
        if name.startswith("com_"):
            median(f"median centre of mass, {name[4:]}", name)
        elif name.startswith("std_"):
            median(f"median FWHM, {name[4:]} ({FWHM} standard deviations)", name, FWHM)
    if "kam" in maps:
        median("median KAM", "kam")
    return rows


def strain_findings(maps: xr.Dataset) -> list[dict[str, Any]]:
    """Fraction of pixels whose deformation gradient is complete, and medians of errors and of the noise floor.

    Parameters
    ----------
    maps : xarray.Dataset
        Group ``strain`` of a set of reflections.

    Returns
    -------
    list of dict
        As :func:`findings`.
    """
    complete = 100 * float(np.isfinite(np.asarray(maps["deformation"])).all(axis=(-1, -2)).mean())
    rows: list[dict[str, Any]] = [
        {"quantity": "pixels with all components of the deformation gradient", "value": complete, "unit": "%"}
    ]
    for name in ("rotation_error", "strain_error", "density_floor"):
        values = np.asarray(maps[name]) if name in maps else np.zeros(0)
        values = values[np.isfinite(values)]
        if values.size:
            text = str(maps[name].attrs.get("long_name", name))
            unit = str(maps[name].attrs.get("units", ""))
            rows.append({"quantity": f"median {text}", "value": float(np.median(values)), "unit": unit})
    return rows


def measured(finding: Mapping[str, Any]) -> str:
    """Value and unit of a finding: ``0.0351 °``."""
    from dfxm_dask.view.figures.maps import symbol

    digits = 3 if finding["unit"] == "%" else 5
    return f"{finding['value']:.{digits}g} {symbol(finding['unit'])}".strip()


def pictures_of(
    tree: xr.DataTree, layer: int, names: tuple[str, ...] | None
) -> Iterator[tuple[str, str, Figure | str]]:
    """Name, caption and figure of the pictures of a layer; the reason instead of a figure that cannot be drawn."""
    from dfxm_dask.view.figures.index import known_figures

    heading = layer_words(tree, layer)
    kinds = known_figures()
    for name in dict.fromkeys((*FOR_A_NIGHT, *kinds)):
        kind = kinds[name]
        if kind.caption and (names is None or name in names):
            try:
                page = next(kind.pages(tree, layer, "" if kind.of_volume else heading), None)
            except Exception as error:  # one picture that fails does not prevent the page
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
