"""Motion of dislocations along their tracks: stiffness, diffusivity, mean square displacement, and neighbours."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.dynamics.ornstein_uhlenbeck import BOUND, FEWEST, Series, Walk, drift, filtered, fit_walk
from dfxm_dask.dynamics.track import DETECTED, ERRORS, FRAME, OTHER, TIME, TRACK, T
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import Dim, Variable

BOLTZMANN = 1.380649e-23
LAGS = 24
"""Largest number of lags of the mean square displacement."""
AXIS, RANGE = Dim("axis", 2), Dim("bound", 2)
REASONS = (
    (1, "too_few_detections"),
    (2, "free_within_track"),
    (4, "differs_between_y_and_x"),
    (8, "no_neighbour"),
    (16, "no_temperature"),
    (32, "time_unknown_or_not_increasing"),
    (64, "motion_within_noise"),
    (128, "relaxation_within_frame"),
)


def _with_error(name: str, units: str, words: str, dims: tuple[str, ...] = (T,)) -> tuple[Variable, Variable]:
    """A quantity and its standard error."""
    return (
        Variable(name, dims, "float64", units, words),
        Variable(f"{name}_error", dims, "float64", units, f"standard error of the {words}"),
    )


WRITES = (
    *_with_error("stiffness", "um-2", "stiffness of the walk in units of the thermal energy per um2"),
    Variable("stiffness_range", (T, RANGE), "float64", "um-2", "68 % interval of the stiffness"),
    *_with_error("diffusivity", "um2 s-1", "diffusivity of the walk"),
    Variable("diffusivity_range", (T, RANGE), "float64", "um2 s-1", "68 % interval of the diffusivity"),
    *_with_error("relaxation_time", "s", "relaxation time of the walk"),
    Variable("relaxation_time_range", (T, RANGE), "float64", "s", "68 % interval of the relaxation time"),
    *_with_error("stiffness_axis", "um-2", "stiffness of the walk along y and x", (T, AXIS)),
    *_with_error("diffusivity_axis", "um2 s-1", "diffusivity of the walk along y and x", (T, AXIS)),
    *_with_error("rms_position", "um", "root mean square distance from the rest position"),
    *_with_error("rest_position", "um", "rest position along y and x", (T, AXIS)),
    *_with_error("velocity", "um s-1", "drift velocity along y and x", (T, AXIS)),
    *_with_error("spring_constant", "N m-1", "spring constant of the walk at the temperature of the sample"),
    Variable("msd_lag", ("lag",), "float64", "s", "lag of the mean square displacement"),
    *_with_error("msd", "um2", "mean square displacement without localisation noise", (T, "lag")),
    Variable("neighbour", (T,), "int64", "1", "number of the nearest track (-1: no neighbour)"),
    *_with_error("neighbour_distance", "um", "mean distance to the nearest track"),
    *_with_error("neighbour_correlation", "1", "correlation of displacements with the nearest track"),
    *_with_error("lindemann", "1", "rms change of the vector to the nearest track over their distance"),
    Variable("motion_reason", (T,), "int64", "1", "reasons why values of the motion are unknown", REASONS),
)
"""``spring_constant`` is k_B times the temperature times the stiffness."""


def _first(one: Arrays, other: Arrays) -> Arrays:
    """Every summary is the same table."""
    return one


def _finish(summary: Arrays) -> Arrays:
    """Fit the walk of every track."""
    exposure, temperature = float(summary["option_exposure"]), float(summary["option_temperature"])
    count = int(max(summary["track"].max(initial=-1), summary["track_other"].max(initial=-1))) + 1
    alone = (summary["track"] >= 0) & (summary["track_other"] < 0)
    order = np.lexsort((summary["frame"], summary["track"]))
    order = order[alone[order]]
    edge = np.searchsorted(summary["track"][order], np.arange(count + 1))
    tracks = [_series(summary, order[edge[k] : edge[k + 1]]) for k in range(count)]
    lag = lags(summary["time"], summary["frame"], max((len(t[0]) for t in tracks), default=0))
    result: Arrays = {
        v.name: np.full([count if d == T else len(lag) if d == "lag" else 2 for d in v.dims], np.nan)
        for v in WRITES
        if v.dtype == "float64" and v.name != "msd_lag"
    }
    result |= {"msd_lag": lag, "neighbour": np.full(count, -1), "motion_reason": np.zeros(count, np.int64)}
    for k, (frame, *axes) in enumerate(tracks):
        if edge[k + 1] - edge[k] > len(frame):
            result["motion_reason"][k] |= 32
        both = fit_walk(axes, exposure) if len(frame) else None
        if both is None:
            result["motion_reason"][k] |= 1 | 8
            continue
        _describe(result, k, axes, both, exposure)
        result["msd"][k], result["msd_error"][k] = mean_square_displacement(axes, lag, both, exposure)
    _neighbours(result, tracks, exposure)
    known = np.isfinite(result["stiffness"])
    energy = BOLTZMANN * temperature * 1e12 if temperature > 0 else np.nan  # um-2 to m-2
    for name in ("", "_error"):
        result[f"spring_constant{name}"] = energy * result[f"stiffness{name}"]
    if not temperature > 0:
        result["motion_reason"][known] |= 16
    return result


def _series(summary: Arrays, rows: np.ndarray) -> tuple[np.ndarray, Series, Series]:
    """Frames of a track and its positions along y and x."""
    # Numbers of frames instead of times would give a diffusivity per frame; a position without error is no evidence.
    rows = rows[np.isfinite(summary["time"][rows] + summary["y_error"][rows] + summary["x_error"][rows])]
    time = summary["time"][rows]
    if (np.diff(time) <= 0).any():
        rows, time = rows[:0], time[:0]
    axes = (Series(time, summary[a][rows], summary[f"{a}_error"][rows] ** 2) for a in ("y", "x"))
    return (summary["frame"][rows], *axes)


def _describe(result: Arrays, k: int, axes: list[Series], both: Walk, exposure: float) -> None:
    """Values of one track that follow from the fits."""

    def put(name: str, values: np.ndarray, at: tuple[int, ...] = (k,)) -> None:
        result[name][at], result[f"{name}_error"][at] = values[1], 0.5 * (values[2] - values[0])
        if f"{name}_range" in result:
            result[f"{name}_range"][at] = values[[0, 2]]

    stiff, known = both.known
    bound = both.gain > BOUND and stiff
    if known:
        put("diffusivity", both.diffusivity)
    if bound:
        put("stiffness", both.stiffness)
    if bound and known:
        put("relaxation_time", both.relaxation)
    free = both.gain <= BOUND and known
    result["motion_reason"][k] |= 2 * free + 64 * (not stiff or not (known or bound)) + 128 * (bound and not known)
    walks = [fit_walk([s], exposure) for s in axes]
    for a, (one, s) in enumerate(zip(walks, axes, strict=True)):
        if one is None:
            continue
        if one.known[1]:
            put("diffusivity_axis", one.diffusivity, (k, a))
        if one.gain > BOUND and one.known[0]:
            put("stiffness_axis", one.stiffness, (k, a))
        velocity, error, place = drift(s, both, exposure)
        result["velocity"][k, a], result["velocity_error"][k, a] = velocity, error
        if bound:
            result["rest_position"][k, a], result["rest_position_error"][k, a] = _rest(s, both, exposure), place
    differ = _differ(walks)
    result["motion_reason"][k] |= 4 * differ
    if bound and not differ:
        put("rms_position", np.sqrt(2.0) * both.rms)
    elif all(w is not None and w.gain > BOUND and w.known[0] for w in walks):
        spread = np.array([w.rms for w in walks if w is not None])
        rms = np.hypot(*spread[:, 1])
        half = np.hypot(*(spread[:, 1] * (spread[:, 2] - spread[:, 0]) / 2)) / rms
        put("rms_position", np.array([rms - half, rms, rms + half]))


def _rest(series: Series, walk: Walk, exposure: float) -> float:
    """Rest position of a walk without drift."""
    _, _, along, _, own, _, _ = filtered(*walk.best, *series, exposure)
    return float(along / own)


def _differ(walks: list[Walk | None]) -> bool:
    """Whether the walks along y and x differ by three standard errors in stiffness or diffusivity."""
    one, other = walks
    if one is None or other is None or not all(one.known + other.known):
        return False
    for a, b in ((one.stiffness, other.stiffness), (one.diffusivity, other.diffusivity)):
        half = [np.log(q[2] / q[0]) / 2 for q in (a, b)]
        if abs(np.log(a[1] / b[1])) > 3 * np.hypot(*half):
            return True
    return False


def lags(time: np.ndarray, frame: np.ndarray, longest: int) -> np.ndarray:
    """Lags of the mean square displacement: up to a quarter of the longest track, in s, (lag,)."""
    if longest < 4:
        return np.zeros(0)
    known = np.isfinite(time)
    time, frame = time[known], frame[known]
    frames, first = np.unique(frame, return_index=True)
    steps = np.diff(time[first]) / np.diff(frames)
    if not (steps > 0).any():
        return np.zeros(0)
    step = float(np.median(steps[steps > 0]))
    return step * np.unique(np.rint(np.geomspace(1, max(longest // 4, 1), LAGS)).astype(np.int64))


def mean_square_displacement(
    axes: list[Series], lag: np.ndarray, walk: Walk, exposure: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean square displacement, summed over axes, and its standard error, both (lag,), um2.

    Parameters
    ----------
    axes : list of Series
    lag : array (lag,), s
        Pairs of positions within a quarter of the first lag count.
    walk : Walk
        Gives the covariance of the displacements, and the correction of the exposure.
    exposure : float, s

    Notes
    -----
    Displacements over one lag overlap. With C(k) the covariance of two that begin k frames apart, the variance of their
    mean square over M pairs is::

        2 (M C(0)² + 2 Σ (M - k) C(k)²) / M²

    The noise of both positions is subtracted. A mean over the exposure E reduces the mean square displacement by
    2 D E / 3 along each axis, for E much shorter than the lag; this is added.
    """
    variance, memory = walk.best
    result, error = np.full(len(lag), np.nan), np.full(len(lag), np.nan)
    for n, delay in enumerate(lag):
        total = spread = 0.0
        for s in axes:
            later = np.searchsorted(s.time, s.time + delay - 0.25 * lag[0])
            known = later < len(s.time)
            first, second = np.flatnonzero(known), later[known]
            near = np.abs(s.time[second] - s.time[first] - delay) <= 0.25 * lag[0]
            first, second = first[near], second[near]
            if len(first) < 2:
                total = np.nan
                break
            noise = s.noise[first] + s.noise[second]
            moves = (s.position[second] - s.position[first]) ** 2 - noise
            total += float(moves.mean()) + 2 * float(walk.diffusivity[1]) * exposure / 3
            pairs = len(first)
            away = lag[0] * np.arange(pairs)
            cover = variance * (
                2 * np.exp(-away / memory) - np.exp(-(away + delay) / memory) - np.exp(-np.abs(away - delay) / memory)
            )
            cover[0] += float(noise.mean())
            step = round(float(delay / lag[0]))
            if step < pairs:
                cover[step] -= 0.5 * float(noise.mean())
            weight = 2.0 * (pairs - np.arange(pairs))
            weight[0] = pairs
            spread += 2 * float((weight * cover**2).sum()) / pairs**2
        result[n], error[n] = total, np.sqrt(spread) if np.isfinite(total) else np.nan
    return result, error


def _neighbours(result: Arrays, tracks: list[tuple[np.ndarray, Series, Series]], exposure: float) -> None:
    """Values of each track and its nearest neighbour."""
    centre = np.array([[s.position.mean() if len(f) else np.nan for s in (y, x)] for f, y, x in tracks]).reshape(-1, 2)
    for k, (frame, *axes) in enumerate(tracks):
        far = np.hypot(*(centre - centre[k]).T)
        far[k] = np.nan
        for j in np.argsort(far, kind="stable"):  # unknown distances come last
            common, mine, other = np.intersect1d(frame, tracks[j][0], assume_unique=True, return_indices=True)
            if np.isfinite(far[j]) and len(common) >= FEWEST:
                break
        else:
            result["motion_reason"][k] |= 8
            continue
        result["neighbour"][k] = j
        pair = [
            (Series(s.time[mine], s.position[mine], s.noise[mine]), t.position[other], t.noise[other])
            for s, t in zip(axes, tracks[j][1:], strict=True)
        ]
        value, error = displacement_correlation(common, pair)
        result["neighbour_correlation"][k], result["neighbour_correlation_error"][k] = value, error
        apart = [Series(s.time, s.position - p, s.noise + n) for s, p, n in pair]
        walk = fit_walk(apart, exposure)
        if walk is None or walk.gain <= BOUND:
            continue
        vector = np.array([_rest(s, walk, exposure) for s in apart])
        place = np.array([drift(s, walk, exposure)[2] for s in apart])
        distance = float(np.hypot(*vector))
        spread = float(np.hypot(*(vector * place)) / distance)
        result["neighbour_distance"][k], result["neighbour_distance_error"][k] = distance, spread
        ratio = np.sqrt(2.0) * walk.rms / distance
        half = 0.5 * (ratio[2] - ratio[0])
        result["lindemann"][k] = ratio[1]
        result["lindemann_error"][k] = np.hypot(half, ratio[1] * spread / distance)


def displacement_correlation(
    frame: np.ndarray, pair: list[tuple[Series, np.ndarray, np.ndarray]]
) -> tuple[float, float]:
    """Correlation of the displacements of two tracks from frame to frame, and its standard error.

    Parameters
    ----------
    frame : array (detection,), int64
        Common frames.
    pair : list of (Series, array, array)
        For each axis, one track, and positions (um) and noise (um2) of the other.

    Notes
    -----
    The squares in the denominator are reduced by the localisation noise. Standard error (1 - r²) / sqrt(n) of n
    displacements, over the same reduction.
    """
    near = np.diff(frame) == 1
    moves = [(np.diff(s.position)[near], np.diff(p)[near], s.noise, n) for s, p, n in pair]
    product = sum(float((a * b).sum()) for a, b, _, _ in moves)
    raw = [sum(float((m[k] ** 2).sum()) for m in moves) for k in (0, 1)]
    count = 2 * int(near.sum())
    clear = [raw[k] - sum(2 * float(m[k + 2].mean()) * int(near.sum()) for m in moves) for k in (0, 1)]
    if count < 2 * FEWEST or min(clear) <= 0.1 * min(raw):
        return np.nan, np.nan
    attenuation = np.sqrt(clear[0] * clear[1] / (raw[0] * raw[1]))
    measured = product / np.sqrt(raw[0] * raw[1])
    return float(measured / attenuation), float((1 - min(measured**2, 1.0)) / np.sqrt(count) / attenuation)


def rms_against_temperature(
    temperature: np.ndarray, rms_position: np.ndarray, rms_position_error: np.ndarray
) -> dict[str, float]:
    """Power of the temperature with which the mean square position grows: 1 for a constant spring constant.

    Parameters
    ----------
    temperature : array (track,), K
        Of tracks of one or more scans.
    rms_position, rms_position_error : array (track,), um

    Returns
    -------
    dict
        ``power`` with ``power_error``, and ``misfit``: chi square over the degrees of freedom. NaN for one temperature.

    Notes
    -----
    Weighted least squares of ``2 ln(rms) = c + power ln(temperature)``. Our own definition.

    Examples
    --------
    >>> hot = np.array([800.0, 850.0, 900.0])
    >>> round(rms_against_temperature(hot, 0.01 * np.sqrt(hot), np.full(3, 0.01))["power"], 6)
    1.0
    """
    good = np.isfinite(rms_position) & np.isfinite(temperature) & (rms_position_error > 0)
    t, s = np.log(temperature[good]), 2 * np.log(rms_position[good])
    weight = (rms_position[good] / (2 * rms_position_error[good])) ** 2
    if len(np.unique(t)) < 2:
        return {"power": np.nan, "power_error": np.nan, "misfit": np.nan}
    off = t - np.average(t, weights=weight)
    total = float((weight * off**2).sum())
    power = float((weight * off * s).sum()) / total
    rest = s - np.average(s, weights=weight) - power * off
    misfit = float((weight * rest**2).sum()) / (len(t) - 2) if len(t) > 2 else np.nan
    return {"power": power, "power_error": total**-0.5, "misfit": misfit}


@reduction(
    reads=(FRAME, TIME, *DETECTED, *ERRORS, TRACK),
    may_read=(OTHER,),
    writes=WRITES,
    combine=_first,
    finish=_finish,
    min_axes=0,
)
def motion(
    frame: np.ndarray,
    time: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    y_error: np.ndarray,
    x_error: np.ndarray,
    track: np.ndarray,
    track_other: np.ndarray | None = None,
    *,
    exposure: Annotated[
        float,
        Field(ge=0, description="time over which a position is a mean", json_schema_extra={"unit": "s"}),
    ] = 0.0,
    temperature: Annotated[
        float | None,
        Field(gt=0, description="temperature of the sample, for the spring constant", json_schema_extra={"unit": "K"}),
    ] = None,
) -> dict[str, np.ndarray]:
    """Motion of each dislocation: stiffness, diffusivity, relaxation time, mean square displacement, and neighbours.

    Each track is a walk about a rest position with a restoring force (Ornstein–Uhlenbeck), equal along y and x. The
    likelihood is exact for irregular times and contains the stated localisation errors.

    Parameters
    ----------
    frame, time, y, x, y_error, x_error : array (detection,)
        See :func:`dfxm_dask.dynamics.detect`.
    track, track_other : array (detection,), int64
        See :func:`dfxm_dask.dynamics.track`. Detections with two tracks are not used.
    exposure : float, s
        The default 0 is right if the dislocation rests during the exposure, as in simulated movies.

    Returns
    -------
    dict
        The columns. ``finish`` gives one row for each track. ``rms_position`` is the distance in the image plane,
        sqrt(2 / stiffness) for a walk that is equal along y and x. ``lindemann`` compares the rms change of the vector
        to the nearest track with the distance; a wall is unstable if this ratio is large.

    Notes
    -----
    ::

        dx = -k D (x - m) dt + sqrt(2 D) dW,   variance 1 / k,   relaxation time 1 / (k D)

    The rest position m is integrated out with a flat prior; the priors are flat in ln D, and proportional to the
    cube root of the relaxation rate in its logarithm (our choice, for correct intervals of short tracks). Values are
    medians of the posterior, ``_range`` is its central 68 %, ``_error`` half of that interval. Where the likelihood of
    free diffusion is within exp(0.5) of the maximum, the track does not determine the stiffness: it is NaN, with a
    flag. Velocity and rest position by generalised least squares. The mean square displacement does not use the model,
    except for its error.

    References
    ----------
    G. E. Uhlenbeck, L. S. Ornstein, Phys. Rev. 36 (1930) 823. Exposure: A. J. Berglund, Phys. Rev. E 82 (2010) 011917.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> place = np.zeros((200, 2))
    >>> for k in range(1, 200):
    ...     place[k] = 0.9 * place[k - 1] + 0.1 * rng.normal(size=2)
    >>> frame, error, number = np.arange(200), np.full(200, 1e-3), np.zeros(200, np.int64)
    >>> found = motion.finish(motion.kernel(frame, 0.25 * frame, *place.T, error, error, number))
    >>> bool(np.abs(found["stiffness"][0] - 19.0) < 3 * found["stiffness_error"][0])
    True

    On a store, after a run of the recipe ``movie``:

    >>> import dfxm_dask
    >>> table = dfxm_dask.open_scan("movie.zarr")["dynamics"].to_dataset()    # doctest: +SKIP
    >>> dfxm_dask.motion.gather(table, temperature=920.0)["spring_constant"]    # doctest: +SKIP
    """
    names = ("frame", "time", "y", "x", "y_error", "x_error", "track")
    columns = dict(zip(names, (frame, time, y, x, y_error, x_error, track), strict=True))
    return {
        **{name: np.asarray(values) for name, values in columns.items()},
        "track_other": np.full(len(y), -1) if track_other is None else np.asarray(track_other),
        "option_exposure": np.array(exposure),
        "option_temperature": np.array(0.0 if temperature is None else temperature),
    }
