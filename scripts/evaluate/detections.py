"""Positions of moving dislocations by `detect` against the truth of simulated movies, and false detections.

``PYTHONPATH=scripts python scripts/evaluate/detections.py --seeds 11 20`` prints one line per movie and method:
precision and recall at 2 pixels along each axis, rms of rows and columns, rms over the stated error, and the share of
errors within 1 and 1.96 stated errors. The truth does not contain the drift of the images, which is added to it.
``--empty 100`` counts detections in frames without dislocation (photon noise, read-out noise, fixed pattern, hot
pixels, stripes, flicker, and the border of the sample). ``--cache`` keeps simulated counts as npz. The model error
was chosen on seeds 1 to 4, 11 and 15.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from dfxm_dask.dynamics.detect import detect
from dfxm_dask.optics.instrument.beam import flux_series, stripes
from dfxm_dask.optics.instrument.blur import blur
from dfxm_dask.optics.instrument.detector import Detector, fixed_pattern, record
from dfxm_dask.phantoms.scans import simulate

NEAR = 2.0  # pixels along each axis


def movie(seed: int, cache: Path | None) -> dict[str, np.ndarray]:
    """Counts (frame, y, x), positions with drift (frame, dislocation, yx) in um, y and x of one simulated movie."""
    kept = cache / f"movie_{seed}.npz" if cache else None
    if kept is not None and kept.exists():
        with np.load(kept) as file:
            made = {name: file[name] for name in ("c", "pos", "y", "x", "drift")}
    else:
        tree = simulate("movie", seed=seed)
        truth, raw = tree["truth"], tree["raw"]
        made = {"c": raw["counts"].values[0], "pos": truth["position"].values, "drift": truth["drift"].values}
        made |= {"y": tree["y"].values, "x": tree["x"].values}
        if kept is not None:
            np.savez_compressed(kept, **made)
    made["pos"] = made["pos"] + made["drift"].reshape(-1, 1, 2)
    return made


def matched(true: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of true and found positions (pixels) within NEAR along both axes, each used once."""
    if not len(true) or not len(found):
        return np.zeros(0, int), np.zeros(0, int)
    apart = np.abs(true[:, None] - found[None])
    cost = np.where(apart.max(axis=2) <= NEAR, np.hypot(apart[..., 0], apart[..., 1]), 1e6)
    i, j = linear_sum_assignment(cost)
    near = cost[i, j] < 1e6
    return i[near], j[near]


def score(made: dict[str, np.ndarray], **options: object) -> str:
    """One line of figures of a movie."""
    y, x = made["y"], made["x"]
    time = 0.25 * np.arange(len(made["c"]))
    table = detect.finish(detect.kernel(np.moveaxis(made["c"], 0, -1), {"time": time}, y, x, **options))
    pitch = np.array([y[1] - y[0], x[1] - x[0]])
    hits, off, errors = 0, [], []
    for k, true in enumerate(made["pos"] / pitch):
        rows = table["frame"] == k
        found = np.stack([table["row"][rows], table["column"][rows]], axis=1)
        i, j = matched(true, found)
        hits += len(i)
        off.append(found[j] - true[i])
        errors.append(np.stack([table["y_error"][rows], table["x_error"][rows]], axis=1)[j] / pitch)
    apart, error = np.concatenate(off), np.concatenate(errors)
    precision, recall = hits / max(len(table["frame"]), 1), hits / made["pos"][..., 0].size
    line = f"precision {precision:.4f} recall {recall:.4f}"
    if hits:
        rms = np.sqrt((apart**2).mean(axis=0))
        stated = np.isfinite(error).all(axis=1)  # published positions and misfits have no error
        pull = np.abs(apart / error)[stated]
        line += f" rms {rms[0]:.3f} {rms[1]:.3f} px, with error {stated.mean():.3f} of the matched,"
        line += f" {stated.sum() / max(np.isfinite(table['y_error']).sum(), 1):.4f} of those with error are matched"
        if stated.any():
            line += f", over stated {np.sqrt((pull**2).mean()):.2f}, within 68 % {(pull < 1).mean():.3f}, 95 %"
            line += f" {(pull < 1.96).mean():.3f}"
    return line


def empty(frames: int, seed: int) -> int:
    """Detections in frames without dislocation."""
    shape, camera = (256, 256), Detector()
    rng = np.random.default_rng(seed)
    pattern = fixed_pattern(shape, camera, exposure=0.2, seed=seed)
    lit = np.zeros(shape)
    lit[15:, 18:] = 20.0
    beam = stripes(shape[0], rng, 0.1)[:, None]
    flux = flux_series(frames, rng, drift=0.1, top_up=0.1)
    counts = np.stack(
        [record(blur(lit * beam * f, camera), pattern, camera, exposure=0.2, rng=rng) for f in flux], axis=-1
    )
    y, x = 0.04 * np.arange(shape[0]), 0.1235 * np.arange(shape[1])
    return int(detect.finish(detect.kernel(counts, {}, y, x))["frame"].size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs=2, default=(11, 20), help="first and last seed")
    parser.add_argument("--empty", type=int, default=0, help="frames without dislocation")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--published", action="store_true", help="also the published recipe")
    given = parser.parse_args()
    if given.empty:
        print(f"{empty(given.empty, 1)} detections in {given.empty} frames without dislocation", flush=True)
    for seed in range(given.seeds[0], given.seeds[1] + 1):
        made = movie(seed, given.cache)
        print(seed, "matched", score(made), flush=True)
        if given.published:
            print(seed, "published", score(made, method="published"), flush=True)
            print(seed, "published, legacy", score(made, method="published", legacy=True), flush=True)


if __name__ == "__main__":
    main()
