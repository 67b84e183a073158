"""Checks of machine and memory before a run; checks of a store after it: digests, and blocks that are computed again."""
