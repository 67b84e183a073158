"""Integrity of a store: the opened and checked store, ledgers of complete blocks, digests, and locks."""
