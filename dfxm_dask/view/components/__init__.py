"""Pages of the components of a scan: curves, coefficient maps, and sentences on the fit."""
