"""Integrity of a store: what it holds once it is opened and checked, ledgers of complete blocks, digests, and locks."""
