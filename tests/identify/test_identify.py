"""Identification of one dislocation: catalogue, visibility, images, and evidence on simulated counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import Candidates, catalogue, names, opposite
from dfxm_dask.identify.combine import combined, ranking
from dfxm_dask.identify.images import line_images, line_tables, scan_optics
from dfxm_dask.identify.match import _finish
from dfxm_dask.identify.published import correlation, features
from dfxm_dask.identify.search import peak_angle
from dfxm_dask.identify.visibility import _deviations
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import image_stack, setting
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import find_microscope

SCOPE = replace(find_microscope("id06_al111"), sheet=0.2 / 2.355)
CELL, HKL = 4.0495e-4, (-1, 1, -1)
GRAIN = rotation_y(-SCOPE.theta) @ rotation_z(0.7) @ orientation(HKL)
FOUND = catalogue()
TURNED = Candidates(CELL * FOUND.burgers @ GRAIN.T, FOUND.line @ GRAIN.T, FOUND.plane_normal @ GRAIN.T, FOUND.angle)
Y, X = 0.04 * np.arange(60), 0.1235 * np.arange(24)


def test_catalogue__distinct_candidates_differ_and_complete_the_full_list() -> None:
    every = catalogue(distinct=False)
    assert len(every.angle) == 4 * 6 * 36
    keys = {tuple(np.concatenate([b, t]).round(6) + 0.0) for b, t in zip(FOUND.burgers, FOUND.line, strict=True)}
    assert len(keys) == len(FOUND.angle) == 420
    for b, t in zip(every.burgers, every.line, strict=True):
        forth, back = (tuple(np.concatenate([s * b, s * t]).round(6) + 0.0) for s in (1, -1))
        assert (forth in keys) != (back in keys)
    assert (opposite(FOUND)[opposite(FOUND)] == np.arange(420)).all()
    assert len(names(FOUND)) == 420
    with pytest.raises(InputError, match="use one of fcc, bcc"):
        catalogue("hcp")


def test_visibility__angular_means_are_those_of_the_field() -> None:
    b, t, n = np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), np.array([0, 1.0, 0])

    def rms(burgers: np.ndarray, g: np.ndarray) -> float:
        return float(np.sqrt((_deviations(burgers, t, g, 0.334) ** 2).sum(1).mean()))

    # Reference: means of r |beta^T g| / b over an angle, computed apart.
    for burgers, g, expected in ((b, b, 0.1802), (b, n, 0.0933), (b, t, 0.0), (t, t, 1 / (2 * np.pi))):
        assert rms(burgers, g) == pytest.approx(expected, abs=5e-5)
    psi = (np.arange(360) + 0.5) * 2 * np.pi / 360
    points = np.stack([np.cos(psi), np.sin(psi), 0 * psi], axis=1)
    field = gradient(points, lines([0, 0, 0], b + 0.3 * t, t), poisson=0.334)
    mine = _deviations(b + 0.3 * t, t, np.array([0.6, 0, 0.8]), 0.334)
    np.testing.assert_allclose(mine, -np.einsum("pij,i->pj", field, [0.6, 0, 0.8]), atol=1e-12)


def test_line_images__agree_with_the_images_of_a_scene() -> None:
    # The second angle is within four widths of the flank, where the acceptance bends most.
    positions = {"phi": np.array([-3e-4, 1.72e-4, 2.5e-4]), "chi": np.array([0.0, 1e-3, -2e-3])}
    y, x = Y - Y.mean(), X - X.mean()
    optics = scan_optics(SCOPE, setting(SCOPE.theta), positions, heights=9, dense=9, core=9)
    table = line_tables(TURNED, 0.334)
    for k in (357, 113):
        at = np.array([0.03, -0.05])
        through = at[0] * table[k, :3] + at[1] * table[k, 3:6]
        scene = Scene(0.334, lines=lines(through, TURNED.burgers[k], TURNED.line[k], 1e-3))
        expected = image_stack(scene, SCOPE, positions, y, x, nodes=9)
        made, slopes = np.empty(expected.shape), np.empty((3, 4, *expected.shape[1:]))
        line_images(y, x, table[k], at, np.zeros(3), optics, made, slopes)
        assert np.sqrt(((made - expected) ** 2).mean()) < 1e-4 * expected.max()
        moved = [np.empty_like(made) for _ in range(2)]
        for sign, out in zip((1, -1), moved, strict=True):
            none = np.empty((0, 0, 0, 0))
            line_images(y, x, table[k], at + sign * np.array([1e-5, 0]), np.zeros(3), optics, out, none)
        numeric = (moved[0] - moved[1]) / 2e-5
        assert np.linalg.norm(numeric - slopes[:, 0]) < 0.01 * np.linalg.norm(numeric)


def test_line_images__resolve_the_core_of_a_weak_line() -> None:
    # g·b = 0 and 20 degree between b and the line: the lattice bends enough within 20 nm only.
    some = catalogue()
    across = np.linalg.norm(np.cross(some.burgers, some.line), axis=1)
    weak = (np.abs(some.burgers @ np.array(HKL)) < 1e-9) & (across < 0.25) & (across > 0.2)
    k = int(np.flatnonzero(weak & (np.abs(some.line @ GRAIN.T[:, 2]) > 0.4))[0])
    phi, pitch, at = np.array([-2.1e-4, 2.1e-4]), (Y[1], X[1]), np.array([0.013, -0.02])
    y, x = 0.04 * np.arange(-8, 9), 0.1235 * np.arange(-6, 7)
    table = line_tables(TURNED, 0.334)
    optics = scan_optics(SCOPE, setting(SCOPE.theta), {"phi": phi}, pitch=pitch)
    made = np.empty((2, y.size, x.size))
    line_images(y, x, table[k], at, np.zeros(3), optics, made, np.empty((0, 0, 0, 0)))
    through = at[0] * table[k, :3] + at[1] * table[k, 3:6]
    scene = Scene(0.334, lines=lines(through, TURNED.burgers[k], TURNED.line[k], 1e-3))
    fine = [
        (side[:, None] + p * ((np.arange(8) + 0.5) / 8 - 0.5)).ravel() for side, p in zip((y, x), pitch, strict=True)
    ]
    expected = image_stack(scene, SCOPE, {"phi": phi}, *fine, nodes=31)
    expected = expected.reshape(2, y.size, 8, x.size, 8).mean((2, 4))
    blurred, reference = (gaussian_filter(image, (0, 1.2, 1.2)) for image in (made, expected.astype(np.float64)))
    assert np.linalg.norm(blurred - reference) < 0.06 * np.linalg.norm(reference)


def test_correlation__is_one_for_equal_images_and_zero_without_contrast() -> None:
    image = np.zeros((1, 20, 30))
    image[0, 5:8, 6:9] = 1.0
    assert correlation(features(image), features(np.roll(image, 7, 2))) == pytest.approx(1.0)
    assert correlation(features(image), features(np.ones_like(image))) == 0.0


def test_peak_angle__is_the_middle_of_the_half_maxima() -> None:
    phi = np.linspace(-5e-4, 5e-4, 31)
    curve = np.exp(-0.5 * ((phi - 3e-5) / 1e-4) ** 2)[:, None, None] * np.ones((1, 2, 2))
    assert peak_angle(curve, phi) == pytest.approx(3e-5, abs=1e-6)
    assert np.isnan(peak_angle(curve[:3], phi[:3]))


def test_ranking__evidence_of_several_scans_adds() -> None:
    probability, none = combined([np.array([2.0, 2.0, 0.0]), np.array([0.0, 6.0, 0.0])], 0.1)
    logs = np.array([2.0, 8.0, 0.0])
    weights = 0.3 * np.exp(logs)
    np.testing.assert_allclose(probability, weights / (weights.sum() + 0.1))
    assert ranking(logs, prior_none=0.1).none == pytest.approx(none)
    with pytest.raises(InputError, match="same kind and angles"):
        combined([np.zeros(3), np.zeros(4)])


@pytest.fixture(scope="module")
def crystal() -> Lattice:
    return Lattice(parameter=CELL, x=tuple(GRAIN.T[:, 0]), z=tuple(GRAIN.T[:, 2]), hkl=HKL)


def identified(counts: np.ndarray, phi: np.ndarray, lattice: Lattice) -> dict[str, np.ndarray]:
    made = dfxm_dask.match.kernel(
        np.moveaxis(counts, 0, -1), {"phi": np.rad2deg(phi)}, Y, X, np.zeros(1), lattice=lattice, angles=6, tail=0.0,
        sheet=0.2, blur=0.0, offset=100.0, read_noise=5.0, gain=1.0,
    )  # fmt: skip
    return _finish(made)


@pytest.mark.parametrize("seed", [1, 4])
def test_match__names_the_dislocation_with_its_sign_and_position(crystal: Lattice, seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = catalogue(angles=6)
    crossing = np.abs(some.line @ GRAIN.T[:, 2]) > 0.4
    visible = np.flatnonzero((np.abs(some.burgers @ np.array(HKL)) > 0.5) & crossing)
    k = int(rng.choice(visible))
    phi = np.array([-3e-4, -2.3e-4, 2.3e-4, 3e-4])
    at = np.array([X.mean() + 0.2, Y.mean() - 0.3, 0.0])
    scene = Scene(0.334, lines=lines(at, CELL * some.burgers[k] @ GRAIN.T, some.line[k] @ GRAIN.T, 1e-3))
    image = image_stack(scene, SCOPE, {"phi": phi}, Y, X, nodes=41)
    found = identified(100 + rng.poisson(300 * image) + rng.normal(0, 5, image.shape), phi, crystal)
    assert int(np.argmax(found["log_evidence"])) == k
    assert found["class_probability"][0] > 0.9
    assert found["candidate_class"][k] == 0
    assert found["candidate_class"][found["opposite"][k]] == 1
    if np.isfinite(found["line_position"][k]).all():
        assert np.abs(found["line_position"][k] - at[[1, 0]]).max() < 0.1


def test_match__noise_shows_no_dislocation(crystal: Lattice) -> None:
    rng = np.random.default_rng(7)
    found = identified(rng.normal(110, 6, (4, 60, 24)), np.array([-3e-4, -2.3e-4, 2.3e-4, 3e-4]), crystal)
    assert found["none_probability"][0] > 0.95
    assert found["match_reason"][0] == 4


def test_match__border_rows_of_the_camera_are_no_dislocation(crystal: Lattice) -> None:
    rng = np.random.default_rng(8)
    counts = rng.normal(110, 6, (4, 60, 24))
    fall = 20 * np.exp(-np.arange(16) / 4)[:, None]
    counts[:, :16] += fall
    counts[:, -16:] += fall[::-1]
    counts[:, 31, 7] += 60
    found = identified(counts, np.array([-3e-4, -2.3e-4, 2.3e-4, 3e-4]), crystal)
    assert found["match_reason"][0] == 4


def test_match__legacy_ranks_by_correlation_without_probabilities(crystal: Lattice) -> None:
    some = catalogue(angles=2)
    k = int(np.flatnonzero(np.abs(some.burgers @ np.array(HKL)) > 0.5)[0])
    phi = np.array([-2.6e-4, 2.6e-4])
    scene = Scene(
        0.334, lines=lines([X.mean(), Y.mean(), 0], CELL * some.burgers[k] @ GRAIN.T, some.line[k] @ GRAIN.T, 1e-3)
    )
    counts = 100 + 1000 * image_stack(scene, SCOPE, {"phi": phi}, Y, X, nodes=9)
    made = dfxm_dask.match.kernel(
        np.moveaxis(counts, 0, -1), {"phi": np.rad2deg(phi)}, Y, X, np.zeros(1), lattice=crystal, angles=2, tail=0.0,
        sheet=0.2, blur=0.0, peak=0.0, legacy=True,
    )  # fmt: skip
    found = _finish(made)
    assert found["log_evidence"][k] == pytest.approx(found["log_evidence"].max())
    assert 0.8 < found["log_evidence"][k] <= 1
    assert np.isnan(found["probability"]).all()
    assert found["match_reason"][0] == 8
