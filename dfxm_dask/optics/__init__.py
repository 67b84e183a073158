"""Optics: what a dark-field X-ray microscope sees of a crystal with defects."""
