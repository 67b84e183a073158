"""Runs: recipes executed over stores, in units of a layer or a band, in parallel, resumable to the block.

A recipe becomes a plan (data that are read once, steps that are fused, cost), a plan becomes passes, a pass becomes
units that workers compute and one process commits.
"""
