"""Findings about one layer: faults, the frames with these faults, numbers, and remedies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dfxm_dask.frames.trust import faults, order
from dfxm_dask.frames.trust.curve import EDGE, ends_of
from dfxm_dask.frames.trust.features import Frames, frames_of_layer
from dfxm_dask.frames.trust.order import Order, judge_order

WRONG, WARNING = "wrong", "warning"
MISSED = 0.25
"""Distance of a motor from its position, in steps, above which it is reported."""
FADED = 0.1
"""Change of the light of a series over time, as a logarithm, above which it is reported."""
STEPPED = ("degree", "keV", "um", "rad")
ADVICE = {
    "random_order": "check how frames and positions were joined (file names, order of the table); do not reduce it yet",
    "lines_backwards": "ingest again with the other --scan-mode (rewind or zigzag)",
    "lines_late": "every second line is measured backwards with backlash, or its frames are numbered late: do not "
    "compare its centres; check the motor and the trigger",
    "frames_shifted": "a frame is lost or doubled at the start: check the trigger and the first file",
    "frames_circular": "the frames start in the middle of the scan: check the first number of the files",
    "frame_moved": "look at this frame in `dfxm-dask view`; a file may have the number of another",
    "block_backwards": "look at these frames in `dfxm-dask view`; files may be sorted as text (10 before 2)",
    "position_twice": "a step of the motor may be lost, or a frame recorded twice; later frames may be one step late",
    "equal_frames": "the counts of a frame were stored twice, and a frame may be lost: check the camera and the files",
    "empty_frames": "the frames have no counts: check the files; widths and centres near them are wrong",
    "no_beam": "the beam or the shutter was off: measure again, or reduce the part before or after",
    "flash": "the beam was unsteady: `- normalise: {}` corrects it if the monitor recorded it",
    "saturated": "counts of these pixels are lower bounds; their maps have the flag `saturated`; attenuate the beam",
    "monitor_bad": "name another counter, or do not normalise",
    "monitor_trip": "the beam was off in these frames: measure again, or reduce the part before or after",
    "monitor_jump": "compare with the refills of the ring; `- normalise: {}` corrects the counts",
    "not_bracketed": "the widths are lower bounds and the centres lean to the middle; scan further",
    "motor_missed": "the maps use the mean of the positions; check the motor",
    "light_drifts": "sample, optics or beam drift during the series: compare early and late frames before averaging",
}
"""Remedy of a finding, by its name."""


@dataclass(frozen=True)
class Finding:
    """One finding about one layer.

    Parameters
    ----------
    name : str
        A key of :data:`ADVICE`.
    severity : str
        "wrong" where a reduction of the scan is not to be trusted, else "warning".
    text : str
        The fault, with its numbers.
    frames : tuple of int
        Flat numbers of the frames on the grid; empty where all frames are concerned.
    numbers : dict of str to float
    layer : int
        Number of the layer along z.
    """

    name: str
    severity: str
    text: str
    frames: tuple[int, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    layer: int = 0

    @property
    def advice(self) -> str:
        return ADVICE[self.name]


@dataclass(frozen=True)
class Layer:
    """Small data of one layer.

    Parameters
    ----------
    axes : dict of str to (position,) float64
        Positions along the scan axes, in storage order.
    units : dict of str to str
    statistics : dict of str to (scan axes, patch_y, patch_x) arrays
        Statistics of the patches, as ingest stores them.
    noise, saturation : float, count
        Noise of a dark voxel, and a full well (NaN where unknown).
    monitor : (frame,), optional
    scale : (frame,), optional
        Factors to one incident beam, where frames need them; then also ``offset``, the counts without beam.
    readback : dict of str to (frame,), optional
        Recorded positions.
    """

    axes: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    statistics: Mapping[str, np.ndarray]
    noise: float
    saturation: float
    monitor: np.ndarray | None = None
    scale: np.ndarray | None = None
    offset: float | None = None
    readback: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(len(positions) for positions in self.axes.values())

    @property
    def stepped(self) -> bool:
        """Whether motors step along all axes, not time."""
        return all(self.units.get(name, "") in STEPPED for name in self.axes)


def judge_layer(layer: Layer) -> tuple[list[Finding], Order, Frames]:
    """All findings about a layer except equal frames, whose pixels must be compared.

    Returns
    -------
    list of Finding
    Order
        Knowledge about the pairing of frames and positions.
    Frames
        Light of the frames, for a picture.
    """
    count = int(np.prod(layer.grid))
    least, most = (np.asarray(layer.statistics[n]).reshape(count, -1) for n in ("patch_min", "patch_max"))
    empty, offset = faults.empty_frames(least, most), layer.offset
    if empty and offset is None:  # the darkest patch is that of the frames with counts
        total, pixels = (
            np.asarray(layer.statistics[n], np.float64).reshape(count, -1) for n in ("patch_sum", "patch_n")
        )
        offset = float(np.delete(total / np.maximum(pixels, 1), empty, axis=0).min())
    frames = frames_of_layer(layer.statistics, layer.grid, layer.noise, layer.scale, offset)
    # Errors of the scale of attenuators look like frames in a wrong place.
    known = judge_order(frames, stepped=layer.stepped and layer.scale is None)
    found = [*_lost(layer, frames, empty), *_saturated(layer, most), *_monitor(layer)]
    gone = {k for finding in found if finding.name in ("empty_frames", "no_beam") for k in finding.frames}
    found = [*_order(known, gone), *found]
    if layer.stepped:
        found += [*_ends(layer, frames), *_missed(layer)]
        if layer.scale is None:
            flashed, factor = faults.flashes(frames)
            flashed = tuple(k for k in flashed if k not in gone)
            text = f"brighter or darker than both neighbours, in all parts of the image, by up to {factor:.3g}"
            found += _some("flash", WARNING, flashed, text, factor=factor)
    elif layer.scale is None:
        found += _drift(frames)
    return found, known, frames


def _some(name: str, severity: str, frames: Iterable[int], text: str, **numbers: float) -> list[Finding]:
    """A finding about some frames; none without any."""
    frames = tuple(frames)
    return [Finding(name, severity, text, frames, numbers)] if frames else []


def _order(known: Order, gone: set[int]) -> list[Finding]:
    numbers = {"score": known.score, "signal": known.signal, "roughness": known.ratio}
    words, ratio = known.better, f"to {known.ratio:.2f} of the recorded order"
    kinds = {
        order.TURNED: (
            "lines_backwards",
            WRONG,
            f"turning every second line back makes neighbours more similar, {ratio}",
        ),
        order.LATE: ("lines_late", WRONG, f"{words}: moving them back makes neighbours more similar, {ratio}"),
        order.SHIFTED: ("frames_shifted", WRONG, f"{words}: the jump from line to line lies within the lines"),
        order.CIRCLE: ("frames_circular", WARNING, f"{words}: neighbours jump where the scan would start"),
        order.MOVED: ("frame_moved", WARNING, f"{words}: neighbours there are more similar"),
        order.BLOCK: ("block_backwards", WARNING, f"{words}: turned, it joins the frames before and after"),
        order.STALL: ("position_twice", WARNING, f"{words}, while the curve changes before and after"),
    }
    for pattern, (name, severity, text) in kinds.items():
        if words.startswith(pattern.partition("{")[0]) and words and not gone & {*known.frames[:1]}:
            some = known.frames if name in ("frame_moved", "block_backwards", "position_twice") else ()
            return [Finding(name, severity, text, some, numbers)]
    if known.state != "refuted" or words:
        return []
    text = f"neighbouring frames are not more similar than frames in a random order (score {known.score:.2g})"
    return [Finding("random_order", WRONG, text, (), numbers)]


def _lost(layer: Layer, frames: Frames, empty: tuple[int, ...]) -> list[Finding]:
    dark = tuple(k for k in faults.dark_frames(frames) if k not in empty) if layer.stepped else ()
    return [
        *_some("empty_frames", WRONG, empty, "all counts of the frame are equal"),
        *_some("no_beam", WRONG, dark, "no light between bright neighbours"),
    ]


def _saturated(layer: Layer, most: np.ndarray) -> list[Finding]:
    full, always = faults.saturated_frames(most, layer.saturation)
    text = f"counts reach the full well of {layer.saturation:.6g}"
    if always:
        text += f" (patches that are full in nearly all frames left out: {always})"
    return _some("saturated", WARNING, full, text, level=layer.saturation)


def _monitor(layer: Layer) -> list[Finding]:
    if layer.monitor is None:
        return []
    known = faults.monitor_faults(layer.monitor)
    return [
        *_some("monitor_bad", WARNING, known["bad"], "the monitor has no positive number"),
        *_some("monitor_trip", WRONG, known["trip"], f"the monitor is below {100 * faults.TRIP:g} % of its median"),
        *_some("monitor_jump", WARNING, known["jump"], f"the monitor jumps by more than {100 * faults.JUMP:g} %"),
    ]


def _ends(layer: Layer, frames: Frames) -> list[Finding]:
    found = []
    for k, name in enumerate(layer.axes):
        ends = ends_of(frames, k)
        if ends is None or ends.bracketed:
            continue
        text = (
            f"the scan over {name} does not bracket its curve: the light at its ends is {100 * ends.low:.0f} % and "
            f"{100 * ends.high:.0f} % of the peak ({100 * ends.raw:.0f} % with the detector offset), and "
            f"{100 * ends.cut:.0f} % of the light is in regions that exceed {100 * EDGE:.0f} % of their peak at an end"
        )
        if min(ends.low, ends.high) > EDGE > 2 * ends.middle:
            text += "; it is dark between, as frames that are shifted in a circle"
        numbers = {"low": ends.low, "high": ends.high, "raw": ends.raw, "cut": ends.cut}
        found.append(Finding("not_bracketed", WARNING, text, (), numbers))
    return found


def _missed(layer: Layer) -> list[Finding]:
    found = []
    for k, (name, positions) in enumerate(layer.axes.items()):
        if name not in layer.readback or len(positions) < 2:
            continue
        at = np.unravel_index(np.arange(int(np.prod(layer.grid))), layer.grid)[k]
        step = float(np.median(np.abs(np.diff(positions))))
        off = np.abs(np.asarray(layer.readback[name]).ravel() - positions[at]) / step
        far = np.flatnonzero(off > MISSED)
        if far.size:
            text = f"{name} was up to {np.nanmax(off):.2g} steps away from its position"
            found += _some("motor_missed", WARNING, far.tolist(), text, steps=float(np.nanmax(off)))
    return found


def _drift(frames: Frames) -> list[Finding]:
    """Light of a series over time that all patches gain or lose equally, from its first to its last tenth."""
    part = max(3, frames.count // 10)
    lit = (frames.light > faults.SURE * np.median(frames.error, axis=0) + 1.0).all(axis=0)
    if frames.count < 3 * part or lit.sum() < max(4, lit.size / 2):
        return []
    logs = np.log(frames.light[:, lit])
    change = np.median(logs[-part:], axis=0) - np.median(logs[:part], axis=0)
    shared, apart = float(np.median(change)), float(np.abs(change - np.median(change)).max())
    shares = np.median(logs, axis=1)
    error = float(np.hypot(shares[:part].std(), shares[-part:].std()) / np.sqrt(part))
    if abs(shared) < max(FADED, 2 * apart, faults.ROBUST * error):
        return []
    text = f"the light changes by {100 * np.expm1(shared):+.0f} % from the first to the last tenth of the series"
    return [Finding("light_drifts", WARNING, text, (), {"change": float(np.expm1(shared))})]
