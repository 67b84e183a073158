"""Pages of the components of a scan: curves, coefficient maps, and what a fit says of itself."""
