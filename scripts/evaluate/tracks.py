"""Tracks of simulated walks against the truth: identity switches, IDF1 and MOTA, beside the published filter.

``python scripts/evaluate/tracks.py --seeds 101 120`` prints, for each kind of movie, the median and the worst seed.
The tables have 13 dislocations in 800 frames with the localisation noise, spread and memory of the preset
``movie_long``, 1 % of missed and 0.05 false detections a frame. ``spacing`` is the least distance of rest positions in
widths of an image (0.4 by 1.0 um); images closer than one width are one detection.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from walks import scores, walks

from dfxm_dask.dynamics.track import track

KINDS: dict[str, dict[str, float | bool]] = {
    "spacing 3 widths": {},
    "spacing 6 widths": {"spacing": 6.0},
    "overlaps, spacing 1.5 widths": {"spacing": 1.5},
    "overlaps, with signs": {"spacing": 1.5, "signs": True},
    "irregular times, 10 % of frames lost, half visit": {"irregular": True, "dropped": 0.1, "visits": 0.5},
    "10 % missed, 1 false a frame": {"miss": 0.1, "false": 1.0},
    "60 frames, 5 dislocations": {"frames": 60, "count": 5},
}
COLUMNS = ("frame", "time", "y", "x", "y_error", "x_error", "sign")


def evaluate(kind: dict[str, float | bool], method: str, seeds: range) -> None:
    """Print one row of the table."""
    rows = []
    for seed in seeds:
        truth = walks(seed, **kind)
        started = time.process_time()
        found = track.finish(track.kernel(*(truth.table[n] for n in COLUMNS), method=method))
        spent = time.process_time() - started
        score = scores(truth, found["track"], found["track_other"])
        rows.append((truth.overlapping, score["switches"], score["idf1"], score["mota"], score["tracks"], spent))
    overlap, switches, idf1, mota, tracks, spent = np.array(rows).T
    many = overlap >= 0.1 if (overlap >= 0.1).any() else overlap >= 0
    print(
        f"| {method} | {np.median(overlap):.2f} | {np.median(switches):.0f} / {switches.max():.0f} "
        f"| {np.median(idf1):.3f} / {idf1.min():.3f} | {np.median(idf1[many]):.3f} / {idf1[many].min():.3f} "
        f"({many.sum()}) | {np.median(mota):.3f} | {np.median(tracks):.0f} ({tracks.min():.0f}-{tracks.max():.0f}) "
        f"| {np.median(spent):.2f} |",
        flush=True,
    )


def main() -> None:
    """Evaluate all kinds of movies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs=2, type=int, default=(101, 120))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    given = parser.parse_args()
    for name in given.kinds:
        print(f"{name}: overlap | switches | IDF1 | IDF1 with overlaps (seeds) | MOTA | tracks | CPU s")
        for method in ("evidence", "published"):
            evaluate(KINDS[name], method, range(given.seeds[0], given.seeds[1] + 1))


if __name__ == "__main__":
    main()
