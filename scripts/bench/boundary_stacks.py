"""Stacks with known walls and lines to score boundaries on: made once, kept, read again.

    python scripts/bench/boundary_stacks.py ours WORK al002 7001 --strong-beam smeared --layers 16 --shape 512,448
    python scripts/bench/boundary_stacks.py geo WORK wall --geo-python VENV/bin/python --remount S1 --flux 20000

``ours`` simulates a preset, ``geo`` runs the command line of dfxm-geo 3.0.0 in a Python of its own
(``python -m venv VENV; VENV/bin/pip install dfxm-geo==3.0.0``), one scan for each layer: WORK/geo_ideal keeps the
frames before its camera, which stacks of other fluxes and numbers of layers share. Either way the store is reduced by
the steps of ``weak_beam_volume`` that come before the gather; with --maps-only the maps are copied to NAME_maps.zarr
(``xarray.open_datatree``) and the store with its counts is deleted. The truth is written beside it as JSON: planes,
jumps, line families, Burgers vectors, in the axes x, y, z of the store and um.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

import dfxm_dask
from dfxm_dask.phantoms.presets import build
from dfxm_dask.phantoms.truth import tables

STEPS = """name: boundary_stack
description: Maps that boundaries are found from.
steps:
  - background: {method: quantile, quantile: 0.1}
  - moments: {noise_cut: 5}
  - local_peak: {}
  - classify_beams: {method: prior}
  - integrate_beams: {}
  - enhance_beams: {}
  - isolate_lines: {}
  - threshold_beams: {}
"""
STRONG_BEAMS = ("smeared", "none", "sharp")
ROWS = 510  # of a frame: away from z = 0 dfxm-geo 3.0.0 fails with any other number
EXPOSURE = 0.5  # s
GEO = """[reciprocal]
hkl = [-1, 1, -1]
keV = 17.0
backend = "analytic"
beamstop = false
eps_rms = 6.0e-5
[scan.phi]
range = 5.2e-4
steps = 31
[scan.z]
value = {z}
[crystal]
mode = "{mode}"
{crystal}
[detector]
model = "ideal"
[io]
include_perfect_crystal = false
write_strain_provenance = false
max_workers = 1
[postprocess]
enabled = false
"""


def reduced(store: Path, maps_only: bool) -> None:
    """Make the maps of a store; with ``maps_only`` they are copied beside it, and the store with its counts goes."""
    recipe = store.with_suffix(".yaml")
    recipe.write_text(STEPS)
    dfxm_dask.run_recipe(recipe, store)
    if maps_only:
        tree = dfxm_dask.open_scan(store)
        raw = tree["raw"].to_dataset().drop_vars("counts")
        kept = xr.DataTree.from_dict({f"/{name}": tree[name].to_dataset() for name in tree.children} | {"/raw": raw})
        kept.load().to_zarr(store.with_name(f"{store.stem}_maps.zarr"), mode="w", consolidated=False)
        shutil.rmtree(store)


def plain(value: Any) -> Any:
    """Arrays as lists and NaN as null, for JSON."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def finished(store: Path, truth: dict[str, Any]) -> Path:
    """Write the truth last: it marks a complete stack."""
    path = store.with_suffix(".json")
    path.write_text(json.dumps(plain_table(truth), indent=1))
    return path


def plain_table(truth: dict[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in truth.items()}


def ours(
    work: Path,
    preset: str,
    seed: int,
    strong_beam: str,
    layers: int | None,
    shape: tuple[int, int] | None,
    maps_only: bool,
) -> Path:
    """A stack of the simulator. Returns the file of its truth."""
    size = "default" if shape is None else "x".join(map(str, shape))
    store = work / f"{preset}-{seed}-{strong_beam}-{layers or 'default'}-{size}.zarr"
    if store.with_suffix(".json").exists():
        return store.with_suffix(".json")
    shutil.rmtree(store, ignore_errors=True)
    dfxm_dask.simulate(preset, store, layers=layers, shape=shape, seed=seed, strong_beam=strong_beam)
    reduced(store, maps_only)
    (phantom,) = build(preset, layers=layers, shape=shape, seed=seed, strong_beam=strong_beam)
    truth: dict[str, Any] = {name: values for name, (_, values, _) in tables(phantom).items() if name != "drift"}
    truth["jump"] = np.array([b.jump for b in phantom.boundaries])
    truth["along"] = [None if b.along is None else b.along.tolist() for b in phantom.boundaries]
    return finished(store, {"stack": store.stem, "strong_beam": strong_beam, **truth})


def there(python: Path, script: str, given: Any) -> str:
    """Run a script in the Python of dfxm-geo. Returns the last line that it prints."""
    told = subprocess.run([python, "-c", script, json.dumps(given)], check=True, text=True, stdout=subprocess.PIPE)
    return (told.stdout.splitlines() or [""])[-1]


def geo(
    work: Path,
    kind: str,
    python: Path,
    remount: str,
    flux: float,
    seed: int,
    layers: int,
    lines: int,
    spacing: float,
    maps_only: bool,
) -> Path:
    """A stack of dfxm-geo: a tilt wall of edges, or edges at random. Returns the file of its truth."""
    store = work / f"geo-{kind}-{remount}-{flux:g}-{seed}-{layers}-{lines}-{spacing:g}.zarr"
    if store.with_suffix(".json").exists():
        return store.with_suffix(".json")
    shutil.rmtree(store, ignore_errors=True)
    mode = {"wall": "wall", "random": "random_dislocations"}[kind]
    given: dict[str, Any] = {"dis": spacing, "ndis": lines, "sample_remount": remount}
    if kind == "random":
        if remount != "S1":
            raise SystemExit("--remount: only walls are turned; random lines have all directions of their slip systems")
        given = {"ndis": lines, "sigma": 8.0, "min_distance": 1.0, "seed": seed}
    crystal = f"[crystal.{mode}]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
    z = [float(k - layers // 2) for k in range(layers)]
    scene = f"{kind}-{remount}-{lines}-" + (f"{seed}" if kind == "random" else f"{spacing:g}")
    ideal = [work.resolve() / "geo_ideal" / scene / f"{height:g}" for height in z]
    asked = []
    for height, out in zip(z, ideal, strict=True):
        out.mkdir(parents=True, exist_ok=True)
        # Its z moves the lines up: the layer at height h sees them at -h.
        (out / "config.toml").write_text(GEO.format(z=-height, mode=mode, crystal=crystal))
        if not (out / "whole").exists():
            asked.append(str(out))
    run = store.with_suffix(".geo").resolve()
    shutil.rmtree(run, ignore_errors=True)
    if asked:
        there(python, GEO_FRAMES, asked)
    there(python, GEO_CAMERA, [list(map(str, ideal)), str(run), flux, EXPOSURE, seed])
    masters = [run / out.name / "dfxm_geo.h5" for out in ideal]
    with h5py.File(masters[0]) as file:
        theta = float(file["1.1/dfxm_geo/theta"][()])
    with h5py.File(masters[0].parent / "scan0001" / "dfxm_sim_detector_0000.h5") as file:
        frame = file["entry_0000/dfxm_sim_detector/image"].shape
    # From the first to the last pixel its grid spans as much along x as along y, by tan(2 theta) and 3.
    pitch = 0.04, 0.04 * (ROWS - 1) / np.tan(2 * theta) / 3 / (frame[2] - 1)
    dfxm_dask.ingest(masters, store, scan="1.1", pixel_size=pitch, z=z)
    reduced(store, maps_only)
    truth = geo_truth(python, {"mode": mode, mode: given}, remount, theta, frame[1:], pitch, spacing)
    made = {"stack": store.stem, "flux": flux, "simulator": "dfxm-geo 3.0.0"}
    shutil.rmtree(run)
    return finished(store, {**made, **truth})


GEO_FRAMES = """
import json, math, pathlib, shutil, sys, numba, numpy as np
from scipy.linalg import cho_solve
from dfxm_geo.cli import cli_main
from dfxm_geo.direct_space import forward_model as fm

@numba.njit
def add(base, phi, w, v, a, clip, norm, weights, pixels, image):
    scale = math.sqrt(a / 2)
    for k in range(base.shape[1]):
        x, y, z = base[0, k] + phi, base[1, k], base[2, k]
        b = v[0] * x + v[1] * y + v[2] * z
        square = (w[0, 0] * x * x + w[1, 1] * y * y + w[2, 2] * z * z
                  + 2 * (w[0, 1] * x * y + w[0, 2] * x * z + w[1, 2] * y * z))
        power = 0.5 * (b * b / a - square)
        if power > -50:
            cut = 0.5 * (math.erf((clip - b / a) * scale) - math.erf((-clip - b / a) * scale))
            image[pixels[k]] += norm * math.exp(power) * cut * weights[k]

def frame(base_qc, ctx, phi=0.0, chi=0.0, TwoDeltaTheta=0.0):
    assert chi == TwoDeltaTheta == 0
    p, field, box = ctx.resolution.analytic_eval, ctx.geometry, ctx.instrument
    turned = cho_solve(p._cho, field.Theta)
    image = np.zeros((box.NN2, box.NN1))
    add(np.ascontiguousarray(base_qc), phi, field.Theta.T @ turned, turned.T @ p.m_u, p.A, p.c, p.N0 / p._peak,
        np.ascontiguousarray(field.prob_z), np.ascontiguousarray(box.flat_indices), image.reshape(-1))
    return image / field.prob_z[: box.NN3].sum()

fm.forward_from_static = frame
layers = [pathlib.Path(out) for out in json.loads(sys.argv[1])]
fm._REPO_ROOT = layers[0].parent / "fields"
for out in layers:
    cli_main(["--config", str(out / "config.toml"), "--output", str(out), "--no-postprocess"])
    (out / "whole").touch()
shutil.rmtree(layers[0].parent / "fields", ignore_errors=True)
"""
"""Runs there: the frames of each layer before the camera. One process: it loads and compiles once. Its own acceptance
of a ray (``AnalyticResolution``) is compiled, which gives the same frames, within 2e-8 of the peak, 5 times faster. Its
fields of walls have names without the number of lines, and would be confused with those of another number."""

GEO_CAMERA = """
import json, pathlib, shutil, sys, h5py, numpy as np
from dfxm_geo.detector import PCO_EDGE_4P2_ID03 as camera
layers, run, flux, exposure, seed = json.loads(sys.argv[1])
for k, ideal in enumerate(map(pathlib.Path, layers)):
    out = pathlib.Path(run) / ideal.name
    shutil.copytree(ideal, out)
    with h5py.File(out / "scan0001" / "dfxm_sim_detector_0000.h5", "a") as file:
        image = file["entry_0000/dfxm_sim_detector"]
        frames = image["image"][()]
        del image["image"]
        sensor = camera.make_sensor_map(frames.shape[1:], np.random.default_rng(seed))
        noise = np.random.default_rng([seed, k])
        image["image"] = camera.apply(frames * (flux * exposure), exposure, noise, sensor)
    with h5py.File(out / "dfxm_geo.h5", "a") as file:
        phi, _ = file["1.1/title"].asstr()[()].split(" chi ")
        del file["1.1/title"]
        file["1.1/title"] = phi.replace("fscan2d", "fscan")
"""
"""Runs there: counts of its camera. The command line would draw another pattern of pixels in each layer, or, given
one seed, the same noise. The title loses chi, which does not move: its single position would be an axis of the maps."""


GEO_TRUTH = """
import json, sys, numpy as np
from dfxm_geo.crystal.remount import SAMPLE_REMOUNT_OPTIONS
from dfxm_geo.direct_space import forward_model as fm
from dfxm_geo.config import CrystalConfig
crystal, remount, theta, width = json.loads(sys.argv[1])
wall = crystal['mode'] == 'wall'
made = fm.build_dislocation_population(CrystalConfig.from_dict(crystal), width, None)
c, s = np.cos(theta), np.sin(theta)
turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
base = fm.Us.T @ SAMPLE_REMOUNT_OPTIONS[remount].T @ turn
out = [(base.T @ (fm.Ud if wall else u), p) for u, p in zip(made.Ud, made.positions_um)]
print(json.dumps({"frames": [f.tolist() for f, _ in out], "points": [(f @ p if wall else p).tolist() for f, p in out],
                  "axis": (turn.T @ fm.Us @ fm.Ud[:, 2]).tolist(), "b": made.b_um}))
"""
"""Runs there: columns (b, n, t) of every dislocation in the laboratory and a point of its line, um, from the centre of
the field; the axis that a wall turns the lattice about. Ud has the columns b, n, t. Of a wall
r_d = Ud^T Us^T S^T Theta r_l - position with the Ud of the module, another than that of its population; of random lines
Ud^T Us^T S^T Theta (r_l - position). The remount S turns positions, not the strain: q is projected by Us alone."""


def geo_truth(
    python: Path,
    crystal: dict[str, Any],
    remount: str,
    theta: float,
    frame: tuple[int, ...],
    pitch: tuple[float, float],
    spacing: float,
) -> dict[str, Any]:
    """Lines, Burgers vectors and the wall in the axes of the store, by the rotations that dfxm-geo applies."""
    found = json.loads(there(python, GEO_TRUTH, [crystal, remount, theta, frame[0] * pitch[0]]))
    frames, points = np.array(found["frames"]), np.array(found["points"])
    middle = np.array([(frame[1] - 1) / 2 * pitch[1], (frame[0] - 1) / 2 * pitch[0], 0.0])
    truth = {
        "dislocation_burgers": found["b"] * frames[:, :, 0],
        "dislocation_line": frames[:, :, 2],
        "dislocation_point": points + middle,
    }
    if crystal["mode"] == "wall":
        b, _, t = frames[0].T
        # From - to + of the normal b the lattice turns by -b / spacing about the line. A remounted wall turns it about
        # another axis than that of its lines, which no Burgers vector explains.
        truth |= {
            "normal": b[None],
            "origin": middle[None],
            "line": t[None],
            "burgers": found["b"] * b[None] if remount == "S1" else np.full((1, 3), np.nan),
            "spacing": np.array([spacing]),
            "misorientation": np.array([found["b"] / spacing]),
            "jump": -found["b"] / spacing * np.array([found["axis"]]),
        }
    return truth


def main() -> None:
    """One stack; several runs make a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("ours")
    one.add_argument("work", type=Path)
    one.add_argument("preset")
    one.add_argument("seed", type=int)
    one.add_argument("--strong-beam", choices=STRONG_BEAMS, default="smeared", help="none is kinematic")
    one.add_argument("--layers", type=int)
    one.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))))
    other = ways.add_parser("geo")
    other.add_argument("work", type=Path)
    other.add_argument("kind", choices=("wall", "random"))
    other.add_argument("--geo-python", type=Path, required=True)
    other.add_argument("--remount", choices=("S1", "S2", "S3", "S4"), default="S1", help="turns the wall")
    other.add_argument("--flux", type=float, default=2e4, help="counts per s at the peak")
    other.add_argument("--seed", type=int, default=1)
    other.add_argument("--layers", type=int, default=5)
    other.add_argument("--lines", type=int, default=151)
    other.add_argument("--spacing", type=float, default=4.0, help="of the lines of the wall, um")
    for way in (one, other):
        way.add_argument("--maps-only", action="store_true")
    asked = vars(parser.parse_args())
    asked["work"].mkdir(parents=True, exist_ok=True)
    make = {"ours": ours, "geo": geo}[asked.pop("way")]
    if "geo_python" in asked:
        asked["python"] = asked.pop("geo_python").absolute()
    print(make(**asked))


if __name__ == "__main__":
    main()
