"""Weak-beam images of a boundary by the forward model, compared with measured ones: the g·b of its lines.

The field of a straight line does not change along it, so that the image of a boundary of evenly spaced lines is one
picture over the distance from the plane and the phase of each family. Cells of all layers fold onto that picture.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.lines.strip import PLACE, STEEPEST
from dfxm_dask.optics.defects.dislocation import accumulate_lines, line_table
from dfxm_dask.optics.defects.walls import accumulate_sheets, sheet_table, wall_lines, wall_sheet
from dfxm_dask.optics.forward import Setting, seen, setting, sheet_nodes
from dfxm_dask.optics.frame_image import Acceptance, accepted_by, frame_image
from dfxm_dask.optics.instrument.microscope import Microscope

REACH = 1.5  # um from the plane, in the layer, to either side
DISTANCES = 30  # of the picture, from -REACH to REACH
PHASES = {1: 24, 2: 12}  # of every family, by the number of families
NODES = 21  # heights in the sheet: with few, a line appears as copies
LINES = 10  # to either side of a pixel: the effect of farther lines is only (spacing / distance)²
POISSON, CORE = 0.334, 1e-3  # of aluminium; other metals differ by less than the picture shows. um
WIDTH = np.deg2rad(8.9e-3)
"""Unit of the local rocking coordinate, rad: ``width_local`` of a beam of 0.53 mrad. Only the order of pixels by
brightness is compared, which hardly depends on it."""

TAIL = np.array([1.8, 2.0, 2.2, 2.6, 3.0, 3.6, 4.4])  # local rocking coordinates of weak-beam frames
LEAST_CELLS = 200  # least number of cells of an informative strip (our choice)
CELLS_IN_ONE = 120.0
"""Cells that count as one independent observation: images are some cells wide and long, and no wall is as regular as
the model (our choice, on simulated volumes)."""


class Folded(NamedTuple):
    """Both tails of a strip over distance and phases.

    Attributes
    ----------
    ranks : array (tail, distance, phase, ...), float64
        Sums of the ranks of cells, from -1 to 1.
    square : array (tail,), float64
        Sum of their squares.
    cells : array (distance, phase, ...), float64
        Number of cells.
    """

    ranks: np.ndarray
    square: np.ndarray
    cells: np.ndarray


def _microscope(theta: float) -> Microscope:
    """Beam and objective as published for Al 002, at another Bragg angle."""
    return Microscope(
        energy=17.0,
        theta=theta,
        divergence_v=5.3e-4,
        divergence_profile="uniform",
        divergence_h=1e-5 / 2.35,
        aperture=7.31e-4 / 2.35,
        bandwidth=6e-5,
        sheet=0.5 / 2.355,
    )


def folded_strip(
    cells: np.ndarray,
    normal: np.ndarray,
    origin: np.ndarray,
    line: np.ndarray,
    spacing: np.ndarray,
    corner: np.ndarray | None = None,
) -> Folded | None:
    """Measured tails of a boundary, folded onto one period of every family; None with too few cells.

    Parameters
    ----------
    cells : array (cell, column)
        See :func:`dfxm_dask.boundaries.lines.spectrum.line_sets`.
    normal, origin : array (xyz,)
        Unit vector, and a point of the plane, um.
    line, spacing : array (family, xyz) and (family,), um
        One or two families.
    corner : array (vertex, xyz), um, optional
        Corners of the patch of the boundary.
    """
    flat = float(np.hypot(normal[0], normal[1]))
    if abs(normal[2]) > STEEPEST:
        return None
    away = cells[:, :3] - origin
    used = (np.abs(away @ normal) < REACH * flat) & np.isfinite(cells[:, 5:7]).all(axis=1)
    if corner is not None:
        along = np.stack([np.array([-normal[1], normal[0], 0.0]) / flat, np.zeros(3)])
        along[1] = np.cross(normal, along[0])
        ring, flat_positions = (corner - origin) @ along.T, away @ along.T
        used &= ((flat_positions >= ring.min(axis=0) - PLACE) & (flat_positions <= ring.max(axis=0) + PLACE)).all(
            axis=1
        )
    if np.count_nonzero(used) < LEAST_CELLS:
        return None
    away, tails = away[used], cells[used, 5:7].T
    phases = PHASES[len(spacing)]
    bins = np.floor((away @ normal / (REACH * flat) + 1) / 2 * DISTANCES).astype(np.int64)
    numbers = [np.clip(bins, 0, DISTANCES - 1)]
    numbers += [
        np.floor(np.mod(away @ np.cross(normal, one) / d, 1.0) * phases).astype(np.int64) % phases
        for one, d in zip(line, spacing, strict=True)
    ]
    shape = (DISTANCES, *[phases] * len(spacing))
    index = np.ravel_multi_index(numbers, shape)
    ranks = np.stack([_ranks(t) for t in tails])
    sums = np.stack([np.bincount(index, r, int(np.prod(shape))).reshape(shape) for r in ranks])
    count = np.bincount(index, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
    return Folded(sums, (ranks**2).sum(axis=1), count)


class Pictures(NamedTuple):
    """Components of the pictures of a boundary: deviations per um of Burgers vector, and the microscope.

    Attributes
    ----------
    unit : list of array (burgers, distance, phase, xyz), float64, 1/um
        Deviation of each family in a thin layer, for Burgers vectors along x, y and z, on a grid twice as fine as the
        picture and wider by the reach of the sheet.
    sheet : array (distance, phase, ...), complex
        Effect of the height of the sheet on a thin layer, by frequency.
    """

    unit: list[np.ndarray]
    sheet: np.ndarray
    at: Setting
    accepts: Acceptance


def pictures_of(normal: np.ndarray, line: np.ndarray, spacing: np.ndarray, theta: float) -> Pictures:
    """Fields of the families of a boundary over one period, without their mean, which the local peak follows.

    Parameters
    ----------
    normal : array (xyz,)
        Unit vector; x along the beam, z up.
    line, spacing : array (family, xyz) and (family,), um
    theta : float, rad
        Bragg angle.
    """
    scope, at = _microscope(theta), setting(theta)
    height, weight = sheet_nodes(scope, NODES)
    diffracted = np.array([at.shear[0], at.shear[1], 1.0])
    pitch = REACH * float(np.hypot(normal[0], normal[1])) / DISTANCES  # two per distance
    beyond = 2 * int(np.ceil(height[-1] * abs(diffracted @ normal) / pitch / 2 + 1))
    distance = (np.arange(2 * DISTANCES + 2 * beyond) + 0.5 - DISTANCES - beyond) * pitch
    phases = 2 * PHASES[len(spacing)]
    frequencies = [np.fft.fftfreq(distance.size, pitch)] + [np.fft.fftfreq(phases, 1 / phases)] * len(spacing)
    slants = [diffracted @ normal]
    unit = []
    for one, period in zip(line, spacing, strict=True):
        across = np.cross(normal, one)
        slants.append(diffracted @ across / period)
        s, p = np.meshgrid(distance, (np.arange(phases) + 0.5) / phases * period, indexing="ij")
        x, y, z = np.ascontiguousarray((s[..., None] * normal + p[..., None] * across).reshape(-1, 3).T)
        ends = -(LINES + 0.5) * period, (LINES + 0.5) * period
        rows = []
        for b in np.eye(3):
            beta = np.zeros((9, x.size))
            sheet = wall_sheet(np.zeros(3), normal, one, b, period, *ends)
            accumulate_sheets(x, y, z, sheet_table(sheet, POISSON), POISSON, beta)
            np.negative(beta, out=beta)
            made = wall_lines(np.zeros(3), normal, one, b, period, *ends, CORE)
            accumulate_lines(x, y, z, line_table(made, POISSON), POISSON, beta)
            # To first order in beta the scattering vector deviates by -beta^T Q; fields of Burgers vectors add up.
            turned = -np.einsum("sj,ijp,i->ps", at.to_sample, beta.reshape(3, 3, -1), at.direction)
            rows.append(turned.reshape(*s.shape, 3))
        unit.append(np.array(rows))
    grids = np.meshgrid(*frequencies, indexing="ij")
    along = np.sum([g * slant for g, slant in zip(grids, slants, strict=True)], axis=0)
    smearing = sum(w * np.exp(2j * np.pi * along * h) for w, h in zip(weight, height, strict=True))
    return Pictures(unit, np.asarray(smearing), at, accepted_by(scope))


def tails(pictures: Pictures, burgers: np.ndarray) -> np.ndarray:
    """Weak beam below and above the peak: (tail, distance, phase, ...), float64.

    Parameters
    ----------
    pictures : Pictures
    burgers : array (family, xyz), um
    """
    q = np.tensordot(burgers[0], pictures.unit[0], 1)
    if len(burgers) == 2:
        q = q[:, :, None] + np.tensordot(burgers[1], pictures.unit[1], 1)[:, None]
    voxels = np.ascontiguousarray(q.reshape(-1, 1, 1, 3).astype(np.float32))
    beyond = q.shape[0] // 2 - DISTANCES
    out = []
    for side in (-1.0, 1.0):
        frames = [
            frame_image(voxels, np.ones(1), *seen(pictures.at, {"phi": side * u * WIDTH}), pictures.accepts)
            for u in TAIL
        ]
        thin = np.sum(frames, axis=0, dtype=np.float64).reshape(q.shape[:-1])
        thick = np.fft.ifftn(np.fft.fftn(thin) * pictures.sheet).real[beyond : beyond + 2 * DISTANCES]
        for axis in range(thick.ndim):
            thick = np.add.reduceat(thick, np.arange(0, thick.shape[axis], 2), axis=axis)
        out.append(thick)
    return np.array(out)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values, from -1 to 1."""
    from scipy.stats import rankdata  # loading it takes a second and a half

    return 2 * (rankdata(values) - 0.5) / values.size - 1


def correlations(folded: Folded, images: np.ndarray) -> np.ndarray:
    """Rank correlation of measured and computed tails for every position of the lines: (position, tail), float64.

    Parameters
    ----------
    folded : Folded
    images : array (tail, distance, phase, ...)

    Notes
    -----
    The positions of the lines are unknown, since their images are displaced: each family is shifted by every phase.
    """
    ranks = np.stack([_ranks(i) for i in images]).reshape(images.shape)
    total, families = folded.cells.sum(), images.ndim - 2
    axes = tuple(range(1, families + 1))
    rows = []
    for move in product(range(0, images.shape[2], 2), repeat=families):
        moved = [np.roll(r, move, axis=axes) for r in ranks]
        row = []
        for tail, (one, square) in enumerate(zip(moved, folded.square, strict=True)):
            mean = (folded.cells * one).sum() / total
            spread = (folded.cells * one**2).sum() - total * mean**2
            row.append(((folded.ranks[tail] * one).sum()) / np.sqrt(max(spread * square, 1e-300)))
        rows.append(row)
    return np.array(rows)


def image_likelihood(folded: Folded, pictures: Pictures, burgers: np.ndarray) -> float:
    """Logarithm of the likelihood of both tails for given Burgers vectors, relative to no correlation.

    Parameters
    ----------
    folded : Folded
    pictures : Pictures
        Pictures of the same families.
    burgers : array (family, xyz), um

    Notes
    -----
    A linear relation between N ranks with the correlation r explains them by a factor (1 - r²)^(-N/2); negative
    correlations count as 0. The result is the mean over equally likely positions of the lines. N is the number of cells
    over 120.
    """
    related = np.maximum(correlations(folded, tails(pictures, burgers)), 0.0)
    observations = folded.cells.sum() / CELLS_IN_ONE
    gains = -0.5 * observations * np.log1p(-(np.minimum(related, 0.999) ** 2)).sum(axis=1)
    return float(np.log(np.mean(np.exp(gains - gains.max()))) + gains.max())
