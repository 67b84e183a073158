"""Subgrains over layers: known fields, tables against sums over the map, and the same result for any blocks."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.errors import InputError
from dfxm_dask.rocking.subgrains.contacts import steps_beside
from dfxm_dask.rocking.subgrains.merging import merged
from scripts.evaluate.label_scores import adjusted_rand, boundary_f1

PIXEL = (0.2, 0.4)
STEP, NOISE = 2e-3, 1e-4  # degree


def positions(shape: tuple[int, int, int], z: list[float] | None = None) -> tuple[np.ndarray, ...]:
    layers = np.arange(shape[0], dtype=float) if z is None else np.asarray(z, float)
    return layers, np.arange(shape[1]) * PIXEL[0], np.arange(shape[2]) * PIXEL[1]


def stack(tilt: np.ndarray, z: list[float] | None = None, **more: np.ndarray) -> xr.Dataset:
    """Maps of one axis; more axes and errors by name."""
    dims, angle = ("z", "y", "x"), {"units": "degree"}
    coords = {d: (d, p, {"units": "um"}) for d, p in zip(dims, positions(tilt.shape, z), strict=True)}
    axes = ["phi", *(n[4:] for n in more if not n.endswith("error"))]
    scans = {a: (a, np.arange(3.0), {"units": "degree", "scan_axis": k}) for k, a in enumerate(axes)}
    return xr.Dataset({n: (dims, v, angle) for n, v in {"com_phi": tilt, **more}.items()}, coords | scans)


def found(data: xr.Dataset, **chosen: float) -> xr.Dataset:
    data = data.merge(dfxm_dask.segment_layers(data).compute())
    table = dfxm_dask.link_segments.gather(data, **chosen)
    return table.merge(dfxm_dask.regions(data.merge(table)).compute())


def wall(shape: tuple[int, int, int] = (3, 90, 60), slope: float = 0.5, lean: float = 0.4) -> np.ndarray:
    """Which side of an inclined plane each voxel is on."""
    z, y, x = positions(shape)
    middle = x.mean() + slope * (y - y.mean())[None, :, None] + lean * (z - z.mean())[:, None, None]
    return x[None, None] > middle


def noisy(side: np.ndarray, seed: int = 0, bend: float = STEP) -> np.ndarray:
    """A wall in a lattice that bends forth and back by as much as its step, with noise."""
    x = np.arange(side.shape[2]) * PIXEL[1]
    bent = bend * np.sin(np.pi * x / x[-1]) ** 2
    return STEP * side + bent + np.random.default_rng(seed).normal(0, NOISE, side.shape)


def test_regions__a_faint_wall_cuts_and_bending_does_not() -> None:
    side = wall()
    result = found(stack(noisy(side)))
    assert result.sizes["region_id"] == 2
    assert adjusted_rand(result.region.values, side + 1) > 0.95
    assert boundary_f1(result.region.values, side + 1, PIXEL, 0.8) > 0.95
    for bend in (STEP, 10 * STEP):
        assert found(stack(noisy(np.zeros_like(side), bend=bend))).sizes["region_id"] == 1
    assert (found(stack(np.zeros((2, 9, 12))), least_area=0.0).region == 1).all()


def test_regions__are_the_same_for_any_blocks_and_order_of_layers() -> None:
    data = stack(noisy(wall()), com_phi_error=np.full((3, 90, 60), 1e-4, np.float32))
    whole = found(data)
    for chunks in ({"z": 1}, {"z": 2, "y": 31}, {"y": 40, "x": 7}):
        xr.testing.assert_identical(whole, found(data.chunk(chunks)))
    back = found(data.isel(z=slice(None, None, -1)))
    np.testing.assert_array_equal(back.region.values[::-1], whole.region.values)
    np.testing.assert_allclose(back.region_com_phi, whole.region_com_phi, rtol=1e-12)


def test_link_segments__tables_equal_sums_over_the_map() -> None:
    side = wall()
    tilt, roll = noisy(side), noisy(side, 1)
    tilt[:, :4] = np.nan
    error = np.random.default_rng(2).uniform(0.5e-4, 1e-4, side.shape).astype(np.float32)
    result = found(stack(tilt, com_chi=roll, com_phi_error=error, com_chi_error=error))
    label, (z, y, x) = result.region.values, positions(side.shape)
    assert set(np.unique(label)) == {0, 1, 2}
    assert (label[:, :4] == 0).all()
    for n in (1, 2):
        k, i, j = np.nonzero(label == n)
        row = result.isel(region_id=n - 1)
        assert (int(row.region_voxels), int(row.region_layers)) == (len(k), 3)
        assert float(row.region_volume) == pytest.approx(len(k) * PIXEL[0] * PIXEL[1])
        np.testing.assert_allclose(row.region_centroid, [x[j].mean(), y[i].mean(), z[k].mean()])
        for name, values in (("phi", tilt), ("chi", roll)):
            assert float(row[f"region_com_{name}"]) == pytest.approx(values[k, i, j].mean(), rel=1e-10)
            assert float(row[f"region_spread_{name}"]) == pytest.approx(values[k, i, j].std(), rel=1e-9)
            noise = np.sqrt((error[k, i, j].astype(float) ** 2).sum()) / len(k)
            assert float(row[f"region_com_{name}_error"]) == pytest.approx(noise, rel=1e-6)


def test_link_segments__boundary_is_the_plane_and_its_step() -> None:
    side = wall((5, 120, 80))
    result = found(stack(STEP * side + np.random.default_rng(0).normal(0, NOISE, side.shape)))
    assert result.boundary_region.values.tolist() == [[1, 2]]
    high, deep = 120 * PIXEL[0], 5.0
    assert float(result.boundary_trace[0]) == pytest.approx(5 * high * np.hypot(1, 0.5), rel=0.05)
    # A plane x = 0.5 y + 0.4 z; layers meet four times, so that one part in five of the lean is not seen.
    assert float(result.boundary_area[0]) == pytest.approx(high * deep * np.sqrt(1 + 0.25 + 0.16), rel=0.05)
    error = float(result.boundary_misorientation_error[0])
    assert 0 < error < 0.1 * STEP
    assert float(result.boundary_misorientation[0]) == pytest.approx(STEP, rel=0.15)
    assert float(result.boundary_step_phi[0]) * np.sign(float(np.diff(result.region_com_phi)[0])) > 0


def test_link_segments__missing_layers_end_regions_and_one_layer_has_no_volume() -> None:
    side = wall((4, 90, 60), lean=0.0)
    apart = found(stack(noisy(side), z=[0.0, 1.0, 5.0, 6.0]))
    assert apart.region_layers.values.tolist() == [2, 2, 2, 2]
    alone = found(stack(noisy(side)[:1]))
    assert np.isnan(alone.region_volume).all()
    assert np.isnan(alone.boundary_area).all()
    assert np.isnan(alone.region_com_phi_error).all()
    assert np.isfinite(alone.boundary_trace).all()


def test_link_segments__threshold_decides() -> None:
    data = stack(noisy(wall()))
    assert found(data, threshold=3 * STEP).sizes["region_id"] == 1
    assert float(found(data, threshold=STEP / 2).step_threshold) == STEP / 2


def test_regions__refuse_segments_that_were_not_linked() -> None:
    data = stack(noisy(wall()))
    data = data.merge(dfxm_dask.segment_layers(data).compute())
    linked = dfxm_dask.link_segments.gather(data)
    other = data.merge(linked).assign(segment=data.segment.where(data.segment < 3, 0).astype(np.int32))
    with pytest.raises(InputError, match="were linked"):
        dfxm_dask.regions(other).compute()


def test_steps_beside__compare_at_a_distance() -> None:
    label = np.repeat([[1, 1, 1, 2, 2, 2]], 2, axis=0).astype(np.int32)
    ramp = np.repeat([[0.0, 1, 2, 3, 4, 5]], 2, axis=0)[None]
    for reach, step in ((1, 3.0), (2, 5.0), (9, 5.0)):  # one pixel from both sides of the face, at most the rim
        contacts = steps_beside(label, ramp, (reach, reach), PIXEL)
        assert contacts.pair.tolist() == [[0, 1]]
        np.testing.assert_allclose(contacts.step / contacts.weight, [[step]])
        np.testing.assert_allclose(contacts.faces, [[2 * PIXEL[0], 0.0]])


def test_merged__depends_on_neither_order_nor_direction_of_contacts() -> None:
    rng = np.random.default_rng(0)
    pair = np.array([(a, b) for a in range(30) for b in range(a) if rng.random() < 0.2])
    step, one = rng.normal(0, 1, (len(pair), 2)), rng.uniform(0.5, 1, len(pair))
    volume = rng.uniform(1, 5, 30)
    wanted = merged(pair, one, one, step, volume, 0.8, 2.0)
    assert 1 < wanted.max() < 29
    mixed = rng.permutation(len(pair))
    turned = merged(pair[mixed, ::-1], one[mixed], one[mixed], -step[mixed], volume, 0.8, 2.0)
    np.testing.assert_array_equal(wanted, turned)


def test_adjusted_rand__known_values() -> None:
    """Values in the documentation of scikit-learn."""
    assert adjusted_rand(np.array([1, 1, 2, 2]), np.array([2, 2, 1, 1])) == 1.0
    assert adjusted_rand(np.array([1, 1, 1, 1]), np.array([1, 2, 3, 4])) == 0.0
    assert adjusted_rand(np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])) == pytest.approx(-0.5)
    assert adjusted_rand(np.array([1, 1, 2, 2, 0]), np.array([1, 1, 2, 3, 1])) == pytest.approx(0.5714, abs=1e-4)
