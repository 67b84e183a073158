"""Phantoms: simulated scans with known truth, under names, as stores or as the files that a beamline writes.

The physics is that of :mod:`dfxm_dask.optics`; here it is put together into samples: lines, walls and subgrains, the
lattice that the strong beam follows, light and camera of a beamline, and tables of what is true.
"""
