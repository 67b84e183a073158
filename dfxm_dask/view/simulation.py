"""Simulation with its progress shown, apart from :mod:`dfxm_dask.view.answers`: it loads the phantoms."""

from __future__ import annotations

from dfxm_dask.phantoms import scans
from dfxm_dask.view.answers import with_progress

simulate = with_progress(scans.simulate, "run_simulate")
