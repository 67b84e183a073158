"""Checks of machine and memory before a run; checks of a store after a run: digests, and blocks computed again."""
