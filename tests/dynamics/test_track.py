"""Tracks of simulated walks, scored against the truth by an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from walks import Walks, scores, walks

from dfxm_dask.dynamics.linking import margins, matching
from dfxm_dask.dynamics.track import napari_tracks, track

COLUMNS = ("frame", "time", "y", "x", "y_error", "x_error", "sign")


def tracks_of(table: dict[str, np.ndarray], **options: str) -> dict[str, np.ndarray]:
    return track.finish(track.kernel(*(table[n] for n in COLUMNS), **options))


def scored(truth: Walks, **options: str) -> dict[str, float]:
    found = tracks_of(truth.table, **options)
    return scores(truth, found["track"], found["track_other"])


@pytest.fixture(scope="module")
def crowd() -> tuple[Walks, dict[str, np.ndarray]]:
    """Five dislocations whose images overlap."""
    truth = walks(17, count=5, frames=120, spacing=1.5, field=(3.5, 8.0))
    return truth, tracks_of(truth.table)


def test_track__follows_separate_walks_without_a_switch() -> None:
    score = scored(walks(101, count=6, frames=120, spacing=3.0))
    assert score["switches"] == 0
    assert score["tracks"] == 6
    assert score["idf1"] > 0.98


def test_track__identities_survive_merged_images(crowd: tuple[Walks, dict[str, np.ndarray]]) -> None:
    truth, found = crowd
    assert truth.overlapping > 0.1
    ours = scores(truth, found["track"], found["track_other"])
    published = scored(truth, method="published")
    assert ours["idf1"] > 0.97
    assert ours["idf1"] > published["idf1"]
    assert ours["switches"] < published["switches"]
    merged = np.array([len(who) > 1 for who in truth.owners])
    assert (merged & (found["track_other"] >= 0)).sum() > 0.5 * merged.sum()
    assert (~merged & (found["track_other"] >= 0)).sum() <= 2


def test_track__order_of_rows_does_not_matter(crowd: tuple[Walks, dict[str, np.ndarray]]) -> None:
    truth, found = crowd
    order = np.random.default_rng(0).permutation(len(truth.table["y"]))
    again = tracks_of({n: v[order] for n, v in truth.table.items()})
    for name, values in again.items():
        rows = order if len(values) == len(order) else slice(None)
        np.testing.assert_array_equal(values, found[name][rows], err_msg=name)


def test_track__tables_agree_with_the_detections(crowd: tuple[Walks, dict[str, np.ndarray]]) -> None:
    truth, found = crowd
    frame = truth.table["frame"]
    for k in range(len(found["track_first"])):
        alone = (found["track"] == k) & (found["track_other"] < 0)
        own = frame[(found["track"] == k) | (found["track_other"] == k)]
        assert found["track_first"][k] == own.min()
        assert found["track_last"][k] == own.max()
        assert found["track_detections"][k] == alone.sum()
        assert found["track_gaps"][k] == np.ptp(own) + 1 - len(own)
        assert len(set(own)) == len(own)
        assert found["track_y"][k] == pytest.approx(truth.table["y"][alone].mean())


def test_track__irregular_times_lost_frames_and_visitors() -> None:
    truth = walks(7, count=6, frames=150, irregular=True, dropped=0.1, visits=0.5)
    assert scored(truth)["switches"] == 0
    assert scored(truth)["idf1"] > 0.97


def test_track__false_detections_are_no_tracks() -> None:
    found = tracks_of(walks(3, count=0, frames=200, false=0.05).table)
    assert len(found["track_first"]) == 0
    assert (found["track"] == -1).all()
    assert (found["link_reason"] == 8).all()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_track__few_detections_are_no_tracks(rows: int) -> None:
    table = {n: v[:rows] for n, v in walks(1, count=1, frames=4, false=0).table.items()}
    for method in ("evidence", "published"):
        assert (tracks_of(table, method=method)["track"] == -1).all()


def test_track__a_detection_without_position_has_no_track() -> None:
    table = walks(5, count=2, frames=20, false=0, miss=0).table
    table["y"] = table["y"].copy()
    table["y"][7] = np.nan
    found = tracks_of(table)
    assert found["track"][7] == -1
    assert found["link_reason"][7] == 16
    assert len(found["track_first"]) == 2


def test_matching__agrees_with_all_assignments() -> None:
    rng = np.random.default_rng(2)
    pairs = [(i, j) for i in range(3) for j in range(3)]
    end, start = np.array(pairs).T
    weight = rng.uniform(0.1, 1, 9)

    def best(without: int | None = None) -> float:
        sums = [0.0]
        for chosen in range(512):
            rows = [k for k in range(9) if chosen >> k & 1 and k != without]
            if len({pairs[k][0] for k in rows}) == len(rows) == len({pairs[k][1] for k in rows}):
                sums.append(weight[rows].sum())
        return max(sums)

    chosen = matching(end, start, weight)
    assert weight[chosen].sum() == pytest.approx(best())
    least = margins(end, start, weight, chosen, 3)
    for k, margin in zip(chosen, least, strict=True):  # exchanges of two pairs bound the exact margin from above
        assert margin >= best() - best(k) - 1e-12


def test_napari_tracks__sorted_rows_and_both_tracks_of_a_merged_image() -> None:
    points = napari_tracks(
        np.array([2, 0, 1]), np.array([5.0, 3.0, 4.0]), np.zeros(3), np.array([0, 0, 1]), np.array([1, -1, -1])
    )
    assert points[:, :3].tolist() == [[0, 0, 3], [0, 2, 5], [1, 1, 4], [1, 2, 5]]


def test_track__one_dislocation_alone_gives_one_track() -> None:
    """A single walk must not compete with itself, and a table of every third frame gives the same track."""
    for seed in (0, 6):  # seed 6: every detection was once a merged image of chains of the same walk
        rng = np.random.default_rng(987000 + seed)
        place = np.array([5.0, 9.0]) + 0.02 * rng.normal(size=(60, 2))
        walk = np.zeros(2)
        for k in range(60):
            walk = walk * np.exp(-1 / 8) + 0.35 * np.sqrt(-np.expm1(-1 / 4) if k else 1.0) * rng.normal(size=2)
            place[k] += walk
        frame, error = np.arange(60), np.full(60, 0.02)
        for number in (frame, 3 * frame + 100):
            found = track.finish(track.kernel(number, 0.25 * frame, *place.T, error, error))
            assert found["track_detections"].tolist() == [60]
