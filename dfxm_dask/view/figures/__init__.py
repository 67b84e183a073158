"""Figures of a store: maps, rocking curves, frames, beams, components and training, each with axes, units and words."""
