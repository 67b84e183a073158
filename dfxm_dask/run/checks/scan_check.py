"""Check of the raw data of a store: whether its frames and their positions can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.frames.scale import SEEN, settle_scale
from dfxm_dask.frames.trust.faults import equal_frames
from dfxm_dask.frames.trust.features import Frames
from dfxm_dask.frames.trust.findings import WRONG, Finding, Layer, judge_layer
from dfxm_dask.frames.trust.order import Order
from dfxm_dask.schema import EXPOSURE, MONITOR, SATURATION

if TYPE_CHECKING:
    import xarray as xr

NAMES = ("patch_n", "patch_sum", "patch_sum2", "patch_min", "patch_max")
MOST_PAIRS = 20
"""Pairs of frames with equal statistics whose pixels are compared, in each layer; further pairs count as equal."""
GIVEN = {"by": "auto", "reference": None, "offset": None}


@dataclass(frozen=True)
class ScanCheck:
    """Findings about the raw data of a store.

    Parameters
    ----------
    findings : tuple of Finding
        By layer; wrong ones first.
    orders : dict of int to Order
        Knowledge about the pairing, for each layer that is on disk.
    remark : str
        Why the frames could not be brought to one scale; empty if they are on one scale.
    bytes_read, frames_read : int
        Bytes of statistics, and number of frames whose pixels were read.
    """

    findings: tuple[Finding, ...]
    orders: Mapping[int, Order]
    remark: str
    bytes_read: int
    frames_read: int

    @property
    def sound(self) -> bool:
        """Whether no finding is wrong; warnings may remain."""
        return not any(finding.severity == WRONG for finding in self.findings)


def scan_axes(raw: xr.Dataset) -> list[str]:
    """Names of the scan axes, in storage order."""
    return [str(d) for d in raw["counts"].dims if d not in ("z", "y", "x")]


def check_raw(tree: xr.DataTree) -> ScanCheck:
    """Findings about the raw data of an opened store, layer by layer, from the statistics that ingest stores.

    Parameters
    ----------
    tree : xarray.DataTree
        From :func:`dfxm_dask.open_scan`, without Dask.

    Raises
    ------
    StoreError
        No raw data, or raw data without statistics.
    """
    raw = _raw(tree)
    scales, remark = scales_of(raw)
    findings: list[Finding] = []
    orders, size, pixels = {}, 0, 0
    for z in range(raw.sizes["z"]):
        layer = layer_of(raw, z, scales)
        if layer is None:
            continue
        found, orders[z], _ = judge_layer(layer)
        size += sum(values.nbytes for values in layer.statistics.values())
        equal, read = _equal(raw, layer, z)
        pixels += read
        findings += [replace(finding, layer=z) for finding in (*found, *equal)]
    findings.sort(key=lambda finding: (finding.severity != WRONG, finding.name, finding.layer))
    return ScanCheck(tuple(findings), orders, remark, size, pixels)


def seen_layer(tree: xr.DataTree, z: int) -> tuple[list[Finding], Order, Frames] | None:
    """Findings, pairing and light of the frames of one layer, for a picture; None for an absent layer."""
    raw = _raw(tree)
    layer = layer_of(raw, z, scales_of(raw)[0])
    if layer is None:
        return None
    found, known, frames = judge_layer(layer)
    return [*found, *_equal(raw, layer, z)[0]], known, frames


def _raw(tree: xr.DataTree) -> xr.Dataset:
    if "raw" not in tree or "counts" not in tree["raw"].data_vars:
        raise StoreError("check of a scan", "the store has no raw data", "check a store that ingest wrote")
    raw: xr.Dataset = tree["raw"].dataset
    lacking = [name for name in NAMES if name not in raw]
    if lacking:
        raise StoreError(
            "check of a scan", f"the raw data lack {', '.join(lacking)}", "ingest the scan again with this version"
        )
    return raw


def layer_of(raw: xr.Dataset, z: int, scales: dict[str, Any]) -> Layer | None:
    """Small data of a layer; None if it is absent or incomplete."""
    statistics = {name: np.asarray(raw[name][z]) for name in NAMES}
    count = np.asarray(statistics["patch_n"], np.float64)
    if not (np.isfinite(count).all() and (count > 0).any()) or (count.sum(axis=(-1, -2)) == 0).any():
        return None
    axes = {name: np.asarray(raw[name], np.float64) for name in scan_axes(raw)}
    units = {name: str(raw[name].attrs.get("units", "")) for name in axes}
    frames = int(np.prod([len(v) for v in axes.values()]))
    per_frame = {n: np.asarray(raw[n][z], np.float64).reshape(frames) for n in (MONITOR.name,) if n in raw}
    back = {n: np.asarray(raw[f"readback_{n}"][z]).reshape(frames) for n in axes if f"readback_{n}" in raw}
    monitor = per_frame.get(MONITOR.name)
    if monitor is not None and EXPOSURE.name in raw:  # a monitor counts over the exposure
        exposure = np.asarray(raw[EXPOSURE.name][z], np.float64).reshape(frames)
        if (exposure > 0).all():
            monitor = monitor / exposure
    scale = offset = None
    if scales:
        beam = np.asarray(raw[scales["by"]][z], np.float64).reshape(frames)
        scale, offset = scales["reference"] / beam, scales["offset"]
    noise, full = (float(raw[n][z]) if n in raw else np.nan for n in ("noise", SATURATION.name))
    return Layer(axes, units, statistics, noise if np.isfinite(noise) else 0.0, full, monitor, scale, offset, back)


def scales_of(raw: xr.Dataset) -> tuple[dict[str, Any], str]:
    """Scale of the frames as the step ``normalise`` chooses it; {} for one scale, with the reason if it is unknown."""
    grid = tuple(raw.sizes[name] for name in scan_axes(raw))
    seen: dict[str, Any] = {v.name: raw[v.name] for v in SEEN if v.name in raw}
    try:
        chosen, _ = settle_scale(GIVEN, seen, grid)
    except InputError as error:
        return {}, error.found
    return chosen or {}, ""


def _equal(raw: xr.Dataset, layer: Layer, z: int) -> tuple[list[Finding], int]:
    """Frames with equal counts in all pixels, and the number of frames read."""
    count = int(np.prod(layer.grid))
    pairs = equal_frames({n: values.reshape(count, -1) for n, values in layer.statistics.items()})
    same: list[int] = []
    for first, second in pairs[:MOST_PAIRS]:
        one, other = (raw["counts"][(z, *np.unravel_index(k, layer.grid))] for k in (first, second))
        if np.array_equal(one, other):
            same.append(second)
    same += [second for _, second in pairs[MOST_PAIRS:]] if same else []
    if not same:
        return [], 2 * len(pairs[:MOST_PAIRS])
    firsts = {second: first for first, second in pairs}
    shown = ", ".join(f"{k} = {firsts[k]}" for k in same[:5])
    text = f"the counts equal those of an earlier frame in every pixel (frame {shown})"
    return [Finding("equal_frames", WRONG, text, tuple(same))], 2 * len(pairs[:MOST_PAIRS])
