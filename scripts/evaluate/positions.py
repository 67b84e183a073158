"""Positions of dislocation cores on simulated images of the localisation study: errors and coverage of the posteriors.

``python scripts/evaluate/positions.py errors --seed 101 --trials 60`` prints one line per character and noise: median
and largest error (nm, in the plane across the line) of the posterior mean and of the best optimum, and the parts of
trials whose true position lies in the 68 % and 95 % ellipses of the posterior and of the curvature at the optimum
(Laplace).
``--model`` is legacy (published), corrected, or fine: the corrected image, averaged over 5 × 5 points of a pixel and 24
heights, evaluated with the point-sampled model. ``--free`` also fits brightness and background.

``published`` descends from the middle of the prior only; ``characters`` compares all 12 characters by evidence;
``movie`` runs the reduction on every fourth frame of the preset ``movie`` with its true positions as detections, and
counts the ellipses of positions in the image; ``--movies`` is a folder for simulated counts.
``pairs`` locates two dislocations 300 nm apart; ``quadrature`` compares evidences with a dense grid.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from dfxm_dask.dynamics.cores.likelihood import Window, descend
from dfxm_dask.dynamics.cores.model import Camera, Nuisances, locate_cores, spread_points, study_optics, window_of
from dfxm_dask.dynamics.cores.posterior import CAP, MOST, TOLERANCE, _terms, one_core, optima
from dfxm_dask.dynamics.cores.search import starts
from dfxm_dask.dynamics.cores.step import locate
from dfxm_dask.optics.core_image import COUNTS, PRIOR_WIDTHS, image_to_dislocation
from dfxm_dask.optics.core_kernel import PIXEL, PIXELS, sheet_nodes
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.optics.line_images import Optics, core_images
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import exposures
from dfxm_dask.phantoms.scans import simulate

PLACE = PIXEL * (np.arange(PIXELS) - (PIXELS - 1) / 2)
NOISE = {"low": (0.05, 0.01), "high": (0.10, 0.05)}
TAN = float(np.tan(2 * find_microscope("brennan_al002").theta))
SCALE = 1e3 * COUNTS
INSIDE = -2 * np.log(1 - np.array([0.68, 0.95]))  # squared radius of the ellipses of a normal distribution


class Trial(NamedTuple):
    """A simulated image in its window, and the truth."""

    window: Window
    position: np.ndarray


def half_box(character: int) -> np.ndarray:
    """Half widths of the prior along y and x, um."""
    return 0.5e-3 * PRIOR_WIDTHS[character - 1] * [1, TAN]


def fine(optics: Optics) -> Optics:
    """The same optics with a pixel averaged over 5 x 5 points of 24 heights."""
    nodes, weights = sheet_nodes(24, find_microscope("brennan_al002").sheet)
    return spread_points(optics._replace(points=np.outer(nodes, [1 / TAN, 0, 1]), weights=weights), (PIXEL, PIXEL), 5)


def trial(
    lines: np.ndarray,
    positions: np.ndarray,
    box: np.ndarray,
    optics: Optics,
    truth: Optics,
    noise: str,
    rng: np.random.Generator,
    free: bool = False,
) -> Trial:
    """Image with the noise of the study and its window."""
    signal = np.empty((PIXELS, PIXELS))
    core_images(PLACE, PLACE, positions, lines, truth, signal, np.empty((0, 0, 0)))
    signal *= SCALE
    background, readout = signal.max() * np.array(NOISE[noise])
    counts = rng.normal(signal + background, np.sqrt(signal + background + readout**2))
    known = Nuisances() if free else Nuisances(scale=(SCALE, 0.0), background=(background, 0.0))
    return Trial(window_of(counts, PLACE, PLACE, optics, box, Camera(read_noise=readout), known), positions)


def covered(off: np.ndarray, covariance: np.ndarray) -> list[float]:
    """Whether the offset lies in the 68 % and the 95 % ellipse."""
    square = off @ np.linalg.solve(covariance, off)
    return [float(square < one) for one in INSIDE]


def shown(name: str, rows: np.ndarray) -> None:
    """One line of results."""
    mean, optimum = rows[:, 0], rows[:, 1]
    parts = 100 * rows[:, 2:6].mean(axis=0)
    print(
        f"{name:>4}: mean {np.median(mean):.2f} (95 % {np.percentile(mean, 95):.1f}, most {mean.max():.1f}),"
        f" optimum {np.median(optimum):.2f} (most {optimum.max():.1f}) nm; 68/95 %: {parts[0]:.0f}/{parts[1]:.0f},"
        f" Laplace {parts[2]:.0f}/{parts[3]:.0f}; refused {100 * rows[:, 6].mean():.0f} %, chi2 {rows[:, 7].mean():.2f}"
        f" ({rows[:, 7].max():.2f}), {1e3 * np.median(rows[:, 8]):.0f} ms",
        flush=True,
    )


def errors(arguments: argparse.Namespace) -> None:
    """Errors and coverage of single cores of known character."""
    legacy = arguments.model == "legacy"
    optics, table = study_optics(legacy)
    truth = fine(optics) if arguments.model == "fine" else optics
    for noise in arguments.noise:
        print(f"{noise} noise, {arguments.model}{', brightness and background fitted' if arguments.free else ''}")
        every = []
        for character in arguments.characters:
            line, half = table[character - 1 : character], half_box(character)
            rows = []
            for number in range(arguments.trials):
                rng = np.random.default_rng([arguments.seed, character, number])
                position = rng.uniform(-half, half)[None]
                one = trial(line, position, np.array([-half, half]), optics, truth, noise, rng, arguments.free)
                clock = time.process_time()
                if arguments.task == "published":
                    begin = np.concatenate([[0.0, 0.0], one.window.mean])
                    here, _, chi2, information, _, _ = descend(one.window, line, begin, CAP, TOLERANCE, MOST)
                    found, covariance, flags = here[:2], np.linalg.inv(information)[:2, :2], 0
                    best, laplace = found, covariance
                else:
                    begin = starts(one.window, line, 4)
                    made = one_core(one.window, line, begin)
                    found, covariance, flags, chi2 = made.position[0], made.covariance, made.flags, made.chi2
                elapsed = time.process_time() - clock
                if arguments.task != "published":
                    first = optima(one.window, line, begin)[0]
                    best, laplace = first.parameters[:2], first.covariance[:2, :2]
                off, optimum = found - position[0], best - position[0]
                lengths = [
                    np.linalg.norm(image_to_dislocation(1e3 * d / [1, TAN], character, legacy=legacy))
                    for d in (off, optimum)
                ]
                hit = [*covered(off, covariance), *covered(optimum, laplace)]
                rows.append([*lengths, *hit, float(flags != 0), chi2, elapsed])
            shown(str(character), np.array(rows))
            every += rows
        shown("all", np.array(every))


def characters(arguments: argparse.Namespace) -> None:
    """The character of one core by evidence, among all 12; the prior is the widest box."""
    optics, table = study_optics(arguments.model == "legacy")
    box = np.array([[-0.75, -0.3], [0.75, 0.3]])
    for noise in arguments.noise:
        right, tied, margins, elapsed = [], 0, [], []
        for character in arguments.characters:
            half = np.minimum(half_box(character), box[1])
            for number in range(arguments.trials):
                rng = np.random.default_rng([arguments.seed, character, number])
                position = rng.uniform(-half, half)[None]
                one = trial(table[character - 1 : character], position, box, optics, optics, noise, rng, arguments.free)
                clock = time.process_time()
                made = locate_cores(one.window, table)
                elapsed.append(time.process_time() - clock)
                order = np.sort(made.log_evidence)
                right.append(made.characters[0] == character - 1)
                tied += bool(made.possible.sum() > 1)
                margins.append(order[-1] - order[-2])
        print(
            f"{noise} noise: right {100 * np.mean(right):.1f} % of {len(right)}, ties {tied}, least margin"
            f" {min(margins):.0f}, {1e3 * np.median(elapsed):.0f} ms"
        )


def pairs(arguments: argparse.Namespace) -> None:
    """Two dislocations of one character, 300 nm apart in the plane of the image."""
    optics, table = study_optics(arguments.model == "legacy")
    for noise in arguments.noise:
        largest, hits, elapsed, flags = [], [], [], 0
        for character in arguments.characters:
            lines = np.repeat(table[character - 1 : character], 2, axis=0)
            for number in range(arguments.trials):
                rng = np.random.default_rng([arguments.seed, character, number])
                azimuth = rng.uniform(0, 2 * np.pi)
                apart = 0.15 * np.array([np.cos(azimuth), np.sin(azimuth)])
                middle = rng.uniform(-0.1, 0.1, 2)
                true = np.stack([middle - apart, middle + apart])
                true = true[np.lexsort(true.T[::-1])]
                box = np.tile([[-0.5], [0.5]], 4)
                one = trial(lines, true, box, optics, optics, noise, rng, arguments.free)
                clock = time.process_time()
                made = locate_cores(one.window, table[character - 1 : character], 2).best
                elapsed.append(time.process_time() - clock)
                flags += made.flags != 0
                if not np.isfinite(made.position).all():
                    largest.append(np.inf)
                    continue
                off = made.position - true
                largest.append(1e3 * np.linalg.norm(off, axis=1).max())
                if made.flags == 0:
                    hits += [covered(off[k], made.covariance[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]) for k in range(2)]
        parts = 100 * np.mean(hits, axis=0)
        within = 100 * np.mean(np.array(largest) < 10)
        print(
            f"{noise} noise: both within 10 nm {within:.0f} % of {len(largest)}, larger error median"
            f" {np.median(largest):.2f} nm (95 % {np.percentile(largest, 95):.1f}, most {np.max(largest):.1f}),"
            f" 68/95 %: {parts[0]:.0f}/{parts[1]:.0f} of {len(hits)}, refused {flags},"
            f" {np.median(elapsed):.2f} s a pair"
        )


def movie(arguments: argparse.Namespace) -> None:
    """The reduction on a simulated movie, detections from the truth; errors refer to the drifting image."""
    every = []
    for seed in arguments.seeds:
        made = build("movie", seed=seed)[0]
        file = arguments.movies / f"movie_{seed}.npz"
        if not file.exists():
            counts = np.asarray(simulate("movie", seed=seed)["raw"].counts.values)[0]
            np.savez_compressed(file, c=counts)
        frames = np.arange(0, 60, 4)
        counts = np.moveaxis(np.load(file)["c"].reshape(60, *made.shape)[frames], 0, -1)
        assert made.motion is not None
        pixel = np.array(made.pixel)
        true = made.motion.position[frames] + exposures(made, 0)["drift"][frames][:, None] * pixel
        number = np.repeat(np.arange(frames.size), true.shape[1])
        off = np.random.default_rng(seed).normal(0, [0.01, 0.03], (number.size, 2))
        row, column = ((true.reshape(-1, 2) + off) / pixel).T
        sides = [np.arange(n) * p for n, p in zip(made.shape, made.pixel, strict=True)]
        crystal = Lattice(**made.crystal["lattice"], hkl=tuple(made.crystal["hkl"]))
        clock = time.process_time()
        found = locate.kernel(counts, *sides, number, row, column, lattice=crystal, angle=0.0126, sheet=0.2)
        elapsed = (time.process_time() - clock) / number.size
        error = found["position"] - true.reshape(-1, 2)
        covariance = found["position_covariance"]
        valid = np.isfinite(covariance).all((1, 2))
        hit = np.array([covered(e, c) for e, c in zip(error[valid], covariance[valid], strict=True)])
        sign = np.sign([made.scene.lines["burgers"][k] @ made.scene.lines["burgers"][0] for k in range(true.shape[1])])
        length = 1e3 * np.linalg.norm(error, axis=1)
        every.append((hit, length[valid]))
        print(
            f"seed {seed}: {valid.sum()} of {number.size} with interval, error median {np.median(length[valid]):.1f}"
            f" (most {length[valid].max():.1f}) nm, 68/95 %: {np.round(100 * hit.mean(0))}, "
            f"ties {np.mean(found['core_ties'][valid] > 0):.2f}, characters"
            f" {[np.bincount(found['core_character'][valid & (np.tile(sign, frames.size) == s)]) for s in (1, -1)]},"
            f" {elapsed:.2f} s a core, reasons {np.unique(found['locate_reason'], return_counts=True)}",
            flush=True,
        )
    hits, lengths = (np.concatenate(part) for part in zip(*every, strict=True))
    print(f"all: {len(hits)} cores, median {np.median(lengths):.1f} nm, 68/95 %: {np.round(100 * hits.mean(0))}")


def quadrature(arguments: argparse.Namespace) -> None:
    """Evidence against a grid of 0.25 nm over the whole neighbourhood, without interpolation."""
    optics, table = study_optics(arguments.model == "legacy")
    for noise in arguments.noise:
        for character in arguments.characters:
            line, half = table[character - 1 : character], half_box(character)
            rng = np.random.default_rng([arguments.seed, character])
            position = rng.uniform(-half, half)[None]
            one = trial(line, position, np.array([-half, half]), optics, optics, noise, rng)
            made = one_core(one.window, line, starts(one.window, line, 4))
            reach = 5 * np.sqrt(np.diag(made.covariance))
            sides = [np.arange(-r, r, 2.5e-4) for r in reach]
            grid = made.position[0] + np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
            samples = np.column_stack([grid, np.tile(one.window.mean, (len(grid), 1))])
            weights = -_terms(one.window, line, samples, False)[:, 0]
            evidence = logsumexp(weights) + np.log(2.5e-4**2) - np.log(np.prod(2 * half))
            part = np.exp(weights - logsumexp(weights))
            mean = part @ grid
            spread = np.sqrt(part @ (grid - mean) ** 2)
            best = optima(one.window, line, starts(one.window, line, 4))[0]
            laplace = -best.value + 0.5 * np.linalg.slogdet(2 * np.pi * best.covariance[:2, :2])[1]
            laplace -= np.log(np.prod(2 * half))
            print(
                f"{noise} noise, character {character}: log evidence {made.log_evidence - evidence:+.3f} of the"
                f" grid (Laplace {laplace - evidence:+.2f}), mean off"
                f" {1e3 * np.linalg.norm(mean - made.position[0]):.3f} nm, standard deviations"
                f" {np.sqrt(np.diag(made.covariance)) / spread}"
            )


def main() -> None:
    """Read the arguments and run one study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("errors", "published", "characters", "pairs", "quadrature", "movie"))
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--model", choices=("legacy", "corrected", "fine"), default="corrected")
    parser.add_argument("--noise", nargs="+", choices=tuple(NOISE), default=list(NOISE))
    parser.add_argument("--characters", type=int, nargs="+", default=list(range(1, 13)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--movies", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--free", action="store_true")
    arguments = parser.parse_args()
    tasks = {"characters": characters, "pairs": pairs, "quadrature": quadrature, "movie": movie}
    tasks.get(arguments.task, errors)(arguments)


if __name__ == "__main__":
    main()
