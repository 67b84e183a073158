"""Movies: scores beside the truth by hand, tables for other programs, and what the figures show."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dfxm_dask.view.compare.movies import identity_switches, in_field, movie_rows, score
from dfxm_dask.view.dynamics.displacements import displacements, draw_displacements
from dfxm_dask.view.dynamics.tracks import busiest_frame, columns_of, draw_kymograph, draw_tracks
from dfxm_dask.view.export import export
from tests.view.test_figures import check_page

FRAMES, PIXEL = 30, (0.05, 0.1)


def movie(tracks: bool = True) -> xr.DataTree:
    """Two dislocations on straight paths 1.5 um apart; positions found are off by one row, and one frame is missed."""
    y, x = np.arange(60) * PIXEL[0], np.arange(80) * PIXEL[1]
    time = 0.25 * np.arange(FRAMES)
    true = np.stack([np.stack([1 + 0.02 * time, 2 + 0.1 * time], 1), np.stack([2 + 0 * time, 5 - 0.1 * time], 1)], 1)
    counts = np.random.default_rng(2).poisson(100, (1, FRAMES, 60, 80))
    for k, d in np.ndindex(FRAMES, 2):
        row, column = np.rint(true[k, d] / PIXEL).astype(int)
        counts[0, k, row - 2 : row + 3, column - 2 : column + 3] += 200
    frame, number = np.repeat(np.arange(FRAMES), 2), np.tile([0, 1], FRAMES)
    at = true.reshape(-1, 2) + [PIXEL[0], 0]
    kept = ~((frame == 7) & (number == 1))
    frame, number, at = frame[kept], number[kept], at[kept]
    table = {"frame": frame, "time": time[frame], "y": at[:, 0], "x": at[:, 1]}
    table |= {"row": at[:, 0] / PIXEL[0], "column": at[:, 1] / PIXEL[1]}
    if tracks:
        table["track"] = np.where(frame < 20, number, 1 - number)
    units = {"time": "s", "y": "um", "x": "um"}
    found = {name: ("detection", values, {"units": units.get(name, "1")}) for name, values in table.items()}
    own = {name: (name, values, {"units": units[name]}) for name, values in (("time", time), ("y", y), ("x", x))}
    root = xr.Dataset(coords=own | {"z": ("z", [0.0], {"units": "um"})})
    raw = xr.Dataset({"counts": (("z", "time", "y", "x"), counts.astype(np.uint16), {"units": "count"})})
    truth = xr.Dataset({"position": (("time", "dislocation", "yx"), true, {"units": "um"})})
    hidden = ["time", "y", "x"]
    groups = {"/raw": raw.assign_coords(own), "/dynamics": xr.Dataset(found), "/truth": truth}
    return xr.DataTree.from_dict({"/": root.drop_indexes(hidden), **groups})


def test_score__counts_what_was_put_in() -> None:
    tree = movie()
    found, truth = tree["dynamics"].dataset, tree["truth"].dataset
    one = score(found, truth, PIXEL)
    assert (one.true, one.matched, one.false) == (2 * FRAMES, 2 * FRAMES - 1, 0)
    assert one.rms == pytest.approx(1.0)
    assert identity_switches(found["frame"].values, found["track"].values, one.dislocation) == 2
    far = found.assign(y=found["y"] + 2.2 * PIXEL[0])  # 3.2 rows off
    assert score(far, truth, PIXEL)[:3] == (2 * FRAMES, 0, 2 * FRAMES - 1)
    drift = np.zeros((1, FRAMES, 2)) + [PIXEL[0], 0]
    assert score(found, truth.assign(drift=(("z", "time", "yx"), drift)), PIXEL).rms == pytest.approx(0, abs=1e-9)
    beyond = truth.assign(position=truth["position"] - [[1.0, 0]])  # the first is then 1 um higher, at the edge
    assert not in_field(beyond, tree["y"].values, tree["x"].values)[:, 0].any()
    rows = {quantity: (was, true) for quantity, was, true in movie_rows(tree, truth)}
    assert rows["changes of identity"] == ("2", "0")
    assert rows["dislocations in all frames, detected within 2 pixels"] == ("59", "60")
    assert "tracks" not in dict(row[:2] for row in movie_rows(movie(tracks=False), truth))


def test_export__tables_of_a_movie(tmp_path: Path) -> None:
    pytest.importorskip("dfxm_dask.dynamics.track")
    tree = movie()
    files = {path.name for path in export(tree, tmp_path, what=["tracks"])}
    assert files == {"detections.csv", "detections.units.json", "tracks_napari.csv"}
    napari = np.loadtxt(tmp_path / "tracks_napari.csv", delimiter=",", skiprows=1)
    assert napari.shape == (2 * FRAMES - 1, 4)
    assert (np.lexsort((napari[:, 1], napari[:, 0])) == np.arange(len(napari))).all()
    with open(tmp_path / "detections.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [float(row["y"]) for row in table] == tree["dynamics/y"].values.tolist()
    assert {int(row["track"]) for row in table} == {0, 1}


def test_figures__show_the_tracks_of_a_movie() -> None:
    tree = movie()
    page = draw_tracks(tree, 0, "a movie")
    check_page(page)
    frame, every = (axes for axes in page.axes if axes.images)
    lines = {line.get_color(): line.get_xydata() for line in every.lines}
    assert len(lines) == 2
    for track, path in enumerate(lines.values()):
        own = tree["dynamics/track"].values == track
        np.testing.assert_allclose(path[np.isfinite(path[:, 0])][:, 0], tree["dynamics/x"].values[own])
    assert sum(line.get_marker() == "o" for line in frame.lines) == 2
    check_page(draw_kymograph(tree, 0, "a movie"))
    assert draw_kymograph(movie(tracks=False), 0) is None
    assert draw_displacements(tree) is not None
    moves = displacements(columns_of(tree))
    assert len(moves) == 2 * (FRAMES - 1) - 2  # two of the frame that was missed
    small = moves[np.abs(moves[:, 0]) < 0.5]  # without the exchange of the tracks
    assert len(small) == len(moves) - 2
    np.testing.assert_allclose(sorted(set(np.round(small, 9).ravel())), [-0.025, 0, 0.005, 0.025], atol=1e-9)
    assert busiest_frame(np.array([0, 1, 1, 5, 5, 5]), 30) == 5
