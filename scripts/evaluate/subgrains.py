"""Subgrains of simulated scans against the true ones: adjusted Rand index and F1 of the boundaries.

``python scripts/evaluate/subgrains.py multigrain:10 easy:10 [--layers 3] [--shape 512,512]`` prints a row for each
preset and seed.
"""

from __future__ import annotations

import argparse
import sys
from itertools import combinations
from pathlib import Path

import dask
import numpy as np
import xarray as xr

import dfxm_dask
from dfxm_dask.optics.defects.scene import sector, skew
from dfxm_dask.optics.forward import deviation
from dfxm_dask.phantoms.lazy_scan import lazy_scan
from dfxm_dask.phantoms.phantom import Phantom, coordinates
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.render import bragg, outline

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.evaluate.label_scores import adjusted_rand, boundary_f1

FAINT = 1e-3
"""Walls with a smaller step along phi (degree) are not decidable: the lattice of the preset bends by 0.86e-3 degree."""
TAU = 1.0  # um


def true_divisions(phantom: Phantom) -> list[np.ndarray]:
    """True subgrains (z, y, x), 0 outside the crystal, once for each choice of faint walls that are left out."""
    y, x = coordinates(phantom)
    px, py = np.broadcast_to(x, (y.size, x.size)).ravel(), np.repeat(y, x.size)
    codes, lit, steps = [], [], {}
    for z in phantom.z:
        pz, code, turned = np.full(px.size, z), np.zeros(px.size, np.int64), np.zeros((3, px.size))
        for junction in phantom.scene.junctions:
            part = sector(junction, px, py, pz)
            code, turned = 4 * code + part, turned + junction.rotations[part].T
        away = deviation(skew(turned), phantom.at).reshape(-1, 3) @ bragg(phantom)
        for one in np.unique(code):
            steps[int(one)] = -np.rad2deg(away[np.flatnonzero(code == one)[0]] / phantom.at.moves["phi"][0])
        codes.append(code.reshape(y.size, x.size))
        lit.append(outline(phantom, z)[0])
    code, inside = np.stack(codes), np.stack(lit)
    names = np.unique(code[inside])
    number = np.searchsorted(names, code).clip(0, len(names) - 1)
    touching = set()
    for axis in range(3):
        n, m = np.moveaxis(number, axis, 0), np.moveaxis(inside, axis, 0)
        both = m[1:] & m[:-1] & (n[1:] != n[:-1])
        touching |= {(min(p), max(p)) for p in zip(n[1:][both].tolist(), n[:-1][both].tolist(), strict=True)}
    faint = sorted(p for p in touching if abs(steps[int(names[p[0]])] - steps[int(names[p[1]])]) < FAINT)
    found = []
    for count in range(len(faint) + 1):
        for chosen in combinations(faint, count):
            same = np.arange(len(names))
            for a, b in chosen:
                same[same == same[a]] = same[b]
            found.append(np.where(inside, same[number] + 1, 0))
    return found


def maps_of(phantom: Phantom) -> xr.Dataset:
    """Centre of mass with its error, and flags, of a simulated scan."""
    raw = lazy_scan(phantom)["raw"].to_dataset()
    camera, exposure = phantom.detector, phantom.lighting.exposure
    noise = np.full(raw.sizes["z"], camera.read_noise + camera.read_noise_rate * exposure, np.float32)
    raw = raw.assign(noise=("z", noise, {"units": "count"}))
    level = camera.offset + camera.offset_rate * exposure
    layers = []
    for z in range(raw.sizes["z"]):
        one = raw.isel(z=[z]).load()
        maps = dfxm_dask.moments(one, background=level, noise_cut=5)[["com_phi", "flags"]]
        errors = dfxm_dask.moment_errors(one, background=level, noise_cut=5, gain=1 / camera.gain)[["com_phi_error"]]
        layers.append(maps.merge(errors).compute())
    return xr.concat(layers, "z")


def scores(name: str, seed: int, layers: int, shape: tuple[int, int]) -> str:
    """A row of the table."""
    phantom = build(name, layers=layers, shape=shape, seed=seed)[0]
    maps = maps_of(phantom)
    maps = maps.merge(dfxm_dask.segment_layers(maps).compute())
    table = dfxm_dask.link_segments.gather(maps)
    found = dfxm_dask.regions(maps.merge(table))["region"].values
    rows = [(adjusted_rand(found, truth), truth) for truth in true_divisions(phantom)]
    best, truth = max(rows, key=lambda row: row[0])
    exact = boundary_f1(found, truth, phantom.pixel, TAU)
    true, limit = len(np.unique(truth[truth > 0])), 1e3 * float(table["step_threshold"])
    return f"| {name} {seed} | {best:.3f} | {exact:.2f} | {table.sizes['region_id']} | {true} | {limit:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="+", help="preset:seed")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--shape", default="512,512")
    given = parser.parse_args()
    height, width = (int(n) for n in given.shape.split(","))
    print("| scan | adjusted Rand index | boundary F1 at 1 um | regions | true regions | threshold, mdeg |", flush=True)
    for scan in given.scans:
        name, seed = scan.split(":")
        with dask.config.set(scheduler="synchronous"):
            print(scores(name, int(seed), given.layers, (height, width)), flush=True)


if __name__ == "__main__":
    main()
