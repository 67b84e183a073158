"""Figures of a store: maps, rocking curves, frames, beams, components and training, with axes, units and legends."""
