"""Runs: recipes executed over stores, in units of a layer or a band, in parallel, resumable to the block.

A recipe becomes a plan (what is read once, what is fused, what it costs), a plan becomes passes, a pass becomes units
that workers compute and one process commits.
"""
