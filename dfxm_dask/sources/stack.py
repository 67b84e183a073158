"""Layers of one stack: one set of rules for their agreement, their order, and their common monitor.

Convertible values are converted, with a label. Different values are refused, with both layers and both values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError, SourceError
from dfxm_dask.schema import POSITION_TOLERANCE
from dfxm_dask.sources.bliss.camera import OPTICS
from dfxm_dask.sources.source import Axis, Counter, Scan
from dfxm_dask.sources.units import LENGTHS, base_unit, factor_between

OWN = "ingest it into a separate store"
SAME_PLACE = 0.01
"""Fraction of the median distance of layers below which two layers count as one position."""
LEAST_DISTANCE = 0.05
"""um: two layers closer than this count as one position: beams are thicker, and encoders vary as much."""
STILL = 0.1
"""Fraction of the least distance of layers, or of a step, within which a motor of the same axis counts as still."""
HELD = {"degree": 0.01, "um": 1.0}
"""Tolerance of the position of an unscanned motor between layers; in other units 1e-4 of the position."""
OTHER_MOTION = 5e-4  # motion of an unscanned motor, in its own unit, that deserves a remark
# Relative tolerances for equal numbers (our choices).
EXACT, STEP, OPTICAL = 1e-6, 1e-3, 1e-4
LISTED = 6
GIVEN = "given by the user"


@dataclass(frozen=True)
class Rule:
    """A quantity that must be equal in all layers that record it."""

    name: str
    value: Callable[[Scan], Any]
    remedy: str = OWN
    tolerance: float = 0.0
    complete: bool = False  # compared between complete layers only


RULES = (
    Rule("camera", lambda s: s.detector, f"choose one camera with --detector, or {OWN}"),
    Rule("camera model", lambda s: s.metadata.get("detector_description")),
    Rule("physical pixel (y, x, um)", lambda s: s.detector_pixel, tolerance=EXACT),
    Rule("frame shape", lambda s: s.frame_shape),
    Rule("dtype", lambda s: s.dtype.name),
    Rule("scan command", lambda s: _kind_of_command(str(s.metadata.get("command", "")))),
    Rule("scan axes", lambda s: tuple(a.name for a in s.axes)),
    Rule("scanned motors", lambda s: tuple(a.motor for a in s.axes)),
    Rule("motors moved along", lambda s: tuple(s.metadata.get(f"{a.name}_moved_with", "") for a in s.axes)),
    Rule("unit of the scan axes", lambda s: tuple(a.units for a in s.axes)),
    Rule("clock", lambda s: tuple(a.attrs.get("clock", "") for a in s.axes)),
    Rule("direction of the rows", lambda s: s.metadata.get("fast_motor_mode")),
    Rule("number of positions", lambda s: s.shape, complete=True),
    Rule("step", lambda s: tuple(_step(a) for a in s.axes), tolerance=STEP, complete=True),
    Rule("exposure (s)", lambda s: None if s.exposure is None else float(np.median(s.exposure)), tolerance=STEP),
    Rule("z motor", lambda s: s.z_motor, f"set one with --motor MOTOR=z, give --z, or {OWN}"),
)


def name_of(scan: Scan) -> str:
    """File and entry."""
    return f"{scan.source} entry {scan.entry}"


def complete(scans: Sequence[Scan]) -> list[Scan]:
    """Scans with all commanded frames."""
    return [s for s in scans if s.found == s.commanded]


def layer_z(scan: Scan) -> float:
    """Position of a layer, um.

    Raises
    ------
    SourceError
        The unit is not a length.
    """
    unit, factor = base_unit(str(scan.z_units))
    if scan.z is None or unit != "um":
        raise SourceError(
            name_of(scan), f"{scan.z_motor} is in {scan.z_units!r}, not a length", f"use one of {list(LENGTHS)}, or --z"
        )
    return float(scan.z) * factor


def stacked(scans: Sequence[Scan], z: Sequence[float] | None = None) -> list[Scan]:
    """Scans as the layers of one stack, ordered by z, with one monitor.

    Parameters
    ----------
    scans : sequence of Scan
        One or more.
    z : sequence of float, um, optional
        Positions of the layers, given by the user.

    Raises
    ------
    SourceError
        Layers that contradict each other, two layers at one position, or a layer without a position.
    InputError
        Not one finite z for each scan.
    """
    if z is not None:
        if len(z) != len(scans) or not np.isfinite(z).all():
            raise InputError(
                f"z of {len(z)} layers", f"{len(scans)} scans were found", "give one finite z (um) per scan"
            )
        scans = [
            replace(s, z=float(v), z_motor=GIVEN, z_units="um", z_source="given", z_note="", z_unit_read=True)
            for s, v in zip(scans, z, strict=True)
        ]
    if len(scans) > 1:
        whole = complete(scans)
        first = (whole or list(scans))[0]
        for s in scans:
            _compare(s, first)
        for s in whole:
            for mine, theirs in zip(s.axes, first.axes, strict=True):
                _same_grid(s, first, mine, theirs)
            _same_optics(s, first)
            _same_parked(s, first, scans)
        _z_unit_recorded(scans)
        scans = _ordered(scans)
        if not whole:
            raise SourceError(first.source, "no layer is complete", "ingest each scan separately with --allow-partial")
    return _one_counter(scans)


def _compare(scan: Scan, first: Scan) -> None:
    for rule in RULES:
        if rule.complete and (scan.found < scan.commanded or first.found < first.commanded):
            continue
        mine, theirs = rule.value(scan), rule.value(first)
        if rule.name == "z motor" and mine is None:
            why = f" ({scan.z_note})" if scan.z_note else ""
            raise SourceError(name_of(scan), f"has no z motor in its positioners{why}", rule.remedy)
        if mine is not None and theirs is not None and not _equal(mine, theirs, rule.tolerance):
            raise _differs(scan, first, rule.name, mine, theirs, rule.remedy)


def _differs(scan: Scan, first: Scan, what: str, mine: Any, theirs: Any, remedy: str) -> SourceError:
    return SourceError(
        name_of(scan),
        f"{what} is {_said(mine, scan, what)}, but {_said(theirs, first, what)} in {name_of(first)}",
        remedy,
    )


def _said(value: Any, scan: Scan, what: str) -> str:
    """A value as text, with its original unit."""
    if what == "step":
        return ", ".join(
            f"{'none' if v is None else f'{v:g}'} {a.units}"
            + (f" (converted from {a.attrs['converted_from']})" if "converted_from" in a.attrs else "")
            for v, a in zip(value, scan.axes, strict=True)
        )
    if isinstance(value, tuple):
        return f"({', '.join(str(v) or 'none' for v in value)})"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _equal(mine: Any, theirs: Any, tolerance: float) -> bool:
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return len(mine) == len(theirs) and all(_equal(a, b, tolerance) for a, b in zip(mine, theirs, strict=True))
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return isclose(mine, theirs, rel_tol=tolerance)
    return bool(mine == theirs)


def _kind_of_command(name: str) -> str:
    """Relative and absolute scans are one kind, since both have absolute positions here."""
    return {"mesh": "amesh", "dmesh": "amesh"}.get(name, f"a{name[1:]}" if name[:1] == "d" else name)


def _step(axis: Axis) -> float | None:
    return axis.commanded_step


def step_of(axis: Axis) -> float:
    """The least distance of positions along an axis; for a single position, the tolerance of a motor at rest."""
    if axis.positions.size > 1:
        return float(np.abs(np.diff(axis.positions)).min())
    return _held(axis.units, float(axis.positions[0]))


def _held(unit: str, position: float) -> float:
    return HELD.get(unit) or max(1e-4 * abs(position), 1e-12)


def _same_grid(scan: Scan, first: Scan, mine: Axis, theirs: Axis) -> None:
    off = np.abs(mine.positions - theirs.positions)
    if off.max() > step_of(theirs) / 2:
        at = int(off.argmax())
        raise SourceError(
            name_of(scan),
            f"{mine.motor or mine.name} is at {mine.positions[at]:.9g} {mine.units} at grid index {at}, but at "
            f"{theirs.positions[at]:.9g} {theirs.units} in {name_of(first)}: more than half a step apart",
            OWN,
        )


def _same_optics(scan: Scan, first: Scan) -> None:
    """Compare the settings of camera and optics that both layers record."""
    moved = {*(a.motor for a in first.axes), first.z_motor}
    for name, mine in scan.settings.items():
        theirs = first.settings.get(name)
        if theirs is None or name.rsplit("/", 1)[-1] in moved or (set(name.split("/")) & moved):
            continue
        if not _equal(mine, theirs, OPTICAL if OPTICS.search(name) else EXACT):
            raise _differs(scan, first, f"setting {name}", mine, theirs, OWN)


def _same_parked(scan: Scan, first: Scan, scans: Sequence[Scan]) -> None:
    """Compare motors of an axis that no scan has moved; only the z motor may differ."""
    for motor, (mine, unit, axis) in scan.parked.items():
        theirs, other, _ = first.parked.get(motor, (mine, unit, axis))
        factor = factor_between(unit, other)
        if axis == "z" and first.z_source == "given":
            continue
        scanned = next((step_of(a) for a in first.axes if a.name == axis and a.units == other), None)
        remedy = f"{OWN}: only the z motor may move in a stack"
        if axis == "z":
            gaps = np.diff(np.sort([layer_z(s) for s in scans]))
            allowed = max(LEAST_DISTANCE, STILL * float(gaps.min()))
            places = [s.parked[motor][0] for s in scans if motor in s.parked]
            one = STILL * float(np.ptp(places)) > gaps.sum()  # this motor moves the layers, not the z motor
            remedy = f"use --motor {motor}=z, or give --z" if one else f"{first.z_motor} also moves: give --z"
        else:
            allowed = _held(other, theirs) if scanned is None else STILL * scanned
        if factor is None or abs(mine * factor - theirs) > allowed:
            raise SourceError(
                name_of(scan),
                f"{motor} ({axis}) is at {mine:.9g} {unit}, but at {theirs:.9g} {other} in {name_of(first)}",
                remedy,
            )


def _z_unit_recorded(scans: Sequence[Scan]) -> None:
    """Refuse a layer without a recorded unit of z if the other layers record a different unit."""
    recorded = next((s for s in scans if s.z_unit_read), None)
    for s in scans:
        if recorded is not None and not s.z_unit_read and factor_between(str(s.z_units), str(recorded.z_units)) != 1:
            raise SourceError(
                name_of(s),
                f"records no unit of {s.z_motor}, but {name_of(recorded)} records {recorded.z_units} (the default "
                f"unit of {s.z_motor} is {s.z_units})",
                f"give --z, or a beamline file (--beamline FILE) with units: {{{s.z_motor}: {recorded.z_units}}}",
            )


def least_distance(z: Sequence[float]) -> float:
    """Distance in um below which two layers count as one position."""
    gaps = np.diff(np.sort(z))
    return max(LEAST_DISTANCE, SAME_PLACE * float(np.median(gaps)) if gaps.size > 1 else 0.0)


def _ordered(scans: Sequence[Scan]) -> list[Scan]:
    order = sorted(scans, key=layer_z)
    least = least_distance([layer_z(s) for s in order])
    for below, above in pairwise(order):
        if layer_z(above) - layer_z(below) < least:
            raise SourceError(
                name_of(above),
                f"is at {above.z_motor} = {above.z:.10g} {above.z_units}, {name_of(below)} at {below.z:.10g} "
                f"{below.z_units}: layers less than {least:g} um apart count as one position",
                "omit one with --scan, set the moved motor with --motor MOTOR=z, or give --z",
            )
    return order


def _one_counter(scans: Sequence[Scan]) -> list[Scan]:
    """The scans with one monitor: the first counter of all complete layers, else the first counter of any layer."""
    kept = complete(scans) or list(scans)
    names = [[c.name for c in s.counters] for s in kept]
    shared = [name for name in names[0] if all(name in more for more in names)]
    name = next(iter([*shared, *(n for more in names for n in more)]), None)
    if name is None:
        return list(scans)
    found = {id(s): c for s in kept for c in s.counters if c.name == name}
    lead = next(s for s in kept if id(s) in found)
    unit = found[id(lead)].units
    result = []
    for s in scans:
        counter = found.get(id(s))
        values = None if counter is None else _in_unit(counter, unit, s, lead)
        result.append(replace(s, monitor=values, monitor_name=name, monitor_units=unit))
    return result


def _in_unit(counter: Counter, unit: str | None, scan: Scan, lead: Scan) -> np.ndarray:
    if counter.units == unit:
        return counter.values
    factor = factor_between(counter.units, unit) if counter.units and unit else None
    if factor is None:
        raise _differs(
            scan,
            lead,
            f"unit of counter {counter.name}",
            counter.units or "not recorded",
            unit or "not recorded",
            f"put another counter first under monitors of a beamline file (--beamline FILE), or {OWN}",
        )
    return counter.values * factor


def grid_positions(scans: Sequence[Scan], k: int) -> np.ndarray:
    """Positions along scan axis k: the mean of the readbacks over layers."""
    return np.mean([s.axes[k].positions for s in scans], axis=0)


def frame_positions(scan: Scan, k: int) -> np.ndarray:
    """Position of every grid point of a layer along scan axis k: (scan axes), float64; NaN without a frame."""
    axis = scan.axes[k]
    if axis.readback is None:
        return np.broadcast_to(axis.positions.reshape(-1, *[1] * (len(scan.axes) - 1 - k)), scan.shape)
    values = np.full(scan.shape, np.nan)
    values.reshape(-1)[scan.order] = axis.readback[: len(scan.order)]
    return values


def strayed(scans: Sequence[Scan], k: int) -> np.ndarray | None:
    """Positions of the frames along scan axis k, (layer, scan axes), if they deviate from the coordinate; else None."""
    coordinate = grid_positions(scans, k).reshape(-1, *[1] * (len(scans[0].axes) - 1 - k))
    values = np.stack([frame_positions(s, k) for s in scans])
    off = np.nanmax(np.abs(values - coordinate))
    return values if off > POSITION_TOLERANCE * step_of(scans[0].axes[k]) else None


def remarks(scans: Sequence[Scan]) -> list[str]:
    """Remarks on a stack for the user, one line each."""
    whole = complete(scans) or list(scans)
    first = whole[0]
    said = [f"z is unknown and set to 0: {first.z_note}"] if first.z is None and first.z_note else []
    said += dict.fromkeys(words for s in whole for words in s.remarks)
    foreign = {str(a.attrs["title_read_as"]) for s in whole for a in s.axes if "title_read_as" in a.attrs}
    said += [f"the positions of all frames agree with the title of the scan if {words}" for words in sorted(foreign)]
    for k, axis in enumerate(first.axes):
        values = strayed(whole, k)
        if values is not None:
            said.append(_stray_words(whole, k, values))
        sources = {s.axes[k].source for s in whole}
        if sources != {"read"}:
            said.append(f"{axis.name}: {'; '.join(dict.fromkeys(s.axes[k].position for s in whole))}")
        converted = {str(s.axes[k].attrs[w]) for s in whole for w in ("converted_from",) if w in s.axes[k].attrs}
        if converted:
            said.append(f"{axis.name} was converted from {', '.join(sorted(converted))} to {axis.units}")
        assumed = {str(s.axes[k].attrs.get("units_source", "")) for s in whole}
        said += [f"{axis.name} is in {axis.units}: {how}" for how in sorted(assumed) if how.startswith("assumed")]
    return [*said, *_counter_words(whole), *_moved_words(whole)]


def _stray_words(scans: Sequence[Scan], k: int, values: np.ndarray) -> str:
    axis, step = scans[0].axes[k], step_of(scans[0].axes[k])
    coordinate = grid_positions(scans, k).reshape(-1, *[1] * (len(scans[0].axes) - 1 - k))
    off = (values - coordinate) / step
    shift = float(np.ptp([np.nanmean(layer) for layer in off]))
    words = f"along {axis.name} frames deviate by up to {np.nanmax(np.abs(off)):.2g} steps from the coordinate"
    if len(scans) > 1:
        words += f", and the starts of layers differ by up to {shift:.2g} steps"
    if axis.attrs.get("scan_mode") == "zigzag":
        words += "; forward and backward rows deviate in opposite directions"
    return f"{words}: position_{axis.name} contains the position of every frame"


def _counter_words(scans: Sequence[Scan]) -> list[str]:
    name = scans[0].monitor_name
    said = [f"{_short(s)}: counter {n}: {fault}" for s in scans for n, fault in s.counter_faults.items()]
    words = [f"{'; '.join(said[:LISTED])}; the monitor of every layer is {name or 'missing'}"] if said else []
    lacking = [_short(s) for s in scans if s.monitor is None]
    if name and lacking:
        words.append(f"monitor {name} is NaN in {', '.join(lacking[:LISTED])}, without a complete counter of that name")
    unexposed = [_short(s) for s in scans if s.exposure is None]
    if unexposed and len(unexposed) < len(scans):
        words.append(f"exposure is NaN in {', '.join(unexposed[:LISTED])}, without a recorded exposure")
    return words


def _moved_words(scans: Sequence[Scan]) -> list[str]:
    """Remarks on unscanned motors at different positions, and on settings that only some layers record."""
    first = scans[0]
    skip = {*(a.motor for a in first.axes), first.z_motor}
    moved = {}
    for key, value in first.metadata.items():
        if key.startswith("positioners/") and key.removeprefix("positioners/") not in skip:
            places = [float(s.metadata[key]) for s in scans if key in s.metadata]
            if np.ptp([float(value), *places]) > OTHER_MOTION:
                moved[key.removeprefix("positioners/")] = float(np.ptp(places))
    words = []
    if moved:
        listed = ", ".join(f"{motor} (by {span:.3g})" for motor, span in list(moved.items())[:LISTED])
        words.append(f"unscanned motors are at different positions in other layers: {listed}")
    recorded: list[set[str]] = [{*s.settings, *s.parked} for s in scans]
    some = sorted(set.union(*recorded) - {n for n in recorded[0] if all(n in more for more in recorded)})
    some += [rule.name for rule in RULES if 0 < sum(rule.value(s) is None for s in scans) < len(scans)]
    if some:
        words.append(f"only some layers record {', '.join(some[:LISTED])}, which were not compared")
    samples = sorted({str(s.metadata["sample"]) for s in scans if "sample" in s.metadata})
    if len(samples) > 1:
        words.append(f"layers record different samples: {', '.join(samples[:LISTED])}")
    return words


def _short(scan: Scan) -> str:
    return f"{Path(scan.source).name} entry {scan.entry}"


def axis_attrs(scans: Sequence[Scan], k: int) -> dict[str, Any]:
    """Attributes of the coordinate of scan axis k: origin of the positions, assumptions and conversions."""
    axes = [s.axes[k] for s in scans]
    sources = {a.source for a in axes}
    attrs: dict[str, Any] = {
        "position": " | ".join(dict.fromkeys(a.position for a in axes)),
        "position_source": sources.pop() if len(sources) == 1 else "mixed",
    }
    for name in dict.fromkeys(name for a in axes for name in a.attrs):
        values = [a.attrs.get(name, "") for a in axes]
        attrs[name] = values[0] if len(set(values)) == 1 else values
    return attrs


def z_attrs(scans: Sequence[Scan]) -> dict[str, Any]:
    """Attributes of z."""
    first = scans[0]
    if first.z is None:
        why = f": {first.z_note}" if first.z_note else ""
        return {"motor": "not recorded", "position": f"unknown, set to 0{why}"}
    attrs = {"motor": first.z_motor, "position": f"read: {first.z_motor}", "position_source": first.z_source}
    if first.z_source == "given":
        attrs["position"] = GIVEN
    notes = list(dict.fromkeys(s.z_note for s in scans if s.z_note))
    converted = list(dict.fromkeys(str(s.z_units) for s in scans if s.z_units != "um"))
    return (
        attrs
        | ({"units_source": " | ".join(notes)} if notes else {})
        | ({"converted_from": ", ".join(converted)} if converted else {})
    )
