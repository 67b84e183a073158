"""Scores of weak-beam maps against the dislocations of a simulation.

``python scripts/evaluate/score_beams.py --cache FOLDER`` simulates layers that were used for neither network nor
windows, runs the recipe on them, and prints a Markdown table: means over layers. Other rows are the published recipe
and the best single frame. Their patches, frame and, where stated, threshold are chosen by the truth, which makes them
better than in practice.

AUC and AP compare lit pixels within 0.5 um of a line with those more than 2.5 um away from all. Precision is the share
of a mask within 1 um of a line, in space: lines just above the layer also show in it; "or boundary" is the share within
1 um of a line or of the plane of a boundary. Recall is the share of the lines in the layer within 1 um of the mask, and
Dice the harmonic mean of both. Lines with g.b = 0 do not bend the reflecting planes: "seen" columns exclude them from
recall. They still count as lines for precision.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from map_scores import auc, average_precision

import dfxm_dask
from dfxm_dask.beams import classify_beams, integrate_beams
from dfxm_dask.beams.contrast import published_contrast
from dfxm_dask.beams.narrowing import without_small
from dfxm_dask.beams.patches import seam_metric
from dfxm_dask.beams.prior import UNLIT, WEAK
from dfxm_dask.frames import normalise
from dfxm_dask.optics.defects.scene import distance
from dfxm_dask.optics.geometry import rotation_y
from dfxm_dask.phantoms.phantom import Phantom
from dfxm_dask.phantoms.presets import build
from dfxm_dask.view.compare.distances import boundary_distance
from dfxm_dask.volume.compare import nearest_distances

StrongBeam = Literal["smeared", "sharp", "none"]
PRESETS = ("easy", "hard", "multigrain", "al002")
SEEDS = (40, 41, 42)
"""Training used seeds from 100 on, and windows were chosen on seed 3."""
SHAPE = (768, 256)
"""About 31 um on both sides."""

OFFSET = 106.0  # counts of the simulated camera without beam
NEAR, FAR, ON_LINE, TAU = 0.5, 2.5, 0.25, 1.0  # um
PUBLISHED_LIMIT = 0.6  # in the code published with arXiv:2509.05017v2; the paper gives no value
LIMITS = 16  # number of thresholds from which the truth chooses
LEAST_AREA = 0.1  # um2, as in threshold_beams
COPIES = 8  # of a mask, for the chance level
OF_MASKS = ("precision", "or boundary", "recall", "Dice", "HD95", "seen recall", "seen Dice", "seen HD95")
COLUMNS = ("AUC", "AUC 1 um", "AP", "AUC seen", "AP seen", *OF_MASKS, "seam")

STEPS = """
  - background: {{quantile: 0.1}}
  - moments: {{noise_cut: 5}}
  - local_peak: {{}}
  - classify_beams: {{method: {classify}}}
  - integrate_beams: {{method: {integrate}}}
  - enhance_beams: {{}}
  - isolate_lines: {{}}
  - threshold_beams: {{}}
  - kam: {{radius: 0.5}}
  - classify_defects: {{}}
"""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer with its truth.

    Counts are on one scale, (frame, y, x). ``readings`` are weak patches by truth, (patch_y, patch_x, frame): those
    completely weak, and those mostly weak, each with unlit patches and without, since two classes do not define these.
    ``away``, ``away_seen`` and ``boundary`` are distances (um) to any line, to visible lines, and to boundaries.
    """

    counts: np.ndarray
    phi: np.ndarray
    lit: np.ndarray
    peak: np.ndarray
    width: np.ndarray
    readings: list[np.ndarray]
    away: np.ndarray
    away_seen: np.ndarray
    boundary: np.ndarray
    sampling: tuple[float, float]


def simulated(cache: Path, preset: str, seed: int, beam: StrongBeam) -> Path:
    """The store of one layer, which is simulated if it does not exist."""
    path = cache / f"{preset}-{seed}-{beam}-{SHAPE[0]}x{SHAPE[1]}.zarr"
    dfxm_dask.simulate(preset, path, layers=1, shape=SHAPE, seed=seed, strong_beam=beam)
    return path


def reference(store: Path) -> float:
    """Monitor counts of the median frame."""
    return float(np.median(dfxm_dask.open_scan(store)["raw"].monitor.values))


def run(store: Path, classify: str, integrate: str, scale: float | None) -> None:
    """Run the recipe on a store, after scaling the frames if attenuators were moved."""
    first = ""
    if scale is not None:
        first = f"\n  - normalise: {{by: monitor, reference: {scale!r}, offset: {OFFSET}}}"
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "beams.yaml"
        recipe.write_text("steps:" + first + STEPS.format(classify=classify, integrate=integrate))
        dfxm_dask.run_recipe(recipe, store, overwrite=True)


def seen_distance(phantom: Phantom, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance (um) to the nearest line whose Burgers vector does not lie in the reflecting planes: (y, x)."""
    normal = rotation_y(-phantom.at.theta) @ np.array([0.0, 0.0, 1.0])

    def seen(burgers: np.ndarray) -> bool:
        return bool(abs(burgers @ normal) > 1e-3 * np.linalg.norm(burgers))

    scene = phantom.scene
    kept = replace(
        scene,
        lines=scene.lines[np.array([seen(b) for b in scene.lines["burgers"]], bool)],
        loops=tuple(loop for loop in scene.loops if seen(loop.burgers)),
    )
    py, px = (m.ravel() for m in np.meshgrid(y, x, indexing="ij"))
    return distance(kept, px, py, np.full(px.size, phantom.z[0])).reshape(y.size, x.size)


def opened(store: Path, phantom: Phantom, scale: float | None) -> Layer:
    """Data for scoring all maps, after the recipe has run."""
    tree = dfxm_dask.open_scan(store)
    raw, beams, truth = tree["raw"], tree["beams"], tree["truth"]
    counts, phi = raw.counts[0].values, raw.phi.values
    if scale is not None:
        scaled = normalise.kernel(
            np.moveaxis(counts, 0, -1),
            {"phi": phi},
            raw.monitor[0].values,
            by="monitor",
            reference=scale,
            offset=OFFSET,
        )
        counts = np.moveaxis(scaled["counts"], -1, 0)
    y, x = tree.y.values, tree.x.values
    label, fraction = (np.moveaxis(truth[n][0].values, 0, -1) for n in ("label", "dynamical_fraction"))
    readings = [weak | dark for weak in (label == WEAK, fraction < 0.5) for dark in (label == UNLIT, False)]
    return Layer(
        counts=counts,
        phi=phi,
        lit=beams.lit[0].values,
        peak=beams.peak_local[0].values,
        width=beams.width_local[0].values,
        readings=readings,
        away=truth.distance[0].values,
        away_seen=seen_distance(phantom, y, x),
        boundary=boundary_distance(truth, phantom.z[0], y, x),
        sampling=(float(y[1] - y[0]), float(x[1] - x[0])),
    )


def lines(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Lit pixels on a line, and on a visible line: within 0.25 um, or one pixel if that is more."""
    reach = max(ON_LINE, *layer.sampling)
    return layer.lit & (layer.away < reach), layer.lit & (layer.away_seen < reach)


def scores(layer: Layer, values: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Columns of the table for a map and, where there is one, for a mask."""
    lit, far = layer.lit, layer.lit & (layer.away > FAR)
    near, wide, seen = (lit & (d < r) for d, r in ((layer.away, NEAR), (layer.away, 1.0), (layer.away_seen, NEAR)))
    found = {
        "AUC": auc(values, near, far),
        "AUC 1 um": auc(values, wide, far),
        "AP": average_precision(values, near, far),
        "AUC seen": auc(values, seen, far),
        "AP seen": average_precision(values, seen, far),
        "seam": seam_metric(np.where(lit, values, np.nan)),
    }
    return found if mask is None else found | mask_scores(layer, mask)


def mask_scores(layer: Layer, mask: np.ndarray) -> dict[str, float]:
    """Columns of the table for a mask, from distances of its pixels to lines in space, and of lines to the mask."""
    mask = mask & layer.lit
    if not mask.any():
        unknown = ("precision", "or boundary")
        return {c: float("nan") if "HD95" in c or c in unknown else 0.0 for c in OF_MASKS}
    away = layer.away[mask]
    out = {"precision": float((away <= TAU).mean())}
    if np.isfinite(layer.boundary).any():
        out["or boundary"] = float((np.minimum(away, layer.boundary[mask]) <= TAU).mean())
    for kind, line in zip(("", "seen "), lines(layer), strict=True):
        to_mask = nearest_distances(line, mask, layer.sampling)
        recall = float((to_mask <= TAU).mean())
        total = out["precision"] + recall
        out[f"{kind}recall"] = recall
        out[f"{kind}Dice"] = 2 * out["precision"] * recall / total if total > 0 else 0.0
        out[f"{kind}HD95"] = float(max(np.quantile(d, 0.95) for d in (away, to_mask)))
    return out


def best_mask(layer: Layer, values: np.ndarray) -> dict[str, float]:
    """Columns for the best threshold by truth, that of the largest Dice."""
    least = int(np.ceil(LEAST_AREA / np.prod(layer.sampling)))
    limits = np.unique(np.quantile(values[layer.lit], 1 - np.geomspace(0.003, 0.2, LIMITS)))
    masks = [without_small((values > limit) & layer.lit, least) for limit in limits]
    return max((mask_scores(layer, mask) for mask in masks), key=lambda found: found["Dice"])


def published(layer: Layer, readings: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Rows of the published recipe, for given weak patches (patch_y, patch_x, frame); the best reading counts."""
    near, far = layer.lit & (layer.away < NEAR), layer.lit & (layer.away > FAR)
    sums = [
        integrate_beams.kernel(
            np.moveaxis(layer.counts, 0, -1),
            {"phi": layer.phi},
            layer.lit,
            layer.peak,
            layer.width,
            np.True_,
            p_weak=weak.astype(np.float32),
            background="none",
            legacy=True,
        )["weak"]
        for weak in readings
    ]
    total = max(sums, key=lambda image: auc(image, near, far))
    contrast = published_contrast(np.where(layer.lit, total, np.nan))
    return {
        f"sum, above {PUBLISHED_LIMIT}": scores(layer, total, total > PUBLISHED_LIMIT),
        f"enhanced, above {PUBLISHED_LIMIT}": scores(layer, contrast, contrast > PUBLISHED_LIMIT),
        "sum, threshold by truth": scores(layer, total) | best_mask(layer, total),
    }


def single_frame(layer: Layer) -> dict[str, float]:
    """Row of the frame of largest AUC, with the threshold of largest Dice."""
    near, far = layer.lit & (layer.away < NEAR), layer.lit & (layer.away > FAR)
    best = max(layer.counts, key=lambda frame: auc(frame, near, far)).astype(np.float64)
    return scores(layer, best) | best_mask(layer, best)


def turned(store: Path, layer: Layer) -> dict[str, float]:
    """Row of the misorientation of the centre of mass over 0.5 um, with the threshold of largest Dice."""
    found = dfxm_dask.open_scan(store)["rocking"].kam[0].values
    finite = np.where(np.isfinite(found), found, 0.0)
    return scores(layer, finite) | best_mask(layer, finite)


def chance(layer: Layer, mask: np.ndarray) -> dict[str, float]:
    """Row of our mask shifted to random positions: means over copies."""
    rng = np.random.default_rng(0)
    moved = [np.roll(mask, rng.integers(mask.shape), (0, 1)) for _ in range(COPIES)]
    rows = [mask_scores(layer, copy) for copy in moved]
    return {column: float(np.mean([row[column] for row in rows])) for column in rows[0]}


def ours(store: Path, layer: Layer, name: str) -> dict[str, dict[str, float]]:
    """Rows of the maps and mask in the store."""
    beams = dfxm_dask.open_scan(store)["beams"]
    enhanced, weak, mask = (beams[n][0].values for n in ("weak_enhanced", "weak", "defects"))
    turning = (beams.defects_rotation[0].values & 1) > 0
    return {
        f"ours ({name}): enhanced": scores(layer, enhanced, mask),
        f"ours ({name}): its mask, with rotation": mask_scores(layer, turning),
        f"ours ({name}): weak": scores(layer, weak),
    }


def rows_of(cache: Path, preset: str, seed: int, beam: StrongBeam, network: str | None) -> dict[str, dict[str, float]]:
    """All rows for one layer."""
    with tempfile.TemporaryDirectory() as folder:  # on a copy, so that results of older versions are not reused
        store = Path(shutil.copytree(simulated(cache, preset, seed, beam), Path(folder) / "scan.zarr"))
        return rows_in(store, preset, seed, beam, network)


def rows_in(store: Path, preset: str, seed: int, beam: StrongBeam, network: str | None) -> dict[str, dict[str, float]]:
    """All rows for the layer in a store, on which the recipe runs."""
    (phantom,) = build(preset, layers=1, shape=SHAPE, seed=seed, strong_beam=beam)
    scale = reference(store) if phantom.lighting.attenuation or phantom.lighting.jitter else None
    run(store, "lcnn", "fused", scale)
    layer = opened(store, phantom, scale)
    rows = ours(store, layer, "network and prior")
    run(store, "prior", "pixel", scale)
    rows = ours(store, layer, "prior") | rows
    patches = {"patches by truth": layer.readings}
    if network is not None:
        found = classify_beams.kernel(
            np.moveaxis(layer.counts, 0, -1),
            {"phi": layer.phi},
            layer.lit,
            layer.peak,
            layer.width,
            method="lcnn",
            weights=network,
        )["p_weak"]
        patches["patches by its network"] = [found > 0.5, ~(found <= 0.5)]
    for by, readings in patches.items():
        rows |= {f"published, {by}: {name}": row for name, row in published(layer, readings).items()}
    rows["KAM over 0.5 um, threshold by truth"] = turned(store, layer)
    rows["best single frame by truth, threshold by truth"] = single_frame(layer)
    rows["ours (prior), moved elsewhere"] = chance(layer, dfxm_dask.open_scan(store)["beams"].defects[0].values)
    return rows


def table(every: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Means over layers as Markdown."""
    head = ["preset", "map", *COLUMNS]
    out = [head, ["---"] * 2 + ["---:"] * len(COLUMNS)]
    for preset, layers in every.items():
        for name in layers[0]:
            known = [[row[name][c] for row in layers if np.isfinite(row[name].get(c, np.nan))] for c in COLUMNS]
            out.append([preset, name, *(f"{np.mean(v):.3f}" if len(v) == len(layers) else "–" for v in known)])
    return "\n".join("| " + " | ".join(line) + " |" for line in out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the simulated scans")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help=f"seeds of layers (default: {SEEDS})")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--published", metavar="FILE", help="weights of the published network (.safetensors)")
    parser.add_argument("--strong-beam", default="smeared", choices=get_args(StrongBeam))
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    beam = given.strong_beam
    every = {p: [rows_of(given.cache, p, seed, beam, given.published) for seed in given.seeds] for p in given.presets}
    print(f"{len(given.seeds)} layers of {SHAPE[0]} × {SHAPE[1]} pixels for each preset, seeds {given.seeds}, {beam}\n")
    print(table(every))


if __name__ == "__main__":
    main()
