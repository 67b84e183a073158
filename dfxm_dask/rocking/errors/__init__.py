"""Errors of the moments of rocking curves: variances behind a cut, curves that a cut shortens, and other backgrounds."""
