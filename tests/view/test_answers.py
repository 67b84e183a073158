"""Answers in Python and as ``--json``: numbers of a real store, of its files on disk, and of the printed text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.run.events import megabytes
from dfxm_dask.run.recipe import parse_recipe
from tests.stores import raw_store

RECIPE = "name: short\nsteps:\n  - background: {method: scalar, value: 60}\n  - moments: {}\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    found = raw_store(folder, shape=(9,), size=(40, 50), layers=2)
    (folder / "short.yaml").write_text(RECIPE)
    dfxm_dask.run_recipe(parse_recipe(RECIPE, folder / "short.yaml"), found, publish=())
    return found


def asked(*words: object, code: int = 0) -> dict[str, Any]:
    """What a command prints with ``--json``: one document."""
    result = CliRunner().invoke(cli, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_info__counts_what_is_on_disk(store: Path) -> None:
    found = asked("info", store)
    assert found == dfxm_dask.info(store).as_dict()
    tree = dfxm_dask.open_scan(store, chunks=None)
    (phi,) = (axis for axis in found["axes"] if axis["axis"] == "phi")
    assert (phi["positions"], phi["first"], phi["last"]) == (9, float(tree.phi[0]), float(tree.phi[-1]))
    (counts,) = (v for v in found["variables"] if v["variable"] == "raw/counts")
    assert counts["dims"] == {"z": 2, "phi": 9, "y": 40, "x": 50}
    (moments,) = (step for step in found["steps"] if step["step"] == "moments")
    files = [p for name in tree["rocking"] for p in (store / "rocking" / name / "c").rglob("*") if p.is_file()]
    assert moments["bytes"] == sum(p.stat().st_size for p in files) > 0
    assert (moments["done"], moments["blocks"], found["complete"]) == (2, 2, True)
    text = CliRunner().invoke(cli, ["info", str(store)]).stdout
    assert megabytes(moments["bytes"]) in text
    assert text.splitlines()[-1] == "complete"


def test_info__of_an_incomplete_store_exits_with_3(store: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(store, tmp_path / "s.zarr")
    next(p for p in (tmp_path / "s.zarr/rocking/com_phi/c").rglob("*") if p.is_file()).unlink()
    found = asked("info", tmp_path / "s.zarr", code=3)
    assert not found["complete"]
    assert found["problems"][0].startswith("rocking/moments: 1 of 2 blocks are on disk")
    assert "INCOMPLETE: rocking/moments" in repr(dfxm_dask.info(tmp_path / "s.zarr"))
    faulty = asked("verify", tmp_path / "s.zarr", code=3)
    assert not faulty["sound"]
    assert "moments" in {one["step"] for one in faulty["faults"]}


def test_plan__has_the_cost_of_what_remains(store: Path) -> None:
    recipe = store.parent / "short.yaml"
    done = asked("plan", recipe, store, "--workers", 2)
    assert (done["to_do"]["tasks"], done["workers"], done["fits"], done["refused"]) == (0, 2, True, None)
    assert done == dfxm_dask.plan(recipe, store, workers=2).as_dict()
    assert dfxm_dask.plan(recipe, store).as_dict()["workers"] == 0  # a small scan: in this process
    checked = asked("check", "maps", store)
    assert [one["step"] for one in checked["left_out"]] == ["mosaicity"]
    left = asked("plan", "maps", store)
    assert {name: left[name] for name in checked} == checked
    assert left["to_do"]["tasks"] == sum(one["blocks"] for one in left["to_do"]["passes"]) > 0
    assert f"in total: {checked['tasks']} tasks" in CliRunner().invoke(cli, ["check", "maps", str(store)]).stdout


def test_plan__that_does_not_fit_is_printed_and_exits_with_1(store: Path) -> None:
    words = ["plan", "maps", str(store), "--memory-limit", "20MB", "--json"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["fits"], found["worker_memory_bytes"]) == (False, 20_000_000)
    assert result.stderr == f"Error: {found['refused']}\n"
    assert "DOES NOT FIT" in repr(dfxm_dask.plan("maps", store, memory_limit="20MB"))


def test_verify__counts_files_and_bytes(store: Path) -> None:
    found = asked("verify", store, "--deep", 1, "--seed", 0)
    assert found["bytes"] == dfxm_dask.info(store).as_dict()["bytes"]
    assert (found["sound"], found["faults"], len(found["recomputed"])) == (True, [], 1)
    assert f"{found['files']} files of blocks, {megabytes(found['bytes'])}" in repr(dfxm_dask.verify(store))


def test_report__prints_the_facts_of_the_file_beside_the_page(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfxm_dask.view.store_facts.pictures_of", lambda *_: ())  # drawn in the tests of the page
    found = asked("report", store, "--out", tmp_path / "r.html")
    written = json.loads((tmp_path / "r.json").read_text())
    assert {**found, "made": written["made"]} == {
        **written,
        "page": str(tmp_path / "r.html"),
        "json": str(tmp_path / "r.json"),
    }
    assert {**dfxm_dask.info(store).as_dict(), **found} == found


def test_json__of_doctor_and_reductions(tmp_path: Path) -> None:
    found = asked("doctor", tmp_path)
    assert found["counts"]["fail"] == 0 < found["counts"]["ok"]
    assert len(found["findings"]) == sum(found["counts"].values())
    listed = {one["name"]: one for one in asked("reductions")["reductions"]}
    (radius,) = (p for p in listed["kam"]["parameters"] if p["name"] == "radius")
    assert (radius["default"], radius["unit"]) == (2.0, "um")
    assert not [name for name, one in listed.items() if "`" in one["summary"]]


def test_json__is_empty_where_the_command_fails(tmp_path: Path) -> None:
    for words in (["info"], ["verify"], ["report"], ["check", "maps"], ["plan", "maps"]):
        result = CliRunner().invoke(cli, [*words, str(tmp_path / "no.zarr"), "--json"])
        assert (result.exit_code, result.stdout, result.stderr[:7]) == (1, "", "Error: "), words
