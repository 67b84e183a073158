"""Optics: what a dark-field X-ray microscope sees of a crystal with defects, and simulated scans with known truth.

A crystal is distorted by dislocations: F = I + sum of the displacement gradients of all lines, loops and walls
(:mod:`dislocation`, :mod:`segments`, :mod:`walls`, superposed in :mod:`scene`). The scattering vector of a voxel then
deviates by q = (F^-T - I) Q/|Q| (:mod:`forward`), and the objective accepts it with the closed-form probability p(q)
(:mod:`resolution`) of the microscope at hand (:mod:`microscope`, :mod:`geometry`, :mod:`crystal`). A pixel sums the
voxels of the light sheet along the diffracted beam.

Near its Bragg peak (strong beam) a perfect crystal diffracts dynamically: waves exchange energy over the extinction
length, and fringes hide the dislocations. :mod:`dynamical` integrates the Takagi–Taupin equations; :mod:`surrogate` is
a closed form fitted to it, cheap enough for every pixel. On the flanks (weak beam) only the distorted voxels near
dislocations are accepted, and kinematic images are right.

:mod:`phantom` puts both together with what a beamline adds (:mod:`beam`, :mod:`detector`) and keeps the truth:

===========================  ==========================================================================================
``label``                    what lights each patch of 64 px of each frame: unlit, weak, strong, or ambiguous
``phi0``, ``width``          where the lattice between the dislocations peaks, and its FWHM, degree
``distance``                 to the nearest dislocation line, um
``normal``, ``line``, ...    every boundary, obeying Frank's rule (:mod:`boundaries`, :mod:`truth`)
===========================  ==========================================================================================

:mod:`presets` names them: ``dfxm_dask.simulate("hard", "hard.zarr")``. A weak-beam image is scaled to the dynamic range
of published scans (some hundred counts beside some ten thousand); Takagi–Taupin itself says that a voxel that reflects
fully is 2 kappa L, some twenty, times as bright as the mean strong beam, so the true ratio depends on what is not
modelled: the part of a sheet and of a pixel that a dislocation fills, and the objective.
"""
