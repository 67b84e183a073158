"""Deformation gradients from raw frames of several reflections, against the truth of simulated scans.

``python scripts/evaluate/strain_frames.py FOLDER --preset reflections --seeds 11 12 13`` simulates the
scans, runs normalise, background, moments and centres on every store, joins the stores and computes F. Each line gives,
for pixels farther than ``--away`` um from all dislocations, the rms error of every component of F over the stated error
(root mean square), and the part of the errors within one stated error. ``--shift truth`` uses the true displacements
between the scans instead of the registration. For the preset reflections_edge, it also prints position and Burgers
vector of the dislocation over their errors: by ``dislocation_cores`` without and with the halo of the camera, and by a
fit whose model contains the height of the beam and the blur of the camera; then bias and scatter over all seeds.
``noise_cut`` 4 and ``window`` 1.5 were chosen on seed 1 and on separate curves; ``nearest``, ``radius`` and the radii
of the fit on seeds 1 and 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
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
from dfxm_dask.strain.lines.field_fit import tile_scatter

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
        dfxm_dask.run_recipe(recipe, store, publish=())  # skips what exists
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
    made["set"] = found.assign(reciprocal_lattice=data["reciprocal_lattice"])
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
    parser.add_argument("--nearest", type=float, default=0.6, help="um: nearest of dislocation_cores")
    parser.add_argument("--radius", type=float, default=1.87, help="um: radius of dislocation_cores")
    parser.add_argument("--inner", type=float, default=0.8, help="um: inner radius of the fit with beam and camera")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    shape = tuple(given.shape or PRESETS[given.preset].shape)
    np.set_printoptions(precision=2, suppress=True, linewidth=160)
    edges: dict[str, list[np.ndarray]] = {}
    for seed in given.seeds:
        phantoms = build(given.preset, shape=shape, seed=seed)
        stores = reduced(given.folder, given.preset, seed, shape, given.cut, given.window)
        target = given.folder / f"set_{given.preset}_{seed}.zarr"
        try:
            found = joined(stores, phantoms, given.shift, target, given.height)
        except InputError as error:  # displacements that the maps do not determine
            print(f"{given.preset} seed {seed}: refused, {error}", flush=True)
            continue
        truth, away = true_fields(phantoms[0], found["y"], found["x"])
        moved = np.abs(found["off"]).max()
        print(f"{given.preset} seed {seed}: displacements off by at most {moved:.3f} pixel", flush=True)
        pitch = found["y"][1] - found["y"][0]
        print(f"  off (y, x; pixels of the set): {found['off'][1:].ravel() * phantoms[0].pixel[0] / pitch}")
        print(f"  stated errors: {found['shift_error'][1:].ravel() / pitch}", flush=True)
        for distance_ in given.away:
            line(found, truth, away > distance_, f"  beyond {distance_:g} um")
        if given.preset == "reflections_edge":
            for name, values in edge(found, phantoms, given.nearest, given.radius, given.inner).items():
                edges.setdefault(name, []).append(values)
                print(f"  {name}: {told(values[None])}", flush=True)
    for name, rows in edges.items():
        print(f"all seeds, {name}: {told(np.array(rows))}", flush=True)


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


def told(rows: np.ndarray) -> str:
    """Position (x, y) in pixels and Burgers vector in per cent of its length: mean, rms, and rms over stated error.

    ``rows`` are (seed, 2, 5): deviations and errors of x, y (pixels) and b (relative).
    """
    off, error = rows[:, 0], rows[:, 1]
    b = 100 * np.linalg.norm(off[:, 2:], axis=1)
    return (
        f"core off by {np.abs(off[:, :2]).max():.3f} pixel at most, mean {off[:, :2].mean(0).round(3)}, stated"
        f" {np.sqrt((error[:, :2] ** 2).mean(0)).round(3)}, rms over error"
        f" {np.sqrt(((off / error)[:, :2] ** 2).mean(0))}; b off by {b.max():.2f} % at most, rms"
        f" {np.sqrt((b**2).mean()):.2f} %, mean {100 * off[:, 2:].mean(0)} %, stated"
        f" {100 * np.sqrt((error[:, 2:] ** 2).sum(1).mean()):.2f} %, rms over error"
        f" {np.sqrt(((off / error)[:, 2:] ** 2).mean(0))}"
    )


def edge(
    found: dict[str, Any], phantoms: tuple[Phantom, ...], nearest: float, radius: float, inner: float
) -> dict[str, np.ndarray]:
    """Deviations and errors (2, 5) of position (pixels of the scan) and Burgers vector (relative), three estimates."""
    phantom = phantoms[0]
    turn = rotation_z(phantom.placement.omega)
    (true,) = phantom.scene.lines
    burgers = turn.T @ true["burgers"]
    axis = np.array([phantom.placement.axis[1], phantom.placement.axis[0], 0.0])
    position = (turn.T @ (true["position"] - axis))[:2] - phantom.placement.shift[::-1]
    unit = np.append(np.full(2, phantom.pixel[0]), np.full(3, np.linalg.norm(burgers)))
    truth, out = np.append(position, burgers), {}
    camera = phantom.detector
    width = camera.halo * np.mean(phantom.pixel)
    for name, halo in (("dislocation_cores", 0.0), ("dislocation_cores, halo given", camera.halo_fraction)):
        table = dfxm_dask.dislocation_cores.gather(
            found["set"], nearest=nearest, radius=radius, poisson=phantom.scene.poisson, halo=halo, halo_width=width
        )
        assert table.sizes["dislocation"] == 1
        one = table.isel(dislocation=0)
        values = np.concatenate([[one.x, one.y], one.burgers])
        errors = np.concatenate([[one.x_error, one.y_error], one.burgers_error])
        out[name] = np.stack([values - truth, errors]) / unit
    values, errors = fitted(found, phantoms, position, burgers, inner)
    out["fit with beam and camera"] = np.stack([values - truth, errors]) / unit
    return out


def blurred(field: np.ndarray, camera: Detector) -> np.ndarray:
    """A field of a frame (y, x) as a camera blurs it, in float64; light is mirrored at the borders."""
    sharp, wide = (gaussian_filter(field, width, mode="reflect") for width in (camera.psf, camera.halo))
    return (1 - camera.halo_fraction) * sharp + camera.halo_fraction * wide


def fitted(
    found: dict[str, Any], phantoms: tuple[Phantom, ...], position: np.ndarray, burgers: np.ndarray, inner: float
) -> tuple[np.ndarray, np.ndarray]:
    """Position and Burgers vector of one edge, um, and their errors, by a fit to the centres of all reflections.

    The fit uses the centres beyond ``inner`` um of the core and within 1.7 um, and a constant F. The model averages the
    distortion along the diffracted beam over the height of the beam, and blurs it like the camera, whose constants are
    those of the simulation. Errors come from the scatter of tiles of 5 pixels, as in ``dislocation_cores``.
    """
    y, x, centre, at, phantom = found["y"], found["x"], found["centre"], found["at"], phantoms[0]
    pitch = y[1] - y[0]
    gy, gx = np.meshgrid(y, x, indexing="ij")
    near = np.hypot(gx - position[0], gy - position[1])
    chosen, root = [], []
    for spread in found["centre_covariance"].astype(float):
        ok = np.isfinite(spread).all((-2, -1)) & (near > inner) & (near < 1.7)
        chosen.append(ok)
        root.append(np.linalg.cholesky(np.linalg.inv(spread[ok])))
    scans = []
    for one in phantoms:  # pixels of the scan in the axes of the sample, and pixels of the set in those of the scan
        at_scan = one.placement
        back = rotation_z(at_scan.omega)
        sy, sx = (step * np.arange(n) for step, n in zip(one.pixel, one.shape, strict=True))
        px, py = np.meshgrid(sx - at_scan.axis[1], sy - at_scan.axis[0])
        own = np.stack([px, py], -1) @ back[:2, :2] - at_scan.shift[::-1]
        there = (np.stack([gx, gy], -1) + at_scan.shift[::-1]) @ back[:2, :2].T + at_scan.axis[::-1]
        scans.append((own, [there[..., 1] / one.pixel[0], there[..., 0] / one.pixel[1]]))

    def model(q: np.ndarray) -> np.ndarray:
        line = lines(np.array([[q[0], q[1], 0]]), q[None, 2:5] * 1e-4, np.array([[0, 0, 1.0]]), np.array([1e-3]))
        out = []
        for number, (one, (own, places)) in enumerate(zip(phantoms, scans, strict=True)):
            away = rotation_z(one.placement.omega).T @ np.array([*one.at.shear[:2], 1.0])
            mean = np.zeros((9, *own.shape[:2]))
            for height, weight in zip(*sheet_nodes(one.microscope, one.nodes), strict=True):
                there = own[..., 0] + height * away[0], own[..., 1] + height * away[1], 0 * own[..., 0] + height
                beta = distortion(Scene(phantom.scene.poisson, line), *(v.ravel() for v in there))
                mean += weight * beta.reshape(mean.shape)
            seen = [map_coordinates(blurred(part, one.detector), places, order=1, mode="nearest") for part in mean]
            f = np.stack(seen, -1).reshape(y.size, x.size, 3, 3) + np.eye(3) + 1e-4 * q[5:].reshape(3, 3)
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
    inverse = np.linalg.inv(fit.jac.T @ fit.jac)
    place = [np.stack([gx, gy], -1)[ok] for ok in chosen]
    away = (np.concatenate(place) - fit.x[:2]) / pitch
    steps = (fit.jac * fit.fun[:, None]).reshape(len(away), 3, -1).sum(1) @ inverse
    variance = np.maximum(np.diag(inverse), tile_scatter(steps, away))
    scale = np.array([1, 1, 1e-4, 1e-4, 1e-4])
    return fit.x[:5] * scale, np.sqrt(variance[:5]) * scale


if __name__ == "__main__":
    main()
