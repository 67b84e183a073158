"""Content of the volume of a phantom: lines, loops, bending and walls in a crystal, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dfxm_dask.optics.crystal import (
    Crystal,
    absorption,
    burgers_vectors,
    extinction_length,
    find_crystal,
    slip_systems,
    susceptibility,
)
from dfxm_dask.optics.defects.dislocation import LINE
from dfxm_dask.optics.defects.network import Network, placed
from dfxm_dask.optics.defects.paradis import read_network
from dfxm_dask.optics.defects.scene import Loop, Scene
from dfxm_dask.optics.defects.segments import polygon_loop
from dfxm_dask.optics.defects.subgrains import Built, plane_wall, tilt_junction
from dfxm_dask.optics.forward import Setting, setting
from dfxm_dask.optics.geometry import effective_pixel, orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import Microscope, find_microscope
from dfxm_dask.optics.surrogate import strong_beam_pattern
from dfxm_dask.phantoms.phantom import CONTENT, Phantom, ScanAxis, generator

CORE = 1e-3  # um: 3.5 Burgers vectors
PHI = ScanAxis("phi", "mu", tuple(0.002 * (k - 15) for k in range(31)))
"""31 steps of 0.002 degree about the peak, as in arXiv:2509.05017v2."""

VISIBILITY = (0.3, 0.7)
"""Range of the fringe visibility: faces that are rough on the scale of a pixel wash out the fringes, whose visibility
is 1 for a smooth plate (our choice)."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The volume to be filled and the crystal that fills it.

    Parameters
    ----------
    name : str
    seed : int
    rng : Generator
        Source of all random content of the phantom, drawn in order.
    crystal : Crystal
    hkl : (int, int, int)
    microscope : Microscope
    at : Setting
    grain : ndarray (3, 3)
        Rotation from the grain to the axes of the store.
    shape, pixel, z
        See :class:`~dfxm_dask.phantoms.phantom.Phantom`.
    network : str or None
        File of a dislocation network.
    """

    name: str
    seed: int
    rng: np.random.Generator
    crystal: Crystal
    hkl: tuple[int, int, int]
    microscope: Microscope
    at: Setting
    grain: np.ndarray
    shape: tuple[int, int]
    pixel: tuple[float, float]
    z: tuple[float, ...]
    network: str | None = None

    @property
    def box(self) -> np.ndarray:
        """Lowest and highest corner (2, xyz) of the volume, um, and 1 um below and above for the sheet."""
        (ny, nx), (py, px) = self.shape, self.pixel
        return np.array([[0, 0, self.z[0] - 1], [(nx - 1) * px, (ny - 1) * py, self.z[-1] + 1]])

    def direction(self, *uvw: float) -> np.ndarray:
        """Unit vector of a direction of the (cubic) crystal, in the axes of the store."""
        made = self.grain @ np.array(uvw, float)
        return made / np.linalg.norm(made)

    def burgers(self, *uvw: int) -> np.ndarray:
        """Burgers vector a/2 [uvw] in the axes of the store, um."""
        return self.grain @ (0.5e-4 * self.crystal.cell[0] * np.array(uvw, float))

    def place(self, spread: float = 0.1) -> np.ndarray:
        """A point near the middle of the volume, um."""
        part = self.rng.uniform(0.5 - spread, 0.5 + spread, 3)
        return self.box[0] + part * (self.box[1] - self.box[0])


def frame(
    name: str,
    seed: int,
    layers: int,
    shape: tuple[int, int],
    *,
    crystal: str = "Al",
    hkl: tuple[int, int, int] = (-1, 1, -1),
    microscope: Microscope | None = None,
    turn: float = 0.0,
    z_step: float = 1.0,
) -> Frame:
    """A volume of a crystal at its Bragg angle, turned about its scattering vector by ``turn`` (rad)."""
    scope = microscope or replace(find_microscope("id06_al111"), sheet=0.2 / 2.355)
    at = setting(scope.theta)
    grain = rotation_y(-scope.theta) @ rotation_z(turn) @ orientation(hkl)
    pixel = effective_pixel(scope.pixel, scope.theta, scope.detector)
    z = tuple(float(z_step * k) for k in range(layers))
    rng = generator(seed, CONTENT)
    return Frame(name, seed, rng, find_crystal(crystal), hkl, scope, at, grain, shape, pixel, z)


def free_lines(at: Frame, density: float) -> np.ndarray:
    """Straight dislocations at random, of all slip systems and characters and both signs.

    Parameters
    ----------
    density : float, 1/um^2
        Line length per volume (0.01 to 0.1 in annealed crystals).
    """
    planes, directions = slip_systems()
    low, high = at.box[0] - 3, at.box[1] + 3
    size = high - low
    made = []
    length, wanted = 0.0, density * float(np.prod(size))
    while length < wanted:
        which, angle, sign = at.rng.integers(12), at.rng.uniform(0, np.pi), at.rng.choice([-1, 1])
        glide = directions[which] / np.sqrt(2)
        line = np.cos(angle) * glide + np.sin(angle) * np.cross(planes[which] / np.sqrt(3), glide)
        t = at.grain @ line
        point = low + at.rng.uniform(0, 1, 3) * size
        made.append((point, sign * at.burgers(*directions[which]), t, CORE))
        with np.errstate(divide="ignore"):
            ends = np.sort([(low - point) / t, (high - point) / t], axis=0)
        length += ends[1].min() - ends[0].max()
    return np.array(made, LINE) if made else np.zeros(0, LINE)


def loops(at: Frame, count: int) -> tuple[Loop, ...]:
    """Hexagonal loops of 0.8 to 2 um radius on {111} planes, in the volume."""
    planes, directions = slip_systems()
    made = []
    for _ in range(count):
        which, radius = at.rng.integers(12), at.rng.uniform(0.8, 2.0)
        centre = at.place(0.4)
        nodes = polygon_loop(centre, at.direction(*planes[which]), radius, 6)
        made.append(Loop(nodes, at.burgers(*directions[which]), CORE))
    return tuple(made)


LOOPS = 0.02  # per um³: a line density of 0.15 per um²


def network(at: Frame) -> Network:
    """Segments of a file about the middle of the volume, in the axes of its crystal; without a file, loops at random.

    The loops, of 16 sides and 0.5 to 2 um radius, lie on {111} planes in the volume and 3 um around it.
    """
    if at.network is not None:
        length = 0.5e-4 * float(at.crystal.cell[0]) * np.sqrt(2.0)
        found = read_network(at.network, burgers_length=length, core=CORE)
        return placed(found, at.grain, at.box.mean(0) - at.grain @ found.cell.sum(0) / 2)
    planes, directions = slip_systems()
    low, size = at.box[0] - 3, at.box[1] - at.box[0] + 6
    count, sides = max(1, round(LOOPS * float(np.prod(size)))), 16
    chosen = at.rng.integers(12, size=count)
    nodes = [
        polygon_loop(low + size * at.rng.uniform(size=3), at.direction(*planes[k]), at.rng.uniform(0.5, 2), sides)
        for k in chosen
    ]
    first = np.arange(count * sides).reshape(count, sides)
    return Network(
        nodes=np.concatenate(nodes),
        segments=np.stack([first, np.roll(first, -1, axis=1)], axis=-1).reshape(-1, 2),
        burgers=np.repeat([at.burgers(*directions[k]) for k in chosen], sides, axis=0),
        normals=np.repeat([at.direction(*planes[k]) for k in chosen], sides, axis=0),
        core=CORE,
        cell=np.zeros((3, 3)),
        origin=low,
    )


def bending(at: Frame, amplitude: float, count: int = 4, lengths: tuple[float, float] = (40, 120)) -> dict[str, Any]:
    """Smooth bending: waves of displacement of random direction; each component of beta Q about ``amplitude`` rms."""
    wave = at.rng.normal(size=(count, 3))
    wave /= np.linalg.norm(wave, axis=1, keepdims=True)
    wave *= 2 * np.pi / at.rng.uniform(*lengths, (count, 1))
    # |k| u = beta: three components of k and the square of a cosine share it.
    moves = at.rng.normal(size=(count, 3)) * amplitude * np.sqrt(6 / count)
    moves /= np.linalg.norm(wave, axis=1, keepdims=True)
    return {"wave_vectors": wave, "wave_displacements": moves, "wave_phases": at.rng.uniform(0, 2 * np.pi, count)}


def assembled(at: Frame, built: tuple[Built, ...], free: np.ndarray, more: tuple[Loop, ...], bend: float) -> Scene:
    """Boundaries, free lines, loops and bending in one scene."""
    return Scene(
        poisson=at.crystal.poisson,
        lines=np.concatenate([free, *(b.lines for b in built)]),
        loops=more,
        sheets=np.concatenate([b.sheets for b in built]) if built else np.zeros(0, Scene(0.3).sheets.dtype),
        junctions=tuple(b.junction for b in built),
        **bending(at, bend),
    )


def phantom(at: Frame, scene: Scene, built: tuple[Built, ...] = (), **options: Any) -> Phantom:
    """A phantom of a frame, with further options of :class:`~dfxm_dask.phantoms.phantom.Phantom`."""
    options.setdefault("axes", (PHI,))
    visibility = at.rng.uniform(*options.pop("visibility", VISIBILITY))
    theta, energy = at.microscope.theta, at.microscope.energy
    fringes = strong_beam_pattern(
        extinction_length=extinction_length(at.crystal, at.hkl, energy),
        theta=theta,
        absorption=absorption(at.crystal, energy),
        sheet=at.microscope.sheet,
        visibility=visibility,
    )
    half_width = abs(susceptibility(at.crystal, at.hkl, energy)[1]) / np.sin(2 * theta)
    return Phantom(
        name=at.name,
        reflection=" ".join(map(str, at.hkl)),
        seed=at.seed,
        shape=at.shape,
        pixel=at.pixel,
        z=at.z,
        microscope=at.microscope,
        at=at.at,
        scene=scene,
        fringes=fringes,
        half_width=float(half_width),
        boundaries=tuple(b for one in built for b in one.boundaries),
        **options,
    )


def tilt_plane(at: Frame, origin: np.ndarray, b: tuple[int, ...], t: tuple[int, ...], angle: float) -> Built:
    """A tilt wall of one set of edges: the plane is normal to b, the lines run along t."""
    normal, line = at.direction(*b), at.direction(*t)
    return plane_wall("tilt", origin, normal, angle * line, at.burgers(*b)[None], line[None], at.box, CORE)


def junction(
    at: Frame,
    origin: np.ndarray,
    t: tuple[int, ...],
    azimuths: np.ndarray,
    tilts: np.ndarray,
    reference: tuple[int, ...],
) -> Built:
    """Tilt walls that meet along t; azimuths are counted from the direction ``reference``."""
    every = at.grain @ burgers_vectors(at.crystal).T
    line = at.direction(*t)
    candidates = every.T[np.abs(line @ every) < 1e-6 * np.abs(every).max()]
    return tilt_junction(origin, line, at.direction(*reference), azimuths, tilts, candidates, at.box, CORE)


def wander(
    at: Frame, frames: int, count: int, spread: float, memory: float, rest: np.ndarray | None = None
) -> np.ndarray:
    """Ornstein–Uhlenbeck paths about rest positions.

    Parameters
    ----------
    frames, count : int
    spread : float, um
        Standard deviation about the rest position.
    memory : float
        Frames in which a deviation falls by e.
    rest : ndarray (dislocation, yx), optional
        Rest positions, um. Default: random, in the middle 70 % of the frame.

    Returns
    -------
    ndarray (time, dislocation, yx), float64, um

    Notes
    -----
    x_{k+1} = m + (x_k - m) a + spread sqrt(1 - a^2) normal, a = exp(-1/memory): exact for any step.
    """
    low, high = at.box[0][1::-1], at.box[1][1::-1]
    if rest is None:
        rest = low + (0.15 + 0.7 * at.rng.uniform(size=(count, 2))) * (high - low)
    stay = np.exp(-1 / memory)
    off = at.rng.normal(0, spread, (count, 2))
    path = np.empty((frames, count, 2))
    for k in range(frames):
        path[k] = rest + off
        off = off * stay + spread * np.sqrt(1 - stay**2) * at.rng.normal(size=(count, 2))
    return path


OVERLAP = 0.4, 1.0  # um along y and x: images of dislocations that are nearer than this overlap
CROWDED = 0.15  # least fraction of the frames with overlapping images


def crowd(at: Frame, frames: int) -> np.ndarray:
    """Paths of nine dislocations: three close pairs, a free one, one that enters the frame and one that leaves it.

    Returns
    -------
    ndarray (time, dislocation, yx), float64, um
        Drawn again until images overlap in at least :data:`CROWDED` of the frames.

    Notes
    -----
    Every path is that of :func:`wander`. Partners of a pair rest 0.9 um along y and 0.5 um along x from each other. The
    eighth dislocation enters by the upper edge, the ninth leaves by the right edge: both edges are inside the crystal.
    """
    low, high = at.box[0][1::-1], at.box[1][1::-1]
    apart = np.tile([[-0.45, -0.25], [0.45, 0.25]], (3, 1))
    for _ in range(200):
        rest = low + (0.15 + 0.7 * at.rng.uniform(size=(9, 2))) * (high - low)
        rest[:6] = np.repeat(rest[:3], 2, axis=0) + apart
        rest[7, 0], rest[8, 1] = high
        path = wander(at, frames, 9, 0.35, 8.0, rest)
        since = np.arange(frames)[:, None] - frames * at.rng.uniform(0.3, 0.7, 2)
        path[:, 7, 0] -= 0.06 * since[:, 0]
        path[:, 8, 1] += 0.18 * since[:, 1]
        if overlapping(path).mean() >= CROWDED:
            break
    return path


def overlapping(path: np.ndarray) -> np.ndarray:
    """Whether the images of at least two dislocations overlap, for every frame: (time,) bool."""
    apart = np.abs(path[:, :, None] - path[:, None])
    near = (apart < OVERLAP).all(-1)
    return near.sum((1, 2)) > path.shape[1]
