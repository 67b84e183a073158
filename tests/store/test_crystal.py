"""A store that knows its crystal: told at ingest or later, kept with the raw data, and used where no other is given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask import cli
from dfxm_dask.catalogue import find
from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.run.checks.verify import verify
from dfxm_dask.run.plan import make_plan
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.store import calibrate as module
from dfxm_dask.store.crystal import checked_crystal, crystal_of_store, with_crystal
from dfxm_dask.store.integrity import ledger
from dfxm_dask.store.integrity.opened import open_store
from tests.beamline_files import write_bliss
from tests.stores import contents

S, C = float(np.sin(np.deg2rad(10.0))), float(np.cos(np.deg2rad(10.0)))
LATTICE = {"parameter": 4.05e-4, "x": [C, 0, -S], "z": [S, 0, C]}
HKL = (0, 0, 2)
BCC = {"kind": "bcc", "parameter": 2.87e-4, "x": [C, 0, -S], "z": [S, 0, C]}
LIST = {"vectors": [[3e-4, 0, 0], [0, 3e-4, 0]], "scattering_vector": [-S * 5e3, 0, C * 5e3], "two_theta": 20.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of one file: without a crystal, and with one."""
    folder = tmp_path_factory.mktemp("made")
    write_bliss(folder / "s.h5", layers=2, size=(12, 10))
    for name, crystal in (("none", {}), ("known", {"lattice": LATTICE, "hkl": HKL})):
        dfxm_dask.ingest(folder / "s.h5", folder / f"{name}.zarr", scan="all", pixel_size=(0.5, 0.7), **crystal)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(made / f"{name}.zarr", tmp_path / f"{name}.zarr"))


def known(store: Path) -> tuple:
    """Lattice and reflection in the root, in the provenance of the raw data, and as a step gets them."""
    root = zarr.open_group(str(store), mode="r").attrs.asdict()
    kept = ledger.group_provenance(store, "raw")[1]["ingest"]["parameters"]
    assert {w: root.get(w) for w in ("lattice", "hkl")} == {w: kept.get(w) for w in ("lattice", "hkl")}
    step = find("characterise_boundaries")
    return root.get("lattice"), root.get("hkl"), step.validate(with_crystal(step, {}, open_store(store)))["lattice"]


def test_ingest__keeps_the_crystal(made: Path) -> None:
    lattice, hkl, used = known(made / "known.zarr")
    assert (lattice, hkl) == (LATTICE, list(HKL))
    assert (used["parameter"], tuple(used["hkl"])) == (LATTICE["parameter"], HKL)
    assert known(made / "none.zarr") == (None, None, None)
    step = find("characterise_boundaries")
    own = step.validate(with_crystal(step, {"lattice": BCC}, open_store(made / "known.zarr")))["lattice"]
    assert (own["kind"], own["hkl"]) == ("bcc", None)  # what is given is taken, and nothing else
    planned = {
        s.name: s.plan["parameters"] for s in make_plan(read_recipe("weak_beam_volume"), made / "known.zarr").steps
    }
    assert planned["characterise_boundaries"]["lattice"] == used
    other = find("kam")
    assert with_crystal(other, {"radius": 1.0}, open_store(made / "known.zarr")) == {"radius": 1.0}


@pytest.mark.parametrize(("lattice", "hkl"), [(LATTICE, HKL), (BCC, (0, 0, 2)), (LIST, None)])
@pytest.mark.parametrize("name", ["none", "known"])
def test_calibrate__tells_the_crystal_later(copy: Any, name: str, lattice: dict, hkl: Any) -> None:
    store = copy(name)
    again = lattice is LATTICE and name == "known"
    before = contents(store)
    dry = dfxm_dask.calibrate(store, lattice=lattice, hkl=hkl, dry_run=True)
    assert contents(store) == before
    report = dfxm_dask.calibrate(store, lattice=lattice, hkl=hkl)
    assert report == dry
    assert (report.changed, report.withdrawn, report.pixel_size) == (not again, (), (0.5, 0.7))
    assert known(store)[:2] == (lattice, None if hkl is None else list(hkl))
    assert not verify(store).faults
    assert not dfxm_dask.calibrate(store, lattice=lattice, hkl=hkl).changed
    if again:
        assert contents(store) == before
    moved = dfxm_dask.calibrate(store, (0.25, 0.7))  # a pixel size alone leaves the crystal
    assert moved.changed
    assert known(store)[:2] == (lattice, None if hkl is None else list(hkl))
    assert not verify(store).faults


def test_calibrate__a_killed_change_of_the_crystal_is_finished(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = copy("none")
    with monkeypatch.context() as patched:
        patched.setattr(module, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            dfxm_dask.calibrate(store, lattice=LATTICE, hkl=HKL)
    assert (store / module.PENDING).exists()
    dfxm_dask.open_scan(store)
    assert known(store)[:2] == (LATTICE, list(HKL))
    assert not verify(store).faults


@pytest.mark.parametrize(
    ("lattice", "hkl", "said"),
    [
        ("Al", None, "give a mapping"),
        ([1, 2], None, "give a mapping"),
        ({}, None, "lacks parameter, x, z"),
        ({**LATTICE, "parameter": 4.05}, None, "parameter"),
        ({**LATTICE, "colour": 1}, None, "colour"),
        (LATTICE, (0, 0), "three whole numbers"),
        (LATTICE, (0, 0.5, 1), "three whole numbers"),
        (None, (0, 0, 0), "three whole numbers"),
        (None, 5, "three whole numbers"),
        ({**LATTICE, "hkl": 5}, (0, 0, 2), "three whole numbers"),
        (None, (0, 0, float("nan")), "three whole numbers"),
        (LATTICE, (2, 0, 0), "^lattice: hkl: points along .* theta -80 degree"),
        (LIST, HKL, "scattering_vector instead of hkl"),
        ({**LATTICE, "hkl": [0, 0, 2]}, (0, 0, 4), "give the reflection once"),
    ],
)
def test_crystal__senseless_ones_are_refused(made: Path, copy: Any, lattice: Any, hkl: Any, said: str) -> None:
    store = copy("none")
    before = contents(store)
    with pytest.raises(InputError, match=said):
        dfxm_dask.calibrate(store, lattice=lattice, hkl=hkl)
    with pytest.raises(InputError, match=said):
        dfxm_dask.ingest(made / "s.h5", store.parent / "new.zarr", scan="all", lattice=lattice, hkl=hkl)
    assert contents(store) == before
    assert not (store.parent / "new.zarr").exists()


def test_ingest__again_with_another_crystal_names_calibrate(made: Path, copy: Any) -> None:
    store = copy("known")
    same = {"scan": "all", "pixel_size": (0.5, 0.7)}
    dfxm_dask.ingest(made / "s.h5", store, **same, lattice=LATTICE, hkl=HKL)
    dfxm_dask.ingest(made / "s.h5", store, **same)
    assert known(store)[:2] == (LATTICE, list(HKL))
    with pytest.raises(StoreError, match=r"calibrate .* --lattice"):
        dfxm_dask.ingest(made / "s.h5", store, **same, lattice=BCC)


def test_commands__take_the_crystal(made: Path, copy: Any, tmp_path: Path) -> None:
    words = ["--lattice", f"{{parameter: 4.05e-4, x: [{C}, 0, {-S}], z: [{S}, 0, {C}]}}", "--hkl", "0,0,2"]
    run = CliRunner()
    store = copy("none")
    told = run.invoke(cli.cli, ["calibrate", str(store), *words])
    assert told.exit_code == 0, told.output
    assert "reflection 0 0 2" in told.output
    fresh = tmp_path / "fresh.zarr"
    assert run.invoke(cli.cli, ["ingest", str(made / "s.h5"), str(fresh), "--scan", "all", *words]).exit_code == 0
    assert known(store) == known(fresh)
    for bad, code in ((["--hkl", "0,2"], 1), (["--hkl", "a,b,c"], 2), (["--lattice", "Al"], 1)):
        refused = run.invoke(cli.cli, ["calibrate", str(store), *bad])
        assert (refused.exit_code, "Traceback" in refused.output) == (code, False), bad


@pytest.mark.parametrize("hkl", [(0, 0, True), {0, 1, 2}, "002", ("0", "0", "2")])
def test_checked_crystal__takes_three_numbers_in_order_for_a_reflection(hkl: Any) -> None:
    with pytest.raises(InputError, match="three whole numbers"):
        checked_crystal(LATTICE, hkl)


@pytest.mark.parametrize("hkl", [np.array([0, 0, 4]), [0, 0, 4], np.array([0.0, 0, 4])])
def test_calibrate__takes_a_reflection_as_any_kind_of_list(copy: Callable[[str], Path], hkl: Any) -> None:
    assert dfxm_dask.calibrate(copy("none"), hkl=hkl, dry_run=True).crystal == {"hkl": [0, 0, 4]}


SETTING = {"mu": 0.0, "omega": 6.4, "eta": 20.2}


def test_checked_crystal__reflections_of_oblique_settings_are_allowed() -> None:
    """Their scattering vector is not in the plane of the beam and the vertical."""
    with pytest.raises(InputError, match="lattice: hkl"):
        checked_crystal(LATTICE, (2, 0, 0))
    made = checked_crystal(LATTICE, (2, 0, 0), goniometer=SETTING, energy=19.1, frame="laboratory")
    assert (made["hkl"], made["goniometer"]["eta"], made["energy"]) == ([2, 0, 0], 20.2, 19.1)
    again = checked_crystal(known=made, goniometer={"theta": 15.4})
    assert again["goniometer"] == {**SETTING, "theta": 15.4}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"goniometer": {"kappa": 1.0}}, "give degrees of mu, omega, eta, theta"),
        ({"goniometer": {"omega": "left"}}, "goniometer: omega.*number from -360 to 360"),
        ({"energy": -1.0}, "number from 1 to 1000, in keV"),
        ({"frame": "detector"}, "choose laboratory or sample"),
        ({"rotation_axis": (1.0,)}, "two positions in um"),
    ],
)
def test_checked_crystal__refuses_invalid_settings(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        checked_crystal(**given)


def test_commands__take_the_setting(copy: Any) -> None:
    store = copy("none")
    words = [
        "--goniometer",
        "omega=6.4,eta=20.2",
        "--energy",
        "19.1",
        "--frame",
        "laboratory",
        "--rotation-axis",
        "3,4",
    ]
    told = CliRunner().invoke(cli.cli, ["calibrate", str(store), *words])
    assert told.exit_code == 0, told.output
    assert "omega 6.4 degree, eta 20.2 degree, 19.1 keV" in told.output
    assert crystal_of_store(store)["rotation_axis"] == [3.0, 4.0]
    assert not verify(store).faults
    refused = CliRunner().invoke(cli.cli, ["calibrate", str(store), "--goniometer", "omega"])
    assert (refused.exit_code, "MOTOR=DEGREE" in refused.output) == (2, True)
