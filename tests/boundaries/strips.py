"""Cells beside walls of dislocation lines with known truth: what a stack of weak-beam images shows of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Walled(NamedTuple):
    """Cells (cell, 8) beside one wall, and what is true of it."""

    cells: np.ndarray
    normal: np.ndarray
    origin: np.ndarray
    corner: np.ndarray
    line: np.ndarray
    spacing: np.ndarray


def frame(normal: np.ndarray) -> np.ndarray:
    """Unit vectors of a plane: along the trace in a layer, and up."""
    along = np.cross([0.0, 0, 1], normal)
    along /= np.linalg.norm(along)
    up = np.cross(normal, along)
    return np.stack([along, up * np.sign(up[2])])


def strip(
    seed: int,
    spacings: tuple = (4.0,),
    angles: tuple = (70.0,),
    *,
    normal: tuple | None = None,
    trace: float = 100.0,
    z: np.ndarray | None = None,
    jitter: float = 0.1,
    noise: float = 1.0,
    height: float = 2.0,
    sigma: float = 0.35,
    doubled: float = 0.0,
    unequal: float = 0.0,
    spread: float = 0.3,
    missing: tuple = (),
    lost: float = 0.0,
    gaps: tuple = (),
    lines: list | None = None,
) -> Walled:
    """Cells of 0.25 um within 0.9 um of a wall.

    ``angles`` (degree) of the lines are from the trace, towards up. Lines stand ``jitter`` spacings off an even grid
    and differ in height by ``spread``. Each shows at ``doubled`` spacings to either side of itself, in the one tail
    and in the other, there weaker by ``unequal``. Layers ``missing`` and a part ``lost`` of all cells are NaN, ``gaps``
    (low, high) of trace absent. ``lines`` gives places of the lines of each family instead.
    """
    rng = np.random.default_rng(seed)
    if normal is None:
        tilt, azimuth = rng.uniform(-0.5, 0.5), rng.uniform(0, 2 * np.pi)
        normal = np.array([np.cos(tilt) * np.cos(azimuth), np.cos(tilt) * np.sin(azimuth), np.sin(tilt)])
    normal = np.asarray(normal, float) / np.linalg.norm(normal)
    z = np.arange(16.0) if z is None else np.asarray(z, float)
    axes, origin = frame(normal), np.array([*rng.uniform(-20, 20, 2), z.mean()])
    rise = axes[1, 2]
    across_layer = np.cross([0.0, 0, 1], axes[0])
    t, d = np.meshgrid(np.arange(-trace / 2, trace / 2, 0.25) + 0.1, np.arange(-0.9, 0.9, 0.25) + 0.05)
    tails = np.zeros((2, len(z), t.size))
    high = np.ptp(z) / rise
    truth = []
    for k, (spacing, angle) in enumerate(zip(spacings, np.deg2rad(angles), strict=True)):
        truth.append(np.cos(angle) * axes[0] + np.sin(angle) * axes[1])
        reach = trace + high + 4 * spacing
        places = np.arange(-reach, reach, spacing) + rng.uniform(0, spacing)
        places = places + jitter * spacing * rng.normal(size=len(places)) if lines is None else np.asarray(lines[k])
        tall = height * np.abs(1 + spread * rng.normal(size=len(places)))
        images = [(0.0, 1.0)] if doubled == 0 else [(doubled * spacing, 1.0), (-doubled * spacing, 1.0 - unequal)]
        s = -np.sin(angle) * t.ravel() + np.cos(angle) * (z - origin[2])[:, None] / rise
        fine = np.arange(s.min() - 1, s.max() + 1, 0.05)
        for tail, (shift, part) in enumerate(images):
            profile = (tall * np.exp(-0.5 * ((fine[:, None] - places - shift) / sigma) ** 2)).sum(axis=1)
            tails[tail] += part * np.interp(s, fine, profile)
    if doubled == 0:
        tails = tails[[0, 0]] * np.array([0.6, 0.4])[:, None, None]
    tails *= np.exp(-0.5 * (d.ravel() / 0.6) ** 2)
    tails += noise * rng.normal(size=tails.shape) / np.sqrt(2)
    tails[:, rng.random(tails.shape[1:]) < lost] = np.nan
    tails[:, [int(m) for m in missing]] = np.nan
    signal = tails.sum(axis=0)
    rows = []
    for layer, level in enumerate(z):
        # Where the plane cuts this layer, the trace has moved aside.
        middle = origin + axes[1] * (level - origin[2]) / rise
        places = middle + t.ravel()[:, None] * axes[0] + d.ravel()[:, None] * across_layer
        other = np.zeros(t.size)
        images = signal[layer], *tails[:, layer]
        rows.append(np.column_stack([places, other, *images, np.full(t.size, 4.0)]))
    cells = np.concatenate(rows)
    for low, end in gaps:
        place = (cells[:, :3] - origin) @ axes[0]
        cells = cells[(place < low) | (place > end)]
    ring = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [trace / 2, high / 2 + 0.6]
    line = np.array(truth).reshape(-1, 3)
    return Walled(cells, normal, origin, origin + ring @ axes, line, np.asarray(spacings, float))
