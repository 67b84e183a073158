"""Figures and sentences of boundaries: pages of single ones, the scene of all, the fit of each beside the maps."""
