"""Burgers vectors of a boundary: lattices, Frank's rule, images by the forward model, probabilities."""
