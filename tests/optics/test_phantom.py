"""Phantoms: truth against what the frames show, and the same counts whoever makes them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from dfxm_dask.errors import InputError
from dfxm_dask.optics.defects.scene import distortion, lattice
from dfxm_dask.optics.geometry import rotation_x, rotation_y, rotation_z
from dfxm_dask.phantoms.phantom import Lighting, Phantom, coordinates, generator
from dfxm_dask.phantoms.presets import PRESETS, build
from dfxm_dask.phantoms.render import (
    AMBIGUOUS,
    STRONG,
    UNLIT,
    WEAK,
    flank,
    full_width,
    layer_truth,
    outline,
    render,
    transmissions,
)
from dfxm_dask.phantoms.strong_lattice import lattices
from dfxm_dask.phantoms.truth import tables

EPSILON = np.zeros((3, 3, 3))
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    EPSILON[_i, _j, _k], EPSILON[_i, _k, _j] = 1, -1


def rendered(phantom: Phantom, layer: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    made = list(render(phantom, layer))
    return (
        np.stack([f for f, _ in made]),
        np.stack([t["label"] for _, t in made]),
        np.stack([t["dynamical_fraction"] for _, t in made]),
    )


@pytest.fixture(scope="module")
def easy() -> Phantom:
    return build("easy", layers=2, shape=(160, 200), seed=1)[0]


@pytest.fixture(scope="module")
def easy_layer(easy):
    return rendered(easy)


def test_render__same_counts_for_a_copy_and_in_any_order(easy, easy_layer):
    copy = pickle.loads(pickle.dumps(easy))
    second = rendered(copy, 1)[0]
    again = rendered(copy, 0)
    assert again[0].tobytes() == easy_layer[0].tobytes()
    assert second.tobytes() != easy_layer[0].tobytes()
    other = build("easy", layers=2, shape=(160, 200), seed=2)[0]
    assert not np.array_equal(rendered(other)[0], easy_layer[0])


def test_layer_truth__phi0_is_where_the_curve_stands(easy, easy_layer):
    """Middle of the half maxima of measured curves, away from defects, against the stated peak and width."""
    counts = easy_layer[0].astype(float) - 109
    truth = layer_truth(easy, 0)
    phi = np.array(easy.axes[0].positions)
    far = (truth["distance"] > 1.5) & np.isfinite(truth["phi0"])
    assert far.sum() > 3000
    curves = counts[:, far]
    peak = np.median(np.sort(curves, axis=0)[-4:], axis=0)
    bright = peak > 800
    curves, peak = curves[:, bright], peak[bright]
    above = curves > peak / 2
    first, last = above.argmax(0), len(phi) - 1 - above[::-1].argmax(0)

    def crossing(k: np.ndarray, towards: int) -> np.ndarray:
        here, there = (np.take_along_axis(curves, i[None], 0)[0] for i in (k, k + towards))
        return phi[k] + (phi[k + towards] - phi[k]) * (here - peak / 2) / (here - there)

    low, high = crossing(first, -1), crossing(last, 1)
    step = 0.002
    assert np.median(np.abs((low + high) / 2 - truth["phi0"][far][bright])) < 0.3 * step
    assert np.ptp(truth["phi0"][far]) > step  # two subgrains
    assert np.median(high - low) == pytest.approx(truth["width"][far][0], rel=0.12)


def test_label__naive_patches_and_rule(easy, easy_layer):
    _, label, fraction = easy_layer
    lit = outline(easy, 0.0)[0]
    for i in range(3):
        for j in range(4):
            tile = lit[i * 64 : (i + 1) * 64, j * 64 : (j + 1) * 64]
            assert (label[:, i, j] == UNLIT).all() == (tile.mean() < 0.5)
            assert (label[:, i, j] == UNLIT).any() == (tile.mean() < 0.5)
    known = label != UNLIT
    assert np.isnan(fraction[~known]).all()
    assert (fraction[label == WEAK] < 0.1).all()
    assert (fraction[label == STRONG] > 0.9).all()
    assert {WEAK, STRONG, AMBIGUOUS} <= set(np.unique(label))


def test_label__weak_patches_are_dim_and_strong_ones_bright(easy, easy_layer):
    counts, label, _ = easy_layer
    means = np.array(
        [
            [[counts[k, i * 64 : (i + 1) * 64, j * 64 : (j + 1) * 64].mean() for j in range(4)] for i in range(3)]
            for k in range(31)
        ]
    )
    assert means[label == WEAK].max() < means[label == STRONG].min()
    phi = np.array(easy.axes[0].positions)
    offset = np.abs(phi[:, None, None] * np.ones(label.shape))
    assert offset[label == STRONG].max() < offset[label == WEAK].max()


def test_render__dark_part_is_offset_and_read_noise(easy_layer, easy):
    counts = easy_layer[0]
    outside = ~outline(easy, 0.0)[0]
    outside[:24] = outside[-24:] = False  # bright edge rows
    assert outside.sum() > 1000
    dark = counts[[0, 30]][:, outside].astype(float)
    exposure = easy.lighting.exposure
    # Offset, its rate, 1.5 % of warm pixels 10 above on average, diffuse light.
    assert np.median(dark) == pytest.approx(102.5 + 7.5 * exposure + easy.lighting.diffuse * exposure, abs=2.0)
    spread = dark[0] - dark[1]  # the fixed pattern falls out
    robust = 1.4826 * np.median(np.abs(spread - np.median(spread))) / np.sqrt(2)
    wanted = np.sqrt((6.3 + 11 * exposure) ** 2 + 2.14 * easy.lighting.diffuse * exposure)
    assert robust == pytest.approx(wanted, rel=0.05)


def test_render__dislocations_light_up_on_the_flank():
    """The brightest pixels of a weak-beam frame lie on the true lines."""
    phantom = build("easy", layers=1, shape=(256, 256), seed=1)[0]
    counts, label, _ = rendered(phantom)
    truth = layer_truth(phantom, 0)
    weak = [k for k in range(31) if (label[k][label[k] != UNLIT] == WEAK).all()]
    near = [k for k in weak if 5 < k < 25]
    assert len(near) >= 4
    flank = counts[near].astype(float).mean(0) - counts[[0, 1, 29, 30]].mean(0)  # the fixed pattern falls out
    inner = np.isfinite(truth["phi0"])
    spots = inner & (flank > np.percentile(flank[inner], 99.8))
    assert np.mean(truth["distance"][spots] < 0.8) > 0.8
    assert np.mean(truth["distance"][inner] < 0.8) < 0.3


def test_transmissions__attenuators_even_out_what_the_angle_makes():
    hard = build("hard", layers=1, shape=(64, 64))[0]
    even = replace(hard, lighting=replace(hard.lighting, jitter=0.0))
    gain = transmissions(even, 0)
    assert gain.max() == 1
    assert gain[15] < 0.1 < 0.9 < gain[0]
    spread = np.log(transmissions(hard, 0) / gain)
    spread -= spread.mean()
    assert 0.5 < spread.std() < 1.3  # even over ±1.6: 0.92
    assert (transmissions(build("easy", layers=1, shape=(64, 64))[0], 0) == 1).all()


@pytest.mark.slow
def test_hard__brightness_does_not_tell_weak_from_strong():
    """A logistic regression on logarithms of mean and std of a patch, and their squares and product."""

    def features(seed: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        counts, label, _ = rendered(build("hard", layers=16, shape=(128, 448), seed=seed)[0], layer)
        rows, classes = [], []
        for k, i, j in np.argwhere((label == WEAK) | (label == STRONG)):
            tile = counts[k, i * 64 : (i + 1) * 64, j * 64 : (j + 1) * 64].astype(float)
            mean, std = np.log(tile.mean()), np.log(tile.std())
            rows.append((1, mean, std, mean**2, std**2, mean * std))
            classes.append(label[k, i, j] == STRONG)
        return np.array(rows), np.array(classes)

    train = [features(seed, 3) for seed in (0, 1)]
    test = [features(seed, 8) for seed in (11, 12)]
    (x, y), (a, b) = ((np.concatenate(c) for c in zip(*part, strict=True)) for part in (train, test))
    centre, scale = x[:, 1:].mean(0), x[:, 1:].std(0)
    for part in (x, a):
        part[:, 1:] = (part[:, 1:] - centre) / scale

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w
        return (np.logaddexp(0, z) - z * y).mean() + 1e-4 * w @ w, x.T @ (1 / (1 + np.exp(-z)) - y) / len(y) + 2e-4 * w

    w = minimize(loss, np.zeros(6), jac=True).x
    accuracy = ((a @ w > 0) == b).mean()
    assert 0.5 < accuracy < 0.85
    assert 0.15 < b.mean() < 0.6


@pytest.mark.parametrize("name", ["easy", "hard", "multigrain", "al002"])
def test_tables__agree_with_lines_and_subgrains(name):
    phantom = build(name, layers=3, shape=(64, 96), seed=4)[0]
    table = {key: value for key, (_, value, _) in tables(phantom).items()}
    count = len(phantom.boundaries)
    assert count == {"easy": 1, "hard": 3, "multigrain": 5, "al002": 4}[name]
    for k in range(count):
        n, t, b = (table[word][k] for word in ("normal", "line", "burgers"))
        assert abs(n @ t) < 1e-9
        assert np.linalg.norm(b) == pytest.approx(0.5e-4 * 4.0495 * np.sqrt(2), rel=1e-6)
        # Lines of the densest set: parallel to t, in the plane, spaced as stated.
        lines = phantom.scene.lines
        mine = np.abs(np.abs(lines["line"] @ t) - 1) < 1e-9
        mine &= np.abs((lines["position"] - table["origin"][k]) @ n) < 1e-6
        mine &= np.abs(lines["burgers"] - b).max(1) < 1e-12
        along = np.sort((lines["position"][mine] - table["origin"][k]) @ np.cross(n, t))
        assert len(along) >= 4
        np.testing.assert_allclose(np.diff(along), table["spacing"][k], rtol=1e-6)
        # The lattice turns by the stated angle from one side to the other.
        direction = phantom.boundaries[k].along
        beside = table["origin"][k] + (0.01 * direction if direction is not None else 0)
        sides = beside + 1e-3 * np.array([n, -n])
        beta = lattice(phantom.scene, *sides.T).reshape(3, 3, 2) @ [1, -1]
        jump = np.array([beta[2, 1], beta[0, 2], beta[1, 0]])
        np.testing.assert_allclose(jump, table["misorientation"][k] * table["axis"][k], atol=2e-8)
        if table["twist"][k]:
            assert abs(abs(table["axis"][k] @ n) - 1) < 1e-9
        else:
            assert abs(table["axis"][k] @ n) < 1e-9
            if (table["set_boundary"] == k).sum() == 1:
                angle = np.linalg.norm(b) / table["spacing"][k]
                assert table["misorientation"][k] == pytest.approx(angle, rel=1e-6)
    ring = table["dihedral"][np.isfinite(table["dihedral"])]
    assert ring.sum() == pytest.approx(360 * (len(ring) > 0))


def test_al002__walls_of_the_published_angles():
    table = {key: value for key, (_, value, _) in tables(build("al002", layers=2, shape=(64, 64))[0]).items()}
    assert sorted(np.rad2deg(table["misorientation"]).round(6)) == [0.003, 0.003, 0.004, 0.006]
    assert table["spacing"][3] == pytest.approx(4.1, rel=2e-3)


def test_empty_and_deformed__have_nothing_to_find():
    empty = build("empty", layers=1, shape=(64, 96))[0]
    assert np.isinf(layer_truth(empty, 0)["distance"]).all()
    assert tables(empty)["line_point"][1].shape == (0, 3)
    deformed = build("deformed", layers=1, shape=(64, 96))[0]
    _, label, fraction = rendered(deformed)
    assert set(np.unique(label)) <= {UNLIT, AMBIGUOUS}
    assert np.nanmax(fraction) == 0


def test_reflections__centres_of_mass_are_where_the_deformation_says():
    """Full rotations of Q = F^-T B hkl against the scattering vectors of the centres of mass, pixel by pixel."""
    for phantom in build("reflections", shape=(24, 15), seed=5):
        counts = rendered(phantom)[0].reshape(*phantom.grid, 24, 15).astype(float)
        weight = counts - np.median(counts, axis=(0, 1, 2))
        weight[weight < 60] = 0
        truth = layer_truth(phantom, 0)
        lit = outline(phantom, 0.0)[0] & (truth["distance"] > 0.3)
        grids = [np.deg2rad(a.positions) for a in phantom.axes]
        centre = [np.einsum("abcyx,abc->yx", weight, g) for g in np.meshgrid(*grids, indexing="ij")]
        arm, chi, phi = (c[lit] / weight.sum((0, 1, 2))[lit] for c in centre)
        half = phantom.at.theta + arm / 2
        aim = np.stack([-np.sin(half), 0 * half, np.cos(half)], -1)
        aim *= (np.sin(half) / np.sin(phantom.at.theta))[:, None]
        turn = rotation_y(-phantom.at.theta) @ phantom.at.goniometer  # R_x(-eta) R_z(omega)
        goniometers = [turn @ rotation_x(c) @ rotation_y(p) for c, p in zip(chi, phi, strict=True)]
        found = np.array([g.T @ a for g, a in zip(goniometers, aim, strict=True)])
        expected = np.linalg.inv(truth["F"][lit]).transpose(0, 2, 1) @ phantom.at.goniometer.T[:, 2]
        assert lit.sum() > 100
        off, spread = found - expected, (expected - expected.mean(0)).std(0)
        assert (np.abs(np.median(off, axis=0)) < 1e-5).all()
        assert (np.median(np.abs(off), axis=0) < 2e-5).all()
        assert (spread > 2e-5).all()


def test_reflections__scans_show_one_sample_turned_and_moved():
    """A point of the sample has the same deformation in every scan, on the pixels where it lies there."""
    phantoms = build("reflections", shape=(24, 24), seed=3)
    first = phantoms[0]
    assert [round(np.degrees(p.placement.omega)) for p in phantoms] == [6, 96, 276, 186]
    assert (first.placement.shift == 0).all()
    moved = np.array([p.placement.shift for p in phantoms[1:]]) / first.pixel[0]
    assert 0.1 < np.abs(moved).min() < np.abs(moved).max() <= 3
    for phantom in phantoms[1:]:
        y, x = (v.ravel() for v in np.meshgrid(*coordinates(phantom), indexing="ij"))
        sy, sx = phantom.placement.in_sample(y, x)
        c, s = np.cos(first.placement.omega), np.sin(first.placement.omega)
        there = c * sx - s * sy + first.placement.axis[1], c * sy + s * sx + first.placement.axis[0]
        expected = distortion(first.scene, *there, np.zeros(y.size)).T.reshape(-1, 3, 3)
        turn = rotation_z(first.placement.omega)
        truth = layer_truth(phantom, 0)["F"].reshape(-1, 3, 3) - np.eye(3)
        np.testing.assert_allclose(truth, turn.T @ expected @ turn, atol=1e-9)


def test_reflections_edge__one_edge_along_the_vertical():
    for phantom in build("reflections_edge", shape=(24, 15), seed=2):
        (line,) = phantom.scene.lines
        assert abs(line["burgers"] @ line["line"]) < 1e-12
        turned = rotation_z(phantom.placement.omega).T @ line["burgers"]
        np.testing.assert_allclose(np.abs(turned), [0.5 * 4.0495e-4] * 2 + [0], atol=1e-12)


def test_reflections__noise_of_each_is_its_own():
    first, second = (rendered(p)[0] for p in build("reflections", shape=(12, 16), seed=1)[:2])
    dark = (first.max((1, 2)) < 200) & (second.max((1, 2)) < 200)
    assert dark.sum() > 50
    a, b = (v[dark].astype(float) - v[dark].mean(0) for v in (first, second))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_generator__no_two_purposes_share_numbers():
    drawn = {
        tuple(generator(seed, *keys).integers(0, 2**63, 2))
        for seed in (0, 1, 2**32, 2**32 + 1)
        for keys in ((0,), (1,), (0, 0), (0, 1), (1, 0), (1, 0, 0))
    }
    assert len(drawn) == 24


def test_lattice__bending_is_compatible():
    """curl(beta) = 0 by central differences: waves of displacement hide no dislocations."""
    phantom = build("empty", layers=1, shape=(16, 16), seed=3)[0]
    point, step = np.array([10.0, 4.0, 1.0]), 1e-3
    slope = np.stack(
        [
            (
                lattice(phantom.scene, *(point + step * e)[:, None])
                - lattice(phantom.scene, *(point - step * e)[:, None])
            ).reshape(3, 3)
            / (2 * step)
            for e in np.eye(3)
        ]
    )
    curl = np.einsum("jkl,kil->ij", EPSILON, slope)
    assert np.abs(slope).max() > 1e-7
    assert np.abs(curl).max() < 1e-6 * np.abs(slope).max()


def test_outline__tall_crystals_are_whole():
    tall = build("easy", layers=301, shape=(32, 32))[0]
    for z in (tall.z[0], tall.z[150], tall.z[300]):
        lit, entry, leave = outline(tall, z)
        assert lit.mean() > 0.5
        assert leave.min() > 50
        assert entry.min() > 0


@pytest.mark.parametrize("shape", [(8, 8), (65, 63), (64, 129)])
def test_render__odd_shapes(shape):
    phantom = build("hard", layers=1, shape=shape, seed=0)[0]
    counts, label, _ = rendered(phantom)
    assert counts.shape == (31, *shape)
    assert label.shape[1:] == tuple(-(-n // 64) for n in shape)


def test_full_width__half_of_the_peak_is_where_it_says(easy):
    q = full_width(easy) / 2
    assert flank(easy, q) / flank(easy, 0.0) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: build("esay"), "'esay': is unknown .did you mean 'easy'"),
        (lambda: build("easy", layers=0), "at least one layer"),
        (lambda: build("easy", shape=(4, 100)), "at least 8 pixels"),
        (lambda: build("easy", seed=-1), "a whole number from 0 on"),
        (lambda: Lighting(flux=-1.0), "lighting: flux: is -1.0; give zero or more"),
        (lambda: Lighting(exposure=np.nan), "lighting: exposure"),
        (lambda: Lighting(weak=0.0), "no weak beam"),
        (lambda: build("easy", seed="a"), "a whole number from 0 on"),
        (lambda: build("easy", layers=1.5), "at least one layer"),
        (lambda: build("easy", shape=(8.5, 9)), "at least 8 pixels"),
        (lambda: build("easy", shape=64), "at least 8 pixels"),
        (lambda: build("movie", layers=3), "a movie watches one layer"),
        (lambda: next(render(build("easy", layers=1, shape=(8, 8))[0], 1)), "layer 1: the phantom has 1"),
    ],
)
def test_phantom__refuses(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_presets__say_what_they_are():
    assert set(PRESETS) == {
        "easy",
        "hard",
        "multigrain",
        "al002",
        "movie",
        "movie_long",
        "movie_crowded",
        "movie_empty",
        "reflections",
        "network",
        "reflections_edge",
        "isolated",
        "isolated_phi_chi",
        "isolated_reflections",
        "empty",
        "deformed",
    }
    assert build("movie_long", shape=(32, 32))[0].motion.position.shape == (800, 13, 2)


def test_samples__are_the_mean_over_parts_of_a_pixel():
    made = build("isolated", seed=3, shape=(12, 10))[0]
    one = replace(made, samples=(1, 1), axes=(replace(made.axes[0], positions=(-0.012, 0.012)),))
    parts = []
    for dy in (-0.25, 0.25):
        lines = one.scene.lines.copy()
        lines["position"][:, 1] -= dy * one.pixel[0]
        moved = replace(one, scene=replace(one.scene, lines=lines, wave_displacements=0 * one.scene.wave_displacements))
        parts.append(lattices(moved, 0).voxels)
    still = replace(one, scene=replace(one.scene, wave_displacements=0 * one.scene.wave_displacements), samples=(2, 1))
    voxels = lattices(still, 0).voxels.reshape(12, 2, *parts[0].shape[1:])
    np.testing.assert_allclose(voxels[:, 0], parts[0], atol=1e-9)
    np.testing.assert_allclose(voxels[:, 1], parts[1], atol=1e-9)
    frames = [
        np.stack([frame for frame, _ in render(phantom, 0)]) for phantom in (still, replace(still, samples=(1, 1)))
    ]
    assert frames[0].shape == frames[1].shape
