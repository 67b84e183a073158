"""Scale of the frames of a scan: whether they need normalisation, by which quantity, and the detector offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.frames.statistics import PATCH_STATISTICS
from dfxm_dask.schema import EXPOSURE, MONITOR

UNEVEN = 1.5
"""Ratio of the largest to the smallest beam among the frames of a layer above which they need normalisation. The
current of a storage ring decays by a few per cent during a scan; an attenuator absorbs half the beam or more (our
choice)."""

BEAMS = (MONITOR.name, EXPOSURE.name)
PIXELS, SUM = (next(v for v in PATCH_STATISTICS if v.name == name) for name in ("patch_n", "patch_sum"))
SEEN = (MONITOR, EXPOSURE, PIXELS, SUM)
"""Variables that describe the brightness of frames without reading them."""

LAYERS = 16  # of a stack, evenly spread: brightness and offset are computed from these
FLOOR = 0.3  # counts of a patch mean below noise and drift of a camera
FOLLOWS, STRAYS = 0.7, 1.4  # ratio of roughness after to before division, by a beam that frames follow, or do not
SAME = 0.95  # rank correlation of a smooth counter with all light of the frames above which it measures that light
JUMPS = 3  # changes of direction beyond one peak, common to all patches, that a rocking curve does not have
MOST_OFFSET_ERROR = 10.0  # count
OFFSET_ERROR, BEYOND = 2.0, 0.1
"""Factors of the formal error, and of the distance of the offset below the darkest patch: the errors of ten simulated
offsets had an rms of 1.0 of both in quadrature, and did not exceed 2."""


Level = dict[int, np.ndarray]


@dataclass(frozen=True)
class Beam:
    """Monitor or exposure (z, frame), its largest ratio within a layer, and the number of unusable values."""

    name: str
    values: np.ndarray
    ratio: float
    bad: int


def settle_scale(
    parameters: Mapping[str, Any], seen: Mapping[str, np.ndarray], lengths: tuple[int, ...]
) -> tuple[dict[str, Any] | None, str]:
    """Parameters of ``normalise`` as numbers, from monitor, exposure and the stored brightness of the frames.

    Parameters
    ----------
    parameters : mapping
        ``by``, ``reference`` and ``offset`` as given.
    seen : mapping of str to array
        Variables of :data:`SEEN` that exist in the scan, z first, then the scan axes.
    lengths : tuple of int
        Numbers of positions along the scan axes.

    Returns
    -------
    parameters : dict or None
        None where frames are on one scale already.
    told : str
        Remark for the user; empty where there is nothing to report.

    Raises
    ------
    InputError
        Frames require normalisation, and monitor, exposure or offset do not allow it.

    Notes
    -----
    Frames are divided by a beam that varies by more than 1.5 times within a layer, if they follow it. The test uses the
    logarithm of the mean of every frame along the fastest scan axis: division by the true beam makes this rocking curve
    smoother (root mean square of its second differences, relative to its range); division by any other quantity makes
    it rougher. Where the test is not clear, the beam is trusted, unless it is a smooth curve that rises and falls with
    the total light of the frames: then the counter measures the diffracted beam, with or without diffuse light. If only
    whole layers differ from one another, counts remain unchanged, and a remark reports the difference.

    The reference, over all frames, is::

        reference = 1 / sqrt(mean(1 / beam²))

    The noise of a sum over the scan is then that of the recorded counts, on which the thresholds of later steps rely.
    The noise of single frames changes: it increases behind the strongest attenuator and decreases elsewhere.

    The offset is the value at zero beam extrapolated from frames in which the sample hardly diffracts
    (:func:`_at_no_beam`).
    """
    given = dict(parameters)
    if given["by"] != "auto" and given["reference"] is not None and given["offset"] is not None:
        return given, ""
    beams = [b for b in (_beam(n, seen) for n in BEAMS) if b is not None and given["by"] in ("auto", b.name)]
    level = patch_means(seen)
    if given["by"] == "auto":
        beam, told = _chosen(beams, level, lengths)
        if beam is None:
            return None, told
    elif beams:
        beam = beams[0]
    else:
        raise InputError(
            f"normalise by {given['by']}",
            f"the scan has no {given['by']}",
            "name its counter in the beamline configuration and ingest again, or set by='auto'",
        )
    if beam.bad:
        raise InputError(
            f"normalise by {beam.name}",
            f"{beam.bad} of {beam.values.size} frames have a {beam.name} that is not a positive number",
            "exclude these frames from the scan, or remove the step normalise from the recipe",
        )
    there = beam.values[np.isfinite(beam.values).any(axis=1)]
    usual = 1 / np.sqrt(float((1 / there**2).mean()))
    reference = given["reference"] if given["reference"] is not None else float(f"{usual:.6g}")
    offset, sigma = given["offset"], 0.0
    if offset is None:
        offset, sigma = _offset(beam, level)
    told = f"normalise scales the frames: within a layer the {beam.name} differs by up to a factor of "
    told += f"{beam.ratio:.3g}; reference {reference:.6g}, detector offset {offset:.5g}"
    told += (
        f" ± {sigma:.2g} counts from the dark parts of the frames" if given["offset"] is None else " counts as given"
    )
    return {**given, "by": beam.name, "reference": reference, "offset": offset}, told


def _beam(name: str, seen: Mapping[str, np.ndarray]) -> Beam | None:
    """Monitor or exposure of the frames, or None; a layer without any value is absent."""
    if name not in seen:
        return None
    values = np.asarray(seen[name], np.float64)
    values = values.reshape(len(values), -1)
    there = np.isfinite(values).any(axis=1)
    good = np.isfinite(values) & (values > 0)
    if not good.any():
        return None
    ratios = [float(v[g].max() / v[g].min()) for v, g in zip(values, good, strict=True) if g.any()]
    return Beam(name, values, max(ratios), int((~good[there]).sum()))


def patch_means(seen: Mapping[str, Any]) -> Level:
    """Mean counts of every patch (frame, patch) of layers evenly spread over the stack; empty without statistics."""
    if PIXELS.name not in seen or SUM.name not in seen:
        return {}
    count = seen[SUM.name].shape[0]
    means = {}
    for z in np.unique(np.linspace(0, count - 1, min(count, LAYERS)).astype(int)):
        pixels, total = (np.asarray(seen[n][int(z)], np.float64) for n in (PIXELS.name, SUM.name))
        if total.size and (pixels > 0).all():  # else the layer is absent
            means[int(z)] = (total / pixels).reshape(-1, int(np.prod(total.shape[-2:])))
    return means


def _chosen(beams: list[Beam], level: Level, lengths: tuple[int, ...]) -> tuple[Beam | None, str]:
    """The beam by which frames must be divided, or None with a remark."""
    varied = [beam for beam in beams if beam.ratio > UNEVEN]
    answers = {beam.name: _followed(beam, level, lengths) for beam in varied}
    jumps = _jumps(level, lengths)
    for wanted in (True, None) if jumps < JUMPS else (True,):
        for beam in varied:
            if answers[beam.name] is wanted:
                return beam, ""
    if jumps >= JUMPS:
        found = f"the frames of a layer become brighter and darker in all patches {jumps} times, as behind attenuators"
        known = [f"they do not follow the {b.name}" for b in varied] or [f"the {b.name} is constant" for b in beams]
        raise InputError(
            "normalise",
            f"{found}, and {' and '.join(known) or 'the scan has neither monitor nor exposure'}",
            "name the counter of the monitor in the beamline configuration and ingest again, or remove the step"
            " normalise from the recipe",
        )
    told = [f"within a layer the {b.name} differs by up to a factor of {b.ratio:.3g}" for b in varied]
    if told:
        return None, f"{' and '.join(told)}, but the frames do not follow; counts remain unchanged"
    return None, "; ".join(_between_layers(beam) for beam in beams if _between_layers(beam))


def _between_layers(beam: Beam) -> str:
    """Remark for beams that are constant within every layer but differ between layers."""
    usual = np.nanmedian(beam.values[np.isfinite(beam.values).any(axis=1)], axis=1)
    if beam.bad or usual.max() <= UNEVEN * usual.min():
        return ""
    return (
        f"the {beam.name} of layers differs by up to a factor of {usual.max() / usual.min():.3g}, so that maps in "
        f"counts are not comparable between layers; `normalise: {{by: {beam.name}, offset: COUNTS}}` scales them "
        "(COUNTS: counts of a frame without beam)"
    )


def _log_curves(means: np.ndarray, lengths: tuple[int, ...]) -> np.ndarray:
    """Logarithm of the mean of every frame of a layer above its darkest patch: (slow axes, fastest axis)."""
    dark = np.nanmin(means)
    light = np.nanmean(means, axis=1) - dark
    return np.log(np.maximum(light, max(FLOOR, 1e-4 * float(light.max())))).reshape(-1, lengths[-1])


def _shape(curves: np.ndarray) -> tuple[float, float, float]:
    """Median and root mean square of the second differences along the last axis, and the range of the curves."""
    bend = np.abs(np.diff(curves, 2, axis=-1))
    low, high = np.quantile(curves, (0.05, 0.95))
    return float(np.median(bend)) + 0.02, float(np.sqrt((bend**2).mean())) + 0.02, float(high - low) + 0.05


def _followed(beam: Beam, level: Level, lengths: tuple[int, ...]) -> bool | None:
    """Whether the frames follow a beam: True, False, or None where the curves do not decide."""
    if lengths[-1] < 3:
        return None
    answers = []
    for z, means in level.items():
        values = beam.values[z].reshape(-1, lengths[-1])
        good = np.isfinite(values) & (values > 0)
        if not good.any() or values[good].max() <= UNEVEN * values[good].min():
            continue
        curves = _log_curves(means, lengths)
        logs = np.log(np.where(good, values, values[good].min()))
        answers.append(False if _counts_light(curves, logs) else _answer(curves, curves - logs))
    follows, strays = answers.count(True), answers.count(False)
    return follows > strays if follows + strays else None


def _counts_light(curves: np.ndarray, logs: np.ndarray) -> bool:
    """Whether a counter measures the diffracted beam: a smooth curve that increases with the light of the frames."""
    from scipy.stats import spearmanr  # loading it takes a second and a half

    bend, _, height = _shape(logs)
    return bend < 0.15 * height and float(spearmanr(curves, logs, axis=None).statistic) > SAME


def _answer(before: np.ndarray, after: np.ndarray) -> bool | None:
    """Whether division by a beam yields rocking curves (True), spoils them (False), or does neither (None)."""
    was, now = _shape(before), _shape(after)
    if now[2] < 0.4 * was[2] and (was[0] < 0.15 * was[2] or was[1] < 0.4 * was[2]):
        return False  # a smooth curve has become flat: the beam is that of the sample, not the incident one
    if now[2] > 2 * was[2] and now[0] < 0.15 * now[2]:
        return True  # attenuators had flattened a smooth curve
    for k in (0, 1):  # the median responds to many changes, the mean square to a few
        change = now[k] / was[k]
        if change < FOLLOWS or change > STRAYS:
            return change < FOLLOWS
    return None


def _jumps(level: Level, lengths: tuple[int, ...]) -> int:
    """Number of changes from brighter to darker common to all patches, beyond the one peak of a rocking curve."""
    most = 0
    for means in level.values():
        light = means - means.min()
        rows = light.reshape(-1, lengths[-1], light.shape[1])
        count = 0
        for row in rows:
            seen = (row[1:] > 10 * FLOOR) & (row[:-1] > 10 * FLOOR)
            steps = np.where(seen, np.log(np.maximum(row[1:], FLOOR) / np.maximum(row[:-1], FLOOR)), np.nan)
            signs = [np.sign(np.median(s)) for s in (s[np.isfinite(s)] for s in steps) if _alike(s, light.shape[1])]
            count += max(0, int((np.diff(signs) != 0).sum()) - 1)
        most = max(most, count)
    return most


def _alike(steps: np.ndarray, patches: int) -> bool:
    """Whether more than half of the patches step by the same large factor from one frame to the next."""
    if steps.size <= max(patches / 2, 3):  # a few patches may all belong to one part of the sample
        return False
    middle = float(np.median(steps))
    return abs(middle) > np.log(UNEVEN) and float(np.median(np.abs(steps - middle))) < 0.25 * abs(middle)


def _offset(beam: Beam, level: Level) -> tuple[float, float]:
    """Detector offset and its standard error, counts.

    Raises
    ------
    InputError
        The frames do not determine the offset, or not well enough.
    """
    remedy = "set it: normalise: {offset: COUNTS}, the counts of a frame without beam"
    if not level:
        raise InputError("normalise without a detector offset", "the scan has no statistics of patches", remedy)
    found = [_at_no_beam(beam.values[z] / np.max(beam.values[z]), means) for z, means in level.items()]
    values = np.array(found)
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        raise InputError(
            "normalise without a detector offset",
            "too few frames without diffraction differ in beam to determine it",
            remedy,
        )
    least = min(float(means.min()) for means in level.values())
    middle = float(np.median(known[:, 0]))
    sigma = OFFSET_ERROR * float(np.median(known[:, 1])) / np.sqrt(len(known))
    if sigma > MOST_OFFSET_ERROR or middle > least + MOST_OFFSET_ERROR:
        raise InputError(
            "normalise without a detector offset",
            f"the dark parts of the frames yield {middle:.4g} ± {sigma:.2g} counts (darkest: {least:.5g})",
            remedy,
        )
    return float(f"{min(middle, least):.5g}"), float(np.hypot(sigma, BEYOND * (least - middle)))


def _at_no_beam(scale: np.ndarray, means: np.ndarray) -> tuple[float, float]:
    """Counts of a layer at zero beam, and their standard error, from means of its patches (frame, patch).

    In frames in which the sample hardly diffracts, scattered light is proportional to the beam: a straight line for
    every patch. These frames have the least light relative to their beam; frames and offset are refined in turn.
    """
    bright = means.mean(axis=1)
    offset, error = float(means.min()), float("inf")
    for _ in range(20):
        light = (bright - offset) / scale
        quiet = light <= 1.06 * np.quantile(light, 0.2) + FLOOR / scale
        if quiet.sum() < 4 or scale[quiet].max() < UNEVEN * scale[quiet].min():
            return _below_darkest(scale, means.min(axis=1))
        design = np.stack([np.ones(quiet.sum()), scale[quiet]], axis=1)
        above = bright[quiet] - bright[quiet].min()
        weight = (1 / (0.1 + 0.02 * above))[:, None]  # noise of the counts, and error of the monitor
        covariance = np.linalg.pinv((design * weight).T @ (design * weight))
        lines = covariance @ (design * weight).T @ (means[quiet] * weight)
        left = (means[quiet] - design @ lines) * weight
        before, offset = offset, float(np.median(lines[0]))
        error = float(np.sqrt(covariance[0, 0] * max(0.1, np.median((left**2).sum(axis=0)) / max(1, len(design) - 2))))
        if abs(offset - before) < 0.01:
            break
    return offset, error


def _below_darkest(scale: np.ndarray, darkest: np.ndarray) -> tuple[float, float]:
    """Counts at zero beam from the darkest patch of frames of least and of most beam, if all quiet frames share a beam.

    The offset then hardly matters: scaling affects the bright frames. NaN if all frames share a beam.
    """
    low, high = scale < UNEVEN * scale.min(), scale * UNEVEN > scale.max()
    least, most = float(darkest[low].min()), float(darkest[high].min())
    apart = scale[high].mean() - scale[low].mean()
    if apart <= 0:
        return np.nan, np.nan
    step = (most - least) / apart
    offset = least - float(scale[low].mean()) * max(step, 0.0)
    return offset, max(1.0, abs(least - offset)) / OFFSET_ERROR
