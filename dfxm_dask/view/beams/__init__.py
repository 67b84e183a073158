"""Figures of weak and strong beam: maps of a layer, the mask, and P(weak) of patches."""
