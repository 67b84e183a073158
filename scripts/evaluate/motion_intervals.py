"""Stated intervals of the motion of dislocations against the truth.

``python scripts/evaluate/motion_intervals.py --seeds 1000 1299 --frames 60`` simulates tracks with spread, memory and
localisation noise of the preset ``movie`` and prints, for every quantity, the part of the tracks with a value, the
part of these within one stated error of the truth (0.68 is right), the median over the truth, and the median stated
error over the truth. ``--stated 0.8`` states localisation errors that are 20 % too small.
"""

from __future__ import annotations

import argparse

import numpy as np
from walks import NOISE, ou_path

from dfxm_dask.dynamics.motion import motion

SPREAD, MEMORY, STEP = 0.35, 2.0, 0.25
APART = np.array([0.0, 3.0])


def evaluate(frames: int, seeds: range, stated: float, exposure: float) -> None:
    """Print the table of one kind of track: two dislocations 3 um apart."""
    found: dict[str, list[np.ndarray]] = {}
    fine = 40 if exposure else 1
    for seed in seeds:
        rng = np.random.default_rng(seed)
        within = exposure * np.arange(fine) / fine
        moments = (STEP * np.arange(frames)[:, None] + within).ravel()
        path = ou_path(rng, moments, np.stack([0 * APART, APART]), SPREAD, MEMORY).reshape(frames, fine, 2, 2).mean(1)
        path += rng.normal(size=path.shape) * NOISE
        frame = np.repeat(np.arange(frames), 2)
        errors = [np.full(2 * frames, n * stated) for n in NOISE]
        table = motion.kernel(
            frame, STEP * frame, *path.reshape(-1, 2).T, *errors, np.tile([0, 1], frames), exposure=exposure
        )
        result = motion.finish(table)
        for name, values in result.items():
            found.setdefault(name, []).append(values[0])
    lag = result["msd_lag"]
    variance = SPREAD**2
    rate = 2 * variance  # of the relative motion
    truth = {
        "stiffness": 1 / variance,
        "diffusivity": variance / MEMORY,
        "relaxation_time": MEMORY,
        "rms_position": SPREAD * np.sqrt(2),
        "stiffness_axis": 1 / variance,
        "diffusivity_axis": variance / MEMORY,
        "rest_position": 0.0,
        "velocity": 0.0,
        "neighbour_distance": 3.0,
        "neighbour_correlation": 0.0,
        "lindemann": np.sqrt(2 * rate) / 3.0,
        "msd": 4 * variance * -np.expm1(-lag / MEMORY),
    }
    for name, right in truth.items():
        values, errors = np.array(found[name]), np.array(found[f"{name}_error"])
        known = np.isfinite(values)
        inside = (np.abs(values - right) <= errors)[known].mean()
        scale = np.where(np.asarray(right) == 0, 1.0, right)
        ratio, width = np.nanmedian(values / scale), np.nanmedian(errors / scale)
        print(f"| {name} | {known.mean():.2f} | {inside:.2f} | {ratio:.3f} | {width:.3f} |")
        if f"{name}_range" in found:
            low, high = np.array(found[f"{name}_range"]).T
            covered = ((low <= right) & (right <= high))[known].mean()
            print(f"| {name}_range | | {covered:.2f} | | |")
        if name == "msd":
            print("| by lag | ", " ".join(f"{c:.2f}" for c in (np.abs(values - right) <= errors).mean(axis=0)), "|")


def main() -> None:
    """Evaluate one kind of track."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs=2, type=int, default=(1000, 1199))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--stated", type=float, default=1.0, help="stated over true localisation error")
    parser.add_argument("--exposure", type=float, default=0.0, help="positions are means over this time, s")
    given = parser.parse_args()
    evaluate(given.frames, range(given.seeds[0], given.seeds[1] + 1), given.stated, given.exposure)


if __name__ == "__main__":
    main()
