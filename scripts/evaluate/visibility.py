"""Visibility of dislocations along the axes of a scan, against contrast in simulated images without noise.

``python scripts/evaluate/visibility.py`` renders all 12 slip systems of fcc at several angles between line and Burgers
vector, in scans of one axis each. The contrast of an image is the rms deviation of the centre of mass from the perfect
crystal, over the standard deviation of its curve, in pixels 0.6 to 1.4 um from the line
and within 3 um of its point in the layer; the table shows its rank
correlation with ``visibility``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr

from dfxm_dask.identify.catalogue import Candidates, catalogue
from dfxm_dask.identify.visibility import AXES, visibility
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import image_stack
from dfxm_dask.optics.geometry import effective_pixel, orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import Microscope, find_microscope

CELL, POISSON = 4.0495e-4, 0.334
RING, EXTENT = (0.6, 1.4), 3.0  # um


def contrast(scope: Microscope, burgers: np.ndarray, line: np.ndarray, axis: str, steps: np.ndarray) -> float:
    """rms deviation of the centre of mass near a line over the standard deviation of the curve of the crystal."""
    py, px = effective_pixel(scope.pixel, scope.theta)
    y, x = (np.arange(-n, n + 1) * step for n, step in ((76, py), (26, px)))
    positions = {axis: steps}
    table = lines([0.011, 0.007, 0], burgers, line, 1e-3)
    images = image_stack(Scene(POISSON, lines=table), scope, positions, y, x).astype(float)
    perfect = image_stack(Scene(POISSON), scope, positions, np.zeros(1), np.zeros(1))[:, 0, 0].astype(float)
    gx, gy = np.meshgrid(x - 0.011, y - 0.007)
    points = np.stack([gx, gy, 0 * gx], -1)
    away = np.linalg.norm(np.cross(points, line), axis=-1)
    ring = (away > RING[0]) & (away < RING[1]) & (np.hypot(gx, gy) < EXTENT)
    curves = images[:, ring]
    mean = perfect @ steps / perfect.sum()
    width = np.sqrt(perfect @ (steps - mean) ** 2 / perfect.sum())
    centre = np.tensordot(steps, curves, 1) / np.maximum(curves.sum(0), 1e-30)
    weight = 1 / away[ring]  # every distance counts equally
    return float(np.sqrt((weight * (centre - mean) ** 2).sum() / weight.sum()) / width)


def curve_width(scope: Microscope, axis: str) -> float:
    """Standard deviation of the curve of the perfect crystal, rad."""
    steps = np.linspace(-0.02, 0.02, 4001)
    curve = image_stack(Scene(POISSON), scope, {axis: steps}, np.zeros(1), np.zeros(1))[:, 0, 0].astype(float)
    return float(np.sqrt(curve @ steps**2 / curve.sum()))


def main() -> None:
    scope = replace(find_microscope("id06_al111"), sheet=0.2 / 2.355)
    some = catalogue(angles=12)
    some = some.take(np.flatnonzero(np.isin(np.round(some.angle), (0, 30, 60, 90, 120, 150))))
    print(f"{len(some.angle)} dislocations")
    print("| reflection | turn | axis | rank correlation | screws with g·b = 0: visibility, contrast |")
    for hkl, turn in (((-1, 1, -1), 0.7), ((-1, 1, -1), 1.9), ((0, 0, 2), 0.3)):
        grain = rotation_y(-scope.theta) @ rotation_z(turn) @ orientation(hkl)
        seen = visibility(some, hkl, scope, parameter=CELL, poisson=POISSON, radius=0.9, extent=EXTENT, turn=turn)
        turned = Candidates(CELL * some.burgers @ grain.T, some.line @ grain.T, some.plane_normal @ grain.T, some.angle)
        dark = (np.abs(some.burgers @ hkl) < 1e-9) & (np.linalg.norm(np.cross(some.burgers, some.line), axis=1) < 1e-9)
        for n, axis in enumerate(AXES):
            steps = np.linspace(-5, 5, 25) * curve_width(scope, axis)
            found = np.array(
                [contrast(scope, b, t, axis, steps) for b, t in zip(turned.burgers, turned.line, strict=True)]
            )
            rank = spearmanr(seen.visibility[:, n], found).statistic
            hidden = f"{seen.visibility[dark, n].max():.1e}, {found[dark].max():.1e}"
            print(f"| {hkl} | {turn} | {axis} | {rank:.3f} | {hidden} |", flush=True)


if __name__ == "__main__":
    main()
