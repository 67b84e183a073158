"""Results of characterise_boundaries in stacks with known walls, compared with the truth.

``PYTHONPATH=scripts python scripts/evaluate/boundaries.py MAPS.zarr...`` reads stacks of ``bench/boundary_stacks.py``
made with --maps-only and prints a line for each wall, then a summary. ``--layers 5`` cuts each stack into thin ones,
``--null 20`` shifts every layer of each stack at random, that number of times, after which no plane is true.

A wall counts if its jump along phi is above 1.5 millidegree and its mean trace in a layer at least 5 um. Normals count
as located by the step unless ``reason`` contradicts. Thresholds were chosen on seeds below 7300.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from dfxm_dask.boundaries import characterise_boundaries
from dfxm_dask.boundaries.step import FLAG

READ = {
    "beams": (
        "weak_enhanced",
        "weak_isolated",
        "weak_minus",
        "weak_plus",
        "peak_local",
        "defects",
        "stands_out",
        "lit",
    ),
    "rocking": ("com_phi", "com_chi"),
}
NEAR = 15.0, 1.5  # degree and um within which a plane matches a wall
JUMP, TRACE = 1.5e-3, 5.0  # degree; um in a layer
REACH = (1.5, 10.0), 0.5, 12.0  # of line families: spacing, |f_z| in 1/um, period along the trace in um
RIGHT_LINE, RIGHT_SPACING = 5.0, 0.1
RADIUS_95 = 1.62  # of a round Gaussian, over that of 68 %
TOLD = ("normal", "normal_error", "centre", "reason", "step", "step_error", "step_width", "thickness")
MARKED = FLAG["no_step"] | FLAG["faint_step"]
UNPLACED = FLAG["no_step"] | FLAG["turned"] | FLAG["weak_beam_place"]


def maps_of(path: Path) -> tuple[xr.Dataset, dict[str, Any]]:
    """Input maps of a stack, and the truth."""
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    maps = xr.Dataset({n: tree[g][n] for g, names in READ.items() for n in names if g in tree and n in tree[g]})
    truth = json.loads(path.with_name(path.name.replace("_maps.zarr", ".json")).read_text())
    return maps.load(), {n: np.array(v, float) if isinstance(v, list) else v for n, v in truth.items() if n != "along"}


def rolled(maps: xr.Dataset, seed: int) -> xr.Dataset:
    """The maps with every layer shifted independently along y and x."""
    rng = np.random.default_rng(seed)
    by = [tuple(int(rng.integers(maps.sizes[d])) for d in ("y", "x")) for _ in range(maps.sizes["z"])]
    made = {}
    for name, values in maps.data_vars.items():
        layers = [np.roll(a, shift, (0, 1)) for a, shift in zip(values.values, by, strict=True)]
        made[name] = (values.dims, np.stack(layers), values.attrs)
    return xr.Dataset(made, maps.coords)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Angle between two axes, degree."""
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), abs(a @ b))))


def traces(truth: dict[str, Any], maps: xr.Dataset, wall: int) -> float:
    """Mean trace of a true wall in a layer, um: where it is lit, on its own side of a junction."""
    points = truth.get("line_point")
    normal, origin = truth["normal"][wall], truth["origin"][wall]
    if points is None or not len(points):
        return float(np.ptp(maps.y.values))
    close = points[np.abs((points - origin) @ normal) < 0.3]
    along = np.array([-normal[1], normal[0], 0.0])
    along /= np.linalg.norm(along)
    lengths = []
    for z in maps.z.values:
        mine = close[np.abs(close[:, 2] - z) < 0.75] @ along
        lengths.append(len(np.unique(np.floor(mine / 6.0))) * 6.0)
    return float(np.mean(lengths))


def rows_of(
    found: xr.Dataset, truth: dict[str, Any], maps: xr.Dataset
) -> tuple[list[dict[str, Any]], list[int], list[tuple[float, float]]]:
    """A row for each true wall, the numbers of false planes, and dihedral angles with their errors."""
    normal, origin = (truth.get(n, np.zeros((0, 3))) for n in ("normal", "origin"))
    count = found.sizes["boundary"]
    turn = np.array([[angle(n, m) for m in normal] for n in found.normal.values]).reshape(count, len(normal))
    away = np.array([[abs((c - o) @ m) for m, o in zip(normal, origin, strict=True)] for c in found.centre.values])
    cost = np.where((turn < NEAR[0]) & (away.reshape(turn.shape) < NEAR[1]), turn + away.reshape(turn.shape), 1e6)
    pairs = {int(j): int(k) for k, j in zip(*linear_sum_assignment(cost), strict=True) if cost[k, j] < 1e6}
    rows = []
    for j in range(len(normal)):
        jump = float(np.rad2deg(truth["jump"][j][1])) if "jump" in truth else np.nan
        row: dict[str, Any] = {"wall": j, "jump": jump, "trace": traces(truth, maps, j), "seen": j in pairs}
        if j in pairs:
            k = pairs[j]
            row |= {
                "turn": turn[k, j],
                "said": float(found.normal_error[k]),
                "away": float(away[k, j]),
                "away_said": float(found.offset_error[k]),
                "step": float(found.step[k]) if "step" in found else np.nan,
                "step_said": float(found.step_error[k]) if "step" in found else np.nan,
                "width": float(found.step_width[k]),
                "reason": int(found.reason[k]),
                "lines": lines_of(found, truth, k, j),
            }
        rows.append(row)
    return rows, [k for k in range(count) if k not in pairs.values()], dihedrals_of(found, truth, pairs)


def lines_of(found: xr.Dataset, truth: dict[str, Any], k: int, j: int) -> list[dict[str, float]]:
    """A row for each true family of lines of a wall within reach, with the nearest family found."""
    if "set_boundary" not in truth:
        return []
    normal = truth["normal"][j]
    along = np.array([-normal[1], normal[0], 0.0]) / np.hypot(normal[0], normal[1])
    rows = []
    reported = [m for m in range(found.sizes["family"]) if np.isfinite(found.line.values[k, m, 0])]
    for s in np.flatnonzero(truth["set_boundary"] == j):
        line, spacing = truth["set_line"][s], float(truth["set_spacing"][s])
        across = np.cross(normal, line)
        by_trace, by_height = abs(across @ along) / spacing, abs(across[2]) / spacing
        (low, high), most_z, longest = REACH
        if not (low <= spacing <= high and by_height < most_z and by_trace > 1 / longest):
            continue
        near = min(reported, key=lambda m: angle(found.line.values[k, m], line), default=None)
        row = {"spacing": spacing, "turn": np.nan, "said": np.nan, "found": np.nan, "off": np.nan, "twice": False}
        if near is not None and angle(found.line.values[k, near], line) < 20.0:
            reported.remove(near)
            row |= {
                "turn": angle(found.line.values[k, near], line),
                "said": float(found.line_error[k, near]),
                "found": float(found.spacing[k, near]),
                "off": float(found.spacing_error[k, near]),
                "twice": bool(found.spacing_overtone[k, near]),
            }
        rows.append(row)
    rows += [
        {
            "spacing": np.nan,
            "turn": 90.0,
            "said": np.nan,
            "found": float(found.spacing[k, m]),
            "off": np.nan,
            "twice": False,
        }
        for m in reported
    ]
    return rows


def dihedrals_of(found: xr.Dataset, truth: dict[str, Any], pairs: dict[int, int]) -> list[tuple[float, float]]:
    """Errors of dihedral angles of junctions of true walls, and their stated errors; degree."""
    wall = {k: j for j, k in pairs.items()}
    out = []
    for n in range(found.sizes.get("junction", 0)):
        numbers = found.junction_boundary.values[n]
        used = numbers >= 0
        if not used.any() or not set(numbers[used]) <= set(wall):
            continue
        walls = truth["normal"][[wall[int(k)] for k in numbers[used]]]
        line = np.linalg.svd(walls)[2][2]
        line *= np.sign(line @ found.junction_direction.values[n])
        half = np.cross(walls, line)
        half *= np.sign((half * found.junction_along.values[n][used]).sum(axis=1))[:, None]
        first = half[0] / np.linalg.norm(half[0])
        azimuth = np.rad2deg(np.arctan2(half @ np.cross(line, first), half @ first))
        off = (found.dihedral.values[n][used] - np.diff(azimuth, append=azimuth[0]) + 180) % 360 - 180
        out += list(zip(np.abs(off), found.dihedral_error.values[n][used], strict=True))
    return out


def share(flags: list[bool]) -> str:
    """A share with its numbers."""
    return f"{sum(flags)} of {len(flags)}" + (f" ({100 * sum(flags) / len(flags):.0f} %)" if flags else "")


def summary(rows: list[dict[str, Any]], false: list[int]) -> list[str]:
    """Figures of all walls together."""
    counted = [r for r in rows if not abs(r["jump"]) < JUMP and r["trace"] >= TRACE]
    placed = [r for r in rows if r["seen"] and not r["reason"] & UNPLACED]
    beside = [r for r in rows if r["seen"] and r["reason"] & UNPLACED]
    out = [
        f"walls that count found: {share([r['seen'] for r in counted])}; planes that are not true: {len(false)}, "
        f"unmarked {sum(not reason & MARKED for reason in false)}"
    ]
    for name, group in (("by the step", placed), ("by the weak beam", beside)):
        if group:
            turn, said = (np.array([r[n] for r in group]) for n in ("turn", "said"))
            away, off = (np.array([r[n] for r in group]) for n in ("away", "away_said"))
            out.append(
                f"{len(group)} normals {name}: median {np.median(turn):.3f}, 90 % {np.quantile(turn, 0.9):.2f}, worst "
                f"{turn.max():.2f} degree; within the stated 68 %: {100 * np.mean(turn <= said):.0f} %, 95 %: "
                f"{100 * np.mean(turn <= RADIUS_95 * said):.0f} %; median stated {np.median(said):.2f}; offset median "
                f"{np.median(away):.3f}, 90 % {np.quantile(away, 0.9):.2f} um, within one stated error "
                f"{100 * np.mean(away <= off):.0f} %, two {100 * np.mean(away <= 2 * off):.0f} %"
            )
    if placed:
        z = np.array([abs(abs(r["step"]) - abs(r["jump"])) / r["step_said"] for r in placed])
        out.append(f"steps within one stated error {100 * np.mean(z <= 1):.0f} %, two {100 * np.mean(z <= 2):.0f} %")
    sets = [s for r in rows if r["seen"] for s in r["lines"]]
    real, told = [s for s in sets if np.isfinite(s["spacing"])], [s for s in sets if np.isfinite(s["turn"])]

    def spaced(s: dict[str, float]) -> bool:
        times = (1.0, 2.0) if s["twice"] else (1.0,)
        return any(abs(s["found"] * t / s["spacing"] - 1) < RIGHT_SPACING for t in times) and s["turn"] < RIGHT_LINE

    directed, stated = [s for s in real if s["turn"] < RIGHT_LINE], [s for s in told if np.isfinite(s["found"])]
    if sets:
        good = [s for s in stated if spaced(s) and abs(s["found"] / s["spacing"] - 1) < RIGHT_SPACING]
        out += [
            f"{len(real)} families in reach: direction reported and right {share([s in directed for s in real])}, "
            f"spacing {share([bool(np.isfinite(s['found'])) and spaced(s) for s in real])}",
            f"of reported: direction right {share([s['turn'] < RIGHT_LINE for s in told])}, spacing "
            f"{share([spaced(s) for s in stated])}",
            f"within the stated error: direction {share([s['turn'] <= s['said'] for s in directed])}, spacing "
            f"{share([abs(s['found'] - s['spacing']) <= s['off'] for s in good])}",
        ]
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="+", type=Path)
    parser.add_argument("--layers", type=int, help="number of layers of the stacks into which each stack is cut")
    parser.add_argument("--null", type=int, default=0, help="random rolls of each stack")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    false: list[int] = []
    dihedrals: list[tuple[float, float]] = []
    for path in asked.stacks:
        maps, truth = maps_of(path)
        depth = asked.layers or maps.sizes["z"]
        for low in range(0, maps.sizes["z"] - depth + 1, depth):
            cut = maps.isel(z=slice(low, low + depth))
            for turn in range(max(asked.null, 1)):
                begun = time.perf_counter()
                found = characterise_boundaries.gather(rolled(cut, turn) if asked.null else cut, replicates=50)
                seconds = time.perf_counter() - begun
                if asked.null:
                    made, wrong, angles = [], list(range(found.sizes["boundary"])), []
                else:
                    made, wrong, angles = rows_of(found, truth, cut)
                dihedrals += angles
                print(f"{path.name} {low}:{low + depth} {found.sizes['boundary']} planes, {seconds:.1f} s", flush=True)
                for r in made:
                    plain = " ".join(f"{n} {v:.3f}" for n, v in r.items() if isinstance(v, float))
                    print(
                        "   ",
                        r["wall"],
                        "found" if r["seen"] else "missed",
                        plain,
                        "reason",
                        r.get("reason"),
                        flush=True,
                    )
                    for s in r.get("lines", ()):
                        print("        line", " ".join(f"{n} {v:.2f}" for n, v in s.items()))
                for k in wrong:
                    one = found.isel(boundary=k)
                    words = [f"{n} {np.round(one[n].values, 3).tolist()}" for n in TOLD]
                    print("    not true:", ", ".join(words), flush=True)
                rows += made
                false += found.reason.values[wrong].tolist()
    print("\n".join(summary(rows, false)))
    if dihedrals:
        off, said = np.array(dihedrals).T
        print(
            f"{len(off)} dihedral angles: median {np.median(off):.2f} degree, within the stated error "
            f"{100 * np.mean(off <= said):.0f} %, two {100 * np.mean(off <= 2 * said):.0f} %"
        )


if __name__ == "__main__":
    main()
