"""Proposals of candidates: input, features, weights, refusals, and recall on a few simulated lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import Candidates, catalogue, on_axes, opposite
from dfxm_dask.identify.images import line_images, line_tables, scan_optics
from dfxm_dask.identify.network import FILE, PHI, features_of, input_of, load, resampled, save, weights_of
from dfxm_dask.identify.propose import propose
from dfxm_dask.optics.defects.dislocation import gradient, lines
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.forward import seen, setting
from dfxm_dask.optics.geometry import effective_pixel, orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import find_microscope

HKL, CELL = (-1, 1, -1), 4.0495e-4
SCOPE = find_microscope("id06_al111")
AT = setting(SCOPE.theta)
PITCH = effective_pixel(SCOPE.pixel, SCOPE.theta)


def crystal(turn: float, hkl: tuple[int, int, int] = HKL) -> Lattice:
    grain = rotation_y(-SCOPE.theta) @ rotation_z(turn) @ orientation(hkl)
    return Lattice(kind="fcc", parameter=CELL, x=tuple(grain.T[:, 0]), z=tuple(grain.T[:, 2]), hkl=hkl)


def images_of(candidates: Candidates, k: int, shape: tuple[int, int] = (120, 40)) -> np.ndarray:
    y, x = ((np.arange(n) - (n - 1) / 2) * p for n, p in zip(shape, PITCH, strict=True))
    optics = scan_optics(SCOPE, AT, {"phi": PHI}, heights=5, dense=5)
    out = np.empty((8, *shape))
    line_images(y, x, line_tables(candidates, 0.334)[k], np.zeros(2), np.zeros(3), optics, out, np.empty((0, 0, 0, 0)))
    return np.maximum(out, 0)


def test_resampled__is_independent_of_offset_window_and_dead_pixels() -> None:
    rng = np.random.default_rng(0)
    counts = rng.normal(size=(8, 120, 40)) + np.arange(8)[:, None, None]
    first = resampled(counts, PHI, PITCH)
    assert first.shape == (8, 60, 40)
    np.testing.assert_allclose(resampled(counts + 100, PHI, PITCH), first, atol=1e-4)
    dead = counts.copy()
    dead[2, :3, :2] = np.nan
    apart = np.abs(resampled(dead, PHI, PITCH) - first)
    assert apart[[0, 1, 3]].max() == 0
    assert np.isfinite(apart).all()
    # A line in a larger frame: the window follows the contrast.
    wide = np.zeros((8, 200, 80))
    wide[:, 70:190, 35:75] = 10 * counts - 10 * np.median(counts, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(resampled(wide, PHI, PITCH), 10 * first, atol=1e-3)
    assert resampled(counts[:, :80, :25], PHI, PITCH).shape == (8, 60, 40)
    for wrong, words in (
        ((counts[:, :30], PHI, PITCH), "give a larger crop"),
        ((counts, PHI, (0.06, 0.1)), "are for pixels of"),
        ((counts, PHI - 1e-4, PITCH), "require frames within"),
    ):
        with pytest.raises(InputError, match=words):
            resampled(*wrong)


def test_weights_of__repeats_and_neighbours_share_the_weight() -> None:
    weight = weights_of(np.append(PHI, PHI[-1] + np.deg2rad(0.002)))
    np.testing.assert_allclose(weight.sum(1), 1)
    np.testing.assert_allclose(weight[-1, -2:], [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(weight[:-1, :-1], np.eye(8)[:-1], atol=1e-9)


def test_input_of__scale_does_not_matter_and_strength_is_contrast_over_noise() -> None:
    images = np.random.default_rng(1).normal(size=(1, 8, 60, 40)).astype(np.float32)
    (first, noise), (again, same) = input_of(images), input_of(7 * images)
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert noise[0] == pytest.approx(same[0], abs=1e-5) == pytest.approx(0.0, abs=0.05)


def test_features_of__field_is_that_of_the_line_and_even() -> None:
    some = on_axes(catalogue(angles=6), crystal(0.4))
    made = features_of(some, AT)
    back = some._replace(burgers=-some.burgers, line=-some.line)
    np.testing.assert_allclose(features_of(back, AT), made, atol=1e-6)
    # Reference: the distortion of the optics.
    k, turn = 7, np.pi / 24 * 5
    point = np.array([[np.cos(turn), np.sin(turn), 0.0]])
    beta = gradient(point, lines(np.zeros(3), some.burgers[k], some.line[k], 0.03), poisson=0.334)[0]
    q = seen(AT, {})[0] @ AT.to_sample @ (-beta.T @ AT.direction)
    expected = np.arcsinh(2 * np.pi * q / np.linalg.norm(some.burgers[k]))
    np.testing.assert_allclose(made[k, 15:18], expected, atol=2e-3)


def test_network__order_of_candidates_does_not_matter() -> None:
    network, _ = load()
    known = torch.from_numpy(features_of(on_axes(catalogue(), crystal(0.4)), AT))
    frames, strength = torch.randn(2, 8, 60, 40), torch.zeros(2)
    order = torch.randperm(420)
    with torch.inference_mode():
        first, second = network(frames, strength, known), network(frames, strength, known[order])
    torch.testing.assert_close(first[:, :-1][:, order], second[:, :-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first[:, -1], second[:, -1])


def test_propose__ranks_the_true_line_at_any_angle_about_the_scattering_vector() -> None:
    """Lines at random with the noise of a camera, by the weights of the package: chance would be 20 of 420."""
    assert FILE.stat().st_size < 2_000_000
    rng, ranks = np.random.default_rng(1), []
    visible = np.flatnonzero(np.abs(catalogue().burgers @ np.array(HKL)) > 0.5)
    for k in rng.choice(visible, 6, replace=False):
        lattice = crystal(rng.uniform(0, 6))
        counts = rng.poisson(300 * images_of(on_axes(catalogue(), lattice), k) + 20.0)
        proposal = propose(counts, PHI, PITCH, lattice)
        ranks.append(k in proposal.rows)
        assert abs(proposal.probability.sum() + proposal.none - 1) < 1e-9
    assert np.mean(ranks) > 0.8
    # Another description of the same crystal: equivalent axes give the same dislocation on the axes of the store.
    turned = lattice.model_copy(
        update={"x": tuple(np.roll(lattice.x, 1)), "z": tuple(np.roll(lattice.z, 1)), "hkl": tuple(np.roll(HKL, 1))}
    )
    again = propose(counts, PHI, PITCH, turned)
    first, second = (on_axes(catalogue(), one) for one in (lattice, turned))
    b, other = first.burgers[proposal.rows[0]], second.burgers[again.rows[0]]
    assert min(np.abs(b - other).max(), np.abs(b + other).max()) < 1e-9
    np.testing.assert_allclose(np.sort(again.probability), np.sort(proposal.probability), atol=1e-5)
    # The image rotated by 180 degree, with the scan reversed, is that of the same line.
    back = propose(counts[::-1, ::-1, ::-1], PHI, PITCH, lattice)
    assert len(set(back.rows[:5]) & set(proposal.rows[:10])) >= 3
    wrong = (
        (lattice.model_copy(update={"parameter": 3.6e-4}), "b. = "),
        (crystal(0.3, (2, 0, 0)), "111"),
        (lattice.model_copy(update={"z": lattice.x, "x": lattice.z}), "theta"),
    )
    for other_crystal, words in wrong:
        with pytest.raises(InputError, match=words):
            propose(counts, PHI, PITCH, other_crystal)
    with pytest.raises(InputError, match="microscope"):
        propose(counts, PHI, PITCH, lattice, microscope="al002")


def test_match__of_proposals_alone_gives_the_same_dislocation() -> None:
    lattice, rng = crystal(0.7), np.random.default_rng(4)
    some = on_axes(catalogue(angles=6), lattice)
    crossing = np.abs(some.line[:, 2]) > 0.4
    k = int(rng.choice(np.flatnonzero((np.abs(catalogue(angles=6).burgers @ np.array(HKL)) > 0.5) & crossing)))
    counts = 100 + rng.poisson(300 * images_of(some, k, (80, 28))) + rng.normal(0, 5, (8, 80, 28))
    y, x = PITCH[0] * np.arange(80), PITCH[1] * np.arange(28)
    asked = {"lattice": lattice, "angles": 6, "tail": 0.0, "sheet": 0.15, "blur": 0.0, "offset": 100.0}
    asked |= {"read_noise": 5.0, "gain": 1.0, "peak": 0.0}
    axes = {"phi": np.rad2deg(PHI)}, y, x, np.zeros(1)
    made = dfxm_dask.match.kernel(np.moveaxis(counts, 0, -1), *axes, **asked, proposals=8)
    logs = made["log_evidences"][0]
    assert int(np.argmax(logs)) == k
    assert np.isfinite(logs).all()
    proposal = propose(counts, PHI, PITCH, lattice, angles=6, top=8)
    searched = np.union1d(proposal.rows, opposite(catalogue(angles=6))[proposal.rows])
    others = np.setdiff1d(np.arange(len(logs)), searched)
    assert logs[others].max() <= logs[searched].min()
    with pytest.raises(InputError, match="require frames within"):
        dfxm_dask.match.kernel(
            np.moveaxis(counts, 0, -1)[..., 2:], {"phi": np.rad2deg(PHI[2:])}, y, x, np.zeros(1), **asked, proposals=8
        )


def test_load__refuses_weights_without_their_training(tmp_path) -> None:
    network, _ = load()
    with pytest.raises(InputError, match="do not record their training"):
        load(save(tmp_path / "w.safetensors", network, {}))
