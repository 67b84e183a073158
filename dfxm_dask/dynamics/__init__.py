"""Dynamics: dislocations and boundaries that move from frame to frame."""
