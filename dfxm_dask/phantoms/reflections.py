"""Phantoms of several reflections of one field, in the oblique geometry of arXiv:2503.22022.

Each reflection is a scan with the axes of the laboratory: the sample turns by omega about the vertical and moves by a
few pixels between the scans.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dfxm_dask.optics.crystal import slip_systems
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene, placed
from dfxm_dask.optics.forward import Setting, setting
from dfxm_dask.optics.geometry import oblique, rotation_z
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.phantoms.contents import CORE, Frame, bending, phantom
from dfxm_dask.phantoms.phantom import MISALIGNED, Lighting, Phantom, Placement, ScanAxis, generator

REFLECTIONS = ((-1, -1, 3), (-1, 1, 3), (1, -1, 3), (1, 1, 3))
FARTHEST = 3.0  # pixels along y: largest displacement of the sample along each axis between two scans


def two_lines(at: Frame) -> tuple[Phantom, ...]:
    """Two edge dislocations of random slip systems in a bent lattice."""
    planes, directions = slip_systems()
    chosen = at.rng.choice(12, 2, replace=False)
    through = at.rng.uniform(-0.3, 0.3, (2, 3)) * (at.box[1] - at.box[0])
    cubic = replace(at, grain=np.eye(3))
    made = lines(
        through,
        np.array([cubic.burgers(*directions[k]) for k in chosen]),
        np.cross(planes[chosen], directions[chosen]).astype(float),
        np.full(2, CORE),
    )
    return _scans(cubic, Scene(at.crystal.poisson, made, **bending(cubic, 3e-5, 4, (15, 40))))


def one_edge(at: Frame) -> tuple[Phantom, ...]:
    """One edge dislocation along the vertical near the middle of the field, in a lattice that does not bend."""
    cubic = replace(at, grain=np.eye(3))
    b = at.rng.choice([-1, 1]) * cubic.burgers(1, at.rng.choice([-1, 1]), 0)
    through = np.array([*at.rng.uniform(-0.1, 0.1, 2) * (at.box[1] - at.box[0])[:2], 0.0])
    return _scans(cubic, Scene(at.crystal.poisson, lines(through[None], b[None], np.array([[0, 0, 1.0]]), CORE)))


def _scans(at: Frame, scene: Scene) -> tuple[Phantom, ...]:
    """One scan of every reflection. The axes of the scene are those of the crystal, with the rotation axis at 0."""
    scope = replace(find_microscope("oblique_al113"), sheet=0.2 / 2.355)
    axis = (at.box[1] + at.box[0])[1::-1] / 2
    moved = generator(at.seed, MISALIGNED).uniform(-FARTHEST, FARTHEST, (len(REFLECTIONS), 2)) * at.pixel[0]
    moved[0] = 0.0  # the first scan defines the position of the sample
    out = []
    for number, hkl in enumerate(REFLECTIONS):
        solutions = oblique(at.crystal.B, hkl, scope.energy)
        omega, eta, theta = solutions[np.argmin(np.abs(solutions[:, 1] - scope.eta))]
        turn = rotation_z(omega)
        one = replace(
            at,
            hkl=hkl,
            microscope=replace(scope, theta=theta, eta=0.0),
            at=setting(theta, omega=omega, eta=eta, oblique=True, laboratory=True),
        )
        recorded = {
            "lattice": {
                "kind": "fcc",
                "parameter": 1e-4 * float(at.crystal.cell[0]),
                "x": turn[0].tolist(),
                "z": turn[2].tolist(),
            },
            "hkl": list(hkl),
            "frame": "laboratory",
            "goniometer": dict(
                zip(("mu", "omega", "eta", "theta"), np.degrees([0.0, omega, eta, theta]).tolist(), strict=True)
            ),
            "energy": float(scope.energy),
            "rotation_axis": axis.tolist(),
        }
        options: dict[str, Any] = {
            "axes": _axes(one.at),
            "nodes": 5,
            "lighting": Lighting(flux=4000.0, weak=1.0, tail=0.0, exposure=0.5),
            "strained": True,
            "kinematic": True,
            "crystal": recorded,
            "placement": Placement(float(omega), moved[number], axis),
        }
        shift = turn @ [*moved[number][::-1], 0.0] + [*axis[::-1], 0.0]
        out.append(phantom(one, placed(scene, turn, shift), number=number, **options))
    return tuple(out)


def _axes(at: Setting) -> tuple[ScanAxis, ...]:
    """Fine steps for the axis that rocks the crystal, wide ones for the rest: omega turns phi into chi.

    Steps are at most 1.1 standard deviations of the resolution along each axis: wider ones bias the centre of mass.
    """
    fine = tuple(0.0015 * (k - 9) for k in range(19))
    wide = tuple(0.025 * (k - 4) for k in range(9))
    arm = tuple(0.015 * (k - 4) for k in range(9))
    rocking = max(("phi", "chi"), key=lambda name: abs(at.moves[name][0]))
    return (
        ScanAxis("two_theta", "obpitch", arm),
        ScanAxis("chi", "chi", fine if rocking == "chi" else wide),
        ScanAxis("phi", "diffry", fine if rocking == "phi" else wide),
    )
