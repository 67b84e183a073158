"""Segments of a layer: sums over their pixels, and the steps of the orientation where two of them touch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Contacts(NamedTuple):
    """Contacts between segments.

    Attributes
    ----------
    pair : array (contact, 2), int64
        Numbers of the two segments, from 0.
    faces : array (contact, 2), float64, um
        Length of the contact across x and across y, with a sign: positive where the second segment lies at the larger
        position. Their hypotenuse is the length of the trace of a straight contact, whatever its direction.
    weight : array (contact,), float64, um
        Length of the faces with a step.
    step : array (contact, axis), float64
        Step of the orientation from the first to the second segment, times the weight.
    """

    pair: np.ndarray
    faces: np.ndarray
    weight: np.ndarray
    step: np.ndarray


def segment_sums(
    label: np.ndarray, count: int, angles: np.ndarray, errors: np.ndarray | None, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Sums over the pixels of every segment of a layer.

    Parameters
    ----------
    label : array (y, x), int32
        Number of the segment of each pixel from 1; 0 outside.
    count : int
    angles : array (axis, y, x), float64, degree
        Finite inside segments.
    errors : array (axis, y, x) or None, degree
    y, x : array (y,), array (x,), um

    Returns
    -------
    array (segment, 3 + 3 × axis), float64
        Pixels, sum of x and of y (um); for each axis the mean angle, the sum of squared deviations from it, and the sum
        of squared errors (NaN without errors).
    """
    row, column = np.divmod(np.flatnonzero(label > 0), label.shape[1])
    number = label[row, column] - 1
    pixels = np.bincount(number, minlength=count).astype(np.float64)
    columns = [pixels, np.bincount(number, x[column], count), np.bincount(number, y[row], count)]
    for k, angle in enumerate(angles):
        values = angle[row, column]
        mean = np.bincount(number, values, count) / np.maximum(pixels, 1)
        noise = np.full(values.shape, np.nan) if errors is None else errors[k][row, column].astype(np.float64) ** 2
        columns += [mean, np.bincount(number, (values - mean[number]) ** 2, count), np.bincount(number, noise, count)]
    return np.stack(columns, axis=1)


def steps_beside(label: np.ndarray, angles: np.ndarray, reach: tuple[int, int], pixel: tuple[float, float]) -> Contacts:
    """Contacts of the segments of one layer, with the step of the orientation across each.

    Parameters
    ----------
    label : array (y, x), int32
    angles : array (axis, y, x), degree
    reach : (int, int)
        Pixels from the contact at which the orientation is compared, along y and x.
    pixel : (float, float), um
        Length of a pixel along y and x; 1 along a side of one pixel.

    Notes
    -----
    Beside every face between two segments, the orientation at a distance ``reach`` on one side is compared with that on
    the other side, so that the smeared part of a wall does not count. Where the distance leads out of the lit part, the
    farthest lit pixel on the line between counts.
    """
    keys, faces, weights, steps = [], [], [], []
    span = int(label.max(initial=0)) + 1
    for axis, other in ((1, 0), (0, 1)):
        labels = label if axis == 1 else label.T
        values = angles if axis == 1 else angles.transpose(0, 2, 1)
        row, column = np.nonzero((labels[:, :-1] != labels[:, 1:]) & (labels[:, :-1] > 0) & (labels[:, 1:] > 0))
        left, right = labels[row, column].astype(np.int64), labels[row, column + 1].astype(np.int64)
        jump = _ahead(labels, values, row, column + 1, reach[axis], 1) - _ahead(
            labels, values, row, column, reach[axis], -1
        )
        sign = np.where(left < right, 1.0, -1.0)
        keys.append(np.minimum(left, right) * span + np.maximum(left, right))
        face = np.zeros((len(row), 2))
        face[:, 1 - axis] = sign * pixel[other]
        faces.append(face)
        weights.append(np.full(len(row), pixel[other]))
        steps.append((jump * (sign * pixel[other])).T)
    key, member = np.unique(np.concatenate(keys), return_inverse=True)
    total = len(key)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(member, values, total)

    face, step = np.concatenate(faces), np.concatenate(steps)
    return Contacts(
        np.stack([key // span, key % span], axis=1) - 1,
        np.stack([sums(face[:, 0]), sums(face[:, 1])], axis=1),
        sums(np.concatenate(weights)),
        np.stack([sums(s) for s in step.T], axis=1),
    )


def _ahead(
    labels: np.ndarray, values: np.ndarray, row: np.ndarray, column: np.ndarray, reach: int, way: int
) -> np.ndarray:
    """Orientation (axis, face) at most ``reach`` pixels from a face, at the farthest pixel before the unlit part."""
    last = column.copy()
    going = np.ones(len(row), bool)
    for _ in range(reach):
        going &= (last + way >= 0) & (last + way < labels.shape[1])
        going[going] = labels[row[going], last[going] + way] > 0
        last[going] += way
    return values[:, row, last]


def overlaps(
    here: np.ndarray, below: np.ndarray, angles: np.ndarray, angles_below: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps of the segments of a layer with those of the previous layer.

    Parameters
    ----------
    here, below : array (y, x), int32
        Segments of the layer and of the previous layer.
    angles, angles_below : array (axis, y, x), degree

    Returns
    -------
    pair : array (overlap, 2), int64
        Segment of the layer and of the previous layer, from 0.
    pixels : array (overlap,), int64
    step : array (overlap, axis), float64
        Orientation here minus that below, without the median of all pixels in common, summed over the pixels. The
        median is that of a motor which returned to another position.
    """
    both = (here > 0) & (below > 0)
    first, second = here[both].astype(np.int64), below[both].astype(np.int64)
    span = int(below.max(initial=0)) + 1
    key, member = np.unique(first * span + second, return_inverse=True)
    step = angles[:, both] - angles_below[:, both]
    if step.size:
        step = step - np.median(step, axis=1, keepdims=True)
    return (
        np.stack([key // span, key % span], axis=1) - 1,
        np.bincount(member, minlength=len(key)),
        np.stack([np.bincount(member, s, len(key)) for s in step], axis=1),
    )
