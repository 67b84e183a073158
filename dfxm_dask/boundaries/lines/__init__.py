"""Families of parallel dislocation lines in a boundary: strip maps, their spectrum, and projected profiles."""
