"""A simulated scan as data: sample, measurement, brightness and random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.defects.subgrains import Boundary
from dfxm_dask.optics.forward import Setting
from dfxm_dask.optics.instrument.detector import Detector
from dfxm_dask.optics.instrument.microscope import Microscope

CONTENT, FACES, FLUX, DRIFT, NOISE, STRIPES, GAIN, MONITOR, TURN, BEAM, MISALIGNED = range(11)
"""Purposes of random numbers."""

StrongBeam = Literal["smeared", "sharp"]
STRONG_BEAMS = ("smeared", "sharp")


@dataclass(frozen=True)
class ScanAxis:
    """One axis of a simulated scan: its motor, positions (degree or s) and unit."""

    name: str
    motor: str
    positions: tuple[float, ...]
    units: str = "degree"


@dataclass(frozen=True)
class Lighting:
    """Brightness of a scan.

    Parameters
    ----------
    flux : float, count
        Counts above the offset of a perfect lattice at its peak, per s, without attenuator.
    weak : float
        Kinematic intensity relative to the dynamical one.
    diffuse : float, count
        Scattering that does not come from the crystal, per s, without attenuator.
    tail, tail_width : float, rad
        Fraction and half width of the Lorentzian tail of the rocking resolution.
    exposure : float, s
    attenuation : float
        0: one attenuator for all frames. 1: attenuators keep the brightest part of every frame equally bright.
    jitter : float
        Half range of the natural logarithm of a gain that changes from frame to frame.
    drift : float, pixel
        Step of the random walk of the image, per frame.
    stripes : float
        Amplitude of the brightness of rows.
    flicker : float
        Standard deviation of the logarithm of a gain that is independent from frame to frame.
    beam : float
        FWHM of the profile of the beam along y, relative to the height of the frame. 0: all rows are equally bright.
    beam_drift : float
        Step of the random walk of the centre of the beam, per frame, relative to the height of the frame.

    Raises
    ------
    InputError
        A negative number, or no light at all.

    Notes
    -----
    ``weak`` follows the dynamic range of published scans: 20 to 300 counts in weak beam beside 1e3 to 6e4 in strong
    beam. Takagi–Taupin predicts more: a voxel that reflects fully is 2 kappa L times as bright as the mean strong beam.
    """

    flux: float = 12000.0
    weak: float = 0.05
    diffuse: float = 3.0
    tail: float = 0.2
    tail_width: float = 2.5e-5
    exposure: float = 0.5
    attenuation: float = 0.0
    jitter: float = 0.0
    drift: float = 0.0
    stripes: float = 0.05
    flicker: float = 0.0
    beam: float = 0.0
    beam_drift: float = 0.0

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"lighting: {part.name}", f"is {value}", "give zero or more")
        if not (self.flux > 0 and self.exposure > 0 and self.weak > 0):
            raise InputError("lighting", "has no flux, no exposure or no weak beam", "give positive numbers")


@dataclass(frozen=True, eq=False)
class Motion:
    """Positions of moving lines: ndarray (time, dislocation, yx), float64, um, in the plane z = 0.

    With ``passing``, lines enter and leave the frame, and the truth has no position for a line outside the frame.
    """

    position: np.ndarray
    passing: bool = False


@dataclass(frozen=True, eq=False)
class Placement:
    """Sample in the laboratory: r_laboratory = R_z(omega) (r_sample + shift) + axis, along x and y.

    Parameters
    ----------
    omega : float, rad
    shift : ndarray (yx,), um
        Displacement of the sample, along its own axes.
    axis : ndarray (yx,), um
        Position of the rotation axis in the store, which is the origin of the axes of the sample.
    """

    omega: float
    shift: np.ndarray
    axis: np.ndarray

    def in_sample(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions y, x of the store in the axes of the sample, um."""
        c, s = np.cos(self.omega), np.sin(self.omega)
        y, x = y - self.axis[0], x - self.axis[1]
        return c * y - s * x - self.shift[0], c * x + s * y - self.shift[1]


@dataclass(frozen=True, eq=False)
class Phantom:
    """A simulated scan: sample, measurement and brightness.

    Parameters
    ----------
    name, reflection : str
        Preset, and its Miller indices.
    seed : int
    shape : (int, int)
        Rows and columns.
    pixel : (float, float), um
        Pitch along y and x in the object.
    z : tuple of float, um
        Layers.
    axes : tuple of ScanAxis
        Slow first.
    microscope : Microscope
    at : Setting
    scene : Scene
    fringes : ndarray (7,)
        From :func:`dfxm_dask.optics.surrogate.strong_beam_pattern`.
    half_width : float, rad
        |chi_h| / sin(2 theta): the deviation that a perfect crystal still reflects.
    lighting : Lighting
    detector : Detector
    nodes : int
        Heights over which the sheet is summed.
    samples : (int, int)
        Points of a pixel along y and x in a kinematic image. One point, as in published codes, misses structure below
        the pixel: the image of a line with little contrast is narrower.
    boundaries : tuple of Boundary
    motion : Motion or None
    strained : bool
        Whether the truth includes F.
    strong_beam : str
        "smeared": the strong beam follows the true lattice with its dislocations, smeared by the width that
        Takagi-Taupin shows (:func:`dfxm_dask.phantoms.strong_lattice.smearing`). "sharp": it follows the lattice
        between the dislocations, which turns abruptly at the plane of a wall, so that edge detection finds these walls
        by construction.
    kinematic : bool
        No dynamical part, as in cold-worked or very small crystals; all lit patches are labelled ambiguous.
    held : dict of str to float, rad
        Fixed angles that differ from the nominal setting.
    number : int
        Number of the scan in its preset: scans of one field differ in noise.
    crystal : dict
        Lattice, reflection, goniometer and energy that a store of the scan records; empty for none.
    placement : Placement or None
        Sample in the laboratory, if the axes of the store are those of the laboratory and the truth has those of the
        sample.
    """

    name: str
    reflection: str
    seed: int
    shape: tuple[int, int]
    pixel: tuple[float, float]
    z: tuple[float, ...]
    axes: tuple[ScanAxis, ...]
    microscope: Microscope
    at: Setting
    scene: Scene
    fringes: np.ndarray
    half_width: float
    lighting: Lighting = field(default_factory=Lighting)
    detector: Detector = field(default_factory=Detector)
    nodes: int = 7
    samples: tuple[int, int] = (1, 1)
    boundaries: tuple[Boundary, ...] = ()
    motion: Motion | None = None
    strained: bool = False
    strong_beam: StrongBeam = "smeared"
    kinematic: bool = False
    held: dict[str, float] = field(default_factory=dict)
    number: int = 0
    crystal: dict[str, Any] = field(default_factory=dict)
    placement: Placement | None = None

    def __post_init__(self) -> None:
        check_strong_beam(self.strong_beam)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of positions along each scan axis."""
        return tuple(len(a.positions) for a in self.axes)

    @property
    def still(self) -> bool:
        """Whether all frames show the same lattice."""
        return self.motion is None or self.motion.position.shape[1] == 0


def generator(seed: int, purpose: int, *keys: int) -> np.random.Generator:
    """Random numbers of one purpose, independent of earlier draws and different for every purpose."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *keys)))


def fingerprint(value: Any) -> Any:
    """A phantom or one of its parts as plain text and numbers: arrays by the digest of their bytes."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: fingerprint(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): fingerprint(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [fingerprint(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def coordinates(phantom: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: y (y,) and x (x,), float64, um."""
    (ny, nx), (py, px) = phantom.shape, phantom.pixel
    return np.arange(ny) * py, np.arange(nx) * px


def check_strong_beam(kind: str) -> None:
    """Refuse a strong beam that is unknown.

    Raises
    ------
    InputError
    """
    if kind not in STRONG_BEAMS:
        raise InputError(f"strong beam {kind!r}", "is unknown", f"use one of {', '.join(STRONG_BEAMS)}")
