"""Crystal and setting of every reflection of a set: from the stores, else from options, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.defects.lattice import Lattice, axes_of
from dfxm_dask.optics.geometry import oblique, rotation_x, rotation_y, rotation_z
from dfxm_dask.store.crystal import checked_crystal
from dfxm_dask.store.reflections.recorded import FRAMES, Reflection

APART = 1.0
"""degree: largest deviation of a recorded or stated motor from the setting that UB, hkl and energy require."""
TOLD = 0.1
"""degree: deviations above which a remark reports them."""
TURNED = 0.1
"""degree: largest difference between the orientations that the stores of a set record."""
TILTED = 0.2
"""degree: largest mu at which layers of the laboratory are layers of the sample for any omega."""


class Options(NamedTuple):
    """Values that replace those of the stores; one of each kind for every store, or None."""

    hkl: Sequence[Sequence[int]] | None = None
    lattice: Mapping[str, Any] | None = None
    reciprocal_lattice: Any = None
    energy: float | None = None
    omega: Sequence[float] | None = None
    eta: Sequence[float] | None = None
    mu: float | None = None
    frame: str | None = None


class Settings(NamedTuple):
    """Crystal and settings of a set: UB (1/angstrom), hkl, (mu, omega, eta, theta) in degree, wavelengths (angstrom),
    frames, and the turn of the pixels of every store about z against the sample, degree."""

    reciprocal_lattice: np.ndarray
    hkl: np.ndarray
    setting: np.ndarray
    wavelength: np.ndarray
    frames: tuple[str, ...]
    turn: np.ndarray
    lattice: dict[str, Any]
    remarks: tuple[str, ...]


def settings(stores: Sequence[Reflection], given: Options) -> Settings:
    """Crystal and settings of a set.

    Raises
    ------
    InputError
        A missing or contradictory hkl, lattice, energy, frame or motor; the same reflection twice.
    """
    _refuse_lengths(given, len(stores))
    hkl = _indices(stores, given)
    energies = [_energy(one, given) for one in stores]
    if np.ptp(energies) > 1e-6 * energies[0]:
        listed = ", ".join(f"{e:g}" for e in energies)
        raise InputError("energies of the stores", f"differ: {listed} keV", "join reflections of one energy")
    frames = tuple(_frame(one, given) for one in stores)
    mu = [given.mu if given.mu is not None else one.goniometer.get("mu", 0.0) for one in stores]
    omega = [_motor(one, "omega", given.omega, k) for k, one in enumerate(stores)]
    eta = [_motor(one, "eta", given.eta, k) for k, one in enumerate(stores)]
    for one, frame, angle, tilt in zip(stores, frames, omega, mu, strict=True):
        if frame == "laboratory" and angle is None:
            raise InputError(
                f"omega of {one.path.name}",
                "is not recorded, and the pixels lie along the axes of the laboratory",
                "state the angle of every store: --omega A,B,C, in degree",
            )
        if frame == "laboratory" and abs(tilt) > TILTED:
            raise InputError(
                f"mu of {one.path.name}",
                f"is {tilt:g} degree: layers of the laboratory cut the sample differently at every omega",
                "join scans at mu = 0, or maps in the axes of the sample (--frame sample)",
            )
    matrix, lattice = _matrix(stores, given, frames, omega, mu)
    rows, told = [], []
    for k, one in enumerate(stores):
        row, remark = _setting(one, matrix, hkl[k], energies[k], mu[k], omega[k], eta[k])
        rows.append(row)
        told += remark
    setting = np.array(rows)
    _refuse_twice(stores, hkl, setting)
    turn = np.array([o if f == "laboratory" else 0.0 for o, f in zip(omega, frames, strict=True)], float)
    waves = np.array([wavelength(energy) for energy in energies])
    return Settings(matrix, hkl, setting, waves, frames, turn, lattice, tuple(told))


def _refuse_lengths(given: Options, count: int) -> None:
    for name in ("hkl", "omega", "eta"):
        values = getattr(given, name)
        if values is not None and len(values) != count:
            raise InputError(f"{name}", f"has {len(values)} values for {count} stores", "give one for each store")


def _indices(stores: Sequence[Reflection], given: Options) -> np.ndarray:
    found = []
    for k, one in enumerate(stores):
        own = one.crystal.get("hkl")
        asked = None if given.hkl is None else checked_crystal(None, given.hkl[k])["hkl"]
        if own is not None and asked is not None and list(own) != list(asked):
            raise InputError(f"hkl of {one.path.name}", f"is {asked}, and the store records {own}", "give the one")
        if own is None and asked is None:
            raise InputError(
                f"reflection of {one.path.name}",
                "is not recorded",
                "give --hkl H,K,L once for each store, in the order of the stores",
            )
        found.append(asked or own)
    return np.array(found, np.int64)


def _energy(one: Reflection, given: Options) -> float:
    if given.energy is not None and one.energy is not None and abs(given.energy - one.energy) > 1e-3 * one.energy:
        raise InputError(
            f"energy of {one.path.name}", f"is {given.energy:g} keV, and the store records {one.energy:g}", "give one"
        )
    found = one.energy if one.energy is not None else given.energy
    if found is None:
        raise InputError(f"energy of {one.path.name}", "is not recorded", "give --energy KEV")
    return found


def _frame(one: Reflection, given: Options) -> str:
    if given.frame is not None and given.frame not in FRAMES:
        raise InputError(f"frame {given.frame!r}", "is unknown", f"choose {' or '.join(FRAMES)}")
    found = one.frame or given.frame
    if not found:
        raise InputError(
            f"frame of {one.path.name}",
            "is not recorded",
            "state the axes of the pixels: --frame laboratory (turned by omega against the sample) or --frame sample",
        )
    if given.frame and one.frame and given.frame != one.frame:
        raise InputError(f"frame {given.frame}", f"{one.path.name} records {one.frame}", "leave out the option")
    return found


def _motor(one: Reflection, name: str, given: Sequence[float] | None, k: int) -> float | None:
    return float(given[k]) if given is not None else one.goniometer.get(name)


def _matrix(
    stores: Sequence[Reflection],
    given: Options,
    frames: Sequence[str],
    omega: Sequence[float | None],
    mu: Sequence[float],
) -> tuple[np.ndarray, dict[str, Any]]:
    """UB in the axes of the sample, and the lattice in these axes as far as known."""
    if given.reciprocal_lattice is not None:
        matrix = np.asarray(given.reciprocal_lattice, float)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
            raise InputError(
                "reciprocal lattice UB",
                "is not an invertible 3 x 3 matrix",
                "give nine numbers in 1/angstrom, row by row, with a*, b*, c* as columns, 2 pi included",
            )
        return matrix, {}
    if given.lattice is not None:
        lattice = checked_crystal(given.lattice, None)["lattice"]
        return _cubic(lattice, "lattice"), lattice
    found = []
    for k, one in enumerate(stores):
        if "lattice" not in one.crystal:
            raise InputError(
                f"crystal of {one.path.name}",
                "is not recorded",
                "give --lattice with the directions along x and z of the sample, or record the crystal of every store:"
                f" dfxm-dask calibrate {one.path} --lattice ...",
            )
        own = _cubic(one.crystal["lattice"], f"lattice of {one.path.name}")
        turn = rotation_y(-np.deg2rad(mu[k])) @ rotation_z(np.deg2rad(omega[k] or 0.0))
        found.append(turn.T @ own if frames[k] == "laboratory" else own)
    first = found[0]
    for one, other in zip(stores[1:], found[1:], strict=True):
        apart = np.linalg.norm(other - first) / np.linalg.norm(first)
        if apart > np.deg2rad(TURNED):
            raise InputError(
                f"crystal of {one.path.name}",
                f"differs from that of {stores[0].path.name} by {apart:.3g} of the reciprocal lattice",
                "join reflections of one crystal; correct the lattices with dfxm-dask calibrate, or give --lattice",
            )
    return first, stores[0].crystal["lattice"] if frames[0] == "sample" else {}


def _cubic(lattice: Mapping[str, Any], asked: str) -> np.ndarray:
    """UB of a cubic lattice, 1/angstrom, 2 pi included."""
    known = Lattice(**{k: v for k, v in lattice.items() if k != "hkl"})
    if known.vectors is not None or known.parameter is None:
        raise InputError(asked, "has Burgers vectors instead of a cell", "give UB, or parameter, x and z of a lattice")
    return 2 * np.pi / (known.parameter * 1e4) * axes_of(known)


def _setting(
    one: Reflection,
    matrix: np.ndarray,
    hkl: np.ndarray,
    energy: float,
    mu: float,
    omega: float | None,
    eta: float | None,
) -> tuple[list[float], list[str]]:
    """(mu, omega, eta, theta) of a reflection, degree, and remarks."""
    name = f"reflection {' '.join(map(str, hkl))} of {one.path.name}"
    length = float(np.linalg.norm(matrix @ hkl))
    sine = length * wavelength(energy) / (4 * np.pi)
    if sine >= np.sin(np.pi / 4):
        raise InputError(name, f"does not diffract forwards at {energy:g} keV", "check lattice, hkl and energy")
    theta = float(np.degrees(np.arcsin(sine)))
    known = one.goniometer.get("theta")
    if known is not None and abs(known - theta) > APART:
        raise InputError(
            name,
            f"has theta {theta:.4f} degree by UB and energy, and the store records {known:.4f}",
            "check lattice, hkl and energy",
        )
    if abs(mu) > 1e-9:
        if omega is None or eta is None:
            raise InputError(name, f"is measured at mu = {mu:g} degree", "state --omega and --eta")
        return _as_stated(name, matrix @ hkl, mu, omega, eta, theta), []
    solutions = np.degrees(oblique(matrix, hkl, energy))
    listed = " or ".join(f"omega {s[0]:.4f}, eta {s[1]:.4f}" for s in solutions)
    if omega is None and eta is None and len(solutions) > 1:
        raise InputError(name, f"has two settings: {listed} degree", "state the motors: --omega A,B,C or --eta")
    away = np.zeros((len(solutions), 2))
    for k, motor in enumerate((omega, eta)):
        if motor is not None:
            away[:, k] = np.abs((solutions[:, k] - motor + 180) % 360 - 180)
    best = int(np.argmin(away.max(axis=1)))
    if away[best].max() > APART:
        word, motor = (("omega", omega), ("eta", eta))[int(np.argmax(away[best]))]
        raise InputError(
            name,
            f"requires {listed} degree, and {word} is {motor:g}: UB, hkl and motors contradict each other",
            "check the orientation of the crystal (x, z of the lattice), hkl, and the motors",
        )
    remark = []
    if away[best].max() > TOLD:
        stated = ", ".join(f"{w} {m:g}" for w, m in (("omega", omega), ("eta", eta)) if m is not None)
        used = f"omega {solutions[best][0]:.4f}, eta {solutions[best][1]:.4f}"
        remark.append(f"{name}: {stated} recorded or stated, {used} follow from UB and energy and are used")
    return [mu, *map(float, solutions[best])], remark


def _as_stated(name: str, q: np.ndarray, mu: float, omega: float, eta: float, theta: float) -> list[float]:
    """The stated setting after a check of the Laue condition."""
    radians = np.deg2rad([mu, omega, eta, theta])
    turned = rotation_y(-radians[0]) @ rotation_z(radians[1]) @ q
    beam = rotation_x(radians[2]) @ rotation_y(-2 * radians[3])[:, 0] - np.array([1.0, 0, 0])
    aside = np.degrees(np.arccos(np.clip(turned @ beam / np.linalg.norm(turned) / np.linalg.norm(beam), -1, 1)))
    if aside > APART:
        raise InputError(
            name,
            f"is {aside:.3g} degree from the Laue condition at mu {mu:g}, omega {omega:g}, eta {eta:g}",
            "check the orientation of the crystal, hkl, and the motors",
        )
    return [mu, omega, eta, theta]


def _refuse_twice(stores: Sequence[Reflection], hkl: np.ndarray, setting: np.ndarray) -> None:
    for k in range(len(stores)):
        for m in range(k):
            same = np.abs((setting[k] - setting[m] + 180) % 360 - 180).max() < APART
            if stores[k].path == stores[m].path or (np.array_equal(hkl[k], hkl[m]) and same):
                raise InputError(
                    f"stores {stores[m].path.name} and {stores[k].path.name}",
                    f"are the same reflection {' '.join(map(str, hkl[k]))} at the same setting",
                    "give every reflection once",
                )
