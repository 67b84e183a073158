"""Positions of dislocation cores below the size of a pixel: image model, likelihood, search, posterior, reduction."""
