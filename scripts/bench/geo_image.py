"""Runs in an environment with dfxm-geo 3.0.0: nanoseconds a ray of one edge dislocation, field and analytic image.

One core. The ray grid is that package's default, 170 x 510 x 17 rays: of its square fields with one ray a pixel the
nearest to 512 x 400 x 7. ``field`` is ``Find_Hg_from_population``, the displacement gradient of all rays; ``image`` is
``forward`` from that field. A scan shares the projection on the reflection between its frames: a line before the last
gives the parts of ``image``, ``precompute_forward_static`` (once a scan) and ``forward_from_static`` (each frame).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

HKL = (-1, 1, -1)
ENERGY = 17.0
"""keV"""
SLIP = ((1, -1, 0), (1, 1, 1), (1, 1, -2))
"""Burgers vector, plane normal and line of the edge dislocation: those of the default configuration of dfxm-geo."""
PHI = 1.2e-4
NEAR = 2.5e-6
"""Half width in m of the field about the dislocation that is checked."""


def setting() -> tuple[Any, Any]:
    """Context of the forward model with the analytic resolution, and the population of one dislocation."""
    from dfxm_geo.config import CenteredCrystalConfig, CrystalConfig, ReciprocalConfig
    from dfxm_geo.direct_space import forward_model as geo

    reflection = ReciprocalConfig(hkl=HKL, keV=ENERGY, backend="analytic", beamstop=False)
    resolution = geo._load_analytic_resolution(reflection)  # as its pipeline does for this backend
    context = geo.build_forward_context(resolution.analytic_eval.theta, resolution, HKL)
    crystal = CrystalConfig(mode="centered", centered=CenteredCrystalConfig(*SLIP))
    return context, geo.build_dislocation_population(crystal, 0.0, None)


def check(context: Any, image: Any) -> None:
    """Raise unless an image at phi = 1e-4 rad is the one expected: mean acceptance near .85, and contrast of a core."""
    import numpy as np

    if context.resolution.analytic_eval is None or context.resolution.Resq_i is not None:
        raise RuntimeError("the resolution is not the analytic one")
    grid, box = context.geometry, context.instrument
    rows, columns = image.shape
    x, y, _ = grid.rl.reshape(3, box.NN1, box.NN2, box.NN3)[:, :, :, 0]
    near = image[np.ix_(np.abs(y[0]) < NEAR, np.abs(x[:, 0]) < NEAR)]
    found = f"{rows} x {columns} pixels, mean {near.mean():.4f}, from {image.min():.4f} to {image.max():.4f}"
    if not (0.845 < near.mean() < 0.8585 and image.min() < 0.1 and image.max() > 0.95):
        raise RuntimeError(f"not the image of an edge dislocation on the flank: {found}")
    print("at phi = 1e-4 rad:", found)


def shortest(call: Callable[[], Any], repeats: int, rays: int) -> float:
    """Nanoseconds a ray, the minimum of ``repeats`` calls after one that does not count (it compiles)."""
    call()
    spent = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return 1e9 * min(spent) / rays


def main(repeats: int) -> None:
    """Check the image, then measure and print."""
    os.environ.update(NUMBA_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    from importlib.metadata import version  # what is imported from here on runs on one core

    from dfxm_geo.direct_space import forward_model as geo

    context, population = setting()
    field, _ = geo.Find_Hg_from_population(population, *HKL, ctx=context)
    check(context, geo.forward(field, context, phi=1e-4))
    base, rays = geo.precompute_forward_static(field, context), len(field)
    times = {
        "field": shortest(lambda: geo.Find_Hg_from_population(population, *HKL, ctx=context), repeats, rays),
        "image": shortest(lambda: geo.forward(field, context, phi=PHI), repeats, rays),
    }
    once = shortest(lambda: geo.precompute_forward_static(field, context), repeats, rays)
    frame = shortest(lambda: geo.forward_from_static(base, context, phi=PHI), repeats, rays)
    print(f"of the image: {once:.1f} ns a ray once a scan, {frame:.1f} ns a ray each frame")
    print(json.dumps({"version": version("dfxm-geo"), **times, "rays": rays}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
