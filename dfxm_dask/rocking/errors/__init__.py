"""Errors of the moments of rocking curves: variances behind a cut, and curves that a cut shortens."""
