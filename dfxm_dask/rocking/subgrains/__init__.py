"""Regions of nearly one orientation: segments of each layer, united over all layers."""
