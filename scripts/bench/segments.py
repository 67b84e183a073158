"""One image stack of a network of many dislocation segments, on one worker and on two.

    python scripts/bench/segments.py WORK --segments 8000 --layers 4 --shape 512,512

Writes a periodic network in the format of ParaDiS, simulates the preset ``network`` from it with the command line, and
compares the time with the floor: segments x voxels x time of one segment at one point in the direct sum. Junctions
have Burgers vectors of length sqrt(2) b, and lines cross the faces of the cell.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from dfxm_dask.optics.defects.network import network_field
from dfxm_dask.optics.defects.paradis import read_network
from dfxm_dask.optics.defects.segments import accumulate_segments
from dfxm_dask.phantoms.contents import CORE
from dfxm_dask.phantoms.phantom import coordinates
from dfxm_dask.phantoms.presets import build

BURGERS = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
ARMS = 16  # segments of each of the three lines between two junctions
LENGTH = 2.8634e-4  # um


def written(path: Path, segments: int, cell: np.ndarray, seed: int) -> Path:
    """A ParaDiS file of junctions at random: pairs of nodes with three curved lines, b1 + b2 + b3 = 0."""
    rng = np.random.default_rng(seed)
    nodes: list[np.ndarray] = []
    arms: list[list[tuple[int, np.ndarray]]] = []

    def node(position: np.ndarray) -> int:
        nodes.append(np.mod(position, cell) - cell / 2)
        arms.append([])
        return len(nodes) - 1

    for _ in range(round(segments / (3 * ARMS))):
        start = rng.uniform(size=3) * cell
        along = rng.normal(size=3)
        along *= rng.uniform(1.0, 4.0) / np.linalg.norm(along)
        one, other = BURGERS[rng.choice(6, 2, replace=False)]
        other = -other if one @ other > 0.1 else other  # reactions that do not raise the energy: b or sqrt(2) b
        b = [one, other, -one - other]
        ends = node(start), node(start + along)
        for one in b:
            bow, before = rng.normal(size=3) * 0.5, ends[0]
            for k in range(1, ARMS + 1):
                part = k / ARMS
                after = ends[1] if k == ARMS else node(start + part * along + 4 * part * (1 - part) * bow)
                arms[before].append((after, one))
                arms[after].append((before, -one))
                before = after
    text = ["dataFileVersion = 4", "numFileSegments = 1"]
    for name, sign in (("minCoordinates", -0.5), ("maxCoordinates", 0.5)):
        text.append(f"{name} = [ {' '.join(f'{v:.6f}' for v in sign * cell / LENGTH)} ]")
    text += [f"nodeCount = {len(nodes)}", "dataDecompType = 2", "dataDecompGeometry = [ 1 1 1 ]", "nodalData ="]
    for k, (position, some) in enumerate(zip(nodes, arms, strict=True)):
        text.append(f" 0,{k} {' '.join(f'{v:.6f}' for v in position / LENGTH)} {len(some)} 0")
        text += [f"   0,{to} {' '.join(f'{v:.8f}' for v in b)}\n      0 0 0" for to, b in some]
    path.write_text("\n".join(text) + "\n")
    return path


def main() -> None:
    """Write the file, simulate, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--segments", type=int, default=8000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split(","))), default=(512, 512))
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    # The cell encloses the frame in the axes of the crystal, which are turned against those of the store.
    file = written(asked.work / "network.data", asked.segments, np.array([70.0, 70.0, 70.0]), asked.seed)
    begun = time.perf_counter()
    network = read_network(file, burgers_length=LENGTH, core=CORE)
    told: dict[str, float] = {"read_s": time.perf_counter() - begun, "segments": len(network.segments)}
    lengths = np.unique(np.linalg.norm(network.burgers, axis=1).round(7)) / LENGTH
    told["burgers_lengths"] = lengths.round(3).tolist()
    (phantom,) = build("network", shape=asked.shape, layers=asked.layers, network=file)
    y, x = coordinates(phantom)
    rng = np.random.default_rng(0)
    points = [rng.uniform(v[0], v[-1], 4000) for v in (x, y)] + [np.full(4000, 1.0)]
    net = phantom.scene.network
    far = network_field(net, *points, 0.334)
    direct = np.zeros_like(far)
    accumulate_segments(*points, net.table, 0.334, net.core, direct)
    begun = time.perf_counter()
    accumulate_segments(*points, net.table, 0.334, net.core, direct)
    each = (time.perf_counter() - begun) / (len(net.table) * 4000)
    told |= {"direct_ns": 1e9 * each, "rows_with_images": len(net.table)}
    voxels = asked.layers * asked.shape[0] * asked.shape[1] * phantom.nodes
    told["floor_s"] = len(network.segments) * voxels * each
    for workers in (1, 2):
        store = asked.work / f"network-{workers}.zarr"
        shutil.rmtree(store, ignore_errors=True)
        size = ["--layers", str(asked.layers), "--shape", ",".join(map(str, asked.shape)), "--workers", str(workers)]
        command = [sys.executable, "-c", "from dfxm_dask.cli import main; main()", "simulate", "network", str(store)]
        begun = time.perf_counter()
        subprocess.run([*command, "--network", str(file), *size], check=True)
        told[f"workers_{workers}_s"] = time.perf_counter() - begun
    print(json.dumps(told))


if __name__ == "__main__":
    main()
