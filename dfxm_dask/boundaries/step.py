"""Position of a boundary from the step of the lattice: a step surface fitted to centres of mass in a strip.

Weak-beam images are displaced from a wall by up to 0.5 um, to a side that depends on the sign of the jump; the step of
the centre of mass of the rocking curve lies on the wall.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import erf

from dfxm_dask.boundaries.planes.plane import canonical, in_plane
from dfxm_dask.boundaries.planes.stripes import cluster_covariance
from dfxm_dask.boundaries.strip_cells import BIN, STRIP, Strip, binned, closed, strip_of, trace_frame

PASSES, STEPS = 4, 6
HUBER = 1.5  # standard deviations
WIDTHS = (0.08, 2.5)  # um
MOST_CELLS = 100_000
STRIPE = 5.0  # um: stripes of the plane that count as one observation (as in the specification)
SAME_SIGN, SURE, WIDEST, TURNED = 0.8, 6.0, 1.5, 20.0
FLOOR, SHARP = 0.05, 0.5
"""Fraction of the width of the step by which single lines and dynamical diffraction may shift it in one stripe; smaller
for steps sharper than 0.5 um (set on simulated walls)."""
JUMP_FLOOR = 0.07
"""Fraction by which the jump may differ from b/D (al002, seeds 7304 and 7305, three strong beams: 0.05 to 0.18)."""
SHORT = 13.0
"""um of trace in a layer: errors of shorter steps increase with the square of the deficit, because half planes of two
or three lines bend at their ends (set on simulated walls)."""
PLACE_FLOOR = 0.03
"""Least error of the position of the whole plane, as a fraction of the width of the step (set on simulated walls)."""
BENT = 4.0, 0.5  # standard errors and um of sagitta above which a boundary is curved (our choice)
FREE = 4  # parameters of the surface: position, two slopes, logarithm of the width
REASONS = (
    (1, "too_few_layers"),
    (2, "no_step"),
    (4, "turned"),
    (8, "overtone"),
    (16, "end_of_range"),
    (32, "aliased"),
    (64, "weak_beam_place"),
    (128, "curved"),
    (256, "faint_step"),
    (512, "wide_step"),
)
FLAG = {name: bit for bit, name in REASONS}


class StepFit(NamedTuple):
    """A step surface.

    Attributes
    ----------
    normal, origin : array (xyz,), float64
        Unit vector, and the middle of the part of the plane that has the step, um.
    covariance : array (3, 3), float64
        Covariance of the rotations towards the two directions of ``in_plane(normal)`` (rad) and of the position along
        the normal (um).
    jump, jump_error : array (channel,), float64
        + side minus - side of ``normal``.
    width : float, um
        Standard deviation of the Gaussian that broadens the sharp step.
    certainty, same_sign : float
        Jump over its scatter between layers; fraction of the trace with the sign of the jump.
    curved : bool
    flags : int
        Sum of reasons why the fit does not locate the boundary; 0 if it does.
    region : array (bin, 2), float64
        Position along the trace, from the origin, and z (um) of the used parts of the trace.
    """

    normal: np.ndarray
    origin: np.ndarray
    covariance: np.ndarray
    jump: np.ndarray
    jump_error: np.ndarray
    width: float
    certainty: float
    same_sign: float
    curved: bool
    flags: int
    region: np.ndarray


def _demeaned(columns: np.ndarray, group: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Columns minus their weighted mean in every bin."""
    total = np.maximum(np.bincount(group, weight, count), 1e-12)
    means = np.stack([np.bincount(group, weight * c, count) / total for c in columns.T], axis=1)
    return np.asarray(columns - means[group])


def _columns(strip: Strip, surface: np.ndarray, size: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear columns (slope, step, both along t and h, others), and derivatives of the step by position and width."""
    t, h = strip.t / size[0], strip.h / size[1]
    width = np.exp(surface[3])
    u = (strip.s - surface[0] - surface[1] * t - surface[2] * h) / width
    step = 0.5 * erf(u / np.sqrt(2))
    bell = np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
    linear = np.column_stack([strip.s, strip.s * t, strip.s * h, step, step * t, step * h, strip.others])
    return linear, -bell / width, -bell * u


def _least_squares(columns: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted least squares with scaled columns."""
    scale = np.sqrt((weight[:, None] * columns**2).sum(axis=0)) + 1e-300
    matrix = (columns * (weight[:, None] / scale)).T @ columns / scale
    right = (columns * (weight[:, None] / scale)).T @ values
    return np.asarray(np.linalg.solve(matrix + 1e-9 * np.eye(len(matrix)), right) / scale)


def _solved(strip: Strip, surface: np.ndarray, size: tuple[float, float], bent: bool = False) -> tuple[np.ndarray, ...]:
    """One Gauss-Newton step: parameters, inverse of the normal matrix, and scores (cell, parameter).

    The first parameters are changes of the surface (and three of its curvature, with ``bent``), followed by the linear
    ones of every channel; the fourth is the jump.
    """
    group = np.unique(strip.bin, return_inverse=True)[1].reshape(-1)
    count = int(group.max()) + 1
    t, h = strip.t / size[0], strip.h / size[1]
    linear, by_position, by_width = _columns(strip, surface, size)
    shape = [np.ones_like(t), t, h] + ([t * t, h * h, t * h] if bent else [])
    free = FREE + (3 if bent else 0)
    channels = strip.values.shape[1]
    count_linear = linear.shape[1]
    total = free + count_linear * channels
    matrix, right, parts = np.zeros((total, total)), np.zeros(total), []
    for c in range(channels):
        value = strip.values[:, c]
        weight = strip.weight.copy()
        for _ in range(2):
            flat = _demeaned(np.column_stack([linear, value]), group, weight, count)
            solved = _least_squares(flat[:, :-1], flat[:, -1], weight)
            left = flat[:, -1] - flat[:, :-1] @ solved
            spread = 1.4826 * np.median(np.abs(left)) + 1e-9 * np.abs(value).max() + 1e-100
            weight = strip.weight * np.minimum(1.0, HUBER * spread / np.maximum(np.abs(left), 1e-300))
        jump = solved[3] + solved[4] * t + solved[5] * h
        moving = np.column_stack(
            [
                *(jump * by_position * one for one in shape[:3]),
                jump * by_width,
                *(jump * by_position * one for one in shape[3:]),
            ]
        )
        flat = _demeaned(np.column_stack([moving, linear, value]), group, weight, count)
        solved = _least_squares(flat[:, free:-1], flat[:, -1], weight)
        left = flat[:, -1] - flat[:, free:-1] @ solved
        index = np.r_[np.arange(free), free + count_linear * c + np.arange(count_linear)]
        scaled = flat[:, :-1] * (weight / spread**2)[:, None]
        matrix[np.ix_(index, index)] += scaled.T @ flat[:, :-1]
        right[index] += scaled.T @ left
        parts.append((index, scaled, left, flat[:, :-1], solved))
    inverse = np.linalg.pinv(matrix + np.diag(1e-9 * np.diag(matrix) + 1e-300))
    change = inverse @ right
    scores = np.zeros((len(t), total))
    for index, scaled, left, flat, _ in parts:
        scores[:, index] += scaled * (left - flat @ change[index])[:, None]
    numbers = change.copy()
    for index, *_, solved in parts:
        numbers[index[free:]] += solved
    return numbers, inverse, scores


def _layer_jumps(strip: Strip, surface: np.ndarray, size: tuple[float, float], layers: int) -> tuple[np.ndarray, ...]:
    """Jump (layer, channel) of every single layer, and the length of its trace (layer,), um."""
    linear, *_ = _columns(strip, surface, size)
    jumps, trace = np.full((layers, strip.values.shape[1]), np.nan), np.zeros(layers)
    layer = strip.bin % layers
    for n in np.unique(layer):
        mine = layer == n
        group = np.unique(strip.bin[mine], return_inverse=True)[1].reshape(-1)
        trace[n] = BIN * (group.max() + 1)
        flat = _demeaned(
            np.column_stack([linear[mine][:, [0, 3]], strip.others[mine], strip.values[mine]]),
            group,
            strip.weight[mine],
            group.max() + 1,
        )
        if len(flat) > 20:
            own = 2 + strip.others.shape[1]
            jumps[n] = np.linalg.lstsq(flat[:, :own], flat[:, own:], rcond=None)[0][1]
    return jumps, trace


def _grown(
    strip: Strip, width: float, jump: np.ndarray, spread: np.ndarray, region: np.ndarray, grow: bool
) -> np.ndarray:
    """The region without bins that have no step, and, with ``grow``, with neighbouring bins into which it continues."""
    layers = region.shape[1]
    c = int(np.argmax(np.abs(jump) / spread))
    count = region.size
    sides = []
    for sign in (1, -1):
        mine = strip.s * sign > min(1.0, 0.5 + 0.5 * width)
        total = np.bincount(strip.bin[mine], minlength=count)
        mean = np.bincount(strip.bin[mine], strip.values[mine, c], count) / np.maximum(total, 1)
        sides.append(np.where(total >= 8, mean, np.nan))
    local = ((sides[0] - sides[1]) / jump[c]).reshape(-1, layers)
    # Steps of single bins are noisy: average over a bin and its neighbours in height.
    finite = np.isfinite(local)
    mean = ndimage.uniform_filter(np.where(finite, local, 0.0), (1, 3), mode="constant")
    mean /= np.maximum(ndimage.uniform_filter(finite.astype(float), (1, 3), mode="constant"), 1e-9)
    kept = region & ~(finite & (mean < 0.15))
    if not grow:
        return kept
    return np.asarray(ndimage.binary_propagation(kept, mask=kept | (finite & (mean > 0.5))))


def fit_step(
    positions: np.ndarray,
    values: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
    own: np.ndarray,
    *,
    barred: np.ndarray | None = None,
    others: np.ndarray | None = None,
    grow: bool = False,
) -> StepFit | None:
    """Fit one step surface to the strip along a plane.

    Parameters
    ----------
    positions : array (cell, xyz), float64, um
    values : array (cell, channel), float64
        Centre of mass along one or two axes, in the units of the axes; NaN where unknown.
    normal, origin : array (xyz,)
        Normal and origin of the initial plane.
    own : array (point, xyz), um
        Points of the plane, which determine the initial extent of the step.
    barred : array (cell,), bool, optional
        Cells disturbed by another boundary.
    others : array (cell, boundary), optional
        Steps of other boundaries, of any height.
    grow : bool
        Extend the region along the trace as far as the step continues.

    Returns
    -------
    StepFit or None
        None if the strip has too few cells.

    Notes
    -----
    In every bin of 2 um of trace and every layer the ground level is free; the slope across the trace and the jump vary
    linearly along the trace and with height::

        value = ground + slope · s + J(t, z) / 2 · erf((s − a(t, z)) / (w √2)),  a linear in t and z

    The fit uses Gauss-Newton steps with Huber weights; the strip follows the plane in four passes. All channels share
    the surface.
    """
    normal = canonical(np.asarray(normal, np.float64))
    start, origin = normal, np.asarray(origin, np.float64)
    if np.hypot(normal[0], normal[1]) < 0.1 or len(own) < 3 or not len(positions):
        return None
    channels = [c for c in range(values.shape[1]) if np.isfinite(values[:, c]).mean() > 0.5]
    usable = np.isfinite(values[:, channels]).all(axis=1) if channels else np.zeros(len(values), bool)
    if barred is not None:
        usable = usable & ~barred
    near = np.abs((positions - origin) @ trace_frame(normal)[0]) < 5 * STRIP
    usable &= near
    if np.count_nonzero(usable) < 200:
        return None
    positions, values = positions[usable], values[np.ix_(usable, channels)]
    others = np.zeros((len(positions), 0)) if others is None else others[usable]
    levels = np.unique(positions[:, 2])
    seeds, surface = own, np.array([0.0, 0.0, 0.0, np.log(0.6)])
    for turn in range(PASSES):
        bins = binned(seeds, normal, origin, levels)
        all_bins = binned(positions, normal, origin, levels)[:, 0]
        first, last = int(min(all_bins.min(), bins[:, 0].min())), int(max(all_bins.max(), bins[:, 0].max()))
        region = closed(bins, len(levels), first, last)
        strip = strip_of(positions, values, normal, origin, levels, region, first, others)
        if len(strip.s) > MOST_CELLS:
            strip = Strip(*(a[:: len(strip.s) // MOST_CELLS + 1] for a in strip))
        if len(strip.s) < 60 or np.ptp(strip.t) < 2 or min((strip.s > 0.5).sum(), (strip.s < -0.5).sum()) < 20:
            return None
        size = float(np.ptp(strip.t)) / 2, max(float(np.ptp(strip.h)) / 2, 0.5)
        for _ in range(STEPS):
            numbers, *_ = _solved(strip, surface, size)
            change = np.clip(numbers[:FREE], -0.6, 0.6)
            surface = surface + change
            surface[3] = np.clip(surface[3], *np.log(WIDTHS))
            if np.abs(change[:3]).max() < (1e-2 if turn < PASSES - 1 else 1e-3):
                break
        if not np.isfinite(surface).all() or np.abs(surface[:3]).sum() > 4 * STRIP:
            return None
        numbers, inverse, scores = _solved(strip, surface, size)
        jump = numbers[FREE + 3 :: 6 + others.shape[1]]
        if turn < PASSES - 1:
            # Move the plane to the middle of the used region; the next pass begins there.
            wide = strip_of(positions, values, normal, origin, levels, np.ones_like(region), first, others)
            shifted = wide._replace(
                s=wide.s - surface[0] - surface[1] * wide.t / size[0] - surface[2] * wide.h / size[1]
            )
            spread = np.array([np.median(np.abs(v - np.median(v))) + 1e-12 for v in strip.values.T])
            region = _grown(shifted, float(np.exp(surface[3])), jump, spread, region, grow)
            if np.count_nonzero(region) < 3:
                return None
            normal, origin, seeds = _moved(normal, origin, surface, size, region, first, levels, strip)
            surface = np.array([0.0, 0.0, 0.0, surface[3]])
    return _judged(start, normal, origin, strip, surface, size, (numbers, inverse, scores), len(levels), levels)


def _moved(
    normal: np.ndarray,
    origin: np.ndarray,
    surface: np.ndarray,
    size: tuple[float, float],
    region: np.ndarray,
    first: int,
    levels: np.ndarray,
    strip: Strip,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plane of a surface, its origin at the middle of the strip, and positions that represent the region."""
    across, along = trace_frame(normal)
    slope_t, slope_h = surface[1] / size[0], surface[2] / size[1]
    turned = across - slope_t * along
    turned[2] -= slope_h
    row, layer = np.nonzero(region)
    t, z = (row + first + 0.5) * BIN, levels[layer]
    shift = surface[0] + slope_t * t + slope_h * (z - origin[2])
    flat = np.array([across[0], across[1], 0.0])
    # A point of the old plane at trace t and height z, moved across by the surface.
    positions = origin + t[:, None] * along + (shift - across[2] * (z - origin[2]))[:, None] * flat
    positions[:, 2] = z
    t0, h0 = float(np.mean(strip.t)), float(np.mean(strip.h))
    moved = surface[0] + slope_t * t0 + slope_h * h0 - across[2] * h0
    middle = origin + t0 * along + moved * flat + np.array([0.0, 0.0, h0])
    return canonical(turned / np.linalg.norm(turned)), middle, positions


def _judged(
    start: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
    strip: Strip,
    surface: np.ndarray,
    size: tuple[float, float],
    solved: tuple[np.ndarray, ...],
    layers: int,
    levels: np.ndarray,
) -> StepFit:
    """The fit with its errors, and reasons to reject it."""
    numbers, inverse, scores = solved
    covariance = cluster_covariance(scores, inverse, strip.t, strip.h, STRIPE)
    jumps, trace = _layer_jumps(strip, surface, size, layers)
    jumps_at = slice(FREE + 3, None, 6 + strip.others.shape[1])
    jump = numbers[jumps_at].copy()
    error = np.sqrt(np.diag(covariance)[jumps_at])
    c = int(np.argmax(np.abs(jump) / np.maximum(error, 1e-300)))
    valid = np.isfinite(jumps[:, c]) & (trace > 0)
    part = trace[valid] / max(trace[valid].sum(), 1e-9)
    same = float(part[jumps[valid, c] * jump[c] > 0].sum())
    mean = float((part * jumps[valid, c]).sum()) if valid.any() else 0.0
    scatter = np.sqrt((part**2 * (jumps[valid, c] - mean) ** 2).sum() * valid.sum() / max(valid.sum() - 1, 1))
    plain = np.sqrt(np.diag(cluster_covariance(scores, inverse, strip.t, strip.h, STRIPE, few=False))[jumps_at])
    certainty = abs(mean) / max(float(scatter), float(plain[c]), 1e-300)
    # Lines nearby bend the lattice on both sides along the whole trace, which the clusters do not include.
    stated = np.hypot(error, JUMP_FLOOR * jump)
    width = float(np.exp(surface[3]))
    bent, bent_inverse, bent_scores = _solved(strip, surface, size, bent=True)
    sagitta = bent[FREE : FREE + 3]
    sagitta_error = np.sqrt(
        np.diag(cluster_covariance(bent_scores, bent_inverse, strip.t, strip.h, STRIPE))[FREE : FREE + 3]
    )
    curved = bool((np.abs(sagitta) > np.maximum(BENT[0] * sagitta_error, BENT[1])).any())
    if curved:  # the plane is a facet: its normal is that of the boundary within the slope of the bend
        covariance[1, 1] += sagitta[0] ** 2 + sagitta[2] ** 2
        covariance[2, 2] += sagitta[1] ** 2 + sagitta[2] ** 2
    region = np.unique(np.column_stack([np.floor(strip.t / BIN) * BIN + BIN / 2, strip.h]), axis=0)
    across, along = trace_frame(normal)
    slopes = surface[1] / size[0], surface[2] / size[1]
    turned = across - slopes[0] * along
    turned[2] -= slopes[1]
    length = float(np.linalg.norm(turned))
    new = turned / length
    sign = float(np.sign(new @ canonical(new)))
    # Convert changes of (position, slope_t, slope_h) to rotations towards two directions in the plane and a shift.
    axes = in_plane(sign * new)
    by = np.zeros((3, 3))
    by[0:2, 1] = axes @ (-along) / size[0] / length
    by[0:2, 2] = axes @ np.array([0.0, 0.0, -1.0]) / size[1] / length
    by[:2] *= sign
    by[2, 0] = sign / length
    spread = by @ covariance[:3, :3] @ by.T
    floor = FLOOR * min(width, 1.0) * min(width / SHARP, 1.0)
    flat = np.column_stack([strip.t, strip.h / max(np.hypot(new[0], new[1]), 0.1)])
    tilt = np.array([floor / (0.29 * max(np.ptp(f), 1.0) * np.sqrt(max(np.ptp(f) / STRIPE, 1.0))) for f in flat.T])
    along_axes = axes @ np.column_stack([along, np.cross(new, along)])
    spread[:2, :2] += along_axes @ np.diag(tilt**2) @ along_axes.T
    spread[2, 2] += (PLACE_FLOOR * width) ** 2
    trace_here = BIN * len(region) / len(np.unique(region[:, 1]))
    spread *= max(SHORT / trace_here, 1.0) ** 4
    turn = float(np.rad2deg(np.arccos(min(1.0, abs(float(new @ start))))))
    flags = 0
    if same < SAME_SIGN or certainty < SURE or width > WIDEST:
        flags |= FLAG["no_step"]
    if turn > TURNED:
        flags |= FLAG["turned"]
    if valid.sum() < 3:
        flags |= FLAG["too_few_layers"]
    # surface[0] is the shift at the origin along the layer
    position = origin + surface[0] * np.array([across[0], across[1], 0.0])
    return StepFit(
        sign * new,
        position,
        spread,
        sign * jump,
        stated,
        width,
        certainty,
        same,
        curved,
        flags,
        region,
    )
