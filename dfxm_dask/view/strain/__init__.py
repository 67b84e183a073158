"""Figures of sets of reflections: their angles, deformation gradient, rotation, strain, and dislocation density."""
