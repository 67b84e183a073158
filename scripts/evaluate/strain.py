"""Deformation gradient, predicted errors and dislocation density against closed forms; no frames.

``python scripts/evaluate/strain.py round_trip|design|wall`` prints the table of one study. ``round_trip``: angles of
known deformations by Newton's method on the Laue condition, without and with noise of 10 urad (two_theta 20 urad).
``design``: predicted errors of five sets of reflections against the scatter of F. ``wall``: integral of the density of
a tilt wall over theta/b. Deformations from raw frames: strain_frames.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.transform import Rotation

import dfxm_dask
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.geometry import oblique

ENERGY, CELL = 19.1, 4.0493  # keV, angstrom
LATTICE = 2 * np.pi / CELL * np.eye(3)
HKL = np.array([[-1, -1, 3], [-1, 1, 3], [1, -1, 3], [1, 1, 3]])
SIGMA = np.array([20e-6, 10e-6, 10e-6])  # two_theta, phi, chi


def tables_of(hkl: np.ndarray) -> list[np.ndarray]:
    """hkl, setting, reciprocal lattice and wavelength of a set: the solutions of the Laue condition with eta > 0."""
    omega, eta, theta = np.rad2deg([max(oblique(LATTICE, tuple(one), ENERGY), key=lambda row: row[1]) for one in hkl]).T
    setting = np.stack([0 * omega, omega, eta, theta], axis=1)
    return [np.asarray(hkl), setting, LATTICE, np.full(len(hkl), wavelength(ENERGY))]


def turn(axis: str, angle: np.ndarray) -> np.ndarray:
    return Rotation.from_euler(axis, np.ravel(angle)[:, None]).as_matrix()


def laue(setting: np.ndarray, wave: float, angles: np.ndarray, q: np.ndarray) -> np.ndarray:
    """R Q - (k_out - k_in) in the laboratory, by plain products of rotations; angles and q are (pixel, 3)."""
    mu, omega, eta, theta = np.deg2rad(setting)
    two_theta, phi, chi = angles.T
    stage = turn("y", -mu) @ turn("z", omega) @ turn("x", chi) @ turn("y", phi)
    beam = np.array([1.0, 0, 0])
    out = turn("x", eta) @ turn("y", -2 * theta - two_theta) @ beam
    return np.einsum("nij,nj->ni", stage, q) - 2 * np.pi / wave * (out - beam)


def angles_of(tables: list[np.ndarray], deformed: np.ndarray) -> np.ndarray:
    """Angles (reflection, pixel, 3) in rad of F (pixel, 3, 3), by Newton's method with numerical derivatives."""
    inverse = np.linalg.inv(deformed).swapaxes(-1, -2)
    found = np.zeros((len(tables[0]), len(deformed), 3))
    for k, (hkl, setting) in enumerate(zip(tables[0], tables[1], strict=True)):
        q = inverse @ (LATTICE @ hkl)
        for _ in range(6):
            slope = [
                laue(setting, tables[3][k], found[k] + h, q) - laue(setting, tables[3][k], found[k] - h, q)
                for h in 1e-6 * np.eye(3)
            ]
            left = laue(setting, tables[3][k], found[k], q)
            found[k] -= np.linalg.solve(np.stack(slope, -1) / 2e-6, left[..., None])[..., 0]
    return found


def round_trip() -> Iterator[str]:
    """rms and chi-square of F, with weights and without, over 40000 pixels."""
    tables, side, seed = tables_of(HKL), 200, 51
    rng = np.random.default_rng(seed)
    common = Rotation.from_euler("xyz", [0.02, -0.013, 0.03]).as_matrix()
    deformed = (np.eye(3) + rng.normal(0, 3e-4, (side * side, 3, 3))) @ common
    angles = angles_of(tables, deformed)
    shape = (4, side, side, 3)
    spread = np.zeros((*shape, 3), np.float32)
    spread[...] = np.diag(np.rad2deg(SIGMA) ** 2)
    exact = dfxm_dask.deformation.kernel(np.rad2deg(angles.reshape(shape)), spread, *tables)["deformation"]
    yield f"without noise: largest error {np.abs(exact.reshape(-1, 3, 3) - deformed).max():.1e}"
    noisy = np.rad2deg(angles + rng.normal(size=angles.shape) * SIGMA).reshape(shape)
    found = dfxm_dask.deformation.kernel(noisy, spread, *tables)
    off = found["deformation"].reshape(-1, 9) - deformed.reshape(-1, 9)
    yield from scores("with weights", off, found["deformation_covariance"].reshape(-1, 9, 9).astype(float))
    q = dfxm_dask.scattering_vectors.kernel(noisy, spread, *tables)
    vectors = q["scattering_vector"].reshape(4, -1, 3)
    back = np.linalg.pinv(LATTICE @ HKL.T)  # H + I = Q back
    plain = np.linalg.inv(np.einsum("kni,kj->nij", vectors, back)).swapaxes(-1, -2)
    # dH_ia = sum_k dQ_ki back_ka and dF_ab = -F_ai dH^T_ij F_jb, to first order
    errors = q["scattering_vector_covariance"].reshape(4, -1, 3, 3).astype(float)
    of_h = np.einsum("knij,ka,kb->niajb", errors, back, back)
    turned = np.einsum("nai,njb->nabji", plain, plain)  # dF_ab = -turned_abji dH_ji
    cov = np.einsum("nabji,njikl,ncdkl->nabcd", turned, of_h, turned, optimize=True)
    yield from scores("without weights", (plain - deformed).reshape(-1, 9), cov.reshape(-1, 9, 9))


def scores(name: str, off: np.ndarray, covariance: np.ndarray) -> Iterator[str]:
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    chi2 = (off**2 / variance).mean(0)
    whole = np.einsum("ni,nij,nj->n", off, np.linalg.inv(covariance), off).mean() / 9
    yield (
        f"{name}: rms {np.sqrt((off**2).mean()):.3e}, expected {np.sqrt(variance.mean()):.3e}; chi-square of components"
        f" {chi2.min():.3f} to {chi2.max():.3f}, of all nine together {whole:.3f} per component; {len(off)} pixels"
    )


def design() -> Iterator[str]:
    """Predicted error of every component over the scatter of 40000 draws, five sets."""
    errors = np.array([0.0012, 0.0006, 0.0009])
    crystal = Lattice(parameter=1e-4 * CELL, x=(1, 0, 0), z=(0, 0, 1))
    given = {"errors": tuple(errors), "theta": (8.0, 17.0), "eta": 50.0}
    ranked = [one for one in dfxm_dask.design(crystal, ENERGY, count=3, best=400, **given) if not one.undetermined]
    ranked = [ranked[k] for k in (0, len(ranked) // 2, -1)]
    ranked += dfxm_dask.design(crystal, ENERGY, count=4, best=2, largest=3, **given)
    yield "| reflections | predicted rms (1e-6) | measured | predicted over measured, components |"
    for seed, one in enumerate(ranked, 61):
        tables = tables_of(np.array(one.hkl))
        tables[1] = np.stack([np.zeros(len(one.hkl)), one.omega, one.eta, one.theta], axis=1)
        shape = (len(one.hkl), 1, 40000, 3)
        spread = np.zeros((*shape, 3), np.float32)
        spread[...] = np.diag(errors**2)
        noise = np.random.default_rng(seed).normal(size=shape) * errors
        found = dfxm_dask.deformation.kernel(noise, spread, *tables)["deformation"]
        ratio = one.error / found.std(axis=(0, 1))
        rms = np.sqrt(found.var(axis=(0, 1)).mean())
        names = ", ".join(" ".join(map(str, hkl)) for hkl in one.hkl)
        yield f"| {names} | {1e6 * one.rms:.2f} | {1e6 * rms:.2f} | {ratio.min():.3f}–{ratio.max():.3f} |"


def wall() -> Iterator[str]:
    """Largest and mean deviation of the integral of the density from theta/b: 41 directions, 5 positions."""
    degrees = np.unique([*np.arange(0, 91, 2.5), 1, 4, 6, 26.565, 63.435, 84, 86, 89])
    rng = np.random.default_rng(71)
    angle, b = 1.3e-4, 2.86e-4
    yield "| pixels (y, x), um | derivative | wall | largest, % (at degree) | mean, % |"
    for steps in ((0.1, 0.1), (0.04, 0.12), (0.12, 0.04)):
        larger = max(steps)
        half = 18 * larger
        y, x = (np.arange(-half - 5 * larger, half + 5 * larger, step) for step in steps)
        gx, gy = np.meshgrid(x, y)
        nothing = np.zeros((1, y.size, x.size, 9, 9), np.float32)
        for name, scale in (("default", None), ("adjacent pixels", 0.0)):
            for width in (0.0, 0.5):
                off = np.zeros((degrees.size, 5))
                for k, direction in enumerate(np.deg2rad(degrees)):
                    for n in range(5):
                        shift = rng.uniform(-0.5, 0.5) * larger
                        across = gx * np.cos(direction) + gy * np.sin(direction) - shift
                        jump = np.sign(across) if width == 0 else np.tanh(across / (width * larger))
                        turned = np.tile(np.eye(3), (1, y.size, x.size, 1, 1))
                        turned[0, ..., 1, 0], turned[0, ..., 0, 1] = angle / 2 * jump, -angle / 2 * jump
                        made = dfxm_dask.dislocation_density.kernel(
                            turned, nothing, LATTICE, np.zeros(1), y, x, burgers=b, scale=scale
                        )
                        along = gy * np.cos(direction) - gx * np.sin(direction)
                        weight = np.where(np.abs(along) < half, np.cos(np.pi * along / (2 * half)) ** 2, 0.0)
                        total = np.nansum(weight * made["density"]) * steps[0] * steps[1] / half  # ∫weight = half
                        off[k, n] = total / (angle / b) - 1
                at = np.unravel_index(np.abs(off).argmax(), off.shape)
                kind = "sharp" if width == 0 else f"tanh, width {width} of the larger edge"
                yield (
                    f"| {steps[0]} × {steps[1]} | {name} | {kind} | {100 * off[at]:.2f} ({degrees[at[0]]:.0f}) |"
                    f" {100 * off.mean():.2f} |"
                )


STUDIES: dict[str, Callable[[], Iterator[str]]] = {"round_trip": round_trip, "design": design, "wall": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    for text in STUDIES[parser.parse_args().study]():
        print(text, flush=True)


if __name__ == "__main__":
    main()
