"""Maps of the lattice spacing of one reflection, as a strain, and of its standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.view.figures.maps import grid_of
from dfxm_dask.view.strain.component_page import SCALES, component_page, component_panels, median_of, number

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

MOST = 3.0
"""End of the colours of the error, in medians (our choice)."""


def draw_spacing(tree: xr.DataTree, layer: int, heading: str) -> Figure | None:
    """A page with the strain along the scattering vector beside its error; None without any spacing."""
    found = tree["strain"].dataset.isel(z=layer)
    names = ("spacing", "spacing_strain", "spacing_strain_error", "field_of_view_strain")
    spacing, strain, error, view = (np.asarray(found[name], np.float64) for name in names)
    if not np.isfinite(spacing).any():
        return None
    said = [f"Median spacing {median_of(spacing):.6g} Å."]
    if np.isfinite(error).any():
        scatter = median_of(np.abs(strain - median_of(strain))) * 1.4826
        said.append(
            f"Scatter of the strain {number(1e6 * scatter)}·10⁻⁶ (robust), median error"
            f" {number(1e6 * median_of(error))}·10⁻⁶. The error contains the noise of the counts alone."
        )
    if np.isfinite(view).any():
        span = float(np.nanmax(view) - np.nanmin(view))
        said.append(f"The field of view of the objective may add up to {number(1e6 * span)}·10⁻⁶ across the map.")
    panels = component_panels({"strain along the scattering vector": strain}, "strain", SCALES)
    if np.isfinite(error).any():
        most = MOST * median_of(error)  # errors at the border of the crystal would hide all others
        shown = {"standard error": np.minimum(error, most)}
        panels += component_panels(shown, f"error, at most {MOST:g} medians", SCALES, signed=False)
    return component_page(panels, 2, grid_of(found), heading, sentences=said, own_bars=True)
