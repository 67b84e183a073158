"""Measure the package against floors and peers, each figure as a ratio within one run.

``python scripts/benchmark.py maps`` creates the data and prints a Markdown table; ``simulate`` measures the simulator,
``networks`` the networks that distinguish weak from strong beam, ``beams`` the recipe of weak-beam images,
``components`` the component analyses, ``volume`` objects, boundaries and the comparison of a whole stack, ``strain``
the deformation from four reflections, ``scale`` plans and runs of terabytes without pixels, ``movies`` dislocations in
movies of full frames, ``view`` the page in a browser beside Panel, ``first_picture`` the three commands of a new user
beside darling, ``follow`` a scan that is reduced while it is written.
``--quick`` uses small frames: it tests that everything runs, but its numbers are not meaningful.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.beams import figure_beams_memory, figure_kernels, figure_network
from bench.components import figure_layers, figure_nica, figure_nmf, figure_pca, figure_projection
from bench.data import FULL, QUICK, Data
from bench.first_picture import figure_first_picture
from bench.following import FOLLOW, Live
from bench.limits import figure_graph, figure_memory
from bench.movies import Movie, figure_detection
from bench.networks import Networks, figure_speed, figure_worker
from bench.reducing import figure_darling, figure_errors, figure_fit, figure_fused, figure_maps, figure_workers
from bench.scale import Scale, figure_driver, figure_plan, figure_tasks
from bench.simulating import Work, figure_dynamical, figure_forward, figure_hard
from bench.storing import figure_ingest, figure_read, figure_slice
from bench.strain import Sets, figure_set
from bench.strain import figure_kernels as figure_strain_kernels
from bench.surviving import figure_commit
from bench.timing import Row, as_json, machine, table
from bench.view import VIEW, viewed
from bench.volumes import figure_scipy, figure_volume

MAPS: dict[str, Callable[[Data], list[Row]]] = {
    "read": figure_read,
    "slice": figure_slice,
    "ingest": figure_ingest,
    "fused": figure_fused,
    "errors": figure_errors,
    "maps": figure_maps,
    "darling": figure_darling,
    "workers": figure_workers,
    "fit": figure_fit,
    "memory": figure_memory,
    "graph": figure_graph,
    "commit": figure_commit,
}

SIMULATE: dict[str, Callable[[Work], list[Row]]] = {
    "forward": figure_forward,
    "dynamical": figure_dynamical,
    "hard": figure_hard,
}

NETWORKS: dict[str, Callable[[Networks], list[Row]]] = {
    "speed": figure_speed,
    "worker": figure_worker,
}

BEAMS: dict[str, Callable[[Data], list[Row]]] = {
    "kernels": figure_kernels,
    "network": figure_network,
    "memory": figure_beams_memory,
}

COMPONENTS: dict[str, Callable[[Data], list[Row]]] = {
    "pca": figure_pca,
    "projection": figure_projection,
    "nmf": figure_nmf,
    "nica": figure_nica,
    "layers": figure_layers,
}

VOLUME: dict[str, Callable[[bool], list[Row]]] = {
    "volume": figure_volume,
    "scipy": figure_scipy,
}

SCALE: dict[str, Callable[[Scale], list[Row]]] = {
    "plan": figure_plan,
    "driver": figure_driver,
    "tasks": figure_tasks,
}

MOVIES: dict[str, Callable[[Movie], list[Row]]] = {"detection": figure_detection}

STRAIN: dict[str, Callable[[Sets], list[Row]]] = {"kernels": figure_strain_kernels, "set": figure_set}

FIRST: dict[str, Callable[[Data], list[Row]]] = {"first_picture": figure_first_picture}

ON_STORES = {"maps": MAPS, "beams": BEAMS, "components": COMPONENTS, "first_picture": FIRST}


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maps = commands.add_parser("maps", help="from a beamline file to maps of moments and fits")
    maps.add_argument("--layers", type=int, default=6, help="layers of the stack (default: 6)")
    maps.add_argument("--darfix-python", metavar="PATH", help="Python of an environment with darfix, for its fit")
    simulate = commands.add_parser("simulate", help="simulated scans with known truth")
    simulate.add_argument("--geo-python", metavar="PATH", help="Python of an environment with dfxm-geo 3.0.0")
    networks = commands.add_parser("networks", help="patches per second and memory of the networks")
    beams = commands.add_parser("beams", help="weak-beam images and the mask of dislocations")
    beams.add_argument("--layers", type=int, default=2, help="layers for the network (default: 2)")
    components = commands.add_parser("components", help="Gram–Schmidt, principal and blind components")
    components.add_argument("--darfix-python", metavar="PATH", help="Python of an environment with darfix")
    components.set_defaults(layers=1)
    first = commands.add_parser("first_picture", help="processor time from a beamline file to a first picture")
    first.set_defaults(layers=1)
    volume = commands.add_parser("volume", help="objects, boundaries and comparison of a stack of 301 layers")
    movies = commands.add_parser("movies", help="dislocations in a movie of full frames, against decoding it")
    movies.add_argument("--frames", type=int, default=48, help="frames of the movie (default: 48)")
    movies.add_argument("--crops", type=Path, help="npz file with the counts c (frame, y, x) of a simulated movie")
    scale = commands.add_parser("scale", help="plans and runs of 10,000 layers without pixels")
    page = commands.add_parser("view", help="the page in a browser: times to the pixels, processor time, memory")
    page.add_argument("--layers", type=int, default=3, help="layers of the store (default: 3)")
    page.add_argument("--moves", type=int, default=2000, help="moves before memory is measured again (default: 2000)")
    page.add_argument("--panel-python", metavar="PATH", help="Python of an environment with panel and datashader")
    live = commands.add_parser("follow", help="a scan that is reduced while it is written")
    live.add_argument("--layers", type=int, default=60, help="layers that are followed (default: 60)")
    live.add_argument("--every", type=float, default=60.0, metavar="S", help="seconds a layer (default: 60)")
    live.add_argument("--pauses", type=int, default=10_000, help="pauses of the writer (default: 10000)")
    strain = commands.add_parser("strain", help="deformation, strain and dislocation density from four reflections")
    named = (
        (maps, MAPS),
        (simulate, SIMULATE),
        (networks, NETWORKS),
        (beams, BEAMS),
        (components, COMPONENTS),
        (first, FIRST),
        (volume, VOLUME),
        (scale, SCALE),
        (strain, STRAIN),
        (movies, MOVIES),
        (page, VIEW),
        (live, FOLLOW),
    )
    for command, figures in ((command, list(known)) for command, known in named):
        command.add_argument("--quick", action="store_true", help="small frames, to check that everything runs")
        command.add_argument("--work", type=Path, help="folder for data, kept for later runs (default: temporary)")
        command.add_argument("--repeats", type=int, default=3, help="number of runs; the shortest counts (default: 3)")
        command.add_argument("--only", nargs="+", choices=figures, metavar="NAME", help=f"some of {', '.join(figures)}")
        command.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


def measure(name: str, figure: Callable[[Any], list[Row]], data: Any) -> list[Row]:
    """The rows of a figure; a row with the reason if it cannot be measured."""
    begun = time.perf_counter()
    try:
        rows = figure(data)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")
        rows = [Row(name, "not measured", "", reason)]
    print(f"{name}: took {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    for row in rows:
        print(f"  {row.figure}: {row.measured}; {row.detail}", file=sys.stderr, flush=True)
    return rows


def run(options: argparse.Namespace, work: Path) -> None:
    """Measure, print the table and the machine, write the JSON file."""
    if options.command == "simulate":
        simulator = Work(work, options.quick, options.repeats, options.geo_python)
        rows = [row for name in options.only or SIMULATE for row in measure(name, SIMULATE[name], simulator)]
        return report(rows, f"best of {options.repeats}, 1 → 2 workers and preset hard once", options.json)
    if options.command == "networks":
        ways = Networks(options.quick, options.repeats)
        rows = [row for name in options.only or NETWORKS for row in measure(name, NETWORKS[name], ways)]
        return report(rows, "patches of 64 × 64 pixels, median of repeated runs", options.json)
    if options.command == "volume":
        rows = [row for name in options.only or VOLUME for row in measure(name, VOLUME[name], options.quick)]
        return report(rows, "two threads, once", options.json)
    if options.command == "scale":
        scale = Scale(work, options.quick)
        rows = [row for name in options.only or SCALE for row in measure(name, SCALE[name], scale)]
        return report(rows, "layers of 31 x 2160 x 2560 uint16 without pixels, once", options.json)
    if options.command == "movies":
        frames, shape = (16, (512, 768)) if options.quick else (options.frames, FULL)
        movie = Movie(work, frames, shape, options.crops)
        rows = [row for name in options.only or MOVIES for row in measure(name, MOVIES[name], movie)]
        return report(rows, "13 simulated dislocations a frame in noise, decoding twice, the rest once", options.json)
    if options.command == "view":
        page = viewed(work, options.quick, options.layers, options.moves, options.panel_python)
        rows = [row for name in options.only or VIEW for row in measure(name, VIEW[name], page)]
        return report(
            rows, f"{page.layers} layers of 31 x {page.shape[0]} x {page.shape[1]} uint16, once", options.json
        )
    if options.command == "follow":
        shape, earlier = (QUICK, (2, 6)) if options.quick else (FULL, (5, 60, 300))
        layers, every = (4, 6.0) if options.quick else (options.layers, options.every)
        live = Live(work, shape, layers, every, earlier, 200 if options.quick else options.pauses)
        rows = [row for name in options.only or FOLLOW for row in measure(name, FOLLOW[name], live)]
        return report(rows, f"layers of 31 x {shape[0]} x {shape[1]} uint16 in compressed frames, once", options.json)
    if options.command == "strain":
        sets = Sets(work, ((1, 256, 256),) if options.quick else ((1, 2048, 2048), (4, 1024, 1024)))
        rows = [row for name in options.only or STRAIN for row in measure(name, STRAIN[name], sets)]
        return report(rows, "four reflections, once; compiled kernels", options.json)
    memory_layers = (1, 2, 4) if options.quick else (1, 6, 30)
    shape = QUICK if options.quick else FULL
    folder = work / f"{shape[0]}x{shape[1]}"
    folder.mkdir(exist_ok=True)
    darfix, figures = getattr(options, "darfix_python", None), ON_STORES[options.command]
    data = Data(folder, shape, options.layers, memory_layers, options.repeats, darfix)
    rows = [row for name in options.only or figures for row in measure(name, figures[name], data)]
    if options.command == "first_picture":
        return report(rows, "150 frames of 118 x 314 uint16", options.json)
    title = f"one layer 31 x {shape[0]} x {shape[1]} uint16, {options.layers} layers, best of {options.repeats}"
    report(rows, title, options.json)


def report(rows: list[Row], title: str, file: Path | None) -> None:
    """Print the rows and the machine; optionally write them to a file."""
    about = machine()
    print(f"{table(rows)}\n\n{title}\n" + ", ".join(f"{k} {v}" for k, v in about.items()))
    if file:
        file.write_text(json.dumps({"rows": as_json(rows), "machine": about, "data": title}, indent=2))


def main() -> None:
    """Run in the given folder, or in a temporary one."""
    options = arguments()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        run(options, options.work.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="dfxm-benchmark-") as folder:
            run(options, Path(folder))


if __name__ == "__main__":
    main()
