"""Optics: the images of a crystal with defects in a dark-field X-ray microscope, simulated from known truth.

A crystal is distorted by dislocations: F = I + sum of the displacement gradients of all lines, loops and walls
(:mod:`dislocation`, :mod:`segments`, :mod:`walls`, superposed in :mod:`scene`). The scattering vector of a voxel then
deviates by q = (F^-T - I) Q/|Q| (:mod:`forward`), and the objective accepts it with the closed-form probability p(q)
(:mod:`resolution`) of the microscope (:mod:`microscope`, :mod:`geometry`, :mod:`crystal`). A pixel sums the
voxels of the light sheet along the diffracted beam.

Near its Bragg peak (strong beam) a perfect crystal diffracts dynamically: waves exchange energy over the extinction
length, and fringes hide the dislocations. :mod:`dynamical` integrates the Takagi–Taupin equations; :mod:`surrogate` is
a closed form fitted to it, cheap enough for every pixel. On the flanks (weak beam) only the distorted voxels near
dislocations are accepted, and kinematic images are right.
"""
