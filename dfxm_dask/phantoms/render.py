"""Labelled scans with known truth: one layer of counts with its truth.

A frame is the sum of a kinematic part (distorted voxels) and a dynamical part (perfect voxels at their peak),

    I = (1 - w) weak I_kin + w p I_dyn,

where p is the acceptance of the microscope for the lattice that the strong beam follows
(:func:`dfxm_dask.phantoms.strong_lattice.lattices`), and w rises smoothly with p from 0.02 to 0.5. Effects of a
beamline are added: attenuators, flux drift, beam stripes, sample drift, optics, detector. A layer depends on the
phantom and its number alone, never on the distribution of layers among tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
from scipy.optimize import brentq

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.scene import distance, distortion
from dfxm_dask.optics.forward import seen, sheet_nodes
from dfxm_dask.optics.frame_image import Acceptance, accepted_by, frame_image
from dfxm_dask.optics.geometry import rotation_z
from dfxm_dask.optics.instrument.beam import drift_path, flux_series, monitor, shift, stripes
from dfxm_dask.optics.instrument.blur import blur
from dfxm_dask.optics.instrument.detector import fixed_pattern, record
from dfxm_dask.optics.surrogate import strong_beam
from dfxm_dask.phantoms.phantom import (
    BEAM,
    DRIFT,
    FACES,
    FLUX,
    GAIN,
    MONITOR,
    NOISE,
    STRIPES,
    Phantom,
    coordinates,
    generator,
)
from dfxm_dask.phantoms.strong_lattice import Lattices, lattices, sheet_mean
from dfxm_dask.schema import PATCH, SPACE, Variable

UNLIT, WEAK, STRONG, AMBIGUOUS = range(4)
MEANINGS = ("unlit", "weak", "strong", "ambiguous")

PATCHES = ("z", "scan", "patch_y", "patch_x")
LABEL = Variable("label", PATCHES, "uint8", "1", "class of a patch: " + ", ".join(MEANINGS))
FRACTION = Variable(
    "dynamical_fraction", PATCHES, "float32", "1", "dynamical fraction of the diffracted power of a patch"
)
DISTANCE = Variable("distance", SPACE, "float32", "um", "distance to the nearest dislocation line")
PHI0 = Variable("phi0", SPACE, "float64", "degree", "peak along phi of the lattice that the strong beam follows")
WIDTH = Variable("width", SPACE, "float32", "degree", "FWHM along phi of the lattice between the dislocations")
GRADIENT = Variable("F", (*SPACE, "i", "j"), "float64", "1", "deformation gradient in the axes of the sample")

WEAK_FRACTION, STRONG_FRACTION = 0.1, 0.9
WEAK_ACCEPTANCE, STRONG_ACCEPTANCE = 0.02, 0.5
"""A patch is weak where less than 10 % of its power is dynamical and the perfect lattice is accepted by less than 2 %
everywhere; strong above 90 % and 50 %; anything between is ambiguous (our choice)."""

ENTRY_BLUR = 8.0  # um


def outline(phantom: Phantom, z: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Illuminated voxels of the crystal, and the paths of the beams to and from them.

    Parameters
    ----------
    z : float, um

    Returns
    -------
    lit : ndarray (y, x), bool
        Whether a voxel of the crystal is illuminated.
    entry, leave : ndarray (y, x), float64, um
        Path of the incident beam up to the voxel, and of the diffracted beam from it to the surface.

    Notes
    -----
    Three rough faces: the one that the beam enters (on the left), one along the beam (below), and the top. Each face
    is a level plus waves, drawn from the seed. The first few um behind the entry would be many times brighter than the
    rest; a further roughness of the face, of size :data:`ENTRY_BLUR`, spreads that (our choice).
    """
    y, x = coordinates(phantom)
    waves = generator(phantom.seed, FACES)
    extent = y[-1] - y[0] + phantom.pixel[0], x[-1] - x[0] + phantom.pixel[1]
    y, x = y[:, None], x[None, :]
    if phantom.placement is not None:  # the faces turn with the sample
        y, x = (v + a for v, a in zip(phantom.placement.in_sample(y, x), phantom.placement.axis, strict=True))

    def rough(along: np.ndarray, amplitude: float) -> np.ndarray:
        total = np.zeros_like(along)
        for _ in range(6):
            length = waves.uniform(8, 60)
            phase = waves.uniform(0, 2 * np.pi) + z * waves.uniform(0.02, 0.1)
            total += waves.normal(0, amplitude / 2) * np.cos(2 * np.pi * along / length + phase)
        return total

    entry_face = 0.07 * extent[1] + rough(y, 0.012 * extent[1])
    lower_face = 0.05 * extent[0] + rough(x, 0.012 * extent[0])
    top = phantom.z[-1] + waves.uniform(60, 120) + rough(y, 3.0) + rough(x, 3.0)
    entry = x - entry_face
    lit = (entry > 0) & (y > lower_face)
    leave = (top - z) / np.sin(2 * phantom.at.theta)
    return lit, np.hypot(np.maximum(entry, 0.0), ENTRY_BLUR), leave


def flank(phantom: Phantom, q: float) -> float:
    """Acceptance of the microscope for a perfect lattice at phi = q (rad) from its peak, relative to the peak."""
    matrix, shift = seen(phantom.at, {"phi": q})
    image = frame_image(np.zeros((1, 1, 1, 3)), np.ones(1), matrix, shift, _accepts(phantom))
    return float(image[0, 0])


def _accepts(phantom: Phantom) -> Acceptance:
    light = phantom.lighting
    return accepted_by(phantom.microscope, tail=light.tail, tail_width=light.tail_width)


def full_width(phantom: Phantom) -> float:
    """FWHM of the rocking curve of the lattice between the dislocations, rad."""
    peak = flank(phantom, 0.0)
    half = brentq(lambda q: flank(phantom, q) / peak - 0.5, 0.0, 0.05, xtol=1e-9)
    return 2 * float(half)


def transmissions(phantom: Phantom, layer: int) -> np.ndarray:
    """Transmission of the attenuator of every frame of a layer: ndarray (frame,), float64.

    With ``attenuation`` the attenuator follows the mean brightness of the frame, as at a beamline whose camera would
    saturate at the peak and record no signal in the flanks; ``jitter`` is added. The monitor is behind both.
    """
    light = phantom.lighting
    frames = prod(phantom.grid)
    gain = np.ones(frames)
    if light.attenuation and "phi" in {a.name for a in phantom.axes}:
        offsets = np.array([positions.get("phi", 0.0) for positions in angles(phantom)])
        bright = np.array([flank(phantom, q) for q in offsets]) + light.weak
        gain = (light.weak / bright) ** light.attenuation
    if light.jitter:
        chance = generator(phantom.seed, GAIN, phantom.number, layer)
        gain = gain * np.exp(chance.uniform(-light.jitter, light.jitter, frames))
    return gain / gain.max()


def bragg(phantom: Phantom) -> np.ndarray:
    """Change of the angle of incidence by a deviation in the sample frame: rotation and strain, by Bragg's law."""
    return np.array([1.0, 0.0, np.tan(phantom.at.theta)])


def angles(phantom: Phantom) -> Iterator[dict[str, float]]:
    """Angular positions of every frame in scan order, rad."""
    grids = np.meshgrid(*(np.asarray(a.positions) for a in phantom.axes), indexing="ij")
    names = [a.name for a in phantom.axes]
    moving = [k for k, name in enumerate(names) if name in phantom.at.moves]
    flat = {names[k]: np.deg2rad(grids[k].ravel()) for k in moving}
    for frame in range(prod(phantom.grid)):
        yield {**phantom.held, **{name: float(values[frame]) for name, values in flat.items()}}


def exposures(phantom: Phantom, layer: int) -> dict[str, np.ndarray]:
    """Flux, monitor, exposure and drift of every frame of a layer.

    Returns
    -------
    dict
        ``flux``: relative incident beam behind the attenuator, ``monitor``: its counts, ``exposure``: s,
        ``drift``: (frame, yx), pixel; ``rows``: (frame, y), relative brightness of every row of the beam.
    """
    frames = prod(phantom.grid)
    keys = (phantom.number, layer)
    beam = flux_series(frames, generator(phantom.seed, FLUX, *keys)) * transmissions(phantom, layer)
    light = phantom.lighting
    chance = generator(phantom.seed, BEAM, *keys)
    if light.flicker:
        beam = beam * np.exp(chance.normal(0, light.flicker, frames))
    rows = stripes(phantom.shape[0], generator(phantom.seed, STRIPES), light.stripes)[None]
    if light.beam:
        centre = 0.5 + np.cumsum(chance.normal(0, light.beam_drift, frames))
        off = (np.arange(phantom.shape[0]) + 0.5) / phantom.shape[0] - centre[:, None]
        rows = rows * np.exp(-4 * np.log(2) * (off / light.beam) ** 2)
    exposure = np.full(frames, light.exposure)
    moved = np.zeros((frames, 2))
    if light.drift:
        moved = drift_path(frames, generator(phantom.seed, DRIFT, *keys), light.drift)
    return {
        "flux": beam,
        "monitor": monitor(beam * exposure * 1e7, generator(phantom.seed, MONITOR, *keys)),
        "exposure": exposure,
        "drift": moved,
        "rows": np.broadcast_to(rows, (frames, phantom.shape[0])),
    }


def _of_pixels(values: np.ndarray, phantom: Phantom) -> np.ndarray:
    """Mean over the samples of every pixel."""
    if values.shape[:2] == phantom.shape:
        return values
    (ny, nx), (sy, sx) = phantom.shape, phantom.samples
    return np.asarray(values.reshape(ny, sy, nx, sx, *values.shape[2:]).mean((1, 3)))


def _per_patch(values: np.ndarray, ufunc: np.ufunc) -> np.ndarray:
    rows = ufunc.reduceat(values, np.arange(0, values.shape[0], PATCH), axis=0)
    return ufunc.reduceat(rows, np.arange(0, values.shape[1], PATCH), axis=1)


def render(
    phantom: Phantom, layer: int, made: Lattices | None = None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Frames of one layer in scan order, each with the truth of its patches.

    Parameters
    ----------
    phantom : Phantom
    layer : int
    made : Lattices, optional
        Lattices of this layer, if :func:`layer_truth` also needs them.

    Yields
    ------
    counts : ndarray (y, x), uint16
    truth : dict
        ``label`` uint8 and ``dynamical_fraction`` float32, (patch_y, patch_x).

    Raises
    ------
    InputError
        No such layer.
    """
    if not 0 <= layer < len(phantom.z):
        raise InputError(f"layer {layer}", f"the phantom has {len(phantom.z)}", "choose one of them")
    z = phantom.z[layer]
    light = phantom.lighting
    lit, entry, leave = outline(phantom, z)
    patch_lit = _per_patch(lit.astype(float), np.add) / _per_patch(np.ones(lit.shape), np.add) >= 0.5
    weight = sheet_nodes(phantom.microscope, phantom.nodes)[1]
    accepts = _accepts(phantom)
    if made is None and phantom.still:
        made = lattices(phantom, layer)
    pattern = fixed_pattern(phantom.shape, phantom.detector, exposure=light.exposure, seed=phantom.seed)
    series = exposures(phantom, layer)
    perfect = None
    for number, positions in enumerate(angles(phantom)):
        matrix, moved = seen(phantom.at, positions)
        q, far = made if made is not None else lattices(phantom, layer, number)
        weak = _of_pixels(frame_image(q, weight, matrix, moved, accepts), phantom)
        accepted = frame_image(far, np.ones(1), matrix, moved, accepts)
        if phantom.kinematic:
            power, dynamical = weak, np.zeros_like(weak)
        else:
            step = np.clip((accepted - WEAK_ACCEPTANCE) / (STRONG_ACCEPTANCE - WEAK_ACCEPTANCE), 0, 1)
            step = step * step * (3 - 2 * step)
            if perfect is None or not phantom.still:
                local = (
                    (_of_pixels(sheet_mean(q, weight), phantom) - far[:, :, 0]) @ bragg(phantom) / phantom.half_width
                )
                # Beyond one half width the closed form no longer follows Takagi-Taupin: bounded there.
                perfect = strong_beam(entry, leave, local / np.sqrt(1 + local**2), phantom.fringes)
            dynamical = step * accepted * perfect
            power = (1 - step) * light.weak * weak + dynamical
        power, dynamical = np.where(lit, power, 0.0), np.where(lit, dynamical, 0.0)
        truth = _label(phantom, power, dynamical, np.where(lit, accepted, 0.0), patch_lit)
        scale = series["flux"][number] * series["exposure"][number]
        signal = (power * light.flux + light.diffuse) * series["rows"][number][:, None] * scale
        if light.drift:
            signal = shift(signal, *series["drift"][number])
        signal = np.maximum(blur(signal, phantom.detector), 0.0)
        rng = generator(phantom.seed, NOISE, phantom.number, layer, number)
        yield record(signal, pattern, phantom.detector, exposure=light.exposure, rng=rng), truth


def _label(
    phantom: Phantom, power: np.ndarray, dynamical: np.ndarray, accepted: np.ndarray, lit: np.ndarray
) -> dict[str, np.ndarray]:
    """Label and dynamical fraction of every patch of a frame, from its image without noise."""
    total = _per_patch(power.astype(float), np.add)
    fraction = np.divide(_per_patch(dynamical.astype(float), np.add), total, out=np.zeros_like(total), where=total > 0)
    most = _per_patch(accepted, np.maximum)
    label = np.full(lit.shape, AMBIGUOUS, np.uint8)
    if not phantom.kinematic:
        label[(fraction < WEAK_FRACTION) & (most < WEAK_ACCEPTANCE)] = WEAK
        label[(fraction > STRONG_FRACTION) & (most > STRONG_ACCEPTANCE)] = STRONG
    label[~lit] = UNLIT
    return {LABEL.name: label, FRACTION.name: np.where(lit, fraction, np.nan).astype(np.float32)}


def layer_truth(phantom: Phantom, layer: int, made: Lattices | None = None) -> dict[str, np.ndarray]:
    """Truth of one layer at every pixel; ``made`` as for :func:`render`.

    Returns
    -------
    dict of ndarray (y, x, ...)
        ``distance`` um; ``phi0`` and ``width`` degree where phi alone is scanned (NaN outside the crystal); ``F``
        (y, x, i, j) where the phantom is strained, in the axes of the sample. ``phi0`` refers to the lattice that the
        strong beam follows, in kinematic phantoms to the lattice between the dislocations; ``width`` refers to a
        lattice that does not bend.
    """
    y, x = coordinates(phantom)
    z = phantom.z[layer]
    px, py = np.broadcast_to(x, (y.size, x.size)).ravel(), np.repeat(y, x.size)
    pz = np.full(px.size, z)
    shape = (y.size, x.size)
    out: dict[str, np.ndarray] = {}
    if phantom.motion is None:
        out[DISTANCE.name] = distance(phantom.scene, px, py, pz).reshape(shape).astype(np.float32)
    if PHI0 in truth_variables(phantom):
        lit = outline(phantom, z)[0]
        far = (made or lattices(phantom, layer)).strong[:, :, 0]
        turned = far @ bragg(phantom) / phantom.at.moves["phi"][0]
        out[PHI0.name] = np.where(lit, -np.rad2deg(turned), np.nan)
        out[WIDTH.name] = np.where(lit, np.rad2deg(full_width(phantom)), np.nan).astype(np.float32)
    if phantom.strained:
        beta = distortion(phantom.scene, px, py, pz).T.reshape(*shape, 3, 3)
        if phantom.placement is not None:
            turn = rotation_z(phantom.placement.omega)
            beta = turn.T @ beta @ turn
        out[GRADIENT.name] = beta + np.eye(3)
    return out


def truth_variables(phantom: Phantom) -> tuple[Variable, ...]:
    """Variables of the truth that every layer has; phi0 and width where phi alone rocks the crystal."""
    names = [LABEL, FRACTION]
    if phantom.motion is None:
        names.append(DISTANCE)
    if [a.name for a in phantom.axes] == ["phi"]:
        names += [PHI0, WIDTH]
    return (*names, GRADIENT) if phantom.strained else tuple(names)
