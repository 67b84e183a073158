"""Detections and tracks of a movie beside the true positions of its dislocations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

WITHIN = 2.0  # pixels, the distance of the published score
OUTSIDE = 4.0  # pixels from the edge of a frame within which no detection is required (our choice)
Row = tuple[str, str, str]


class Score(NamedTuple):
    """Detections beside the truth.

    ``true`` counts positions in the field, ``matched`` those with a detection within 2 pixels; ``false`` counts other
    detections; ``rms`` is the error of the matched ones in pixels, along y and x together. ``dislocation`` (detection,)
    is the number of the true dislocation, -1 without one.
    """

    true: int
    matched: int
    false: int
    rms: float
    dislocation: np.ndarray


def score(
    detections: xr.Dataset, truth: xr.Dataset, pixel: tuple[float, float], lit: np.ndarray | None = None
) -> Score:
    """Precision and recall of detections at 2 pixels, and their error.

    Parameters
    ----------
    detections : Dataset
        ``frame``, ``y``, ``x`` (detection).
    truth : Dataset
        ``position`` (time, dislocation, yx), um; NaN for a dislocation that is not in the field. ``drift`` (z, time,
        yx), um, the displacement of the image, is added where it is known.
    pixel : (float, float), um
        Along y and x. Distances are in pixels along each axis, and added in squares.
    lit : array (time, dislocation), bool, optional
        Positions that count; the others may be detected or not.

    Notes
    -----
    In each frame detections and true positions are assigned one to one such that the sum of squared distances is least.
    """
    from scipy.optimize import linear_sum_assignment

    true = np.array(truth["position"], float)
    if "drift" in truth:
        true = true + np.asarray(truth["drift"], float)[0][:, None]
    counted = np.isfinite(true).all(axis=2)
    counted &= True if lit is None else lit
    frame = np.asarray(detections["frame"])
    at = np.stack([np.asarray(detections[name], float) for name in ("y", "x")], axis=1)
    dislocation = np.full(len(frame), -1)
    missed = 0
    squares: list[float] = []
    optional = np.zeros(len(frame), bool)
    for k in range(len(true)):
        mine, known = np.flatnonzero(frame == k), np.flatnonzero(np.isfinite(true[k]).all(axis=1))
        away = (((at[mine, None] - true[k, known][None]) / pixel) ** 2).sum(axis=2)
        rows, columns = linear_sum_assignment(np.minimum(away, 4 * WITHIN**2))
        near = away[rows, columns] <= WITHIN**2
        dislocation[mine[rows[near]]] = known[columns[near]]
        right = near & counted[k, known[columns]]
        squares += away[rows[right], columns[right]].tolist()
        optional[mine[rows[near & ~right]]] = True
        missed += int(counted[k].sum()) - int(right.sum())
    false = int(((dislocation < 0) & ~optional).sum())
    rms = float(np.sqrt(np.mean(squares))) if squares else np.nan
    return Score(int(counted.sum()), int(counted.sum()) - missed, false, rms, dislocation)


def identity_switches(frame: np.ndarray, track: np.ndarray, dislocation: np.ndarray) -> int:
    """Number of times that the track of a true dislocation changes from one of its detections to the next.

    Parameters
    ----------
    frame, track, dislocation : array (detection,), int
        Frame, track and true dislocation of each detection; -1 without a track or dislocation.
    """
    switches = 0
    for one in np.unique(dislocation[dislocation >= 0]):
        mine = (dislocation == one) & (track >= 0)
        tracks = track[mine][np.argsort(frame[mine], kind="stable")]
        switches += int((np.diff(tracks) != 0).sum())
    return switches


def in_field(truth: xr.Dataset, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """True positions (time, dislocation) more than 4 pixels inside the frame: bool."""
    true = np.asarray(truth["position"], float)
    inside = np.isfinite(true).all(axis=2)
    for axis, at in enumerate((y, x)):
        margin = OUTSIDE * abs(at[1] - at[0])
        with np.errstate(invalid="ignore"):
            inside &= (true[..., axis] >= at.min() + margin) & (true[..., axis] <= at.max() - margin)
    return np.asarray(inside)


def movie_rows(tree: xr.DataTree, truth: xr.Dataset) -> list[Row]:
    """Rows (quantity, found, true) of a table; empty without detections or without true positions.

    Parameters
    ----------
    tree : DataTree
        With the group ``dynamics``.
    truth : Dataset
        With ``position`` (time, dislocation, yx).
    """
    if "dynamics" not in tree or "position" not in truth or "frame" not in tree["dynamics"]:
        return []
    found = tree["dynamics"].dataset
    y, x = np.asarray(tree["y"], float), np.asarray(tree["x"], float)
    one = score(found, truth, (abs(y[1] - y[0]), abs(x[1] - x[0])), in_field(truth, y, x))
    rows = [
        ("dislocations in all frames, detected within 2 pixels", f"{one.matched}", f"{one.true}"),
        ("detections without a dislocation", f"{one.false}", "0"),
        ("rms error of a position", f"{one.rms:.3g} pixels", "0 pixels"),
    ]
    if "track" in found:
        track = np.asarray(found["track"])
        count = len(np.unique(track[track >= 0]))
        switches = identity_switches(np.asarray(found["frame"]), track, one.dislocation)
        rows += [
            ("tracks", f"{count}", f"{truth.sizes['dislocation']}"),
            ("changes of identity", f"{switches}", "0"),
        ]
    return rows
