"""Figures of the simulator: rays, layers with truth, Takagi–Taupin nodes, and the same image by dfxm-geo."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.limits import high_water
from bench.timing import Row, at_least, at_most, pinned

RAYS = (512, 400, 7)  # rows, columns, heights of the sheet
HARD = {"layers": 16, "shape": (512, 512), "seed": 0}
QUICK_HARD = {"layers": 4, "shape": (96, 96), "seed": 0}
GEO = Path(__file__).with_name("geo_image.py")


@dataclass(frozen=True)
class Work:
    """Where to work, and how."""

    folder: Path
    quick: bool
    repeats: int
    geo_python: str | None


def rays(repeats: int) -> dict[str, float]:
    """Nanoseconds a ray for the field of one edge dislocation and for one image on the flank; runs in a process."""
    from dfxm_dask.optics.defects.dislocation import lines
    from dfxm_dask.optics.defects.scene import Scene
    from dfxm_dask.optics.forward import seen, setting, sheet_deviation, sheet_nodes
    from dfxm_dask.optics.frame_image import accepted_by, frame_image
    from dfxm_dask.optics.instrument.microscope import MICROSCOPES

    scope = MICROSCOPES["id06_al111"]
    made = lines(np.array([[25.0, 10, 0]]), np.array([[2.86e-4, 0, 0]]), np.array([[0, 0.6, 0.8]]), np.array([1e-3]))
    scene, at = Scene(0.334, lines=made), setting(scope.theta)
    y, x = np.arange(RAYS[0]) * 0.04, np.arange(RAYS[1]) * 0.1235
    height, weight = sheet_nodes(scope, RAYS[2])
    matrix, shift = seen(at, {"phi": 1.2e-4})
    accepts = accepted_by(scope)
    times: dict[str, list[float]] = {"field": [], "image": []}
    for _ in range(repeats + 1):  # the first one compiles
        begun = time.perf_counter()
        q = sheet_deviation(scene, at, y, x, 0.0, height)
        middle = time.perf_counter()
        frame_image(q, weight, matrix, shift, accepts)
        times["field"].append(middle - begun)
        times["image"].append(time.perf_counter() - middle)
    count = float(np.prod(RAYS))
    return {name: 1e9 * min(found[1:]) / count for name, found in times.items()}


def figure_forward(work: Work) -> list[Row]:
    """Kinematic image of one dislocation with the analytic resolution, on one core; and the same by dfxm-geo."""
    t = pinned(rays, work.repeats)
    both = 1e3 / (t["field"] + t["image"])
    detail = f"field {t['field']:.0f} ns, image {t['image']:.0f} ns a ray, {np.prod(RAYS) / 1e6:.2f} M rays"
    rows = [at_least("kinematic image, field and image, 1 core", both, 2, "M rays/s", detail)]
    if work.geo_python is None:
        return [*rows, Row("the same by dfxm-geo 3.0.0", "not measured", "", "name its Python with --geo-python")]
    command = ["taskset", "-c", "0", work.geo_python, str(GEO), str(work.repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    theirs = 1e3 / (found["field"] + found["image"])
    detail = f"dfxm-geo {found['version']}: field {found['field']:.0f} ns, image {found['image']:.0f} ns a ray"
    return [*rows, Row("the same image vs dfxm-geo 3.0.0, 1 core", f"{both / theirs:.3g} × faster", "", detail)]


def simulated(client: Any, out: Path, options: dict[str, Any]) -> float:
    """Wall time of writing preset ``hard`` with its truth."""
    from dfxm_dask.run.execute import run_simulate

    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    run_simulate("hard", out, client=client, **options)
    return time.perf_counter() - begun


def figure_hard(work: Work) -> list[Row]:
    """Preset ``hard`` of 16 layers, counts and truth on disk: time, memory, and scaling from one to two workers."""
    from dfxm_dask.run.clusters.cluster import open_cluster

    options = QUICK_HARD if work.quick else HARD
    out = work.folder / "hard.zarr"
    times, peak = {}, 0.0
    for workers in (2, 1):
        with open_cluster(workers=workers) as client:
            simulated(client, out, {**options, "layers": 2, "shape": (64, 64)})  # loads and compiles
            times[workers] = simulated(client, out, options)
            peak = max(peak, *client.run(high_water).values())
    shutil.rmtree(out, ignore_errors=True)
    size = f"{options['layers']} layers of 31 x {options['shape'][0]} x {options['shape'][1]}"
    return [
        at_most(f"preset hard, {size}, 2 workers", times[2], 120, "s", "counts, patch statistics and truth on disk"),
        at_most("peak memory per worker, simulate", peak, 1074, "MB", "VmHWM"),
        at_least("simulate, 1 → 2 workers", times[1] / times[2], 1.8, "×", f"{times[1]:.1f} and {times[2]:.1f} s"),
    ]


def nodes(repeats: int) -> tuple[float, float]:
    """Nanoseconds a node of Takagi–Taupin with a dislocation; nodes; runs in a process."""
    from dfxm_dask.optics.dynamical import lattice, takagi_taupin

    theta, wave, chi = 0.156611422, 0.729319, -2.490e-6 - 1.45e-8j
    across = 601
    depth, lateral, _ = lattice(across, thickness=100.0, step=0.25, theta=theta, start=-0.5 * across * 0.078)
    phase = np.arctan2(depth[:, None] - 50.0, lateral + 0.01) + 0.0 * lateral
    incident = np.ones(across, complex)
    best = np.inf
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        takagi_taupin(incident, phase, thickness=100.0, theta=theta, wavelength=wave, chi_h=chi, outside="plane")
        best = min(best, time.perf_counter() - begun)
    return 1e9 * best / phase.size, float(phase.size)


def figure_dynamical(work: Work) -> list[Row]:
    """Takagi–Taupin on one core."""
    each, count = pinned(nodes, max(work.repeats, 3))
    return [at_most("Takagi–Taupin, one angle, 1 core", each, 40, "ns a node", f"{count / 1e3:.0f} thousand nodes")]
