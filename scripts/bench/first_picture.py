"""Processor time from a beamline file to a first picture: three commands, beside the six lines of darling.

Kernels of this package are compiled once for a machine, so its first round is not counted. darling compiles its
kernels in every process.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import subprocess
import sys
from pathlib import Path

from bench.data import REAL_OFFSET, Data
from bench.timing import Row, at_most

DARLING = """
import sys, darling, numpy as np, matplotlib.pyplot as plt
scan = darling.DataSet(sys.argv[1])
scan.load_scan("1.1")
scan.subtract(np.uint16(sys.argv[2]))
mean, covariance = scan.moments()
plt.imshow(mean[..., 0] if mean.ndim > 2 else mean)
plt.savefig(sys.argv[3])
"""
COMMAND = "from dfxm_dask.cli import main; main()"


def processor_seconds(folder: Path, *words: object) -> float:
    """Processor time of a Python process and of all that it starts, in user and system mode."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = spent()
    command = [sys.executable, "-P", "-c", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env={**environment, "MPLBACKEND": "agg"}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return spent() - before


def figure_first_picture(data: Data) -> list[Row]:
    """Ingest, maps and figures of the real rocking scan, and the same picture with darling, in turns."""
    files = importlib.metadata.files("darling-pypi") or []
    scan = next(f.locate() for f in files if f.name == "rocking.h5")
    ours: list[list[float]] = []
    theirs: list[float] = []
    for turn in range(data.repeats + 1):
        store, figures = data.fresh("first.zarr"), data.fresh("first_figures")
        commands = (
            ("ingest", scan, store, "--scan", "1.1", "--pixel-size", "0.65,0.65"),
            ("run", "maps", store),
            ("figures", store, figures),
        )
        spent = [processor_seconds(data.work, COMMAND, *words) for words in commands]
        if not (figures / "com_phi.png").exists():
            raise RuntimeError("there is no picture of the centre of mass")
        if turn:
            ours.append(spent)
            theirs.append(processor_seconds(data.work, DARLING, scan, int(REAL_OFFSET), "darling.png"))
    best = min(ours, key=sum)
    parts = ", ".join(f"{name} {part:.1f}" for name, part in zip(("ingest", "run maps", "figures"), best, strict=True))
    detail = (
        f"{sum(best):.1f} s of processor time in 3 commands ({parts}); darling"
        f" {importlib.metadata.version('darling-pypi')} {min(theirs):.1f} s; warm, least of {data.repeats}"
    )
    return [at_most("first picture of rocking.h5 / darling", sum(best) / min(theirs), 1.0, "x", detail)]
