"""Motion of simulated walks: exact likelihood, intervals, mean square displacement, neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import multivariate_normal
from walks import NOISE, ou_path

from dfxm_dask.dynamics.motion import motion, rms_against_temperature
from dfxm_dask.dynamics.ornstein_uhlenbeck import Series, filtered, fit_walk
from dfxm_dask.dynamics.track import track

SPREAD, MEMORY = 0.35, 2.0


def table(path: np.ndarray, time: np.ndarray, noise: np.ndarray = NOISE) -> list[np.ndarray]:
    """Columns of the detections of paths (time, track, yx)."""
    frames, count = path.shape[:2]
    frame = np.repeat(np.arange(frames), count)
    errors = [np.full(frames * count, n) for n in noise]
    return [frame, time[frame], *path.reshape(-1, 2).T, *errors, np.tile(np.arange(count), frames)]


def walked(seed: int, frames: int, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    time = 0.25 * np.arange(frames)
    rest = np.stack([3.0 * np.arange(count), np.zeros(count)], axis=1)
    path = ou_path(rng, time, rest, SPREAD, MEMORY)
    return path + rng.normal(size=path.shape) * NOISE, time


@pytest.mark.parametrize("exposure", [0.0, 0.004, 0.2])
def test_filtered__likelihood_of_the_covariance_matrix(exposure: float) -> None:
    """Irregular times; for a finite exposure the covariance by quadrature over both exposures."""
    rng = np.random.default_rng(1)
    time = np.cumsum(rng.uniform(0.3, 0.6, 7))
    position, noise = rng.normal(0, 0.4, 7), rng.uniform(0.01, 0.05, 7)
    within = exposure * (np.arange(400) + 0.5) / 400 if exposure else np.zeros(1)
    moments = (time[:, None] + within).ravel()
    n = len(within)
    covariance = SPREAD**2 * np.exp(-np.abs(moments[:, None] - moments) / MEMORY)
    covariance = covariance.reshape(7, n, 7, n).mean(axis=(1, 3)) + np.diag(noise)
    logs, squares, *_ = filtered(SPREAD**2, MEMORY, time, position, noise, exposure)
    exact = multivariate_normal(np.zeros(7), covariance).logpdf(position)
    assert -0.5 * (logs + squares + 7 * np.log(2 * np.pi)) == pytest.approx(exact, abs=1e-4)


def test_filtered__generalised_least_squares_of_rest_position_and_velocity() -> None:
    time, position = np.array([0.0, 0.3, 1.0, 1.2]), np.array([0.1, 0.4, -0.2, 0.0])
    noise = np.array([0.01, 0.02, 0.01, 0.03])
    inverse = np.linalg.inv(SPREAD**2 * np.exp(-np.abs(time[:, None] - time) / MEMORY) + np.diag(noise))
    design = np.stack([np.ones(4), time - 0.6], axis=1)
    _, squares, *rest = filtered(SPREAD**2, MEMORY, time, position, noise, 0.0)
    expected = [*(design.T @ inverse @ position), *(design.T @ inverse @ design)[[0, 0, 1], [0, 1, 1]]]
    np.testing.assert_allclose([squares, *rest], [position @ inverse @ position, *expected], rtol=1e-10)


def test_fit_walk__intervals_contain_the_truth_as_often_as_stated() -> None:
    """Of 40 tracks of 60 frames; binomial limits of 3 standard deviations about 68 %."""
    inside = np.zeros(2)
    for seed in range(40):
        path, time = walked(7000 + seed, 60)
        walk = fit_walk([Series(time, path[:, 0, a], np.full(60, NOISE[a] ** 2)) for a in (0, 1)])
        assert walk is not None
        for k, (found, true) in enumerate(((walk.stiffness, SPREAD**-2), (walk.diffusivity, SPREAD**2 / MEMORY))):
            inside[k] += found[0] <= true <= found[2]
    assert ((inside > 0.46 * 40) & (inside < 0.90 * 40)).all()


def test_motion__values_of_a_long_track_and_its_neighbour() -> None:
    path, time = walked(3, 800, count=2)
    found = motion.finish(motion.kernel(*table(path, time), temperature=900.0))
    truth = {
        "stiffness": SPREAD**-2,
        "diffusivity": SPREAD**2 / MEMORY,
        "relaxation_time": MEMORY,
        "rms_position": SPREAD * np.sqrt(2),
        "neighbour_distance": 3.0,
        "lindemann": 2 * SPREAD / 3.0,
        "neighbour_correlation": 0.0,
        "velocity": 0.0,
    }
    for name, right in truth.items():
        assert (np.abs(found[name] - right) < 3.5 * found[f"{name}_error"]).all(), name
        assert (found[f"{name}_error"] < 0.35 * max(right, 0.3)).all(), name
    expected = 4 * SPREAD**2 * -np.expm1(-found["msd_lag"] / MEMORY)
    assert (np.abs(found["msd"] - expected) < 4 * found["msd_error"]).all()
    np.testing.assert_allclose(found["spring_constant"], 1.380649e-23 * 900 * 1e12 * found["stiffness"])
    assert found["neighbour"].tolist() == [1, 0]
    assert found["motion_reason"].tolist() == [0, 0]


def test_motion__tables_are_as_declared() -> None:
    """In a group of a scan, where y and x are also names of coordinates, and from there to the motion."""
    path, time = walked(8, 20, count=2)
    names = ("frame", "time", "y", "x", "y_error", "x_error")
    columns = dict(zip(names, table(path, time), strict=False))
    data = xr.Dataset({n: ("detection", v) for n, v in columns.items()})
    tracks = track.gather(data)
    found = motion.gather(data.assign(track=tracks["track"], track_other=tracks["track_other"]))
    for reduction, result in ((track, tracks), (motion, found)):
        assert {v.name for v in reduction.writes} <= set(result.variables)
        for v in reduction.writes:
            assert result[v.name].dims == v.dims, v.name
            assert result[v.name].dtype == v.dtype, v.name
    assert len(found["stiffness"]) == 2


def test_motion__free_diffusion_has_no_stiffness() -> None:
    rng = np.random.default_rng(4)
    path = np.cumsum(rng.normal(0, 0.1, (200, 1, 2)), axis=0)
    found = motion.finish(motion.kernel(*table(path, 0.25 * np.arange(200))))
    assert np.isnan(found["stiffness"]).all()
    assert np.isnan(found["relaxation_time"]).all()
    assert found["motion_reason"][0] & 2
    assert found["diffusivity"][0] == pytest.approx(0.01 / 0.5, rel=0.2)


def test_motion__unequal_axes_are_flagged() -> None:
    path, time = walked(6, 400)
    path[..., 0] *= 0.3
    found = motion.finish(motion.kernel(*table(path, time, NOISE * [0.3, 1])))
    assert found["motion_reason"][0] & 4
    assert found["rms_position"][0] == pytest.approx(SPREAD * np.hypot(0.3, 1), rel=0.2)


def test_motion__short_tracks_and_merged_images_give_no_values() -> None:
    path, time = walked(5, 30)
    columns = table(path, time)
    other = np.where(np.arange(30) > 5, 1, -1)
    for found in (
        motion.finish(motion.kernel(*(c[:5] for c in columns))),
        motion.finish(motion.kernel(*columns, track_other=other)),
    ):
        assert np.isnan(found["stiffness"]).all()
        assert (found["motion_reason"] & 1 == 1).all()
    none = motion.finish(motion.kernel(*(c[:0] for c in columns)))
    assert none["stiffness"].shape == (0,)
    assert none["msd"].shape == (0, 0)


def test_rms_against_temperature__power_and_its_error() -> None:
    rng = np.random.default_rng(0)
    hot, error = np.linspace(850, 930, 40), np.full(40, 0.01)
    rms = 0.35 * np.sqrt((hot / 900) ** 3) + rng.normal(0, 0.01, 40)
    found = rms_against_temperature(hot, rms, error)
    assert abs(found["power"] - 3) < 3 * found["power_error"]
    assert 0.4 < found["misfit"] < 1.8
    assert np.isnan(rms_against_temperature(hot[:1], rms[:1], error[:1])["power"])


def test_motion__unknown_times_are_never_frame_numbers() -> None:
    rng = np.random.default_rng(3)
    frame, error, number = np.arange(120), np.full(120, 0.02), np.repeat([0, 1], 60)
    place = np.cumsum(0.1 * rng.normal(size=(120, 2)), axis=0)
    time = 0.25 * frame
    whole = motion.finish(motion.kernel(frame, time, *place.T, error, error, number))
    holes = np.where(frame == 5, np.nan, np.where(frame >= 60, 1.0, time))
    found = motion.finish(motion.kernel(frame, holes, *place.T, error, error, number))
    np.testing.assert_allclose(found["diffusivity"][0], whole["diffusivity"][0], rtol=0.1)
    assert np.isnan(found["diffusivity"][1])
    assert (found["motion_reason"] & 32 == 32).all()


@pytest.mark.parametrize(("spread", "reason"), [(0.0, 64), (0.35, 128)])
def test_motion__noise_and_fast_relaxation_leave_values_unknown(spread: float, reason: int) -> None:
    """An immobile dislocation has no stiffness, and independent positions give a stiffness but no diffusivity."""
    rng = np.random.default_rng(5)
    frame, error = np.arange(200), np.full(200, 0.02)
    place = 5 + np.hypot(spread, 0.02) * rng.normal(size=(200, 2))
    found = motion.finish(motion.kernel(frame, 0.25 * frame, *place.T, error, error, np.zeros(200, np.int64)))
    assert found["motion_reason"][0] & reason
    assert np.isnan(found["diffusivity"][0])
    assert np.isnan(found["relaxation_time"][0])
    if spread:
        assert abs(found["stiffness"][0] * spread**2 - 1) < 0.3
    else:
        assert np.isnan(found["stiffness"][0])
        assert np.isnan(found["stiffness_axis"]).all()
