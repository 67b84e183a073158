"""Sets of reflections: stores with known maps, joined on one grid, and what a join refuses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import DfxmError, IncompleteError, InputError, RecipeError, StoreError
from dfxm_dask.run.execute import plan
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.store.reflections import join as joining
from dfxm_dask.strain.goniometer import angles_of, reflections
from tests.reflection_stores import reflection_store
from tests.stores import contents
from tests.strain.oblique_set import ENERGY, HKL, LATTICE, set_of

TABLES = set_of()
SETTING = TABLES["setting"]
PITCH = 0.1
SHAPE = (2, 70, 66)
CRYSTAL = {"parameter": 4.0493e-4, "x": [1, 0, 0], "z": [0, 0, 1]}
MOVED = np.array([[0, 0], [2, -1], [-1, 1], [1, 3]])
"""Pixels (y, x) of the sample between the stores."""


def angles(k: int, y: Any, x: Any) -> np.ndarray:
    """Angles of one reflection at positions of the sample, degree; smooth, and different for every reflection."""
    two_theta = 0.002 * np.sin(y / 1.1 + k) + 0.003 * np.cos(x / 0.9 - 2 * k)
    return np.stack([two_theta, 0.01 * np.cos(y / 1.3 + x / 1.7 + k), 0.008 * np.sin(x / 1.2 - y / 1.9 - k)], axis=-1)


def write(path: Path, k: int, *, moved: Any = (0, 0), goniometer: Any = True, **more: Any) -> Path:
    """A store in the axes of the sample whose image lies ``moved`` pixels (y, x) higher than the sample."""
    y, x = (PITCH * np.arange(n) for n in SHAPE[1:])
    at_y, at_x = np.meshgrid(y - PITCH * moved[0], x - PITCH * moved[1], indexing="ij")
    centre = np.stack([angles(k, at_y, at_x) + 0.001 * z for z in range(SHAPE[0])])
    centre[0, 5, 7] = np.nan
    covariance = np.zeros((*centre.shape, 3)) + np.diag([4e-8, 1e-8, 2e-8]) + 5e-9 * (1 - np.eye(3))
    known = {"hkl": HKL[k].tolist(), "energy": ENERGY, "frame": "sample", "lattice": CRYSTAL}
    if goniometer is True:
        known["goniometer"] = dict(zip(("mu", "omega", "eta", "theta"), SETTING[k].tolist(), strict=True))
    if isinstance(goniometer, dict):
        known["goniometer"] = goniometer
    known = {word: value for word, value in (known | more).items() if value is not None}
    return reflection_store(path, centre, covariance, **{"y": y, "x": x} | known)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("reflections")
    return [write(folder / f"{name}.zarr", k, moved=MOVED[k]) for k, name in enumerate("abcd")]


@pytest.fixture(scope="module")
def joined(stores: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("set") / "set.zarr"
    dfxm_dask.join(target, *stores, shift=MOVED * PITCH)
    return target


def test_join__whole_pixels_are_copied(joined: Path) -> None:
    raw = dfxm_dask.open_scan(joined)["raw"].to_dataset().load()
    y, x = np.meshgrid(raw.y, raw.x, indexing="ij")
    inner = np.s_[8:-8, 8:-8]
    for k in range(4):
        np.testing.assert_allclose(raw.centre[1, k].values[inner], angles(k, y, x)[inner] + 0.001, atol=1e-12)
        np.testing.assert_allclose(raw.centre_covariance[0, k, 30, 30].values, raw.centre_covariance[1, 0, 9, 9].values)
        dark = np.argwhere(np.isnan(raw.centre[0, k].values[2:14, 2:14]).any(axis=-1)) + 2
        np.testing.assert_array_equal(dark, [[5, 7] - MOVED[k]])
    assert raw.centre_covariance.values[1, 0, 9, 9] == pytest.approx(np.diag([3.5e-8, 0.5e-8, 1.5e-8]) + 5e-9, rel=1e-6)
    np.testing.assert_array_equal(raw.hkl, HKL)
    np.testing.assert_allclose(raw.setting, SETTING, atol=1e-9)
    np.testing.assert_allclose(raw.reciprocal_lattice, LATTICE, atol=1e-12)
    np.testing.assert_allclose(raw.wavelength, TABLES["wavelength"])
    np.testing.assert_allclose(raw["shift"], MOVED * PITCH)
    assert np.isnan(raw.shift_error).all()


def test_join__laboratory_pixels_turn_with_omega(tmp_path: Path) -> None:
    """Long pixels, turned by omega about an axis beside the middle: interpolated values, errors of fewer counts."""
    y, x = 0.05 * np.arange(100), 0.11 * np.arange(50)
    axis = np.array([2.3, 3.1])
    paths = []
    for k in (0, 1, 3):
        omega = np.deg2rad(SETTING[k, 1])
        at_y, at_x = np.meshgrid(y - axis[0], x - axis[1], indexing="ij")
        turned = -np.sin(omega) * at_x + np.cos(omega) * at_y, np.cos(omega) * at_x + np.sin(omega) * at_y
        centre = angles(k, *turned)[None]
        lattice = CRYSTAL | {
            "x": [np.cos(omega), -np.sin(omega), 0.0],
            "z": [0, 0, 1],
        }
        paths.append(
            reflection_store(
                tmp_path / f"{k}.zarr",
                centre,
                np.zeros((*centre.shape, 3)) + 1e-8 * np.eye(3),
                y=y,
                x=x,
                hkl=HKL[k].tolist(),
                energy=ENERGY,
                frame="laboratory",
                lattice=lattice,
                goniometer={"omega": float(SETTING[k, 1])},
                rotation_axis=axis.tolist(),
            )
        )
    dfxm_dask.join(tmp_path / "set.zarr", *paths, shift="none")
    raw = dfxm_dask.open_scan(tmp_path / "set.zarr")["raw"].to_dataset().load()
    np.testing.assert_allclose(raw.setting, SETTING[[0, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(raw.reciprocal_lattice, LATTICE, atol=1e-9)
    assert np.diff(raw.y).mean() == pytest.approx(0.11)
    at_y, at_x = np.meshgrid(raw.y, raw.x, indexing="ij")
    for n, k in enumerate((0, 1, 3)):
        found, expected = raw.centre[0, n].values, angles(k, at_y, at_x)
        lit = np.isfinite(found).all(axis=-1)
        assert lit.mean() > 0.6
        np.testing.assert_allclose(found[lit], expected[lit], atol=2e-5)  # the curvature over a pixel
        variance = raw.centre_covariance[0, n].values[lit][:, 0, 0]
        assert variance.min() > 0.24e-8
        assert variance.max() <= 1.001e-8
        assert 0.35 < variance.mean() / 1e-8 < 0.55  # mean of the squared weights: (2/3)^2


def test_join__angles_that_were_not_scanned_are_nan(tmp_path: Path, stores: list[Path]) -> None:
    fewer = write(tmp_path / "fewer.zarr", 3, axes=("phi", "chi"))
    dfxm_dask.join(tmp_path / "set.zarr", *stores[:3], fewer, shift="none")
    raw = dfxm_dask.open_scan(tmp_path / "set.zarr")["raw"].to_dataset()
    missing = np.isnan(raw.centre.values).mean(axis=(0, 2, 3))
    np.testing.assert_array_equal(missing > 0.5, [[False] * 3] * 3 + [[True, False, False]])
    assert np.isnan(raw.centre_covariance.values[1, 3, 30, 30, 0]).all()
    assert np.isfinite(raw.centre_covariance.values[1, 3, 30, 30, 1:, 1:]).all()


def test_join__mean_as_zero_is_recorded(tmp_path: Path, stores: list[Path]) -> None:
    dfxm_dask.join(tmp_path / "set.zarr", *stores[:3], shift="none", zero="mean")
    raw = dfxm_dask.open_scan(tmp_path / "set.zarr")["raw"].to_dataset().load()
    np.testing.assert_allclose(np.nanmedian(raw.centre, axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(
        raw.centre[1, 0, 20, 20] + raw.zero[0], angles(0, PITCH * 20, PITCH * 20) + 0.001, atol=1e-12
    )


def test_join__resumes_after_a_kill(
    stores: list[Path], joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_layer = joining.join_layer

    def dies(task: Any) -> Any:
        if task.z == 1:
            raise KeyboardInterrupt
        return write_layer(task)

    monkeypatch.setattr(joining, "join_layer", dies)
    target = tmp_path / "set.zarr"
    with pytest.raises(KeyboardInterrupt):
        dfxm_dask.join(target, *stores, shift=MOVED * PITCH)
    with pytest.raises(IncompleteError, match="'ingest' is not complete: 1 of 2 blocks are on disk"):
        dfxm_dask.open_scan(target)
    with pytest.raises(StoreError, match="contains a different ingest"):
        dfxm_dask.join(target, *stores, shift="none")
    monkeypatch.setattr(joining, "join_layer", write_layer)
    report = dfxm_dask.join(target, *stores, shift=MOVED * PITCH)
    assert report.skipped == 1
    ours, theirs = contents(target), contents(joined)
    assert {k: v for k, v in ours.items() if "/c/" in k} == {k: v for k, v in theirs.items() if "/c/" in k}


def test_join__a_changed_source_makes_the_set_stale(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{k}.zarr", k) for k in range(3)]
    dfxm_dask.join(tmp_path / "set.zarr", *paths, shift="none")
    shutil.rmtree(paths[0])
    dfxm_dask.open_scan(tmp_path / "set.zarr")  # the set contains all maps
    write(paths[0], 0, moved=(1, 1))
    stale = (
        r"the step moments of its source 0.zarr has been recomputed since; run dfxm-dask join again with --overwrite"
    )
    with pytest.raises(IncompleteError, match=stale):
        dfxm_dask.open_scan(tmp_path / "set.zarr")
    with pytest.raises(IncompleteError, match=stale):
        plan(read_recipe("maps"), tmp_path / "set.zarr")
    dfxm_dask.join(tmp_path / "set.zarr", *paths, shift="none", overwrite=True)
    dfxm_dask.open_scan(tmp_path / "set.zarr")


def test_set__refuses_steps_of_counts_and_runs_steps_of_maps(joined: Path, tmp_path: Path) -> None:
    shutil.copytree(joined, tmp_path / "set.zarr")
    with pytest.raises(RecipeError, match="is a set of reflections: run the step on the store of each one"):
        plan(read_recipe("maps"), tmp_path / "set.zarr")
    assert dfxm_dask.verify(tmp_path / "set.zarr").as_dict()["faults"] == []
    with pytest.raises(StoreError, match="is a set of reflections on a grid of its own; calibrate the stores"):
        dfxm_dask.calibrate(tmp_path / "set.zarr", (1, 1))
    with pytest.raises(StoreError, match="is a set of reflections; join the stores of its reflections"):
        dfxm_dask.join(tmp_path / "other.zarr", joined, joined)


def test_set__inside_another_store_is_refused(joined: Path, tmp_path: Path) -> None:
    shutil.copytree(joined, tmp_path / "set.zarr")
    shutil.copytree(joined, tmp_path / "set.zarr" / "second.zarr")
    with pytest.raises(StoreError, match=r"contains another store, second\.zarr; move second\.zarr out of"):
        plan(read_recipe("strain"), tmp_path / "set.zarr")


def _strained(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Deformation gradient at positions of the sample: short waves in all components, (y, x, row, column)."""
    waves = [np.sin(y / (0.35 + 0.05 * n) + 2 * n) + np.cos(x / (0.3 + 0.04 * n) - n) for n in range(9)]
    return np.eye(3) + 2e-4 * np.stack(waves, axis=-1).reshape(*y.shape, 3, 3)


def _noisy(folder: Path, moved: np.ndarray) -> list[Path]:
    """Stores of one deformation field with noise and displacements (pixels)."""
    known = reflections(HKL, SETTING, LATTICE, TABLES["wavelength"], deviation=1e-6)
    generator = np.random.default_rng(11)
    side = PITCH * np.arange(90)
    sigma = np.rad2deg([2e-5, 1e-5, 1e-5])
    paths = []
    for k, (down, right) in enumerate(moved):
        y, x = np.meshgrid(side - PITCH * down, side - PITCH * right, indexing="ij")
        q = np.einsum("yxij,ni->nyxj", np.linalg.inv(_strained(y, x)), known.vectors)
        centre = np.rad2deg(angles_of(known, q)[k])
        centre = centre + sigma * generator.normal(size=centre.shape)
        motors = dict(zip(("mu", "omega", "eta", "theta"), SETTING[k].tolist(), strict=True))
        covariance = np.zeros((1, *centre.shape, 3)) + np.diag(sigma**2)
        crystal = {"hkl": HKL[k].tolist(), "energy": ENERGY, "frame": "sample", "lattice": CRYSTAL}
        path = folder / f"{k}.zarr"
        paths.append(reflection_store(path, centre[None], covariance, y=side, x=side, goniometer=motors, **crystal))
    return paths


DISPLACED = np.array([[0, 0], [1.6, -2.3], [-0.8, 0.4], [2.2, 1.1]])


def test_join__finds_displacements(tmp_path: Path) -> None:
    """Four noisy reflections over-determine a smooth deformation: each displacement within 0.1 pixel and its error."""
    paths = _noisy(tmp_path, DISPLACED)
    report = dfxm_dask.join(tmp_path / "set.zarr", *paths)
    error = np.array(report.shift_error)[1:] / PITCH
    away = (np.array(report.shift) / PITCH - DISPLACED)[1:]
    assert (np.abs(away) < 0.1).all()
    assert (error < 0.1).all()
    assert (np.abs(away) < 4 * error).all()
    assert any("redundancy" in remark for remark in report.remarks)
    raw = dfxm_dask.open_scan(tmp_path / "set.zarr")["raw"]
    np.testing.assert_allclose(raw["shift_error"].values[1:], error * PITCH)


def test_join__height_of_the_beam_adds_to_the_errors(tmp_path: Path) -> None:
    """The square of half the second derivative along the diffracted beam, times the variance of the height."""
    paths = [write(tmp_path / f"{k}.zarr", k) for k in range(3)]
    for name, height in (("thin", None), ("high", 0.2)):
        dfxm_dask.join(tmp_path / name, *paths, shift="none", beam_height=height)
    thin, high = (dfxm_dask.open_scan(tmp_path / n)["raw"].to_dataset().load() for n in ("thin", "high"))
    np.testing.assert_array_equal(thin.centre, high.centre)
    y, x = np.meshgrid(thin.y, thin.x, indexing="ij")
    for k in range(3):
        omega, eta, theta = np.deg2rad(SETTING[k, 1:])
        beam = np.array([np.cos(2 * theta), -np.sin(2 * theta) * np.sin(eta), np.sin(2 * theta) * np.cos(eta)])
        turned = np.cos(omega) * beam[1] - np.sin(omega) * beam[0], np.cos(omega) * beam[0] + np.sin(omega) * beam[1]
        step = 0.2 / 2.3548 * np.array(turned) / beam[2]
        ahead, back = (angles(k, y + s * step[0], x + s * step[1]) for s in (1, -1))
        off = (ahead + back - 2 * angles(k, y, x)) / 2
        added = (high.centre_covariance - thin.centre_covariance)[1, k].values
        inner = np.s_[15:-15, 15:-15]
        np.testing.assert_allclose(
            added[inner], (off[..., :, None] * off[..., None, :])[inner], atol=0.15 * np.abs(off[inner]).max() ** 2
        )
    with pytest.raises(InputError, match="full width at half maximum"):
        dfxm_dask.join(tmp_path / "no", *paths, shift="none", beam_height=0.0)


def test_recipe_strain__from_stores_to_deformation(tmp_path: Path) -> None:
    """The command line, from the stores of four reflections to the deformation gradient that they were made of."""
    paths = _noisy(tmp_path, np.round(DISPLACED))
    target = str(tmp_path / "set.zarr")
    shift = ";".join(f"{y},{x}" for y, x in PITCH * np.round(DISPLACED))
    for words in (["run", "strain", str(paths[0])], ["join", target, *map(str, paths), "--shift", shift]):
        done = CliRunner().invoke(cli, words)
        if words[0] == "run":
            assert "join the stores of at least three reflections (dfxm-dask join" in done.output
        else:
            assert done.exit_code == 0, done.output
    made = plan(read_recipe("strain"), target)
    assert [(p.unit, len(p.steps)) for p in made.passes] == [("band", 3), ("band", 1), ("band", 1)]
    done = CliRunner().invoke(cli, ["run", "strain", target])
    assert done.exit_code == 0, done.output
    strain = dfxm_dask.open_scan(target)["strain"].to_dataset().load()
    y, x = np.meshgrid(strain.y, strain.x, indexing="ij")
    pull = (strain.deformation[0] - _strained(y, x)) / strain.deformation_error[0]
    assert 0.97 < np.sqrt(np.nanmean(np.square(pull))) < 1.03
    assert dfxm_dask.verify(target, deep=2, seed=1).as_dict()["faults"] == []


def test_join__refuses_displacements_that_the_maps_do_not_determine(tmp_path: Path, stores: list[Path]) -> None:
    flat = [write(tmp_path / f"{k}.zarr", k) for k in range(2)]
    y, x = PITCH * np.arange(SHAPE[1]), PITCH * np.arange(SHAPE[2])
    centre = 1e-4 * np.random.default_rng(2).normal(size=(*SHAPE, 3))
    known = {"hkl": HKL[2].tolist(), "energy": ENERGY, "frame": "sample", "lattice": CRYSTAL}
    motors = {"goniometer": {"omega": float(SETTING[2, 1])}}
    zeros = np.zeros((*centre.shape, 3)) + 1e-8 * np.eye(3)
    flat.append(reflection_store(tmp_path / "flat.zarr", centre, zeros, y=y, x=x, **known, **motors))
    with pytest.raises(
        InputError, match=r"shift of .*: the maps of the reflections determine no displacement: four .*; state the"
    ):
        dfxm_dask.join(tmp_path / "set.zarr", *flat)
    assert not (tmp_path / "set.zarr").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hkl": [[1, 1, 3]] * 4}, "hkl of a.zarr: is [1, 1, 3], and the store records [-1, -1, 3]"),
        ({"hkl": [[1, 1, 3]]}, "hkl: has 1 values for 4 stores; give one for each store"),
        ({"energy": 17.0}, "energy of a.zarr: is 17 keV, and the store records 19.1"),
        ({"frame": "laboratory"}, "a.zarr records sample"),
        ({"frame": "moon"}, "frame 'moon': is unknown; choose laboratory or sample"),
        ({"omega": [0, 90, 180, 270]}, "requires omega 6.4316, eta 20.2326 or omega "),
        ({"lattice": {**CRYSTAL, "parameter": 3.6e-4}}, "and the store records 15.4168; check lattice, hkl and energy"),
        ({"lattice": {**CRYSTAL, "x": [1, 1, 0]}}, "UB, hkl and motors contradict each other; check the orientation"),
        ({"lattice": {"vectors": [[3e-4, 0, 0]]}}, "lattice: has Burgers vectors instead of a cell"),
        ({"reciprocal_lattice": np.zeros((3, 3))}, "reciprocal lattice UB: is not an invertible 3 x 3 matrix"),
        ({"mu": 20.0}, "degree from the Laue condition at mu 20"),
        ({"zero": "first"}, "zero 'first': is unknown; choose nominal or mean"),
        ({"shift": "some"}, "shift 'some': is unknown; choose auto, none, or (y, x)"),
        ({"shift": [[0, 0]]}, "give (y, x) in um for each of the 4 stores"),
        ({"pixel_size": (0, 1)}, "outside 0.001 to 100 um"),
    ],
)
def test_join__refuses_contradictions(stores: list[Path], tmp_path: Path, options: dict, error: str) -> None:
    with pytest.raises(InputError, match=re.escape(error)):
        dfxm_dask.join(tmp_path / "set.zarr", *stores, **{"shift": "none", **options})
    assert not (tmp_path / "set.zarr").exists()


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"steps": ("moments",)}, "has no results of the step moment_errors; run dfxm-dask run reflection"),
        ({"units": "pixel"}, "coordinate 'y': is in 'pixel', not um; set the effective pixel"),
        ({"z": 5.0}, "lie at z = 5, 6 um, those of a.zarr at 0, 1"),
        ({"hkl": None}, "reflection of odd.zarr: is not recorded; give --hkl H,K,L once for each store"),
        ({"energy": None}, "energy of odd.zarr: is not recorded; give --energy KEV"),
        ({"energy": 19.0}, "energies of the stores: differ: 19.1, 19.1, 19 keV"),
        ({"frame": None}, "frame of odd.zarr: is not recorded; state the axes of the pixels"),
        ({"goniometer": False}, "has two settings: omega"),
        ({"lattice": None}, "crystal of odd.zarr: is not recorded; give --lattice"),
        ({"lattice": {**CRYSTAL, "parameter": 4.06e-4}}, "crystal of odd.zarr: differs from that of a.zarr by"),
        ({"hkl": HKL[0].tolist(), "goniometer": {"omega": float(SETTING[0, 1])}}, "are the same reflection -1 -1 3"),
        ({"x": 90.0 + PITCH * np.arange(SHAPE[2])}, "have no common area of the sample"),
        ({"axes": ("phi",), "frame": "sky"}, "attributes of"),
    ],
)
def test_join__refuses_stores_that_do_not_match(stores: list[Path], tmp_path: Path, more: dict, error: str) -> None:
    odd = write(tmp_path / "odd.zarr", 2, **more)
    with pytest.raises(DfxmError, match=re.escape(error)):
        dfxm_dask.join(tmp_path / "set.zarr", *stores[:2], odd, shift="none")
    assert not (tmp_path / "set.zarr").exists()


def test_join__never_replaces_a_scan(stores: list[Path]) -> None:
    """A user who forgets the name of the set names a scan first."""
    with pytest.raises(StoreError, match=r"a.zarr: is the store of a scan, not a set of reflections; name the new set"):
        dfxm_dask.join(*stores, overwrite=True)


def test_join__names_what_two_reflections_leave_undetermined(stores: list[Path], tmp_path: Path) -> None:
    report = dfxm_dask.join(tmp_path / "set.zarr", *stores[:2], shift="none")
    assert re.search(r"leaves undetermined: strain along \[.*; rotation about ", report.remarks[0])


def test_run__repeats_what_the_set_leaves_undetermined(stores: list[Path], tmp_path: Path) -> None:
    dfxm_dask.join(tmp_path / "set.zarr", *stores[:2], shift=np.zeros((2, 2)))
    report = dfxm_dask.run_recipe("strain", tmp_path / "set.zarr")
    assert any("the set leaves undetermined: " in remark for remark in report.remarks)
    assert np.isnan(dfxm_dask.open_scan(tmp_path / "set.zarr")["strain"].deformation).any()


def test_join__refuses_angles_far_from_the_setting(stores: list[Path], tmp_path: Path) -> None:
    y, x = PITCH * np.arange(SHAPE[1]), PITCH * np.arange(SHAPE[2])
    centre = np.zeros((*SHAPE, 3)) + [30.8, 0, 0]
    known = {"hkl": HKL[2].tolist(), "energy": ENERGY, "frame": "sample", "lattice": CRYSTAL}
    motors = {"goniometer": {"omega": float(SETTING[2, 1])}}
    far = reflection_store(tmp_path / "far.zarr", centre, np.zeros((*centre.shape, 3)), y=y, x=x, **known, **motors)
    with pytest.raises(InputError, match=r"two_theta of far.zarr: has a median of 30.8 degree.*use --zero mean"):
        dfxm_dask.join(tmp_path / "set.zarr", *stores[:2], far, shift="none")
    dfxm_dask.join(tmp_path / "set.zarr", *stores[:2], far, shift="none", zero="mean")


def test_cli_join__shows_settings_and_shifts(stores: list[Path], tmp_path: Path) -> None:
    called = ["join", str(tmp_path / "set.zarr"), *map(str, stores), "--shift", "0,0;0.2,-0.1;-0.1,0.1;0.1,0.3"]
    done = CliRunner().invoke(cli, called)
    assert done.exit_code == 0, done.output
    assert "96.4316" in done.output
    assert "15.4168" in done.output
    assert "2 layers" in done.output
    refused = CliRunner().invoke(cli, ["join", str(tmp_path / "one.zarr"), str(stores[0])])
    assert "has 1 store of a reflection; give the stores of at least two" in refused.output
    wrong = CliRunner().invoke(cli, [*called[:-1], "0,0;1"])
    assert wrong.exit_code == 2
    assert "is not auto, none, or Y,X;Y,X;... in um" in wrong.output
