"""Tracks of dislocations: detections of all frames, linked."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from dfxm_dask.dynamics.linking import DOUBT, link
from dfxm_dask.dynamics.merged_images import MEMBERS, Links
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import Variable

N, T = "detection", "track"
FRAME = Variable("frame", (N,), "int64", "1", "number of the frame of the detection")
TIME = Variable("time", (N,), "float64", "s", "time of the detection")
DETECTED = tuple(Variable(a, (N,), "float64", "um", f"position of the detection along {a}") for a in ("y", "x"))
ERRORS = tuple(
    Variable(f"{a}_error", (N,), "float64", "um", f"standard error of the position along {a}") for a in ("y", "x")
)
SIGN = Variable("sign", (N,), "int64", "1", "side of the bright lobe: 1, -1, or 0 if unknown")
TRACK = Variable(T, (N,), "int64", "1", "number of the track of the detection (-1: no track)")
OTHER = Variable("track_other", (N,), "int64", "1", "number of a second track in a shared image (-1: no second track)")
REASONS = (
    (1, "merged_image"),
    (2, "more_than_two_tracks_in_image"),
    (4, "uncertain_link_to_next"),
    (8, "too_few_detections_for_track"),
    (16, "no_position"),
)
WHOLE = ((1, "begins_after_first_frame"), (2, "ends_before_last_frame"), (4, "contains_uncertain_link"))
LEAST_SEEN = 0.5
"""Least share of the frames of a track with a detection; a sparser one consists of false detections (our choice)."""
FEW = 10
"""Frames with a detection from which the step of the frame numbers follows (our choice)."""
COAST = 5
"""Frames after which the published filter gives up a track without detection (our choice; not published)."""
GATE = 10.0
"""Largest distance of a published link, in typical steps (our choice; not published)."""


def _first(one: Arrays, other: Arrays) -> Arrays:
    """Every summary is the same table."""
    return one


def _finish(summary: Arrays) -> Arrays:
    """Link the table, and number the tracks by their first detection."""
    frame, y, x = summary["frame"], summary["y"], summary["x"]
    time = _usable_time(summary["time"], frame)
    good = np.isfinite(y) & np.isfinite(x)
    noise = {}
    for axis in ("y", "x"):
        error = summary[f"{axis}_error"]
        known = np.isfinite(error) & (error > 0)
        usual = float(np.median(error[known & good])) if (known & good).any() else 1e-3
        noise[f"noise_{axis}"] = np.where(known, error, usual) ** 2
    columns = {"frame": frame, "time": time, "y": y, "x": x, "sign": summary["sign"], **noise}
    order = np.lexsort((noise["noise_x"], noise["noise_y"], x, y, frame))
    order = order[good[order]]
    columns = {name: values[order] for name, values in columns.items()}
    published = int(summary["option_published"])
    if not len(order):
        links = Links(*(np.zeros(0, np.int64),) * 2, np.zeros(0, bool), np.zeros(0), np.zeros(0))
    else:
        links = kalman_munkres(columns) if published else link(columns)
    return _tables(frame, order, columns, links)


def _usable_time(time: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Times that are known and increase from frame to frame, or else the numbers of the frames."""
    _, first = np.unique(frame, return_index=True)
    usable = np.isfinite(time).all() and (np.diff(time[first]) > 0).all()
    return time if usable else frame.astype(np.float64)


def _tables(frame: np.ndarray, order: np.ndarray, columns: Arrays, links: Links) -> Arrays:
    """Columns of the detections, in their own order, and the table of the tracks."""
    alone = (links.track >= 0) & (links.other < 0)
    own = np.bincount(links.track[alone], minlength=int(links.track.max(initial=-1)) + 1)
    chance = np.log(max(len(order), 1))  # less than one chain of false detections is expected above it
    gain = np.bincount(links.track[alone], links.gain[alone], minlength=len(own))
    seen = own >= LEAST_SEEN * _lengths(links, columns, len(own))
    kept = np.flatnonzero((own >= MEMBERS) & seen & (gain > chance))
    number = np.full(len(own) + 1, -1)  # index -1: no track
    begin = np.full(len(own), len(order))
    np.minimum.at(begin, links.track[alone], np.flatnonzero(alone))
    number[kept[np.argsort(begin[kept])]] = np.arange(len(kept))
    names = np.stack([number[links.track], number[links.other]])
    lost = names[0] < 0  # a merged image of one lasting track belongs to that track
    names[:, lost] = names[::-1, lost]
    track, other = names
    merged = other >= 0
    uncertain = (links.certainty < DOUBT) & (track >= 0)
    reason = (
        merged * 1
        + (merged & links.crowded) * 2
        + uncertain * 4
        + ((track < 0) & ((links.track >= 0) | (links.other < 0))) * 8
    )
    count = len(kept)
    rows = np.concatenate([np.flatnonzero(track >= 0), np.flatnonzero(merged)])
    of = np.concatenate([track[track >= 0], other[merged]])
    ranks = np.unique(columns["frame"], return_inverse=True)[1]
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(first, of, ranks[rows])
    np.maximum.at(last, of, ranks[rows])
    frames = np.unique(columns["frame"]) if len(order) else np.zeros(0, np.int64)
    single = (track >= 0) & ~merged
    alone_count = np.bincount(track[single], minlength=count)
    shared = np.bincount(of, minlength=count) - alone_count
    doubtful = np.bincount(track[uncertain], minlength=count) > 0
    result: Arrays = {
        "track_first": frames[first] if count else first,
        "track_last": frames[last] if count else last,
        "track_detections": alone_count,
        "track_merged": shared,
        "track_gaps": (last - first + 1 - alone_count - shared) if count else last,
        "track_reason": ((first > 0) * 1 + (last < len(frames) - 1) * 2 + doubtful * 4).astype(np.int64),
    }
    for axis in ("y", "x"):
        total = np.bincount(track[single], columns[axis][single], minlength=count)
        result[f"track_{axis}"] = total / np.maximum(alone_count, 1)
    margin = np.where(np.isfinite(links.certainty), links.certainty, np.nan)
    for name, values, missing in (
        ("track", track, -1),
        ("track_other", other, -1),
        ("link_reason", reason, 16),
        ("link_margin", margin, np.nan),
    ):
        result[name] = np.full(len(frame), missing, np.float64 if name == "link_margin" else np.int64)
        result[name][order] = values
    return result


def _lengths(links: Links, columns: Arrays, count: int) -> np.ndarray:
    """Number of frames from the first to the last detection of each chain, without frames in shared images."""
    rank = columns["frame"]  # also frames without any detection: false detections are rare
    steps = np.diff(np.unique(rank))
    if len(steps) > FEW:
        rank = rank // np.gcd.reduce(steps)  # the table may contain, e.g., every third frame
    first, last, shared = np.full(count, np.iinfo(np.int64).max), np.full(count, -1), np.zeros(count, np.int64)
    for names in (links.track, links.other):
        rows = names >= 0
        np.minimum.at(first, names[rows], rank[rows])
        np.maximum.at(last, names[rows], rank[rows])
        np.add.at(shared, names[rows & (links.other >= 0)], 1)
    return np.maximum(last - first + 1 - shared, 0)


def kalman_munkres(columns: Arrays) -> Links:
    """Published linking: a Kalman filter with constant velocity, and the assignment of least distance frame by frame.

    Parameters
    ----------
    columns : dict of arrays (detection,)
        ``frame``, ``time`` s, ``y``, ``x`` um, ``noise_y``, ``noise_x`` um2, sorted by frame.
    """
    at = np.stack([columns["y"], columns["x"]], axis=1)
    noise = float(np.median(np.concatenate([columns["noise_y"], columns["noise_x"]])))
    frames, edge = np.unique(columns["frame"], return_index=True)
    edge = np.append(edge, len(at))
    near = [
        np.hypot(*(at[edge[k] : edge[k + 1], None] - at[edge[k + 1] : edge[k + 2]]).transpose(2, 0, 1)).min(axis=1)
        for k in range(len(frames) - 1)
    ]
    step = float(np.median(np.concatenate(near))) if near else 0.0
    track = np.full(len(at), -1)
    mean, spread = np.zeros((0, 2, 2)), np.zeros((0, 2, 2))  # (track, position or velocity, axis) and covariance
    name, unseen, born = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    ahead = np.array([[1.0, 1.0], [0.0, 1.0]])
    kick = step**2 * np.array([[0.25, 0.5], [0.5, 1.0]])
    for k in range(len(frames)):
        here = at[edge[k] : edge[k + 1]]
        mean, spread = ahead @ mean, ahead @ spread @ ahead.T + kick
        far = np.hypot(*(mean[:, 0, None] - here).transpose(2, 0, 1))
        i, j = linear_sum_assignment(np.minimum(far, GATE * step))
        linked = far[i, j] < GATE * step
        i, j = i[linked], j[linked]
        gain = spread[i, :, 0] / (spread[i, 0, 0] + noise)[:, None]
        mean[i] += gain[:, :, None] * (here[j] - mean[i, 0])[:, None]
        spread[i] -= gain[:, :, None] * spread[i, 0, None]
        track[edge[k] + j] = name[i]
        unseen += 1
        unseen[i] = 0
        new = np.setdiff1d(np.arange(len(here)), j)
        track[edge[k] + new] = born + np.arange(len(new))
        keep = unseen <= COAST
        start = np.zeros((len(new), 2, 2))
        start[:, 0] = here[new]
        mean = np.concatenate([mean[keep], start])
        spread = np.concatenate([spread[keep], np.tile(np.diag([noise, step**2]), (len(new), 1, 1))])
        name = np.concatenate([name[keep], born + np.arange(len(new))])
        unseen = np.concatenate([unseen[keep], np.zeros(len(new), np.int64)])
        born += len(new)
    return Links(track, np.full(len(at), -1), np.zeros(len(at), bool), *(np.full(len(at), np.inf),) * 2)


@reduction(
    reads=(FRAME, TIME, *DETECTED, *ERRORS),
    may_read=(SIGN,),
    writes=(
        TRACK,
        OTHER,
        Variable("link_margin", (N,), "float64", "1", "log evidence of the link to the next detection over another"),
        Variable("link_reason", (N,), "int64", "1", "remarks on the track of the detection", REASONS),
        Variable("track_first", (T,), "int64", "1", "first frame of the track"),
        Variable("track_last", (T,), "int64", "1", "last frame of the track"),
        Variable("track_detections", (T,), "int64", "1", "number of detections of the track alone"),
        Variable("track_merged", (T,), "int64", "1", "number of detections shared with another track"),
        Variable("track_gaps", (T,), "int64", "1", "number of frames without a detection within the track"),
        Variable("track_y", (T,), "float64", "um", "mean position of the track along y"),
        Variable("track_x", (T,), "float64", "um", "mean position of the track along x"),
        Variable("track_reason", (T,), "int64", "1", "remarks on the track", WHOLE),
    ),
    combine=_first,
    finish=_finish,
    min_axes=0,
)
def track(
    frame: np.ndarray,
    time: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    y_error: np.ndarray,
    x_error: np.ndarray,
    sign: np.ndarray | None = None,
    *,
    method: Annotated[
        Literal["evidence", "published"],
        Field(description="evidence for one walk, through merged images; or the published filter, frame by frame"),
    ] = "evidence",
) -> dict[str, np.ndarray]:
    """Tracks of dislocations through the frames of a movie.

    Detections of different frames belong to one track if the evidence for one dislocation exceeds that for two. Each
    dislocation moves about a rest position of its own. All scales follow from the table: variance and memory of the
    motion, velocity, rates of missed and false detections, and the distance below which two images merge.

    Parameters
    ----------
    frame, time, y, x, y_error, x_error : array (detection,)
        See :func:`dfxm_dask.dynamics.detect`, in any order. If a time is unknown or times do not increase, the
        number of the frame replaces it. A track needs a detection in half of its frames; a table of every n-th frame
        counts these frames only.
    sign : array (detection,), int64, optional
        A track rarely changes its sign; the rate of changes follows from the table.
    method : "evidence" or "published"
        "published" does not treat merged images; its gate (ten typical steps) and the number of frames without
        detection after which a track ends (five) are our choice.

    Returns
    -------
    dict
        The columns. ``finish`` links them: ``track`` and ``track_other`` of each detection, and one row for each track
        of at least three detections. Tracks are numbered by their first frame, then y, then x. A detection that shows
        two dislocations has both numbers; its position belongs to neither of them.

    Notes
    -----
    Along each axis, position p and rest position m of a dislocation with velocity v follow::

        p' = m + v dt + a (p - m) + s sqrt(1 - a²) N(0, 1),   m' = m + v dt,   a = exp(-dt / memory)

    The evidence of a link is the likelihood ratio of the two chains for one such walk and for two, with m distributed
    as all detections. Links of neighbouring frames come first, then links across gaps of up to 64 frames. In each
    round the links are the assignment of largest total evidence, and only links with a sufficient margin over every
    exchange are accepted; the next round compares longer chains. If a chain has a gap, ends or begins beside another
    chain, the detections of the latter are merged images: they identify no dislocation, and the chains are linked
    across them. At last the identities after each merged image follow from dynamic programming with known rest
    positions. Gap closing and merging as an assignment problem follow Jaqaman et al.; evidence, margins and scales are
    our own definition.

    References
    ----------
    K. Jaqaman et al., Nat. Methods 5 (2008) 695. Published method: L. E. Dresselhaus-Marais et al., Sci. Adv. 7 (2021)
    eabe8311.

    Examples
    --------
    Two dislocations 5 um apart:

    >>> frame = np.repeat(np.arange(6), 2)
    >>> y = np.tile([1.0, 6.0], 6) + 0.1 * np.sin(frame)
    >>> error = np.full(12, 0.01)
    >>> table = track.kernel(frame, 0.25 * frame, y, np.cos(frame), error, error)
    >>> found = track.finish(table)
    >>> found["track"].tolist(), found["track_detections"].tolist()
    ([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], [6, 6])

    The same from a Dataset, such as the result of :func:`dfxm_dask.detect`:

    >>> import dfxm_dask, xarray
    >>> units = {"frame": "1", "time": "s", "y": "um", "x": "um", "y_error": "um", "x_error": "um"}
    >>> table = {name: ("detection", table[name], {"units": unit}) for name, unit in units.items()}
    >>> dfxm_dask.track.gather(xarray.Dataset(table))["track_detections"].values.tolist()
    [6, 6]
    """
    names = ("frame", "time", "y", "x", "y_error", "x_error")
    columns = dict(zip(names, (frame, time, y, x, y_error, x_error), strict=True))
    return {
        **{name: np.asarray(values) for name, values in columns.items()},
        "sign": np.zeros(len(y), np.int64) if sign is None else np.asarray(sign),
        "option_published": np.array(method == "published"),
    }


def napari_tracks(
    frame: np.ndarray, row: np.ndarray, column: np.ndarray, track: np.ndarray, track_other: np.ndarray | None = None
) -> np.ndarray:
    """Tracks in the form of a napari layer.

    Parameters
    ----------
    frame : array (detection,), int64
    row, column : array (detection,), float64, pixel
    track, track_other : array (detection,), int64
        A detection of two tracks gives one row for each.

    Returns
    -------
    array (point, 4), float64
        Track, frame, row and column, sorted by track and frame.

    Examples
    --------
    >>> napari_tracks(np.array([1, 0]), np.array([5.0, 4.0]), np.array([2.0, 2.0]), np.array([0, 0])).tolist()
    [[0.0, 0.0, 4.0, 2.0], [0.0, 1.0, 5.0, 2.0]]
    """
    sources = [track] if track_other is None else [track, track_other]
    points = np.concatenate([np.column_stack([t, frame, row, column])[np.asarray(t) >= 0] for t in sources])
    return points[np.lexsort((points[:, 1], points[:, 0]))].astype(np.float64)
