"""Dynamics: dislocations and boundaries that move from frame to frame."""

from dfxm_dask.dynamics.wavelets import wavelets

__all__ = ["wavelets"]
