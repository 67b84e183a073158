"""Proposals of the network for single lines: our images, images of dfxm-geo, long segments, and the preset.

    python scripts/evaluate/proposals.py WORK --geo-python VENV/bin/python

dfxm-geo 3.0.0 (``python -m venv VENV; VENV/bin/pip install dfxm-geo==3.0.0``) gives edges and screws only: its mixed
field is wrong. Its images have 17 heights of +-3 rms, no shear along the diffracted beam and no camera; segments are
non-singular (core of 5 b) and end 60 um from the frame, each in another orientation. All images get the noise of the
same camera. The preset is ``isolated``, with counts of its own. Printed: recall of the true candidate among the first
1, 5, 20 and 50 of 420, and the calibration error. No seed and no crystal occurs in the training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from dfxm_dask.identify.catalogue import Candidates, catalogue, on_axes
from dfxm_dask.identify.network import FILE, PHI, features_of, input_of, load, resampled, temperature
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.defects.network import Network
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import image_stack, setting
from dfxm_dask.optics.geometry import effective_pixel, orientation, rotation_y
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import render

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_identify as training

SHAPE, BLUR = (120, 40), 1.2
PIXEL = effective_pixel(training.SCOPE.pixel, training.SCOPE.theta)
GEO_GRAIN = rotation_y(-training.SCOPE.theta) @ orientation(training.HKL, np.array([1.0, 0, -1]))
REPEATS = 2
BRIGHT = (100.0, 300.0, 1000.0)
"""Counts of the perfect crystal at its peak."""

GEO = """
import json, sys
import numpy as np
from dataclasses import fields
from dfxm_geo.config import ReciprocalConfig
from dfxm_geo.direct_space import forward_model as fm
job = json.loads(sys.argv[1])
hkl, rows, heights = tuple(job["hkl"]), job["rows"], 17
resolution = fm._load_analytic_resolution(ReciprocalConfig(hkl=hkl, keV=17.0, backend="analytic", beamstop=False))
box = fm.build_instrument_context_from_config(psize=40e-9, zl_rms=job["sheet"] * 1e-6, Npixels=rows, Nsub=1)
pixels = (np.arange(rows)[None, :] * box.NN1 + np.arange(box.NN1)[:, None]).ravel()
given = {f.name: getattr(box, f.name) for f in fields(box)}
given |= {"NN3": heights, "zl_steps": heights, "flat_indices": np.repeat(pixels, heights)}
theta = resolution.analytic_eval.theta
ctx = fm.build_forward_context(theta, resolution, hkl, instrument=type(box)(**given))
out = []
for b, n, position, turn in job["lines"]:
    frame = fm._ud_matrix_from_bnt(tuple(b), tuple(n), tuple(int(v) for v in np.cross(b, n)))
    made = fm.DislocationPopulation(positions_um=np.array([position]), Ud=frame[None], sidecar=None,
                                    rotation_deg=np.array([turn]))
    static = fm.precompute_forward_static(fm.Find_Hg_from_population(made, ctx=ctx)[0], ctx)
    out.append(np.stack([fm.forward_from_static(static, ctx, phi=p) for p in job["phi"]]))
np.savez(job["out"], images=np.array(out, np.float32), grain=ctx.geometry.Theta.T @ ctx.instrument.Us)
"""
"""Runs there: frames of one line each. A line is b, n, position (um, laboratory), and 0 (edge along b x n) or 90
(screw along b)."""


def row_of(found: Candidates, b: np.ndarray, t: np.ndarray) -> int:
    """Candidate with the Burgers vector b (in cells) and the line t, or with both reversed."""
    off = [
        np.linalg.norm(found.burgers - s * b, axis=1) + np.linalg.norm(found.line - s * t / np.linalg.norm(t), axis=1)
        for s in (1, -1)
    ]
    row = int(np.argmin(np.minimum(*off)))
    assert min(off[0][row], off[1][row]) < 1e-6
    return row


def geo(work: Path, python: Path, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of dfxm-geo (line, frame, 120, 40), and their classes."""
    rng, found = np.random.default_rng(5), catalogue()
    planes = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    made, classes = [], []
    for b in np.unique(np.rint(2 * found.burgers).astype(int), axis=0):
        for sign in (1, -1):
            for n in planes[planes @ b == 0]:
                for turn in (0, 90):
                    for _ in range(repeats):
                        place = [rng.uniform(-1, 1), rng.uniform(-1, 1), 0.0]
                        made.append(((sign * b).tolist(), n.tolist(), place, turn))
                        classes.append(row_of(found, sign * b / 2, np.cross(sign * b, n) if turn == 0 else sign * b))
    file = work / "geo_lines.npz"
    if not file.exists():
        job = {"hkl": training.HKL, "rows": SHAPE[0], "sheet": 0.2 / 2.355, "phi": PHI.tolist()}
        subprocess.run([python, "-c", GEO, json.dumps(job | {"lines": made, "out": str(file.resolve())})], check=True)
    with np.load(file) as kept:
        images, grain = kept["images"], kept["grain"]
    assert np.abs(grain - GEO_GRAIN).max() < 1e-9
    return images, np.array(classes)


def segments(count: int) -> tuple[np.ndarray, np.ndarray, list[Candidates]]:
    """Images of long segments of the non-singular theory, their classes, and the candidates of their crystals."""
    rng = np.random.default_rng(6)
    scope = replace(training.SCOPE, sheet=0.2 / 2.355)
    y, x = (np.arange(n) * p - (n - 1) * p / 2 for n, p in zip(SHAPE, PIXEL, strict=True))
    classes = rng.integers(len(training.dark()), size=count)
    out, crystals = [], []
    for k in classes:
        crystals.append(training.candidates_at(rng.uniform(0, 2 * np.pi)))
        b, t = crystals[-1].burgers[k], crystals[-1].line[k]
        middle = np.array([*rng.uniform(-1, 1, 2), 0.0])
        one = Network(
            np.stack([middle - 60 * t, middle + 60 * t]),
            np.array([[0, 1]]),
            b[None],
            np.zeros((1, 3)),
            5 * float(np.linalg.norm(b)),
            np.zeros((3, 3)),
            np.zeros(3),
        )
        out.append(image_stack(Scene(0.334, network=one), scope, {"phi": PHI}, y, x))
    return np.array(out), classes, crystals


def presets(seeds: range) -> tuple[list[np.ndarray], np.ndarray, list[Candidates], np.ndarray]:
    """Counts of the preset ``isolated``, classes, candidates of the crystals, and rocking angles (rad)."""
    counts, classes, crystals = [], [], []
    for seed in seeds:
        (made,) = build("isolated", seed=seed)
        counts.append(np.stack([frame for frame, _ in render(made, 0)]).astype(np.float32))
        given = made.crystal or {}
        crystals.append(on_axes(catalogue(), Lattice(**given["lattice"], hkl=tuple(given["hkl"]))))
        line = made.scene.lines[0]
        in_cells = crystals[-1]._replace(burgers=crystals[-1].burgers / training.CELL)
        classes.append(row_of(in_cells, line["burgers"] / training.CELL, line["line"]))
    return counts, np.array(classes), crystals, np.deg2rad(made.axes[0].positions)


def camera(images: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Counts of images (frame, y, x) at a brightness: blurred, with photon and read-out noise."""
    signal = gaussian_filter(images.astype(np.float32), (0, BLUR, BLUR)) * level + 1.5
    spread = np.sqrt(training.GAIN * np.maximum(signal, 0) + training.READ_NOISE**2)
    return np.asarray(signal + spread * rng.normal(size=signal.shape))


def logits_of(
    network: torch.nn.Module, counts: list[np.ndarray], phi: np.ndarray, crystals: list[Candidates]
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, candidate + 1) of counts, each with its own candidates, and contrast over noise."""
    at, out, strengths = setting(training.SCOPE.theta), [], []
    for one, crystal in zip(counts, crystals, strict=True):
        frames, strength = map(torch.from_numpy, input_of(resampled(one, phi, PIXEL)[None]))
        with torch.inference_mode():
            out.append(network(frames, strength, torch.from_numpy(features_of(crystal, at)))[0])
        strengths.append(strength[0])
    return torch.stack(out).numpy().astype(np.float64), np.array(strengths, np.float64)


def invisible(classes: np.ndarray) -> np.ndarray:
    """Classes with those of screws without contrast replaced by that of no dislocation."""
    absent = training.dark()
    return np.where(np.append(absent, False)[classes], len(absent), classes)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--geo-python", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=FILE)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    network, about = load(asked.weights)
    found = catalogue()
    geo_crystal = Candidates(
        training.CELL * found.burgers @ GEO_GRAIN.T, found.line @ GEO_GRAIN.T, found.plane_normal, found.angle
    )
    images, classes = geo(asked.work, asked.geo_python.absolute(), REPEATS)
    edges = np.tile(np.repeat([True, False], REPEATS), len(classes) // (2 * REPEATS))
    sets = {
        name: (images[some], classes[some], [geo_crystal] * int(some.sum()))
        for name, some in (("dfxm-geo, edges", edges), ("dfxm-geo, screws", ~edges))
    }
    sets["long segments"] = segments(100)
    print("| images | counts | top 1 | top 5 | top 20 | top 50 | calibration error | none found | called none |")
    print("|---" * 9 + "|")
    ours = training.cached(asked.work, "test")
    for level in BRIGHT:
        row_of_table("ours", level, training.logits_of(network, ours, 3, (level, level)), ours.classes, about)
    counts, true, crystals, phi = presets(range(1000, 1024))
    row_of_table("preset isolated", np.nan, logits_of(network, counts, phi, crystals), invisible(true), about)
    for name, (lines, true, crystals) in sets.items():
        for level in BRIGHT:
            rng = np.random.default_rng(8)
            made = logits_of(network, [camera(one, rng, level) for one in lines], PHI, crystals)
            row_of_table(name, level, made, invisible(true), about)


def row_of_table(
    name: str, level: float, made: tuple[np.ndarray, np.ndarray], true: np.ndarray, about: dict[str, Any]
) -> None:
    """Print one row."""
    found = training.scores(training.probabilities(made[0], temperature(made[1], about["temperature"])), true)
    parts = [f"{found[f'top_{k}']:.3f}" for k in (1, 5, 20, 50)] + [f"{found['calibration_error']:.3f}"]
    parts += [f"{found[k]:.3f}" if k in found else "–" for k in ("none_found", "lines_called_none")]
    print(
        f"| {name} ({len(true)}) | {'own' if np.isnan(level) else f'{level:.0f}'} | {' | '.join(parts)} |", flush=True
    )


if __name__ == "__main__":
    main()
