"""Which dislocation it is, from maps of the centre of mass: those of a phi-chi scan, or of phi, chi and two_theta.

Around a straight line the lattice turns and strains as 1/r, and each scan axis shows one projection with its sign. A
few numbers per line direction describe all maps: the field is linear in the Burgers vector, and the average over the
light sheet, the wave fields and the camera has a closed form. The fit therefore takes milliseconds a candidate.
"""
