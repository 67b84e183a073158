"""The kinematic image, against a published code, closed forms, and the laws of diffraction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import find_crystal
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Junction, Scene, distortion, skew
from dfxm_dask.optics.forward import deviation, image_stack, seen, setting, sheet_deviation, sheet_nodes
from dfxm_dask.optics.frame_image import accepted_by, frame_image
from dfxm_dask.optics.geometry import oblique, rotation_x, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import MICROSCOPES
from dfxm_dask.optics.resolution import resolution
from tests.references.directions import diffracted_direction

REFERENCE = Path(__file__).parent.parent / "references" / "edge_image.npz"
ID06 = MICROSCOPES["id06_al111"]


@pytest.fixture(scope="module")
def edge() -> dict[str, np.ndarray]:
    with np.load(REFERENCE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def edge_scene(edge: dict[str, np.ndarray]) -> Scene:
    grain = rotation_y(-float(edge["theta"])) @ edge["Us"]
    burgers, line = edge["Ud"][:, 0] * float(edge["burgers_um"]), edge["Ud"][:, 2]
    made = lines(np.zeros((1, 3)), (grain @ burgers)[None], (grain @ line)[None], np.zeros(1))
    return Scene(float(edge["poisson"]), lines=made)


def test_frame_image__edge_dislocation_of_published_code(edge):
    theta = float(edge["theta"])
    x, y, height = (np.linspace(-r, r, n) for r, n in zip(edge["ranges_um"], edge["counts"], strict=True))
    weight = np.exp(-(height**2) / (2 * float(edge["sheet_um"]) ** 2))
    at = setting(theta)
    q = sheet_deviation(edge_scene(edge), at, y, x, 0.0, height, sheared=False)
    for angles, wanted in zip(edge["angles"], edge["images"], strict=True):
        matrix, shift = seen(at, dict(zip(("phi", "chi", "two_theta"), angles, strict=True)), legacy=True)
        found = frame_image(q, weight / weight.sum(), matrix, shift, accepted_by(ID06))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_deviation__rays_of_published_code(edge):
    at = setting(float(edge["theta"]))
    beta = distortion(edge_scene(edge), *edge["sample_r_um"])
    matrix, shift = seen(at, dict(zip(("phi", "chi", "two_theta"), edge["angles"][0], strict=True)), legacy=True)
    np.testing.assert_allclose(matrix @ (deviation(beta, at).T + shift[:, None]), edge["sample_q"], atol=2e-10)


def test_deviation__inverse_of_numpy():
    rng = np.random.default_rng(0)
    beta = rng.normal(0, 0.05, (9, 40))
    at = setting(0.2, omega=0.4, eta=0.3)
    gradient = beta.T.reshape(-1, 3, 3) + np.eye(3)
    wanted = (np.linalg.inv(gradient).transpose(0, 2, 1) - np.eye(3)) @ at.direction @ at.to_sample.T
    np.testing.assert_allclose(deviation(beta, at), wanted, atol=1e-14)


def test_deviation__turned_inside_out():
    beta = np.zeros((9, 1))
    beta[0] = -2.0
    with pytest.raises(InputError, match="det F <= 0"):
        deviation(beta, setting(0.2))


def test_image_stack__rigid_rotation_shifts_rocking_curve():
    turn = 1.7e-4
    phi = np.linspace(-5e-4, 5e-4, 41)
    turned = Scene(
        0.3,
        junctions=(
            Junction(
                np.zeros(3),
                np.array([0, 0, 1.0]),
                np.array([1.0, 0, 0]),
                np.array([0, np.pi]),
                np.array([[0, turn, 0], [0, turn, 0]]),
            ),
        ),
    )
    here = image_stack(turned, ID06, {"phi": phi}, np.zeros(1), np.zeros(1), nodes=1)[:, 0, 0]
    there = image_stack(Scene(0.3), ID06, {"phi": phi + turn}, np.zeros(1), np.zeros(1), nodes=1)[:, 0, 0]
    np.testing.assert_allclose(here, there, atol=3e-4)  # second order of the rotation on a flank of 1e-5 rad
    still = image_stack(Scene(0.3), ID06, {"phi": phi}, np.zeros(1), np.zeros(1), nodes=1)[:, 0, 0]
    assert abs(here - still).max() > 0.5


@pytest.mark.parametrize("strain", [2e-4, -3e-4])
def test_seen__strain_peaks_where_braggs_law_has_it(strain):
    """The spacing grows by e along Q: the arm must go to 2 theta' with sin(theta') = sin(theta)/(1 + e)."""
    theta = ID06.theta
    at = setting(theta)
    along = np.outer(at.direction, at.direction) * strain
    q = deviation(along.reshape(9, 1), at)[0]
    arm = 2 * (np.arcsin(np.sin(theta) / (1 + strain)) - theta)
    turned = -arm / 2  # the crystal must turn to the new Bragg angle
    matrix, shift = seen(at, {"two_theta": arm, "phi": turned})
    np.testing.assert_allclose(matrix @ (q + shift), 0, atol=3e-7)
    assert np.abs(seen(at, {"two_theta": arm, "phi": turned}, legacy=True)[1] + q).max() > 1e-4


@pytest.mark.parametrize("laboratory", [False, True])
@pytest.mark.parametrize("hkl", [(-1, -1, 3), (-1, 1, 3), (1, -1, 3), (1, 1, 3)])
def test_setting__oblique_follows_goniometer(hkl, laboratory):
    """q in the image frame against the full rotations R_z(omega) R_x(chi) R_y(phi) of one voxel."""
    crystal = find_crystal("Al")
    omega, eta, theta = oblique(crystal.B, hkl, 19.1)[0]
    turn = rotation_z(omega) if laboratory else np.eye(3)  # to the axes of the store
    at = setting(theta, omega=omega, eta=eta, oblique=True, laboratory=laboratory)
    rng = np.random.default_rng(1)
    beta = rng.normal(0, 1e-4, (3, 3))
    phi, chi, arm = 3e-3, -2e-3, 2.5e-3
    goniometer = rotation_z(omega) @ rotation_x(chi) @ rotation_y(phi)
    scattered = goniometer @ np.linalg.inv(np.eye(3) + beta).T @ turn.T @ at.direction
    aim = diffracted_direction(theta + arm / 2, eta) - np.array([1.0, 0, 0])
    aim = aim / np.linalg.norm(aim) * np.sin(theta + arm / 2) / np.sin(theta)
    exact = rotation_y(2 * theta + arm / 2) @ rotation_x(-eta) @ (scattered - aim)
    matrix, shift = seen(at, {"phi": phi, "chi": chi, "two_theta": arm})
    in_store = turn @ beta @ turn.T
    found = matrix @ (deviation(in_store.reshape(9, 1), at)[0] + shift)
    np.testing.assert_allclose(found, exact, atol=1e-14)
    first_order = {name: at.moves[name] * angle for name, angle in (("phi", phi), ("chi", chi), ("two_theta", arm))}
    np.testing.assert_allclose(shift, sum(first_order.values()), atol=3e-5)
    assert np.linalg.norm(exact) > 1e-3


def test_image_stack__voxels_land_along_the_diffracted_beam():
    """Two heights of a sheet: the image of the upper one is moved along x by height / tan(2 theta)."""
    made = lines(np.array([[10.0, 5, 0]]), np.array([[2.86e-4, 0, 0]]), np.array([[0, 1.0, 0]]), np.array([1e-3]))
    scene = Scene(0.334, lines=made)
    at = setting(ID06.theta)
    y, x = np.array([5.0]), np.arange(5.0, 15.0, 0.01)
    height = np.array([0.3])
    moved = 0.3 / np.tan(2 * ID06.theta)
    q = sheet_deviation(scene, at, y, x, 0.0, height)
    still = sheet_deviation(scene, at, y, x + moved, 0.0, height, sheared=False)
    np.testing.assert_allclose(q, still, atol=1e-9)


def test_image_stack__mean_over_the_sheet_of_a_naive_loop():
    rng = np.random.default_rng(3)
    made = lines(rng.uniform(0, 2, (3, 3)), rng.normal(0, 2e-4, (3, 3)), rng.normal(size=(3, 3)), np.full(3, 1e-3))
    scene = Scene(0.334, lines=made)
    y, x = np.arange(3) * 0.2, np.arange(4) * 0.3
    positions = {"phi": np.array([1e-4, 2e-4]), "chi": np.array([0.0, 1e-4]), "two_theta": np.array([0.0, 5e-5])}
    found = image_stack(scene, ID06, positions, y, x, z=0.5, nodes=3)
    height, weight = sheet_nodes(ID06, 3)
    theta = ID06.theta
    for k in range(2):
        phi, chi, arm = (positions[n][k] for n in ("phi", "chi", "two_theta"))
        for i, j in np.ndindex(3, 4):
            total = 0.0
            for h, w in zip(height, weight, strict=True):
                point = np.array([x[j] + h / np.tan(2 * theta), y[i], 0.5 + h])
                beta = distortion(scene, *point[:, None]).reshape(3, 3)
                turned = np.linalg.inv(np.eye(3) + beta).T - np.eye(3)
                q = rotation_y(theta) @ turned @ rotation_y(-theta) @ [0, 0, 1]
                q = rotation_y(theta + arm / 2) @ (q + [phi + arm / 2, chi, -arm / 2 / np.tan(theta)])
                total += w * resolution(q, ID06)
            assert found[k, i, j] == pytest.approx(total, abs=2e-6)


def test_frame_image__tail_is_a_box_with_a_lorentzian():
    from scipy.integrate import quad

    part, width = 0.3, 2e-5
    half = np.cos(ID06.theta) * ID06.divergence_v_cut
    at = setting(ID06.theta)
    matrix, _ = seen(at, {})
    for phi in (0.0, 1e-4, 2.5e-4, 4e-4, 3e-3):
        q = np.array([[[[phi, 0.0, 0.0]]]])
        plain = frame_image(q, np.ones(1), matrix, np.zeros(3), accepted_by(ID06))[0, 0]
        found = frame_image(q, np.ones(1), matrix, np.zeros(3), accepted_by(ID06, tail=part, tail_width=width))[0, 0]
        centre = np.cos(ID06.theta) * phi

        def box(c: float) -> float:
            return quad(lambda u: width / ((c - u) ** 2 + width**2), -half, half, points=[min(max(c, -half), half)])[0]

        wanted = (1 - part) * plain + part * box(centre) / box(0.0)
        assert found == pytest.approx(wanted, rel=2e-4 if phi < 1e-3 else 1e-2)


def test_sheet_deviation__same_bits_for_any_block_of_rows():
    made = lines(np.array([[1.0, 1, 0]]), np.array([[2e-4, 1e-4, 0]]), np.array([[0.2, 0.3, 1.0]]), np.array([1e-3]))
    scene = Scene(0.334, lines=made)
    at, (height, _) = setting(ID06.theta), sheet_nodes(ID06, 3)
    y, x = np.arange(37) * 0.04, np.arange(1200) * 0.12
    whole = sheet_deviation(scene, at, y, x, 0.0, height)
    parts = [sheet_deviation(scene, at, y[k : k + 5], x, 0.0, height) for k in range(0, 37, 5)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_sheet_nodes__weights_follow_the_beam():
    height, weight = sheet_nodes(replace(ID06, sheet=0.2), 101)
    assert weight.sum() == pytest.approx(1)
    assert np.sqrt((weight * height**2).sum()) == pytest.approx(0.2, rel=0.05)  # cut at 2.5 rms
    assert sheet_nodes(ID06, 1)[1].tolist() == [1.0]


def test_skew__is_a_cross_product():
    rng = np.random.default_rng(0)
    turn, r = rng.normal(size=(3, 1)), rng.normal(size=3)
    np.testing.assert_allclose(skew(turn).reshape(3, 3) @ r, np.cross(turn[:, 0], r))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: setting(0.0), "give a Bragg angle between 0 and pi/4"),
        (lambda: sheet_nodes(ID06, 0), "at least one height"),
        (lambda: accepted_by(ID06, tail=1.5), "a fraction from 0 to 1"),
        (lambda: accepted_by(ID06, tail=0.5, tail_width=0.0), "a positive half width"),
        (lambda: accepted_by(replace(ID06, divergence_v_cut=np.inf), tail=0.1), "has no clip"),
        (lambda: seen(setting(0.2), {"energy": 1.0}), "'energy'.*does not move the crystal or the detector"),
        (
            lambda: image_stack(Scene(0.3), ID06, {"phi": np.zeros(2), "chi": np.zeros(3)}, np.zeros(1), np.zeros(1)),
            "one value a frame for each axis",
        ),
    ],
)
def test_forward__refuses(call, words):
    with pytest.raises(InputError, match=words):
        call()
