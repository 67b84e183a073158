"""Strain: the deformation gradient of every pixel from several reflections."""
