"""Dark-field X-ray microscopy scans, larger than memory, reduced to labelled maps.

The names below are the package; each loads when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dfxm_dask.surroundings import keep_kernels_somewhere

__version__ = "0.1.0"

_HOME = {
    "ingest": "dfxm_dask.store.ingest",
    "calibrate": "dfxm_dask.store.calibrate",
    "open_scan": "dfxm_dask.store.scan",
    "simulate": "dfxm_dask.store.simulate",
    "run_recipe": "dfxm_dask.run.execute",
    "background": "dfxm_dask.frames",
    "hot_pixels": "dfxm_dask.frames",
    "normalise": "dfxm_dask.frames",
    "zingers": "dfxm_dask.frames",
    "classify_beams": "dfxm_dask.beams",
    "enhance_beams": "dfxm_dask.beams",
    "integrate_beams": "dfxm_dask.beams",
    "local_peak": "dfxm_dask.beams",
    "threshold_beams": "dfxm_dask.beams",
    "gram_schmidt": "dfxm_dask.components",
    "nica": "dfxm_dask.components",
    "nmf": "dfxm_dask.components",
    "pca": "dfxm_dask.components",
    "project_gram_schmidt": "dfxm_dask.components",
    "project_nica": "dfxm_dask.components",
    "project_nmf": "dfxm_dask.components",
    "project_pca": "dfxm_dask.components",
    "align_layers": "dfxm_dask.volume",
    "link_layers": "dfxm_dask.volume",
    "reconstruct": "dfxm_dask.volume",
    "characterise_boundaries": "dfxm_dask.boundaries",
    "isolate_lines": "dfxm_dask.beams",
    "classify_defects": "dfxm_dask.rocking",
    "fit_curves": "dfxm_dask.rocking",
    "integrated_curve": "dfxm_dask.rocking",
    "kam": "dfxm_dask.rocking",
    "moments": "dfxm_dask.rocking",
    "mosaicity": "dfxm_dask.rocking",
    "Variable": "dfxm_dask.schema",
    "DfxmError": "dfxm_dask.errors",
}

__all__ = ["__version__", *_HOME]

keep_kernels_somewhere()  # before the first kernel is declared


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
