"""Master files of BLISS (NeXus in HDF5) as the ESRF writes them: scans, motors, counters, cameras, frames."""
