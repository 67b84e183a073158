"""Sets of reflections: the maps of several scans of one sample on one grid, in a store without counts."""
