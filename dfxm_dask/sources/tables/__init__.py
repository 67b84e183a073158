"""Frames with a table: numbered TIFF, EDF or HDF5 files beside a CSV of motor positions, one row for each frame."""
