"""Burgers vectors from maps of the centre of mass, on simulated phi-chi scans of one dislocation.

    python scripts/evaluate/burgers_from_curves.py 20 38

Arguments: first seed, and the seed after the last one. Each line: seed, whether the true candidate is in the class of
the best, temper, error of the position (um) along y and x, and this error over the stated one.
"""

from __future__ import annotations

import sys

import numpy as np

import dfxm_dask
from dfxm_dask.identify.catalogue import catalogue, on_axes
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.phantoms.lazy_scan import lazy_scan
from dfxm_dask.phantoms.presets import build

MOMENTS = {"background": 106.3, "noise_cut": 5}


def main() -> None:
    """Print one line a seed, and the summary."""
    right, off = [], []
    for seed in range(*map(int, sys.argv[1:3])):
        phantom = build("isolated_phi_chi", seed=seed)[0]
        scan = lazy_scan(phantom)["raw"].to_dataset().compute()
        scan["noise"] = ("z", np.full(scan.sizes["z"], 9.0, np.float32), {"units": "count"})
        maps = dfxm_dask.moments(scan, **MOMENTS).merge(dfxm_dask.moment_errors(scan, gain=1 / 2.14, **MOMENTS))
        crystal = Lattice(**phantom.crystal["lattice"], hkl=tuple(phantom.crystal["hkl"]))
        found = dfxm_dask.burgers_from_curves(maps.compute(), lattice=crystal, sheet=0.2).compute()
        line, some = phantom.scene.lines[0], on_axes(catalogue(), crystal)
        apart = [
            np.linalg.norm(some.burgers - s * line["burgers"], axis=1) / np.linalg.norm(line["burgers"])
            + np.linalg.norm(some.line - s * line["line"], axis=1)
            for s in (1, -1)
        ]
        k = int(np.argmin(np.minimum(*apart)))
        right.append(bool(found["curve_class"][k] == 0))
        height = (phantom.z[0] - line["position"][2]) / line["line"][2]
        true = (line["position"] + height * line["line"])[[1, 0]]
        error = found["curve_position"].values[k] - true
        off.append(error / found["curve_position_error"].values[k])
        print(seed, right[-1], round(float(found["curve_temper"][0]), 1), error.round(3), off[-1].round(1), flush=True)
    print("right", np.mean(right), "within one error", np.nanmean(np.abs(off)[~np.isnan(off)] < 1))


if __name__ == "__main__":
    main()
