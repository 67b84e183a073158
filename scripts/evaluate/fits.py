"""Stated errors of fitted peaks against their true errors, in simulations.

``python scripts/evaluate/fits.py --seeds 11 12`` prints one line per noise, number of frames, FWHM and model: the part
of curves with a good fit, the part of these with errors of FWHM, and for every parameter the median stated error over
the root mean square of the true errors, and the part of fits within one stated error of the truth (0.68 is right). "-"
is fewer than 2 % of curves.
``--summary`` leaves only the counts of how many are right.

Noise is equal in all frames, of a camera (2 counts and photons) or of photons alone, on a pedestal of 100 counts.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from dfxm_dask.rocking import fit_curves

CURVES = 4000
EQUAL = {500: 8, 2000: 20, 20000: 80}  # noise of a frame, in parts of the peak's height like that of photons
FEWEST = 0.02
PARAMETERS = {
    "centre": "fit_centre{}_a",
    "FWHM": "fit_fwhm{}_a",
    "height": "fit_amplitude{}",
    "background": "fit_background{}",
    "mixing": "fit_mixing{}",
}


def peak(model: str, s: np.ndarray) -> np.ndarray:
    """Height 1 at s = 0, with s in units of the FWHM."""
    mixing = {"gaussian": 0.0, "lorentzian": 1.0, "pseudo_voigt": 0.5}[model]
    return mixing / (1 + 4 * s * s) + (1 - mixing) * np.exp(-4 * np.log(2) * s * s)


def simulate(noise: str, flux: int, frames: int, width: int, model: str, seed: int) -> tuple[np.ndarray, list]:
    """Curves and their true parameters, in the order of PARAMETERS."""
    rng = np.random.default_rng(seed)
    u = np.arange(frames) - (frames - 1) / 2
    centre = rng.uniform(-0.5, 0.5, CURVES) + 0.1 * frames * rng.uniform(-1, 1, CURVES)
    height = flux / (width * (1.06 if model == "gaussian" else 1.5))
    signal = height * peak(model, (u - centre[:, None]) / width)
    if noise == "equal":
        curves = (100 + signal + rng.normal(0, EQUAL[flux] * height / flux, signal.shape)).astype(np.float32)
    elif noise == "camera":
        curves = np.rint(100 + rng.normal(0, 2, signal.shape) + rng.poisson(signal)).clip(0).astype(np.uint16)
    else:
        curves = rng.poisson(100 + signal).astype(np.uint16)
    return curves, [centre, width, height, 100.0, 0.5]


def evaluate(noise: str, flux: int, frames: int, width: int, model: str, seeds: list[int]) -> tuple[float, float, list]:
    """Part of good fits, part of these with errors, and (stated over true, coverage) of every parameter."""
    stated, errors, ok = [], [], []
    for seed in seeds:
        curves, true = simulate(noise, flux, frames, width, model, seed)
        maps = fit_curves.kernel(curves[None], {"a": np.arange(frames) - (frames - 1) / 2}, model=model)
        names = list(PARAMETERS.values())[: 5 if model == "pseudo_voigt" else 4]
        stated.append(np.stack([maps[name.format("_std")][0] for name in names]))
        errors.append(np.stack([maps[name.format("")][0] - t for name, t in zip(names, true, strict=False)]))
        ok.append(maps["fit_ok"][0])
    figures = []
    for std, error in zip(np.concatenate(stated, 1), np.concatenate(errors, 1), strict=True):
        known = np.isfinite(std)
        std, error = std[known], error[known]
        few = known.mean() < FEWEST
        figures.append(None if few else (np.median(std) / np.sqrt((error**2).mean()), (np.abs(error) < std).mean()))
    good = np.concatenate(ok)
    return good.mean(), np.isfinite(np.concatenate(stated, 1)[1]).sum() / max(good.sum(), 1), figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--models", nargs="+", default=["gaussian", "lorentzian", "pseudo_voigt"])
    parser.add_argument("--frames", type=int, nargs="+", default=[31, 61, 150])
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 3, 6, 15])
    parser.add_argument("--summary", action="store_true")
    chosen = parser.parse_args()
    if not chosen.summary:
        print("| model | noise, flux | frames | FWHM | good | with errors |", " | ".join(PARAMETERS), "|")
        print("|---|---|---|---|---|---|" + "---|" * len(PARAMETERS))
    seen: dict[str, list[tuple[float, float]]] = {}
    noises = itertools.product(("equal", "camera", "photons"), EQUAL)
    for model, (noise, flux), frames, width in itertools.product(chosen.models, noises, chosen.frames, chosen.widths):
        good, known, figures = evaluate(noise, flux, frames, width, model, chosen.seeds)
        for name, figure in zip(PARAMETERS, figures, strict=False):
            if figure is not None:
                seen.setdefault(f"{model} {name}", []).append(figure)
        cells = ["-" if figure is None else f"{figure[0]:.2f} {figure[1]:.2f}" for figure in figures]
        if not chosen.summary:
            print(
                f"| {model} | {noise} {flux} | {frames} | {width} | {good:.2f} | {known:.2f} |", " | ".join(cells), "|"
            )
    for name, values in seen.items():
        ratio, covered = np.array(values).T
        right = (ratio > 0.95) & (ratio < 1.1) & (covered > 0.64) & (covered < 0.72)
        print(
            f"{name}: {right.sum()} of {right.size} right; stated over true {ratio.min():.2f} to {ratio.max():.2f}, "
            f"coverage {covered.min():.2f} to {covered.max():.2f}"
        )


if __name__ == "__main__":
    main()
