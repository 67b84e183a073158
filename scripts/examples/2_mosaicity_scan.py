"""
A real mosaicity scan
=====================

Two layers of a scan over two axes (phi and chi), beamline ID03: tilts along both axes, mosaicity,
and the distribution of orientations. The package darling distributes the scan (extra ``demo``).
"""

# %%
# Two entries of one file become the two layers of one store. The file records no position
# of the layers and no effective pixel size, so we assume both.

from importlib.metadata import files
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np

import dfxm_dask

folder = Path(mkdtemp())
(scan,) = (Path(f.locate()) for f in files("darling-pypi") if f.name == "mosa_scan.h5")
store = folder / "mosa.zarr"
dfxm_dask.ingest(scan, store, scan="1.1,2.1", z=[0.0, 1.0], pixel_size=(1.0, 1.0))
dfxm_dask.run_recipe("maps", store)
tree = dfxm_dask.open_scan(store, chunks=None)
maps = tree["rocking"].to_dataset().load()
print(dict(tree["raw"].counts.sizes))

# %%
# The scan has 62 × 43 positions, most of them dark. Noise in 2666 frames would outweigh a
# reflection of a few frames, so the recipe gives zero weight to counts less than five
# standard deviations above the background.

lit = (maps.flags & 1) == 0
for axis in ("chi", "phi"):
    low, high = np.nanquantile(maps[f"com_{axis}"].where(lit), [0.05, 0.95])
    step = abs(float(tree[axis][1] - tree[axis][0]))
    print(f"{axis}: 90 % of the centres of mass within {high - low:.2f} degree, step {step:.2f} degree")
fig, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
for row, axis in zip(axes, ("chi", "phi"), strict=True):
    for ax, z in zip(row, (0, 1), strict=True):
        maps[f"com_{axis}"].isel(z=z).plot(ax=ax, yincrease=False, robust=True)
        ax.set(title=f"layer {z + 1} of 2", aspect="equal")

# %%
# Mosaicity shows both tilts as one colour. Equal distances in tilt appear about equally
# distant to the eye. The recipe gives all scans of the same range the same colours; here
# the sample fills a small part of that range, so the colours are spread over the tilts
# that occur. Grey pixels are beyond the key.

tilts = [maps[f"com_{axis}"].where(lit) for axis in ("chi", "phi")]
ranges = [np.nanquantile(tilt, [0.005, 0.995]) for tilt in tilts]
colours = dfxm_dask.mosaicity(
    maps,
    centre=tuple(float(ends.mean()) for ends in ranges),
    half_range=tuple(float(np.ptp(ends)) / 2**0.5 for ends in ranges),
)
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, z in zip(axes, (0, 1), strict=True):
    colours.mosaicity.isel(z=z).plot.imshow(ax=ax, yincrease=False, rgb="rgb")
    ax.set(title=f"layer {z + 1} of 2", aspect="equal")

# %%
# Which orientations occur? The distribution of the two centres of mass over all lit
# pixels:

fig, ax = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
chosen = lit.values
counts, *_, image = ax.hist2d(maps.com_chi.values[chosen], maps.com_phi.values[chosen], bins=60, cmin=1)
ax.set(xlabel="centre of mass along chi (degree)", ylabel="centre of mass along phi (degree)")
fig.colorbar(image, label="pixels")

# %%
# Limits of these data: with a step of 0.08 degree the scan does not resolve the
# rocking curve of a single subgrain. The two layers differ little: nothing in the file
# states their distance. A pixel that diffracts in one frame only is flagged ``single``:
# its centre of mass is a position of the scan, and its width is zero. Two of the three
# rotations of the lattice are visible in one reflection.

single = float((lit & ((maps.flags & 32) > 0)).sum() / lit.sum())
multimodal = float((lit & ((maps.flags & 16) > 0)).sum() / lit.sum())
print(f"lit {float(lit.mean()):.0%} of the pixels")
print(f"of these in a single frame {single:.1%}, with several peaks {multimodal:.0%}")
