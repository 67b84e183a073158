"""Sources: raw files of beamlines, read as scans before they become a store.

A reader (:class:`~dfxm_dask.sources.readers.Reader`) recognises the paths of its format, lists their scans, and streams
their frames; a new format is one file and one line. Every assumption is recorded: assumed units, commands that
contradict motors, missing frames. The only computation is the grid of the positions of the frames.
"""
