"""Directions of one reflection in the axes of the sample."""
