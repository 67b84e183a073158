"""Phantoms of one isolated dislocation, for its identification."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dfxm_dask.optics.crystal import slip_systems
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z
from dfxm_dask.phantoms.contents import CORE, PHI, Frame, bending, phantom
from dfxm_dask.phantoms.phantom import Lighting, Phantom, ScanAxis

REFLECTIONS = ((-1, 1, -1), (1, 1, 1), (1, -1, -1))
"""Reflections of one line, each in the vertical scattering plane: each has its own mounting of the sample."""
LINE_ANGLES = 36
BEND = 5e-6  # each component of beta Q, rms
FLUX = 1200.0  # count/s: 600 counts at the peak of the lattice in the exposure of 0.5 s, as weak-beam images have
NODES, SAMPLES = 61, (4, 2)
"""Heights of the sheet, and points of a pixel along y and x: 10 nm apart along y, as a line with little contrast bends
the lattice enough within some 10 nm only."""
PHI_CHI = (
    ScanAxis("phi", "mu", tuple(0.004 * (k - 7) for k in range(15))),
    ScanAxis("chi", "chi", tuple(0.04 * (k - 4) for k in range(9))),
)


def chosen_line(at: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Burgers vector (in a/2) and line direction of a random candidate, in the frame of the crystal."""
    planes, directions = slip_systems()
    which, number, sign = at.rng.integers(12), at.rng.integers(LINE_ANGLES), at.rng.choice([-1, 1])
    along = directions[which] / np.sqrt(2)
    angle = 2 * np.pi * number / LINE_ANGLES
    return sign * directions[which], np.cos(angle) * along + np.sin(angle) * np.cross(planes[which] / np.sqrt(3), along)


def _one(at: Frame, chosen: tuple[np.ndarray, np.ndarray], axes: tuple[ScanAxis, ...], number: int = 0) -> Phantom:
    """Scan of a line through a random point of the light sheet, in the middle of the frame."""
    b, t = chosen
    middle = at.box.mean(0)
    middle[2] = at.z[0]
    aside = at.rng.uniform(-0.2, 0.2, 3) * (at.box[1] - at.box[0])
    aside[2] = at.rng.uniform(-0.08, 0.08)
    made = lines(middle + aside, at.burgers(*b), at.direction(*t), CORE)
    scene = Scene(poisson=at.crystal.poisson, lines=made, **bending(at, BEND))
    x, z = at.grain.T[:, 0], at.grain.T[:, 2]
    lattice = {"kind": "fcc", "parameter": 1e-4 * float(at.crystal.cell[0]), "x": x.tolist(), "z": z.tolist()}
    crystal = {"lattice": lattice, "hkl": list(at.hkl)}
    return phantom(
        at, scene, axes=axes, lighting=Lighting(flux=FLUX), nodes=NODES, samples=SAMPLES, kinematic=True, number=number,
        crystal=crystal,
    )  # fmt: skip


def isolated(at: Frame) -> tuple[Phantom, ...]:
    """A phi scan of one dislocation."""
    return (_one(at, chosen_line(at), (PHI,)),)


def isolated_phi_chi(at: Frame) -> tuple[Phantom, ...]:
    """A phi-chi scan of one dislocation."""
    return (_one(at, chosen_line(at), PHI_CHI),)


def isolated_reflections(at: Frame) -> tuple[Phantom, ...]:
    """Phi scans of one dislocation in three {111} reflections, each with its own mounting of the sample."""
    chosen = chosen_line(at)
    out = []
    for number, hkl in enumerate(REFLECTIONS):
        turn = at.rng.uniform(0, 2 * np.pi)
        grain = rotation_y(-at.microscope.theta) @ rotation_z(turn) @ orientation(hkl)
        out.append(_one(replace(at, hkl=hkl, grain=grain), chosen, (PHI,), number))
    return tuple(out)
