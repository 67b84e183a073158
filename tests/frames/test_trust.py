"""The check of raw scans: planted faults are named with their frames, sound scans have no findings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dfxm_dask
from dfxm_dask.errors import StoreError
from dfxm_dask.frames.statistics import patch_statistics
from dfxm_dask.frames.trust.faults import equal_frames, monitor_faults
from dfxm_dask.frames.trust.findings import ADVICE, Layer, judge_layer

NAMES = ("patch_sum", "patch_sum2", "patch_min", "patch_max")


def scan(grid: tuple[int, ...], seed: int = 0, flux: float = 400.0) -> np.ndarray:
    """Counts (frame, y, x) of four quarters that diffract at different positions, with Poisson noise."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.linspace(0, 1, n) for n in grid), indexing="ij"), axis=-1).reshape(-1, len(grid))
    centres = np.repeat(np.array([[0.35, 0.45, 0.55, 0.62]]).T, len(grid), axis=1)
    centres[:, -1] = [0.4, 0.6, 0.5, 0.45]
    curves = flux * np.exp(-((places[:, None] - centres) ** 2).sum(axis=-1) / (2 * 0.13**2))
    frames = np.repeat(np.repeat(curves.reshape(-1, 2, 2), 64, axis=1), 64, axis=2)
    return rng.poisson(100 + frames).astype(np.uint16)


def layer_of(counts: np.ndarray, grid: tuple[int, ...]) -> Layer:
    made = [patch_statistics(frame) for frame in counts]
    statistics = {n: np.stack([m[n] for m in made]).reshape(*grid, 2, 2) for n in (*NAMES, "patch_n")}
    axes = {name: np.arange(float(n)) for name, n in zip(("chi", "phi")[-len(grid) :], grid, strict=True)}
    return Layer(axes, dict.fromkeys(axes, "degree"), statistics, 10.0, 65535.0)


def names(counts: np.ndarray, grid: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {finding.name: finding.frames for finding in judge_layer(layer_of(counts, grid))[0]}


LINE, MESH = (40,), (12, 15)
COUNTS = {LINE: scan(LINE), MESH: scan(MESH)}
INDEX = np.arange(40)
ROWS = np.arange(180).reshape(MESH)


def turned() -> np.ndarray:
    rows = ROWS.copy()
    rows[1::2] = rows[1::2, ::-1]
    return rows.ravel()


def late() -> np.ndarray:
    rows = ROWS.copy()
    rows[1::2] = np.roll(rows[1::2], 1, axis=1)
    return rows.ravel()


@pytest.mark.parametrize("grid", [LINE, MESH])
def test_judge_layer__says_nothing_about_a_sound_scan_or_its_reverse(grid: tuple[int, ...]) -> None:
    assert names(COUNTS[grid], grid) == {}
    assert names(COUNTS[grid][::-1], grid) == {}
    assert judge_layer(layer_of(COUNTS[grid], grid))[1].state == "confirmed"


def test_judge_layer__knows_no_order_of_frames_that_differ_by_noise() -> None:
    found, known, _ = judge_layer(layer_of(scan(LINE, flux=0.0), LINE))
    assert (found, known.state) == ([], "unknown")


@pytest.mark.parametrize(
    ("grid", "order", "name", "frames"),
    [
        (LINE, np.random.default_rng(1).permutation(40), "random_order", ()),
        (MESH, np.random.default_rng(1).permutation(180), "random_order", ()),
        (MESH, turned(), "lines_backwards", None),
        (MESH, late(), "lines_late", None),
        (LINE, np.insert(np.delete(INDEX, 18), 32, 18), "frame_moved", (32,)),
        (LINE, np.r_[0:13, range(24, 12, -1), 25:40], "block_backwards", tuple(range(13, 25))),
        (LINE, np.r_[18:30, 11:18], "frames_circular", ()),
    ],
)
def test_judge_layer__names_a_wrong_pairing(
    grid: tuple[int, ...], order: np.ndarray, name: str, frames: tuple[int, ...] | None
) -> None:
    found = names(COUNTS[grid][order], (len(order),) if len(grid) == 1 else grid)
    assert name in found
    assert frames is None or found[name] == frames


def test_judge_layer__names_faults_of_single_frames() -> None:
    counts = COUNTS[LINE].copy()
    counts[14] = np.random.default_rng(2).poisson(100, counts.shape[1:])
    counts[21, 5, 5] = 65535
    counts[30] = 0
    found = names(counts, LINE)
    assert {n: found[n] for n in ("no_beam", "saturated", "empty_frames")} == {
        "no_beam": (14,),
        "saturated": (21,),
        "empty_frames": (30,),
    }
    assert set(found) <= set(ADVICE)


def test_judge_layer__names_ends_that_are_bright() -> None:
    found = judge_layer(layer_of(COUNTS[LINE][18:], (22,)))[0]
    (ends,) = [f for f in found if f.name == "not_bracketed"]
    light = COUNTS[LINE][18:].mean(axis=(1, 2)) - 100
    assert ends.numbers["low"] == pytest.approx(light[0] / light.max(), abs=0.02)


def test_judge_layer__names_motors_that_missed_their_place() -> None:
    layer = layer_of(COUNTS[LINE], LINE)
    read = layer.axes["phi"].copy()
    read[7] += 0.4
    (found,) = judge_layer(replace(layer, readback={"phi": read}))[0]
    assert (found.name, found.frames) == ("motor_missed", (7,))


def test_monitor_faults__tells_trips_jumps_and_attenuators_apart() -> None:
    monitor = 1e5 * (1 + 0.01 * np.random.default_rng(3).standard_normal(40))
    bad = monitor.copy()
    bad[5], bad[9], bad[20:] = np.nan, 1e3, 1.4 * bad[20:]
    assert monitor_faults(monitor) == {"bad": (), "trip": (), "jump": ()}
    assert monitor_faults(bad) == {"bad": (5,), "trip": (9,), "jump": (20,)}
    assert monitor_faults(monitor * np.tile([1.0, 0.1, 0.5, 0.05], 10)) == {"bad": (), "trip": (), "jump": ()}


def test_equal_frames__leaves_out_frames_without_counts() -> None:
    counts = COUNTS[LINE][:6].copy()
    counts[4], counts[2], counts[5] = counts[1], 7, 7
    statistics = layer_of(counts, (6,)).statistics
    assert equal_frames({n: statistics[n].reshape(6, -1) for n in NAMES}) == [(1, 4)]


@pytest.mark.parametrize(("name", "expected"), [("rocking", {"not_bracketed"}), ("mosa_scan", set())])
def test_check_scan__of_real_scans(real_scans: dict[str, Path], tmp_path: Path, name: str, expected: set[str]) -> None:
    dfxm_dask.ingest(real_scans[name], tmp_path / "s.zarr", scan="1.1", each=map)
    facts = dfxm_dask.check_scan(tmp_path / "s.zarr").as_dict()
    assert {one["name"] for one in facts["findings"]} == expected
    assert facts["sound"]
    assert facts["pairing"] == {"confirmed": 1, "refuted": 0, "unknown": 0}
    assert facts["frames_read"] == 0


def test_check_scan__refuses_a_store_without_raw_data(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        dfxm_dask.check_scan(tmp_path)
