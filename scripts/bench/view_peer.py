"""The same store in Panel with HoloViews: a frame and a map with sliders. Prints its address as JSON, then serves."""

from __future__ import annotations

import contextlib
import json
import sys

import datashader
import holoviews as hv
import numpy as np
import panel as pn
from holoviews.operation.datashader import rasterize

import dfxm_dask

hv.extension("bokeh")


def page() -> pn.Row:
    z, phi = pn.widgets.IntSlider(name="z", end=nz - 1), pn.widgets.IntSlider(name="phi", end=nphi - 1)
    bounds = (float(raw.x[0]), float(raw.y[0]), float(raw.x[-1]), float(raw.y[-1]))

    def frame(z: int, phi: int) -> hv.Image:
        return hv.Image(np.asarray(raw.counts[z, phi])[::-1].astype(np.float32), bounds=bounds, vdims="counts")

    def mapped(z: int) -> hv.Image:
        return hv.Image(np.asarray(maps.com_phi[z])[::-1], bounds=bounds, vdims="com_phi")

    left = rasterize(hv.DynamicMap(pn.bind(frame, z, phi))).opts(cmap="gray", width=600, height=340)
    right = rasterize(hv.DynamicMap(pn.bind(mapped, z))).opts(cmap="viridis", width=600, height=340)
    return pn.Column(pn.Row(z, phi), pn.Row(left, right))


if __name__ == "__main__":
    scan = dfxm_dask.open_scan(sys.argv[1], chunks=None)
    raw, maps = scan["raw"].to_dataset(), scan["rocking"].to_dataset()
    nz, nphi = raw.counts.shape[:2]
    with contextlib.redirect_stdout(sys.stderr):
        server = pn.serve(page, port=0, show=False, start=False)
    versions = f"panel {pn.__version__}, holoviews {hv.__version__}, datashader {datashader.__version__}"
    print(
        json.dumps({"url": f"http://localhost:{server.port}/", "z": nz, "phi": nphi, "versions": versions}), flush=True
    )
    server.start()
    server.io_loop.start()
