"""Check of the raw data of a store for a reader: whether its frames and their positions can be trusted."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.frames.trust.findings import WRONG, Finding
from dfxm_dask.run.checks.scan_check import ScanCheck, check_raw, scan_axes
from dfxm_dask.run.events import many, megabytes
from dfxm_dask.view.tables import Summary, Table

if TYPE_CHECKING:
    import xarray as xr

SHOWN = 6
"""Frames and layers of a finding that are named in a table; the facts list all."""
BLIND = (
    "not seen by this check: a whole scan in reverse, a shift within dark frames, two frames that look the same, and a "
    "drift of the sample in a single pass, which looks like a rotation of the lattice"
)


def check_scan(store: str | Path) -> Summary:
    """Findings about the raw data of a store: pairing of frames and positions, lost frames, beam, ends of the curve.

    Parameters
    ----------
    store : path

    Returns
    -------
    Summary
        ``as_dict()["sound"]`` is False if a finding is wrong; warnings leave it True. ``findings`` lists name,
        severity, layers, frames, numbers and remedy; ``pairing`` counts the layers in which the pairing is confirmed,
        refuted or unknown.

    Raises
    ------
    StoreError
        Not a store of this package, or one without raw data and their statistics.

    Examples
    --------
    >>> dfxm_dask.check_scan("scan.zarr").as_dict()["sound"]    # doctest: +SKIP
    True
    """
    from dfxm_dask.view.store_facts import store_facts

    _, tree = store_facts(store)
    return summary_of(check_raw(tree), tree, store)


def summary_of(found: ScanCheck, tree: xr.DataTree, store: str | Path) -> Summary:
    """The summary of :func:`check_scan`."""
    facts = check_facts(found, tree)
    rows = [(one["severity"], one["name"], one["where"], one["text"], one["advice"]) for one in facts["findings"]]
    wrong = sum(one["severity"] == WRONG for one in facts["findings"])
    rest = len(facts["findings"]) - wrong
    verdict = f"{wrong} wrong, {many(rest, 'warning')}" if rows else "no fault found"
    return Summary(
        {"store": str(store), **facts},
        f"{store}: {verdict}",
        *facts["words"],
        *([Table("findings", ("severity", "name", "where", "finding", "what to do"), rows)] if rows else []),
        BLIND,
        f"read: {megabytes(facts['bytes_read'])} of statistics that ingest keeps, and the pixels of "
        f"{many(facts['frames_read'], 'frame')}",
    )


def check_facts(found: ScanCheck, tree: xr.DataTree) -> dict[str, Any]:
    """Findings as plain facts, each kind once with all its layers; and sentences about the pairing."""
    raw = tree["raw"].dataset
    states = {s: sum(o.state == s for o in found.orders.values()) for s in ("confirmed", "refuted", "unknown")}
    findings = []
    for (_, name), group in groupby(found.findings, key=lambda f: (f.severity, f.name)):
        same = list(group)
        findings.append(
            {
                "name": name,
                "severity": same[0].severity,
                "where": _where(same, raw),
                "text": same[0].text,
                "advice": same[0].advice,
                "layers": [
                    {"layer": f.layer, "z": float(raw["z"][f.layer]), "frames": f.frames, "numbers": f.numbers}
                    for f in same
                ],
            }
        )
    return {
        "sound": found.sound,
        "findings": findings,
        "pairing": states,
        "words": _pairing(found, states),
        "bytes_read": found.bytes_read,
        "frames_read": found.frames_read,
    }


def _pairing(found: ScanCheck, states: dict[str, int]) -> list[str]:
    """Sentences about the pairing of frames and positions."""
    total = len(found.orders)
    if not total:
        return ["frames and positions: no complete layer is on disk"]
    words = []
    if states["confirmed"]:
        scores = [-o.score for o in found.orders.values() if o.state == "confirmed"]
        words.append(
            f"frames and positions: neighbours are similar in {states['confirmed']} of {many(total, 'layer')} "
            f"({min(scores):.0f} standard deviations or more below random orders)"
        )
    if states["refuted"]:
        words.append(
            f"frames and positions: do not belong together in {states['refuted']} of {many(total, 'layer')} (see the "
            "findings)"
        )
    if states["unknown"]:
        words.append(
            f"frames and positions: not known in {states['unknown']} of {many(total, 'layer')}: the frames differ too "
            "little, or are too few"
        )
    if found.remark:
        words.append(f"the frames are judged without normalisation: {found.remark}")
    return words


def _where(findings: list[Finding], raw: xr.Dataset) -> str:
    """Layers and frames of one kind of finding, in one short sentence."""
    first, layers = findings[0], raw.sizes["z"]
    words = []
    if layers > 1:
        at = ", ".join(f"{float(raw['z'][f.layer]):.4g}" for f in findings[:SHOWN])
        words.append(f"{many(len(findings), 'layer')} of {layers} (z = {at}{', ...' if len(findings) > SHOWN else ''})")
    if first.frames:
        some = ", ".join(frame_words(raw, k) for k in first.frames[:SHOWN])
        more = f", ... {len(first.frames)} in all" if len(first.frames) > SHOWN else ""
        words.append(f"frame {some}{more}" if layers == 1 else f"first: frame {some}{more}")
    return "; ".join(words) or "all frames"


def frame_words(raw: xr.Dataset, frame: int) -> str:
    """Number and position of a frame: ``12 (phi = 0.31)``."""
    axes = scan_axes(raw)
    index = np.unravel_index(frame, tuple(raw.sizes[name] for name in axes))
    at = ", ".join(f"{name} = {float(raw[name][k]):.5g}" for name, k in zip(axes, index, strict=True))
    return f"{frame} ({at})"
