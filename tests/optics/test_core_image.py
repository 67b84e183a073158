"""Image of a dislocation core against released images, and against a rendering of its own kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad

from dfxm_dask.errors import InputError
from dfxm_dask.optics.core_image import (
    CHARACTERS,
    CHI,
    COUNTS,
    LEGACY,
    PHI,
    PRIOR_WIDTHS,
    Model,
    core_image,
    core_signal,
    image_to_dislocation,
    information,
)
from dfxm_dask.optics.core_kernel import BURGERS, PIXEL, PIXELS, POISSON, sheet_nodes
from dfxm_dask.optics.defects import dislocation
from dfxm_dask.optics.geometry import rotation_y
from dfxm_dask.optics.instrument.microscope import find_microscope
from tests.references.rays import rocking_profile

REFERENCE = Path(__file__).parents[1] / "references" / "core_images.npz"
THETA = find_microscope("brennan_al002").theta


def misfit(character: int, model: Model) -> float:
    with np.load(REFERENCE) as released:
        observed, position = released[f"char{character}_im_obs"], released[f"char{character}_true_loc"]
    mean, variance = core_image(position, character, model=model)
    return float(((observed - mean) ** 2 / variance).mean())


@pytest.mark.parametrize(("character", "expected"), [(1, 0.957), (2, 0.994)])
def test_legacy__is_the_model_of_the_released_images(character: int, expected: float) -> None:
    found = misfit(character, LEGACY)
    assert 0.9 < found < 1.1
    assert found == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("character", "expected"), [(1, 3.1), (2, 71.0)])
def test_legacy__with_the_right_sign_alone_does_not_fit_the_released_images(character: int, expected: float) -> None:
    assert misfit(character, LEGACY._replace(wrong_sign=False)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("character", [1, 2])
def test_legacy__with_the_right_geometry_alone_is_farther_still(character: int) -> None:
    assert misfit(character, LEGACY._replace(wrong_geometry=False)) == pytest.approx(400, rel=0.05)


def test_legacy__with_phi_counted_once_sees_nothing() -> None:
    """Its phi is ten times the acceptance: only counted twice, once in a wrong geometry, it nearly cancels."""
    assert core_signal((0.0, 0.0), 1, model=LEGACY._replace(phi_twice=False))[0].max() < 1e-6


def test_characters__are_the_published_ones() -> None:
    with np.load(REFERENCE) as released:
        np.testing.assert_array_equal(CHARACTERS, released["chars_b_n_t"])
    rows = CHARACTERS / np.linalg.norm(CHARACTERS, axis=2)[..., None]
    np.testing.assert_allclose(rows @ rows.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (12, 3, 3)), atol=1e-15)
    np.testing.assert_allclose(np.linalg.det(rows), 1)
    assert PRIOR_WIDTHS.shape == (12, 2)


def test_sheet_nodes__integrate_polynomials_against_the_sheet() -> None:
    rms = 600 / 2.355
    nodes, weights = sheet_nodes(10, rms)
    np.testing.assert_allclose(nodes[5:], [18.855, 54.944, 86.271, 110.033, 124.026], atol=1e-3)
    np.testing.assert_allclose(weights[5:], [37.3359, 33.4254, 26.4133, 17.4717, 7.6276], atol=1e-4)
    moments = [0.0] * 21
    for degree in range(0, 21, 2):
        half, _ = quad(lambda t, d=degree: t**d * np.exp(-0.5 * t**2), 0, 0.5, epsabs=0, epsrel=1e-11)
        moments[degree] = 2 * half
    found = [weights @ (nodes / rms) ** degree / rms for degree in range(21)]
    np.testing.assert_allclose(found[:20], moments[:20], rtol=1e-10, atol=1e-17)
    assert abs(found[20] / moments[20] - 1) > 1e-7  # exact up to degree 19


def rendered(position: np.ndarray, character: int) -> np.ndarray:
    """The corrected model from the general parts: field in the grain frame, inverse of F, frames of the microscope."""
    b, n, t = CHARACTERS[character - 1] / np.linalg.norm(CHARACTERS[character - 1], axis=1)[:, None]
    microscope = find_microscope("brennan_al002")
    nodes, weights = sheet_nodes(10, microscope.sheet)
    place = PIXEL * (np.arange(PIXELS) - 24.5)
    x, y, z = np.meshgrid(place, place, nodes, indexing="ij")
    grain = np.stack([x + z / np.tan(2 * THETA), y, z], axis=-1) @ rotation_y(THETA).T
    line = dislocation.lines(1e-3 * (position[0] * b + position[1] * n), BURGERS * b, t)
    deformed = np.eye(3) + dislocation.gradient(grain, line, poisson=POISSON)
    q = np.linalg.inv(deformed).swapaxes(-1, -2) @ [0, 0, 1] - [0, 0, 1] + np.array([PHI, CHI, 0])
    q_rock = (q @ rotation_y(THETA).T)[..., 0]
    return 1e3 * COUNTS * rocking_profile(q_rock, microscope) @ weights


@pytest.mark.parametrize("character", [1, 4, 7, 12])
def test_signal__is_the_forward_model_of_the_general_parts(character: int) -> None:
    position = np.array([31.0, -22.0])
    counts, slopes = core_signal(position, character)
    assert slopes.size == 0
    np.testing.assert_allclose(counts, rendered(position, character), atol=1e-7)
    assert counts.max() > 100
    assert np.median(counts) < 0.05 * counts.max()  # weak beam


@pytest.mark.parametrize("legacy", [False, True])
def test_signal__gradient_is_the_difference_quotient(legacy: bool) -> None:
    position = np.array([30.0, -20.0])
    counts, slopes = core_signal(position, 3, legacy=legacy, gradient=True)
    np.testing.assert_array_equal(counts, core_signal(position, 3, legacy=legacy)[0])
    for axis in range(2):
        shift = 1e-3 * np.eye(2)[axis]
        high, low = (core_signal(position + sign * shift, 3, legacy=legacy)[0] for sign in (1, -1))
        np.testing.assert_allclose(slopes[..., axis], (high - low) / 2e-3, atol=1e-6 * np.abs(slopes).max())


@pytest.mark.parametrize("legacy", [False, True])
def test_signal__of_minus_b_and_minus_t_is_the_same_defect(legacy: bool) -> None:
    b, n, t = CHARACTERS[4]
    here, _ = core_signal((40.0, 70.0), np.array([b, n, t]), legacy=legacy)
    there, _ = core_signal((-40.0, 70.0), np.array([-b, n, -t]), legacy=legacy)
    np.testing.assert_allclose(there, here, atol=1e-9)


@pytest.mark.parametrize("legacy", [False, True])
def test_image_to_dislocation__puts_the_core_where_the_image_has_it(legacy: bool) -> None:
    """A line that crosses the centre of the sheet at a pixel: moving it by whole pixels moves the image."""
    here, _ = core_signal(image_to_dislocation(np.zeros(2), 9, legacy=legacy), 9, legacy=legacy)
    for step in (np.array([3, 0]), np.array([0, 2]), np.array([-4, 5])):
        # [x pixel, y pixel]; the image coordinates are y and the projected x.
        image = 1e3 * PIXEL * np.array([step[1], step[0] / np.tan(2 * THETA)])
        moved, _ = core_signal(image_to_dislocation(image, 9, legacy=legacy), 9, legacy=legacy)
        inside = np.roll(here, step, axis=(0, 1))[6:-6, 6:-6]
        np.testing.assert_allclose(moved[6:-6, 6:-6], inside, atol=1e-8)


# Median of sqrt(tr I^-1) over the prior, nm, of the published model, from another implementation and other random
# positions: low noise, high noise.
BOUNDS = {1: (1.85, 2.81), 3: (1.56, 2.73), 5: (0.89, 1.59), 10: (1.30, 2.43), 12: (0.94, 1.71)}


@pytest.mark.parametrize("character", sorted(BOUNDS))
def test_information__has_the_bounds_of_another_implementation(character: int) -> None:
    drawn = (np.random.default_rng(100 * character).random((60, 2)) - 0.5) * PRIOR_WIDTHS[character - 1]
    bounds = [
        np.sqrt(np.trace(np.linalg.inv(information(position, character, legacy=True))))
        for position in image_to_dislocation(drawn, character, legacy=True)
    ]
    assert np.median(bounds) == pytest.approx(BOUNDS[character][0], rel=0.1)


def test_information__is_the_variance_of_the_score() -> None:
    """Fisher: the covariance of d log-likelihood/d position over random images."""
    position = np.array([10.0, 5.0])
    mean, variance = core_image(position, 5, background=0.1, readout=0.05)
    _, slopes = core_signal(position, 5, gradient=True)
    images = np.random.default_rng(0).normal(mean, np.sqrt(variance), (4000, PIXELS, PIXELS))
    rest = images - mean
    weight = rest / variance + 0.5 * rest**2 / variance**2 - 0.5 / variance
    score = np.einsum("nxy,xyi->ni", weight, slopes)
    expected = information(position, 5, background=0.1, readout=0.05)
    np.testing.assert_allclose(np.cov(score.T), expected, atol=0.08 * np.trace(expected))
    assert np.abs(score.mean(axis=0)).max() < 4 * np.sqrt(expected.max() / 4000)


def test_core_image__noise_is_a_fraction_of_the_maximum() -> None:
    counts, _ = core_signal((0.0, 0.0), 2)
    mean, variance = core_image((0.0, 0.0), 2, background=0.1, readout=0.05)
    np.testing.assert_allclose(mean - counts, 0.1 * counts.max())
    np.testing.assert_allclose(variance - mean, (0.05 * counts.max()) ** 2)


def test_signal__on_the_line_itself_is_finite() -> None:
    node = sheet_nodes(10, find_microscope("brennan_al002").sheet)[0][3]
    lab = np.array([PIXEL * 0.5 + node / np.tan(2 * THETA), -PIXEL * 0.5, node])
    rows = CHARACTERS[5] / np.linalg.norm(CHARACTERS[5], axis=1)[:, None]
    position = 1e3 * (rows @ rotation_y(THETA) @ lab)[:2]
    counts, slopes = core_signal(position, 6, gradient=True)
    assert np.isfinite(counts).all()
    assert np.isfinite(slopes).all()


def test_core_image__refuses_what_cannot_be() -> None:
    for character in (0, 13, 1.5):
        with pytest.raises(InputError, match=r"character .*: is not in the table; take 1 to 12"):
            core_signal((0.0, 0.0), character)  # type: ignore[arg-type]
    left_handed = CHARACTERS[0] * np.array([[1], [1], [-1]])
    for rows in (left_handed, np.ones((3, 3)), np.zeros((3, 3)), np.eye(2)):
        with pytest.raises(InputError, match=r"is not an edge dislocation: b, n, t have to be perpendicular"):
            core_signal((0.0, 0.0), rows)
    for position in ((0.0,), (np.nan, 0.0)):
        with pytest.raises(InputError, match=r"position .* is not two finite numbers"):
            core_signal(np.array(position), 1)
    with pytest.raises(InputError, match=r"background -0\.1 and readout 0\.01: are not both 0 or more"):
        core_image((0.0, 0.0), 1, background=-0.1)
    with pytest.raises(InputError, match=r"image points of shape \(3,\): are not pairs of coordinates"):
        image_to_dislocation(np.zeros(3), 1)
    with pytest.raises(InputError, match="rule of 0 nodes for a sheet of 1 rms: is not possible"):
        sheet_nodes(0, 1)
    with pytest.raises(InputError, match="rule of 3 nodes for a sheet of 0 rms: is not possible"):
        sheet_nodes(3, 0)
