"""Sources: raw files of beamlines, read as scans before they become a store.

A reader (:class:`~dfxm_dask.sources.readers.Reader`) says which paths are its own, lists their scans, and streams their
frames; a new format is one file and one line. Everything that a file does not tell is named: assumed units, commands
that contradict motors, frames that are not there. Nothing is computed but the grid that positions of frames form.
"""
