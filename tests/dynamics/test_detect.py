"""Detection of dislocations: positions of cores in images of the forward model, and frames without dislocations."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dfxm_dask.dynamics.detect import BORDER, SATURATED, detect
from dfxm_dask.dynamics.learn_images import learn_images
from dfxm_dask.dynamics.lobes import shape as lobe_shape
from dfxm_dask.dynamics.lobes.published import published_objects
from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import seen, setting, sheet_deviation, sheet_nodes
from dfxm_dask.optics.frame_image import accepted_by, frame_image
from dfxm_dask.optics.instrument.microscope import find_microscope

PITCH = 0.04, 0.1235
Y, X = PITCH[0] * np.arange(72), PITCH[1] * np.arange(48)


def _noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 100 + 2 * rng.poisson(10, shape) + rng.normal(0, 8, shape)


@pytest.fixture(scope="module")
def movie() -> tuple[np.ndarray, np.ndarray]:
    """Frames (y, x, frame) of one screw dislocation by the forward model of optics, and its cores (frame, yx) in um."""
    rng = np.random.default_rng(5)
    cores = np.array([1.4, 2.9]) + rng.uniform(-0.2, 0.2, (6, 2))
    frames = np.empty((Y.size, X.size, len(cores)))
    microscope = replace(find_microscope("id06_al111"), sheet=0.085)
    at, accepts = setting(microscope.theta), accepted_by(microscope, tail=0.2)
    (height, weight), (matrix, shift) = sheet_nodes(microscope, 5), seen(at, {"phi": 2.2e-4})
    seen_at = matrix, shift
    for k, (y, x) in enumerate(cores):
        made = lines(np.array([x, y, 0.0]), 2.86e-4 * np.array([0.31, 0.37, 0.88]), np.array([0.31, 0.37, 0.88]), 1e-3)
        scene = Scene(poisson=0.34, lines=made)
        q = sheet_deviation(scene, at, Y, X, 0.0, height)
        frames[:, :, k] = 2 * rng.poisson(gaussian_filter(8 + 400 * frame_image(q, weight, *seen_at, accepts), 1.2))
    return np.clip(frames + _noise(frames.shape, 6) - 16, 0, 65535).astype(np.uint16), cores


def _summary(frames: np.ndarray, cuts: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """The summary of frames, in blocks that begin at the given frames."""
    blocks = [
        detect.kernel(frames[:, :, a:b], {"time": 0.25 * np.arange(a, b)}, Y, X, first=a)
        for a, b in pairwise((0, *cuts, frames.shape[2]))
    ]
    total = blocks[0]
    for other in blocks[1:]:
        total = detect.combine(total, other)
    return total


def _found(frames: np.ndarray) -> dict[str, np.ndarray]:
    return detect.finish(_summary(frames))


def test_detect__cores_beside_their_lobes(movie: tuple[np.ndarray, np.ndarray]) -> None:
    frames, cores = movie
    found = _found(frames)
    assert found["frame"].tolist() == list(range(6))
    off = np.stack([found["y"], found["x"]], axis=1) - cores
    assert (np.sqrt((off**2).mean(axis=0)) < [0.8 * PITCH[0], 0.3 * PITCH[1]]).all()
    brightest = frames.reshape(-1, 6).argmax(axis=0) // X.size * PITCH[0]
    assert (np.abs(brightest - cores[:, 0]) > 3 * np.abs(off[:, 0])).mean() > 0.7  # the lobe is elsewhere
    assert (np.abs(off) < 4 * np.stack([found["y_error"], found["x_error"]], axis=1)).all()
    assert (found["sign"] == np.sign(brightest - cores[:, 0])).all()


def test_detect__any_blocks_give_the_same_lobes(movie: tuple[np.ndarray, np.ndarray]) -> None:
    one, other = _summary(movie[0]), _summary(movie[0], (1, 4))
    assert one["frame"].size == 6
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_detect__with_learned_images_each_frame_alone(
    movie: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in {"PASSES": 1, "LEARNED_FROM": 2, "STARTS": 1}.items():
        monkeypatch.setattr(lobe_shape, name, few)
    twice = np.concatenate([movie[0], movie[0][::-1]], axis=2)  # 12 lobes
    scan = {"time": np.arange(12.0)}
    table = learn_images.finish(learn_images.kernel(twice, scan, Y, X))["image_shape"]
    parts = [
        detect.kernel(twice[:, :, a:b], {"time": np.arange(a, b, dtype=float)}, Y, X, table, first=a)
        for a, b in pairwise((0, 2, 5))
    ]
    assert all(set(part) == {v.name for v in detect.writes} for part in parts)  # rows, no windows
    with_table = detect.finish(detect.combine(*parts))
    alone = detect.finish(detect.kernel(twice, scan, Y, X))
    for name, values in alone.items():
        np.testing.assert_array_equal(values[alone["frame"] < 5], with_table[name])


def test_learn_images__some_frames_of_a_long_movie(movie: tuple[np.ndarray, np.ndarray]) -> None:
    settled, _ = learn_images.settle(learn_images.validate({}), {}, (800,))
    assert settled["every"] == 13
    parts = [learn_images.kernel(movie[0], {}, Y, X, first=first, every=13) for first in (0, 6, 12)]
    assert [part["frame"].tolist() for part in parts] == [[], [6], []]


def test_detect__no_detection_without_dislocation() -> None:
    frames = _noise((Y.size, X.size, 100), 7)
    frames *= 1 + 0.3 * np.sin(np.arange(100))  # flicker
    frames[:20] -= 25.0  # the sample ends
    frames[:, :9] -= 25.0
    hot = np.random.default_rng(8).random((Y.size, X.size)) < 0.01
    frames[hot] += 200
    assert _found(np.clip(frames, 0, None).astype(np.uint16))["frame"].size <= 1


def test_detect__bad_pixels_and_empty_frames(
    movie: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in {"PASSES": 1, "LEARNED_FROM": 2, "STARTS": 1}.items():
        monkeypatch.setattr(lobe_shape, name, few)
    frames = movie[0].astype(np.float32)
    frames[:, :, 1] = np.nan
    frames[:, :, 2] = 0.0
    peak = np.unravel_index(frames[:, :, 3].argmax(), (Y.size, X.size))
    frames[peak[0], peak[1], 3] = np.nan
    found = _found(frames)
    assert found["frame"].tolist() == [0, 3, 4, 5]
    assert found["detection_reason"][1] & SATURATED
    assert not found["detection_reason"][0] & (SATURATED | BORDER)


def test_detect__refuses_scans_without_a_movie() -> None:
    frames = np.zeros((5, X.size, 1), np.uint16)
    with pytest.raises(InputError, match="pixels along y"):
        detect.kernel(frames, {}, Y[:5], X)
    for step in (detect, learn_images):
        with pytest.raises(InputError, match="microscope"):
            step.fits(step.validate({"microscope": "id99"}), {"y": Y, "x": X})


def test_published_objects__a_pair_of_lobes_is_one_object() -> None:
    y, x = np.mgrid[:64, :64]
    lobe = np.exp(-0.5 * (((y - 26) / 4) ** 2 + ((x - 32) / 4) ** 2))
    dark = np.exp(-0.5 * (((y - 38) / 4) ** 2 + ((x - 32) / 4) ** 2))
    image = _noise((64, 64), 3) + 300 * lobe - 60 * dark
    objects = published_objects(image, legacy=False)
    nearest = objects[np.hypot(objects[:, 0] - 30, objects[:, 1] - 32).argmin()]
    assert np.hypot(nearest[0] - 30, nearest[1] - 32) < 8
    assert len(published_objects(np.full((16, 16), 7.0))) == 0
