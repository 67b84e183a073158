"""Checks of machine, run and store: what a user can act on before, blocks computed again beside, digests after."""
