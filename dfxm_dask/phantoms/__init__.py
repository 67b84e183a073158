"""Phantoms: simulated scans with known truth, under names, as stores or as the files that a beamline writes.

The physics is that of :mod:`dfxm_dask.optics`; here it is combined into samples: lines, walls and subgrains, the
lattice that the strong beam follows, light and camera of a beamline, and tables of the truth.

:mod:`render` combines kinematic and dynamical images with the effects of a beamline, and records the truth:

===========================  ==========================================================================================
``label``                    class of each patch of 64 px of each frame: unlit, weak, strong, or ambiguous
``phi0``, ``width``          peak position of the lattice between the dislocations, and its FWHM, degree
``distance``                 distance to the nearest dislocation line, um
``normal``, ``line``, ...    every boundary, obeying Frank's rule (:mod:`truth`)
===========================  ==========================================================================================

:mod:`presets` names them: ``dfxm_dask.simulate("hard", "hard.zarr")``. A weak-beam image is scaled to the dynamic range
of published scans (some hundred counts beside some ten thousand). By Takagi–Taupin, a voxel that reflects fully is
2 kappa L, some twenty, times as bright as the mean strong beam, so the true ratio depends on effects that are not
modelled: the part of a sheet and of a pixel that a dislocation fills, and the objective.
"""
