"""The gather of boundaries: from images of layers with known walls to tables, and what it says of nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.boundaries import characterise_boundaries
from dfxm_dask.boundaries.planes.points import layer_peaks, layer_points
from dfxm_dask.optics.defects.lattice import Lattice, lattice_vectors

Y, X, Z = 0.25 * np.arange(160.0), 0.2 * np.arange(220.0), np.arange(16.0)
LATTICE = {"parameter": 4.05e-4, "x": (1, 1, 0), "z": (0, 0, 1)}
UNITS = {
    "weak_enhanced": "1",
    "weak_isolated": "1",
    "defects": "1",
    "lit": "1",
    "peak_local": "degree",
    "com_phi": "degree",
}
JUMP = 0.004


def unit(vector: tuple[float, float, float]) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


WALLS = (  # normal, line, spacing um, a point
    (unit((1, 0, 0)), unit((0, 0.2, 1)), 4.0, np.array([12.0, 20, 8])),
    (
        unit((0.5, 0.8, 0.05)),
        unit((0.8, -0.5, 0)) * np.cos(1.2) + unit((0.025, 0.04, -0.89)) * np.sin(1.2),
        5.0,
        np.array([33.0, 20, 8]),
    ),
)


def layers(seed: int = 0, walls: tuple = WALLS) -> xr.Dataset:
    """Contrast of two walls in a stack of layers, noise 1; peak and centre of mass jump by 4 mdeg at the first."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(Y, X, indexing="ij")
    contrast = rng.normal(0, 1, (Z.size, Y.size, X.size))
    for normal, line, spacing, origin in walls:
        line = unit(tuple(line - (line @ normal) * normal))
        across = np.cross(normal, line)
        for k in range(-20, 21):
            start = origin + k * spacing * across
            for n, z in enumerate(Z):
                at = start + (z - start[2]) / line[2] * line  # where the line crosses the layer
                contrast[n] += 14 * np.exp(-0.5 * ((x - at[0]) ** 2 + (y - at[1]) ** 2) / 0.35**2)
    maps = {
        "weak_enhanced": contrast.astype(np.float32),
        "weak_isolated": contrast.astype(np.float32),
        "defects": contrast > 5,
        "lit": np.ones(contrast.shape, bool),
        "com_phi": (JUMP * (x > 12) + 2e-5 * y + rng.normal(0, 3e-4, contrast.shape) if len(walls) else 0 * contrast),
        "peak_local": np.where(x < 12, 0.030, 0.034)[None].repeat(Z.size, 0).astype(np.float32),
    }
    return xr.Dataset(
        {n: (("z", "y", "x"), v, {"units": UNITS[n]}) for n, v in maps.items()},
        {n: (n, p, {"units": "um"}) for n, p in (("z", Z), ("y", Y), ("x", X))},
    )


@pytest.fixture(scope="module")
def stack() -> xr.Dataset:
    return layers()


@pytest.fixture(scope="module")
def tables(stack: xr.Dataset) -> xr.Dataset:
    return characterise_boundaries.gather(stack.chunk({"z": 1}), lattice=LATTICE, replicates=50)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), abs(a @ b))))


def test_characterise__finds_the_walls_their_lines_and_spacings(tables: xr.Dataset) -> None:
    assert tables.sizes["boundary"] == 2
    for normal, line, spacing, origin in WALLS:
        k = min((0, 1), key=lambda n: angle(tables.normal.values[n], normal))
        assert angle(tables.normal.values[k], normal) < 0.3
        assert abs((tables.centre.values[k] - origin) @ normal) < 0.1
        assert tables.thickness[k] < 0.5
        assert angle(tables.line.values[k, 0], unit(tuple(line - (line @ normal) * normal))) < 0.5
        assert tables.spacing[k, 0] == pytest.approx(spacing, rel=0.02)
        assert tables.gap[k, 0] == pytest.approx(spacing, rel=0.15)  # lines at the rim are cut
        assert tables.spacing_error[k, 0] < 0.1


def test_characterise__puts_a_wall_where_the_lattice_steps_and_says_where_it_does_not(tables: xr.Dataset) -> None:
    first = min((0, 1), key=lambda n: angle(tables.normal.values[n], WALLS[0][0]))
    other = 1 - first
    meanings = dict(zip(tables.reason.attrs["flag_meanings"].split(), tables.reason.attrs["flag_masks"], strict=True))
    assert tables.reason.values[first] & ~meanings["overtone"] == 0
    assert angle(tables.normal.values[first], WALLS[0][0]) < 0.05
    assert abs(tables.centre.values[first][0] - 12.0) < 0.1  # half way between two pixels
    assert tables.normal_error[first] < 0.2
    assert tables.offset_error[first] < 0.05
    assert tables.step.values[first] * np.sign(tables.normal.values[first][0]) == pytest.approx(JUMP, rel=0.03)
    assert tables.step_error[first] < 0.1 * JUMP
    assert tables.step_width[first] < 0.2
    assert tables.step.attrs["units"] == "degree"
    assert tables.reason.values[other] & meanings["no_step"]
    assert tables.reason.values[other] & meanings["weak_beam_place"]
    assert np.isnan(tables.step.values[other])
    assert 0.5 < tables.normal_error[other] < 4  # half a um over its extent
    assert tables.offset_error[other] >= 0.5


def test_characterise__layers_moved_at_random_have_no_boundary(stack: xr.Dataset) -> None:
    few, rng = stack.isel(z=slice(4, 10)), np.random.default_rng(5)
    moves = rng.integers(0, (Y.size, X.size), (few.sizes["z"], 2))
    moved = few.copy(
        data={
            n: np.stack([np.roll(a, m, (0, 1)) for a, m in zip(v.values, moves, strict=True)])
            for n, v in few.data_vars.items()
        }
    )
    assert characterise_boundaries.gather(moved, replicates=10).sizes["boundary"] == 0


def test_characterise__maps_of_nan_and_a_layer_without_a_weak_beam_do_no_harm(stack: xr.Dataset) -> None:
    few = stack.isel(z=slice(2, 12)).copy(deep=True)
    few["defects"][5] = False
    few["weak_enhanced"][5] = np.nan
    few["weak_isolated"][5] = np.nan
    few["com_phi"][3] = np.nan
    found = characterise_boundaries.gather(few, replicates=10)
    assert min(angle(n, WALLS[0][0]) for n in found.normal.values) < 0.1


def test_characterise__sees_the_jump_of_the_peak_where_there_is_one(tables: xr.Dataset) -> None:
    first = min((0, 1), key=lambda n: angle(tables.normal.values[n], WALLS[0][0]))
    assert abs(tables.peak_step.values[first]) == pytest.approx(0.004, rel=0.02)
    assert abs(tables.peak_step.values[1 - first]) < 2e-4


def test_characterise__the_jump_is_that_of_the_patch_and_not_of_the_plane_beyond(stack: xr.Dataset) -> None:
    ends = stack.y < 16  # the first wall ends there, and its jump with it
    beside = stack.x < 20
    keep = ends | ~beside
    half = stack.assign(
        weak_enhanced=stack.weak_enhanced.where(keep, 0).assign_attrs(units="1").astype("float32"),
        weak_isolated=stack.weak_isolated.where(keep, 0).assign_attrs(units="1").astype("float32"),
        defects=(stack.defects & keep).assign_attrs(units="1").transpose("z", "y", "x"),
        peak_local=stack.peak_local.where(ends, 0.032).assign_attrs(units="degree").transpose("z", "y", "x"),
    )
    found = characterise_boundaries.gather(half.transpose("z", "y", "x"), replicates=10)
    first = min(range(found.sizes["boundary"]), key=lambda n: angle(found.normal.values[n], WALLS[0][0]))
    assert angle(found.normal.values[first], WALLS[0][0]) < 1
    assert abs(found.peak_step.values[first]) == pytest.approx(0.004, rel=0.05)


def test_characterise__burgers_vector_of_the_tilt_wall_is_the_one_along_its_normal(tables: xr.Dataset) -> None:
    first = min((0, 1), key=lambda n: angle(tables.normal.values[n], WALLS[0][0]))
    burgers = tables.burgers.values[first, 0]
    assert angle(burgers, WALLS[0][0]) < 1e-6
    assert np.linalg.norm(burgers) == pytest.approx(4.05e-4 / np.sqrt(2))
    assert tables.misorientation[first] == pytest.approx(np.linalg.norm(burgers) / 4.0, rel=0.03)
    assert tables.burgers_misfit[first] < 1.0 < tables.burgers_next[first]
    assert tables.twist[first] < 0.05
    assert tables.frank_residual[first] < 0.02
    assert tables.frank_rank[first] == 1


def test_characterise__points_of_a_boundary_lie_on_it(tables: xr.Dataset) -> None:
    for k in range(2):
        mine = tables.point_boundary.values == k
        off = (tables.point.values[mine] - tables.centre.values[k]) @ tables.normal.values[k]
        assert np.abs(off).max() < 5 * float(tables.thickness[k])
        corners = (tables.corner.values[k] - tables.centre.values[k]) @ tables.normal.values[k]
        assert np.abs(corners).max() < 1e-9


def test_characterise__is_the_same_however_layers_come_together(stack: xr.Dataset, tables: xr.Dataset) -> None:
    summaries = [
        characterise_boundaries.kernel(
            *(stack[n].values[k] for n in ("weak_enhanced", "defects", "lit", "peak_local")),
            Y,
            X,
            np.array(Z[k]),
            stack["weak_isolated"].values[k],
            com={"phi": stack["com_phi"].values[k]},
            lattice=LATTICE,
            replicates=50,
        )
        for k in range(Z.size)
    ]
    combine = characterise_boundaries.combine
    assert combine is not None
    assert characterise_boundaries.finish is not None
    order = np.random.default_rng(1).permutation(Z.size)
    merged = [summaries[k] for k in order]
    while len(merged) > 1:
        merged = [combine(a, b) for a, b in pairwise(merged)][::2] + ([merged[-1]] if len(merged) % 2 else [])
    made = characterise_boundaries.finish(merged[0])
    for name in tables.data_vars:
        np.testing.assert_array_equal(made[str(name)], tables[name].values, err_msg=str(name))


@pytest.mark.slow
def test_characterise__shifts_are_taken_back(stack: xr.Dataset, tables: xr.Dataset) -> None:
    shift = np.linspace(0, 1.5, Z.size)
    moved = stack.assign(
        shift_y=("z", np.zeros(Z.size), {"units": "um"}), shift_x=("z", shift, {"units": "um"})
    )  # what is said to lie aside by s is moved back by s
    found = characterise_boundaries.gather(moved, replicates=10)
    tilted = unit((1, 0, 0.1))
    assert min(angle(n, tilted) for n in found.normal.values) < 0.4


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_characterise__of_nothing_or_two_layers_has_no_boundary(stack: xr.Dataset, keep: int) -> None:
    few = stack.isel(z=slice(0, max(keep, 1)))
    if keep == 0:
        few = few.assign(defects=few.defects & False, weak_isolated=few.weak_isolated * 0)
    found = characterise_boundaries.gather(few, lattice=LATTICE)
    assert found.sizes["boundary"] == found.sizes["junction"] == 0
    assert found.normal.shape == (0, 3)


def test_characterise__noise_has_no_boundary() -> None:
    found = characterise_boundaries.gather(layers(3, ()), replicates=10)
    assert found.sizes["boundary"] == 0


def test_layer_points__are_centres_of_mass_of_squares() -> None:
    rng = np.random.default_rng(0)
    y, x = 0.1 * np.arange(20.0), 0.1 * np.arange(30.0)
    values = rng.normal(5, 2, (20, 30)).astype(np.float32)
    mask = values > 4
    points, weights = layer_points(values, mask, y, x, 3.0)
    rows = []
    chance = {}
    from scipy.stats import norm

    for j, i in zip(*np.nonzero(mask), strict=True):
        chance.setdefault((np.floor(y[j] / 0.5), np.floor(x[i] / 0.5)), []).append(
            (norm.cdf(float(values[j, i]) - float(values[mask].min())), x[i], y[j])
        )
    for square in sorted(chance):
        p, px, py = np.array(chance[square]).T
        rows.append([(p * px).sum() / p.sum(), (p * py).sum() / p.sum(), 3.0, min(p.sum() * 0.01 / 0.25, 1)])
    np.testing.assert_allclose(points, np.array(rows)[:, :3], atol=0.5 / 1024 + 1e-9)
    np.testing.assert_allclose(weights[0], np.array(rows)[:, 3], rtol=1e-6)
    assert (weights[1] <= weights[0]).all()
    assert (weights[2] <= weights[1]).all()


def test_layer_points__leaves_out_what_is_not_known_and_refuses_what_has_no_size() -> None:
    values = np.full((4, 4), np.nan, np.float32)
    assert layer_points(values, np.ones((4, 4), bool), np.arange(4.0), np.arange(4.0), 0.0)[0].shape == (0, 3)
    values[1, 2] = 9
    points, _ = layer_points(values, np.ones((4, 4), bool), np.arange(4.0), np.arange(4.0), 0.0)
    np.testing.assert_array_equal(points, [[2.0, 1.0, 0.0]])
    with pytest.raises(ValueError, match="square"):
        layer_points(values, np.ones((4, 4), bool), np.arange(4.0), np.arange(4.0), 0.0, 0.0)
    with pytest.raises(ValueError, match="have no size"):
        layer_points(np.ones((4, 4), np.float32), np.isnan(values), np.zeros(4), np.arange(4.0), 0.0)


def test_layer_peaks__leave_out_defects_and_dark_places() -> None:
    y = x = np.arange(8.0)
    peak = np.add.outer(y, 10 * x).astype(np.float32)
    lit, mask = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    lit[:4], mask[6, 6], peak[7, 7] = False, True, np.nan
    found = layer_peaks(peak, lit, mask, y, x, 2.0)
    assert len(found) == 8
    at = {(int(p[0] // 2), int(p[1] // 2)): p for p in found}
    np.testing.assert_allclose(at[0, 2], [0.5, 4.5, 2.0, 9.5])
    np.testing.assert_allclose(at[3, 3], [6.5, 6.5, 2.0, np.mean([76, 67])])
    assert layer_peaks(peak, lit & False, mask, y, x, 2.0).shape == (0, 4)


def test_lattice_vectors__are_the_six_of_fcc_in_the_axes_of_the_store() -> None:
    found = lattice_vectors(Lattice(**LATTICE))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 4.05e-4 / np.sqrt(2))
    assert min(angle(b, np.array([1.0, 0, 0])) for b in found) < 1e-6  # [110] is along x
    assert min(angle(b, np.array([0.0, 1, 0])) for b in found) < 1e-6  # and its fellow along y
    with pytest.raises(ValueError, match="degree apart"):
        lattice_vectors(Lattice(parameter=4e-4, x=(1, 0, 0), z=(1, 0, 1)))
    with pytest.raises(ValueError, match="length zero"):
        lattice_vectors(Lattice(parameter=4e-4, x=(0, 0, 0), z=(1, 0, 1)))
