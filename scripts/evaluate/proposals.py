"""Proposals of the network for single lines: our images, images of dfxm-geo, and images of long segments.

    python scripts/evaluate/proposals.py WORK --geo-python VENV/bin/python

dfxm-geo 3.0.0 (``python -m venv VENV; VENV/bin/pip install dfxm-geo==3.0.0``) gives edges and screws only: its mixed
field is wrong. Its images have 17 heights of +-3 rms, no shear along the diffracted beam and no camera; segments are
non-singular (core of 5 b) and end 60 um from the frame. All images get the noise of the same camera. Printed: recall of
the true candidate among the first 1, 5, 20 and 50 of 420, and the calibration error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dfxm_dask.identify.catalogue import Candidates, catalogue
from dfxm_dask.identify.network import FILE, load
from dfxm_dask.optics.defects.network import Network
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import image_stack
from dfxm_dask.optics.geometry import effective_pixel
from dfxm_dask.optics.instrument.microscope import find_microscope

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_identify as training

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
        job = {"hkl": training.HKL, "rows": training.SHAPE[0], "sheet": 0.2 / 2.355, "phi": training.PHI.tolist()}
        subprocess.run([python, "-c", GEO, json.dumps(job | {"lines": made, "out": str(file.resolve())})], check=True)
    with np.load(file) as kept:
        images, grain = kept["images"], kept["grain"]
    assert np.abs(grain - training.crystal()[0]).max() < 1e-9
    return images, np.array(classes)


def segments(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of single long segments of the non-singular theory, and their classes."""
    rng, found = np.random.default_rng(6), catalogue()
    grain, theta = training.crystal()
    scope = replace(find_microscope("id06_al111"), sheet=0.2 / 2.355)
    pixels = effective_pixel(scope.pixel, theta)
    y, x = (np.arange(n) * p - (n - 1) * p / 2 for n, p in zip(training.SHAPE, pixels, strict=True))
    classes = rng.integers(len(found.angle), size=count)
    out = []
    for k in classes:
        b, t = grain @ found.burgers[k] * training.CELL, grain @ found.line[k]
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
        out.append(image_stack(Scene(0.334, network=one), scope, {"phi": training.PHI}, y, x))
    return np.array(out), classes


def binned(images: np.ndarray) -> torch.Tensor:
    """As the training images: blurred by the camera, rows averaged."""
    soft = training.gaussian_filter(images.astype(np.float32), (0, 0, training.BLUR, training.BLUR))
    size = training.SIZE
    return torch.from_numpy(soft.reshape(*soft.shape[:2], size, -1, size).mean(3).astype(np.float16))


def invisible(classes: np.ndarray) -> np.ndarray:
    """Classes with those of screws without contrast replaced by that of no dislocation."""
    found = catalogue()
    dark = np.abs(found.burgers @ np.array(training.HKL)) < 1e-9
    dark &= np.linalg.norm(np.cross(found.burgers, found.line), axis=1) < 1e-9
    return np.where(np.append(dark, False)[classes], len(found.angle), classes)


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
    ours = training.cached(asked.work, "test", training.TEST)
    sets = {"ours": ours}
    images, classes = geo(asked.work, asked.geo_python.absolute(), 2)
    edges = np.tile(np.repeat([True, False], 2), len(classes) // 4)
    for name, some in (("dfxm-geo, edges", edges), ("dfxm-geo, screws", ~edges)):
        sets[name] = binned(images[some]), invisible(classes[some])
    images, classes = segments(200)
    sets["long segments"] = binned(images), invisible(classes)
    print("| images | counts | top 1 | top 5 | top 20 | top 50 | calibration error | none found | called none |")
    print("|---" * 9 + "|")
    for name, (lines, true) in sets.items():
        for level in BRIGHT:
            noisy = training.noisy(lines, np.random.default_rng(8), (level, level))
            with torch.inference_mode():
                logits = torch.cat([network(noisy[k : k + 256]) for k in range(0, len(noisy), 256)]).numpy()
            found = training.scores(training.probabilities(logits.astype(float), about["temperature"]), true)
            parts = [f"{found[f'top_{k}']:.3f}" for k in (1, 5, 20, 50)] + [f"{found['calibration_error']:.3f}"]
            parts += [f"{found[k]:.3f}" if k in found else "–" for k in ("none_found", "lines_called_none")]
            print(f"| {name} ({len(true)}) | {level:.0f} | {' | '.join(parts)} |")


if __name__ == "__main__":
    main()
