"""Stated errors of the maps of rocking curves against their scatter over repeated scans, in simulations.

``python scripts/evaluate/errors.py --seed 11`` prints one line per noise and flux (total signal counts of a curve):
the peak in units of the dark noise and the part of lit pixels; then for the centre of mass, the standard deviation, the
width, the sum, the maximum and its position the median over pixels of the stated error over the scatter of 200 scans,
and the part of results within one stated error (0.68 is right); the split of the centre over the stated error; and the
standard deviation and the width over the true one, with the part of pixels with a width. "-" is fewer than 20 results
of every pixel. ``--background map`` subtracts the step ``background`` of each scan instead of the true 100 counts.
``kam`` prints the errors of KAM; ``floor`` prints centres and widths of truncated curves with the background of each
pixel and with that of unlit pixels.

Noise is that of a camera (offset 100, 2 counts, and photons) or of photons alone on a pedestal of 100 counts.
"""

from __future__ import annotations

import argparse

import numpy as np

from dfxm_dask.frames import background
from dfxm_dask.rocking import kam, moment_errors, moments, unlit_background

DRAWS, PIXELS, FRAMES, FLUXES = 200, 100, 61, (20, 60, 100, 150, 200, 300, 500, 1000, 2000, 5000, 20000)
DARK = {"camera": float(np.hypot(2, 12**-0.5)), "photons": 10.0}


def draw(rng: np.random.Generator, noise: str, curves: np.ndarray, draws: int) -> np.ndarray:
    """Counts (draw, pixel, frame) of expected curves."""
    size = (draws, *curves.shape)
    if noise == "camera":
        return np.rint(100 + rng.normal(0, 2, size) + rng.poisson(curves, size)).clip(0).astype(np.uint16)
    return rng.poisson(100 + curves, size).astype(np.uint16)


def against(values: np.ndarray, errors: np.ndarray, true: np.ndarray | None = None) -> str:
    """Median of stated over scatter, and part of results within the stated error of their mean (or the truth)."""
    known = np.isfinite(values) & np.isfinite(errors)
    enough = known.sum(axis=0) >= 20
    if not enough.any():
        return "-"
    values, errors = np.where(known, values, np.nan)[:, enough], np.where(known, errors, np.nan)[:, enough]
    centre = np.nanmean(values, axis=0, dtype=float) if true is None else true[enough]
    scatter = np.sqrt(np.nanmean((values - centre) ** 2, axis=0))
    within = (np.abs(values - centre) < errors)[np.isfinite(errors)].mean()
    return f"{np.median(np.nanmedian(errors, axis=0) / scatter):.2f} {within:.2f}"


def scatter(seed: int, fwhm: float, by_map: bool) -> None:
    """The table of moments."""
    rng = np.random.default_rng(seed)
    print(
        "| noise, flux | peak | lit | com | split | std | width | total | peak | peak at | std / true | width / true |"
    )
    print("|" + "---|" * 12)
    for noise in DARK:
        for flux in FLUXES:
            sigma, dark = fwhm / 2.3548, DARK[noise]
            centre, u = rng.uniform(-10, 10, PIXELS), np.arange(FRAMES) - (FRAMES - 1) / 2
            curves = np.exp(-0.5 * ((u - centre[:, None]) / sigma) ** 2) * flux / (sigma * np.sqrt(2 * np.pi))
            counts = draw(rng, noise, curves, DRAWS)
            given = {"noise": np.float32(dark), "noise_cut": 5.0}
            level = background.kernel(counts, {"a": u}, noise=given["noise"]) if by_map else {"background": 100.0}
            found = moments.kernel(counts, {"a": u}, **given, **level)
            stated = moment_errors.kernel(counts, {"a": u}, **given, **level)
            found["width_a"] = stated["width_a"]
            names = ("com_a", "std_a", "width_a", "total", "peak")
            cells = [against(found[n], stated[f"{n}_error"]) for n in names]
            cells.append(against(found["peak_a"], stated["peak_a_error"], centre))
            both = np.isfinite(stated["com_a_error"]) & np.isfinite(stated["com_a_split"])
            squares = (np.square(stated[n][both], dtype=float).mean() for n in ("com_a_split", "com_a_error"))
            split = "-" if both.mean() < 0.05 else f"{np.sqrt(next(squares) / next(squares)):.2f}"
            known = np.isfinite(found["width_a"])
            wide = f"{np.median(found['width_a'][known]) / sigma:.2f}" if known.mean() > 0.05 else "-"
            lit = np.isfinite(found["com_a"])
            thin = f"{np.median(found['std_a'][lit]) / sigma:.2f}" if lit.mean() > 0.05 else "-"
            row = [f"{noise} {flux}", f"{curves.max() / dark:.1f}", f"{lit.mean():.2f}", cells[0], split, *cells[1:]]
            print("|", " | ".join([*row, thin, f"{wide} ({known.mean():.2f})"]), "|")


def misorientations(seed: int) -> None:
    """Errors of KAM over 200 draws of centres with known errors, by the true misorientation in these errors."""
    rng = np.random.default_rng(seed)
    place = np.arange(30.0)
    print("| tilt per pixel / error | with error | kam | kam_excess | bias of kam_excess / scatter |")
    print("|---|---|---|---|---|")
    for slope in (0.0, 1.0, 2.0, 5.0, 20.0):
        true = slope * np.hypot(place[:, None], 0.5 * place)
        error = rng.uniform(0.5, 1.5, true.shape).astype(np.float32)
        each = [
            kam.kernel({"a": true + error * rng.normal(size=true.shape)}, place, place, com_error={"a": error})
            for _ in range(DRAWS)
        ]
        made = {n: np.stack([e[n] for e in each]).reshape(DRAWS, -1) for n in each[0]}
        exact = kam.kernel({"a": true}, place, place, com_error={"a": 0 * error})["kam_excess"].ravel()
        bias = ((made["kam_excess"].mean(0) - exact) / made["kam_excess"].std(0)).mean()
        share = np.isfinite(made["kam_error"]).mean()
        first = against(made["kam"], made["kam_error"]) if share > 0.5 else "-"
        print(
            f"| {slope:g} | {share:.2f} | {first} |",
            against(made["kam_excess"], made["kam_excess_error"], exact),
            f"| {bias:.3f} |",
        )


def floors(seed: int) -> None:
    """Truncated camera curves with a fifth of unlit pixels, with the background of each pixel and of unlit pixels."""
    rng = np.random.default_rng(seed)
    u, dark = np.arange(150.0) - 74.5, np.float32(DARK["camera"])
    print("| FWHM, steps | background | centre − true, steps (median) | std / true |\n|---|---|---|---|")
    for fwhm in (40.0, 80.0, 120.0):
        centre, sigma = rng.uniform(-45, 45, 1500), fwhm / 2.3548
        curves = 500 * np.exp(-0.5 * ((u - centre[:, None]) / sigma) ** 2)
        curves[:300] = 0
        counts, noiseless = draw(rng, "camera", curves, 1), moments.kernel(curves[None], {"a": u}, background=0.0)
        level = background.kernel(counts, {"a": u}, noise=dark)["background_map"]
        own = moments.kernel(counts, {"a": u}, level, noise=dark, noise_cut=5.0)
        floor = float(unlit_background.kernel(level, own["flags"])["unlit_background"])
        maps = {
            "of the pixel": own,
            "of unlit pixels": moments.kernel(counts, {"a": u}, background=floor, noise=dark, noise_cut=5.0),
        }
        for name, found in maps.items():
            lit = np.isfinite(found["com_a"]) & (curves.max(axis=1) > 0)
            away = np.median(np.abs(found["com_a"] - noiseless["com_a"])[lit])
            print(f"| {fwhm:g} | {name} | {away:.2f} | {np.median((found['std_a'] / noiseless['std_a'])[lit]):.3f} |")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=["moments", "kam", "floor"], default="moments")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fwhm", type=float, default=5.89)
    parser.add_argument("--background", choices=["known", "map"], default="known")
    chosen = parser.parse_args()
    if chosen.table == "kam":
        misorientations(chosen.seed)
    elif chosen.table == "floor":
        floors(chosen.seed)
    else:
        scatter(chosen.seed, chosen.fwhm, chosen.background == "map")


if __name__ == "__main__":
    main()
