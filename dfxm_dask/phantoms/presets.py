"""The named phantoms: content, measurement, and default numbers of layers and pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.defects.subgrains import Built, plane_wall
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.phantoms.contents import (
    CORE,
    Frame,
    assembled,
    bending,
    crowd,
    frame,
    free_lines,
    junction,
    loops,
    network,
    phantom,
    tilt_plane,
    wander,
)
from dfxm_dask.phantoms.isolated import isolated, isolated_phi_chi, isolated_reflections
from dfxm_dask.phantoms.phantom import (
    TURN,
    Lighting,
    Motion,
    Phantom,
    ScanAxis,
    StrongBeam,
    check_strong_beam,
    generator,
)
from dfxm_dask.phantoms.reflections import one_edge, two_lines
from dfxm_dask.schema import nearest


@dataclass(frozen=True)
class Preset:
    """A named phantom: builder, default layers and shape, and one line about it."""

    build: Callable[[Frame], tuple[Phantom, ...]]
    layers: int
    shape: tuple[int, int]
    summary: str


def _easy(at: Frame) -> tuple[Phantom, ...]:
    walls = (tilt_plane(at, at.place(), (0, 1, -1), (1, 0, 0), at.rng.uniform(6e-5, 1e-4)),)
    scene = assembled(at, walls, free_lines(at, 0.01), loops(at, 1), 8e-6)
    return (phantom(at, scene, walls),)


def _three(at: Frame) -> Built:
    """A triple junction along [100] at random azimuths."""
    start = at.rng.uniform(0, 2 * np.pi)
    azimuths = start + np.deg2rad([0, at.rng.uniform(80, 150), at.rng.uniform(210, 280)])
    first, second = at.rng.uniform(5e-5, 1e-4, 2)
    order = at.rng.permutation([first, second, -first - second])
    return junction(at, at.place(), (1, 0, 0), azimuths, order, (0, 1, 1))


def _hard(at: Frame) -> tuple[Phantom, ...]:
    walls = (_three(at),)
    scene = assembled(at, walls, free_lines(at, 0.03), loops(at, 3), 1.5e-5)
    light = Lighting(flux=1e5, diffuse=4e3, tail=0.3, attenuation=1.0, jitter=1.6, drift=0.1, stripes=0.3)
    return (phantom(at, scene, walls, lighting=light, visibility=(0.1, 0.35)),)


def _multigrain(at: Frame) -> tuple[Phantom, ...]:
    aside = at.box[0] + np.array([0.8, 0.5, 0.5]) * (at.box[1] - at.box[0])
    other = at.box[0] + np.array([0.25, 0.5, 0.5]) * (at.box[1] - at.box[0])
    normal = at.direction(1, 0, 0)
    screws = np.array([[0, 1, 1], [0, 1, -1]])
    twist = plane_wall(
        "twist",
        other,
        normal,
        at.rng.uniform(5e-5, 9e-5) * normal,
        np.array([at.burgers(*b) for b in screws]),
        np.array([at.direction(*b) for b in screws]),
        at.box,
        CORE,
    )
    walls = (_three(at), twist, tilt_plane(at, aside, (1, 0, 1), (0, 1, 0), at.rng.uniform(5e-5, 9e-5)))
    scene = assembled(at, walls, free_lines(at, 0.02), loops(at, 2), 1.5e-5)
    return (phantom(at, scene, walls, lighting=Lighting(drift=0.05)),)


def _al002(at: Frame) -> tuple[Phantom, ...]:
    """Three tilt walls of 0.003, 0.003 and 0.006 degree about [111], and a twist wall of 0.004 degree."""
    tilts = np.deg2rad([0.003, 0.003, -0.006])
    tilts = np.roll(tilts, at.rng.integers(3)) * at.rng.choice([-1, 1])
    start = at.rng.choice([0.0, 60.0])
    walls = (
        junction(at, at.place(), (1, 1, 1), np.deg2rad(start + np.array([30.0, 150, 270])), tilts, (1, -1, 0)),
        plane_wall(
            "twist",
            at.box[0] + np.array([0.85, 0.5, 0.5]) * (at.box[1] - at.box[0]),
            at.direction(1, 0, 0),
            np.deg2rad(0.004) * at.direction(1, 0, 0),
            np.array([at.burgers(0, 1, 1), at.burgers(0, 1, -1)]),
            np.array([at.direction(0, 1, 1), at.direction(0, 1, -1)]),
            at.box,
            CORE,
        ),
    )
    scene = assembled(at, walls, free_lines(at, 0.002), (), 5e-6)
    return (phantom(at, scene, walls, nodes=11, lighting=Lighting(flux=6000.0, exposure=1.0)),)


def _empty(at: Frame) -> tuple[Phantom, ...]:
    return (phantom(at, assembled(at, (), free_lines(at, 0.0), (), 1e-5)),)


def _network(at: Frame) -> tuple[Phantom, ...]:
    scene = Scene(poisson=at.crystal.poisson, network=network(at), **bending(at, 5e-6))
    return (phantom(at, scene),)


def _deformed(at: Frame) -> tuple[Phantom, ...]:
    """Cold-worked: the lattice turns by 1.5e-4 rad within some um, and spacings within a voxel spread by 2e-3."""
    scene = Scene(poisson=at.crystal.poisson, **bending(at, 1.5e-4, 60, (3, 30)))
    wide = replace(at.microscope, bandwidth=2e-3)
    light = Lighting(flux=2500.0, tail=0.0)
    return (replace(phantom(at, scene, lighting=light, kinematic=True, nodes=3), microscope=wide),)


FLANK = 2.2e-4  # rad from the peak, position of the movie: weak beam


def _film(at: Frame, path: np.ndarray, passing: bool = False, **options: float) -> tuple[Phantom, ...]:
    """Screw dislocations along [0 1 -1] seen on the flank of the rocking curve."""
    frames, count, _ = path.shape
    b, t = at.burgers(0, 1, -1), at.direction(0, 1, -1)
    signs = np.where(np.arange(count) % 2, -1.0, 1.0)[:, None]
    made = lines(np.zeros((count, 3)), signs * b, np.tile(t, (count, 1)), np.full(count, CORE))
    scene = Scene(poisson=at.crystal.poisson, lines=made, **bending(at, 5e-6))
    time = ScanAxis("time", "", tuple(0.25 * k for k in range(frames)), "s")
    light = Lighting(flux=2.5e4, weak=0.2, exposure=0.2, drift=0.02, **options)
    x, z = at.grain.T[:, 0], at.grain.T[:, 2]
    lattice = {"kind": "fcc", "parameter": 1e-4 * float(at.crystal.cell[0]), "x": x.tolist(), "z": z.tolist()}
    return (
        phantom(
            at,
            scene,
            axes=(time,),
            held={"phi": FLANK},
            motion=Motion(path, passing),
            lighting=light,
            nodes=5,
            crystal={"lattice": lattice, "hkl": list(at.hkl)},
        ),
    )


def _movie(at: Frame) -> tuple[Phantom, ...]:
    return _film(at, wander(at, 60, 5, 0.35, 8.0))


def _movie_long(at: Frame) -> tuple[Phantom, ...]:
    return _film(at, wander(at, 800, 13, 0.35, 8.0))


def _movie_crowded(at: Frame) -> tuple[Phantom, ...]:
    """Three pairs, one free dislocation, one that enters and one that leaves, in a beam that moves and flickers."""
    return _film(at, crowd(at, 60), passing=True, flicker=0.1, beam=0.8, beam_drift=0.01)


def _movie_empty(at: Frame) -> tuple[Phantom, ...]:
    return _film(at, np.zeros((100, 0, 2)))


PRESETS: dict[str, Preset] = {
    "easy": Preset(_easy, 4, (512, 512), "two subgrains and a tilt wall; brightness separates weak and strong beam"),
    "hard": Preset(_hard, 16, (512, 512), "three subgrains; attenuators and exposure jitter hide the brightness"),
    "multigrain": Preset(_multigrain, 8, (512, 512), "a triple junction crossed by a twist and a tilt wall"),
    "al002": Preset(_al002, 16, (512, 512), "walls of 0.003 to 0.006 degree, as in the published aluminium volume"),
    "movie": Preset(_movie, 1, (256, 256), "60 frames of 5 moving dislocations"),
    "movie_long": Preset(_movie_long, 1, (256, 256), "800 frames of 13 moving dislocations"),
    "movie_crowded": Preset(
        _movie_crowded, 1, (256, 256), "60 frames: overlapping images, dislocations that enter and leave, unsteady beam"
    ),
    "movie_empty": Preset(_movie_empty, 1, (256, 256), "100 frames without any dislocation"),
    "reflections": Preset(two_lines, 1, (96, 60), "four reflections of one strained field, with F"),
    "reflections_edge": Preset(one_edge, 1, (128, 80), "four reflections of one edge dislocation, with F"),
    "network": Preset(_network, 4, (512, 512), "thousands of segments: a ParaDiS or ExaDiS file, or loops at random"),
    "isolated": Preset(isolated, 1, (120, 40), "one dislocation, phi scan, for identification"),
    "isolated_phi_chi": Preset(isolated_phi_chi, 1, (120, 40), "one dislocation, phi-chi scan"),
    "isolated_reflections": Preset(isolated_reflections, 1, (120, 40), "one dislocation in three {111} reflections"),
    "empty": Preset(_empty, 2, (512, 512), "no dislocation"),
    "deformed": Preset(_deformed, 2, (512, 512), "cold-worked: no weak beam at all"),
}


def build(
    name: str,
    *,
    layers: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    strong_beam: StrongBeam | Literal["none"] | None = None,
    network: str | Path | None = None,
) -> tuple[Phantom, ...]:
    """The phantoms of a preset: one, or one for each reflection.

    Parameters
    ----------
    name : str
        One of :data:`PRESETS`.
    layers : int, optional
    shape : (int, int), optional
        Rows and columns; any size from 8.
    seed : int
        Not negative.
    strong_beam : str, optional
        "smeared" or "sharp" (see :class:`~dfxm_dask.phantoms.phantom.Phantom`), or "none" (kinematic). Default:
        smeared; none in the presets ``deformed``, ``reflections`` and ``isolated``.
    network : path, optional
        File of ParaDiS or ExaDiS for the preset ``network``, in units of the Burgers vector of aluminium.

    Raises
    ------
    InputError
        Unknown preset (with the nearest name), an unknown strong beam, a size or seed out of range, or a network in
        another preset.
    SourceError
        A file that does not contain a network; see :func:`~dfxm_dask.optics.defects.paradis.read_network`.

    Examples
    --------
    >>> build("easy", layers=1, shape=(64, 64))[0].grid
    (31,)
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r}", f"is unknown{nearest(name, PRESETS)}", f"use one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    count = preset.layers if layers is None else layers
    size = preset.shape if shape is None else shape
    if not _whole(count) or count < 1:
        raise InputError("layers", f"is {count!r}", "simulate at least one layer")
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(_whole(n) and n >= 8 for n in size):
        raise InputError("shape", f"is {size!r}", "give rows and columns of at least 8 pixels")
    if preset.layers == 1 and count != 1 and name.startswith("movie"):
        raise InputError(f"preset {name!r} with {count} layers", "a movie watches one layer", "leave layers out")
    if not _whole(seed) or seed < 0:
        raise InputError("seed", f"is {seed!r}", "give a whole number from 0 on")
    if strong_beam not in (None, "none"):
        check_strong_beam(strong_beam)
    aside = np.deg2rad(generator(seed, TURN).uniform(-10, 10))
    scopes: dict[str, dict[str, Any]] = {
        "al002": {
            "hkl": (0, 0, 2),
            "turn": np.deg2rad(35.0) + aside,
            "microscope": replace(find_microscope("al002"), pixel=0.04, sheet=0.5 / 2.355),
        },
    }
    for oblique in ("reflections", "reflections_edge"):
        scopes[oblique] = {"hkl": (1, 1, 3), "microscope": replace(find_microscope("oblique_al113"), eta=0.0)}
    at = frame(name, seed, count, (int(size[0]), int(size[1])), **scopes.get(name, {"turn": np.deg2rad(50.0) + aside}))
    if network is not None and name != "network":
        raise InputError(
            f"preset {name!r}", "has no network of segments", "simulate the preset network, or leave network out"
        )
    made = preset.build(replace(at, network=None if network is None else str(network)))
    if strong_beam is None:
        return made
    if strong_beam == "none":
        return tuple(replace(one, kinematic=True) for one in made)
    return tuple(replace(one, kinematic=False, strong_beam=strong_beam) for one in made)


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
