"""
Your own reduction
==================

One kernel with its declaration becomes a lazy function, a step of a recipe and a command. This one
measures the part of each rocking curve before its peak.
"""

# %%
# The kernel receives one layer as plain arrays: ``counts`` with the scan axes last, and
# the positions along them. The declaration states its inputs, its outputs and which
# axes it needs whole.

from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
from pydantic import Field

import dfxm_dask
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import COUNTS, SPACE, Variable

BELOW = Variable("below_peak", SPACE, "float32", "1", "share of the rocking curve before its peak")
Offset = Annotated[float, Field(ge=0, description="subtracted first", json_schema_extra={"unit": "count"})]


@reduction(reads=(COUNTS,), writes=(BELOW,), over=("scan",), group="extra")
def below_peak(counts: np.ndarray, *, offset: Offset = 0.0) -> dict[str, np.ndarray]:
    """Share of the rocking curve before its peak. NaN where the curve is empty."""
    weight = np.maximum(counts.astype("float32") - offset, 0)
    order = np.arange(weight.shape[-1])
    before = np.where(order < weight.argmax(-1)[..., None], weight, 0).sum(-1)
    with np.errstate(invalid="ignore"):
        return {"below_peak": (before / weight.sum(-1)).astype("float32")}


# %%
# As a lazy function on a Dataset. The offset is the background of the example scan.

scan = dfxm_dask.example_scan()
result = below_peak(scan, offset=100.0)
print(type(result.below_peak.data).__module__, dict(result.below_peak.sizes))
share = result.below_peak.compute()

# %%
# A symmetric curve has about half of its counts before its peak. The dislocation adds
# counts on that side.

inside = share.isel(z=0, y=slice(8, 24), x=slice(6, 8))
print(f"median {float(share.median()):.2f}; in the dislocation {float(inside.median()):.2f}")
fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
share.isel(z=0).plot(ax=ax, yincrease=False, robust=True)
ax.set_title("")

# %%
# As a step of a recipe, with parameters that are checked before anything is computed. In a
# file of its own, the reduction is available to all commands: ``dfxm-dask run mine.yaml
# scan.zarr --plugin below_peak.py``.

folder = Path(mkdtemp())
recipe = folder / "mine.yaml"
recipe.write_text("name: mine\nsteps:\n  - below_peak: {offset: 100}\n")
dfxm_dask.simulate("easy", folder / "easy.zarr", layers=1, shape=(64, 64))
dfxm_dask.run_recipe(recipe, folder / "easy.zarr")
stored = dfxm_dask.open_scan(folder / "easy.zarr")["extra"].below_peak
print(stored.attrs["long_name"], dict(stored.sizes))

# %%
# A wrong parameter is refused with the reason and the remedy:

try:
    below_peak(scan, offset=-1)
except dfxm_dask.DfxmError as error:
    print(error)

# %%
# A reduction of the package needs more: a formula and a source in the
# docstring, treatment of the background map, and a test against an independent reference.
