"""
A real rocking scan
===================

From a file of beamline ID03 to maps of one fatigued grain. The package darling distributes the
scan (extra ``demo``). The example works in a temporary folder and takes some seconds.
"""

# %%
# Find the file, and read it into a store. The file does not record the effective pixel
# size, so we assume 1 um: all lengths below are therefore in pixels.

from importlib.metadata import files
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np

import dfxm_dask

folder = Path(mkdtemp())
(scan,) = (Path(f.locate()) for f in files("darling-pypi") if f.name == "rocking.h5")
store = folder / "rocking.zarr"
dfxm_dask.ingest(scan, store, pixel_size=(1.0, 1.0))
dfxm_dask.run_recipe("maps", store)

# %%
# The store opens as an ``xarray.DataTree``. ``yincrease=False`` puts row 0 at the top, as
# the figures do.

tree = dfxm_dask.open_scan(store, chunks=None)
maps = tree["rocking"].to_dataset().isel(z=0).load()
fig, axes = plt.subplots(3, 1, figsize=(7, 9), layout="constrained")
for ax, name in zip(axes, ("total", "com_phi", "kam"), strict=True):
    maps[name].plot(ax=ax, yincrease=False, robust=True)
    ax.set_title("")
    ax.set_aspect("equal")

# %%
# Which pixels can we trust? The flags are bits: 1 unlit, 2 truncated, 16 multimodal.

lit = (maps.flags & 1) == 0
truncated = float((lit & ((maps.flags & 2) > 0)).sum() / lit.sum())
multimodal = float((lit & ((maps.flags & 16) > 0)).sum() / lit.sum())
low, high = np.nanquantile(maps.com_phi.where(lit), [0.05, 0.95])
print(f"lit: {float(lit.mean()):.0%} of the pixels")
print(f"of these truncated {truncated:.0%}, multimodal {multimodal:.0%}")
print(f"centre of mass: 90 % of the lit pixels within {1000 * (high - low):.0f} millidegree")

# %%
# A truncated curve does not return to its background within the scan, so its width is a
# lower bound. The curve of all pixels together shows the reason: the reflection fills a
# large part of the scan.

raw = tree["raw"].to_dataset()
curve = dfxm_dask.integrated_curve(raw).integrated_curve.load()
bright = maps.total.argmax(("y", "x"))
fig, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
raw.counts.isel(z=0, **bright).plot(ax=ax, label="brightest pixel")
curve.plot(ax=ax, label="mean of all pixels")
ax.set(title="", ylabel="detector counts")
ax.legend()

# %%
# The background decides about the width. The recipe estimates it from each pixel's own
# curve, which a pixel that diffracts during the whole scan never leaves. With the detector
# offset of 2560 counts instead, the curves are wider.

known = dfxm_dask.moments(raw, background=2560.0, lit_above=1000.0).isel(z=0).load()
widths = {
    "background from the scan": float(maps.std_phi.where(lit).median()),
    "background of 2560 counts": float(known.std_phi.where((known.flags & 1) == 0).median()),
}
for name, width in widths.items():
    print(f"{name}: median FWHM {2.355 * width:.3f} degree")

# %%
# Limits of these data: there is no weak beam. The curves are about as wide as the
# scan and the metal is heavily deformed, so the scan contains no image of single
# dislocations.

verdict = dfxm_dask.local_peak(raw, background=2560.0).load()
print(f"weak beam: {bool(verdict.has_weak_beam[0])}")
print(f"scatter of the peaks: {float(verdict.scatter[0]):.3f} half widths")
