"""Disks that are full, read-only or too small: nothing committed is lost, nothing wrong is readable."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import dfxm_dask
from dfxm_dask.errors import IncompleteError, StoreError
from dfxm_dask.run import execute
from dfxm_dask.run.execute import run_recipe
from dfxm_dask.run.plan import make_plan
from dfxm_dask.store.integrity import ledger
from tests.run.killing import recipe
from tests.stores import contents, raw_store

STEPS = (("frames", "background"), ("rocking", "moments"), ("rocking", "kam"), ("rocking", "integrated_curve"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_store(tmp_path_factory.mktemp("raw"), layers=6, shape=(7,), size=(40, 50))


def lines(store: Path, group: str, step: str) -> int:
    return len(ledger.read_ledger(ledger.ledger_path(store, group, step))[1])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("levels", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_run_recipe__disk_full_at_any_level(
    raw: Path, disk: Path, tmp_path: Path, levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(raw, tmp_path / "serial")
    run_recipe(recipe(), tmp_path / "serial")
    reference = contents(tmp_path / "serial")
    monkeypatch.setattr(execute, "_check_space", lambda plan: None)  # it would refuse all this before it begins
    shutil.copytree(raw, disk / "s.zarr")
    start = shutil.disk_usage(disk).free
    run_recipe(recipe(), disk / "s.zarr")
    need = start - shutil.disk_usage(disk).free
    shutil.rmtree(disk / "s.zarr")
    for level in range(levels):
        shutil.copytree(raw, disk / "s.zarr")
        leave = int(0.9 * need * level / levels)
        (disk / "ballast").write_bytes(b"\0" * (shutil.disk_usage(disk).free - leave))
        with pytest.raises(StoreError, match=r"the disk is full; free space, then run"):
            run_recipe(recipe(), disk / "s.zarr")
        with suppress(IncompleteError):
            tree, found = dfxm_dask.open_scan(disk / "s.zarr"), contents(disk / "s.zarr")
            readable = {f"{g}/{name}" for g in tree.children for name in tree[g].data_vars}
            wrong = [k for k, v in reference.items() if "/".join(k.split("/")[:2]) in readable and found.get(k) != v]
            assert wrong == []
        (disk / "ballast").unlink()
        before = sum(lines(disk / "s.zarr", g, s) for g, s in STEPS)
        report = run_recipe(recipe(), disk / "s.zarr")
        assert report.blocks_done == 6 * len(STEPS) - before
        assert contents(disk / "s.zarr") == reference
        shutil.rmtree(disk / "s.zarr")


def test_run_recipe__read_only_file_system(raw: Path, disk: Path) -> None:
    shutil.copytree(raw, disk / "s.zarr")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\); choose another folder"):
        run_recipe(recipe(), disk / "s.zarr")
    assert dfxm_dask.open_scan(disk / "s.zarr")["raw"].counts.shape[0] == 6  # reading needs no writing


def test_run_recipe__too_little_space_is_refused_before_it_begins(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(store)._replace(free=1000)
    monkeypatch.setattr(execute.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"results need about .* are free; free space, or remove steps"):
        run_recipe(recipe(), store)
    assert make_plan(recipe(), store).bytes_written > 2000
