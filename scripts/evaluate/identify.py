"""Identification of one isolated dislocation: accuracy, calibration, sign, and scans without a dislocation.

    python scripts/evaluate/identify.py phi --seeds 1000 1040
    python scripts/evaluate/identify.py phi_chi --seeds 1000 1030
    python scripts/evaluate/identify.py reflections --seeds 1000 1020
    python scripts/evaluate/identify.py noise --seeds 1000 1040
    python scripts/evaluate/identify.py geo --geo geo_lines.npz --seeds 0 60

Scans are those of the presets ``isolated``, ``isolated_phi_chi`` and ``isolated_reflections`` with fewer frames: 600
counts of the lattice at its peak, 16 angles phi over +-0.03 degree, 120 x 40 pixels, camera of the simulator with warm
pixels and bright border rows. ``brightness`` is the median of the frame at the peak. Every line of output is one scan,
as JSON; ``--summary FILE ...`` prints the table of such files.

A scan is right if the true candidate is the best one or has its expected counts within noise: chi2 below 16 between the
model images of both at their optima (``candidate_class`` 0). A line counts as one without contrast, in a row of its
own, if the expected counts with and without it, from the simulation, differ by a chi2 below 16 in all of its scans
together. Seconds: processor time of ``match``, all scans of a line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

import dfxm_dask
from dfxm_dask.identify.catalogue import catalogue, on_axes
from dfxm_dask.identify.combine import alike, ranking
from dfxm_dask.identify.evidence import SAME
from dfxm_dask.identify.match import _finish
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import seen, sheet_nodes
from dfxm_dask.optics.frame_image import accepted_by, frame_image
from dfxm_dask.phantoms.phantom import Phantom, coordinates
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import angles, render
from dfxm_dask.phantoms.strong_lattice import lattices

PRESETS = {
    "phi": "isolated",
    "noise": "isolated",
    "phi_chi": "isolated_phi_chi",
    "reflections": "isolated_reflections",
}
SHEET, BLUR = 0.2, 1.2  # um, pixel
OFFSET, GAIN, READ_NOISE = 106.3, 2.14, 12.0  # count
STRONG = 0.02  # of the counts at the peak, above which match leaves a frame out


def counts_of(phantom: Phantom) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Counts (y, x, scan axes) and positions."""
    counts = np.stack([frame for frame, _ in render(phantom, 0)]).astype(np.float32)
    scan = {axis.name: np.array(axis.positions) for axis in phantom.axes}
    return np.moveaxis(counts, 0, -1).reshape(*counts.shape[1:], *phantom.grid), scan


def shorter(phantom: Phantom) -> Phantom:
    """The same scan with fewer frames: 16 of 31 phi; 8 phi at 3 chi."""
    steps = {"phi": slice(None, None, 2), "chi": slice(1, None, 3)}
    return replace(phantom, axes=tuple(replace(a, positions=a.positions[steps[a.name]]) for a in phantom.axes))


def matched(
    phantom: Phantom, given: tuple[np.ndarray, dict[str, np.ndarray]], *, known: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Result of ``match`` on the counts and positions of a phantom: of the kernel, and of the reduction."""
    counts, scan = given
    y, x = coordinates(phantom)
    flat = counts.reshape(*counts.shape[:2], -1)
    level = np.median(flat, axis=(0, 1))
    bright = float(level.max() - np.percentile(level, 10)) if known else None
    lattice = Lattice(**phantom.crystal["lattice"], hkl=tuple(phantom.crystal["hkl"]))
    made = dfxm_dask.match.kernel(counts, scan, y, x, np.zeros(1), lattice=lattice, sheet=SHEET, brightness=bright)
    return made, _finish(made)


def row_of(phantom: Phantom) -> int:
    """Candidate of the line of a phantom."""
    lattice = Lattice(**phantom.crystal["lattice"], hkl=tuple(phantom.crystal["hkl"]))
    known, line = on_axes(catalogue(), lattice), phantom.scene.lines[0]
    b, t = line["burgers"], line["line"]
    off = [
        np.linalg.norm(known.burgers - s * b, axis=1) / np.linalg.norm(b) + np.linalg.norm(known.line - s * t, axis=1)
        for s in (1, -1)
    ]
    return int(np.argmin(np.minimum(*off)))


def expected(phantom: Phantom) -> np.ndarray:
    """Counts (frame, y, x) above the offset, without noise, halo and stripes."""
    weight = sheet_nodes(phantom.microscope, phantom.nodes)[1]
    q = lattices(phantom, 0).voxels
    out = []
    (ny, nx), (sy, sx), light = phantom.shape, phantom.samples, phantom.lighting
    accepts = accepted_by(phantom.microscope, tail=light.tail, tail_width=light.tail_width)
    for positions in angles(phantom):
        image = frame_image(q, weight, *seen(phantom.at, positions), accepts).reshape(ny, sy, nx, sx).mean((1, 3))
        out.append(light.flux * light.exposure * gaussian_filter(image.astype(np.float64), BLUR))
    return np.array(out)


def chi2_of(contrast: np.ndarray, counts: np.ndarray) -> float:
    """Chi2 of the contrast (frame, y, x) of a line, apart from levels of frames, rows and pixels.

    Pixels have a level that all frames share, of standard deviation 2 counts.
    """
    weight = 1 / (GAIN * counts + READ_NOISE**2 + (0.03 * contrast) ** 2)
    off = contrast - (weight * contrast).sum((1, 2), keepdims=True) / weight.sum((1, 2), keepdims=True)
    off = off - ((weight * off).sum((0, 2)) / weight.sum((0, 2)))[:, None]
    common = (weight * off).sum(0) ** 2 / (weight.sum(0) + 1 / 2.0**2)
    return float((weight * off**2).sum() - common.sum())


def contrast_of(phantom: Phantom) -> float:
    """Chi2 between the expected counts of a phantom with its line and without, in the frames that ``match`` takes."""
    with_line = expected(phantom)
    without = expected(replace(phantom, scene=bent(phantom.scene)))
    level = np.median(without, axis=(1, 2))
    weak = level < STRONG * level.max()
    return chi2_of((with_line - without)[weak], with_line[weak])


def bent(scene: Scene) -> Scene:
    """The bending of a scene alone."""
    waves = {name: getattr(scene, f"wave_{name}") for name in ("vectors", "displacements", "phases")}
    return Scene(scene.poisson, **{f"wave_{name}": values for name, values in waves.items()})


def one(kind: str, seed: int, *, known: bool = True) -> dict[str, Any]:
    """One seed of a kind of scan; ``known``: with the brightness."""
    made = [shorter(phantom) for phantom in build(PRESETS[kind], seed=seed)]
    truth = row_of(made[0])
    contrast = float(sum(contrast_of(phantom) for phantom in made)) if kind != "noise" else 0.0
    if kind == "noise":
        made = [replace(made[0], scene=bent(made[0].scene))]
    counts = [counts_of(phantom) for phantom in made]
    started = time.process_time()
    results = [matched(phantom, given, known=known) for phantom, given in zip(made, counts, strict=True)]
    name = kind if known else f"{kind}, brightness unknown"
    found = {"kind": name, "seed": seed, "truth": truth, "dark": contrast < SAME, "contrast": contrast}
    return found | scored(results, truth, started)


def scored(results: list[tuple], truth: int, started: float) -> dict[str, Any]:
    """Whether the class of the best candidate contains the truth, its probability, and the sign."""
    final = [found for _, found in results]
    found = ranking(np.sum([one["log_evidence"] for one in final], axis=0))
    best = int(np.argmax(found.probability))
    distance, contrast = (np.concatenate([raw[name] for raw, _ in results]) for name in ("distance", "contrast"))
    same = alike(distance, contrast, best, SAME)
    pair = final[0]["opposite"]
    signed = [k for k in (truth, int(pair[truth]))]
    both = float(found.probability[signed].sum())
    return {
        "right": bool(same[truth]),
        "first": best == truth,
        "probability": float(found.probability[same].sum()),
        "of_truth": float(found.probability[truth]),
        "members": int(same.sum()),
        "none": found.none,
        "sign": float(found.probability[truth] / both) if both > 1e-6 else None,
        "sign_known": not bool(same[pair[truth]]) if same[truth] else None,
        "chi2": [float(one["match_chi2"].max()) for one in final],
        "reasons": [int(one["match_reason"][0]) for one in final],
        "seconds": time.process_time() - started,
        "best": best,
    }


def geo(file: Path, number: int, peak: float) -> dict[str, Any]:
    """One line of dfxm-geo, with the noise of a camera, from ``geo_lines.py``."""
    with np.load(file) as kept:
        images, phi, grain = kept["images"][number], kept["phi"], kept["grain"]
        y, x, b, t = kept["y"], kept["x"], kept["burgers"][number], kept["lines"][number]
        screw = bool(kept["screw"][number])
    cell = np.sqrt(2) * float(np.linalg.norm(b))
    lattice = Lattice(parameter=cell, x=tuple(grain.T[:, 0]), z=tuple(grain.T[:, 2]), hkl=(-1, 1, -1))
    rng = np.random.default_rng(9000 + number)
    light = peak * gaussian_filter(images.astype(np.float64), (0, BLUR, BLUR))
    counts = OFFSET + GAIN * rng.poisson(light / GAIN) + rng.normal(0, READ_NOISE, images.shape)
    started = time.process_time()
    made = dfxm_dask.match.kernel(
        np.moveaxis(counts, 0, -1), {"phi": np.rad2deg(phi)}, y, x, np.zeros(1), lattice=lattice, sheet=SHEET,
        sheared=False, tail=0.0, brightness=peak,
    )  # fmt: skip
    known = on_axes(catalogue(), lattice)
    off = [
        np.linalg.norm(known.burgers - s * b, axis=1) / np.linalg.norm(b) + np.linalg.norm(known.line - s * t, axis=1)
        for s in (1, -1)
    ]
    truth = int(np.argmin(np.minimum(*off)))
    flat = np.median(light, axis=(1, 2), keepdims=True)
    weak = flat[:, 0, 0] < STRONG * peak
    contrast = chi2_of((light - flat)[weak], light[weak])
    kind = "geo screws" if screw else "geo edges"
    found = {"kind": kind, "seed": number, "truth": truth, "dark": contrast < SAME, "contrast": contrast}
    return found | scored([(made, _finish(made))], truth, started)


def summary(rows: list[dict[str, Any]]) -> None:
    """Table of the kinds of scans."""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        seconds = float(np.median([row["seconds"] for row in mine]))
        if kind.startswith("noise"):
            sure = np.mean([row["none"] >= 0.95 for row in mine])
            print(f"noise: {len(mine)} scans, none >= 0.95 in {sure:.3f}, median {seconds:.1f} s")
            continue
        dark = [row for row in mine if row["dark"]]
        seen = [row for row in mine if not row["dark"]]
        right = np.array([row["right"] for row in seen])
        stated = np.array([row["probability"] for row in seen])
        signs = [row["sign"] for row in seen if row["sign_known"]]
        print(
            f"{kind}: {len(seen)} lines with contrast, class right {right.mean():.3f}, "
            f"first {_mean(seen, 'first'):.3f}, "
            f"mean probability {stated.mean():.3f}, calibration error {calibration(stated, right):.3f}, "
            f"sign right {np.mean([s > 0.5 for s in signs]) if signs else np.nan:.3f} of {len(signs)}, "
            f"misfit {np.mean([any(r & 2 for r in row['reasons']) for row in seen]):.3f}, median {seconds:.1f} s; "
            f"{len(dark)} without contrast, none > 0.5 in {sum(row['none'] > 0.5 for row in dark)}"
        )


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def calibration(stated: np.ndarray, right: np.ndarray, edges: tuple[float, ...] = (0, 0.5, 0.8, 0.95, 1.01)) -> float:
    """Expected calibration error: mean difference of stated probability and frequency, over bins of probability."""
    total = 0.0
    for low, high in pairwise(edges):
        inside = (stated >= low) & (stated < high)
        if inside.any():
            total += inside.mean() * abs(stated[inside].mean() - right[inside].mean())
    return float(total)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=[*PRESETS, "geo"])
    parser.add_argument("--seeds", nargs=2, type=int, default=(1000, 1040))
    parser.add_argument("--geo", type=Path)
    parser.add_argument("--counts", type=float, default=600.0)
    parser.add_argument("--unknown", action="store_true", help="do not give the brightness to match")
    parser.add_argument("--summary", nargs="+", type=Path)
    given = parser.parse_args()
    if given.summary:
        summary([json.loads(line) for file in given.summary for line in file.read_text().splitlines()])
        return
    for seed in range(*given.seeds):
        made = (
            geo(given.geo, seed, given.counts)
            if given.kind == "geo"
            else one(given.kind, seed, known=not given.unknown)
        )
        print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
