"""Deformation gradients from raw frames of several reflections, against the truth of simulated scans.

``PYTHONPATH=scripts python scripts/evaluate/strain.py FOLDER --preset reflections --seeds 11 12 13`` simulates the
scans, runs normalise, background, moments and centres on every store, joins the stores and computes F. Each line gives,
for pixels farther than ``--away`` um from all dislocations, the rms error of every component of F over the stated error
(root mean square), and the part of the errors within one stated error. ``--shift truth`` uses the true displacements
between the scans instead of the registration. For the preset reflections_edge, it prints the Burgers vector by closed
integrals over squares, and position and Burgers vector of an edge by a fit that includes the height of the beam and the
blur of the camera. ``noise_cut`` 4 and ``window`` 1.5 were chosen on seed 1 and on separate curves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene, distance, distortion
from dfxm_dask.optics.forward import sheet_nodes
from dfxm_dask.optics.geometry import rotation_z
from dfxm_dask.optics.instrument.detector import Detector
from dfxm_dask.phantoms.phantom import Phantom
from dfxm_dask.phantoms.presets import PRESETS, build
from dfxm_dask.strain.goniometer import angles_of, reflections
from dfxm_dask.strain.lines.circuit import circuit

RECIPE = """name: reflections
description: Centres of the rocking curves of one reflection and their errors.
steps:
  - normalise: {{by: monitor, offset: 106}}
  - background: {{method: quantile, quantile: 0.5}}
  - moments: {{noise_cut: {cut}}}
  - {errors}
"""


def reduced(folder: Path, preset: str, seed: int, shape: tuple[int, int], cut: float, window: float) -> list[Path]:
    """Stores of all reflections of a simulated sample, with centres and their errors; moments for a window of 0."""
    out = folder / f"{preset}_{seed}"
    dfxm_dask.simulate(preset, out, shape=shape, seed=seed)  # skips what exists
    recipe = folder / "reflections.yaml"
    gain = round(1 / Detector().gain, 4)
    errors = f"centres: {{window: {window}, gain: {gain}}}"
    if window == 0:
        errors = f"moment_errors: {{noise_cut: {cut}, gain: {gain}}}"
    recipe.write_text(RECIPE.format(cut=cut, errors=errors))
    stores = [out / f"{p.reflection.replace(' ', '_')}.zarr" for p in build(preset, shape=shape, seed=seed)]
    for store in stores:
        dfxm_dask.run_recipe(recipe, store, publish=(), overwrite=True)
    return stores


def true_fields(phantom: Phantom, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F (y, x, 3, 3) and the distance to the nearest dislocation, um, at positions of the sample."""
    sy, sx = (v.ravel() for v in np.meshgrid(y, x, indexing="ij"))
    at = phantom.placement
    turn = rotation_z(at.omega)
    there = np.stack([sx + at.shift[1], sy + at.shift[0], 0 * sx]).T @ turn.T + [at.axis[1], at.axis[0], 0.0]
    beta = distortion(phantom.scene, *there.T).T.reshape(y.size, x.size, 3, 3)
    return turn.T @ beta @ turn + np.eye(3), distance(phantom.scene, *there.T).reshape(y.size, x.size)


def joined(
    stores: list[Path], phantoms: tuple[Phantom, ...], shift: str, target: Path, height: float | None = None
) -> dict[str, Any]:
    """Results of the set of reflections, in memory."""
    known = np.array([p.placement.shift for p in phantoms])
    given = known if shift == "truth" else shift
    report = dfxm_dask.join(target, *stores, shift=given, beam_height=height, overwrite=True)
    tree = dfxm_dask.open_scan(target)
    data = tree["raw"].to_dataset()
    found = dfxm_dask.deformation(data).compute()
    off = (np.array(report.shift) - known) / phantoms[0].pixel[0]
    made = {name: values.values[0] for name, values in found.data_vars.items()}
    made |= {name: data[name].values[0] for name in ("centre", "centre_covariance")}
    tables = (data[name].values for name in ("hkl", "setting", "reciprocal_lattice", "wavelength"))
    made["at"] = reflections(*tables, deviation=0.1)
    return {**made, "y": data.y.values, "x": data.x.values, "off": off, "shift_error": np.array(report.shift_error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="reflections", choices=["reflections", "reflections_edge"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--shape", type=int, nargs=2)
    parser.add_argument("--away", type=float, nargs="+", default=[0.5, 0.7, 1.0], help="um from the dislocations")
    parser.add_argument("--cut", type=float, default=4.0, help="noise_cut of the moments")
    parser.add_argument("--window", type=float, default=1.5, help="window of the centres; 0: moments")
    parser.add_argument("--shift", default="auto", choices=["auto", "truth", "none"])
    parser.add_argument("--height", type=float, help="um: beam_height of the join; the presets have 0.2")
    parser.add_argument("--inner", type=float, nargs="+", default=[0.4, 1.0], help="um: inner radii of the fits")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    shape = tuple(given.shape or PRESETS[given.preset].shape)
    np.set_printoptions(precision=2, suppress=True, linewidth=160)
    for seed in given.seeds:
        phantoms = build(given.preset, shape=shape, seed=seed)
        stores = reduced(given.folder, given.preset, seed, shape, given.cut, given.window)
        try:
            found = joined(
                stores, phantoms, given.shift, given.folder / f"set_{given.preset}_{seed}.zarr", given.height
            )
        except InputError as error:  # displacements that the maps do not determine
            print(f"{given.preset} seed {seed}: refused, {error}", flush=True)
            continue
        truth, away = true_fields(phantoms[0], found["y"], found["x"])
        moved = np.abs(found["off"]).max()
        print(f"{given.preset} seed {seed}: displacements off by at most {moved:.3f} pixel", flush=True)
        edge = found["y"][1] - found["y"][0]
        print(f"  off (y, x; pixels of the set): {found['off'][1:].ravel() * phantoms[0].pixel[0] / edge}")
        print(f"  stated errors: {found['shift_error'][1:].ravel() / edge}", flush=True)
        for distance_ in given.away:
            line(found, truth, away > distance_, f"  beyond {distance_:g} um")
        if given.preset == "reflections_edge":
            for inner in given.inner:
                core(found, phantoms, inner)


def line(found: dict[str, np.ndarray], truth: np.ndarray, chosen: np.ndarray, name: str) -> None:
    """Print rms over error and coverage of every component."""
    error = found["deformation_error"].astype(float)
    chosen = chosen & np.isfinite(error).all((-2, -1))
    off, error = (found["deformation"] - truth)[chosen], error[chosen]
    typical = np.sqrt((error**2).mean(0))
    ratio = np.sqrt((off**2).mean(0)) / typical
    within = (np.abs(off) < error).mean(0)
    chi2 = np.nanmean(found["deformation_chi2"][chosen] / found["deformation_freedom"][chosen])
    mean = (off.mean(0) / typical).ravel()
    print(f"{name}: {chosen.sum()} pixels, chi2 per degree of freedom {chi2:.2f}, within one error {within.mean():.3f}")
    for word, values in (
        ("rms over error", ratio),
        ("within one error", within),
        ("error (1e-6)", typical * 1e6),
        ("mean over error", mean),
    ):
        print(f"    {word}: {values.ravel()}", flush=True)


def core(found: dict[str, Any], phantoms: tuple[Phantom, ...], inner: float) -> None:
    """Print the Burgers vector by closed integrals, and position and Burgers vector of a fit, over their errors.

    The fit compares the centres of all reflections with those of one edge and a constant F, beyond ``inner`` um of the
    core and within 2.5 um. The model averages the distortion along the diffracted beam over the height of the beam, and
    blurs it like the camera, whose constants the fit takes from the simulation.
    """
    y, x, centre, at = found["y"], found["x"], found["centre"], found["at"]
    phantom, pitch = phantoms[0], found["y"][1] - found["y"][0]
    turn = rotation_z(phantom.placement.omega)
    (true,) = phantom.scene.lines
    burgers = turn.T @ true["burgers"]
    axis = np.array([phantom.placement.axis[1], phantom.placement.axis[0], 0.0])
    position = (turn.T @ (true["position"] - axis))[:2] - phantom.placement.shift[::-1]
    length = np.linalg.norm(burgers)
    row, column = np.argmin(np.abs(y - position[1])), np.argmin(np.abs(x - position[0]))
    for size in (0.6, 0.8, 1.0, 1.2, 1.4):
        half = round(size / pitch)
        box = row - half, row + half, column - half, column + half
        measured, covariance = circuit(found["deformation"], found["deformation_covariance"], y, x, box)
        off, error = (measured - burgers) / length, np.sqrt(np.diag(covariance)) / length
        print(f"  square of +-{size} um: b off by {np.linalg.norm(off):.4f}, over error {off / error}")

    gy, gx = np.meshgrid(y, x, indexing="ij")
    near = np.hypot(gx - position[0], gy - position[1])
    chosen, root = [], []
    for spread in found["centre_covariance"].astype(float):
        ok = np.isfinite(spread).all((-2, -1)) & (near > inner) & (near < 2.5)
        chosen.append(ok)
        root.append(np.linalg.cholesky(np.linalg.inv(spread[ok])))
    camera, scale = phantom.detector, phantom.pixel[0] / pitch

    def model(q: np.ndarray) -> np.ndarray:
        line = lines(np.array([[q[0], q[1], 0]]), q[None, 2:5] * 1e-4, np.array([[0, 0, 1.0]]), np.array([1e-3]))
        out = []
        for number, one in enumerate(phantoms):
            away = rotation_z(one.placement.omega).T @ np.array([*one.at.shear[:2], 1.0])
            mean = np.zeros((9, y.size, x.size))
            for height, weight in zip(*sheet_nodes(one.microscope, one.nodes), strict=True):
                there = gx + height * away[0], gy + height * away[1], 0 * gx + height
                beta = distortion(Scene(phantom.scene.poisson, line), *(v.ravel() for v in there))
                mean += weight * beta.reshape(mean.shape)
            for k in range(9):
                wide = gaussian_filter(mean[k], camera.halo * scale, mode="nearest")
                sharp = gaussian_filter(mean[k], camera.psf * scale, mode="nearest")
                mean[k] = (1 - camera.halo_fraction) * sharp + camera.halo_fraction * wide
            f = np.moveaxis(mean, 0, -1).reshape(y.size, x.size, 3, 3) + np.eye(3) + 1e-4 * q[5:].reshape(3, 3)
            out.append(np.linalg.inv(f).swapaxes(-1, -2) @ at.vectors[number])
        return np.rad2deg(angles_of(at, np.stack(out)))

    def residual(q: np.ndarray) -> np.ndarray:
        expected = model(q)
        return np.concatenate(
            [
                np.einsum("nji,nj->ni", one, (values - wanted)[ok]).ravel()
                for values, wanted, ok, one in zip(centre, expected, chosen, root, strict=True)
            ]
        )

    start = np.concatenate([position + [0.04, -0.03], burgers * 1e4, np.zeros(9)])
    fit = least_squares(residual, start, x_scale="jac", loss="soft_l1", f_scale=3.0, max_nfev=8)
    errors = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))
    off = fit.x[:2] - position
    print(
        f"  fit beyond {inner:g} um: core off by {np.abs(off).max() / phantom.pixel[0]:.3f} pixel"
        f" (x, y over error {off / errors[:2]}), b off by"
        f" {np.linalg.norm(fit.x[2:5] * 1e-4 - burgers) / length:.4f},"
        f" over error {(fit.x[2:5] - burgers * 1e4) / errors[2:5]}",
        flush=True,
    )


if __name__ == "__main__":
    main()
