"""Errors of planes and lines: block bootstrap, other starts of the fit, other thresholds; added in squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dfxm_dask.boundaries.lines.projected_lines import Families, located_lines, sharpest_angle, spacing_at, tapered
from dfxm_dask.boundaries.planes.mixture import Mixture, fitted, probabilities, started
from dfxm_dask.boundaries.planes.plane import Planes, checked_points, in_plane
from dfxm_dask.boundaries.planes.sums import grouped_sums, planes_of_sums
from dfxm_dask.errors import InputError

BLOCK = 20.0
"""Edge in um of the resampled blocks: longer than correlations of neighbouring points (spacing of lines, cells of the
fit), as in the specification of the method."""

FEWEST = 10  # blocks of each plane; for smaller patches the edge is halved until this number is reached (our choice)
SMALLEST = 2.0  # um: edge of a block, about twice the width of one image of a line


def bootstrap_planes(
    points: np.ndarray,
    weights: np.ndarray | None,
    model: Mixture,
    *,
    replicates: int = 200,
    block: float = BLOCK,
    seed: int = 0,
) -> Planes:
    """Planes of clouds whose blocks are drawn with replacement.

    Parameters
    ----------
    points : array (point, xyz), um
    weights : array (point,), optional
    model : Mixture
        Fitted to these points.
    replicates : int
    block : float, um
        Edge of squares in each plane; halved if a plane has fewer than ten, down to 2 um.
    seed : int

    Returns
    -------
    Planes
        Each array with a first dim ``replicate``.

    Raises
    ------
    InputError
        See :func:`~dfxm_dask.boundaries.planes.plane.checked_points`; fewer than two replicates, or an edge below 2 um.

    Notes
    -----
    Probabilities of points are those of the model, so that a replicate is a sum of ten numbers of each block
    (:func:`~dfxm_dask.boundaries.planes.sums.grouped_sums`), and planes are drawn independently.
    """
    points, weights = checked_points("bootstrap_planes", points, weights)
    if replicates < 2 or not block >= SMALLEST:
        given = f"{replicates} replicates, block {block!r} um"
        raise InputError("bootstrap_planes", given, f"draw two or more, of blocks of {SMALLEST:g} um or more")
    shares = probabilities(points, model) * weights[:, None]
    rng = np.random.default_rng(seed)
    columns = []
    for plane in range(shares.shape[1]):
        edge = block
        while True:
            squares, sums = grouped_sums(points, shares[:, plane], model.planes.normal[plane], model.centre, edge)
            if edge / 2 < SMALLEST or _filled(sums[:, 0]) >= FEWEST:
                break
            edge /= 2
        count = len(squares)
        drawn = rng.integers(0, max(count, 1), (replicates, count))
        times = np.stack([np.bincount(row, minlength=count) for row in drawn])
        columns.append(planes_of_sums(times @ sums, model.centre))
    if not columns:
        return Planes(*(np.zeros((replicates, *column.shape)) for column in model.planes))
    return Planes(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def _filled(mass: np.ndarray) -> int:
    """Number of blocks with at least a tenth of the mass of the fullest one."""
    return int(np.count_nonzero(mass > 0.1 * mass.max(initial=0)))


def restarted_planes(
    points: np.ndarray,
    weights: np.ndarray | None,
    model: Mixture,
    *,
    starts: int = 4,
    steps: int = 25,
    seed: int = 0,
    thickest: float = 1.0,
) -> Planes:
    """Planes from other starts of the fit, and with shares counted in other cells.

    Parameters
    ----------
    points, weights, model
        See :func:`bootstrap_planes`.
    starts : int
        Number of fits. Their cells are 0.7 to 1.4 times as large as those of the model; their planes begin rotated by
        about half a degree and shifted by 0.5 um, with the same share in every cell.
    steps, thickest
        See :func:`~dfxm_dask.boundaries.planes.mixture.fitted`.
    seed : int

    Returns
    -------
    Planes
        Each array with a first dim ``start``.
    """
    points, weights = checked_points("restarted_planes", points, weights)
    rng = np.random.default_rng(seed)
    planes = []
    for factor in np.geomspace(0.7, 1.4, starts):
        turned = model.planes.normal + np.deg2rad(0.35) * rng.normal(size=model.planes.normal.shape)
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        moved = model.planes.origin + 0.5 * rng.normal(size=(len(turned), 1)) * turned
        begin = model.planes._replace(normal=turned, origin=moved)
        start = started(points, begin, factor * model.edge, 0.6, model.layer)._replace(ends=model.ends)
        planes.append(fitted(points, weights, start, steps=steps, thickest=thickest)[0].planes)
    return _stacked(planes, model.planes)


def reread_planes(
    points: np.ndarray, readings: Sequence[np.ndarray], model: Mixture, *, steps: int = 15, thickest: float = 1.0
) -> Planes:
    """Planes of the same points with weights from other thresholds.

    Parameters
    ----------
    points : array (point, xyz), um
    readings : sequence of array (point,)
        Weights of each reading; 0 for points that are not in it.
    model : Mixture
        Start of the fit.
    steps, thickest
        See :func:`~dfxm_dask.boundaries.planes.mixture.fitted`.

    Returns
    -------
    Planes
        Each array with a first dim ``reading``.
    """
    planes = [fitted(points, weights, model, steps=steps, thickest=thickest)[0].planes for weights in readings]
    return _stacked(planes, model.planes)


def _stacked(rows: list[Planes], like: Planes) -> Planes:
    """Planes of several fits with a new first dim."""
    if not rows:
        return Planes(*(np.zeros((0, *column.shape)) for column in like))
    return Planes(*(np.stack(column) for column in zip(*rows, strict=True)))


def standard_error(
    quantity: Callable[[Planes], np.ndarray], planes: Planes, drawn: Planes, *others: Planes
) -> np.ndarray:
    """Standard error of any quantity derived from planes.

    Parameters
    ----------
    quantity : callable
        From :class:`~dfxm_dask.boundaries.planes.plane.Planes` to an array.
    planes : Planes
        The result.
    drawn : Planes
        From :func:`bootstrap_planes`.
    *others : Planes
        From :func:`restarted_planes` and :func:`reread_planes`; those without rows add nothing.

    Returns
    -------
    array, float64
        Same shape as the quantity: root of the variance over the replicates plus the mean square distance of each of
        the others from the result.

    Examples
    --------
    >>> one = Planes(np.array([[0.0, 0, 1]]), np.zeros((1, 3)), np.ones(1), np.ones(1))
    >>> many = Planes(*(np.stack([c, c, c]) for c in one))._replace(mass=np.array([[1.0], [2], [3]]))
    >>> standard_error(lambda p: p.mass, one, many).round(3).tolist()
    [1.0]
    """
    middle = np.asarray(quantity(planes), np.float64)
    variance = np.var([quantity(one) for one in _rows(drawn)], axis=0, ddof=1)
    for other in others:
        if len(other.sigma):
            variance = variance + np.mean([(quantity(one) - middle) ** 2 for one in _rows(other)], axis=0)
    return np.sqrt(variance)


def _rows(stack: Planes) -> list[Planes]:
    """The sets of planes along the first dim."""
    return [Planes(*row) for row in zip(*stack, strict=True)]


class LineErrors(NamedTuple):
    """Standard errors of families of lines.

    Attributes
    ----------
    angle : array (family,), float64, degree
        Error in the plane; the error out of the plane is that of the normal.
    spacing, gap : array (family,), float64, um
    """

    angle: np.ndarray
    spacing: np.ndarray
    gap: np.ndarray


def line_errors(
    points: np.ndarray,
    readings: Sequence[np.ndarray],
    normal: np.ndarray,
    families: Families,
    *,
    replicates: int = 40,
    block: float = BLOCK,
    seed: int = 0,
) -> LineErrors:
    """Standard errors of directions and spacings of lines.

    Parameters
    ----------
    points : array (point, xyz), um
        Points of one plane.
    readings : sequence of array (point,)
        Weights; the families were found with the first, others are other thresholds.
    normal : array (xyz,)
    families : Families
    replicates : int
        Number of clouds whose blocks, pieces of single lines, are drawn with replacement.
    block : float, um
        Length of a piece; halved if there are fewer than ten.
    seed : int

    Returns
    -------
    LineErrors
        NaN without points.

    Raises
    ------
    InputError
        No reading, fewer than two replicates; see :func:`~dfxm_dask.boundaries.planes.plane.checked_points`.
    """
    if not len(readings) or replicates < 2:
        raise InputError(
            "line_errors", f"{len(readings)} readings, {replicates} replicates", "give weights, and 2 or more"
        )
    axes = in_plane(np.asarray(normal, np.float64))
    out = np.full((len(families.spacing), 3), np.nan)
    for k, line in enumerate(families.line):
        blocks = None
        start = float(np.arctan2(line @ axes[1], line @ axes[0]))
        rows = []
        for number, reading in enumerate(readings):
            used = np.asarray(reading) > 0
            mine, weights = checked_points("line_errors", points[used], np.asarray(reading)[used])
            flat = (mine - np.average(mine, axis=0, weights=weights)) @ axes.T if len(mine) else mine[:, :2]
            if number == 0:
                first, first_weights = flat, weights
                blocks = _pieces(flat, weights, start, families.spacing[k], block) if len(flat) else None
            if len(flat):
                rows.append(_measured(flat, weights, start, families.spacing[k]))
        if blocks is None or not rows:
            continue
        rng = np.random.default_rng(seed)
        count = int(blocks.max()) + 1
        drawn = []
        for _ in range(replicates):
            times = np.bincount(rng.integers(0, count, count), minlength=count)[blocks]
            kept = times > 0
            drawn.append(_measured(first[kept], (first_weights * times)[kept], start, families.spacing[k]))
        variance = np.var(drawn, axis=0, ddof=1)
        if len(rows) > 1:
            variance = variance + np.mean((np.array(rows[1:]) - rows[0]) ** 2, axis=0)
        out[k] = np.sqrt(variance)
    return LineErrors(np.rad2deg(out[:, 0]), out[:, 1], out[:, 2])


def _pieces(flat: np.ndarray, weights: np.ndarray, angle: float, spacing: float, block: float) -> np.ndarray:
    """Number of the piece of a line of each point, (point,), int64; at least ten pieces if possible."""
    along = flat @ np.array([np.cos(angle), np.sin(angle)])
    across = flat @ np.array([-np.sin(angle), np.cos(angle)])
    phase = np.angle((weights * np.exp(2j * np.pi * across / spacing)).sum()) / (2 * np.pi)
    line = np.rint(across / spacing - phase)
    while True:
        _, piece = np.unique(np.column_stack([line, np.floor(along / block)]), axis=0, return_inverse=True)
        piece = piece.reshape(-1).astype(np.int64)
        if block / 2 < SMALLEST or _filled(np.bincount(piece, weights)) >= FEWEST:
            return piece
        block /= 2


def _measured(flat: np.ndarray, weights: np.ndarray, start: float, near: float) -> tuple[float, float, float]:
    """Angle from a start (rad), spacing and gap (um) of a cloud similar to one with known lines."""
    soft = tapered(flat, weights)
    reach = float(np.sqrt((flat**2).sum(axis=1).max(initial=1.0)))
    angle = sharpest_angle(flat, soft, start, 0.25 / reach, 1e-3)
    lines = located_lines(flat, weights, angle)
    gap = float(np.ptp(lines)) / (len(lines) - 1) if len(lines) > 1 else np.nan
    return angle - start, spacing_at(flat, weights, angle, near)[0], gap
