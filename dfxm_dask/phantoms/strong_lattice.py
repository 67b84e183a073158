"""The lattice that the strong beam follows: the true one with its dislocations, smeared; or the subgrains, sharp.

Wave fields do not turn abruptly at a plane. A wall of discrete dislocations bends the lattice within its spacing /
2 pi, and a wave that crosses it adapts over a further width, so a wall is a step some um wide in a map of peaks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from scipy.ndimage import gaussian_filter1d

from dfxm_dask.optics.defects.scene import Scene, lattice
from dfxm_dask.optics.forward import Setting, deviation, sheet_deviation, sheet_nodes
from dfxm_dask.optics.instrument.microscope import Microscope

if TYPE_CHECKING:
    from dfxm_dask.phantoms.phantom import Phantom


ALONG_BEAM, ACROSS_BEAM = 0.9, 0.25  # um, standard deviations; see smearing()
REACH = 3.0  # standard deviations at which the smearing is cut


class Lattices(NamedTuple):
    """Deviations of one layer in the sample frame.

    Attributes
    ----------
    voxels : ndarray (y, x, node, xyz), float32
        Deviation of every voxel that a pixel images, for the kinematic part; with ``samples`` of each pixel.
    strong : ndarray (y, x, 1, xyz)
        Deviation of the lattice that the strong beam follows.
    """

    voxels: np.ndarray
    strong: np.ndarray


def smearing(microscope: Microscope) -> tuple[float, float]:
    """Standard deviations along y and x of the Gaussian that smears the lattice for the strong beam, um.

    Notes
    -----
    Along x the smeared lattice is 0.9 um wide in all. The sheet contributes its rms height over tan(2 theta),
    as the pixel averages over the heights of the sheet along the diffracted beam; the Gaussian gives the rest.

    Calibrated against Takagi-Taupin: Al 111 at 17 keV, a plate of 70 um, sheets of 0.2 and 0.5 um FWHM, walls of
    discrete edge dislocations of 2 to 6 mdeg across the middle, normals at 0, ±30 and ±60 degree from the beam, 8
    phases of the lines, centre of mass over angles of incidence within 0.28 mrad. With the sheet of 0.5 um the rms
    difference of the centre-of-mass profiles is least for a Gaussian of 0.6 to 0.75 um at 6 mdeg, 8 to 20 % of the
    jump; at 2 to 4 mdeg it changes by 1 to 5 % between 0.3 and 1.1 um (15 to 40 % of the jump, 60 % at 60 degree),
    because fringes within 3 to 6 um of the wall remain, which no smearing gives. An error function fitted to
    single rows of walls parallel to Q (soft L1 loss, free height) is 0.8 to 0.9 um wide in Takagi-Taupin and 0.9 um
    here; to walls inclined to Q by ±30 and ±60 degree, 0.8 to 1.2 and 1.0 to 1.2 um at 3 mdeg, 0.5 to 0.8 and 0.8 to
    0.9 um at 6 mdeg. Centres of single rows scatter with the phase of the lines by 0.02 to 0.3 um in both models
    (parallel to Q), 0.4 to 1.6 um inclined to Q; their means agree within 0.2 and 0.6 um. With the sheet of 0.2 um
    Takagi-Taupin is narrower, 0.3 to 0.4 um: the smearing is then too wide by a factor of two. A field cut off near
    cores, or the sectors instead of the field, changed the difference by less than 4 %; the true field is therefore
    used without changes.

    Rows of Takagi-Taupin do not exchange waves, so that it gives no width along y: 0.25 um is our choice.
    """
    slant = microscope.sheet / np.tan(2 * microscope.theta)
    return ACROSS_BEAM, float(np.sqrt(max(ALONG_BEAM**2 - slant**2, 0.0)))


def lattices(phantom: Phantom, layer: int, frame: int | None = None) -> Lattices:
    """Lattices of the kinematic and dynamical images of a layer; in a movie, whose lines move, of one frame.

    Notes
    -----
    The field extends beyond the frame by the reach of the smearing, so that the result for a pixel does not depend on
    the extent of the frame.
    """
    z = phantom.z[layer]
    height, weight = sheet_nodes(phantom.microscope, phantom.nodes)
    scene = phantom.scene if phantom.motion is None or frame is None else moved_scene(phantom, frame)
    if phantom.kinematic or phantom.strong_beam == "sharp":
        y, x = _pixels(phantom, (0, 0))
        points_y, points_x = _points(phantom)
        voxels = sheet_deviation(scene, phantom.at, points_y, points_x, z, height)
        return Lattices(voxels, between_lines(phantom.scene, phantom.at, y, x, z))
    sigma = [width / pitch for width, pitch in zip(smearing(phantom.microscope), phantom.pixel, strict=True)]
    margin = int(np.ceil(REACH * sigma[0])), int(np.ceil(REACH * sigma[1]))
    y, x = _pixels(phantom, margin)
    voxels = sheet_deviation(scene, phantom.at, y, x, z, height)
    strong = sheet_mean(voxels, weight)
    for axis in (0, 1):
        if margin[axis]:
            strong = gaussian_filter1d(strong, sigma[axis], axis=axis, radius=margin[axis])
    inner = tuple(slice(cut, cut + size) for cut, size in zip(margin, phantom.shape, strict=True))
    return Lattices(np.ascontiguousarray(voxels[inner]), np.ascontiguousarray(strong[inner][:, :, None]))


@njit(nogil=True, cache=True)
def sheet_mean(q: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean of a deviation (y, x, node, xyz) over the heights of the sheet: (y, x, xyz), float64."""
    out = np.zeros((q.shape[0], q.shape[1], 3))
    for y in range(q.shape[0]):
        for x in range(q.shape[1]):
            for k in range(weight.size):
                for i in range(3):
                    out[y, x, i] += q[y, x, k, i] * weight[k]
    return out


def _pixels(phantom: Phantom, margin: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Pixel centres along y and x, um, with a margin of pixels on each side."""
    sides = zip(phantom.shape, phantom.pixel, margin, strict=True)
    return tuple(np.arange(-more, count + more) * pitch for count, pitch, more in sides)


def _points(phantom: Phantom) -> list[np.ndarray]:
    """Points of the pixels along y and x, um: the centre of each of the equal parts of a pixel."""
    out = []
    for pixels, pitch, count in zip(_pixels(phantom, (0, 0)), phantom.pixel, phantom.samples, strict=True):
        within = ((np.arange(count) + 0.5) / count - 0.5) * pitch
        out.append((pixels[:, None] + within).ravel())
    return out


def between_lines(scene: Scene, at: Setting, y: np.ndarray, x: np.ndarray, z: float) -> np.ndarray:
    """Deviation of the lattice between the dislocations, which turns sharply at a wall: (y, x, 1, xyz)."""
    px, py = np.broadcast_to(x, (y.size, x.size)).ravel(), np.repeat(y, x.size)
    return deviation(lattice(scene, px, py, np.full(px.size, z)), at).reshape(y.size, x.size, 1, 3)


def moved_scene(phantom: Phantom, frame: int) -> Scene:
    """The scene with its lines at their positions in one frame of a movie."""
    assert phantom.motion is not None
    made = phantom.scene.lines.copy()
    made["position"][:, 1::-1] = phantom.motion.position[frame]
    made["position"][:, 2] = 0.0
    return replace(phantom.scene, lines=made)
